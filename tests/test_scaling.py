"""What more data bring: the slope, how sure it is, and whether an end of the gain is seen."""

from __future__ import annotations

import numpy as np
import pytest

from bids_speechdecode.decoding.scaling import LINE, ScalingLaw, fit_scaling
from bids_speechdecode.errors import DataError

HOURS = (1.0, 3.0, 10.0, 30.0, 100.0)
N_BLOCKS, PER_BLOCK = 25, 10


def simulate(
    rng: np.random.Generator, gain: str = "none", *, seeds: int = 3, training: float = 0.01
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return hours, ranks and blocks: models that differ by chance, windows that are alike."""
    hours = np.repeat(HOURS, seeds)
    x = np.log2(hours)
    truth = {
        "none": np.full_like(x, 0.4),
        "line": 0.4 - 0.01 * x,
        "plateau": 0.4 - 0.02 * np.minimum(x, np.log2(10)),
    }[gain]
    models = truth + training * rng.standard_normal(len(x))
    blocks = np.repeat(np.arange(N_BLOCKS), PER_BLOCK)
    shared = 0.15 * rng.standard_normal(N_BLOCKS)[blocks] + 0.2 * rng.standard_normal(len(blocks))
    own = 0.05 * rng.standard_normal((len(x), N_BLOCKS))[:, blocks]
    own += 0.15 * rng.standard_normal((len(x), len(blocks)))
    tilt = (x - x.mean())[:, None] * 0.01 * rng.standard_normal(N_BLOCKS)[blocks]
    return hours, models[:, None] + shared + own + tilt, blocks


def test_three_models_do_not_make_a_gain() -> None:
    """One degree of freedom, and models of much data that scatter more: chance must not pass."""
    rng = np.random.default_rng(3)
    blocks = np.repeat(np.arange(40), 2)
    found = 0
    for _ in range(300):
        luck = np.array([0.01, 0.02, 0.03]) * rng.standard_normal(3)
        ranks = luck[:, None] + 0.1 * rng.standard_normal((3, len(blocks)))
        found += fit_scaling([1.0, 3.0, 10.0], 0.45 + ranks, blocks).p <= 0.05
    assert found / 300 <= 0.075  # 97.5% quantile at a level of 0.05


def fit_many(n: int, **how: object) -> list[ScalingLaw]:
    rng = np.random.default_rng(0)
    return [fit_scaling(*simulate(rng, **how)) for _ in range(n)]  # type: ignore[arg-type]


def test_the_slope_is_that_of_the_mean_ranks() -> None:
    """The oracle is a line through the models' means."""
    hours, ranks, blocks = simulate(np.random.default_rng(1), "line")
    law = fit_scaling(hours, ranks, blocks)
    slope, level = np.polyfit(np.log2(hours), ranks.mean(axis=1), 1)
    assert (law.slope, law.level) == pytest.approx((slope, level))
    assert (law.n_amounts, law.n_models, law.n_blocks) == (5, 15, N_BLOCKS)


@pytest.mark.parametrize("training", [0.0, 0.01, 0.03])
def test_no_gain_is_seldom_found_where_there_is_none(training: float) -> None:
    """Models that differ by their start alone must not look like a gain from data."""
    found = np.mean([law.p <= 0.05 for law in fit_many(300, training=training)])
    assert found <= 0.075  # of 300 at a level of 0.05, 97.5% quantile


def test_the_interval_holds_the_truth() -> None:
    laws = fit_many(300, gain="line")
    assert np.mean([law.ci_low <= -0.01 <= law.ci_high for law in laws]) >= 0.925
    assert np.mean([law.p <= 0.05 for law in laws]) > 0.9


def test_a_plateau_is_told_from_a_line() -> None:
    """To call a gain endless that has ended sends people to record for nothing."""
    assert np.mean([law.saturates for law in fit_many(100, gain="plateau")]) > 0.5
    assert np.mean([law.saturates for law in fit_many(300, gain="line")]) <= 0.075
    clear = fit_many(20, gain="plateau", training=0.001)
    assert np.median([law.plateau for law in clear if law.plateau]) == pytest.approx(10, rel=0.35)


def test_with_one_model_an_amount_an_end_cannot_be_seen() -> None:
    """Five models have too few degrees of freedom, and that is what is said: no evidence."""
    assert not any(law.saturates for law in fit_many(50, gain="plateau", seeds=1))


def test_two_amounts_have_a_slope_and_no_curve() -> None:
    hours, ranks, blocks = simulate(np.random.default_rng(2), "line", seeds=1)
    law = fit_scaling(hours[[0, -1]], ranks[[0, -1]], blocks)
    assert law.slope < 0
    assert np.isnan([law.ci_low, law.ci_high, law.p]).all()
    assert not law.saturates
    assert law.aicc[LINE] == np.inf


@pytest.mark.parametrize("hours", [[1.0, 1.0], [0.0, 1.0]])
def test_amounts_that_cannot_be_compared(hours: list[float]) -> None:
    with pytest.raises(DataError, match="different amounts"):
        fit_scaling(hours, np.full((2, 4), 0.5), [0, 0, 1, 1])
