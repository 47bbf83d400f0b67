"""What every reader offers: blocks in volts on the recording's real clock, NaN where it paused."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_speechdecode.errors import DataError, InputOutputError
from bids_speechdecode.timeline import Interval

FloatArray = NDArray[np.float32]
IndexArray = NDArray[np.int64]

_PREFIX_TO_FACTOR = {"": 1.0, "k": 1e3, "m": 1e-3, "u": 1e-6, "µ": 1e-6, "μ": 1e-6, "n": 1e-9}


class SignalReader(ABC):
    """A recording of which any block of samples can be read without reading the rest.

    A file stores samples one after the other; the recording may have paused between them. The
    table `pieces` says which stored samples lie where on the clock, so that `read` speaks of
    the clock only. A reader keeps one file and one buffer open: use one per thread.

    Parameters
    ----------
    path : Path
        The file (or folder) of the recording.
    sampling_rate : float
        Hertz.
    channel_names : sequence of str
        In the order of the columns that `read` returns.
    n_stored : int
        Samples per channel in the file.
    pieces : array, shape (n_pieces, 3), optional
        First sample on the clock, first stored sample, number of samples; sorted, not
        overlapping. One gapless piece by default.
    notes : sequence of str
        What was odd about the file and how it was taken.

    Attributes
    ----------
    n_times : int
        Samples per channel on the clock, gaps included.
    gaps : tuple of Interval
        Seconds during which nothing was recorded.
    """

    def __init__(
        self,
        path: Path,
        sampling_rate: float,
        channel_names: Sequence[str],
        n_stored: int,
        pieces: IndexArray | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        if not (np.isfinite(sampling_rate) and sampling_rate > 0):
            raise DataError(
                "sampling rate is not positive",
                found=str(sampling_rate),
                where=path,
                fix="correct the header, or export the recording again",
            )
        if n_stored < 1 or not channel_names:
            raise DataError(
                "recording holds no samples",
                found=f"{len(channel_names)} channels x {n_stored} samples",
                where=path,
                fix="copy the file again from its source",
            )
        self.path = path
        self.sampling_rate = float(sampling_rate)
        self.channel_names = tuple(channel_names)
        self.notes = tuple(notes)
        self._pieces = np.array([[0, 0, n_stored]]) if pieces is None else pieces
        last = self._pieces[-1]
        self.n_times = int(last[0] + last[2])
        self.gaps = _gaps_between(self._pieces, self.sampling_rate)

    @property
    def duration(self) -> float:
        """Length on the clock in seconds, gaps included."""
        return self.n_times / self.sampling_rate

    def read(self, start: int, stop: int, picks: Sequence[int] | None = None) -> FloatArray:
        """Return the samples `start` to `stop` (exclusive) of the channels `picks`.

        Parameters
        ----------
        start, stop : int
            Samples on the clock, within ``0 .. n_times``.
        picks : sequence of int, optional
            Positions in `channel_names`; all channels by default.

        Returns
        -------
        signal : array of float32, shape (stop - start, n_picks), volts
            NaN inside gaps.
        """
        if not 0 <= start <= stop <= self.n_times:
            raise ValueError(
                f"samples {start}..{stop} are outside 0..{self.n_times} of {self.path}"
            )
        chosen = None if picks is None else np.asarray(picks, dtype=np.int64)
        first, last = self._pieces_within(start, stop)
        if last - first == 1:
            begin, stored, length = (int(n) for n in self._pieces[first])
            if begin <= start and stop <= begin + length:
                return self._read_stored(stored + start - begin, stored + stop - begin, chosen)
        n_channels = len(self.channel_names) if chosen is None else len(chosen)
        signal = np.full((stop - start, n_channels), np.nan, dtype=np.float32)
        for begin, stored, length in self._pieces[first:last].tolist():
            low, high = max(start, begin), min(stop, begin + length)
            if low < high:
                block = self._read_stored(stored + low - begin, stored + high - begin, chosen)
                signal[low - start : high - start] = block
        return signal

    @abstractmethod
    def _read_stored(self, start: int, stop: int, picks: IndexArray | None) -> FloatArray:
        """Return stored samples `start` to `stop`, shape (stop - start, n_picks), volts."""

    def close(self) -> None:  # noqa: B027 - readers that keep nothing open have nothing to close
        """Let go of the file."""

    def __enter__(self) -> SignalReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _pieces_within(self, start: int, stop: int) -> tuple[int, int]:
        """Return the range of pieces that can overlap ``[start, stop)``."""
        begins = self._pieces[:, 0]
        first = int(np.searchsorted(begins, start, side="right")) - 1
        return max(first, 0), int(np.searchsorted(begins, stop, side="left"))


class OpenFile:
    """A file read by position into one buffer that is used again.

    Memory-mapping would count every page touched as ours, and turn a network error into SIGBUS.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise InputOutputError("cannot open file", found=str(error), where=path) from error
        self.path = path
        self.size = os.fstat(self._descriptor).st_size
        self._buffer = np.empty(0, dtype=np.uint8)

    def read(self, offset: int, n_bytes: int) -> NDArray[np.uint8]:
        """Return `n_bytes` from `offset`; overwritten by the next call."""
        if len(self._buffer) < n_bytes:
            self._buffer = np.empty(n_bytes, dtype=np.uint8)
        view = self._buffer[:n_bytes]
        done = 0
        while done < n_bytes:
            try:
                n_read = os.preadv(self._descriptor, [view[done:].data], offset + done)
            except OSError as error:
                raise InputOutputError(
                    "reading failed", found=str(error), where=self.path
                ) from error
            if n_read == 0:
                raise DataError(
                    "recording ended while it was read",
                    expected=f"{n_bytes} bytes at {offset}",
                    found=f"{done} bytes",
                    where=self.path,
                    fix="copy the file again from its source",
                )
            done += n_read
        return view

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        if getattr(self, "_descriptor", -1) >= 0:
            self.close()


def volts_per_unit(unit: str, default: float) -> float:
    """Return how many volts one `unit` is; `default` where it is no voltage.

    Examples
    --------
    >>> volts_per_unit("mV", 1.0), volts_per_unit("n/a", 1.0)
    (0.001, 1.0)
    """
    unit = unit.strip()
    if not unit.lower().endswith(("v", "volt", "volts")):
        return default
    prefix = unit.lower().removesuffix("s").removesuffix("olt").removesuffix("v")
    prefix = {"micro": "u", "milli": "m", "nano": "n"}.get(prefix, prefix)
    return _PREFIX_TO_FACTOR.get(prefix, default)


def pieces_from_onsets(
    onsets: NDArray[np.float64], lengths: NDArray[Any], rate: float, path: Path
) -> IndexArray:
    """Return the table of pieces of stored runs of samples that begin at `onsets`.

    Parameters
    ----------
    onsets : array, shape (n,)
        Seconds after the first sample.
    lengths : array, shape (n,)
        Samples of each run, stored one after the other.
    rate : float
        Hertz.
    path : Path
        For the message.

    Returns
    -------
    pieces : array, shape (n_pieces, 3)
        First sample on the clock, first stored sample, number of samples; runs without a
        pause between them are joined.

    Raises
    ------
    DataError
        Where a run begins more than one sample before the one before it has ended.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    stored = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    begins = np.floor(np.round(onsets * rate, 6) + 0.5).astype(np.int64)
    pieces: list[list[int]] = []
    for begin, first, length in zip(
        begins.tolist(), stored.tolist(), lengths.tolist(), strict=True
    ):
        end = pieces[-1][0] + pieces[-1][2] if pieces else 0
        if begin < end - 1:
            raise DataError(
                "time runs backwards within the recording",
                expected=f"samples from {end / rate:.3f} s on",
                found=f"samples at {begin / rate:.3f} s",
                where=path,
                fix="export the recording again, its pieces in the order of time",
            )
        # One sample early or late is rounding of the stored time, not a pause.
        if pieces and abs(begin - end) <= 1:
            pieces[-1][2] += length
        else:
            pieces.append([begin, first, length])
    return np.array(pieces, dtype=np.int64).reshape(-1, 3)


def unique_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return `names`, those that occur more than once numbered ``-0``, ``-1`` as MNE does."""
    counts, seen = Counter(names), Counter[str]()
    unique = []
    for name in names:
        unique.append(f"{name}-{seen[name]}" if counts[name] > 1 else name)
        seen[name] += 1
    return tuple(unique)


def most_common_rate(rates: Sequence[float]) -> float:
    """Return the rate that most channels have; the higher one of two equally common."""
    counts = Counter(rates)
    return max(counts, key=lambda rate: (counts[rate], rate))


def _gaps_between(pieces: IndexArray, rate: float) -> tuple[Interval, ...]:
    ends = pieces[:, 0] + pieces[:, 2]
    edges = zip(np.concatenate([[0], ends[:-1]]).tolist(), pieces[:, 0].tolist(), strict=True)
    return tuple(Interval(stop / rate, start / rate) for stop, start in edges if start > stop)
