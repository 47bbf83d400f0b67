"""Channels of recordings brought to one mean and variance, over a day or as time goes by.

Preprocessing has scaled each recording by its own median and quartiles. What is left are changes
within a recording, and differences between recordings in how far their tails reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

_ROWS = 65536
_STEPS = 60  # in which the sliding window moves, per its length
# Of a channel in units of its interquartile range, were it normal; and how much past it is worth.
_PRIOR_VARIANCE = 1 / 1.349**2
_PRIOR_SHARE = 1 / 30  # of the sliding window


@dataclass(frozen=True)
class Level:
    """What is known of each channel.

    Attributes
    ----------
    n : tensor, shape (n_channels,)
        Samples; of recordings in which a channel does not vary, none.
    mean, variance : tensor, shape (n_channels,)
        0 where there is no sample.
    """

    n: torch.Tensor
    mean: torch.Tensor
    variance: torch.Tensor


def measure_level(parts: Sequence[torch.Tensor]) -> Level:
    """Return the level of channels over several recordings, each of shape (n_times, n_channels)."""
    sums = torch.zeros(3, parts[0].shape[1], dtype=torch.float64)
    for part in parts:
        blocks = part.split(_ROWS)
        total = sum(block.double().sum(0) for block in blocks)
        varies = (part != part[:1]).any(0)
        square = sum(block.double().square().sum(0) for block in blocks)
        sums += torch.stack([torch.full_like(total, len(part)), total, square]) * varies
    n = sums[0].clamp_min(1)
    mean = sums[1] / n
    return Level(sums[0], mean, (sums[2] / n - mean.square()).clamp_min(0))


def as_preprocessed(n_channels: int) -> Level:
    """Return the level that preprocessing leaves, were channels normal."""
    ones = torch.ones(n_channels, dtype=torch.float64)
    return Level(ones, 0 * ones, _PRIOR_VARIANCE * ones)


def match_level(parts: Sequence[torch.Tensor], reference: Level, n_prior: float) -> None:
    """Give channels mean 0 and the variance of `reference` over several recordings, in place.

    What is measured is drawn to the reference, as if `n_prior` further samples had been like it:
    a short recording says little about its own variance where signals have rare, large waves.

    Parameters
    ----------
    parts : sequence of tensor, shape (n_times, n_channels)
        In a recording in which it does not vary a channel becomes 0.
    reference : Level
        Channels of which nothing is known there are scaled to that of preprocessing.
    n_prior : float
        Samples.
    """
    own, usual = measure_level(parts), as_preprocessed(parts[0].shape[1])
    wanted = torch.where(reference.n > 0, reference.variance, usual.variance)
    share = own.n / (own.n + n_prior).clamp_min(1)
    variance = share * own.variance + (1 - share) * wanted
    factor = (wanted / variance.clamp_min(1e-12)).sqrt()
    for part in parts:
        varies = (part != part[:1]).any(0)
        for block in part.split(_ROWS):
            block.copy_((block.double() - share * own.mean) * factor * varies)


def standardise_sliding(signal: torch.Tensor, n_past: int) -> None:
    """Give every channel mean 0 and variance 1 by its own past, in place.

    Sample t is scaled by the mean and variance of up to `n_past` samples before it, none at or
    after it: they are those of whole steps of 1/60 of the window, the last of which ended before
    t. At the start, where there is little past, these are drawn to median 0 and an interquartile
    range of 1, which is how preprocessing has left the recording: as if 1/30 of the window had
    been so.

    Parameters
    ----------
    signal : tensor, shape (n_times, n_channels)
        Of one recording, in its interquartile ranges.
    n_past : int
        Samples.
    """
    step = max(1, n_past // _STEPS)
    prior = max(1.0, _PRIOR_SHARE * n_past)
    n_steps = -(-len(signal) // step)
    sums = torch.zeros(2, n_steps + 1, signal.shape[1], dtype=torch.float64)
    for number, block in enumerate(signal.split(step), start=1):
        known = block.double()
        sums[0, number], sums[1, number] = known.sum(0), known.square().sum(0)
    sums.cumsum_(dim=1)
    first = (torch.arange(n_steps) - max(1, n_past // step)).clamp_min(0)
    count = step * (torch.arange(n_steps) - first)[:, None] + prior
    past = sums[:, :-1] - sums[:, first]
    mean = past[0] / count
    variance = (past[1] + prior * _PRIOR_VARIANCE) / count - mean.square()
    factor = variance.clamp_min(1e-6).rsqrt()
    for number, block in enumerate(signal.split(step)):
        block.copy_((block.double() - mean[number]) * factor[number])
