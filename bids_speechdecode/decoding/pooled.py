"""One encoder of several participants: a shared body, and an entrance for each one's channels.

Electrodes lie elsewhere in everybody, so channels of two participants have nothing in common by
number. Without spatial attention each participant has a projection of their own (the subject
layers of Defossez et al., 2023, Nature Machine Intelligence 5, 1097-1107, here from channels
instead of after a projection that all share, since the montages differ in number). With spatial
attention channels enter by their place: the maps are shared, and everybody brings positions only.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from bids_speechdecode.decoding.checkpoint import write_tensors
from bids_speechdecode.decoding.encoder import ConvEncoder, Encoder, build_encoder
from bids_speechdecode.decoding.encoder_spec import EncoderSpec
from bids_speechdecode.decoding.spatial import SpatialAttention
from bids_speechdecode.decoding.windows import Signal, WindowSet
from bids_speechdecode.errors import DataError, MissingInputError, UsageError

# What a body fits or does not: everything but the montage, and dropout, which has no weights.
_FIXED = ("kind", "preset", "spatial", "n_samples", "dimension", "n_frames")


@dataclass(frozen=True)
class MemberWindows(WindowSet):
    """Windows of one of several participants.

    Attributes
    ----------
    member : int
        Number of the participant in the pooled encoder.
    """

    member: int

    def read(self, index: torch.Tensor) -> Signal:
        """Return what a pooled encoder reads: whose windows, and the signal, (B, C, T)."""
        return self.member, self.brain(index)


@dataclass(frozen=True)
class PooledWindows:
    """The windows of several participants, each batch of one of them.

    So the negatives of a batch are sounds that the same participant heard, and telling rooms
    apart is of no use. All signals are on the device at the same time.

    Attributes
    ----------
    parts : tuple of MemberWindows
    """

    parts: tuple[MemberWindows, ...]

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    @property
    def device(self) -> torch.device:
        """Where signals and targets live."""
        return self.parts[0].device

    def n_batches(self, size: int) -> int:
        """Return the number of batches of at most `size` windows."""
        return sum(math.ceil(len(part) / size) for part in self.parts)

    def batches(
        self, size: int, order: torch.Generator | None = None
    ) -> list[tuple[WindowSet, torch.Tensor]]:
        """Return every window of every participant once, as (set, index) of batches.

        Participants come in random order, each as often as they have batches.

        Parameters
        ----------
        size : int
            Windows of a batch, at most.
        order : torch.Generator, optional
            Draws the order of windows and batches; without it they come as they are.
        """
        batches = [batch for part in self.parts for batch in part.batches(size, order)]
        if order is None:
            return batches
        return [batches[i] for i in torch.randperm(len(batches), generator=order).tolist()]


def pool_windows(sets: Sequence[WindowSet]) -> PooledWindows:
    """Return the windows of several participants, numbered in the order given."""
    return PooledWindows(
        tuple(
            MemberWindows(s.signal, s.starts, s.n_samples, s.targets, number)
            for number, s in enumerate(sets)
        )
    )


class PooledEncoder(nn.Module):
    """Entrances of several participants into one body: ``body.encode(entrance_n(x))``.

    Batch statistics are those of the participant whose batch it is; the running ones, which
    validation uses, are of all.

    Parameters
    ----------
    specs : sequence of EncoderSpec
        Of each participant's own encoder; they differ in their channels alone.
    seed : int
        Of the first weights.

    Raises
    ------
    UsageError
        The encoder is the linear one, which has no body, or the participants' windows or targets
        have different shapes.
    """

    def __init__(self, specs: Sequence[EncoderSpec], seed: int = 0) -> None:
        super().__init__()
        for spec in specs:
            _require_fit(specs[0], spec)
        body = build_encoder(specs[0], seed)
        if not isinstance(body, ConvEncoder):
            raise UsageError(
                "only the convolutional encoder can be pooled: the linear one has a weight for "
                "every channel and nothing that participants could share",
                expected="kind conv in [encoder]",
                found=f"kind {specs[0].kind}",
            )
        self.body = body
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + 1)
            others = [_new_entrance(body, spec) for spec in specs[1:]]
        self.entrances = nn.ModuleList([_own_entrance(body), *others])

    @property
    def spec(self) -> EncoderSpec:
        """Of the first participant's encoder."""
        return self.body.spec

    def forward(self, signal: tuple[int, torch.Tensor]) -> torch.Tensor:
        """Map a participant's windows, (number, (B, C, T)), to (B, d) or (B, F, d)."""
        number, x = signal
        return self.body.encode(self.entrances[number](x))


def _own_entrance(body: ConvEncoder) -> nn.Module:
    if body.spec.spatial == "attention":
        return nn.Sequential(body.spatial, body.project)
    return body.project


def _new_entrance(body: ConvEncoder, spec: EncoderSpec) -> nn.Module:
    if spec.positions_mm is None:
        return nn.Conv1d(spec.n_channels, body.project.out_channels, 1)
    spatial = SpatialAttention(spec.positions_mm, len(body.spatial.coefficients))
    spatial.coefficients = body.spatial.coefficients
    return nn.Sequential(spatial, body.project)


def save_body(path: Path, encoder: PooledEncoder) -> None:
    """Write what all participants share to a safetensors file, all or nothing."""
    own = _own_names(encoder.spec)
    weights = {k: v for k, v in encoder.body.state_dict().items() if not k.startswith(own)}
    write_tensors(path, weights, {"body": encoder.spec.to_json()})


def _own_names(spec: EncoderSpec) -> tuple[str, ...]:
    """Return how the names of the weights begin that are a participant's own."""
    return () if spec.spatial == "attention" else ("project.",)


@dataclass(frozen=True)
class Body:
    """What several participants share.

    Attributes
    ----------
    spec : EncoderSpec
        Of an encoder that it is part of.
    weights : dict of str to tensor
    """

    spec: EncoderSpec
    weights: dict[str, torch.Tensor]


def load_body(path: Path) -> Body:
    """Return what `save_body` wrote.

    Raises
    ------
    MissingInputError
        There is no such file.
    UsageError
        It is no pooled checkpoint.
    """
    if not path.is_file():
        raise MissingInputError("the pooled checkpoint does not exist", where=path)
    try:
        with safe_open(path, framework="pt") as file:
            spec = EncoderSpec.from_json((file.metadata() or {})["body"])
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UsageError(
            "the file is no pooled checkpoint",
            expected="a file that the group level wrote with --pool",
            found=str(error).splitlines()[0],
            where=path,
        ) from error
    return Body(spec, weights)


def take_over(encoder: Encoder, body: Body) -> None:
    """Replace all weights of an encoder by those of a body but a projection of its channels.

    Raises
    ------
    UsageError
        They are of different shapes.
    DataError
        The file's weights are not those of its own specification.
    """
    _require_fit(body.spec, encoder.spec)
    own = _own_names(encoder.spec)
    needed = {name for name in encoder.state_dict() if not name.startswith(own)}
    try:
        if needed != body.weights.keys():
            raise RuntimeError(f"weights {sorted(needed ^ body.weights.keys())}")
        encoder.load_state_dict(body.weights, strict=False)
    except RuntimeError as error:
        raise DataError(
            "the pooled checkpoint is damaged",
            expected="the weights of the encoder that its header describes",
            found=str(error).splitlines()[-1].strip(),
            fix="make it again: group --pool",
        ) from error


def _require_fit(expected: EncoderSpec, found: EncoderSpec) -> None:
    ours, theirs = (dataclasses.asdict(spec) for spec in (expected, found))
    different = [name for name in _FIXED if ours[name] != theirs[name]]
    if different:
        raise UsageError(
            "a pooled encoder and a participant's encoder are of different shapes",
            expected=", ".join(f"{name} {ours[name]}" for name in different),
            found=", ".join(f"{name} {theirs[name]}" for name in different),
            fix="use the settings ([encoder], [target], [windows], rate) of the pooled checkpoint",
        )
