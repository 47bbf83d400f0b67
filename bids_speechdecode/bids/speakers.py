"""Who speaks when: the column ``speaker`` of events.tsv, or of a table of words beside a sound."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from bids_speechdecode.bids.tables import read_tsv, require_content
from bids_speechdecode.bids.words import find_words
from bids_speechdecode.errors import DataError

SPEAKER = "speaker"
_ONSETS, _OFFSETS = ("onset", "start"), ("offset", "end", "stop")


def sound_speakers(audio: Path) -> pd.DataFrame | None:
    """Return who speaks when in a sound file, or None where no table beside it says so.

    Parameters
    ----------
    audio : path
        ``talk.wav``; beside it ``talk_words.tsv`` or ``talk_transcript.csv`` with the columns
        ``onset`` (or ``start``), ``offset`` (or ``end``) or ``duration``, and ``speaker``.

    Returns
    -------
    DataFrame or None
        Columns onset, offset (seconds of the audio) and speaker.

    Raises
    ------
    DataError
        The table cannot be read, or has speakers and no times.
    """
    path = find_words(audio)
    return None if path is None else _speakers(path)


def event_speakers(events: Path | None) -> pd.DataFrame | None:
    """Return who speaks when in a recording (seconds of its clock), or None where no row says."""
    return None if events is None else _speakers(events)


def _speakers(path: Path) -> pd.DataFrame | None:
    table = _read(path)
    table.columns = [str(c).strip().lower() for c in table.columns]
    if SPEAKER not in table or not table[SPEAKER].notna().any():
        return None
    table = table[table[SPEAKER].notna()]
    onset = _seconds(table, _ONSETS)
    offset = _seconds(table, _OFFSETS)
    if offset is None and "duration" in table and onset is not None:
        offset = onset + pd.to_numeric(table["duration"], errors="coerce")
    if onset is None or offset is None:
        raise DataError(
            "A table says who speaks and not when.",
            expected="columns onset, and duration or offset, in seconds",
            found=", ".join(table.columns),
            where=path,
            fix="add the times, or remove the column speaker",
        )
    spans = pd.DataFrame({"onset": onset, "offset": offset, SPEAKER: table[SPEAKER].astype(str)})
    return spans.dropna(ignore_index=True)


def _seconds(table: pd.DataFrame, names: tuple[str, ...]) -> pd.Series | None:
    name = next((name for name in names if name in table), None)
    return None if name is None else pd.to_numeric(table[name], errors="coerce")


def _read(path: Path) -> pd.DataFrame:
    if path.suffix == ".tsv":
        return read_tsv(path)[0]
    require_content(path, path.parent)
    try:
        return pd.read_csv(path, dtype=str, na_values=["n/a"], encoding="utf-8-sig")
    except (UnicodeDecodeError, pd.errors.EmptyDataError, pd.errors.ParserError) as error:
        raise DataError(
            "A table of words cannot be read.",
            expected="a header line and rows of text in UTF-8, separated by commas",
            found=str(error),
            where=path,
            fix="save it anew, or remove it",
        ) from error
