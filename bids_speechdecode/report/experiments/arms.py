"""Experiments ``targets`` and ``encoders``: arms that differ in one thing."""

from __future__ import annotations

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bids_speechdecode.report.experiments.shown import FigureOf, Shown, Tables
from bids_speechdecode.report.figures import CHANCE, GREY, SKY, STYLE, VERMILION, WIDTH

_WORDS = {"true": "with pretraining", "false": "without pretraining"}
_COLUMNS = {"arm": "Arm", "pretrained": "Model", "seed": "Seed"}


def draw_arms(tables: Tables) -> Figure:
    """Draw the rank of every model, an arm a row, with pretraining and without."""
    table = tables[""]
    arms = list(dict.fromkeys(table["arm"]))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 1.2 + 0.4 * len(arms)))
        axis = figure.subplots()
        axis.axvline(CHANCE, color=GREY, linewidth=0.8, linestyle=":")
        pretrained = table["pretrained"].astype(str).str.lower()
        for word, color, offset in (("false", SKY, 0.12), ("true", VERMILION, -0.12)):
            own = table[pretrained == word]
            places = np.array([arms.index(arm) for arm in own["arm"]]) + offset
            axis.plot(own["relative_rank"], places, "o", color=color, markerfacecolor="none")
            _means(axis, own, arms, color, offset, _WORDS[word])
        axis.set_yticks(range(len(arms)), arms)
        axis.set_ylim(len(arms) - 0.4, -0.6)
        axis.set_xlabel("Mean relative rank (left: better)")
        figure.legend(loc="outside lower center", ncols=2)
    return figure


def _means(
    axis: Axes,
    table: pd.DataFrame,
    arms: list[str],
    color: str,
    offset: float,
    label: str,
) -> None:
    means = table.groupby("arm")["relative_rank"].mean()
    if len(means):
        places = [arms.index(arm) + offset for arm in means.index]
        axis.plot(means, places, "D", color=color, label=label)


_FIGURE = FigureOf(
    "arms",
    "Rank of every arm",
    "Mean relative rank on the task's held-out windows. Circles: models, one a seed; diamonds: "
    "mean over seeds; dotted: chance.",
    draw_arms,
)
TARGETS = Shown("Targets", _COLUMNS, _WORDS, (_FIGURE,))
ENCODERS = Shown("Encoders, losses and bands", _COLUMNS, _WORDS, (_FIGURE,))
