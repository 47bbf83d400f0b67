"""All findings of an experiment as one figure: effects with their intervals, a row each."""

from __future__ import annotations

import textwrap

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from bids_speechdecode.report.figures import BLUE, GREY, MINUS, SKY, STYLE, VERMILION, WIDTH

_ROW = 0.36  # inches
_LABEL = 38  # characters of a row's name on one line


def draw_findings(table: pd.DataFrame, own: pd.DataFrame | None = None) -> Figure:
    """Draw every finding as a row.

    Parameters
    ----------
    table : DataFrame
        Columns name, effect, ci_low, ci_high; of one participant, or over participants.
    own : DataFrame, optional
        The findings of every participant, where `table` is over them: drawn as points.
    """
    color = BLUE if own is None else VERMILION
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.8 + _ROW * len(table)))
        axis = figure.subplots()
        axis.axvline(0, color=GREY, linewidth=0.8, linestyle=":")
        for place, row in enumerate(table.to_dict("records")):
            if own is not None:
                effects = own.loc[own["name"] == row["name"], "effect"]
                axis.plot(effects, np.full(len(effects), place), "o", color=SKY, markersize=4)
            axis.plot([row["ci_low"], row["ci_high"]], [place, place], color=color)
            axis.plot(row["effect"], place, "D", color=color, markersize=5)
        names = [textwrap.fill(name, _LABEL) for name in table["name"]]
        axis.set_yticks(range(len(table)), names)
        axis.set_ylim(len(table) - 0.4, -0.6)
        axis.set_xlabel("Change of mean relative rank (left: better)")
    return figure


def signed(value: float) -> str:
    """Return a change of rank with its sign.

    Examples
    --------
    >>> signed(0.0123)
    '+0.012'
    """
    text = f"{value:+.3f}"
    return text.replace("-", MINUS) if float(text) else "0.000"
