"""The same maps on the cortical surface of fsaverage5.

Contacts inform vertices near them in straight line, within their own hemisphere. A contact in one
bank of a sulcus therefore also informs the other bank: with contacts known to a few millimetres
these cannot be told apart.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bids_speechdecode.anatomy.spaces import from_mni152
from bids_speechdecode.bids.derivatives import Derivatives
from bids_speechdecode.bids.files import atomic_write
from bids_speechdecode.group.contributions import Contributions, in_analysis_space
from bids_speechdecode.group.maps import (
    MAPS,
    Kernel,
    Maps,
    describe_map,
    note_unplaced,
    smooth_over_places,
)

SPACE = "fsaverage5"
HEMISPHERES = {"L": "left", "R": "right"}
# Contacts further from the middle of the cortical sheet do not count. In the ICBM152 template 92%
# of all grey matter (deep nuclei among it) and 86% of all white matter are closer to a vertex.
MAX_DEPTH_MM = 8.0

_STRUCTURES = {"L": "CortexLeft", "R": "CortexRight"}


def middle_surfaces() -> dict[str, np.ndarray]:
    """Return the vertices midway between white and pial surface, (10242, 3) mm in MNI305, by L, R.

    fsaverage5 as bundled with nilearn; nothing is downloaded.
    """
    from nilearn.datasets import load_fsaverage

    meshes = load_fsaverage("fsaverage5")
    return {
        side: np.mean(
            [meshes[kind].parts[part].coordinates for kind in ("pial", "white_matter")],
            axis=0,
            dtype=float,
        )
        for side, part in HEMISPHERES.items()
    }


def smooth_surface(
    contacts: pd.DataFrame,
    kernel: Kernel | None = None,
    *,
    cortex: tuple[np.ndarray, np.ndarray] | None = None,
    max_depth: float = MAX_DEPTH_MM,
) -> dict[str, Maps]:
    """Return the maps at the vertices of fsaverage5, by hemisphere (L, R).

    Parameters
    ----------
    contacts : data frame
        Columns participant, x, y, z (mm), space, hemisphere, contribution (see `Contributions`).
        The hemisphere is the sign of x where the table has none.
    cortex : two arrays of bool, shape (10242,), optional
        Which vertices are cortex, left and right (an atlas's ``surface > 0``). The others, the
        medial wall where the hemispheres were cut apart, get no value.
    max_depth : float, mm
        Contacts further from the nearest vertex do not count.
    """
    kernel = kernel or Kernel()
    placed = in_analysis_space(contacts)
    positions = from_mni152(placed[["x", "y", "z"]].to_numpy(float), "MNI305")
    sides = _sides(placed["hemisphere"], positions[:, 0])
    maps = {}
    for number, (side, vertices) in enumerate(middle_surfaces().items()):
        is_cortex = np.ones(len(vertices), bool) if cortex is None else cortex[number].astype(bool)
        here = sides == side
        maps[side] = _smooth_hemisphere(
            placed.loc[here],
            positions[here],
            vertices,
            is_cortex,
            kernel,
            max_depth,
            note_unplaced(len(contacts), len(placed)),
        )
    return maps


def surface_image(values: np.ndarray, kind: str, side: str, *, simulated: bool) -> Any:
    """Return a map of a hemisphere as a GIFTI image: float32, one value per vertex."""
    from nibabel import gifti

    about = {
        "AnatomicalStructurePrimary": _STRUCTURES[side],
        "Name": kind,
        "Description": f"{'SIMULATED: ' if simulated else ''}{MAPS[kind]}",
    }
    data = gifti.GiftiDataArray(
        values.astype(np.float32),
        intent="NIFTI_INTENT_SHAPE",
        datatype="NIFTI_TYPE_FLOAT32",
        meta=about,
    )
    return gifti.GiftiImage(darrays=[data], meta=gifti.GiftiMetaData(about))


def write_surfaces(
    out: Derivatives,
    contributions: Contributions,
    maps: dict[str, Maps],
    kernel: Kernel | None = None,
) -> list[Path]:
    """Write each map of each hemisphere as GIFTI with sidecars; return the paths."""
    paths = []
    for side, of_side in maps.items():
        for kind, text in MAPS.items():
            path = out.group_path(
                task=contributions.task,
                hemi=side,
                space=SPACE,
                desc=kind,
                suffix="map",
                extension=".shape.gii",
            )
            image = surface_image(
                getattr(of_side, kind), kind, side, simulated=contributions.simulated
            )
            with atomic_write(path) as temporary:
                image.to_filename(temporary)
            describe_map(path, contributions, of_side, kernel or Kernel(), text)
            paths.append(path)
    return paths


def _smooth_hemisphere(
    contacts: pd.DataFrame,
    positions_mm: np.ndarray,
    vertices: np.ndarray,
    is_cortex: np.ndarray,
    kernel: Kernel,
    max_depth: float,
    notes: tuple[str, ...],
) -> Maps:
    """Return the maps of one hemisphere; positions and vertices in MNI305 (mm)."""
    from scipy.spatial import cKDTree

    tree = cKDTree(vertices[is_cortex])
    near = tree.query(positions_mm)[0] <= max_depth if len(positions_mm) else np.zeros(0, bool)
    if not near.all():
        notes += (
            f"{int((~near).sum())} of {len(near)} electrodes of this hemisphere lie more than "
            f"{max_depth:g} mm from its cortical surface and do not count.",
        )

    def near_vertices(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        pairs = cKDTree(positions).sparse_distance_matrix(
            tree, kernel.radius, output_type="ndarray"
        )
        return pairs["j"], pairs["i"], pairs["v"]

    of_cortex = smooth_over_places(
        contacts["contribution"].to_numpy(float)[near],
        positions_mm[near],
        contacts["participant"].to_numpy()[near],
        near_vertices,
        int(is_cortex.sum()),
        kernel,
    )
    effect, coverage, n = np.full(len(vertices), np.nan), *np.zeros((2, len(vertices)))
    effect[is_cortex], coverage[is_cortex], n[is_cortex] = of_cortex
    return Maps(effect, coverage, n, int(near.sum()), notes)


def _sides(hemispheres: pd.Series, x: np.ndarray) -> np.ndarray:
    """Return "L" or "R" for every contact."""
    given = hemispheres.to_numpy(object)
    return np.where(np.isin(given, ["L", "R"]), given, np.where(x < 0, "L", "R"))
