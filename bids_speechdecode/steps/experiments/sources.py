"""Sources of sound side by side: equally many windows of each, their targets and properties."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bids_speechdecode.audio.acoustics import PROPERTIES, sound_properties
from bids_speechdecode.decoding.shift import TwoSources
from bids_speechdecode.statistics import label_blocks
from bids_speechdecode.steps.context import Context
from bids_speechdecode.steps.data import read_targets, window_table
from bids_speechdecode.steps.features import AUDIO_RATE, audio_reader
from bids_speechdecode.steps.plan import FINETUNE, PRETRAIN, Piece

AMBIENT, TASK_AMBIENT, TASK_TRUE = "ambient", "taskambient", "tasktrue"
TASK = {"ambient": TASK_AMBIENT, "true": TASK_TRUE}
WORDS = {
    AMBIENT: "ambient speech",
    TASK_AMBIENT: "the task as the room heard it",
    TASK_TRUE: "the task's clean sound",
}
MOST_WINDOWS = 2000  # of each source: more cost memory and time and tell little more
DIVISIONS = 8  # of one source in halves


@dataclass(frozen=True)
class Source:
    """Windows of one source.

    Attributes
    ----------
    name : str
    targets : array of float32, shape (n_windows, dimension)
        Not scaled; of a target with frames, their mean.
    table : DataFrame
        One row a window: recording, onset (s), block; in the order of recordings and time.
    properties : array, shape (n_windows, n_properties)
        As `audio.acoustics.PROPERTIES`.
    """

    name: str
    targets: np.ndarray
    table: pd.DataFrame
    properties: np.ndarray

    @property
    def blocks(self) -> np.ndarray:
        """Contiguous block of each window."""
        return self.table["block"].to_numpy()


def draw_sources(context: Context, rng: np.random.Generator) -> list[Source]:
    """Return the training windows of ambient speech and the task's windows, equally many.

    Whole blocks are drawn, as many of each source as the smallest has; then windows are left out
    at random until all have the same number. The two versions of the task are the same windows. All
    splits of the task are taken: nothing has been trained on it.
    """
    tables = _list_sources(context)
    chosen = draw_windows(tables, rng)
    return [_read(context, name, table) for name, table in chosen.items()]


def list_windows(context: Context, role: str, version: str, split: str | None) -> pd.DataFrame:
    """Return the windows that are used: recording, onset, audio_onset, block, piece and row."""
    tables = []
    pieces = _pieces(context, role, version, split)
    for number, (piece, _, keep) in enumerate(read_targets(context, pieces)):
        table = window_table(context, piece)[["recording", "onset", "audio_onset"]]
        tables.append(table.assign(piece=number, row=np.arange(len(keep)))[keep])
    table = pd.concat(tables).sort_values(["recording", "onset"], ignore_index=True)
    blocks = label_blocks(
        table["onset"],
        table["recording"],
        duration=context.config.windows.duration,
        block=context.config.evaluation.block,
    )
    return table.assign(block=blocks)


def _pieces(context: Context, role: str, version: str, split: str | None) -> list[Piece]:
    return [p for p in context.plan.select(role, version, split) if len(p.audio_starts)]


def _where(name: str, context: Context) -> tuple[str, str, str | None]:
    """Return role, version and split of a source."""
    if name == AMBIENT:
        return PRETRAIN, context.plan.versions(PRETRAIN)[0], "train"
    return FINETUNE, next(version for version, word in TASK.items() if word == name), None


def _list_sources(context: Context) -> dict[str, pd.DataFrame]:
    """Return the windows of each source; the task's versions have the same ones, and blocks."""
    names = [
        AMBIENT,
        *(TASK[v] for v in ("ambient", "true") if v in context.plan.versions(FINETUNE)),
    ]
    tables = {name: list_windows(context, *_where(name, context)) for name in names}
    both = [name for name in names if name != AMBIENT]
    if len(both) > 1:
        keys = [_keys(tables[name]) for name in both]
        common = keys[0].intersection(keys[1])
        for name, key in zip(both, keys, strict=True):
            tables[name] = tables[name][key.isin(common)].reset_index(drop=True)
        tables[both[1]] = tables[both[1]].assign(block=tables[both[0]]["block"])
    # The ambient blocks are other ones.
    beyond = max((int(tables[name]["block"].max()) + 1 for name in both), default=0)
    tables[AMBIENT] = tables[AMBIENT].assign(block=tables[AMBIENT]["block"] + beyond)
    return tables


def _keys(table: pd.DataFrame) -> pd.MultiIndex:
    return pd.MultiIndex.from_frame(table[["recording", "onset"]].round(4))


def have_same_windows(first: pd.DataFrame, second: pd.DataFrame) -> bool:
    """Return whether two tables have the same windows in the same order."""
    return _keys(first).equals(_keys(second))


def draw_windows(
    tables: Mapping[str, pd.DataFrame], rng: np.random.Generator
) -> dict[str, pd.DataFrame]:
    """Return equally many blocks and windows of each source."""
    n_blocks = min(table["block"].nunique() for table in tables.values())
    largest = max(len(table) / table["block"].nunique() for table in tables.values())
    n_blocks = max(1, min(n_blocks, int(MOST_WINDOWS / largest)))
    # Blocks have the same numbers in both versions of the task: one draw serves both.
    drawn: dict[tuple[int, ...], np.ndarray] = {}
    for table in tables.values():
        blocks = tuple(table["block"].unique())
        if blocks not in drawn:
            drawn[blocks] = rng.choice(blocks, n_blocks, replace=False)
    some = {n: t[t["block"].isin(drawn[tuple(t["block"].unique())])] for n, t in tables.items()}
    n_windows = min(len(table) for table in some.values())
    # The two versions of the task have the same windows, also after this.
    kept = {len(t): np.sort(rng.choice(len(t), n_windows, replace=False)) for t in some.values()}
    return {name: t.iloc[kept[len(t)]].reset_index(drop=True) for name, t in some.items()}


def _read(context: Context, name: str, table: pd.DataFrame) -> Source:
    """Return a source with the targets and the properties of its windows."""
    pieces = _pieces(context, *_where(name, context))
    targets: dict[int, np.ndarray] = {}
    for number, (_, rows, _) in enumerate(read_targets(context, pieces)):
        mine = table.index[table["piece"] == number]
        values = np.asarray(rows[table.loc[mine, "row"].to_numpy()], np.float32)
        values = values.mean(axis=1) if values.ndim == 3 else values
        targets |= dict(zip(mine, values, strict=True))
    stacked = np.stack([targets[index] for index in table.index])
    properties = _measure(context, pieces, table)
    return Source(name, stacked, table[["recording", "onset", "block"]], properties)


def _measure(context: Context, pieces: list[Piece], table: pd.DataFrame) -> np.ndarray:
    """Return the properties of the windows' sound, shape (n_windows, n_properties)."""
    readers: dict[tuple[str, int], Callable[[float, float], np.ndarray]] = {}
    duration = context.config.windows.duration
    properties = np.empty((len(table), len(PROPERTIES)))
    for _, block in table.groupby("block"):
        waves = []
        for row in block.to_dict("records"):
            piece = pieces[row["piece"]]
            key = piece.recording, piece.segment
            if key not in readers:
                same = [p for p in pieces if (p.recording, p.segment) == key]
                readers[key] = audio_reader(context, same)
            waves.append(readers[key](row["audio_onset"], row["audio_onset"] + duration))
        properties[block.index] = sound_properties(waves, AUDIO_RATE)
    return properties


def pair(first: Source, second: Source) -> TwoSources:
    """Return the windows of two sources side by side."""
    return TwoSources(
        np.concatenate([first.targets, second.targets]),
        np.repeat([False, True], [len(first.targets), len(second.targets)]),
        np.concatenate([first.blocks, second.blocks]),
    )


def divide(source: Source, rng: np.random.Generator) -> list[TwoSources]:
    """Return divisions of one source in two: by recordings, drawn at random; all differ.

    A single recording is divided in its first and its second half.
    """
    recordings = source.table["recording"].to_numpy()
    names = np.unique(recordings)
    if len(names) == 1:
        return [_divided(source, source.blocks > np.median(np.unique(source.blocks)))]
    sides: dict[bytes, np.ndarray] = {}
    for _ in range(4 * DIVISIONS):  # many draws of few recordings are the same division
        second = np.isin(recordings, rng.permutation(names)[: len(names) // 2])
        second = ~second if second[0] else second
        sides.setdefault(second.tobytes(), second)
    return [_divided(source, second) for second in list(sides.values())[:DIVISIONS]]


def _divided(source: Source, second: np.ndarray) -> TwoSources:
    return TwoSources(source.targets, second, source.blocks)
