"""Whether the targets of two sources of sound differ.

A classifier two-sample test (Lopez-Paz & Oquab 2017, arXiv:1610.06545): where a classifier tells
held-out windows of two sources apart, their distributions differ. Blocks of windows, never single
ones, are held out, relabelled and resampled.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from bids_speechdecode.config import EvaluationConfig
from bids_speechdecode.errors import DataError
from bids_speechdecode.statistics import interval_of_draws

N_FOLDS = 5
FEWEST_BLOCKS = 4  # of a source; with fewer, folds have nothing to learn from
PENALTY = 0.1  # of the mean variance of a z-scored dimension, which is 1


@dataclass(frozen=True)
class TwoSources:
    """Windows of two sources, side by side.

    Attributes
    ----------
    targets : array, shape (n_windows, dimension)
    second : array of bool, shape (n_windows,)
        Whether a window is of the second source.
    blocks : array of int, shape (n_windows,)
        Contiguous block of each window, numbered in the order of time. No number is in both
        sources, unless all are: then those of one number are the same moment.
    """

    targets: np.ndarray
    second: np.ndarray
    blocks: np.ndarray

    @property
    def paired(self) -> bool:
        """Whether both sources have the same blocks."""
        first, second = np.unique(self.blocks[~self.second]), np.unique(self.blocks[self.second])
        return np.array_equal(first, second)

    @property
    def n_blocks(self) -> int:
        """Blocks of the source that has fewer."""
        return min(len(np.unique(self.blocks[self.second == side])) for side in (False, True))


@dataclass(frozen=True)
class Separation:
    """How well held-out windows of two sources are told apart.

    Attributes
    ----------
    auc, ci_low, ci_high : float
        Area under the ROC curve within folds: 0.5 not at all, 1 always.
    p, p_min : float
        Probability of as large an area were blocks labelled at random, and its smallest value.
    n_blocks : int
        Of the source that has fewer.
    """

    auc: float
    ci_low: float
    ci_high: float
    p: float
    p_min: float
    n_blocks: int


def tell_apart(
    sources: TwoSources, settings: EvaluationConfig, rng: np.random.Generator
) -> Separation:
    """Return how well a regularised linear classifier tells held-out windows apart.

    ``w = (X'X + a n I)^-1 X'y`` with targets z-scored over the training folds and a = 0.1; for
    two classes this is linear discriminant analysis with a penalty. Folds are runs of blocks, of
    each source in proportion. The area under the curve is that of pairs within a fold: it is 0.5
    on average where the sources do not differ, whatever their sizes.

    Labels are permuted over the blocks of a fold (where both sources have the same blocks, they
    are exchanged within blocks), so that all labellings are equally likely if blocks are.

    Raises
    ------
    DataError
        A source has fewer than 4 blocks.
    """
    folds = assign_folds(sources)
    labels = _permute(sources, folds, settings.n_permutations, rng)
    areas = _areas(_scores(sources.targets, labels, folds), labels, folds)
    observed = float(areas[0])
    p = float((areas >= observed - 1e-12).mean())
    draws = _redraw_area(sources, folds, settings.n_bootstrap, rng)
    low, high = interval_of_draws(draws, sources.n_blocks, settings.confidence)
    return Separation(observed, low, high, p, 1 / len(areas), sources.n_blocks)


def held_out_area(sources: TwoSources) -> float:
    """Return the area under the curve of `tell_apart` alone."""
    folds, label = assign_folds(sources), sources.second[:, None]
    return float(_areas(_scores(sources.targets, label, folds), label, folds)[0])


def assign_folds(sources: TwoSources) -> np.ndarray:
    """Return the fold of each window: runs of blocks, of each source in proportion."""
    if sources.n_blocks < FEWEST_BLOCKS:
        raise DataError(
            "Too few blocks to tell two sources apart.",
            expected=f"{FEWEST_BLOCKS} blocks of windows of each",
            found=str(sources.n_blocks),
        )
    folds = np.empty(len(sources.blocks), dtype=int)
    n_folds = min(N_FOLDS, sources.n_blocks)
    for side in (False, True):
        mine = sources.second == side
        order = np.unique(sources.blocks[mine], return_inverse=True)[1]
        folds[mine] = order * n_folds // (order.max() + 1)
    return folds


def _permute(
    sources: TwoSources, folds: np.ndarray, n: int, rng: np.random.Generator
) -> np.ndarray:
    """Return the labels and `n` permutations of them, bool, shape (n_windows, 1 + n)."""
    labels = np.repeat(sources.second[:, None], 1 + n, axis=1)
    if sources.paired:
        members = np.unique(sources.blocks, return_inverse=True)[1]
        swaps = rng.random((members.max() + 1, n)) < 0.5
        labels[:, 1:] ^= swaps[members]
        return labels
    for fold in np.unique(folds):
        inside = np.flatnonzero(folds == fold)
        _, first, members = np.unique(
            sources.blocks[inside], return_index=True, return_inverse=True
        )
        own = sources.second[inside][first]
        for column in range(1, 1 + n):
            labels[inside, column] = rng.permutation(own)[members]
    return labels


def _scores(targets: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Return held-out scores for each labelling, shape (n_windows, n_labellings).

    The factor that costs depends on the targets alone: all labellings share it.
    """
    scores = np.empty(labels.shape)
    targets = np.asarray(targets, float)
    for fold in np.unique(folds):
        training = folds != fold
        x = targets[training]
        scale = x.std(axis=0)
        values = (targets - x.mean(axis=0)) / np.where(scale > 1e-9, scale, 1)
        x, y = values[training], 2.0 * labels[training] - 1
        y -= y.mean(axis=0)
        penalty = PENALTY * len(x)
        if x.shape[1] <= len(x):
            weights = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ y)
        else:
            weights = x.T @ np.linalg.solve(x @ x.T + penalty * np.eye(len(x)), y)
        scores[~training] = values[~training] @ weights
    return scores


def _areas(scores: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Return the area under the curve of pairs within folds, for each labelling."""
    won, pairs = np.zeros(scores.shape[1]), np.zeros(scores.shape[1])
    for fold in np.unique(folds):
        inside = folds == fold
        ranks = stats.rankdata(scores[inside], axis=0)
        own = labels[inside]
        n_second = own.sum(axis=0)
        won += (ranks * own).sum(axis=0) - n_second * (n_second + 1) / 2
        pairs += n_second * (len(own) - n_second)
    return won / pairs


def _redraw_area(
    sources: TwoSources, folds: np.ndarray, n: int, rng: np.random.Generator
) -> np.ndarray:
    """Return areas of resampled blocks, of the same held-out scores, shape (n,).

    Pairs of windows are counted once for each pair of blocks; a draw weighs the blocks.
    """
    scores = _scores(sources.targets, sources.second[:, None], folds)[:, 0]
    sides = [_members(sources.blocks[sources.second == side]) for side in (False, True)]
    won = np.zeros((sides[0].shape[1], sides[1].shape[1]))
    pairs = np.zeros_like(won)
    for fold in np.unique(folds):
        inside = [folds[sources.second == side] == fold for side in (False, True)]
        low, high = (
            scores[sources.second == side][rows]
            for side, rows in zip((False, True), inside, strict=True)
        )
        beats = (high > low[:, None]) + 0.5 * (high == low[:, None])
        of_first, of_second = (m[rows] for m, rows in zip(sides, inside, strict=True))
        won += of_first.T @ beats @ of_second
        pairs += np.outer(of_first.sum(axis=0), of_second.sum(axis=0))
    first, second = draw_weights(won.shape, sources.paired, n, rng)
    counted = np.einsum("di,ij,dj->d", first, pairs, second, optimize=True)
    gained = np.einsum("di,ij,dj->d", first, won, second, optimize=True)
    # Draws that hold no fold with both sources are too rare to matter.
    return np.divide(gained, counted, out=np.full(n, 0.5), where=counted > 0)


def _members(blocks: np.ndarray) -> np.ndarray:
    """Return which window is in which block, as numbers, shape (n_windows, n_blocks)."""
    return (blocks[:, None] == np.unique(blocks)).astype(float)


def draw_weights(
    n_blocks: tuple[int, ...], paired: bool, n: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return how often each block of each source is drawn, shapes (n, n_blocks)."""
    first, second = (
        rng.multinomial(size, np.full(size, 1 / size), size=n).astype(float) for size in n_blocks
    )
    return first, (first if paired else second)
