"""EEGLAB: a MATLAB structure (.set) with the samples inside, or beside it (.fdt)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_speechdecode.errors import DataError, MissingInputError
from bids_speechdecode.signals.readers.base import (
    FloatArray,
    IndexArray,
    SignalReader,
    unique_names,
)
from bids_speechdecode.signals.readers.binary import BinaryReader, find_companion

_MICROVOLT = 1e-6


@dataclass(frozen=True)
class _Set:
    rate: float
    n_channels: int
    n_times: int
    names: tuple[str, ...]
    data: Any  # a file name, or a matrix (n_channels, n_times), or its transpose in HDF5


class MatrixReader(SignalReader):
    """Samples inside the ``.set``.

    An HDF5 dataset (MATLAB 7.3) is read by blocks. Older MATLAB files compress a variable of at
    most 2 GB as one piece, which can only be read whole.
    """

    def __init__(self, path: Path, content: _Set, *, multiplexed: bool) -> None:
        super().__init__(path, content.rate, content.names, content.n_times)
        self._data = content.data
        self._multiplexed = multiplexed

    def _read_stored(self, start: int, stop: int, picks: IndexArray | None) -> FloatArray:
        matrix = self._data[start:stop] if self._multiplexed else self._data[:, start:stop].T
        chosen = matrix if picks is None else matrix[:, picks]
        return np.asarray(chosen, dtype=np.float32) * np.float32(_MICROVOLT)


def open_eeglab(path: Path) -> SignalReader:
    """Return a reader of an EEGLAB recording, given its ``.set``.

    Raises
    ------
    DataError
        Where the file is no continuous EEGLAB recording, or its ``.fdt`` is too short.
    """
    content, is_hdf5 = _read_set(path)
    if not isinstance(content.data, str):
        return MatrixReader(path, content, multiplexed=is_hdf5)
    data_path, notes = find_companion(path, content.data, ".fdt")
    return BinaryReader(
        path,
        data_path,
        sampling_rate=content.rate,
        channel_names=content.names,
        dtype="<f4",
        scale=np.full(content.n_channels, _MICROVOLT),
        n_expected=content.n_times,
        notes=notes,
    )


def _read_set(path: Path) -> tuple[_Set, bool]:
    from scipy.io import loadmat

    if _is_hdf5(path):
        return _read_hdf5_set(path), True
    try:
        mat = loadmat(path, squeeze_me=True, struct_as_record=False)
    except Exception as error:
        # scipy raises a dozen unrelated types on damaged files.
        raise _unreadable(path, error) from error
    fields = vars(mat["EEG"]) if "EEG" in mat else mat
    labels = _labels(np.atleast_1d(fields.get("chanlocs", [])))
    return _check(path, fields, fields.get("data"), labels), False


def _is_hdf5(path: Path) -> bool:
    """Return whether the file has HDF5's signature, behind MATLAB's own 512 bytes or at once."""
    with path.open("rb") as file:
        head = file.read(520)
    return b"\x89HDF\r\n\x1a\n" in (head[:8], head[512:])


def _labels(chanlocs: NDArray[Any]) -> list[str]:
    return [str(getattr(location, "labels", "")) for location in chanlocs]


def _read_hdf5_set(path: Path) -> _Set:
    try:
        import h5py
    except ImportError as error:
        raise MissingInputError(
            "this EEGLAB file is in MATLAB 7.3 format, which needs h5py",
            where=path,
            fix='pip install "bids_speechdecode[nwb]"',
        ) from error
    try:
        file = h5py.File(path, "r")
        root = file.get("EEG", file)
        fields = {key: root[key][()].item() for key in ("srate", "nbchan", "pnts", "trials")}
        labels = [_text(file[ref]) for ref in np.ravel(root["chanlocs"]["labels"][()])]
        data = root["data"]
        data = _text(data) if data.attrs.get("MATLAB_class") == b"char" else data
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise _unreadable(path, error) from error
    return _check(path, fields, data, labels)


def _text(dataset: Any) -> str:
    """Return MATLAB characters, which HDF5 stores as their numbers."""
    return "".join(chr(code) for code in np.ravel(dataset[()]))


def _check(path: Path, fields: Any, data: Any, labels: Sequence[str]) -> _Set:
    try:
        rate, n_channels = float(fields["srate"]), int(fields["nbchan"])
        n_times, n_trials = int(fields["pnts"]), int(fields.get("trials", 1) or 1)
    except (KeyError, TypeError, ValueError) as error:
        raise _unreadable(path, error) from error
    if n_trials > 1:
        raise DataError(
            "EEGLAB recording is cut into epochs",
            expected="a continuous recording",
            found=f"{n_trials} epochs",
            where=path,
            fix="save the recording from before it was cut",
        )
    if data is None or (not isinstance(data, str) and np.size(data) != n_channels * n_times):
        raise DataError(
            "EEGLAB samples do not fit the header",
            expected=f"{n_channels} channels x {n_times} samples",
            found="nothing" if data is None else f"a matrix of shape {np.shape(data)}",
            where=path,
            fix="copy the .set and the .fdt file again, or save the recording again",
        )
    if not isinstance(data, str) and np.ndim(data) == 1:
        data = np.reshape(data, (n_channels, n_times))
    names = [label or f"ch{i}" for i, label in enumerate(labels, 1)]
    names = names if len(names) == n_channels else [f"ch{i}" for i in range(1, n_channels + 1)]
    return _Set(rate, n_channels, n_times, unique_names(names), data)


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(
        "EEGLAB file cannot be read",
        expected="a .set file of a continuous recording",
        found=f"{type(error).__name__}: {error}",
        where=path,
        fix="check that the file was copied whole",
    )
