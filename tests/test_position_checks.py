"""What is odd about positions is said in words, and nothing is said of what is not."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import SHARED

from bids_speechdecode.anatomy.checks import check_positions, sides_in_names
from bids_speechdecode.anatomy.tissue import mni152_tissue
from bids_speechdecode.bids.dataset import list_recordings, open_dataset
from bids_speechdecode.bids.electrodes import read_electrodes
from bids_speechdecode.errors import DataError

PODCAST = SHARED / "data" / "ds005574"


def shafts(*, left: str = "LA", right: str = "RA", n: int = 10) -> tuple[list[str], np.ndarray]:
    """Return names and positions (mm) of two temporal shafts, 3.5 mm between contacts."""
    names = [f"{shaft}{i}" for shaft in (left, right) for i in range(1, n + 1)]
    x = 25 + 3.5 * np.arange(n)
    rows = [(sign * value, -20.0, -8.0) for sign in (-1, 1) for value in x]
    return names, np.array(rows)


@pytest.mark.parametrize("space", ["MNI152NLin2009cAsym", "MNI305", "Talairach", "ScanRAS"])
def test_good_positions_are_not_spoken_of(space):
    """A warning on every dataset is read on none."""
    names, positions = shafts()
    assert check_positions(names, positions, space, hemispheres=["L"] * 10 + ["R"] * 10) == ()


@pytest.mark.parametrize("space", ["MNI152Lin", "Talairach", "ACPC"])
def test_left_and_right_exchanged(space):
    """A flipped x puts every result in the other hemisphere; in a scanner 0 is not the midline."""
    names, positions = shafts()
    shift = np.array([4.0 if space == "ACPC" else 0.0, 0, 0])
    [note] = check_positions(names, positions * [-1, 1, 1] + shift, space)
    assert note.startswith("20 of 20 contacts lie on the other side than their name says (LA1, LA2")
    assert "left and right are exchanged" in note
    notes = check_positions(
        ["X"] * 20, positions, space, hemispheres=["L"] * 9 + [""] + ["R"] * 9 + ["L"]
    )
    assert "1 of 19 contacts" in notes[-1]
    assert "hemisphere column" in notes[-1]
    assert "exchanged" not in notes[-1]


@pytest.mark.parametrize(
    ("names", "sides"),
    [
        (["LA1", "RSTG 8", "R-B2", "left_hip1", "G2", "Lat3"], ["L", "R", "R", "L", "", ""]),
        (["A'1", "A1", "LB\u20192", "LB2", "EKG"], ["L", "R", "L", "R", ""]),
        (["L1", "L2", "A3"], ["", "", ""]),
        (["L1", "R2"], ["L", "R"]),
        (["1", "", "REF"], ["", "", ""]),
    ],
)
def test_sides_in_names(names, sides):
    """LA1 says left and so does A'1; a shaft L among others says nothing."""
    assert sides_in_names(names) == sides


def test_units():
    """Centimetres that are called mm lie in the thalamus, the reverse far out of the head."""
    names, positions = shafts()
    assert any("may be cm or m" in n for n in check_positions(names, positions / 10, "MNI305"))
    notes = check_positions(names, positions * 10, "MNI305")
    assert any("20 of 20 contacts outside of any head" in note for note in notes)
    assert any("outside of any head" in n for n in check_positions(names, positions * 10, "ACPC"))
    notes = check_positions(names, np.tile(positions[:4], (5, 1)), "MNI305")
    assert notes[0] == "20 contacts have only 4 different positions"


def test_outside_the_brain():
    """Contacts in the bolt are counted and named; 5 mm beside the brain is brain shift."""
    names, positions = shafts(n=18)
    [note] = check_positions(names, positions, "MNI152NLin6Asym")
    distance = mni152_tissue().distance_to_brain(positions)
    assert note.startswith(f"{(distance > 5).sum()} of 36 contacts more than 5 mm outside")
    assert "LA" in note


def test_distance_to_the_brain_is_zero_inside():
    """The ventricles are inside: their fluid is not the fluid around the brain."""
    tissue = mni152_tissue()
    inside = np.array([[-20.0, -38, 14], [0, -22, 10], [-40, -20, 8]])
    assert tissue.distance_to_brain(inside).tolist() == [0, 0, 0]
    assert tissue.at(np.array([[-20.0, -38, 14], [np.nan, 0, 0], [0, 0, 110]])) == [
        "csf",
        None,
        "outside the brain",
    ]
    [far] = tissue.distance_to_brain(np.array([[0.0, -20, 180]]))
    assert 90 < far < 110


def test_nobody_is_localised():
    """Nothing to check is no error; a refused space is one."""
    assert check_positions(["A1"], np.full((1, 3), np.nan), "MNI152") == ()
    with pytest.raises(DataError):
        check_positions(["A1"], np.zeros((1, 3)), "Pixels")


@pytest.mark.skipif(not PODCAST.is_dir(), reason="../shared/data/ds005574 is absent")
def test_a_real_contact_far_from_its_head():
    """The published positions of nine patients: none is flipped, and one is 18 cm away."""
    dataset = open_dataset(PODCAST)
    notes = {}
    for participant in dataset.participants:
        [recording] = list_recordings(dataset, participant)
        found = read_electrodes(recording.electrodes[0])
        notes[participant] = check_positions(found.names, found.positions_mm, found.space)
    text = str(notes)
    assert "other side" not in text
    assert "unit may be" not in text
    assert [p for p, n in notes.items() if "outside of any head" in str(n)] == ["08"]
    assert "1 of 75 contacts outside of any head, up to 182 mm from its middle (DAMT4)" in text
