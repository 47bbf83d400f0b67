"""The group's electrodes in its report: contacts, regions, maps and auditory cortex."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from bids_speechdecode.bids.sidecars import read_table
from bids_speechdecode.report import alternatives, brain, brain_maps, charts
from bids_speechdecode.report.brain_maps import GroupMap
from bids_speechdecode.report.electrode_tables import Described, read_described
from bids_speechdecode.report.electrodes import TEMPLATE, Drawn, located
from bids_speechdecode.report.figures import condition_label
from bids_speechdecode.report.page import (
    Picture,
    Table,
    add_picture,
    count,
    entity,
    interval,
    make_concluded_table,
    make_table,
    number,
    p_value,
)
from bids_speechdecode.report.view3d import contact_view
from bids_speechdecode.report.where import regions_in_words

TITLES = {
    "contacts": "Contribution of every electrode of every participant",
    "parcels": "Contribution by region, over participants",
    "surface": "Contributions and coverage on the cortical surface",
    "volume": "Contributions and coverage in slices",
    "auditory": "Benefit and the coverage of primary auditory cortex",
}
_TABLE_COLUMNS = {
    "contacts": [
        *("participant", "name", "x", "y", "z", "space", "label", "hemisphere"),
        *("contribution", "q"),
    ],
    "parcels": [
        *("label", "hemisphere", "n_participants", "n_contacts", "coverage", "mean"),
        *("ci_low", "ci_high", "p", "p_min", "q", "conclusion"),
    ],
    "parcelsByParticipant": ["participant", "label", "hemisphere", "n_contacts", "mean"],
    "regions": [
        *("region_1", "region_2", "n_participants", "difference", "ci_low", "ci_high"),
        *("p", "p_min", "q", "conclusion"),
    ],
    "auditory": ["participant", "n_auditory", "distance_auditory", "benefit_pretraining"],
    "auditoryCorrelation": ["n_participants", "rho", "p", "p_min", "conclusion"],
}
MAX_COMPARISONS = 30  # rows of the page; all are in the table on disk
MAPS = ("effect", "coverage", "n")


@dataclass(frozen=True)
class AnatomyPage:
    """What the group's report shows of the electrodes in one task."""

    task: str
    pictures: Mapping[str, Picture]
    tables: Mapping[str, Table]
    view: Markup | None
    notes: tuple[str, ...]
    model: str
    outlined: bool  # whether the electrodes have a q-value of their own
    summary: tuple[str, ...]  # where, in sentences for the top of the report
    not_drawn: str  # what the picture of the regions had no room for


def anatomy_pages(root: Path, report: Path, simulated: bool) -> list[AnatomyPage]:
    """Return one page per task from the group's tables and maps under `root`."""
    tasks = sorted({entity(p, "task") for p in root.glob("group_task-*_contributions.tsv")})
    return [_page(root, report, task, simulated) for task in tasks]


def _page(root: Path, report: Path, task: str, simulated: bool) -> AnatomyPage:
    found = {name: _read(root, task, name) for name in _TABLE_COLUMNS}
    surfaces = _surfaces(root, task)
    volumes = _volumes(root, task)
    pictures = {
        what: add_picture(
            report,
            report.parent / "figures",
            f"group_task-{task}_desc-{what}",
            figure,
            TITLES[what],
            simulated,
            words,
        )
        for what, figure, words in _draw(found, surfaces, volumes)
    }
    contacts = located(found["contacts"].table, TEMPLATE)
    tables = {
        "parcels": parcel_table(found["parcels"].table),
        "regions": comparison_table(found["regions"].table),
        "auditory": auditory_table(found["auditory"].table),
        "correlation": correlation_table(found["auditoryCorrelation"].table),
    }
    notes = dict.fromkeys(note for described in found.values() for note in described.notes)
    return AnatomyPage(
        task,
        pictures,
        {name: table for name, table in tables.items() if table.rows},
        contact_view(contacts) if len(contacts) else None,
        tuple(notes),
        condition_label(str(found["contacts"].sidecar.get("Model") or "")),
        bool(contacts["q"].notna().any()),
        tuple(regions_in_words(found["parcels"], found["contacts"].table)),
        not_drawn(found["parcels"].table),
    )


def _read(root: Path, task: str, name: str) -> Described:
    path = root / f"group_task-{task}_desc-{name}_contributions.tsv"
    table = read_table(path) if path.is_file() else pd.DataFrame()
    return read_described(path, table, _TABLE_COLUMNS[name])


# ----------------------------------------------------------------------------------- maps


def _surfaces(root: Path, task: str) -> list[GroupMap]:
    """Return the maps on the surface, effect first; one that is not on disk is left out."""
    found = []
    for name in MAPS:
        pattern = f"group_task-{task}_hemi-{{}}_space-fsaverage5_desc-{name}_map.shape.gii"
        paths = [root / pattern.format(side) for side in "LR"]
        if all(path.is_file() for path in paths):
            left, right = (_read_gifti(path, name) for path in paths)
            found.append(GroupMap(name, surface=(left, right)))
    return found


def _read_gifti(path: Path, name: str) -> np.ndarray:
    import nibabel

    loaded: Any = nibabel.load(path)
    values = np.asarray(loaded.agg_data(), dtype=float)
    return np.where(values > 0, values, np.nan) if name != "effect" else values


def _volumes(root: Path, task: str) -> list[GroupMap]:
    found = []
    for name in MAPS:
        paths = sorted(root.glob(f"group_task-{task}_space-*_desc-{name}_map.nii.gz"))
        found += [GroupMap(name, volume=path) for path in paths[:1]]
    return found


def _draw(
    found: Mapping[str, Described], surfaces: list[GroupMap], volumes: list[GroupMap]
) -> Drawn:
    """Yield the figures for which there are data, each with its words."""
    if len(contacts := located(found["contacts"].table, TEMPLATE)):
        words = alternatives.contributions(contacts)
        yield "contacts", brain.contribution_brain(contacts), words
    if len(parcels := found["parcels"].table):
        own = found["parcelsByParticipant"].table
        yield "parcels", charts.group_regions(parcels, own), alternatives.parcels(parcels)
    if surfaces:
        yield "surface", brain_maps.surface_maps(surfaces), alternatives.surface(surfaces)
    if volumes:
        yield "volume", brain_maps.volume_maps(volumes), alternatives.volume(volumes)
    auditory = found["auditory"].table
    if charts.benefits(auditory) and auditory["distance_auditory"].notna().any():
        yield "auditory", charts.auditory_benefit(auditory), alternatives.auditory(auditory)


def not_drawn(parcels: pd.DataFrame) -> str:
    """Return which regions the picture has no room for, in a sentence."""
    if len(parcels) <= charts.MAX_REGIONS:
        return ""
    return (
        f"Drawn are {charts.MAX_REGIONS} of {len(parcels)} regions: tested ones by their mean, "
        "then those seen in the most participants; the table has all."
    )


# --------------------------------------------------------------------------------- tables


def parcel_table(table: pd.DataFrame) -> Table:
    """Return the contribution of every region with its coverage and what it allows to say."""
    columns = ["Region", "Participants", "Electrodes", "Coverage (%)", "Mean", "95% CI", "p"]
    columns += ["Smallest possible p", "q"]
    ordered = charts.ordered_regions(table, len(table)).to_dict("records")
    rows = [
        (
            charts.region_name(row["label"], row["hemisphere"]),
            count(row["n_participants"]),
            count(row["n_contacts"]),
            number(100 * row["coverage"], 0),
            number(row["mean"], 4),
            interval(row["ci_low"], row["ci_high"], 4),
            p_value(row["p"]),
            p_value(row["p_min"]),
            p_value(row["q"]),
        )
        for row in ordered
    ]
    return make_concluded_table(columns, rows, _conclusions(ordered), columns[1:])


def _conclusions(rows: list[dict[Any, Any]]) -> list[str]:
    return [row["conclusion"] or "" for row in rows]


def comparison_table(table: pd.DataFrame) -> Table:
    """Return the comparisons between regions that could be made, the clearest first."""
    columns = ["Regions", "Participants with both", "Difference", "95% CI", "p"]
    columns += ["Smallest possible p", "q"]
    compared = table.dropna(subset=["p"]).sort_values(["p", "difference"], kind="stable")
    shown = compared[:MAX_COMPARISONS].to_dict("records")
    rows = [
        (
            f"{row['region_1']} against {row['region_2']}",
            count(row["n_participants"]),
            number(row["difference"], 4),
            interval(row["ci_low"], row["ci_high"], 4),
            p_value(row["p"]),
            p_value(row["p_min"]),
            p_value(row["q"]),
        )
        for row in shown
    ]
    return make_concluded_table(columns, rows, _conclusions(shown), columns[1:])


def auditory_table(table: pd.DataFrame) -> Table:
    """Return each participant's coverage of primary auditory cortex, and what was gained."""
    kinds = charts.benefits(table)
    columns = ["Participant", "Contacts in auditory cortex", "Distance of the nearest (mm)"]
    for kind in kinds:
        columns += [charts.benefit_title(table, kind), f"CI ({kind})"]
    rows = []
    for row in table.to_dict("records"):
        cells = [str(row["participant"]), count(row["n_auditory"])]
        cells.append(number(row["distance_auditory"], 1))
        for kind in kinds:
            low, high = charts.benefit_interval(row, kind)
            cells += [number(row[f"benefit_{kind}"]), interval(low, high)]
        rows.append(cells)
    return make_table(columns, rows, columns[1:])


def correlation_table(table: pd.DataFrame) -> Table:
    """Return how the benefits go with the coverage of auditory cortex over participants."""
    columns = ["Benefit", "Coverage", "Participants", "Spearman's rho", "p"]
    columns += ["Smallest possible p"]
    records = table.to_dict("records")
    rows = [
        (
            COLUMN_TO_WORDS.get(str(row.get("benefit")), str(row.get("benefit"))),
            COLUMN_TO_WORDS.get(str(row.get("coverage")), str(row.get("coverage"))),
            count(row["n_participants"]),
            number(row["rho"], 2),
            p_value(row["p"]),
            p_value(row["p_min"]),
        )
        for row in records
    ]
    return make_concluded_table(columns, rows, _conclusions(records), columns[2:])


COLUMN_TO_WORDS = {
    "benefit_pretraining": "pretraining",
    "benefit_target": "target",
    "n_auditory": "contacts in auditory cortex",
    "distance_auditory": "distance to auditory cortex",
}
