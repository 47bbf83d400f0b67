"""``channels.tsv``: what every channel is, and which rows belong to which channel of a signal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from bids_speechdecode.bids.tables import as_number, list_some, read_tsv
from bids_speechdecode.errors import DataError

_BRAIN_TYPES = frozenset({"SEEG", "ECOG", "DBS"})


@dataclass(frozen=True)
class Channel:
    """One row of ``channels.tsv``."""

    name: str
    type: str = "N/A"  # upper case
    units: str = "n/a"
    status: str = "good"  # or "bad"
    status_description: str = ""
    group: str = ""
    sampling_frequency: float | None = None

    @property
    def is_brain(self) -> bool:
        """Whether the channel records from the brain (SEEG, ECOG or DBS)."""
        return self.type in _BRAIN_TYPES


def read_channels(path: Path | None) -> tuple[tuple[Channel, ...], tuple[str, ...]]:
    """Return the rows of ``channels.tsv`` and notes on everything odd about it.

    A missing or empty status counts as good, as BIDS says; an unknown one as bad.

    Raises
    ------
    DataError
        If there is no column ``name``.
    """
    if path is None:
        return (), ("no channels.tsv: types and status of the channels are unknown",)
    table, notes = read_tsv(path)
    if "name" not in table:
        raise DataError(
            "channels.tsv has no column 'name'.",
            expected="name, type, units, status",
            found=", ".join(table.columns),
            where=path,
            fix="name the columns in the first line as BIDS does",
        )
    rows = [row for row in table.to_dict("records") if row["name"]]
    channels = tuple(_channel({str(k): v for k, v in row.items()}) for row in rows)
    return channels, (*notes, *_channel_notes(path, table, channels))


def _channel(row: Mapping[str, str | None]) -> Channel:
    status = (row.get("status") or "good").lower()
    known = status in {"good", "bad"}
    return Channel(
        name=str(row["name"]),
        type=(row.get("type") or "n/a").upper(),
        units=row.get("units") or "n/a",
        status=status if known else "bad",
        status_description=row.get("status_description") or ("" if known else f"status {status!r}"),
        group=row.get("group") or "",
        sampling_frequency=as_number(row.get("sampling_frequency")),
    )


def _channel_notes(path: Path, table: pd.DataFrame, channels: Sequence[Channel]) -> Iterator[str]:
    for column, meaning in {"type": "no channel counts as brain", "status": "all good"}.items():
        n_empty = len(table) if column not in table else int(table[column].isna().sum())
        if column not in table:
            yield f"{path.name}: no column {column!r} ({meaning})"
        elif n_empty:
            yield f"{path.name}: {n_empty} rows without {column}"
    n_unnamed = int(table["name"].isna().sum())
    if n_unnamed:
        yield f"{path.name}: {n_unnamed} rows without a name, left out"
    n_unknown = sum(c.status_description.startswith("status '") for c in channels)
    if n_unknown:
        yield f"{path.name}: {n_unknown} channels of unknown status, counted as bad"
    twice = [name for name, n in Counter(c.name for c in channels).items() if n > 1]
    if twice:
        yield f"{path.name}: {len(twice)} names more than once ({list_some(twice, 5)})"


def match_channels(
    channels: Sequence[Channel], names: Sequence[str]
) -> tuple[tuple[Channel, ...], tuple[str, ...]]:
    """Return the row of ``channels.tsv`` for each channel of the signal, and what did not match.

    Names are compared exactly, then without case and surrounding space. A channel of the signal
    without a row gets status bad and says why; rows without a channel are counted.

    Parameters
    ----------
    channels : sequence of Channel
        The rows of ``channels.tsv``.
    names : sequence of str
        Names in the signal file, in its order.
    """
    exact = {c.name: c for c in reversed(channels)}
    loose = {c.name.strip().casefold(): c for c in reversed(channels)}
    rows = [exact.get(name) or loose.get(name.strip().casefold()) for name in names]
    matched = tuple(
        row or Channel(name, status="bad", status_description="no row in channels.tsv")
        for name, row in zip(names, rows, strict=True)
    )
    used = {row.name for row in rows if row}
    unused = [c.name for c in channels if c.name not in used]
    without = [name for name, row in zip(names, rows, strict=True) if row is None]
    notes = []
    if without:
        some = list_some(without, 5)
        notes.append(f"{len(without)} channels without a row in channels.tsv ({some})")
    if unused:
        some = list_some(unused, 5)
        notes.append(f"{len(unused)} rows of channels.tsv without a channel ({some})")
    return matched, tuple(notes)
