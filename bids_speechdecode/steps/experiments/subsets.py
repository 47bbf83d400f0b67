"""Shares of the training data, nested: a small share is part of every larger one."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace

import numpy as np

from bids_speechdecode.steps.plan import PRETRAIN, ParticipantPlan, Piece


def take_share(plan: ParticipantPlan, role: str, share: float, seed: int) -> ParticipantPlan:
    """Return the plan with a share of the training windows of a role; all else stays.

    Whole units are taken in a random order until they hold the share of the usable windows:
    recording files for pretraining, blocks of the task. At least one is taken.

    Parameters
    ----------
    plan : ParticipantPlan
    role : str
    share : float
        Of the usable training windows, above 0; 1 keeps all.
    seed : int
        Of the order, in which all shares of one seed are nested.
    """
    if share >= 1:
        return plan
    training = plan.select(role, split="train")
    counts: dict[Hashable, int] = {}
    for piece in training:
        unit = _unit(piece)
        counts[unit] = counts.get(unit, 0) + piece.n_usable
    units = sorted(counts, key=str)
    rng = np.random.default_rng([seed, 7])
    wanted, taken = share * sum(counts.values()), set()
    for index in rng.permutation(len(units)):
        taken.add(units[index])
        if sum(counts[u] for u in taken) >= wanted:
            break
    # Pieces stay, since the targets of a sound belong to all of its pieces; their windows do not.
    kept = tuple(
        p
        if p.role != role or p.split != "train" or _unit(p) in taken
        else replace(p, usable=np.zeros_like(p.usable))
        for p in plan.pieces
    )
    return replace(plan, pieces=kept)


def _unit(piece: Piece) -> Hashable:
    return piece.recording if piece.role == PRETRAIN else piece.block


def count_windows(plan: ParticipantPlan, role: str) -> int:
    """Return the usable training windows of a role, in the primary version of its sound."""
    version = plan.versions(role)[0]
    return sum(p.n_usable for p in plan.select(role, version, "train"))
