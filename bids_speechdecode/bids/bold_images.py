"""Functional images and their confounds as arrays: volumes over voxels.

NIfTI images are read inside a mask, block by block; CIFTI and GIFTI images have the voxels (and
vertices) of the cortex alone and are read whole.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import nibabel
import numpy as np
from nilearn.masking import compute_epi_mask

from bids_speechdecode.bids.tables import list_some, read_tsv, require_content
from bids_speechdecode.errors import DataError, did_you_mean

Kind = Literal["volume", "surface", "grayordinates"]

_BLOCK = 64  # volumes that are read at once
_DAMAGED = (OSError, EOFError, ValueError, zlib.error)  # what truncated or damaged files raise
_SAME_AFFINE = 1e-3  # mm; headers store single precision


@dataclass(frozen=True)
class Voxels:
    """Where the columns of a participant's BOLD lie.

    Attributes
    ----------
    index : array of int, shape (n_voxels,)
        Among all voxels of the image (in C order), all of its grayordinates, or all vertices of
        the left and then the right hemisphere.
    structure : array of str, shape (n_voxels,)
        ``"volume"``, ``"left"`` or ``"right"`` hemisphere, or CIFTI's name of the structure.
    position_mm : array, shape (n_voxels, 3)
        In the image's space; NaN for vertices, whose position depends on the surface.
    n_constant : int
        Voxels left out because they are constant, or not finite, in some run.
    """

    kind: Kind
    space: str
    index: np.ndarray
    structure: np.ndarray
    position_mm: np.ndarray
    n_constant: int = 0

    def keep(self, good: np.ndarray) -> Voxels:
        """Return the voxels where `good` (bool) is true; the others count as constant."""
        return Voxels(
            self.kind,
            self.space,
            self.index[good],
            self.structure[good],
            self.position_mm[good],
            self.n_constant + int((~good).sum()),
        )


@dataclass(frozen=True)
class ImageFiles:
    """The files of one run (two images: left and right hemisphere) and the volumes wanted."""

    images: tuple[Path, ...]
    mask: Path | None
    first: int
    n_volumes: int


# ---------------------------------------------------------------------------- headers


def read_shape(paths: Sequence[Path], kind: Kind) -> tuple[int, float | None]:
    """Return how many volumes a run has and the TR (seconds) in its header, None if unsaid.

    Raises
    ------
    DataError
        If it is no time series, cannot be read, or the hemispheres differ in length.
    MissingInputError
        If it was not downloaded.
    """
    image: Any = _load(paths[0])
    if kind == "volume":
        if len(image.shape) != 4 or image.shape[3] < 2:
            raise _no_series(paths[0], f"an image of shape {image.shape}")
        return int(image.shape[3]), _header_tr(image)
    if kind == "grayordinates":
        axis = _axes(image, paths[0])[0]
        return len(axis), float(axis.step) if axis.unit == "SECOND" and axis.step > 0 else None
    lengths = [len(_surface_series(path)) for path in paths]
    if len(set(lengths)) != 1 or lengths[0] < 2:
        found = ", ".join(f"{n} volumes in {p.name}" for n, p in zip(lengths, paths, strict=True))
        raise _no_series(paths[0], found)
    return lengths[0], None


def _load(path: Path) -> Any:
    require_content(path, path.parent)
    try:
        # Kept open: a compressed image is then unpacked once, not once per block.
        extra = {} if path.name.endswith(".gii") else {"keep_file_open": True}
        return nibabel.load(path, **extra)
    except Exception as error:  # the XML of GIFTI and CIFTI files has errors of its own
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(
        "A functional image cannot be read.",
        expected="NIfTI, CIFTI or GIFTI, complete",
        found=(str(error).splitlines() or [type(error).__name__])[0],
        where=path,
        fix="copy the file again from its source",
    )


def _no_series(path: Path, found: str) -> DataError:
    return DataError(
        "A functional image is no time series.",
        expected="at least 2 volumes (and as many in both hemispheres)",
        found=found,
        where=path,
        fix="copy the file again from its source, or leave the run out",
    )


def _header_tr(image: Any) -> float | None:
    unit = image.header.get_xyzt_units()[1]
    seconds = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}.get(unit)
    step = float(image.header.get_zooms()[3])
    return step * seconds if seconds and step > 0 else None


def _axes(image: Any, path: Path) -> tuple[Any, Any]:
    """Return the axes of a CIFTI time series: volumes, grayordinates."""
    axes = [image.header.get_axis(i) for i in range(image.ndim)] if _is_cifti(image) else []
    kinds = [type(axis).__name__ for axis in axes]
    if kinds != ["SeriesAxis", "BrainModelAxis"]:
        raise _no_series(path, "the axes " + (", ".join(kinds) or "of an image without any"))
    return axes[0], axes[1]


def _is_cifti(image: Any) -> bool:
    return isinstance(image, nibabel.Cifti2Image)


def _surface_series(path: Path) -> np.ndarray:
    """Return a GIFTI time series, shape (n_volumes, n_vertices)."""
    arrays = [_finite(array.data) for array in _load(path).darrays]
    rows = [array[None] if array.ndim == 1 else array.T for array in arrays]
    return np.concatenate(rows) if rows else np.empty((0, 0), np.float32)


# ----------------------------------------------------------------------------- images


def read_images(
    runs: Sequence[ImageFiles], kind: Kind, space: str
) -> tuple[Voxels, Iterator[np.ndarray]]:
    """Return the voxels of one participant, and the BOLD of one run after the other in them.

    The voxels are those inside the masks of all runs. A volume without mask gets one from its
    mean intensity: the largest connected part above the threshold between background and brain
    (`nilearn.masking.compute_epi_mask`).

    Parameters
    ----------
    runs : sequence of ImageFiles
    kind : {"volume", "surface", "grayordinates"}
    space : str
        For the record.

    Returns
    -------
    voxels : Voxels
    bold : iterator of array of float32, shape (n_volumes, n_voxels)
        In the unit of the images; a run is read when it is asked for.

    Raises
    ------
    DataError
        If mask and image, or the images of two runs, lie on other grids, or if a mask is empty.
    """
    read = {
        "volume": _read_volumes,
        "grayordinates": _read_grayordinates,
        "surface": _read_surfaces,
    }
    return read[kind](runs, space)


def _read_volumes(runs: Sequence[ImageFiles], space: str) -> tuple[Voxels, Iterator[np.ndarray]]:
    images = [_load(run.images[0]) for run in runs]
    for run, image in zip(runs, images, strict=True):
        _require_grid(image, images[0], run.images[0], runs[0].images[0], "The images of two runs")
    masks = [_mask(run, image) for run, image in zip(runs, images, strict=True)]
    mask = np.logical_and.reduce(masks)
    if not mask.any():
        raise DataError(
            "The brain masks of a participant's runs have no voxel in common.",
            found=f"{[int(m.sum()) for m in masks]} voxels in each",
            where=runs[0].images[0],
            fix="look at the masks and at how the runs were aligned",
        )
    index = np.flatnonzero(mask)
    ijk = np.column_stack(np.unravel_index(index, mask.shape))
    position = nibabel.affines.apply_affine(images[0].affine, ijk)
    voxels = Voxels("volume", space, index, np.full(len(index), "volume"), position)
    return voxels, (_inside(run, mask) for run in runs)


def _require_grid(image: Any, other: Any, path: Path, other_path: Path, what: str) -> None:
    fits = image.shape[:3] == other.shape[:3] and np.allclose(
        image.affine, other.affine, rtol=0, atol=_SAME_AFFINE
    )
    if not fits:
        raise DataError(
            f"{what} do not lie on the same grid.",
            expected=f"shape {other.shape[:3]} and the affine of {other_path.name}",
            found=f"shape {image.shape[:3]}"
            + ("" if image.shape[:3] != other.shape[:3] else " and another affine"),
            where=path,
            fix="use images and masks that were made together, in one space and resolution",
        )


def _mask(run: ImageFiles, image: Any) -> np.ndarray:
    """Return the brain of a run, shape of the image."""
    if run.mask is None:
        mean = nibabel.Nifti1Image(_mean_volume(run), image.affine)
        try:
            # Opening erodes twice from both sides: a thin slab would have nothing left.
            found = compute_epi_mask(mean, opening=2 if min(mean.shape) > 8 else False)
        except ValueError as error:  # nothing left after the opening
            raise _empty_mask(run.images[0], str(error)) from error
        inside = np.asarray(found.dataobj) > 0
    else:
        mask = _load(run.mask)
        _require_grid(mask, image, run.mask, run.images[0], "A brain mask and its image")
        try:
            inside = np.squeeze(np.asarray(mask.dataobj)) > 0.5
        except _DAMAGED as error:
            raise _unreadable(run.mask, error) from error
    if not inside.any():
        raise _empty_mask(run.mask or run.images[0], "no voxel inside")
    return inside


def _empty_mask(path: Path, found: str) -> DataError:
    return DataError(
        "A brain mask is empty.",
        expected="voxels above zero",
        found=found.splitlines()[0],
        where=path,
        fix="make the mask again, or look at the image",
    )


def _mean_volume(run: ImageFiles) -> np.ndarray:
    image = _load(run.images[0])
    total = np.zeros(image.shape[:3])
    for block in _blocks(image, 0, image.shape[3], run):
        total += block.sum(axis=3, dtype=np.float64)
    return np.nan_to_num(total / image.shape[3]).astype(np.float32)


def _blocks(image: Any, first: int, stop: int, run: ImageFiles) -> Iterator[np.ndarray]:
    for start in range(first, stop, _BLOCK):
        try:
            block = _finite(image.dataobj[..., start : min(start + _BLOCK, stop)])
        except _DAMAGED as error:
            raise _unreadable(run.images[0], error) from error
        yield block


def _finite(values: Any) -> np.ndarray:
    """Return `values` in single precision, with NaN in place of what is too large for a number."""
    with np.errstate(over="ignore", invalid="ignore"):
        found = np.asarray(values, np.float32)
    return np.where(np.isinf(found), np.float32(np.nan), found) if np.isinf(found).any() else found


def _inside(run: ImageFiles, mask: np.ndarray) -> np.ndarray:
    """Return the wanted volumes inside the mask, shape (n_volumes, n_voxels)."""
    image = _load(run.images[0])  # its own, so that one file at a time is open
    bold = np.empty((run.n_volumes, int(mask.sum())), np.float32)
    done = 0
    for block in _blocks(image, run.first, run.first + run.n_volumes, run):
        bold[done : done + block.shape[3]] = block[mask].T
        done += block.shape[3]
    return bold


def _read_grayordinates(
    runs: Sequence[ImageFiles], space: str
) -> tuple[Voxels, Iterator[np.ndarray]]:
    models = [_axes(_load(run.images[0]), run.images[0])[1] for run in runs]
    for run, model in zip(runs, models, strict=True):
        if model != models[0]:
            raise _other_voxels(run.images[0], runs[0].images[0])
    axis = models[0]
    names = np.array([str(name).removeprefix("CIFTI_STRUCTURE_").lower() for name in axis.name])
    position = np.full((len(names), 3), np.nan)
    in_volume = np.asarray(axis.volume_mask)
    if in_volume.any():
        position[in_volume] = nibabel.affines.apply_affine(axis.affine, axis.voxel[in_volume])
    voxels = Voxels("grayordinates", space, np.arange(len(names)), names, position)
    return voxels, (_grayordinates(run) for run in runs)


def _grayordinates(run: ImageFiles) -> np.ndarray:
    image = _load(run.images[0])
    try:
        return _finite(image.dataobj[run.first : run.first + run.n_volumes])
    except _DAMAGED as error:
        raise _unreadable(run.images[0], error) from error


def _read_surfaces(runs: Sequence[ImageFiles], space: str) -> tuple[Voxels, Iterator[np.ndarray]]:
    n_vertices = [_surface_series(path).shape[1] for path in runs[0].images]
    n_left, n_right = n_vertices
    structure = np.repeat(["left", "right"], [n_left, n_right])
    position = np.full((n_left + n_right, 3), np.nan)
    voxels = Voxels("surface", space, np.arange(len(structure)), structure, position)
    return voxels, (_vertices(run, n_vertices, runs[0]) for run in runs)


def _vertices(run: ImageFiles, n_vertices: list[int], other: ImageFiles) -> np.ndarray:
    sides = [_surface_series(path) for path in run.images]
    if [side.shape[1] for side in sides] != n_vertices:
        raise _other_voxels(run.images[0], other.images[0])
    return np.hstack(sides)[run.first : run.first + run.n_volumes]


def _other_voxels(path: Path, other: Path) -> DataError:
    return DataError(
        "The images of two runs do not have the same voxels.",
        expected=f"those of {other.name}",
        found="others",
        where=path,
        fix="use images of one space and resolution",
    )


# -------------------------------------------------------------------------- confounds


def read_confounds(
    path: Path | None, prefixes: Sequence[str], n_volumes: int
) -> tuple[np.ndarray, list[str]]:
    """Return the confounds whose names begin with one of `prefixes`.

    Values that are n/a become 0: derivatives have no value in the first row of fMRIPrep's files.

    Parameters
    ----------
    path : path or None
        ``*_desc-confounds_timeseries.tsv``; None gives no columns.
    prefixes : sequence of str
    n_volumes : int
        Rows that the table must have.

    Returns
    -------
    values : array, shape (n_volumes, n_confounds)
        In the units of the table.
    names : list of str

    Raises
    ------
    DataError
        If a prefix fits no column (the message lists them), the table has another number of rows
        than the run has volumes, or a value is no number.
    """
    if path is None or not prefixes:
        return np.empty((n_volumes, 0)), []
    table = read_tsv(path)[0]
    columns = [str(name) for name in table.columns]
    for prefix in prefixes:
        if not any(name.startswith(prefix) for name in columns):
            raise DataError(
                f"No column of the confounds begins with {prefix!r}.",
                expected="one of " + list_some(columns),
                where=path,
                fix=did_you_mean(prefix, columns) or "correct confounds in [fmri]",
            )
    if len(table) != n_volumes:
        raise DataError(
            "The confounds are not those of the images.",
            expected=f"{n_volumes} rows, one per volume",
            found=f"{len(table)} rows",
            where=path,
            fix="fetch image and confounds of the same run again",
        )
    names = [name for name in columns if name.startswith(tuple(prefixes))]
    try:
        values = table[names].astype(float).to_numpy(dtype=float)
    except ValueError as error:
        raise DataError(
            "A confound is no number.",
            expected="numbers, or n/a",
            found=str(error),
            where=path,
            fix="correct the table, or fetch it again",
        ) from error
    return np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0), names
