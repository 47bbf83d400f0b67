"""When a recording began: ``acq_time`` of the session's scans.tsv."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from bids_speechdecode.bids.dataset import Recording
from bids_speechdecode.bids.tables import read_tsv


def acquisition_time(recording: Recording) -> datetime | None:
    """Return when a recording began, or None where the dataset does not say.

    Dates of a BIDS dataset may be moved (those before 1925 are); what lies between two of them is
    as it was.
    """
    folder = recording.path.parent.parent
    session = f"_ses-{recording.session}" if recording.session else ""
    path = folder / f"sub-{recording.participant}{session}_scans.tsv"
    if not path.is_file():
        return None
    table, _ = read_tsv(path)
    if not {"filename", "acq_time"} <= set(table.columns):
        return None
    name = recording.path.relative_to(folder).as_posix()
    told = table.loc[[_base(str(row)) == _base(name) for row in table["filename"]], "acq_time"]
    return _read_time(str(told.iloc[0])) if len(told) else None


def _base(name: str) -> str:
    """Return a file's name without its extension: formats of several files name one of them."""
    return str(Path(name).parent / Path(name).name.split(".")[0])


def _read_time(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text.strip().rstrip("Z"))
    except ValueError:
        return None
