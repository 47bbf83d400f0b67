"""Parts of the windows: a share of the files, some days, some hours of the day."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace

import numpy as np

from bids_speechdecode.steps.experiments.times import Start, recording_starts
from bids_speechdecode.steps.plan import PRETRAIN, ParticipantPlan, Piece


@dataclass(frozen=True)
class Subset:
    """Which windows of a role and split; by default all.

    Attributes
    ----------
    share : float
        Of the usable windows, above 0. Whole units are taken in a random order until they hold it:
        recording files for pretraining, blocks of the task; at least one. Nested: a small share is
        part of every larger one of the same seed.
    days : tuple of int
        Since the participant's first recording; none: all.
    hours : (float, float), optional
        Of the day, from the first to before the second; over midnight if the first is larger.
    skip : float
        Minutes that are left out of each day, from the first window of the role on; where hours
        are not known, nothing is left.
    """

    share: float = 1.0
    days: tuple[int, ...] = ()
    hours: tuple[float, float] | None = None
    skip: float = 0.0


ALL = Subset()
Keep = Callable[[Piece], np.ndarray]


def take(
    plan: ParticipantPlan, role: str, subset: Subset, *, seed: int = 0, split: str = "train"
) -> ParticipantPlan:
    """Return the plan with a part of the windows of a role and split; all else stays.

    Pieces stay, since the targets of a sound belong to all of its pieces; their windows do not.

    Parameters
    ----------
    plan : ParticipantPlan
    role : str
    subset : Subset
    seed : int
        Of the order in which shares are taken.
    split : str
    """
    if subset.days or subset.hours or subset.skip:
        starts, begins = recording_starts(plan), day_begins(plan, role)
        plan = _replace(
            plan, role, split, lambda p: p.usable & _is_in(starts[p.recording], p, subset, begins)
        )
    if subset.share >= 1:
        return plan
    taken = _draw_units(plan.select(role, split=split), subset.share, seed)
    return _replace(plan, role, split, lambda piece: piece.usable & (_unit(piece) in taken))


def _replace(plan: ParticipantPlan, role: str, split: str, keep: Keep) -> ParticipantPlan:
    pieces = tuple(
        replace(p, usable=keep(p)) if p.role == role and p.split == split else p
        for p in plan.pieces
    )
    return replace(plan, pieces=pieces)


def day_begins(plan: ParticipantPlan, role: str) -> dict[int, float]:
    """Return when the first window of each day starts, used or not, on `Start.clock` (s)."""
    starts, begins = recording_starts(plan), dict[int, float]()
    for piece in plan.select(role):
        start = starts[piece.recording]
        clock = start.clock(piece.brain_starts)
        for day, time in zip(start.days(piece.brain_starts), clock, strict=True):
            begins[int(day)] = min(begins.get(int(day), np.inf), float(time))
    return begins


def _is_in(start: Start, piece: Piece, subset: Subset, begins: dict[int, float]) -> np.ndarray:
    """Return which windows of a piece lie in the days and hours of a subset."""
    inside = np.ones(len(piece.brain_starts), dtype=bool)
    if subset.days:
        inside &= np.isin(start.days(piece.brain_starts), subset.days)
    if subset.hours:
        hours, (low, high) = start.hours(piece.brain_starts), subset.hours
        inside &= (hours >= low) & (hours < high) if low < high else (hours >= low) | (hours < high)
    if subset.skip:
        first = [begins[int(day)] for day in start.days(piece.brain_starts)]
        inside &= start.clock(piece.brain_starts) >= np.array(first) + 60 * subset.skip
    return inside


def _draw_units(pieces: list[Piece], share: float, seed: int) -> set[Hashable]:
    counts: dict[Hashable, int] = {}
    for piece in pieces:
        unit = _unit(piece)
        counts[unit] = counts.get(unit, 0) + piece.n_usable
    units = sorted((unit for unit in counts if counts[unit]), key=str)
    wanted, taken = share * sum(counts.values()), set[Hashable]()
    for index in np.random.default_rng([seed, 7]).permutation(len(units)):
        taken.add(units[index])
        if sum(counts[u] for u in taken) >= wanted:
            break
    return taken


def _unit(piece: Piece) -> Hashable:
    return piece.recording if piece.role == PRETRAIN else piece.block


def count_windows(plan: ParticipantPlan, role: str, split: str = "train") -> int:
    """Return the usable windows of a role and split, in the primary version of its sound."""
    version = plan.versions(role)[0]
    return sum(p.n_usable for p in plan.select(role, version, split))
