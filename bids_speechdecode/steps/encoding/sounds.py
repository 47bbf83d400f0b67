"""Which sounds a participant heard, and when: what encoding models are fitted on.

Everything lies on the clock of the audio, so that whoever heard the same file shares its features.
"""

from __future__ import annotations

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
        In the order of the recordings; more than one where it was heard repeatedly or in parts.
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
    """Return the sounds of a plan, by name; the clean version where there is one."""
    version = primary_version(plan.recordings)
    found: dict[str, list[HeardSegment]] = {}
    for planned in plan.recordings:
        for segment in planned.alignment.segments:
            if segment.version == version:
                found.setdefault(source_name(planned, segment), []).append(
                    HeardSegment(planned, segment)
                )
    return tuple(_join(name, found[name]) for name in sorted(found))


def _join(name: str, hearings: Sequence[HeardSegment]) -> Sound:
    stretches = [heard_interval(h.segment) for h in hearings]
    whole = Interval(min(s.start for s in stretches), max(s.stop for s in stretches))
    return Sound(Path(name).name, whole, tuple(hearings))
