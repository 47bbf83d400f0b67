"""Features -> each electrode's response by ridge regression, at the electrode's own lag.

    y(t + lag) = w' x(t) + b,    w = argmin sum_t (y(t + lag) - w' x(t) - b)^2 + alpha |w|^2

with x standardised on the training blocks. Lag and alpha of an electrode are chosen, for each
outer fold anew, by the mean correlation in its inner folds. Everything is solved from sums over
blocks (see `grams`), none of which is computed twice for the many combinations of blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from bids_speechdecode.encoding.folds import Folds
from bids_speechdecode.encoding.grams import (
    Block,
    Features,
    Responses,
    pool_features,
    pool_responses,
)
from bids_speechdecode.encoding.nested import (
    Fit,
    Problem,
    as_tensor,
    find_broken,
    fit_nested,
    standardise,
    sum_block,
    to_numpy,
)
from bids_speechdecode.encoding.penalties import HeldOut, chunks, decompose
from bids_speechdecode.encoding.screening import screen_lags

Advance = Callable[[float], None]


@dataclass(frozen=True)
class LaggedRidge:
    """Held-out predictions of each electrode at its own lag.

    Attributes
    ----------
    lag : array, shape (n_folds, T), samples
        Chosen in the inner folds of each outer fold; positive where the response follows the
        features. NaN where there is no score.
    alpha : array, shape (n_folds, T)
        Penalty, in units of the sum of squares over samples as in scikit-learn; NaN likewise.
    prediction : array of float32, shape (n, T)
        Of held-out responses, at the time of the response; NaN where there is none.
    r, r2 : array, shape (T,)
        Mean over outer folds of the correlation, and of 1 - (squared error / squared deviation),
        over the fold's held-out samples and with their mean removed from prediction and response.
        Penalties are chosen by r, which may shrink predictions more than is best for r2.
    fold_r, fold_r2 : array, shape (n_folds, T)
    lag_profile : array, shape (L, T)
        Mean over outer folds of the held-out correlation at every lag, each with the penalty
        chosen for it in the inner folds, from the leading principal components if there are more
        features than `screen`. The best lag of this profile is chosen on held-out data: use `lag`
        to score with, the profile to look at.
    lags : array of int, shape (L,), samples
    weights : array, shape (n_folds, p, T), or None
        In units of the features as given.
    """

    lag: np.ndarray
    alpha: np.ndarray
    prediction: np.ndarray
    r: np.ndarray
    r2: np.ndarray
    fold_r: np.ndarray
    fold_r2: np.ndarray
    lag_profile: np.ndarray
    lags: np.ndarray
    weights: np.ndarray | None = None


@dataclass(frozen=True)
class RidgeCV:
    """Ridge regression with the penalty of each target chosen by plain cross-validation.

    Attributes
    ----------
    alpha, score : array, shape (T,)
        Chosen penalty and its mean validation correlation over folds. The score is that of the
        best of several penalties and not an estimate for new data.
    scores : array, shape (A, T)
    weights : array, shape (p, T)
        Fitted to all blocks, in units of the features as given.
    intercept : array, shape (T,)
    """

    alpha: np.ndarray
    score: np.ndarray
    scores: np.ndarray
    weights: np.ndarray
    intercept: np.ndarray


def fit_lagged_ridge(
    x: ArrayLike,
    y: ArrayLike,
    folds: Folds,
    *,
    lags: ArrayLike,
    alphas: ArrayLike,
    screen: int = 96,
    device: str | torch.device = "cpu",
    on_progress: Advance | None = None,
    keep_weights: bool = False,
) -> LaggedRidge:
    """Predict responses from features at each electrode's best lag, nested.

    With more than `screen` features, the lag is chosen in the leading `screen` principal
    components of the training features, over all lags and all alphas, and alpha is then chosen
    anew with all features at that lag. With `screen` features or fewer the search is exhaustive.

    Parameters
    ----------
    x : array, shape (n, p)
        Features. Standardised on the training blocks; a feature that is constant there is unused.
    y : array, shape (n, T)
        Responses on the same clock, any unit. An electrode that has a NaN where `folds.valid`, or
        that is constant in a block, gets NaN everywhere.
    folds : Folds
        Its embargo must be at least ``max(lags) - min(lags)``.
    lags : array of int, shape (L,), samples
        y(t + lag) follows x(t).
    alphas : array, shape (A,)
        Penalties.
    screen : int
    device : str or torch.device
    on_progress : callable, optional
        Called with shares of the work done, which add up to 1.
    keep_weights : bool

    Raises
    ------
    DataError
        Shapes disagree, features are not finite, folds are fewer than 3 or too short.
    """
    lags = np.atleast_1d(np.asarray(lags, dtype=int))
    problem = Problem.prepare(x, y, folds, lags, alphas, device)
    advance = on_progress or (lambda share: None)
    n_lags = len(lags)
    if n_lags > 1:
        screened = screen_lags(problem, lags, screen, lambda share: advance(0.6 * share))
        lag = screened.lag
    else:
        lag = np.full((folds.n_folds, problem.n_targets), lags[0])
    rest = 0.4 if n_lags > 1 else 1.0
    fit = fit_nested(problem, lag, on_progress=lambda share: advance(rest * share))
    profile = screened.profile if n_lags > 1 else fit.r.mean(0)[None]
    return _collect(fit, lag, profile, lags, keep_weights)


def _collect(
    fit: Fit, lag: np.ndarray, profile: Tensor, lags: np.ndarray, keep_weights: bool
) -> LaggedRidge:
    alpha = to_numpy(fit.alpha)
    return LaggedRidge(
        lag=np.where(np.isnan(alpha), np.nan, lag),
        alpha=alpha,
        prediction=to_numpy(fit.prediction),
        r=to_numpy(fit.r.mean(0)),
        r2=to_numpy(fit.r2.mean(0)),
        fold_r=to_numpy(fit.r),
        fold_r2=to_numpy(fit.r2),
        lag_profile=to_numpy(profile),
        lags=lags,
        weights=to_numpy(torch.stack(fit.weights)) if keep_weights else None,
    )


def fit_ridge_cv(
    x: ArrayLike,
    y: ArrayLike,
    blocks: np.ndarray,
    *,
    alphas: ArrayLike,
    standardised: bool = True,
    device: str | torch.device = "cpu",
) -> RidgeCV:
    """Fit ridge regression with each target's penalty from plain cross-validation over blocks.

    For fitting only: nothing is left to score on, unlike `fit_lagged_ridge`.

    Parameters
    ----------
    x : array, shape (n, p)
    y : array, shape (n, T)
        NaN in a target gives NaN.
    blocks : array of int, shape (n,)
        Block of each sample, each held out in turn; negative for samples of none.
    alphas : array, shape (A,)
    standardised : bool
        Whether features are standardised on the training blocks; they are centred in any case.
    device : str or torch.device
    """
    features_x, responses = as_tensor(x, device), as_tensor(y, device)
    penalties = torch.as_tensor(np.atleast_1d(np.asarray(alphas, float)), device=responses.device)
    broken = find_broken(responses, blocks >= 0)
    rows = [np.flatnonzero(blocks == b) for b in np.unique(blocks[blocks >= 0])]
    cut = [Block(features_x, responses, r, np.zeros(1, dtype=int)) for r in rows]
    features = [block.features for block in cut]
    sums = [sum_block(block, np.zeros(len(broken), dtype=int)) for block in cut]
    scores = torch.stack(
        [_validate(features, sums, k, penalties, standardised) for k in range(len(rows))]
    ).mean(0)
    scores[:, broken] = torch.nan
    best, chosen = scores.nan_to_num(nan=-np.inf).max(0)
    alpha = penalties[chosen].masked_fill(best.isinf(), torch.nan)
    pooled_x, pooled = pool_features(features), pool_responses(features, sums)
    scale = _scale(pooled_x, standardised)
    spectrum = decompose(pooled_x.xx * scale[:, None] * scale)
    weights = spectrum.weights(pooled.xy * scale[:, None], alpha) * scale[:, None]
    intercept = pooled.mean - pooled_x.mean @ weights
    best = best.masked_fill(best.isinf(), torch.nan)
    return RidgeCV(*(to_numpy(t) for t in (alpha, best, scores, weights, intercept)))


def _scale(features: Features, standardised: bool) -> Tensor:
    return standardise(features) if standardised else torch.ones_like(features.mean)


def _validate(
    features: list[Features],
    sums: list[Responses],
    k: int,
    alphas: Tensor,
    standardised: bool,
) -> Tensor:
    """Return the correlation in block k for each penalty, shape (A, T)."""
    train = [b for b in range(len(features)) if b != k]
    train_x = [features[b] for b in train]
    pooled = pool_features(train_x)
    scale = _scale(pooled, standardised)
    held = Features(features[k].n, features[k].mean, features[k].xx * scale[:, None] * scale)
    held_out = HeldOut(decompose(pooled.xx * scale[:, None] * scale), held, alphas)
    parts = []
    for some in chunks(len(scale), len(sums[k].mean)):
        xy = pool_responses(train_x, [sums[b].columns(some) for b in train]).xy
        one = sums[k].columns(some)
        parts.append(held_out.correlate(xy * scale[:, None], one.xy * scale[:, None], one.yy))
    return torch.cat(parts, dim=1)


def stack_delays(x: np.ndarray, delays: ArrayLike, segments: np.ndarray) -> np.ndarray:
    """Return the features at several delays side by side, for one fit of all delays together.

    Column ``j * p + i`` at time t is ``x[t - delays[j], i]``; zero where that lies outside the
    stretch of t. Fit with ``lags=[0]`` and an embargo longer by the longest delay.

    Parameters
    ----------
    x : array, shape (n, p)
    delays : array of int, shape (D,), samples
        Positive: the response follows the features.
    segments : array of int, shape (n,)
        Label of the stretch of continuous audio.

    Examples
    --------
    >>> import numpy as np
    >>> stack_delays(np.array([[1.0], [2.0], [3.0]]), [0, 1], np.zeros(3, int))
    array([[1., 0.],
           [2., 1.],
           [3., 2.]])
    """
    x, delays = np.asarray(x), np.atleast_1d(np.asarray(delays, dtype=int))
    n, p = x.shape
    stretch = np.cumsum(np.diff(segments, prepend=segments[:1]) != 0)
    stacked = np.zeros((n, len(delays) * p), dtype=x.dtype)
    for j, delay in enumerate(delays):
        earlier = np.arange(n) - delay
        inside = np.clip(earlier, 0, n - 1)
        there = (inside == earlier) & (stretch[inside] == stretch)
        stacked[there, j * p : (j + 1) * p] = x[inside[there]]
    return stacked
