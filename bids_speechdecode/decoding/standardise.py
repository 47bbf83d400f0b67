"""Channels of recordings brought to zero mean and unit variance, over a day or as time goes by.

Preprocessing has scaled each recording by its own median and quartiles. What is left are changes
within a recording, and differences between recordings in how far their tails reach.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

_ROWS = 65536
_STEPS = 60  # in which the sliding window moves, per its length
# Of a channel in units of its interquartile range, were it normal; and how much past it is worth.
_PRIOR_VARIANCE = 1 / 1.349**2
_PRIOR_SHARE = 1 / 30  # of the sliding window


def standardise_together(parts: Sequence[torch.Tensor]) -> None:
    """Give every channel mean 0 and variance 1 over several recordings taken together, in place.

    Parameters
    ----------
    parts : sequence of tensor, shape (n_times, n_channels)
        A channel that does not vary becomes 0.
    """
    n = sum(len(part) for part in parts)
    mean = sum(block.double().sum(0) for part in parts for block in part.split(_ROWS)) / n
    square = sum(
        (block.double() - mean).square().sum(0) for part in parts for block in part.split(_ROWS)
    )
    scale = (square / n).sqrt()
    factor = torch.where(scale > 1e-9, 1 / scale.clamp_min(1e-9), 0.0)
    for part in parts:
        for block in part.split(_ROWS):
            block.copy_((block.double() - mean) * factor)


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
