"""Train, validation and test: time intervals, drawn before anything is fitted."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import numpy as np

from bids_speechdecode.errors import DataError, UsageError
from bids_speechdecode.timeline import Interval, merge_intervals, subtract_intervals

Split = Literal["train", "val", "test"]
Key = TypeVar("Key", str, int)
SPLITS: tuple[Split, ...] = ("train", "val", "test")

# With fewer candidates a rank takes so few values that it says next to nothing.
MIN_WINDOWS = 5


@dataclass(frozen=True)
class Block:
    """A contiguous stretch of one audio file that belongs to one split.

    Attributes
    ----------
    source : str
        The audio file.
    interval : Interval
        Audio time in seconds, guards already taken off.
    split : {"train", "val", "test"}
        What every recording in which this sound was heard uses it for.
    index : int
        Place among all blocks, in the order of file name and time.
    """

    source: str
    interval: Interval
    split: Split
    index: int


def split_recordings(
    durations: Mapping[str, float],
    val_fraction: float,
    test_fraction: float,
    rng: np.random.Generator,
) -> dict[str, Split]:
    """Return the split of every recording; a recording is never cut.

    Parameters
    ----------
    durations : mapping of str to float
        Usable seconds of each recording.
    val_fraction, test_fraction : float
        Wanted share of the total duration, met as closely as whole recordings allow.
    rng : numpy.random.Generator
        Draws the recordings; the order of `durations` plays no part.

    Raises
    ------
    DataError
        If there are fewer than three recordings.
    """
    if len(durations) < len(SPLITS):
        raise DataError(
            "Too few recordings to split into training, validation and test.",
            expected="at least 3 recordings, since none is cut",
            found=f"{len(durations)}: {', '.join(sorted(durations)) or 'none'}",
            fix="add recordings of the pretraining task, or split it into runs",
        )
    return _draw_splits(durations, val_fraction, test_fraction, rng)


def split_blocks(
    heard: Mapping[str, Sequence[Interval]],
    *,
    n_blocks: int,
    val_fraction: float,
    test_fraction: float,
    guard: float,
    window: float,
    rng: np.random.Generator,
) -> tuple[Block, ...]:
    """Return contiguous blocks of the audio that was heard, each in one split.

    The split belongs to the audio and not to the recording: what was heard in several recordings
    is in the same split in all of them. Where two blocks of different splits meet, each gives up
    `guard` seconds; where a pause already lies between them, only what the pause lacks.

    Parameters
    ----------
    heard : mapping of str to sequence of Interval
        Audio time (seconds) that was heard, per audio file; may overlap.
    n_blocks : int
        Wanted number of blocks; about equal in length, never across a stretch that was not heard.
    val_fraction, test_fraction : float
        Wanted share of the duration.
    guard : float
        Seconds that separate windows of different splits at least.
    window : float
        Duration of a window in seconds.
    rng : numpy.random.Generator
        Draws the blocks.

    Notes
    -----
    Files shorter than half a block are put together to blocks in the order of `heard`, so give
    that in the order of playing. Otherwise that order plays no part.

    Raises
    ------
    DataError
        If a split would have fewer than `MIN_WINDOWS` windows without overlap.
    """
    pieces = _cut_pieces(heard, n_blocks, window)
    durations: dict[int, float] = {}
    for index, _, span in pieces:
        durations[index] = durations.get(index, 0.0) + span.duration
    if len(durations) < len(SPLITS):
        found = f"{len(durations)} blocks that hold a window of {window:g} s"
        raise _too_few(found, n_blocks, guard)
    drawn = _draw_splits(durations, val_fraction, test_fraction, rng)
    blocks = [Block(source, span, drawn[index], index) for index, source, span in pieces]
    guarded = [trimmed for block in blocks for trimmed in _guard(block, blocks, guard)]
    counts = {
        split: sum(_n_windows(b.interval, window) for b in guarded if b.split == split)
        for split in SPLITS
    }
    if min(counts.values()) < MIN_WINDOWS:
        found = ", ".join(f"{split} {n}" for split, n in counts.items())
        raise _too_few(f"windows of {window:g} s: {found}", n_blocks, guard)
    return tuple(block for block in guarded if _n_windows(block.interval, window))


def _cut_pieces(
    heard: Mapping[str, Sequence[Interval]], n_blocks: int, window: float
) -> list[tuple[int, str, Interval]]:
    """Return (block, source, interval); about `n_blocks` blocks of similar length."""
    stretches = [
        (source, stretch)
        for source in heard
        for stretch in merge_intervals(heard[source])
        if _n_windows(stretch, window)
    ]
    wanted = sum(stretch.duration for _, stretch in stretches) / max(n_blocks, 1)
    if all(stretch.duration >= wanted / 2 for _, stretch in stretches):
        # Whoever heard the same files, in whatever order, then has the same blocks.
        stretches.sort()
    spans = []
    for source, stretch in stretches:
        n_parts = max(1, round(stretch.duration / wanted))
        edges = np.linspace(stretch.start, stretch.stop, n_parts + 1).tolist()
        spans += [(source, Interval(*pair)) for pair in itertools.pairwise(edges)]
    numbers = _number_blocks([span.duration for _, span in spans], wanted)
    return [(number, *span) for number, span in zip(numbers, spans, strict=True)]


def _number_blocks(durations: Sequence[float], wanted: float) -> list[int]:
    """Return the block of each span: spans shorter than half a block share one with neighbours.

    Sentences that are files of their own would else alternate between splits every few seconds.
    """
    numbers: list[int] = []
    length = 0.0  # of the block so far
    for duration in durations:
        is_short = min(length, duration) < wanted / 2
        joins = bool(numbers) and is_short and length + duration <= wanted * (1 + 1e-9)
        numbers.append(numbers[-1] + (not joins) if numbers else 0)
        length = length + duration if joins else duration
    return numbers


def _guard(block: Block, blocks: Sequence[Block], guard: float) -> list[Block]:
    """Return the block without what lies within `guard` of another split; empty if nothing is left.

    Other blocks lie before or after this one, so at most one interval remains.
    """
    others = [
        Interval(other.interval.start - guard, other.interval.stop + guard)
        for other in blocks
        if other.source == block.source and other.split != block.split
    ]
    return [replace(block, interval=left) for left in subtract_intervals([block.interval], others)]


def _n_windows(interval: Interval, window: float) -> int:
    """Return how many windows fit side by side; a microsecond of rounding does not cost one."""
    return int((interval.duration + 1e-6) // window)


def _draw_splits(
    durations: Mapping[Key, float],
    val_fraction: float,
    test_fraction: float,
    rng: np.random.Generator,
) -> dict[Key, Split]:
    """Return the split of each item, test and validation near their share of the total."""
    if not (val_fraction > 0 and test_fraction > 0 and val_fraction + test_fraction < 1):
        raise UsageError(
            "The fractions for validation and test leave a split empty.",
            expected="both above 0, their sum below 1",
            found=f"val_fraction = {val_fraction:g}, test_fraction = {test_fraction:g}",
        )
    names = sorted(durations)
    remaining = {names[i]: durations[names[i]] for i in rng.permutation(len(names))}
    total = sum(remaining.values())
    splits: dict[Key, Split] = {}
    shares: list[tuple[Split, float]] = [("test", test_fraction), ("val", val_fraction)]
    for n_filled, (split, fraction) in enumerate(shares):
        n_spare = len(shares) - n_filled  # one for each split that is still empty
        for name in _fill(remaining, fraction * total, len(remaining) - n_spare):
            splits[name] = split
            del remaining[name]
    return {name: splits.get(name, "train") for name in names}


def _fill(items: Mapping[Key, float], wanted: float, at_most: int) -> list[Key]:
    """Return items whose durations sum to about `wanted`: in order, each that brings it nearer."""
    chosen: list[Key] = []
    total = 0.0
    for name, duration in items.items():
        if len(chosen) < at_most and abs(total + duration - wanted) < abs(total - wanted):
            chosen.append(name)
            total += duration
    return chosen or [min(items, key=lambda name: abs(items[name] - wanted))]


def _too_few(found: str, n_blocks: int, guard: float) -> DataError:
    return DataError(
        "Too few windows to split into training, validation and test.",
        expected=f"at least {MIN_WINDOWS} windows in each, with {n_blocks} blocks and "
        f"{guard:g} s of guard",
        found=found,
        fix="use a longer recording, fewer blocks (n_blocks), a shorter guard, or other fractions",
    )
