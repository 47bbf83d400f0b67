"""Splits: the same sound in the same split, always, and guards that hold."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from bids_speechdecode.decoding.splits import (
    MIN_WINDOWS,
    Block,
    split_blocks,
    split_recordings,
)
from bids_speechdecode.decoding.windows import list_windows
from bids_speechdecode.errors import DataError, UsageError
from bids_speechdecode.timeline import Interval

WINDOW = 3.0


def _split(heard: dict[str, list[Interval]], seed: int = 0, **changes: float) -> tuple[Block, ...]:
    options = {"n_blocks": 20, "val_fraction": 0.1, "test_fraction": 0.2, "guard": 3.0}
    return split_blocks(
        heard, **{**options, **changes}, window=WINDOW, rng=np.random.default_rng(seed)
    )


@st.composite
def hearings(draw: st.DrawFn) -> dict[str, list[Interval]]:
    """Audio files heard in several stretches that may overlap, touch or leave pauses."""
    heard = {}
    for name in draw(st.lists(st.sampled_from("abcd"), min_size=1, max_size=4, unique=True)):
        starts = draw(st.lists(st.floats(0, 2000), min_size=1, max_size=4))
        lengths = [draw(st.floats(1, 900)) for _ in starts]
        heard[name] = [Interval(a, a + n) for a, n in zip(starts, lengths, strict=True)]
    return heard


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(
    heard=hearings(),
    n_blocks=st.integers(3, 40),
    guard=st.floats(0, 10),
    seed=st.integers(0, 2**32 - 1),
)
def test_windows_of_different_splits_stay_a_guard_apart(
    heard: dict[str, list[Interval]], n_blocks: int, guard: float, seed: int
) -> None:
    """Leakage hides at boundaries: no test window may come near a training window, ever."""
    try:
        blocks = _split(heard, seed, n_blocks=n_blocks, guard=guard)
    except DataError:
        assume(False)
    spans = [
        (b.source, b.split, start, start + WINDOW)
        for b in blocks
        for start in list_windows(b.interval, WINDOW, 1.0)
    ]
    for block in blocks:
        assert any(
            h.start - 1e-6 <= block.interval.start and block.interval.stop <= h.stop + 1e-6
            for h in _slow_union(heard[block.source])
        )
    for source in heard:
        ours = sorted((a, b, split) for name, split, a, b in spans if name == source)
        for (_, end, first), (start, _, second) in itertools.pairwise(ours):
            if first != second:
                assert start - end >= guard - 1e-5
    for split in ("train", "val", "test"):
        n = sum(len(list_windows(b.interval, WINDOW, WINDOW)) for b in blocks if b.split == split)
        assert n >= MIN_WINDOWS


def _slow_union(intervals: list[Interval]) -> list[Interval]:
    """Join overlapping intervals by repeated merging; an oracle apart from `merge_intervals`."""
    joined = [tuple(i) for i in intervals]
    for _ in intervals:
        for a, b in itertools.combinations(joined, 2):
            if a[0] <= b[1] and b[0] <= a[1]:
                joined = [x for x in joined if x not in (a, b)]
                joined.append((min(a[0], b[0]), max(a[1], b[1])))
                break
    return [Interval(*i) for i in joined]


def test_sound_heard_twice_is_in_one_split() -> None:
    """A sound in training in one recording and in test in another would be learnt by heart."""
    once = _split({"book.wav": [Interval(0, 1200)]})
    twice = _split({"book.wav": [Interval(0, 700), Interval(100, 1200), Interval(300, 500)]})
    assert once == twice


def test_order_of_recordings_plays_no_part() -> None:
    """File order differs between file systems; the split must not."""
    heard = {"a": [Interval(0, 600)], "b": [Interval(0, 900), Interval(1000, 1300)]}
    assert _split(heard) == _split(dict(reversed(heard.items())))
    durations = {f"run-{i}": 100.0 + i for i in range(9)}
    rngs = [np.random.default_rng(5) for _ in range(2)]
    backwards = dict(reversed(durations.items()))
    assert split_recordings(durations, 0.1, 0.2, rngs[0]) == split_recordings(
        backwards, 0.1, 0.2, rngs[1]
    )


def test_seeds_draw_different_blocks() -> None:
    """A draw that ignores its generator would put the test set at one fixed place."""
    heard = {"book.wav": [Interval(0, 3000)]}
    drawn = {tuple(b.split for b in _split(heard, seed)) for seed in range(5)}
    assert len(drawn) > 1


def test_fractions_are_met() -> None:
    """A test set half the size that was asked for doubles the variance of the score."""
    blocks = _split({"book.wav": [Interval(0, 6000)]}, guard=0.0, n_blocks=40)
    share = {
        split: sum(b.interval.duration for b in blocks if b.split == split) / 6000
        for split in ("train", "val", "test")
    }
    assert share == pytest.approx({"train": 0.7, "val": 0.1, "test": 0.2})


def test_guard_takes_nothing_inside_a_split() -> None:
    """Guards between blocks of one split would waste training data."""
    blocks = _split({"book.wav": [Interval(0, 2000)]}, guard=5.0)
    for a, b in itertools.pairwise(blocks):
        gap = b.interval.start - a.interval.stop
        assert gap == pytest.approx(0.0 if a.split == b.split else 10.0)


def test_too_short_audio_is_an_error_of_the_data() -> None:
    """Two minutes cannot be split honestly; a score from three windows must not come out."""
    with pytest.raises(DataError, match="Too few windows") as caught:
        _split({"book.wav": [Interval(0, 60)]})
    assert caught.value.exit_code == 65
    with pytest.raises(DataError, match="0 blocks"):
        _split({"book.wav": [Interval(0, 2)]})


def test_fractions_that_leave_nothing_are_refused() -> None:
    """A fraction of 0 or a sum of 1 would give an empty split and a crash much later."""
    for val, test in ((0.0, 0.2), (0.5, 0.5), (0.1, -0.2)):
        with pytest.raises(UsageError):
            _split({"a": [Interval(0, 3000)]}, val_fraction=val, test_fraction=test)


@given(
    durations=st.lists(st.floats(1, 1e4), min_size=3, max_size=30),
    seed=st.integers(0, 2**32 - 1),
)
def test_recordings_are_split_whole(durations: list[float], seed: int) -> None:
    """Every recording has one split and every split a recording, whatever the durations."""
    named = {f"run-{i:02d}": d for i, d in enumerate(durations)}
    splits = split_recordings(named, 0.1, 0.2, np.random.default_rng(seed))
    assert splits.keys() == named.keys()
    assert set(splits.values()) == {"train", "val", "test"}


def test_two_recordings_cannot_be_split_by_file() -> None:
    """The message must say what is there, since the remedy is to add recordings."""
    with pytest.raises(DataError, match="run-1, run-2"):
        split_recordings({"run-1": 9.0, "run-2": 9.0}, 0.1, 0.2, np.random.default_rng(0))


def test_short_files_share_blocks_in_the_order_of_playing() -> None:
    # One file a sentence must not put every other sentence into another split.
    names = [f"{number:03}.wav" for number in np.random.default_rng(0).permutation(200)]
    blocks = split_blocks(
        {name: [Interval(0.0, 4.0)] for name in names},
        n_blocks=20,
        val_fraction=0.1,
        test_fraction=0.2,
        guard=3.0,
        window=3.0,
        rng=np.random.default_rng(1),
    )
    assert [block.source for block in blocks] == names
    assert [block.index for block in blocks] == [i // 10 for i in range(200)]
    assert all(len({b.split for b in blocks if b.index == i}) == 1 for i in range(20))
