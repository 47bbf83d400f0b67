"""sEEG shafts at plausible places, and how strongly each contact hears."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SPACE = "MNI152NLin2009cAsym"
SPACING_MM = 3.5  # between the centres of neighbouring contacts

# Entry (lateral) and target (deep) in the left hemisphere; the first is always implanted.
_SHAFTS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "HG": ((-68, -15, 3), (-36, -28, 12)),  # along Heschl's gyrus
    "HIP": ((-68, -24, -16), (-26, -20, -17)),
    "STG": ((-69, -38, 12), (-40, -37, 15)),  # posterior superior temporal gyrus
    "OFC": ((-48, 42, -4), (-10, 36, -14)),
    "PAR": ((-54, -54, 46), (-12, -52, 32)),
    "AMY": ((-64, -2, -24), (-22, -4, -20)),
    "CIN": ((-46, 30, 30), (-6, 28, 26)),
    "TP": ((-58, 12, -24), (-30, 14, -32)),
    "SMA": ((-44, -2, 56), (-6, 0, 54)),
}

# Left Heschl's gyrus (first) and superior temporal gyrus; mirrored for the right.
_AUDITORY_MM = np.array(
    [
        [-40, -26, 11],
        [-48, -20, 7],
        [-56, -14, 3],
        [-60, -24, 5],
        [-62, -34, 10],
        [-58, -42, 15],
        [-58, -4, -4],
    ],
    dtype=float,
)
_REACH_MM = 6.0  # how quickly hearing fades outside of auditory cortex
_CORTEX_MM = 4.0
_SMALLEST_WEIGHT = 0.15


@dataclass(frozen=True)
class Contact:
    """A contact: name, shaft, position in millimetres, and how strongly it hears (0 to 1)."""

    name: str
    shaft: str
    position_mm: tuple[float, float, float]
    weight: float

    @property
    def is_auditory(self) -> bool:
        """Whether sound drives this contact at all."""
        return self.weight > 0


def draw_contacts(n_shafts: int, n_contacts: int, rng: np.random.Generator) -> tuple[Contact, ...]:
    """Return the contacts of one participant, numbered from the tip of each shaft outwards.

    Most shafts lie in one hemisphere, which differs between participants; all are shifted by a
    few millimetres.
    """
    side = rng.choice([-1, 1])
    contacts: list[Contact] = []
    for index, (name, ends) in enumerate(list(_SHAFTS.items())[:n_shafts]):
        hemisphere = side if index < 3 or rng.random() < 0.7 else -side
        shaft = ("L" if hemisphere < 0 else "R") + name
        entry, target = np.array(ends, float) * [-hemisphere, 1, 1] + rng.normal(0, 1.5, 3)
        step = (entry - target) / np.linalg.norm(entry - target) * SPACING_MM
        for number in range(n_contacts):
            position = np.round(target + number * step, 2)
            weight = hearing_weight(position) * min(1.0, rng.lognormal(-0.1, 0.2))
            contacts.append(
                Contact(f"{shaft}{number + 1}", shaft, tuple(position.tolist()), round(weight, 4))
            )
    return tuple(contacts)


def hearing_weight(position_mm: np.ndarray) -> float:
    """Return how strongly a place hears: 1 in auditory cortex, 0 far from it.

    ``exp(-((d - 4 mm) / 6 mm)^2 / 2)`` with d the distance to the nearest auditory centre, and 0
    where that is below 0.15.
    """
    distance = np.linalg.norm(_fold_left(position_mm) - _AUDITORY_MM, axis=1).min()
    weight = float(np.exp(-0.5 * (max(0.0, distance - _CORTEX_MM) / _REACH_MM) ** 2))
    return weight if weight >= _SMALLEST_WEIGHT else 0.0


def distance_from_core(position_mm: np.ndarray) -> float:
    """Return the distance to medial Heschl's gyrus, in millimetres."""
    return float(np.linalg.norm(_fold_left(position_mm) - _AUDITORY_MM[0]))


def smooth_over_space(contacts: Sequence[Contact], white: np.ndarray) -> np.ndarray:
    """Return white noise of shape (..., n_contacts) with the correlation of neighbours.

    Contacts d apart correlate with ``0.15 + 0.85 exp(-d / 8 mm)``: fields spread, and nearby
    neurons do similar things.
    """
    positions = np.array([contact.position_mm for contact in contacts]).reshape(-1, 3)
    distance = np.linalg.norm(positions[:, None] - positions[None], axis=2)
    return white @ np.linalg.cholesky(0.15 + 0.85 * np.exp(-distance / 8.0)).T


def _fold_left(position_mm: np.ndarray) -> np.ndarray:
    """Return the position mirrored into the left hemisphere."""
    return np.asarray(position_mm) * np.where(np.arange(3) == 0, -np.sign(position_mm[0]), 1)
