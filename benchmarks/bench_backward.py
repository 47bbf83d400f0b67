"""Backward model: one eigendecomposition per fold against scikit-learn's grid search.

Same design, folds, penalties and targets; the predictions must agree. CPU time of this process.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, PredefinedSplit

from bids_speechdecode.decoding.backward import ALPHAS, design_rows, fit_backward
from bids_speechdecode.decoding.windows import WindowSet

RATE = 40.0
N_SAMPLES = 120


def main(n_windows: int = 600, n_channels: int = 64, dimension: int = 256) -> None:
    """Print both times and their ratio."""
    rng = np.random.default_rng(0)
    targets = rng.standard_normal((n_windows, dimension))
    course = np.repeat(targets @ rng.standard_normal((dimension, n_channels)), N_SAMPLES, axis=0)
    signal = 0.02 * course + rng.standard_normal(course.shape)
    windows = WindowSet(
        signal=torch.tensor(signal, dtype=torch.float32),
        starts=torch.arange(n_windows) * N_SAMPLES,
        n_samples=N_SAMPLES,
        targets=torch.tensor(targets, dtype=torch.float32),
    )
    folds = np.arange(n_windows) * 5 // n_windows

    start = time.process_time()
    model = fit_backward(windows, folds, rate=RATE)
    ours = time.process_time() - start

    start = time.process_time()
    x = design_rows(windows.brain(torch.arange(n_windows)), None, RATE).double().numpy()
    y = windows.targets.double().numpy()
    scale = np.square(x - x.mean(0)).sum() / x.shape[1]
    search = GridSearchCV(
        Ridge(),
        {"alpha": [alpha * scale for alpha in ALPHAS]},
        scoring="neg_mean_squared_error",
        cv=PredefinedSplit(folds),
    ).fit(x, y)
    theirs = time.process_time() - start

    peer = Ridge(model.alpha * scale).fit(x, y).predict(x)
    deviation = np.abs(model.predict(windows) - peer).max()
    print(
        f"backward model, {n_windows} windows x {x.shape[1]} predictors x {dimension} targets, "
        f"{len(ALPHAS)} penalties, 5 folds: {ours:.1f} s; scikit-learn grid search {theirs:.1f} s: "
        f"{theirs / ours:.1f} times as fast (largest deviation {deviation:.1e}, "
        f"penalty {model.alpha:.3g} and {search.best_params_['alpha'] / scale:.3g})"
    )


if __name__ == "__main__":
    main()
