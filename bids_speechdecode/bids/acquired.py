"""When a recording began: ``acq_time`` of the session's scans.tsv."""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path

from bids_speechdecode.bids.dataset import Recording
from bids_speechdecode.bids.tables import read_tsv
from bids_speechdecode.errors import DataError


def acquisition_time(recording: Recording) -> date | None:
    """Return when a recording began, or None where the dataset does not say.

    Dates of a BIDS dataset may be moved (those before 1925 are); what lies between two of them is
    as it was.

    Returns
    -------
    datetime, date or None
        A date alone where the dataset tells no hour.

    Raises
    ------
    DataError
        It says two things.
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
    times = {time for text in told if (time := _read_time(str(text)))}
    if len(times) > 1:
        raise DataError(
            "A recording has several acquisition times.",
            expected="one acq_time",
            found=", ".join(sorted(str(time) for time in times)),
            where=f"{path}, {name}",
            fix="remove the rows that are not true",
        )
    return times.pop() if times else None


def _base(name: str) -> str:
    """Return a file's name without its extension: formats of several files name one of them."""
    return str(Path(name).parent / Path(name).name.split(".")[0])


def _read_time(text: str) -> date | None:
    text = text.strip().rstrip("Z")
    for kind in (date, datetime):  # a date alone would be read as its midnight
        try:
            return kind.fromisoformat(text)
        except ValueError:
            continue
    return None
