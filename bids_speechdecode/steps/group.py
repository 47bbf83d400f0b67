"""The group level: tables over participants and the group's page, from derivatives alone."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from bids_speechdecode.bids.derivatives import Derivatives
from bids_speechdecode.config import Config
from bids_speechdecode.group.summary import GroupSummary, summarise_group, write_group
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
