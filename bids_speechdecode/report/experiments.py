"""What a participant's experiments found: a paragraph, a figure and the models of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from bids_speechdecode.bids.sidecars import read_sidecar, read_table
from bids_speechdecode.report.figures import (
    BLUE,
    CHANCE,
    GREY,
    MINUS,
    PURPLE,
    SKY,
    STYLE,
    VERMILION,
    WIDTH,
)
from bids_speechdecode.report.page import (
    Picture,
    Table,
    add_picture,
    count,
    interval,
    make_table,
    number,
    p_value,
)

TITLES = {
    "scaling": "More recordings",
    "finetunesize": "More of the task",
}
_CAPTIONS = {
    "scaling": "Mean relative rank against hours of ambient recordings in pretraining. Points: "
    "models, several seeds each; line: fit to the logarithm of the hours; dashed: without "
    "pretraining.",
    "finetunesize": "Mean relative rank against the task's training data, with pretraining and "
    "without. Points: models, several seeds each; lines: fits to the logarithm.",
}
_PANELS = {
    "ambient": ("Held-out ambient speech", BLUE),
    "zeroshot": ("Task, not finetuned", PURPLE),
    "task": ("Task, finetuned", VERMILION),
}
_ARMS = {"true": ("with pretraining", VERMILION), "false": ("without pretraining", SKY)}


@dataclass(frozen=True)
class ExperimentPage:
    """What a report shows of one experiment.

    Attributes
    ----------
    name, title, caption : str
    text : tuple of str
        What was found, a sentence each.
    picture : Picture
    table : Table
        One row a model and what it was tested on.
    """

    name: str
    title: str
    caption: str
    text: tuple[str, ...]
    picture: Picture
    table: Table


def experiment_pages(
    report: Path, folder: Path, name: str, simulated: bool
) -> list[ExperimentPage]:
    """Return what a participant's report shows of experiments, in their order.

    Parameters
    ----------
    report : path
        The report that is written.
    folder : path
        With the participant's tables.
    name : str
        ``sub-XX``.
    simulated : bool
        Whether the figures say that the data are simulated.
    """
    pages = []
    for experiment, title in TITLES.items():
        for path in sorted(folder.glob(f"*_desc-{experiment}_scores.tsv")):
            table = read_table(path)
            figure = _DRAWN[experiment](table)
            picture = add_picture(
                report,
                report.parent / name / "figures",
                f"{name}_desc-{experiment}",
                figure,
                title,
                simulated,
                _describe(table),
            )
            text = tuple(read_sidecar(path).get("Text", ()))
            caption = _CAPTIONS[experiment]
            pages.append(
                ExperimentPage(experiment, title, caption, text, picture, _as_table(table))
            )
    return pages


def group_experiment_pages(root: Path, report: Path, simulated: bool) -> list[ExperimentPage]:
    """Return what the group's report shows of experiments: every finding over participants.

    Parameters
    ----------
    root : path
        The derivative dataset.
    report : path
        The report that is written.
    simulated : bool
        Whether the figures say that the data are simulated.
    """
    pages = []
    for experiment, title in TITLES.items():
        for path in sorted(root.glob(f"group_task-*_desc-{experiment}Findings_scores.tsv")):
            table = read_table(path)
            own = _own_effects(root, read_sidecar(path).get("Participants", ()), path)
            figure = draw_findings(table, own)
            name = f"group_desc-{experiment}"
            words = f"{len(table)} findings in {own['participant'].nunique()} participants."
            folder = report.parent / "figures"
            picture = add_picture(report, folder, name, figure, title, simulated, words)
            text = tuple(
                f"{row['name'].capitalize()}: {signed(row['effect'])}. {row['conclusion']}"
                for row in table.to_dict("records")
            )
            pages.append(
                ExperimentPage(
                    experiment, title, _GROUP_CAPTION, text, picture, _group_table(table)
                )
            )
    return pages


_GROUP_CAPTION = (
    "Effects in mean relative rank; left of 0 is better. Points: participants; diamonds: mean over "
    "participants with its interval (none below three participants)."
)


def _own_effects(root: Path, participants: Sequence[str], path: Path) -> pd.DataFrame:
    """Return the findings of every participant whose table is there."""
    name = path.name.removeprefix("group_")
    files = {who: root / who / "ieeg" / f"{who}_{name}" for who in participants}
    tables = [read_table(f).assign(participant=w) for w, f in files.items() if f.is_file()]
    columns = ["participant", "name", "effect"]
    return pd.concat(tables) if tables else pd.DataFrame(columns=columns)


def signed(value: float) -> str:
    """Return a change of rank with its sign.

    Examples
    --------
    >>> signed(0.0123)
    '+0.012'
    """
    text = f"{value:+.3f}"
    return text.replace("-", MINUS) if float(text) else "0.000"


def _group_table(table: pd.DataFrame) -> Table:
    columns = ["Finding", "Participants", "Effect", "CI", "p", "Better on their own"]
    rows = [
        (
            str(row["name"]),
            count(row["n_participants"]),
            signed(row["effect"]),
            interval(row["ci_low"], row["ci_high"]),
            p_value(row["p"]),
            count(row["n_better"]),
        )
        for row in table.to_dict("records")
    ]
    return make_table(columns, rows, columns[1:])


def _describe(table: pd.DataFrame) -> str:
    ranks = table["relative_rank"]
    return (
        f"{len(table)} models with mean relative ranks from {number(ranks.min())} to "
        f"{number(ranks.max())}; chance is 0.500."
    )


def _as_table(table: pd.DataFrame) -> Table:
    arm = "tested" if "tested" in table else "pretrained"
    columns = ["Model", "Hours", "Seed", "Training windows", "Test windows", "Rank", "CI", "p"]
    rows = [
        (
            (_PANELS if arm == "tested" else _ARMS)[str(row[arm]).lower()][0],
            f"{row['hours']:.3g}",
            f"{row['seed']:g}",
            count(row["n_train_windows"]),
            count(row["n_test_windows"]),
            number(row["relative_rank"]),
            interval(row["ci_low"], row["ci_high"]),
            number(row["p_shift"]),
        )
        for row in table.to_dict("records")
    ]
    return make_table(columns, rows, columns[1:])


# -------------------------------------------------------------------------------- pictures


def draw_scaling(table: pd.DataFrame) -> Figure:
    """Draw rank against hours of pretraining, a panel for each thing that was tested."""
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
            _finish(axis, title, "Hours of pretraining")
        axes[0].set_ylabel("Mean relative rank")
    return figure


def draw_finetune_size(table: pd.DataFrame) -> Figure:
    """Draw rank against minutes of the task, with pretraining and without."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH * 0.6, 2.8))
        axis = figure.subplots()
        arms = table["pretrained"].astype(str).str.lower()
        minutes = table.assign(hours=60 * table["hours"])
        for arm, (label, color) in _ARMS.items():
            if (arms == arm).any():
                _points(axis, minutes[arms == arm], color, label)
        _finish(axis, "", "Minutes of the task in training")
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


def _finish(axis: Axes, title: str, label: str) -> None:
    axis.axhline(CHANCE, color=GREY, linewidth=0.8, linestyle=":")
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_title(title)
    axis.set_xlabel(label)


def draw_findings(table: pd.DataFrame, own: pd.DataFrame) -> Figure:
    """Draw every finding as a row: participants, their mean and its interval."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.9 + 0.35 * len(table)))
        axis = figure.subplots()
        axis.axvline(0, color=GREY, linewidth=0.8, linestyle=":")
        for place, row in enumerate(table.to_dict("records")):
            effects = own.loc[own["name"] == row["name"], "effect"]
            axis.plot(effects, np.full(len(effects), place), "o", color=SKY, markersize=4)
            axis.plot([row["ci_low"], row["ci_high"]], [place, place], color=VERMILION)
            axis.plot(row["effect"], place, "D", color=VERMILION, markersize=5)
        axis.set_yticks(range(len(table)), table["name"])
        axis.invert_yaxis()
        axis.set_xlabel("Change of mean relative rank")
    return figure


_DRAWN: Mapping[str, Callable[[pd.DataFrame], Figure]] = {
    "scaling": draw_scaling,
    "finetunesize": draw_finetune_size,
}
