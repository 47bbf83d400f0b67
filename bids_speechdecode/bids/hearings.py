"""What was heard during functional runs, volume by volume, on the clock of the audio.

Rows of events.tsv with ``stim_file`` are read by the rules of `alignment`, as for recordings.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bids_speechdecode.bids.alignment import Segment, align
from bids_speechdecode.bids.bold import SAME_TR, BoldRun
from bids_speechdecode.bids.stimuli import AudioSource
from bids_speechdecode.bids.tables import read_tsv
from bids_speechdecode.errors import DataError

# By how much of a TR participants may differ within one story: 0.1 s at a TR of 2 s, to which
# tables of events are rounded. The BOLD response takes seconds.
_SAME_PHASE = 0.05


@dataclass(frozen=True)
class Hearing:
    """The volumes of a run during which one sound was heard without a break.

    Attributes
    ----------
    first : int
        Which volume of the run is the first of `times`.
    times : array, shape (n_volumes,), seconds
        When each volume was taken, on the clock of the audio.
    """

    run: BoldRun
    source: AudioSource
    first: int
    times: np.ndarray
    notes: tuple[str, ...] = ()

    def cut(self, first: int, n: int) -> Hearing:
        """Return `n` volumes, starting `first` volumes later."""
        return replace(self, first=self.first + first, times=self.times[first : first + n])


def list_hearings(run: BoldRun, stimuli_dir: Path) -> tuple[Hearing, ...]:
    """Return which volumes of a run were taken while which sound was heard.

    Volumes before and after the sound are left out. Each stretch of sound counts on its own;
    in most datasets a run has one.

    Raises
    ------
    DataError
        If nothing says what was heard, the events have no single meaning (see `alignment`), or
        the run ends before half of the sound was heard.
    MissingInputError
        If an audio file is absent or was not downloaded.
    """
    _require_stimulus(run)
    alignment = align(run.events, duration=run.duration, stimuli_dir=stimuli_dir)
    segments = [s for s in alignment.segments if s.version == "true"]
    hearings = [_hearing(run, segment) for segment in segments]
    return tuple(hearing for hearing in hearings if len(hearing.times))


def _require_stimulus(run: BoldRun) -> None:
    path = run.events.events_path
    table = read_tsv(path)[0] if path else None
    if table is not None and "stim_file" in table and table["stim_file"].notna().any():
        return
    if table is None:
        found = "no events.tsv"
    else:
        found = "no such column" if "stim_file" not in table else "n/a in all rows"
    raise DataError(
        "A functional run does not say which story was heard.",
        expected="rows of events.tsv with onset and stim_file, an audio file in stimuli/",
        found=found,
        where=path or run.events.path,
        fix="add stim_file to the events, or choose the task with stories (--fmri-task)",
    )


def _hearing(run: BoldRun, segment: Segment) -> Hearing:
    taken = run.first_time + run.tr * np.arange(run.n_volumes)  # seconds of the run
    inside = np.flatnonzero((taken >= segment.interval.start) & (taken < segment.interval.stop))
    first = int(inside[0]) if len(inside) else 0
    times = segment.clock.slope * taken[inside] + segment.clock.offset
    return Hearing(run, segment.source, first, times, _shortage(run, segment))


def _shortage(run: BoldRun, segment: Segment) -> tuple[str, ...]:
    """Return a note where the run ends before the sound; raise where over half is missing."""
    length = segment.source.duration or 0.0
    missing = segment.clock.to_recording(length) - run.duration
    if segment.interval.stop < run.duration or missing <= run.tr:
        return ()
    if missing > length / 2:
        raise DataError(
            "A functional run is much shorter than the story that was heard.",
            expected=f"BOLD until {segment.source.name} ends ({length:.1f} s)",
            found=f"a run of {run.duration:.1f} s, which misses its last {missing:.1f} s",
            where=run.images[0],
            fix="fetch the whole run again, or correct stim_file and onset in events.tsv",
        )
    return (f"{run.label} ends {missing:.1f} s before {segment.source.name}, which is cut",)


def group_by_story(hearings: Iterable[Hearing]) -> list[tuple[Hearing, ...]]:
    """Return the hearings that can share one story: same audio, same TR, same phase.

    Each group is cut to the volumes that all have; a hearing that shares less than half of
    its volumes with a group, or was taken at other times of the audio, is a story of its own.

    Returns
    -------
    stories : list of tuple of Hearing
        In each, all have the same number of volumes at the same times.
    """
    groups: list[list[Hearing]] = []
    for hearing in sorted(hearings, key=lambda h: (str(h.source.path), h.run.label)):
        home = next((g for g in groups if _fits(hearing, g[0])), None)
        if home is None:
            groups.append([hearing])
        else:
            home.append(hearing)
            home[:] = _cut_to_common(home)
    return [tuple(group) for group in groups]


def _shift(a: Hearing, b: Hearing) -> float:
    """Return by how many TRs `a` starts later in the audio than `b`."""
    return float(a.times[0] - b.times[0]) / a.run.tr


def _fits(a: Hearing, b: Hearing) -> bool:
    if a.source.path != b.source.path or abs(a.run.tr - b.run.tr) > SAME_TR * b.run.tr:
        return False
    shift = _shift(a, b)
    common = min(len(b.times), shift + len(a.times)) - max(0.0, shift)
    most = max(len(a.times), len(b.times))
    return abs(shift - round(shift)) <= _SAME_PHASE and common >= most / 2


def _cut_to_common(group: Sequence[Hearing]) -> list[Hearing]:
    starts = [round(_shift(hearing, group[0])) for hearing in group]
    ends = [start + len(hearing.times) for start, hearing in zip(starts, group, strict=True)]
    n = min(ends) - max(starts)
    return [h.cut(max(starts) - start, n) for start, h in zip(starts, group, strict=True)]
