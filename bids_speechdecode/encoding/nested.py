"""Choice of penalties in inner folds and prediction of outer folds, at a given lag per electrode.

Which inner fold of which outer fold a set of training blocks belongs to does not matter to its
Gram matrix: with 4 blocks there are 12 inner fits but 6 decompositions.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

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
    sum_responses,
)
from bids_speechdecode.encoding.penalties import HeldOut, Spectrum, chunks, decompose
from bids_speechdecode.errors import DataError

Advance = Callable[[float], None]
Criterion = Literal["r", "r2"]


@dataclass(frozen=True)
class Problem:
    """Data on the device, in blocks.

    Attributes
    ----------
    blocks : list of Block
    broken : Tensor of bool, shape (T,)
        Electrodes that have NaN where they should have a response.
    alphas : Tensor of float64, shape (A,)
    n : int
        Number of samples, of blocks or not.
    spectra : dict from int to (Tensor, Spectrum)
        Those of `spectrum` so far, by outer fold.
    """

    blocks: list[Block]
    broken: Tensor
    alphas: Tensor
    n: int
    spectra: dict[int, tuple[Tensor, Spectrum]] = field(default_factory=dict)

    @classmethod
    def prepare(
        cls,
        x: ArrayLike,
        y: ArrayLike,
        folds: Folds,
        lags: np.ndarray,
        alphas: ArrayLike,
        device: str | torch.device,
    ) -> Problem:
        """Check the data, move them and sum the features.

        Raises
        ------
        DataError
            Shapes disagree, features are not finite, penalties not positive, folds too few or
            too short.
        """
        rows = folds.list_rows(lags)
        features, responses = as_tensor(x, device), as_tensor(y, device)
        penalties = torch.as_tensor(np.atleast_1d(np.asarray(alphas, dtype=float)), device=device)
        _check(features, responses, folds, penalties)
        blocks = [Block(features, responses, r, lags) for r in rows]
        _check_finite(blocks)
        broken = find_broken(responses, folds.valid)
        return cls(blocks, broken, penalties, len(responses))

    @property
    def features(self) -> list[Features]:
        """Sums of the features of each block."""
        return [block.features for block in self.blocks]

    @property
    def n_folds(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    @property
    def n_features(self) -> int:
        """Number of features."""
        return self.blocks[0].x.shape[1]

    @property
    def n_targets(self) -> int:
        """Number of electrodes."""
        return len(self.broken)

    def training(self, k: int) -> list[int]:
        """Return the blocks that fold k is trained on."""
        return [b for b in range(self.n_folds) if b != k]

    def spectrum(self, k: int) -> tuple[Tensor, Spectrum]:
        """Return what standardises the training features of fold k, and their spectrum then.

        Made once: to choose lags and to predict at them takes the same.
        """
        if k not in self.spectra:
            ones = torch.ones(1, self.n_features).to(self.blocks[0].x)
            self.spectra[k] = next(_decompose(self, self.training(k), ones))
        return self.spectra[k]


def find_broken(y: Tensor, valid: np.ndarray) -> Tensor:
    """Return which columns (T,) of `y` (n, T) have a value that is not finite where `valid`."""
    suspect = (~y.sum(0).isfinite()).nonzero()[:, 0]
    broken = torch.zeros(y.shape[1], dtype=torch.bool, device=y.device)
    where = torch.as_tensor(np.flatnonzero(valid), device=y.device)
    broken[suspect] = (~y[where[:, None], suspect].isfinite()).any(0)
    return broken


@dataclass(frozen=True)
class Fit:
    """What was chosen and predicted in each outer fold.

    Attributes
    ----------
    alpha, scaling : Tensor, shape (n_folds, T)
        Penalty and number of the scaling of the features; NaN and 0 where nothing was scored.
    r, r2 : Tensor of float64, shape (n_folds, T)
        Of held-out responses.
    prediction : Tensor, shape (n, T)
        At the time of the response; NaN where there is none.
    weights : list of Tensors, shape (p, T)
        One per outer fold, in units of the features as given.
    """

    alpha: Tensor
    scaling: Tensor
    r: Tensor
    r2: Tensor
    prediction: Tensor
    weights: list[Tensor]


def fit_nested(
    problem: Problem,
    lag: np.ndarray,
    scalings: Tensor | None = None,
    *,
    criterion: Criterion = "r",
    on_progress: Advance | None = None,
) -> Fit:
    """Choose penalty and scaling of each electrode in inner folds and predict the outer folds.

    Parameters
    ----------
    problem : Problem
    lag : array of int, shape (n_folds, T), samples
        At which each electrode is predicted in each outer fold.
    scalings : Tensor, shape (R, p), optional
        What the standardised features are multiplied with, each to be tried; one of ones if left
        out. Bands of features with penalties of their own are bands with factors of their own.
    criterion : {"r", "r2"}
        What is best in the inner folds. r hardly depends on the size of a prediction, which r2
        does: the penalty that is best for the one may shrink too much for the other.
    on_progress : callable, optional
    """
    scalings = torch.ones(1, problem.n_features) if scalings is None else scalings
    scalings = scalings.to(problem.blocks[0].x)
    advance = on_progress or (lambda share: None)
    sums = _sum_blocks(problem, lag)
    advance(0.3)
    scores = _score_inner(problem, sums, scalings, criterion, lambda share: advance(0.5 * share))
    best, chosen = scores.flatten(1, 2).nan_to_num(nan=-np.inf).max(1)  # (K, T)
    n_alphas = len(problem.alphas)
    alpha = problem.alphas[chosen % n_alphas].masked_fill(best.isinf(), torch.nan)
    scaling = chosen // n_alphas
    fits = []
    for k in range(problem.n_folds):
        fits.append(_fit_outer(problem, k, sums[k], scalings, scaling[k], alpha[k]))
        advance(0.2 / problem.n_folds)
    return _predict(problem, lag, alpha, scaling, fits)


def _sum_blocks(problem: Problem, lag: np.ndarray) -> list[dict[int, Responses]]:
    """Return for each outer fold the sums of its training blocks at its electrodes' lags."""
    n_folds = problem.n_folds
    sums: list[dict[int, Responses]] = [{} for _ in range(n_folds)]
    for b in range(n_folds):
        block = problem.blocks[b]
        others = [k for k in range(n_folds) if k != b]
        for i, k in enumerate(others):
            same = [j for j in others[:i] if np.array_equal(lag[j], lag[k])]
            if same:
                sums[k][b] = sums[same[0]][b]
            else:
                sums[k][b] = sum_block(block, lag[k])
    return sums


def sum_block(block: Block, lag: np.ndarray) -> Responses:
    """Return the sums of a block at the lag of each electrode, shape (T,)."""
    sums = sum_responses(block.x, block.responses(lag))
    dust = 1e-12 * len(block) * block.offset.square()
    return Responses(sums.mean + block.offset, sums.xy, torch.where(sums.yy > dust, sums.yy, 0.0))


def _score_inner(
    problem: Problem,
    sums: list[dict[int, Responses]],
    scalings: Tensor,
    criterion: Criterion,
    advance: Advance,
) -> Tensor:
    """Return the mean score over inner folds, shape (n_folds, R, A, T)."""
    n_folds, n_targets = problem.n_folds, problem.n_targets
    shape = n_folds, len(scalings), len(problem.alphas), n_targets
    scores = torch.zeros(shape, dtype=torch.float64, device=problem.alphas.device)
    pairs = list(itertools.combinations(range(n_folds), 2))
    for a, b in pairs:
        train = [k for k in range(n_folds) if k not in (a, b)]
        for i, (scale, spectrum) in enumerate(_decompose(problem, train, scalings)):
            for outer, inner in ((a, b), (b, a)):
                held = _scaled(problem.features[inner], scale)
                held_out = HeldOut(spectrum, held, problem.alphas)
                fold = train, inner, criterion
                scores[outer, i] += _validate(problem, held_out, scale, sums[outer], *fold)
        advance(1 / len(pairs))
    return scores / (n_folds - 1)


def _validate(
    problem: Problem,
    held_out: HeldOut,
    scale: Tensor,
    sums: dict[int, Responses],
    train: Sequence[int],
    inner: int,
    criterion: Criterion,
) -> Tensor:
    """Return the score of an inner fold at each penalty, shape (A, T)."""
    features = [problem.features[k] for k in train]
    parts = []
    for some in chunks(len(scale), problem.n_targets):
        pooled = pool_responses(features, [sums[k].columns(some) for k in train])
        held = sums[inner].columns(some)
        products = pooled.xy * scale[:, None], held.xy * scale[:, None], held.yy
        if criterion == "r":
            parts.append(held_out.correlate(*products))
        else:
            parts.append(held_out.explain(*products))
    return torch.cat(parts, dim=1)


def _decompose(
    problem: Problem, train: Sequence[int], scalings: Tensor
) -> Iterator[tuple[Tensor, Spectrum]]:
    """Yield scale and spectrum of the training features for each scaling."""
    features = pool_features([problem.features[k] for k in train])
    unit = standardise(features)
    for scaling in scalings:
        scale = unit * scaling
        yield scale, decompose(_scaled(features, scale).xx)


def _scaled(features: Features, scale: Tensor) -> Features:
    return Features(features.n, features.mean * scale, features.xx * scale[:, None] * scale)


def standardise(features: Features) -> Tensor:
    """Return the factors, shape (p,), that give features a deviation of 1; 0 if they are constant.

    What varies by less than a millionth of its mean is rounding.
    """
    deviation = (features.xx.diagonal() / features.n).sqrt()
    varies = deviation > 1e-6 * features.mean.abs()
    return torch.where(varies, 1 / deviation, 0.0)


def _fit_outer(
    problem: Problem,
    k: int,
    sums: dict[int, Responses],
    scalings: Tensor,
    scaling: Tensor,
    alpha: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return weights (p, T), mean of the features (p,) and of the responses (T,)."""
    train = problem.training(k)
    features = [problem.features[b] for b in train]
    pooled = pool_responses(features, [sums[b] for b in train])
    weights = torch.zeros_like(pooled.xy)
    used = scaling.unique()
    unscaled = bool((scalings[used] == 1).all())
    spectra = [problem.spectrum(k)] if unscaled else _decompose(problem, train, scalings[used])
    for i, (scale, spectrum) in zip(used.tolist(), spectra, strict=True):
        some = (scaling == i).nonzero()[:, 0]
        xy = pooled.xy[:, some] * scale[:, None]
        weights[:, some] = spectrum.weights(xy, alpha[some]) * scale[:, None]
    return weights, pool_features(features).mean, pooled.mean


def _predict(
    problem: Problem,
    lag: np.ndarray,
    alpha: Tensor,
    scaling: Tensor,
    fits: list[tuple[Tensor, Tensor, Tensor]],
) -> Fit:
    prediction = fits[0][0].new_full((problem.n_targets, problem.n), torch.nan)
    r, r2 = torch.empty_like(alpha), torch.empty_like(alpha)
    for k, (weights, mean_x, mean_y) in enumerate(fits):
        block = problem.blocks[k]
        held = weights.T @ block.x.T  # (T, m)
        # Scores do not depend on the level, which may be so much larger than what is predicted
        # about it that float32 has no digits left for that: it comes last.
        r[k], r2[k] = score(block.responses(lag[k]), held, block.offset)
        unknown = alpha[k].isnan() | problem.broken
        r[k, unknown] = r2[k, unknown] = torch.nan
        held[unknown] = torch.nan
        held += (mean_y + (block.features.mean - mean_x) @ weights)[:, None]
        _place(prediction, held, block, lag[k])
    alpha = alpha.masked_fill(problem.broken, torch.nan)
    return Fit(alpha, scaling, r, r2, prediction.T, [weights for weights, _, _ in fits])


def _place(prediction: Tensor, held: Tensor, block: Block, lag: np.ndarray) -> None:
    whole = prediction[:, block.first : block.first + block.y.shape[1]]
    places = {one: block.place(int(one)) for one in np.unique(lag)}
    for target, one in enumerate(lag):
        whole[target, places[one]] = held[target]


def score(y: Tensor, prediction: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """Return correlation and 1 - (squared error / squared deviation), (T,); NaN if y is constant.

    Means are removed from both, before anything is squared: a level that drifts must neither count
    as error nor take the digits of float32 from what varies about it.

    Parameters
    ----------
    y, prediction : Tensor, shape (T, m)
        Less `offset`, shape (T,).

    Examples
    --------
    >>> y = torch.tensor([[0.0, 1.0, 2.0]])
    >>> [round(float(s), 6) for s in score(y, 1.5 * y + 7, torch.zeros(1))]
    [1.0, 0.75]
    """
    m, mean = y.shape[1], y.mean(1)
    centred, moving = y - mean[:, None], prediction - prediction.mean(1, keepdim=True)
    yy = torch.linalg.vector_norm(centred, dim=1).square()
    pp = torch.linalg.vector_norm(moving, dim=1).square()
    both = torch.linalg.vecdot(centred, moving)
    # A constant is a constant, also where rounding leaves some dust of it.
    varies = yy > 1e-12 * m * (offset.square() + mean.square())
    # A heavy penalty makes predictions tiny, and still they may correlate: what counts is how much
    # they vary beside their own size.
    moves = pp > 1e-10 * prediction.square().sum(dim=1)
    r = torch.where(varies & moves, both / (yy.sqrt() * pp.sqrt()), torch.nan)
    return r.double(), torch.where(varies, (2 * both - pp) / yy, torch.nan).double()


def as_tensor(values: ArrayLike, device: str | torch.device) -> Tensor:
    """Return float32 on the device."""
    if isinstance(values, Tensor):
        return values.to(device=device, dtype=torch.float32)
    return torch.as_tensor(np.asarray(values, dtype=np.float32), device=device)


def to_numpy(tensor: Tensor) -> np.ndarray:
    """Return a tensor of any device as an array."""
    return np.asarray(tensor.detach().cpu().numpy())


def _check(x: Tensor, y: Tensor, folds: Folds, alphas: Tensor) -> None:
    n = len(folds.block)
    if x.ndim != 2 or y.ndim != 2 or len(x) != n or len(y) != n:
        raise DataError(
            "Features, responses and folds must have the same samples.",
            expected=f"two arrays with {n} rows",
            found=f"shapes {tuple(x.shape)} and {tuple(y.shape)}",
        )
    if folds.n_folds < 3:
        raise DataError(
            "Inner folds need at least three blocks.",
            expected="at least 3 folds",
            found=str(folds.n_folds),
            fix="Set n_folds to 3 or more.",
        )
    if not bool((alphas > 0).all()) or not bool(alphas.isfinite().all()):
        raise DataError("Penalties must be positive numbers.", found=str(alphas.tolist()))


def _check_finite(blocks: Sequence[Block]) -> None:
    if any(not bool(block.features.xx.isfinite().all()) for block in blocks):
        raise DataError(
            "The features are not finite where they are used.",
            expected="finite features at every valid sample",
            found="NaN or infinity (or values whose squares overflow) in the features",
            fix="Mark these samples as not valid, or repair the features.",
        )
