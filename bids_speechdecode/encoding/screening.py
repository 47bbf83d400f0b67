"""Which lag suits each electrode: every lag and every penalty in a space of few dimensions.

A full search over lags costs (lags x features^2 x electrodes) in every inner fold. The leading
principal components of the training features carry most of what a ridge regression uses at the
penalties that win, so the lag is sought there. Components come from the outer fold's training
features alone; inner folds are centred on their own training blocks.

Where responses are predictable the lag is the one of the full search; where they are not, both
searches choose among noise. With 210 simulated smooth responses to 256 features (8,000 samples, 81
lags, ``benchmarks/bench_ridge.py --screening``) 96 components found the lag of all 256 in 100% of
electrodes and folds at r = 0.36, in 72% at r = 0.07 and in 53% at r = 0.01, and the mean held-out
r was not lower than the full search's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bids_speechdecode.encoding.grams import (
    Features,
    LaggedResponses,
    Responses,
    pool_features,
    pool_responses,
    transform,
)
from bids_speechdecode.encoding.nested import Advance, Problem, standardise
from bids_speechdecode.encoding.penalties import HeldOut, Spectrum, chunks, decompose


@dataclass(frozen=True)
class Screened:
    """Lags chosen in inner folds, and what each lag gives on held-out data.

    Attributes
    ----------
    lag : array of int, shape (n_folds, T), samples
    profile : Tensor of float64, shape (L, T)
        Mean over outer folds of the held-out correlation at each lag, with the penalty of each
        lag chosen in the inner folds.
    """

    lag: np.ndarray
    profile: Tensor


@dataclass(frozen=True)
class _Space:
    """Sums of every block in the space of one outer fold."""

    features: list[Features]
    responses: list[Responses]
    standardised: bool  # inner folds still have to standardise

    def train(self, blocks: Sequence[int]) -> tuple[Tensor, Spectrum]:
        pooled = pool_features([self.features[b] for b in blocks])
        scale = torch.ones_like(pooled.mean) if self.standardised else standardise(pooled)
        return scale, decompose(pooled.xx * scale[:, None] * scale)

    def pool(self, blocks: Sequence[int], some: slice) -> Responses:
        features = [self.features[b] for b in blocks]
        return pool_responses(features, [self.responses[b].columns(some) for b in blocks])


def screen_lags(problem: Problem, lags: np.ndarray, screen: int, advance: Advance) -> Screened:
    """Choose the lag of each electrode in each outer fold.

    Parameters
    ----------
    problem : Problem
    lags : array of int, shape (L,), samples
    screen : int
        Number of principal components; with no more features than that, the features themselves.
    advance : callable
        Called with shares of the work done.
    """
    n_folds, n_targets = problem.n_folds, problem.n_targets
    lagged = [LaggedResponses(block) for block in problem.blocks]
    lag, profiles = [], []
    for k in range(n_folds):
        space = _reduce(problem, lagged, k, screen)
        scores = _score_inner(problem, space, k)  # (A, L * T)
        best, penalty = scores.nan_to_num(nan=-np.inf).max(0)
        lag.append(lags[best.view(-1, n_targets).argmax(0).cpu().numpy()])
        profile = _score_outer(problem, space, k, problem.alphas[penalty])
        profile[best.isinf()] = torch.nan
        profiles.append(profile.view(-1, n_targets))
        advance(1 / n_folds)
    profile = torch.stack(profiles).mean(0)
    profile[:, problem.broken] = torch.nan
    return Screened(np.stack(lag), profile)


def _reduce(problem: Problem, lagged: list[LaggedResponses], k: int, screen: int) -> _Space:
    """Return the sums of all blocks in the leading components of the training blocks of fold k."""
    mean = pool_features([problem.features[b] for b in problem.training(k)]).mean
    basis = None
    scale = torch.ones_like(mean)
    if problem.n_features > screen:
        scale, spectrum = problem.spectrum(k)
        basis = spectrum.vectors[:, -screen:].contiguous()
    features = [transform(f, scale, mean, basis) for f in problem.features]
    responses = []
    for b in range(problem.n_folds):
        x = problem.blocks[b].x
        responses.append(lagged[b].sum_with(x if basis is None else x @ (scale[:, None] * basis)))
    return _Space(features, responses, standardised=basis is not None)


def _score_inner(problem: Problem, space: _Space, k: int) -> Tensor:
    """Return the mean correlation over the inner folds of fold k, shape (A, L * T)."""
    others = problem.training(k)
    n_columns = len(space.responses[0].mean)
    scores = space.features[0].xx.new_zeros(len(problem.alphas), n_columns)
    for inner in others:
        train = [b for b in others if b != inner]
        scale, spectrum = space.train(train)
        held = space.features[inner]
        held = Features(held.n, held.mean, held.xx * scale[:, None] * scale)
        held_out = HeldOut(spectrum, held, problem.alphas)
        for some in chunks(len(scale), n_columns):
            xy = space.pool(train, some).xy * scale[:, None]
            one = space.responses[inner].columns(some)
            r = held_out.correlate(xy, one.xy * scale[:, None], one.yy)
            scores[:, some] += r.to(scores.dtype)
    return scores / len(others)


def _score_outer(problem: Problem, space: _Space, k: int, alpha: Tensor) -> Tensor:
    """Return the correlation in the held-out block at each column's penalty, shape (L * T,)."""
    train = problem.training(k)
    scale, spectrum = space.train(train)
    xx = space.features[k].xx
    parts = []
    for some in chunks(len(scale), len(alpha)):
        weights = spectrum.weights(space.pool(train, some).xy * scale[:, None], alpha[some])
        weights *= scale[:, None]
        held = space.responses[k].columns(some)
        covariance = (weights * held.xy).sum(0)
        product = (weights * (xx @ weights)).sum(0) * held.yy
        parts.append(torch.where(product > 0, covariance / product.sqrt(), torch.nan))
    return torch.cat(parts)
