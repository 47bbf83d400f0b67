"""Tables and sidecars as they come: BOM, CRLF, n/a, pointers to content that is elsewhere."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from bids_speechdecode.errors import DataError, MissingInputError, did_you_mean


def read_tsv(path: Path) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return a table of strings (``None`` for n/a and empty cells) and notes on its oddities.

    Accepts a byte-order mark, any line ending, blank lines, short rows and Latin-1 text, and
    says so. The index of the frame is the line number in the file.

    Raises
    ------
    DataError
        If the file is empty, has a row longer than its header, or a column twice.
    MissingInputError
        If its content was not downloaded.
    """
    text, notes = _decode(path)
    lines = csv.reader(io.StringIO(text, newline=None), delimiter="\t")
    rows = [(lines.line_num, [cell.strip() for cell in row]) for row in lines]
    rows = [(number, row) for number, row in rows if any(row)]
    if not rows:
        raise DataError(
            "A table is empty.",
            expected="a header line and rows",
            found="nothing",
            where=path,
            fix="copy the file again from its source, or write it anew",
        )
    header = rows[0][1]
    while header and not header[-1]:
        header.pop()
    _check_columns(path, header, rows)
    n_short = sum(len(row) < len(header) for _, row in rows)
    if n_short:
        notes.append(f"{path.name}: {n_short} rows shorter than the header, filled with n/a")
    cells = [
        [_cell(row[i]) if i < len(row) else None for i in range(len(header))] for _, row in rows[1:]
    ]
    index = [number for number, _ in rows[1:]]
    return pd.DataFrame(cells, columns=header, index=index, dtype=object), tuple(notes)


def _decode(path: Path) -> tuple[str, list[str]]:
    require_content(path, path.parent)
    data = path.read_bytes()
    if b"\0" in data:
        raise DataError(
            "A table is not a text file.",
            expected="tab-separated text in UTF-8",
            found="binary content, or text in UTF-16",
            where=path,
            fix="save it as tab-separated text in UTF-8, or copy it again from its source",
        )
    notes = []
    if data.startswith(b"\xef\xbb\xbf"):
        notes.append(f"{path.name}: byte-order mark removed")
    try:
        return data.decode("utf-8-sig"), notes
    except UnicodeDecodeError:
        notes.append(f"{path.name}: not UTF-8, read as Latin-1")
        return data.decode("latin-1"), notes


def _check_columns(path: Path, header: list[str], rows: list[tuple[int, list[str]]]) -> None:
    twice = [name for name, n in Counter(header).items() if n > 1]
    if twice:
        raise DataError("A table has a column twice.", found=", ".join(twice), where=path)
    for number, row in rows[1:]:
        if any(row[len(header) :]):
            raise DataError(
                "A row of a table is longer than its header.",
                expected=f"{len(header)} cells",
                found=f"{len(row)} cells",
                where=f"{path}, line {number}",
                fix="separate the columns by single tabs and name every column in the first line",
            )


def _cell(text: str) -> str | None:
    return None if text in {"", "n/a", "N/A"} else text


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON sidecar.

    Raises
    ------
    DataError
        If the file is not JSON or holds something else than an object.
    MissingInputError
        If its content was not downloaded.
    """
    require_content(path, path.parent)
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(
            "A JSON file cannot be read.",
            expected="valid JSON",
            found=str(error),
            where=path,
            fix="correct the file (any JSON checker shows the place), or copy it again",
        ) from None
    if not isinstance(content, dict):
        raise DataError("A JSON file holds no object.", expected="{...}", where=path)
    return content


def as_number(value: object) -> float | None:
    """Return a positive finite number, or None for n/a and the like."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if 0 < number < float("inf") else None


def require_content(path: Path, dataset_root: Path) -> None:
    """Raise if a file of the dataset is absent or only stands for content kept elsewhere.

    Raises
    ------
    MissingInputError
        With the exact command that fetches a DataLad, git-annex or Git LFS file.
    """
    try:
        inside = path.relative_to(dataset_root)
    except ValueError:
        inside = path
    pointer = _pointer_kind(path)
    if pointer:
        command = "git lfs pull --include" if pointer == "Git LFS" else "datalad get"
        raise MissingInputError(
            "The content of a file has not been downloaded.",
            expected="the data",
            found=f"a {pointer} pointer",
            where=path,
            fix=f"cd {dataset_root} && {command} {inside}",
        )
    if not path.exists():
        where = next((p for p in path.parents if p.is_dir()), None)
        names = [p.name for p in where.iterdir() if p.suffix == path.suffix] if where else []
        hint = did_you_mean(path.name, names)
        fix = "put the file there" + (f"; {hint}" if hint else "")
        raise MissingInputError("A file is absent.", where=path, fix=fix)


def _pointer_kind(path: Path) -> str:
    """Return "git-annex", "Git LFS" or "" for a file that holds its content."""
    if path.is_symlink() and not path.exists():
        return "git-annex"
    if not path.is_file() or path.stat().st_size > 32 * 1024:
        return ""
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(b"/annex/objects/"):
        return "git-annex"
    return "Git LFS" if start.startswith(b"version https://git-lfs") else ""


def list_some(labels: Iterable[str], n: int = 20) -> str:
    """Return labels as text, cut after `n`."""
    labels = list(labels)
    more = f", ... ({len(labels)} in all)" if len(labels) > n else ""
    return ", ".join(labels[:n]) + more
