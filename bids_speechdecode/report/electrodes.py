"""The electrodes of a participant's report: where they are, which were kept, what they carry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from bids_speechdecode.report import alternatives, brain, charts
from bids_speechdecode.report.agreement import agreement, measures
from bids_speechdecode.report.electrode_tables import (
    POSITION,
    Described,
    contribution_tables,
    selection_tables,
)
from bids_speechdecode.report.figures import condition_label
from bids_speechdecode.report.page import Picture, Table, add_picture, count, number
from bids_speechdecode.report.view3d import contact_view

TEMPLATE = "MNI152"  # the space that has a brain to draw on
TITLES = {
    "selection": "Channels kept and dropped",
    "contributions": "Contribution of each electrode",
    "agreement": "Contributions beside two other measures",
    "regions": "Contribution by region",
    "shafts": "Contribution along each shaft",
}
Drawn = Iterator[tuple[str, Figure, str]]


@dataclass(frozen=True)
class ElectrodePage:
    """What the report shows of one task.

    Attributes
    ----------
    task : str
    pictures : mapping of str to Picture
    tables : mapping of str to Table
    view : Markup or None
    notes : tuple of str
        What limits the numbers.
    about : str
        Which model the contributions are about.
    not_drawn : mapping of str to str
        What a picture had no room for, in a sentence.
    """

    task: str
    pictures: Mapping[str, Picture]
    tables: Mapping[str, Table]
    view: Markup | None
    notes: tuple[str, ...]
    about: str
    not_drawn: Mapping[str, str]


def electrode_pages(
    report: Path,
    name: str,
    selections: Mapping[str, Described],
    contributions: Mapping[str, Described],
    simulated: bool,
) -> list[ElectrodePage]:
    """Return what the report shows of the electrodes, one page per task.

    Parameters
    ----------
    report : path
        The report that is written.
    name : str
        ``sub-XX``.
    selections, contributions : mapping of task to Described
        The tables ``desc-selected`` and ``desc-contrib``.
    simulated : bool
        Whether the figures say that the data are simulated.
    """
    tasks = list(dict.fromkeys([*contributions, *selections]))
    return [
        _page(
            report,
            (name, task),
            selections.get(task, Described()),
            contributions.get(task, Described()),
            simulated,
        )
        for task in tasks
    ]


def _page(
    report: Path, key: tuple[str, str], selection: Described, found: Described, simulated: bool
) -> ElectrodePage:
    name, task = key
    pictures = {
        what: add_picture(
            report,
            report.parent / name / "figures",
            f"{name}_task-{task}_desc-{what}",
            figure,
            TITLES[what],
            simulated,
            words,
        )
        for what, figure, words in _draw(selection.table, found.table)
    }
    in_template = located(found.table, TEMPLATE) if len(found.table) else found.table
    tables = {**selection_tables(selection.table), **contribution_tables(found.table)}
    return ElectrodePage(
        task,
        pictures,
        {what: table for what, table in tables.items() if table.rows},
        contact_view(in_template) if len(in_template) else None,
        tuple(dict.fromkeys([*selection.notes, *found.notes])),
        about_model(found.sidecar),
        not_drawn(found.table) if len(found.table) else {},
    )


def located(table: pd.DataFrame, space: str | None = None) -> pd.DataFrame:
    """Return the rows that have a position, in `space` if one is named."""
    known = table.dropna(subset=POSITION)
    return known if space is None else known[known["space"] == space]


def _own_space(table: pd.DataFrame) -> str | None:
    """Return the space of the positions where none of them is in the template's."""
    spaces = located(table)["space"].dropna().unique()
    return None if TEMPLATE in spaces or not len(spaces) else str(spaces[0])


def _draw(selection: pd.DataFrame, found: pd.DataFrame) -> Drawn:
    """Yield the figures for which there are data, each with its words."""
    if len(selection):
        yield from _draw_selection(selection)
    if len(found):
        yield from _draw_contributions(found)


def _draw_selection(selection: pd.DataFrame) -> Drawn:
    words = alternatives.selection(located(selection))
    if len(contacts := located(selection, TEMPLATE)):
        yield "selection", brain.selection_brain(contacts), words
    elif space := _own_space(selection):
        yield "selection", brain.native_selection(located(selection, space), space), words


def _draw_contributions(found: pd.DataFrame) -> Drawn:
    words = alternatives.contributions(located(found))
    if len(contacts := located(found, TEMPLATE)):
        yield "contributions", brain.contribution_brain(contacts), words
    elif space := _own_space(found):
        yield "contributions", brain.native_contributions(located(found, space), space), words
    if measures(found):
        yield "agreement", agreement(found), alternatives.agreement(found)
    if len(means := charts.region_means(found)):
        yield "regions", charts.region_contributions(found), alternatives.regions(means)
    if charts.shafts_of(found):
        yield "shafts", charts.shaft_contributions(found), alternatives.shafts(found)


def not_drawn(found: pd.DataFrame) -> dict[str, str]:
    """Return what the figures have no room for, by figure, in a sentence each."""
    means, shafts = charts.region_means(found), charts.shafts_of(found)
    shown = charts.drawn_regions(means)
    drawn = {charts.region_name(r.label, r.hemisphere) for r in shown.itertuples()}
    every = [charts.region_name(r.label, r.hemisphere) for r in means.itertuples()]
    regions = [name for name in every if name not in drawn]
    others = [name for name in shafts if name not in charts.drawn_shafts(found)]
    sentences = {}
    if regions:
        sentences["regions"] = (
            f"Drawn are the {len(drawn)} regions with the most electrodes, of {len(every)}; the "
            f"others: {', '.join(regions)}."
        )
    if others:
        sentences["shafts"] = (
            f"Drawn are the {charts.MAX_SHAFTS} shafts that matter most, of {len(shafts)}; the "
            f"others: {', '.join(others)}."
        )
    return sentences


def about_model(sidecar: Mapping[str, Any]) -> str:
    """Return which model the contributions are about, in a sentence."""
    if not sidecar.get("Model"):
        return ""
    return (
        f"Contributions are those to the model “{condition_label(str(sidecar['Model']))}”, whose "
        f"mean relative rank is {number(sidecar.get('MeanRank'))} on "
        f"{count(sidecar.get('NWindows'))} held-out windows in {count(sidecar.get('NBlocks'))} "
        "blocks. An electrode is permuted by giving each window its signal from another block; "
        f"every window took that of {count(sidecar.get('Repeats'))} others."
    )
