"""What a participant gains: from pretraining, and from one target over another.

All benefits are differences of mean relative rank with the sign turned so that above 0 is better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from bids_speechdecode.bids.sidecars import read_table
from bids_speechdecode.config import EvaluationConfig
from bids_speechdecode.decoding.evaluation import compare_ranks
from bids_speechdecode.errors import DataError

BASELINE_TARGET = "mel"
_PRETRAINING = "finetuned-taskonly"  # the same head and budget, with and without pretraining
_WINDOW = ["file", "onset_ms"]


@dataclass(frozen=True)
class Benefit:
    """A gain of mean relative rank; above 0 is better.

    Attributes
    ----------
    value, ci_low, ci_high : float
        NaN where unknown.
    p : float
        Two-sided, of the participant alone.
    of : str
        What is better than what, such as "wav2vec2 over mel".
    """

    value: float
    ci_low: float
    ci_high: float
    p: float
    of: str


def pretraining_benefit(root: Path, participant: str, task: str, *, audio: str = "true") -> Benefit:
    """Return how much better a participant is decoded with pretraining than without.

    Parameters
    ----------
    root : path
        Folder of the derivatives.
    participant : str
        Label without "sub-".
    audio : str
        Which version of the sound: the clean file ("true") or the room's ("ambient").

    Raises
    ------
    DataError
        The comparison is not there or cannot be read; the message says why.
    """
    path = _summary_file(root, participant, task, "contrasts")
    table = _read(path, ("contrast", "audio", "difference", "ci_low", "ci_high", "p"))
    rows = table[(table["contrast"] == _PRETRAINING) & (table["audio"] == audio)]
    if len(rows) != 1 or not np.isfinite(rows["difference"].iloc[0]):
        raise DataError(f"There is no contrast {_PRETRAINING} ({audio}).", where=path)
    row = rows.iloc[0]
    return Benefit(
        value=-float(row["difference"]),
        ci_low=-float(row["ci_high"]),
        ci_high=-float(row["ci_low"]),
        p=float(row["p"]),
        of="pretraining over none",
    )


def target_benefit(
    root: Path,
    other: Path,
    participant: str,
    task: str,
    *,
    condition: str,
    settings: EvaluationConfig,
    rng: np.random.Generator,
    audio: str = "true",
) -> Benefit:
    """Return how much better one target ranks than another, on the same held-out windows.

    Where one of the two is mel, it is the benefit of the other over mel; else that of the target
    of `root` over the target of `other`. Windows are paired one by one; interval and p take whole
    blocks of them (see `decoding.evaluation.compare_ranks`).

    Parameters
    ----------
    root, other : path
        Folders of derivatives that were made from the same dataset with different targets.
    condition : str
        Whose ranks: such as "finetuned".

    Raises
    ------
    DataError
        The targets are the same, or the windows or the pooling are not; the message says why.
    """
    scored = [_scored(folder, participant, task, condition, audio) for folder in (root, other)]
    targets = [str(row["target"]) for row in scored]
    if targets[0] == targets[1]:
        raise DataError(f"Both folders have the target {targets[0]}.", where=other)
    _require_same_pooling(scored, where=other)
    first, second = (
        _read_windows(folder, participant, task, condition, audio) for folder in (root, other)
    )
    paired = _pair(first, second, where=other)
    ranks = [paired["rank"].to_numpy(float), paired["rank_other"].to_numpy(float)]
    if targets[0] == BASELINE_TARGET:
        targets.reverse()
        ranks.reverse()
    better, baseline = ranks
    contrast = compare_ranks(baseline, better, paired["block"].to_numpy(), settings, rng)
    return Benefit(
        contrast.difference,
        contrast.ci_low,
        contrast.ci_high,
        contrast.p,
        f"{targets[0]} over {targets[1]}",
    )


def _summary_file(root: Path, participant: str, task: str, desc: str) -> Path:
    name = f"sub-{participant}_task-{task}_desc-{desc}_scores.tsv"
    return root / f"sub-{participant}" / "ieeg" / name


def _read(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    try:
        table = read_table(path)
    except (ValueError, OSError):
        raise DataError("A table of scores is absent or cannot be read.", where=path) from None
    missing = [name for name in columns if name not in table]
    if missing:
        raise DataError(f"A table of scores has no column {', '.join(missing)}.", where=path)
    return table


def _scored(root: Path, participant: str, task: str, condition: str, audio: str) -> pd.Series:
    """Return the row of a condition in a participant's table of scores."""
    path = _summary_file(root, participant, task, "conditions")
    table = _read(path, ("condition", "audio", "target"))
    rows = table[(table["condition"] == condition) & (table["audio"] == audio)]
    if rows.empty:
        raise DataError(f"There is no condition {condition} ({audio}).", where=path)
    return rows.iloc[0]


def _require_same_pooling(scored: Sequence[pd.Series], where: Path) -> None:
    """Raise DataError where one run averages sound over a window and the other keeps frames.

    Frames keep the order in time, which makes windows easier to tell apart whatever the target.
    """
    poolings = [row.get("pooling") for row in scored]
    if all(pd.notna(pooling) for pooling in poolings) and poolings[0] != poolings[1]:
        raise DataError(
            f"No benefit of the target: the pooling differs too ({poolings[0]} and {poolings[1]}).",
            where=where,
        )


def _read_windows(
    root: Path, participant: str, task: str, condition: str, audio: str
) -> pd.DataFrame:
    """Return file, onset_ms, rank and block of every held-out window of a condition."""
    folder = root / f"sub-{participant}"
    tables = []
    for path in sorted(folder.rglob(f"sub-{participant}_*desc-{condition}_events.tsv")):
        if f"_task-{task}_" not in path.name:
            continue
        table = _read(path, ("onset", "audio", "block", "rank"))
        table = table[table["audio"] == audio]
        onset_ms = (table["onset"] * 1000).round().astype(int)
        tables.append(table.assign(file=path.relative_to(folder).as_posix(), onset_ms=onset_ms))
    if not tables:
        raise DataError(f"There are no ranks of condition {condition}.", where=folder)
    return pd.concat(tables)[[*_WINDOW, "rank", "block"]]


def _pair(first: pd.DataFrame, second: pd.DataFrame, where: Path) -> pd.DataFrame:
    """Return the windows with both ranks; the two tables must list the same windows.

    The rank of a window depends on the other candidates, so that windows shared by two
    different test sets cannot be compared either.
    """
    paired = first.merge(
        second[[*_WINDOW, "rank"]],
        on=_WINDOW,
        suffixes=("", "_other"),
        how="inner",
        validate="one_to_one",
    )
    if not len(paired) == len(first) == len(second):
        raise DataError(
            f"The held-out windows are not the same ({len(first)} and {len(second)}, "
            f"{len(paired)} in both).",
            where=where,
        )
    return paired
