"""The group's report, assembled from the group tables on disk."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from bids_speechdecode.bids.files import write_text
from bids_speechdecode.bids.sidecars import read_table
from bids_speechdecode.report import alternatives, figures, methods, tuning
from bids_speechdecode.report.encoding import methods as encoding_methods
from bids_speechdecode.report.encoding.group import (
    encoding_left_out,
    group_encoding_pages,
    read_group_encoding,
)
from bids_speechdecode.report.encoding.participant import asks_for_encoding
from bids_speechdecode.report.encoding.results import Encoding, any_simulated
from bids_speechdecode.report.experiments.pages import group_experiment_pages
from bids_speechdecode.report.figures import condition_label, contrast_label
from bids_speechdecode.report.maps import AnatomyPage, anatomy_pages
from bids_speechdecode.report.page import (
    Missing,
    Picture,
    Table,
    add_picture,
    count,
    entity,
    interval,
    is_simulated,
    make_concluded_table,
    make_table,
    number,
    p_value,
    read_object,
    readable,
    render,
    sentences,
    tolerate,
)
from bids_speechdecode.report.results import settings_file, sorted_conditions

GROUP_COLUMNS = ["n_participants", "ci_low", "ci_high", "p", "p_min", "n_better", "conclusion"]
CONDITION_COLUMNS = ["condition", "audio", "task", "mean_rank", *GROUP_COLUMNS]
CONTRAST_COLUMNS = ["contrast", "audio", "difference", *GROUP_COLUMNS]
PARTICIPANT_COLUMNS = [
    "participant",
    "condition",
    "audio",
    "task",
    "relative_rank",
    "ci_low",
    "ci_high",
    "p_shift",
    "n_train_windows",
    "n_test_windows",
    "target",
    "simulated",
]
OWN_CONTRAST_COLUMNS = ["participant", "contrast", "audio", "difference", "ci_low", "ci_high", "p"]


@dataclass(frozen=True)
class TaskResults:
    """The group tables of one task."""

    task: str
    conditions: pd.DataFrame
    contrasts: pd.DataFrame


@dataclass(frozen=True)
class GroupResults:
    """Everything on disk about the group; what is absent is empty."""

    tasks: tuple[TaskResults, ...]
    participants: pd.DataFrame
    participant_contrasts: pd.DataFrame
    left_out: tuple[tuple[str, str], ...]
    settings: methods.Settings | None


def write_group_report(root: Path, *, command: str) -> Path:
    """Write ``group.html`` and its figures from the group tables under `root`.

    Parameters
    ----------
    root : path
        The derivative dataset.
    command : str
        The command that was typed.

    Returns
    -------
    path
        The report. Tables that are not on disk are named in it, with the step that makes them.
    """
    results = read_group(root)
    report = root / "group.html"
    simulated = is_simulated(root) or _any_true(results.participants["simulated"])
    encoded = read_group_encoding(root)
    simulated |= any_simulated(encoded)
    anatomy = anatomy_pages(root, report, simulated)
    encoding = bool(encoded) or asks_for_encoding(command)
    decoding = bool(results.tasks or len(results.participants) or anatomy) or not encoding
    missing = find_missing(results) if decoding else Missing()
    if decoding and not any("contacts" in page.pictures or page.tables for page in anatomy):
        missing.add("contributions", "group table of contributions", "group level")
    if encoding and not encoded:
        missing.add("encoding", "group table of predicted electrodes", "group level")
    run = encoding_methods.run_settings(_folders(root, encoded))
    level = f"{100 * (run['evaluation']['confidence'] if run else 0.95):g}%"
    pages = group_encoding_pages(root, report, encoded, level, simulated)
    target = tuning.decoded_with(root, results.settings) if decoding else None
    tuned = tuning.with_target(tuning.find_tuned(root, encoded.values(), run), target)
    told = summarise(results) if decoding else []
    told += [tuning.summarise_target(target)] if target else []
    told += [text for page in anatomy for text in page.summary]
    told += [text for page in pages for text in page.summary]
    experiments = group_experiment_pages(root, report, simulated)
    explored = [page.name for page in experiments]
    html = render(
        "group.html",
        title="Group",
        simulated=simulated,
        command=command,
        decoding=decoding,
        encoding=encoding,
        missing=missing.items,
        summary=told or [NO_RESULT],
        anatomy=anatomy,
        tasks=[_task_page(report, task, results, simulated) for task in results.tasks],
        encoding_pages=pages,
        experiments=experiments,
        tuning=tuning.tuning_page(report, root / "figures", "group", tuned, simulated),
        participants=participant_table(results),
        links=_report_links(root, _names(results.participants, encoded)),
        left_out=make_table(["What", "Why"], _left_out(results, encoded, decoding)),
        **encoding_methods.in_template(
            methods.in_template(
                results.settings,
                _electrodes(root, anatomy),
                tuning.describe_target(target),
                explored,
            ),
            encoding_methods.find_encoded(
                encoded, run, tuning=tuning.tuning_in_words(tuned), is_group=True
            )
            if encoded
            else None,
            is_decoded=decoding,
        ),
    )
    write_text(report, html)
    return report


NO_RESULT = "There is no result yet: the group level has not written any tables of encoding."


def _names(participants: pd.DataFrame, encoded: Mapping[str, Encoding]) -> list[str]:
    """Return every participant that a table of the group has, as ``sub-XX``."""
    columns = [participants, *(found.electrodes for found in encoded.values())]
    return sorted({str(name) for table in columns for name in table["participant"].unique()})


def _folders(root: Path, encoded: Mapping[str, Encoding]) -> list[Path]:
    tables = [found.electrodes for found in encoded.values()]
    names = sorted({str(name) for table in tables for name in table["participant"].unique()})
    return [root / name for name in names]


def _left_out(
    results: GroupResults, encoded: Mapping[str, Encoding], decoding: bool
) -> list[tuple[str, str]]:
    """Return who is not in the tables of either analysis, and why."""
    both = decoding and bool(encoded)
    found = list(results.left_out) if decoding else []
    return found + [
        (f"{what} (encoding)" if both else what, why) for what, why in encoding_left_out(encoded)
    ]


def read_group(root: Path) -> GroupResults:
    """Read the group tables, and which participants are not in them."""
    paths = sorted(root.glob("group_task-*_desc-conditions_scores.tsv"))
    tasks = tuple(
        TaskResults(
            entity(path, "task"),
            sorted_conditions(_read(path, CONDITION_COLUMNS), "mean_rank"),
            _read(path.with_name(path.name.replace("conditions", "contrasts")), CONTRAST_COLUMNS),
        )
        for path in paths
    )
    participants = _read(root / "group_desc-participants_scores.tsv", PARTICIPANT_COLUMNS)
    return GroupResults(
        tasks,
        participants,
        _read(root / "group_desc-participantContrasts_scores.tsv", OWN_CONTRAST_COLUMNS),
        tuple(_find_left_out(root, participants)),
        _common_settings(root, participants),
    )


def _read(path: Path, columns: list[str]) -> pd.DataFrame:
    return tolerate(read_table(path), columns) if path.is_file() else pd.DataFrame(columns=columns)


def _find_left_out(root: Path, participants: pd.DataFrame) -> list[tuple[str, str]]:
    """Return what the tables say is left out, and folders of participants that they lack."""
    sidecar = read_object(root / "group_desc-participants_scores.json")
    found = [(str(item.get("what")), str(item.get("why"))) for item in sidecar.get("LeftOut", [])]
    named = {what for what, _ in found} | set(participants["participant"].astype(str))
    folders = sorted(path.name for path in root.glob("sub-*") if path.is_dir())
    return found + [
        (folder, "has a folder but is not in the group tables: run the group level again")
        for folder in folders
        if folder not in named
    ]


def _common_settings(root: Path, participants: pd.DataFrame) -> methods.Settings | None:
    """Return the settings of the participants' latest runs, if all of them agree."""
    found = []
    for name in sorted(participants["participant"].astype(str).unique()):
        if path := settings_file(root / name):
            found.append(methods.read_settings(path))
    for settings in found:
        settings.pop("run", None)  # device and cores may differ without changing the method
    return found[0] if found and all(settings == found[0] for settings in found) else None


def _electrodes(root: Path, anatomy: Sequence[AnatomyPage]) -> methods.Electrodes:
    """Return what the participants' tables of channels say, for the methods section."""
    paths = sorted(root.glob("sub-*/ieeg/sub-*_desc-selected_channels.tsv"))
    own = (path for path in paths if not entity(path, "ses") and not entity(path, "run"))
    is_contributed = any(page.pictures or page.tables for page in anatomy)
    tables = (read_table(path) for path in own)
    return methods.find_electrodes(tables, is_contributed=is_contributed, is_group=True)


def _any_true(column: pd.Series) -> bool:
    return bool((column.astype(str).str.lower() == "true").any())


def find_missing(results: GroupResults) -> Missing:
    """Name every table that is not on disk."""
    missing = Missing()
    if not results.tasks:
        missing.add("conditions", "group table of conditions", "group level")
    if all(task.contrasts.empty for task in results.tasks):
        missing.add("contrasts", "group table of contrasts", "group level")
    if results.participants.empty:
        missing.add("participants", "table of participants", "group level")
    return missing


# What the summary tells of a contrast, with the place of its difference.
MAIN_CONTRASTS = {
    "finetuned-taskonly": "Pretraining changed the mean rank by {} compared with the task data "
    "alone",
    "taskonly-projection": "Spatial attention over the positions of contacts changed the mean rank "
    "by {} compared with a plain projection of channels, both trained on the task data alone",
}


def summarise(results: GroupResults) -> list[str]:
    """Return the result in plain sentences: the finetuned condition and the main contrast."""
    told: list[str] = []
    n = results.participants["participant"].nunique()
    for task in results.tasks:
        own = task.conditions[task.conditions["condition"] != "pretrained"]
        if own.empty:
            continue
        own = own[own["audio"] == "true"] if (own["audio"] == "true").any() else own
        best = own.iloc[int(np.argmin(own["mean_rank"].astype(float)))]
        told.append(
            f"Task {task.task}, {n} participant{'s' if n != 1 else ''}: the best condition was "
            f"“{condition_label(str(best['condition']), str(best['audio']))}”, with a mean "
            f"relative rank of {number(best['mean_rank'])} (chance 0.500, best 0)."
        )
        told += _conclude(str(best["conclusion"]), told)
        same_audio = task.contrasts[task.contrasts["audio"] == best["audio"]]
        for contrast, words in MAIN_CONTRASTS.items():
            for row in same_audio[same_audio["contrast"] == contrast].to_dict("records"):
                told.append(f"{words.format(number(row['difference']))} (negative: better).")
                told += _conclude(named_conclusion(row), told)
    return told or ["There is no result yet: the group level has not written any tables."]


def _conclude(conclusion: str, told: list[str]) -> list[str]:
    """Return a conclusion as sentences, without what was told before but for its numbers."""
    if conclusion in ("", "nan", "None"):
        return []
    before = {without_brackets(sentence) for text in told for sentence in sentences(text)}
    new = [s for s in sentences(readable(conclusion)) if without_brackets(s) not in before]
    text = " ".join(new)
    return [text[0].upper() + text[1:] + ("" if text.endswith(".") else ".")] if text else []


def without_brackets(text: str) -> str:
    """Return a sentence without what it says in brackets."""
    return re.sub(r" *\([^)]*\)", "", text)


def named_conclusion(row: Mapping[Any, Any]) -> str:
    """Return what was concluded about a contrast, with its conditions as the page calls them."""
    text = "" if pd.isna(row["conclusion"]) else str(row["conclusion"]).strip()
    for name in str(row["contrast"]).split("-"):
        text = re.sub(rf"\b{re.escape(name)}\b", f"“{condition_label(name)}”", text)
    return text


# ---------------------------------------------------------------------------- tables


def participant_table(results: GroupResults) -> Table:
    """Return one row per participant: the rank in every task condition with the true audio."""
    rows = results.participants[results.participants["condition"] != "pretrained"]
    rows = rows[rows["audio"] == "true"] if (rows["audio"] == "true").any() else rows
    conditions = sorted(rows["condition"].unique(), key=figures.condition_order)
    body = []
    for name, own in rows.groupby("participant", sort=True):
        ranks = own.drop_duplicates("condition").set_index("condition")["relative_rank"]
        cells = (number(ranks.get(condition)) for condition in conditions)
        body.append((str(name), count(own["n_test_windows"].max()), *cells))
    columns = ["Participant", "Test windows", *(condition_label(c) for c in conditions)]
    return make_table(columns, body, columns[1:])


def _report_links(root: Path, names: Sequence[str]) -> list[str]:
    """Return the participants' reports that lie beside the group's."""
    return [f"{name}.html" for name in names if (root / f"{name}.html").is_file()]


def _test_table(table: pd.DataFrame, what: str, value: str, labels: list[str]) -> Table:
    columns = [what, "n", value, "95% CI", "p", "Smallest possible p", "Alone"]
    records = table.to_dict("records")
    rows = [
        (
            label,
            count(row["n_participants"]),
            number(row["mean_rank"] if "mean_rank" in row else row["difference"]),
            interval(row["ci_low"], row["ci_high"]),
            p_value(row["p"]),
            p_value(row["p_min"]),
            f"{count(row['n_better'])} of {count(row['n_participants'])}",
        )
        for label, row in zip(labels, records, strict=True)
    ]
    conclusions = [
        named_conclusion(row)
        if "contrast" in row
        else ("" if pd.isna(row["conclusion"]) else str(row["conclusion"]))
        for row in records
    ]
    return make_concluded_table(columns, rows, conclusions, columns[1:])


def _task_page(
    report: Path, task: TaskResults, results: GroupResults, simulated: bool
) -> Mapping[str, Any]:
    """Return the tables and figures of one task."""
    conditions, contrasts = task.conditions, task.contrasts
    condition_labels = [
        condition_label(str(c), str(a))
        for c, a in zip(conditions["condition"], conditions["audio"], strict=True)
    ]
    contrast_labels = [
        contrast_label(str(c), str(a))
        for c, a in zip(contrasts["contrast"], contrasts["audio"], strict=True)
    ]
    return {
        "task": task.task,
        "conditions": _test_table(conditions, "Condition", "Mean rank", condition_labels),
        "contrasts": _test_table(contrasts, "Contrast", "Difference", contrast_labels),
        "pictures": _draw(report, task, results, simulated),
    }


def _draw(
    report: Path, task: TaskResults, results: GroupResults, simulated: bool
) -> dict[str, Picture]:
    drawn: dict[str, tuple[Figure, str]] = {}
    if len(task.conditions) and len(results.participants):
        own_rows = task.conditions[["condition", "audio", "task"]]
        shown = results.participants.merge(own_rows, on=["condition", "audio", "task"])
        words = alternatives.conditions(task.conditions, "mean_rank")
        drawn["conditions"] = figures.group_ranks(shown, task.conditions), words
    if len(task.contrasts):
        own = results.participant_contrasts
        if "task" in own:
            own = own[own["task"].astype(str) == task.task]
        words = alternatives.contrasts(task.contrasts)
        drawn["contrasts"] = figures.group_contrasts(own, task.contrasts), words
    titles = {
        "conditions": "Mean relative rank of every participant in every condition",
        "contrasts": "Differences between conditions in every participant",
    }
    return {
        name: add_picture(
            report,
            report.parent / "figures",
            f"group_task-{task.task}_desc-{name}",
            figure,
            titles[name],
            simulated,
            words,
        )
        for name, (figure, words) in drawn.items()
    }
