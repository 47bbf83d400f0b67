"""Rank correlation over a handful of participants, with every permutation counted."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from bids_speechdecode.errors import DataError

EXACT_UP_TO = 8  # participants; 8! = 40,320 orders are counted, more are sampled


@dataclass(frozen=True)
class Correlation:
    """Spearman's correlation and its permutation test.

    Attributes
    ----------
    rho : float
        NaN where one of the two is the same for all.
    p : float
        Two-sided: the share of orders of one side that give a `rho` as far from 0.
    p_min : float
        The smallest `p` that any order of these values can give (ties make it larger).
    n : int
    exact : bool
        Whether every order was counted (otherwise a random sample of them).
    """

    rho: float
    p: float
    p_min: float
    n: int
    exact: bool


def spearman(
    first: ArrayLike, second: ArrayLike, *, n_samples: int, rng: np.random.Generator
) -> Correlation:
    """Return Spearman's correlation of two values of each participant, with a permutation p.

    Up to 8 participants all orders are counted; beyond, ``p = (1 + #as extreme) / (1 +
    n_samples)``. Ties get mean ranks; no normality or large-sample formula is used.

    Parameters
    ----------
    first, second : array, shape (n,)

    Raises
    ------
    DataError
        Differing lengths, or a value that is not finite.
    """
    first, second = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if first.shape != second.shape or not np.isfinite([first, second]).all():
        raise DataError(
            "A correlation needs two finite values of each participant.",
            expected=f"{first.size} pairs",
            found=f"{second.size} values, {int((~np.isfinite(second)).sum())} not finite",
        )
    n = len(first)
    exact = n <= EXACT_UP_TO
    a, b = (stats.rankdata(x) - (n + 1) / 2 for x in (first, second))
    scale = float(np.sqrt((a @ a) * (b @ b)))
    if scale == 0:
        return Correlation(float("nan"), float("nan"), float("nan"), n, exact)
    observed = float(a @ b) / scale
    if exact:
        sizes = np.abs(np.array(list(itertools.permutations(b))) @ a) / scale
        p_min = float(_share_as_large(sizes, float(sizes.max())))
        return Correlation(observed, _share_as_large(sizes, abs(observed)), p_min, n, True)
    sizes = np.abs([rng.permutation(b) @ a for _ in range(n_samples)]) / scale
    n_extreme = round(_share_as_large(sizes, abs(observed)) * n_samples)
    p = (1 + n_extreme) / (1 + n_samples)
    return Correlation(observed, p, 1 / (1 + n_samples), n, False)


def _share_as_large(sizes: np.ndarray, size: float) -> float:
    # The same sum in another order may differ in its last bits; it must still count as equal.
    return float((sizes >= size - 1e-12).mean())
