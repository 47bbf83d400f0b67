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
    mean = x.mean(0, dtype=torch.float64).to(x.dtype)
    centred = x - mean
    return Features(len(x), mean, centred.T @ centred)


def sum_responses(centred_x: Tensor, y: Tensor) -> Responses:
    """Return the sums over a block of responses, shape (n, T), with centred features (n, p)."""
    mean = y.mean(0, dtype=torch.float64).to(y.dtype)
    centred = y - mean
    return Responses(mean, centred_x.T @ centred, (centred * centred).sum(0))


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
    y : Tensor, shape (n, T)
        Responses, without NaN.
    rows : array of int, shape (m,)
        Samples of the features, increasing.
    lags : array of int, shape (L,)
    """

    def __init__(self, y: Tensor, rows: np.ndarray, lags: np.ndarray) -> None:
        self.lags = lags
        self.first, self.span = int(lags.min()), int(lags.max() - lags.min())
        self.rows = torch.as_tensor(rows, device=y.device)
        starts, stops = _runs(rows)
        # A shift of the responses changes nothing but the rounding.
        centred = y - y[self.rows].mean(0, dtype=torch.float64).to(y.dtype)
        self.offset = y[0] - centred[0]
        self.mean, self.yy = self._sum_squares(centred, starts, stops)
        self.direct = len(lags) <= FEW_LAGS
        self.centred = centred if self.direct else None
        if not self.direct:
            self._prepare(centred, starts, stops)

    def sum_with(self, centred_x: Tensor) -> Responses:
        """Return the sums with features (m, p); the columns are lags x electrodes."""
        xy = self._shift_and_sum(centred_x) if self.direct else self._multiply(centred_x)
        return Responses((self.mean + self.offset).flatten(), xy, self.yy.flatten())

    def _sum_squares(
        self, y: Tensor, starts: np.ndarray, stops: np.ndarray
    ) -> tuple[Tensor, Tensor]:
        """Return mean and sum of squared deviations at each lag, shape (L, T).

        From one lag to the next every run of samples loses its first and gains one at its end.
        """
        first = y[self.rows + self.first].double()
        total, squares = first.sum(0), (first**2).sum(0)
        added, added_squares = total.new_zeros(2, self.span, len(total))
        for start, stop in zip(starts, stops, strict=True):
            gone = y[start + self.first : start + self.first + self.span].double()
            come = y[stop + self.first : stop + self.first + self.span].double()
            added += come - gone
            added_squares += come**2 - gone**2
        wanted = torch.as_tensor(self.lags - self.first, device=y.device)
        total = _accumulate(total, added)[wanted]
        squares = _accumulate(squares, added_squares)[wanted]
        mean = total / len(self.rows)
        yy = squares - total * mean
        # What is left of a constant after such differences is rounding.
        yy = torch.where(yy > 1e-10 * squares.abs(), yy, 0.0)
        return mean.to(y.dtype), yy.to(y.dtype)

    def _shift_and_sum(self, x: Tensor) -> Tensor:
        assert self.centred is not None
        return torch.cat([x.T @ self.centred[self.rows + int(lag)] for lag in self.lags], dim=1)

    def _prepare(self, y: Tensor, starts: np.ndarray, stops: np.ndarray) -> None:
        self.length = SEGMENT + self.span + (SEGMENT + self.span) % 2
        pieces = [
            (s, min(s + SEGMENT, stop))
            for start, stop in zip(starts, stops, strict=True)
            for s in range(start, stop, SEGMENT)
        ]
        n = len(y)
        at = torch.tensor([s for s, _ in pieces], device=y.device)[:, None]
        at = at + self.first + torch.arange(self.length, device=y.device)
        self.y_spectra = torch.fft.rfft(y[at.clamp(0, n - 1)], dim=1).transpose(0, 1).contiguous()
        inside = torch.cat(
            [i * self.length + torch.arange(b - a) for i, (a, b) in enumerate(pieces)]
        )
        self.places, self.n_pieces = inside.to(y.device), len(pieces)
        self.back = _inverse_transform(self.length, self.lags - self.first).to(y)

    def _multiply(self, x: Tensor) -> Tensor:
        """Return the sums of products, shape (p, L * T)."""
        p = x.shape[1]
        padded = x.new_zeros(self.n_pieces * self.length, p)
        padded[self.places] = x
        spectra = torch.fft.rfft(padded.view(self.n_pieces, self.length, p), dim=1)
        spectra = spectra.permute(1, 2, 0).conj().resolve_conj().contiguous()  # (F, p, pieces)
        n_lags, n_targets = self.back.shape[0], self.y_spectra.shape[2]
        out = x.new_empty(p, n_lags, n_targets)
        step = max(1, 2**24 // (len(self.y_spectra) * n_targets))  # bounds the memory
        for some in range(0, p, step):
            product = torch.bmm(spectra[:, some : some + step], self.y_spectra)
            both = torch.view_as_real(product).permute(0, 3, 1, 2)
            k = both.shape[2]
            flat = both.reshape(-1, k * n_targets)
            part = (self.back @ flat).view(n_lags, k, n_targets)
            out[some : some + step] = part.transpose(0, 1)
        return out.view(p, n_lags * n_targets)


def _runs(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return start and stop of each run of consecutive numbers."""
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    starts = rows[np.concatenate([[0], breaks])]
    return starts, rows[np.concatenate([breaks - 1, [len(rows) - 1]])] + 1


def _accumulate(first: Tensor, changes: Tensor) -> Tensor:
    return torch.cat([first[None], first + changes.cumsum(0)])


def _inverse_transform(length: int, at: np.ndarray) -> Tensor:
    """Return the matrix (L, 2 F) from (real, imaginary) parts of a real signal's spectrum."""
    frequency = np.arange(length // 2 + 1)
    weight = np.where((frequency == 0) | (frequency == length // 2), 1.0, 2.0) / length
    phase = 2 * np.pi * np.outer(at, frequency) / length
    parts = np.stack([weight * np.cos(phase), -weight * np.sin(phase)], axis=2)
    return torch.as_tensor(parts.reshape(len(at), -1))
