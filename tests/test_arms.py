"""Arms of several models: what blocks of windows cannot say about them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from bids_speechdecode.config import EvaluationConfig
from bids_speechdecode.decoding.arms import compare_arms
from bids_speechdecode.decoding.evaluation import compare_ranks

N_BLOCKS, BLOCK = 30, 4
BLOCKS = np.repeat(np.arange(N_BLOCKS), BLOCK)


def draw_arm(rng: np.random.Generator, *, luck: float, n_models: int = 3) -> np.ndarray:
    """Return ranks of models that differ by luck and otherwise by noise."""
    noise = 0.2 * rng.standard_normal((n_models, len(BLOCKS)))
    return 0.4 + luck * rng.standard_normal((n_models, 1)) + noise


@pytest.mark.parametrize("luck", [0.0, 0.03])
def test_arms_that_do_not_differ_are_seldom_told_apart(luck: float) -> None:
    """Seeds alone must not make a finding; with blocks as the only unit they do."""
    rng = np.random.default_rng(0)
    settings = EvaluationConfig(n_bootstrap=2, n_permutations=60)
    n, n_compared, by_models, by_blocks = 300, 60, 0, 0
    for k in range(n):
        one, other = draw_arm(rng, luck=luck), draw_arm(rng, luck=luck)
        by_models += compare_arms([one], [other], BLOCKS, confidence=0.95).p <= 0.05
        if k < n_compared:
            means = one.mean(axis=0), other.mean(axis=0)
            by_blocks += compare_ranks(*means, BLOCKS, settings, rng).p <= 0.05
    assert stats.binomtest(by_models, n, 0.05, alternative="greater").pvalue > 0.01
    if luck:
        assert by_blocks > 2 * 0.05 * n_compared


def test_an_effect_is_found_and_its_interval_holds_it() -> None:
    """A test that never finds anything would pass the one above."""
    rng = np.random.default_rng(1)
    found = [
        compare_arms(
            [draw_arm(rng, luck=0.01) - 0.1], [draw_arm(rng, luck=0.01)], BLOCKS, confidence=0.95
        )
        for _ in range(200)
    ]
    assert np.mean([f.p <= 0.05 for f in found]) > 0.9
    assert np.mean([f.ci_low <= -0.1 <= f.ci_high for f in found]) > 0.93


def test_gains_are_differences_of_differences() -> None:
    """Four arms: against the slow way, and with the parts of the variance summed by hand."""
    rng = np.random.default_rng(2)
    a, b, c, d = (draw_arm(rng, luck=0.02, n_models=n) for n in (2, 3, 4, 2))
    found = compare_arms([a, d], [b, c], BLOCKS, confidence=0.95)
    rows = [x.mean(axis=0) for x in (a, b, c, d)]
    of_blocks = (rows[0] - rows[1] - rows[2] + rows[3]).reshape(N_BLOCKS, BLOCK).mean(axis=1)
    variances = [stats.sem(of_blocks) ** 2, *(stats.sem(x.mean(axis=1)) ** 2 for x in (a, b, c, d))]
    freedoms = [N_BLOCKS - 1, 1, 2, 3, 1]
    freedom = sum(variances) ** 2 / sum(v**2 / k for v, k in zip(variances, freedoms, strict=True))
    expected = 2 * stats.t.sf(abs(of_blocks.mean()) / sum(variances) ** 0.5, freedom)
    assert found.difference == pytest.approx(of_blocks.mean())
    assert found.p == pytest.approx(expected)


def test_models_that_are_the_same_do_not_differ() -> None:
    """Nothing varies, so there is nothing to divide by."""
    ranks = np.tile(np.random.default_rng(3).random(len(BLOCKS)), (2, 1))
    found = compare_arms([ranks], [ranks], BLOCKS, confidence=0.95)
    assert (found.difference, found.p) == (0.0, 1.0)
