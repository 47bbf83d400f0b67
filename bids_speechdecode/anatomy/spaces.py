"""Named coordinate spaces, which of them can be joined, and the matrices that join them.

One space is used for analysis: ``MNI152``. Its members (the linear and the nonlinear templates of
the Montreal institute, and Colin27, which was registered to them) differ by a few millimetres
and are treated as one. All positions are in millimetres, x to the right, y forward, z up.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bids_speechdecode.errors import DataError, UsageError, did_you_mean

# MNI305 (fsaverage) -> MNI152. FreeSurfer wiki, "CoordinateSystems", use case 8.
_MNI305_TO_MNI152 = np.array(
    [
        [0.9975, -0.0073, 0.0176, -0.0429],
        [0.0146, 1.0009, -0.0024, 1.5496],
        [-0.0130, -0.0093, 0.9971, 1.1840],
        [0.0, 0.0, 0.0, 1.0],
    ]
)
# MNI152 -> Talairach: icbm2tal of Lancaster et al. (2007), doi:10.1002/hbm.20345. Of its three
# matrices (SPM, FSL, other software) the one for "other", which is pooled over both: the
# software that normalised the contacts is not in a coordsystem.json.
_MNI152_TO_TALAIRACH = np.array(
    [
        [0.9357, 0.0029, -0.0072, -1.0423],
        [-0.0065, 0.9396, -0.0726, -1.3940],
        [0.0103, 0.0752, 0.8967, 3.6475],
        [0.0, 0.0, 0.0, 1.0],
    ]
)
_TO_MNI152 = {
    "MNI152": np.eye(4),
    "MNI305": _MNI305_TO_MNI152,
    "Talairach": np.linalg.inv(_MNI152_TO_TALAIRACH),
}

# Our order of preference: the fewer approximations on the way to MNI152, the earlier.
FAMILIES = ("MNI152", "MNI305", "Talairach", "native")
_MEMBERS = {
    "MNI152": (
        "MNI152",
        "MNI152Lin",
        "MNI152NLin6Sym",
        "MNI152NLin6Asym",
        *(f"MNI152NLin2009{version}{kind}" for version in "abc" for kind in ("Sym", "Asym")),
        "MNIColin27",
    ),
    "MNI305": (
        "MNI305",
        "fsaverage",
        *(f"fsaverage{order}" for order in range(3, 7)),
        "fsaverageSym",
    ),
    "Talairach": ("Talairach",),
    "native": ("ScanRAS", "ACPC", "individual", "scanner", "fsnative", "T1w", "native"),
}
_FAMILY_OF = {name.lower(): family for family, names in _MEMBERS.items() for name in names}

_CHILD = (
    "it is a template of children's brains, from which no transform to MNI152 is published",
    "give the positions in MNI152 or in the participant's own space as well",
)
_REFUSED = {
    "pixels": (
        "pixels of a picture are no positions in the brain",
        "give the positions in MNI152 or in the participant's own space as well",
    ),
    "other": (
        "a space that is only described in words cannot be joined with an atlas",
        "name the space in iEEGCoordinateSystem: ACPC or ScanRAS if it is the participant's MRI",
    ),
    "fslr": (
        "it is a surface, and a contact has no vertex",
        "name MNI152NLin6Asym instead if the positions are of its volume",
    ),
    "ixi549space": (
        "its transform to MNI152 is not published",
        "name MNI152NLin6Asym instead if a few millimetres of error do not matter",
    ),
    "mni": (
        "it is either of MNI152 and MNI305, which lie up to 4 mm apart",
        "name the template in full, such as MNI152NLin2009cAsym, or MNI305",
    ),
    "nihpd": _CHILD,
    "": (
        "no coordsystem.json and no space- in the file's name say what the numbers mean",
        "write iEEGCoordinateSystem and iEEGCoordinateUnits into a coordsystem.json",
    ),
}


def family(space: str) -> str:
    """Return the family of a named space: MNI152, MNI305, Talairach or native.

    Parameters
    ----------
    space : str
        A keyword of ``iEEGCoordinateSystem`` or of the entity ``space``; case does not matter.

    Raises
    ------
    DataError
        If positions in it cannot be joined with an atlas; the message says why and what to do.
    """
    found = _FAMILY_OF.get(_bare(space))
    if found:
        return found
    reason, fix = _refusal(space)
    raise DataError(
        f"Positions in the space {space!r} cannot be used: {reason}.",
        expected="a space of MNI152, MNI305, Talairach, or the participant's own",
        found=repr(space),
        fix=fix,
    )


def is_usable(space: str) -> bool:
    """Whether positions in this space can be joined with an atlas."""
    return _bare(space) in _FAMILY_OF


def why_refused(space: str) -> str:
    """Return in words why a space cannot be used and what to do; "" where it can."""
    return "" if is_usable(space) else "; ".join(_refusal(space))


def _bare(space: str) -> str:
    """Return a name to compare: lower case, without TemplateFlow's cohort or resolution."""
    return space.strip().lower().partition(":")[0].removeprefix("space-")


def _refusal(space: str) -> tuple[str, str]:
    name = _bare(space)
    if name in _REFUSED:
        return _REFUSED[name]
    if name.startswith("uncinfant"):
        return _CHILD
    hint = did_you_mean(space, [n for names in _MEMBERS.values() for n in names])
    return (
        "no transform from it to MNI152 is known",
        "give the positions in MNI152 or in the participant's own space as well"
        + (f"; {hint}" if hint else ""),
    )


def transform_between(space_from: str, space_to: str) -> np.ndarray:
    """Return the affine that takes positions from one template space to another.

    ``x_to = M x_from`` for homogeneous x in mm; always by way of MNI152.

    Returns
    -------
    array, shape (4, 4)

    Raises
    ------
    DataError
        If a space is refused (see `family`), or is a participant's own, which has no fixed
        place in a template.
    """
    into, out = (_template_matrix(space) for space in (space_from, space_to))
    return np.linalg.solve(out, into)


def _template_matrix(space: str) -> np.ndarray:
    """Return the affine from a template space to MNI152."""
    group = family(space)
    if group == "native":
        raise DataError(
            f"Positions in the space {space!r} are the participant's own.",
            expected="a template space, or the participant's FreeSurfer folder",
            found=repr(space),
            fix="name the folder of FreeSurfer subjects with --fs-subjects-dir",
        )
    return _TO_MNI152[group]


def apply_affine(affine: np.ndarray, positions_mm: np.ndarray) -> np.ndarray:
    """Return positions after an affine; NaN stays NaN.

    Parameters
    ----------
    affine : array, shape (4, 4)
    positions_mm : array, shape (n, 3), mm
    """
    positions_mm = np.asarray(positions_mm, dtype=float).reshape(-1, 3)
    return positions_mm @ affine[:3, :3].T + affine[:3, 3]


def to_mni152(positions_mm: np.ndarray, space: str) -> np.ndarray:
    """Return positions of a template space in MNI152, shape (n, 3), mm.

    Raises
    ------
    DataError
        As `transform_between`.
    """
    return apply_affine(transform_between(space, "MNI152"), positions_mm)


def from_mni152(positions_mm: np.ndarray, space: str) -> np.ndarray:
    """Return positions of MNI152 in another template space, shape (n, 3), mm.

    Raises
    ------
    DataError
        As `transform_between`.
    """
    return apply_affine(transform_between("MNI152", space), positions_mm)


def choose_space(spaces: Sequence[str], preference: Sequence[str] = ()) -> list[int]:
    """Return the indices of the usable spaces, the preferred one first.

    Parameters
    ----------
    spaces : sequence of str
        The spaces in which the contacts of a participant are given.
    preference : sequence of str
        Names of spaces or of families. Spaces that it does not name follow in our order:
        MNI152, MNI305, Talairach, native.

    Raises
    ------
    UsageError
        If a preferred name is no space, or one that cannot be used.

    Examples
    --------
    >>> choose_space(["Talairach", "Pixels", "MNI152NLin2009cAsym"])
    [2, 0]
    >>> choose_space(["Talairach", "MNI152NLin2009cAsym"], ["Talairach"])
    [0, 1]
    """
    for name in preference:
        _check_preference(name, spaces)
    usable = [i for i, space in enumerate(spaces) if is_usable(space)]
    return sorted(usable, key=lambda i: _preference_rank(spaces[i], preference))


def is_preferred(space: str, preference: Sequence[str]) -> bool:
    """Whether a usable space, or its family, is among the preferred names."""
    return _preference_rank(space, preference)[0] < len(preference)


def _preference_rank(space: str, preference: Sequence[str]) -> tuple[int, int]:
    """Return where a space comes: its own name or family as preferred, then our order."""
    group = family(space)
    names = [_bare(name) for name in preference]
    places = [names.index(name) for name in (_bare(space), group.lower()) if name in names]
    return min(places, default=len(names)), FAMILIES.index(group)


def _check_preference(name: str, spaces: Sequence[str]) -> None:
    if is_usable(name):
        return
    known = _bare(name) in map(_bare, spaces)
    candidates = [*filter(is_usable, spaces), *(n for ns in _MEMBERS.values() for n in ns)]
    hint = did_you_mean(name, candidates)
    raise UsageError(
        f"--space cannot be {name!r}" + (f": {_refusal(name)[0]}" if known else ""),
        expected="spaces or families of spaces: " + ", ".join(FAMILIES),
        found="in the dataset: " + (", ".join(filter(None, spaces)) or "none"),
        fix=_refusal(name)[1] if known else hint or "name one of these, or leave --space out",
    )
