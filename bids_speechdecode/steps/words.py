"""Which words were heard in which window.

The words of a sound come from the table beside its file; where it has none, as the room's sound of
a story that was played, from the table of a sound that was heard at the same time; then from rows
of events.tsv with a word. The last two go through the clocks of the recording.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd

from bids_speechdecode.bids.alignment import Segment
from bids_speechdecode.bids.words import WORD_TABLES, read_event_words, read_transcript
from bids_speechdecode.config import TEXT, Config
from bids_speechdecode.errors import MissingInputError
from bids_speechdecode.steps.plan import (
    PRETRAIN,
    SPLITS,
    ParticipantPlan,
    Piece,
    PlannedRecording,
    primary_version,
)
from bids_speechdecode.timeline import ClockMap, Interval

NO_WORDS = pd.DataFrame({"onset": np.zeros(0), "offset": np.zeros(0), "word": []})


def needs_words(config: Config) -> bool:
    """Return whether windows without a word are left out."""
    return config.target.name == TEXT or config.windows.words_only


def keep_spoken(plan: ParticipantPlan, config: Config) -> ParticipantPlan:
    """Return the plan without the windows in which no word is heard, if the settings ask for that.

    They are left out of training, validation and test alike: there is nothing to decode in them,
    and one vector that stands for "no words" would be told from the others by loudness alone.
    """
    if not needs_words(config):
        return plan
    pieces = (
        replace(p, usable=p.usable & has_words(plan, p, config.windows.duration))
        for p in plan.pieces
    )
    return replace(plan, pieces=tuple(pieces))


def has_words(plan: ParticipantPlan, piece: Piece, duration: float) -> np.ndarray:
    """Return which windows of a piece have a word, shape (n_windows,)."""
    _, first, last = _locate(plan, piece, duration)
    return last > first


def texts_of(plan: ParticipantPlan, piece: Piece, duration: float) -> list[str]:
    """Return the words of each window of a piece, joined by spaces; "" where there is none.

    A word belongs to the window in which its middle lies, so that no word is in the windows on both
    sides of a border between splits.
    """
    said, first, last = _locate(plan, piece, duration)
    return [" ".join(said[a:b]) for a, b in zip(first, last, strict=True)]


def _locate(
    plan: ParticipantPlan, piece: Piece, duration: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the words in order, and of each window the first one and the one after the last."""
    words = words_of(plan, piece)
    middles = (words["onset"].to_numpy() + words["offset"].to_numpy()) / 2
    order = np.argsort(middles, kind="stable")
    edges = piece.audio_starts, piece.audio_starts + duration
    first, last = (np.searchsorted(middles[order], edge) for edge in edges)
    return words["word"].to_numpy()[order], first, last


def words_of(plan: ParticipantPlan, piece: Piece) -> pd.DataFrame:
    """Return the words of the audio of a piece: onset, offset (s of the audio) and word."""
    segment = plan.segment(piece)
    own = _table(segment)
    if own is not None:
        return own
    parts: list[pd.DataFrame] = []
    covered: list[Interval] = []
    for planned, other in _hearings(plan, plan[piece.recording], segment):
        words = _from_recording(planned, other)
        if words is not None:
            # A sound that was heard again brings the same words again.
            known = np.zeros(len(words), dtype=bool)
            for interval in covered:
                known |= words["onset"].between(interval.start, interval.stop).to_numpy()
            parts.append(words[~known])
            covered.append(other.audio_interval)
    return pd.concat(parts, ignore_index=True) if parts else NO_WORDS


def _hearings(
    plan: ParticipantPlan, mine: PlannedRecording, segment: Segment
) -> Iterator[tuple[PlannedRecording, Segment]]:
    """Yield where the audio of a segment was heard, in the order of the plan."""
    for planned in plan.recordings if segment.source.path else (mine,):
        for other in planned.alignment.segments:
            same_channel = segment.source.path or other.source.channel == segment.source.channel
            if other.source.path == segment.source.path and same_channel:
                yield planned, other


def _table(segment: Segment) -> pd.DataFrame | None:
    source = segment.source
    if source.path is None:
        return None
    return read_transcript(source.path, source.duration or np.inf)


def _from_recording(planned: PlannedRecording, segment: Segment) -> pd.DataFrame | None:
    """Return what was said while a segment was heard, on the clock of its audio."""
    parts = []
    for other in planned.alignment.segments:
        words = None if other.source == segment.source else _table(other)
        if words is not None:
            clock = other.clock
            inverse = ClockMap(1 / clock.slope, -clock.offset / clock.slope)
            parts.append(_within(_clocked(words, inverse), other.interval))
    if not parts:
        events = read_event_words(planned.recording.events_path)
        parts = [] if events is None else [events]
    if not parts:
        return None
    inside = _within(pd.concat(parts, ignore_index=True), segment.interval)
    return _clocked(inside, segment.clock)


def _within(words: pd.DataFrame, interval: Interval) -> pd.DataFrame:
    return words[words["onset"].between(interval.start, interval.stop)]


def _clocked(words: pd.DataFrame, clock: ClockMap) -> pd.DataFrame:
    onset, offset = (clock.slope * words[end] + clock.offset for end in ("onset", "offset"))
    return words.assign(onset=onset, offset=offset)


def note_wordless(plan: ParticipantPlan, config: Config) -> ParticipantPlan:
    """Return the plan with a note of how many windows without a word each recording loses."""
    spoken = keep_spoken(plan, config)
    recordings = []
    for planned in plan.recordings:
        counts = [_count(some, planned) for some in (plan, spoken)]
        lost = f"{counts[0] - counts[1]} of {counts[0]} windows have no word, left out"
        notes = (*planned.notes, lost) if counts[1] < counts[0] else planned.notes
        recordings.append(replace(planned, notes=notes))
    return replace(plan, recordings=tuple(recordings))


def _count(plan: ParticipantPlan, planned: PlannedRecording) -> int:
    pieces = plan.select(planned.role, primary_version([planned]))
    return sum(p.n_usable for p in pieces if p.recording == planned.label)


def require_words(plan: ParticipantPlan, role: str, config: Config) -> None:
    """Raise unless training, validation and test of a role all have windows with words.

    Raises
    ------
    MissingInputError
        With what was looked for.
    """
    inputs = config.inputs
    task = inputs.pretrain_task if role == PRETRAIN else inputs.finetune_task
    version, duration = plan.versions(role)[0], config.windows.duration
    for split in SPLITS:
        pieces = plan.select(role, version, split)
        if not any((p.usable & has_words(plan, p, duration)).any() for p in pieces):
            raise _no_words(plan, role, split, task)


def _no_words(plan: ParticipantPlan, role: str, split: str, task: str) -> MissingInputError:
    sounds = {
        str(s.source.path or f"channel {s.source.channel} of {r.label}")
        for r in plan.recordings
        if r.role == role
        for s in r.alignment.segments
    }
    names = ", ".join(name.format("SOUND") for name in WORD_TABLES)
    more = ", or --pretrain-task none" if role == PRETRAIN else ""
    return MissingInputError(
        f"it is not known which words were heard in task {task!r}",
        expected=f"{names} beside a sound, with onset, offset (or duration) and word; or rows of "
        "events.tsv with a column word",
        found=f"no word in any {split} window of {len(sounds)} sounds, such as {min(sounds)}",
        fix=f"add a table of words, choose a target that needs none{more}",
    )
