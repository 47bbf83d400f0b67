"""Which days of the ambient recordings serve what in experiment ``drift``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bids_speechdecode.decoding.strata import SMALLEST
from bids_speechdecode.errors import MissingInputError
from bids_speechdecode.steps.context import Context
from bids_speechdecode.steps.experiments.findings import require_ambient
from bids_speechdecode.steps.experiments.recalibration import FEWEST, early_starts
from bids_speechdecode.steps.experiments.subsets import ALL, Subset, take
from bids_speechdecode.steps.experiments.times import Start, recording_starts, say_untold
from bids_speechdecode.steps.plan import PRETRAIN, ParticipantPlan

FEWEST_DAYS = 3
FEWEST_TESTED = 2 * SMALLEST  # windows of a day that are tested
ENOUGH = 0.25  # of the median day's training windows, for a day to train a model of its own


@dataclass(frozen=True)
class Days:
    """Which days serve what.

    Attributes
    ----------
    train : dict of int to float
        Days that train a model of their own, each with the share of its windows that makes all of
        them about equal.
    test : tuple of int
        Days with held-out windows.
    before, after : tuple of int
        Days that remedies are trained and tested on.
    stop : Subset
        Validation windows of the remedies.
    skip : float
        Minutes of each day that only recalibration may see.
    notes : tuple of str
    """

    train: dict[int, float]
    test: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    stop: Subset
    skip: float
    notes: tuple[str, ...]


def choose_days(context: Context) -> Days:
    """Return which days are trained on and tested on.

    Raises
    ------
    MissingInputError
        There is no pretraining, or it has fewer than three days.
    """
    plan = context.plan
    require_ambient(context, "drift")
    counts = {split: count_by_day(plan, split) for split in ("train", "val", "test")}
    every = sorted(set().union(*counts.values()))
    if len(every) < FEWEST_DAYS:
        raise MissingInputError(
            "experiment 'drift' needs ambient recordings of several days",
            expected=f"at least {FEWEST_DAYS} days, from acq_time in scans.tsv or from sessions",
            found=f"{len(every)}",
            fix="choose other experiments",
        )
    notes = []
    if untold := say_untold(plan):
        notes.append(
            f"Each session counted as one day, in the order of their names: scans.tsv does not say "
            f"when {untold} began."
        )
    typical = np.median(list(counts["train"].values()))
    enough = {d: n for d, n in counts["train"].items() if n >= ENOUGH * typical}
    smallest = min(enough.values())
    train = {day: smallest / n for day, n in sorted(enough.items())}
    test = tuple(sorted(d for d, n in counts["test"].items() if n >= FEWEST_TESTED))
    if untrained := [d for d in every if d not in train]:
        notes.append(f"{name_days(untrained)} had too few training windows for a model of its own.")
    if untested := [d for d in every if d not in test]:
        notes.append(f"{name_days(untested)} had no held-out recording to test on.")
    before, after = _cut(counts["train"], test)
    skip, more = _choose_skip(context, after)
    after = tuple(d for d in after if _count_tested(plan, d, skip) >= FEWEST_TESTED)
    stop = Subset(days=before) if sum(counts["val"].get(d, 0) for d in before) > 1 else ALL
    notes += more
    if not after:
        notes.append("No day after the first ones had windows to test remedies on.")
    elif stop == ALL:
        notes.append(
            "The days that remedies were trained on had no validation recording, so that one of a "
            "later day said when to stop."
        )
    return Days(train, test, before, after, stop, skip, tuple(notes))


def name_days(days: Sequence[int]) -> str:
    """Return days in words, counted from 1.

    Examples
    --------
    >>> name_days([0, 2])
    'Days 1 and 3'
    """
    words = [str(day + 1) for day in days]
    if len(words) == 1:
        return f"Day {words[0]}"
    return f"Days {', '.join(words[:-1])} and {words[-1]}"


def count_by_day(plan: ParticipantPlan, split: str) -> dict[int, int]:
    """Return the usable ambient windows of a split on each day that has some."""
    starts: Mapping[str, Start] = recording_starts(plan)
    counts: dict[int, int] = {}
    for piece in plan.select(PRETRAIN, plan.versions(PRETRAIN)[0], split):
        for day in starts[piece.recording].days(piece.brain_starts)[piece.usable]:
            counts[int(day)] = counts.get(int(day), 0) + 1
    return counts


def _cut(n_train: Mapping[int, int], test: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Return the days that remedies are trained on, and those after them that are tested.

    At least half of the training windows come before, if there is a tested day after that; else
    as many as there are before the last tested day.
    """
    total = sum(n_train.values())
    days = sorted(n_train)
    held = [sum(n_train[d] for d in days if d < t) for t in test]
    possible = [t for t, n in zip(test, held, strict=True) if n]
    if not possible:
        return (), ()
    large = [t for t, n in zip(test, held, strict=True) if n >= total / 2]
    first = min(large) if large else max(possible)
    return tuple(d for d in days if d < first), tuple(t for t in test if t >= first)


def _choose_skip(context: Context, after: Sequence[int]) -> tuple[float, list[str]]:
    """Return the minutes that belong to recalibration with its guard, and why there are none."""
    minutes = context.config.drift.recalibrate
    if not minutes or not after:
        return 0.0, []
    starts = recording_starts(context.plan)
    if any(np.isnan(starts[p.recording].hour) for p in context.plan.select(PRETRAIN)):
        return 0.0, [
            "Recalibration was left out: scans.tsv does not say when recordings began, so that the "
            "first minutes of a day are not known."
        ]
    few = [day for day in after if len(early_starts(context, day)) < FEWEST]
    skip = minutes + context.config.splits.guard / 60
    short = [day for day in after if _count_tested(context.plan, day, skip) < FEWEST_TESTED]
    if few or len(short) == len(after):
        which, purpose = name_days(few or short), "learn from" if few else "test on"
        return 0.0, [
            f"Recalibration was left out: the first {minutes:g} minutes of a day left too few "
            f"windows to {purpose} ({which.lower()})."
        ]
    return skip, []


def _count_tested(plan: ParticipantPlan, day: int, skip: float) -> int:
    subset = Subset(days=(day,), skip=skip)
    taken = take(plan, PRETRAIN, subset, split="test")
    return sum(p.n_usable for p in taken.select(PRETRAIN, plan.versions(PRETRAIN)[0], "test"))
