"""Experiments on brains of which the truth is known."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from bids_speechdecode.bids.sidecars import read_table
from bids_speechdecode.cli import main
from bids_speechdecode.simulate import simulate_dataset

SETTINGS = """
[target]
name = "mel"
pooling = "frames"
[encoder]
preset = "small"
[pretrain]
max_epochs = {epochs}
batch_size = 64
[finetune]
max_epochs = {epochs}
batch_size = 64
[evaluation]
block = 15.0
n_bootstrap = 300
n_permutations = 300
[drift]
recalibrate = 0.4
[experiments]
seeds = {seeds}
shares = [0.15, 0.4, 1.0]
task_shares = [0.3, 1.0]
targets = ["energy"]
"""


def found(folder: Path, experiments: str, *, epochs: int, seeds: int, **truth: float) -> Path:
    """Simulate a participant, make experiments and return the folder of their tables."""
    data, out, config = folder / "data", folder / "out", folder / "settings.toml"
    simulate_dataset(data, preset="tiny", participants=1, **truth)
    config.write_text(SETTINGS.format(epochs=epochs, seeds=seeds))
    steps = "preprocess,features,select,experiments"
    words = ["participant", "--config", str(config), "--steps", steps]
    assert main([str(data), str(out), *words, "--experiments", *experiments.split()]) == 0
    return out / "sub-sim01" / "ieeg"


def findings(folder: Path) -> pd.DataFrame:
    tables = [
        read_table(path).assign(experiment=path.name.partition("_desc-")[2])
        for path in sorted(folder.glob("*Findings_scores.tsv"))
    ]
    return pd.concat(tables, ignore_index=True)


@pytest.mark.slow
def test_more_recordings_help_where_they_can(tmp_path: Path) -> None:
    """A brain that follows sound is decoded better by an encoder that has seen more of it."""
    folder = found(
        tmp_path, "scaling", epochs=25, seeds=2, days=4, ambient_runs=2, ambient_minutes=6
    )
    table = findings(folder).set_index("name")
    law = table.loc["twice the recordings, held-out ambient speech"]
    assert law["effect"] < 0
    assert law["ci_high"] < 0
