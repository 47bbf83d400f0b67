"""The practitioner's baseline: linear backward model, time-lagged ridge in closed form.

    W = argmin ||Y - X W||^2 + alpha' ||W||^2,    alpha' = alpha * trace(Xc' Xc) / P

with the rows of X made from the brain signal and Y the targets, both centred. With window means
as targets a row is one window, its signal averaged in bins of 0.25 s; with frames a row is one
frame, and its predictors are the signal in bins of about 50 ms around and after it. The penalty is
relative to the mean eigenvalue of the Gram matrix, so that one grid serves any number of channels,
windows and units.

Only sums over rows are kept (the Gram blocks of each fold), never the design of all windows. One
eigendecomposition per fold serves every alpha. Where there are fewer rows than predictors, the rows
are first rotated into the space they span, which is the dual solution by another name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from bids_speechdecode.decoding.windows import WindowSet
from bids_speechdecode.errors import DataError

ALPHAS: tuple[float, ...] = tuple(np.logspace(-3, 4, 15).tolist())
N_FOLDS = 5
WINDOW_BIN = 0.25  # seconds averaged, for targets that are window means
FRAME_BIN = 0.05  # about this many seconds averaged, for frames
# Seconds from a frame to the first and last signal that predicts it, on the window's own clock,
# which already runs `brain_lag` behind the sound: responses from about 0.05 to 0.65 s.
FRAME_LAGS = (-0.1, 0.5)
_BATCH = 128  # windows


@dataclass(frozen=True)
class BackwardModel:
    """A fitted backward model.

    Attributes
    ----------
    weights : tensor, shape (n_predictors, d)
    intercept : tensor, shape (d,)
    alpha : float
        The chosen penalty, relative to the mean eigenvalue of the Gram matrix.
    alphas, errors : tuple of float
        The grid and the squared error of each of its penalties in the held-out folds, relative to
        predicting the mean of the other folds (below 1: better than that).
    n_frames : int or None
        Frames per window, None for window means.
    rate : float, hertz
        Sampling rate of the signal.
    """

    weights: torch.Tensor
    intercept: torch.Tensor
    alpha: float
    alphas: tuple[float, ...]
    errors: tuple[float, ...]
    n_frames: int | None
    rate: float

    @property
    def at_edge(self) -> bool:
        """Whether the chosen penalty is the first or last of the grid."""
        return self.alpha in (self.alphas[0], self.alphas[-1])

    def predict(self, windows: WindowSet) -> np.ndarray:
        """Return the predicted targets, shape (N, d) or (N, n_frames, d), float32."""
        predicted = []
        for index in _batches(torch.arange(len(windows))):
            rows = design_rows(windows.brain(index), self.n_frames, self.rate)
            rows = rows.to(self.weights.device, self.weights.dtype)
            predicted.append((rows @ self.weights + self.intercept).float().cpu())
        flat = torch.cat(predicted).numpy()
        if self.n_frames is None:
            return flat
        return flat.reshape(len(windows), self.n_frames, -1)


def design_rows(brain: torch.Tensor, n_frames: int | None, rate: float) -> torch.Tensor:
    """Return the predictors of a batch of windows.

    Parameters
    ----------
    brain : tensor, shape (B, C, T), robust z
        Signal of each window.
    n_frames : int or None
        Frames per window; None where the target is one vector per window.
    rate : float, hertz
        Sampling rate of `brain`.

    Returns
    -------
    tensor, shape (B, C * n_bins) or (B * n_frames, C * n_lags)
        Signal beyond the window counts as zero, the signal's median: a baseline may not look
        further than the encoders it is compared with.
    """
    duration = brain.shape[-1] / rate
    if n_frames is None:
        n_bins = max(1, round(duration / WINDOW_BIN))
        return functional.adaptive_avg_pool1d(brain, n_bins).flatten(1)
    per_frame = max(1, round(duration / n_frames / FRAME_BIN))
    binned = functional.adaptive_avg_pool1d(brain, n_frames * per_frame)
    bin_width = duration / (n_frames * per_frame)
    before = round(-FRAME_LAGS[0] / bin_width)
    n_lags = before + round(FRAME_LAGS[1] / bin_width) + 1
    padded = functional.pad(binned, (before, max(0, n_lags - before - per_frame)))
    lagged = padded.unfold(-1, n_lags, per_frame)[:, :, :n_frames]  # (B, C, F, n_lags)
    return lagged.transpose(1, 2).reshape(len(brain) * n_frames, -1)


def fit_backward(
    train: WindowSet,
    groups: np.ndarray,
    alphas: Sequence[float] = ALPHAS,
    *,
    rate: float,
) -> BackwardModel:
    """Fit the backward model, its penalty chosen by contiguous folds of the training windows.

    The penalty is the one with the smallest squared error over all held-out folds; a fold is a run
    of whole neighbouring blocks, so that a window's own neighbours never help to choose.

    Parameters
    ----------
    train : WindowSet
        Training windows; targets of shape (N, d) or (N, F, d), standardised.
    groups : array, shape (N,)
        Contiguous block of each window (any names; windows and blocks in order of time).
    alphas : sequence of float
        Penalties to choose from, increasing, relative to the mean eigenvalue of the Gram matrix.
    rate : float, hertz
        Sampling rate of the signal.

    Raises
    ------
    DataError
        Fewer than two blocks, or a signal or target that is not finite.
    """
    n_frames = train.targets.shape[1] if train.targets.ndim == 3 else None
    folds = _assign_folds(np.asarray(groups), len(train))

    def rows_of(index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = design_rows(train.brain(index), n_frames, rate)
        y = train.audio(index).reshape(len(x), -1)
        return _as_double(x), _as_double(y)

    n_predictors = rows_of(torch.arange(1))[0].shape[1]
    n_rows = len(train) * (n_frames or 1)
    basis = _row_space(rows_of, len(train)) if n_rows < n_predictors else None
    moments = [_accumulate(rows_of, np.flatnonzero(folds == k), basis) for k in np.unique(folds)]
    penalties = np.asarray(alphas, dtype=float) / n_predictors
    errors = _held_out_errors(moments, penalties)
    best = int(np.argmin(errors))
    weights, intercept = _solve(_total(moments), float(penalties[best]))
    return BackwardModel(
        weights=weights if basis is None else basis @ weights,
        intercept=intercept,
        alpha=float(alphas[best]),
        alphas=tuple(float(alpha) for alpha in alphas),
        errors=tuple(errors.tolist()),
        n_frames=n_frames,
        rate=rate,
    )


RowsOf = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class _Moments:
    """Sums over rows: all that ridge needs to know of them."""

    n: int
    x: torch.Tensor  # (P,)
    y: torch.Tensor  # (d,)
    xx: torch.Tensor  # (P, P)
    xy: torch.Tensor  # (P, d)
    yy: torch.Tensor  # (), sum of squares over rows and dimensions

    def __add__(self, other: _Moments) -> _Moments:
        return _Moments(
            self.n + other.n,
            self.x + other.x,
            self.y + other.y,
            self.xx + other.xx,
            self.xy + other.xy,
            self.yy + other.yy,
        )

    def about(self, x_mean: torch.Tensor, y_mean: torch.Tensor) -> _Moments:
        """Return the moments of the rows after subtracting `x_mean` and `y_mean`."""
        crossed = torch.outer(self.x, x_mean)
        return _Moments(
            self.n,
            self.x - self.n * x_mean,
            self.y - self.n * y_mean,
            self.xx - crossed - crossed.T + self.n * torch.outer(x_mean, x_mean),
            self.xy
            - torch.outer(self.x, y_mean)
            - torch.outer(x_mean, self.y)
            + self.n * torch.outer(x_mean, y_mean),
            self.yy - 2 * self.y @ y_mean + self.n * y_mean @ y_mean,
        )


def _total(moments: Sequence[_Moments]) -> _Moments:
    total = moments[0]
    for part in moments[1:]:
        total = total + part
    return total


def _assign_folds(groups: np.ndarray, n_windows: int) -> np.ndarray:
    if len(groups) != n_windows:
        raise DataError(
            "Each training window needs the number of its block.",
            expected=f"{n_windows} block numbers",
            found=str(len(groups)),
        )
    _, first, members = np.unique(groups, return_index=True, return_inverse=True)
    n_blocks = len(first)
    if n_blocks < 2:
        raise DataError(
            "The penalty of the backward model cannot be chosen inside the training data.",
            expected="training windows from at least 2 contiguous blocks",
            found=str(n_blocks),
            fix="Give more audio, or cut it in more blocks (splits.n_blocks).",
        )
    place = np.argsort(np.argsort(first))  # of each block among the others, in time
    return place[members] * min(N_FOLDS, n_blocks) // n_blocks


def _as_double(values: torch.Tensor) -> torch.Tensor:
    # Eigenvectors of a Gram matrix need double precision, which Apple's GPUs do not have.
    device = "cpu" if values.device.type == "mps" else values.device
    return values.to(device=device).to(torch.float64)


def _batches(index: torch.Tensor) -> Iterator[torch.Tensor]:
    yield from torch.split(index, _BATCH)


def _row_space(rows_of: RowsOf, n_windows: int) -> torch.Tensor:
    """Return an orthonormal basis of the space spanned by all rows, shape (P, rank)."""
    rows = torch.cat([rows_of(index)[0] for index in _batches(torch.arange(n_windows))])
    _require_finite(rows)
    values, vectors = torch.linalg.eigh(rows @ rows.T)
    kept = values > values[-1] * 1e-12
    return rows.T @ (vectors[:, kept] / values[kept].sqrt())


def _accumulate(rows_of: RowsOf, index: np.ndarray, basis: torch.Tensor | None) -> _Moments:
    total: _Moments | None = None
    for batch in _batches(torch.as_tensor(index)):
        x, y = rows_of(batch)
        if basis is not None:
            x = x @ basis
        _require_finite(x, y)
        part = _Moments(len(x), x.sum(0), y.sum(0), x.T @ x, x.T @ y, (y * y).sum())
        total = part if total is None else total + part
    assert total is not None
    return total


def _require_finite(*tensors: torch.Tensor) -> None:
    if not all(bool(torch.isfinite(values).all()) for values in tensors):
        raise DataError(
            "The backward model cannot be fitted.",
            expected="finite signal and targets",
            found="NaN or infinite values in the training windows",
            fix="Mark the channels or stretches concerned as bad.",
        )


def _held_out_errors(moments: Sequence[_Moments], penalties: np.ndarray) -> np.ndarray:
    """Return the held-out squared error of each penalty, relative to predicting the mean."""
    errors, baseline = np.zeros(len(penalties)), 0.0
    for k, held_out in enumerate(moments):
        others = _total([part for j, part in enumerate(moments) if j != k])
        x_mean, y_mean = others.x / others.n, others.y / others.n
        fitted, tested = others.about(x_mean, y_mean), held_out.about(x_mean, y_mean)
        values, vectors = _decompose(fitted.xx)
        projected = vectors.T @ fitted.xy  # (P, d)
        # With weights D Z, where D is diagonal and the only part that depends on the penalty,
        # tr(W' c) and tr(W' G W) are a linear and a quadratic form of the diagonal.
        linear = (projected * (vectors.T @ tested.xy)).sum(1)
        quadratic = (vectors.T @ tested.xx @ vectors) * (projected @ projected.T)
        for i, penalty in enumerate(penalties):
            shrinkage = 1 / (values + penalty * values.sum())
            explained = 2 * shrinkage @ linear - shrinkage @ quadratic @ shrinkage
            errors[i] += float(tested.yy - explained)
        baseline += float(tested.yy)
    if not baseline > 0:
        raise DataError(
            "The backward model has nothing to predict.",
            expected="targets that vary between windows",
            found="constant targets",
        )
    return errors / baseline


def _decompose(gram: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    values, vectors = torch.linalg.eigh(gram)
    return values.clamp_min(0.0), vectors


def _solve(moments: _Moments, penalty: float) -> tuple[torch.Tensor, torch.Tensor]:
    x_mean, y_mean = moments.x / moments.n, moments.y / moments.n
    centred = moments.about(x_mean, y_mean)
    ridge = penalty * torch.trace(centred.xx) * torch.eye(len(centred.xx)).to(centred.xx)
    weights = torch.linalg.solve(centred.xx + ridge, centred.xy)
    return weights, y_mean - x_mean @ weights
