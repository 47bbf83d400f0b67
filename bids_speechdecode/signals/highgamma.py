"""Recording -> robustly scaled envelope of high gamma at the low rate, streamed at any length.

The envelope is the one of `signals.bands`. Where splits cut the recording, each stretch is made of
samples between its own two cuts and of no others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from bids_speechdecode.errors import DataError
from bids_speechdecode.signals.decimate import Decimator, as_fraction
from bids_speechdecode.signals.envelopes import find_unusable, open_streams
from bids_speechdecode.signals.filterbank import Edges, design_bank
from bids_speechdecode.signals.montage import Montage
from bids_speechdecode.signals.preprocess import Progress
from bids_speechdecode.signals.readers import SignalReader
from bids_speechdecode.signals.rows import FloatArray, RowFile
from bids_speechdecode.signals.scaling import (
    Preprocessed,
    RowSample,
    list_stretches,
    scale_in_place,
)
from bids_speechdecode.timeline import Interval


def require_band(sampling_rate: float, edges: Edges, where: Path) -> None:
    """Raise a DataError unless a recording holds the band between `edges` (hertz)."""
    if edges[1] >= sampling_rate / 2:
        raise DataError(
            "the high-gamma band reaches beyond what the recording holds",
            expected=f"edges below {sampling_rate / 2:g} Hz, half of the sampling rate",
            found=f"{edges[0]:g} to {edges[1]:g} Hz",
            where=where,
            fix='lower its upper edge (high_gamma), or choose the band "slow", in the section '
            "[preprocess] of the configuration, or leave this recording out",
        )


def preprocess_high_gamma(
    reader: SignalReader,
    out_path: Path,
    *,
    montage: Montage,
    edges: Edges = (70.0, 120.0),
    rate: float = 40.0,
    line_frequency: float | None = None,
    clamp: float = 20.0,
    scale_intervals: Sequence[Interval] | None = None,
    cuts: Sequence[float] = (),
    on_progress: Progress | None = None,
) -> Preprocessed:
    """Write the envelope between `edges` (hertz) and return what was found.

    Parameters are those of `preprocess`. The samples around a cut that count as missing are those
    that are missing there, too.

    Raises
    ------
    DataError
        Where the recording is damaged, or too slow for the band.
    CannotWriteError
        Where the output cannot be written.
    """
    require_band(reader.sampling_rate, edges, reader.path)
    decimator = Decimator(reader.sampling_rate, rate)
    n_rows, n_columns = decimator.n_out(reader.n_times), len(montage.names)
    contacts = find_unusable(reader, montage)
    bank = design_bank(reader.sampling_rate, [edges], rate, line_frequency)
    sample = RowSample(scale_intervals, (n_rows, n_columns), rate)
    with (
        # The matrix products are small: more threads gain nothing and wait for each other.
        threadpool_limits(1, user_api="blas"),
        RowFile(n_columns, path=out_path, folder=out_path.parent) as out,
    ):
        for first, last, is_used in list_stretches(cuts, decimator.margin, n_rows, rate):
            if is_used:
                part, skipped = _between_cuts(reader, cuts, first, last, rate)
                (stream,) = open_streams(part, contacts, bank, [False], rate, None, on_progress)
                for rows in _rows_of(stream, skipped, skipped + last - first):
                    sample.take(out.n_rows, rows)
                    out.append(rows)
            # All of a stretch that is not used; with odd sampling rates, perhaps the last row.
            out.append(np.full((last - out.n_rows, n_columns), np.nan, dtype=np.float32))
        return scale_in_place(
            out, sample, contacts, reader, rate=rate, clamp=clamp, notches=bank.notches
        )


class _Excerpt(SignalReader):
    """The samples `first` to `last` of a recording, as if it were no longer than that."""

    def __init__(self, reader: SignalReader, first: int, last: int) -> None:
        super().__init__(reader.path, reader.sampling_rate, reader.channel_names, last - first)
        self._reader, self._first = reader, first

    def _read_stored(self, start: int, stop: int, picks: NDArray[np.int64] | None) -> FloatArray:
        chosen = None if picks is None else picks.tolist()
        return self._reader.read(self._first + start, self._first + stop, chosen)


def _between_cuts(
    reader: SignalReader, cuts: Sequence[float], first: int, last: int, rate: float
) -> tuple[SignalReader, int]:
    """Return the recording between the cuts around rows `first` to `last`, and where `first` is.

    The part begins at the row of those before `first` that is nearest to a sample of the
    recording: the same moment, or with odd sampling rates up to half a sample off. `first` is
    counted from there.
    """
    recorded = reader.sampling_rate
    before = [cut for cut in cuts if 0 < cut * rate <= first]
    after = [cut for cut in cuts if cut * rate >= last and cut < reader.duration]
    stop = math.floor(min(after) * recorded) if after else reader.n_times
    if not before:
        return _Excerpt(reader, 0, stop), first
    rows = np.arange(math.ceil(max(before) * rate) + 1, first + 1)
    samples = rows * float(as_fraction(recorded) / as_fraction(rate))
    nearest = int(np.argmin(np.abs(samples - np.rint(samples))))
    return _Excerpt(reader, int(np.rint(samples[nearest])), stop), first - int(rows[nearest])


def _rows_of(stream: Iterator[FloatArray], start: int, stop: int) -> Iterator[FloatArray]:
    """Yield the rows `start` to `stop` of a stream of blocks."""
    seen = 0
    for rows in stream:
        yield rows[max(start - seen, 0) : max(stop - seen, 0)]
        seen += len(rows)
        if seen >= stop:
            return
