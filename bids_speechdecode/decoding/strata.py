"""Candidates that are alike: strata of windows, and the rank of the true one within its stratum.

A model that ranks well among all candidates may know little of them: that some are loud is enough
where others are not. Ranked among candidates that are alike in one respect, it has to tell them
apart by something else.
"""

from __future__ import annotations

import numpy as np
import torch

from bids_speechdecode.config import EvaluationConfig
from bids_speechdecode.decoding.contrastive import relative_ranks
from bids_speechdecode.statistics import bootstrap_interval, require_finite

SMALLEST = 5  # windows of a stratum; the fewer, the coarser is each rank
LEFT_OUT = -1  # stratum of windows that belong to none


def rank_within(
    brain: np.ndarray,
    audio: np.ndarray,
    strata: np.ndarray,
    *,
    smallest: int = SMALLEST,
) -> np.ndarray:
    """Return each window's relative rank among the candidates of its own stratum.

    Chance is 0.5 in strata of every size, so that their ranks can be averaged.

    Parameters
    ----------
    brain, audio : array, shape (N, d) or (N, F, d)
        The true candidate of ``brain[i]`` is ``audio[i]``.
    strata : array of int, shape (N,)
        Windows of one number are candidates for each other; those of a negative one are left out.
    smallest : int
        Strata with fewer windows are left out.

    Returns
    -------
    ranks : array, shape (N,)
        0 best, 0.5 chance, 1 worst; NaN where the window is left out.
    """
    ranks = np.full(len(strata), np.nan)
    labels, counts = np.unique(strata[strata >= 0], return_counts=True)
    for label in labels[counts >= smallest]:
        own = np.flatnonzero(strata == label)
        alike = relative_ranks(torch.as_tensor(brain[own]), torch.as_tensor(audio[own]))
        ranks[own] = alike.relative
    return ranks


def match_strata(values: np.ndarray, *, smallest: int = SMALLEST) -> np.ndarray:
    """Return strata of windows that are alike in `values`, as fine as their number allows.

    Coarse to fine: the windows are halved at the median along the direction in which they differ
    most (the first principal axis), and each half again along its own, until another cut would
    leave fewer than `smallest` windows. What varies most is therefore matched first and best.
    With N windows there are ``log2(N / smallest)`` cuts, and no more can be matched.

    Parameters
    ----------
    values : array, shape (N, n_values)
        What is to be alike, such as the loudness of each part of a window; all in one unit.
    smallest : int

    Returns
    -------
    strata : array of int, shape (N,)
        Numbers from 0; each has from `smallest` to ``2 * smallest - 1`` windows, or all N where
        they are fewer.

    Raises
    ------
    DataError
        If a value is not finite.
    """
    values = np.asarray(values, float)
    require_finite(values, "what the windows are matched by")
    strata = np.empty(len(values), dtype=int)
    leaves = _halve(values, np.arange(len(values)), smallest)
    for label, members in enumerate(leaves):
        strata[members] = label
    return strata


def _halve(values: np.ndarray, members: np.ndarray, smallest: int) -> list[np.ndarray]:
    """Return the members of each stratum that comes of `members`."""
    if len(members) < 2 * smallest:
        return [members]
    own = values[members] - values[members].mean(axis=0)
    axis = np.linalg.svd(own, full_matrices=False)[2][0]
    # The sign of an axis is arbitrary; it decides which half gets the window in the middle.
    axis *= np.sign(axis[np.argmax(np.abs(axis))])
    order = members[np.argsort(own @ axis, kind="stable")]
    half = len(order) // 2
    return [*_halve(values, order[:half], smallest), *_halve(values, order[half:], smallest)]


def score_strata(
    ranks: np.ndarray,
    strata: np.ndarray,
    blocks: np.ndarray,
    settings: EvaluationConfig,
    rng: np.random.Generator,
) -> dict[str, float]:
    """Return the scores of ranks within strata, as `evaluation.Scores.row` names them.

    Parameters
    ----------
    ranks : array, shape (N,)
        As `rank_within` returns them.
    strata, blocks : array of int, shape (N,)
    settings : EvaluationConfig
    rng : numpy.random.Generator

    Returns
    -------
    dict
        n_test_windows, n_blocks, n_strata (of those that were ranked), n_left_out, relative_rank,
        ci_low, ci_high (NaN without any, or with one block).
    """
    ranked = np.isfinite(ranks)
    low = high = mean = float("nan")
    if ranked.any():
        mean = float(ranks[ranked].mean())
        low, high = bootstrap_interval(
            ranks[ranked],
            blocks[ranked],
            n_bootstrap=settings.n_bootstrap,
            confidence=settings.confidence,
            rng=rng,
        )
    return {
        "n_test_windows": int(ranked.sum()),
        "n_blocks": len(np.unique(blocks[ranked])),
        "n_strata": len(np.unique(strata[ranked])),
        "n_left_out": int((~ranked).sum()),
        "relative_rank": mean,
        "ci_low": low,
        "ci_high": high,
    }
