"""Experiment ``pooled``: rank after starts from other participants' encoder and from others."""

from __future__ import annotations

import matplotlib
import numpy as np
from matplotlib.figure import Figure

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

_ARMS = {
    "none": ("none", SKY),
    "others": ("other participants", PURPLE),
    "own": ("own recordings", VERMILION),
    "both": ("other participants,\nthen own recordings", BLUE),
}


def draw_pooled(tables: Tables) -> Figure:
    """Draw the rank of every model, a row for what it was pretrained on."""
    table = tables[""]
    shown = [arm for arm in _ARMS if (table["pretraining"] == arm).any()]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH * 0.8, 0.9 + 0.4 * len(shown)))
        axis = figure.subplots()
        axis.axvline(CHANCE, color=GREY, linewidth=0.8, linestyle=":")
        for place, arm in enumerate(shown):
            ranks = table.loc[table["pretraining"] == arm, "relative_rank"].to_numpy(float)
            color = _ARMS[arm][1]
            places = np.full(len(ranks), float(place))
            axis.plot(ranks, places, "o", color=color, markerfacecolor="none")
            axis.plot(ranks.mean(), place, "D", color=color)
        axis.set_yticks(range(len(shown)), [_ARMS[arm][0] for arm in shown])
        axis.set_ylim(len(shown) - 0.4, -0.6)
        axis.set_ylabel("Pretraining")
        axis.set_xlabel("Mean relative rank (left: better)")
    return figure


POOLED = Shown(
    "Pretraining on other participants",
    {"pretraining": "Pretraining", "seed": "Seed"},
    {arm: label.replace("\n", " ") for arm, (label, _) in _ARMS.items()},
    (
        FigureOf(
            "arms",
            "Rank after each pretraining",
            "Mean relative rank on the task's held-out windows, after finetuning on the same "
            "training windows. Circles: models, one a seed; diamonds: mean over seeds; dotted: "
            "chance. The encoder of other participants has seen nothing of this one.",
            draw_pooled,
        ),
    ),
)
