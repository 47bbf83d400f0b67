"""The report of one participant, assembled from the derivatives on disk."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bids_speechdecode.bids.derivatives import write_text
from bids_speechdecode.report import figures, methods
from bids_speechdecode.report.figures import Key, condition_label, contrast_label
from bids_speechdecode.report.page import (
    DASH,
    Missing,
    Picture,
    Table,
    add_picture,
    clock,
    count,
    entity,
    interval,
    is_simulated,
    make_table,
    number,
    only_finite,
    p_phrase,
    p_value,
    read_object,
    read_table,
    render,
    tolerate,
)

SCORE_COLUMNS = [
    "condition",
    "audio",
    "task",
    "n_train_windows",
    "n_test_windows",
    "n_blocks",
    "relative_rank",
    "ci_low",
    "ci_high",
    "p_shift",
    "p_shuffle",
    "top1",
    "top5",
    "top10",
    "null_shift_rank",
    "null_shift_low",
    "null_shift_high",
    "target",
]
CONTRAST_COLUMNS = ["contrast", "audio", "difference", "ci_low", "ci_high", "p", "n_blocks"]
MAX_ROWS_DRAWN = 40  # recordings in one figure; more would not fit a page
MAX_MESSAGES = 100


@dataclass(frozen=True)
class Results:
    """Everything on disk about one participant; what is absent is empty."""

    plan: Mapping[str, Any]
    conditions: pd.DataFrame
    contrasts: pd.DataFrame
    score_notes: tuple[tuple[str, str], ...]
    ranks: Mapping[Key, np.ndarray]
    draws: Mapping[Key, tuple[np.ndarray, np.ndarray]]
    histories: Mapping[str, pd.DataFrame]
    spectra: tuple[tuple[str, pd.DataFrame], ...]
    channels: tuple[pd.DataFrame, ...]
    electrodes: tuple[tuple[str, pd.DataFrame], ...]
    environment: Mapping[str, Any]
    settings: methods.Settings | None
    settings_text: str
    log_lines: tuple[str, ...]


def write_participant_report(
    root: Path, participant: str, *, command: str, log_dir: Path | None
) -> Path:
    """Write ``sub-XX.html`` and its figures from the derivatives of one participant.

    Parameters
    ----------
    root : path
        The derivative dataset.
    participant : str
        Label without ``sub-``.
    command : str
        The command that was typed.
    log_dir : path or None
        Folder of the run's config.toml, environment.json and log.txt; None takes the latest.

    Returns
    -------
    path
        The report. Pieces that are not on disk are named in it, with the step that makes them.
    """
    folder = root / f"sub-{participant}"
    results = read_results(folder, log_dir or latest_log(folder))
    simulated = is_simulated(root) or bool(results.plan.get("simulated"))
    report = root / f"sub-{participant}.html"
    missing = find_missing(results)
    html = render(
        "participant.html",
        title=f"sub-{participant}",
        participant=participant,
        simulated=simulated,
        command=command,
        missing=missing.items,
        summary=summarise(results),
        tables=make_tables(results),
        pictures=draw_pictures(report, participant, results, simulated),
        plan=results.plan,
        settings=results.settings,
        settings_text=results.settings_text,
        choice_table=methods.choice_table(results.settings) if results.settings else None,
        cited=methods.cited_references(results.settings) if results.settings else {},
        messages=list_messages(results.log_lines),
        log_found=bool(results.log_lines),
    )
    write_text(report, html)
    return report


def latest_log(folder: Path) -> Path | None:
    """Return the folder of a participant's latest run; their names sort by time."""
    runs = sorted(path for path in (folder / "log").glob("*") if path.is_dir())
    return runs[-1] if runs else None


def read_results(folder: Path, log_dir: Path | None) -> Results:
    """Read what there is under ``sub-XX`` and in the folder of its log."""
    files = sorted(path for path in folder.rglob("sub-*") if path.is_file())
    log = log_dir or folder / "log" / "none"
    settings_path = log / "config.toml"
    return Results(
        plan=next((read_object(p) for p in files if p.name.endswith("desc-plan_windows.json")), {}),
        conditions=_sorted_conditions(_join(files, "desc-conditions_scores.tsv", SCORE_COLUMNS)),
        contrasts=_join(files, "desc-contrasts_scores.tsv", CONTRAST_COLUMNS),
        score_notes=tuple(_read_score_notes(files)),
        ranks=_read_ranks(files),
        draws=_read_draws(files),
        histories=_read_histories(files),
        spectra=tuple(
            (entity(path, "task"), tolerate(read_table(path), ["frequency", "before", "after"]))
            for path in _ending(files, "_spectra.tsv")
        ),
        channels=tuple(read_table(p) for p in _ending(files, "desc-selected_channels.tsv")),
        electrodes=tuple(
            (entity(path, "space") or "unnamed", read_table(path))
            for path in _ending(files, "_electrodes.tsv")
        ),
        environment=read_object(log / "environment.json"),
        settings=methods.read_settings(settings_path) if settings_path.is_file() else None,
        settings_text=_read_text(settings_path),
        log_lines=tuple(_read_text(log / "log.txt").splitlines()),
    )


def _ending(files: list[Path], ending: str) -> list[Path]:
    return [path for path in files if path.name.endswith(ending)]


def _read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _join(files: list[Path], ending: str, columns: list[str]) -> pd.DataFrame:
    tables = [tolerate(read_table(path), columns) for path in _ending(files, ending)]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)


def _sorted_conditions(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that have a rank: task with true audio, then ambient, then pretraining."""
    table = only_finite(table, "relative_rank")
    order = table["condition"].map(figures.condition_order)
    place = (table["condition"] == "pretrained") * 1000 + (table["audio"] != "true") * 100 + order
    return table.iloc[np.argsort(place.to_numpy(), kind="stable")].reset_index(drop=True)


def _read_score_notes(files: list[Path]) -> Iterator[tuple[str, str]]:
    """Yield what the evaluation itself says about the limits of its numbers."""
    for path in _ending(files, "desc-conditions_scores.json"):
        notes = read_object(path).get("Notes")
        for which, texts in (notes if isinstance(notes, Mapping) else {}).items():
            yield from ((str(which), str(text)) for text in texts)


def _read_ranks(files: list[Path]) -> dict[Key, np.ndarray]:
    parts: dict[Key, list[np.ndarray]] = {}
    for path in _ending(files, "_events.tsv"):
        table = read_table(path)
        if entity(path, "desc") and "rank" in table:
            audio = table["audio"] if "audio" in table else pd.Series("true", table.index)
            for version, rows in table.groupby(audio):
                key = (_condition(path), str(version))
                parts.setdefault(key, []).append(rows["rank"].to_numpy(dtype=float))
    return {key: np.concatenate(parts[key]) for key in sorted(parts, key=_key_order)}


def _condition(path: Path) -> str:
    """Return the condition in a name; its ambient version is called, say, linearAmbient."""
    return entity(path, "desc").removesuffix("Ambient")


def _key_order(key: Key) -> tuple[bool, bool, int, str]:
    return key[0] == "pretrained", key[1] != "true", figures.condition_order(key[0]), key[0]


def _read_draws(files: list[Path]) -> dict[Key, tuple[np.ndarray, np.ndarray]]:
    found: dict[Key, tuple[np.ndarray, np.ndarray]] = {}
    for path in _ending(files, "_scores.json"):
        for row in _rows_with_draws(read_object(path)):
            key = (str(row.get("condition") or _condition(path)), str(row.get("audio", "true")))
            shifted, shuffled = row.get("null_shift_draws"), row.get("null_shuffle_draws")
            found[key] = (np.array(shifted or [], float), np.array(shuffled or [], float))
    return {key: found[key] for key in sorted(found, key=_key_order)}


def _rows_with_draws(value: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the objects that hold permutation draws, however deep they lie."""
    if isinstance(value, Mapping) and isinstance(value.get("null_shift_draws"), list):
        yield value
    elif isinstance(value, Mapping | list):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _rows_with_draws(inner)


def _read_histories(files: list[Path]) -> dict[str, pd.DataFrame]:
    columns = ["epoch", "train_loss", "val_loss", "val_rank"]
    found = {
        entity(path, "desc"): tolerate(read_table(path), columns)
        for path in _ending(files, "_history.tsv")
    }
    return {model: found[model] for model in sorted(found, key=lambda m: _key_order((m, "true")))}


def find_missing(results: Results) -> Missing:
    """Name every piece that is not on disk, and the step that makes it."""
    missing = Missing()
    for section, piece, what, step in (
        ("data", results.plan, "plan of recordings and windows", "preprocess"),
        ("channels", results.channels, "table of selected channels", "preprocess"),
        ("spectra", results.spectra, "power spectra", "preprocess"),
        ("training", results.histories, "training history", "finetune"),
        ("ranks", results.ranks, "ranks of test windows", "evaluate"),
        ("nulls", results.draws, "null distributions", "evaluate"),
        ("conditions", len(results.conditions), "scores of conditions", "evaluate"),
        ("contrasts", len(results.contrasts), "contrasts between conditions", "evaluate"),
    ):
        if not piece:
            missing.add(section, what, step)
    return missing


# ---------------------------------------------------------------------------- words


def best_condition(conditions: pd.DataFrame) -> pd.Series | None:
    """Return the row of the lowest rank on the task's windows, with the true audio if any."""
    task = conditions[conditions["condition"] != "pretrained"]
    task = task if (task["audio"] == "true").sum() == 0 else task[task["audio"] == "true"]
    return None if task.empty else task.loc[task["relative_rank"].astype(float).idxmin()]


def summarise(results: Results) -> list[str]:
    """Return the result in plain sentences, as far as the files on disk tell it."""
    best = best_condition(results.conditions)
    if best is None:
        return ["There is no result yet: the step 'evaluate' has not written any scores."]
    level = f"{100 * _confidence(results):g}%"
    label = condition_label(str(best["condition"]), str(best["audio"]))
    sentences = [
        f"The best condition was “{label}”: among {count(best['n_test_windows'])} held-out "
        f"windows, the true sound came at relative rank {number(best['relative_rank'])} on "
        f"average ({level} CI {interval(best['ci_low'], best['ci_high'])}; chance 0.500, best 0; "
        f"{p_phrase(best['p_shift'])} against time-shifted pairing).",
        _verdict(best),
    ]
    main = results.contrasts[results.contrasts["contrast"] == "finetuned-taskonly"]
    main = main[main["audio"] == best["audio"]]
    return sentences + [_contrast_sentence(row, level) for row in main.to_dict("records")]


def _confidence(results: Results) -> float:
    return results.settings["evaluation"]["confidence"] if results.settings else 0.95


def _verdict(best: pd.Series) -> str:
    if best["ci_high"] < figures.CHANCE and best["p_shift"] < 0.05:
        return "Speech was decoded better than chance in this participant."
    return "This does not show decoding better than chance in this participant."


def _contrast_sentence(row: Mapping[Any, Any], level: str) -> str:
    change = "lower (better)" if row["difference"] < 0 else "higher (worse)"
    clear = "" if row["p"] < 0.05 else "; this does not establish a difference"
    return (
        f"With pretraining, the mean rank was {number(abs(row['difference']))} {change} than "
        f"with the task data alone ({level} CI of the difference "
        f"{interval(row['ci_low'], row['ci_high'])}; {p_phrase(row['p'])}{clear})."
    )


def list_messages(log_lines: tuple[str, ...]) -> list[tuple[str, str, int]]:
    """Return warnings and errors of a log as (level, text, times), in order of appearance."""
    pattern = re.compile(r"^\S+ \S+ (WARNING|ERROR|CRITICAL) (.*)$")
    found: list[tuple[str, str]] = []
    inside = False
    for line in log_lines:
        match = pattern.match(line)
        if match:
            found.append((match[1], match[2]))
        elif inside and line.startswith("  "):  # an error's details follow on indented lines
            found[-1] = (found[-1][0], f"{found[-1][1]}\n{line}")
        inside = match is not None or (inside and line.startswith("  "))
    return [(*message, times) for message, times in Counter(found).items()][:MAX_MESSAGES]


# ---------------------------------------------------------------------------- tables


def make_tables(results: Results) -> dict[str, Table]:
    """Return the tables of the report; one without rows is left out."""
    level = f"{100 * _confidence(results):g}% CI"
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
            [(str(r.get("label")), str(n)) for r in recordings for n in r.get("notes", [])],
        ),
        "alignment": _alignment_table(recordings),
        "channels": _channel_table(results.channels),
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
    return f"{condition_label(winner)} is better than {condition_label(loser)}"


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
                str(r.get("label")),
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
    columns = ["Recording", "Sound", "Version", "From", "To", "Sound = a t + b (s)"]
    columns += ["Drift (ppm)", "Residual (ms)", "Anchors", "Read as"]
    rows = [
        (
            str(recording.get("label")),
            str(segment.get("stimulus")),
            str(segment.get("version")),
            clock(segment.get("start")),
            clock(segment.get("stop")),
            _clock_map(segment),
            number(segment.get("drift_ppm"), 1),
            number(segment.get("residual_ms"), 1),
            count(segment.get("n_anchors")),
            str(segment.get("reading")),
        )
        for recording in recordings
        for segment in recording.get("alignment", [])
    ]
    return make_table(columns, rows, [*columns[3:5], *columns[6:9]])


def _clock_map(segment: Mapping[str, Any]) -> str:
    slope, offset = segment.get("slope"), segment.get("offset")
    if slope is None:
        return DASH
    text = f"a = {float(slope):.8f}"
    return text if offset is None else f"{text}, b = {number(offset)}"


def _channel_table(tables: tuple[pd.DataFrame, ...]) -> Table:
    """Return every channel of the participant: in how many recordings it was kept, and why not."""
    if not tables:
        return make_table([], [])
    every = tolerate(pd.concat(tables, ignore_index=True), ["name", "type", "kept", "reason"])
    every["kept"] = every["kept"].astype(str).str.lower() == "true"
    rows = []
    for name, same in every.groupby("name", sort=False):
        reasons = Counter(same.loc[~same["kept"], "reason"].astype(str))
        why = "; ".join(f"{reason} ({n})" for reason, n in reasons.items())
        kept = f"{int(same['kept'].sum())} of {len(same)}"
        rows.append((str(name), str(same["type"].iloc[0]), kept, why or DASH))
    columns = ["Channel", "Type", "Kept in recordings", "Dropped because (recordings)"]
    return make_table(columns, rows, ["Kept in recordings"])


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}: ")
        else:
            yield f"{prefix}{name}", str(value)


# ---------------------------------------------------------------------------- pictures


def draw_pictures(
    report: Path, participant: str, results: Results, simulated: bool
) -> dict[str, Picture]:
    """Draw and save the figures for which there are data."""
    recordings = results.plan.get("recordings", [])[:MAX_ROWS_DRAWN]
    drawn = {}
    if len(results.conditions):
        drawn["conditions"] = figures.condition_ranks(results.conditions)
    if results.ranks:
        drawn["ranks"] = figures.rank_histograms(results.ranks)
    if results.draws:
        drawn["nulls"] = figures.null_distributions(results.draws, _observed(results.conditions))
    if recordings:
        drawn["alignment"] = figures.aligned_audio(recordings)
    if results.spectra:
        drawn["spectra"] = figures.power_spectra(results.spectra)
    if results.histories:
        drawn["training"] = figures.training_curves(results.histories)
    for space, contacts in _located(results):
        drawn["electrodes"] = figures.electrode_positions(contacts, space)
    folder = report.parent / f"sub-{participant}" / "figures"
    return {
        name: add_picture(
            report, folder, f"sub-{participant}_desc-{name}", figure, TITLES[name], simulated
        )
        for name, figure in drawn.items()
    }


TITLES = {
    "conditions": "Mean relative rank of each condition",
    "ranks": "Distribution of the ranks of the test windows",
    "nulls": "Null distributions of the mean rank",
    "alignment": "Sound aligned to each recording",
    "spectra": "Power spectra before and after preprocessing",
    "training": "Loss and validation rank during training",
    "electrodes": "Positions of the contacts",
}


def _observed(conditions: pd.DataFrame) -> dict[Key, float]:
    keys = zip(conditions["condition"], conditions["audio"], strict=True)
    return dict(zip(keys, conditions["relative_rank"].astype(float), strict=True))


def _located(results: Results) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the first electrodes table that has positions, with whether each contact is used."""
    used: set[str] = set()
    for table in results.channels:
        kept = tolerate(table, ["name", "kept"])
        used |= set(kept.loc[kept["kept"].astype(str).str.lower() == "true", "name"].astype(str))
    for space, table in results.electrodes:
        contacts = tolerate(table, ["name", "x", "y", "z"])
        for axis in "xyz":
            contacts[axis] = pd.to_numeric(contacts[axis], errors="coerce")
        contacts = contacts.dropna(subset=["x", "y", "z"])
        if len(contacts):
            yield space, contacts.assign(used=contacts["name"].astype(str).isin(used))
            return
