"""Rows at the low rate -> robust z: what preprocessing of every band has in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from bids_speechdecode.signals.envelopes import Contacts
from bids_speechdecode.signals.readers import SignalReader
from bids_speechdecode.signals.rows import FloatArray, RowFile
from bids_speechdecode.signals.spectrum import Spectrum, median_spectrum
from bids_speechdecode.timeline import Interval, sample_at

_SAMPLE_BYTES = 128 << 20  # of the sample from which median and quartiles are taken


@dataclass(frozen=True)
class Preprocessed:
    """What was made, and what was found on the way. One entry per output channel.

    Attributes
    ----------
    n_times : int
        Samples of the output; sample k lies at ``k / rate`` seconds of the recording.
    rate : float
        Hertz.
    center, scale : array, shape (n_channels,), volts
        Median and interquartile range; the scale of an unusable channel is 0.
    flat, nan : tuple of str
        Unusable channels, all zero in the output: one of their contacts never moved (or all of
        which they are made moved alike), or has no sample that is a number.
    clamped_fraction, missing_fraction : array, shape (n_channels,)
        Of the samples that are there, those that were clamped; of all samples, those that are
        missing (zero in the output).
    gaps : tuple of Interval
        Seconds in which all usable channels are missing, including the reach of the filter.
    notches : tuple of float
        Hertz; the notches that were needed.
    spectrum_before, spectrum_after : (frequencies, power)
        Median over contacts of the recording and over output channels, V²/Hz.
    """

    n_times: int
    rate: float
    center: FloatArray
    scale: FloatArray
    flat: tuple[str, ...]
    nan: tuple[str, ...]
    clamped_fraction: NDArray[np.float64]
    missing_fraction: NDArray[np.float64]
    gaps: tuple[Interval, ...]
    notches: tuple[float, ...]
    spectrum_before: Spectrum
    spectrum_after: Spectrum


class RowSample:
    """Evenly spaced rows out of those wanted, NaN until they are taken.

    Parameters
    ----------
    intervals : sequence of Interval, optional
        Seconds in which rows are wanted; all by default.
    shape : (int, int)
        Rows and columns there will be.
    rate : float
        Hertz.
    """

    def __init__(
        self, intervals: Sequence[Interval] | None, shape: tuple[int, int], rate: float
    ) -> None:
        wanted = np.flatnonzero(_rows_within(intervals, shape[0], rate))
        every = max(1, -(-4 * len(wanted) * shape[1] // _SAMPLE_BYTES))
        self._places = wanted[::every].copy()
        self.rows = np.full((len(self._places), shape[1]), np.nan, dtype=np.float32)

    def take(self, start: int, rows: FloatArray) -> None:
        """Keep what is wanted of `rows`, the first of which is row `start`."""
        chosen = slice(*np.searchsorted(self._places, (start, start + len(rows))))
        self.rows[chosen] = rows[self._places[chosen] - start]


def _rows_within(
    intervals: Sequence[Interval] | None, n_rows: int, rate: float
) -> NDArray[np.bool_]:
    if intervals is None:
        return np.ones(n_rows, dtype=bool)
    within = np.zeros(n_rows, dtype=bool)
    for interval in intervals:
        within[max(sample_at(interval.start, rate), 0) : max(sample_at(interval.stop, rate), 0)] = 1
    return within


def list_stretches(
    cuts: Sequence[float], margin: float, n_rows: int, rate: float
) -> list[tuple[int, int, bool]]:
    """Return (first row, last row + 1, is used) of the stretches that `cuts` (seconds) make.

    Rows within `margin` (seconds) of a cut are a stretch of their own that is not used.
    """
    is_used = np.ones(n_rows, dtype=bool)
    for cut in cuts:
        near = (sample_at(cut - margin, rate), sample_at(cut + margin, rate) + 1)
        is_used[max(near[0], 0) : max(near[1], 0)] = False
    edges = [0, *(np.flatnonzero(np.diff(is_used)) + 1).tolist(), n_rows]
    return [(first, last, bool(is_used[first])) for first, last in pairwise(edges)]


def scale_in_place(
    out: RowFile,
    sample: RowSample,
    contacts: Contacts,
    reader: SignalReader,
    *,
    rate: float,
    clamp: float,
    notches: tuple[float, ...],
) -> Preprocessed:
    """Centre, scale and clamp all rows of `out`, and return what was found.

    Parameters
    ----------
    out : RowFile
        The output channels in volts, NaN where they are missing.
    sample : RowSample
        The rows from which median and quartiles are taken.
    contacts : Contacts
    reader : SignalReader
        The recording.
    rate : float
        Of `out`, in hertz.
    clamp : float
        Largest absolute value, in robust z.
    notches : tuple of float
        Hertz; those that were applied.
    """
    names = contacts.montage.names
    flat, nan = contacts.outputs_of(contacts.flat), contacts.outputs_of(contacts.nan)
    center, scale = _fit_scale(sample.rows)
    flat |= ~nan & ((scale <= 0) | ~contacts.reference.left)
    scale[flat | nan] = 0
    clamped, missing, gaps = _scale(out, center, scale, clamp, rate)
    picks = contacts.montage.picks
    usable = ~(contacts.flat | contacts.nan)
    return Preprocessed(
        n_times=out.n_rows,
        rate=rate,
        center=center,
        scale=scale,
        flat=_names(names, flat),
        nan=_names(names, nan & ~flat),
        clamped_fraction=clamped,
        missing_fraction=missing,
        gaps=gaps,
        notches=notches,
        spectrum_before=median_spectrum(
            lambda start, stop: reader.read(start, stop, picks),
            reader.n_times,
            reader.sampling_rate,
            usable.astype(np.float32),
        ),
        spectrum_after=median_spectrum(out.read, out.n_rows, rate, scale),
    )


def _fit_scale(sample: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return median and interquartile range per column of `sample`, NaN left out."""
    quartiles = np.zeros((3, sample.shape[1]), dtype=np.float32)
    for column in range(sample.shape[1]):
        values = np.sort(sample[:, column])  # NaN goes to the end
        values = values[: len(values) - int(np.isnan(values).sum())]
        if len(values):
            position = np.array([0.25, 0.5, 0.75]) * (len(values) - 1)
            quartiles[:, column] = np.interp(position, np.arange(len(values)), values)
    return quartiles[1], quartiles[2] - quartiles[0]


def _scale(
    out: RowFile, center: FloatArray, scale: FloatArray, clamp: float, rate: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], tuple[Interval, ...]]:
    """Scale and clamp `out` in place; return the fractions clamped and missing, and the gaps."""
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
    n_clamped = np.zeros(len(scale), dtype=np.int64)
    n_missing = np.zeros(len(scale), dtype=np.int64)
    all_missing = np.zeros(out.n_rows, dtype=bool)
    for start in range(0, out.n_rows, 1 << 14):
        rows = out.read(start, min(start + (1 << 14), out.n_rows))
        missing = np.isnan(rows)
        all_missing[start : start + len(rows)] = missing[:, scale > 0].all(axis=1)
        n_missing += missing.sum(axis=0)
        rows -= center
        rows *= inverse
        n_clamped += (np.abs(rows) > clamp).sum(axis=0)
        np.clip(rows, -clamp, clamp, out=rows)
        rows[missing] = 0
        rows[:, scale <= 0] = 0
        out.write(start, rows)
    n_there = np.maximum(out.n_rows - n_missing, 1)
    gaps = _runs_of(all_missing, rate) if (scale > 0).any() else ()
    return n_clamped / n_there, n_missing / out.n_rows, gaps


def _names(names: Sequence[str], chosen: NDArray[np.bool_]) -> tuple[str, ...]:
    return tuple(name for name, is_chosen in zip(names, chosen, strict=True) if is_chosen)


def _runs_of(mask: NDArray[np.bool_], rate: float) -> tuple[Interval, ...]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return tuple(
        Interval(start / rate, stop / rate) for start, stop in edges.reshape(-1, 2).tolist()
    )
