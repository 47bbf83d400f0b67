"""Experiment ``controls``: the rank of every control beside chance and the model's own."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bids_speechdecode.report.experiments.shown import FigureOf, Shown, Tables
from bids_speechdecode.report.figures import (
    BLUE,
    CHANCE,
    GREEN,
    GREY,
    SKY,
    STYLE,
    VERMILION,
    WIDTH,
)

_ROW = 0.24  # inches
# Name of the finding, label of its row, colour and marker of the model; None leaves a gap.
_ROWS = (
    ("the model", "Model", VERMILION, "D"),
    None,
    ("shuffled pairing", "Shuffled pairing", GREY, "s"),
    ("time-shifted pairing", "Time-shifted pairing", GREY, "s"),
    ("random encoder", "Random encoder, trained head", GREEN, "^"),
    ("loudness alone", "Loudness alone", SKY, "o"),
    None,
    ("same level", "Same level: model", VERMILION, "D"),
    ("same level, loudness alone", "Same level: loudness alone", SKY, "o"),
    ("same course of loudness", "Same course of loudness: model", VERMILION, "D"),
    (
        "same course of loudness, loudness alone",
        "Same course of loudness: loudness alone",
        SKY,
        "o",
    ),
    ("without loudness", "Loudness taken out: model", VERMILION, "D"),
    ("same voice", "Same voice: model", VERMILION, "D"),
    None,
    ("windows with speech of the task", "Task, somebody speaks: model", VERMILION, "D"),
    ("silent windows of the task", "Task, nobody speaks: model", VERMILION, "D"),
    (
        "windows with speech of ambient recordings",
        "Ambient, somebody speaks: pretrained",
        BLUE,
        "X",
    ),
    ("silent windows of ambient recordings", "Ambient, nobody speaks: pretrained", BLUE, "X"),
)
_TOO_FEW = "too few windows"


def draw_controls(tables: Tables) -> Figure | None:
    """Draw the mean relative rank of every control with its interval, the model on top."""
    findings = tables.get("Findings")
    if findings is None or findings.empty:
        return None
    by_name = {str(row["name"]): row for row in findings.to_dict("records")}
    ticks: list[tuple[int, str]] = []
    shown = [row for row in _ROWS if row is None or row[0] in by_name]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.7 + _ROW * len(shown)))
        axis = figure.subplots()
        axis.axvline(CHANCE, color=GREY, linewidth=0.8, linestyle=":")
        for place, row in enumerate(shown):
            if row is not None:
                name, label, color, marker = row
                _draw_row(axis, by_name[name], place, color, marker)
                ticks.append((place, label))
        axis.set_yticks([place for place, _ in ticks], [label for _, label in ticks])
        axis.set_ylim(len(shown) - 0.4, -0.6)
        axis.set_xlabel("Mean relative rank (0 best, 0.5 chance)")
    return figure


def _draw_row(
    axis: Axes, finding: Mapping[Hashable, Any], place: int, color: str, marker: str
) -> None:
    rank = CHANCE + finding["effect"]
    if pd.isna(rank):
        axis.text(CHANCE, place, f"{_TOO_FEW} ", ha="right", va="center", color=GREY, fontsize=8)
        return
    ends = [CHANCE + finding["ci_low"], CHANCE + finding["ci_high"]]
    axis.plot(ends, [place, place], color=color)
    axis.plot(rank, place, marker, color=color, markersize=5)


CONTROLS = Shown(
    "Controls",
    {"model": "Model", "tested": "Tested on", "among": "Candidates", "seed": "Seed"},
    {
        "own": "the model",
        "pretrained": "pretrained",
        "shuffled": "shuffled pairing",
        "shifted": "time-shifted pairing",
        "random": "random encoder",
        "energy": "loudness alone",
        "task": "task",
        "ambient": "ambient recordings",
        "all": "all",
        "silent": "windows in which nobody speaks",
        "spoken": "windows in which somebody speaks",
        "level": "same level",
        "loudness": "same course of loudness",
        "unexplained": "all, loudness taken out",
        "voice": "same voice",
    },
    (
        FigureOf(
            "ranks",
            "Rank of every control",
            "Mean relative rank over held-out windows with its interval, means over seeds. Dotted: "
            "chance. Same level, course of loudness and voice: each window is ranked among "
            "candidates that are alike in that; what loudness alone ranks among them says how well "
            "they are matched.",
            draw_controls,
        ),
    ),
)
