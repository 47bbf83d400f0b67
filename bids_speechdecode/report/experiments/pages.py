"""The experiments of a participant, and of the group, as sections of their reports."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from bids_speechdecode.bids.sidecars import read_sidecar, read_table
from bids_speechdecode.group.experiments import RANK, read_findings
from bids_speechdecode.report.experiments.amounts import FINETUNE_SIZE, SCALING
from bids_speechdecode.report.experiments.arms import ENCODERS, TARGETS
from bids_speechdecode.report.experiments.controls import CONTROLS
from bids_speechdecode.report.experiments.daynight import DAY_NIGHT
from bids_speechdecode.report.experiments.drift import DRIFT
from bids_speechdecode.report.experiments.findings import draw_findings, signed
from bids_speechdecode.report.experiments.pooled import POOLED
from bids_speechdecode.report.experiments.shown import Shown, Tables
from bids_speechdecode.report.experiments.transfer import TRANSFER
from bids_speechdecode.report.figures import MINUS
from bids_speechdecode.report.page import (
    Picture,
    Table,
    add_picture,
    count,
    interval,
    make_table,
    number,
    p_phrase,
    p_value,
    readable,
    several,
    share_sentences,
)

# By the word of the file names, in the order of the page.
SHOWN: Mapping[str, Shown] = {
    "scaling": SCALING,
    "finetunesize": FINETUNE_SIZE,
    "targets": TARGETS,
    "encoders": ENCODERS,
    "pooled": POOLED,
    "controls": CONTROLS,
    "transfer": TRANSFER,
    "daynight": DAY_NIGHT,
    "drift": DRIFT,
}
_OWN_CAPTION = (
    "Effects with their intervals. Of mean relative ranks, left of 0 is better, or what is named "
    "first."
)
_SAME = "the same to three decimals"
_GROUP_CAPTION = (
    "Of mean relative ranks, left of 0 is better, or what is named first. Points: participants; "
    "diamonds: mean over participants with its interval (none below three)."
)


@dataclass(frozen=True)
class ExperimentPage:
    """What a report shows of one experiment.

    Attributes
    ----------
    name, title : str
    results : str
        The paragraph of results.
    others : tuple of str
        Findings that are not in it.
    notes : str
        What was left out, and why.
    pictures : tuple of (Picture, str)
        Each with its caption.
    table : Table
        One row a model and what it was tested on; over participants, one row a finding.
    """

    name: str
    title: str
    results: str
    others: tuple[str, ...]
    notes: str
    pictures: tuple[tuple[Picture, str], ...]
    table: Table


def experiment_pages(
    report: Path, folder: Path, name: str, simulated: bool
) -> list[ExperimentPage]:
    """Return what a participant's report shows of experiments, in their order.

    Parameters
    ----------
    report : path
        The report that is written.
    folder : path
        With the participant's tables.
    name : str
        ``sub-XX``.
    simulated : bool
        Whether the figures say that the data are simulated.
    """
    pages = []
    for word, shown in SHOWN.items():
        for path in sorted(folder.glob(f"*_desc-{word}_scores.tsv")):
            tables = _read_tables(path, word)
            drawn = [(f.name, f.title, f.draw(tables), f.caption) for f in shown.figures]
            if len(tables.get("Findings", ())):
                figure = draw_findings(tables["Findings"])
                drawn.append(("findings", "Findings", figure, _OWN_CAPTION))
            pictures = tuple(
                (
                    add_picture(
                        report,
                        report.parent / name / "figures",
                        f"{name}_desc-{word}{figure_name.capitalize()}",
                        figure,
                        title,
                        simulated,
                        _describe(tables[""]),
                    ),
                    caption,
                )
                for figure_name, title, figure, caption in drawn
                if figure is not None
            )
            findings = tables["Findings"].to_dict("records")
            told = {row["text"] for row in findings}
            notes = [note for note in read_sidecar(path).get("Text", ()) if note not in told]
            texts = [row["text"] for row in findings]
            page = _tell(findings, [print_text(text) for text in texts])
            pages.append(
                ExperimentPage(
                    word,
                    shown.title,
                    *page,
                    print_text(" ".join(notes)),
                    pictures,
                    _models_table(tables[""], shown),
                )
            )
    return pages


def _tell(
    findings: Sequence[Mapping[Any, Any]], texts: Sequence[str]
) -> tuple[str, tuple[str, ...]]:
    """Return the paragraph of results, and what is not in it."""
    pairs = list(zip(findings, texts, strict=True))
    main = [text for finding, text in pairs if not finding["aside"]]
    return " ".join(main), tuple(text for finding, text in pairs if finding["aside"])


def print_text(text: str) -> str:
    """Return a sentence of a sidecar as a page prints it.

    Examples
    --------
    >>> print_text("p <= 0.05, interval -0.1 to 0.2, low-rank")
    'p ≤ 0.05, interval −0.1 to 0.2, low-rank'
    """
    return re.sub(r"(?<![\w.])-(?=\d)", MINUS, readable(text))


def _read_tables(path: Path, word: str) -> Tables:
    """Return the tables of an experiment of a participant, by the word that follows its name."""
    start, end = path.name.split(f"_desc-{word}_")
    files = {
        p.name.removeprefix(f"{start}_desc-{word}").removesuffix(f"_{end}"): p
        for p in path.parent.glob(f"{start}_desc-{word}*_{end}")
    }
    tables = {name: read_table(p) for name, p in files.items()}
    return tables | {"Findings": read_findings(files["Findings"])}


def _describe(table: pd.DataFrame) -> str:
    ranks = table["relative_rank"].dropna()
    return (
        f"{len(table)} models with mean relative ranks from {number(ranks.min())} to "
        f"{number(ranks.max())}; chance is 0.500."
    )


def _models_table(table: pd.DataFrame, shown: Shown) -> Table:
    known = {column: label for column, label in shown.columns.items() if column in table}
    columns = [*known.values(), "Training windows", "Test windows", "Rank", "CI", "p"]
    rows = [
        (
            *(_spell(row[column], shown.words) for column in known),
            count(row["n_train_windows"]),
            count(row["n_test_windows"]),
            number(row["relative_rank"]),
            interval(row["ci_low"], row["ci_high"]),
            number(row.get("p_shift")),
        )
        for row in table.to_dict("records")
    ]
    return make_table(columns, rows, columns[len(known) :])


def _spell(value: Any, words: Mapping[str, str]) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return words.get(str(value).lower(), str(value))


# ------------------------------------------------------------------------------------ the group


def group_experiment_pages(root: Path, report: Path, simulated: bool) -> list[ExperimentPage]:
    """Return what the group's report shows of experiments: every finding over participants.

    Parameters
    ----------
    root : path
        The derivative dataset.
    report : path
        The report that is written.
    simulated : bool
        Whether the figures say that the data are simulated.
    """
    pages = []
    for word, shown in SHOWN.items():
        for path in sorted(root.glob(f"group_task-*_desc-{word}Findings_scores.tsv")):
            table = read_findings(path)
            own = _own_effects(root, read_sidecar(path).get("Participants", ()), path)
            picture = add_picture(
                report,
                report.parent / "figures",
                f"group_desc-{word}",
                draw_findings(table, own),
                shown.title,
                simulated,
                f"{several(len(table), 'finding')} in "
                f"{several(own['participant'].nunique(), 'participant')}.",
            )
            rows = table.to_dict("records")
            shared = share_sentences([readable(row["conclusion"]) for row in rows])[0]
            results, others = _tell(rows, [_say_mean(row) for row in rows])
            pages.append(
                ExperimentPage(
                    word,
                    shown.title,
                    f"{shared} {results}".strip(),
                    others,
                    "",
                    ((picture, _GROUP_CAPTION),),
                    _group_table(table),
                )
            )
    return pages


def _say_mean(row: Mapping[Any, Any]) -> str:
    """Return a finding over participants as a sentence."""
    n, effect = int(row["n_participants"]), row["effect"]
    if row["unit"] == RANK:
        change, own = "lower (better)" if effect < 0 else "higher (worse)", "better"
        is_named = row.get("second") != "chance" or "chance" in row["name"]
        size = f"{number(abs(effect))} {change}{'' if is_named else ' than chance'}"
        mean = f"the mean relative rank was {size if abs(effect) >= 0.0005 else _SAME}"
    else:
        mean, own = f"{signed(effect)} ({row['unit']})", "above 0"
    how = [f"n = {several(n, 'participant')}", f"{own} in {int(row['n_better'])} on their own"]
    if not pd.isna(row["ci_low"]):
        how = [f"CI {interval(row['ci_low'], row['ci_high'])}", p_phrase(row["p"]), *how]
    return f"{_start(row['name'])}: {mean}; {', '.join(how)}."


def _start(name: str) -> str:
    """Return a name as it begins a sentence."""
    return name[:1].upper() + name[1:]


def _own_effects(root: Path, participants: Sequence[str], path: Path) -> pd.DataFrame:
    """Return the findings of every participant whose table is there."""
    name = path.name.removeprefix("group_")
    files = {who: root / who / "ieeg" / f"{who}_{name}" for who in participants}
    tables = [read_table(f).assign(participant=w) for w, f in files.items() if f.is_file()]
    columns = ["participant", "name", "effect"]
    return pd.concat(tables) if tables else pd.DataFrame(columns=columns)


def _group_table(table: pd.DataFrame) -> Table:
    columns = ["Finding", "Participants", "Effect", "CI", "p", "On their own"]
    rows = [
        (
            str(row["name"]),
            count(row["n_participants"]),
            signed(row["effect"]),
            interval(row["ci_low"], row["ci_high"]),
            p_value(row["p"]),
            count(row["n_better"]),
        )
        for row in table.to_dict("records")
    ]
    return make_table(columns, rows, columns[1:])
