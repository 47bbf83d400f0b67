"""High gamma as a signal of decoding: scipy agrees, nothing crosses a cut, gaps stay local."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import signal as scipy_signal

from bids_speechdecode.errors import DataError
from bids_speechdecode.signals.highgamma import preprocess_high_gamma
from bids_speechdecode.signals.montage import join_montages, make_montage
from bids_speechdecode.signals.preprocess import preprocess
from bids_speechdecode.signals.readers import SignalReader
from bids_speechdecode.signals.scaling import Preprocessed
from bids_speechdecode.timeline import Interval

EDGES = (70.0, 120.0)


class ArrayReader(SignalReader):
    """A recording in memory, signal (n_times, n_channels) in volts."""

    def __init__(self, signal: np.ndarray, rate: float) -> None:
        self._signal = signal.astype(np.float32)
        names = [f"LA{i}" for i in range(1, signal.shape[1] + 1)]
        super().__init__(Path("memory"), rate, names, len(signal))

    def _read_stored(self, start: int, stop: int, picks: np.ndarray | None) -> np.ndarray:
        rows = self._signal[start:stop]
        return rows.copy() if picks is None else rows[:, picks]


def modulated(n_times: int, rate: float, seed: int = 0) -> np.ndarray:
    """Return three contacts of noise at 95 Hz whose amplitude wanders, on a slow drift; volts."""
    rng = np.random.default_rng(seed)
    t = np.arange(n_times) / rate
    carrier = scipy_signal.butter(2, (80, 110), "bandpass", fs=rate, output="sos")
    slow = scipy_signal.butter(2, 5, fs=rate, output="sos")
    fast = scipy_signal.sosfiltfilt(carrier, rng.standard_normal((n_times, 3)), axis=0)
    course = scipy_signal.sosfiltfilt(slow, rng.standard_normal((n_times, 3)), axis=0)
    drift = 1e-4 * np.sin(2 * np.pi * 0.3 * t)[:, None] * [1.0, -0.5, 2.0]
    return 1e-5 * fast * np.exp(course / course.std()) + drift


def run(
    signal: np.ndarray, recorded: float, folder: Path, **options: Any
) -> tuple[np.ndarray, Preprocessed]:
    """Return the bipolar output (n_times, n_channels) and what was found."""
    reader = ArrayReader(signal, recorded)
    montage = make_montage(reader.channel_names, range(signal.shape[1]), "bipolar")
    found = preprocess_high_gamma(reader, folder / "x.eeg", montage=montage, edges=EDGES, **options)
    return np.fromfile(folder / "x.eeg", np.float32).reshape(found.n_times, -1), found


def unscaled(out: np.ndarray, found: Preprocessed) -> np.ndarray:
    """Return the output in volts again."""
    return out * found.scale + found.center


def test_equals_scipy_on_the_whole_recording(tmp_path: Path) -> None:
    """Streaming, blocks and working rates must not show in what the models read."""
    rate, n_times = 480.0, 480 * 90
    signal = modulated(n_times, rate)
    out, found = run(signal, rate, tmp_path, clamp=1e6)
    pairs = signal.astype(np.float32).astype(np.float64) @ [[1, 0], [-1, 1], [0, -1]]
    sos = scipy_signal.butter(4, EDGES, "bandpass", fs=rate, output="sos")
    envelope = np.abs(scipy_signal.hilbert(scipy_signal.sosfiltfilt(sos, pairs, axis=0), axis=0))
    n_taps, beta = scipy_signal.kaiserord(80, 2 / (rate / 2))
    low = scipy_signal.firwin(n_taps | 1, 20, window=("kaiser", beta), fs=rate)
    smooth = scipy_signal.convolve(envelope, low[:, None], "same")[::12]
    q25, q50, q75 = np.percentile(smooth[80:-80], [25, 50, 75], axis=0)
    inner = slice(80, -80)  # the two reach over the ends in their own ways
    np.testing.assert_allclose(found.center, q50, rtol=0.02)
    np.testing.assert_allclose(
        unscaled(out, found)[inner], smooth[inner], atol=0.02 * float((q75 - q25).max())
    )
    assert found.n_times == len(smooth)


def test_output_is_robust_z(tmp_path: Path) -> None:
    """Slow and fast channels stand side by side in one model: their units must be alike."""
    out, _ = run(modulated(512 * 60, 512.0), 512.0, tmp_path)
    q25, q50, q75 = np.percentile(out, [25, 50, 75], axis=0)
    np.testing.assert_allclose(q50, 0, atol=1e-3)
    np.testing.assert_allclose(q75 - q25, 1, atol=1e-3)


@pytest.mark.parametrize("rate", [512.0, 999.4])
def test_nothing_crosses_a_cut(rate: float, tmp_path: Path) -> None:
    """A training window must not change by one bit when the signal of the test changes."""
    signal = modulated(int(90 * rate), rate)
    other = signal.copy()
    middle = slice(int(np.ceil(30 * rate)), int(60 * rate))
    other[middle] = 50 * modulated(int(90 * rate), rate, seed=1)[middle]
    train = [Interval(2.0, 28.0), Interval(62.0, 88.0)]
    how: dict[str, Any] = {"cuts": [30.0, 60.0], "scale_intervals": train}
    first, found = run(signal, rate, tmp_path, **how)
    second, again = run(other, rate, tmp_path, **how)
    for rows in (slice(0, 1200), slice(2400, 3600)):
        np.testing.assert_array_equal(first[rows], second[rows])
    assert np.abs(first[1300:2300] - second[1300:2300]).max() > 1
    np.testing.assert_array_equal(found.scale, again.scale)
    assert (found.scale > 0).all()


@pytest.mark.parametrize("rate", [512.0, 999.4])
def test_cuts_leave_the_rest_as_it_is(rate: float, tmp_path: Path) -> None:
    """A stretch that began at a wrong sample would put every window after a cut out of time."""
    signal = modulated(int(90 * rate), rate)
    whole, found = run(signal, rate, tmp_path, clamp=1e6)
    cut, again = run(signal, rate, tmp_path, clamp=1e6, cuts=[30.01, 60.0])
    whole, cut = unscaled(whole, found), unscaled(cut, again)
    inner = np.r_[100:1100, 1300:2300, 2500:3500]
    error = np.abs(whole[inner] - cut[inner]).max(axis=0)
    half_a_sample = 0.5 / rate * np.abs(np.gradient(whole, 1 / 40, axis=0)).max(axis=0)
    assert (error < (1e-3 * found.scale if rate == 512 else half_a_sample)).all()


def test_what_is_missing_is_missing_in_the_slow_band_too(tmp_path: Path) -> None:
    """Bands are compared on the same windows, and a window is lost where its signal is."""
    rate, cuts = 512.0, [30.0, 60.0]
    signal = modulated(int(90 * rate), rate)
    _, found = run(signal, rate, tmp_path, cuts=cuts)
    reader = ArrayReader(signal, rate)
    montage = make_montage(reader.channel_names, range(3), "none")
    slow = preprocess(reader, tmp_path / "slow.eeg", montage=montage, cuts=cuts)
    assert len(found.gaps) == 2
    assert found.gaps == slow.gaps
    assert found.n_times == slow.n_times


def test_a_gap_is_zero_and_stays_where_it_is(tmp_path: Path) -> None:
    """What was not recorded must not look like an envelope of nothing, many units below 0."""
    signal = modulated(512 * 60, 512.0)
    signal[512 * 20 : 512 * 22] = np.nan
    out, found = run(signal, 512.0, tmp_path)
    (gap,) = found.gaps
    assert 18 < gap.start < 20
    assert 22 < gap.stop < 24
    assert (out[810:870] == 0).all()
    assert (np.abs(out[:700]).max(axis=0) > 0).all()


def test_one_wire_recorded_twice_is_no_signal(tmp_path: Path) -> None:
    """The rounding behind a subtraction would be scaled up to a signal."""
    signal = modulated(512 * 30, 512.0)
    signal[:, 1] = signal[:, 0]
    out, found = run(signal, 512.0, tmp_path)
    assert found.flat == ("LA1-LA2",)
    assert (out[:, 0] == 0).all()
    assert out[:, 1].any()


def test_too_slow_a_recording_says_what_to_do(tmp_path: Path) -> None:
    """At 240 Hz the band's edge is half of the sampling rate."""
    with pytest.raises(DataError, match='band "slow"'):
        run(modulated(256 * 10, 256.0), 240.0, tmp_path)


def test_memory_does_not_grow_with_duration(tmp_path: Path) -> None:
    """Recordings last days."""

    class Endless(SignalReader):
        def __init__(self, seconds: int) -> None:
            names = [f"LA{i}" for i in range(1, 9)]
            super().__init__(Path("memory"), 256.0, names, 256 * seconds)

        def _read_stored(self, start: int, stop: int, picks: np.ndarray | None) -> np.ndarray:
            rng = np.random.default_rng(start)
            rows = rng.standard_normal((stop - start, 8), dtype=np.float32)
            return rows if picks is None else rows[:, picks]

    peaks = []
    for seconds in (600, 2400):
        reader = Endless(seconds)
        montage = make_montage(reader.channel_names, range(8), "bipolar")
        intervals = [Interval(0.0, 300.0)]
        tracemalloc.start()
        preprocess_high_gamma(
            reader, tmp_path / "x.eeg", montage=montage, scale_intervals=intervals, cuts=[310.0]
        )
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] + 2e6


def test_joined_montages_name_the_contacts_of_each_channel() -> None:
    """Positions, selection and contributions know a channel by its contacts."""
    names = ["LA1", "REF", "LA2", "LA3", "X"]
    slow = make_montage(names, [0, 2, 3, 4], "none")
    fast = make_montage(names, [0, 2, 3, 4], "bipolar")
    both = join_montages([slow, fast])
    contacts = {
        name: tuple(names[both.picks[member]] for member in members)
        for name, members in zip(both.names, both.members, strict=True)
    }
    assert contacts == {
        "LA1": ("LA1",),
        "LA2": ("LA2",),
        "LA3": ("LA3",),
        "X": ("X",),
        "LA1-LA2": ("LA1", "LA2"),
        "LA2-LA3": ("LA2", "LA3"),
    }
