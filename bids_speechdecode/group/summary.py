"""The group level: collect every participant's tables, test over participants, write tables.

Reads derivatives only. A participant whose tables are absent or unusable is named and left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from bids_speechdecode.bids.derivatives import Derivatives
from bids_speechdecode.bids.files import write_tsv
from bids_speechdecode.bids.sidecars import fingerprint, read_table, signature, write_sidecar
from bids_speechdecode.config import EvaluationConfig
from bids_speechdecode.errors import DataError, MissingInputError
from bids_speechdecode.group.statistics import (
    GroupResult,
    difference_over_participants,
    rank_against_chance,
)

VERSION = 1

_NEEDED = {
    "conditions": ("condition", "audio", "task", "relative_rank", "p_shift", "target", "simulated"),
    "contrasts": ("contrast", "audio", "difference", "p"),
}
_KEYS = {"conditions": ["condition", "audio", "task"], "contrasts": ["contrast", "audio"]}
_VALUE = {"conditions": "relative_rank", "contrasts": "difference"}
# Ranks of participants who differ in one of these are not the same measure.
_SAME_FOR_ALL = ("target", "pooling", "simulated")

_COLUMNS = {
    "n_participants": "Participants with this row",
    "mean_rank": "Mean over participants of the mean relative rank; 0 best, 0.5 chance, 1 worst",
    "difference": "Mean over participants of the difference in mean relative rank, first minus "
    "second condition; negative: the first is better",
    "ci_low": "Lower limit of Student's t interval over participants; n/a below three",
    "ci_high": "Upper limit",
    "p": "Sign-flip test over participants (exact up to 14): conditions one-sided against chance, "
    "contrasts two-sided; not corrected for the number of rows",
    "p_min": "Smallest p that this number of participants can give",
    "n_better": "Participants in whom the effect holds on their own (conditions: time-shift test; "
    "contrasts: block test, first condition better)",
    "conclusion": "What may be concluded",
}


@dataclass(frozen=True)
class LeftOut:
    """What the group tables do not contain, and why."""

    what: str
    why: str


@dataclass(frozen=True)
class GroupSummary:
    """All that the group level knows.

    Attributes
    ----------
    conditions, contrasts : dict of task to data frame
        Group tables: one row per condition (contrast) and audio version.
    participants, participant_contrasts : data frame
        Every participant's rows, column `participant` ("sub-01") first.
    left_out : tuple of LeftOut
    sources : tuple of path
        The tables that were read.
    """

    conditions: dict[str, pd.DataFrame]
    contrasts: dict[str, pd.DataFrame]
    participants: pd.DataFrame
    participant_contrasts: pd.DataFrame
    left_out: tuple[LeftOut, ...]
    sources: tuple[Path, ...]

    @property
    def simulated(self) -> bool:
        """Whether the results are of simulated data."""
        return bool(_is_true(self.participants["simulated"]).any())


def summarise_group(
    root: Path,
    participants: Sequence[str],
    settings: EvaluationConfig,
    rng: np.random.Generator,
) -> GroupSummary:
    """Return the group tables made from the participants' tables under `root`.

    Parameters
    ----------
    root : path
        Folder of the derivatives.
    participants : sequence of str
        Labels without "sub-", in the order of the tables. One without results is left out.
    settings : EvaluationConfig
    rng : numpy.random.Generator
        Used where there are too many participants for an exact test.

    Raises
    ------
    MissingInputError
        None of the participants has usable results.
    DataError
        Participants were decoded with different targets.
    """
    conditions, contrasts, left_out, sources = _collect(root, participants)
    if conditions.empty:
        raise _nobody(root, left_out)
    _require_same_measure(conditions)
    return GroupSummary(
        conditions=_group_tables(
            conditions, "conditions", lambda rows: _test_rank(rows, settings, rng)
        ),
        contrasts=_group_tables(
            contrasts, "contrasts", lambda rows: _test_difference(rows, settings, rng)
        ),
        participants=conditions.drop(columns="file_task"),
        participant_contrasts=contrasts.rename(columns={"file_task": "task"}),
        left_out=tuple(left_out),
        sources=tuple(sources),
    )


def write_group(out: Derivatives, summary: GroupSummary, settings: EvaluationConfig) -> list[Path]:
    """Write the group tables with their sidecars; return the paths of the tables."""
    key = signature("group", VERSION, settings, [fingerprint(path) for path in summary.sources])
    tables = {
        out.group_path(task=task, desc=desc, suffix="scores", extension=".tsv"): table
        for desc, by_task in (("conditions", summary.conditions), ("contrasts", summary.contrasts))
        for task, table in by_task.items()
    }
    rows = {
        "participants": summary.participants,
        "participantContrasts": summary.participant_contrasts,
    }
    for desc, table in rows.items():
        tables[out.group_path(desc=desc, suffix="scores", extension=".tsv")] = table
    for path, table in tables.items():
        write_tsv(path, table)
        write_sidecar(
            path,
            step="group",
            signature=key,
            Columns={name: text for name, text in _COLUMNS.items() if name in table},
            LeftOut=[asdict(item) for item in summary.left_out],
            Simulated=summary.simulated,
        )
    return list(tables)


def _collect(
    root: Path, participants: Sequence[str]
) -> tuple[pd.DataFrame, pd.DataFrame, list[LeftOut], list[Path]]:
    """Return all rows of conditions and of contrasts, what is left out, and the paths read."""
    left_out: list[LeftOut] = []
    tables: dict[str, list[pd.DataFrame]] = {"conditions": [], "contrasts": []}
    sources: list[Path] = []
    for participant in participants:
        try:
            found = list(_read_participant(root, participant))
        except DataError as error:
            left_out.append(LeftOut(f"sub-{participant}", " ".join(str(error).split())))
            continue
        if not any(kind == "conditions" for kind, _, _ in found):
            left_out.append(LeftOut(f"sub-{participant}", "no results: not run, or run failed"))
            continue
        for kind, path, table in found:
            sources.append(path)
            tables[kind].append(_drop_missing(table, kind, left_out))
    conditions, contrasts = (_join(tables[kind], kind) for kind in _NEEDED)
    return conditions, contrasts, left_out, sources


def _join(tables: Sequence[pd.DataFrame], kind: str) -> pd.DataFrame:
    filled = [table for table in tables if len(table)]
    if not filled:
        return pd.DataFrame(columns=["participant", *_NEEDED[kind], "file_task"])
    return pd.concat(filled, ignore_index=True)


def _read_participant(root: Path, participant: str) -> Iterator[tuple[str, Path, pd.DataFrame]]:
    """Yield the kind, path and content of each of a participant's tables."""
    folder = root / f"sub-{participant}" / "ieeg"
    for kind in _NEEDED:
        for path in sorted(folder.glob(f"sub-{participant}_task-*_desc-{kind}_scores.tsv")):
            task = re.search(r"_task-([A-Za-z0-9+]+)_", path.name)
            if not task:
                continue
            table = _read_table(path, kind)
            table.insert(0, "participant", f"sub-{participant}")
            yield kind, path, table.assign(file_task=task.group(1))


def _read_table(path: Path, kind: str) -> pd.DataFrame:
    """Return a table of scores, or raise DataError saying what is wrong with it."""
    table = read_table(path)
    if kind == "contrasts" and not len(table.columns):
        return pd.DataFrame(columns=list(_NEEDED[kind]))
    missing = [name for name in _NEEDED[kind] if name not in table]
    if missing and not (kind == "contrasts" and table.empty):
        raise DataError(
            "A table of scores lacks columns.",
            expected=", ".join(_NEEDED[kind]),
            found=f"no {', '.join(missing)}",
            where=path,
            fix="run the participant level again",
        )
    repeated = table[table.duplicated(_KEYS[kind])] if len(table) else table
    if len(repeated):
        raise DataError(
            "A table of scores has a row twice.",
            found=" ".join(map(str, repeated.iloc[0][_KEYS[kind]])),
            where=path,
        )
    for name in (_VALUE[kind], _NEEDED[kind][-1] if kind == "contrasts" else "p_shift"):
        if len(table) and not pd.api.types.is_numeric_dtype(table[name]):
            raise DataError(f"Column {name} holds text.", expected="numbers", where=path)
    return table


def _drop_missing(table: pd.DataFrame, kind: str, left_out: list[LeftOut]) -> pd.DataFrame:
    """Return the rows that have a value; name the others."""
    absent = table[_VALUE[kind]].isna()
    for row in table[absent].to_dict("records"):
        name = " ".join(str(row[key]) for key in ("participant", *_KEYS[kind]))
        left_out.append(LeftOut(name, f"its {_VALUE[kind]} is n/a"))
    return table[~absent]


def _nobody(root: Path, left_out: Sequence[LeftOut]) -> MissingInputError:
    return MissingInputError(
        "There are no participants' results to summarise.",
        expected="sub-*/ieeg/sub-*_task-*_desc-conditions_scores.tsv",
        found="; ".join(f"{item.what}: {item.why}" for item in left_out) or "no participants",
        where=root,
        fix="run the participant level first: bids_speechdecode BIDS_DIR OUTPUT_DIR participant",
    )


def _require_same_measure(conditions: pd.DataFrame) -> None:
    """Raise DataError where participants of one task were decoded with different targets."""
    for name in (column for column in _SAME_FOR_ALL if column in conditions):
        for task, rows in conditions.groupby("file_task"):
            who = rows.groupby(rows[name].astype(str))["participant"].unique()
            if len(who) > 1:
                raise DataError(
                    f"The participants' results for task {task} cannot be put together.",
                    expected=f"the same {name} for all",
                    found="; ".join(f"{value}: {', '.join(names)}" for value, names in who.items()),
                    fix="run those participants again with the same settings, or leave them out "
                    "with --exclude-participant-label",
                )


def _group_tables(
    rows: pd.DataFrame, kind: str, test: Callable[[pd.DataFrame], GroupResult]
) -> dict[str, pd.DataFrame]:
    """Return for each task the table of tests over participants, in the participants' order."""
    mean_name = {"conditions": "mean_rank", "contrasts": "difference"}[kind]
    tables: dict[str, pd.DataFrame] = {}
    for task, of_task in rows.groupby("file_task", sort=False):
        results = [
            {**dict(zip(_KEYS[kind], keys, strict=True)), **asdict(test(same))}
            for keys, same in of_task.groupby(_KEYS[kind], sort=False)
        ]
        tables[str(task)] = pd.DataFrame(results).rename(columns={"mean": mean_name})
    return tables


def _test_rank(
    rows: pd.DataFrame, settings: EvaluationConfig, rng: np.random.Generator
) -> GroupResult:
    return rank_against_chance(
        rows["relative_rank"],
        rows["p_shift"],
        confidence=settings.confidence,
        n_samples=settings.n_permutations,
        rng=rng,
    )


def _test_difference(
    rows: pd.DataFrame, settings: EvaluationConfig, rng: np.random.Generator
) -> GroupResult:
    first, _, second = str(rows["contrast"].iloc[0]).partition("-")
    return difference_over_participants(
        rows["difference"],
        rows["p"],
        first=first,
        second=second,
        confidence=settings.confidence,
        n_samples=settings.n_permutations,
        rng=rng,
    )


def _is_true(column: pd.Series) -> pd.Series:
    return column.astype(str).str.lower() == "true"
