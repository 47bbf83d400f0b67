"""The group level: tables over participants and the group's page, from derivatives alone."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bids_speechdecode.anatomy.atlas import Atlas, load_atlas
from bids_speechdecode.bids.derivatives import Derivatives
from bids_speechdecode.config import Config
from bids_speechdecode.errors import UsageError
from bids_speechdecode.group.auditory import summarise_auditory, write_auditory
from bids_speechdecode.group.contributions import (
    Contributions,
    list_contribution_tasks,
    read_contributions,
    write_contacts,
)
from bids_speechdecode.group.dseg import write_dseg
from bids_speechdecode.group.experiments import (
    list_findings,
    summarise_findings,
    write_findings,
)
from bids_speechdecode.group.maps import smooth_volume, write_volumes
from bids_speechdecode.group.parcels import parcel_table, write_parcels
from bids_speechdecode.group.regions import compare_regions, write_regions
from bids_speechdecode.group.summary import GroupSummary, summarise_group, write_group
from bids_speechdecode.group.surfaces import smooth_surface, write_surfaces
from bids_speechdecode.report.console import format_ranks
from bids_speechdecode.report.group import write_group_report

log = logging.getLogger(__name__)


def summarise(out: Derivatives, participants: Sequence[str], config: Config) -> GroupSummary:
    """Collect the participants' tables and write the group's.

    Raises
    ------
    MissingInputError
        No participant has results yet.
    """
    rng = np.random.default_rng([config.run.seed, 5])
    summary = summarise_group(out.root, participants, config.evaluation, rng)
    write_group(out, summary, config.evaluation)
    for item in summary.left_out:
        log.warning("left out: %s: %s", item.what, item.why)
    return summary


def summarise_experiments(out: Derivatives, participants: Sequence[str], config: Config) -> None:
    """Write the group's table of every experiment that participants have made."""
    rng = np.random.default_rng([config.run.seed, 9])
    task = config.inputs.finetune_task
    for name, sources in list_findings(out.root, participants, task).items():
        table = summarise_findings(sources, config.evaluation, rng)
        if len(table):  # not where nobody's findings have a number
            write_findings(out, task, name, table, sources, config.evaluation)


def map_contributions(
    out: Derivatives, participants: Sequence[str], config: Config, other: Path | None
) -> None:
    """Write parcels, regions, maps and the table of auditory cortex, task by task.

    Parameters
    ----------
    other : path, optional
        Derivatives of the same participants made with another target.

    Raises
    ------
    DataError
        The participants' contributions are of different models, targets or atlases.
    UsageError
        Their atlas is another one than that of this command.
    """
    for task in list_contribution_tasks(out.root, participants):
        found = read_contributions(out.root, participants, task)
        for item in found.left_out:
            log.warning("left out of the maps: %s: %s", item.what, item.why)
        atlas = _same_atlas(found, config)
        _write_tables(out, found, config, atlas, other)
        _write_maps(out, found, atlas)
        write_dseg(out, atlas)


def _same_atlas(found: Contributions, config: Config) -> Atlas:
    asked = " ".join(config.anatomy.atlas)
    if found.atlas not in ("", asked):
        raise UsageError(
            "the participants were labelled with another atlas",
            expected=f"--atlas {found.atlas}",
            found=f"--atlas {asked}",
            fix=f"run the group level with --atlas {found.atlas}, or the participants' step "
            "select with the other one",
        )
    return load_atlas(config.anatomy.atlas)


def _write_tables(
    out: Derivatives, found: Contributions, config: Config, atlas: Atlas, other: Path | None
) -> None:
    settings = config.evaluation
    rng = np.random.default_rng([config.run.seed, 8])
    write_contacts(out, found)
    write_parcels(out, found, parcel_table(found.contacts, settings, rng), settings)
    write_regions(out, found, compare_regions(found.contacts, settings, rng), settings)
    auditory = summarise_auditory(
        out.root, found, settings, rng, atlas=atlas, other=other, condition=found.model
    )
    write_auditory(out, found, auditory, settings)


def _write_maps(out: Derivatives, found: Contributions, atlas: Atlas) -> None:
    write_volumes(out, found, smooth_volume(found.contacts))
    cortex = None
    if atlas.surface is not None:
        cortex = (atlas.surface[0] > 0, atlas.surface[1] > 0)
    write_surfaces(out, found, smooth_surface(found.contacts, cortex=cortex))


def report_group(out: Derivatives, command: str) -> None:
    """Write ``group.html``."""
    log.info("report: %s", write_group_report(out.root, command=command))


def show_group(summary: GroupSummary) -> str:
    """Return every participant's ranks and the group's as text tables."""
    titles = "simulated data, target {target}" if summary.simulated else "target {target}"
    parts = []
    for participant, rows in summary.participants.groupby("participant", sort=False):
        target = titles.format(target=", ".join(sorted(set(rows["target"]))))
        parts.append(format_ranks(rows, f"{participant} ({target})"))
    for task, rows in summary.conditions.items():
        n = int(rows["n_participants"].max())
        parts.append(format_ranks(rows, f"group, task {task}, n = {n}"))
    return "\n\n".join(parts)
