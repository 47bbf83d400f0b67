"""A participant's own brain: a small subject of FreeSurfer, made here."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bids_speechdecode.anatomy.atlas import label_contacts, load_atlas
from bids_speechdecode.anatomy.freesurfer import FreeSurferSubject
from bids_speechdecode.errors import DataError, MissingInputError

XFM = """MNI Transform File
% avi2talxfm

Transform_Type = Linear;
Linear_Transform =
1.1 0.02 -0.01 3.5
-0.02 0.95\t0.1 -20
0.01 -0.1 1.05 7.25 ;
"""
# x runs from right to left and z is the second axis, as in a conformed volume.
AFFINE = np.array([[-1.0, 0, 0, 30], [0, 0, 1, -40], [0, -1, 0, 20], [0, 0, 0, 1]])
SEGMENTS = {(5, 5, 5): 1030, (5, 5, 6): 2, (12, 5, 5): 2034, (5, 12, 5): 17, (9, 9, 9): 4}


@pytest.fixture
def subjects(tmp_path: Path) -> Path:
    """Return a folder with one subject, ``sub-07``."""
    mri = tmp_path / "sub-07" / "mri"
    (mri / "transforms").mkdir(parents=True)
    (mri / "transforms" / "talairach.xfm").write_text(XFM)
    data = np.zeros((20, 20, 20), np.int32)
    for voxel, segment in SEGMENTS.items():
        data[voxel] = segment
    nib.save(nib.MGHImage(data, AFFINE), mri / "aparc+aseg.mgz")
    return tmp_path


def test_scanner_to_mni305(subjects):
    """The matrix spans lines and ends in a semicolon; a lost number would shift every contact."""
    subject = FreeSurferSubject.open(subjects, "07")
    expected = [1.1 * 1 + 0.02 * 2 - 0.03 + 3.5, -0.02 + 1.9 + 0.3 - 20, 0.01 - 0.2 + 3.15 + 7.25]
    np.testing.assert_allclose(subject.to_mni305(np.array([[1.0, 2, 3]])), [expected], atol=1e-12)


def test_native_labels_are_those_of_the_default_atlas(subjects):
    """One participant labelled natively must be comparable with another labelled in MNI152."""
    atlas = FreeSurferSubject.open(subjects, "sub-07").parcellation
    positions = nib.affines.apply_affine(AFFINE, list(SEGMENTS)).astype(float)
    table = label_contacts(positions, atlas, max_distance=0.5)
    assert table["label"].tolist() == [
        "superiortemporal",
        None,
        "transversetemporal",
        "hippocampus",
        None,
    ]
    assert table["hemisphere"].tolist()[:4] == ["L", "L", "R", "L"]
    assert table["distance"].tolist()[:2] == [0, 1]
    assert table["tissue"].tolist() == [
        "grey matter",
        "white matter",
        "grey matter",
        "grey matter",
        "csf",
    ]


def test_numbers_are_those_of_freesurfers_table():
    """A number off by one would name a neighbouring gyrus; MNE brings FreeSurfer's own table."""
    from mne import read_freesurfer_lut

    from bids_speechdecode.anatomy.freesurfer import _labels

    lut = {number: name for name, number in read_freesurfer_lut()[0].items()}
    ours = _labels()
    for _, row in ours.iterrows():
        name = lut[row["index"]].lower().replace("-", "")
        name = name.removeprefix("ctx").removesuffix("proper")
        side = {"L": ("lh", "left"), "R": ("rh", "right"), "B": ("",)}[row["hemisphere"]]
        assert name in [s + row["name"].removesuffix("proper") for s in side]
    default = load_atlas().labels
    assert set(zip(ours["name"], ours["hemisphere"], ours["structure"], strict=True)) == set(
        zip(default["name"], default["hemisphere"], default["structure"], strict=True)
    )


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("mri/aparc+aseg.mgz", "run recon-all to its end"),
        ("mri/transforms/talairach.xfm", "lacks a file"),
    ],
)
def test_missing_files(subjects, damage, said):
    """A half-copied subject is common; the message names the file."""
    (subjects / "sub-07" / damage).unlink()
    subject = FreeSurferSubject.open(subjects, "07")
    with pytest.raises(MissingInputError, match=said) as error:
        _ = subject.parcellation, subject.talairach_affine
    assert damage in str(error.value)


@pytest.mark.parametrize("name", ["sub-070", "7"])
def test_missing_subject(subjects, name):
    """Another participant's brain must never be taken."""
    with pytest.raises(MissingInputError, match="did you mean 'sub-07'"):
        FreeSurferSubject.open(subjects, name)
    with pytest.raises(MissingInputError, match="--fs-subjects-dir"):
        FreeSurferSubject.open(subjects / "nowhere", "07")


def test_both_ways_to_name_a_subject(subjects):
    """FreeSurfer itself knows no ``sub-``."""
    (subjects / "sub-07").rename(subjects / "07")
    assert FreeSurferSubject.open(subjects, "sub-07").folder.name == "07"


@pytest.mark.parametrize("text", ["", XFM.replace("7.25 ;", ";"), XFM.replace("1.1", "x")])
def test_broken_transform(subjects, text):
    """A damaged matrix is no reason to label other brain regions."""
    (subjects / "sub-07/mri/transforms/talairach.xfm").write_text(text)
    with pytest.raises(DataError, match="3 x 4 numbers"):
        _ = FreeSurferSubject.open(subjects, "07").talairach_affine


def test_broken_segmentation(subjects):
    """A truncated file, and one without labels, each with what to do."""
    path = subjects / "sub-07/mri/aparc+aseg.mgz"
    nib.save(nib.MGHImage(np.zeros((4, 4, 4), np.int32), AFFINE), path)
    with pytest.raises(DataError, match="no label of the cortex"):
        _ = FreeSurferSubject.open(subjects, "07").parcellation
    path.write_bytes(b"not an image")
    with pytest.raises(DataError, match="cannot be read"):
        _ = FreeSurferSubject.open(subjects, "07").parcellation
