"""BOLD is cleaned, resampled, delayed and scrambled as the formulas say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bids_speechdecode.encoding.bold import (
    clean_bold,
    downsample_bold,
    lanczos_resample,
    lanczos_weights,
    randomise_phases,
    stack_delays,
)
from bids_speechdecode.errors import DataError

TR = 2.0


def make_bold(n_tr: int = 150, n_voxels: int = 6, seed: int = 0) -> np.ndarray:
    """Return noise with some memory and correlated voxels."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((n_tr, n_voxels)) @ rng.standard_normal((n_voxels, n_voxels))
    return np.apply_along_axis(lambda y: np.convolve(y, [1, 0.8, 0.4])[:n_tr], 0, noise)


def test_cleaning_leaves_the_residuals_of_least_squares() -> None:
    """Confounds that stay in would be tuned on; scikit-learn's regression is the oracle."""
    from sklearn.linear_model import LinearRegression

    rng = np.random.default_rng(1)
    n_tr, bold = 150, make_bold()
    confounds = rng.standard_normal((n_tr, 3))
    dirty = 800 + bold + confounds @ rng.standard_normal((3, 6)) + 5 * np.arange(n_tr)[:, None]
    z, constant = clean_bold(dirty, confounds, TR)
    orders = np.arange(1, 5)  # periods of 600, 300, 200 and 150 s; the next has 120 s
    slow = np.cos(np.pi * orders * (np.arange(n_tr)[:, None] + 0.5) / n_tr)
    design = np.column_stack([confounds, np.arange(n_tr), slow])
    residuals = dirty - LinearRegression().fit(design, dirty).predict(design)
    np.testing.assert_allclose(z, residuals / residuals.std(axis=0), atol=1e-5)
    assert z.dtype == np.float32
    assert not constant.any()


def test_slow_drift_goes_and_fast_signal_stays() -> None:
    """A drift of minutes says nothing of the story; what lasts seconds does."""
    seconds = TR * np.arange(300)
    fast, slow = np.sin(2 * np.pi * seconds / 20), np.sin(2 * np.pi * seconds / 400)
    z, _ = clean_bold((fast + slow)[:, None], None, TR)
    assert np.corrcoef(z[:, 0], fast)[0, 1] > 0.99


def test_constant_and_broken_voxels_are_flagged() -> None:
    """Their z-score would be noise blown up, or NaN that spreads to every loss."""
    bold = make_bold().astype(np.float32)
    bold[:, 1] = 1234.5
    bold[7, 2] = np.nan
    bold[9, 3] = np.inf
    confounds = bold[:, [4]].copy()  # leaves nothing of voxel 4
    z, constant = clean_bold(bold, confounds, TR)
    assert constant.tolist() == [False, True, True, True, True, False]
    assert np.isfinite(z).all()
    assert not z[:, constant].any()


def test_gaps_and_repetitions_among_confounds_are_harmless() -> None:
    """Derivatives have no first value, and derived columns repeat each other."""
    rng = np.random.default_rng(2)
    bold, confounds = make_bold(), rng.standard_normal((150, 2))
    confounds[0, 1] = np.nan
    filled = confounds.copy()
    filled[0, 1] = confounds[1:, 1].mean()
    nothing = np.full((150, 1), np.nan)
    repeated = np.column_stack([confounds, confounds[:, 0] * 3, nothing])
    np.testing.assert_allclose(
        clean_bold(bold, repeated, TR)[0], clean_bold(bold, filled, TR)[0], atol=1e-5
    )


def test_too_short_a_run_and_confounds_of_another_are_errors() -> None:
    """Residuals of as many regressors as volumes are rounding errors."""
    with pytest.raises(DataError, match="too short"):
        clean_bold(make_bold(12), np.random.default_rng(0).standard_normal((12, 9)), TR)
    with pytest.raises(DataError, match="do not fit"):
        clean_bold(make_bold(100), np.zeros((99, 2)), TR)


def slow_lanczos(
    features: np.ndarray, times: np.ndarray, tr_times: np.ndarray, cutoff: float, lobes: int
) -> np.ndarray:
    out = np.zeros((len(tr_times), features.shape[1]))
    for i, target in enumerate(tr_times):
        total = 0.0
        for j, time in enumerate(times):
            u = cutoff * (target - time)
            if abs(u) >= lobes:
                continue
            kernel = 1.0
            if u != 0:
                kernel = lobes * np.sin(np.pi * u) * np.sin(np.pi * u / lobes) / (np.pi * u) ** 2
            out[i] += kernel * features[j]
            total += kernel
        out[i] /= total
    return out


@pytest.mark.parametrize("lobes", [2, 3])
def test_lanczos_equals_a_slow_loop(lobes: int) -> None:
    """The sparse rows are found by search; the loop visits every pair."""
    rng = np.random.default_rng(3)
    times = 4.0 + 0.25 * np.arange(200)
    tr_times = np.arange(5.1, 52, TR)
    features = rng.standard_normal((200, 3))
    found = lanczos_resample(features, times, tr_times, lobes=lobes)
    np.testing.assert_allclose(found, slow_lanczos(features, times, tr_times, 0.5, lobes))


def test_lanczos_keeps_what_is_slow_at_its_time() -> None:
    """Value is time: the resampled clock must read the TR's own time."""
    times = 0.25 * np.arange(400)
    tr_times = np.arange(10, 90, TR)
    clock = np.column_stack([times, np.ones(400), np.sin(2 * np.pi * times / 0.6)])
    found = lanczos_resample(clock, times, tr_times)
    np.testing.assert_allclose(found[:, 0], tr_times, atol=1e-6)
    np.testing.assert_allclose(found[:, 1], 1)
    assert np.abs(found[:, 2]).max() < 0.02  # 1.7 Hz lies far above 1/TR


def test_lanczos_extrapolates_nothing_and_names_gaps() -> None:
    """A TR outside of the sound has no features; silence in between must not pass unseen."""
    times = 0.25 * np.arange(40)
    outside = lanczos_weights(times, np.array([-1.0, 5.0, 11.0]), cutoff=0.5)
    assert np.diff(outside.indptr).tolist()[::2] == [0, 0]
    with pytest.raises(DataError, match="no features around"):
        lanczos_weights(np.concatenate([times, times + 60]), np.array([30.0, 32.0]))


def test_lanczos_weights_carry_gradient() -> None:
    """Tuning differentiates through the resampling."""
    times = 0.25 * np.arange(40)
    weights = lanczos_weights(times, np.array([4.0, 6.0]))
    features = torch.zeros(40, 2, dtype=torch.float64, requires_grad=True)
    (torch.from_numpy(weights.toarray()) @ features)[1].sum().backward()
    np.testing.assert_allclose(features.grad[:, 0], weights.toarray()[1])


def test_delays_shift_by_whole_trs() -> None:
    """Value is time: each stacked column says which TR it came from."""
    clock = np.arange(1.0, 7.0)[:, None] * [1, 10]
    stacked = stack_delays(clock, (1, 3, 9))
    assert stacked[4].tolist() == [4, 40, 2, 20, 0, 0]
    assert stacked[0].tolist() == [0, 0, 0, 0, 0, 0]
    np.testing.assert_array_equal(stack_delays(clock, (0,)), clock)


@pytest.mark.parametrize("n_tr", [150, 151])
def test_random_phases_keep_spectra_and_correlations(n_tr: int) -> None:
    """The control must differ from BOLD in its timing alone."""
    bold = make_bold(n_tr)
    scrambled = randomise_phases(bold, np.random.default_rng(4))
    np.testing.assert_allclose(
        np.abs(np.fft.rfft(scrambled, axis=0)), np.abs(np.fft.rfft(bold, axis=0)), atol=1e-9
    )
    np.testing.assert_allclose(np.cov(scrambled.T), np.cov(bold.T), atol=1e-9)
    timing = [abs(np.corrcoef(a, b)[0, 1]) for a, b in zip(bold.T, scrambled.T, strict=True)]
    assert max(timing) < 0.5
    again = randomise_phases(bold, np.random.default_rng(4))
    np.testing.assert_array_equal(scrambled, again)


def test_every_second_tr_carries_the_slow_part_only() -> None:
    """What is faster than the new rate would fold into it."""
    tr_times = 10 + TR * np.arange(101)
    slow = np.sin(2 * np.pi * tr_times / 60)
    fast = np.cos(np.pi * np.arange(101))  # alternates: aliases to a constant when thinned out
    low, kept = downsample_bold(np.column_stack([slow, fast]), tr_times)
    np.testing.assert_array_equal(kept, tr_times[::2])
    inner = slice(4, -4)
    np.testing.assert_allclose(low[inner, 0], slow[::2][inner], atol=0.05)
    assert np.abs(low[inner, 1]).max() < 0.1
