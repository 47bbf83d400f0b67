"""Volumes in MNI space: where in the brain electrodes contribute, and where there were any.

Contacts are few and unevenly spread. A plain smoothed sum would show where many contacts lie, so
the sum is divided by the density of contacts, and effect, coverage and number of participants
are separate maps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bids_speechdecode.bids.derivatives import Derivatives
from bids_speechdecode.bids.files import atomic_write
from bids_speechdecode.group.contributions import Contributions, describe, in_analysis_space

SPACE = "MNI152NLin2009cAsym"
# Voxels of 2 mm on the bounding box of that template (TemplateFlow, res-02).
SHAPE = (97, 115, 97)
AFFINE = np.array(
    [[2.0, 0, 0, -96.0], [0, 2.0, 0, -132.0], [0, 0, 2.0, -78.0], [0, 0, 0, 1.0]], dtype=float
)
_MNI152_CODE = 4  # NIFTI_XFORM_MNI_152
_AT_ONCE = 500  # contacts whose neighbourhoods are in memory together

MAPS = {
    "effect": "Mean over the participants who cover a place of their smoothed contribution (loss "
    "of mean relative rank when an electrode is permuted; above 0: it helps); NaN where nobody "
    "covers it",
    "coverage": "Density of electrodes of all participants: 1 is one electrode at the very place",
    "n": "Participants who cover the place",
}
_INTENTS = {"effect": "estimate", "coverage": "none", "n": "none"}

# Gives for positions (n, 3): indices of places, indices of positions, distances (mm); one per pair.
Neighbours = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Kernel:
    """A Gaussian in space, cut off.

    Attributes
    ----------
    fwhm : float, mm
        Full width at half maximum. 10 mm is a few contacts of a shaft, and about how well
        positions in a template agree between brains.
    radius : float, mm
        No weight beyond; at the default the weight there is 0.013.
    min_density : float
        A participant covers a place where their weights sum up to this: 0.5 is one contact at
        half the full width.
    """

    fwhm: float = 10.0
    radius: float = 12.5
    min_density: float = 0.5

    def weight(self, distance: np.ndarray) -> np.ndarray:
        """Return ``exp(-4 ln 2 (d / fwhm)^2)``, 0 beyond the radius; distance in mm."""
        weight = np.exp(-4 * np.log(2) * (distance / self.fwhm) ** 2)
        return np.where(distance <= self.radius, weight, 0.0)


@dataclass(frozen=True, eq=False)
class Maps:
    """What participants' contacts say about each place.

    Attributes
    ----------
    effect : array
        Mean over covering participants of the smoothed contribution; NaN where there is none.
    coverage : array
        Sum of the weights of all contacts.
    n : array
        Number of participants who cover the place.
    n_contacts : int
        Contacts that entered.
    notes : tuple of str
        Which did not, and why.
    """

    effect: np.ndarray
    coverage: np.ndarray
    n: np.ndarray
    n_contacts: int
    notes: tuple[str, ...]


def smooth_over_places(
    contributions: np.ndarray,
    positions_mm: np.ndarray,
    participants: np.ndarray,
    neighbours: Neighbours,
    n_places: int,
    kernel: Kernel,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return effect, coverage and n at every place, each of shape (n_places,).

    Each participant's own map is the Nadaraya-Watson estimate
    ``e_i(x) = sum_k w(|x - x_k|) v_k / c_i(x)`` with the density
    ``c_i(x) = sum_k w(|x - x_k|)``. Effect is the plain mean of ``e_i`` over the participants
    with ``c_i(x) >= min_density``, so that nobody counts more for having more contacts.

    Parameters
    ----------
    contributions : array, shape (n_contacts,)
    positions_mm : array, shape (n_contacts, 3)
    participants : array, shape (n_contacts,)
        Whose contact it is.
    neighbours : callable
        Lists the places near positions: see `Neighbours`.
    """
    effect, coverage, n = (np.zeros(n_places) for _ in range(3))
    for participant in pd.unique(participants):
        density, weighted = np.zeros(n_places), np.zeros(n_places)
        own = np.flatnonzero(participants == participant)
        for some in np.array_split(own, -(-len(own) // _AT_ONCE)):
            place, contact, distance = neighbours(positions_mm[some])
            weight = kernel.weight(distance)
            density += np.bincount(place, weight, n_places)
            weighted += np.bincount(place, weight * contributions[some][contact], n_places)
        covered = density >= kernel.min_density
        effect[covered] += weighted[covered] / density[covered]
        coverage += density
        n += covered
    with np.errstate(invalid="ignore"):
        return effect / np.where(n > 0, n, np.nan), coverage, n


def smooth_volume(contacts: pd.DataFrame, kernel: Kernel | None = None) -> Maps:
    """Return the maps on the 2 mm grid of `SHAPE` and `AFFINE`.

    The maps are not cut at the surface of the brain: contacts of grids and strips lie on it, or
    slightly outside because of the brain's shift and of differences between brains, and a
    mask would take away half of what they say.

    Parameters
    ----------
    contacts : data frame
        Columns participant, x, y, z (mm), space, contribution (see `Contributions`). Those
        without a position in MNI152 are left out and counted in the notes.
    """
    kernel = kernel or Kernel()
    placed = in_analysis_space(contacts)
    voxels = _to_voxels(placed[["x", "y", "z"]].to_numpy(float))
    inside: np.ndarray = np.all((voxels > -0.5) & (voxels < np.array(SHAPE) - 0.5), axis=1)
    notes = note_unplaced(len(contacts), len(placed))
    if not inside.all():
        notes += (f"{int((~inside).sum())} electrodes lie outside of the volume.",)
    placed = placed.loc[inside]
    maps = smooth_over_places(
        placed["contribution"].to_numpy(float),
        placed[["x", "y", "z"]].to_numpy(float),
        placed["participant"].to_numpy(),
        lambda positions: _near_voxels(positions, kernel.radius),
        int(np.prod(SHAPE)),
        kernel,
    )
    effect, coverage, n = (values.reshape(SHAPE) for values in maps)
    return Maps(effect, coverage, n, len(placed), notes)


def find_peak(maps: Maps, n_at_least: int = 1) -> tuple[np.ndarray, float]:
    """Return the position (mm, MNI152) and value of the largest effect in a volume.

    Beside a single shaft the estimate is that of its nearest contacts, wherever one goes: across
    the shaft the peak is known to about half the kernel's width only. Places that are less
    covered than a contact itself (a density of 1) are left out: there the estimate says nothing
    that the contacts do not say.

    Parameters
    ----------
    n_at_least : int
        Only places that so many participants cover. With 1 the peak may be one noisy contact.

    Returns
    -------
    position, value
        NaN where no place has so many participants.
    """
    eligible = np.where((maps.n >= n_at_least) & (maps.coverage >= 1), maps.effect, np.nan)
    if np.isnan(eligible).all():
        return np.full(3, np.nan), float("nan")
    voxel = np.unravel_index(np.nanargmax(eligible), eligible.shape)
    return AFFINE[:3, :3] @ np.array(voxel) + AFFINE[:3, 3], float(eligible[voxel])


def volume_image(values: np.ndarray, kind: str, *, simulated: bool) -> Any:
    """Return a map as a NIfTI image: float32, millimetres, MNI152 codes, with a description."""
    import nibabel

    image = nibabel.Nifti1Image(values.astype(np.float32), None)
    image.set_sform(AFFINE, code=_MNI152_CODE)
    image.set_qform(AFFINE, code=_MNI152_CODE)
    image.header.set_xyzt_units("mm")
    image.header.set_intent(_INTENTS[kind], name=kind)
    finite = values[np.isfinite(values)]
    image.header["cal_max"] = float(np.abs(finite).max()) if len(finite) else 0.0
    image.header["cal_min"] = -image.header["cal_max"] if kind == "effect" else 0.0
    image.header["descrip"] = f"{'SIMULATED ' if simulated else ''}{kind} of electrodes".encode()
    return image


def write_volumes(
    out: Derivatives, contributions: Contributions, maps: Maps, kernel: Kernel | None = None
) -> list[Path]:
    """Write effect, coverage and n as NIfTI with sidecars; return the paths of the images."""
    paths = []
    for kind, text in MAPS.items():
        path = out.group_path(
            task=contributions.task, space=SPACE, desc=kind, suffix="map", extension=".nii.gz"
        )
        image = volume_image(getattr(maps, kind), kind, simulated=contributions.simulated)
        with atomic_write(path) as temporary:
            image.to_filename(temporary)
        peak = {"Peak": _describe_peak(maps)} if kind == "effect" else {}
        describe_map(path, contributions, maps, kernel or Kernel(), text, **peak)
        paths.append(path)
    return paths


def _describe_peak(maps: Maps) -> dict[str, object] | None:
    position, value = find_peak(maps)
    if np.isnan(value):
        return None
    return {"Position": position.tolist(), "Units": "mm", "Space": SPACE, "Value": round(value, 6)}


def describe_map(
    path: Path,
    contributions: Contributions,
    maps: Maps,
    kernel: Kernel,
    text: str,
    **more: object,
) -> None:
    """Write the sidecar of a map."""
    describe(
        path,
        contributions,
        settings=kernel,
        Description=text,
        Kernel=asdict(kernel),
        NContacts=maps.n_contacts,
        Notes=maps.notes,
        **more,
    )


def note_unplaced(n_all: int, n_placed: int) -> tuple[str, ...]:
    """Return in words how many contacts have no position in MNI152."""
    if n_all == n_placed:
        return ()
    return (f"{n_all - n_placed} of {n_all} electrodes have no position in MNI152.",)


def _to_voxels(positions_mm: np.ndarray) -> np.ndarray:
    """Return positions in units of voxels."""
    return (positions_mm - AFFINE[:3, 3]) / np.diag(AFFINE)[:3]


def _near_voxels(
    positions_mm: np.ndarray, radius: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return flat voxel, contact and distance of all pairs that may be within the radius."""
    size = np.diag(AFFINE)[:3]
    reach = np.ceil(radius / size).astype(int)
    steps = np.stack(np.meshgrid(*(np.arange(-r, r + 1) for r in reach), indexing="ij"), -1)
    steps = steps.reshape(-1, 3)
    # A contact is up to half a voxel's diagonal from the centre of the voxel that holds it.
    steps = steps[np.linalg.norm(steps * size, axis=1) <= radius + np.linalg.norm(size) / 2]
    voxels = np.rint(_to_voxels(positions_mm)).astype(int)[:, None] + steps  # (n, n_steps, 3)
    inside = ((voxels >= 0) & (voxels < SHAPE)).all(axis=2)
    contact, step = np.nonzero(inside)
    chosen = voxels[contact, step]
    centres = chosen * size + AFFINE[:3, 3]
    distance = np.linalg.norm(centres - positions_mm[contact], axis=1)
    return np.ravel_multi_index(tuple(chosen.T), SHAPE), contact, distance
