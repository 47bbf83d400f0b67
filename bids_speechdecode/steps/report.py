"""Step ``report``: the participant's page, from what is on disk."""

from __future__ import annotations

from pathlib import Path

from bids_speechdecode.report.participant import write_participant_report
from bids_speechdecode.steps.context import Context


def report_participant(context: Context, command: str, log_dir: Path | None) -> Path:
    """Write ``sub-XX.html`` and its figures; return the page."""
    return write_participant_report(
        context.out.root, context.participant, command=command, log_dir=log_dir
    )
