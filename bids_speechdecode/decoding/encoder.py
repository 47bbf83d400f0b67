"""The brain encoders: signal windows in, embeddings of the sound out.

All take (B, C, T) and return (B, d) for window means or (B, F, d) for targets with frames.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from torch import nn

from bids_speechdecode.decoding.checkpoint import write_tensors
from bids_speechdecode.errors import DataError, MissingInputError

PresetName = Literal["paper", "small"]


@dataclass(frozen=True)
class Preset:
    """Widths and dilations of the convolutional encoder."""

    n_projected: int
    n_hidden: int
    dilations: tuple[int, ...]
    n_output: int
    n_attention: int


PRESETS: dict[PresetName, Preset] = {
    # The public reconstruction: about 7.3 million parameters at 200 channels and 1,024 dimensions.
    "paper": Preset(270, 320, (1, 2, 4, 8, 16) * 2, 640, 256),
    # The same design, narrow and shallow: trains on a CPU; an output sees 35 samples.
    "small": Preset(32, 48, (1, 2, 4, 8), 96, 32),
}


@dataclass(frozen=True)
class EncoderSpec:
    """What is needed, besides the weights, to build an encoder again."""

    kind: Literal["conv", "linear"]
    n_channels: int
    n_samples: int
    dimension: int
    n_frames: int | None = None
    preset: PresetName = "paper"
    dropout: float = 0.0
    head: int | None = None  # output dimension of a linear head on top


class Encoder(nn.Module):
    """An encoder that knows its own specification, in two parts: ``encode(mix(x))``.

    `mix` is affine and acts on each sample alone, `encode` is the rest. So what a change of few
    channels does to the mix is known without mixing all channels again:
    ``mix(x + dx) = mix(x) + mixing_weights() @ dx``.
    """

    spec: EncoderSpec

    def mix(self, x: torch.Tensor) -> torch.Tensor:
        """Map channels, (B, C, T), to what the rest sees, (B, P, T)."""
        raise NotImplementedError

    def encode(self, z: torch.Tensor) -> torch.Tensor:
        """Map mixed channels, (B, P, T), to (B, d) or (B, F, d)."""
        raise NotImplementedError

    def mixing_weights(self) -> torch.Tensor:
        """Return the matrix of `mix` without its offset, shape (P, C)."""
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, C, T) to (B, d) or (B, F, d)."""
        return self.encode(self.mix(x))


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
    """Weighted mean over time, ``sum_t softmax_t(v . tanh(W x_t)) x_t`` (Bahdanau et al., 2015)."""

    def __init__(self, dimension: int, n_hidden: int) -> None:
        super().__init__()
        self.hidden = nn.Conv1d(dimension, n_hidden, 1)
        self.score = nn.Conv1d(n_hidden, 1, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, d, T) to (B, d)."""
        weights = self.score(torch.tanh(self.hidden(x))).softmax(dim=-1)  # (B, 1, T)
        return (x * weights).sum(dim=-1)


def frame_matrix(n_samples: int, n_frames: int) -> torch.Tensor:
    """Return the means over `n_frames` equal stretches as a matrix, shape (n_samples, n_frames).

    A sample that straddles two frames counts for each by its share. A matrix product, unlike
    adaptive pooling, has a reproducible gradient on every device.
    """
    edges = torch.linspace(0, n_samples, n_frames + 1, dtype=torch.float64)
    first = torch.arange(n_samples, dtype=torch.float64)[:, None]
    overlap = torch.minimum(edges[1:], first + 1) - torch.maximum(edges[:-1], first)
    return (overlap.clamp(min=0) * n_frames / n_samples).float()


class ConvEncoder(Encoder):
    """Projection, dilated convolutions with skips, then attention over time or frames.

    The convolutional network of Defossez et al. (2023) without its subject layers and spatial
    attention, with attention over time as in arXiv 2512.15830. With frames each output is the
    mean over its stretch of the window.

    Parameters
    ----------
    n_channels, dimension : int
        Of the signal and of the targets.
    n_frames : int or None
        Frames of a target; None for a window mean.
    n_samples : int
        Length of a window.
    preset : {"paper", "small"}
    dropout : float
        After every convolutional layer.
    """

    def __init__(
        self,
        n_channels: int,
        dimension: int,
        n_frames: int | None,
        n_samples: int,
        preset: PresetName = "paper",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.spec = EncoderSpec("conv", n_channels, n_samples, dimension, n_frames, preset, dropout)
        sizes = PRESETS[preset]
        self.project = nn.Conv1d(n_channels, sizes.n_projected, 1)
        layers: list[nn.Module] = []
        n_in = sizes.n_projected
        for number, dilation in enumerate(sizes.dilations, start=1):
            layers.append(ConvBlock(n_in, sizes.n_hidden, dilation, dropout))
            n_in = sizes.n_hidden
            if number % 2 == 0:
                layers += [nn.Conv1d(n_in, 2 * n_in, 3, padding=1), nn.GLU(dim=1)]
        self.layers = nn.Sequential(*layers)
        self.output = nn.Sequential(
            nn.Conv1d(n_in, sizes.n_output, 1), nn.GELU(), nn.Conv1d(sizes.n_output, dimension, 1)
        )
        if n_frames is None:
            self.attention = TimeAttention(dimension, sizes.n_attention)
        else:
            frames = frame_matrix(n_samples, n_frames)
            self.register_buffer("frames", frames, persistent=False)

    def mix(self, x: torch.Tensor) -> torch.Tensor:
        """Map channels, (B, C, T), to what the rest sees, (B, P, T)."""
        return self.project(x)

    def mixing_weights(self) -> torch.Tensor:
        """Return the matrix of `mix` without its offset, shape (P, C)."""
        return self.project.weight[:, :, 0]

    def encode(self, z: torch.Tensor) -> torch.Tensor:
        """Map mixed channels, (B, P, T), to (B, d) or (B, F, d)."""
        hidden = self.layers(z)
        if self.spec.n_frames is None:
            return self.attention(self.output(hidden))
        return self.output(hidden @ self.frames).transpose(1, 2)


class LinearEncoder(Encoder):
    """The linear baseline.

    Window mean: one weight for every channel and sample (flatten, then a linear map). Frames: a
    linear filter of 1/3 of the window, shared by all frames, whose output is averaged over each
    frame; a weight for every pair of sample and frame would be as many parameters as 30 baselines.
    """

    def __init__(
        self, n_channels: int, n_samples: int, dimension: int, n_frames: int | None = None
    ) -> None:
        super().__init__()
        self.spec = EncoderSpec("linear", n_channels, n_samples, dimension, n_frames)
        if n_frames is None:
            self.linear: nn.Module = nn.Linear(n_channels * n_samples, dimension)
        else:
            reach = max(1, n_samples // 6)
            self.linear = nn.Conv1d(n_channels, dimension, 2 * reach + 1, padding=reach)
            frames = frame_matrix(n_samples, n_frames)
            self.register_buffer("frames", frames, persistent=False)

    def mix(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x`, (B, C, T): no channels are mixed before time is."""
        return x

    def mixing_weights(self) -> torch.Tensor:
        """Return the identity, shape (C, C)."""
        return torch.eye(self.spec.n_channels, device=next(self.parameters()).device)

    def encode(self, z: torch.Tensor) -> torch.Tensor:
        """Map (B, C, T) to (B, d) or (B, F, d)."""
        if self.spec.n_frames is None:
            return self.linear(z.flatten(1))
        return (self.linear(z) @ self.frames).transpose(1, 2)


class WithHead(Encoder):
    """An encoder with a linear head on its output.

    The head starts as the identity where it keeps the dimension, so that finetuning starts from
    the zero-shot model.
    """

    def __init__(self, encoder: Encoder, dimension: int) -> None:
        super().__init__()
        self.spec = dataclasses.replace(encoder.spec, head=dimension)
        self.encoder = encoder
        self.head = nn.Linear(encoder.spec.dimension, dimension)
        if dimension == encoder.spec.dimension:
            nn.init.eye_(self.head.weight)
            nn.init.zeros_(self.head.bias)

    def mix(self, x: torch.Tensor) -> torch.Tensor:
        """Map channels, (B, C, T), to what the rest sees, (B, P, T)."""
        return self.encoder.mix(x)

    def mixing_weights(self) -> torch.Tensor:
        """Return the matrix of `mix` without its offset, shape (P, C)."""
        return self.encoder.mixing_weights()

    def encode(self, z: torch.Tensor) -> torch.Tensor:
        """Map mixed channels, (B, P, T), to (B, d) or (B, F, d)."""
        return self.head(self.encoder.encode(z))


def build_encoder(spec: EncoderSpec, seed: int = 0) -> Encoder:
    """Return a new encoder; the same seed gives the same weights. The global state stays as is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder: Encoder
        if spec.kind == "conv":
            encoder = ConvEncoder(
                spec.n_channels,
                spec.dimension,
                spec.n_frames,
                spec.n_samples,
                spec.preset,
                spec.dropout,
            )
        else:
            encoder = LinearEncoder(spec.n_channels, spec.n_samples, spec.dimension, spec.n_frames)
        return encoder if spec.head is None else WithHead(encoder, spec.head)


def n_parameters(encoder: nn.Module) -> int:
    """Return the number of trainable numbers in an encoder."""
    return sum(parameter.numel() for parameter in encoder.parameters())


def save_encoder(path: Path, encoder: Encoder, metadata: Mapping[str, str] | None = None) -> None:
    """Write weights and specification to a safetensors file, all or nothing.

    Parameters
    ----------
    path : Path
    encoder : Encoder
    metadata : mapping of str to str, optional
        Written into the header beside the specification, for people to read.
    """
    header = {**(metadata or {}), "encoder": json.dumps(dataclasses.asdict(encoder.spec))}
    write_tensors(path, encoder.state_dict(), header)


def load_encoder(path: Path, device: torch.device | str = "cpu") -> Encoder:
    """Return the encoder that `save_encoder` wrote, in evaluation mode.

    Raises
    ------
    MissingInputError
        If there is no such file.
    DataError
        If the file is not one of ours or its weights do not fit its specification.
    """
    if not path.is_file():
        raise MissingInputError("The saved encoder is missing.", where=path)
    try:
        with safe_open(path, framework="pt") as file:
            spec = EncoderSpec(**json.loads((file.metadata() or {})["encoder"]))
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        encoder = build_encoder(spec)
        encoder.load_state_dict(weights)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            "The saved encoder cannot be read.",
            expected="a safetensors file written by this program",
            found=str(error).splitlines()[0],
            where=path,
            fix="remove the file and run again",
        ) from error
    return encoder.to(device).eval()
