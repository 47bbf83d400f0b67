"""Recording -> clean, robustly scaled signal at a low rate, streamed at any length.

Three passes, of which only the first reads the recording:

1. every contact is decimated to the low rate, into a nameless file;
2. that is re-referenced and high-passed, into the output;
3. the output is centred, scaled and clamped in place.

Re-referencing after the decimation gives the same numbers, costs a twenty-fifth, and by then it
is known which contacts are dead and must not enter a common average.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from bids_speechdecode.signals.decimate import Decimator, block_length
from bids_speechdecode.signals.export import write_brainvision_header
from bids_speechdecode.signals.filters import BlockFilter, MissingRuns, design_filter
from bids_speechdecode.signals.montage import Montage, Referencing, make_montage
from bids_speechdecode.signals.readers import SignalReader
from bids_speechdecode.signals.rows import FloatArray, ReadRows, RowFile, reach_over_ends
from bids_speechdecode.signals.spectrum import Spectrum, median_spectrum
from bids_speechdecode.timeline import Interval, sample_at

__all__ = ["Montage", "Preprocessed", "make_montage", "preprocess", "write_brainvision_header"]

_SAMPLE_BYTES = 128 << 20  # of the sample from which median and quartiles are taken
_ROUNDING = 1e-6  # of float32: a range this small relative to the level is no signal

Progress = Callable[[float], None]


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


@dataclass(frozen=True)
class _Contacts:
    """What the first pass found, one entry per contact."""

    missing: MissingRuns
    flat: NDArray[np.bool_]
    nan: NDArray[np.bool_]


def preprocess(
    reader: SignalReader,
    out_path: Path,
    *,
    montage: Montage,
    rate: float = 40.0,
    highpass: float = 0.05,
    line_frequency: float | None = None,
    clamp: float = 20.0,
    scale_intervals: Sequence[Interval] | None = None,
    cuts: Sequence[float] = (),
    block: float | None = None,
    on_progress: Progress | None = None,
) -> Preprocessed:
    """Write the preprocessed recording and return what was found.

    Parameters
    ----------
    reader : SignalReader
        The recording, in volts.
    out_path : Path
        Gets raw float32, shape (n_times, n_channels), robust z. Overwritten.
    montage : Montage
        Which contacts, and what is made of them.
    rate : float
        Of the output, in hertz.
    highpass : float
        Hertz; 0 for none.
    line_frequency : float, optional
        Of the power line, in hertz; notched where it lies in the band that the output keeps.
    clamp : float
        Largest absolute value, in robust z.
    scale_intervals : sequence of Interval, optional
        Seconds from which median and quartiles are taken; the whole recording by default.
    cuts : sequence of float, optional
        Seconds where the signal is cut before it is high-passed, so that what lies on one side
        has no part, not even a rounding, in what comes out on the other. Samples around a cut
        that the anti-alias filter makes of both sides (1.3 s on each) count as missing. Each
        stretch is continued over its ends by point reflection.
    block : float, optional
        Seconds read at once; chosen for speed by default. The result does not depend on it.
    on_progress : callable, optional
        Called with the seconds of the recording that were newly read.

    Raises
    ------
    DataError
        Where the recording is damaged, or slower than `rate`.
    CannotWriteError
        Where the output cannot be written.
    """
    report = on_progress or (lambda _: None)
    taps, notches = design_filter(rate, highpass, line_frequency)
    with (
        # The matrix products are small: more threads gain nothing and wait for each other.
        threadpool_limits(1, user_api="blas"),
        RowFile(len(montage.picks), folder=out_path.parent) as low,
        RowFile(len(montage.names), path=out_path, folder=out_path.parent) as out,
    ):
        contacts = _decimate(reader, low, montage.picks, rate, block, report)
        usable = ~(contacts.flat | contacts.nan)
        wanted = _rows_within(scale_intervals, low.n_rows, rate)
        margin = Decimator(reader.sampling_rate, rate).margin
        stretches = _stretches(cuts, margin, low.n_rows, rate)
        reference = Referencing(montage, usable)
        sample = _filter(
            low, out, montage, contacts, reference, BlockFilter(taps), wanted, stretches
        )
        flat, nan = _of_outputs(montage, contacts.flat), _of_outputs(montage, contacts.nan)
        center, scale = _fit_scale(sample)
        flat |= ~nan & ((scale <= 0) | ~reference.left)
        scale[flat | nan] = 0
        clamped, missing, gaps = _scale(out, center, scale, clamp, rate)
        after = median_spectrum(out.read, out.n_rows, rate, scale)
        n_times = out.n_rows
    before = median_spectrum(
        lambda start, stop: reader.read(start, stop, montage.picks),
        reader.n_times,
        reader.sampling_rate,
        usable.astype(np.float32),
    )
    return Preprocessed(
        n_times=n_times,
        rate=rate,
        center=center,
        scale=scale,
        flat=_names(montage, flat),
        nan=_names(montage, nan & ~flat),
        clamped_fraction=clamped,
        missing_fraction=missing,
        gaps=gaps,
        notches=notches,
        spectrum_before=before,
        spectrum_after=after,
    )


def _decimate(
    reader: SignalReader,
    low: RowFile,
    picks: Sequence[int],
    rate: float,
    block: float | None,
    report: Progress,
) -> _Contacts:
    """Write the contacts at the low rate, NaN where a filter touches a missing sample."""
    chosen = None if list(picks) == list(range(len(reader.channel_names))) else picks
    decimator = Decimator(reader.sampling_rate, rate)
    length = int(block * rate) if block else block_length(reader.sampling_rate, rate, len(picks))
    missing = MissingRuns(len(picks))
    smallest = np.full(len(picks), np.inf, dtype=np.float32)
    largest = -smallest
    for rows in decimator.stream(
        lambda start, stop: reader.read(start, stop, chosen), reader.n_times, max(length, 1)
    ):
        missing.observe(rows)
        np.fmin(smallest, np.fmin.reduce(rows, axis=0), out=smallest)
        np.fmax(largest, np.fmax.reduce(rows, axis=0), out=largest)
        low.append(rows)
        report(len(rows) / rate)
    missing.finish()
    nan = smallest > largest
    level = np.maximum(np.abs(smallest), np.abs(largest))
    with np.errstate(invalid="ignore"):
        flat = ~nan & (largest - smallest <= _ROUNDING * level)
    return _Contacts(missing, flat, nan)


def _filter(
    low: RowFile,
    out: RowFile,
    montage: Montage,
    contacts: _Contacts,
    reference: Referencing,
    block_filter: BlockFilter,
    wanted: NDArray[np.bool_],
    stretches: Sequence[tuple[int, int, bool]],
) -> FloatArray:
    """Write the referenced signal, each of the `stretches` filtered on its own.

    Returns evenly spaced rows out of those `wanted`.
    """

    def filled(start: int, stop: int) -> FloatArray:
        rows = low.read(start, stop)
        contacts.missing.fill(rows, start)
        return reference(rows)

    every = max(1, -(-4 * int(wanted.sum()) * len(montage.names) // _SAMPLE_BYTES))
    sampled = np.flatnonzero(wanted)[::every].copy()
    sample = np.empty((len(sampled), len(montage.names)), dtype=np.float32)
    for first, last, is_used in stretches:
        if not is_used:
            out.append(np.full((last - first, len(montage.names)), np.nan, dtype=np.float32))
            continue
        read = reach_over_ends(partial(_shifted, filled, first), last - first)
        for start in range(first, last, block_filter.block):
            stop = min(start + block_filter.block, last)
            within = read(start - first - block_filter.half, stop - first + block_filter.half)
            rows = block_filter.apply(within)
            rows[_missing_outputs(montage, np.isnan(low.read(start, stop)))] = np.nan
            out.append(rows)
            chosen = slice(*np.searchsorted(sampled, (start, stop)))
            sample[chosen] = rows[sampled[chosen] - start]
    return sample


def _stretches(
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


def _shifted(read: ReadRows, first: int, start: int, stop: int) -> FloatArray:
    """Return rows counted from row `first`."""
    return read(first + start, first + stop)


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


def _rows_within(
    intervals: Sequence[Interval] | None, n_rows: int, rate: float
) -> NDArray[np.bool_]:
    if intervals is None:
        return np.ones(n_rows, dtype=bool)
    within = np.zeros(n_rows, dtype=bool)
    for interval in intervals:
        within[max(sample_at(interval.start, rate), 0) : max(sample_at(interval.stop, rate), 0)] = 1
    return within


def _missing_outputs(montage: Montage, missing: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return where an output misses one of its contacts, (n_times, n_outputs)."""
    first = [members[0] for members in montage.members]
    last = [members[-1] for members in montage.members]
    return missing[:, first] | missing[:, last]


def _of_outputs(montage: Montage, contacts: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which outputs have a contact of which `contacts` is true."""
    return _missing_outputs(montage, contacts[None])[0]


def _names(montage: Montage, chosen: NDArray[np.bool_]) -> tuple[str, ...]:
    return tuple(name for name, is_chosen in zip(montage.names, chosen, strict=True) if is_chosen)


def _runs_of(mask: NDArray[np.bool_], rate: float) -> tuple[Interval, ...]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return tuple(
        Interval(start / rate, stop / rate) for start, stop in edges.reshape(-1, 2).tolist()
    )
