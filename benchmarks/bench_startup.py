"""The help page against that of MNE-BIDS; one participant's index against a whole PyBIDS one."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bids import BIDSLayout

from bids_speechdecode.bids.dataset import list_recordings, open_dataset

N_PARTICIPANTS = 1000
SIDECARS = ("ieeg.json", "ieeg.vhdr", "channels.tsv", "events.tsv")


def seconds(action: Callable[[], object], n_runs: int = 1) -> float:
    """Return the median wall time of an action."""
    times = []
    for _ in range(n_runs):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def make_dataset(root: Path) -> None:
    """Write a dataset of many participants whose recordings are empty files."""
    description = {"Name": "many", "BIDSVersion": "1.10.0"}
    (root / "dataset_description.json").write_text(json.dumps(description))
    for number in range(1, N_PARTICIPANTS + 1):
        folder = root / f"sub-{number:04}" / "ieeg"
        folder.mkdir(parents=True)
        for suffix in SIDECARS:
            text = "{}" if suffix.endswith("json") else "name\ttype\n"
            (folder / f"sub-{number:04}_task-x_{suffix}").write_text(text)


def main() -> None:
    """Print a Markdown table."""
    tool, peer = (Path(sys.executable).with_name(n) for n in ("bids_speechdecode", "mne_bids"))
    ours, theirs = (
        seconds(lambda program=program: subprocess.run([program, "--help"], capture_output=True), 5)
        for program in (tool, peer)
    )
    print("| what | ours | peer | ratio |\n|---|---|---|---|")
    print(f"| `--help` (MNE-BIDS) | {ours:.2f} s | {theirs:.2f} s | {theirs / ours:.1f} x |")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_dataset(root)
        ours = seconds(lambda: list_recordings(open_dataset(root), "0500"), 3)
        theirs = seconds(lambda: BIDSLayout(root, validate=False))
    n_files = N_PARTICIPANTS * len(SIDECARS)
    print(
        f"| one participant of {N_PARTICIPANTS:,} ({n_files:,} files; PyBIDS, whole dataset) "
        f"| {ours:.2f} s | {theirs:.2f} s | {theirs / ours:.0f} x |"
    )


if __name__ == "__main__":
    main()
