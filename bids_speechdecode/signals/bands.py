"""Recording -> envelopes of carrier bands, and the slow signal itself, at a low rate.

One pass, at any length, makes all bands together:

1. contacts are brought to a working rate that still holds the highest band;
2. gaps are bridged, contacts re-referenced and Fourier-transformed in overlapping blocks;
3. each band takes its part of the spectrum, times ``2 |H(f)|^2``: the analytic signal of a
   Butterworth filter H run forwards and backwards. That part is narrow, so it is transformed
   back at a fraction of the working rate;
4. its magnitude, the envelope, goes through the same decimation as the preprocessed signal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from bids_speechdecode.errors import DataError
from bids_speechdecode.signals.decimate import as_fraction
from bids_speechdecode.signals.envelopes import Contacts, find_unusable, open_streams
from bids_speechdecode.signals.filterbank import Edges, design_bank
from bids_speechdecode.signals.filters import BlockFilter, MissingRuns, design_filter
from bids_speechdecode.signals.montage import Montage
from bids_speechdecode.signals.readers import SignalReader
from bids_speechdecode.signals.rows import FloatArray, RowFile, reach_over_ends
from bids_speechdecode.timeline import Interval

__all__ = ["BAND_EDGES", "SLOW", "Bands", "Edges", "band_envelopes"]

BAND_EDGES: dict[str, Edges] = {
    "theta": (4.0, 8.0),
    "alpha": (8.0, 13.0),
    "beta": (13.0, 30.0),
    "gamma": (30.0, 70.0),
}  # hertz
SLOW = "slow"
ROWS = 1 << 14  # of an output that are in memory at once


@dataclass(frozen=True)
class Bands:
    """What was made, and what was found on the way. One entry per output channel.

    Attributes
    ----------
    n_times : int
        Samples of every output; sample k lies at ``k / rate`` seconds of the recording.
    rate : float
        Hertz.
    flat, nan : tuple of str
        Unusable channels, all zero in the outputs: one of their contacts never moved (or both of
        a pair, or all of an average, moved alike), or has no sample that is a number.
    missing_fraction : array, shape (n_channels,)
        Of all samples, those that are missing in any band; each is zero in that band.
    gaps : tuple of Interval
        Seconds in which all usable channels are missing, including the reach of the filters.
    notches : tuple of float
        Hertz; the harmonics of the power line that were taken out.
    """

    n_times: int
    rate: float
    flat: tuple[str, ...]
    nan: tuple[str, ...]
    missing_fraction: NDArray[np.float64]
    gaps: tuple[Interval, ...]
    notches: tuple[float, ...]


def band_envelopes(
    reader: SignalReader,
    out_paths: Mapping[str, Path],
    *,
    montage: Montage,
    edges: Mapping[str, Edges | None],
    rate: float = 20.0,
    line_frequency: float | None = None,
    highpass: float = 0.05,
    block: float | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> Bands:
    """Write the envelope of each band of the recording and return what was found.

    ``E(t) = |x(t) + i H[x](t)|``, H the Hilbert transform of the band-passed signal x, as
    `scipy.signal.sosfiltfilt` and `scipy.signal.hilbert` on the whole recording would give it
    were it continued over its ends by point reflection, low-passed and resampled like the
    preprocessed signal. The difference is below 0.1 % of the envelope's standard deviation, and
    0.5 % at most; more (5 %) in the last 2 s, where the decimation reflects the envelope about
    its own last sample. Being low-passed, an envelope can dip below 0.

    Parameters
    ----------
    reader : SignalReader
        The recording, in volts.
    out_paths : mapping of str to Path
        The bands to make; each file gets raw float32, shape (n_times, n_channels), volts.
        Overwritten.
    montage : Montage
        Which contacts, and what is made of them. Contacts that are flat or without any number
        do not enter a common average: they are looked for first, which reads no further than the
        moment at which every contact has moved, and the whole of those that never do.
    edges : mapping of str to (float, float) or None
        Half-power frequencies of the bands, in hertz (of each of the two runs of the filter);
        None for the slow signal itself: high-passed at `highpass`, low-passed by the decimation,
        which is the preprocessed signal before it is scaled.
    rate : float
        Of the outputs, in hertz.
    line_frequency : float, optional
        Of the power line, in hertz; it and its harmonics are taken out wherever a band holds
        them.
    highpass : float
        Hertz, for the slow signal only; 0 for none.
    block : float, optional
        Seconds read at once; chosen for speed by default. The result does not depend on it.
    on_progress : callable, optional
        Called with the seconds of the recording that were newly read.

    Raises
    ------
    DataError
        Where the recording is damaged, slower than `rate`, or too slow for one of the bands.
    CannotWriteError
        Where an output cannot be written.

    Notes
    -----
    The order of the filter is that of `scipy.signal.butter(4, edges, "bandpass")`.
    """
    _check(reader, {band: edges[band] for band in out_paths}, rate)
    is_slow = [edges[band] is None for band in out_paths]
    carriers = [limits for band in out_paths if (limits := edges[band]) is not None]
    contacts = find_unusable(reader, montage)
    bank = design_bank(reader.sampling_rate, carriers, rate, line_frequency)
    taps, notches = design_filter(rate, highpass, line_frequency)
    n_times = int(-(-reader.n_times // (as_fraction(reader.sampling_rate) / as_fraction(rate))))
    with (
        # The matrix products are small: more threads gain nothing and wait for each other.
        threadpool_limits(1, user_api="blas"),
        ExitStack() as files,
    ):
        sinks: list[_EnvelopeFile] = []
        for path, slow in zip(out_paths.values(), is_slow, strict=True):
            out = files.enter_context(RowFile(len(montage.names), path=path, folder=path.parent))
            if slow:
                low = files.enter_context(RowFile(len(montage.picks), folder=path.parent))
                sinks.append(_SlowFile(out, contacts, low, BlockFilter(taps)))
            else:
                sinks.append(_EnvelopeFile(out, contacts))
        streams = open_streams(reader, contacts, bank, is_slow, rate, block, on_progress)
        absent = _write(streams, sinks, contacts.dead, n_times)
        moved = np.logical_or.reduce([sink.finish() for sink in sinks])
    nan = contacts.outputs_of(contacts.nan) | (absent.n_missing == n_times)
    flat = ~nan & (contacts.outputs_of(contacts.flat) | ~moved)
    return Bands(
        n_times=n_times,
        rate=rate,
        flat=_names(montage, flat),
        nan=_names(montage, nan),
        missing_fraction=absent.n_missing / n_times,
        gaps=_runs_of(absent.everywhere, rate),
        notches=tuple(sorted({*bank.notches, *(notches if any(is_slow) else ())})),
    )


# The outputs


class _EnvelopeFile:
    """Takes the envelope of a band block by block."""

    def __init__(self, out: RowFile, contacts: Contacts) -> None:
        self._out = out
        self._contacts = contacts
        self._dead = contacts.dead
        self._moved = np.zeros(len(self._dead), dtype=bool)

    def take(self, rows: FloatArray) -> NDArray[np.bool_]:
        """Write the next rows; return where they are missing."""
        absent = np.isnan(rows)
        self._put(rows, absent)
        return absent

    def finish(self) -> NDArray[np.bool_]:
        """Return which outputs are anything but zero and rounding, once the others are zero."""
        rounding = self._moved & ~self._contacts.reference.left
        for start in range(0, self._out.n_rows if rounding.any() else 0, ROWS):
            rows = self._out.read(start, min(start + ROWS, self._out.n_rows))
            rows[:, rounding] = 0
            self._out.write(start, rows)
        return self._moved & ~rounding

    def _put(self, rows: FloatArray, absent: NDArray[np.bool_]) -> None:
        rows = np.where(absent | self._dead, np.float32(0), rows)
        self._moved |= rows.any(axis=0)
        self._out.append(rows)


class _SlowFile(_EnvelopeFile):
    """Takes contacts at the low rate; when all are there, references and high-passes them."""

    def __init__(
        self, out: RowFile, contacts: Contacts, low: RowFile, block_filter: BlockFilter
    ) -> None:
        super().__init__(out, contacts)
        self._low, self._filter = low, block_filter
        self._missing = MissingRuns(len(contacts.nan))

    def take(self, rows: FloatArray) -> NDArray[np.bool_]:
        """Keep the next rows; return where outputs will be missing."""
        self._missing.observe(rows)
        self._low.append(rows)
        return self._contacts.outputs_of(np.isnan(rows))

    def finish(self) -> NDArray[np.bool_]:
        """Write the output; return which channels are anything but zero and rounding."""
        self._missing.finish()
        read = reach_over_ends(self._referenced, self._low.n_rows)
        for start in range(0, self._low.n_rows, self._filter.block):
            stop = min(start + self._filter.block, self._low.n_rows)
            rows = self._filter.apply(read(start - self._filter.half, stop + self._filter.half))
            self._put(rows, self._contacts.outputs_of(np.isnan(self._low.read(start, stop))))
        return super().finish()

    def _referenced(self, start: int, stop: int) -> FloatArray:
        rows = self._low.read(start, stop)
        self._missing.fill(rows, start)
        return self._contacts.reference(rows)


@dataclass(frozen=True)
class _Absent:
    """What is missing in any band: samples per output, and where all usable outputs are."""

    n_missing: NDArray[np.int64]
    everywhere: NDArray[np.bool_]


def _write(
    streams: Sequence[Iterator[FloatArray]],
    sinks: Sequence[_EnvelopeFile],
    dead: NDArray[np.bool_],
    n_times: int,
) -> _Absent:
    """Pass the first `n_times` rows of every stream to its sink."""
    n_missing = np.zeros(len(dead), dtype=np.int64)
    everywhere = np.zeros(n_times, dtype=bool)
    start = 0
    for blocks in zip(*streams, strict=False):
        stop = min(start + min(len(rows) for rows in blocks), n_times)
        if stop == start:
            break
        absent = np.logical_or.reduce(
            [sink.take(rows[: stop - start]) for sink, rows in zip(sinks, blocks, strict=True)]
        )
        n_missing += absent.sum(axis=0)
        everywhere[start:stop] = absent[:, ~dead].all(axis=1) & ~dead.all()
        start = stop
    return _Absent(n_missing, everywhere)


# The rest


def _check(reader: SignalReader, edges: Mapping[str, Edges | None], rate: float) -> None:
    nyquist = reader.sampling_rate / 2
    if reader.sampling_rate < rate:
        raise DataError(
            "recording is slower than the rate of the responses",
            expected=f"at least {rate:g} Hz",
            found=f"{reader.sampling_rate:g} Hz",
            where=reader.path,
            fix="choose a lower rate in the section [encoding] of the configuration",
        )
    for band, limits in edges.items():
        if limits is None:
            continue
        low, high = limits
        if not 0 < low < high:
            raise DataError(
                f"edges of the band {band} do not make a band",
                expected="two rising frequencies above 0 Hz",
                found=f"{low:g} to {high:g} Hz",
                fix="correct its edges in the section [encoding] of the configuration",
            )
        if high >= nyquist:
            raise DataError(
                f"band {band} reaches beyond what the recording holds",
                expected=f"edges below {nyquist:g} Hz, half of the sampling rate",
                found=f"{low:g} to {high:g} Hz",
                where=reader.path,
                fix="lower its upper edge (high_gamma in the section [encoding] of the "
                "configuration), leave it out of bands, or leave this recording out",
            )


def _names(montage: Montage, chosen: NDArray[np.bool_]) -> tuple[str, ...]:
    return tuple(name for name, is_chosen in zip(montage.names, chosen, strict=True) if is_chosen)


def _runs_of(mask: NDArray[np.bool_], rate: float) -> tuple[Interval, ...]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return tuple(
        Interval(start / rate, stop / rate) for start, stop in edges.reshape(-1, 2).tolist()
    )
