"""What a handful of participants can and cannot show.

Participants, not windows or electrodes, are the unit here. With few of them an exact test has only
a few possible p-values; the smallest one is reported beside the p, and each row says in words what
may be concluded from it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from bids_speechdecode.decoding.evaluation import CHANCE
from bids_speechdecode.errors import DataError
from bids_speechdecode.statistics import SignFlip, sign_flip

MIN_FOR_INTERVAL = 3  # two values can agree by chance and give an interval of no width


@dataclass(frozen=True)
class GroupResult:
    """One row of a group table.

    Attributes
    ----------
    n_participants : int
    mean, ci_low, ci_high : float
        Over participants; Student's t interval, NaN below three participants.
    p, p_min : float
        Sign-flip test over participants, and the smallest value that so many can give.
    n_better : int
        Participants in whom the effect is there on their own data alone.
    conclusion : str
        What may be concluded, in words.
    """

    n_participants: int
    mean: float
    ci_low: float
    ci_high: float
    p: float
    p_min: float
    n_better: int
    conclusion: str


def rank_against_chance(
    ranks: ArrayLike,
    p_values: ArrayLike,
    *,
    confidence: float,
    n_samples: int,
    rng: np.random.Generator,
) -> GroupResult:
    """Return whether mean relative ranks lie below chance (0.5) over participants, one-sided.

    Parameters
    ----------
    ranks, p_values : array, shape (n_participants,)
        Each participant's mean relative rank and own p-value against chance.
    confidence : float
        Of the interval; ``1 - confidence`` is the level of the test.
    n_samples : int
        Random sign patterns where there are too many participants to count all.

    Raises
    ------
    DataError
        A rank that is not finite, or none.
    """
    ranks, p_values = _check(ranks, p_values)
    test = sign_flip(ranks - CHANCE, alternative="less", n_samples=n_samples, rng=rng)
    low, high = t_interval(ranks, confidence, bounds=(0.0, 1.0))
    alpha = 1 - confidence
    n_better = int(((p_values <= alpha) & (ranks < CHANCE)).sum())
    alone = f"{n_better} of {len(ranks)} better than chance on their own (p <= {alpha:.2g})"
    found = {-1: "Better than chance over participants", 0: "No evidence of decoding"}
    conclusion = _conclude(test, alpha, found[-1 if test.p <= alpha else 0], alone)
    return GroupResult(
        len(ranks), float(ranks.mean()), low, high, test.p, test.p_min, n_better, conclusion
    )


def difference_over_participants(
    differences: ArrayLike,
    p_values: ArrayLike,
    *,
    first: str,
    second: str,
    confidence: float,
    n_samples: int,
    rng: np.random.Generator,
) -> GroupResult:
    """Return whether the first of two conditions ranks better or worse, two-sided.

    Parameters
    ----------
    differences, p_values : array, shape (n_participants,)
        Each participant's mean rank of `first` minus that of `second`, and its own p-value.
    first, second : str
        Names of the conditions, for the conclusion.
    confidence, n_samples, rng
        As in `rank_against_chance`.
    """
    differences, p_values = _check(differences, p_values)
    test = sign_flip(differences, alternative="two-sided", n_samples=n_samples, rng=rng)
    low, high = t_interval(differences, confidence, bounds=(-1.0, 1.0))
    alpha = 1 - confidence
    own = p_values <= alpha
    n_better, n_worse = int((own & (differences < 0)).sum()), int((own & (differences > 0)).sum())
    alone = (
        f"{first} better in {n_better} and {second} better in {n_worse} of {len(differences)} "
        f"on their own (p <= {alpha:.2g})"
    )
    found = f"No evidence of a difference between {first} and {second}"
    if test.p <= alpha:
        ordered = (first, second) if differences.mean() < 0 else (second, first)
        found = "{} better than {} over participants".format(*ordered)
    return GroupResult(
        len(differences),
        float(differences.mean()),
        low,
        high,
        test.p,
        test.p_min,
        n_better,
        _conclude(test, alpha, found, alone),
    )


def measure_over_participants(
    values: ArrayLike,
    p_values: ArrayLike,
    *,
    name: str,
    confidence: float,
    n_samples: int,
    rng: np.random.Generator,
) -> GroupResult:
    """Return whether a measure whose null value is 0 differs from it, two-sided.

    Parameters
    ----------
    values, p_values : array, shape (n_participants,)
        Each participant's value and its own p-value; `GroupResult.n_better` counts those above 0
        that are significant on their own.
    name : str
        Of the measure, for the conclusion.
    confidence, n_samples, rng
        As in `rank_against_chance`.
    """
    values, p_values = _check(values, p_values)
    test = sign_flip(values, alternative="two-sided", n_samples=n_samples, rng=rng)
    low, high = t_interval(values, confidence, bounds=(-np.inf, np.inf))
    alpha = 1 - confidence
    own = p_values <= alpha
    n_above, n_below = int((own & (values > 0)).sum()), int((own & (values < 0)).sum())
    alone = (
        f"above 0 in {n_above} and below 0 in {n_below} of {len(values)} "
        f"on their own (p <= {alpha:.2g})"
    )
    found = f"No evidence that {name} differs from 0"
    if test.p <= alpha:
        side = "above" if values.mean() > 0 else "below"
        found = f"{name[:1].upper()}{name[1:]} is {side} 0 over participants"
    conclusion = _conclude(test, alpha, found, alone)
    mean = float(values.mean())
    return GroupResult(len(values), mean, low, high, test.p, test.p_min, n_above, conclusion)


def t_interval(
    values: np.ndarray, confidence: float, bounds: tuple[float, float]
) -> tuple[float, float]:
    """Return Student's interval of the mean, cut at what is possible; NaN below three values."""
    n = len(values)
    if n < MIN_FOR_INTERVAL:
        return float("nan"), float("nan")
    half = stats.t.ppf((1 + confidence) / 2, n - 1) * values.std(ddof=1) / np.sqrt(n)
    low, high = np.clip([values.mean() - half, values.mean() + half], *bounds)
    return float(low), float(high)


def _check(values: ArrayLike, p_values: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    values, p_values = np.asarray(values, dtype=float), np.asarray(p_values, dtype=float)
    if values.shape != p_values.shape:
        raise DataError(
            "Each participant needs a value and a p-value.",
            expected=f"{len(values)} p-values",
            found=str(len(p_values)),
        )
    return values, p_values


def _conclude(test: SignFlip, alpha: float, found: str, alone: str) -> str:
    """Return what may be concluded; `found` is said only where the test could have found it."""
    how = "exact" if test.exact else "sampled"
    if test.p_min <= alpha:
        text = f"{found} (p = {test.p:.3g}, {how} sign-flip test, n = {test.n_units})."
        if test.p > alpha:
            text += " This is not evidence that there is none."
        return f"{text} {alone}."
    n = {1: "One participant", 2: "Two participants"}.get(
        test.n_units, f"{test.n_units} participants"
    )
    return (
        f"{n}: nothing can be concluded about other people, whatever the values, because no test "
        f"over participants could give p <= {alpha:.2g} (smallest possible: {test.p_min:.3g}). "
        f"About these alone: {alone}."
    )
