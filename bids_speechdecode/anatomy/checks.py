"""What is odd about positions: their unit, their side, and whether they are in a head at all."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np

from bids_speechdecode.anatomy.spaces import family
from bids_speechdecode.anatomy.tissue import TissueMap, mni152_tissue

_HEAD_RADIUS = 130.0  # mm from the middle of the brain to the farthest place on any head
_HEAD_MIDDLE = np.array([0.0, -20.0, 10.0])  # mm, in every template space
_CLOSEST = 1.0  # mm between neighbouring contacts; clinical electrodes have 2 mm and more
_MIDLINE = 5.0  # mm within which a contact may be on either side
_OUTSIDE = 5.0  # mm out of the brain that brain shift and registration explain

# LA1, LSTG 8, R-B2, left_hip1; a single letter before a number (L1) may be a shaft of that name.
_LETTER = re.compile(r"^((?i:left|right)|[LR](?=[A-Z]|[-_. ]))")
_LETTER_OR_SHAFT = re.compile(r"^((?i:left|right)|[LR](?=[A-Z0-9]|[-_. ]))")
_NUMBER = re.compile(r"\d")  # LA1 is a contact of a left shaft; LABEL and REF are none
_SHAFT = re.compile(r"^[A-Za-z]+(?P<prime>['\u2019`]?)[-_ ]?\d")  # A1, A'1


def check_positions(
    names: Sequence[str],
    positions_mm: np.ndarray,
    space: str,
    *,
    hemispheres: Sequence[str] = (),
    tissue: TissueMap | None = None,
) -> tuple[str, ...]:
    """Return what is odd about the positions of a participant's contacts, in words.

    Parameters
    ----------
    names : sequence of str, length n
    positions_mm : array, shape (n, 3), mm
        In `space`; NaN where a contact is not localised.
    space : str
        As in coordsystem.json; must be usable (see `spaces.family`).
    hemispheres : sequence of str, length n or 0
        "L", "R" or "" as the electrodes table has it.
    tissue : TissueMap, optional
        Of this space; in the MNI152 family the template's is taken.

    Raises
    ------
    DataError
        If the space is refused.
    """
    group = family(space)
    positions_mm = np.asarray(positions_mm, dtype=float).reshape(-1, 3)
    known = np.isfinite(positions_mm).all(axis=1)
    if not known.any():
        return ()
    names = [name for name, is_known in zip(names, known, strict=True) if is_known]
    sides = list(np.asarray(hemispheres, dtype=object)[known]) if len(hemispheres) else []
    positions = positions_mm[known]
    tissue = tissue or (mni152_tissue() if group == "MNI152" else None)
    distance = _distance_to_middle(positions, group)
    far = distance > (2 * _HEAD_RADIUS if group == "native" else _HEAD_RADIUS)
    return (
        *_collapsed(positions),
        *_outside_head(names, distance, far),
        *_wrong_side(names, positions, sides, group),
        *(_outside_brain(names, positions, ~far, tissue) if tissue else ()),
    )


def _collapsed(positions: np.ndarray) -> Iterator[str]:
    """Yield whether contacts lie closer together than contacts can."""
    if len(positions) < 4:
        return
    n_distinct = len(np.unique(positions, axis=0))
    if n_distinct <= len(positions) / 2:
        yield f"{len(positions)} contacts have only {n_distinct} different positions"
        return
    spacing = median_spacing(positions)
    if spacing < _CLOSEST:
        yield (
            f"half of the contacts lie within {spacing:.2g} mm of another: their unit may be cm "
            "or m and not the one that coordsystem.json says, and their labels wrong"
        )


def median_spacing(positions_mm: np.ndarray) -> float:
    """Return the median distance of a contact to the nearest one elsewhere, mm; NaN if alone."""
    from scipy import spatial

    distinct = np.unique(positions_mm, axis=0)
    if len(distinct) < 2:
        return float("nan")
    return float(np.median(spatial.cKDTree(distinct).query(distinct, k=2)[0][:, 1]))


def _distance_to_middle(positions: np.ndarray, group: str) -> np.ndarray:
    """Return how far each contact is from the middle of the head, shape (n,), mm."""
    # The origin of a scanner is anywhere; contacts of one head are at least near each other.
    middle = np.median(positions, axis=0) if group == "native" else _HEAD_MIDDLE
    return np.linalg.norm(positions - middle, axis=1)


def _outside_head(names: Sequence[str], distance: np.ndarray, far: np.ndarray) -> Iterator[str]:
    if far.any():
        yield (
            f"{_count(far)} contacts outside of any head, up to {distance.max():.0f} mm from its "
            f"middle ({_examples(names, far)}): check the unit and the space of coordsystem.json"
        )


def _wrong_side(
    names: Sequence[str], positions: np.ndarray, sides: Sequence[str], group: str
) -> Iterator[str]:
    """Yield where x contradicts the names or the column ``hemisphere``."""
    for said, source in ((sides_in_names(names), "name"), (list(sides), "hemisphere column")):
        said_left, said_right = (np.array([s == side for s in said], dtype=bool) for side in "LR")
        if not (said_left.any() or said_right.any()):
            continue
        x = positions[:, 0] - _midline(positions[:, 0], said_left, said_right, group)
        wrong = (said_left & (x > _MIDLINE)) | (said_right & (x < -_MIDLINE))
        n_said = int((said_left | said_right).sum())
        if wrong.any():
            flipped = (
                ": left and right are exchanged, or x does not point to the right"
                if wrong.sum() > n_said / 2
                else ""
            )
            yield (
                f"{wrong.sum()} of {n_said} contacts lie on the other side than their {source} "
                f"says ({_examples(names, wrong)}){flipped}"
            )


def _midline(x: np.ndarray, left: np.ndarray, right: np.ndarray, group: str) -> float:
    """Return the x of the midline: 0 in a template; between the two sides in a scanner."""
    if group == "native" and left.any() and right.any():
        return float((np.median(x[left]) + np.median(x[right])) / 2)
    return 0.0


def sides_in_names(names: Sequence[str]) -> list[str]:
    """Return "L", "R" or "" for each contact, by one of two conventions.

    With primes (``A'1``) a primed shaft is on the left and every other one on the right. Without,
    ``LA1``, ``RSTG 8``, ``left_hip1`` say it; ``L1`` does only where every name starts with L or R,
    for otherwise L is a shaft.
    """
    shafts = [_SHAFT.match(name) for name in names]
    if any(shaft and shaft["prime"] for shaft in shafts):
        return [("L" if shaft["prime"] else "R") if shaft else "" for shaft in shafts]
    every = all(_LETTER_OR_SHAFT.match(name) for name in names)
    pattern = _LETTER_OR_SHAFT if every else _LETTER
    found = [pattern.match(name) if _NUMBER.search(name) else None for name in names]
    return [match[1][0].upper() if match else "" for match in found]


def _outside_brain(
    names: Sequence[str], positions: np.ndarray, in_head: np.ndarray, tissue: TissueMap
) -> Iterator[str]:
    distance = np.where(in_head, tissue.distance_to_brain(positions), 0)
    out = distance > _OUTSIDE
    if out.any():
        yield (
            f"{_count(out)} contacts more than {_OUTSIDE:g} mm outside the brain, up to "
            f"{distance.max():.0f} mm ({_examples(names, out)})"
        )


def _count(which: np.ndarray) -> str:
    return f"{which.sum()} of {len(which)}"


def _examples(names: Sequence[str], which: np.ndarray, n: int = 3) -> str:
    chosen = [name for name, is_it in zip(names, which, strict=True) if is_it]
    return ", ".join(chosen[:n]) + (", ..." if len(chosen) > n else "")
