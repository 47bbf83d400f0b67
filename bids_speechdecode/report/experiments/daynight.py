"""Experiment ``day-night``: pretraining on the day, and on all hours."""

from __future__ import annotations

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from bids_speechdecode.report.experiments.shown import FigureOf, Shown, Tables
from bids_speechdecode.report.figures import CHANCE, GREY, ORANGE, PURPLE, SKY, STYLE, WIDTH

_ARMS = {"day": ORANGE, "as much of all hours": SKY, "all hours": PURPLE}
_TESTS = {
    "dayambient": "Ambient speech, day",
    "nightambient": "Ambient speech, night",
    "zeroshot": "Task, not finetuned",
    "task": "Task, finetuned",
}


def draw_day_night(tables: Tables) -> Figure:
    """Draw the rank of every model, a row for each thing that was tested."""
    table = tables[""]
    shown = [name for name in _TESTS if (table["tested"] == name).any()]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH * 0.8, 1.2 + 0.45 * len(shown)))
        axis = figure.subplots()
        axis.axvline(CHANCE, color=GREY, linewidth=0.8, linestyle=":")
        for offset, (arm, color) in zip((-0.2, 0, 0.2), _ARMS.items(), strict=True):
            own = table[table["trained_on"] == arm]
            places = np.array([shown.index(name) for name in own["tested"]]) + offset
            axis.plot(own["relative_rank"], places, "o", color=color, markerfacecolor="none")
            means = own.groupby("tested")["relative_rank"].mean()
            if len(means):
                at = [shown.index(name) + offset for name in means.index]
                axis.plot(means, at, "D", color=color, label=arm)
        axis.set_yticks(range(len(shown)), [_TESTS[name] for name in shown])
        axis.set_ylim(len(shown) - 0.5, -0.5)
        axis.set_xlabel("Mean relative rank (left: better)")
        figure.legend(loc="outside lower center", ncols=len(_ARMS), title="Pretrained on")
    return figure


DAY_NIGHT = Shown(
    "Day and night",
    {"tested": "Tested on", "trained_on": "Pretrained on", "seed": "Seed"},
    _TESTS,
    (
        FigureOf(
            "hours",
            "Rank and hours of the day",
            "Mean relative rank after pretraining on the day (06:00 to 23:00), on as many windows "
            "of all hours, and on all. Circles: models, one a seed; diamonds: mean over seeds; "
            "dotted: chance.",
            draw_day_night,
        ),
    ),
)
