"""MEF3: a folder (.mefd) of compressed channels with microsecond times (read with pymef)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from bids_speechdecode.errors import DataError, MissingInputError
from bids_speechdecode.signals.readers.base import (
    FloatArray,
    IndexArray,
    SignalReader,
    pieces_from_onsets,
    volts_per_unit,
)


class Mef3Reader(SignalReader):
    """MEF3 as blocks.

    Channels that share the sampling rate and length of most channels are offered; `notes`
    counts the others. Pauses are taken from the table of contents of the first channel.
    """

    def __init__(self, path: Path) -> None:
        self._session = _open_session(path)
        infos = self._session.read_ts_channel_basic_info()
        shapes = Counter(_shape(info) for info in infos)
        if not shapes:
            raise DataError(
                "MEF3 session holds no time series",
                where=path,
                fix="copy the whole .mefd folder again",
            )
        (rate, n_stored), n_alike = shapes.most_common(1)[0]
        alike = [info for info in infos if _shape(info) == (rate, n_stored)]
        self._scale = np.array([_volts_per_step(info) for info in alike], dtype=np.float32)
        left_out = len(infos) - n_alike
        notes = (f"{left_out} channels of another rate or length were left out",) * (left_out > 0)
        super().__init__(
            path,
            rate,
            [str(info["name"]) for info in alike],
            n_stored,
            pieces=self._pieces_of_blocks(str(alike[0]["name"]), rate, path),
            notes=notes,
        )

    def _pieces_of_blocks(self, channel: str, rate: float, path: Path) -> IndexArray:
        metadata = self._session.session_md["time_series_channels"][channel]
        flags, lengths, first, microseconds = self._session.get_channel_toc(channel)
        begins = np.flatnonzero(flags)
        begins = begins if len(begins) and begins[0] == 0 else np.concatenate([[0], begins])
        # Writers store the times of blocks from 1970 or from the session's offset, even mixed.
        offset = int(np.ravel(metadata["section_3"]["recording_time_offset"])[0])
        onsets = np.where(microseconds >= abs(offset), microseconds - abs(offset), microseconds)
        ends = np.append(first[begins[1:]], first[-1] + lengths[-1])
        seconds = (onsets[begins] - onsets[0]) / 1e6
        return pieces_from_onsets(seconds, ends - first[begins], rate, path)

    def _read_stored(self, start: int, stop: int, picks: IndexArray | None) -> FloatArray:
        channels = range(len(self.channel_names)) if picks is None else picks.tolist()
        signal = np.empty((stop - start, len(channels)), dtype=np.float32)
        for column, channel in enumerate(channels):
            name = self.channel_names[channel]
            numbers = self._session.read_ts_channels_sample(name, [[start, stop]])
            if numbers is None or len(numbers) != stop - start:
                raise DataError(
                    "MEF3 channel cannot be read",
                    expected=f"samples {start} to {stop} of channel {name}",
                    found="nothing" if numbers is None else f"{len(numbers)} samples",
                    where=self.path,
                    fix="copy the whole .mefd folder again",
                )
            signal[:, column] = numbers
        signal *= self._scale if picks is None else self._scale[picks]
        return signal

    def close(self) -> None:
        """Close the session."""
        self._session.close()


def _open_session(path: Path) -> Any:
    try:
        from pymef.mef_session import MefSession
    except ImportError as error:
        raise MissingInputError(
            "reading MEF3 needs pymef", where=path, fix='pip install "bids_speechdecode[mef]"'
        ) from error
    try:
        return MefSession(str(path), "")
    except Exception as error:
        # pymef raises RuntimeError, TypeError or OSError, depending on what is damaged.
        raise DataError(
            "MEF3 session cannot be opened",
            expected="a .mefd folder without password",
            found=f"{type(error).__name__}: {error}",
            where=path,
            fix="copy the whole .mefd folder again, or write it without password",
        ) from error


def _shape(info: dict[str, Any]) -> tuple[float, int]:
    return float(np.ravel(info["fsamp"])[0]), int(np.ravel(info["nsamp"])[0])


def _volts_per_step(info: dict[str, Any]) -> float:
    unit = np.ravel(info["unit"])[0]
    text = unit.decode("utf-8", "replace") if isinstance(unit, bytes) else str(unit)
    return float(np.ravel(info["ufact"])[0]) * volts_per_unit(text, default=1e-6)
