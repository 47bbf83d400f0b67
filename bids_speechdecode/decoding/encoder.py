"""The brain encoders: signal windows in, embeddings of the sound out.

All take (B, C, T) and return (B, d) for window means or (B, F, d) for targets with frames.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.nn import functional

from bids_speechdecode.decoding.checkpoint import write_tensors
from bids_speechdecode.decoding.encoder_spec import PRESETS, EncoderSpec, PresetName
from bids_speechdecode.decoding.layers import ConvBlock, TimeAttention, frame_matrix
from bids_speechdecode.decoding.spatial import Positions, SpatialAttention
from bids_speechdecode.errors import DataError, MissingInputError, UsageError


class Encoder(nn.Module, ABC):
    """An encoder that knows its own specification, in two parts: ``encode(mix(x))``.

    `mix` is affine and acts on each sample alone, `encode` is the rest. So what a change of few
    channels does to the mix is known without mixing all channels again:
    ``mix(x + dx) = mix(x) + mixing_weights() @ dx``.
    """

    spec: EncoderSpec

    @abstractmethod
    def mix(self, x: torch.Tensor) -> torch.Tensor:
        """Map channels, (B, C, T), to what the rest sees, (B, P, T)."""

    @abstractmethod
    def encode(self, z: torch.Tensor) -> torch.Tensor:
        """Map mixed channels, (B, P, T), to (B, d) or (B, F, d)."""

    @abstractmethod
    def mixing_weights(self) -> torch.Tensor:
        """Return the matrix of `mix` without its offset, shape (P, C)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, C, T) to (B, d) or (B, F, d)."""
        return self.encode(self.mix(x))

    def with_montage(self, positions_mm: Positions) -> Encoder:
        """Return an encoder with a copy of the weights that reads other channels.

        Parameters
        ----------
        positions_mm : Positions
            Of the channels of the other montage, in the space of this one's.

        Raises
        ------
        UsageError
            If this encoder knows its channels by number: it has no spatial attention.
        DataError
            If no channel has a position, or one lies outside the box.
        """
        if self.spec.spatial != "attention":
            raise UsageError(
                "Only an encoder with spatial attention can read another montage.",
                expected="--spatial attention",
                found=f"--spatial {self.spec.spatial}",
            )
        other = build_encoder(
            dataclasses.replace(self.spec, n_channels=len(positions_mm), positions_mm=positions_mm)
        )
        other.load_state_dict(self.state_dict())
        return other.to(next(self.parameters()).device).train(self.training)


class ConvEncoder(Encoder):
    """Projection, dilated convolutions with skips, then attention over time or frames.

    The convolutional network of Defossez et al. (2023) without its subject layers, with attention
    over time as in arXiv 2512.15830. With frames each output is the mean over its stretch of the
    window. With positions spatial attention comes before the projection, and the projection
    keeps its width.

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
    positions_mm : Positions, optional
        Of the channels, for spatial attention; without them each channel has weights of its own.
    """

    def __init__(
        self,
        n_channels: int,
        dimension: int,
        n_frames: int | None,
        n_samples: int,
        preset: PresetName = "paper",
        dropout: float = 0.0,
        positions_mm: Positions | None = None,
    ) -> None:
        super().__init__()
        self.spec = EncoderSpec(
            "conv",
            n_channels,
            n_samples,
            dimension,
            n_frames,
            preset,
            dropout,
            spatial="none" if positions_mm is None else "attention",
            positions_mm=positions_mm,
        )
        sizes = PRESETS[preset]
        n_in = n_channels
        if positions_mm is not None:
            self.spatial = SpatialAttention(positions_mm, sizes.n_projected)
            n_in = sizes.n_projected
        self.project = nn.Conv1d(n_in, sizes.n_projected, 1)
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
        return functional.conv1d(x, self.mixing_weights()[..., None], self.project.bias)

    def mixing_weights(self) -> torch.Tensor:
        """Return the matrix of `mix` without its offset, shape (P, C)."""
        weights = self.project.weight[:, :, 0]
        return weights if self.spec.positions_mm is None else weights @ self.spatial.weights()

    def encode(self, z: torch.Tensor) -> torch.Tensor:
        """Map mixed channels, (B, P, T), to (B, d) or (B, F, d)."""
        hidden = self.layers(z)
        if self.spec.n_frames is None:
            first, activation, last = self.output
            return self.attention(activation(first(hidden)), last)
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
    """Return a new encoder; the same seed gives the same weights. The global state stays as is.

    Raises
    ------
    DataError
        If spatial attention is asked for and there are no positions, or not one a channel.
    """
    spec.require_positions()
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
                spec.positions_mm,
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
    header = {**(metadata or {}), "encoder": encoder.spec.to_json()}
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
            spec = EncoderSpec.from_json((file.metadata() or {})["encoder"])
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
