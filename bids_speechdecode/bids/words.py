"""Which word was said when: tables beside sound files, and rows of events.tsv."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from bids_speechdecode.bids.tables import read_tsv, require_content
from bids_speechdecode.errors import DataError

# Where the words of ``talk.wav`` are looked for, beside it.
WORD_TABLES = ("{}_words.tsv", "{}_transcript.csv", "{}_transcript.tsv", "{}_words.csv")
COLUMNS = {
    "onset": ("onset", "start"),
    "offset": ("offset", "end", "stop"),
    "duration": ("duration",),
    "word": ("word", "item"),
}
END_TOLERANCE = 0.05  # seconds by which a word may begin after the end of its sound


def find_words(audio: Path) -> Path | None:
    """Return the table of a sound file's words that lies beside it, if there is one."""
    stem = audio.name.partition(".")[0]
    paths = [audio.with_name(name.format(stem)) for name in WORD_TABLES]
    return next((p for p in paths if p.is_file() or p.is_symlink()), None)


def read_words(audio: Path) -> pd.DataFrame | None:
    """Return when each word of a sound file is spoken, or None where no table says it.

    Parameters
    ----------
    audio : path
        ``talk.wav``; its words are in ``talk_words.tsv`` or ``talk_transcript.csv`` beside it, with
        columns ``onset`` (or ``start``) and, where known, ``offset`` (or ``end``).

    Returns
    -------
    DataFrame or None
        Columns onset and offset, seconds of the audio, in order; offset is NaN where unknown.

    Raises
    ------
    DataError
        There is a table that cannot be read, has no column of onsets, or no onset that is a number.
    MissingInputError
        The content of the table was not downloaded.
    """
    path = find_words(audio)
    if path is None:
        return None
    found = _pick_columns(_read_table(path))
    onsets = pd.to_numeric(found["onset"], errors="coerce") if "onset" in found else None
    if onsets is None or not onsets.notna().any():
        raise DataError(
            "A table of words has no times.",
            expected="a column onset (or start) in seconds of the audio",
            found=", ".join(found.attrs["header"]),
            where=path,
            fix="name the column onset, or remove the table",
        )
    offsets = found.get("offset", np.nan)
    words = pd.DataFrame({"onset": onsets, "offset": pd.to_numeric(offsets, errors="coerce")})
    return words[words["onset"].notna()].sort_values("onset", ignore_index=True)


def read_transcript(audio: Path, duration: float) -> pd.DataFrame | None:
    """Return the words of a sound file with their times, or None where no table has them.

    Parameters
    ----------
    audio : path
        As `read_words`; the table also needs a column ``word`` (or ``item``), and may have
        ``duration`` in place of ``offset``.
    duration : float
        Of the sound, seconds.

    Returns
    -------
    DataFrame or None
        Columns onset, offset (s of the audio) and word, in order. Rows without a word are left
        out; a word of which no end is known ends as it begins.

    Raises
    ------
    DataError
        The table cannot be read or lacks a column, a time is no number, a word ends before it
        begins, or begins outside the sound.
    MissingInputError
        The content of the table was not downloaded.
    """
    path = find_words(audio)
    if path is None:
        return None
    require_content(path, audio.parent)
    words = _checked(path, path.stat().st_mtime_ns)
    outside = ~words["onset"].between(0, duration + END_TOLERANCE)
    if outside.any():
        line = words.index[outside][0]
        raise DataError(
            "A word lies outside its sound.",
            expected=f"seconds from 0 to {duration:.3f}, the length of {audio.name}",
            found=f"{words.loc[line, 'onset']:g} ({words.loc[line, 'word']!r}); so are "
            f"{int(outside.sum())} of {len(words)} words",
            where=f"{path}, line {line}",
            fix="give times in seconds of this sound; are they milliseconds, or of another file?",
        )
    return words.reset_index(drop=True)


@lru_cache(maxsize=64)  # every window of every piece asks for it
def _checked(path: Path, changed: int) -> pd.DataFrame:
    """Return the words of a table by line, in order of their onset; `changed` is its time."""
    found = _pick_columns(_read_table(path))
    missing = [name for name in ("onset", "word") if name not in found]
    if missing:
        raise DataError(
            "A table of words lacks a column.",
            expected="onset (or start), word (or item), and offset (or end) or duration",
            found=", ".join(found.attrs["header"]),
            where=path,
            fix=f"add or rename the column of {' and '.join(missing)}",
        )
    return _with_times(found[found["word"].notna()], str(path))


def _with_times(found: pd.DataFrame, where: str) -> pd.DataFrame:
    """Return onset, offset and word of rows of text, whose index is their line."""
    onset = _seconds(found, "onset", where)
    if onset.isna().any():
        line = onset.index[onset.isna()][0]
        raise DataError(
            "A word has no onset.",
            expected="seconds",
            found=f"n/a for {found.loc[line, 'word']!r}",
            where=f"{where}, line {line}",
            fix="write when it begins, or remove the row",
        )
    offset = pd.Series(np.nan, onset.index)
    if "offset" in found:
        offset = _seconds(found, "offset", where)
    elif "duration" in found:
        offset = onset + _seconds(found, "duration", where)
    offset = offset.fillna(onset)
    if (offset < onset).any():
        line = onset.index[offset < onset][0]
        raise DataError(
            "A word ends before it begins.",
            expected=f"an end after {onset[line]:g} s",
            found=f"{offset[line]:g} ({found.loc[line, 'word']!r})",
            where=f"{where}, line {line}",
            fix="correct the times; a column of lengths is called duration",
        )
    words = pd.DataFrame({"onset": onset, "offset": offset, "word": found["word"]})
    return words.sort_values("onset", kind="stable")


def _seconds(found: pd.DataFrame, column: str, where: str) -> pd.Series:
    times = pd.to_numeric(found[column], errors="coerce").astype(float)
    wrong = (times.isna() & found[column].notna()) | np.isinf(times)
    if wrong.any():
        line = found.index[wrong][0]
        raise DataError(
            "A time in a table of words is no number.",
            expected="seconds, or n/a",
            found=f"{column} {found.loc[line, column]!r}",
            where=f"{where}, line {line}",
            fix="write a number of seconds with a decimal point, or n/a",
        )
    return times


def _read_table(path: Path) -> pd.DataFrame:
    """Return a table of text, None for n/a and empty cells; the index is the line in the file."""
    require_content(path, path.parent)
    separator = "\t" if path.suffix == ".tsv" else ","
    try:
        # Blank lines are kept until the lines are counted; "null" and "nan" are words.
        table = pd.read_csv(
            path,
            sep=separator,
            dtype=str,
            na_values=["n/a", ""],
            keep_default_na=False,
            skip_blank_lines=False,
            skipinitialspace=True,
            encoding="utf-8-sig",
        )
    except (UnicodeDecodeError, pd.errors.EmptyDataError, pd.errors.ParserError) as error:
        raise DataError(
            "A table of words cannot be read.",
            expected="a header line and rows of text in UTF-8, separated by "
            + ("tabs" if separator == "\t" else "commas"),
            found=str(error),
            where=path,
            fix="save it anew, or remove it",
        ) from error
    table.index = table.index + 2
    table.columns = [str(c).strip().lower() for c in table.columns]
    return table


def _pick_columns(table: pd.DataFrame) -> pd.DataFrame:
    """Return the columns that are known, by our names for them."""
    found = {
        name: next((table[c] for c in choices if c in table), None)
        for name, choices in COLUMNS.items()
    }
    picked = pd.DataFrame({name: c for name, c in found.items() if c is not None}, table.index)
    picked.attrs["header"] = list(table.columns)
    return picked


def read_event_words(events: Path | None) -> pd.DataFrame | None:
    """Return the words that rows of events.tsv carry in a column ``word``.

    Returns
    -------
    DataFrame or None
        Columns onset, offset (s, on the recording's clock) and word, in order; None without any.

    Raises
    ------
    DataError
        A word has no onset, or a time is no number.
    """
    return None if events is None else _event_words(events, events.stat().st_mtime_ns)


@lru_cache(maxsize=64)
def _event_words(events: Path, changed: int) -> pd.DataFrame | None:
    table, _ = read_tsv(events)
    if "word" not in table or "onset" not in table or table["word"].isna().all():
        return None
    known = [name for name in ("onset", "duration", "word") if name in table]
    words = _with_times(table.loc[table["word"].notna(), known], str(events))
    return words.reset_index(drop=True)
