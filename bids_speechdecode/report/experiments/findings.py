"""All findings of an experiment as one figure: effects with their intervals, a row each."""

from __future__ import annotations

import textwrap

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bids_speechdecode.report.figures import BLUE, GREY, MINUS, SKY, STYLE, VERMILION, WIDTH

_ROW = 0.36  # inches
_LABEL = 38  # characters of a row's name on one line
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
    axis.set_yticks(range(len(table)), [textwrap.fill(name, _LABEL) for name in table["name"]])
    for label in axis.get_yticklabels():
        label.set_multialignment("right")
    axis.set_ylim(len(table) - 0.4, -0.6)


def signed(value: float) -> str:
    """Return a change of rank with its sign.

    Examples
    --------
    >>> signed(0.0123)
    '+0.012'
    """
    text = f"{value:+.3f}"
    return text.replace("-", MINUS) if float(text) else "0.000"
