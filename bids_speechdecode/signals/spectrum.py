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
    powers = []
    for start in starts.tolist():
        rows = read(start, start + n) * np.float32(1) * factor
        rows = (rows - rows.mean(axis=0)) * window
        powers.append(np.abs(fft.rfft(rows, axis=0)).astype(np.float64) ** 2)
    density = _median_of_channels(np.array(powers), np.broadcast_to(factor, powers[0].shape[1]))
    density *= 2 / (rate * float(np.sum(window**2)))
    # At a rate such as 999.4 Hz the lines do not fall on the grid exactly.
    return frequencies, np.interp(frequencies, fft.rfftfreq(n, 1 / rate), density)


def _median_of_channels(
    powers: NDArray[np.float64], factor: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Return the density (n_frequencies,) of powers (n_stretches, n_frequencies, n_channels)."""
    intact = np.isfinite(powers)
    counts = intact.sum(axis=0)
    means = np.where(intact, powers, 0).sum(axis=0) / np.maximum(counts, 1)
    counted = (factor != 0) & (counts.min(axis=0) > 0)
    if not counted.any():
        return np.full(powers.shape[1], np.nan)
    return np.median(means[:, counted], axis=1)
