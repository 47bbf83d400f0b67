"""Real ECoG and sEEG through the whole command; nobody heard this speech, so nothing decodes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mne
import numpy as np
import pandas as pd
import pytest
import soundfile
from conftest import QUICK, SHARED

from bids_speechdecode.bids.dataset import ElectrodesFile
from bids_speechdecode.bids.electrodes import read_electrodes
from bids_speechdecode.cli import main

RECORDINGS = SHARED / "data" / "ieeg"
SPEECH = SHARED / "data" / "speech" / "librispeech-test-other"

pytestmark = pytest.mark.skipif(
    not (RECORDINGS / "sample_seeg.edf").exists() or not SPEECH.exists(),
    reason=f"the real recordings and speech of {SHARED / 'data'} are absent",
)


def repeat_edf(source: Path, target: Path, n_times: int) -> float:
    """Write an EDF file that plays the records of `source` several times; return its seconds."""
    content = source.read_bytes()
    n_header, n_records = int(content[184:192]), int(content[236:244])
    seconds = float(content[244:252])
    header = content[:236] + str(n_records * n_times).ljust(8).encode() + content[244:n_header]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(header + content[n_header:] * n_times)
    return n_records * n_times * seconds


def sidecars(stem: Path, rate: float, types: dict[str, str], task: str, rows: pd.DataFrame) -> None:
    """Write what stands beside a recording."""
    channels = pd.DataFrame({"name": types.keys(), "type": types.values(), "units": "uV"})
    channels["low_cutoff"] = channels["high_cutoff"] = "n/a"
    channels.to_csv(f"{stem}_channels.tsv", sep="\t", index=False)
    rows.to_csv(f"{stem}_events.tsv", sep="\t", index=False)
    about = {"TaskName": task, "iEEGReference": "n/a", "PowerLineFrequency": 60}
    about |= {"SoftwareFilters": "n/a", "SamplingFrequency": rate}
    Path(f"{stem}_ieeg.json").write_text(json.dumps(about))


def place_contacts(root: Path, contacts: pd.DataFrame, units: str) -> None:
    """Write electrodes.tsv and coordsystem.json, in coordinates that no template knows."""
    stem = root / "sub-real" / "ieeg" / "sub-real_space-Other"
    contacts.assign(size="n/a").to_csv(f"{stem}_electrodes.tsv", sep="\t", index=False)
    system = {
        "iEEGCoordinateSystem": "Other",
        "iEEGCoordinateSystemDescription": "head coordinates of the acquisition",
        "iEEGCoordinateUnits": units,
    }
    Path(f"{stem}_coordsystem.json").write_text(json.dumps(system))


def describe(root: Path) -> None:
    root.mkdir(parents=True)
    about = {"Name": "real recordings", "BIDSVersion": "1.10.0", "DatasetType": "raw"}
    (root / "dataset_description.json").write_text(json.dumps(about))
    (root / "README").write_text("Real recordings beside speech that these people never heard.\n")


def utterances() -> list[Path]:
    return sorted(SPEECH.rglob("*.flac"))


def chapter(target: Path, seconds: float, first: int) -> Path:
    """Write utterances one after the other until there are so many seconds."""
    parts, rate = [], 16000
    for path in utterances()[first:] + utterances()[:first]:
        sound, rate = soundfile.read(path, dtype="int16")
        parts.append(sound)
        if sum(map(len, parts)) >= seconds * rate:
            break
    target.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(target, np.concatenate(parts)[: int(seconds * rate)], rate)
    return target


def ecog_type(name: str) -> str:
    return "ECG" if name.startswith("EKG") else "ECOG"


def seeg_type(name: str) -> str:
    return {"E": "ECG", "D": "MISC"}.get(name[0], "SEEG")


def types_of(path: Path, kind: Callable[[str], str]) -> dict[str, str]:
    names = mne.io.read_raw_edf(path, verbose="error").ch_names
    return {name: kind(name) for name in names}


@pytest.fixture(scope="module")
def ecog_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return grid and strips at 999.4 Hz: three ambient recordings and one of a long story."""
    root = tmp_path_factory.mktemp("ecog") / "data"
    describe(root)
    source = RECORDINGS / "sample_ecog.edf"
    types = types_of(source, ecog_type)
    for number, (task, run) in enumerate(
        [("ambient", "01"), ("ambient", "02"), ("ambient", "03"), ("audiobook", "01")]
    ):
        stem = root / "sub-real" / "ieeg" / f"sub-real_task-{task}_run-{run}"
        n_times = 16 if task == "audiobook" else 8
        duration = repeat_edf(source, Path(f"{stem}_ieeg.edf"), n_times)
        sound = chapter(root / "stimuli" / f"{task}{run}.flac", duration - 6, first=25 * number)
        rows = {"onset": [4.0], "duration": [duration - 6], "stim_file": [sound.name]}
        sidecars(stem, 999.412, types, task, pd.DataFrame(rows))
    contacts = pd.read_csv(RECORDINGS / "sample_ecog_electrodes.tsv", sep="\t", dtype=str)
    place_contacts(root, contacts, "m")
    return root


@pytest.fixture(scope="module")
def seeg_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return depth electrodes at 1 kHz and a task of many short sounds, each its own file."""
    root = tmp_path_factory.mktemp("seeg") / "data"
    describe(root)
    source = RECORDINGS / "sample_seeg.edf"
    stem = root / "sub-real" / "ieeg" / "sub-real_task-sentences"
    duration = repeat_edf(source, Path(f"{stem}_ieeg.edf"), 16)
    (root / "stimuli").mkdir()
    rows, onset = [], 2.0
    for path in utterances():
        length = soundfile.info(path).duration
        if onset + length > duration - 2:
            break
        shutil.copyfile(path, root / "stimuli" / path.name)
        rows.append({"onset": onset, "duration": length, "stim_file": path.name})
        onset += length + 1.0
    types = types_of(source, seeg_type)
    sidecars(stem, 1000.0, types, "sentences", pd.DataFrame(rows))
    names = [name for name, kind in types.items() if kind == "SEEG"]
    nowhere = pd.DataFrame({"name": names, "x": "n/a", "y": "n/a", "z": "n/a"})
    place_contacts(root, nowhere, "n/a")
    return root


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "real.toml"
    path.write_text(QUICK)
    return path


@pytest.fixture(scope="module")
def ecog_run(ecog_dataset: Path, config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ecog") / "out"
    assert main([str(ecog_dataset), str(out), "participant", "--config", str(config)]) == 0
    return out


@pytest.fixture(scope="module")
def seeg_run(seeg_dataset: Path, config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("seeg") / "out"
    options = ["--pretrain-task", "none", "--finetune-task", "sentences", "--config", str(config)]
    assert main([str(seeg_dataset), str(out), "participant", *options]) == 0
    return out


def scores(out: Path) -> pd.DataFrame:
    path = next((out / "sub-real" / "ieeg").glob("*_desc-conditions_scores.tsv"))
    return pd.read_csv(path, sep="\t", dtype={"audio": str})


def assert_nothing_is_claimed(table: pd.DataFrame) -> None:
    """No condition may beat chance once it is counted how many were looked at.

    Test windows are few, so an interval alone can miss chance by luck; then the test against
    shifted sound must not call it a finding.
    """
    finite = table[["relative_rank", "ci_low", "ci_high", "p_shift"]].to_numpy(dtype=float)
    assert np.isfinite(finite).all()
    includes_chance = (table["ci_low"] <= 0.5) & (table["ci_high"] >= 0.5)
    assert (includes_chance | (table["p_shift"] > 0.05 / len(table))).all(), table.T


def test_ecog_through_the_command(ecog_run: Path) -> None:
    # The reading path on what real amplifiers write, down to the page that people look at.
    table = scores(ecog_run)
    assert set(table["condition"]) == {
        *("backward", "linear", "taskonly", "zeroshot", "frozen", "finetuned", "pretrained")
    }
    assert (table["n_test_windows"] >= 10).all()
    assert_nothing_is_claimed(table)
    page = (ecog_run / "sub-real.html").read_text()
    assert "999.4" in page
    assert "simulated" not in page.lower()


def test_ecog_channels_and_contacts(ecog_run: Path) -> None:
    # Heartbeats must not be decoded; contacts must keep their names, places and unit.
    folder = ecog_run / "sub-real" / "ieeg"
    plan = json.loads((folder / "sub-real_desc-plan_windows.json").read_text())
    for recording in plan["recordings"]:
        assert recording["kept"] == 76
        assert recording["dropped"] == {"type ECG": 2}
        assert recording["sampling_frequency"] == pytest.approx(999.41, abs=0.01)
        # Strips without a position are used and counted.
        assert any("12 of 76 used channels are not in" in note for note in recording["notes"])
    contacts = read_electrodes(
        ElectrodesFile(
            folder / "sub-real_space-Other_electrodes.tsv",
            folder / "sub-real_space-Other_coordsystem.json",
        )
    )
    assert contacts.n_localised == 64
    np.testing.assert_allclose(contacts.positions_mm[0], [-13.2, -65.4, 70.2])


def test_real_ecog_is_preprocessed_as_by_mne(ecog_dataset: Path, ecog_run: Path) -> None:
    # The derivative of the command, at a rate that is no whole number, beside the usual tool.
    name = "sub-real_task-ambient_run-02"
    ours = mne.io.read_raw_brainvision(
        ecog_run / "sub-real" / "ieeg" / f"{name}_desc-preproc_ieeg.vhdr", verbose="error"
    )
    theirs = mne.io.read_raw_edf(
        ecog_dataset / "sub-real" / "ieeg" / f"{name}_ieeg.edf", verbose="error"
    )
    picks = ours.ch_names[::8]
    theirs.pick(picks).load_data()
    # Cut so that the length is a whole number of samples at 40 Hz: MNE rounds it otherwise.
    rate = theirs.info["sfreq"]
    seconds = int(theirs.n_times / rate)
    theirs.crop(0, (round(seconds * rate) - 1) / rate)
    theirs.filter(0.05, None, verbose="error").resample(40.0, verbose="error")
    middle = slice(40 * 40, (seconds - 40) * 40)  # the high-pass reaches 33 s
    a, b = ours.get_data(picks=picks)[:, middle], theirs.get_data()[:, middle]
    table = pd.read_csv(
        ecog_run / "sub-real" / "ieeg" / f"{name}_desc-preproc_channels.tsv", sep="\t"
    ).set_index("name")
    for channel, mine, peer in zip(picks, a, b, strict=True):
        row = table.loc[channel]
        expected = np.clip((peer - row["center"]) / row["scale"], -20, 20)
        scaled = mine * 1e6 if np.abs(mine).max() < 1e-3 else mine  # MNE reads the unit as µV
        assert np.corrcoef(scaled, expected)[0, 1] > 0.999
        assert np.polyfit(expected, scaled, 1)[0] == pytest.approx(1, abs=0.02)


def test_seeg_through_the_command_without_pretraining(seeg_run: Path) -> None:
    # A task of short sounds, each its own file, is how many laboratories work.
    table = scores(seeg_run)
    assert set(table["condition"]) == {"backward", "linear", "taskonly"}
    assert_nothing_is_claimed(table)
    plan = json.loads((seeg_run / "sub-real/ieeg/sub-real_desc-plan_windows.json").read_text())
    (recording,) = plan["recordings"]
    assert recording["kept"] == 88
    assert recording["dropped"] == {"type MISC": 8, "type ECG": 2}
    assert len(recording["alignment"]) > 10
    assert (seeg_run / "sub-real.html").exists()
    assert not list(seeg_run.rglob("*pretrained*"))


def test_derivatives_of_real_recordings_are_valid_bids(ecog_run: Path, seeg_run: Path) -> None:
    # Real channel names (L'1) and rates must survive into tables that others can read.
    validator = Path(sys.executable).with_name("bids-validator-deno")
    for out in (ecog_run, seeg_run):
        outcome = subprocess.run(
            [validator, out, "--ignoreWarnings"], capture_output=True, text=True, check=False
        )
        assert outcome.returncode == 0, outcome.stdout + outcome.stderr


def test_a_second_run_on_real_data_does_nothing_again(
    seeg_dataset: Path, seeg_run: Path, config: Path
) -> None:
    # Signatures must be stable where the numbers are not round.
    models = {p: p.stat().st_mtime_ns for p in seeg_run.rglob("*_model.safetensors")}
    signals = {p: p.stat().st_mtime_ns for p in seeg_run.rglob("*.eeg")}
    options = ["--pretrain-task", "none", "--finetune-task", "sentences", "--config", str(config)]
    options += ["--steps", "preprocess,features,finetune,evaluate"]
    assert main([str(seeg_dataset), str(seeg_run), "participant", *options]) == 0
    for path, time in {**models, **signals}.items():
        assert path.stat().st_mtime_ns == time
