"""What is on disk about one participant; whatever is absent is empty."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bids_speechdecode.bids.sidecars import read_table
from bids_speechdecode.group.contributions import why_stale
from bids_speechdecode.report import figures, methods
from bids_speechdecode.report.electrode_tables import (
    CONTRIBUTION_COLUMNS,
    SELECTED_COLUMNS,
    Described,
    read_described,
)
from bids_speechdecode.report.figures import Key
from bids_speechdecode.report.page import entity, only_finite, read_object, tolerate

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

# The command of a run that computes nothing.
_ONLY_REPORTS = re.compile(r"--reports-only|--steps[ =]+report(?=\s|$)")


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
    selections: Mapping[str, Described]
    contributions: Mapping[str, Described]
    unfit: Mapping[str, str]  # by section of the report: what is on disk but does not belong
    environment: Mapping[str, Any]
    settings: methods.Settings | None
    settings_text: str
    log_lines: tuple[str, ...]


def latest_log(folder: Path) -> Path | None:
    """Return the folder of a participant's latest run; their names sort by time."""
    runs = sorted(path for path in (folder / "log").glob("*") if path.is_dir())
    return runs[-1] if runs else None


def settings_file(
    folder: Path, log_dir: Path | None = None, analysis: str = "decoding"
) -> Path | None:
    """Return the settings with which a participant's results of an analysis were computed.

    A run that only writes reports computes nothing, so its settings describe nothing: those of the
    latest run before it do, and first of all those of a run of the same analysis. `log_dir` is
    where to look where no run of `folder` has settings.
    """
    runs = sorted(path.parent for path in (folder / "log").glob("*/config.toml"))
    computed = [run for run in runs if _computed(run)]
    own = [run for run in computed if _analysis(run) == analysis]
    found = [*([log_dir] if log_dir else []), *runs, *computed, *own]
    return found[-1] / "config.toml" if found else None


def _analysis(run: Path) -> str:
    """Return which analysis the command of a run asked for."""
    typed = re.search(r"--analysis[ =]+(\S+)", _read_text(run / "command.txt"))
    return typed[1] if typed else "decoding"


def log_file(folder: Path, log_dir: Path | None = None) -> Path | None:
    """Return the log of a participant's latest run that computed something.

    Where no such run has logged anything, it is that of the latest run, or of `log_dir`.
    """
    runs = sorted(p for p in (folder / "log").glob("*/log.txt") if p.stat().st_size)
    own = [log_dir / "log.txt"] if log_dir else []
    found = [*own, *runs, *(path for path in runs if _computed(path.parent))]
    return found[-1] if found else None


def _computed(run: Path) -> bool:
    """Return whether the command of a run asked for more than to write reports."""
    return _ONLY_REPORTS.search(_read_text(run / "command.txt")) is None


def read_results(folder: Path, log_dir: Path | None) -> Results:
    """Read what there is under ``sub-XX`` and in the folder of its log."""
    files = sorted(path for path in folder.rglob("sub-*") if path.is_file())
    log = log_dir or folder / "log" / "none"
    settings_path = settings_file(folder, log_dir) or log / "config.toml"
    settings = methods.read_settings(settings_path) if settings_path.is_file() else None
    log_path = log_file(folder, log_dir)
    selections = _read_electrodes(folder, "selected", SELECTED_COLUMNS)
    contributions = _read_electrodes(folder, "contrib", CONTRIBUTION_COLUMNS)
    stale = {task: why for task in contributions if (why := _why_stale(folder, task))}
    return Results(
        plan=next((read_object(p) for p in files if p.name.endswith("desc-plan_windows.json")), {}),
        conditions=sorted_conditions(
            _join(files, "desc-conditions_scores.tsv", SCORE_COLUMNS), "relative_rank"
        ),
        contrasts=_join(files, "desc-contrasts_scores.tsv", CONTRAST_COLUMNS),
        score_notes=tuple(_read_score_notes(files)),
        ranks=_read_ranks(files),
        draws=_read_draws(files),
        histories=_read_histories(files),
        spectra=tuple(
            (entity(path, "task"), tolerate(read_table(path), ["frequency", "before", "after"]))
            for path in _ending(files, f"_desc-{_signal(settings)}_spectra.tsv")
        ),
        selections=selections,
        contributions={t: found for t, found in contributions.items() if t not in stale},
        unfit=_unfit(folder, selections, stale),
        environment=read_object(log / "environment.json"),
        settings=settings,
        settings_text=_read_text(settings_path),
        log_lines=tuple(_read_text(log_path).splitlines()) if log_path else (),
    )


def _signal(settings: methods.Settings | None) -> str:
    """Return the description of the signal of which the spectra are shown."""
    is_fast = settings is not None and settings["preprocess"]["band"] == "highgamma"
    return "preprocHighgamma" if is_fast else "preproc"


def _why_stale(folder: Path, task: str) -> str:
    name = f"{folder.name}_task-{task}_desc-contrib_channels.tsv"
    return why_stale(folder / "ieeg" / name)


def _unfit(
    folder: Path, selections: Mapping[str, Described], stale: Mapping[str, str]
) -> dict[str, str]:
    """Return, by section of the report, what on disk does not belong to the rest."""
    others = {task: _models_of_others(folder, task, found) for task, found in selections.items()}
    selection = [
        f"Task {task}: the channels selected now are not those that the models on disk read "
        f"({', '.join(models)}), so the scores belong to other channels: run steps 'pretrain', "
        "'finetune' and 'evaluate' again."
        for task, models in others.items()
        if models
    ]
    contributions = [
        f"Task {task}: contributions are on disk but not shown: {why}."
        for task, why in stale.items()
    ]
    found = {"selection": " ".join(selection), "contributions": " ".join(contributions)}
    return {section: text for section, text in found.items() if text}


def _models_of_others(folder: Path, task: str, selection: Described) -> list[str]:
    """Return the models of a task that were trained on other channels than those kept."""
    table = selection.table
    kept = table.loc[table["kept"], "name"].tolist()
    paths = sorted((folder / "ieeg").glob(f"{folder.name}_task-{task}_desc-*_model.json"))
    found = {entity(path, "desc"): read_object(path).get("Channels") for path in paths}
    return [model for model, channels in found.items() if channels not in (None, kept)]


def _ending(files: list[Path], ending: str) -> list[Path]:
    return [path for path in files if path.name.endswith(ending)]


def _read_electrodes(folder: Path, desc: str, columns: list[str]) -> dict[str, Described]:
    """Return the participant's table of each task with its sidecar; none of single recordings."""
    pattern = re.compile(rf"{re.escape(folder.name)}_task-[^_]+_desc-{desc}_channels\.tsv")
    paths = sorted(p for p in (folder / "ieeg").glob("*.tsv") if pattern.fullmatch(p.name))
    return {entity(path, "task"): read_described(path, read_table(path), columns) for path in paths}


def _read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _join(files: list[Path], ending: str, columns: list[str]) -> pd.DataFrame:
    tables = [tolerate(read_table(path), columns) for path in _ending(files, ending)]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)


def sorted_conditions(table: pd.DataFrame, value: str) -> pd.DataFrame:
    """Return the rows that have a `value`: task with true audio, then ambient, then pretraining."""
    table = only_finite(table, value)
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


def best_condition(conditions: pd.DataFrame) -> pd.Series | None:
    """Return the row of the lowest rank on the task's windows, with the true audio if any."""
    task = conditions[conditions["condition"] != "pretrained"]
    task = task if (task["audio"] == "true").sum() == 0 else task[task["audio"] == "true"]
    return None if task.empty else task.iloc[int(np.argmin(task["relative_rank"].astype(float)))]


def confidence(results: Results) -> float:
    """Return the level of the confidence intervals, as set for the run."""
    return results.settings["evaluation"]["confidence"] if results.settings else 0.95
