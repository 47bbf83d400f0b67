"""All findings of an experiment as one figure: effects with their intervals, a row each."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bids_speechdecode.report.figures import (
    BLUE,
    GREY,
    MINUS,
    SKY,
    STYLE,
    VERMILION,
    WIDTH,
    plain,
)

_ROW = 0.36  # inches
_LABEL = 38  # characters of a row's name on one line
_LINE = 0.36  # of a row, between the lines of its name
_LABELS = {"relative rank": "Change of mean relative rank (left: better)"}


def draw_findings(table: pd.DataFrame, own: pd.DataFrame | None = None) -> Figure:
    """Draw every finding as a row, a panel for each unit.

    Parameters
    ----------
    table : DataFrame
        Columns name, effect, ci_low, ci_high, unit; of one participant, or over participants.
    own : DataFrame, optional
        The findings of every participant, where `table` is over them: drawn as points.
    """
    units = list(dict.fromkeys(table["unit"]))
    counts = [int((table["unit"] == unit).sum()) for unit in units]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.8 * len(units) + _ROW * len(table)))
        panels = figure.subplots(len(units), 1, height_ratios=counts, squeeze=False)[:, 0]
        for axis, unit in zip(panels, units, strict=True):
            _draw_rows(axis, table[table["unit"] == unit], own)
            axis.set_xlabel(_LABELS.get(unit, unit.capitalize()))
    return figure


def _draw_rows(axis: Axes, table: pd.DataFrame, own: pd.DataFrame | None) -> None:
    color = BLUE if own is None else VERMILION
    axis.axvline(0, color=GREY, linewidth=0.8, linestyle=":")
    for place, row in enumerate(table.to_dict("records")):
        if own is not None:
            effects = own.loc[own["name"] == row["name"], "effect"]
            axis.plot(effects, np.full(len(effects), place), "o", color=SKY, markersize=4)
        axis.plot([row["ci_low"], row["ci_high"]], [place, place], color=color)
        axis.plot(row["effect"], place, "D", color=color, markersize=5)
    _name_rows(axis, list(table["name"]))


def _name_rows(axis: Axes, names: Sequence[str]) -> None:
    """Give each row its name, on several lines where it is long."""
    # A tick a line: an SVG viewer with another font would not set the lines of one label flush.
    places: list[float] = []
    lines: list[str] = []
    for row, name in enumerate(names):
        parts = textwrap.wrap(plain(name), _LABEL)
        places += [row + _LINE * (k - (len(parts) - 1) / 2) for k in range(len(parts))]
        lines += parts
    axis.set_yticks(places, lines)
    axis.tick_params(axis="y", length=0)
    axis.set_ylim(len(names) - 0.4, -0.6)


def signed(value: float) -> str:
    """Return a change of rank with its sign.

    Examples
    --------
    >>> signed(0.0123)
    '+0.012'
    """
    text = f"{value:+.3f}"
    return text.replace("-", MINUS) if float(text) else "0.000"
