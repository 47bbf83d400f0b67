"""Killed, run again, run twice at once, run with other settings: the numbers stay the same."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from conftest import QUICK, _common, _once

from bids_speechdecode.bids.files import write_array
from bids_speechdecode.bids.sidecars import read_sidecar, write_sidecar
from bids_speechdecode.cli import main
from bids_speechdecode.decoding.checkpoint import read_state

PARTICIPANTS = ("sim01", "sim02")
NUMBERS = "preprocess,features,select,pretrain,finetune,evaluate,contributions"  # all but the pages
BRAIN_LAG, WINDOW = 0.15, 3.0  # seconds, as configured by default

# Runs the command and dies by SIGKILL at an exact place: sys.argv[1] is "module:function:call",
# with a "+" in front to die after the call instead of before.
DIE_AT = """
import os, signal, sys
from importlib import import_module
from bids_speechdecode.bids.files import write_array
from bids_speechdecode.bids.sidecars import read_sidecar, write_sidecar
from bids_speechdecode.cli import main

module, name, call = sys.argv[1].removeprefix("+").split(":")
original, count = getattr(import_module(module), name), 0

def dying(*args, **kwargs):
    global count
    count += 1
    if count == int(call) and not sys.argv[1].startswith("+"):
        os.kill(os.getpid(), signal.SIGKILL)
    result = original(*args, **kwargs)
    if count == int(call):
        os.kill(os.getpid(), signal.SIGKILL)
    return result

setattr(import_module(module), name, dying)
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture(scope="session")
def patient_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return settings with enough epochs to be killed between two of them."""
    path = tmp_path_factory.mktemp("config") / "patient.toml"
    text = QUICK.replace("[pretrain]\nmax_epochs = 2", "[pretrain]\nmax_epochs = 4")
    # The rule that looks at signal and sound; so few seconds of either prove nothing.
    path.write_text(text + '\n[selection]\nrules = ["responsive"]\nresponsive_q = 0.9999\n')
    return path


def command(dataset: Path, out: Path, config: Path, participant: str = "sim01") -> list[str]:
    words = [dataset, out, "participant", "--participant-label", participant, "--config", config]
    return [*map(str, words), "--steps", NUMBERS]


@pytest.fixture(scope="session")
def uninterrupted(
    tmp_path_factory: pytest.TempPathFactory,
    worker_id: str,
    tiny_dataset: Path,
    patient_config: Path,
) -> Path:
    """Return the derivatives of a run of one participant that nothing disturbed."""

    def run(out: Path) -> None:
        assert main(command(tiny_dataset, out, patient_config)) == 0

    return _once(_common(tmp_path_factory, worker_id) / "uninterrupted", run)


def numbers(out: Path) -> dict[str, bytes]:
    """Return the content of every file that holds results, without times of day and of work."""
    found = {}
    for path in sorted(p for p in out.rglob("*") if p.is_file()):
        name = str(path.relative_to(out))
        ending = path.suffix in (".npy", ".tsv", ".safetensors", ".eeg", ".vhdr", ".vmrk", ".json")
        if not ending or "/log/" in name or name == "dataset_description.json":
            continue
        content = path.read_bytes()
        if name.endswith("_history.tsv"):
            table = pd.read_csv(io.BytesIO(content), sep="\t", dtype=str)
            content = table.drop(columns="seconds").to_csv().encode()
        if name.endswith("_model.json"):  # has the size of that history, and seconds itself
            about = {k: v for k, v in json.loads(content).items() if k != "Seconds"}
            sizes = {n: s for n, s in about["Bytes"].items() if not n.endswith("_history.tsv")}
            content = json.dumps({**about, "Bytes": sizes}).encode()
        found[name] = content
    return found


def assert_same_numbers(out: Path, reference: Path) -> None:
    one, other = numbers(out), numbers(reference)
    assert set(one) == set(other)
    assert [name for name in one if one[name] != other[name]] == []


def temporary_files(out: Path) -> list[str]:
    """Return what no finished run may leave behind."""
    work = [p for p in (out / ".work").rglob("*") if p.is_file()]
    hidden = [p for p in out.rglob(".*") if p.is_file() and p.name != ".bidsignore"]
    return sorted({str(p.relative_to(out)) for p in (*work, *hidden)})


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start real processes, and end those that a failed test leaves running."""
    started: list[subprocess.Popen[bytes]] = []

    def start(words: list[str], die_at: str = "") -> subprocess.Popen[bytes]:
        program = ["-c", DIE_AT, die_at] if die_at else ["-m", "bids_speechdecode"]
        with (tmp_path / f"stderr{len(started)}.txt").open("wb") as log:
            started.append(
                subprocess.Popen(
                    [sys.executable, *program, *words],
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                )
            )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def wait_until(process: subprocess.Popen[bytes], moment: Callable[[], object]) -> None:
    """Wait for something to become true while the process runs."""
    deadline = time.monotonic() + 240
    while not moment():
        assert process.poll() is None, f"the process ended first, with status {process.returncode}"
        assert time.monotonic() < deadline, "the moment never came"
        time.sleep(0.002)


def checkpoints(out: Path) -> list[Path]:
    return list(out.glob(".work/sub-sim01/pretrained-*.checkpoint"))


def test_killed_while_training_and_run_again(
    start: Callable[..., subprocess.Popen[bytes]],
    tiny_dataset: Path,
    uninterrupted: Path,
    patient_config: Path,
    tmp_path: Path,
) -> None:
    # Clusters kill without asking; a day of training must go on, to the same weights.
    out = tmp_path / "out"
    words = command(tiny_dataset, out, patient_config)
    process = start(words)
    wait_until(process, lambda: checkpoints(out))
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    model = out / "sub-sim01" / "ieeg" / "sub-sim01_task-ambient_desc-pretrained_model.safetensors"
    assert not model.exists(), "the process was killed too late to show anything"
    state = read_state(checkpoints(out)[0])
    assert state is not None
    assert main(words) == 0
    assert_same_numbers(out, uninterrupted)
    assert temporary_files(out) == []
    # The epochs before the kill were not trained again: their seconds are those of back then.
    history = pd.read_csv(str(model).replace("_model.safetensors", "_history.tsv"), sep="\t")
    before = [epoch["seconds"] for epoch in state["history"]]
    np.testing.assert_array_equal(history["seconds"][: len(before)], before)


@pytest.mark.slow
@pytest.mark.parametrize(
    "place",
    [
        pytest.param("bids_speechdecode.signals.scaling:_scale:2", id="half-a-signal"),
        pytest.param("bids_speechdecode.steps.preprocess:write_sidecar:2", id="signal-no-sidecar"),
        pytest.param("bids_speechdecode.steps.features:window_features:3", id="half-the-features"),
        pytest.param("bids_speechdecode.steps.features:write_sidecar:2", id="features-no-sidecar"),
        pytest.param("+bids_speechdecode.decoding.checkpoint:save_file:2", id="half-a-checkpoint"),
        pytest.param("bids_speechdecode.steps.models:write_sidecar:2", id="model-no-sidecar"),
        pytest.param("bids_speechdecode.steps.evaluate:write_array:5", id="half-the-scores"),
    ],
)
def test_killed_anywhere_and_run_again(
    place: str,
    start: Callable[..., subprocess.Popen[bytes]],
    tiny_dataset: Path,
    uninterrupted: Path,
    patient_config: Path,
    tmp_path: Path,
) -> None:
    # Whatever is on disk at that moment must be recognised as unfinished, and be cleared away.
    out = tmp_path / "out"
    words = command(tiny_dataset, out, patient_config)
    assert start(words, die_at=place).wait() == -signal.SIGKILL
    assert main(words) == 0
    assert_same_numbers(out, uninterrupted)
    assert temporary_files(out) == []


@pytest.mark.slow
def test_killed_with_other_settings_and_back_again(
    start: Callable[..., subprocess.Popen[bytes]],
    tiny_dataset: Path,
    uninterrupted: Path,
    patient_config: Path,
    tmp_path: Path,
) -> None:
    # Half of another run's scores must not pass for those that were complete before it.
    out = Path(shutil.copytree(uninterrupted, tmp_path / "out"))
    other = tmp_path / "other.toml"
    other.write_text(patient_config.read_text().replace("block = 6.0", "block = 9.0"))
    place = "bids_speechdecode.steps.evaluate:write_array:5"
    process = start(command(tiny_dataset, out, other), die_at=place)
    assert process.wait() == -signal.SIGKILL
    assert main(command(tiny_dataset, out, patient_config)) == 0
    assert_same_numbers(out, uninterrupted)
    assert temporary_files(out) == []


@pytest.mark.slow
def test_terminated_and_run_again(
    start: Callable[..., subprocess.Popen[bytes]],
    tiny_dataset: Path,
    uninterrupted: Path,
    patient_config: Path,
    tmp_path: Path,
) -> None:
    # SIGTERM is how a batch system announces the end: tidy up, say so, and be restartable.
    out = tmp_path / "out"
    words = command(tiny_dataset, out, patient_config)
    process = start(words)
    wait_until(process, lambda: checkpoints(out))
    process.terminate()
    assert process.wait() == 143
    assert "terminated; run the same command again" in (tmp_path / "stderr0.txt").read_text()
    kept = [str(path.relative_to(out)) for path in checkpoints(out)]
    assert len(kept) == 1
    assert temporary_files(out) == kept
    assert main(words) == 0
    assert_same_numbers(out, uninterrupted)
    assert temporary_files(out) == []


@pytest.mark.slow
def test_two_participants_at_once(
    start: Callable[..., subprocess.Popen[bytes]],
    tiny_dataset: Path,
    uninterrupted: Path,
    patient_config: Path,
    tmp_path: Path,
) -> None:
    # One job a participant into one folder is how every cluster runs a BIDS App.
    together, in_turn = tmp_path / "together", Path(shutil.copytree(uninterrupted, tmp_path / "a"))
    both = [start(command(tiny_dataset, together, patient_config, p)) for p in PARTICIPANTS]
    assert [process.wait() for process in both] == [0, 0]
    assert main(command(tiny_dataset, in_turn, patient_config, "sim02")) == 0
    assert_same_numbers(together, in_turn)
    assert temporary_files(together) == []
    validator = Path(sys.executable).with_name("bids-validator-deno")
    outcome = subprocess.run(
        [validator, together, "--ignoreWarnings"], capture_output=True, text=True, check=False
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


def changed_files(out: Path, dataset: Path, config: Path, *options: str) -> set[str]:
    """Run again; return which files of results were written again or are new."""
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    assert main([*command(dataset, out, config), *options]) == 0
    after = {str(p.relative_to(out)): p for p in out.rglob("*") if p.is_file()}
    return {
        name
        for name, path in after.items()
        if "/log/" not in name
        and not name.endswith(("README", "desc-plan_windows.json"))
        and before.get(path) != path.stat().st_mtime_ns
    }


def having(names: set[str], *words: str) -> set[str]:
    return {name for name in names if any(word in name for word in words)}


def test_another_evaluation_changes_only_scores(
    tiny_dataset: Path, uninterrupted: Path, patient_config: Path, tmp_path: Path
) -> None:
    # More permutations for the paper must not cost another week of training.
    out = Path(shutil.copytree(uninterrupted, tmp_path / "out"))
    config = tmp_path / "other.toml"
    config.write_text(
        patient_config.read_text().replace("n_permutations = 200", "n_permutations = 150")
    )
    changed = changed_files(out, tiny_dataset, config)
    assert having(changed, "desc-conditions_scores.tsv")
    assert having(changed, "_scores", "_embeddings", "_events") == changed
    assert not having(changed, "features/")


def test_another_block_length_fits_the_backward_model_anew(
    tiny_dataset: Path, uninterrupted: Path, patient_config: Path, tmp_path: Path
) -> None:
    # Its folds are those blocks; the encoders know nothing of them.
    out = Path(shutil.copytree(uninterrupted, tmp_path / "out"))
    config = tmp_path / "other.toml"
    config.write_text(patient_config.read_text().replace("block = 6.0", "block = 9.0"))
    models = having(changed_files(out, tiny_dataset, config), "_model.")
    assert models
    assert models == having(models, "desc-backward_model")


@pytest.mark.slow
def test_another_finetuning_leaves_the_backward_model(
    tiny_dataset: Path, uninterrupted: Path, patient_config: Path, tmp_path: Path
) -> None:
    # The ridge has no epochs: whoever tunes the encoder must not wait for it.
    out = Path(shutil.copytree(uninterrupted, tmp_path / "out"))
    config = tmp_path / "other.toml"
    old, new = "[finetune]\nmax_epochs = 2", "[finetune]\nmax_epochs = 1"
    config.write_text(patient_config.read_text().replace(old, new))
    models = having(changed_files(out, tiny_dataset, config), "_model.safetensors")
    stems = {name.split("desc-")[1].removesuffix("_model.safetensors") for name in models}
    assert stems == {"linear", "taskonly", "frozen", "finetuned"}


@pytest.mark.slow
def test_another_preprocessing_changes_everything_downstream(
    tiny_dataset: Path, uninterrupted: Path, patient_config: Path, tmp_path: Path
) -> None:
    # A score of one signal beside a model of another would be nobody's result.
    out = Path(shutil.copytree(uninterrupted, tmp_path / "out"))
    config = tmp_path / "other.toml"
    config.write_text(patient_config.read_text() + "\n[preprocess]\nclamp = 5.0\n")
    changed = changed_files(out, tiny_dataset, config)
    everything = {n for n in numbers(out) if having({n}, "preproc_ieeg", "_model", "_scores.tsv")}
    assert everything <= changed
    assert not having(changed, "features/")
    fresh = tmp_path / "fresh"
    assert main(command(tiny_dataset, fresh, config)) == 0
    assert_same_numbers(out, fresh)


@pytest.mark.slow
def test_another_seed_equals_a_fresh_run_with_it(
    tiny_dataset: Path, uninterrupted: Path, patient_config: Path, tmp_path: Path
) -> None:
    # The seed moves splits, weights and draws: nothing of the old ones may stay in use.
    out = Path(shutil.copytree(uninterrupted, tmp_path / "out"))
    changed = changed_files(out, tiny_dataset, patient_config, "--seed", "5")
    assert len(having(changed, "_model.safetensors")) == 6
    fresh = tmp_path / "fresh"
    assert main([*command(tiny_dataset, fresh, patient_config), "--seed", "5"]) == 0
    old, new = numbers(out), numbers(fresh)
    assert [name for name in new if old[name] != new[name]] == []
    assert main(command(tiny_dataset, out, patient_config)) == 0
    back = numbers(uninterrupted)
    again = numbers(out)
    assert [name for name in back if again[name] != back[name]] == []


# ------------------------------------------------------------------------------ leakage


def held_out(out: Path) -> pd.DataFrame:
    """Return the test windows, as the tables of ranks tell them, with the name of the table."""
    paths = sorted(out.rglob("*_desc-backward*_events.tsv")) + sorted(
        out.rglob("*_desc-pretrained_events.tsv")
    )
    tables = [pd.read_csv(p, sep="\t").assign(recording=p.name.split("_desc-")[0]) for p in paths]
    return pd.concat(tables, ignore_index=True)


def spoil_sound(path: Path, starts: np.ndarray, rng: np.random.Generator) -> None:
    """Replace the sound of windows by other, louder sound; the rest stays bit for bit."""
    sound, rate = soundfile.read(path, dtype="int16")
    for start in starts:
        window = slice(round(start * rate), round((start + WINDOW) * rate))
        sound[window] = rng.integers(-9000, 9000, sound[window].shape)
    soundfile.write(path, sound, rate, subtype=soundfile.info(path).subtype)


def spoil_signal(path: Path, starts: np.ndarray, rng: np.random.Generator) -> None:
    """Replace the signal of windows (BrainVision) by noise ten times as large."""
    header = dict(
        line.split("=", 1)
        for line in path.with_suffix(".vhdr").read_text().splitlines()
        if "=" in line and not line.startswith(("Ch", ";"))
    )
    kind = {"INT_16": "<i2", "IEEE_FLOAT_32": "<f4"}[header["BinaryFormat"]]
    n_channels = int(header["NumberOfChannels"])
    rate = 1e6 / float(header["SamplingInterval"])
    signal_ = np.memmap(path, kind, "r+").reshape(-1, n_channels)
    spread = 10 * signal_[: int(10 * rate)].astype(float).std()
    for start in starts:
        window = slice(round(start * rate), round((start + WINDOW) * rate))
        noise = rng.normal(0, spread, signal_[window].shape)
        signal_[window] = np.clip(noise, -32000, 32000).astype(kind)
    signal_.flush()


def feature_rows(out: Path, tested: pd.DataFrame) -> dict[tuple[str, str], np.ndarray]:
    """Return the targets of each stretch of each sound that no test window lies in."""
    rows = {}
    for path in sorted(out.rglob("features/**/*_embeddings.npy")):
        sound = path.name.split("_desc-")[0]
        onsets = tested.loc[tested["stimulus"].str.startswith(sound + "."), "audio_onset"]
        first = 0
        for start, stop, n_windows, begin in json.loads(path.with_suffix(".json").read_text())[
            "Pieces"
        ]:
            if not onsets.between(start - 0.01, stop).any():
                rows[sound, f"{begin:.3f}"] = np.load(path)[first : first + n_windows]
            first += n_windows
    return rows


def test_nothing_that_is_learnt_depends_on_the_test_windows(
    tiny_copy: Path, uninterrupted: Path, patient_config: Path, tmp_path: Path
) -> None:
    # The promise on which every score rests, end to end: signal, sound, scale and weights.
    tested = held_out(uninterrupted)
    tested = tested[tested["recording"].str.startswith("sub-sim01")]
    rng = np.random.default_rng(11)
    for name, rows in tested.groupby("stimulus"):
        spoil_sound(tiny_copy / "stimuli" / str(name), rows["audio_onset"].to_numpy(), rng)
    for name, rows in tested.groupby("recording"):
        path = next(tiny_copy.rglob(f"{name}_ieeg.eeg"))
        spoil_signal(path, rows["onset"].unique() + BRAIN_LAG, rng)
    out = tmp_path / "out"
    assert main(command(tiny_copy, out, patient_config)) == 0

    before, after = feature_rows(uninterrupted, tested), feature_rows(out, tested)
    assert set(before) == set(after)
    assert len({sound for sound, _ in before}) == 4  # two ambient files, the book, its room sound
    for key, rows in before.items():
        np.testing.assert_array_equal(rows, after[key])

    weights = sorted(uninterrupted.rglob("*_model.safetensors"))
    assert len(weights) == 6
    for path in weights:
        other = out / path.relative_to(uninterrupted)
        assert path.read_bytes() == other.read_bytes(), path.name
        one, two = (json.loads(p.with_suffix(".json").read_text()) for p in (path, other))
        assert (one["TargetMean"], one["TargetScale"]) == (two["TargetMean"], two["TargetScale"])

    chosen = next(uninterrupted.rglob("*_desc-selected_channels.tsv"))
    assert chosen.read_bytes() == (out / chosen.relative_to(uninterrupted)).read_bytes()
    assert pd.read_csv(chosen, sep="\t")["sound_r"].notna().sum() > 4

    for path in sorted(uninterrupted.rglob("*_desc-preproc_ieeg.eeg")):
        events = next(tiny_copy.rglob(path.name.replace("desc-preproc_ieeg.eeg", "events.tsv")))
        heard = pd.read_csv(events, sep="\t").eval("onset + duration").max() + BRAIN_LAG
        other = out / path.relative_to(uninterrupted)
        assert_same_training_signal(path, other, tested, until=heard)
    # And it was spoilt indeed: the same models do not rank the new test windows as before.
    assert not np.array_equal(tested["rank"], held_out(out)["rank"])


def assert_same_training_signal(
    path: Path, other: Path, tested: pd.DataFrame, until: float
) -> None:
    """Compare scale and samples (while sound was heard) up to the guard of the test windows."""
    recording = path.name.split("_desc-")[0]
    onsets = tested.loc[tested["recording"] == recording, "onset"].unique() + BRAIN_LAG
    tables = [
        pd.read_csv(str(p).replace("_ieeg.eeg", "_channels.tsv"), sep="\t") for p in (path, other)
    ]
    if len(onsets) and "task-ambient" in recording:
        return  # a test file as a whole: nothing of it is learnt from
    for column in ("name", "status", "center", "scale"):
        np.testing.assert_array_equal(tables[0][column], tables[1][column])
    signals = [np.fromfile(p, "<f4").reshape(-1, len(tables[0])) for p in (path, other)]
    times = np.arange(len(signals[0])) / 40.0
    learnt = times < until
    for onset in onsets:
        learnt &= (times < onset - 3.0) | (times > onset + WINDOW + 3.0)
    assert learnt.mean() > 0.4
    np.testing.assert_array_equal(signals[0][learnt], signals[1][learnt])
    if len(onsets):
        assert not np.array_equal(*signals)


def test_shared_features_never_look_unfinished(tmp_path: Path) -> None:
    # Another participant's process may read them at the moment in which ours writes the same.
    path, array = tmp_path / "sound_desc-mel0123abcd_embeddings.npy", np.arange(6.0)
    write_array(path, array, shared=True)
    write_sidecar(path, step="features", signature="0123abcd")
    write_array(path, array, shared=True)
    assert read_sidecar(path)["Signature"] == "0123abcd"
    write_array(path, array)
    assert read_sidecar(path) == {}
