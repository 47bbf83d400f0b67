"""The backward model against scikit-learn's ridge, a slow design loop and planted responses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from bids_speechdecode.decoding import backward
from bids_speechdecode.decoding.backward import BackwardModel, design_rows, fit_backward
from bids_speechdecode.decoding.contrastive import relative_ranks
from bids_speechdecode.decoding.windows import WindowSet
from bids_speechdecode.errors import DataError

RATE = 40.0
N_SAMPLES = 120  # 3 s


def make_windows(seed=0, n_windows=60, n_channels=3, n_frames=None, dimension=4, gain=0.0):
    """Return windows whose signal follows the targets by 100 ms with weight `gain`."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).standard_normal((dimension, n_channels))
    rate_frames = n_frames or 10
    targets = rng.standard_normal((n_windows, rate_frames, dimension))
    if n_frames is None:
        targets = np.repeat(targets[:, :1], rate_frames, axis=1)
    course = np.repeat(targets.reshape(-1, dimension), N_SAMPLES // rate_frames, axis=0)
    signal = gain * np.roll(course, 4, axis=0) @ mixing
    signal += rng.standard_normal(signal.shape)
    return WindowSet(
        signal=torch.tensor(signal, dtype=torch.float32),
        starts=torch.arange(n_windows) * N_SAMPLES,
        n_samples=N_SAMPLES,
        targets=torch.tensor(targets if n_frames else targets[:, 0], dtype=torch.float32),
    )


def plain_rows(windows, n_frames):
    """Return design and targets as float64 arrays."""
    index = torch.arange(len(windows))
    x = design_rows(windows.brain(index), n_frames, RATE).double().numpy()
    return x, windows.audio(index).double().numpy().reshape(len(x), -1)


def slow_errors(x, y, folds, alphas):
    """Held-out error of each penalty with one scikit-learn fit per penalty and fold."""
    errors, baseline = np.zeros(len(alphas)), 0.0
    for k in np.unique(folds):
        train, test = folds != k, folds == k
        centred = x[train] - x[train].mean(0)
        for i, alpha in enumerate(alphas):
            model = Ridge(alpha * np.square(centred).sum() / x.shape[1]).fit(x[train], y[train])
            errors[i] += np.square(y[test] - model.predict(x[test])).sum()
        baseline += np.square(y[test] - y[train].mean(0)).sum()
    return errors / baseline


@pytest.mark.parametrize(
    ("n_frames", "n_windows", "n_channels"),
    [(None, 200, 3), (None, 40, 12), (30, 20, 3), (30, 2, 12)],
    ids=["mean", "mean, more predictors than rows", "frames", "frames, more predictors than rows"],
)
def test_equals_scikit_learn(n_frames, n_windows, n_channels):
    # The closed form, the choice of the penalty and the rotation must be ridge, not nearly ridge.
    windows = make_windows(1, n_windows, n_channels, n_frames, gain=0.3)
    groups = np.arange(n_windows) * min(7, n_windows) // n_windows
    alphas = [1e-3, 0.1, 1.0, 30.0, 1e3]
    model = fit_backward(windows, groups, alphas, rate=RATE)
    x, y = plain_rows(windows, n_frames)
    folds = np.repeat(backward._assign_folds(groups, n_windows), n_frames or 1)
    errors = slow_errors(x, y, folds, alphas)
    np.testing.assert_allclose(model.errors, errors, rtol=1e-6)
    assert model.alpha == alphas[int(np.argmin(errors))]
    oracle = Ridge(model.alpha * np.square(x - x.mean(0)).sum() / x.shape[1]).fit(x, y)
    predicted = model.predict(windows).reshape(len(x), -1)
    np.testing.assert_allclose(predicted, oracle.predict(x), rtol=1e-4, atol=1e-5)


def test_both_routes_are_exercised():
    # The previous test covers the rotation only if its designs lie on both sides.
    n_predictors = plain_rows(make_windows(1, 2, 12), None)[0].shape[1]
    assert 40 < n_predictors < 200
    n_predictors = plain_rows(make_windows(1, 2, 12, 30), 30)[0].shape[1]
    assert n_predictors > 2 * 30


def test_lagged_design_equals_a_slow_loop():
    # Frame f must be predicted by the bins from 0.1 s before to 0.5 s after it, zero outside.
    brain = torch.tensor(np.random.default_rng(2).standard_normal((2, 3, N_SAMPLES)))
    rows = design_rows(brain, 30, RATE).reshape(2, 30, 3, -1).numpy()
    bins = brain.numpy().reshape(2, 3, 60, 2).mean(-1)  # 50 ms
    assert rows.shape[-1] == 13
    for f in range(30):
        for lag in range(-2, 11):
            i = 2 * f + lag
            expected = bins[:, :, i] if 0 <= i < 60 else np.zeros((2, 3))
            np.testing.assert_allclose(rows[:, f, :, lag + 2], expected, atol=1e-12)


@pytest.mark.parametrize(("n_frames", "n_samples"), [(30, 120), (36, 120), (7, 100), (150, 120)])
def test_any_frame_rate_gives_one_row_per_frame(n_frames, n_samples):
    # Frame rate and sampling rate are settings; neither need divide the other.
    rows = design_rows(torch.randn(2, 3, n_samples), n_frames, RATE)
    assert len(rows) == 2 * n_frames
    assert torch.isfinite(rows).all()


def test_window_design_keeps_the_mean_of_each_bin():
    # Bins of 0.25 s: the first predictor of a ramp is the mean of its first ten samples.
    brain = torch.arange(120.0).expand(1, 1, 120)
    rows = design_rows(brain, None, RATE)
    assert rows.shape == (1, 12)
    assert rows[0, 0] == pytest.approx(4.5)


@pytest.mark.parametrize("n_frames", [None, 30])
def test_planted_response_is_decoded_and_noise_is_not(n_frames):
    # A baseline that cannot find an easy linear response would flatter every other condition.
    groups = np.arange(60) // 6
    shape = {"n_channels": 6, "n_frames": n_frames}
    model = fit_backward(make_windows(3, **shape, gain=0.5), groups, rate=RATE)
    test = make_windows(4, **shape, gain=0.5)
    assert relative_ranks(model.predict(test), test.targets).relative.mean() < 0.1
    assert model.predict(test).shape == tuple(test.targets.shape)
    noise = make_windows(5, **shape, gain=0.0)
    ranks = relative_ranks(model.predict(noise), noise.targets).relative
    assert ranks.mean() == pytest.approx(0.5, abs=0.15)


def test_noise_chooses_a_strong_penalty():
    # Where nothing can be predicted, the held-out error must say so.
    model = fit_backward(make_windows(6, n_windows=100), np.arange(100) // 10, rate=RATE)
    assert model.alpha >= 10
    assert min(model.errors) > 0.95


def test_folds_are_runs_of_whole_blocks():
    # A window's neighbours in the other fold would favour penalties that are too weak.
    groups = np.repeat([f"{r}.{b}" for r in range(2) for b in range(11)], 3)
    folds = backward._assign_folds(groups, len(groups))
    assert (np.diff(folds) >= 0).all()
    assert np.unique(folds).tolist() == [0, 1, 2, 3, 4]
    assert all(len(np.unique(folds[groups == block])) == 1 for block in np.unique(groups))


def test_prediction_of_a_window_needs_that_window_only():
    # Leakage: other test windows may not change a prediction.
    windows = make_windows(7, gain=0.3)
    model = fit_backward(windows, np.arange(60) // 6, rate=RATE)
    some = windows.subset(torch.tensor([3, 40]))
    np.testing.assert_allclose(model.predict(some), model.predict(windows)[[3, 40]], atol=1e-6)


def test_one_block_cannot_choose():
    # Choosing the penalty on the windows it was fitted to always takes the weakest.
    with pytest.raises(DataError, match="at least 2"):
        fit_backward(make_windows(8), np.zeros(60), rate=RATE)


def test_nan_and_constant_targets_are_errors():
    # NaN would spread to every weight without a word.
    windows = make_windows(9)
    windows.signal[5, 0] = torch.nan
    with pytest.raises(DataError, match="NaN"):
        fit_backward(windows, np.arange(60) // 6, rate=RATE)
    constant = make_windows(9)
    constant.targets[:] = 1.0
    with pytest.raises(DataError, match="constant"):
        fit_backward(constant, np.arange(60) // 6, rate=RATE)


def test_penalty_at_the_edge_is_told():
    # A choice at the end of the grid means that the grid was too short.
    model = fit_backward(make_windows(10), np.arange(60) // 6, [1e-3, 1e-2], rate=RATE)
    assert isinstance(model, BackwardModel)
    assert model.at_edge
