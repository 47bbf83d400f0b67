"""Recordings written block by block, in int16 as an amplifier does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np

RESOLUTION_UV = 0.1  # µV per bit: +-3.3 mV


class SignalWriter(ABC):
    """Takes a recording block by block; a context manager that closes the file."""

    def __init__(self, path: Path) -> None:
        self._data: BinaryIO = path.open("wb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def write(self, block_uv: np.ndarray) -> None:
        """Append samples, shape (n, n_channels), µV."""

    def close(self) -> None:
        """Close the file."""
        self._data.close()


def to_int16(block_uv: np.ndarray) -> np.ndarray:
    """Return the block in bits, clipped where the amplifier saturates."""
    return np.clip(np.rint(block_uv / RESOLUTION_UV), -32767, 32767).astype("<i2")


class BrainVisionWriter(SignalWriter):
    """BrainVision, multiplexed int16; `path` is that of the header (.vhdr)."""

    def __init__(self, path: Path, names: Sequence[str], rate: float) -> None:
        super().__init__(path.with_suffix(".eeg"))
        path.write_text(_header(path, names, rate), encoding="utf-8")
        path.with_suffix(".vmrk").write_text(_markers(path), encoding="utf-8")

    def write(self, block_uv: np.ndarray) -> None:
        """Append samples, shape (n, n_channels), µV."""
        self._data.write(to_int16(block_uv).tobytes())


def _header(path: Path, names: Sequence[str], rate: float) -> str:
    """Return the text of the .vhdr file."""
    channels = "\n".join(
        f"Ch{i}={name.replace(',', chr(92) + '1')},,{RESOLUTION_UV},µV"
        for i, name in enumerate(names, start=1)
    )
    return f"""Brain Vision Data Exchange Header File Version 1.0
; Simulated data

[Common Infos]
Codepage=UTF-8
DataFile={path.with_suffix(".eeg").name}
MarkerFile={path.with_suffix(".vmrk").name}
DataFormat=BINARY
DataOrientation=MULTIPLEXED
NumberOfChannels={len(names)}
SamplingInterval={1e6 / rate!r}

[Binary Infos]
BinaryFormat=INT_16

[Channel Infos]
{channels}
"""


def _markers(path: Path) -> str:
    """Return the text of the .vmrk file."""
    return f"""Brain Vision Data Exchange Marker File, Version 1.0

[Common Infos]
Codepage=UTF-8
DataFile={path.with_suffix(".eeg").name}

[Marker Infos]
Mk1=New Segment,,1,1,0
"""


class EDFWriter(SignalWriter):
    """EDF in records of one second; the last one must be full when the file is closed."""

    def __init__(self, path: Path, names: Sequence[str], rate: float) -> None:
        self._names, self._rate = names, int(rate)
        super().__init__(path)
        self._data.write(_edf_header(names, self._rate, n_records=-1))
        self._left = np.empty((0, len(names)), "<i2")
        self._n_records = 0

    def close(self) -> None:
        """Say in the header how many records there are, and close the file."""
        self._data.seek(0)
        self._data.write(_edf_header(self._names, self._rate, self._n_records))
        super().close()

    def write(self, block_uv: np.ndarray) -> None:
        """Append samples, shape (n, n_channels), µV."""
        samples = np.concatenate([self._left, to_int16(block_uv)])
        n = len(samples) // self._rate
        records = samples[: n * self._rate].reshape(n, self._rate, len(self._names))
        self._data.write(records.transpose(0, 2, 1).tobytes())
        self._left = samples[n * self._rate :]
        self._n_records += n


def _edf_header(names: Sequence[str], rate: int, n_records: int) -> bytes:
    """Return the fixed-width text at the head of an EDF file."""
    n = len(names)
    extreme = f"{32767 * RESOLUTION_UV:.1f}"
    start = [("0", 8), ("X X X X", 80), ("Startdate 01-MAR-1985 X X simulated", 80)]
    start += [("01.03.85", 8), ("08.00.00", 8), (str(256 * (n + 1)), 8), ("", 44)]
    start += [(str(n_records), 8), ("1", 8), (str(n), 4)]
    columns = [([*names], 16), (["simulated"] * n, 80), (["uV"] * n, 8)]
    columns += [(["-" + extreme] * n, 8), ([extreme] * n, 8)]
    columns += [(["-32767"] * n, 8), (["32767"] * n, 8), ([""] * n, 80)]
    columns += [([str(rate)] * n, 8), ([""] * n, 32)]
    fields = start + [(text, width) for texts, width in columns for text in texts]
    return "".join(text[:width].ljust(width) for text, width in fields).encode("ascii")


def open_writer(path: Path, format: str, names: Sequence[str], rate: float) -> SignalWriter:
    """Return a writer of the format, ``"brainvision"`` or ``"edf"``."""
    return EDFWriter(path, names, rate) if format == "edf" else BrainVisionWriter(path, names, rate)


EXTENSIONS = {"brainvision": ".vhdr", "edf": ".edf"}
