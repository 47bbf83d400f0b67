"""Tests over participants: exact, honest about few, and in words."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from bids_speechdecode.errors import DataError
from bids_speechdecode.group.statistics import (
    difference_over_participants,
    rank_against_chance,
    t_interval,
)


def chance(ranks, p_values=None):
    p_values = [0.001] * len(ranks) if p_values is None else p_values
    rng = np.random.default_rng(0)
    return rank_against_chance(ranks, p_values, confidence=0.95, n_samples=2000, rng=rng)


def contrast(differences, p_values=None):
    return difference_over_participants(
        differences,
        [0.001] * len(differences) if p_values is None else p_values,
        first="finetuned",
        second="taskonly",
        confidence=0.95,
        n_samples=2000,
        rng=np.random.default_rng(0),
    )


@pytest.mark.parametrize("alternative", ["less", "two-sided"])
def test_p_equals_scipy(alternative):
    # The p in the group table, against an independent implementation.
    values = np.array([-0.2, -0.05, 0.03, -0.11, -0.3, -0.08, 0.01])
    oracle = stats.permutation_test(
        (values,),
        np.mean,
        permutation_type="samples",
        n_resamples=np.inf,
        alternative=alternative,
    )
    result = chance(values + 0.5) if alternative == "less" else contrast(values)
    assert result.p == pytest.approx(oracle.pvalue)


@pytest.mark.parametrize(
    ("n", "smallest_rank", "smallest_contrast"),
    [(1, 1 / 2, 1.0), (2, 1 / 4, 1 / 2), (3, 1 / 8, 1 / 4), (4, 1 / 16, 1 / 8)],
)
def test_few_participants_cannot_conclude(n, smallest_rank, smallest_contrast):
    # However strong the effect: no p over 4 participants reaches 0.05, and the row must say so.
    for result, smallest in (
        (chance([0.01] * n), smallest_rank),
        (contrast([-0.4] * n), smallest_contrast),
    ):
        assert result.p == result.p_min == pytest.approx(smallest)
        assert "nothing can be concluded about other people" in result.conclusion
        assert f"{smallest:.3g}" in result.conclusion
    assert f"{n} of {n} better than chance on their own" in chance([0.01] * n).conclusion


def test_two_participants_get_no_interval():
    # Two ranks that happen to agree would look like a precise result.
    assert np.isnan(chance([0.3, 0.301]).ci_low)
    assert np.isfinite(chance([0.3, 0.301, 0.31]).ci_low)


def test_enough_participants_conclude():
    # Five consistent participants reach 1/32 one-sided; the same five reach only 1/16 two-sided.
    ranks = np.array([0.3, 0.35, 0.4, 0.2, 0.45])
    assert chance(ranks).conclusion.startswith("Better than chance over participants")
    assert "nothing can be concluded" in contrast(ranks - 0.5).conclusion
    six = contrast([-0.1, -0.05, -0.2, -0.03, -0.1, -0.04])
    assert six.conclusion.startswith("finetuned better than taskonly over participants")
    assert six.p == pytest.approx(2 / 64)
    other_way = contrast([0.1, 0.05, 0.2, 0.03, 0.1, 0.04], [0.001, *[0.5] * 5])
    assert other_way.conclusion.startswith("taskonly better than finetuned")
    assert "taskonly better in 1 of 6" in other_way.conclusion
    assert other_way.n_better == 0


def test_absence_of_evidence_is_worded_as_such():
    # A p above 0.05 must not be read as "no effect".
    result = chance([0.45, 0.55, 0.52, 0.48, 0.5, 0.51], [0.2] * 6)
    assert "No evidence" in result.conclusion
    assert "not evidence that there is none" in result.conclusion
    assert result.n_better == 0


def test_worse_than_chance_counts_for_nobody():
    # A small p of a contrast against it must not be counted as decoding.
    assert chance([0.6, 0.7], [0.01, 0.01]).n_better == 0


def test_interval_equals_scipy_and_stays_possible():
    # Student's interval; a mean rank below 0 does not exist.
    values = np.array([0.30, 0.42, 0.38, 0.25])
    low, high = t_interval(values, 0.95, (0.0, 1.0))
    oracle = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (low, high) == pytest.approx((oracle.low, oracle.high))
    assert t_interval(np.array([0.01, 0.2, 0.3]), 0.95, (0.0, 1.0))[0] == 0.0


@pytest.mark.parametrize("n", [6, 20])
def test_p_is_calibrated(n):
    # Over datasets without an effect, p <= 0.05 comes up in at most about 5%.
    p = [
        contrast(np.random.default_rng(seed).standard_normal(n) * 0.1).p for seed in range(100 * 3)
    ]
    assert np.mean(np.array(p) <= 0.05) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)


def test_nan_and_nobody_are_errors():
    # NaN never becomes a score.
    for ranks in ([0.3, np.nan], []):
        with pytest.raises(DataError):
            chance(ranks)
