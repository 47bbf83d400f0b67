"""Which sounds a participant heard, and when: what encoding models are fitted on.

Everything lies on the clock of the audio, so that whoever heard the same file shares its features.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bids_speechdecode.bids.alignment import Segment
from bids_speechdecode.steps.cut import heard_interval, source_name
from bids_speechdecode.steps.plan import ParticipantPlan, PlannedRecording, primary_version
from bids_speechdecode.timeline import Interval, sample_at


@dataclass(frozen=True)
class HeardSegment:
    """One stretch of a recording in which a sound was heard."""

    planned: PlannedRecording
    segment: Segment

    def sample_times(self, times: np.ndarray) -> np.ndarray:
        """Return when times of the audio were heard, on the recording's clock (s)."""
        clock = self.segment.clock
        return (np.asarray(times, float) - clock.offset) / clock.slope


@dataclass(frozen=True)
class Sound:
    """One audio and all that a participant heard of it.

    Attributes
    ----------
    name : str
        File name, or recording and channel.
    interval : Interval
        From the first to the last moment that was heard, seconds of the audio.
    hearings : tuple of HeardSegment
        In the order of the recordings and of time; more than one where it was heard repeatedly
        or in parts.
    """

    name: str
    interval: Interval
    hearings: tuple[HeardSegment, ...]

    @property
    def path(self) -> Path | None:
        """The file, or None where the sound is a channel of the recording."""
        return self.hearings[0].segment.source.path

    def times(self, rate: float) -> np.ndarray:
        """Return the times of the samples on the audio's clock (s)."""
        n = max(1, sample_at(self.interval.duration, rate))
        return self.interval.start + np.arange(n) / rate


def list_sounds(plan: ParticipantPlan) -> tuple[Sound, ...]:
    """Return the sounds of a plan as they were first heard; the clean version where there is one.

    So that a fold, which takes sounds as they come, is a stretch of the session. Recordings follow
    each other by their names, with ``run-2`` before ``run-10``.
    """
    version = primary_version(plan.recordings)
    heard = [
        HeardSegment(planned, segment)
        for planned in plan.recordings
        for segment in planned.alignment.segments
        if segment.version == version
    ]
    found: dict[str, list[HeardSegment]] = {}
    for hearing in sorted(heard, key=_when):
        found.setdefault(source_name(hearing.planned, hearing.segment), []).append(hearing)
    return tuple(_join(name, hearings) for name, hearings in found.items())


def _when(hearing: HeardSegment) -> tuple[list[tuple[int, str]], float]:
    """Return what orders hearings: recordings by name, numbers in it as numbers, then time."""
    parts = re.split(r"(\d+)", hearing.planned.label)
    named = [(int(part), "") if part.isdigit() else (-1, part) for part in parts]
    return named, hearing.segment.interval.start


def _join(name: str, hearings: Sequence[HeardSegment]) -> Sound:
    stretches = [heard_interval(h.segment) for h in hearings]
    whole = Interval(min(s.start for s in stretches), max(s.stop for s in stretches))
    return Sound(Path(name).name, whole, tuple(hearings))
