"""Recording -> streams of envelopes, one per band, that come into being together."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from bids_speechdecode.signals.decimate import Decimator, block_length
from bids_speechdecode.signals.filterbank import Bank
from bids_speechdecode.signals.montage import Montage, Referencing
from bids_speechdecode.signals.readers import SignalReader
from bids_speechdecode.signals.rows import FloatArray, ReadRows, SlidingRows, reach_over_ends

_ROUNDING = 1e-6  # of float32: a range this small relative to the level is no signal
_GROUP = 16  # outputs that the decimation makes together


@dataclass(frozen=True)
class Contacts:
    """Which contacts are of no use, shape (n_picks,), and what is made of the others."""

    montage: Montage
    flat: NDArray[np.bool_]
    nan: NDArray[np.bool_]

    @property
    def dead(self) -> NDArray[np.bool_]:
        """Outputs that cannot be made, shape (n_outputs,)."""
        return self.outputs_of(self.flat | self.nan)

    @cached_property
    def reference(self) -> Referencing:
        """What makes outputs of contacts."""
        return Referencing(self.montage, ~(self.flat | self.nan))

    def outputs_of(self, contacts: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which outputs (..., n_outputs) have one of `contacts` (..., n_picks)."""
        first = [members[0] for members in self.montage.members]
        last = [members[-1] for members in self.montage.members]
        return contacts[..., first] | contacts[..., last]


def find_unusable(reader: SignalReader, montage: Montage) -> Contacts:
    """Return which contacts never move, reading each until it does."""
    smallest = np.full(len(montage.picks), np.inf, dtype=np.float32)
    largest = -smallest
    waiting = np.arange(len(montage.picks))
    start = 0
    while start < reader.n_times and len(waiting):
        stop = min(start + _rows_per_read(len(waiting)), reader.n_times)
        rows = _without_infinity(
            reader.read(start, stop, [montage.picks[contact] for contact in waiting])
        )
        smallest[waiting] = np.fmin(smallest[waiting], np.fmin.reduce(rows, axis=0))
        largest[waiting] = np.fmax(largest[waiting], np.fmax.reduce(rows, axis=0))
        waiting = waiting[~_moved(smallest[waiting], largest[waiting])]
        start = stop
    nan = smallest > largest
    return Contacts(montage, ~nan & ~_moved(smallest, largest), nan)


def _moved(smallest: FloatArray, largest: FloatArray) -> NDArray[np.bool_]:
    level = np.maximum(np.abs(smallest), np.abs(largest))
    with np.errstate(invalid="ignore"):
        return largest - smallest > _ROUNDING * level


def _without_infinity(rows: FloatArray) -> FloatArray:
    finite = np.isfinite(rows)
    return rows if finite.all() else np.where(finite, rows, np.float32(np.nan))


def _rows_per_read(n_channels: int) -> int:
    return block_length(1.0, 1.0, n_channels)


def open_streams(
    reader: SignalReader,
    contacts: Contacts,
    bank: Bank,
    is_slow: Sequence[bool],
    rate: float,
    block: float | None,
    on_progress: Callable[[float], None] | None,
) -> list[Iterator[FloatArray]]:
    """Return for each band the outputs at `rate`, in blocks of equal length.

    They are envelopes of output channels or, where `is_slow`, contacts. The bands advance
    together, so that what one has read need not wait long for the others.
    """
    work = reader.sampling_rate / bank.reduction
    n_rows = -(-reader.n_times // bank.reduction)
    length = max(1, int(block * work)) if block else _rows_per_read(len(contacts.nan))
    history = _history(work, rate)
    pad = max(bank.half, history)
    rows = _contact_blocks(reader, contacts, bank, (-pad, n_rows + pad), length, on_progress)
    n_copies = sum(is_slow) + bool(bank.carriers)
    copies = UnzippedRows(((part,) * n_copies for part in rows), [history] * n_copies)
    reads = [_from_row(-pad, copies.reader(number)) for number in range(n_copies)]
    # Contacts go on after the end; thus the decimation does not meet it.
    contact_streams = [(read, 1, n_rows + pad) for read in reads]
    envelopes = []
    if bank.carriers:
        contact_streams.pop()
        steps = [carrier.step for carrier in bank.carriers]
        together = UnzippedRows(
            _envelope_blocks(reads[-1], n_rows, bank, contacts),
            [_history(work / step, rate) for step in steps],
        )
        envelopes = [
            (together.reader(number), step, -(-n_rows // step)) for number, step in enumerate(steps)
        ]
    n_block = max(_GROUP, int((bank.hop or length) / work * rate) // _GROUP * _GROUP)
    streams = []
    for slow in is_slow:
        read, step, n = contact_streams.pop() if slow else envelopes.pop(0)
        streams.append(Decimator(work / step, rate).stream(read, n, n_block))
    return streams


def _from_row(first: int, read: ReadRows) -> ReadRows:
    """Return a `read` whose row `first` is row 0 of the given one."""
    return lambda start, stop: read(start - first, stop - first)


def _history(rate_in: float, rate_out: float) -> int:
    """Return how many rows over the ends the decimation reaches, and reads twice therefore."""
    return int((Decimator(rate_in, rate_out).margin + 2 * _GROUP / rate_out) * rate_in) + 64


def _contact_blocks(
    reader: SignalReader,
    contacts: Contacts,
    bank: Bank,
    span: tuple[int, int],
    length: int,
    on_progress: Callable[[float], None] | None,
) -> Iterator[FloatArray]:
    """Yield the rows `span` of the contacts at the working rate, NaN where they are missing.

    Over the ends they are made of the reflected recording: its last sample need not be a row.
    """
    picks = contacts.montage.picks
    chosen = None if list(picks) == list(range(len(reader.channel_names))) else picks

    def read(start: int, stop: int) -> FloatArray:
        return reader.read(start, stop, chosen)

    source = SlidingRows(reach_over_ends(read, reader.n_times))
    for start in range(*span, length):
        stop = min(start + length, span[1])
        if bank.stage is None:
            rows = source(start, stop)
        else:
            rows = bank.stage.apply(source(*bank.stage.rows_needed(start, stop)), start, stop)
        if on_progress:
            on_progress((stop - start) / (span[1] - span[0]) * reader.duration)
        yield _without_infinity(rows)


def _envelope_blocks(
    read: ReadRows, n_rows: int, bank: Bank, contacts: Contacts
) -> Iterator[list[FloatArray]]:
    """Yield the envelopes (n_times, n_outputs) of all bands, NaN where they are missing."""
    source = SlidingRows(read)
    for start in range(0, n_rows, bank.hop):
        stop = min(start + bank.hop, n_rows)
        rows = source(start - bank.half, stop + bank.half)
        missing = np.isnan(rows)
        if has_missing := bool(missing.any()):
            rows = _bridged(rows, missing)
        outputs = contacts.reference(rows)
        # The level is many times the bands, and would cost digits.
        outputs = np.ascontiguousarray((outputs - outputs.mean(axis=0)).T)
        spectrum = fft.rfft(outputs, bank.n_fft, axis=1)
        blocks = []
        for carrier in bank.carriers:
            wanted = np.arange(bank.half, bank.half + stop - start, carrier.step)
            first = bank.half // carrier.step
            envelope = carrier.envelope(spectrum, bank.n_fft, first, first + len(wanted))
            if has_missing:
                near = contacts.outputs_of(_any_near(missing, wanted, carrier.guard))
                envelope[near] = np.nan
            blocks.append(envelope)
        yield blocks


def _bridged(rows: FloatArray, missing: NDArray[np.bool_]) -> FloatArray:
    """Return `rows` with straight lines where they are missing, level at the ends."""
    rows = rows.copy()
    times = np.arange(len(rows))
    for column in np.flatnonzero(missing.any(axis=0)):
        there = ~missing[:, column]
        rows[~there, column] = (
            np.interp(times[~there], times[there], rows[there, column]) if there.any() else 0
        )
    return rows


def _any_near(mask: NDArray[np.bool_], rows: NDArray[np.int64], reach: int) -> NDArray[np.bool_]:
    """Return whether `mask` is true within `reach` of each of `rows`, (n_rows, n_columns)."""
    counts = np.zeros((len(mask) + 1, mask.shape[1]), dtype=np.int32)
    np.cumsum(mask, axis=0, out=counts[1:])
    return counts[np.minimum(rows + reach + 1, len(mask))] > counts[np.maximum(rows - reach, 0)]


class UnzippedRows:
    """Streams of rows that come into being together, each read at its own pace.

    Parameters
    ----------
    blocks : iterator
        Gives the next rows of every stream at once.
    n_kept : sequence of int
        For each stream, how far a `read` may begin before the end of one that came earlier.
    """

    def __init__(self, blocks: Iterator[Sequence[FloatArray]], n_kept: Sequence[int]) -> None:
        self._blocks = blocks
        self._n_kept = n_kept
        self._parts: list[deque[tuple[int, FloatArray]]] = [deque() for _ in n_kept]

    def reader(self, number: int) -> ReadRows:
        """Return the `read` of one stream; what it returns must not be changed."""
        return partial(self._read, number)

    def _read(self, number: int, start: int, stop: int) -> FloatArray:
        parts = self._parts[number]
        while not parts or _end(parts[-1]) < stop:
            self._advance()
        chosen = [
            rows[max(start - first, 0) : stop - first]
            for first, rows in parts
            if first < stop and first + len(rows) > start
        ]
        while len(parts) > 1 and _end(parts[0]) <= stop - self._n_kept[number]:
            parts.popleft()
        if not chosen:
            return parts[0][1][:0]
        return chosen[0] if len(chosen) == 1 else np.concatenate(chosen)

    def _advance(self) -> None:
        for parts, rows in zip(self._parts, next(self._blocks), strict=True):
            parts.append((_end(parts[-1]) if parts else 0, rows))


def _end(part: tuple[int, FloatArray]) -> int:
    return part[0] + len(part[1])
