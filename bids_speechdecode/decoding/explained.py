"""What of the difference of two sources is how they were recorded.

All that is fitted here is linear, so that sums of products of each block are enough: a draw of the
bootstrap weighs the blocks and learns everything anew.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bids_speechdecode.config import EvaluationConfig
from bids_speechdecode.decoding.shift import PENALTY, TwoSources, assign_folds, draw_weights
from bids_speechdecode.statistics import interval_of_draws

_TINY = 1e-6  # of the variance: properties may be constant, or the same
_AT_ONCE = 250  # draws, whose sums of products are held in memory together


@dataclass(frozen=True)
class Explained:
    """What of a separation goes when properties are regressed out of the targets.

    Attributes
    ----------
    share, ci_low, ci_high : float
        1: all of it; 0: nothing. Slopes are those within the sources.
    most : float
        The same with slopes over both sources together: all that differs along with the properties
        goes, whether they are its reason or not.
    """

    share: float
    ci_low: float
    ci_high: float
    most: float


def explain(
    sources: TwoSources,
    properties: np.ndarray,
    settings: EvaluationConfig,
    rng: np.random.Generator,
) -> Explained:
    """Return which share of the separation goes with `properties` of the windows.

    The separation is the difference of the two sources' held-out scores in standard deviations
    within a source, of the classifier of `shift.tell_apart`; the share is ``1 - separation without
    / separation with``. Every fold regresses the properties out of the targets with slopes of its
    training windows. Slopes within the sources are those of windows of one source that differ in
    the property: a property that merely differs between the sources, and does nothing to the
    targets, explains nothing. The interval comes from resampled blocks, with which slopes and
    classifiers are learned anew.

    Parameters
    ----------
    sources : TwoSources
        Few dimensions (`frechet.principal_components`).
    properties : array, shape (n_windows, n_properties)
        NaN is put at the mean of its source.
    settings : EvaluationConfig
    rng : numpy.random.Generator

    Raises
    ------
    DataError
        A source has fewer than 4 blocks.
    """
    sums = _BlockSums.of(sources, _fill(properties, sources.second))
    once = [np.ones((1, len(f))) for f in sums.folds]
    full, rest, least = (float(sums.separate(once, how)[0]) for how in (None, True, False))
    drawn = draw_weights(
        (len(sums.folds[0]), len(sums.folds[1])), sources.paired, settings.n_bootstrap, rng
    )
    draws = []
    for first in range(0, settings.n_bootstrap, _AT_ONCE):
        some = [weights[first : first + _AT_ONCE] for weights in drawn]
        draws.append(1 - sums.separate(some, True) / sums.separate(some, None))
    low, high = interval_of_draws(np.concatenate(draws), sources.n_blocks, settings.confidence)
    return Explained(1 - rest / full, low, high, 1 - least / full)


def _fill(properties: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return z-scored properties without NaN."""
    values = np.array(properties, dtype=float)
    for side in (False, True):
        for column in values.T:
            mine = second == side
            known = mine & np.isfinite(column)
            column[mine & ~known] = column[known].mean() if known.any() else 0.0
    scale = values.std(axis=0)
    return np.asarray((values - values.mean(axis=0)) / np.where(scale > 0, scale, 1))


@dataclass(frozen=True)
class _BlockSums:
    """Sums of products of ``(1, targets, properties)`` over the windows of each block.

    Attributes
    ----------
    products : two arrays, shape (n_blocks, 1 + d + p, 1 + d + p)
        Of the first and of the second source.
    folds : two arrays, shape (n_blocks,)
    dimension : int
        d, of the targets.
    """

    products: tuple[np.ndarray, np.ndarray]
    folds: tuple[np.ndarray, np.ndarray]
    dimension: int

    @classmethod
    def of(cls, sources: TwoSources, properties: np.ndarray) -> _BlockSums:
        targets = sources.targets - sources.targets.mean(axis=0)
        rows = np.concatenate([np.ones((len(targets), 1)), targets, properties], axis=1)
        fold = assign_folds(sources)
        products, folds = [], []
        for side in (False, True):
            mine = sources.second == side
            blocks, first = np.unique(sources.blocks[mine], return_index=True)
            groups = [rows[mine & (sources.blocks == block)] for block in blocks]
            products.append(np.stack([group.T @ group for group in groups]))
            folds.append(fold[mine][first])
        return cls((products[0], products[1]), (folds[0], folds[1]), targets.shape[1])

    def separate(
        self, weights: list[np.ndarray] | tuple[np.ndarray, ...], within: bool | None
    ) -> np.ndarray:
        """Return the held-out separation of each draw of blocks, shape (n_draws,).

        `within` is whether slopes are those within the sources; None regresses nothing out.
        """
        total, counted = np.zeros(len(weights[0])), np.zeros(len(weights[0]))
        for fold in np.unique(self.folds[0]):
            learned, held_out = (
                [
                    _Cloud.of(np.tensordot(w * (at == fold if test else at != fold), p, axes=1))
                    for w, at, p in zip(weights, self.folds, self.products, strict=True)
                ]
                for test in (False, True)
            )
            direction = self._learn(learned, within)
            apart, n = _apart(held_out, direction)
            total += n * apart
            counted += n
        return total / counted

    def _learn(self, clouds: list[_Cloud], within: bool | None) -> np.ndarray:
        """Return the direction in targets and properties that tells sources apart, (n, d + p)."""
        d, n = self.dimension, clouds[0].n + clouds[1].n
        inner = clouds[0].scatter + clouds[1].scatter
        shift = clouds[1].mean - clouds[0].mean
        outer = shift[:, :, None] * shift[:, None, :]
        full = inner + (clouds[0].n * clouds[1].n / n)[:, None, None] * outer
        # Targets less what the properties predict are a linear map of both.
        clean = np.zeros((len(n), shift.shape[1], d))
        clean[:, :d] = np.eye(d)
        if within is not None:
            of = inner if within else full
            ridge = _TINY * n[:, None, None] * np.eye(shift.shape[1] - d)
            clean[:, d:] = -np.linalg.solve(of[:, d:, d:] + ridge, of[:, d:, :d])
        turned = clean.transpose(0, 2, 1)
        spread = turned @ full @ clean
        scale = np.sqrt(np.maximum(np.diagonal(spread, axis1=1, axis2=2) / n[:, None], 1e-12))
        penalised = spread / scale[:, :, None] / scale[:, None, :]
        penalised += PENALTY * n[:, None, None] * np.eye(d)
        moved = (turned @ shift[:, :, None])[:, :, 0] / scale
        weights = np.linalg.solve(penalised, moved[:, :, None])[:, :, 0] / scale
        return np.asarray((clean @ weights[:, :, None])[:, :, 0])


@dataclass(frozen=True)
class _Cloud:
    """Count, mean and scatter of the windows of one source, for each draw."""

    n: np.ndarray
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def of(cls, sums: np.ndarray) -> _Cloud:
        n = sums[:, 0, 0]
        mean = sums[:, 0, 1:] / np.maximum(n, 1)[:, None]
        outer = mean[:, :, None] * mean[:, None, :]
        return cls(n, mean, sums[:, 1:, 1:] - n[:, None, None] * outer)


def _apart(clouds: list[_Cloud], direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the difference of mean scores in deviations within a source, and its weight."""
    low, high = clouds
    difference = np.einsum("nk,nk->n", direction, high.mean - low.mean)
    spread = [
        np.einsum("nk,nkl,nl->n", direction, c.scatter, direction) / np.maximum(c.n, 1)
        for c in clouds
    ]
    deviation = np.sqrt(np.maximum((spread[0] + spread[1]) / 2, np.finfo(float).tiny))
    # A draw may leave a fold without one of the sources: it then says nothing.
    weight = low.n * high.n / np.maximum(low.n + high.n, 1)
    return difference / deviation, weight
