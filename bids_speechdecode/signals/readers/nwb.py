"""NWB: HDF5 with one or more ElectricalSeries (read with h5py, lazily)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bids_speechdecode.errors import DataError, MissingInputError
from bids_speechdecode.signals.readers.base import (
    FloatArray,
    IndexArray,
    SignalReader,
    pieces_from_onsets,
    unique_names,
)

_NAME_COLUMNS = ("channel_name", "label", "name", "electrode_name")
_ELECTRODES = "general/extracellular_ephys/electrodes"
_CHUNK = 1 << 20


class NwbReader(SignalReader):
    """The ElectricalSeries of the acquisition as blocks.

    Names come from the electrodes table (``channel_name``, ``label``, ``name``,
    ``electrode_name``, else the id). Where times are stored instead of a rate, the rate is
    their median step and a step of more than 1.5 samples is a pause.
    """

    def __init__(self, path: Path) -> None:
        self._file = _open_file(path)
        series = _find_series(self._file, path)
        data = series["data"]
        self._data = data
        n_channels = data.shape[1] if data.ndim > 1 else 1
        self._gain, self._offset = _calibration(series, n_channels)
        rate, pieces = _clock(series, path)
        names = _channel_names(self._file, series, n_channels)
        super().__init__(path, rate, names, data.shape[0], pieces=pieces)

    def _read_stored(self, start: int, stop: int, picks: IndexArray | None) -> FloatArray:
        try:
            numbers = self._data[start:stop]
        except OSError as error:
            raise DataError(
                "NWB block cannot be read",
                found=str(error),
                where=self.path,
                fix="copy the file again from its source",
            ) from error
        signal = numbers.reshape(stop - start, -1).astype(np.float32)
        signal = signal if picks is None else signal[:, picks]
        channels: slice | IndexArray = slice(None) if picks is None else picks
        signal *= self._gain[channels]
        signal += self._offset
        return signal

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _open_file(path: Path) -> Any:
    try:
        import h5py
    except ImportError as error:
        raise MissingInputError(
            "reading NWB needs h5py", where=path, fix='pip install "bids_speechdecode[nwb]"'
        ) from error
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise DataError(
            "NWB file cannot be read",
            expected="an HDF5 file",
            found=str(error),
            where=path,
            fix="check that the file was copied whole",
        ) from error


def _find_series(file: Any, path: Path) -> Any:
    """Return the only ElectricalSeries of the acquisition."""
    found = [
        item
        for item in file.get("acquisition", {}).values()
        if _as_text(item.attrs.get("neurodata_type", "")) == "ElectricalSeries"
    ]
    if len(found) != 1 or found[0]["data"].ndim > 2:
        raise DataError(
            "NWB file does not hold one recording",
            expected="one ElectricalSeries (time x channel) under /acquisition",
            found=", ".join(f"{s.name} {s['data'].shape}" for s in found) or "none",
            where=path,
            fix="write one file for each recording",
        )
    return found[0]


def _calibration(series: Any, n_channels: int) -> tuple[FloatArray, np.float32]:
    """Return gain (n_channels,) and offset: ``volts = gain * number + offset``."""
    attributes = series["data"].attrs
    gain = np.full(n_channels, float(attributes.get("conversion", 1.0)))
    if "channel_conversion" in series:
        gain = gain * series["channel_conversion"][()]
    return gain.astype(np.float32), np.float32(attributes.get("offset", 0.0))


def _clock(series: Any, path: Path) -> tuple[float, IndexArray | None]:
    if "starting_time" in series:
        return float(series["starting_time"].attrs["rate"]), None
    times = series["timestamps"]
    if len(times) < 2:
        raise DataError(
            "NWB series has neither rate nor times",
            where=path,
            fix="write starting_time with its rate, or timestamps",
        )
    head = np.diff(times[: min(len(times), 10_000)])
    # The mean of the unbroken steps: a median would keep the rounding of single time stamps.
    step = float(np.mean(head[np.abs(head - np.median(head)) < 0.5 * np.median(head)]))
    begins = _starts_of_runs(times, step)
    lengths = np.diff(np.append(begins, len(times)))
    onsets = np.array([times[i] for i in begins]) - times[0]
    return 1.0 / step, pieces_from_onsets(onsets, lengths, 1.0 / step, path)


def _starts_of_runs(times: Any, step: float) -> IndexArray:
    """Return the samples before which the clock jumped by more than 1.5 steps."""
    begins = [np.zeros(1, dtype=np.int64)]
    for start in range(1, len(times), _CHUNK):
        block = times[start - 1 : start + _CHUNK]
        begins.append(start + np.flatnonzero(np.diff(block) > 1.5 * step))
    return np.concatenate(begins)


def _channel_names(file: Any, series: Any, n_channels: int) -> tuple[str, ...]:
    if _ELECTRODES not in file or "electrodes" not in series:
        return tuple(f"ch{i}" for i in range(1, n_channels + 1))
    table, rows = file[_ELECTRODES], series["electrodes"][()]
    column = next((name for name in _NAME_COLUMNS if name in table), "id")
    return unique_names([_as_text(value) for value in table[column][()][rows]])


def _as_text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
