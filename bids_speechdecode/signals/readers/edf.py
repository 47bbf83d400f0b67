"""EDF, EDF+C and EDF+D: records of 16-bit numbers, each with its own time in EDF+D."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bids_speechdecode.errors import DataError
from bids_speechdecode.signals.readers.base import (
    FloatArray,
    IndexArray,
    OpenFile,
    SignalReader,
    most_common_rate,
    pieces_from_onsets,
    unique_names,
    volts_per_unit,
)

_ANNOTATIONS = "EDF Annotations"
_FIELD_WIDTHS = {"label": 16, "transducer": 80, "unit": 8, "physical_min": 8, "physical_max": 8}
_FIELD_WIDTHS |= {"digital_min": 8, "digital_max": 8, "prefilter": 80, "n_samples": 8}


@dataclass(frozen=True)
class _Header:
    n_bytes: int
    kind: str  # "", "EDF+C" or "EDF+D"
    n_records: int  # -1 where the recorder was stopped before it could say
    record_duration: float
    fields: dict[str, list[str]]

    @property
    def samples_per_record(self) -> NDArray[np.int64]:
        return np.array([int(n) for n in self.fields["n_samples"]], dtype=np.int64)


class EdfReader(SignalReader):
    """EDF as blocks.

    The sampling rate is the one that most channels have. A channel of another rate is brought
    to it by repeating or leaving out samples. In EDF+D, each record is put where its
    time-keeping annotation says, rounded to the nearest sample.
    """

    def __init__(self, path: Path) -> None:
        self._file = OpenFile(path)
        header = _read_header(self._file)
        per_record = header.samples_per_record
        ordinary = [i for i, name in enumerate(header.fields["label"]) if name != _ANNOTATIONS]
        if not ordinary:
            raise DataError(
                "EDF file has annotations but no signals",
                where=path,
                fix="use the file that holds the signals",
            )
        rates = per_record[ordinary] / header.record_duration
        rate = most_common_rate(rates.tolist())
        self._n_per_record = round(rate * header.record_duration)
        self._record_bytes = 2 * int(per_record.sum())
        self._header_bytes = header.n_bytes
        n_records = _count_records(self._file, header, self._record_bytes)
        self._positions = _positions_in_record(per_record, ordinary, self._n_per_record)
        self._gain, self._offset = _calibration(header, ordinary)
        super().__init__(
            path,
            rate,
            unique_names([header.fields["label"][i] for i in ordinary]),
            n_records * self._n_per_record,
            pieces=self._pieces_of_records(header, n_records, rate),
            notes=_note_other_rates(rates, rate),
        )

    def _pieces_of_records(self, header: _Header, n_records: int, rate: float) -> IndexArray | None:
        if header.kind != "EDF+D":
            return None
        onsets = _record_onsets(self._file, header, n_records)
        lengths = np.full(n_records, self._n_per_record)
        return pieces_from_onsets(onsets - onsets[0], lengths, rate, self._file.path)

    def _read_stored(self, start: int, stop: int, picks: IndexArray | None) -> FloatArray:
        first, last = start // self._n_per_record, -(-stop // self._n_per_record)
        size = (last - first) * self._record_bytes
        raw = self._file.read(self._header_bytes + first * self._record_bytes, size)
        records = raw.view("<i2").reshape(last - first, self._record_bytes // 2)
        channels: slice | IndexArray = slice(None) if picks is None else picks
        positions = self._positions[:, channels]  # (n_per_record, n_picks)
        numbers = records.take(positions.ravel(), axis=1).reshape(-1, positions.shape[1])
        begin = first * self._n_per_record
        signal = numbers[start - begin : stop - begin].astype(np.float32)
        signal *= self._gain[channels]
        signal += self._offset[channels]
        return signal

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _read_header(file: OpenFile) -> _Header:
    try:
        fixed = file.read(0, 256).tobytes().decode("latin-1")
        n_signals = int(fixed[252:256])
        rest = file.read(256, 256 * n_signals).tobytes().decode("latin-1")
        fields = _split_fields(rest, n_signals)
        duration = float(fixed[244:252])
        header = _Header(int(fixed[184:192]), fixed[192:197], int(fixed[236:244]), duration, fields)
        if not (duration > 0 and header.samples_per_record.sum() > 0 and n_signals > 0):
            raise ValueError(f"records of {duration} s and {n_signals} signals")
    except (ValueError, DataError) as error:
        raise DataError(
            "EDF header cannot be understood",
            found=str(error).splitlines()[0],
            where=file.path,
            fix="check that the file is EDF or EDF+ and was copied whole",
        ) from error
    return header


def _split_fields(text: str, n_signals: int) -> dict[str, list[str]]:
    fields, position = {}, 0
    for name, width in _FIELD_WIDTHS.items():
        ends = range(position + width, position + width * n_signals + 1, width)
        fields[name] = [text[end - width : end].strip(" \0") for end in ends]
        position += width * n_signals
    return fields


def _count_records(file: OpenFile, header: _Header, record_bytes: int) -> int:
    n_whole = (file.size - header.n_bytes) // record_bytes
    if header.n_records < 0:
        return max(n_whole, 0)
    if n_whole < header.n_records:
        raise DataError(
            "recording is truncated",
            expected=f"{header.n_records} records ({header.n_records * record_bytes} bytes)",
            found=f"{n_whole} records ({max(file.size - header.n_bytes, 0)} bytes)",
            where=file.path,
            fix="copy the file again from its source",
        )
    return header.n_records


def _positions_in_record(
    per_record: NDArray[np.int64], ordinary: list[int], n_per_record: int
) -> IndexArray:
    """Return where in a record each sample of each channel lies, (n_per_record, n_channels)."""
    begins = np.concatenate([[0], np.cumsum(per_record)[:-1]])[ordinary]
    samples = np.arange(n_per_record)[:, None] * per_record[ordinary] // n_per_record
    return np.ascontiguousarray(begins + samples)


def _calibration(header: _Header, ordinary: list[int]) -> tuple[FloatArray, FloatArray]:
    """Return gain and offset, shape (n_channels,): ``volts = gain * number + offset``."""

    def numbers(name: str) -> NDArray[np.float64]:
        return np.array([float(header.fields[name][i] or "nan") for i in ordinary])

    try:
        low, high = numbers("digital_min"), numbers("digital_max")
        bottom, top = numbers("physical_min"), numbers("physical_max")
    except ValueError as error:
        raise DataError("EDF header has a range that is no number", found=str(error)) from error
    with np.errstate(divide="ignore", invalid="ignore"):
        # Without a digital range a channel has no unit: NaN, so that it is reported and left out.
        gain = np.where(high != low, (top - bottom) / (high - low), np.nan)
    volts = np.array([volts_per_unit(header.fields["unit"][i], default=1.0) for i in ordinary])
    return (gain * volts).astype(np.float32), ((bottom - gain * low) * volts).astype(np.float32)


def _record_onsets(file: OpenFile, header: _Header, n_records: int) -> NDArray[np.float64]:
    """Return the time of each record in seconds, from its first time-stamped annotation."""
    if _ANNOTATIONS not in header.fields["label"]:
        raise DataError(
            "EDF+D without annotations has no times",
            where=file.path,
            fix="export the recording again as EDF+C or EDF+D with its annotations",
        )
    per_record = header.samples_per_record
    signal = header.fields["label"].index(_ANNOTATIONS)
    within = header.n_bytes + 2 * int(per_record[:signal].sum())
    size, record_bytes = 2 * int(per_record[signal]), 2 * int(per_record.sum())
    onsets = np.empty(n_records)
    for record in range(n_records):
        stamp = file.read(within + record * record_bytes, size).tobytes().split(b"\x14", 1)[0]
        try:
            onsets[record] = float(stamp)
        except ValueError as error:
            raise DataError(
                f"record {record} of an EDF+D file has no time",
                expected="+seconds at the start of its annotations",
                found=repr(stamp[:20]),
                where=file.path,
                fix="export the recording again",
            ) from error
    return onsets


def _note_other_rates(rates: NDArray[np.float64], rate: float) -> tuple[str, ...]:
    others = sorted({float(r) for r in rates if r != rate})
    if not others:
        return ()
    listed = ", ".join(f"{r:g}" for r in others)
    return (f"{np.sum(rates != rate)} channels at {listed} Hz were brought to {rate:g} Hz",)
