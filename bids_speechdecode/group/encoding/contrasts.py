"""Whether one encoding model predicts better over participants, and whether that could be seen.

A difference of a few thousandths in r may be real and yet too small for a handful of participants.
Each row therefore says which difference would have been found, beside the one that was.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from bids_speechdecode.encoding.power import (
    POWER,
    minimum_detectable_difference,
    units_needed,
)
from bids_speechdecode.group.statistics import (
    MIN_FOR_INTERVAL,
    GroupResult,
    difference_over_participants,
)

TARGET = 0.005  # in r; differences of 0.002 to 0.01 are to be expected [P]


@dataclass(frozen=True)
class EncodingContrast:
    """One row of the group table of contrasts in r.

    Attributes
    ----------
    n_participants : int
    mean, ci_low, ci_high : float
        Difference in r over participants; Student's t interval, NaN below three participants.
    p, p_min : float
        Two-sided sign-flip test over participants, and the smallest value so many can give.
    n_better, n_worse : int
        Participants in whom the first model is better or worse on their own data alone.
    deviation : float
        Standard deviation over participants; NaN for one.
    detectable : float
        The smallest true difference that a paired t test of so many participants finds with a
        power of 0.8; NaN where the sign-flip test cannot reach the level, whatever the difference.
    target : float
        A difference of interest.
    n_needed : int or None
        Participants with whom `target` would be found with that power; None below three.
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
    n_worse: int
    deviation: float
    detectable: float
    target: float
    n_needed: int | None
    conclusion: str


def contrast_over_participants(
    differences: ArrayLike,
    p_values: ArrayLike,
    *,
    first: str = "tuned",
    second: str = "untuned",
    confidence: float = 0.95,
    n_samples: int = 10_000,
    target: float = TARGET,
    rng: np.random.Generator,
) -> EncodingContrast:
    """Return whether the first of two models predicts better over participants, two-sided.

    `detectable` and `n_needed` are those of `minimum_detectable_difference` and `units_needed`
    (noncentral t, Cohen 1988) with the observed standard deviation. With the fewest participants
    the sign-flip test has less power than that t test: of normal differences whose mean is
    `detectable` it finds 63% with 6 participants, 76% with 7, 79% with 9 and 80% with 12.

    Parameters
    ----------
    differences, p_values : array, shape (n_participants,)
        Each participant's mean r of `first` minus that of `second`, and its own p-value.
    first, second : str
        Names of the models, for the conclusion.
    confidence : float
        Of the interval; ``1 - confidence`` is the level of the test.
    n_samples : int
        Random sign patterns where there are too many participants to count all.
    target : float
        Difference in r to plan for.

    Raises
    ------
    DataError
        A difference that is not finite, or none.
    """
    differences, p_values = np.asarray(differences, dtype=float), np.asarray(p_values, dtype=float)
    # A rank is better when lower, an r when higher.
    ranked = difference_over_participants(
        -differences,
        p_values,
        first=first,
        second=second,
        confidence=confidence,
        n_samples=n_samples,
        rng=rng,
    )
    alpha, n = 1 - confidence, len(differences)
    deviation = float(differences.std(ddof=1)) if n > 1 else float("nan")
    testable = ranked.p_min <= alpha
    detectable = minimum_detectable_difference(deviation, n, alpha=alpha) if testable else np.nan
    n_needed = units_needed(deviation, target, alpha=alpha) if n >= MIN_FOR_INTERVAL else None
    sensitivity = _sensitivity(ranked, alpha, detectable, target, n_needed)
    return EncodingContrast(
        n_participants=n,
        mean=float(differences.mean()),
        ci_low=0.0 - ranked.ci_high,
        ci_high=0.0 - ranked.ci_low,
        p=ranked.p,
        p_min=ranked.p_min,
        n_better=ranked.n_better,
        n_worse=int(((p_values <= alpha) & (differences < 0)).sum()),
        deviation=deviation,
        detectable=detectable,
        target=target,
        n_needed=n_needed,
        conclusion=f"{ranked.conclusion} {sensitivity}".strip(),
    )


def _sensitivity(
    result: GroupResult, alpha: float, detectable: float, target: float, n_needed: int | None
) -> str:
    """Return in words which differences so many participants can show."""
    least = int(np.ceil(1 - np.log2(alpha)))
    parts = []
    if np.isfinite(detectable):
        parts.append(
            f"A true difference in r of {detectable:.2g} would be found with a power of {POWER:g}"
        )
    elif result.p_min > alpha:
        parts.append(f"{least} participants are the fewest that allow p <= {alpha:.2g}")
    if n_needed is not None:
        parts.append(
            f"A true difference of {target:g} would take about {n_needed} participants who differ "
            "as much as these do"
        )
    return " ".join(f"{part}." for part in parts)
