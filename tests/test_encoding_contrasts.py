"""Contrasts of two models: per electrode, per participant, over participants."""

from __future__ import annotations

import dataclasses
from itertools import product

import numpy as np
import pytest
from scipy import signal, stats

from bids_speechdecode.encoding.contrasts import (
    electrode_contrast,
    participant_contrast,
)
from bids_speechdecode.encoding.power import minimum_detectable_difference, units_needed
from bids_speechdecode.encoding.scores import correlate
from bids_speechdecode.errors import DataError
from bids_speechdecode.group.encoding.contrasts import contrast_over_participants
from bids_speechdecode.statistics import label_blocks

RATE = 20.0


def slow_noise(rng, n_times, n_electrodes, memory=0.9):
    white = rng.standard_normal((n_times + 200, n_electrodes))
    return signal.lfilter([np.sqrt(1 - memory**2)], [1, -memory], white, axis=0)[200:]


def two_models(rng, n_times, n_electrodes, r_a, r_b, shared=0.7):
    """Return predictions of two models with these r in the long run, and the response.

    Each model has its own errors beside what both know; the second has another scale.
    """
    response = slow_noise(rng, n_times, n_electrodes)
    common = slow_noise(rng, n_times, n_electrodes)
    predictions = []
    for r in (r_a, r_b):
        own = slow_noise(rng, n_times, n_electrodes)
        errors = np.sqrt(shared) * common + np.sqrt(1 - shared) * own
        predictions.append(r * response + np.sqrt(1 - r**2) * errors)
    return predictions[0], 3 * predictions[1], response


def one_stretch(signals):
    return np.zeros(len(signals[0]), int)


def test_differences_are_those_of_the_scores():
    # The contrast must be between the r in the scores' table, with folds, gaps and own lags.
    rng = np.random.default_rng(1)
    a, b, y = two_models(rng, 4000, 5, 0.3, 0.4)
    a[:20, 1], b[-15:, 2], y[1000:1500, 3] = np.nan, np.nan, np.nan
    folds = np.repeat(np.arange(4), 1000)
    table = electrode_contrast(
        a, b, y, folds // 2, RATE, folds=folds, n_bootstrap=50, n_permutations=50, rng=rng
    )
    both = np.isfinite(a) & np.isfinite(b)
    only_both = np.where(both, y, np.nan)
    np.testing.assert_allclose(table["r_a"], correlate(a, only_both, folds))
    np.testing.assert_allclose(table["r_b"], correlate(b, only_both, folds))
    np.testing.assert_allclose(table["difference"], table["r_b"] - table["r_a"])
    mean = participant_contrast(
        a, b, y, folds // 2, RATE, folds=folds, n_bootstrap=50, n_permutations=50, rng=rng
    )
    assert mean.difference == pytest.approx(table["difference"].mean())


def test_block_sums_equal_resampling_and_swapping_the_samples():
    # Limits and p from sums over blocks, against a slow loop over the same blocks of samples.
    rng = np.random.default_rng(2)
    a, b, y = two_models(rng, 2400, 1, 0.2, 0.26)
    table = electrode_contrast(
        a, b, y, np.zeros(2400, int), RATE, n_bootstrap=4000, n_permutations=4000, rng=rng, block=10
    )
    blocks = label_blocks(np.arange(2400) / RATE, np.zeros(2400), duration=1 / RATE, block=10)
    samples = [np.flatnonzero(blocks == number) for number in range(12)]
    a, b, y = ((values - values.mean())[:, 0] / values.std() for values in (a, b, y))

    def r(x, z):
        return np.corrcoef(x, z)[0, 1]

    drawn, swapped = [], []
    for _ in range(4000):
        chosen = np.concatenate([samples[i] for i in rng.integers(12, size=12)])
        drawn.append(r(b[chosen], y[chosen]) - r(a[chosen], y[chosen]))
        exchange = np.isin(blocks, np.flatnonzero(rng.integers(2, size=12)))
        swapped.append(r(np.where(exchange, a, b), y) - r(np.where(exchange, b, a), y))
    row = table.iloc[0]
    error = np.std(drawn)
    # The limits of the widened interval of 12 blocks, which the blocks' statistics document.
    tail = stats.norm.cdf(-np.sqrt(12 / 11) * stats.t.ppf(0.975, 11))
    assert row["n_blocks"] == 12
    assert row["ci_low"] == pytest.approx(np.quantile(drawn, tail), abs=0.15 * error)
    assert row["ci_high"] == pytest.approx(np.quantile(drawn, 1 - tail), abs=0.15 * error)
    p = np.mean(np.abs(swapped) >= abs(row["difference"]))
    assert row["p"] == pytest.approx(p, abs=0.03)


def test_blocks_stay_within_folds_and_stretches():
    # A block across two folds would mix two models, one across two stretches two moments.
    rng = np.random.default_rng(3)
    signals = two_models(rng, 3000, 1, 0.2, 0.2)
    few = {"n_bootstrap": 10, "n_permutations": 10, "rng": rng, "block": 60}
    whole = participant_contrast(*signals, one_stretch(signals), RATE, **few)
    folds = np.repeat([0, 1, 0], 1000)
    cut = participant_contrast(*signals, np.repeat([0, 1], 1500), RATE, folds=folds, **few)
    assert whole.n_blocks == 2  # 150 s
    assert cut.n_blocks == 4


def test_identical_models_do_not_differ():
    # Two copies of one model: no difference, no evidence, whatever rounding does.
    rng = np.random.default_rng(4)
    a, _, y = two_models(rng, 3000, 3, 0.3, 0.3)
    table = electrode_contrast(a, a, y, np.zeros(3000, int), RATE, rng=rng)
    assert (table["difference"] == 0).all()
    assert (table["p"] == 1).all()
    scaled = electrode_contrast(a, 2 * a + 1, y, np.zeros(3000, int), RATE, rng=rng)
    np.testing.assert_allclose(scaled["difference"], 0, atol=1e-12)
    assert (scaled["p"] == 1).all()


def test_what_cannot_be_contrasted_is_nan():
    # A dead electrode must not take the participant's mean with it; one block gives no interval.
    rng = np.random.default_rng(5)
    a, b, y = two_models(rng, 2000, 3, 0.2, 0.3)
    a[:, 1] = 0.1
    segments = np.zeros(2000, int)
    table = electrode_contrast(a, b, y, segments, RATE, rng=rng)
    assert table.loc[1, ["r_a", "difference", "p", "q", "ci_low", "detectable"]].isna().all()
    mean = participant_contrast(a, b, y, segments, RATE, rng=rng)
    assert mean.n_electrodes == 2
    assert mean.difference == pytest.approx(table["difference"][[0, 2]].mean())
    one = participant_contrast(a, b, y, segments, RATE, block=1000, rng=rng)
    assert one.n_blocks == 1
    assert np.isnan([one.ci_low, one.standard_error, one.detectable]).all()
    assert one.p == 1
    none = participant_contrast(np.full_like(a, np.nan), b, y, segments, RATE, rng=rng)
    assert none.n_electrodes == 0
    assert np.isnan(none.difference)
    with pytest.raises(DataError, match="do not fit"):
        electrode_contrast(a, b[:-1], y, segments, RATE, rng=rng)


def test_same_seed_same_table():
    # A table that changes from run to run cannot be checked by anyone.
    signals = two_models(np.random.default_rng(6), 2000, 2, 0.2, 0.3)
    tables = [
        electrode_contrast(*signals, one_stretch(signals), RATE, rng=np.random.default_rng(7))
        for _ in range(2)
    ]
    assert tables[0].equals(tables[1])


@pytest.mark.slow
def test_no_more_false_findings_than_promised():
    # Two equally good models with errors of their own: p at its level, intervals at their
    # coverage, also for the mean over electrodes that share their noise.
    found, covered, found_mean, covered_mean = [], [], [], []
    few = {"n_bootstrap": 400, "n_permutations": 300}
    for seed in range(60):
        rng = np.random.default_rng([8, seed])
        a, b, y = (
            values + 1.5 * values.mean(axis=1, keepdims=True)
            for values in two_models(rng, 9000, 6, 0.2, 0.2)
        )
        segments = np.repeat([0, 1], 4500)
        table = electrode_contrast(a, b, y, segments, RATE, rng=rng, **few)
        found.append(table["p"].iloc[0] <= 0.05)
        covered.append(table["ci_low"].iloc[0] <= 0 <= table["ci_high"].iloc[0])
        mean = participant_contrast(a, b, y, segments, RATE, rng=rng, **few)
        found_mean.append(mean.p <= 0.05)
        covered_mean.append(mean.ci_low <= 0 <= mean.ci_high)
    for rejections in (found, found_mean):
        assert stats.binomtest(int(sum(rejections)), 60, 0.05, "greater").pvalue > 0.01
    for coverage in (covered, covered_mean):
        assert stats.binomtest(int(sum(coverage)), 60, 0.95, "less").pvalue > 0.01


@pytest.mark.slow
def test_detectable_difference_is_detected_in_four_of_five():
    # The number by which a reader judges a null result, against repeated experiments.
    n_experiments, promised, found = 80, [], []
    for seed in range(n_experiments):
        rng = np.random.default_rng([9, seed])
        same = two_models(rng, 9000, 10, 0.2, 0.2)
        mean = participant_contrast(*same, one_stretch(same), RATE, n_permutations=1, rng=rng)
        promised.append(mean.detectable)
    effect = float(np.mean(promised))
    for seed in range(n_experiments):
        rng = np.random.default_rng([10, seed])
        better = two_models(rng, 9000, 10, 0.2, 0.2 + effect)
        mean = participant_contrast(
            *better, one_stretch(better), RATE, n_bootstrap=2, n_permutations=400, rng=rng
        )
        found.append(mean.p <= 0.05)
    assert stats.binomtest(int(sum(found)), n_experiments, 0.8).pvalue > 0.01


def test_minimum_detectable_difference_has_its_power():
    # Formula against paired t tests of simulated differences; also the number needed back again.
    rng = np.random.default_rng(11)
    for n in (3, 9, 40):
        effect = minimum_detectable_difference(0.02, n, alpha=0.05)
        values = effect + 0.02 * rng.standard_normal((20000, n))
        power = np.mean(stats.ttest_1samp(values, 0, axis=1).pvalue <= 0.05)
        assert power == pytest.approx(0.8, abs=0.012)
        assert units_needed(0.02, effect * 1.0001, alpha=0.05) == max(n, 6)


def test_detectable_difference_in_textbook_cases():
    # The usual tables: 34 pairs for half a standard deviation, 199 for a fifth, at 5% and 0.8.
    assert units_needed(1.0, 0.5, alpha=0.05) == 34
    assert units_needed(1.0, 0.2, alpha=0.05) == 199
    assert units_needed(1.0, 0.001, alpha=0.05) is None
    assert units_needed(float("nan"), 0.005, alpha=0.05) is None
    assert np.isnan(minimum_detectable_difference(1.0, 1, alpha=0.05))
    # Far out in the tails too, where the distribution's functions fail first.
    tiny = minimum_detectable_difference(1.0, 2, alpha=0.001)
    assert minimum_detectable_difference(1.0, 2, alpha=0.05) < tiny < np.inf


def over(differences, p_values=None, **options):
    p_values = [0.001] * len(differences) if p_values is None else p_values
    return contrast_over_participants(
        differences, p_values, rng=np.random.default_rng(0), **options
    )


def test_a_row_over_participants_equals_scipy():
    # The p and interval on which the whole comparison rests.
    differences = np.array([0.004, 0.006, -0.005, 0.01, 0.003, 0.002, 0.001, 0.002, 0.008])
    p_values = [0.01, 0.2, 0.001, 0.001, 0.3, 0.04, 0.6, 0.5, 0.001]
    row = over(differences, p_values)
    oracle = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=np.inf
    )
    low, high = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    assert row.p == pytest.approx(oracle.pvalue)
    assert (row.ci_low, row.ci_high) == pytest.approx((low, high))
    assert row.mean == pytest.approx(differences.mean())
    assert (row.n_better, row.n_worse) == (4, 1)
    assert row.detectable == pytest.approx(
        minimum_detectable_difference(differences.std(ddof=1), 9, alpha=0.05)
    )
    assert "tuned better in 4 and untuned better in 1 of 9" in row.conclusion


def test_a_row_says_which_model_is_better():
    # A higher r is better, unlike a rank; a sign mistaken here would turn the paper round.
    up = over([0.01, 0.02, 0.01, 0.03, 0.02, 0.01], first="joint", second="untuned")
    down = over([-0.01, -0.02, -0.01, -0.03, -0.02, -0.01], first="joint", second="untuned")
    assert up.conclusion.startswith("joint better than untuned over participants (p = 0.0312")
    assert down.conclusion.startswith("untuned better than joint over participants")
    assert down.n_worse == 6
    assert 0 < up.ci_low < up.mean < up.ci_high


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_too_few_participants_say_so(n):
    # With fewer than six no two-sided sign-flip test reaches 0.05, whatever the effect.
    row = over(np.linspace(0.1, 0.2, n))
    assert row.p == row.p_min == pytest.approx(2 / 2**n)
    assert np.isnan(row.detectable)
    assert "nothing can be concluded about other people" in row.conclusion
    assert "6 participants are the fewest" in row.conclusion
    assert (row.n_needed is None) == (n < 3)


def test_a_null_result_says_what_it_could_have_found():
    # "No evidence" means little where only large differences could have been seen.
    row = over([0.03, -0.02, 0.01, -0.04, 0.02, 0.01, -0.01])
    assert row.p > 0.05
    assert "No evidence of a difference" in row.conclusion
    assert f"A true difference in r of {row.detectable:.2g} would be found" in row.conclusion
    assert row.detectable > row.target == 0.005
    assert row.n_needed == units_needed(row.deviation, 0.005, alpha=0.05) > 100
    assert f"about {row.n_needed} participants" in row.conclusion


def test_models_that_nobody_tells_apart():
    # All differences zero: no evidence, and no claim that a difference of 0 would be found.
    row = over([0.0] * 7, [1.0] * 7)
    assert row.p == 1
    assert np.isnan(row.detectable)
    assert row.n_needed is None
    assert "would be found" not in row.conclusion
    assert not any(np.signbit(v) for v in dataclasses.astuple(row)[:6])
    with pytest.raises(DataError):
        over([0.01, np.nan, 0.02])


def test_level_and_power_over_participants():
    # False findings at most as promised and, at the detectable difference, four of five found
    # (9 participants, as in the podcast data: 0.79 by enumeration).
    rng = np.random.default_rng(12)
    signs = np.array(list(product([1, -1], repeat=9)))
    for effect, low, high in ((0.0, 0.03, 0.052), (1.0, 0.76, 0.81)):
        shift = effect * minimum_detectable_difference(0.01, 9, alpha=0.05)
        values = shift + 0.01 * rng.standard_normal((4000, 9))
        sums = np.abs(values @ signs.T)
        p = (sums >= np.abs(values.sum(axis=1))[:, None] - 1e-12).mean(axis=1)
        assert low < (p <= 0.05).mean() < high
        for some in range(20):  # and these are the p of the rows
            assert over(values[some]).p == pytest.approx(p[some])
