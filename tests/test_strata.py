"""Candidates that are alike: ranks against a slow loop, matching, and how often noise is found."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from bids_speechdecode.config import EvaluationConfig
from bids_speechdecode.decoding.chance import chance_over_models
from bids_speechdecode.decoding.evaluation import compare_ranks
from bids_speechdecode.decoding.strata import match_strata, rank_within, score_strata
from bids_speechdecode.decoding.unexplained import PENALTIES, take_out
from bids_speechdecode.errors import DataError

SETTINGS = EvaluationConfig(n_bootstrap=200, n_permutations=200)


def slow_ranks(brain: np.ndarray, audio: np.ndarray, strata: np.ndarray, smallest: int) -> list:
    """Count better candidates one by one."""
    ranks = []
    for i, stratum in enumerate(strata):
        others = [j for j in range(len(strata)) if strata[j] == stratum and j != i]
        if stratum < 0 or len(others) + 1 < smallest:
            ranks.append(np.nan)
            continue

        def similarity(j: int, i: int = i) -> float:
            a, b = brain[i].ravel(), audio[j].ravel()
            return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

        better = sum(similarity(j) > similarity(i) for j in others)
        ranks.append(better / len(others))
    return ranks


@pytest.mark.parametrize("shape", [(60, 4), (60, 3, 4)])
def test_ranks_within_strata_equal_a_slow_loop(shape: tuple[int, ...]) -> None:
    """A candidate of another stratum, or of one that is left out, must not count."""
    rng = np.random.default_rng(0)
    brain, audio = rng.normal(size=(2, *shape)).astype(np.float32)
    strata = rng.integers(-1, 10, shape[0])
    found = rank_within(brain, audio, strata, smallest=5)
    np.testing.assert_allclose(found, slow_ranks(brain, audio, strata, 5))
    assert 0 < np.isnan(found).sum() < len(found)


def test_strata_of_one_number_are_neighbours() -> None:
    """In one dimension the finest matching is known: neighbours in order."""
    rng = np.random.default_rng(1)
    values = rng.normal(size=83)
    strata = match_strata(values[:, None], smallest=5)
    counts = np.bincount(strata)
    assert counts.sum() == 83
    assert counts.min() >= 5
    assert counts.max() <= 9
    assert (np.diff(strata[np.argsort(values)]) != 0).sum() == len(counts) - 1


def test_what_varies_most_is_matched_best() -> None:
    """Coarse to fine: with few windows, matching what hardly varies would waste the cuts."""
    rng = np.random.default_rng(2)
    values = rng.normal(size=(200, 3)) * [10.0, 3.0, 0.1]
    strata = match_strata(values)
    within = np.mean([values[strata == s].var(axis=0) for s in np.unique(strata)], axis=0)
    explained = 1 - within / values.var(axis=0)
    assert explained[0] > 0.95
    assert explained[1] > 0.6
    assert explained[2] < 0.2


def test_values_that_are_not_finite_have_no_stratum() -> None:
    with pytest.raises(DataError, match="matched"):
        match_strata(np.array([[1.0], [np.nan]]))


def test_scores_are_of_ranked_windows_alone() -> None:
    ranks = np.array([0.2, np.nan, 0.4, np.nan])
    strata, blocks = np.array([0, -1, 1, -1]), np.array([0, 0, 1, 2])
    row = score_strata(ranks, strata, blocks, SETTINGS, np.random.default_rng(0))
    assert row["relative_rank"] == pytest.approx(0.3)
    counts = {"n_test_windows": 2, "n_blocks": 2, "n_strata": 2, "n_left_out": 2}
    assert counts.items() <= row.items()
    empty = score_strata(np.full(4, np.nan), strata, blocks, SETTINGS, np.random.default_rng(0))
    assert np.isnan(empty["relative_rank"])


def decoded(rng: np.random.Generator, n: int, detail: float) -> tuple[np.ndarray, ...]:
    """Return brain and audio of windows, loudness in the brain, and loudness.

    Loudness is a level and a slope. A target mixes them with spectral detail; the brain follows
    loudness, and the detail as far as it is told to.
    """
    loudness = rng.normal(size=(n, 2)) * [4.0, 2.0]
    spectrum = rng.normal(size=(n, 12))
    mixed = loudness @ rng.normal(size=(2, 12)) / 3
    brain = mixed + detail * spectrum + rng.normal(size=(n, 12))
    return brain, mixed + spectrum, loudness + rng.normal(size=loudness.shape), loudness


def ranks_of_decoded(n: int, detail: float) -> tuple[float, float, float]:
    """Return mean ranks among all, among candidates of equal loudness, and of loudness there."""
    means = []
    for seed in range(3):
        brain, audio, heard, loudness = decoded(np.random.default_rng(seed), n, detail)
        strata = match_strata(loudness)
        # Within a stratum only what differs there tells candidates apart, as after training.
        centres = np.stack([loudness[strata == s].mean(axis=0) for s in strata])
        among_all = rank_within(brain, audio, np.zeros(n, dtype=int))
        alike = rank_within(brain, audio, strata)
        check = rank_within(heard - centres, loudness - centres, strata)
        means.append([among_all.mean(), alike.mean(), check.mean()])
    return tuple(np.mean(means, axis=0))


def test_a_rank_of_loudness_goes_where_candidates_are_equally_loud() -> None:
    """The control is for this: what loudness explains must vanish where it says nothing."""
    among_all, alike, _ = ranks_of_decoded(n=1000, detail=0.0)
    assert among_all < 0.3
    assert alike > 0.47


def test_a_rank_of_detail_remains() -> None:
    """A control that took everything away would show nothing."""
    among_all, alike, _ = ranks_of_decoded(n=300, detail=1.0)
    assert among_all < 0.2
    assert alike < 0.2


def test_the_check_says_where_windows_are_too_few_to_match() -> None:
    """With 40 windows equally loud ones are not to be had: that must not pass for detail."""
    _, alike, check = ranks_of_decoded(n=40, detail=0.0)
    assert alike < 0.45
    assert check < alike


# ------------------------------------------------------------------------------- loudness taken out


def test_what_is_predicted_equals_a_slow_ridge() -> None:
    """The penalty of the smallest error, found with hat matrices, and its residuals."""
    rng = np.random.default_rng(3)
    x, weights = rng.normal(size=(70, 3)), rng.normal(size=(6, 4))
    y = np.hstack([x, x**2]) @ weights + rng.normal(size=(70, 4))
    train, test = slice(0, 50), slice(50, 70)
    rest, explained = take_out((x[train], x[test]), (y[train], y[test]))
    design = np.hstack([x, x**2])
    design = (design - design[train].mean(axis=0)) / design[train].std(axis=0)
    centred = y - y[train].mean(axis=0)
    best = (np.inf, centred[test])
    for penalty in PENALTIES * 50:
        inverse = np.linalg.inv(design[train].T @ design[train] + penalty * np.eye(6))
        hat = design[train] @ inverse @ design[train].T
        error = ((centred[train] - hat @ centred[train]) ** 2).sum() / (49 - np.trace(hat)) ** 2
        fitted = design[test] @ inverse @ design[train].T @ centred[train]
        if error < best[0]:
            best = error, centred[test] - fitted
    np.testing.assert_allclose(rest, best[1], atol=1e-4)
    assert explained == pytest.approx(1 - (best[1] ** 2).sum() / (centred[test] ** 2).sum())


def test_test_windows_do_not_enter_the_prediction() -> None:
    """Leakage: another test window must not change what is left of the others."""
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(60, 2)), rng.normal(size=(60, 2, 3))
    first = take_out((x[:40], x[40:]), (y[:40], y[40:]))[0]
    again = take_out((x[:40], x[40:50]), (y[:40], y[40:50]))[0]
    assert first.shape == (20, 2, 3)
    np.testing.assert_array_equal(first[:10], again)


@pytest.mark.parametrize("detail", [0.0, 1.0])
def test_nothing_remains_of_loudness_that_is_taken_out(detail: float) -> None:
    """Where too few windows are equally loud, this still tells loudness from detail."""
    means = []
    for seed in range(5):
        brain, audio, _, loudness = decoded(np.random.default_rng(seed), 300, detail)
        train, test = slice(0, 200), slice(200, 300)
        rest, _ = take_out((loudness[train], loudness[test]), (audio[train], audio[test]))
        means.append(rank_within(brain[test], rest, np.zeros(100, dtype=int)).mean())
    if detail:
        assert np.mean(means) < 0.3
    else:
        assert abs(np.mean(means) - 0.5) < 3 * np.std(means, ddof=1) / np.sqrt(5) + 0.01


# ------------------------------------------------------------------------------------------- noise


def noise(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    """Return n windows of noise whose neighbours are alike (0.5)."""
    values = rng.normal(size=(n, d))
    for i in range(1, n):
        values[i] = 0.5 * values[i - 1] + np.sqrt(0.75) * values[i]
    return values


def false_positives(n_datasets: int, n: int = 120, d: int = 16, smallest: int = 5) -> float:
    """Return how often noise is told from chance within strata of its own loudness, at 0.05."""
    found = 0
    for seed in range(n_datasets):
        rng = np.random.default_rng([seed, d])
        brain, audio = noise(rng, n, d), noise(rng, n, d)
        strata = match_strata(audio[:, :3], smallest=smallest)  # what is matched is in the target
        ranks = rank_within(brain, audio, strata, smallest=smallest)
        blocks = np.arange(n) // 10
        found += compare_ranks(ranks, np.full(n, 0.5), blocks, SETTINGS, rng).p <= 0.05
    return found / n_datasets


def test_noise_is_found_as_often_as_it_should() -> None:
    """Windows of a stratum are each other's candidates over blocks: the test stays honest."""
    n_datasets = 100
    limit = stats.binom.ppf(0.995, n_datasets, 0.05) / n_datasets
    assert false_positives(n_datasets, n=80) <= limit


# ------------------------------------------------------------------- models that learnt nothing


def lucky_models(rng: np.random.Generator, n_models: int, lean: float) -> np.ndarray:
    """Return ranks of models that lean by luck, the same on every window, shape (n_models, 100)."""
    windows = 0.3 * noise(rng, 100, 1)[:, 0]
    luck = lean * rng.normal(size=(n_models, 1))
    return 0.5 + luck + windows + 0.2 * rng.normal(size=(n_models, 100))


@pytest.mark.parametrize("lean", [0.0, 0.05, 0.2])
def test_luck_of_a_model_is_no_leak(lean: float) -> None:
    """Blocks of windows alone would call a lucky model a leak in most of the datasets."""
    blocks, n_datasets, found, naive = np.arange(100) // 10, 120, 0, 0
    for seed in range(n_datasets):
        ranks = lucky_models(np.random.default_rng(seed), 3, lean)
        found += chance_over_models(ranks, blocks, confidence=0.95).p <= 0.05
        sums = (ranks.mean(axis=0) - 0.5).reshape(10, 10).sum(axis=1)
        naive += stats.ttest_1samp(sums, 0).pvalue <= 0.05
    assert found <= stats.binom.ppf(0.995, n_datasets, 0.05)
    if lean == 0.2:
        assert naive > 0.3 * n_datasets


def test_a_leak_is_found_over_models() -> None:
    """A test that never finds anything would pass every control."""
    ranks = lucky_models(np.random.default_rng(0), 3, 0.02) - 0.3
    found = chance_over_models(ranks, np.arange(100) // 10, confidence=0.95)
    assert found.p < 0.05
    assert found.ci_low < -0.3 < found.ci_high < 0


def test_one_kind_of_scatter_alone_is_a_t_test() -> None:
    """Where windows do not differ, only models do: the textbook's test."""
    models = np.array([0.45, 0.52, 0.40, 0.47])
    ranks = np.repeat(models[:, None], 20, axis=1)
    found = chance_over_models(ranks, np.arange(20) // 5, confidence=0.95)
    expected = stats.ttest_1samp(models, 0.5)
    interval = expected.confidence_interval(0.95)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.ci_low == pytest.approx(interval.low - 0.5)
    assert found.ci_high == pytest.approx(interval.high - 0.5)
