"""Recordings -> pieces: which windows belong to training, validation and test.

Windows lie on the clock of the audio, so that whoever heard the same file has the same windows;
a stretch of audio belongs to one split, in whichever recording it was heard.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from bids_speechdecode.bids.alignment import Segment
from bids_speechdecode.config import Config, WindowConfig
from bids_speechdecode.decoding.splits import split_blocks, split_recordings
from bids_speechdecode.decoding.windows import list_windows
from bids_speechdecode.steps.plan import (
    FINETUNE,
    PRETRAIN,
    SPLITS,
    Piece,
    PlannedRecording,
    primary_version,
)
from bids_speechdecode.timeline import Interval, merge_intervals

END_TOLERANCE = 0.05  # seconds by which a clock map may miss the ends of its audio file


def _rng(config: Config, purpose: int) -> np.random.Generator:
    """One stream of random numbers a purpose, so that one choice does not move another."""
    return np.random.default_rng([config.run.seed, purpose])


def cut_pretraining(planned: Sequence[PlannedRecording], config: Config) -> list[Piece]:
    """Split by whole recording file; by blocks of time where there are fewer than three files."""
    recordings = [r for r in planned if r.role == PRETRAIN]
    if not recordings:
        return []
    if len(recordings) < len(SPLITS):
        return _cut_blocks(recordings, PRETRAIN, config, _rng(config, 1))
    split_of = split_recordings(
        {r.label: r.duration for r in recordings},
        config.splits.val_fraction,
        config.splits.test_fraction,
        _rng(config, 1),
    )
    pieces = []
    for block, planned_recording in enumerate(recordings):
        for index, segment in enumerate(planned_recording.alignment.segments):
            if segment.version != primary_version([planned_recording]):
                continue
            split = split_of[planned_recording.label]
            interval = heard_interval(segment)
            pieces.append(
                _make_piece(planned_recording, index, split, block, interval, config.windows)
            )
    return pieces


def cut_task(planned: Sequence[PlannedRecording], config: Config) -> list[Piece]:
    """Split by contiguous blocks of the audio; the room's version follows the clean one's."""
    recordings = [r for r in planned if r.role == FINETUNE]
    pieces = _cut_blocks(recordings, FINETUNE, config, _rng(config, 2))
    if primary_version(recordings) == "true":
        pieces += [
            heard
            for piece in pieces
            for heard in _as_the_room_heard_it(
                piece, next(r for r in recordings if r.label == piece.recording), config.windows
            )
        ]
    return pieces


def _cut_blocks(
    recordings: Sequence[PlannedRecording], role: str, config: Config, rng: np.random.Generator
) -> list[Piece]:
    """Cut contiguous blocks of the audio, the same for every recording in which it was heard."""
    version = primary_version(recordings)
    heard: dict[str, list[Interval]] = {}
    for planned in recordings:
        for segment in planned.alignment.segments:
            if segment.version == version:
                source = source_name(planned, segment)
                heard.setdefault(source, []).append(heard_interval(segment))
    blocks = split_blocks(
        heard,
        n_blocks=_n_blocks(heard, config),
        val_fraction=config.splits.val_fraction,
        test_fraction=config.splits.test_fraction,
        guard=config.splits.guard,
        window=config.windows.duration,
        rng=rng,
    )
    pieces: list[Piece] = []
    for planned in recordings:
        for index, segment in enumerate(planned.alignment.segments):
            if segment.version != version:
                continue
            whole = heard_interval(segment)
            for block in blocks:
                same = block.source == source_name(planned, segment)
                if same and block.interval.overlaps(whole):
                    piece = _make_piece(
                        planned, index, block.split, block.index, block.interval, config.windows
                    )
                    pieces.append(piece)
    return _keep_apart(pieces, config)


def _keep_apart(pieces: Sequence[Piece], config: Config) -> list[Piece]:
    """Give up windows that come within the guard of another split's on the recording's clock.

    Blocks of one audio file are apart already; files that follow each other closely are not.
    Test windows are kept before validation windows, these before training windows.
    """
    duration, guard = config.windows.duration, config.splits.guard
    kept = []
    for piece in pieces:
        usable = piece.usable.copy()
        for other in pieces:
            precedes = SPLITS.index(other.split) > SPLITS.index(piece.split)
            if precedes and other.recording == piece.recording and len(other.brain_starts):
                first = other.brain_starts[0] - guard
                last = other.brain_starts[-1] + duration + guard
                slack = 1e-3  # the clock map's rounding costs no window
                usable &= (piece.brain_starts + duration <= first + slack) | (
                    piece.brain_starts >= last - slack
                )
        kept.append(replace(piece, usable=usable))
    return kept


def _n_blocks(heard: Mapping[str, Sequence[Interval]], config: Config) -> int:
    """Return the number of blocks: fewer than asked for where the audio is short.

    A block of fewer than ten windows would lose most of them to the guards.
    """
    total = sum(i.duration for intervals in heard.values() for i in merge_intervals(intervals))
    return max(
        len(SPLITS), min(config.splits.n_blocks, int(total / (10 * config.windows.duration)))
    )


def source_name(planned: PlannedRecording, segment: Segment) -> str:
    """Name an audio so that the same file heard twice is the same source."""
    if segment.source.path is not None:
        return str(segment.source.path)
    return f"{planned.label}:{segment.source.channel}"


def heard_interval(segment: Segment) -> Interval:
    """Return the stretch of audio that was heard, alike for everybody who heard it.

    Clock maps fitted to different recordings differ by milliseconds: ends near those of the file
    become those of the file, others are rounded.
    """
    start, stop = segment.audio_interval
    length = segment.source.duration or math.inf
    return Interval(
        0.0 if start < END_TOLERANCE else round(start, 3),
        length if stop > length - END_TOLERANCE else round(stop, 3),
    )


def _make_piece(
    planned: PlannedRecording,
    segment_index: int,
    split: str,
    block: int,
    audio: Interval,
    windows: WindowConfig,
) -> Piece:
    segment = planned.alignment.segments[segment_index]
    stride = windows.stride if split == "train" else max(windows.stride, windows.duration)
    heard = heard_interval(segment)
    audio_starts = list_windows(audio, windows.duration, stride, heard=heard)
    heard_at = np.array([segment.clock.to_recording(float(t)) for t in audio_starts])
    brain_starts = heard_at + windows.brain_lag
    usable = _usable(brain_starts, windows.duration, planned)
    return Piece(
        planned.label,
        planned.role,
        segment_index,
        segment.version,
        split,
        block,
        Interval(max(audio.start, heard.start), min(audio.stop, heard.stop)),
        audio_starts,
        brain_starts,
        usable,
    )


def _usable(brain_starts: np.ndarray, duration: float, planned: PlannedRecording) -> np.ndarray:
    """Return which brain windows lie in the recording and meet no gap and no artifact."""
    usable = (brain_starts >= 0) & (brain_starts + duration <= planned.duration)
    for hole in (*planned.gaps, *planned.alignment.artifacts):
        usable &= ~((brain_starts < hole.stop) & (hole.start < brain_starts + duration))
    return usable


def _as_the_room_heard_it(
    piece: Piece, planned: PlannedRecording, windows: WindowConfig
) -> list[Piece]:
    """Return the same brain windows paired with the simultaneous ambient audio, if any."""
    found = []
    heard_at = piece.brain_starts - windows.brain_lag
    for index, segment in enumerate(planned.alignment.segments):
        if segment.version != "ambient" or not len(heard_at):
            continue
        starts = np.array([segment.clock.to_audio(float(t)) for t in heard_at])
        whole = segment.audio_interval
        inside = (starts >= whole.start) & (starts + windows.duration <= whole.stop)
        if not inside.any():
            continue
        # The speech model may look no further than the block, in this version either.
        first, last = starts[inside][0], starts[inside][-1] + windows.duration
        found.append(
            replace(
                piece,
                segment=index,
                version="ambient",
                audio=Interval(float(first), float(last)),
                audio_starts=starts[inside],
                brain_starts=piece.brain_starts[inside],
                usable=piece.usable[inside],
            )
        )
    return found
