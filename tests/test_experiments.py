"""Experiments: cells are made once, nested, shared with the main run, and survive interruption."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bids_speechdecode.bids.sidecars import read_sidecar, read_table
from bids_speechdecode.cli import main
from bids_speechdecode.errors import DataError
from bids_speechdecode.progress import Progress
from bids_speechdecode.steps.experiments import grid
from bids_speechdecode.steps.experiments.cells import Cell, Training

SETTINGS = """
[target]
name = "mel"
[encoder]
preset = "small"
[pretrain]
max_epochs = 2
[finetune]
max_epochs = 2
[evaluation]
block = 6.0
n_bootstrap = 50
n_permutations = 50
[experiments]
seeds = 2
shares = [0.3, 0.6, 1.0]
task_shares = [0.5, 1.0]
"""
STEPS = "preprocess,features,select,pretrain,finetune,experiments"


def words(dataset: Path, out: Path, config: Path, *more: str) -> list[str]:
    of = ["participant", "--participant-label", "sim01", "--config", str(config)]
    return [str(dataset), str(out), *of, "--experiments", "all", "--steps", STEPS, *more]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "experiments.toml"
    path.write_text(SETTINGS)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_dataset: Path, config: Path) -> Path:
    out = tmp_path_factory.mktemp("experiments") / "out"
    assert main(words(tiny_dataset, out, config)) == 0
    return out


def read(out: Path, desc: str) -> np.ndarray:
    (path,) = (out / "sub-sim01" / "ieeg").glob(f"*_desc-{desc}_scores.tsv")
    return read_table(path)


def folder_of(out: Path) -> Path:
    return out / "experiments" / "sub-sim01"


def models(out: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in folder_of(out).glob("*_model.safetensors")}


@pytest.mark.slow
def test_every_amount_has_its_models(made: Path) -> None:
    """The tiny dataset has one training file of each kind of day: shares that add nothing fall."""
    table = read(made, "scaling")
    assert set(table["tested"]) == {"ambient", "zeroshot", "task"}
    assert set(table["seed"]) == {0, 1}
    hours = table[table["tested"] == "ambient"].groupby("seed")["hours"].apply(list)
    assert all(h == sorted(set(h)) for h in hours)
    assert (table.loc[table["share"] == 0, "tested"] == "task").all()


@pytest.mark.slow
def test_nothing_is_made_twice(
    made: Path, tiny_dataset: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = models(made)
    assert main(words(tiny_dataset, made, config)) == 0
    assert "all current" in capsys.readouterr().err
    assert models(made) == before


@pytest.mark.slow
def test_models_of_the_main_run_serve(made: Path) -> None:
    """The seed of the run and all data give the model that is there already."""

    def signatures(folder: Path) -> set[str]:
        return {str(read_sidecar(p)["Signature"]) for p in folder.glob("*_model.safetensors")}

    main_run, experiments = signatures(made / "sub-sim01" / "ieeg"), signatures(folder_of(made))
    assert len(main_run) == 6
    assert len(experiments) == len(models(made))
    assert not main_run & experiments


@pytest.mark.slow
def test_killed_and_continued_and_two_at_once(
    made: Path, tiny_dataset: Path, config: Path, tmp_path: Path
) -> None:
    """A grid of days is stopped and shared: the numbers are those of one undisturbed process."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "bids_speechdecode", *words(tiny_dataset, out, config)]
    first = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 240
    while not models(out) and first.poll() is None and time.monotonic() < limit:
        time.sleep(0.05)
    os.kill(first.pid, signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    two = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[1] for process in two]
    assert [process.returncode for process in two] == [0, 0]
    trained = [line for text in said for line in text.splitlines() if line.startswith("train:")]
    fresh = [line.split(" done")[0] for line in trained if " done in" in line]
    assert len(fresh) == len(set(fresh))
    for desc in ("scaling", "scalingFindings", "finetunesize", "finetunesizeFindings"):
        ours, theirs = read(out, desc), read(made, desc)
        assert ours.equals(theirs)


def test_what_does_not_need_a_failed_cell_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A grid may take days; one model that cannot be made must not stop all that follow."""
    cells = [Cell(Training("pretrained", seed), "pretrain", "room") for seed in range(3)]
    failure, made = DataError("too few windows", expected="20", found="3"), []

    def make(_: object, cell: Cell) -> None:
        if cell == cells[1]:
            raise failure
        made.append(cell)

    monkeypatch.setattr(grid, "make", make)
    monkeypatch.setattr(grid, "is_done", lambda *_: False)
    monkeypatch.setattr(grid, "band_of", lambda *_: "slow")
    config = SimpleNamespace(preprocess=SimpleNamespace(band="slow"))
    context = SimpleNamespace(participant="01", progress=Progress(), config=config)
    assert grid.run_grid(context, cells) == {cells[1]: failure}
    assert made == [cells[0], cells[2]]
