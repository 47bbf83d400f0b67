"""The tables of a participant's report: text in every cell, whatever was absent a dash."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from bids_speechdecode.report.figures import condition_label, contrast_label
from bids_speechdecode.report.page import (
    DASH,
    Table,
    clock,
    count,
    interval,
    make_table,
    number,
    p_value,
)
from bids_speechdecode.report.results import Results, best_condition, confidence


def make_tables(results: Results) -> dict[str, Table]:
    """Return the tables of the report; one without rows is left out."""
    level = f"{100 * confidence(results):g}% CI"
    recordings = results.plan.get("recordings", [])
    tables = {
        "conditions": condition_table(results.conditions, level),
        "contrasts": contrast_table(results.contrasts, level),
        "score_notes": make_table(["Condition", "Note"], _gather_notes(results.score_notes)),
        "recordings": _recording_table(recordings),
        "dropped": _dropped_table(recordings),
        "left_out": make_table(
            ["What", "Why"],
            [(str(x.get("what")), str(x.get("why"))) for x in results.plan.get("left_out", [])],
        ),
        "notes": make_table(
            ["Recording", "Note"],
            [(short_label(r), str(n)) for r in recordings for n in r.get("notes", [])],
        ),
        "alignment": _alignment_table(recordings),
        "environment": make_table(["Item", "Value"], list(_flatten(results.environment))),
    }
    return {name: table for name, table in tables.items() if table.rows}


def _gather_notes(notes: tuple[tuple[str, str], ...]) -> list[tuple[str, str]]:
    """Return each note once, with all the conditions that it is about."""
    note_to_conditions: dict[str, list[str]] = {}
    for which, text in notes:
        condition, _, audio = which.removesuffix(")").partition(" (")
        label = condition_label(condition, audio or "true")
        note_to_conditions.setdefault(text, []).append(label)
    return [("; ".join(conditions), text) for text, conditions in note_to_conditions.items()]


def condition_table(conditions: pd.DataFrame, level: str) -> Table:
    """Return the ranks of all conditions, with the chance level as the last row."""
    rows = [
        (
            condition_label(str(row["condition"]), str(row["audio"])),
            str(row["task"]),
            f"{count(row['n_train_windows'])} / {count(row['n_test_windows'])}",
            number(row["relative_rank"]),
            interval(row["ci_low"], row["ci_high"]),
            p_value(row["p_shift"]),
            p_value(row["p_shuffle"]),
            interval(row["null_shift_low"], row["null_shift_high"]),
            *(number(100 * row[top], 1) for top in ("top1", "top5", "top10")),
        )
        for row in conditions.to_dict("records")
    ]
    if rows:
        best = best_condition(conditions)
        n = float(conditions["n_test_windows"].iloc[0] if best is None else best["n_test_windows"])
        tops = [number(min(100.0, 100 * k / n) if n else None, 1) for k in (1, 5, 10)]
        rows.append(("Chance", "", "", "0.500", "", "", "", "", *tops))
    columns = ["Condition", "Task", "Windows (train / test)", "Mean rank", level]
    columns += ["p (shift)", "p (shuffle)", "Null (shift)", "Top-1 (%)", "Top-5 (%)", "Top-10 (%)"]
    return make_table(columns, rows, columns[2:])


def contrast_table(contrasts: pd.DataFrame, level: str) -> Table:
    """Return the paired comparisons between conditions."""
    columns = ["Contrast", "Difference", level, "p", "Blocks", "Reading"]
    rows = [
        (
            contrast_label(str(row["contrast"]), str(row["audio"])),
            number(row["difference"]),
            interval(row["ci_low"], row["ci_high"]),
            p_value(row["p"]),
            count(row["n_blocks"]),
            _read_contrast(row),
        )
        for row in contrasts.to_dict("records")
    ]
    return make_table(columns, rows, columns[1:5])


def _read_contrast(row: Mapping[Any, Any]) -> str:
    first, _, second = str(row["contrast"]).partition("-")
    if pd.isna(row["p"]) or row["p"] >= 0.05 or not second:
        return "no difference established"
    winner, loser = (first, second) if row["difference"] < 0 else (second, first)
    return f"“{condition_label(winner)}” is better than “{condition_label(loser)}”"


def short_label(recording: Mapping[str, Any]) -> str:
    """Return a recording's label without the participant, whom the whole page is about."""
    return re.sub(r"^sub-[^_]+_(?=.)", "", str(recording.get("label")))


def _recording_table(recordings: list[Mapping[str, Any]]) -> Table:
    columns = ["Recording", "Used for", "Format", "Rate (Hz)", "Duration", "Channels kept"]
    columns += ["Split", "Windows (train / val / test)"]
    rows = []
    for r in recordings:
        windows = r.get("windows") or {}
        counts = " / ".join(count(windows.get(split, 0)) for split in ("train", "val", "test"))
        rate = r.get("sampling_frequency")
        rows.append(
            (
                short_label(r),
                {"pretrain": "pretraining", "finetune": "task"}.get(str(r.get("role")), DASH),
                str(r.get("format")),
                DASH if rate is None else f"{float(rate):g}",
                clock(r.get("duration")),
                f"{count(r.get('kept'))} of {count(r.get('n_channels'))}",
                str(r.get("split") or DASH),
                counts,
            )
        )
    return make_table(columns, rows, ["Rate (Hz)", "Duration", "Channels kept", columns[-1]])


def _dropped_table(recordings: list[Mapping[str, Any]]) -> Table:
    counts: dict[str, list[int]] = {}
    for recording in recordings:
        for reason, n in (recording.get("dropped") or {}).items():
            counts.setdefault(str(reason), []).append(int(n))
    rows = [
        (reason, str(min(n)) if min(n) == max(n) else f"{min(n)} to {max(n)}", str(len(n)))
        for reason, n in sorted(counts.items(), key=lambda item: (-max(item[1]), item[0]))
    ]
    columns = ["Reason", "Channels per recording", "Recordings"]
    return make_table(columns, rows, columns[1:])


def _alignment_table(recordings: list[Mapping[str, Any]]) -> Table:
    columns = ["Recording", "Sound", "Version", "From", "To", "Offset (s)", "Drift (ppm)"]
    columns += ["Residual (ms)", "Anchors", "Read as"]
    rows = [
        (
            short_label(recording),
            str(segment.get("stimulus")),
            str(segment.get("version")),
            clock(segment.get("start")),
            clock(segment.get("stop")),
            number(segment.get("offset")),
            number(segment.get("drift_ppm"), 1),
            number(segment.get("residual_ms"), 1),
            count(segment.get("n_anchors")),
            str(segment.get("reading")),
        )
        for recording in recordings
        for segment in recording.get("alignment", [])
    ]
    return make_table(columns, rows, columns[3:9])


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}: ")
        else:
            yield f"{prefix}{name}", str(value)
