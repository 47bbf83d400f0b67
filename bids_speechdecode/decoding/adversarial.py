"""Embeddings that do not tell the day: a classifier whose gradient is turned round.

The classifier learns to tell from the embedding on which day a window was recorded; what it would
like the encoder to change, the encoder does the other way round (Ganin and Lempitsky 2015,
arXiv:1409.7495). Training calls it as one more term of the loss, and it is thrown away afterwards.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

_WIDTH = 64


class _Reverse(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a negative number."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: float) -> torch.Tensor:
        ctx.weight = weight
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return -ctx.weight * gradient, None


class DayAdversary(nn.Module):
    """Cross-entropy of the days of windows, seen through their embeddings.

    Parameters
    ----------
    days : tensor of int64, shape (n_windows,)
        Of the training windows, from 0.
    dimension : int
        Of the embedding.
    weight : float
        Of the gradient that reaches the encoder; the classifier's own is not weighted.
    seed : int
        Of the classifier's first weights. The global state stays as it is.
    """

    def __init__(self, days: torch.Tensor, dimension: int, weight: float, seed: int) -> None:
        super().__init__()
        self.weight = weight
        self.days: torch.Tensor
        self.register_buffer("days", days, persistent=False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            first = nn.Linear(dimension, _WIDTH)
            self.classify = nn.Sequential(first, nn.ReLU(), nn.Linear(_WIDTH, int(days.max()) + 1))
        self._start = float(first.weight.detach().double().sum())

    def forward(self, embedding: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Return the cross-entropy of the windows in `index`, whose embeddings these are.

        Ranks depend on the direction of an embedding alone, so that is all that is seen; frames
        are averaged.
        """
        pooled = embedding.mean(dim=1) if embedding.ndim == 3 else embedding
        direction = functional.normalize(pooled.float(), dim=-1) * pooled.shape[-1] ** 0.5
        logits = self.classify(_Reverse.apply(direction, self.weight))
        return functional.cross_entropy(logits, self.days[index])

    def identity(self) -> list[float]:
        """Return what a checkpoint must agree with."""
        places = torch.arange(1, len(self.days) + 1, device=self.days.device)
        return [self.weight, float((places * self.days).sum()), self._start]
