"""Experiments ``scaling`` and ``finetune-size``: rank against the amount of data."""

from __future__ import annotations

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from bids_speechdecode.report.experiments.shown import FigureOf, Shown, Tables
from bids_speechdecode.report.figures import (
    BLUE,
    CHANCE,
    GREY,
    PURPLE,
    SKY,
    STYLE,
    VERMILION,
    WIDTH,
)

_PANELS = {
    "ambient": ("Held-out ambient speech", BLUE),
    "zeroshot": ("Task, not finetuned", PURPLE),
    "task": ("Task, finetuned", VERMILION),
}
_ARMS = {"true": ("with pretraining", VERMILION), "false": ("without pretraining", SKY)}
_AMOUNT = {"share": "Share", "hours": "Hours", "seed": "Seed"}


def draw_scaling(tables: Tables) -> Figure:
    """Draw rank against hours of pretraining, a panel for each thing that was tested."""
    table = tables[""]
    shown = [tested for tested in _PANELS if (table["tested"] == tested).any()]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.6))
        axes = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
        for axis, tested in zip(axes, shown, strict=True):
            own = table[table["tested"] == tested]
            title, color = _PANELS[tested]
            _points(axis, own[own["hours"] > 0], color)
            without = own.loc[own["hours"] == 0, "relative_rank"]
            if len(without):
                axis.axhline(without.mean(), color=SKY, linestyle="--", zorder=1)
            _finish(axis, own[own["hours"] > 0], title, "Hours of pretraining")
        axes[0].set_ylabel("Mean relative rank")
    return figure


def draw_finetune_size(tables: Tables) -> Figure:
    """Draw rank against minutes of the task, with pretraining and without."""
    table = tables[""]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH * 0.6, 2.8))
        axis = figure.subplots()
        arms = table["pretrained"].astype(str).str.lower()
        minutes = table.assign(hours=60 * table["hours"])
        for arm, (label, color) in _ARMS.items():
            if (arms == arm).any():
                _points(axis, minutes[arms == arm], color, label)
        _finish(axis, minutes, "", "Minutes of the task in training")
        axis.set_ylabel("Mean relative rank")
        axis.legend()
    return figure


def _points(axis: Axes, table: pd.DataFrame, color: str, label: str = "") -> None:
    x, y = np.log2(table["hours"].to_numpy(float)), table["relative_rank"].to_numpy(float)
    axis.plot(2**x, y, "o", color=color, markersize=4, markerfacecolor="none", zorder=3)
    if len(np.unique(x)) > 1:
        slope, level = np.polyfit(x, y, 1)
        ends = np.array([x.min(), x.max()])
        axis.plot(2**ends, level + slope * ends, color=color, label=label or None, zorder=2)


def _finish(axis: Axes, table: pd.DataFrame, title: str, label: str) -> None:
    """Name the panel; a tick at each amount, since a decade of hours may hold all of them."""
    axis.axhline(CHANCE, color=GREY, linewidth=0.8, linestyle=":")
    axis.set_xscale("log")
    amounts = table.groupby("share")["hours"].mean()
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xticks(amounts, [f"{amount:.2g}" for amount in amounts])
    axis.set_title(title)
    axis.set_xlabel(label)


SCALING = Shown(
    "More recordings",
    {"tested": "Tested on", **_AMOUNT},
    {name: label for name, (label, _) in _PANELS.items()},
    (
        FigureOf(
            "amounts",
            "Rank and recording time",
            "Mean relative rank against hours of ambient recordings in pretraining. Points: "
            "models, several seeds each; line: fit to the logarithm of the hours; dashed: without "
            "pretraining.",
            draw_scaling,
        ),
    ),
)
FINETUNE_SIZE = Shown(
    "More of the task",
    {"pretrained": "Model", **_AMOUNT},
    {name: label for name, (label, _) in _ARMS.items()},
    (
        FigureOf(
            "amounts",
            "Rank and minutes of the task",
            "Mean relative rank against the task's training data, with pretraining and without. "
            "Points: models, several seeds each; lines: fits to the logarithm.",
            draw_finetune_size,
        ),
    ),
)
