"""Experiments over participants: every finding of theirs, with the participant as the unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from bids_speechdecode.bids.derivatives import Derivatives
from bids_speechdecode.bids.files import write_tsv
from bids_speechdecode.bids.sidecars import fingerprint, read_table, signature, write_sidecar
from bids_speechdecode.config import EXPERIMENTS, EvaluationConfig
from bids_speechdecode.group.statistics import difference_over_participants

VERSION = 1
Sources = Mapping[str, Path]  # of each participant, "sub-01"


def experiment_word(name: str) -> str:
    """Return an experiment's name as it stands in file names.

    Examples
    --------
    >>> experiment_word("finetune-size")
    'finetunesize'
    """
    return name.replace("-", "")


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


def summarise_findings(
    sources: Sources, settings: EvaluationConfig, rng: np.random.Generator
) -> pd.DataFrame:
    """Return one row a finding: its effect over participants.

    The test is the sign-flip test over participants; what they differ by within themselves enters
    only through their effects.
    """
    tables = [read_table(path).assign(participant=who) for who, path in sources.items()]
    every = pd.concat(tables, ignore_index=True)
    rows = []
    for name, part in every.groupby("name", sort=False):
        known = part.dropna(subset=["effect"])
        if not len(known):
            continue
        result = difference_over_participants(
            known["effect"],
            known["p"],
            first=str(known["first"].iloc[0]),
            second=str(known["second"].iloc[0]),
            confidence=settings.confidence,
            n_samples=settings.n_permutations,
            rng=rng,
        )
        rows.append({"name": name, **asdict(result)})
    return pd.DataFrame(rows).rename(columns={"mean": "effect"})


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
