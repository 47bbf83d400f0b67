"""Experiments on brains of which the truth is known."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from known_truth import run_experiments

from bids_speechdecode.bids.sidecars import read_table
from bids_speechdecode.simulate import brain

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
block = {block}
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


# Of a brain that follows nothing, in recordings that give ten blocks of the task to test.
NOTHING = {"best_correlation": 0.0, "days": 4, "ambient_runs": 1, "night_runs": 1}
NOTHING |= {"gain_drift": 0.0, "ambient_minutes": 1.5, "audiobook_minutes": 5.0, "chapters": 2}
MORE_TESTED = """
[splits]
test_fraction = 0.4
n_blocks = 6
[run]
seed = {seed}
"""
# Of sounds, which are those of rooms and of files, with any brain.
OF_SOUND = ("telling apart", "Fréchet distance", "what recording explains")


def found(
    folder: Path,
    experiments: str,
    *,
    epochs: int,
    seeds: int,
    block: float = 15.0,
    more: str = "",
    **truth: float,
) -> Path:
    """Simulate a participant, make experiments and return the folder of their tables."""
    settings = SETTINGS.format(epochs=epochs, seeds=seeds, block=block) + more
    return run_experiments(folder, experiments, settings, **truth)


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


@pytest.mark.slow
def test_nothing_is_found_where_nothing_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Brains that follow no sound: every experiment, and p as small as chance makes it.

    Findings of a dataset share models and windows. Whatever their dependence, the smallest of m
    is below alpha / m in at most alpha of datasets (Bonferroni), and more than a quarter of them
    are below 0.05 in at most a fifth (Markov); datasets are independent of each other.
    """
    monkeypatch.setattr(brain, "BEST_HIGH_GAMMA_RISE", 0.0)
    shares, smallest, every = [], [], []
    for seed in (4, 5):
        how = {"more": MORE_TESTED.format(seed=seed), "block": 9.0, "epochs": 2, "seeds": 2}
        folder = found(tmp_path / str(seed), "all", **how, seed=seed, **NOTHING)
        table = findings(folder).dropna(subset=["p"])
        p = table.loc[~table["name"].str.startswith(OF_SOUND), "p"]
        assert len(p) > 40
        shares.append((p <= 0.05).mean())
        smallest.append(len(p) * p.min())
        every.extend(p)
    assert sum(share > 0.25 for share in shares) < 2  # both: at most 4% by chance
    assert min(smallest) > 0.005  # at most 1% by chance
    assert pd.Series(every).median() < 0.95  # nor is p stuck where nothing can be found
