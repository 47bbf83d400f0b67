"""The text files that make a BrainVision recording of a raw float32 matrix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bids_speechdecode.errors import CannotWriteError

ROBUST_Z = "the robust z: (x - median) / interquartile range"


def write_brainvision_header(
    eeg_path: Path, names: Sequence[str], rate: float, n_times: int, *, unit: str = ROBUST_Z
) -> tuple[Path, Path]:
    """Write ``.vhdr`` and ``.vmrk`` beside a matrix of float32, shape (n_times, n_channels).

    The numbers are declared as volts. BrainVision has no unit for a robust z; what a reader that
    speaks volts (MNE's ``get_data()``) returns then is the robust z itself.

    Parameters
    ----------
    eeg_path : Path
        The matrix; the headers get its name with other suffixes.
    names : sequence of str
        Channels.
    rate : float
        Hertz.
    n_times : int
        Samples per channel, so that a matrix cut short is found out.
    unit : str
        In words, for a comment in the header.

    Returns
    -------
    header, markers : Path
    """
    header, markers = eeg_path.with_suffix(".vhdr"), eeg_path.with_suffix(".vmrk")
    try:
        header.write_text(
            _header_text(eeg_path.name, markers.name, names, rate, n_times, unit), encoding="utf-8"
        )
        markers.write_text(_marker_text(eeg_path.name), encoding="utf-8")
    except OSError as error:
        raise CannotWriteError("cannot write header", found=str(error), where=header) from error
    return header, markers


def _header_text(
    data: str, markers: str, names: Sequence[str], rate: float, n_times: int, unit: str
) -> str:
    channels = [
        f"Ch{number}={name.replace(',', chr(92) + '1')},,1,V"
        for number, name in enumerate(names, start=1)
    ]
    return "\n".join(
        [
            "Brain Vision Data Exchange Header File Version 1.0",
            f"; The unit of all channels is {unit}.",
            "",
            "[Common Infos]",
            "Codepage=UTF-8",
            f"DataFile={data}",
            f"MarkerFile={markers}",
            "DataFormat=BINARY",
            "DataOrientation=MULTIPLEXED",
            f"NumberOfChannels={len(names)}",
            f"DataPoints={n_times}",
            f"SamplingInterval={1e6 / rate!r}",
            "",
            "[Binary Infos]",
            "BinaryFormat=IEEE_FLOAT_32",
            "",
            "[Channel Infos]",
            *channels,
            "",
        ]
    )


def _marker_text(data: str) -> str:
    return "\n".join(
        [
            "Brain Vision Data Exchange Marker File, Version 1.0",
            "",
            "[Common Infos]",
            "Codepage=UTF-8",
            f"DataFile={data}",
            "",
            "[Marker Infos]",
            "Mk1=New Segment,,1,1,0",
            "",
        ]
    )
