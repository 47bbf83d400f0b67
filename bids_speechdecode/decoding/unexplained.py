"""Targets without what something simpler predicts of them, such as loudness."""

from __future__ import annotations

import numpy as np

PENALTIES = np.logspace(-3, 4, 15)  # of standardised predictors, per training window


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
