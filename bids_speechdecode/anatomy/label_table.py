"""Tables of labels: which name and hemisphere an index of an atlas has."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from bids_speechdecode.errors import DataError

_INDEX = ("index", "id", "value")
_NAME = ("name", "label", "region")
_HEMISPHERE = ("hemisphere", "hemi")
_SIDES = {"l": "L", "lh": "L", "left": "L", "r": "R", "rh": "R", "right": "R"}
_BOTH = {"b", "bilateral", "both", "midline", "m"}
# lh_x, L_x, Left-x, ctx-lh-x; x_L, x-Left; 7Networks_LH_x (there it is part of the name).
_PREFIX = re.compile(r"^(?:ctx[-_])?(lh|rh|left|right|l|r)[-_. ]+(?=.)", re.IGNORECASE)
_SUFFIX = re.compile(r"(?<=.)[-_. ]+(lh|rh|left|right|l|r)$", re.IGNORECASE)
_MIDDLE = re.compile(r"[-_](LH|RH)[-_]")


def read_labels(path: Path) -> pd.DataFrame:
    """Return a table of labels as it is written.

    Parameters
    ----------
    path : path
        ``.csv``, or tab-separated. Needs columns ``index`` (or id, value) and ``name`` (or label,
        region); may have ``hemisphere`` (L, R, B) and ``structure``. Index 0 is no label and is
        left out.

    Returns
    -------
    DataFrame
        index : int; name, hemisphere, structure : str, "" where not given.

    Raises
    ------
    DataError
        If it is no table, a column is missing, an index is no whole number or is there twice, or
        a name is missing.
    """
    raw = _read_text(path)
    columns = {str(column).strip().lower(): str(column) for column in raw}
    index, name = _column(columns, _INDEX), _column(columns, _NAME)
    if index is None or name is None:
        raise DataError(
            "A table of labels lacks a column.",
            expected="index and name (a .tsv or .csv)",
            found=", ".join(map(str, raw.columns)),
            where=path,
            fix="name its columns index and name",
        )
    hemisphere = _column(columns, _HEMISPHERE)
    table = pd.DataFrame(
        {
            "index": _whole_numbers(raw[index], path),
            "name": raw[name].str.strip(),
            "hemisphere": raw[hemisphere].map(_side) if hemisphere is not None else "",
            "structure": raw[columns["structure"]] if "structure" in columns else "",
        }
    )
    table = table[table["index"] != 0].reset_index(drop=True)
    _check_unique(table, path)
    return table


def _read_text(path: Path) -> pd.DataFrame:
    separator = "," if path.suffix.lower() == ".csv" else "\t"
    try:
        return pd.read_csv(
            path,
            sep=separator,
            dtype=str,
            keep_default_na=False,
            encoding="utf-8-sig",
            index_col=False,
        )
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise DataError(
            "A table of labels cannot be read.",
            expected="a .tsv or .csv with the columns index and name",
            found=str(error).strip(),
            where=path,
            fix="save it as text in UTF-8, its columns separated by tabs (.csv: by commas)",
        ) from None


def _column(columns: dict[str, str], names: Sequence[str]) -> str | None:
    return next((columns[name] for name in names if name in columns), None)


def _side(text: str) -> str:
    """Return "L", "R", "B", or "" for what is none of them."""
    text = text.strip().lower()
    return "B" if text in _BOTH else _SIDES.get(text, "")


def _whole_numbers(texts: pd.Series, path: Path) -> pd.Series:
    numbers = pd.to_numeric(texts, errors="coerce")
    wrong = ~(np.isfinite(numbers) & (numbers == np.rint(numbers)) & (numbers >= 0))
    if wrong.any():
        raise DataError(
            "An index of a table of labels is no whole number.",
            expected="the number that the image has where the label is",
            found=repr(texts[wrong].iloc[0]),
            where=f"{path}, row {wrong.idxmax() + 1}",
            fix="correct the column index",
        )
    return numbers.astype(int)


def _check_unique(table: pd.DataFrame, path: Path) -> None:
    twice = table.loc[table["index"].duplicated(), "index"]
    nameless = table.loc[table["name"] == "", "index"]
    for rows, problem in ((twice, "is there twice"), (nameless, "has no name")):
        if len(rows):
            raise DataError(
                f"An index of a table of labels {problem}.",
                found=", ".join(map(str, dict.fromkeys(rows[:8]))),
                where=path,
                fix="give every label of the image one row and one name",
            )


def complete_labels(table: pd.DataFrame, mean_x: np.ndarray, path: Path) -> pd.DataFrame:
    """Return the table with a hemisphere in every row and names without it.

    The hemisphere is the one given, else the one in the name (``lh_``, ``Left-``, ``_R``, ...),
    else the side of the label's mean x; "B" within 3 mm of the midline.

    Parameters
    ----------
    table : DataFrame
        As `read_labels` returns it.
    mean_x : array, shape (n,), mm
        Of the voxels of each row.

    Raises
    ------
    DataError
        If most labels of a hemisphere lie on the other side than it says, or two labels of a
        hemisphere have the same name.
    """
    pairs = [_split_side(name) for name in table["name"]]
    by_place = np.select([mean_x < -3, mean_x > 3], ["L", "R"], "B")
    named = [given or side for given, (side, _) in zip(table["hemisphere"], pairs, strict=True)]
    _check_sides(np.array(named), by_place, table, path)
    table = table.assign(
        name=[name for _, name in pairs],
        hemisphere=[a or b for a, b in zip(named, by_place.tolist(), strict=True)],
    )
    twice = table[table.duplicated(["name", "hemisphere"])]
    if len(twice):
        raise DataError(
            "Two labels of an atlas have the same name.",
            found=", ".join((twice["hemisphere"] + " " + twice["name"])[:8]),
            where=path,
            fix="give every label of a hemisphere a name of its own",
        )
    return table


def _split_side(name: str) -> tuple[str, str]:
    """Return the hemisphere in a name, or "", and the name without it."""
    for pattern in (_PREFIX, _SUFFIX):
        if found := pattern.search(name):
            return _SIDES[found[1].lower()], name.replace(found[0], "", 1)
    found = _MIDDLE.search(name)
    return (_SIDES[found[1].lower()] if found else ""), name


def _check_sides(named: np.ndarray, by_place: np.ndarray, table: pd.DataFrame, path: Path) -> None:
    clear = np.isin(named, ["L", "R"]) & (by_place != "B")
    wrong = clear & (named != by_place)
    # Each side by itself: an image that lies in one corner has one of them right.
    sides = [clear & (named == side) for side in "LR"]
    if any((wrong & side).sum() > side.sum() / 2 for side in sides):
        raise DataError(
            "Left and right of an atlas are exchanged.",
            expected="labels of the left hemisphere at x < 0 mm",
            found=f"{wrong.sum()} of {clear.sum()} labels on the other side, such as "
            + table.loc[wrong, "name"].iloc[0],
            where=path,
            fix="correct the affine of the image, or the hemispheres in the table",
        )
