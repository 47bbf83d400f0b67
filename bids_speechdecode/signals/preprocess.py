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
from functools import partial
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from bids_speechdecode.signals.decimate import Decimator, block_length
from bids_speechdecode.signals.envelopes import Contacts
from bids_speechdecode.signals.export import write_brainvision_header
from bids_speechdecode.signals.filters import BlockFilter, MissingRuns, design_filter
from bids_speechdecode.signals.montage import Montage, make_montage
from bids_speechdecode.signals.readers import SignalReader
from bids_speechdecode.signals.rows import FloatArray, ReadRows, RowFile, reach_over_ends
from bids_speechdecode.signals.scaling import (
    Preprocessed,
    RowSample,
    list_stretches,
    scale_in_place,
)
from bids_speechdecode.timeline import Interval

__all__ = ["Montage", "Preprocessed", "make_montage", "preprocess", "write_brainvision_header"]

_ROUNDING = 1e-6  # of float32: a range this small relative to the level is no signal

Progress = Callable[[float], None]


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
        contacts, missing = _decimate(reader, low, montage, rate, block, report)
        margin = Decimator(reader.sampling_rate, rate).margin
        stretches = list_stretches(cuts, margin, low.n_rows, rate)
        sample = RowSample(scale_intervals, (low.n_rows, len(montage.names)), rate)
        _filter(low, out, contacts, missing, BlockFilter(taps), sample, stretches)
        return scale_in_place(
            out, sample, contacts, reader, rate=rate, clamp=clamp, notches=notches
        )


def _decimate(
    reader: SignalReader,
    low: RowFile,
    montage: Montage,
    rate: float,
    block: float | None,
    report: Progress,
) -> tuple[Contacts, MissingRuns]:
    """Write the contacts at the low rate, NaN where a filter touches a missing sample."""
    picks = montage.picks
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
    return Contacts(montage, flat, nan), missing


def _filter(
    low: RowFile,
    out: RowFile,
    contacts: Contacts,
    missing: MissingRuns,
    block_filter: BlockFilter,
    sample: RowSample,
    stretches: Sequence[tuple[int, int, bool]],
) -> None:
    """Write the referenced signal, each of the `stretches` filtered on its own."""

    def filled(start: int, stop: int) -> FloatArray:
        rows = low.read(start, stop)
        missing.fill(rows, start)
        return contacts.reference(rows)

    for first, last, is_used in stretches:
        if not is_used:
            n_outputs = len(contacts.montage.names)
            out.append(np.full((last - first, n_outputs), np.nan, dtype=np.float32))
            continue
        read = reach_over_ends(partial(_shifted, filled, first), last - first)
        for start in range(first, last, block_filter.block):
            stop = min(start + block_filter.block, last)
            within = read(start - first - block_filter.half, stop - first + block_filter.half)
            rows = block_filter.apply(within)
            rows[contacts.outputs_of(np.isnan(low.read(start, stop)))] = np.nan
            out.append(rows)
            sample.take(start, rows)


def _shifted(read: ReadRows, first: int, start: int, stop: int) -> FloatArray:
    """Return rows counted from row `first`."""
    return read(first + start, first + stop)
