"""Published places of the human brain, and the labels of Desikan et al. that they should get.

The label of a structure was written down from its name, before any was looked up. Two atlases do
not draw the same borders: where a published centre falls to a neighbour here, it stays in the
table, and `ELSEWHERE` says so.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Centres of the regions of the AAL atlas in MNI152: name, left x y z, right x y z, labels.
# Tzourio-Mazoyer et al. (2002), doi:10.1006/nimg.2001.0978; the centres are those that studies of
# networks tabulate (figshare 184981).
_AAL = """
    Precentral -39 -6 51 41 -8 52 precentral
    Frontal_Sup -18 35 42 22 31 44 superiorfrontal
    Frontal_Mid -33 33 35 38 33 34 rostralmiddlefrontal|caudalmiddlefrontal
    Frontal_Inf_Oper -48 13 19 50 15 21 parsopercularis
    Frontal_Inf_Tri -46 30 14 50 30 14 parstriangularis
    Frontal_Inf_Orb -36 31 -12 41 32 -12 parsorbitalis|lateralorbitofrontal
    Supp_Motor_Area -5 5 61 9 0 62 superiorfrontal
    Frontal_Sup_Medial -5 49 31 9 51 30 superiorfrontal
    Frontal_Med_Orb -5 54 -7 8 52 -7 medialorbitofrontal
    Rectus -5 37 -18 8 36 -18 medialorbitofrontal
    Insula -35 7 3 39 6 2 insula
    Cingulum_Ant -4 35 14 8 37 16 rostralanteriorcingulate|caudalanteriorcingulate
    Cingulum_Mid -5 -15 42 8 -9 40 posteriorcingulate|caudalanteriorcingulate
    Cingulum_Post -5 -43 25 7 -42 22 isthmuscingulate|posteriorcingulate
    Hippocampus -25 -21 -10 29 -20 -10 hippocampus
    ParaHippocampal -21 -16 -21 25 -15 -20 parahippocampal|entorhinal
    Amygdala -23 -1 -17 27 1 -18 amygdala
    Calcarine -7 -79 6 16 -73 9 pericalcarine
    Cuneus -6 -80 27 14 -79 28 cuneus
    Lingual -15 -68 -5 16 -67 -4 lingual
    Occipital_Mid -32 -81 16 37 -80 19 lateraloccipital
    Occipital_Inf -36 -78 -8 38 -82 -8 lateraloccipital
    Fusiform -31 -40 -20 34 -39 -20 fusiform
    Postcentral -42 -23 49 41 -25 53 postcentral
    Parietal_Sup -23 -60 59 26 -59 62 superiorparietal
    Parietal_Inf -43 -46 47 46 -46 50 inferiorparietal|supramarginal
    SupraMarginal -56 -34 30 58 -32 34 supramarginal
    Angular -44 -61 36 46 -60 39 inferiorparietal
    Precuneus -7 -56 48 10 -56 44 precuneus
    Paracentral_Lobule -8 -25 70 7 -32 68 paracentral
    Caudate -11 11 9 15 12 9 caudate
    Putamen -24 4 2 28 5 2 putamen
    Pallidum -18 0 0 21 0 0 pallidum
    Thalamus -11 -18 8 13 -18 8 thalamusproper
    Heschl -42 -19 10 46 -17 10 transversetemporal
    Temporal_Sup -53 -21 7 58 -22 7 superiortemporal
    Temporal_Pole_Sup -40 15 -20 48 15 -17 temporalpole|superiortemporal
    Temporal_Mid -56 -34 -2 57 -37 -1 middletemporal|bankssts
    Temporal_Pole_Mid -36 15 -34 44 15 -32 temporalpole
    Temporal_Inf -50 -28 -23 54 -31 -22 inferiortemporal
"""

# Peaks of people who listen to speech, published in Talairach: side and name, x y z, labels.
# Binder et al. (2008), doi:10.1111/j.1528-1167.2008.01683.x, last table, all rows of its first
# contrasts that name one gyrus.
_BINDER = """
    L_planum_temporale -52 -25 6 superiortemporal|transversetemporal
    L_planum_temporale -43 -31 7 superiortemporal|transversetemporal
    L_Heschl -30 -29 10 transversetemporal
    L_anterior_STG -48 6 -4 superiortemporal
    L_anterior_STS -54 -9 -4 superiortemporal|middletemporal|bankssts
    R_STG 53 -20 4 superiortemporal
    R_anterior_STG 58 -6 -2 superiortemporal
    R_anterior_STG 44 5 -11 superiortemporal
    R_anterior_STG 35 5 -17 superiortemporal
    L_precentral -47 -3 29 precentral
    L_SFG -6 20 44 superiorfrontal
    L_posterior_ITG -42 -54 -10 inferiortemporal
    L_anterior_STS -54 -10 -6 superiortemporal|middletemporal|bankssts
    L_STS -50 -29 1 superiortemporal|middletemporal|bankssts
    L_SMA -1 5 46 superiorfrontal
    L_SMA -3 -6 60 superiorfrontal|paracentral
    L_anterior_cingulate -10 10 40 caudalanteriorcingulate|rostralanteriorcingulate
    L_anterior_cingulate -5 27 28 caudalanteriorcingulate|rostralanteriorcingulate
    R_anterior_cingulate 3 16 41 caudalanteriorcingulate|rostralanteriorcingulate
    R_SMA 5 2 61 superiorfrontal
    L_precentral -38 -9 50 precentral
    L_anterior_insula -33 19 2 insula
    L_anterior_insula -34 17 12 insula
    R_anterior_insula 33 18 -3 insula
    R_anterior_insula 34 19 11 insula
    L_Heschl -49 -15 1 transversetemporal
    L_STG -60 -23 6 superiortemporal
    L_anterior_STG -48 -1 -5 superiortemporal
"""

# Published places that get another label than their name says, and which.
ELSEWHERE = {
    "Frontal_Inf_Tri L -46 30 14": "parsopercularis",
    "ParaHippocampal L -21 -16 -21": "hippocampus",
    "ParaHippocampal R 25 -15 -20": "hippocampus",
    "Calcarine L -7 -79 6": "lingual",
    "Cuneus R 14 -79 28": "precuneus",
    "Occipital_Mid L -32 -81 16": "inferiorparietal",
    "Occipital_Mid R 37 -80 19": "inferiorparietal",
    "Occipital_Inf L -36 -78 -8": "fusiform",
    "Parietal_Inf L -43 -46 47": "superiorparietal",
    "Paracentral_Lobule R 7 -32 68": "precentral",
    "Temporal_Pole_Mid R 44 15 -32": "superiortemporal",
    "L_Heschl L -30 -29 10": "insula",
    "L_posterior_ITG L -42 -54 -10": "fusiform",
    "L_SMA L -1 5 46": "superiorfrontal",  # of the right hemisphere: 1 mm from the midline
    "L_anterior_cingulate L -10 10 40": "superiorfrontal",
    "R_anterior_cingulate R 3 16 41": "superiorfrontal",
    "L_anterior_insula L -34 17 12": "parsopercularis",
    "R_anterior_insula R 34 19 11": "parstriangularis",
}


@dataclass(frozen=True)
class Landmark:
    """A published place: its name with side and coordinates (mm), and the labels that fit it."""

    name: str
    position_mm: tuple[float, float, float]
    hemisphere: str
    labels: frozenset[str]


def aal_landmarks() -> list[Landmark]:
    """Return 80 places in MNI152, 40 in each hemisphere."""
    rows = [line.split() for line in _AAL.strip().splitlines()]
    return [
        _landmark(row[0], side, row[1 + 3 * i : 4 + 3 * i], row[7])
        for row in rows
        for i, side in enumerate("LR")
    ]


def binder_landmarks() -> list[Landmark]:
    """Return 28 places in Talairach."""
    rows = [line.split() for line in _BINDER.strip().splitlines()]
    return [_landmark(row[0], row[0][0], row[1:4], row[4]) for row in rows]


def _landmark(name: str, side: str, numbers: list[str], labels: str) -> Landmark:
    x, y, z = map(float, numbers)
    return Landmark(
        f"{name} {side} {' '.join(numbers)}", (x, y, z), side, frozenset(labels.split("|"))
    )


def positions(landmarks: list[Landmark]) -> np.ndarray:
    """Return their coordinates, shape (n, 3), mm."""
    return np.array([landmark.position_mm for landmark in landmarks])
