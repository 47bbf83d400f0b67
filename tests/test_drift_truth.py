"""Experiment drift on simulated brains whose days differ as was asked for, and on steady ones."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from known_truth import run_experiments

from bids_speechdecode.bids.sidecars import read_table

pytestmark = pytest.mark.slow
SIZES = {
    "days": 5,
    "ambient_runs": 4,
    "ambient_minutes": 2.5,
    "best_correlation": 0.5,
}
DRIFTING = {"response_drift": 0.4, "offset_drift": 1.0}
SETTINGS = """
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
[finetune]
max_epochs = 30
batch_size = 64
[evaluation]
n_bootstrap = 500
n_permutations = 500
[drift]
recalibrate = 3.0
[experiments]
seeds = 1
"""


def run(folder: Path, **drift: float) -> Path:
    return run_experiments(folder, "drift", SETTINGS, seed=3, **SIZES, **drift)


@pytest.fixture(scope="module")
def drifting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("drifting"), **DRIFTING)


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("steady"))


def table(folder: Path, word: str) -> pd.DataFrame:
    (path,) = folder.glob(f"*_desc-drift{word}_scores.tsv")
    return read_table(path)


def finding(folder: Path, name: str) -> pd.Series:
    findings = table(folder, "Findings").set_index("name")
    return findings.loc[name]


def test_models_age_where_responses_turn(drifting: Path) -> None:
    """Each day by 0.4 radians: models of one day must rank the next ones worse."""
    slope = finding(drifting, "rank per day between training and test")
    assert slope["effect"] > 0
    assert slope["p"] <= 0.05
    own = finding(drifting, "training on the day of the test against other days")
    assert own["effect"] < 0
    assert own["p"] <= 0.05
    matrix = table(drifting, "Matrix")
    assert (matrix["days_apart"] == (matrix["train_day"] - matrix["test_day"]).abs()).all()


def test_the_date_is_in_the_signal_and_not_in_the_sound(drifting: Path) -> None:
    """A rhythm that grows over days is planted; the room has no dates."""
    dates = table(drifting, "Dates").set_index(["source", "told", "held_out"])
    assert dates.loc[("signal", "date", "recordings"), "p"] <= 0.05
    assert dates.loc[("audio", "date", "recordings"), "p"] > 0.05
    assert dates.loc[("signal", "date", "recordings"), "r"] > 0.2


def test_channels_that_change_are_found(drifting: Path, steady: Path) -> None:
    """The rhythm is in all channels, and changes their spectrum."""
    changed, same = (table(folder, "Electrodes") for folder in (drifting, steady))
    assert (changed["slope_q"] <= 0.05).all()
    assert (changed["slope_share"] > same["slope_share"]).all()


def test_every_remedy_ranks_the_same_windows(drifting: Path) -> None:
    cells = table(drifting, "")
    remedies = cells[cells["part"] == "remedies"]
    assert set(remedies["arm"]) == {
        "none",
        "per-day normalisation",
        "sliding normalisation",
        "adversarial days",
        "time embedding",
        "recalibration",
    }
    assert remedies["n_test_windows"].nunique() == 1
    again = remedies[remedies["arm"] == "recalibration"]
    assert (again["n_train_windows"] < 60).all()  # of the first minutes alone


def test_models_of_steady_brains_age_less(steady: Path, drifting: Path) -> None:
    """Gains wander there too, but nothing that turns a model's answer into another."""
    name = "rank per day between training and test"
    assert finding(steady, name)["effect"] < 0.5 * finding(drifting, name)["effect"]
