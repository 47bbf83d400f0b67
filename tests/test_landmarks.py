"""Published anatomical landmarks get their labels, in every space that contacts may be in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from landmarks import ELSEWHERE, Landmark, aal_landmarks, binder_landmarks, positions

from bids_speechdecode.anatomy.atlas import label_contacts, load_atlas
from bids_speechdecode.anatomy.spaces import to_mni152

# The matrices once more, written out by hand as their sources print them.
ICBM_OTHER_TO_TALAIRACH = (
    (0.9357, 0.0029, -0.0072, -1.0423),
    (-0.0065, 0.9396, -0.0726, -1.3940),
    (0.0103, 0.0752, 0.8967, 3.6475),
)
MNI152_TO_MNI305 = (  # the FreeSurfer wiki prints this direction as well
    (1.0022, 0.0071, -0.0177, 0.0528),
    (-0.0146, 0.9990, 0.0027, -1.5519),
    (0.0129, 0.0094, 1.0027, -1.2012),
)


def slowly(matrix: tuple[tuple[float, ...], ...], points: np.ndarray) -> np.ndarray:
    """Return points after an affine, number by number."""
    return np.array(
        [[a * x + b * y + c * z + d for a, b, c, d in matrix] for x, y, z in points.tolist()]
    )


def labelled(points: np.ndarray, space: str) -> pd.DataFrame:
    return label_contacts(to_mni152(points, space), load_atlas(), max_distance=5)


def misses(landmarks: list[Landmark], table: pd.DataFrame) -> dict[str, str]:
    """Return the landmarks that did not get a fitting label of their side, and what they got."""
    return {
        landmark.name: label
        for landmark, label, side in zip(
            landmarks, table["label"], table["hemisphere"], strict=True
        )
        if label not in landmark.labels or side != landmark.hemisphere
    }


def test_mni152():
    """69 of 80 published centres get the label of their name; the 11 others are known by name."""
    landmarks = aal_landmarks()
    found = misses(landmarks, labelled(positions(landmarks), "MNI152NLin2009cAsym"))
    assert found == {k: v for k, v in ELSEWHERE.items() if k in {m.name for m in landmarks}}
    assert len(landmarks) - len(found) == 69
    for side in "LR":
        assert sum(m.hemisphere == side and m.name not in found for m in landmarks) >= 30


@pytest.mark.parametrize(
    ("space", "matrix"),
    [("MNI305", MNI152_TO_MNI305), ("Talairach", ICBM_OTHER_TO_TALAIRACH)],
)
def test_the_same_places_in_another_space(space, matrix):
    """A place has one label in whichever space it is written down."""
    points = positions(aal_landmarks())
    table = labelled(slowly(matrix, points), space)
    direct = labelled(points, "MNI152Lin")
    assert table["label"].tolist() == direct["label"].tolist()
    assert len(misses(aal_landmarks(), table)) == 11
    # 4 printed digits of a matrix are 0.01 mm at the border of the brain.
    np.testing.assert_allclose(table["distance"], direct["distance"], atol=0.02)


def test_places_published_in_talairach():
    """21 of 28 peaks of speech, never in MNI152 before, get the label of their name."""
    landmarks = binder_landmarks()
    found = misses(landmarks, labelled(positions(landmarks), "Talairach"))
    assert found == {k: v for k, v in ELSEWHERE.items() if k in {m.name for m in landmarks}}
    assert len(landmarks) - len(found) == 21


def test_nuclei_below_the_cortex():
    """All 34 subcortical places of Seitzman et al. (2020), which nilearn brings, in both sides.

    doi:10.1016/j.neuroimage.2019.116290; they were drawn on the anatomy of a template.
    """
    import nilearn

    folder = Path(nilearn.__file__).parent / "datasets" / "data"
    points = np.loadtxt(
        folder / "seitzman_2018_ROIs_300inVol_MNI_allInfo.txt", skiprows=1, usecols=(0, 1, 2)
    )
    kinds = np.loadtxt(folder / "seitzman_2018_ROIs_anatomicalLabels.txt", skiprows=1, dtype=int)
    names = {
        3: {"hippocampus"},
        4: {"amygdala"},
        5: {"caudate", "putamen", "pallidum", "accumbensarea"},
        6: {"thalamusproper"},
    }
    chosen = np.isin(kinds, list(names))
    table = labelled(points[chosen], "MNI152NLin6Asym")
    assert len(table) == 34
    assert all(
        label in names[kind] for label, kind in zip(table["label"], kinds[chosen], strict=True)
    )
    assert (table["hemisphere"] == np.where(points[chosen, 0] < 0, "L", "R")).all()


def test_left_and_right_are_never_exchanged():
    """A mirrored contact gets the mirrored hemisphere: the error that nobody would see."""
    points = positions(aal_landmarks())
    points = points[np.abs(points[:, 0]) > 10]
    here, there = (labelled(points * [s, 1, 1], "MNI152")["hemisphere"] for s in (1, -1))
    assert (here == np.where(points[:, 0] < 0, "L", "R")).all()
    assert (there == np.where(points[:, 0] < 0, "R", "L")).all()
