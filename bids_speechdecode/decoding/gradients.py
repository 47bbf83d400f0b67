"""Integrated gradients: what each electrode adds to the score along the path from no signal.

    IG_c = sum_t x_ct integral_0^1 ds(a x) / dx_ct da

(Sundararajan et al. 2017, arXiv 1703.01365), with the score of window i

    s_i(x) = cos(e(x), audio_i) - mean_j cos(e(x), audio_j)

and the path from zero signal, the median of the robust z, to the window. The electrodes of a window
sum to ``s(x) - s(0)``. The encoder mixes the channels linearly first, so the gradient is needed at
the mix alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from bids_speechdecode.decoding.contrastive import unit_vectors
from bids_speechdecode.decoding.encoder import Encoder
from bids_speechdecode.decoding.windows import WindowSet


@dataclass(frozen=True)
class PathIntegrals:
    """Integrated gradients of windows, in units of the score (a difference of cosines).

    Attributes
    ----------
    by_electrode : array, shape (n_windows, C)
        Summed over the samples of each electrode.
    gained : array, shape (n_windows,)
        ``s(x) - s(0)``, which the electrodes sum to up to the error of the quadrature.
    """

    by_electrode: np.ndarray
    gained: np.ndarray

    @property
    def error(self) -> float:
        """Mean absolute error of the sums of windows, relative to the mean ``|s(x) - s(0)|``."""
        error = np.abs(self.by_electrode.sum(axis=1) - self.gained).mean()
        return float(error / max(np.abs(self.gained).mean(), np.finfo(float).tiny))


def integrate_gradients(
    encoder: Encoder,
    windows: WindowSet,
    index: torch.Tensor,
    n_steps: int,
    *,
    batch_size: int = 128,
    on_encoded: Callable[[int], None] | None = None,
) -> PathIntegrals:
    """Return the integrated gradients of some windows.

    Parameters
    ----------
    encoder : Encoder
        In evaluation mode, on the device of the windows.
    windows : WindowSet
        All of them are candidates.
    index : tensor of int64, shape (n_windows,)
        The windows to explain.
    n_steps : int
        Points of the path, of the Gauss-Legendre quadrature: exact for polynomials of degree
        ``2 n_steps - 1``, so far fewer are needed than for a Riemann sum.
    batch_size : int
        Windows at once.
    on_encoded : callable, optional
        Told how many windows, times steps, were worked on since the last call.
    """
    candidates = unit_vectors(windows.targets)
    centre = candidates.mean(dim=0)
    parts = []
    for some in index.split(batch_size):
        parts.append(_explain(encoder, windows.brain(some), candidates[some] - centre, n_steps))
        if on_encoded is not None:
            on_encoded(len(some) * n_steps)
    by_electrode, gained = (torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True))
    return PathIntegrals(by_electrode, gained)


def _explain(
    encoder: Encoder, x: torch.Tensor, direction: torch.Tensor, n_steps: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the integrals of a batch, (B, C), and what its score gained, (B,), in float64."""
    with torch.no_grad():
        z, weights = encoder.mix(x), encoder.mixing_weights()
        start = encoder.mix(torch.zeros_like(x[:1])).expand_as(z)
        gained = _score(encoder, z, direction) - _score(encoder, start, direction)
    nodes, shares = np.polynomial.legendre.leggauss(n_steps)
    gradient = torch.zeros_like(z)
    for node, share in zip((nodes + 1) / 2, shares / 2, strict=True):
        point = torch.lerp(start, z, float(node)).requires_grad_()
        score = _score(encoder, point, direction).sum()
        gradient += float(share) * torch.autograd.grad(score, point)[0]
    with torch.no_grad():
        return (x * (weights.T @ gradient)).sum(dim=2, dtype=torch.float64), gained.double()


def _score(encoder: Encoder, z: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    """Return the score of each window of a mix, shape (B,)."""
    return (unit_vectors(encoder.encode(z)) * direction).sum(dim=1)
