"""BOLD of people who listen: cleaning, features brought to the TRs, delays and controls."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import sparse

from bids_speechdecode.errors import DataError

LOBES = 3  # of the Lanczos kernel, on each side [P]
DRIFT = 128.0  # seconds; slower changes are drift (our default, and that of fMRIPrep and SPM)
VOXELS_AT_ONCE = 20_000  # so that the double-precision copy of a whole brain stays small
# Below this share of its largest value a voxel's variation is the rounding of float32.
CONSTANT = 1e-6


def clean_bold(
    bold: np.ndarray, confounds: np.ndarray | None, tr: float, *, drift: float = DRIFT
) -> tuple[np.ndarray, np.ndarray]:
    """Return the z-scored residuals of BOLD after confounds and slow drifts.

    ``z = e / sd(e)`` with ``e = y - Q Q'y``, where the columns of Q span a constant, a line,
    cosines of periods above `drift` and the confounds.

    Parameters
    ----------
    bold : array, shape (n_tr, v)
        One run, in any unit.
    confounds : array, shape (n_tr, k), or None
        Values that are not finite (as in the first row of derivatives) count as their column's
        mean.
    tr : float, seconds
    drift : float, seconds

    Returns
    -------
    z : array of float32, shape (n_tr, v)
        Mean 0 and standard deviation 1 over time; 0 for constant voxels.
    constant : array of bool, shape (v,)
        Voxels without variation of their own, or with values that are not finite.

    Raises
    ------
    DataError
        If rows do not fit, or if the regressors leave nothing of so short a run.
    """
    basis = _orthonormal(_regressors(bold, confounds, tr, drift))
    n_tr, n_voxels = bold.shape
    z = np.zeros((n_tr, n_voxels), dtype=np.float32)
    constant = np.ones(n_voxels, dtype=bool)
    for first in range(0, n_voxels, VOXELS_AT_ONCE):
        some = slice(first, first + VOXELS_AT_ONCE)
        z[:, some], constant[some] = _clean_voxels(bold[:, some].astype(np.float64), basis)
    return z, constant


def _regressors(
    bold: np.ndarray, confounds: np.ndarray | None, tr: float, drift: float
) -> np.ndarray:
    """Return constant, line, cosines and confounds, float64, shape (n_tr, k)."""
    n_tr = len(bold)
    columns = [np.ones((n_tr, 1)), np.linspace(-1, 1, n_tr)[:, None], _cosines(n_tr, tr, drift)]
    if confounds is not None:
        if confounds.ndim != 2 or len(confounds) != n_tr:
            raise DataError(
                "The confounds do not fit the BOLD run.",
                expected=f"{n_tr} rows, one for each volume",
                found=f"shape {confounds.shape}",
            )
        columns.append(_without_gaps(np.asarray(confounds, dtype=np.float64)))
    return np.hstack(columns)


def _cosines(n_tr: int, tr: float, drift: float) -> np.ndarray:
    """Return cosines with periods above `drift` (DCT-II without its constant)."""
    n_cosines = int(2 * n_tr * tr / drift)
    orders = np.arange(1, min(n_cosines, n_tr - 1) + 1)
    return np.cos(np.pi * (np.arange(n_tr)[:, None] + 0.5) * orders / n_tr)


def _without_gaps(confounds: np.ndarray) -> np.ndarray:
    finite = np.isfinite(confounds)
    n_finite = np.maximum(finite.sum(axis=0), 1)
    means = np.where(finite, confounds, 0).sum(axis=0) / n_finite
    return np.where(finite, confounds, means)


def _orthonormal(regressors: np.ndarray) -> np.ndarray:
    """Return an orthonormal basis of the columns, however many are combinations of others."""
    sizes = np.linalg.norm(regressors, axis=0)
    scaled = regressors[:, sizes > 0] / sizes[sizes > 0]
    left, strengths, _ = np.linalg.svd(scaled, full_matrices=False)
    basis = left[:, strengths > 1e-8 * strengths[0]]
    n_tr, rank = basis.shape
    if n_tr - rank < 2:
        raise DataError(
            "The BOLD run is too short for its confounds.",
            expected=f"more than {rank + 1} volumes for {rank} confounds and drifts",
            found=f"{n_tr} volumes",
            fix="name fewer confounds",
        )
    return basis


def _clean_voxels(bold: np.ndarray, basis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    finite = np.isfinite(bold).all(axis=0)
    bold = np.where(finite, bold, 0)
    residuals = bold - basis @ (basis.T @ bold)
    spread = residuals.std(axis=0)
    constant = ~finite | (spread <= CONSTANT * np.abs(bold).max(axis=0))
    z = residuals / np.where(constant, 1, spread)
    return np.where(constant, 0, z), constant


def lanczos_weights(
    times: np.ndarray, tr_times: np.ndarray, *, cutoff: float | None = None, lobes: int = LOBES
) -> sparse.csr_array:
    """Return the matrix that low-passes features and samples them at other times.

    ``W[i, j] = L(cutoff (s_i - t_j)) / sum_k L(cutoff (s_i - t_k))`` with the kernel
    ``L(u) = sinc(u) sinc(u / lobes)`` for ``|u| < lobes``, else 0. Each row sums to one, so that a
    constant stays what it is, at both ends too. Rows for times outside of `times` are empty:
    nothing is extrapolated.

    Parameters
    ----------
    times : array, shape (n,), seconds
        Of the features, increasing.
    tr_times : array, shape (m,), seconds
        To sample at, in any order.
    cutoff : float, optional, hertz
        Of the low-pass; by default one over the spacing of `tr_times`, as in the source [P].
    lobes : int

    Returns
    -------
    sparse array, shape (m, n), float64
        ``W @ features`` are the resampled features; inside an autograd graph, its dense form.

    Raises
    ------
    DataError
        If `times` have a gap in which the kernel finds nothing.
    """
    cutoff = 1 / _spacing(tr_times) if cutoff is None else cutoff
    inside = (tr_times >= times[0] - 1e-9) & (tr_times <= times[-1] + 1e-9)
    first = np.searchsorted(times, tr_times - lobes / cutoff)
    counts = np.searchsorted(times, tr_times + lobes / cutoff, side="right") - first
    counts[~inside] = 0
    starts = np.concatenate([[0], np.cumsum(counts)])
    rows = np.repeat(np.arange(len(tr_times)), counts)
    columns = np.arange(starts[-1]) - starts[rows] + first[rows]
    distance = cutoff * (tr_times[rows] - times[columns])
    kernel = np.sinc(distance) * np.sinc(distance / lobes) * (np.abs(distance) < lobes)
    sums = np.bincount(rows, weights=kernel, minlength=len(tr_times))
    _require_support(sums, inside, tr_times)
    shape = (len(tr_times), len(times))
    return sparse.csr_array((kernel / sums[rows], columns, starts), shape=shape)


def _spacing(times: np.ndarray) -> float:
    if len(times) < 2:
        raise DataError("One time has no spacing.", expected="at least two times", found="one")
    return float(np.median(np.diff(times)))


def _require_support(sums: np.ndarray, inside: np.ndarray, tr_times: np.ndarray) -> None:
    # Regular samples at least as dense as the cutoff give half a sample at the ends, one within.
    poor = inside & (sums < 0.3)
    if poor.any():
        raise DataError(
            "There are no features around some of the times.",
            expected="features at least as dense as the cutoff of the resampling",
            found=f"nothing around {tr_times[np.argmax(poor)]:g} s",
        )


def lanczos_resample(
    features: np.ndarray,
    times: np.ndarray,
    tr_times: np.ndarray,
    *,
    cutoff: float | None = None,
    lobes: int = LOBES,
) -> np.ndarray:
    """Return features (n, d) at `times` low-passed and sampled at `tr_times`, shape (m, d).

    See `lanczos_weights` for the arguments.
    """
    return lanczos_weights(times, tr_times, cutoff=cutoff, lobes=lobes) @ features


def stack_delays(features: np.ndarray, delays: Sequence[int]) -> np.ndarray:
    """Return the features of earlier TRs side by side: ``X[t] = [x[t - k] for k in delays]``.

    Parameters
    ----------
    features : array, shape (n_tr, d)
    delays : sequence of int, TRs
        Not negative: BOLD follows what is heard.

    Returns
    -------
    array, shape (n_tr, len(delays) * d)
        Zeros where a TR lies before the first one.
    """
    n_tr, dimension = features.shape
    stacked = np.zeros((n_tr, len(delays), dimension), dtype=features.dtype)
    for column, delay in enumerate(delays):
        stacked[delay:, column] = features[: n_tr - delay] if delay < n_tr else 0
    return stacked.reshape(n_tr, len(delays) * dimension)


def randomise_phases(bold: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return BOLD whose timing is random, but not its spectra nor its correlations over space.

    ``y'(f) = y(f) exp(i phi(f))``, the same phases for every voxel, so that the spectrum of each
    voxel and the correlation of every pair stay what they are (Prichard & Theiler 1994,
    doi:10.1103/PhysRevLett.73.951). Frequency 0 and the Nyquist frequency keep their phase.

    Parameters
    ----------
    bold : array, shape (n_tr, v)
    rng : numpy.random.Generator
    """
    spectrum = np.fft.rfft(bold.astype(np.float64), axis=0)
    phases = rng.uniform(0, 2 * np.pi, size=len(spectrum))
    phases[0] = 0
    if len(bold) % 2 == 0:
        phases[-1] = 0
    surrogate = np.fft.irfft(spectrum * np.exp(1j * phases)[:, None], n=len(bold), axis=0)
    return surrogate.astype(bold.dtype)


def downsample_bold(
    bold: np.ndarray, tr_times: np.ndarray, *, factor: int = 2
) -> tuple[np.ndarray, np.ndarray]:
    """Return BOLD low-passed at ``1 / (factor * TR)`` onto every `factor`-th TR, and its times.

    Parameters
    ----------
    bold : array, shape (n_tr, v)
    tr_times : array, shape (n_tr,), seconds
    """
    kept = tr_times[::factor]
    cutoff = 1 / (factor * _spacing(tr_times))
    low = lanczos_resample(bold, tr_times, kept, cutoff=cutoff)
    return low.astype(bold.dtype), kept
