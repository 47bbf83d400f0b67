"""One simulated person in a scanner: voxels that follow features of the sound, slowly."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from scipy.signal import fftconvolve, lfilter
from scipy.stats import gamma

VOXEL_MM = 3.0
_BASELINE = 8000.0  # in bits, far above one: rounding adds no noise to speak of
_ONE_PER_CENT = 0.01 * _BASELINE  # signal plus noise varies by that much
_AUTOCORRELATION = 0.4  # of the noise, from volume to volume
_DRIFT = 1.5  # times the variation above
_SMALLEST_WEIGHT = 0.15


@dataclass(frozen=True)
class Scanned:
    """What the voxels of a participant follow.

    Attributes
    ----------
    label : str
        Of the participant.
    mask : array of bool, shape (n, n, n)
        The brain; outside it nothing ever changes.
    weight : array, shape (n_voxels,)
        How strongly each voxel of the mask follows the sound, 0 to 1.
    correlation : array, shape (n_voxels,)
        Planted correlation of a voxel's signal with signal plus noise, without drifts.
    mixture : array, shape (n_features, n_voxels)
        Of the standardised latent features.
    """

    label: str
    mask: np.ndarray
    weight: np.ndarray
    correlation: np.ndarray
    mixture: np.ndarray


def hemodynamic_response(rate: float) -> np.ndarray:
    """Return the response to a moment of activity, shape (32 * rate,), sum 1.

    ``g(t; 6) - g(t; 16) / 6`` with g the gamma density of unit scale: the canonical shape of SPM
    (``spm_hrf`` with its default parameters; Friston et al. 1998, NeuroImage 7:30-40).
    """
    time = np.arange(int(32 * rate)) / rate
    response = gamma.pdf(time, 6) - gamma.pdf(time, 16) / 6
    return response / response.sum()


def draw_scanned(
    label: str, edge: int, n_features: int, best_correlation: float, rng: np.random.Generator
) -> Scanned:
    """Return a participant whose voxels follow random mixtures, most of all around one place."""
    grid = np.stack(np.meshgrid(*[np.arange(edge)] * 3, indexing="ij"), axis=-1)
    centred = grid - (edge - 1) / 2
    mask = np.linalg.norm(centred, axis=-1) <= edge * 0.55
    place = rng.uniform(-edge / 6, edge / 6, 3)
    distance = np.linalg.norm(centred[mask] - place, axis=1)
    weight = np.exp(-0.5 * (distance / (0.3 * edge)) ** 2)
    weight[weight < _SMALLEST_WEIGHT] = 0
    mixture = rng.standard_normal((n_features, int(mask.sum())))
    return Scanned(label, mask, weight, best_correlation * weight, mixture)


def expected_bold(
    latent: np.ndarray, rate: float, *, onset: float, n_volumes: int, repetition_time: float
) -> np.ndarray:
    """Return the latent features as a scanner would see them, shape (n_volumes, n_features).

    Convolved with the hemodynamic response and taken in the middle of every volume; before and
    after the sound the features are at their mean, 0.

    Parameters
    ----------
    latent : array, shape (n_times, n_features), standardised
        From the beginning of the sound.
    onset : float, seconds
        Of the sound, after the first volume began.
    """
    response = fftconvolve(latent, hemodynamic_response(rate)[:, None], axes=0)
    times = (np.arange(n_volumes) + 0.5) * repetition_time - onset
    known = np.arange(len(response)) / rate
    return np.stack([np.interp(times, known, c, left=0, right=0) for c in response.T], axis=1)


def make_run(
    scanned: Scanned, expected: np.ndarray, spread: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Return the bits of one run, shape (n, n, n, n_volumes), int16.

    ``baseline + 1 % * (r s + sqrt(1 - r^2) n + drift)``, with s the signal of unit variance, n
    noise of unit variance and autocorrelation 0.4, and r the planted correlation.

    Parameters
    ----------
    expected : array, shape (n_volumes, n_features)
        Of `expected_bold`.
    spread : array, shape (n_voxels,)
        Standard deviation of each voxel's mixture over all runs.
    """
    n_volumes, n_voxels = len(expected), len(scanned.weight)
    signal = expected @ scanned.mixture / spread
    white = rng.standard_normal((n_volumes + 50, n_voxels))
    noise = lfilter([np.sqrt(1 - _AUTOCORRELATION**2)], [1, -_AUTOCORRELATION], white, axis=0)[50:]
    r = scanned.correlation
    series = r * signal + np.sqrt(1 - r**2) * noise + _draw_drift(n_volumes, n_voxels, rng)
    volume = np.zeros((*scanned.mask.shape, n_volumes), np.int16)
    volume[scanned.mask] = np.rint(_BASELINE + _ONE_PER_CENT * series).T.astype(np.int16)
    return volume


def _draw_drift(n_volumes: int, n_voxels: int, rng: np.random.Generator) -> np.ndarray:
    """Return slow changes, shape (n_volumes, n_voxels): a line and one slow wave."""
    time = np.linspace(-1, 1, n_volumes)[:, None]
    line, wave = rng.standard_normal((2, n_voxels)) * _DRIFT
    return line * time + wave * np.cos(np.pi * time + rng.uniform(0, 2 * np.pi, n_voxels))


def write_image(path: Path, values: np.ndarray, repetition_time: float | None = None) -> None:
    """Write a volume or a run as NIfTI that says that it is simulated."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shift = -VOXEL_MM * (values.shape[0] - 1) / 2
    affine = np.diag([VOXEL_MM] * 3 + [1.0])
    affine[:3, 3] = shift
    image = nibabel.Nifti1Image(values, affine)
    image.header["descrip"] = b"SIMULATED"
    image.header.set_xyzt_units("mm", "sec")
    if repetition_time is not None:
        image.header.set_zooms((VOXEL_MM,) * 3 + (repetition_time,))
    nibabel.save(image, path)
