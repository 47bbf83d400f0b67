"""Which pooled checkpoint a participant's training started from, in a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bids_speechdecode.bids.sidecars import read_sidecar
from bids_speechdecode.report.page import several


def tell_starts(folder: Path) -> Iterator[str]:
    """Yield a sentence for every pooled checkpoint that models of a participant started from.

    Parameters
    ----------
    folder : path
        ``sub-XX`` of the derivatives.
    """
    found = {}
    for path in sorted(folder.rglob("*_model.safetensors")):
        start = read_sidecar(path).get("InitFrom")
        if start:
            found[start["Signature"]] = start
    for start in found.values():
        who = ", ".join(start["Participants"])
        pooled = f"an encoder pretrained on {several(len(start['Participants']), 'participant')}"
        if start["HasSeenParticipant"]:
            yield (
                f"Training started from {pooled} ({who}), with one of this label among them: this "
                "result does not show a transfer between participants."
            )
        else:
            yield f"Training started from {pooled} ({who}), this one not among them."
