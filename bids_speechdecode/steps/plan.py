"""What a participant's run will use: recordings, channels, audio, splits and windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from bids_speechdecode.bids.alignment import Alignment, Segment
from bids_speechdecode.bids.dataset import ElectrodesFile, Recording
from bids_speechdecode.errors import SpeechDecodeError
from bids_speechdecode.signals.montage import Montage, join_montages
from bids_speechdecode.timeline import Interval

SPLITS = ("train", "val", "test")
PRETRAIN, FINETUNE = "pretrain", "finetune"


@dataclass(frozen=True)
class PlannedRecording:
    """A recording that will be used, and how."""

    recording: Recording
    role: str  # PRETRAIN or FINETUNE
    sampling_rate: float
    n_times: int
    channel_names: tuple[str, ...]  # of the file
    kept: tuple[int, ...]  # indices into them
    dropped: tuple[tuple[str, str], ...]  # (channel name, reason)
    montages: Mapping[str, Montage]  # by the band of the signal: "slow", "highgamma"
    alignment: Alignment
    gaps: tuple[Interval, ...]
    electrodes: tuple[ElectrodesFile, ...] = ()  # those that can be read
    notes: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Name as in the file, e.g. ``sub-01_task-ambient_run-01``."""
        return self.recording.label

    @cached_property
    def montage(self) -> Montage:
        """The channels of all bands side by side."""
        return join_montages(tuple(self.montages.values()))

    @property
    def duration(self) -> float:
        """Seconds on the recording's clock."""
        return self.n_times / self.sampling_rate


@dataclass(frozen=True)
class Piece:
    """Windows of one split, cut from one stretch of one audio, as heard in one recording.

    ``audio_starts`` are on the audio's clock and ``brain_starts`` on the recording's (s);
    ``usable`` is False where the brain window leaves the recording or meets a gap or artifact.
    """

    recording: str
    role: str
    segment: int
    version: str  # "true" or "ambient"
    split: str
    block: int
    audio: Interval
    audio_starts: np.ndarray
    brain_starts: np.ndarray
    usable: np.ndarray

    @property
    def n_usable(self) -> int:
        """Count of usable windows."""
        return int(self.usable.sum())


@dataclass(frozen=True)
class ParticipantPlan:
    """Everything that a participant's run will use, and what it leaves out and why."""

    participant: str
    simulated: bool
    recordings: tuple[PlannedRecording, ...]
    pieces: tuple[Piece, ...]
    left_out: tuple[tuple[str, str], ...]
    errors: tuple[tuple[str, SpeechDecodeError], ...] = field(default=(), compare=False)

    def __getitem__(self, label: str) -> PlannedRecording:
        return next(r for r in self.recordings if r.label == label)

    def select(
        self, role: str, version: str | None = None, split: str | None = None
    ) -> list[Piece]:
        """Return the pieces of a role, and of a version and split where given."""
        return [
            p
            for p in self.pieces
            if p.role == role and version in (None, p.version) and split in (None, p.split)
        ]

    def versions(self, role: str) -> tuple[str, ...]:
        """Return the audio versions of a role, the primary one first."""
        present = {p.version for p in self.pieces if p.role == role}
        return tuple(v for v in ("true", "ambient") if v in present)

    def segment(self, piece: Piece) -> Segment:
        """Return the aligned audio segment that a piece was cut from."""
        return self[piece.recording].alignment.segments[piece.segment]


def primary_version(recordings: Sequence[PlannedRecording]) -> str:
    """Return the audio version that windows are cut by: the clean file where there is one."""
    versions = {s.version for r in recordings for s in r.alignment.segments}
    return "true" if "true" in versions else "ambient"
