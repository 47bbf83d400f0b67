"""Windows: cut at the right sample, from the right recording, with finite values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bids_speechdecode.decoding.windows import (
    TargetScaler,
    WindowSet,
    concatenate_windows,
    finite_windows,
    list_windows,
)
from bids_speechdecode.errors import DataError
from bids_speechdecode.timeline import Interval


def _time_valued(n_times: int, n_channels: int = 2, first: float = 0.0) -> torch.Tensor:
    """Signal whose value is its time; the second channel is negative."""
    time = torch.arange(n_times, dtype=torch.float32) + first
    return torch.stack([time, -time], dim=1)[:, :n_channels]


@given(
    start=st.floats(0, 1e5),
    length=st.floats(0, 500),
    duration=st.floats(0.5, 10),
    stride=st.floats(0.25, 10),
)
def test_windows_fill_the_interval(
    start: float, length: float, duration: float, stride: float
) -> None:
    """A window beyond its block is leakage; a window left out is lost data."""
    interval = Interval(start, start + length)
    starts = list_windows(interval, duration, stride)
    if len(starts) == 0:
        assert interval.duration < duration
        return
    assert starts[0] == interval.start
    assert starts[-1] + duration <= interval.stop + 1e-5
    assert starts[-1] + stride + duration > interval.stop


def test_binary_floats_cost_no_window() -> None:
    """29.999999999999996 s are thirty seconds."""
    assert len(list_windows(Interval(0.1, 0.1 + 29.999999999999996), 3.0, 3.0)) == 10


def test_sound_heard_twice_has_the_same_windows() -> None:
    """Two hearings of one block must pair with the same targets, on the grid of the block."""
    block = Interval(10.0, 40.0)
    whole = list_windows(block, 3.0, 3.0, heard=Interval(0.0, 100.0))
    late = list_windows(block, 3.0, 3.0, heard=Interval(17.5, 36.9))
    assert set(late) <= set(whole)
    np.testing.assert_allclose(late, [19.0, 22.0, 25.0, 28.0, 31.0])


def test_value_is_time_in_every_batch() -> None:
    """Brain and sound are paired by sample; an error of one sample moves all lags."""
    starts = torch.tensor([0, 7, 90])
    windows = WindowSet(_time_valued(100), starts, 10, torch.arange(3.0)[:, None])
    batch = windows.brain(torch.tensor([2, 0]))
    assert batch.shape == (2, 2, 10)
    np.testing.assert_array_equal(batch[0, 0], np.arange(90, 100))
    np.testing.assert_array_equal(batch[1, 1], -np.arange(10))
    np.testing.assert_array_equal(windows.audio(torch.tensor([2, 0])), [[2.0], [0.0]])


def test_half_precision_comes_out_as_float32() -> None:
    """A week in float16 fits on a GPU, but the encoder computes in float32."""
    windows = WindowSet(
        _time_valued(50).half(), torch.tensor([3]), 5, torch.ones(1, 4, 2, dtype=torch.float16)
    )
    assert windows.brain(torch.tensor([0])).dtype == torch.float32
    assert windows.audio(torch.tensor([0])).dtype == torch.float32
    assert windows.target_shape == (4, 2)


def test_recordings_are_joined_without_mixing() -> None:
    """The second recording's windows must come from the second recording."""
    first = WindowSet(_time_valued(30), torch.tensor([0, 20]), 10, torch.zeros(2, 1))
    second = WindowSet(_time_valued(30, first=1000.0), torch.tensor([5]), 10, torch.ones(1, 1))
    joined = concatenate_windows([first, second])
    np.testing.assert_array_equal(joined.brain(torch.tensor([2]))[0, 0], np.arange(1005, 1015))
    np.testing.assert_array_equal(joined.brain(torch.tensor([1]))[0, 0], np.arange(20, 30))
    assert joined.targets.flatten().tolist() == [0.0, 0.0, 1.0]


def test_subset_keeps_pairs_together() -> None:
    """A subset that reorders one side only would shuffle the pairing."""
    windows = WindowSet(_time_valued(50), torch.tensor([0, 10, 20]), 5, torch.arange(3.0)[:, None])
    for index in (torch.tensor([2, 1]), torch.tensor([False, True, True])):
        part = windows.subset(index)
        for i in range(2):
            item = torch.tensor([i])
            assert part.brain(item)[0, 0, 0] == 10 * part.audio(item)[0, 0]


def test_windows_over_gaps_are_found() -> None:
    """A NaN sample in one channel would make the loss NaN; a gap must cost its windows only."""
    signal = _time_valued(40)
    signal[12, 1] = torch.nan
    starts = torch.tensor([0, 2, 3, 12, 13, 30])
    finite = finite_windows(signal, starts, 10)
    oracle = [bool(torch.isfinite(signal[s : s + 10]).all()) for s in starts.tolist()]
    assert finite.tolist() == oracle == [True, True, False, False, True, True]


@pytest.mark.parametrize("starts", [[-1], [41], [0, 1]])
def test_impossible_windows_are_refused(starts: list[int]) -> None:
    """Python would read a negative start from the end of the recording without a word."""
    with pytest.raises(DataError):
        WindowSet(_time_valued(50), torch.tensor(starts), 10, torch.zeros(1, 2))


@pytest.mark.parametrize("shape", [(700, 5), (70, 6, 5)])
def test_scaler_is_the_z_score(shape: tuple[int, ...]) -> None:
    """Same numbers as numpy in one go, though it works in blocks."""
    targets = np.random.default_rng(0).normal(3.0, 2.0, shape).astype(np.float32)
    scaler = TargetScaler.fit(targets, block=64)
    axes = tuple(range(len(shape) - 1))
    expected = (targets - targets.mean(axes)) / targets.std(axes)
    np.testing.assert_allclose(scaler.transform(targets), expected, atol=1e-5)
    assert scaler.transform(targets).dtype == np.float32


def test_constant_dimension_stays_finite() -> None:
    """A dead dimension of a speech model must not become NaN or amplified rounding."""
    targets = np.full((100, 2), 0.1, dtype=np.float32)
    targets[:, 1] = np.arange(100)
    scaled = TargetScaler.fit(targets).transform(targets + np.float32(1e-9))
    assert np.abs(scaled[:, 0]).max() < 1e-6


def test_targets_that_are_not_finite_are_refused() -> None:
    """NaN in one window would otherwise reach every scaled target."""
    targets = np.ones((10, 3), dtype=np.float32)
    targets[4, 1] = np.nan
    with pytest.raises(DataError, match="not finite"):
        TargetScaler.fit(targets)
