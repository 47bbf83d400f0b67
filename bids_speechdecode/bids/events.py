"""``events.tsv``: the rows that name audio, and the stretches marked bad."""

from __future__ import annotations

import math
import mimetypes
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pandas as pd

from bids_speechdecode.bids.dataset import Recording
from bids_speechdecode.bids.tables import read_tsv
from bids_speechdecode.errors import DataError, did_you_mean
from bids_speechdecode.timeline import Interval, merge_intervals

Version = Literal["true", "ambient"]


@dataclass(frozen=True)
class EventRow:
    """A row of events.tsv that names audio; times in seconds."""

    line: int
    where: str
    onset: float
    duration: float | None  # None also where the table says 0: a mark without extent
    stimulus: str
    version: Version
    audio_onset: float | None

    @property
    def end(self) -> float:
        """When the row ends."""
        return self.onset + (self.duration or 0.0)


def read_events(
    recording: Recording, duration: float, *, optional: bool
) -> tuple[list[EventRow], list[Interval], list[str]]:
    """Return the rows that name audio, the artifacts and notes."""
    path = recording.events_path
    if path is None:
        return [], [], ["no events.tsv"]
    table, table_notes = read_tsv(path)
    if "onset" not in table:
        raise DataError(
            "events.tsv has no column 'onset'.",
            expected="onset, duration, stim_file",
            found=", ".join(map(str, table.columns)),
            where=path,
            fix="add it: seconds from the start of the recording to each event",
        )
    if table.empty:
        if optional:
            return [], [], [*table_notes, f"{path.name}: no rows"]
        raise DataError(
            "events.tsv is empty.",
            expected="rows that say when which audio was heard",
            found="only a header",
            where=path,
            fix="add rows with onset, duration and stim_file",
        )
    table, notes = _with_onsets(table, path)
    artifacts, is_artifact = _artifacts(table, path, duration, notes)
    rows = [_row(line, row, path) for line, row in _named(table[~is_artifact], notes)]
    for row in rows:
        _require_inside(row, duration, recording.duration)
    return _without_repeats(rows, notes), artifacts, [*table_notes, *notes]


def _with_onsets(table: pd.DataFrame, path: Path) -> tuple[pd.DataFrame, list[str]]:
    """Return the rows that have an onset, with times as numbers."""
    table = table.copy()
    for column in ("onset", "duration", "audio_onset"):
        text = table[column] if column in table else pd.Series(None, table.index, dtype=object)
        table[column] = [_seconds(v, column, path, line) for line, v in text.items()]
    missing = table["onset"].isna()
    if missing.all():
        raise DataError(
            "No row of events.tsv has an onset.",
            expected="seconds since the start of the recording",
            found="n/a in all rows",
            where=path,
            fix="fill the column onset",
        )
    n = int(missing.sum())
    notes = [f"{path.name}: {n} rows without an onset, left out"] if n else []
    return table[~missing], notes


def _seconds(text: str | None, column: str, path: Path, line: object) -> float:
    """Return a time, NaN for n/a."""
    try:
        value = math.nan if text is None else float(text)
    except ValueError:
        value = math.inf
    if math.isinf(value) or (column == "duration" and value < 0):
        raise DataError(
            f"A value of {column!r} is no time.",
            expected="seconds, or n/a",
            found=repr(text),
            where=f"{path}, line {line}",
            fix="write a number of seconds with a decimal point, or n/a",
        )
    return value


def _artifacts(
    table: pd.DataFrame, path: Path, duration: float, notes: list[str]
) -> tuple[list[Interval], pd.Series]:
    """Return the intervals of rows whose trial_type is bad or BAD_*, and which rows they are."""
    types = table["trial_type"] if "trial_type" in table else pd.Series(None, table.index)
    is_artifact = types.map(lambda t: bool(re.match(r"bad(?:[_ ]|$)", str(t), re.IGNORECASE)))
    rows = table[is_artifact.astype(bool)]
    stops = rows["onset"] + rows["duration"].fillna(0.0)
    clipped = [
        Interval(max(0.0, start), min(stop, duration))
        for start, stop in zip(rows["onset"], stops, strict=True)
    ]
    n_empty = sum(interval.duration <= 0 for interval in clipped)
    if n_empty:
        notes.append(f"{path.name}: {n_empty} artifact rows without extent or outside, left out")
    return merge_intervals(clipped), is_artifact.astype(bool)


def _named(table: pd.DataFrame, notes: list[str]) -> Iterator[tuple[int, pd.Series]]:
    """Yield the rows whose stim_file may be audio."""
    if "stim_file" not in table:
        return
    n_images = 0
    for line, row in table[table["stim_file"].notna()].iterrows():
        kind = mimetypes.guess_type(str(row["stim_file"]))[0] or ""
        if kind.startswith("image/"):
            n_images += 1
        else:
            yield int(str(line)), row
    if n_images:
        notes.append(f"{n_images} rows whose stim_file is an image, left out")


def _row(line: int, row: pd.Series, path: Path) -> EventRow:
    where = f"{path}, line {line}"
    version = str(row.get("audio_version") or "true").lower()
    if version not in {"true", "ambient"}:
        raise DataError(
            "A value of 'audio_version' is unknown.",
            expected="true, ambient or n/a",
            found=f"{version!r} {did_you_mean(version, ['true', 'ambient'])}".strip(),
            where=where,
        )
    return EventRow(
        line=line,
        where=where,
        onset=float(row["onset"]),
        duration=float(row["duration"]) if row["duration"] > 0 else None,
        stimulus=str(row["stim_file"]),
        version=version,  # type: ignore[arg-type]
        audio_onset=None if math.isnan(row["audio_onset"]) else float(row["audio_onset"]),
    )


def _require_inside(row: EventRow, duration: float, stated: float | None) -> None:
    """Raise if a row starts outside the recording; `stated` is its length in the sidecar."""
    if 0 <= row.onset < duration:
        return
    fix = (
        "correct the onset; for audio that had started before the recording, give "
        "onset 0 and, in the column audio_onset, the time in the audio"
    )
    if stated and duration <= row.onset < stated:
        fix = (
            f"the sidecar says that the recording lasts {stated:.3f} s, so the file is "
            "truncated: copy it again from its source"
        )
    raise DataError(
        "An onset lies outside the recording.",
        expected=f"seconds from 0 to {duration:.3f}, the recording's length",
        found=f"{row.onset:g}",
        where=row.where,
        fix=fix,
    )


def _without_repeats(rows: list[EventRow], notes: list[str]) -> list[EventRow]:
    """Leave out rows that say the same as an earlier one, as two annotations of one moment do."""
    unique = {replace(row, line=0, where=""): row for row in reversed(rows)}
    if len(unique) < len(rows):
        notes.append(f"{len(rows) - len(unique)} rows repeat another row, left out")
    return sorted(unique.values(), key=lambda row: (row.onset, row.line))
