"""The files of an atlas: an image and a table of labels that must fit each other and the brain."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bids_speechdecode.anatomy.label_table import complete_labels, read_labels
from bids_speechdecode.anatomy.spaces import apply_affine
from bids_speechdecode.errors import DataError, MissingInputError, UsageError, did_you_mean

_TEMPLATE = "tpl-MNI152NLin2009cAsym"
_BRAIN_MM = np.array([[-85.0, -120.0, -90.0], [85.0, 90.0, 100.0]])  # around the MNI152 brain
_VOXEL_MM = (0.1, 20.0)


def read_atlas(
    image: Path, labels: Path, *, unused_labels: bool = False
) -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    """Return the labels of an atlas in MNI152: of every voxel, its affine, and their names.

    Parameters
    ----------
    image : path
        A 3-D image of whole numbers in MNI152, in any form that nibabel reads.
    labels : path
        See `label_table.read_labels`.
    unused_labels : bool
        Leave out rows without a voxel instead of taking them for a wrong table.

    Returns
    -------
    data : array of int, 3-D
    affine : array, shape (4, 4)
        Voxel to mm.
    labels : DataFrame
        As in `atlas.Atlas`.

    Raises
    ------
    MissingInputError
        If a file is absent.
    DataError
        If the image is no image of labels, does not lie on the MNI152 brain, or has other
        labels than the table.
    """
    require_file(labels, "The table of labels of an atlas is absent.")
    data, affine = _read_image(image)
    _check_place(data, affine, image)
    table = _matching(read_labels(labels), data, image, labels, unused_labels)
    return data, affine, complete_labels(table, _mean_x(data, affine, table), labels)


def _read_image(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the image as int32 and its affine."""
    import nibabel as nib

    require_file(path, "The image of an atlas is absent.")
    try:
        image: Any = nib.load(path)
        values = np.asarray(image.dataobj)
    except (nib.filebasedimages.ImageFileError, OSError, EOFError, ValueError) as error:
        raise DataError(
            "The image of an atlas cannot be read.",
            expected="a NIfTI image",
            found=str(error),
            where=path,
            fix="copy it again from its source",
        ) from None
    if isinstance(image, nib.Nifti1Pair) and not _has_transform(image.header):
        _refuse(
            path, "a header with the transform to mm (sform or qform)", "none, both codes are 0"
        )
    values = values.reshape(values.shape[:3]) if values.shape[3:] == (1,) else values
    if values.ndim != 3:
        _refuse(path, "a 3-D image, one label per voxel", f"shape {values.shape}")
    if not np.isfinite(values).all() or (values != np.rint(values)).any() or values.min() < 0:
        _refuse(path, "whole numbers, 0 where there is no label", "other values")
    if not values.any():
        _refuse(path, "labels", "0 in every voxel")
    return values.astype(np.int32), np.asarray(image.affine, dtype=float)


def _has_transform(header: Any) -> bool:
    """Whether a NIfTI header says where its voxels are; else nibabel puts the middle at 0, 0, 0."""
    return bool(header["sform_code"] > 0 or header["qform_code"] > 0)


def require_file(path: Path, problem: str) -> None:
    """Raise `MissingInputError` unless there is a file."""
    if path.is_file():
        return
    beside = [p.name for p in path.parent.iterdir() if p.is_file()] if path.parent.is_dir() else []
    raise MissingInputError(
        problem,
        expected="a file",
        found="a folder" if path.is_dir() else "nothing",
        where=path,
        fix=did_you_mean(path.name, beside) or "correct the path: --atlas IMAGE LABELS",
    )


def _refuse(path: Path, expected: str, found: str) -> None:
    raise DataError(
        "An image is no atlas.",
        expected=expected,
        found=found,
        where=path,
        fix="name an image of labels (often called dseg), not of probabilities or intensities",
    )


def _check_place(data: np.ndarray, affine: np.ndarray, path: Path) -> None:
    """Raise unless the labels lie on the MNI152 brain.

    Raises
    ------
    DataError
        If the affine is singular, its voxels have no plausible size in mm, or more than a tenth
        of the labelled voxels lie outside a box around the brain.
    """
    sizes = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    fix = "name an image in MNI152 whose header has the transform to mm (sform or qform)"
    singular = not np.isfinite(affine).all() or abs(np.linalg.det(affine)) < 1e-9
    if singular or sizes.min() < _VOXEL_MM[0] or sizes.max() > _VOXEL_MM[1]:
        raise DataError(
            "The affine of an atlas is not one from voxels to millimetres.",
            expected="voxels of {:g} to {:g} mm".format(*_VOXEL_MM),
            found="voxels of " + " x ".join(f"{size:.3g}" for size in sizes),
            where=path,
            fix=fix,
        )
    places = apply_affine(affine, np.argwhere(data))
    outside = ((places < _BRAIN_MM[0]) | (places > _BRAIN_MM[1])).any(axis=1).mean()
    if outside > 0.1:
        raise DataError(
            "An atlas does not lie on the MNI152 brain.",
            expected="labels between x, y, z = {} and {} mm".format(
                *(", ".join(f"{v:g}" for v in corner) for corner in _BRAIN_MM)
            ),
            found=f"{outside:.0%} of the labelled voxels elsewhere, around "
            + ", ".join(f"{v:.0f}" for v in places.mean(axis=0)),
            where=path,
            fix=fix,
        )


def _matching(
    table: pd.DataFrame, data: np.ndarray, image: Path, labels: Path, unused_labels: bool
) -> pd.DataFrame:
    """Return the rows that the image uses; raise if either has labels that the other lacks."""
    used = set(np.unique(data).tolist()) - {0}
    unnamed = sorted(used - set(table["index"]))
    unused = table[~table["index"].isin(used)]
    if unnamed or (len(unused) and not unused_labels):
        found = []
        if unnamed:
            found.append(f"no row for {len(unnamed)} labels of the image: {_some(unnamed)}")
        if len(unused):
            rows = unused["index"].astype(str) + " " + unused["name"]
            found.append(f"no voxel for {len(unused)} rows: {_some(rows)}")
        raise DataError(
            "An atlas and its table of labels do not fit.",
            expected="one row for each label of the image",
            found="; ".join(found),
            where=f"{image}, {labels}",
            fix="name the table that came with the image, or correct it",
        )
    return table.drop(unused.index)


def _some(values: Iterable[object], n: int = 8) -> str:
    texts = [str(value) for value in values]
    return ", ".join(texts[:n]) + (", ..." if len(texts) > n else "")


def _mean_x(data: np.ndarray, affine: np.ndarray, table: pd.DataFrame) -> np.ndarray:
    """Return the mean x (mm) of the voxels of each row's label."""
    from scipy import ndimage

    centres = ndimage.center_of_mass(data > 0, data, table["index"].to_numpy())
    return apply_affine(affine, np.asarray(centres))[:, 0]


def templateflow_files(name: str, *, also: str) -> tuple[Path, Path]:
    """Return image and labels of an atlas that TemplateFlow has on this machine.

    Parameters
    ----------
    name : str
        Such as ``Schaefer2018_desc-100Parcels7Networks``; ``Schaefer2018`` if there is only one.
    also : str
        What else the user may have meant.

    Raises
    ------
    MissingInputError
        If it is not there, or not downloaded yet.
    UsageError
        If the name fits several.
    """
    home = Path(os.environ.get("TEMPLATEFLOW_HOME") or Path.home() / ".cache" / "templateflow")
    folder = home / _TEMPLATE
    # 1 mm where there is a choice of resolutions.
    images = {
        path.name.partition("_atlas-")[2].removesuffix("_dseg.nii.gz"): path
        for path in sorted(folder.glob(f"{_TEMPLATE}_*atlas-*_dseg.nii.gz"), reverse=True)
    }
    wanted = name.removeprefix("atlas-")
    fits = [key for key in images if key == wanted] or [
        key for key in images if key.partition("_")[0] == wanted
    ]
    if len(fits) > 1:
        raise UsageError(
            f"--atlas {name!r} fits several atlases.",
            expected="one of " + ", ".join(sorted(fits)),
            where=folder,
            fix="name one of them in full",
        )
    if not fits:
        raise MissingInputError(
            f"There is no atlas {name!r}.",
            expected=f"{also}, an image and its table of labels, or an atlas of TemplateFlow",
            found=", ".join(sorted(images)) or "no atlas of TemplateFlow",
            where=folder,
            fix=did_you_mean(name, [also, *images])
            or f"download it where there is internet: {_how_to_get(wanted)}",
        )
    image = images[fits[0]]
    if not image.stat().st_size:
        raise MissingInputError(
            "TemplateFlow has not downloaded an atlas yet.",
            found="a file of 0 bytes",
            where=image,
            fix=f"download it where there is internet: {_how_to_get(wanted)}",
        )
    return image, _templateflow_labels(image)


def _how_to_get(name: str) -> str:
    atlas = name.partition("_")[0] or "NAME"
    template = _TEMPLATE.removeprefix("tpl-")
    return f"pip install templateflow && templateflow get {template} --atlas {atlas}"


def _templateflow_labels(image: Path) -> Path:
    """Return the table beside an image: it may leave out the resolution and the description."""
    stem = image.name.removesuffix(".nii.gz")
    parts = stem.split("_")
    names = [
        "_".join(p for p in parts if not p.startswith(left_out))
        for left_out in ((), ("res-",), ("res-", "desc-"), ("desc-",))
    ]
    paths = [image.with_name(f"{name}.tsv") for name in names]
    found = next((path for path in paths if path.is_file() and path.stat().st_size), None)
    if found is None:
        raise MissingInputError(
            "An atlas of TemplateFlow has no table of labels.",
            expected=" or ".join(path.name for path in paths[:3]),
            where=image.parent,
            fix="download it, or name image and table: --atlas IMAGE LABELS",
        )
    return found
