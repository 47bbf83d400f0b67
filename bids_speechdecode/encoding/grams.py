"""Sums over blocks of time from which every ridge regression on any of the blocks follows.

Each block is centred on its own mean, and blocks are pooled with the terms for the differences
between their means (Chan, Golub and LeVeque 1983, doi:10.1080/00031305.1983.10483115). A block's
sums so depend on nothing outside the block, and float32 does not lose digits to a large mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

SEGMENT = 176  # samples of a short transform; with 81 lags its length is 256
FEW_LAGS = 4  # so many lags are summed one by one
NUMBERS_AT_ONCE = 2**22  # of half a product of transforms, which bounds the memory


@dataclass(frozen=True)
class Features:
    """Sums of the features over a block.

    Attributes
    ----------
    n : int
        Number of samples.
    mean : Tensor, shape (p,)
    xx : Tensor, shape (p, p)
        Sum of products of deviations from the mean.
    """

    n: int
    mean: Tensor
    xx: Tensor


@dataclass(frozen=True)
class Responses:
    """Sums of responses over a block; T counts columns (electrodes, or lags x electrodes).

    Attributes
    ----------
    mean : Tensor, shape (T,)
    xy : Tensor, shape (p, T)
        Sum of products of the deviations of features and responses.
    yy : Tensor, shape (T,)
        Sum of squared deviations.
    """

    mean: Tensor
    xy: Tensor
    yy: Tensor

    def columns(self, some: slice) -> Responses:
        """Return some of the columns."""
        return Responses(self.mean[some], self.xy[:, some], self.yy[some])


def sum_features(x: Tensor) -> Features:
    """Return the sums over a block of features, shape (n, p)."""
    mean = x.mean(0)
    centred = x - mean
    return Features(len(x), mean, centred.T @ centred)


def sum_responses(centred_x: Tensor, y: Tensor) -> Responses:
    """Return the sums over a block of responses, shape (T, n), with centred features (n, p)."""
    mean, yy = measure_spread(y)
    return Responses(mean, centred_x.T @ y.T, yy)


def measure_spread(y: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and sum of squared deviations of each row, (T,); 0 if it is constant.

    What varies by less than a millionth of its mean is rounding.
    """
    n = y.shape[1]
    mean = y.mean(1)
    yy = torch.linalg.vector_norm(y, dim=1).square() - n * mean.square()
    return mean, torch.where(yy > 1e-6 * n * mean.square(), yy, 0.0)


class Block:
    """Features of a block, and the responses at all lags of its samples.

    Both are centred on their mean over the block.

    Parameters
    ----------
    x : Tensor, shape (n, p)
        All features.
    y : Tensor, shape (n, T)
        All responses; NaN is replaced by 0.
    rows : array of int, shape (m,)
        Samples of the features, increasing.
    lags : array of int, shape (L,)

    Attributes
    ----------
    features : Features
    x : Tensor, shape (m, p)
    y : Tensor, shape (T, last - first)
        Of the samples ``first = rows[0] + min(lags)`` until ``last``; a row per electrode, so
        that to follow at another lag is to start elsewhere.
    offset : Tensor, shape (T,)
        What was subtracted from the responses.
    """

    def __init__(self, x: Tensor, y: Tensor, rows: np.ndarray, lags: np.ndarray) -> None:
        self.rows, self.lags = rows, lags
        self.first = int(rows[0] + lags.min())
        mine = x[rows[0] : rows[-1] + 1] if _is_run(rows) else x[torch.as_tensor(rows).to(x.device)]
        self.features = sum_features(mine)
        self.x = mine - self.features.mean
        around = y[self.first : int(rows[-1] + lags.max()) + 1]
        self.y = around.T.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).contiguous()
        self.offset = self.y.mean(1)
        self.y -= self.offset[:, None]

    def __len__(self) -> int:
        return len(self.rows)

    def place(self, lag: int) -> slice | Tensor:
        """Return where the columns of `y` are that follow the features by `lag`."""
        at = self.rows + lag - self.first
        return slice(int(at[0]), int(at[-1]) + 1) if _is_run(at) else torch.as_tensor(at)

    def responses(self, lag: np.ndarray) -> Tensor:
        """Return the responses that follow the features by `lag` (T,), shape (T, m)."""
        if (lag == lag[0]).all():
            return self.y[:, self.place(int(lag[0]))]
        out = self.y.new_empty(len(lag), len(self))
        places = {one: self.place(int(one)) for one in np.unique(lag)}
        for target, one in enumerate(lag):
            out[target] = self.y[target, places[one]]
        return out


def _is_run(rows: np.ndarray) -> bool:
    return bool(rows[-1] - rows[0] == len(rows) - 1)


def pool_features(blocks: Sequence[Features]) -> Features:
    """Return the sums over several blocks together."""
    n = sum(block.n for block in blocks)
    mean = sum_of([block.mean * (block.n / n) for block in blocks])
    apart = torch.stack([(block.mean - mean) * block.n**0.5 for block in blocks])
    return Features(n, mean, sum_of([block.xx for block in blocks]) + apart.T @ apart)


def pool_responses(features: Sequence[Features], blocks: Sequence[Responses]) -> Responses:
    """Return the sums over several blocks together; `features` are those of the same blocks."""
    n = sum(block.n for block in features)
    shares = [block.n / n for block in features]
    mean_x = sum_of([f.mean * share for f, share in zip(features, shares, strict=True)])
    mean_y = sum_of([b.mean * share for b, share in zip(blocks, shares, strict=True)])
    apart_x = torch.stack([(f.mean - mean_x) * f.n**0.5 for f in features])
    pairs = list(zip(features, blocks, strict=True))
    apart_y = torch.stack([(b.mean - mean_y) * f.n**0.5 for f, b in pairs])
    xy = sum_of([b.xy for b in blocks]).addmm_(apart_x.T, apart_y)
    return Responses(mean_y, xy, sum_of([b.yy for b in blocks]) + (apart_y**2).sum(0))


def sum_of(tensors: Sequence[Tensor]) -> Tensor:
    """Return the sum of tensors of one shape, always a new tensor."""
    total = tensors[0].clone()
    for tensor in tensors[1:]:
        total += tensor
    return total


def transform(features: Features, scale: Tensor, origin: Tensor, basis: Tensor | None) -> Features:
    """Return the sums of ``((x - origin) * scale) @ basis``."""
    mean = (features.mean - origin) * scale
    xx = features.xx * scale[:, None] * scale
    if basis is None:
        return Features(features.n, mean, xx)
    return Features(features.n, mean @ basis, basis.T @ xx @ basis)


class LaggedResponses:
    """The responses of a block at many lags, ready to be multiplied with any features.

    The sums of products of features and responses at lags ``first .. last`` are a correlation of
    two signals, taken in short segments: the features' are padded with zeros to the length N of
    the responses' (overlap-save), so that a product of transforms is exact for ``N - segment + 1``
    lags. Segments are summed before the transform back, which costs a matrix product per
    frequency, about three times the plain sum for a single lag. Of the transform back only the
    wanted lags are made.

    Parameters
    ----------
    block : Block
    """

    def __init__(self, block: Block) -> None:
        self.block, lags = block, block.lags
        self.span = int(lags.max() - lags.min())
        self.starts, self.stops = _runs(block.rows - block.rows[0])
        self.mean, self.yy = self._measure_spread()
        self.direct = len(lags) <= FEW_LAGS
        if not self.direct:
            self._prepare()

    def sum_with(self, centred_x: Tensor) -> Responses:
        """Return the sums with features (m, p); the columns are lags x electrodes."""
        xy = self._shift_and_sum(centred_x) if self.direct else self._multiply(centred_x)
        return Responses((self.mean + self.block.offset).flatten(), xy, self.yy.flatten())

    def _measure_spread(self) -> tuple[Tensor, Tensor]:
        """Return mean and sum of squared deviations at each lag, shape (L, T).

        From one lag to the next every run of samples loses its first and gains one at its end.
        """
        y, m = self.block.y, len(self.block)
        first = y[:, self.block.place(int(self.block.lags.min()))]
        total = first.sum(1).double()
        squares = torch.linalg.vector_norm(first, dim=1).double().square()
        added, added_squares = total.new_zeros(2, len(total), self.span)
        for start, stop in zip(self.starts, self.stops, strict=True):
            gone = y[:, start : start + self.span].double()
            come = y[:, stop : stop + self.span].double()
            added += come - gone
            added_squares += come**2 - gone**2
        wanted = torch.as_tensor(self.block.lags - self.block.lags.min(), device=y.device)
        mean = _accumulate(total, added)[wanted] / m
        squares = _accumulate(squares, added_squares)[wanted]
        yy = squares - m * mean.square()
        # What is left of a constant after such differences is rounding.
        constant = yy <= 1e-6 * squares + 1e-12 * m * self.block.offset.square()
        return mean.to(y.dtype), torch.where(constant, 0.0, yy).to(y.dtype)

    def _shift_and_sum(self, x: Tensor) -> Tensor:
        places = [self.block.place(int(lag)) for lag in self.block.lags]
        return torch.cat([x.T @ self.block.y[:, at].T for at in places], dim=1)

    def _prepare(self) -> None:
        y = self.block.y
        self.length = SEGMENT + self.span + (SEGMENT + self.span) % 2
        pieces = [
            (s, min(s + SEGMENT, stop))
            for start, stop in zip(self.starts, self.stops, strict=True)
            for s in range(start, stop, SEGMENT)
        ]
        at = torch.tensor([s for s, _ in pieces], device=y.device)[:, None]
        at = at + torch.arange(self.length, device=y.device)
        windows = y[:, at.clamp(max=y.shape[1] - 1)]  # (T, pieces, length)
        spectra = torch.view_as_real(torch.fft.rfft(windows)).permute(2, 3, 1, 0)
        self.y_spectra = spectra.flatten(1, 2).contiguous()  # (F, 2 x pieces, T)
        inside = [i * self.length + torch.arange(b - a) for i, (a, b) in enumerate(pieces)]
        self.places, self.n_pieces = torch.cat(inside).to(y.device), len(pieces)
        self.back = _inverse_transform(self.length, self.block.lags - self.block.lags.min()).to(y)

    def _multiply(self, x: Tensor) -> Tensor:
        """Return the sums of products, shape (p, L * T)."""
        p = x.shape[1]
        padded = x.new_zeros(self.n_pieces * self.length, p)
        padded[self.places] = x
        spectra = torch.fft.rfft(padded.view(self.n_pieces, self.length, p), dim=1)
        spectra = spectra.permute(1, 2, 0)  # (F, p, pieces)
        # Real and imaginary part of conj(x) y, as products with the parts of y one upon the other.
        parts = [spectra.real, spectra.imag], [-spectra.imag, spectra.real]
        x_spectra = torch.stack([torch.cat(rows, dim=2) for rows in parts], dim=1)
        n_lags, n_targets = self.back.shape[0], self.y_spectra.shape[2]
        out = x.new_empty(p, n_lags, n_targets)
        step = max(1, NUMBERS_AT_ONCE // (len(self.y_spectra) * n_targets))
        for some in range(0, p, step):
            few = x_spectra[:, :, some : some + step].flatten(1, 2)
            product = torch.bmm(few, self.y_spectra)  # (F, 2 x few, T)
            each = product.view(self.back.shape[1], -1, n_targets).transpose(0, 1)
            torch.matmul(self.back, each, out=out[some : some + step])
        return out.view(p, n_lags * n_targets)


def _runs(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return start and stop of each run of consecutive numbers."""
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    starts = rows[np.concatenate([[0], breaks])]
    return starts, rows[np.concatenate([breaks - 1, [len(rows) - 1]])] + 1


def _accumulate(first: Tensor, changes: Tensor) -> Tensor:
    """Return the values (span + 1, T) that begin with `first` and change by `changes` (T, span)."""
    return torch.cat([first[None], first + changes.T.cumsum(0)])


def _inverse_transform(length: int, at: np.ndarray) -> Tensor:
    """Return the matrix (L, 2 F) from (real, imaginary) parts of a real signal's spectrum."""
    frequency = np.arange(length // 2 + 1)
    weight = np.where((frequency == 0) | (frequency == length // 2), 1.0, 2.0) / length
    phase = 2 * np.pi * np.outer(at, frequency) / length
    parts = np.stack([weight * np.cos(phase), -weight * np.sin(phase)], axis=2)
    return torch.as_tensor(parts.reshape(len(at), -1))
