"""Ridge regression at every penalty at once, in the basis where the training Gram is diagonal.

With ``X'X = U diag(s) U'`` and ``c = U'X'y`` the weights at penalty a are ``U (c / (s + a))``.
On held-out data with Gram matrix H (in that basis) and ``q = U'X_h'y_h`` their correlation is

    r(a) = sum_i d_i c_i q_i / sqrt(yy * sum_ij d_i d_j c_i c_j H_ij),    d_i = 1 / (s_i + a).

The double sum looks like one matrix product per penalty, but by partial fractions
``d_i d_j = (d_i - d_j) / (s_j - s_i)``, so that it is ``sum_i d_i h_i`` with
``h_i = 2 c_i sum_j H_ij c_j / (s_j - s_i)``: one product serves all penalties. Where s_i and s_j
are (nearly) equal, ``(d_i^2 + d_j^2) / 2`` takes its place. Differences of nearly equal numbers
ask for float64 here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bids_speechdecode.encoding.grams import Features

NEAR = 1e-4  # eigenvalues closer than this, relative to themselves, count as equal
# Eigenvalues of sums in float32 were off by 0.015 eps x the largest (768 features, 20,000 samples).
ROUNDING = 0.02
NUMBERS_AT_ONCE = 2**20  # so that what is worked on stays in the cache


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues and eigenvectors of a training Gram matrix.

    Attributes
    ----------
    values : Tensor of float64, shape (k,)
        Without those that are zero but for rounding.
    vectors : Tensor, shape (p, k)
    """

    values: Tensor
    vectors: Tensor

    def weights(self, xy: Tensor, alpha: Tensor) -> Tensor:
        """Return the weights, shape (p, T), at a penalty for each column of `xy` (p, T)."""
        shrunk = (self.vectors.T @ xy) / (self.values[:, None] + alpha.double()).to(xy.dtype)
        return self.vectors @ shrunk


def decompose(xx: Tensor) -> Spectrum:
    """Return the spectrum of a Gram matrix, shape (p, p), that was summed in float32."""
    values, vectors = torch.linalg.eigh(xx.double())
    kept = values > ROUNDING * torch.finfo(xx.dtype).eps * values[-1].clamp(min=1e-30)
    return Spectrum(values[kept], vectors[:, kept].to(xx.dtype))


class HeldOut:
    """Scores on held-out data for every penalty.

    Parameters
    ----------
    spectrum : Spectrum
        Of the training features.
    features : Features
        Sums of the held-out features, in the units of the training features.
    alphas : Tensor, shape (A,)
    """

    def __init__(self, spectrum: Spectrum, features: Features, alphas: Tensor) -> None:
        self.vectors = spectrum.vectors
        s = spectrum.values
        h = (self.vectors.T @ features.xx @ self.vectors).double()
        h = (h + h.T) / 2  # the identity above holds for symmetric H
        self.shrink = 1 / (s + alphas.double()[:, None])  # (A, k)
        gap = s - s[:, None]
        # At the smallest penalty eigenvalues are furthest apart, relative to s + alpha.
        near = gap.abs() <= NEAR * (torch.minimum(s, s[:, None]) + alphas.double().min())
        self.far = torch.where(near, 0.0, 2 * h / torch.where(near, 1.0, gap))
        self.diagonal = h.diagonal().clone()[:, None]
        near.fill_diagonal_(False)
        self.near = torch.where(near, h, 0.0) if bool(near.any()) else None

    def correlate(self, xy: Tensor, held_xy: Tensor, held_yy: Tensor) -> Tensor:
        """Return r, shape (A, T); NaN where response or prediction does not vary.

        Parameters
        ----------
        xy, held_xy : Tensor, shape (p, T)
            Products of features and responses, training and held out.
        held_yy : Tensor, shape (T,)
            Sum of squared deviations of the held-out responses.
        """
        covariance, variance = self._moments(xy, held_xy)
        product = variance * held_yy
        r = covariance / product.sqrt()
        return torch.where(product > 0, r, torch.nan)

    def explain(self, xy: Tensor, held_xy: Tensor, held_yy: Tensor) -> Tensor:
        """Return 1 - (squared error / squared deviation), (A, T); NaN where y does not vary.

        The error is that of deviations from the mean: the level of held-out data is not judged.
        Parameters are those of `correlate`.
        """
        covariance, variance = self._moments(xy, held_xy)
        error = held_yy - 2 * covariance + variance
        return torch.where(held_yy > 0, 1 - error / held_yy, torch.nan)

    def _moments(self, xy: Tensor, held_xy: Tensor) -> tuple[Tensor, Tensor]:
        """Return prediction times response and prediction squared, summed over samples."""
        c, q = (self.vectors.T @ xy).double(), (self.vectors.T @ held_xy).double()
        covariance = self.shrink @ (c * q)
        variance = self.shrink @ ((self.far @ c).mul_(c))
        same = self.diagonal * c if self.near is None else self.near @ c + self.diagonal * c
        variance += self.shrink.square() @ same.mul_(c)
        return covariance, variance


def chunks(n_rows: int, n_columns: int) -> Iterator[slice]:
    """Cut columns so that `n_rows` of each piece are few enough to work on quickly."""
    step = max(64, NUMBERS_AT_ONCE // max(n_rows, 1))
    for start in range(0, n_columns, step):
        yield slice(start, min(start + step, n_columns))
