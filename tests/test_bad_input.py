"""What bad input gets: an exit status, one message that helps, and no partial output."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from bids_speechdecode.cli import main

SUB = "sub-sim01"
BOOK = "simulated_audiobook_chapter-01.flac"
N_CHANNELS = 13
LABEL = f"{SUB}_ses-day01_task-ambient_run-01"  # one ambient recording of three

Damage = Callable[[Path], object]


def file(root: Path, suffix: str, task: str = "audiobook", day: int = 1) -> Path:
    """Return a file of one recording of the first participant."""
    stem = f"{SUB}_ses-day{day:02d}"
    return root / SUB / f"ses-day{day:02d}" / "ieeg" / f"{stem}_task-{task}_run-01_{suffix}"


def events(root: Path) -> Path:
    return file(root, "events.tsv")


def channels(root: Path) -> Path:
    return file(root, "channels.tsv")


def signal(root: Path) -> Path:
    return file(root, "ieeg.eeg")


def header(root: Path) -> Path:
    return file(root, "ieeg.vhdr")


def book(root: Path) -> Path:
    return root / "stimuli" / BOOK


def room(root: Path) -> Path:
    return root / "stimuli" / f"simulated_{LABEL}_room.flac"


def electrodes(root: Path, suffix: str = "electrodes.tsv") -> Path:
    name = f"{SUB}_ses-day01_space-MNI152NLin2009cAsym_{suffix}"
    return root / SUB / "ses-day01" / "ieeg" / name


def edit(path: Path, old: str, new: str, count: int = -1) -> None:
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new, count), "utf-8")


def set_cell(path: Path, line: int, column: int, text: str) -> None:
    """Write one cell of a table; lines count from 1, columns from 0."""
    rows = [row.split("\t") for row in path.read_text("utf-8").splitlines()]
    rows[line - 1][column] = text
    path.write_text("\n".join("\t".join(row) for row in rows) + "\n", "utf-8")


def cut(path: Path, extra: int = 0) -> None:
    """Cut off the second half, leaving `extra` bytes of it."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2 // 26 * 26 + extra])


def link_to_nowhere(path: Path) -> None:
    path.unlink()
    path.symlink_to("../.git/annex/objects/absent")


def write_events(root: Path, *rows: str, columns: str = "onset\tduration\tstim_file") -> None:
    events(root).write_text("\n".join([columns, *rows, ""]))


def as_float(root: Path, value: float, column: slice) -> None:
    """Store the audiobook's recording as float32 with `value` in some channels."""
    data = np.fromfile(signal(root), "<i2").reshape(-1, N_CHANNELS).astype("<f4")
    data[:, column] = value
    data.tofile(signal(root))
    edit(header(root), "INT_16", "IEEE_FLOAT_32")


def shorten(path: Path) -> None:
    wave, rate = soundfile.read(path)
    soundfile.write(path, wave[: len(wave) // 2], rate)


def silence_signal(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def participant(root: Path, out: Path, *more: str) -> list[str]:
    return [str(root), str(out), "participant", "--participant-label", "sim01", "-v", *more]


MEL = ("--target", "mel", "--encoder", "small")
PREPROCESS = (*MEL, "--steps", "preprocess")


def one_message(stderr: str) -> str:
    """Return the error message; it must be the only one, help, and be no traceback."""
    assert "Traceback" not in stderr
    assert stderr.count("error:") == 1, stderr
    message = stderr[stderr.index("error:") :]
    assert "to do:" in message, message
    assert "unexpected" not in message
    return message


def nothing_partial(out: Path) -> None:
    """Check that no temporary file is left and all data have their sidecar."""
    if not out.exists():
        return
    files = [path for path in out.rglob("*") if path.is_file()]
    hidden = [str(p) for p in files if p.name.startswith(".") and p.name != ".bidsignore"]
    assert not hidden
    for path in files:
        if path.suffix in {".eeg", ".npy", ".safetensors"}:
            sidecar = json.loads(path.with_suffix(".json").read_text())
            assert sidecar["Signature"], path


# ------------------------------------------------- found before anything is written

EARLY: dict[str, tuple[Damage, int, tuple[str, ...]]] = {
    "events of zero bytes": (
        lambda d: events(d).write_bytes(b""),
        65,
        ("A table is empty", "task-audiobook_run-01_events.tsv"),
    ),
    "events with a header only": (lambda d: write_events(d), 65, ("empty", "events.tsv")),
    "events that are absent": (lambda d: events(d).unlink(), 65, ("stim_file", "--audio")),
    "events without onset": (
        lambda d: edit(events(d), "onset\t", "start\t", 1),
        65,
        ("no column 'onset'", "start, duration"),
    ),
    "events without any onset": (
        lambda d: write_events(d, f"n/a\t3\t{BOOK}", f"n/a\t3\t{BOOK}"),
        65,
        ("No row of events.tsv has an onset", "n/a in all rows"),
    ),
    "onset after the end": (
        lambda d: set_cell(events(d), 8, 0, "1190.119"),
        65,
        ("outside the recording", "the recording's length", "1190.12", "line 8"),
    ),
    "onset before the start": (
        lambda d: set_cell(events(d), 3, 0, "-6.614"),
        65,
        ("outside the recording", "-6.614", "line 3", "audio_onset"),
    ),
    "onset in words": (
        lambda d: set_cell(events(d), 3, 0, "six"),
        65,
        ("'six'", "line 3", "decimal point"),
    ),
    "events without stim_file": (
        lambda d: write_events(d, "1\t2\tword", columns="onset\tduration\ttrial_type"),
        65,
        ("Nothing says what was heard", "--audio", BOOK),
    ),
    "events that are no text": (
        lambda d: events(d).write_bytes(bytes(range(256))),
        65,
        ("not a text file", "UTF-16"),
    ),
    "stim_file missing": (
        lambda d: book(d).rename(d / "stimuli" / BOOK.replace("chapter", "chaptr")),
        66,
        (BOOK, "events.tsv, line 3", "did you mean 'simulated_audiobook_chaptr-01.flac'?"),
    ),
    "stim_file as a broken annex link": (
        lambda d: link_to_nowhere(book(d)),
        66,
        ("git-annex", f"datalad get stimuli/{BOOK}"),
    ),
    "stim_file as an annex pointer": (
        lambda d: book(d).write_text("/annex/objects/MD5E-s3--x.flac\n"),
        66,
        ("git-annex", f"datalad get stimuli/{BOOK}"),
    ),
    "stim_file as an LFS pointer": (
        lambda d: book(d).write_text("version https://git-lfs.github.com/spec/v1\n"),
        66,
        ("Git LFS", f"git lfs pull --include stimuli/{BOOK}"),
    ),
    "stim_file outside the dataset": (
        lambda d: edit(events(d), BOOK, "../../x.wav"),
        65,
        ("leads out of the dataset", "'../../x.wav'", "line 3"),
    ),
    "stim_file with an absolute path": (
        lambda d: edit(events(d), BOOK, "/etc/hosts"),
        65,
        ("leads out of the dataset", "'/etc/hosts'"),
    ),
    "stim_file that is no audio": (
        lambda d: book(d).write_bytes(b"hello" * 10000),
        65,
        ("audio file cannot be read", BOOK),
    ),
    "audio of zero bytes": (lambda d: book(d).write_bytes(b""), 65, ("cannot be read", BOOK)),
    "audio shorter than the events say": (
        lambda d: shorten(book(d)),
        65,
        ("shorter than the events say", "0 to 75.000 s", "from 75.000 to 112.5", "line 7"),
    ),
    "recording truncated at a sample": (
        lambda d: cut(signal(d)),
        65,
        ("outside the recording", "the sidecar says that", "truncated"),
    ),
    "recording truncated within a sample": (
        lambda d: cut(signal(d), extra=1),
        65,
        ("truncated", "whole samples of 26 bytes", "ieeg.eeg"),
    ),
    "recording of zero bytes": (lambda d: signal(d).write_bytes(b""), 65, ("no samples",)),
    "recording absent": (lambda d: signal(d).unlink(), 66, ("absent", "ieeg.eeg")),
    "recording not downloaded": (
        lambda d: link_to_nowhere(signal(d)),
        66,
        (f"datalad get {SUB}/ses-day01/ieeg/{SUB}_ses-day01_task-audiobook_run-01_ieeg.eeg",),
    ),
    "only sidecars": (
        lambda d: [file(d, f"ieeg.{e}").unlink() for e in ("eeg", "vhdr", "vmrk")],
        66,
        ("only its sidecars", ".vhdr, .edf, .set, .mefd, .nwb"),
    ),
    "header that is no header": (lambda d: header(d).write_bytes(b"\x00\xff" * 90), 65, ("vhdr",)),
    "sampling interval of zero": (
        lambda d: edit(header(d), "SamplingInterval=3906.25", "SamplingInterval=0"),
        65,
        ("sampling", "positive number"),
    ),
    "all channels bad": (
        lambda d: edit(channels(d), "\tgood\t", "\tbad\t"),
        65,
        ("no good brain channel", "SEEG, ECOG or DBS", " bad", "channels.tsv"),
    ),
    "no brain channel": (
        lambda d: edit(channels(d), "SEEG", "EEG"),
        65,
        ("no good brain channel", " type EEG"),
    ),
    "channels.tsv of another recording": (
        lambda d: edit(channels(d), "RH", "LX"),
        65,
        ("no good brain channel", "12 bad: no row in channels.tsv"),
    ),
    "channels.tsv that is no text": (
        lambda d: channels(d).write_bytes(bytes(range(256))),
        65,
        ("not a text file", "channels.tsv"),
    ),
    "channels.tsv of zero bytes": (lambda d: channels(d).write_text(""), 65, ("table is empty",)),
    "channels.tsv without names": (
        lambda d: edit(channels(d), "name\t", "label\t", 1),
        65,
        ("no column 'name'", "label, type"),
    ),
    "channels.tsv with a shifted row": (
        lambda d: edit(channels(d), "RHG2\tSEEG", "RHG2\tSEEG\tSEEG"),
        65,
        ("longer than its header", "11 cells", "line 3"),
    ),
    "sidecar that is no JSON": (
        lambda d: file(d, "ieeg.json").write_text('{"SamplingFrequency": '),
        65,
        ("JSON file cannot be read", "ieeg.json"),
    ),
    "too few seconds of audiobook": (
        lambda d: write_events(d, f"6.6\t8\t{BOOK}"),
        65,
        ("Too few windows to split", "at least 5 windows", "3 blocks"),
    ),
    "an audiobook shorter than a window": (
        lambda d: write_events(d, f"6.6\t1\t{BOOK}"),
        65,
        ("Too few windows to split", "0 blocks"),
    ),
    "an audiobook full of artifacts": (
        lambda d: events(d).write_text(
            events(d).read_text() + "0\t161\tBAD_seizure\tn/a\tn/a\tn/a\n"
        ),
        65,
        ("too few windows of task 'audiobook'", "0 train", "--dry-run"),
    ),
    "ambient recordings shorter than a window": (
        lambda d: [
            file(d, "events.tsv", "ambient", day).write_text(
                "onset\tduration\tstim_file\n"
                f"1\t1\tsimulated_{SUB}_ses-day0{day}_task-ambient_run-01_room.flac\n"
            )
            for day in (1, 2, 3)
        ],
        65,
        ("too few windows of task 'ambient'", "0 train"),
    ),
    "no iEEG": (
        lambda d: [shutil.rmtree(d / SUB / f"ses-day0{day}" / "ieeg") for day in (1, 2, 3)],
        18,
        ("'sim01' has no iEEG recording",),
    ),
    "dataset_description.json absent": (
        lambda d: (d / "dataset_description.json").unlink(),
        16,
        ("not a raw BIDS dataset", "--skip-bids-validation"),
    ),
    "dataset_description.json broken": (
        lambda d: (d / "dataset_description.json").write_text("{"),
        16,
        ("not a raw BIDS dataset", "JSON"),
    ),
    "derivatives as input": (
        lambda d: edit(d / "dataset_description.json", '"raw"', '"derivative"'),
        16,
        ("derivatives",),
    ),
    "no participants": (
        lambda d: [shutil.rmtree(path) for path in d.glob("sub-*")],
        16,
        ("no participants", "sub-<label>"),
    ),
}


@pytest.mark.parametrize("case", EARLY)
def test_what_is_wrong_with_the_dataset_is_told_before_anything_is_written(
    tiny_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    """A user mends a dataset by such messages; a half-made output would mislead later runs."""
    damage, status, words = EARLY[case]
    damage(tiny_copy)
    assert main(participant(tiny_copy, tmp_path / "out", *PREPROCESS)) == status
    output = capsys.readouterr()
    message = one_message(output.err)
    for word in words:
        assert word in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("case", ["stim_file missing", "all channels bad", "no iEEG"])
def test_a_dry_run_finds_the_same_and_writes_nothing(
    tiny_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    """People check with --dry-run first; it must not promise what the run then refuses."""
    damage, status, words = EARLY[case]
    damage(tiny_copy)
    assert main(participant(tiny_copy, tmp_path / "out", *PREPROCESS, "--dry-run")) == status
    message = one_message(capsys.readouterr().err)
    assert all(word in message for word in words)
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------- the command line


@pytest.mark.parametrize(
    ("line", "status", "words"),
    [
        ("{data} {out} particpant", 17, ["did you mean 'participant'?"]),
        ("{data}x {out} participant", 66, ["does not exist", "datax"]),
        ("{tmp}/nothing {out} participant", 16, ["not a raw BIDS dataset"]),
        ("{data} {data} participant", 64, ["inside the input dataset", "never written to"]),
        ("{data} {data}/derivatives participant", 64, ["inside the input dataset"]),
        ("{data} {out} participant --work-dir {data}/w", 64, ["--work-dir", "outside"]),
        ("{data} {out} participant --no-such-option", 64, ["--no-such-option", "--help"]),
        ("{data} {out}", 64, ["{participant,group}"]),
        (
            "{data} {out} participant --participant-label sim1",
            18,
            ["one of sim01, sim02", "did you mean 'sim01'?"],
        ),
        (
            "{data} {out} participant --exclude-participant-label sim01 sim02",
            18,
            ["No participant is left", "one of sim01, sim02"],
        ),
        ("{data} {out} group --participant-label nobody", 18, ["one of sim01, sim02"]),
        (
            "{data} {out} participant --finetune-task audiobok",
            18,
            ["one of ambient, audiobook", "--finetune-task", "did you mean 'audiobook'?"],
        ),
        (
            "{data} {out} participant --pretrain-task rest",
            18,
            ["one of ambient, audiobook", "--pretrain-task"],
        ),
        (
            "{data} {out} participant --participant-label sim01 --session-label day09",
            18,
            ["filters leave no recording", f"{SUB}_ses-day01_task-ambient_run-01"],
        ),
        ("{data} {out} participant --participant-label {tmp}/labels.txt", 18, ["sim07"]),
        ("{data} {out} participant --participant-label @{tmp}/no.txt", 66, ["no.txt"]),
        ("{data} {out} participant --config {tmp}/odd.toml", 64, ["seeed", "did you mean 'seed'"]),
        ("{data} {out} participant --config {tmp}/broken.toml", 64, ["broken.toml"]),
        ("{data} {out} participant --bids-filter-file {tmp}/odd.json", 64, ["odd.json", "ieeg"]),
        ("{data} {out} group", 66, ["participant level", "run the participant level first"]),
        ("{data} {tmp}/labels.txt/out participant " + " ".join(MEL), 73, ["cannot be written"]),
        ("{data} /proc/1/out participant " + " ".join(MEL), 73, ["cannot be written", "/proc"]),
    ],
)
def test_commands_that_cannot_work(
    tiny_dataset: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    line: str,
    status: int,
    words: list[str],
) -> None:
    """Batch scripts branch on the status; people need the list of what there is."""
    data = tmp_path / "data"
    data.symlink_to(tiny_dataset)
    (tmp_path / "labels.txt").write_text("sim01\nsim07\n")
    (tmp_path / "odd.toml").write_text("[run]\nseeed = 3\n")
    (tmp_path / "broken.toml").write_text("[run\n")
    (tmp_path / "odd.json").write_text('{"bold": {}}')
    (tmp_path / "nothing").mkdir()
    before = {path.name for path in tmp_path.iterdir()}
    inside = sorted(tiny_dataset.rglob("*"))
    arguments = line.format(data=data, out=tmp_path / "out", tmp=tmp_path).split()
    assert main(arguments) == status
    message = one_message(capsys.readouterr().err)
    for word in words:
        assert word in message
    assert {path.name for path in tmp_path.iterdir()} == before
    assert sorted(tiny_dataset.rglob("*")) == inside


def test_someone_elses_dataset_is_not_written_into(
    tiny_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A slip of the tab key must not mix derivatives of two programs."""
    description = '{"Name": "x", "GeneratedBy": [{"Name": "fMRIPrep"}]}'
    (tmp_path / "dataset_description.json").write_text(description)
    assert main(participant(tiny_dataset, tmp_path, *PREPROCESS)) == 64
    assert "another dataset" in one_message(capsys.readouterr().err)
    assert [path.name for path in tmp_path.iterdir()] == ["dataset_description.json"]


def test_group_with_a_folder_but_no_results(
    tiny_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An empty output folder is what a failed participant job leaves to the group job."""
    assert main([str(tiny_dataset), str(tmp_path), "group"]) == 66
    message = one_message(capsys.readouterr().err)
    assert "participant" in message
    assert not list(tmp_path.iterdir())


def test_an_absent_speech_model_is_told_before_hours_of_preprocessing(
    tiny_dataset: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a compute node without network the message must hold the command and the way without."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    assert main(participant(tiny_dataset, tmp_path / "out")) == 66
    message = one_message(capsys.readouterr().err)
    assert "hf download facebook/wav2vec2-large-xlsr-53" in message
    assert "--target mel" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("case", ["stim_file outside the dataset", "recording not downloaded"])
def test_a_real_process_says_the_same(tiny_copy: Path, tmp_path: Path, case: str) -> None:
    """The installed command, with its own standard error and exit status."""
    damage, status, words = EARLY[case]
    damage(tiny_copy)
    command = Path(sys.executable).with_name("bids_speechdecode")
    outcome = subprocess.run(
        [command, *participant(tiny_copy, tmp_path / "out", *PREPROCESS)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert outcome.returncode == status
    message = one_message(outcome.stderr)
    assert all(word in message for word in words)
    assert not (tmp_path / "out").exists()


# ------------------------------------------------- found only when samples are read

LATE: dict[str, tuple[Damage, str, tuple[str, ...]]] = {
    "flat": (
        lambda d: silence_signal(signal(d)),
        "preprocess",
        ("flat or NaN", " flat and 0 NaN", "audiobook"),
    ),
    "NaN": (
        lambda d: as_float(d, np.nan, slice(None)),
        "preprocess",
        ("flat or NaN", " 0 flat and "),
    ),
    "too low a rate": (
        lambda d: edit(header(d), "SamplingInterval=3906.25", "SamplingInterval=50000"),
        "preprocess",
        ("at least 40 Hz", "20 Hz"),
    ),
    "audio with lost samples": (
        lambda d: cut(book(d)),
        "preprocess,features",
        ("cannot be read", BOOK, "fetch it again"),
    ),
}


@pytest.mark.parametrize("case", LATE)
def test_an_unusable_only_run_ends_the_participant(
    tiny_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    """What headers do not show is found midway; whatever is on disk by then must be whole."""
    damage, steps, words = LATE[case]
    damage(tiny_copy)
    out = tmp_path / "out"
    assert main(participant(tiny_copy, out, *MEL, "--steps", steps)) == 65
    message = one_message(capsys.readouterr().err)
    for word in words:
        assert word in message
    nothing_partial(out)
    assert not list(out.rglob("*_scores.*"))
    assert not list(out.rglob("*task-audiobook*_ieeg.eeg")) or "features" in steps


# --------------------------------------------------------- one of several is broken

ONE_OF_SEVERAL: dict[str, tuple[Damage, int]] = {
    "truncated": (lambda d: cut(file(d, "ieeg.eeg", "ambient")), 65),
    "flat": (lambda d: silence_signal(file(d, "ieeg.eeg", "ambient")), 65),
    "not downloaded": (lambda d: link_to_nowhere(file(d, "ieeg.eeg", "ambient")), 66),
    "broken sidecar": (lambda d: file(d, "ieeg.json", "ambient").write_text("{"), 65),
    "broken channels": (
        lambda d: edit(file(d, "channels.tsv", "ambient"), "RHG2\t", "RHG2\t\t"),
        65,
    ),
    "audio missing": (lambda d: room(d).unlink(), 66),
    "audio with lost samples": (lambda d: cut(room(d)), 65),
}


@pytest.mark.parametrize("case", ONE_OF_SEVERAL)
def test_one_broken_recording_does_not_stop_the_others(
    tiny_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    """In weeks of recordings one is always broken: it is named and counted, not fatal."""
    damage, _ = ONE_OF_SEVERAL[case]
    damage(tiny_copy)
    out = tmp_path / "out"
    assert main(participant(tiny_copy, out, *MEL, "--steps", "preprocess,features")) == 0
    shown = capsys.readouterr().err
    assert f"{LABEL} is left out: " in shown
    assert "Traceback" not in shown
    assert "done with 3 recordings; 1 left out" in shown.strip().splitlines()[-1]
    plan = json.loads((out / SUB / "ieeg" / f"{SUB}_desc-plan_windows.json").read_text())
    assert [row["what"] for row in plan["left_out"]] == [LABEL]
    assert plan["left_out"][0]["why"]
    assert LABEL not in [row["label"] for row in plan["recordings"]]
    (log,) = (out / SUB / "log").glob("*/log.txt")
    assert f"{LABEL} is left out: " in log.read_text()
    nothing_partial(out)


@pytest.mark.parametrize("case", ONE_OF_SEVERAL)
def test_stop_on_first_crash_stops(
    tiny_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    """Who asked to stop wants to mend the recording, with the status that fits it."""
    damage, status = ONE_OF_SEVERAL[case]
    damage(tiny_copy)
    out = tmp_path / "out"
    steps = ("--steps", "preprocess,features", "--stop-on-first-crash")
    assert main(participant(tiny_copy, out, *MEL, *steps)) == status
    one_message(capsys.readouterr().err)
    nothing_partial(out)


def test_one_broken_participant_does_not_stop_the_others(
    tiny_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The other participant's hours are not lost, and status and last line agree."""
    book_events = events(tiny_copy)
    book_events.write_text("")
    out = tmp_path / "out"
    assert main([str(tiny_copy), str(out), "participant", *PREPROCESS]) == 65
    shown = capsys.readouterr().err
    last = shown.strip().splitlines()[-1]
    assert "1 of 2 participants failed: sub-sim01; exit status 65" in last
    assert str(book_events) in shown
    assert "Traceback" not in shown
    assert not (out / SUB).exists()
    assert len(list((out / "sub-sim02").rglob("*desc-preproc_ieeg.eeg"))) == 4
    nothing_partial(out)


# ------------------------------------------------------- odd, but counted and used


def preprocessed(root: Path, out: Path) -> dict[str, dict]:
    """Preprocess and return the plan's recordings by label."""
    assert main(participant(root, out, *PREPROCESS)) == 0
    nothing_partial(out)
    plan = json.loads((out / SUB / "ieeg" / f"{SUB}_desc-plan_windows.json").read_text())
    return {row["label"]: row for row in plan["recordings"]}


@pytest.mark.parametrize(("value", "reason"), [(0.0, "flat"), (np.nan, "NaN")])
def test_a_dead_channel_is_left_out_and_named(
    tiny_copy: Path, tmp_path: Path, value: float, reason: str
) -> None:
    """A dead contact that nobody marked must neither end the run nor reach the model."""
    as_float(tiny_copy, value, slice(2, 3))
    out = tmp_path / "out"
    kept = preprocessed(tiny_copy, out)[f"{SUB}_ses-day01_task-audiobook_run-01"]["kept"]
    name = f"{SUB}_ses-day01_task-audiobook_run-01_desc-preproc_channels.tsv"
    path = out / SUB / "ses-day01" / "ieeg" / name
    table = pd.read_csv(path, sep="\t", keep_default_na=False).set_index("name")
    assert table["status"].value_counts().to_dict() == {"good": kept - 1, "bad": 1}
    assert table.loc["RHG3", "status_description"] == reason


def test_sampling_rates_that_differ_between_runs(tiny_copy: Path, tmp_path: Path) -> None:
    """Amplifiers are changed between days; the output has one rate, and the plan says so."""
    old, new = "SamplingInterval=3906.25", "SamplingInterval=3900"
    edit(file(tiny_copy, "ieeg.vhdr", "ambient"), old, new)
    out = tmp_path / "out"
    rows = preprocessed(tiny_copy, out)
    assert rows[LABEL]["sampling_frequency"] == pytest.approx(1e6 / 3900)
    assert any("sidecar says 256 Hz" in note for note in rows[LABEL]["notes"])
    sidecars = [json.loads(p.read_text()) for p in out.rglob("*desc-preproc_ieeg.json")]
    assert {sidecar["SamplingFrequency"] for sidecar in sidecars} == {40.0}


def test_a_recording_shorter_than_its_sidecar_is_noted(tiny_copy: Path, tmp_path: Path) -> None:
    """A copy that broke off after the last event can be used, but somebody should know."""
    path = file(tiny_copy, "ieeg.json")
    stated = json.loads(path.read_text())
    lasts = stated["RecordingDuration"]
    path.write_text(json.dumps({**stated, "RecordingDuration": 2 * lasts}))
    rows = preprocessed(tiny_copy, tmp_path / "out")
    notes = rows[f"{SUB}_ses-day01_task-audiobook_run-01"]["notes"]
    assert any(
        f"{2 * lasts:.1f} s, the file lasts {lasts:.1f} s" in n and "truncated" in n for n in notes
    )


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda d: electrodes(d).write_bytes(bytes(range(256))), "is not used: A table is not"),
        (lambda d: electrodes(d).write_text(""), "is not used: A table is empty"),
        (lambda d: link_to_nowhere(electrodes(d)), "is not used: The content of a file"),
        (lambda d: electrodes(d, "coordsystem.json").write_text("{"), "is not used: A JSON"),
        (lambda d: edit(electrodes(d), "RHG", "LXX"), "used channels are not in it"),
        (lambda d: electrodes(d, "coordsystem.json").unlink(), "taken for mm"),
    ],
    ids=["binary", "empty", "not downloaded", "coordsystem", "other names", "no coordsystem"],
)
def test_broken_electrodes_cost_the_map_and_not_the_recording(
    tiny_copy: Path, tmp_path: Path, damage: Damage, said: str
) -> None:
    """Decoding needs no positions; copied garbage would break every reader of the output."""
    damage(tiny_copy)
    out = tmp_path / "out"
    notes = preprocessed(tiny_copy, out)[f"{SUB}_ses-day01_task-audiobook_run-01"]["notes"]
    assert any(said in note for note in notes), notes
    copied = out / electrodes(tiny_copy).relative_to(tiny_copy)
    assert copied.exists() == ("is not used: " not in said)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda d: edit(channels(d), "RHG2\t", "RHG1\t"), "names more than once (RHG1)"),
        (lambda d: edit(channels(d), "RHG2\t", "ODD\t"), "channels without a row"),
        (lambda d: edit(channels(d), "\tgood\t", "\tn/a\t"), "rows without status"),
        (lambda d: edit(channels(d), "name", "\ufeffname", 1), "byte-order mark"),
    ],
    ids=["twice", "no row", "no status", "byte-order mark"],
)
def test_odd_channels_are_counted(
    tiny_copy: Path, tmp_path: Path, damage: Damage, said: str
) -> None:
    """Tables are edited by hand; what was made of them must be in the plan."""
    before = pd.read_csv(channels(tiny_copy), sep="\t")
    good = (before["status"] == "good") & (before["type"] == "SEEG")
    damage(tiny_copy)
    rows = preprocessed(tiny_copy, tmp_path / "out")
    row = rows[f"{SUB}_ses-day01_task-audiobook_run-01"]
    assert any(said in note for note in row["notes"]), row["notes"]
    assert row["kept"] >= good.sum() - 1
