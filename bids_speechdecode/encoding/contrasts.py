"""Which of two models predicts a response better.

Both models predict the same response, so what differs between them differs far less over time than
either r: blocks of time are resampled or swapped for both models together. Everything is computed
from sums over blocks, never from the samples again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from bids_speechdecode.encoding.nulls import BLOCK, false_discovery_rate
from bids_speechdecode.encoding.power import minimum_detectable_difference
from bids_speechdecode.encoding.scores import (
    check_shapes,
    chunk_electrodes,
    membership,
    standardise,
)
from bids_speechdecode.statistics import label_blocks

DRAWS_AT_ONCE = 2_000_000  # values of one sum over resampled blocks


@dataclass(frozen=True)
class ParticipantContrast:
    """What two models differ by on average over one participant's electrodes.

    Attributes
    ----------
    n_electrodes, n_blocks : int
        Electrodes for which both models have an r, and blocks of time.
    r_a, r_b, difference : float
        Means over electrodes; ``difference = r_b - r_a``.
    ci_low, ci_high, standard_error : float
        From resampled blocks of time, the same for all electrodes; NaN for one block.
    p : float
        Two-sided, from blocks swapped between the models, the same for all electrodes.
    detectable : float
        The smallest true difference that would be found with a power of 0.8.
    """

    n_electrodes: int
    n_blocks: int
    r_a: float
    r_b: float
    difference: float
    ci_low: float
    ci_high: float
    standard_error: float
    p: float
    detectable: float


@dataclass(frozen=True)
class _Sums:
    """Sums over the samples of blocks; every array (..., n_electrodes)."""

    n: np.ndarray
    y: np.ndarray
    yy: np.ndarray
    a: np.ndarray
    aa: np.ndarray
    ay: np.ndarray
    b: np.ndarray
    bb: np.ndarray
    by: np.ndarray

    def weighted(self, weights: np.ndarray) -> _Sums:
        """Return sums over blocks with weights, shape (n_draws, n_blocks)."""
        return _Sums(*(weights @ sums for sums in vars(self).values()))

    def swapped(self, swaps: np.ndarray) -> _Sums:
        """Return sums over all blocks where those with a 1 in `swaps` exchange the models."""
        a, aa, ay = ((1 - swaps) @ x + swaps @ z for x, z in self._pairs())
        b, bb, by = (swaps @ x + (1 - swaps) @ z for x, z in self._pairs())
        n, y, yy = (sums.sum(axis=0) for sums in (self.n, self.y, self.yy))
        return _Sums(n, y, yy, a, aa, ay, b, bb, by)

    def _pairs(self) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
        return (self.a, self.b), (self.aa, self.bb), (self.ay, self.by)

    def correlations(self) -> tuple[np.ndarray, np.ndarray]:
        """Return r of model a and of model b."""
        with np.errstate(invalid="ignore", divide="ignore"):
            power = self.yy - self.y**2 / self.n
            r_a = (self.ay - self.a * self.y / self.n) / np.sqrt(
                (self.aa - self.a**2 / self.n) * power
            )
            r_b = (self.by - self.b * self.y / self.n) / np.sqrt(
                (self.bb - self.b**2 / self.n) * power
            )
        return r_a, r_b

    def difference(self) -> np.ndarray:
        """Return ``r_b - r_a``."""
        r_a, r_b = self.correlations()
        return r_b - r_a


def electrode_contrast(
    prediction_a: np.ndarray,
    prediction_b: np.ndarray,
    response: np.ndarray,
    segments: ArrayLike,
    rate: float,
    *,
    block: float = BLOCK,
    n_bootstrap: int = 2000,
    n_permutations: int = 1000,
    confidence: float = 0.95,
    rng: np.random.Generator,
    folds: ArrayLike | None = None,
) -> pd.DataFrame:
    """Return by how much model b predicts each electrode better than model a.

    The interval is the percentile interval of r_b - r_a over blocks of time drawn with
    replacement, widened as in `statistics.bootstrap_interval`. `p` compares the difference with
    those after exchanging the two (standardised) predictions in a random half of the blocks,
    two-sided: ``p = (1 + #(|swapped| >= |observed|)) / (1 + n_permutations)``.
    Both describe this sound and these fitted models; training is not repeated. In simulations of
    10 minutes (30 blocks; equal r of 0.15 to 0.76; an autocorrelation that falls to 1/e in 0.5 or
    2.5 s), 5 to 6% of p were below 0.05 and 94 to 95% of the 95% intervals held the truth.

    Parameters
    ----------
    prediction_a, prediction_b, response : array, shape (n_times, n_electrodes)
        Held-out predictions of two models, and the response; samples with NaN in any are left out.
    segments : array of int, shape (n_times,)
        Label of the continuous stretch of sound of each sample.
    rate : float, hertz
    block : float, seconds
        Wished length of a block; long against the time over which signals resemble themselves.
    confidence : float
        Of the interval; ``1 - confidence`` is the level of `detectable`.
    folds : array of int, shape (n_times,), optional
        As in `scores.correlate`; no block spans two folds.

    Returns
    -------
    DataFrame, shape (n_electrodes, ...)
        ``electrode`` (index), ``r_a``, ``r_b``, ``difference``, ``ci_low``, ``ci_high``,
        ``standard_error``, ``p``, ``q`` (false discovery rate over electrodes), ``detectable``
        (`minimum_detectable_difference`) and ``n_blocks``. NaN where a model has no r.
    """
    sums = _sum_over_blocks(prediction_a, prediction_b, response, segments, rate, block, folds)
    total = sums.weighted(np.ones((1, len(sums.n))))
    r_a, r_b = (r[0] for r in total.correlations())
    draws = _bootstrap(sums, n_bootstrap, rng)
    low, high = _interval(draws, len(sums.n), confidence)
    error = _standard_error(draws, len(sums.n))
    p = _two_sided_p(r_b - r_a, _swap(sums, n_permutations, rng))
    return pd.DataFrame(
        {
            "electrode": range(len(r_a)),
            "r_a": r_a,
            "r_b": r_b,
            "difference": r_b - r_a,
            "ci_low": low,
            "ci_high": high,
            "standard_error": error,
            "p": p,
            "q": false_discovery_rate(p),
            "detectable": [_detectable_over_blocks(e, len(sums.n), confidence) for e in error],
            "n_blocks": len(sums.n),
        }
    )


def participant_contrast(
    prediction_a: np.ndarray,
    prediction_b: np.ndarray,
    response: np.ndarray,
    segments: ArrayLike,
    rate: float,
    *,
    block: float = BLOCK,
    n_bootstrap: int = 2000,
    n_permutations: int = 1000,
    confidence: float = 0.95,
    rng: np.random.Generator,
    folds: ArrayLike | None = None,
) -> ParticipantContrast:
    """Return by how much model b predicts better on average over one participant's electrodes.

    Electrodes hear the same sound in the same brain and are no replicates: blocks are drawn and
    swapped for all of them together. Parameters and method are those of `electrode_contrast`;
    electrodes for which a model has no r are left out of the mean.
    """
    sums = _sum_over_blocks(prediction_a, prediction_b, response, segments, rate, block, folds)
    n_blocks = len(sums.n)
    r_a, r_b = (r[0] for r in sums.weighted(np.ones((1, n_blocks))).correlations())
    known = np.isfinite(r_b - r_a)
    if not known.any():
        return ParticipantContrast(0, n_blocks, *[float("nan")] * 8)
    draws = np.nanmean(_bootstrap(sums, n_bootstrap, rng)[:, known], axis=1, keepdims=True)
    swaps = np.nanmean(_swap(sums, n_permutations, rng)[:, known], axis=1, keepdims=True)
    difference = (r_b - r_a)[known].mean(keepdims=True)
    low, high = _interval(draws, n_blocks, confidence)
    error = float(_standard_error(draws, n_blocks)[0])
    return ParticipantContrast(
        n_electrodes=int(known.sum()),
        n_blocks=n_blocks,
        r_a=float(r_a[known].mean()),
        r_b=float(r_b[known].mean()),
        difference=float(difference[0]),
        ci_low=float(low[0]),
        ci_high=float(high[0]),
        standard_error=error,
        p=float(_two_sided_p(difference, swaps)[0]),
        detectable=_detectable_over_blocks(error, n_blocks, confidence),
    )


def _detectable_over_blocks(error: float, n_blocks: int, confidence: float) -> float:
    deviation = error * np.sqrt(n_blocks)
    return minimum_detectable_difference(deviation, n_blocks, alpha=1 - confidence)


def _sum_over_blocks(
    prediction_a: np.ndarray,
    prediction_b: np.ndarray,
    response: np.ndarray,
    segments: ArrayLike,
    rate: float,
    block: float,
    folds: ArrayLike | None,
) -> _Sums:
    """Return the sums of each block; arrays (n_blocks, n_electrodes)."""
    check_shapes(prediction_a, response, segments, folds)
    check_shapes(prediction_b, response)
    signals = prediction_a, prediction_b, response
    used = np.isfinite(prediction_a) & np.isfinite(prediction_b) & np.isfinite(response)
    blocks = membership(_label_samples(used.any(axis=1), segments, rate, block, folds))
    parts = []
    for some in chunk_electrodes(*response.shape):
        a, b, y = (
            standardise(signal[:, some].astype(float), used[:, some], folds) for signal in signals
        )
        ones = used[:, some].astype(float)
        parts.append([blocks @ z for z in (ones, y, y * y, a, a * a, a * y, b, b * b, b * y)])
    return _Sums(*(np.concatenate(sums, axis=1) for sums in zip(*parts, strict=True)))


def _label_samples(
    used: np.ndarray, segments: ArrayLike, rate: float, block: float, folds: ArrayLike | None
) -> np.ndarray:
    """Return the block of each sample, -1 where there is none."""
    columns = np.stack([np.asarray(segments), np.zeros(len(used)) if folds is None else folds])
    sources = np.unique(columns, axis=1, return_inverse=True)[1].ravel()
    blocks = np.full(len(used), -1)
    onsets = np.flatnonzero(used) / rate
    blocks[used] = label_blocks(onsets, sources[used], duration=1 / rate, block=block)
    return blocks


def _bootstrap(sums: _Sums, n_bootstrap: int, rng: np.random.Generator) -> np.ndarray:
    """Return differences in r, shape (n_bootstrap, n_electrodes), over blocks drawn anew."""
    n_blocks = len(sums.n)
    weights = rng.multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks), size=n_bootstrap)
    return np.concatenate(
        [sums.weighted(some.astype(float)).difference() for some in _in_parts(weights, sums)]
    )


def _swap(sums: _Sums, n_permutations: int, rng: np.random.Generator) -> np.ndarray:
    """Return differences in r, shape (n_permutations, n_electrodes), with blocks exchanged."""
    swaps = rng.integers(2, size=(n_permutations, len(sums.n)))
    return np.concatenate(
        [sums.swapped(some.astype(float)).difference() for some in _in_parts(swaps, sums)]
    )


def _in_parts(draws: np.ndarray, sums: _Sums) -> list[np.ndarray]:
    return np.array_split(draws, -(-len(draws) * sums.n.shape[1] // DRAWS_AT_ONCE))


def _two_sided_p(observed: np.ndarray, null: np.ndarray) -> np.ndarray:
    # An exchange back to the observed difference may differ from it in its last bits.
    extreme = (np.abs(null) >= np.abs(observed) - 1e-12).sum(axis=0)
    return np.where(np.isfinite(observed), (1 + extreme) / (1 + len(null)), np.nan)


def _interval(draws: np.ndarray, n_blocks: int, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    if n_blocks < 2:
        return (np.full(draws.shape[1], np.nan),) * 2
    quantile = stats.t.ppf((1 + confidence) / 2, n_blocks - 1)
    tail = stats.norm.cdf(-np.sqrt(n_blocks / (n_blocks - 1)) * quantile)
    low, high = np.quantile(draws, [tail, 1 - tail], axis=0)
    return low, high


def _standard_error(draws: np.ndarray, n_blocks: int) -> np.ndarray:
    if n_blocks < 2:
        return np.full(draws.shape[1], np.nan)
    return draws.std(axis=0, ddof=1) * np.sqrt(n_blocks / (n_blocks - 1))
