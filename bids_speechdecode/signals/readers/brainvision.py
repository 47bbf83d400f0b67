"""BrainVision: a text header (.vhdr) beside a matrix of numbers (.eeg)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bids_speechdecode.errors import DataError
from bids_speechdecode.signals.readers.base import unique_names, volts_per_unit
from bids_speechdecode.signals.readers.binary import BinaryReader, find_companion

_FORMAT_TO_DTYPE = {"INT_16": "<i2", "UINT_16": "<u2", "INT_32": "<i4", "IEEE_FLOAT_32": "<f4"}

Sections = dict[str, dict[str, str]]


def open_brainvision(path: Path) -> BinaryReader:
    """Return a reader of a BrainVision recording, given its ``.vhdr``.

    Raises
    ------
    DataError
        Where the header cannot be understood or the matrix is shorter than it says.
    """
    sections = _parse_header(path)
    common, binary = sections.get("common infos", {}), sections.get("binary infos", {})
    _require(path, "DataFormat", common.get("dataformat", "BINARY").upper(), ("BINARY",))
    number = _require(path, "BinaryFormat", binary.get("binaryformat", ""), tuple(_FORMAT_TO_DTYPE))
    order = common.get("dataorientation", "MULTIPLEXED").upper()
    _require(path, "DataOrientation", order, ("MULTIPLEXED", "VECTORIZED"))
    names, scale = _parse_channels(path, sections)
    data_path, notes = find_companion(path, _data_file(path, common), ".eeg")
    points = common.get("datapoints", "")
    return BinaryReader(
        path,
        data_path,
        sampling_rate=1e6 / _positive(path, common, "samplinginterval"),
        channel_names=names,
        dtype=_FORMAT_TO_DTYPE[number],
        scale=scale,
        multiplexed=order == "MULTIPLEXED",
        n_expected=int(points) if points.isdigit() and int(points) > 0 else None,
        notes=notes,
    )


def _parse_header(path: Path) -> Sections:
    """Return section -> key -> value, names in lower case; the free text at the end is left."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise DataError("header cannot be read", found=str(error), where=path) from error
    sections: Sections = {}
    section: dict[str, str] = {}
    for line in _decode(text).splitlines():
        line = line.strip()
        if line.lower().startswith("[comment"):
            break
        if line.startswith("[") and line.endswith("]"):
            section = sections.setdefault(line[1:-1].strip().lower(), {})
        elif "=" in line and not line.startswith(";"):
            key, _, value = line.partition("=")
            section[key.strip().lower()] = value.strip()
    return sections


def _decode(text: bytes) -> str:
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError:
        return text.decode("latin-1")


def _parse_channels(path: Path, sections: Sections) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the names and what one step is in volts (µV where the header names no unit)."""
    infos = sections.get("channel infos", {})
    n_channels = int(_positive(path, sections.get("common infos", {}), "numberofchannels"))
    names, scale = [], []
    for number in range(1, n_channels + 1):
        parts = [*infos.get(f"ch{number}", "").split(","), "", "", "", ""]
        names.append(parts[0].replace(r"\1", ",") or f"ch{number}")
        try:
            resolution = float(parts[2]) if parts[2] else 1.0
        except ValueError as error:
            raise _bad_header(path, f"resolution of channel {number}", parts[2]) from error
        scale.append(resolution * volts_per_unit(parts[3], default=1e-6))
    return unique_names(names), np.array(scale)


def _data_file(path: Path, common: dict[str, str]) -> str:
    return common.get("datafile", "").replace("$b", path.stem)


def _positive(path: Path, section: dict[str, str], key: str) -> float:
    try:
        value = float(section[key])
    except (KeyError, ValueError) as error:
        raise _bad_header(path, key, section.get(key, "nothing")) from error
    if not value > 0:
        raise _bad_header(path, key, section[key])
    return value


def _require(path: Path, key: str, found: str, allowed: tuple[str, ...]) -> str:
    if found not in allowed:
        raise DataError(
            f"The header of a BrainVision recording has no {key} that can be read",
            expected=" or ".join(allowed),
            found=found or "nothing",
            where=path,
            fix="copy the .vhdr file again from its source, or export the recording again",
        )
    return found


def _bad_header(path: Path, key: str, found: str) -> DataError:
    return DataError(
        f"The header of a BrainVision recording has no usable {key}",
        expected="a positive number",
        found=found,
        where=path,
        fix="correct the .vhdr file, or export the recording again",
    )
