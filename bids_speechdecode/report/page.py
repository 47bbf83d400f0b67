"""What both reports share: tables, pictures, numbers in words, and the page around them."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from bids_speechdecode import __version__
from bids_speechdecode.bids.files import write_text
from bids_speechdecode.bids.sidecars import damaged
from bids_speechdecode.report.figures import MINUS, WIDTH, mark_simulated

DASH = "\N{EN DASH}"  # where there is no value


WIDE = 9  # columns from which a table is set smaller
# Columns of names that may be torn apart at an underscore only.
NAME_COLUMNS = frozenset({"Recording", "Sound", "Region", "Most electrodes in"})


@dataclass(frozen=True)
class Table:
    """A table of a report: every cell is text, and the page escapes it.

    Attributes
    ----------
    columns : tuple of str
    rows : tuple of tuples of str
    numeric : frozenset of str
        Columns set flush right.
    shared : str
        What holds for every row, said once above them.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[str] = frozenset()
    shared: str = ""

    @property
    def wide(self) -> bool:
        """Whether it has so many columns that they are set smaller."""
        return len(self.columns) >= WIDE

    @property
    def name_columns(self) -> frozenset[str]:
        """The columns of names that may be torn apart at an underscore only."""
        return NAME_COLUMNS & set(self.columns)


@dataclass(frozen=True)
class Picture:
    """A figure inside the page, also kept as the file `path` (relative to the report).

    Attributes
    ----------
    svg : Markup
    path, title : str
    alternative : str
        What the picture shows, with its main numbers, for those who cannot see it.
    share : float
        Width of the figure as a share of a full one, so that no figure is blown up.
    """

    svg: Markup
    path: str
    title: str
    alternative: str
    share: float


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


def make_concluded_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    conclusions: Sequence[str],
    numeric: Iterable[str] = (),
) -> Table:
    """Return a table with a last column of conclusions; what all share is said once above it."""
    shared, own = share_sentences([readable(text) for text in conclusions])
    if not any(own):
        return replace(make_table(columns, rows, numeric), shared=shared)
    body = [(*row, text or DASH) for row, text in zip(rows, own, strict=True)]
    return replace(make_table([*columns, "Conclusion"], body, numeric), shared=shared)


def readable(text: str) -> str:
    """Return the text of a table on disk as a page prints it."""
    return text.replace("<=", "≤")


def share_sentences(texts: Sequence[str]) -> tuple[str, list[str]]:
    """Return the sentences with which several texts all begin, and what each says after them.

    Examples
    --------
    >>> share_sentences(["Too few. 2 of 2 better.", "Too few. 1 of 2 better."])
    ('Too few.', ['2 of 2 better.', '1 of 2 better.'])
    """
    parts = [sentences(text) for text in texts]
    n = 0
    while len(parts) > 1 and all(len(own) > n and own[n] == parts[0][n] for own in parts):
        n += 1
    return " ".join(parts[0][:n]) if parts else "", [" ".join(own[n:]) for own in parts]


def sentences(text: str) -> list[str]:
    """Return the sentences of a text; a full stop before a space ends one."""
    return [part for part in re.split(r"(?<=\.)\s+", text.strip()) if part]


def number(value: Any, digits: int = 3) -> str:
    """Return a number with fixed decimals, or a dash where there is none.

    Examples
    --------
    >>> number(0.12345), number(-0.00004, 4)
    ('0.123', '0.0000')
    """
    if value is None or pd.isna(value):
        return DASH
    return f"{round(float(value), digits) + 0.0:.{digits}f}".replace("-", MINUS)


def count(value: Any) -> str:
    """Return a count with thin spaces between thousands, or a dash where there is none."""
    return DASH if value is None or pd.isna(value) else f"{int(value):,}".replace(",", "\u202f")


def several(n: Any, what: str) -> str:
    """Return a count with its noun.

    Examples
    --------
    >>> several(1, "electrode"), several(2, "electrode")
    ('1 electrode', '2 electrodes')
    """
    return f"{count(n)} {what}{'' if n == 1 else 's'}"


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


def read_object(path: Path) -> dict[str, Any]:
    """Return a JSON object, empty where the file is absent; raise DataError where it is damaged."""
    if not path.is_file():
        return {}
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise damaged(path, str(error)) from error
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
        # Not savefig, which draws everything twice where the layout is computed.
        FigureCanvasSVG(figure).print_svg(buffer, metadata=silent)
    return buffer.getvalue()


def add_picture(
    report: Path,
    folder: Path,
    stem: str,
    figure: Figure,
    title: str,
    simulated: bool,
    alternative: str = "",
) -> Picture:
    """Save a figure as ``folder/stem.svg`` and return it for the page `report`."""
    share = figure.get_figwidth() / WIDTH
    path = folder / f"{stem}.svg"
    svg = figure_svg(mark_simulated(figure) if simulated else figure, stem)
    write_text(path, svg)
    # matplotlib escapes all text in its SVG, so the picture may enter the page as it is.
    inline = Markup(own_identifiers(svg[svg.index("<svg") :], stem))
    place = path.relative_to(report.parent).as_posix()
    return Picture(inline, place, title, " ".join([f"{title}.", alternative]).strip(), share)


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
