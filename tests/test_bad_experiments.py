"""Experiments on bad input: said in words, never a wrong result that looks right."""

from __future__ import annotations

import errno
import fcntl
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bids_speechdecode.bids.acquired import acquisition_time
from bids_speechdecode.bids.sidecars import write_sidecar
from bids_speechdecode.cli import main
from bids_speechdecode.config import Config, load_config, override
from bids_speechdecode.errors import DataError, InputOutputError, UsageError
from bids_speechdecode.steps.experiments.arms import targets
from bids_speechdecode.steps.experiments.cells import BusyError, claimed
from bids_speechdecode.steps.experiments.run import forget
from bids_speechdecode.steps.experiments.times import recording_starts, say_untold


def planned(folder: Path, number: int, told: str, session: str = "") -> Any:
    """Return a planned recording, and write what its scans.tsv says of it."""
    name = f"ieeg/sub-01_run-{number}_ieeg.vhdr"
    scans = folder / "sub-01" / f"sub-01{session and '_ses-'}{session}_scans.tsv"
    scans.parent.mkdir(exist_ok=True)
    if not scans.exists():
        scans.write_text("filename\tacq_time\n")
    with scans.open("a") as file:
        file.write(f"{name}\t{told}\n")
    recording = SimpleNamespace(
        path=folder / "sub-01" / name, participant="01", session=session or None
    )
    return SimpleNamespace(label=f"run-{number}", recording=recording)


def plan_of(folder: Path, *told: str) -> Any:
    return SimpleNamespace(recordings=[planned(folder, i, text) for i, text in enumerate(told)])


@pytest.mark.parametrize(
    "told",
    [
        ("1924-03-01", "1924-03-03"),
        ("1924-03-01", "1924-03-03T10:00:00"),
        ("1924-03-01T00:00:00", "1924-03-03T00:00:00", "1924-03-03T00:00:00"),
    ],
)
def test_a_date_is_not_its_midnight(tmp_path: Path, told: tuple[str, ...]) -> None:
    """Days without hours would all be recordings of the night."""
    starts = recording_starts(plan_of(tmp_path, *told)).values()
    assert [start.day for start in starts] == [0, 2, 2][: len(told)]
    assert all(np.isnan(start.hour) for start in starts)


@pytest.mark.parametrize(
    ("told", "hours"),
    [
        (("1924-03-01T00:00:00", "1924-03-02T00:00:00"), [0, 0]),
        (("1924-03-01T23:30:00.5Z", "1924-03-02 00:00:00"), [23.5, 0]),
        (("2024-03-01T08:00:00+02:00", "2024-03-02T09:15"), [8, 9.25]),
    ],
)
def test_hours_that_are_told(tmp_path: Path, told: tuple[str, ...], hours: list[float]) -> None:
    """Files of a day each begin at midnight; and BIDS allows fractions and zones."""
    starts = recording_starts(plan_of(tmp_path, *told)).values()
    assert [start.day for start in starts] == [0, 1]
    assert [start.hour for start in starts] == pytest.approx(hours)


@pytest.mark.parametrize("bad", ["n/a", "yesterday", "01.03.1924 08:00", "1924-03-01T8:00"])
def test_recordings_of_which_nothing_is_told_are_counted(tmp_path: Path, bad: str) -> None:
    """Days from sessions instead of dates must not go unsaid."""
    plan = plan_of(tmp_path, "1924-03-01T08:00:00", bad, "1924-03-09T08:00:00")
    assert say_untold(plan) == "1 of 3 recordings (such as run-1)"
    assert {start.day for start in recording_starts(plan).values()} == {0}


def test_two_times_of_one_recording_are_refused(tmp_path: Path) -> None:
    """Which of them is true nobody knows; the first one is no better than the second."""
    plan = plan_of(tmp_path, "1924-03-01T08:00:00")
    planned(tmp_path, 0, "1924-03-05T08:00:00")
    with pytest.raises(DataError, match="1924-03-05"):
        acquisition_time(plan.recordings[0].recording)


@pytest.mark.parametrize(
    "text", ["hubert:", "wav2vec2:x", "wav2vec2:²", "wav2vec2:-1", "mel:3", ""]
)
def test_targets_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    """Found before anything is trained, with ``all`` as well, and with the file that says it."""
    path = tmp_path / "bad.toml"
    path.write_text(f'[experiments]\nnames = ["all"]\ntargets = ["{text}"]\n', encoding="utf-8")
    with pytest.raises(UsageError, match="one of wav2vec2") as caught:
        load_config(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("named", [(), ("mel",)])
def test_only_the_own_target_is_nothing_to_compare(named: tuple[str, ...]) -> None:
    """One arm alone made a table without a finding, and no word why."""
    config = override(Config(), {"target.name": "mel", "experiments.targets": named})
    with pytest.raises(UsageError, match="nothing to compare"):
        targets(SimpleNamespace(config=config))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["--experiments", ""], "--experiments needs at least one value"),
        (["--experiments", " ,"], "--experiments needs at least one value"),
        (["--steps", "experiments,report"], "no experiment is named"),
        (["--experiments", "scaling,drfit"], "did you mean 'drift'?"),
    ],
)
def test_experiments_that_nobody_can_have_meant(
    tmp_path: Path, typed: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run without the experiments that were asked for would end well and say nothing."""
    assert main([str(tmp_path), str(tmp_path / "out"), "participant", *typed]) == 64
    assert said in capsys.readouterr().err


def test_tables_that_can_no_longer_be_made_leave_the_report(tmp_path: Path) -> None:
    """Results of other inputs, or other settings, beside those of today would look current."""
    table, findings, other = (
        tmp_path / f"sub-01_desc-{word}_scores.tsv"
        for word in ("daynight", "daynightFindings", "drift")
    )
    for path in (table, findings, other):
        path.write_text("a\n1\n")
    write_sidecar(table, findings, step="experiments", signature="x")
    context: Any = SimpleNamespace(summary_file=lambda *_: table)
    forget(context, "day-night")
    forget(context, "day-night")
    assert list(tmp_path.iterdir()) == [other]


def test_only_a_held_lock_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system without locks every process would wait for nobody, for ever."""
    context: Any = SimpleNamespace(work_dir=tmp_path)
    path = tmp_path / "model.safetensors"
    with claimed(context, path), pytest.raises(BusyError), claimed(context, path):
        pass

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(InputOutputError, match="No locks available"), claimed(context, path):
        pass
