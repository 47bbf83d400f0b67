"""Signals as rows of a file, and blocks of rows that overlap or reach over the ends."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from bids_speechdecode.errors import CannotWriteError

FloatArray = NDArray[np.float32]
ReadRows = Callable[[int, int], FloatArray]


class RowFile:
    """A float32 matrix (n_rows, n_columns) in a file, of which only blocks are in memory.

    Parameters
    ----------
    n_columns : int
        Columns.
    path : Path, optional
        The file; it is emptied. By default a file without a name in `folder`, of which nothing
        remains however the program ends.
    folder : Path
        Where the nameless file lies.
    """

    def __init__(self, n_columns: int, *, path: Path | None = None, folder: Path) -> None:
        self._n_bytes = 4 * n_columns
        self._n_columns = n_columns
        self._where = path or folder
        self.n_rows = 0
        try:
            self._file = _open_file(path, folder)
        except OSError as error:
            raise CannotWriteError("cannot write", found=str(error), where=self._where) from error

    def write(self, start: int, rows: FloatArray) -> None:
        """Write `rows` from row `start` on."""
        data = np.ascontiguousarray(rows, dtype=np.float32).reshape(-1).view(np.uint8).data
        try:
            self._file.seek(start * self._n_bytes)
            while len(data):
                data = data[self._file.write(data) or 0 :]
        except OSError as error:
            raise CannotWriteError(
                "writing failed",
                found=str(error),
                where=self._where,
                fix="check the free space and the quota",
            ) from error
        self.n_rows = max(self.n_rows, start + len(rows))

    def append(self, rows: FloatArray) -> None:
        """Write `rows` after the last one."""
        self.write(self.n_rows, rows)

    def read(self, start: int, stop: int) -> FloatArray:
        """Return rows `start` to `stop` (exclusive)."""
        rows = np.empty((stop - start, self._n_columns), dtype=np.float32)
        self._file.seek(start * self._n_bytes)
        view = rows.reshape(-1).view(np.uint8).data
        while len(view):
            view = view[self._file.readinto(view) :]  # type: ignore[attr-defined]
        return rows

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> RowFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _open_file(path: Path | None, folder: Path) -> IO[bytes]:
    if path is not None:
        return path.open("w+b", buffering=0)
    return tempfile.TemporaryFile(dir=folder, buffering=0)


class SlidingRows:
    """Blocks that move forward and overlap, each row taken from `source` only once."""

    def __init__(self, source: ReadRows) -> None:
        self._source = source
        self._start = self._stop = 0
        self._rows: FloatArray | None = None

    def __call__(self, start: int, stop: int) -> FloatArray:
        """Return rows `start` to `stop`; neither may be less than in the call before."""
        if self._rows is None or start >= self._stop:
            self._rows = self._source(start, stop)
        else:
            kept = self._rows[start - self._start :]
            self._rows = np.concatenate([kept, self._source(self._stop, stop)])
        self._start, self._stop = start, stop
        return self._rows


def reach_over_ends(read: ReadRows, n_rows: int) -> ReadRows:
    """Return a `read` that also answers before row 0 and after the last row.

    There the signal goes on as its point reflection about the end, ``2 x[0] - x[-i]``, so that
    neither level nor slope jumps. Further out than the signal is long, it stays constant.
    """

    def mirrored(rows: NDArray[np.int64], end: int) -> FloatArray:
        inside = np.clip(2 * end - rows, 0, n_rows - 1)
        low, high = int(inside.min()), int(inside.max()) + 1
        return 2 * read(end, end + 1) - read(low, high)[inside - low]

    def read_anywhere(start: int, stop: int) -> FloatArray:
        if start >= 0 and stop <= n_rows:
            return read(start, stop)
        parts = []
        if start < 0:
            parts.append(mirrored(np.arange(start, min(stop, 0)), 0))
        if start < n_rows and stop > 0:
            parts.append(read(max(start, 0), min(stop, n_rows)))
        if stop > n_rows:
            parts.append(mirrored(np.arange(max(start, n_rows), stop), n_rows - 1))
        return np.concatenate(parts)

    return read_anywhere
