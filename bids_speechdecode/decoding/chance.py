"""Are models that can have learnt nothing at chance? Over held-out windows and over models."""

from __future__ import annotations

import numpy as np
from scipy import stats

from bids_speechdecode.decoding.evaluation import CHANCE, Contrast
from bids_speechdecode.statistics import sum_blocks


def chance_over_models(ranks: np.ndarray, blocks: np.ndarray, *, confidence: float) -> Contrast:
    """Return how far models that differ by their seed rank from 0.5 on the same windows.

    A model that was trained on wrong pairs is a random one, and leans by luck to the right or the
    wrong side on every window alike: blocks of windows do not tell luck from a leak, other models
    do. The variance of the mean is the sum of both,

    ``v = var over models / n_models + n_blocks / (n_blocks - 1) sum_b (S_b - m n_b)**2 / N**2``

    with S_b the sum of a block's n_b mean ranks less 0.5 and m the mean; Student's t with
    ``n_models - 1`` degrees of freedom, as if luck were all of it. With more, as few models have by
    Satterthwaite's rule, too many lucky ones would pass for a leak. Windows contribute to both
    parts, so that the interval is rather too wide.

    Parameters
    ----------
    ranks : array, shape (n_models, N)
        Relative ranks; at least two models.
    blocks : array, shape (N,)
        At least two blocks.
    confidence : float
        Of the interval.

    Returns
    -------
    Contrast
        Of the mean rank with 0.5; `p_min` is 0.
    """
    means = ranks.mean(axis=1)
    away = ranks.mean(axis=0) - CHANCE
    effect = float(away.mean())
    sums, counts = sum_blocks(away, blocks)
    n_models, n_blocks = len(means), len(sums)
    of_models = means.var(ddof=1) / n_models
    spread = float(((sums - effect * counts) ** 2).sum()) / len(away) ** 2
    of_blocks = spread * n_blocks / (n_blocks - 1)
    error = float(np.sqrt(of_models + of_blocks))
    if not error:
        return Contrast(effect, effect, effect, float(effect == 0), 0.0, n_blocks)
    reach = error * float(stats.t.ppf((1 + confidence) / 2, n_models - 1))
    p = float(2 * stats.t.sf(abs(effect) / error, n_models - 1))
    # No mean rank lies outside of 0 to 1, however few models say how sure it is.
    low, high = max(effect - reach, -CHANCE), min(effect + reach, 1 - CHANCE)
    return Contrast(effect, low, high, p, 0.0, n_blocks)
