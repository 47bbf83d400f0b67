"""Named spaces: which can be joined, by which matrix, and in which order they are preferred."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bids_speechdecode.anatomy.spaces import (
    apply_affine,
    choose_space,
    family,
    from_mni152,
    is_usable,
    to_mni152,
    transform_between,
    why_refused,
)
from bids_speechdecode.errors import DataError, UsageError

TEMPLATES = ("MNI152NLin2009cAsym", "fsaverage", "Talairach")


def in_brain(n: int = 200) -> np.ndarray:
    """Return positions about a brain, shape (n, 3), mm."""
    return np.random.default_rng(3).uniform([-70, -105, -50], [70, 70, 80], (n, 3))


def test_every_keyword_of_bids_is_classified():
    """A keyword that nobody thought of would be refused with the wrong reason."""
    bidsschematools = pytest.importorskip("bidsschematools")
    schema = Path(bidsschematools.__file__).parent / "data" / "schema.json"
    words = json.loads(schema.read_text())["objects"]["metadata"]["iEEGCoordinateSystem"]["enum"]
    families = {word: family(word) if is_usable(word) else None for word in words}
    assert {w for w, f in families.items() if f == "MNI152"} == {
        w for w in words if w.startswith("MNI152") or w == "MNIColin27"
    }
    assert {w for w, f in families.items() if f == "MNI305"} == {
        w for w in words if w.lower().startswith("fsaverage") or w == "MNI305"
    }
    assert {w for w, f in families.items() if f == "native"} == {"ACPC", "ScanRAS"}
    assert families["Talairach"] == "Talairach"
    refused = [w for w, f in families.items() if f is None]
    assert {"Pixels", "Other", "fsLR", "ICBM452AirSpace", "UNCInfant1V22"} <= set(refused)
    assert all("; " in why_refused(word) for word in refused)


@pytest.mark.parametrize(
    ("space", "reason", "fix"),
    [
        ("Pixels", "pixels of a picture are no positions", "MNI152 or in the participant's own"),
        ("Other", "only described in words", "ACPC or ScanRAS"),
        ("OASIS30Atropos", "no transform from it", "MNI152 or in"),
        ("UNCInfant2V21", "children's brains", "MNI152 or in"),
        ("MNI", "either of MNI152 and MNI305", "in full"),
        ("", "no coordsystem.json", "write iEEGCoordinateSystem"),
        ("MNI152NLin2009dAsym", "no transform", "did you mean 'MNI152NLin2009"),
    ],
)
def test_refusals_say_why_and_what_to_do(space, reason, fix):
    """A user with pixels must learn that positions are needed, not that a key is missing."""
    with pytest.raises(DataError) as error:
        family(space)
    assert reason in str(error.value)
    assert fix in str(error.value)


def test_native_positions_need_the_participants_brain():
    """The place of a native coordinate in a template depends on whose brain it is."""
    with pytest.raises(DataError, match="--fs-subjects-dir"):
        to_mni152(np.zeros((1, 3)), "ScanRAS")


def test_worked_examples_of_freesurfer():
    """Use case 8 of the FreeSurfer wiki's CoordinateSystems gives both directions as numbers.

    They were computed with more digits than the wiki's matrices have, hence 0.003 mm.
    """
    point = np.array([[10.0, -20.0, 35.0]])
    there = to_mni152(point, "MNI305")[0]
    np.testing.assert_allclose(there, [10.695, -18.409, 36.137], atol=3e-3)
    back = from_mni152(point, "fsaverage5")[0]
    np.testing.assert_allclose(back, [9.3131, -21.5849, 33.8345], atol=3e-3)


def test_the_commissures_lie_on_the_axis_of_talairach():
    """Talairach's space is defined by them: AC is the origin, and PC lies behind it at z = 0.

    Their places in MNI152 were found on the template by Horn et al. (2017,
    doi:10.1016/j.neuroimage.2017.02.004; Lead-DBS), who know nothing of icbm2tal. 2 mm are the
    accuracy of an affine over a brain.
    """
    commissures = np.array([[0.25, 1.298, -5.003], [-0.188, -24.756, -2.376]])
    anterior, posterior = from_mni152(commissures, "Talairach")
    np.testing.assert_allclose(anterior, [0, 0, 0], atol=2)
    np.testing.assert_allclose(posterior[[0, 2]], [0, 0], atol=2)
    assert -27 < posterior[1] < -22


@pytest.mark.parametrize("space", TEMPLATES)
def test_round_trips(space):
    """There and back must be the same contact."""
    points = in_brain()
    np.testing.assert_allclose(to_mni152(from_mni152(points, space), space), points, atol=1e-9)
    np.testing.assert_allclose(
        apply_affine(transform_between(space, space), points), points, atol=1e-9
    )


def test_transforms_compose():
    """Talairach -> MNI305 must be the same through MNI152 as at once, by nibabel's arithmetic."""
    points = in_brain()
    once = apply_affine(transform_between("Talairach", "MNI305"), points)
    steps = nib.affines.apply_affine(
        transform_between("MNI152", "MNI305"),
        nib.affines.apply_affine(transform_between("Talairach", "MNI152"), points),
    )
    np.testing.assert_allclose(once, steps, atol=1e-9)


def test_determinants():
    """No transform may mirror; MNI152 and MNI305 are of one size, Talairach's brain is smaller.

    The ratio of the volumes is that of Lancaster et al. (2007): scales 0.936, 0.940 and 0.897.
    """
    to_305, to_talairach = (
        np.linalg.det(transform_between("MNI152", space)) for space in ("MNI305", "Talairach")
    )
    assert to_305 == pytest.approx(1, abs=0.01)
    assert to_talairach == pytest.approx(0.936 * 0.940 * 0.897, abs=0.01)


def test_a_contact_that_is_nowhere_stays_nowhere():
    """One NaN must not become a position, nor spread to other contacts."""
    found = to_mni152(np.array([[np.nan, 1.0, 2.0], [1.0, 2.0, 3.0]]), "Talairach")
    assert np.isnan(found[0]).all()
    assert np.isfinite(found[1]).all()


@pytest.mark.parametrize(
    ("preference", "order"),
    [
        ((), [3, 1, 0, 4]),
        (("Talairach",), [0, 3, 1, 4]),
        (("native", "mni305"), [4, 1, 3, 0]),
        (("ACPC", "fsaverage6", "Talairach"), [4, 1, 0, 3]),
    ],
)
def test_spaces_in_order(preference, order):
    """The preferred space comes first and a refused one never; names and families both work."""
    spaces = ["Talairach", "fsaverage6", "Pixels", "MNI152Lin", "ACPC"]
    assert choose_space(spaces, preference) == order


@pytest.mark.parametrize(
    ("name", "said"),
    [("MNI152NLin2009aSymm", "did you mean 'MNI152NLin2009aSym'?"), ("Pixels", "of a picture")],
)
def test_a_preference_that_cannot_be(name, said):
    """A typo must not fall back silently on another space."""
    with pytest.raises(UsageError) as error:
        choose_space(["MNI152NLin2009aSym", "Pixels"], [name])
    assert said in str(error.value)
    assert "in the dataset: MNI152NLin2009aSym" in str(error.value)
