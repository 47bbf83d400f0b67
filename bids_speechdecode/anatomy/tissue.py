"""Which tissue lies at a position: grey or white matter, fluid, or nothing of the brain."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from bids_speechdecode.anatomy.spaces import apply_affine

TISSUES = ("outside the brain", "grey matter", "white matter", "csf")


@dataclass(frozen=True, eq=False)
class TissueMap:
    """The tissue of every voxel.

    Attributes
    ----------
    data : array of uint8, 3-D
        Index into `TISSUES`.
    affine : array, shape (4, 4)
        Voxel to mm.
    """

    data: np.ndarray
    affine: np.ndarray

    def at(self, positions_mm: np.ndarray) -> list[str | None]:
        """Return the tissue at positions (n, 3) in mm; None where a position is unknown."""
        known = np.isfinite(positions_mm).all(axis=1)
        codes = voxel_values(self.data, self.affine, positions_mm)
        return [
            TISSUES[code] if is_known else None for code, is_known in zip(codes, known, strict=True)
        ]

    @functools.cached_property
    def brain_tree(self) -> object:
        """A k-d tree of the voxel centres (mm) on the surface of the brain."""
        from scipy import ndimage, spatial

        brain = self.data > 0
        surface = brain & ~ndimage.binary_erosion(brain)
        return spatial.cKDTree(apply_affine(self.affine, np.argwhere(surface)))

    def distance_to_brain(self, positions_mm: np.ndarray) -> np.ndarray:
        """Return how far outside the brain positions (n, 3) are, in mm: 0 inside, NaN unknown."""
        known = np.isfinite(positions_mm).all(axis=1)
        outside = known & (voxel_values(self.data, self.affine, positions_mm) == 0)
        distance = np.where(known, 0.0, np.nan)
        if outside.any():
            tree = self.brain_tree
            distance[outside] = tree.query(positions_mm[outside])[0]  # type: ignore[attr-defined]
        return distance


def voxel_values(data: np.ndarray, affine: np.ndarray, positions_mm: np.ndarray) -> np.ndarray:
    """Return the value of the voxel that holds each position, shape (n,); 0 where there is none.

    Parameters
    ----------
    data : array, 3-D
    affine : array, shape (4, 4)
        Voxel to mm.
    positions_mm : array, shape (n, 3), mm
        NaN where unknown.
    """
    places = apply_affine(np.linalg.inv(affine), positions_mm)
    known = np.isfinite(places).all(axis=1)
    nearest = np.rint(np.where(known[:, None], places, -1)).astype(int)
    inside = ((nearest >= 0) & (nearest < data.shape)).all(axis=1)
    values = np.zeros(len(nearest), dtype=data.dtype)
    values[inside] = data[tuple(nearest[inside].T)]
    return values


@functools.lru_cache(maxsize=1)
def mni152_tissue() -> TissueMap:
    """Return the tissues of the ICBM 2009a symmetric template that comes with nilearn, 1 mm.

    A voxel of the brain has the tissue of the highest of three probabilities: grey and white
    matter as given by the template, and fluid for what is left. The brain is nilearn's mask with
    its holes filled, so that the ventricles count as inside.
    """
    from nilearn import datasets
    from scipy import ndimage

    grey = datasets.load_mni152_gm_template(resolution=1)
    white = datasets.load_mni152_wm_template(resolution=1)
    shares = np.stack([np.asarray(i.dataobj, dtype=np.float32) for i in (grey, white)])
    fluid = 1 - shares.sum(axis=0, keepdims=True)
    tissue = 1 + np.argmax(np.concatenate([shares, fluid]), axis=0).astype(np.uint8)
    mask = np.asarray(datasets.load_mni152_brain_mask(resolution=1).dataobj) > 0
    return TissueMap(tissue * ndimage.binary_fill_holes(mask), grey.affine)
