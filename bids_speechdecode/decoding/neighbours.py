"""How much the channel that is most alike tells of a channel."""

from __future__ import annotations

import numpy as np
import torch

from bids_speechdecode.decoding.windows import WindowSet


def nearest_correlations(windows: WindowSet) -> np.ndarray:
    """Return the strongest Pearson correlation of each channel with another, shape (C,).

    Over all samples of the windows; NaN for a channel that is constant, or alone.
    """
    n_channels, everything = windows.n_channels, torch.arange(len(windows), device=windows.device)
    sums = np.zeros(n_channels)
    products = np.zeros((n_channels, n_channels))
    for some in everything.split(128):
        rows = windows.brain(some).transpose(0, 1).flatten(1).double()  # (C, B * T)
        sums += rows.sum(dim=1).cpu().numpy()
        products += (rows @ rows.T).cpu().numpy()
    n = len(windows) * windows.n_samples
    covariance = products / n - np.outer(sums, sums) / n**2
    scale = np.sqrt(np.diag(covariance).clip(min=0))
    varies = scale > 1e-6 * np.sqrt(np.diag(products) / n)
    r = np.zeros((n_channels, n_channels))
    pairs = np.ix_(varies, varies)
    r[pairs] = covariance[pairs] / np.outer(scale[varies], scale[varies])
    np.fill_diagonal(r, 0)
    nearest = r[np.arange(n_channels), np.abs(r).argmax(axis=1)].clip(-1, 1)
    return np.where(varies & (varies.sum() > 1), nearest, np.nan)
