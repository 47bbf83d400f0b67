"""Layers of the encoders: normalisation over all processes, convolution, means over time."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional


class _SumOverRanks(torch.autograd.Function):
    """Sum of a tensor over all processes; so is its gradient."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation over the joint batch of all processes.

    PyTorch's own synchronised version runs on GPUs only. With one process this is its
    ordinary `BatchNorm1d`.
    """

    momentum: float
    running_mean: torch.Tensor
    running_var: torch.Tensor
    num_batches_tracked: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise `x`, shape (B, C, T), per channel."""
        if not (self.training and dist.is_available() and dist.is_initialized()):
            return super().forward(x)
        x32 = x.float()
        count = x.new_tensor(float(x.shape[0] * x.shape[2]), dtype=torch.float32)
        dist.all_reduce(count)
        mean = _SumOverRanks.apply(x32.sum((0, 2))) / count
        centered = x32 - mean[:, None]
        variance = _SumOverRanks.apply(centered.square().sum((0, 2))) / count
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        gain = self.weight * torch.rsqrt(variance + self.eps)
        return (centered * gain[:, None] + self.bias[:, None]).to(x.dtype)


class ConvBlock(nn.Module):
    """Dilated convolution, batch norm, GELU, dropout; with a skip where the shapes match."""

    def __init__(self, n_in: int, n_out: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.skips = n_in == n_out
        self.layers = nn.Sequential(
            nn.Conv1d(n_in, n_out, 3, padding=dilation, dilation=dilation),
            BatchNorm(n_out),
            nn.GELU(),
            nn.Dropout(dropout),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, n_in, T) to (B, n_out, T)."""
        out = self.layers(x)
        return x + out if self.skips else out


class TimeAttention(nn.Module):
    """Weighted mean over time, ``sum_t softmax_t(v . tanh(W m_t)) m_t`` with ``m_t = M x_t``.

    Attention of Bahdanau et al. (2015) over the outputs of a last linear map `M`. The weights sum
    to one, so the mean goes first and `M` is applied once a window instead of once a sample; the
    scores need ``W M`` alone, a smaller matrix. This is the same function, up to rounding.
    """

    def __init__(self, dimension: int, n_hidden: int) -> None:
        super().__init__()
        self.hidden = nn.Conv1d(dimension, n_hidden, 1)
        self.score = nn.Conv1d(n_hidden, 1, 1, bias=False)

    def forward(self, x: torch.Tensor, last: nn.Conv1d) -> torch.Tensor:
        """Map (B, n, T) to (B, d).

        Parameters
        ----------
        x : tensor, shape (B, n, T)
        last : Conv1d
            The map `M` and its offset: n channels to d, kernel 1.
        """
        weight, offset = last.weight[:, :, 0], last.bias
        assert offset is not None
        hidden_weight = self.hidden.weight[:, :, 0] @ weight
        hidden_offset = functional.linear(offset, self.hidden.weight[:, :, 0], self.hidden.bias)
        hidden = functional.conv1d(x, hidden_weight[..., None], hidden_offset)
        share = self.score(torch.tanh(hidden)).softmax(dim=-1)  # (B, 1, T)
        return functional.linear((x * share).sum(dim=-1), weight, offset)


def frame_matrix(n_samples: int, n_frames: int) -> torch.Tensor:
    """Return the means over `n_frames` equal stretches as a matrix, shape (n_samples, n_frames).

    A sample that straddles two frames counts for each by its share. A matrix product, unlike
    adaptive pooling, has a reproducible gradient on every device.
    """
    edges = torch.linspace(0, n_samples, n_frames + 1, dtype=torch.float64)
    first = torch.arange(n_samples, dtype=torch.float64)[:, None]
    overlap = torch.minimum(edges[1:], first + 1) - torch.maximum(edges[:-1], first)
    return (overlap.clamp(min=0) * n_frames / n_samples).float()
