"""The electrodes of a participant's report: where they are, which were kept, what they carry."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from bids_speechdecode.report import brain, charts
from bids_speechdecode.report.figures import condition_label
from bids_speechdecode.report.page import (
    DASH,
    Picture,
    Table,
    add_picture,
    count,
    interval,
    make_table,
    number,
    p_value,
    read_object,
    tolerate,
)
from bids_speechdecode.report.view3d import contact_view

TEMPLATE = "MNI152"  # the space that has a brain to draw on
TOP = 15  # electrodes in the first table; all are in the second
POSITION = ["x", "y", "z"]
SELECTED_COLUMNS = [
    "name",
    "type",
    "kept",
    "reason",
    "good_fraction",
    "group",
    *POSITION,
    "space",
    "label",
    "hemisphere",
    "probability",
    "nearest_label",
    "distance",
    "tissue",
    "sound_r",
    "sound_q",
]
CONTRIBUTION_COLUMNS = [
    "name",
    "group",
    *POSITION,
    "space",
    "label",
    "hemisphere",
    "distance",
    "contribution",
    "ci_low",
    "ci_high",
    "p",
    "p_min",
    "q",
    "rank_alone",
    "alone_ci_low",
    "alone_ci_high",
    "shaft_contribution",
    "shaft_ci_low",
    "shaft_ci_high",
    "shaft_p",
    "shaft_q",
    "integrated_gradient",
    "redundancy",
    "nearest_neighbour_r",
]
TITLES = {
    "selection": "Channels kept and dropped",
    "contributions": "Contribution of each electrode",
    "regions": "Contribution by region",
    "shafts": "Contribution along each shaft",
}


@dataclass(frozen=True)
class Described:
    """A table of one task with what its sidecar says; empty where it is not on disk."""

    table: pd.DataFrame = field(default_factory=pd.DataFrame)
    sidecar: Mapping[str, Any] = field(default_factory=dict)

    @property
    def notes(self) -> list[str]:
        """What the step that wrote the table says about its limits."""
        return [str(note) for note in self.sidecar.get("Notes") or []]


@dataclass(frozen=True)
class ElectrodePage:
    """What the report shows of one task."""

    task: str
    pictures: Mapping[str, Picture]
    tables: Mapping[str, Table]
    view: Markup | None
    notes: tuple[str, ...]
    about: str


def read_described(path: Path, table: pd.DataFrame, columns: list[str]) -> Described:
    """Return a table with all of `columns`, numbers as numbers, and its sidecar."""
    words = {"name", "type", "reason", "group", "space", "label", "hemisphere", "kept"}
    words |= {"nearest_label", "tissue", "participant", "region_1", "region_2", "conclusion"}
    table = tolerate(table, columns)
    for name in set(columns) - words:
        table[name] = pd.to_numeric(table[name], errors="coerce")
    for name in words & set(table.columns):
        as_text = [None if pd.isna(word) else str(word) for word in table[name]]
        table[name] = pd.Series(as_text, index=table.index, dtype=object)
    if "kept" in columns:
        table["kept"] = table["kept"].map(lambda word: str(word).lower() == "true").astype(bool)
    return Described(table, read_object(path.with_suffix(".json")))


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
        )
        for what, figure in _draw(selection.table, found.table)
    }
    in_template = located(found.table, TEMPLATE) if len(found.table) else found.table
    tables = {**_selection_tables(selection.table), **_contribution_tables(found.table)}
    return ElectrodePage(
        task,
        pictures,
        {what: table for what, table in tables.items() if table.rows},
        contact_view(in_template) if len(in_template) else None,
        tuple(dict.fromkeys([*selection.notes, *found.notes])),
        about_model(found.sidecar),
    )


def located(table: pd.DataFrame, space: str | None = None) -> pd.DataFrame:
    """Return the rows that have a position, in `space` if one is named."""
    known = table.dropna(subset=POSITION)
    return known if space is None else known[known["space"] == space]


def _own_space(table: pd.DataFrame) -> str | None:
    """Return the space of the positions where none of them is in the template's."""
    spaces = located(table)["space"].dropna().unique()
    return None if TEMPLATE in spaces or not len(spaces) else str(spaces[0])


def _draw(selection: pd.DataFrame, found: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Yield the figures for which there are data."""
    if len(selection) and len(contacts := located(selection, TEMPLATE)):
        yield "selection", brain.selection_brain(contacts)
    elif len(selection) and (space := _own_space(selection)):
        yield "selection", brain.native_selection(located(selection, space), space)
    if not len(found):
        return
    if len(contacts := located(found, TEMPLATE)):
        yield "contributions", brain.contribution_brain(contacts)
    elif space := _own_space(found):
        yield "contributions", brain.native_contributions(located(found, space), space)
    if len(charts.region_means(found)):
        yield "regions", charts.region_contributions(found)
    if charts.shafts_of(found):
        yield "shafts", charts.shaft_contributions(found)


def about_model(sidecar: Mapping[str, Any]) -> str:
    """Return which model the contributions are about, in a sentence."""
    if not sidecar.get("Model"):
        return ""
    return (
        f"Contributions are those to the model “{condition_label(str(sidecar['Model']))}”, whose "
        f"mean relative rank is {number(sidecar.get('MeanRank'))} on "
        f"{count(sidecar.get('NWindows'))} held-out windows in {count(sidecar.get('NBlocks'))} "
        f"blocks; each electrode was permuted {count(sidecar.get('Repeats'))} times."
    )


# ---------------------------------------------------------------------------------- tables


def _selection_tables(table: pd.DataFrame) -> dict[str, Table]:
    """Return how many channels were kept and dropped, by reason and by region."""
    if table.empty:
        return {}
    reasons = table["reason"].map(lambda word: word or "no reason given")
    groups = pd.Series(brain.reason_groups(reasons.tolist()), index=table.index)
    groups[table["kept"]] = "meets every rule"  # by which of them is in the table of channels
    decided = table["kept"].map({True: "kept", False: "dropped"})
    counts = Counter(zip(decided, groups, strict=True))
    ordered = sorted(counts.items(), key=lambda item: (item[0][0] != "kept", -item[1], item[0]))
    reason_rows = [(group, decision, count(n)) for (decision, group), n in ordered]
    regions = _region_names(table)
    kept = table["kept"].groupby(regions).agg(["sum", "size"])
    kept = kept.sort_values(["sum", "size"], ascending=False, kind="stable")
    region_rows = [
        (str(name), count(row["sum"]), count(row["size"] - row["sum"]))
        for name, row in kept.iterrows()
    ]
    return {
        "reasons": make_table(["Reason", "Decision", "Channels"], reason_rows, ["Channels"]),
        "selected_regions": make_table(
            ["Region", "Kept", "Dropped"], region_rows, ["Kept", "Dropped"]
        ),
        "channels": _channel_table(table),
    }


def _region_names(table: pd.DataFrame) -> pd.Series:
    """Return the region of each row in words."""
    named = [
        charts.region_name(label, side)
        if label
        else ("outside the atlas" if pd.notna(x) else "no position")
        for label, side, x in zip(table["label"], table["hemisphere"], table["x"], strict=True)
    ]
    return pd.Series(named, index=table.index)


def _channel_table(table: pd.DataFrame) -> Table:
    columns = ["Channel", "Type", "Kept", "Reason", "Region", "Distance (mm)", "Good time (%)"]
    rows = [
        (
            str(row["name"]),
            row["type"] or DASH,
            "yes" if row["kept"] else "no",
            row["reason"] or DASH,
            region,
            number(row["distance"], 1),
            DASH if pd.isna(row["good_fraction"]) else f"{100 * row['good_fraction']:.0f}",
        )
        for row, region in zip(table.to_dict("records"), _region_names(table), strict=True)
    ]
    return make_table(columns, rows, columns[5:])


def _contribution_tables(table: pd.DataFrame) -> dict[str, Table]:
    if table.empty:
        return {}
    table = table.dropna(subset=["contribution"])
    table = table.sort_values("contribution", ascending=False, kind="stable")
    columns = ["Electrode", "Region", "Contribution", "CI", "p", "q", "Rank alone", "CI (alone)"]
    columns += ["Shaft", "Shaft's contribution", "q (shaft)"]
    rows = [
        (
            str(row["name"]),
            charts.region_name(row["label"], row["hemisphere"]) if row["label"] else DASH,
            number(row["contribution"], 4),
            interval(row["ci_low"], row["ci_high"], 4),
            p_value(row["p"]),
            p_value(row["q"]),
            number(row["rank_alone"]),
            interval(row["alone_ci_low"], row["alone_ci_high"]),
            row["group"] or DASH,
            number(row["shaft_contribution"], 4),
            p_value(row["shaft_q"]),
        )
        for row in table.to_dict("records")
    ]
    numeric = [*columns[2:8], *columns[9:]]
    return {
        "electrodes": make_table(
            [*columns[:7], *columns[8:]], [(*row[:7], *row[8:]) for row in rows[:TOP]], numeric
        ),
        "all_electrodes": make_table(columns, rows if len(rows) > TOP else [], numeric),
    }
