"""Recordings that are one plain matrix of numbers in a file (BrainVision, EEGLAB's .fdt)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_speechdecode.errors import DataError, MissingInputError
from bids_speechdecode.signals.readers.base import FloatArray, IndexArray, OpenFile, SignalReader


class BinaryReader(SignalReader):
    """A matrix of one number type, channel by channel or sample by sample.

    Parameters
    ----------
    path : Path
        The header, which names the recording.
    data_path : Path
        The matrix.
    dtype : numpy dtype
        Of the numbers.
    scale : array, shape (n_channels,), volts
        What one step of each channel is.
    multiplexed : bool
        Whether the channels of one sample lie side by side.
    n_expected : int, optional
        Samples per channel that the header promises.
    """

    def __init__(
        self,
        path: Path,
        data_path: Path,
        *,
        sampling_rate: float,
        channel_names: Sequence[str],
        dtype: Any,
        scale: NDArray[np.float64],
        multiplexed: bool = True,
        n_expected: int | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self._file = OpenFile(data_path)
        self._dtype = np.dtype(dtype)
        self._multiplexed = multiplexed
        frame = self._dtype.itemsize * len(channel_names)
        n_stored = _whole_frames(self._file, frame, n_expected)
        super().__init__(path, sampling_rate, channel_names, n_stored, notes=notes)
        self._n_stored = n_stored
        self._scale = scale.astype(np.float32)

    def _read_stored(self, start: int, stop: int, picks: IndexArray | None) -> FloatArray:
        read = self._read_multiplexed if self._multiplexed else self._read_vectorized
        numbers = read(start, stop, picks)
        signal = numbers.astype(np.float32)
        signal *= self._scale if picks is None else self._scale[picks]
        return signal

    def _read_multiplexed(self, start: int, stop: int, picks: IndexArray | None) -> NDArray[Any]:
        n_channels = len(self.channel_names)
        frame = self._dtype.itemsize * n_channels
        numbers = self._file.read(start * frame, (stop - start) * frame).view(self._dtype)
        numbers = numbers.reshape(stop - start, n_channels)
        return numbers if picks is None else numbers[:, _as_slice(picks)]

    def _read_vectorized(self, start: int, stop: int, picks: IndexArray | None) -> NDArray[Any]:
        channels = range(len(self.channel_names)) if picks is None else picks.tolist()
        numbers = np.empty((len(channels), stop - start), dtype=self._dtype)
        size = self._dtype.itemsize
        for row, channel in zip(numbers, channels, strict=True):
            offset = (channel * self._n_stored + start) * size
            row[:] = self._file.read(offset, (stop - start) * size).view(self._dtype)
        return numbers.T

    def close(self) -> None:
        """Close the matrix."""
        self._file.close()


def find_companion(header: Path, named: str, suffix: str) -> tuple[Path, tuple[str, ...]]:
    """Return the data file that `header` names, or the one beside it of the header's own name.

    Files are often renamed to BIDS without changing the name inside the header.
    """
    # Only the name counts: a header must not lead out of its own folder.
    stated = header.parent / named.replace("\\", "/").rsplit("/", 1)[-1]
    if named and stated.is_file():
        return stated, ()
    beside = header.with_suffix(suffix)
    if beside.is_file():
        return beside, (f"{header.name} names {named!r}, which is absent; {beside.name} was read",)
    raise MissingInputError(
        "the file with the samples is absent",
        expected=f"{stated.name or beside.name} beside {header.name}",
        where=header,
        fix="fetch or restore the file; if it was renamed, correct the name inside the header",
    )


def _whole_frames(file: OpenFile, frame: int, n_expected: int | None) -> int:
    n_stored, rest = divmod(file.size, frame)
    if rest or (n_expected is not None and n_stored < n_expected):
        promised = f"{n_expected} samples" if n_expected is not None else "whole samples"
        raise DataError(
            "recording is truncated",
            expected=f"{promised} of {frame} bytes",
            found=f"{file.size} bytes, that is {file.size / frame:.2f} samples",
            where=file.path,
            fix="copy the file again from its source",
        )
    return n_stored if n_expected is None else n_expected


def _as_slice(picks: IndexArray) -> slice | IndexArray:
    """Return neighbouring picks as a slice, which needs no copy."""
    if len(picks) and np.array_equal(picks, np.arange(picks[0], picks[0] + len(picks))):
        return slice(int(picks[0]), int(picks[0]) + len(picks))
    return picks
