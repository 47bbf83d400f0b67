"""Derivatives: names, signatures, and files that are either whole or not there."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bids_speechdecode.bids import files
from bids_speechdecode.bids.derivatives import Derivatives, check_output
from bids_speechdecode.bids.files import (
    atomic_write,
    sweep_leftovers,
    write_array,
    write_json,
    write_text,
    write_tsv,
)
from bids_speechdecode.bids.sidecars import (
    find_damage,
    fingerprint,
    read_sidecar,
    read_table,
    write_sidecar,
)
from bids_speechdecode.bids.sidecars import signature as sign
from bids_speechdecode.config import PreprocessConfig, TrainingConfig
from bids_speechdecode.errors import CannotWriteError, DataError, InputOutputError, UsageError

VALIDATOR = shutil.which(
    "bids-validator-deno", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
)


def make_output(tmp_path: Path, *, simulated: bool = False) -> Derivatives:
    source = tmp_path / "a dataset"
    source.mkdir(exist_ok=True)
    return Derivatives(
        tmp_path / "out", source=source, command="bids_speechdecode x y", simulated=simulated
    )


def files_in(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


# ------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"session": "a", "task": "x", "run": "01", "desc": "preproc"},
            "sub-01/ses-a/ieeg/sub-01_ses-a_task-x_run-01_desc-preproc_ieeg.vhdr",
        ),
        ({"desc": "plan"}, "sub-01/ieeg/sub-01_desc-plan_ieeg.vhdr"),
        (
            {"task": "x", "acq": "hi", "desc": "p", "datatype": "audio"},
            "sub-01/audio/sub-01_task-x_acq-hi_desc-p_ieeg.vhdr",
        ),
    ],
)
def test_names_follow_bids(tmp_path, options, expected):
    """Entities in the order of BIDS, or other tools do not find the files."""
    out = make_output(tmp_path)
    path = out.path("01", suffix="ieeg", extension=".vhdr", **options)
    assert str(path.relative_to(out.root)) == expected
    assert not out.root.exists()


def test_group_names(tmp_path):
    """Group tables lie at the top under one prefix."""
    out = make_output(tmp_path)
    path = out.group_path(task="x", desc="conditions", suffix="scores", extension=".tsv")
    assert path == out.root / "group_task-x_desc-conditions_scores.tsv"


@pytest.mark.parametrize("label", ["../01", "a b", "x_y", "a-b", ""])
def test_labels_cannot_leave_the_folder(tmp_path, label):
    """A label made of path parts would write elsewhere."""
    with pytest.raises(AssertionError):
        make_output(tmp_path).path("01", task=label, suffix="ieeg", extension=".vhdr")


# ------------------------------------------------------------------------- the dataset


def test_initialise_writes_a_derivative_dataset_once(tmp_path):
    """A second run with nothing new must not touch the description (others watch its time)."""
    out = make_output(tmp_path, simulated=True)
    out.initialise()
    description = json.loads((out.root / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    assert "(simulated)" in description["Name"]
    assert "SIMULATED" in (out.root / "README").read_text()
    for analysis in ("Decoding", "Encoding", "tuned on fMRI"):  # whichever of them wrote it
        assert analysis in (out.root / "README").read_text()
    assert description["GeneratedBy"][0]["Name"] == "bids_speechdecode"
    assert description["SourceDatasets"][0]["URL"].endswith("/a%20dataset")
    before = {p: p.stat().st_mtime_ns for p in out.root.iterdir()}
    out.initialise()
    assert {p: p.stat().st_mtime_ns for p in out.root.iterdir()} == before
    names = {"dataset_description.json", "README", "CHANGES", "descriptions.tsv", ".bidsignore"}
    assert files_in(out.root) == names


def test_real_data_do_not_say_simulated(tmp_path):
    """The word must mean something."""
    out = make_output(tmp_path)
    out.initialise()
    assert not any("simulated" in p.read_text().lower() for p in out.root.iterdir())


def _initialise(root: str) -> None:
    make_output(Path(root)).initialise()


def test_two_processes_at_once(tmp_path):
    """Array jobs start in the same second in the same folder."""
    with multiprocessing.get_context("fork").Pool(4) as pool:
        pool.map(_initialise, [str(tmp_path)] * 16)
    names = files_in(tmp_path / "out")
    assert len(names) == 5
    assert not any(name.startswith(".") and name != ".bidsignore" for name in names)
    json.loads((tmp_path / "out" / "dataset_description.json").read_text())


@pytest.mark.parametrize("inside", [".", "derivatives", "derivatives/speech"])
def test_output_inside_the_input_is_refused(tmp_path, inside):
    """Inputs are never written to, also not through a link."""
    data = tmp_path / "data"
    data.mkdir()
    (tmp_path / "link").symlink_to(data)
    for root in (data, tmp_path / "link"):
        with pytest.raises(UsageError) as error:
            check_output(data, root / inside)
        assert error.value.exit_code == 64
    check_output(data, tmp_path / "data-out")
    check_output(data, tmp_path)


def test_somebody_elses_dataset_is_not_mixed_with(tmp_path):
    """Swapped arguments must not scatter derivatives over raw data."""
    out = make_output(tmp_path)
    out.root.mkdir()
    text = json.dumps({"Name": "raw", "BIDSVersion": "1.8.0"})
    (out.root / "dataset_description.json").write_text(text)
    with pytest.raises(UsageError, match="another dataset"):
        out.initialise()
    assert files_in(out.root) == {"dataset_description.json"}


@pytest.mark.skipif(not VALIDATOR, reason="bids-validator-deno is not installed")
def test_validator_accepts_the_dataset(tmp_path):
    """What the official validator rejects, archives reject."""
    out = make_output(tmp_path)
    out.initialise()
    table = pd.DataFrame({"condition": ["linear"], "relative_rank": [0.5]})
    for suffix in ("scores", "history", "embeddings", "model", "spectra", "windows"):
        path = out.path("01", task="x", desc="linear", suffix=suffix, extension=".tsv")
        write_tsv(path, table)
        write_sidecar(path, step="test", signature="0")
    write_tsv(out.group_path(task="x", desc="c", suffix="scores", extension=".tsv"), table)
    write_text(out.root / "sub-01.html", "<html></html>")
    write_text(out.root / "sub-01" / "log" / "1" / "log.txt", "")
    write_text(out.root / "sub-01" / "figures" / "a.svg", "")
    run = subprocess.run([VALIDATOR, str(out.root)], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout


# --------------------------------------------------------------------------- signatures


def test_a_setting_that_changes_changes_the_signature():
    """Each setting of a step must lead to a new result; none of another step may."""
    base = sign("preprocess", 1, PreprocessConfig(), ["a", "b"])
    assert base == sign("preprocess", 1, PreprocessConfig(), ["a", "b"])
    assert len(base) == 64
    for field in dataclasses.fields(PreprocessConfig):
        value = getattr(PreprocessConfig(), field.name)
        other = not value if isinstance(value, bool) else f"{value}x"
        changed = dataclasses.replace(PreprocessConfig(), **{field.name: other})
        assert sign("preprocess", 1, changed, ["a", "b"]) != base, field.name
    different = [
        sign("preprocess", 2, PreprocessConfig(), ["a", "b"]),
        sign("features", 1, PreprocessConfig(), ["a", "b"]),
        sign("preprocess", 1, PreprocessConfig(), ["a", "c"]),
        sign("preprocess", 1, PreprocessConfig(), ["b", "a"]),
        sign("preprocess", 1, PreprocessConfig(), ["ab"]),
        sign("preprocess", 1, TrainingConfig(), ["a", "b"]),
    ]
    assert len({base, *different}) == len(different) + 1


def test_signature_is_the_same_in_every_process():
    """A signature that depended on hash seeds or key order would never be current."""
    code = (
        "from bids_speechdecode.bids.sidecars import signature as s;"
        "print(s('x', 1, {'b': 1.5, 'a': (1, 2)}, ['i']))"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout.strip()
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1] == sign("x", 1, {"a": [1, 2], "b": 1.5}, ["i"])


def test_fingerprint_sees_edits(tmp_path):
    """An edited input must be read again, an untouched one must not."""
    path = tmp_path / "x"
    path.write_bytes(bytes(300_000))
    first = fingerprint(path)
    assert fingerprint(path) == first
    stamp = path.stat().st_mtime_ns
    for position in (0, 65_535, 299_999, 300_000 - 65_536):
        data = bytearray(300_000)
        data[position] = 1
        path.write_bytes(data)
        os.utime(path, ns=(stamp, stamp))
        assert fingerprint(path) != first, position
    path.write_bytes(bytes(300_000))
    os.utime(path, ns=(stamp + 1, stamp + 1))
    assert fingerprint(path) != first
    path.write_bytes(bytes(300_001))
    assert fingerprint(path) != first


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 100_000, 131_072])
def test_fingerprint_of_small_files_reads_all(tmp_path, size):
    """Up to 128 KiB no byte may go unseen."""
    path = tmp_path / "x"
    path.write_bytes(bytes(size))
    stamp = path.stat().st_mtime_ns
    first = fingerprint(path)
    for position in {0, size // 2, size - 1} if size else set():
        data = bytearray(size)
        data[position] = 1
        path.write_bytes(data)
        os.utime(path, ns=(stamp, stamp))
        assert fingerprint(path) != first


def test_fingerprint_of_a_folder(tmp_path):
    """A MEF3 recording is a folder; a change of any file or name in it counts."""
    (tmp_path / "m" / "a").mkdir(parents=True)
    (tmp_path / "m" / "a" / "x").write_text("1")
    first = fingerprint(tmp_path / "m")
    (tmp_path / "m" / "a" / "x").rename(tmp_path / "m" / "a" / "y")
    assert fingerprint(tmp_path / "m") != first


def test_current_means_whole_and_of_this_signature(tmp_path):
    """Skipping a step is only right for exactly the result that it would make."""
    out = make_output(tmp_path)
    path = out.path("01", desc="x", suffix="embeddings", extension=".npy")
    assert not out.is_current(path, "s1")
    write_array(path, np.arange(3))
    assert not out.is_current(path, "s1")
    write_sidecar(path, step="embed", signature="s1", Model="m")
    assert out.is_current(path, "s1")
    assert not out.is_current(path, "s2")
    sizes = {path.name: path.stat().st_size}
    made = {"Model": "m", "Step": "embed", "Signature": "s1", "Bytes": sizes}
    assert read_sidecar(path) == made
    path.unlink()
    assert not out.is_current(path, "s1")


def test_new_data_take_the_old_sidecar_away(tmp_path):
    """Killed between data and sidecar, then run with the OLD settings: must compute again."""
    out = make_output(tmp_path)
    path = out.path("01", desc="x", suffix="embeddings", extension=".npy")
    write_array(path, np.zeros(3))
    write_sidecar(path, step="embed", signature="old")
    write_array(path, np.ones(3))
    assert not out.is_current(path, "old")


@pytest.mark.parametrize("cut", [b"", b"a"])
@pytest.mark.parametrize("name", ["x.tsv", "x.vhdr"])
def test_what_was_cut_short_is_not_current(tmp_path, name, cut):
    """A full disk or a broken copy leaves half a file beside a whole sidecar."""
    out = make_output(tmp_path)
    table, header = tmp_path / "x.tsv", tmp_path / "x.vhdr"
    write_tsv(table, pd.DataFrame({"a": [1, 2]}))
    header.write_text("head")
    write_sidecar(table, header, step="s", signature="s")
    assert out.is_current(table, "s")
    assert find_damage(table) == ""
    (tmp_path / name).write_bytes(cut)
    assert not out.is_current(table, "s")
    size = {"x.tsv": 6, "x.vhdr": 4}[name]
    assert find_damage(table) == f"{name}: {len(cut)} of {size} bytes"
    (tmp_path / name).unlink()
    assert find_damage(table) == f"{name}: missing"


def test_a_sidecar_without_sizes_is_not_current(tmp_path):
    """Nobody can say then whether the file is whole."""
    path = tmp_path / "x.npy"
    write_array(path, np.zeros(3))
    for sizes in ({}, {"Bytes": None}, {"Bytes": [3]}):
        path.with_suffix(".json").write_text(json.dumps({"Signature": "s", **sizes}))
        assert not make_output(tmp_path).is_current(path, "s")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00a", b'a\tb\n1\t"2\n', b"a\n1\n1\t2\t3\n"])
def test_a_table_that_is_none_is_named(tmp_path, content):
    """Whoever edits or copies tables must hear which file it is, and what makes it anew."""
    path = tmp_path / "x.tsv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x\.tsv(.|\n)*made again"):
        read_table(path)


def test_a_table_without_columns_has_no_rows(tmp_path):
    """Without a contrast there is nothing to say, which is no damage."""
    path = tmp_path / "x.tsv"
    write_tsv(path, pd.DataFrame([]))
    assert read_table(path).shape == (0, 0)


def test_broken_sidecar_is_not_current(tmp_path):
    """Half a sidecar (a full disk, another tool) costs a computation, not a crash."""
    out = make_output(tmp_path)
    path = tmp_path / "x.npy"
    write_array(path, np.zeros(3))
    for text in ("{", "[]", ""):
        path.with_suffix(".json").write_text(text)
        assert not out.is_current(path, "s")


# ------------------------------------------------------------------------ atomic writes


def test_failed_write_leaves_what_was_there(tmp_path):
    """An error halfway keeps the old file and leaves no other trace."""
    path = tmp_path / "x.txt"
    write_text(path, "old")
    names = []

    def write_half() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            names.append(temporary.relative_to(tmp_path).name)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert names[0].startswith(f".{os.getpid()}.")
    assert files_in(tmp_path) == {"x.txt"}
    assert path.read_text() == "old"


def test_killed_write_leaves_only_what_can_be_swept(tmp_path):
    """SIGKILL gives no chance to clean up: the name stays free, the next run sweeps."""
    code = (
        "import sys, time; from pathlib import Path;"
        "from bids_speechdecode.bids.files import atomic_write\n"
        "with atomic_write(Path(sys.argv[1])) as t:\n"
        "    t.write_text('half'); print('ready', flush=True); time.sleep(60)"
    )
    path = tmp_path / "sub-01" / "x.txt"
    child = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    assert sweep_leftovers(tmp_path) == 0  # it is still being written
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert not path.exists()
    assert len(files_in(tmp_path)) == 1
    assert sweep_leftovers(tmp_path) == 1
    assert files_in(tmp_path) == set()


def test_folder_that_cannot_be_made(tmp_path):
    """A file where a folder should be, as with a mistyped output path."""
    (tmp_path / "out").write_text("")
    with pytest.raises(CannotWriteError) as error:
        make_output(tmp_path).initialise()
    assert error.value.exit_code == 73
    assert str(tmp_path / "out") in str(error.value)


def test_folder_without_permission(tmp_path, monkeypatch):
    """Read-only storage is one clear message; tests may run as root, who may write anywhere."""
    monkeypatch.setattr(files.os, "access", lambda path, mode: False)
    with pytest.raises(CannotWriteError, match="no permission"):
        make_output(tmp_path).initialise()
    assert files_in(tmp_path) == set()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_full_disk(tmp_path):
    """A full disk is an I/O error (74) that names the file, and keeps the old one."""
    path = tmp_path / "x.txt"
    write_text(path, "old")

    def write_to_full_disk() -> None:
        with atomic_write(path) as temporary:
            temporary.symlink_to("/dev/full")
            temporary.write_text("x" * 10_000)

    with pytest.raises(InputOutputError) as error:
        write_to_full_disk()
    assert error.value.exit_code == 74
    assert path.read_text() == "old"
    assert files_in(tmp_path) == {"x.txt"}


def test_errors_of_reading_are_not_called_errors_of_writing(tmp_path):
    """Inside the block inputs are read too; their errors keep their own name."""
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "x.txt"):
        (tmp_path / "input").read_text()


def test_json_has_no_nan(tmp_path):
    """NaN is not JSON; parsers in other languages refuse the whole file."""

    @dataclasses.dataclass
    class Score:
        rank: float
        where: Path

    path = tmp_path / "x.json"
    content = {
        "a": np.float32(0.5),
        "b": float("nan"),
        "c": np.array([1, np.inf]),
        "d": Score(1.0, Path("/x")),
        "e": np.bool_(True),
    }
    write_json(path, content)
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == {
        "a": 0.5,
        "b": None,
        "c": [1.0, None],
        "d": {"rank": 1.0, "where": "/x"},
        "e": True,
    }
    with pytest.raises(TypeError):
        write_json(path, {"x": object()})


def test_tables_come_back_exactly(tmp_path):
    """Ranks in a table are the ranks computed, to the last bit; gaps are n/a as BIDS says."""
    path = tmp_path / "x.tsv"
    rank = np.random.default_rng(0).random(100)
    rank[3] = np.nan
    table = pd.DataFrame({"rank": rank, "name": ["é"] * 99 + [None], "ok": [True, False] * 50})
    write_tsv(path, table)
    lines = path.read_bytes().decode("utf-8").split("\n")
    assert lines[4].startswith("n/a\té\tfalse")
    assert lines[100].split("\t")[1] == "n/a"
    back = pd.read_csv(path, sep="\t", float_precision="round_trip")
    np.testing.assert_array_equal(back["rank"], rank)
    assert table["ok"].dtype == bool  # the caller's table is as it was


def test_write_is_not_seen_before_it_is_whole(tmp_path):
    """Another process that polls for the file never reads half of it."""
    path = tmp_path / "x.npy"
    with atomic_write(path) as temporary:
        np.save(temporary.open("wb"), np.zeros(10))
        time.sleep(0.01)
        assert not path.exists()
    assert np.load(path).shape == (10,)


def test_what_is_written_may_be_read_as_any_other_new_file(tmp_path: Path) -> None:
    """A model that its owner alone may read stops everybody else who shares the derivatives."""
    usual = tmp_path / "usual"
    usual.touch()
    path = tmp_path / "x_model.safetensors"
    with atomic_write(path) as temporary:
        temporary.touch(mode=0o600)
    assert path.stat().st_mode == usual.stat().st_mode
