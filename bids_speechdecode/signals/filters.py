"""Linear-phase filters at the low rate, and what stands in for samples that are missing."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import fft, signal

from bids_speechdecode.signals.rows import FloatArray

_HAMMING_LENGTH = 3.3  # duration of a Hamming-windowed filter times the width of its slope
_MIN_BLOCK = 1 << 14
_NOTCH_WIDTH = 2.0  # hertz between the half-amplitude points
_NOTCH_SLOPE = 1.0  # hertz


def design_filter(
    rate: float, highpass: float, line_frequency: float | None
) -> tuple[NDArray[np.float64], tuple[float, ...]]:
    """Return the taps of high-pass and notches in one, and the frequencies of the notches.

    Windowed-sinc filters of odd length, symmetric, hence of linear phase. The high-pass falls
    from 1 at `highpass` to 0 at 0 Hz, as in MNE's default design. A line frequency or harmonic
    above ``0.525 * rate`` needs no notch: the anti-alias filter has removed it.

    Parameters
    ----------
    rate : float
        Hertz.
    highpass : float
        Hertz; 0 for none.
    line_frequency : float or None
        Hertz of the power line.

    Returns
    -------
    taps : array, shape (n_taps,)
        ``[1.]`` where there is nothing to do.
    notches : tuple of float
        Hertz.
    """
    taps = np.ones(1)
    if highpass > 0:
        low = signal.firwin(_odd_length(rate, highpass), highpass / 2, fs=rate)
        taps = -low
        taps[len(low) // 2] += 1
    notches = _frequencies_in_band(rate, line_frequency)
    for frequency in notches:
        # The upper edge may lie above the Nyquist frequency: then it is a low-pass.
        edges = [frequency - _NOTCH_WIDTH / 2, frequency + _NOTCH_WIDTH / 2]
        inside = [edge for edge in edges if edge < rate / 2 - _NOTCH_SLOPE / 2]
        n_taps = _odd_length(rate, _NOTCH_SLOPE)
        taps = np.convolve(taps, signal.firwin(n_taps, inside, fs=rate, pass_zero=True))
    return taps, notches


def _odd_length(rate: float, slope: float) -> int:
    return int(np.ceil(_HAMMING_LENGTH * rate / slope)) | 1


def _frequencies_in_band(rate: float, line_frequency: float | None) -> tuple[float, ...]:
    if not line_frequency or line_frequency <= 0:
        return ()
    n_harmonics = int(0.525 * rate / line_frequency)
    harmonics = tuple(line_frequency * i for i in range(1, n_harmonics + 1))
    return tuple(f for f in harmonics if f - _NOTCH_WIDTH / 2 < rate / 2 - _NOTCH_SLOPE / 2)


class BlockFilter:
    """A symmetric filter applied to blocks of rows through the Fourier transform.

    Attributes
    ----------
    half : int
        Rows that a block must have more on each side than are wanted.
    block : int
        Rows that one call gives.
    """

    def __init__(self, taps: NDArray[np.float64]) -> None:
        self.half = len(taps) // 2
        n_fft = fft.next_fast_len(max(_MIN_BLOCK, 4 * len(taps)), real=True)
        self.block = n_fft - 2 * self.half
        self._taps = taps.astype(np.float32)
        self._response: dict[int, NDArray[np.complex64]] = {}

    def apply(self, rows: FloatArray) -> FloatArray:
        """Return the filtered rows without the first and the last `half`."""
        if len(self._taps) == 1:
            return rows * self._taps
        n_fft = fft.next_fast_len(len(rows), real=True)
        if n_fft not in self._response:
            self._response = {n_fft: fft.rfft(self._taps, n_fft)[:, None]}
        spectrum = fft.rfft(rows, n_fft, axis=0)
        spectrum *= self._response[n_fft]
        filtered = fft.irfft(spectrum, n_fft, axis=0, overwrite_x=True)
        return filtered[2 * self.half : len(rows)]


@dataclass
class MissingRuns:
    """Runs of missing (NaN) rows per column, found block by block, bridged by straight lines.

    A filter must be fed something where nothing was recorded. A line between the last and the
    next sample has no step for the high-pass to ring on.
    """

    n_columns: int
    _open_since: NDArray[np.int64] = field(init=False)
    _last: FloatArray = field(init=False)
    _runs: list[tuple[int, int, int, float, float]] = field(init=False, default_factory=list)
    _table: NDArray[np.float64] = field(init=False)
    _n_seen: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._open_since = np.full(self.n_columns, -1, dtype=np.int64)
        self._last = np.full(self.n_columns, np.nan, dtype=np.float32)

    def observe(self, rows: FloatArray) -> None:
        """Take note of the next block of rows."""
        missing = np.isnan(rows)
        if missing.any() or (self._open_since >= 0).any():
            for column in np.flatnonzero(missing.any(axis=0) | (self._open_since >= 0)):
                self._observe_column(int(column), rows[:, column], missing[:, column])
        intact = ~missing[-1]
        self._last[intact] = rows[-1, intact]
        self._n_seen += len(rows)

    def _observe_column(self, column: int, values: FloatArray, missing: NDArray[np.bool_]) -> None:
        was_open = self._open_since[column] >= 0
        changes = np.flatnonzero(np.diff(missing.astype(np.int8), prepend=np.int8(was_open)))
        for row in changes.tolist():
            if missing[row]:
                self._open_since[column] = self._n_seen + row
                if row > 0:
                    self._last[column] = values[row - 1]
            else:
                self._close(column, self._n_seen + row, float(values[row]))

    def _close(self, column: int, stop: int, after: float) -> None:
        before = float(self._last[column])
        run = (column, int(self._open_since[column]), stop)
        self._runs.append((*run, before if np.isfinite(before) else after, after))
        self._open_since[column] = -1

    def finish(self) -> None:
        """Close the runs that last to the end; a column without any sample becomes 0."""
        for column in np.flatnonzero(self._open_since >= 0).tolist():
            last = float(self._last[column])
            self._close(column, self._n_seen, last if np.isfinite(last) else 0.0)
        self._table = np.array(self._runs, dtype=np.float64).reshape(-1, 5)

    def fill(self, rows: FloatArray, start: int) -> None:
        """Replace NaN in `rows`, the first of which is row `start`, in place."""
        overlapping = (self._table[:, 1] < start + len(rows)) & (self._table[:, 2] > start)
        for column, begin, end, before, after in self._table[overlapping]:
            rows_of_run = np.arange(max(int(begin), start), min(int(end), start + len(rows)))
            fraction = (rows_of_run - begin + 1) / (end - begin + 1)
            rows[rows_of_run - start, int(column)] = before + fraction * (after - before)
