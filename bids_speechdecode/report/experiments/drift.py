"""Experiment ``drift``: what tells the date, how models age, which channels change, what helps."""

from __future__ import annotations

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bids_speechdecode.report.experiments.shown import FigureOf, Shown, Tables
from bids_speechdecode.report.figures import (
    BLUE,
    CHANCE,
    GREY,
    ORANGE,
    STYLE,
    VERMILION,
    WIDTH,
    plain,
)

_SOURCES = {
    "brain": ("Brain embeddings", VERMILION, "o"),
    "audio": ("Audio embeddings", BLUE, "s"),
    "signal": ("Mean and variance of the signal", GREY, "^"),
}
_TOLD = {
    ("date", "recordings"): "Date,\nheld-out recordings",
    ("date", "days"): "Date,\nheld-out days",
    ("hour", "recordings"): "Hour,\nheld-out recordings",
}
_FEATURES = {"amplitude": ("Amplitude", VERMILION), "slope": ("Spectral slope", BLUE)}
_MOST_NAMES = 40  # channels whose names can be read below a panel
_REMEDIES = {
    "none": "no remedy",
    "whole": "the run's own",
    "days": "one day",
    "remedies": "remedies",
}


def draw_dates(tables: Tables) -> Figure | None:
    """Draw how well date and hour are told, and the predicted against the true day."""
    if "Dates" not in tables or not len(tables["Dates"]):
        return None
    dates, predicted = tables["Dates"], tables["Predicted"]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.9))
        left, right = figure.subplots(1, 2, width_ratios=[1.3, 1])
        _draw_scores(left, dates)
        _draw_predicted(right, predicted)
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _draw_scores(axis: Axes, dates: pd.DataFrame) -> None:
    pairs = list(zip(dates["told"], dates["held_out"], strict=True))
    kinds = [kind for kind in _TOLD if kind in pairs]
    axis.axhline(0, color=GREY, linewidth=0.8, linestyle=":")
    for offset, (source, (label, color, marker)) in zip(
        (-0.2, 0.0, 0.2), _SOURCES.items(), strict=True
    ):
        for place, (told, held_out) in enumerate(kinds):
            own = dates[
                (dates["source"] == source)
                & (dates["told"] == told)
                & (dates["held_out"] == held_out)
            ]
            for row in own.to_dict("records"):
                x = place + offset
                axis.plot([x, x], [row["ci_low"], row["ci_high"]], color=color)
                axis.plot(x, row["null"], "_", color=GREY, markersize=9)
                axis.plot(x, row["r"], marker, color=color, label=None if place else label)
    axis.set_xticks(range(len(kinds)), [_TOLD[kind] for kind in kinds])
    axis.set_xlim(-0.5, len(kinds) - 0.5)
    axis.set_ylabel("Correlation of told and true")
    axis.set_title("What tells the time")


def _draw_predicted(axis: Axes, predicted: pd.DataFrame) -> None:
    ends = predicted["day"].min() + 1, predicted["day"].max() + 1
    axis.plot(ends, ends, color=GREY, linewidth=0.8, linestyle=":")
    for source, (_, color, marker) in _SOURCES.items():
        if f"{source}_day" in predicted and source != "signal":
            told = predicted[f"{source}_day"] + 1
            axis.plot(
                predicted["day"] + 1,
                told,
                marker,
                color=color,
                markerfacecolor="none",
                markersize=4,
            )
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("Day of the recording")
    axis.set_ylabel("Day that was told")
    axis.set_title("Held-out recordings")


def draw_matrix(tables: Tables) -> Figure | None:
    """Draw rank for each pair of training and test day, and against the days between them."""
    if "Matrix" not in tables or not len(tables["Matrix"]):
        return None
    matrix = tables["Matrix"]
    cells = matrix.pivot_table(index="train_day", columns="test_day", values="relative_rank")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.0))
        left, right = figure.subplots(1, 2)
        reach = max(0.01, float(np.nanmax(np.abs(cells.to_numpy() - CHANCE))))
        limits = {"vmin": CHANCE - reach, "vmax": CHANCE + reach}
        image = left.imshow(cells, cmap="RdBu_r", aspect="auto", **limits)
        _write_cells(left, cells, reach)
        bar = figure.colorbar(image, ax=left, shrink=0.8)
        bar.set_label("Mean relative rank")
        _draw_apart(right, matrix)
    return figure


def _write_cells(axis: Axes, cells: pd.DataFrame, reach: float) -> None:
    axis.set_xticks(range(len(cells.columns)), [str(day + 1) for day in cells.columns.astype(int)])
    axis.set_yticks(range(len(cells.index)), [str(day + 1) for day in cells.index.astype(int)])
    axis.set_xlabel("Day of the test")
    axis.set_ylabel("Day of training")
    axis.set_title("A model a day")
    for (row, column), rank in np.ndenumerate(cells.to_numpy()):
        if np.isfinite(rank):
            color = "white" if abs(rank - CHANCE) > 0.6 * reach else "black"
            axis.text(column, row, f"{rank:.2f}", ha="center", va="center", color=color, size=7)


def _draw_apart(axis: Axes, matrix: pd.DataFrame) -> None:
    axis.axhline(CHANCE, color=GREY, linewidth=0.8, linestyle=":")
    axis.plot(
        matrix["days_apart"],
        matrix["relative_rank"],
        "o",
        color=BLUE,
        markerfacecolor="none",
        markersize=4,
    )
    means = matrix.groupby("days_apart")["relative_rank"].mean()
    axis.plot(means.index, means, "D-", color=VERMILION)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("Days between training and test")
    axis.set_ylabel("Mean relative rank")
    axis.set_title("Rank and days apart")


def draw_remedies(tables: Tables) -> Figure | None:
    """Draw the rank of every model of every remedy."""
    table = tables[""]
    table = table[table["part"] == "remedies"]
    if not len(table):
        return None
    # A recalibrated model a day: one point is the mean over its days.
    weighted = table.assign(total=table["relative_rank"] * table["n_test_windows"])
    sums = weighted.groupby(["arm", "seed"], sort=False)[["total", "n_test_windows"]].sum()
    ranks = (sums["total"] / sums["n_test_windows"]).rename("rank").reset_index()
    arms = list(dict.fromkeys(ranks["arm"]))
    places = ranks["arm"].map(arms.index)
    means = ranks.groupby("arm")["rank"].mean()
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.9 + 0.32 * len(arms)))
        axis = figure.subplots()
        axis.axvline(CHANCE, color=GREY, linewidth=0.8, linestyle=":")
        axis.axvline(means["none"], color=ORANGE, linewidth=1.0, linestyle="--")
        axis.plot(ranks["rank"], places, "o", color=BLUE, markerfacecolor="none")
        axis.plot(means, [arms.index(arm) for arm in means.index], "D", color=VERMILION)
        axis.set_yticks(range(len(arms)), [arm.capitalize() for arm in arms])
        axis.set_ylim(len(arms) - 0.4, -0.6)
        axis.set_xlabel("Mean relative rank on days after training (left: better)")
    return figure


def draw_electrodes(tables: Tables) -> Figure | None:
    """Draw for every channel which share of its variance lies between days."""
    if "Electrodes" not in tables or not len(tables["Electrodes"]):
        return None
    table = tables["Electrodes"]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.6))
        panels = figure.subplots(len(_FEATURES), 1, sharex=True)
        x = np.arange(len(table))
        for axis, (name, (label, color)) in zip(panels, _FEATURES.items(), strict=True):
            found = table[f"{name}_q"].to_numpy(float) <= 0.05
            share = 100 * table[f"{name}_share"].to_numpy(float)
            axis.plot(x, 100 * table[f"{name}_expected"].to_numpy(float), color=GREY)
            axis.plot(x, share, "o", color=color, markerfacecolor="none", markersize=4)
            axis.plot(x[found], share[found], "o", color=color, markersize=4)
            axis.set_ylim(bottom=0)
            axis.set_ylabel("Between days, %")
            axis.set_title(label)
        names = [plain(name) for name in table["name"]]
        step = -(-len(names) // _MOST_NAMES)
        panels[-1].set_xticks(x[::step], names[::step], rotation=90, fontsize=6)
        panels[-1].set_xlabel("Channel")
    return figure


DRIFT = Shown(
    "Changes over days",
    {
        "part": "Part",
        "arm": "Remedy",
        "train_day": "Training day (from 0)",
        "test_day": "Test day (from 0)",
        "seed": "Seed",
    },
    _REMEDIES,
    (
        FigureOf(
            "dates",
            "What tells the time",
            "Left: correlation of the time told by ridge regression from windows of held-out "
            "recordings or days with the true one, with intervals; grey bars: mean where the times "
            "are given to recordings at random. Right: the day told for each held-out recording "
            "(mean over its windows); dotted: the truth.",
            draw_dates,
        ),
        FigureOf(
            "matrix",
            "Rank by day of training and of test",
            "Models trained on one day each, with about equally many windows, mean over seeds. "
            "Left: mean relative rank on the held-out recordings of each day. Right: the same "
            "against the days between; diamonds: mean.",
            draw_matrix,
        ),
        FigureOf(
            "remedies",
            "Remedies",
            "Mean relative rank on days after those of training, all on the same windows. "
            "Circles: models, one a seed; diamonds: mean; dashed: without remedy.",
            draw_remedies,
        ),
        FigureOf(
            "electrodes",
            "Channels that change between days",
            "Share of each channel's variance over windows that lies between days; grey line: "
            "mean where recordings belong to days at random. Filled: more than that (q ≤ 0.05 "
            "over channels).",
            draw_electrodes,
        ),
    ),
)
