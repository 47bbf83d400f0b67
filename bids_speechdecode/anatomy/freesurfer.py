"""A participant's own brain as FreeSurfer has segmented it.

Positions here are scanner RAS in mm: those of the T1-weighted image that FreeSurfer was run on. A
coordsystem ``ScanRAS`` means them; ``ACPC`` does if that image was aligned to the commissures.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bids_speechdecode.anatomy.atlas import Atlas
from bids_speechdecode.anatomy.spaces import apply_affine, to_mni152
from bids_speechdecode.anatomy.tissue import TISSUES, TissueMap
from bids_speechdecode.errors import DataError, MissingInputError, did_you_mean

# Numbers as in FreeSurferColorLUT.txt; names as in the Desikan-Killiany table of `atlas`. Cortical
# labels are 1000 (left) or 2000 (right) plus their place in this list.
_CORTEX_NAMES = """
    - bankssts caudalanteriorcingulate caudalmiddlefrontal - cuneus entorhinal fusiform
    inferiorparietal inferiortemporal isthmuscingulate lateraloccipital lateralorbitofrontal
    lingual medialorbitofrontal middletemporal parahippocampal paracentral parsopercularis
    parsorbitalis parstriangularis pericalcarine postcentral posteriorcingulate precentral
    precuneus rostralanteriorcingulate rostralmiddlefrontal superiorfrontal superiorparietal
    superiortemporal supramarginal frontalpole temporalpole transversetemporal insula
"""
_NUCLEI = {  # name: (left, right)
    "thalamusproper": (10, 49),
    "caudate": (11, 50),
    "putamen": (12, 51),
    "pallidum": (13, 52),
    "hippocampus": (17, 53),
    "amygdala": (18, 54),
    "accumbensarea": (26, 58),
}
_BRAINSTEM = 16
_XFM, _SEGMENTS = "mri/transforms/talairach.xfm", "mri/aparc+aseg.mgz"
# White matter (cerebral, cerebellar, hypointensities, corpus callosum, brainstem, optic chiasm) and
# fluid (ventricles, choroid plexus, vessels); every other segment is grey.
_WHITE = (2, 41, 7, 46, 16, *range(77, 83), 85, *range(250, 256))
_FLUID = (4, 43, 5, 44, 14, 15, 24, 72, 31, 63, 30, 62)


@dataclass(frozen=True)
class FreeSurferSubject:
    """A participant's folder of FreeSurfer.

    Attributes
    ----------
    folder : path
    """

    folder: Path

    @classmethod
    def open(cls, subjects_dir: str | Path, participant: str) -> FreeSurferSubject:
        """Return a participant's subject, named ``sub-XX`` or ``XX``.

        Raises
        ------
        MissingInputError
            If the folder of subjects, or the participant's in it, is absent.
        """
        subjects_dir, label = require_subjects_dir(subjects_dir), participant.removeprefix("sub-")
        for name in (f"sub-{label}", label):
            if (subjects_dir / name).is_dir():
                return cls(subjects_dir / name)
        names = [path.name for path in subjects_dir.iterdir() if path.is_dir()]
        raise MissingInputError(
            f"FreeSurfer has no subject sub-{label}.",
            expected=f"a folder sub-{label} or {label}",
            found=", ".join(sorted(names)[:8]) or "nothing",
            where=subjects_dir,
            fix=did_you_mean(f"sub-{label}", names)
            or "name the folder that recon-all wrote to with --fs-subjects-dir",
        )

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that places and labels depend on, whether they are there or not."""
        return self.folder / _XFM, self.folder / _SEGMENTS

    @functools.cached_property
    def talairach_affine(self) -> np.ndarray:
        """The affine from scanner RAS to MNI305, shape (4, 4), of ``talairach.xfm``.

        Raises
        ------
        MissingInputError
            If the file is absent.
        DataError
            If it holds no linear transform.
        """
        return _read_xfm(self._file(_XFM))

    def to_mni305(self, positions_mm: np.ndarray) -> np.ndarray:
        """Return positions of scanner RAS in MNI305, shape (n, 3), mm.

        An affine only: the error is several millimetres, more than of a nonlinear registration.
        """
        return apply_affine(self.talairach_affine, positions_mm)

    def to_mni152(self, positions_mm: np.ndarray) -> np.ndarray:
        """Return positions of scanner RAS in MNI152 by way of MNI305, shape (n, 3), mm."""
        return to_mni152(self.to_mni305(positions_mm), "MNI305")

    @functools.cached_property
    def parcellation(self) -> Atlas:
        """The Desikan-Killiany labels and the tissues of ``aparc+aseg.mgz``, in scanner RAS.

        Names are those of the default atlas; numbers are FreeSurfer's.

        Raises
        ------
        MissingInputError
            If the file is absent.
        DataError
            If it is no image or has none of the labels.
        """
        segments, affine = _read_segments(self._file(_SEGMENTS))
        used = np.unique(segments)
        labels = _labels()
        labels = labels[labels["index"].isin(used)].reset_index(drop=True)
        if labels.empty:
            raise DataError(
                "A segmentation of FreeSurfer has no label of the cortex.",
                expected="numbers of FreeSurferColorLUT.txt",
                found=", ".join(map(str, used[:8])),
                where=self.folder / _SEGMENTS,
                fix="run recon-all to its end",
            )
        data = np.where(np.isin(segments, labels["index"]), segments, 0)
        tissue = TissueMap(_tissues(segments), affine)
        return Atlas("aparc+aseg", data, affine, labels, space="native", tissue=tissue)

    def _file(self, inside: str) -> Path:
        path = self.folder / inside
        if not path.is_file():
            raise MissingInputError(
                "A FreeSurfer subject lacks a file.",
                expected=inside,
                where=self.folder,
                fix="run recon-all to its end, or copy the whole folder of the subject",
            )
        return path


def require_subjects_dir(subjects_dir: str | Path) -> Path:
    """Return the folder of FreeSurfer subjects.

    Raises
    ------
    MissingInputError
        If it is absent or no folder.
    """
    path = Path(subjects_dir)
    if not path.is_dir():
        raise MissingInputError(
            "There is no folder of FreeSurfer subjects.",
            expected="a folder with one folder per subject",
            found="a file" if path.exists() else "nothing",
            where=path,
            fix="name the folder that recon-all wrote to with --fs-subjects-dir",
        )
    return path


def _read_xfm(path: Path) -> np.ndarray:
    """Return the matrix of an MNI transform file: 12 numbers between ``=`` and ``;``."""
    text = path.read_text(encoding="utf-8", errors="replace")
    _, _, rest = text.partition("Linear_Transform")
    words = rest.partition("=")[2].partition(";")[0].split()
    try:
        matrix = np.array(words, dtype=float).reshape(3, 4)
    except ValueError:
        matrix = np.zeros((3, 4))
    if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:, :3])) < 1e-3:
        raise DataError(
            "A transform of FreeSurfer cannot be read.",
            expected="Linear_Transform = and a matrix of 3 x 4 numbers that ends with ;",
            found=" ".join(words[:12]) or "no matrix",
            where=path,
            fix="run recon-all -talairach again",
        )
    return np.vstack([matrix, [0, 0, 0, 1]])


def _read_segments(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of the segments, 3-D int32, and the affine to scanner RAS."""
    import nibabel as nib

    try:
        image: Any = nib.load(path)
        data = np.asarray(image.dataobj)
    except (nib.filebasedimages.ImageFileError, OSError, EOFError, ValueError) as error:
        raise DataError(
            "A segmentation of FreeSurfer cannot be read.",
            expected="an image in the format of FreeSurfer",
            found=str(error),
            where=path,
            fix="copy it again, or run recon-all to its end",
        ) from None
    data = data.reshape(data.shape[:3]) if data.shape[3:] == (1,) else data
    if data.ndim != 3 or not np.isfinite(data).all() or (data != np.rint(data)).any():
        raise DataError(
            "A segmentation of FreeSurfer is none.",
            expected="one whole number per voxel, in three dimensions",
            found=f"shape {data.shape}" if data.ndim != 3 else "other values",
            where=path,
            fix="copy it again, or run recon-all to its end",
        )
    return data.astype(np.int32), np.asarray(image.affine, dtype=float)


def _labels() -> pd.DataFrame:
    """Return number, name, hemisphere and structure of every label."""
    cortex = [
        (1000 * side + place, name, "LR"[side - 1], "cortex")
        for side in (1, 2)
        for place, name in enumerate(_CORTEX_NAMES.split())
        if name != "-"
    ]
    below = "subcortex/brainstem"
    nuclei = [
        (number, name, side, below)
        for name, numbers in _NUCLEI.items()
        for side, number in zip("LR", numbers, strict=True)
    ]
    return pd.DataFrame(
        [*cortex, *nuclei, (_BRAINSTEM, "brainstem", "B", below)],
        columns=["index", "name", "hemisphere", "structure"],
    )


def _tissues(segments: np.ndarray) -> np.ndarray:
    """Return the tissue of every segment, as an index into `TISSUES`."""
    tissue = np.where(segments > 0, TISSUES.index("grey matter"), 0).astype(np.uint8)
    tissue[np.isin(segments, _WHITE)] = TISSUES.index("white matter")
    tissue[np.isin(segments, _FLUID)] = TISSUES.index("csf")
    return tissue
