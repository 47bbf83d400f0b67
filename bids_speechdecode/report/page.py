"""What both reports share: tables, pictures, numbers in words, and the page around them."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from matplotlib.figure import Figure

from bids_speechdecode import __version__
from bids_speechdecode.bids.derivatives import write_text
from bids_speechdecode.report.figures import MINUS, mark_simulated

DASH = "\N{EN DASH}"  # where there is no value


@dataclass(frozen=True)
class Table:
    """A table of a report: every cell is text, and the page escapes it."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Picture:
    """A figure inside the page, also kept as the file `path` (relative to the report)."""

    svg: Markup
    path: str
    title: str


@dataclass
class Missing:
    """What a report could not show, and the step that makes it."""

    items: dict[str, str] = field(default_factory=dict)

    def add(self, section: str, what: str, step: str) -> None:
        """Name a piece that is missing from `section`."""
        self.items[section] = f"No {what} found: run step {step!r}."


def make_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], numeric: Iterable[str] = ()
) -> Table:
    """Return a table; the columns named in `numeric` are set flush right."""
    return Table(tuple(columns), tuple(tuple(row) for row in rows), frozenset(numeric))


def number(value: Any, digits: int = 3) -> str:
    """Return a number with fixed decimals, or a dash where there is none."""
    if value is None or pd.isna(value):
        return DASH
    return f"{float(value):.{digits}f}".replace("-", MINUS)


def count(value: Any) -> str:
    """Return a count with thin spaces between thousands, or a dash where there is none."""
    return DASH if value is None or pd.isna(value) else f"{int(value):,}".replace(",", "\u202f")


def interval(low: Any, high: Any, digits: int = 3) -> str:
    """Return ``low to high``, or a dash where the interval is unknown."""
    if pd.isna(low) or pd.isna(high):
        return DASH
    return f"{number(low, digits)} to {number(high, digits)}"


def p_value(p: Any) -> str:
    """Return a p-value as journals print it."""
    if p is None or pd.isna(p):
        return DASH
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def p_phrase(p: Any) -> str:
    """Return ``p = 0.012`` or ``p < 0.001``, which no line end tears apart."""
    text = p_value(p)
    phrase = f"p {text}" if text.startswith("<") else f"p = {text}"
    return phrase.replace(" ", "\N{NO-BREAK SPACE}")


def clock(seconds: Any) -> str:
    """Return a duration in the unit in which it is easily read."""
    if seconds is None or pd.isna(seconds):
        return DASH
    if seconds >= 5400:
        return f"{seconds / 3600:.2f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 120 else f"{seconds:.1f} s"


# Words that pandas would take for booleans ("true" audio) or numbers (a task called 1).
def read_object(path: Path) -> dict[str, Any]:
    """Return a JSON object, empty where the file is absent."""
    if not path.is_file():
        return {}
    loaded = json.loads(path.read_text(encoding="utf-8"))
    return loaded if isinstance(loaded, dict) else {}


def entity(path: Path, name: str) -> str:
    """Return the value of a BIDS entity in a file name, or an empty string."""
    found = re.search(rf"(?:^|_){name}-([^_.]+)", path.name)
    return found.group(1) if found else ""


def is_simulated(root: Path) -> bool:
    """Return whether the derivative dataset says that its data are simulated."""
    name = str(read_object(root / "dataset_description.json").get("Name", ""))
    return "simulated" in name.lower()


def figure_svg(figure: Figure, name: str) -> str:
    """Return a figure as SVG whose bytes depend on the figure and its name only."""
    # Identifiers inside the SVG are hashes; the salt keeps those of two pictures apart.
    settings: Any = {"svg.hashsalt": name, "svg.fonttype": "none"}
    silent = dict.fromkeys(["Date", "Creator", "Format", "Type"])
    buffer = io.StringIO()
    with matplotlib.rc_context(settings):
        figure.savefig(buffer, format="svg", metadata=silent)
    return buffer.getvalue()


def add_picture(
    report: Path, folder: Path, stem: str, figure: Figure, title: str, simulated: bool
) -> Picture:
    """Save a figure as ``folder/stem.svg`` and return it for the page `report`."""
    path = folder / f"{stem}.svg"
    svg = figure_svg(mark_simulated(figure) if simulated else figure, stem)
    write_text(path, svg)
    # matplotlib escapes all text in its SVG, so the picture may enter the page as it is.
    inline = Markup(own_identifiers(svg[svg.index("<svg") :], stem))
    return Picture(inline, path.relative_to(report.parent).as_posix(), title)


def own_identifiers(svg: str, prefix: str) -> str:
    """Return `svg` with the identifiers that it refers to prefixed, and no others.

    Identifiers are shared by all pictures of a page, and matplotlib counts them from 1 in each.
    """
    used = set(re.findall(r'(?:url\(|xlink:href=")#([^")]+)', svg))

    def rename(match: re.Match[str]) -> str:
        return f'{match[1]} id="{prefix}-{match[2]}"' if match[2] in used else match[1]

    svg = re.sub(r'(<\w[^<>]*?) id="([^"<>]*)"', rename, svg)
    return re.sub(r'(url\(|xlink:href=")#', rf"\1#{prefix}-", svg)


def render(template: str, **values: Any) -> str:
    """Return a page made from a template of this package; all text is escaped."""
    environment = Environment(
        loader=PackageLoader("bids_speechdecode.report", "templates"),
        autoescape=select_autoescape(["html"], default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(version=__version__, **values)


def tolerate(table: pd.DataFrame, columns: Iterable[str]) -> pd.DataFrame:
    """Return `table` with every column of `columns`; those absent are NaN."""
    return table.reindex(columns=list(dict.fromkeys([*table.columns, *columns])))


def only_finite(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return the rows whose `column` is a finite number."""
    values = pd.to_numeric(table[column], errors="coerce")
    return table[np.isfinite(values)].reset_index(drop=True)
