"""Time: intervals in seconds, the clock map between recording and audio, one rounding rule."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple


class Interval(NamedTuple):
    """A half-open stretch of time ``[start, stop)`` in seconds."""

    start: float
    stop: float

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return self.stop - self.start

    def overlaps(self, other: Interval) -> bool:
        """Return whether the two intervals share more than an end point."""
        return self.start < other.stop and other.start < self.stop

    def contains(self, other: Interval) -> bool:
        """Return whether `other` lies wholly inside."""
        return self.start <= other.start and other.stop <= self.stop


@dataclass(frozen=True)
class ClockMap:
    """The linear map ``audio_time = slope * recording_time + offset`` (seconds).

    A slope of 1 means that both clocks run at the same speed.
    """

    slope: float = 1.0
    offset: float = 0.0

    def to_audio(self, recording_time: float) -> float:
        """Return the audio time of a time on the recording's clock."""
        return self.slope * recording_time + self.offset

    def to_recording(self, audio_time: float) -> float:
        """Return the recording time of a time in the audio file."""
        return (audio_time - self.offset) / self.slope

    @property
    def drift_ppm(self) -> float:
        """Speed of the audio clock relative to the recording's, in parts per million."""
        return (self.slope - 1.0) * 1e6


def sample_at(time: float, rate: float) -> int:
    """Return the index of the sample nearest to `time`; halves go up.

    The only place where seconds become samples: ``floor(time * rate + 0.5)``. The product is
    first rounded to 1e-6 samples, so that 0.3 s x 10 Hz is sample 3 whatever binary floats say.
    """
    return math.floor(round(time * rate, 6) + 0.5)


def merge_intervals(intervals: Iterable[Interval]) -> list[Interval]:
    """Return the union as sorted intervals that neither overlap nor touch."""
    merged: list[Interval] = []
    for start, stop in sorted(intervals):
        if stop <= start:
            continue
        if merged and start <= merged[-1].stop:
            merged[-1] = Interval(merged[-1].start, max(merged[-1].stop, stop))
        else:
            merged.append(Interval(start, stop))
    return merged


def intersect_intervals(a: Iterable[Interval], b: Iterable[Interval]) -> list[Interval]:
    """Return the parts of `a` that lie in `b`, sorted."""
    b_merged = merge_intervals(b)
    return [
        Interval(max(x.start, y.start), min(x.stop, y.stop))
        for x in merge_intervals(a)
        for y in b_merged
        if x.overlaps(y)
    ]


def subtract_intervals(a: Iterable[Interval], b: Iterable[Interval]) -> list[Interval]:
    """Return the parts of `a` that do not lie in `b`, sorted."""
    holes = merge_intervals(b)
    remaining: list[Interval] = []
    for start, stop in merge_intervals(a):
        for hole in holes:
            if hole.stop <= start or hole.start >= stop:
                continue
            if hole.start > start:
                remaining.append(Interval(start, hole.start))
            start = max(start, hole.stop)
        if start < stop:
            remaining.append(Interval(start, stop))
    return remaining
