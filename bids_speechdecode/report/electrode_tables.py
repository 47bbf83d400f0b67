"""What the reports read and tell of electrodes in tables: channels, contributions, shafts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from bids_speechdecode.report import brain, charts
from bids_speechdecode.report.page import (
    DASH,
    Table,
    count,
    interval,
    make_table,
    number,
    p_value,
    read_object,
    tolerate,
)

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
    "margin_contribution",
    "margin_q",
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


@dataclass(frozen=True)
class Described:
    """A table of one task with what its sidecar says; empty where it is not on disk."""

    table: pd.DataFrame = field(default_factory=pd.DataFrame)
    sidecar: Mapping[str, Any] = field(default_factory=dict)

    @property
    def notes(self) -> list[str]:
        """What the step that wrote the table says about its limits."""
        return [str(note) for note in self.sidecar.get("Notes") or []]


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


# ---------------------------------------------------------------------------------- tables


def selection_tables(table: pd.DataFrame) -> dict[str, Table]:
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


def contribution_tables(table: pd.DataFrame) -> dict[str, Table]:
    """Return the electrodes by contribution, the first ones and all of them, and the shafts."""
    if table.empty:
        return {}
    table = table.dropna(subset=["contribution"])
    table = table.sort_values("contribution", ascending=False, kind="stable")
    rows = [_electrode_cells(row) for row in table.to_dict("records")]
    numeric = set(ELECTRODE_CELLS) - {"Electrode", "Region", "Shaft"}
    few = [list(ELECTRODE_CELLS).index(name) for name in FIRST_CELLS]
    first = [[row[i] for i in few] for row in rows[:TOP]]
    return {
        "electrodes": make_table(FIRST_CELLS, first, numeric & set(FIRST_CELLS)),
        "all_electrodes": make_table(ELECTRODE_CELLS, rows, numeric),
        "shafts": shaft_table(table),
    }


ELECTRODE_CELLS = (
    *("Electrode", "Region", "Shaft", "Contribution", "CI", "p", "q", "Margin", "q (margin)"),
    *("Rank alone", "CI (alone)", "Integrated gradient (%)", "Neighbour's r"),
)
FIRST_CELLS = (
    *("Electrode", "Region", "Shaft", "Contribution", "CI", "q", "Margin", "q (margin)"),
    *("Rank alone", "Integrated gradient (%)"),
)


def _electrode_cells(row: Mapping[Any, Any]) -> tuple[str, ...]:
    return (
        str(row["name"]),
        charts.region_name(row["label"], row["hemisphere"]) if row["label"] else DASH,
        row["group"] or DASH,
        number(row["contribution"], 4),
        interval(row["ci_low"], row["ci_high"], 4),
        p_value(row["p"]),
        p_value(row["q"]),
        number(row["margin_contribution"]),
        p_value(row["margin_q"]),
        number(row["rank_alone"]),
        interval(row["alone_ci_low"], row["alone_ci_high"]),
        number(100 * row["integrated_gradient"], 1),
        number(row["nearest_neighbour_r"], 2),
    )


SHAFT_COLUMNS = {  # in the table of electrodes, which repeats a shaft's numbers in all its rows
    "shaft_contribution": "contribution",
    "shaft_ci_low": "ci_low",
    "shaft_ci_high": "ci_high",
    "shaft_p": "p",
    "shaft_q": "q",
    "redundancy": "redundancy",
}


def one_row_per_shaft(table: pd.DataFrame) -> pd.DataFrame:
    """Return what each shaft contributes, the highest first.

    Columns shaft, n (electrodes), n_helping (of these, with q <= 0.05), region (where most of them
    lie; empty where none has a label), total (sum of their contributions), and those of
    `SHAFT_COLUMNS`.
    """
    rows = []
    for shaft, own in table.dropna(subset=["group"]).groupby("group", sort=True):
        regions = Counter(
            charts.region_name(label, side)
            for label, side in zip(own["label"], own["hemisphere"], strict=True)
            if label
        )
        row = {"shaft": str(shaft), "n": len(own), "n_helping": int((own["q"] <= brain.Q).sum())}
        row |= {"region": regions.most_common(1)[0][0] if regions else ""}
        row |= {"total": own["contribution"].sum()}
        rows.append(row | {new: own[old].iloc[0] for old, new in SHAFT_COLUMNS.items()})
    columns = ["shaft", "n", "n_helping", "region", "total", *SHAFT_COLUMNS.values()]
    shafts = pd.DataFrame(rows, columns=columns)
    return shafts.sort_values("contribution", ascending=False, kind="stable", ignore_index=True)


def shaft_table(table: pd.DataFrame) -> Table:
    """Return the shafts, with what their electrodes contribute one by one beside the whole."""
    columns = ["Shaft", "Most electrodes in", "Electrodes", "q ≤ 0.05", "Contribution", "CI", "p"]
    columns += ["q", "Sum of its electrodes", "Redundancy"]
    rows = [
        (
            row["shaft"],
            row["region"] or DASH,
            count(row["n"]),
            count(row["n_helping"]),
            number(row["contribution"], 4),
            interval(row["ci_low"], row["ci_high"], 4),
            p_value(row["p"]),
            p_value(row["q"]),
            number(row["total"], 4),
            number(row["redundancy"], 4),
        )
        for row in one_row_per_shaft(table).to_dict("records")
    ]
    return make_table(columns, rows, columns[2:])
