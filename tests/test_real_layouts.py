"""The layout of a published ECoG dataset, as it is: sidecars with quirks, signals elsewhere."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from conftest import QUICK, SHARED

from bids_speechdecode.cli import main
from bids_speechdecode.simulate.writers import open_writer

PODCAST = SHARED / "data" / "ds005574"
BOM = b"\xef\xbb\xbf"
PARTICIPANTS = [f"{number:02d}" for number in range(1, 10)]
OPTIONS = ["--pretrain-task", "none", "--finetune-task", "podcast"]
SECONDS = 150

pytestmark = pytest.mark.skipif(not PODCAST.is_dir(), reason=f"{PODCAST} is absent")


@pytest.fixture
def podcast(tmp_path: Path) -> Path:
    """Return a copy that a test may add to; the original is read-only."""
    root = tmp_path / "ds005574"
    shutil.copytree(PODCAST, root, copy_function=shutil.copyfile)
    for folder in (root, *(p for p in root.rglob("*") if p.is_dir())):
        folder.chmod(0o755)
    return root


def dry_run(root: Path, out: Path, *options: str) -> int:
    return main([str(root), str(out), "participant", "--dry-run", *OPTIONS, *options])


def channel_rows(participant: str) -> list[dict[str, str]]:
    """Read a table of channels with nothing but the standard library."""
    name = f"sub-{participant}/ieeg/sub-{participant}_task-podcast_channels.tsv"
    with (PODCAST / name).open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def by_participant(text: str) -> dict[str, str]:
    """Cut the printed plan into what is said of each participant."""
    parts = re.split(r"^(sub-\d\d): \d+ recordings? in the dataset$", text, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_everything_but_the_signals_is_listed(
    podcast: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Who plans a study looks at sidecars first, long before the terabytes are there.
    out = tmp_path / "out"
    assert dry_run(podcast, out) == 66
    shown = capsys.readouterr()
    told = by_participant(shown.out)
    assert list(told) == [f"sub-{p}" for p in PARTICIPANTS]
    n_good = 0
    for participant, text in told.items():
        assert f"{participant}_task-podcast: signal missing" in text
        match = re.search(r"(\d+) ECOG good", text)
        assert match is not None
        n_good += int(match[1])
        for space in ("MNI152NLin2009aSym", "Other"):
            assert f"ieeg/{participant}_space-{space}_electrodes.tsv" in text
        # Each missing signal is named, with what to do about it.
        assert f"{participant}_task-podcast_ieeg with one of .vhdr" in shown.err
    assert n_good == 1268
    assert "download the recording" in shown.err
    assert "9 of 9 participants failed" in shown.err
    assert "Traceback" not in shown.err
    assert not out.exists()


def test_channels_are_counted_as_in_the_tables(
    podcast: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A byte-order mark must not hide the first column, nor a rate of 1 Hz a channel.
    dry_run(podcast, tmp_path / "out")
    told = by_participant(capsys.readouterr().out)
    for participant in PARTICIPANTS:
        rows = channel_rows(participant)
        text = told[f"sub-{participant}"]
        for (kind, status), n in Counter((r["type"], r["status"]) for r in rows).items():
            assert re.search(rf"\b{n} {kind} {status}\b", text), (participant, kind, status)
        path = PODCAST / f"sub-{participant}/ieeg/sub-{participant}_task-podcast_channels.tsv"
        assert ("byte-order mark removed" in text) == path.read_bytes().startswith(BOM)


def test_the_default_tasks_are_not_there(
    podcast: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The first thing that people type; the answer must name what there is.
    words = [str(podcast), str(tmp_path / "out"), "participant", "--dry-run"]
    assert main([*words, "--participant-label", "01"]) == 18
    told = capsys.readouterr().err
    assert "podcast" in told
    assert "--finetune-task" in told


def test_naming_the_audio_does_not_hide_the_missing_signal(
    podcast: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Of two things that are missing, the one that no option can mend comes first.
    status = dry_run(podcast, tmp_path / "out", "--audio", "podcast.wav", "--participant-label=07")
    assert status == 66
    assert "sub-07_task-podcast_ieeg" in capsys.readouterr().err


# --------------------------------------------------------------- with a signal in its place


def place_signal(root: Path, participant: str, format: str, rate: int) -> list[str]:
    """Write noise on all channels of channels.tsv, in their order; return their names."""
    names = [row["name"] for row in channel_rows(participant)]
    ending = {"edf": ".edf", "brainvision": ".vhdr"}[format]
    path = root / f"sub-{participant}/ieeg/sub-{participant}_task-podcast_ieeg{ending}"
    rng = np.random.default_rng(3)
    with open_writer(path, format, names, rate) as writer:
        for _ in range(SECONDS):
            writer.write(rng.normal(0, 50, (rate, len(names))))  # µV
    return names


def place_audio(root: Path) -> None:
    rng = np.random.default_rng(4)
    soundfile.write(root / "stimuli" / "podcast.wav", rng.normal(0, 0.1, SECONDS * 16000), 16000)


@pytest.mark.parametrize(
    ("participant", "format", "rate"), [("01", "edf", 512), ("07", "brainvision", 2048)]
)
def test_with_signal_and_audio_the_plan_is_complete(
    participant: str,
    format: str,
    rate: int,
    podcast: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Without events.tsv, a name of the audio is all that this dataset lacks.
    place_signal(podcast, participant, format, rate)
    place_audio(podcast)
    options = ["--audio", "podcast.wav", "--participant-label", participant]
    assert dry_run(podcast, tmp_path / "out", *options) == 0
    told = capsys.readouterr().out
    rows = channel_rows(participant)
    good = [r["name"] for r in rows if r["type"] == "ECOG" and r["status"] == "good"]
    assert f"({format}, {rate} Hz, 2.5 min)" in told
    assert f"channels: {len(good)} used, {len(rows) - len(good)} dropped" in told
    assert "bad: no localization" in told
    # Depth electrodes are typed ECOG here and are used like the grid's.
    depth = [name for name in good if name.startswith("D")]
    assert len(depth) > 5
    assert not [name for name in good if f" {name}: " in told]
    assert "podcast.wav at 0.000 to 150.000 s" in told
    counts = re.search(r"windows of task podcast \(true audio\): (.*)", told)
    assert counts is not None
    assert all(int(n) >= 2 for n in re.findall(r"(\d+) \w+", counts[1]))


def test_without_the_audio_its_option_is_named(
    podcast: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The signal is there but nothing says what was heard.
    place_signal(podcast, "08", "edf", 512)
    assert dry_run(podcast, tmp_path / "out", "--participant-label", "08") == 65
    assert "--audio" in capsys.readouterr().err
    options = ["--participant-label", "08", "--audio", "podcst.wav"]
    assert dry_run(podcast, tmp_path / "out", *options) == 66
    assert "podcst.wav" in capsys.readouterr().err


def test_a_signal_at_another_rate_than_its_sidecar(
    podcast: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A dataset of mixed rates invites mistakes; the file is right, and it is said.
    place_signal(podcast, "08", "edf", 2048)
    place_audio(podcast)
    options = ["--participant-label", "08", "--audio", "podcast.wav"]
    assert dry_run(podcast, tmp_path / "out", *options) == 0
    assert "sidecar says 512 Hz, the file 2048 Hz (used)" in capsys.readouterr().out


@pytest.mark.slow
def test_one_participant_of_the_podcast_to_the_report(podcast: Path, tmp_path: Path) -> None:
    # Quirks of sidecars must not surface only after hours: the whole way, to valid derivatives.
    names = place_signal(podcast, "08", "edf", 512)
    place_audio(podcast)
    config, out = tmp_path / "quick.toml", tmp_path / "out"
    config.write_text(QUICK)
    words = [str(podcast), str(out), "participant", *OPTIONS, "--audio", "podcast.wav"]
    assert main([*words, "--participant-label", "08", "--config", str(config)]) == 0
    folder = out / "sub-08" / "ieeg"
    table = pd.read_csv(folder / "sub-08_task-podcast_desc-conditions_scores.tsv", sep="\t")
    assert set(table["condition"]) == {"backward", "linear", "taskonly"}
    selected = pd.read_csv(folder / "sub-08_task-podcast_desc-selected_channels.tsv", sep="\t")
    assert set(selected["name"]) == set(names)
    assert selected["kept"].sum() == 72
    for space in ("MNI152NLin2009aSym", "Other"):
        name = f"sub-08_space-{space}_electrodes.tsv"
        assert (folder / name).read_bytes() == (PODCAST / "sub-08" / "ieeg" / name).read_bytes()
    assert (out / "sub-08.html").exists()
    validator = Path(sys.executable).with_name("bids-validator-deno")
    outcome = subprocess.run(
        [validator, out, "--ignoreWarnings"], capture_output=True, text=True, check=False
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
