"""Inference in which contiguous blocks, not single windows, are the unit.

Neighbouring windows share speaker, sentence and brain state, so that hundreds of them carry the
evidence of far fewer independent ones. Everything here resamples, flips or moves whole blocks.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from bids_speechdecode.errors import DataError

FEW_BLOCKS = 6  # below this an interval from resampled blocks is not to be relied on
EXACT_UP_TO = 14  # units; 2**14 sign patterns are enumerated, more are sampled

Alternative = Literal["less", "two-sided"]


@dataclass(frozen=True)
class SignFlip:
    """Result of a sign-flip test.

    Attributes
    ----------
    p : float
        Probability, were signs arbitrary, of a mean at least as extreme as the observed one.
    p_min : float
        The smallest `p` that this many units can give, whatever their values.
    n_units : int
        Number of values.
    exact : bool
        Whether every sign pattern was counted (otherwise a random sample of them).
    """

    p: float
    p_min: float
    n_units: int
    exact: bool


def label_blocks(
    onsets: ArrayLike, sources: ArrayLike, *, duration: float, block: float
) -> np.ndarray:
    """Return for each window the number of the contiguous block it belongs to.

    Windows of one source that follow each other with less than `block` seconds of silence between
    them form a run; each run is cut into equal pieces as close to `block` seconds as its length
    allows, so that no short rest counts as a whole unit.

    Parameters
    ----------
    onsets : array, shape (N,), seconds
        Start of each window on its source's clock, in any order.
    sources : array, shape (N,)
        What each window was cut from (a recording or sound file): a name or number.
    duration, block : float, seconds
        Length of a window and wished length of a block.

    Returns
    -------
    array of int, shape (N,)
        Numbers from 0, increasing with source and time.
    """
    onsets = np.asarray(onsets, dtype=float)
    codes = np.unique(np.asarray(sources), return_inverse=True)[1]
    in_time = np.lexsort((onsets, codes))
    silence = np.diff(onsets[in_time]) - duration
    new_run = (np.diff(codes[in_time]) != 0) | (silence >= block)
    labels = np.empty(len(onsets), dtype=int)
    n_before = 0
    for run in np.split(in_time, np.flatnonzero(new_run) + 1):
        pieces = _cut_evenly(onsets[run], duration, block)
        labels[run] = n_before + pieces
        n_before = int(labels[run].max(initial=n_before - 1)) + 1
    return labels


def _cut_evenly(onsets: np.ndarray, duration: float, block: float) -> np.ndarray:
    if len(onsets) == 0:
        return np.zeros(0, dtype=int)
    length = onsets[-1] + duration - onsets[0]
    n_pieces = max(1, round(length / block))
    centres = onsets + duration / 2 - onsets[0]
    pieces = np.floor(centres / length * n_pieces).astype(int)
    return np.unique(pieces, return_inverse=True)[1]


def require_finite(values: np.ndarray, what: str) -> None:
    """Raise DataError if `values` is empty or has a value that is not finite."""
    bad = int(np.size(values) - np.isfinite(values).sum())
    if np.size(values) == 0 or bad:
        raise DataError(
            f"No score can be computed from {what}.",
            expected="at least one value, all finite",
            found=f"{bad} of {np.size(values)} values are NaN or infinite",
            fix="Look for NaN in the preprocessed signal, the targets or the training history.",
        )


def sum_blocks(values: ArrayLike, blocks: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return the sum and the number of values of each block, both of shape (n_blocks,)."""
    values, blocks = np.asarray(values, dtype=float), np.asarray(blocks)
    if values.shape != blocks.shape:
        raise DataError(
            "Each value needs the number of its block.",
            expected=f"{values.shape[0]} block numbers",
            found=str(blocks.shape[0]),
        )
    require_finite(values, "these windows")
    members = np.unique(blocks, return_inverse=True)[1]
    return np.bincount(members, weights=values), np.bincount(members)


def bootstrap_interval(
    values: ArrayLike,
    blocks: ArrayLike,
    *,
    n_bootstrap: int,
    confidence: float,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """Return the interval of the mean of `values` over windows, from resampled whole blocks.

    Limits (see `interval_of_draws`) of ``sum_b w_b S_b / sum_b w_b n_b`` where the weights ``w``
    draw as many blocks as there are, with replacement. In simulations with normal block means, 95%
    intervals from 2,000 draws cover the truth in 88% of datasets with 4 blocks, 93% with 6 and 94%
    with 10 or 20 (plain percentiles: 79, 86, 89 and 92%).

    Returns
    -------
    low, high : float
        NaN where there is only one block: one block says nothing about variability.
    """
    sums, counts = sum_blocks(values, blocks)
    n_blocks = len(sums)
    if n_blocks < 2:
        return float("nan"), float("nan")
    means = np.empty(n_bootstrap)
    for some in np.array_split(np.arange(n_bootstrap), -(-n_bootstrap * n_blocks // 1_000_000)):
        chosen = rng.integers(n_blocks, size=(len(some), n_blocks))
        means[some] = sums[chosen].sum(axis=1) / counts[chosen].sum(axis=1)
    return interval_of_draws(means, n_blocks, confidence)


def interval_of_draws(draws: np.ndarray, n_units: int, confidence: float) -> tuple[float, float]:
    """Return the limits that enclose `confidence` of bootstrap draws of at least two units."""
    tail = widen_tail(n_units, confidence)
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)


def widen_tail(n_units: int, confidence: float) -> float:
    """Return the share of bootstrap draws that lies below an interval of `confidence`.

    It is ``Phi(-sqrt(n / (n - 1)) t)`` with ``t`` Student's quantile for ``n - 1`` degrees of
    freedom (the "expanded percentile" of Hesterberg 2015, doi:10.1080/00031305.2015.1089789),
    because plain percentiles are too narrow for a few dozen units and less.
    """
    quantile = stats.t.ppf((1 + confidence) / 2, n_units - 1)
    return float(stats.norm.cdf(-np.sqrt(n_units / (n_units - 1)) * quantile))


def sign_flip(
    values: ArrayLike,
    *,
    alternative: Alternative,
    n_samples: int,
    rng: np.random.Generator,
) -> SignFlip:
    """Test whether values of independent units lie around zero, by flipping their signs.

    If each unit's value is as likely to be x as -x, all ``2**n`` sign patterns are equally
    likely; `p` is the fraction whose mean is as extreme as the observed one. Up to 14 units all
    patterns are counted; beyond, ``p = (1 + #extreme) / (1 + n_samples)``.

    Parameters
    ----------
    values : array, shape (n,)
        One value per unit (a block's sum of differences, a participant's mean).
    alternative : {"less", "two-sided"}
        "less" asks whether the mean is below zero.
    n_samples : int
        Number of random patterns where not all are counted.
    """
    values = np.asarray(values, dtype=float)
    require_finite(values, "these units")
    n = len(values)
    exact = n <= EXACT_UP_TO
    if exact:
        signs = np.array(list(itertools.product([1.0, -1.0], repeat=n)))
        sums = signs @ values
    else:
        sums = np.array([rng.choice([-1.0, 1.0], size=n) @ values for _ in range(n_samples)])
    extreme = _count_extreme(sums, float(values.sum()), alternative, scale=np.abs(values).sum())
    n_extreme_at_least = 2 if alternative == "two-sided" else 1
    if exact:
        return SignFlip(extreme / 2**n, min(1.0, n_extreme_at_least / 2**n), n, True)
    return SignFlip((1 + extreme) / (1 + n_samples), 1 / (1 + n_samples), n, False)


def _count_extreme(
    sums: np.ndarray, observed: float, alternative: Alternative, scale: float
) -> int:
    # The same sum in another order may differ in its last bits; it must still count as equal.
    tolerance = 1e-12 * scale
    if alternative == "less":
        return int((sums <= observed + tolerance).sum())
    return int((np.abs(sums) >= abs(observed) - tolerance).sum())
