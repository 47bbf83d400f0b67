"""Scores, nulls and contrasts against slow loops, planted signals and autocorrelated noise."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from bids_speechdecode import statistics
from bids_speechdecode.config import EvaluationConfig
from bids_speechdecode.decoding import evaluation
from bids_speechdecode.decoding.evaluation import compare_ranks, score_ranks
from bids_speechdecode.errors import DataError

FAST = EvaluationConfig(n_bootstrap=200, n_permutations=199)


def smooth_noise(rng, n, d, phi):
    """Return first-order autoregressive noise with unit variance, shape (n, d)."""
    noise = rng.standard_normal((n, d))
    for i in range(1, n):
        noise[i] = phi * noise[i - 1] + np.sqrt(1 - phi**2) * noise[i]
    return noise


def pairs(rng, n=120, d=16, signal=0.0, phi=0.0):
    audio = smooth_noise(rng, n, d, phi)
    return signal * audio + smooth_noise(rng, n, d, phi), audio


def slow_mean_rank(brain, audio, pairing):
    """Mean relative rank by comparing every pair in a loop: the definition, spelt out."""
    cosine = 1 - np.array([[_cosine_distance(b, a) for a in audio] for b in brain])
    total = 0.0
    for i, true in enumerate(pairing):
        others = np.delete(cosine[i], true)
        total += (others > cosine[i, true]).mean() + (others == cosine[i, true]).mean() / 2
    return total / len(pairing)


def _cosine_distance(a, b):
    return 1 - (a @ b) / np.sqrt((a @ a) * (b @ b))


def test_nulls_equal_a_slow_loop():
    # The one-pass design must give each shift and shuffle what recomputing it would give.
    rng = np.random.default_rng(0)
    brain, audio = pairs(rng, n=15, d=4, signal=0.5)
    blocks = np.repeat(np.arange(3), 5)
    shifts = np.arange(1, 15)
    shuffles = evaluation._shuffle_blocks(blocks, 5, rng)
    in_time = rng.permutation(15)
    means = evaluation._mean_ranks(
        torch.tensor(brain), torch.tensor(audio), in_time, shifts, shuffles
    )
    pairings = [np.arange(15), *[(np.arange(15) + s) % 15 for s in shifts], *shuffles]
    expected = [slow_mean_rank(brain[in_time], audio[in_time], pairing) for pairing in pairings]
    np.testing.assert_allclose(means, expected, atol=1e-9)


def test_chunks_do_not_change_the_nulls(monkeypatch):
    # Large test sets are worked on in chunks; the numbers may not depend on their size.
    rng = np.random.default_rng(1)
    brain, audio = (torch.tensor(x) for x in pairs(rng, n=50))
    shuffles = np.tile(np.arange(50), (3, 1))
    arguments = (brain, audio, np.arange(50), np.arange(1, 50), shuffles)
    whole = evaluation._mean_ranks(*arguments)
    monkeypatch.setattr(evaluation, "_CHUNK_ELEMENTS", 1000)
    np.testing.assert_allclose(evaluation._mean_ranks(*arguments), whole, atol=1e-12)


def test_shuffles_keep_blocks_whole_and_every_candidate():
    # A shuffle that broke blocks apart would ignore autocorrelation.
    blocks = np.repeat([7, 3, 9, 4], [3, 5, 4, 3])
    for shuffle in evaluation._shuffle_blocks(blocks, 50, np.random.default_rng(0)):
        assert sorted(shuffle) == list(range(15))
        changes = np.flatnonzero(np.diff(blocks[shuffle])) + 1
        assert len(changes) == 3
        assert all((np.diff(run) == 1).all() for run in np.split(shuffle, changes))


def test_planted_signal_ranks_near_zero_and_its_controls_at_chance():
    # The result that the whole app is about: signal is found, controls are not.
    rng = np.random.default_rng(2)
    brain, audio = pairs(rng, n=200, signal=2.0, phi=0.5)
    scores = score_ranks(brain, audio, np.arange(200) // 10, np.arange(200), FAST, rng)
    assert scores.relative_rank < 0.05
    assert scores.ci_low <= scores.relative_rank <= scores.ci_high < 0.1
    assert scores.shift.p == pytest.approx(1 / 200)
    assert scores.shuffle.p == pytest.approx(1 / 200)
    for null in (scores.shift, scores.shuffle):
        low, high = null.interval
        assert low < 0.5 < high
        assert null.mean == pytest.approx(0.5, abs=0.02)
        assert null.draws.min() > scores.relative_rank
    assert scores.notes == ()
    assert scores.top[1].mean() <= scores.top[5].mean() <= scores.top[10].mean()


def test_order_of_the_rows_does_not_matter():
    # Windows come from several recordings in any order; time is given by `order`.
    rng = np.random.default_rng(3)
    brain, audio = pairs(rng, signal=0.3, phi=0.8)
    blocks, order = np.arange(120) // 10, np.arange(120) * 3.0
    mixed = rng.permutation(120)
    first = score_ranks(brain, audio, blocks, order, FAST, np.random.default_rng(0))
    second = score_ranks(
        brain[mixed], audio[mixed], blocks[mixed], order[mixed], FAST, np.random.default_rng(0)
    )
    np.testing.assert_array_equal(second.ranks, first.ranks[mixed])
    assert second.row() == pytest.approx(first.row(), rel=1e-9)


def test_same_seed_same_numbers():
    # A rerun must reproduce the table.
    brain, audio = pairs(np.random.default_rng(4))
    blocks = np.arange(120) // 10
    rows = [
        score_ranks(brain, audio, blocks, np.arange(120), FAST, np.random.default_rng(9)).row()
        for _ in range(2)
    ]
    assert rows[0] == rows[1]


def test_frames_are_compared_as_whole_time_courses():
    # With frames the candidate is the time course, not its frames one by one.
    rng = np.random.default_rng(5)
    brain, audio = pairs(rng, n=60, d=12, signal=0.5)
    arguments = (np.arange(60) // 5, np.arange(60), FAST)
    flat = score_ranks(brain, audio, *arguments, np.random.default_rng(0))
    framed = score_ranks(
        brain.reshape(60, 4, 3), audio.reshape(60, 4, 3), *arguments, np.random.default_rng(0)
    )
    assert framed.row() == pytest.approx(flat.row())


@pytest.mark.parametrize(
    ("null", "phi"), [("shift", 0.0), ("shift", 0.9), ("shuffle", 0.0), ("shuffle", 0.6)]
)
def test_p_values_are_uniform_on_autocorrelated_noise(null, phi):
    # The promise behind every p: where there is nothing, 5% of tests say 0.05. The time shift
    # holds it for slow embeddings too; the shuffle where a block outlasts their memory.
    settings = EvaluationConfig(n_bootstrap=2, n_permutations=99)
    p = []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        brain, audio = pairs(rng, n=120, d=4, phi=phi)
        scores = score_ranks(brain, audio, np.arange(120) // 10, np.arange(120), settings, rng)
        p.append(getattr(scores, null).p)
    assert stats.kstest(p, "uniform").pvalue > 0.001
    assert np.mean(np.array(p) <= 0.05) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)


def test_single_windows_are_not_the_unit():
    # Shows that the test above can fail: shuffling single windows calls slow noise decoding.
    n_false = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        brain, audio = pairs(rng, n=120, d=4, phi=0.9)
        settings = EvaluationConfig(n_bootstrap=2, n_permutations=99)
        scores = score_ranks(brain, audio, np.arange(120), np.arange(120), settings, rng)
        n_false += scores.shuffle.p <= 0.05
    assert n_false / 200 > 0.1


@pytest.mark.parametrize(("n_blocks", "nominal"), [(6, 0.93), (20, 0.945)])
def test_interval_covers_the_true_mean(n_blocks, nominal):
    # A 95% interval must contain the truth about as often as its docstring says, also with few
    # blocks (plain percentiles: 0.86 with 6).
    covered = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        values = np.concatenate([smooth_noise(rng, 10, 1, 0.8)[:, 0] for _ in range(n_blocks)])
        low, high = statistics.bootstrap_interval(
            values, np.repeat(np.arange(n_blocks), 10), n_bootstrap=2000, confidence=0.95, rng=rng
        )
        covered += low <= 0.0 <= high
    assert covered / 400 == pytest.approx(nominal, abs=3 * np.sqrt(0.06 * 0.94 / 400))


def test_interval_of_windows_would_be_too_narrow():
    # Shows that the test above can fail: windows as units cover far less than 95%.
    covered = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        values = smooth_noise(rng, 200, 1, 0.8)[:, 0]
        low, high = statistics.bootstrap_interval(
            values, np.arange(200), n_bootstrap=200, confidence=0.95, rng=rng
        )
        covered += low <= 0.0 <= high
    assert covered / 200 < 0.7


def test_few_blocks_are_said_to_be_few():
    # An interval from three blocks looks like any other; the result must say that it is not.
    rng = np.random.default_rng(6)
    brain, audio = pairs(rng, n=30)
    scores = score_ranks(brain, audio, np.arange(30) // 10, np.arange(30), FAST, rng)
    assert scores.shuffle.p_min == pytest.approx(1 / 6)
    assert any("unreliable" in note for note in scores.notes)
    assert any("shuffle test cannot" in note for note in scores.notes)


def test_one_block_has_no_interval_and_no_shuffle():
    # One block shows no variability; NaN (n/a) is right where a number would be invented.
    rng = np.random.default_rng(7)
    brain, audio = pairs(rng, n=20)
    scores = score_ranks(brain, audio, np.zeros(20), np.arange(20), FAST, rng)
    assert np.isnan(scores.ci_low)
    assert scores.shuffle.p == 1.0
    assert np.isnan(scores.row()["null_shuffle_rank"])
    assert np.isfinite(scores.relative_rank)


def test_many_windows_take_a_sample_of_the_shifts():
    # Week-long test sets have more shifts than anyone needs.
    shifts = evaluation._draw_shifts(10_000, 500, np.random.default_rng(0))
    assert len(np.unique(shifts)) == 500
    assert shifts.min() >= 1


def test_nan_never_becomes_a_score():
    # A NaN embedding compares false with everything, which would make it the best rank.
    rng = np.random.default_rng(8)
    brain, audio = pairs(rng, n=20)
    brain[3, 0] = np.nan
    with pytest.raises(DataError):
        score_ranks(brain, audio, np.arange(20) // 5, np.arange(20), FAST, rng)
    ranks = np.full(20, 0.5)
    ranks[0] = np.nan
    with pytest.raises(DataError, match="1 of 20"):
        compare_ranks(ranks, np.full(20, 0.5), np.arange(20), FAST, rng)


def test_lengths_must_agree():
    # Ranks of other windows, or blocks of other windows, would be paired silently.
    rng = np.random.default_rng(9)
    brain, audio = pairs(rng, n=20)
    with pytest.raises(DataError, match="block"):
        score_ranks(brain, audio, np.arange(19), np.arange(20), FAST, rng)
    with pytest.raises(DataError, match="same windows"):
        compare_ranks(np.zeros(20), np.zeros(19), np.arange(20), FAST, rng)


def test_contrast_equals_scipy():
    # Independent oracle for the exact sign-flip test over blocks of equal size.
    rng = np.random.default_rng(10)
    a, b = rng.random(50), rng.random(50) + 0.15
    contrast = compare_ranks(a, b, np.arange(50) // 5, FAST, rng)
    block_means = (a - b).reshape(10, 5).mean(1)
    oracle = stats.permutation_test(
        (block_means,), np.mean, permutation_type="samples", n_resamples=np.inf
    )
    assert contrast.p == pytest.approx(oracle.pvalue)
    assert contrast.difference == pytest.approx((a - b).mean())
    assert contrast.ci_low < contrast.difference < contrast.ci_high
    assert contrast.p_min == pytest.approx(2 / 2**10)


def test_contrast_is_calibrated_with_blocks_that_hang_together():
    # Two equal conditions must differ "significantly" in 5% of datasets, not more.
    p = []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        difference = np.concatenate([smooth_noise(rng, 10, 1, 0.9)[:, 0] for _ in range(12)])
        settings = EvaluationConfig(n_bootstrap=2)
        blocks = np.repeat(np.arange(12), 10)
        p.append(compare_ranks(difference, np.zeros(120), blocks, settings, rng).p)
    assert stats.kstest(p, "uniform").pvalue > 0.001


@pytest.mark.parametrize("alternative", ["less", "two-sided"])
def test_sign_flip_counts_every_pattern(alternative):
    # The exact test of few units, against a plain loop; the observed pattern counts as well.
    values = np.array([-0.2, -0.1, 0.05, -0.3, 0.0])
    result = statistics.sign_flip(
        values, alternative=alternative, n_samples=1, rng=np.random.default_rng(0)
    )
    patterns = itertools.product([1, -1], repeat=5)
    sums = [sum(s * v for s, v in zip(p, values, strict=True)) for p in patterns]
    observed = values.sum()
    if alternative == "less":
        extreme = [s <= observed + 1e-12 for s in sums]
    else:
        extreme = [abs(s) >= abs(observed) - 1e-12 for s in sums]
    assert result.exact
    assert result.p == pytest.approx(np.mean(extreme))
    assert result.p >= result.p_min


def test_sign_flip_samples_beyond_fourteen_units():
    # 2**40 patterns cannot be counted; the sampled p must agree with the t-test where both hold.
    rng = np.random.default_rng(11)
    values = rng.standard_normal(40) - 0.3
    result = statistics.sign_flip(values, alternative="two-sided", n_samples=5000, rng=rng)
    assert not result.exact
    assert result.p == pytest.approx(stats.ttest_1samp(values, 0).pvalue, abs=0.02)


def test_labels_are_contiguous_and_near_the_wished_length():
    # Blocks that straddle recordings or pauses, or tiny rests, are no independent units.
    onsets = np.r_[np.arange(0, 75, 3.0), np.arange(200, 230, 3.0), np.arange(0, 30, 3.0)]
    sources = np.r_[["a"] * 35, ["b"] * 10]
    labels = statistics.label_blocks(onsets, sources, duration=3.0, block=30.0)
    counts = np.bincount(labels)
    assert counts.tolist() == [13, 12, 10, 10] or counts.tolist() == [12, 13, 10, 10]
    mixed = np.random.default_rng(0).permutation(45)
    again = statistics.label_blocks(onsets[mixed], sources[mixed], duration=3.0, block=30.0)
    np.testing.assert_array_equal(again, labels[mixed])


def test_labels_of_nothing():
    # No test windows is handled by the caller; it must not crash here.
    assert len(statistics.label_blocks([], [], duration=3.0, block=30.0)) == 0
