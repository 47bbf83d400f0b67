"""Experiments over participants: every finding of theirs, with the participant as the unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bids_speechdecode.bids.derivatives import Derivatives
from bids_speechdecode.bids.files import write_tsv
from bids_speechdecode.bids.sidecars import fingerprint, read_table, signature, write_sidecar
from bids_speechdecode.config import EXPERIMENTS, EvaluationConfig
from bids_speechdecode.group.statistics import (
    GroupResult,
    difference_over_participants,
    measure_over_participants,
)

VERSION = 2
RANK = "relative rank"  # unit of effects of which the negative is better
Sources = Mapping[str, Path]  # of each participant, "sub-01"
_WORDS = {"zero-shot": "transfer"}  # files of the condition "zeroshot" have that word already


def experiment_word(name: str) -> str:
    """Return an experiment's name as it stands in file names.

    Examples
    --------
    >>> experiment_word("finetune-size")
    'finetunesize'
    """
    return _WORDS.get(name, name.replace("-", ""))


def list_findings(root: Path, participants: Sequence[str], task: str) -> dict[str, dict[str, Path]]:
    """Return the tables of findings by experiment and participant ("sub-01")."""
    found: dict[str, dict[str, Path]] = {}
    for name in EXPERIMENTS:
        desc = f"{experiment_word(name)}Findings"
        for label in participants:
            sub = f"sub-{label}"
            path = root / sub / "ieeg" / f"{sub}_task-{task}_desc-{desc}_scores.tsv"
            if path.is_file():
                found.setdefault(name, {})[sub] = path
    return found


def read_findings(path: Path) -> pd.DataFrame:
    """Return a table of findings; in one of an earlier version, none is aside."""
    table = read_table(path)
    return table if "aside" in table else table.assign(aside=False)


def summarise_findings(
    sources: Sources, settings: EvaluationConfig, rng: np.random.Generator
) -> pd.DataFrame:
    """Return one row a finding: its effect over participants.

    The test is the sign-flip test over participants; what they differ by within themselves enters
    only through their effects.
    """
    tables = [read_findings(path).assign(participant=who) for who, path in sources.items()]
    every = pd.concat(tables, ignore_index=True)
    rows = []
    for name, part in every.groupby("name", sort=False):
        known = part.dropna(subset=["effect"])
        if not len(known):
            continue
        result = _test(str(name), known, settings, rng)
        same = {column: known[column].iloc[0] for column in ("second", "unit", "aside")}
        rows.append({"name": name, **same, **asdict(result)})
    return pd.DataFrame(rows).rename(columns={"mean": "effect"})


def _test(
    name: str, findings: pd.DataFrame, settings: EvaluationConfig, rng: np.random.Generator
) -> GroupResult:
    values, p_values = findings["effect"], findings["p"]
    how: dict[str, Any] = {
        "confidence": settings.confidence,
        "n_samples": settings.n_permutations,
        "rng": rng,
    }
    if findings["unit"].iloc[0] != RANK:
        return measure_over_participants(values, p_values, name=name, **how)
    first, second = (str(findings[side].iloc[0]) for side in ("first", "second"))
    return difference_over_participants(values, p_values, first=first, second=second, **how)


def write_findings(
    out: Derivatives,
    task: str,
    name: str,
    table: pd.DataFrame,
    sources: Sources,
    settings: EvaluationConfig,
) -> None:
    """Write the group's table of one experiment."""
    desc = f"{experiment_word(name)}Findings"
    path = out.group_path(task=task, desc=desc, suffix="scores", extension=".tsv")
    write_tsv(path, table)
    inputs = [fingerprint(source) for source in sources.values()]
    write_sidecar(
        path,
        step="group",
        signature=signature("group", VERSION, settings, inputs),
        Description=f"Experiment {name} over participants: one row a finding",
        Participants=list(sources),
    )
