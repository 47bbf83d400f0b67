"""Remedies on simulated brains: each helps where it can, and does little where it cannot.

Three datasets a kind of drift; their rooms are the same for all kinds. At 10 Hz, since what an
encoder costs goes with the square of that.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from known_truth import run_experiments
from scipy import stats

from bids_speechdecode.bids.sidecars import read_table
from bids_speechdecode.cli import main
from bids_speechdecode.simulate import simulate_dataset

pytestmark = pytest.mark.slow
SEEDS = (101, 102, 103)
SIZES = {
    "days": 6,
    "ambient_runs": 3,
    "ambient_minutes": 4,
    "best_correlation": 0.5,
}
SETTINGS = """
[preprocess]
rate = 10.0
[target]
name = "mel"
pooling = "frames"
[encoder]
kind = "linear"
[splits]
test_fraction = 0.3
[pretrain]
max_epochs = 30
batch_size = 64
learning_rate = 1e-3
[evaluation]
n_bootstrap = 100
n_permutations = 100
[drift]
normalise_minutes = 1.0
[experiments]
seeds = 1
"""


def rank_arms(root: Path, **drift: float) -> pd.DataFrame:
    """Return the mean rank of each dataset (rows) with each remedy (columns)."""
    rows = []
    for seed in SEEDS:
        folder = root / f"seed-{seed}"
        folder.mkdir()
        made = run_experiments(folder, "drift", SETTINGS, seed=seed, **SIZES, **drift)
        rows.append(read_arms(made))
    return pd.DataFrame(rows)


def read_arms(folder: Path) -> pd.Series:
    """Return the mean rank with each remedy, over all windows that all remedies rank."""
    (path,) = folder.glob("*_desc-drift_scores.tsv")
    cells = read_table(path)
    cells = cells[cells["part"] == "remedies"]
    weighted = cells["relative_rank"] * cells["n_test_windows"]
    return weighted.groupby(cells["arm"]).sum() / cells.groupby("arm")["n_test_windows"].sum()


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return rank_arms(tmp_path_factory.mktemp("steady"))


@pytest.fixture(scope="module")
def turning(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return rank_arms(tmp_path_factory.mktemp("turning"), response_drift=0.4)


def gain(arms: pd.DataFrame, arm: str) -> np.ndarray:
    """Return by how much a remedy lowers the rank of each participant."""
    return (arms["none"] - arms[arm]).to_numpy()


def test_turned_responses_cost_and_recalibration_wins_some_back(
    steady: pd.DataFrame, turning: pd.DataFrame
) -> None:
    """What sound does to the brain has changed: only sound and brain of the new day can tell."""
    assert ((turning["none"] - steady["none"]) > 0.02).all()
    again = gain(turning, "recalibration")
    assert again.mean() > 0.01
    assert (again > -0.02).all()  # a model that only becomes worse on validation stays as it was


def test_scaling_does_not_help_where_responses_turn(
    steady: pd.DataFrame, turning: pd.DataFrame
) -> None:
    """Their size is the same on every day."""
    cost = (turning["none"] - steady["none"]).mean()
    for arm in ("per-day normalisation", "sliding normalisation"):
        assert abs(gain(turning, arm).mean()) < cost / 5, arm


def test_nothing_is_found_to_help_where_nothing_drifts(steady: pd.DataFrame) -> None:
    """And nothing harms much, but for the time as an input, which tells recordings apart."""
    for arm in steady.columns.drop("none"):
        found = stats.ttest_1samp(gain(steady, arm), 0, alternative="greater")
        assert found.pvalue > 0.05 / (len(steady.columns) - 1), arm
        assert gain(steady, arm).mean() > (-0.1 if arm == "time embedding" else -0.03), arm


def test_gains_of_a_day_are_gone_before_a_model_reads_the_signal(tmp_path: Path) -> None:
    """So no remedy can help against them: every recording has been scaled by itself."""
    signals = []
    for drift in (0.0, 0.5):
        data, out = tmp_path / f"data{drift}", tmp_path / f"out{drift}"
        simulate_dataset(data, preset="tiny", seed=3, participants=1, gain_drift=drift)
        assert main([str(data), str(out), "participant", "--steps", "preprocess"]) == 0
        signals.append([read_signal(path) for path in sorted(out.rglob("*desc-preproc_ieeg.eeg"))])
    (folder,) = tmp_path.glob("data0.5/sourcedata/simulation")
    (told,) = folder.glob("*_gains.tsv")
    gains = read_table(told)
    assert gains.loc[gains["day"] == 2, "electrode_gain"].agg(np.ptp) > 1
    assert len(signals[0]) == 4
    for without, drifted in zip(*signals, strict=True):
        assert drifted.std(axis=0) / without.std(axis=0) == pytest.approx(1, abs=0.15)


def read_signal(path: Path) -> np.ndarray:
    """Return a preprocessed recording, shape (n_times, n_channels)."""
    names = read_table(path.with_name(path.name.replace("_ieeg.eeg", "_channels.tsv")))["name"]
    return np.fromfile(path, "<f4").reshape(-1, len(names))
