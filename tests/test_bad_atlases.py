"""Bad atlases and FreeSurfer folders, as a user meets them on the command line."""

from __future__ import annotations

import gzip
import json
import shutil
import struct
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from damaged_electrodes import (
    MNI,
    QUICK,
    SUB,
    XYZ,
    Damage,
    N,
    Said,
    change,
    command,
    dry_run,
    light_copy,
    put,
    state,
    system_of,
    table_of,
)

from bids_speechdecode.anatomy.atlas import load_atlas
from bids_speechdecode.anatomy.spaces import from_mni152
from bids_speechdecode.bids.dataset import list_recordings, open_dataset
from bids_speechdecode.cli import main
from bids_speechdecode.config import Config, override
from bids_speechdecode.steps.locate import Located, locate
from bids_speechdecode.steps.make_plan import plan_participant


@pytest.fixture
def data(tiny_dataset: Path, tmp_path: Path) -> Path:
    """Return a light copy of one session, to be damaged."""
    return light_copy(tiny_dataset, tmp_path / "data")


# -------------------------------------------------------------------------- own atlases


@pytest.fixture(scope="module")
def atlases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a coarse atlas, ``ok.nii.gz`` and ``ok.tsv``, and broken ones."""
    folder = tmp_path_factory.mktemp("atlases")
    default = load_atlas()
    data = default.data[::4, ::4, ::4].astype(np.int16)
    affine = default.affine @ np.diag([4, 4, 4, 1])
    labels = default.labels[default.labels["index"].isin(data.ravel())]

    def image(name: str, values: np.ndarray, place: np.ndarray = affine) -> None:
        nib.save(nib.Nifti1Image(values, place), folder / f"{name}.nii.gz")

    def rows(name: str, table: pd.DataFrame) -> None:
        table.to_csv(folder / f"{name}.tsv", sep="\t", index=False)

    away = affine.copy()
    away[:3, 3] += 300
    image("ok", data)
    image("4d", np.stack([data, data], axis=-1))
    image("float", data.astype(np.float32) + 0.5)
    image("negative", -data)
    image("zero", data * 0)
    image("elsewhere", data, away)
    image("flipped", data, np.diag([-1, 1, 1, 1]) @ affine)
    image("voxels", data, np.eye(4))
    raw = bytearray(gzip.decompress((folder / "ok.nii.gz").read_bytes()))
    raw[252:256] = struct.pack("<2h", 0, 0)  # qform_code, sform_code
    (folder / "nowhere.nii.gz").write_bytes(gzip.compress(bytes(raw), 1))
    raw[252:256] = struct.pack("<2h", 0, 1)
    raw[312:328] = struct.pack("<4f", 0, 0, 0, 0)  # srow_z
    (folder / "singular.nii.gz").write_bytes(gzip.compress(bytes(raw), 1))
    (folder / "cut.nii.gz").write_bytes((folder / "ok.nii.gz").read_bytes()[:2000])
    (folder / "text.nii.gz").write_bytes(b"no image" * 50)
    (folder / "text.png").write_bytes(b"no image" * 50)
    rows("ok", labels)
    rows("few", labels.iloc[3:])
    rows("many", pd.concat([labels, labels.iloc[:1].assign(index=999, name="nothing")]))
    rows("nameless", labels.rename(columns={"name": "title"}))
    rows("twice", pd.concat([labels, labels.iloc[:1]]))
    rows("words", labels.assign(index="x" + labels["index"].astype(str)))
    rows("header", labels.iloc[:0])
    (folder / "empty.tsv").write_text("")
    (folder / "binary.tsv").write_bytes(bytes(range(256)))
    return folder


ATLASES: dict[tuple[str, ...], tuple[int, tuple[str, ...]]] = {
    ("ook.nii.gz", "ok.tsv"): (66, ("image of an atlas is absent", "did you mean 'ok.nii.gz'?")),
    ("ok.nii.gz", "okk.tsv"): (66, ("table of labels", "absent", "did you mean 'ok.tsv'?")),
    (".", "ok.tsv"): (66, ("found:    a folder",)),
    ("ok.nii.gz", "."): (66, ("found:    a folder",)),
    ("ok.nii.gz",): (64, ("needs its table of labels", "--atlas IMAGE LABELS")),
    ("text.nii.gz", "ok.tsv"): (65, ("cannot be read", "a NIfTI image")),
    ("text.png", "ok.tsv"): (65, ("cannot be read", "a NIfTI image")),
    ("cut.nii.gz", "ok.tsv"): (65, ("cannot be read", "copy it again")),
    ("ok.tsv", "ok.nii.gz"): (65, ("cannot be read", "a NIfTI image")),
    ("4d.nii.gz", "ok.tsv"): (65, ("a 3-D image", ", 2)")),
    ("float.nii.gz", "ok.tsv"): (65, ("whole numbers", "dseg")),
    ("negative.nii.gz", "ok.tsv"): (65, ("whole numbers",)),
    ("zero.nii.gz", "ok.tsv"): (65, ("0 in every voxel",)),
    ("singular.nii.gz", "ok.tsv"): (65, ("affine", "sform or qform", "singular.nii.gz")),
    ("elsewhere.nii.gz", "ok.tsv"): (65, ("does not lie on the MNI152 brain", "100%")),
    ("voxels.nii.gz", "ok.tsv"): (65, ("Left and right",)),
    ("nowhere.nii.gz", "ok.tsv"): (65, ("transform to mm (sform or qform)", "codes are 0")),
    ("flipped.nii.gz", "ok.tsv"): (65, ("Left and right of an atlas are exchanged",)),
    ("ok.nii.gz", "few.tsv"): (65, ("no row for 3 labels of the image: 1, 2, 3",)),
    ("ok.nii.gz", "many.tsv"): (65, ("no voxel for 1 rows: 999 nothing",)),
    ("ok.nii.gz", "header.tsv"): (65, ("no row for",)),
    ("ok.nii.gz", "nameless.tsv"): (65, ("lacks a column", "index, title")),
    ("ok.nii.gz", "twice.tsv"): (65, ("is there twice", "found:    1\n")),
    ("ok.nii.gz", "words.tsv"): (65, ("no whole number", "'x1'", "row 1")),
    ("ok.nii.gz", "empty.tsv"): (65, ("cannot be read", "index and name")),
    ("ok.nii.gz", "binary.tsv"): (65, ("cannot be read", "UTF-8")),
    ("desikan-kiliany",): (66, ("did you mean 'desikan-killiany'?",)),
    ("Schaefer2018",): (66, ("templateflow get MNI152NLin2009cAsym --atlas Schaefer2018",)),
}


@pytest.mark.parametrize("files", ATLASES, ids=" ".join)
def test_an_atlas_that_does_not_fit_is_refused(
    data: Path,
    atlases: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    files: tuple[str, ...],
) -> None:
    """Wrong names on right places look like a finding; nobody would see it in the result."""
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(atlases / "none"))
    monkeypatch.chdir(atlases)
    status, words = ATLASES[files]
    said = Said(capsys, main(command(data, *QUICK, "--atlas", *files)))
    assert said.status == status, said.err
    for word in words:
        assert word in said.message
    assert not (data.parent / "out").exists()


def test_an_atlas_that_fits(data: Path, atlases: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The coarse atlas itself is fine, so that the errors above are of its damages."""
    files = [str(atlases / name) for name in ("ok.nii.gz", "ok.tsv")]
    said = dry_run(capsys, data, "--atlas", *files)
    assert (said.status, said.notes) == (0, "")
    assert f"{N} of them with a label" in said.out


# ---------------------------------------------------------------------------- FreeSurfer

SHIFT = np.array([12.0, -30.0, 25.0])  # mm, from MNI305 to this participant's scanner
_XFM = (
    "MNI Transform File\n\nTransform_Type = Linear;\nLinear_Transform =\n"
    "1 0 0 {:g}\n0 1 0 {:g}\n0 0 1 {:g} ;\n"
)
SEGMENTS = "mri/aparc+aseg.mgz"
TRANSFORM = "mri/transforms/talairach.xfm"


@pytest.fixture
def native(data: Path) -> Path:
    """Return a dataset in scanner coordinates, and beside it the FreeSurfer subject ``fs``.

    The labels of its own MRI are others than those of the template: x < 55 mm is hippocampus, the
    rest insula.
    """
    in_305 = from_mni152(_positions(data), "MNI305")
    change(data, lambda t: t.assign(**dict(zip("xyz", (in_305 + SHIFT).T, strict=True))))
    state(System="ScanRAS")(data)
    for name in (table_of, system_of):
        name(data).rename(name(data, "ScanRAS"))
    folder = data.parent / "fs" / SUB
    (folder / "mri" / "transforms").mkdir(parents=True)
    (folder / TRANSFORM).write_text(_XFM.format(*-SHIFT))
    affine = np.diag([4.0, 4, 4, 1])
    affine[:3, 3] = -100
    segments = np.zeros((51, 51, 51), np.int32)
    segments[25:] = 2035
    segments[25:39] = 53
    nib.save(nib.MGHImage(segments, affine), folder / SEGMENTS)
    return data


def _positions(root: Path, space: str = MNI) -> np.ndarray:
    return pd.read_csv(table_of(root, space), sep="\t")[XYZ].to_numpy(dtype=float)


def image_of(values: np.ndarray) -> Damage:
    return lambda fs: nib.save(nib.MGHImage(values, np.eye(4)), fs / SUB / SEGMENTS)


FREESURFER: dict[str, tuple[Damage, int, tuple[str, ...]]] = {
    "no subject": (
        lambda fs: (fs / SUB).rename(fs / "sub-sim1"),
        66,
        ("no subject sub-sim01", "did you mean 'sub-sim1'?"),
    ),
    "no transform": (
        lambda fs: (fs / SUB / TRANSFORM).unlink(),
        66,
        ("lacks a file", TRANSFORM, "recon-all"),
    ),
    "broken transform": (
        lambda fs: (fs / SUB / TRANSFORM).write_text("Linear_Transform = 1 0 0;"),
        65,
        ("transform of FreeSurfer cannot be read", "3 x 4 numbers", TRANSFORM),
    ),
    "binary transform": (
        lambda fs: (fs / SUB / TRANSFORM).write_bytes(bytes(range(256))),
        65,
        ("no matrix", TRANSFORM),
    ),
    "no segmentation": (lambda fs: (fs / SUB / SEGMENTS).unlink(), 66, (SEGMENTS,)),
    "broken segmentation": (
        lambda fs: (fs / SUB / SEGMENTS).write_bytes(b"x"),
        65,
        ("cannot be read", SEGMENTS),
    ),
    "4-D segmentation": (
        image_of(np.ones((9, 9, 9, 2), np.int32)),
        65,
        ("three dimensions", "(9, 9, 9, 2)"),
    ),
    "segmentation of probabilities": (
        image_of(np.full((9, 9, 9), 1.5, np.float32)),
        65,
        ("one whole number per voxel",),
    ),
    "segmentation of something else": (
        image_of(np.full((9, 9, 9), 3, np.int32)),
        65,
        ("no label of the cortex",),
    ),
}


@pytest.mark.parametrize("case", FREESURFER)
def test_a_freesurfer_subject_that_cannot_be_used(
    native: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    """Contacts in the participant's own space hang on these files alone."""
    damage, status, words = FREESURFER[case]
    fs = native.parent / "fs"
    damage(fs)
    said = Said(capsys, main(command(native, *QUICK, "--fs-subjects-dir", str(fs))))
    assert said.status == status, said.err
    for word in words:
        assert word in said.message
    assert not (native.parent / "out").exists()


def test_a_missing_subject_does_not_matter_to_contacts_in_a_template(
    data: Path, quick_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One option serves a group of which only some are in their own space."""
    fs = data.parent / "fs"
    fs.mkdir()
    words = ("--fs-subjects-dir", str(fs), "--config", str(quick_config))
    steps = ("--steps", "preprocess,features,select")
    assert Said(capsys, main(command(data, *words, *steps))).status == 0


# ------------------------------------------------------------------- the step in between


def located(root: Path, **settings: Any) -> Located:
    """Return the located channels of the plan of a dataset; ``a__b`` stands for ``a.b``."""
    pretrain = "ambient" if (root / SUB / "ses-day02").exists() else "none"
    changes = {name.replace("__", "."): value for name, value in settings.items()}
    config = override(Config(), {"inputs.pretrain_task": pretrain, **changes})
    dataset = open_dataset(root)
    recordings = list_recordings(dataset, "sim01")
    return locate(plan_participant(dataset, "sim01", recordings, config), config.anatomy)


def places(found: Located, names: list[str]) -> np.ndarray:
    return found.table.set_index("name").loc[names, XYZ].to_numpy(dtype=float)


def test_contacts_of_two_spaces_meet_in_one(data: Path) -> None:
    """A contact that only the second space has must land where the first one would put it."""
    truth = _positions(data)
    shutil.copy(table_of(data), table_of(data, "Talairach"))
    table = pd.read_csv(table_of(data, "Talairach"), sep="\t")
    table[XYZ] = from_mni152(truth, "Talairach")
    table.to_csv(table_of(data, "Talairach"), sep="\t", index=False)
    system = {"iEEGCoordinateSystem": "Talairach", "iEEGCoordinateUnits": "mm"}
    system_of(data, "Talairach").write_text(json.dumps(system))
    put({"x": "n/a"}, slice(0, 1))(data)
    found = located(data)
    names = found.table["name"].tolist()
    order = [table["name"].tolist().index(name) for name in names]
    np.testing.assert_allclose(places(found, names), truth[order], atol=1e-6)
    assert found.table["source_space"].tolist() == ["Talairach"] + [MNI] * (N - 1)
    assert set(found.table["space"]) == {"MNI152"}
    assert found.notes == ()
    preferred = located(data, anatomy__space=("Talairach",))
    assert set(preferred.table["source_space"]) == {"Talairach"}


def test_sessions_that_contradict_each_other(tiny_dataset: Path, tmp_path: Path) -> None:
    """A second implant may reuse names; whose positions are used must be known."""
    root = light_copy(tiny_dataset, tmp_path / "data", days=(1, 2))
    change(root, lambda t: t.assign(y=t["y"] + 8), day=2)
    found = located(root)
    np.testing.assert_allclose(places(found, ["RHG1"]), _positions(root)[:1])
    (note,) = found.notes
    assert note == (
        f"space {MNI}: 12 contacts lie elsewhere in {table_of(root, day=2).name} than in a table "
        "before it, which is used: RHG1, RHG2, RHG3, ... (12 in all)"
    )


def test_the_same_doubt_of_several_files_is_told_once(tiny_dataset: Path, tmp_path: Path) -> None:
    """Thirty sessions with one mistake must not make thirty warnings."""
    root = light_copy(tiny_dataset, tmp_path / "data", days=(1, 2, 3))
    for day in (1, 2, 3):
        system_of(root, day=day).unlink()
    notes = located(root).notes
    assert sum("taken for mm" in note for note in notes) == 1
    assert "(3 in all)" in notes[0]


def test_own_space_through_freesurfer(native: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Positions go by talairach.xfm to MNI152; labels come from the participant's own MRI."""
    fs = native.parent / "fs"
    found = located(native, anatomy__fs_subjects_dir=str(fs))
    scanner = pd.read_csv(table_of(native, "ScanRAS"), sep="\t").set_index("name")
    names = found.table["name"].tolist()
    back = from_mni152(places(found, names), "MNI305") + SHIFT
    np.testing.assert_allclose(back, scanner.loc[names, XYZ], atol=1e-6)
    expected = np.where(scanner.loc[names, "x"] < 55 - 1, "hippocampus", "insula").tolist()
    assert found.table["label"].tolist() == expected
    assert set(expected) == {"hippocampus", "insula"}
    assert set(found.table["space"]) == {"MNI152"}
    assert set(found.table["source_space"]) == {"ScanRAS"}
    words = ("--fs-subjects-dir", str(fs), "--select", "roi", "--roi", "rh.insula")
    said = dry_run(capsys, native, *words)
    assert f"{expected.count('insula')} of {N} channels kept" in said.out


def test_own_space_and_template_do_not_mix(native: Path) -> None:
    """Without a way between them, places in two spaces would stand in one table as one."""
    table = pd.read_csv(table_of(native, "ScanRAS"), sep="\t")
    table[XYZ] = from_mni152(table[XYZ].to_numpy() - SHIFT, "MNI152")
    table.iloc[1:].to_csv(table_of(native), sep="\t", index=False)
    system = {"iEEGCoordinateSystem": MNI, "iEEGCoordinateUnits": "mm"}
    system_of(native).write_text(json.dumps(system))
    found = located(native)
    assert found.table["source_space"].isna().tolist() == [True] + [False] * (N - 1)
    assert any("space ScanRAS are not used without --fs-subjects-dir" in n for n in found.notes)
    joined = located(native, anatomy__fs_subjects_dir=str(native.parent / "fs"))
    assert joined.table["source_space"].tolist() == ["ScanRAS"] + [MNI] * (N - 1)
    assert set(joined.table["space"]) == {"MNI152"}


def test_a_pair_with_one_unlocalised_contact_has_no_place(data: Path) -> None:
    """Half a pair is elsewhere: the midpoint of what is known would be one contact's place."""
    put({"x": "n/a"}, slice(0, 1))(data)
    found = located(data, preprocess__reference="bipolar").table
    pairs = found[found["contact_2"].notna()].set_index("name")
    assert pairs.loc["RHG1-RHG2", XYZ].isna().all()
    assert pairs.loc["RHG1-RHG2", ["label", "space", "source_space"]].isna().all()
    truth = pd.read_csv(table_of(data), sep="\t").set_index("name")[XYZ]
    middle = (truth.loc["RHG2"] + truth.loc["RHG3"]) / 2
    np.testing.assert_allclose(pairs.loc["RHG2-RHG3", XYZ].astype(float), middle, atol=1e-9)


# ------------------------------------------------------------------------ the group level


GROUP: dict[str, tuple[int, tuple[str, ...]]] = {
    "--compare-to {tmp}/nowhere": (66, ("derivatives to compare with do not exist", "nowhere")),
    "--atlas {tmp}/ok.nii.gz {tmp}/ok.tsv": (
        64,
        ("labelled with another atlas", "--atlas desikan-killiany", "step select"),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("words", GROUP)
def test_a_group_that_does_not_fit_its_participants(
    tiny_dataset: Path,
    finished_run: Path,
    atlases: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: str,
) -> None:
    """Regions of two atlases must never be added up; nor a comparison be left out in silence."""
    status, said_words = GROUP[words]
    out = shutil.copytree(finished_run, tmp_path / "out")
    arguments = words.format(tmp=atlases).split()
    said = Said(capsys, main([str(tiny_dataset), str(out), "group", *arguments]))
    assert said.status == status
    for word in said_words:
        assert word in said.err
