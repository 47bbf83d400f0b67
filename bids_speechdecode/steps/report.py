"""Step ``report``: the participant's page, from what is on disk."""

from __future__ import annotations

import logging
from pathlib import Path

from bids_speechdecode.bids.sidecars import read_table
from bids_speechdecode.report.console import format_ranks
from bids_speechdecode.report.participant import write_participant_report
from bids_speechdecode.steps.context import Context

log = logging.getLogger(__name__)


def report_participant(context: Context, command: str, log_dir: Path | None) -> Path:
    """Write ``sub-XX.html`` and its figures; return the page."""
    page = write_participant_report(
        context.out.root, context.participant, command=command, log_dir=log_dir
    )
    log.info("report: %s", page)
    return page


def show_participant(context: Context) -> str:
    """Return the ranks of every condition as a text table, empty where there are none yet."""
    path = context.summary_file("conditions", "scores", ".tsv")
    if not path.exists():
        return ""
    simulated = "simulated data, " if context.plan.simulated else ""
    title = f"sub-{context.participant} ({simulated}target {context.config.target.name})"
    return format_ranks(read_table(path), title)
