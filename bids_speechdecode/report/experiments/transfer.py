"""Experiment ``zero-shot``: ranks of other sound, and how far its targets are away."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bids_speechdecode.report.experiments.shown import FigureOf, Shown, Tables
from bids_speechdecode.report.figures import (
    BLACK,
    BLUE,
    CHANCE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    STYLE,
    VERMILION,
    WIDTH,
)

_SOURCES = {
    "ambient": ("Ambient speech", BLUE, "o"),
    "taskambient": ("Task, room", PURPLE, "^"),
    "tasktrue": ("Task, clean", VERMILION, "s"),
}
_PROPERTIES = {
    "level": "Level",
    "noise_floor": "Noise floor",
    "snr": "Signal to noise",
    "bandwidth": "Bandwidth",
    "decay_time": "Decay time",
    "all": "All together",
}
# Of two sources each: other colours and markers than those of the sources.
_PAIRS = ((GREEN, "D"), (BLACK, "v"), (SKY, "X"))


def draw_ranks(tables: Tables) -> Figure:
    """Draw the rank of every pretrained model, a row for each source."""
    table = tables[""]
    shown = _present(table["tested"])
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH * 0.6, 0.8 + 0.35 * len(shown)))
        axis = figure.subplots()
        axis.axvline(CHANCE, color=GREY, linewidth=0.8, linestyle=":")
        for place, name in enumerate(shown):
            own = table.loc[table["tested"] == name, "relative_rank"]
            _, color, marker = _SOURCES[name]
            axis.plot(own, np.full(len(own), place), marker, color=color, markerfacecolor="none")
            axis.plot(own.mean(), place, "D", color=color)
        _name_rows(axis, [_SOURCES[name][0] for name in shown])
        axis.set_xlabel("Mean relative rank (left: better)")
    return figure


def draw_map(tables: Tables) -> Figure | None:
    """Draw every window on two principal components (and UMAP), coloured by its source."""
    table = tables.get("Map", pd.DataFrame())
    if "pc2" not in table:
        return None
    maps = [name for name in ("pc", "umap") if f"{name}1" in table]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH * (0.6 if len(maps) == 1 else 1), 3.4))
        for axis, name in zip(figure.subplots(1, len(maps), squeeze=False)[0], maps, strict=True):
            _draw_points(axis, table, name)
            for k, set_label in ((1, axis.set_xlabel), (2, axis.set_ylabel)):
                share = f" ({100 * table[f'pc{k}_variance'].iloc[0]:.0f}% of the variance)"
                set_label(f"Component {k}{share}" if name == "pc" else f"UMAP {k}")
        figure.legend(
            *figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3
        )
    return figure


def _draw_points(axis: Axes, table: pd.DataFrame, name: str) -> None:
    # In one random order, so that no source lies on top of the others.
    order = np.random.default_rng(0).permutation(len(table))
    shown = _present(table["source"])
    colors = table["source"].map({source: _SOURCES[source][1] for source in shown})
    axis.scatter(
        table[f"{name}1"].iloc[order],
        table[f"{name}2"].iloc[order],
        c=colors.iloc[order],
        s=7,
        alpha=0.6,
        linewidths=0,
        rasterized=len(table) > 1000,
    )
    for source in shown:
        label, color, marker = _SOURCES[source]
        own = table[table["source"] == source]
        where = own[f"{name}1"].median(), own[f"{name}2"].median()
        axis.plot(
            *where,
            marker,
            color=color,
            markeredgecolor="white",
            markersize=8,
            label=label,
            linestyle="",
        )


def draw_shift(tables: Tables) -> Figure | None:
    """Draw area under the curve and Frechet distance of each two sources, beside halves of one."""
    table = tables.get("Shift", pd.DataFrame())
    if not len(table):
        return None
    rows = [_between(row) for row in table.to_dict("records")]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 1.3 + 0.4 * len(rows)))
        left, right = figure.subplots(1, 2, sharey=True)
        for axis, value, null in (
            (left, "auc", "halves_auc"),
            (right, "frechet", "halves_frechet"),
        ):
            places = np.arange(len(rows))
            limits = table[f"{value}_low"], table[f"{value}_high"]
            axis.hlines(places - 0.1, *limits, color=BLUE)
            axis.plot(table[value], places - 0.1, "D", color=BLUE, label="two sources")
            axis.plot(
                table[null],
                places + 0.15,
                "o",
                color=ORANGE,
                markerfacecolor="none",
                label="halves of one source",
            )
        left.hlines(
            np.arange(len(rows)) + 0.15,
            table["halves_auc_low"],
            table["halves_auc_high"],
            color=ORANGE,
        )
        left.axvline(CHANCE, color=GREY, linewidth=0.8, linestyle=":")
        right.axvline(0, color=GREY, linewidth=0.8, linestyle=":")
        _name_rows(left, rows)
        left.set_xlabel("Area under the curve, held out")
        right.set_xlabel("Fréchet distance\n(1: variance of ambient speech)")
        figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def draw_properties(tables: Tables) -> Figure:
    """Draw median and quartiles of every property of the sound, a panel each."""
    table = tables["Properties"]
    names = list(dict.fromkeys(table["property"]))
    shown = _present(table["source"])
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 1.1 + 0.2 * len(shown)))
        for axis, name in zip(figure.subplots(1, len(names), sharey=True), names, strict=True):
            own = table[table["property"] == name].set_index("source")
            for place, source in enumerate(shown):
                row, (_, color, marker) = own.loc[source], _SOURCES[source]
                axis.plot([row["q25"], row["q75"]], [place, place], color=color)
                axis.plot(row["median"], place, marker, color=color)
            axis.set_title(_PROPERTIES.get(name, name))
            axis.set_xlabel(own["unit"].iloc[0].replace(" of full scale", " FS"))
            axis.locator_params(axis="x", nbins=3)
        _name_rows(figure.axes[0], [_SOURCES[source][0] for source in shown])
    return figure


def draw_explained(tables: Tables) -> Figure | None:
    """Draw which share of each separation goes with each property."""
    table = tables.get("Explained", pd.DataFrame())
    if not len(table):
        return None
    names = list(dict.fromkeys(table["property"]))
    pairs = list(dict.fromkeys(_between(row) for row in table.to_dict("records")))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH * 0.8, 0.9 + 0.4 * len(names)))
        axis = figure.subplots()
        axis.axvline(0, color=GREY, linewidth=0.8, linestyle=":")
        for row in table.to_dict("records"):
            k = pairs.index(_between(row))
            color, marker = _PAIRS[k]
            place = names.index(row["property"]) + 0.22 * (k - (len(pairs) - 1) / 2)
            axis.plot([row["share_low"], row["share_high"]], [place, place], color=color)
            axis.plot(row["share"], place, marker, color=color)
            axis.plot(row["share_most"], place, "|", color=color, markersize=7)
        for k, between in enumerate(pairs):
            color, marker = _PAIRS[k]
            axis.plot([], [], marker, color=color, label=between.replace("\n", " "))
        _name_rows(axis, [_PROPERTIES.get(name, name) for name in names])
        axis.set_xlim(max(-1.0, axis.get_xlim()[0]), min(1.5, axis.get_xlim()[1]))
        axis.set_xlabel("Share of the separation that goes")
        figure.legend(loc="outside lower center", ncols=1)
    return figure


def _present(values: pd.Series) -> list[str]:
    return [name for name in _SOURCES if (values == name).any()]


def _between(row: Mapping[Hashable, Any]) -> str:
    return " and\n".join(_SOURCES[row[side]][0].lower() for side in ("first", "second"))


def _name_rows(axis: Axes, names: list[str]) -> None:
    axis.set_yticks(range(len(names)), [name[:1].upper() + name[1:] for name in names])
    axis.set_ylim(len(names) - 0.5, -0.5)


TRANSFER = Shown(
    "Without finetuning",
    {"tested": "Tested on", "seed": "Seed"},
    {name: label for name, (label, *_) in _SOURCES.items()},
    (
        FigureOf(
            "ranks",
            "Rank of other sound",
            "Mean relative rank of the pretrained model, not finetuned. Hollow: models, one a "
            "seed; diamonds: mean over seeds; dotted: chance. Room: the task as the room's "
            "microphone heard it; clean: the sound file that was played.",
            draw_ranks,
        ),
        FigureOf(
            "map",
            "Map of the targets",
            "Targets of equally many windows of each source on their principal components, scaled "
            "as the pretrained model sees them. Small: windows; large: median of a source.",
            draw_map,
        ),
        FigureOf(
            "shift",
            "Shift of the targets",
            "How well a classifier tells held-out windows of two sources apart (0.5: not at all), "
            "and their Fréchet distance less its bias, with intervals; below them halves of one "
            "source, divided by recording (mean over divisions; line: their range).",
            draw_shift,
        ),
        FigureOf(
            "sound",
            "How the sources sound",
            "Median and quartiles over windows.",
            draw_properties,
        ),
        FigureOf(
            "explained",
            "What of the shift is how it was recorded",
            "Share of what tells two sources apart that goes with a property, with its interval "
            "(markers: by how targets change with the property within a source; strokes: with all "
            "that differs along with it between the sources). 0: nothing goes; 1: all. The "
            "axis is cut off at -1 and 1.5.",
            draw_explained,
        ),
    ),
)
