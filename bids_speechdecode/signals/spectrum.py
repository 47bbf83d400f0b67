"""Power spectra from a few evenly spaced stretches of a long recording."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft, signal

from bids_speechdecode.signals.rows import ReadRows

_DURATION = 4.0  # seconds of a stretch, so that lines are 0.25 Hz apart
_N_STRETCHES = 12
_MAX_FREQUENCY = 250.0

Spectrum = tuple[NDArray[np.float64], NDArray[np.float64]]


def median_spectrum(
    read: ReadRows, n_times: int, rate: float, factor: NDArray[np.float32] | float = 1.0
) -> Spectrum:
    """Return the power spectral density, averaged over stretches, median over channels.

    Parameters
    ----------
    read : callable
        ``read(start, stop)`` returns array, shape (stop - start, n_channels).
    n_times : int
        Samples of the recording.
    rate : float
        Hertz.
    factor : float or array, shape (n_channels,)
        Makes volts of what is read; channels with factor 0 do not count.

    Returns
    -------
    frequencies : array, shape (n_frequencies,), hertz
        Multiples of 0.25 Hz up to 250 Hz or the Nyquist frequency.
    power : array, shape (n_frequencies,), V²/Hz
        NaN where the recording is too short or has no stretch without a gap.
    """
    n = round(_DURATION * rate)
    frequencies = np.arange(0, min(rate / 2, _MAX_FREQUENCY) + 1e-9, 1 / _DURATION)
    if n_times < n:
        return frequencies, np.full(len(frequencies), np.nan)
    window = signal.get_window("hann", n).astype(np.float32)[:, None]
    starts = np.unique(np.linspace(0, n_times - n, _N_STRETCHES).astype(int))
    lines = fft.rfftfreq(n, 1 / rate)
    n_lines = int(np.searchsorted(lines, frequencies[-1])) + 1
    total = np.zeros((n_lines, np.shape(read(0, 1))[1]), dtype=np.float32)
    n_added = np.zeros(total.shape[1], dtype=np.int64)
    for start in starts.tolist():
        rows = read(start, start + n) * np.float32(factor)
        rows = (rows - rows.mean(axis=0)) * window
        power = np.abs(fft.rfft(rows, axis=0)[:n_lines]) ** 2
        intact = np.isfinite(power[0])  # a missing sample makes every line of its stretch NaN
        total[:, intact] += power[:, intact]
        n_added += intact
    counted = (np.broadcast_to(factor, n_added.shape) != 0) & (n_added > 0)
    if not counted.any():
        return frequencies, np.full(len(frequencies), np.nan)
    density = np.median(total[:, counted] / n_added[counted], axis=1).astype(np.float64)
    density *= 2 / (rate * float(np.sum(window**2)))
    # At a rate such as 999.4 Hz the lines do not fall on the grid exactly.
    return frequencies, np.interp(frequencies, lines[:n_lines], density)
