"""Targets and signals without what something simpler predicts of them, such as loudness.

Given the predictors, targets and signals that share nothing else are independent. Where both lose
their prediction, what is left of a relation in error is the product of both errors (Robinson 1988,
doi:10.2307/1912705; Shah & Peters 2020, doi:10.1214/19-AOS1857); of one side alone, it is the whole
error of that side.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view

from bids_speechdecode.decoding.windows import WindowSet

PENALTIES = np.logspace(-3, 4, 15)  # of standardised predictors, per training window
# Per sample, of standardised levels. Only against singular matrices: a penalty that serves the
# prediction of noisy channels leaves in them what an encoder of all channels finds.
SIGNAL_PENALTY = 1e-6
_BATCH = 256  # windows


def take_out(
    predictors: tuple[np.ndarray, np.ndarray], targets: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, float]:
    """Return what of the test targets is not predicted, and which share of their variance is.

    Ridge from the predictors and their squares, fitted to training windows; the penalty has the
    smallest error of generalised cross-validation (Golub, Heath & Wahba 1979,
    doi:10.1080/00401706.1979.10489751), one for all targets.

    Parameters
    ----------
    predictors : (array, array), shapes (n_train, p) and (n_test, p)
        Of training and test windows.
    targets : (array, array), shapes (n_train, ...) and (n_test, ...)

    Returns
    -------
    rest : array of float32, in the shape of the test targets
        Test targets minus their prediction.
    explained : float
        ``1 - |rest|**2 / |targets - training mean|**2``; below 0 where prediction fails.
    """
    train_x, test_x = _standardise(*(np.concatenate([x, x**2], axis=1) for x in predictors))
    train_y, test_y = (y.reshape(len(y), -1).astype(float) for y in targets)
    mean = train_y.mean(axis=0)
    rest = test_y - mean - test_x @ _fit(train_x, train_y - mean)
    total = float(((test_y - mean) ** 2).sum())
    explained = 1 - float((rest**2).sum()) / total if total else 0.0
    return rest.reshape(targets[1].shape).astype(np.float32), explained


def _standardise(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both with the mean and scale of the training windows taken out."""
    mean, scale = train.mean(axis=0), train.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    return (train - mean) / scale, (test - mean) / scale


def _fit(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the weights, shape (p, n_targets), of the best penalty.

    With ``x = U S V'``, predictions are ``U D U' y`` with ``D = S**2 / (S**2 + penalty)``, and the
    error is ``|y - U D U' y|**2 / (n - sum(D))**2``.
    """
    left, values, right = np.linalg.svd(x, full_matrices=False)
    projected = left.T @ y
    beyond = float((y**2).sum() - (projected**2).sum())

    def error(penalty: float) -> float:
        shrunk = values**2 / (values**2 + penalty)
        missed = float((((1 - shrunk)[:, None] * projected) ** 2).sum()) + beyond
        return missed / max(len(x) - 1 - shrunk.sum(), 1e-9) ** 2

    penalty = min(PENALTIES * len(x), key=error)
    return np.asarray(right.T @ ((values / (values**2 + penalty))[:, None] * projected))


def take_out_of_signal(
    courses: tuple[np.ndarray, np.ndarray], windows: tuple[WindowSet, WindowSet]
) -> WindowSet:
    """Return the test windows with a signal that does not follow the course of something.

    Each channel loses its response, fitted to the training windows by least squares,

    ``y[t] = sum over l of a[l] x[t + l] + b[l] x[t + l]**2``

    so that any encoder of what is left, be it linear or not, has little of ``x`` to go by. The
    channels' means stay, at which encoders were trained.

    Parameters
    ----------
    courses : (array, array), shapes (n_train, n_samples + n_lags - 1), (n_test, ...)
        At the rate of the signal; sample ``t`` of a window may follow columns
        ``t ... t + n_lags - 1``.
    windows : (WindowSet, WindowSet)
        Training and test windows.

    Returns
    -------
    windows : WindowSet
        The test windows in their order, one after the other in a signal of their own.
    """
    mean, scale = float(courses[0].mean()), float(courses[0].std()) or 1.0
    train_x, test_x = ((x - mean) / scale for x in courses)
    train, test = windows
    centre, weights = _fit_response(train_x, train)
    rest = []
    for index in torch.arange(len(test)).split(_BATCH):
        response = (_lagged(test_x[index.numpy()], test.n_samples) - centre) @ weights
        rest.append(torch.from_numpy(_samples(test, index) - response).float())
    signal = torch.cat(rest).to(test.device)
    starts = torch.arange(len(test), device=test.device) * test.n_samples
    return replace(test, signal=signal, starts=starts)


def _fit_response(x: np.ndarray, windows: WindowSet) -> tuple[np.ndarray, np.ndarray]:
    """Return means and weights of the lagged course, shapes (p,) and (p, n_channels).

    Sums run over batches of windows: no more than a batch is in memory twice.
    """
    n, n_columns = 0, 2 * (x.shape[1] - windows.n_samples + 1)
    total_x, total_y = np.zeros(n_columns), np.zeros(windows.n_channels)
    square, product = np.zeros((n_columns, n_columns)), np.zeros((n_columns, windows.n_channels))
    for index in torch.arange(len(windows)).split(_BATCH):
        lagged = _lagged(x[index.numpy()], windows.n_samples)
        samples = _samples(windows, index)
        n += len(lagged)
        total_x += lagged.sum(axis=0)
        total_y += samples.sum(axis=0)
        square += lagged.T @ lagged
        product += lagged.T @ samples
    centre = total_x / n
    square = square - n * np.outer(centre, centre) + SIGNAL_PENALTY * n * np.eye(len(centre))
    weights = np.linalg.solve(square, product - np.outer(centre, total_y))
    return centre, weights


def _lagged(x: np.ndarray, n_samples: int) -> np.ndarray:
    """Return levels and squares around every sample, shape (n_windows * n_samples, 2 * n_lags)."""
    n_lags = x.shape[1] - n_samples + 1
    levels = sliding_window_view(x, n_lags, axis=1).reshape(-1, n_lags).astype(float)
    return np.concatenate([levels, levels**2], axis=1)


def _samples(windows: WindowSet, index: torch.Tensor) -> np.ndarray:
    """Return the signal of some windows, shape (n_windows * n_samples, n_channels)."""
    signal = windows.brain(index.to(windows.device)).transpose(1, 2)
    return signal.reshape(-1, windows.n_channels).cpu().numpy().astype(float)
