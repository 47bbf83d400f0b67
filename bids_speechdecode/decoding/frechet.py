"""How far two clouds of points are apart: the Frechet distance of their Gaussians.

``|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^1/2)``, as between images (Heusel et al. 2017,
arXiv:1706.08500): 0 only where mean and covariance agree.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bids_speechdecode.config import EvaluationConfig
from bids_speechdecode.decoding.shift import TwoSources, draw_weights
from bids_speechdecode.statistics import interval_of_draws

MOST_COMPONENTS = 32
BLOCKS_PER_COMPONENT = 4  # at least, or the covariances are mostly noise


@dataclass(frozen=True)
class Distance:
    """Frechet distance of two sources.

    Attributes
    ----------
    raw : float
        Of the samples. It is too large: also samples of the same source differ.
    value, ci_low, ci_high : float
        Less its bias, by the bootstrap.
    p, p_min : float
        Probability of as large a distance were blocks labelled at random, and its smallest value.
    """

    raw: float
    value: float
    ci_low: float
    ci_high: float
    p: float
    p_min: float


@dataclass(frozen=True)
class Moments:
    """Counts, sums and sums of products of the points of each block.

    Attributes
    ----------
    n : array, shape (n_blocks,)
    sums : array, shape (n_blocks, k)
    products : array, shape (n_blocks, k, k)
    """

    n: np.ndarray
    sums: np.ndarray
    products: np.ndarray

    @classmethod
    def of(cls, points: np.ndarray, blocks: np.ndarray) -> Moments:
        """Return the moments of points, shape (n_points, k)."""
        groups = [points[blocks == block] for block in np.unique(blocks)]
        return cls(
            np.array([len(g) for g in groups], dtype=float),
            np.stack([g.sum(axis=0) for g in groups]),
            np.stack([g.T @ g for g in groups]),
        )

    def gaussians(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and covariance of each draw of blocks, shapes (n, k) and (n, k, k)."""
        n = weights @ self.n
        means = weights @ self.sums / n[:, None]
        square = np.tensordot(weights, self.products, axes=1) / n[:, None, None]
        unbiased = np.where(n > 1, n / np.maximum(n - 1, 1), 1)[:, None, None]
        return means, (square - means[:, :, None] * means[:, None, :]) * unbiased


def frechet(
    first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Return the Frechet distance of Gaussians, shape (n,).

    Parameters
    ----------
    first, second : (means, covariances), shapes (n, k) and (n, k, k)
    """
    (mean1, cov1), (mean2, cov2) = first, second
    values, vectors = np.linalg.eigh(cov1)
    root = vectors * np.sqrt(np.maximum(values, 0))[:, None, :] @ vectors.transpose(0, 2, 1)
    # S1^1/2 S2 S1^1/2 has the eigenvalues of S1 S2, and is symmetric.
    crossed = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cov2 @ root), 0)).sum(axis=1)
    traces = np.trace(cov1 + cov2, axis1=1, axis2=2)
    return ((mean1 - mean2) ** 2).sum(axis=1) + traces - 2 * crossed


def distance(sources: TwoSources, settings: EvaluationConfig, rng: np.random.Generator) -> Distance:
    """Return how far the targets of two sources are apart, with interval and p.

    Samples of one source, too, are some way apart, the further the fewer they are. The bootstrap
    adds that bias a second time, so that twice the distance less the mean of the draws is about
    free of it; it may then be below 0. The interval is that of the draws, mirrored likewise.

    Parameters
    ----------
    sources : TwoSources
        Few dimensions (`principal_components`).
    settings : EvaluationConfig
    rng : numpy.random.Generator
    """
    mine = [sources.second == side for side in (False, True)]
    moments = [Moments.of(sources.targets[s], sources.blocks[s]) for s in mine]
    sizes = (len(moments[0].n), len(moments[1].n))
    raw = float(_apart(moments, [np.ones((1, size)) for size in sizes])[0])
    drawn = draw_weights(sizes, sources.paired, settings.n_bootstrap, rng)
    draws = _apart(moments, drawn)
    low, high = interval_of_draws(draws, sources.n_blocks, settings.confidence)
    null = _permuted(moments, sources.paired, settings.n_permutations, rng)
    p = float((1 + (null >= raw * (1 - 1e-9)).sum()) / (1 + len(null)))
    centre = float(2 * raw - draws.mean())
    return Distance(raw, centre, 2 * raw - high, 2 * raw - low, p, 1 / (1 + len(null)))


def _apart(
    moments: list[Moments], weights: list[np.ndarray] | tuple[np.ndarray, ...]
) -> np.ndarray:
    return frechet(*(m.gaussians(w) for m, w in zip(moments, weights, strict=True)))


def _permuted(moments: list[Moments], paired: bool, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return distances with blocks labelled at random, shape (n,)."""
    first, second = moments
    both = Moments(
        np.concatenate([first.n, second.n]),
        np.concatenate([first.sums, second.sums]),
        np.concatenate([first.products, second.products]),
    )
    n_first, n_all = len(first.n), len(both.n)
    chosen = np.zeros((n, n_all))
    for row in chosen:
        if paired:
            swapped = rng.random(n_first) < 0.5
            row[:] = np.concatenate([~swapped, swapped])
        else:
            row[rng.permutation(n_all)[:n_first]] = 1
    return frechet(both.gaussians(chosen), both.gaussians(1 - chosen))


@dataclass(frozen=True)
class Components:
    """Principal components of a balanced sample.

    Attributes
    ----------
    mean : array, shape (dimension,)
    axes : array, shape (dimension, k)
    share : array, shape (k,)
        Of the variance.
    """

    mean: np.ndarray
    axes: np.ndarray
    share: np.ndarray

    def project(self, targets: np.ndarray) -> np.ndarray:
        """Return the scores of targets, shape (n, k)."""
        return np.asarray((targets - self.mean) @ self.axes)


def principal_components(targets: np.ndarray, k: int) -> Components:
    """Return the first `k` principal components of targets, shape (n, dimension).

    The sign of each makes its largest weight positive, so that maps do not flip.
    """
    targets = np.asarray(targets, float)
    mean = targets.mean(axis=0)
    values, axes = np.linalg.eigh((targets - mean).T @ (targets - mean) / len(targets))
    values, axes = np.maximum(values[::-1], 0), axes[:, ::-1]
    largest = axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])]
    axes = axes * np.where(largest < 0, -1, 1)
    return Components(mean, axes[:, :k], values[:k] / max(values.sum(), np.finfo(float).tiny))


def n_components(n_blocks: int, dimension: int) -> int:
    """Return how many components so many blocks of a source can fill."""
    return max(1, min(MOST_COMPONENTS, dimension, n_blocks // BLOCKS_PER_COMPONENT))
