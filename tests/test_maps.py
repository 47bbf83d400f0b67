"""Volume and surface maps: planted effects come back in place, and emptiness stays empty."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest

from bids_speechdecode.anatomy.atlas import Atlas, load_atlas
from bids_speechdecode.anatomy.spaces import apply_affine, from_mni152
from bids_speechdecode.anatomy.tissue import mni152_tissue
from bids_speechdecode.bids.derivatives import Derivatives
from bids_speechdecode.bids.files import write_json
from bids_speechdecode.bids.sidecars import read_table
from bids_speechdecode.group.contributions import Contributions, write_contacts
from bids_speechdecode.group.dseg import dseg_table, write_dseg
from bids_speechdecode.group.maps import (
    AFFINE,
    MAPS,
    SHAPE,
    Kernel,
    find_peak,
    smooth_volume,
    write_volumes,
)
from bids_speechdecode.group.surfaces import middle_surfaces, smooth_surface, write_surfaces

VALIDATOR = shutil.which("bids-validator-deno", path=str(Path(sys.executable).parent))
HESCHL = np.array([-46.0, -20.0, 8.0])  # left transverse temporal gyrus, MNI152


def contacts_at(positions, contributions=0.1, participants="sub-01", **columns):
    """Return a table of contacts at positions in MNI152."""
    positions = np.atleast_2d(np.asarray(positions, dtype=float))
    x, y, z = positions.T
    table = pd.DataFrame({"x": x, "y": y, "z": z, "space": "MNI152", "hemisphere": None})
    table["contribution"] = contributions
    table.insert(0, "participant", participants)
    return table.assign(**columns)


def random_contacts(n, n_participants, seed=0):
    """Return contacts spread over the box of the brain."""
    generator = np.random.default_rng(seed)
    return contacts_at(
        generator.uniform([-65, -95, -40], [65, 65, 75], (n, 3)),
        generator.normal(0, 0.1, n),
        [f"sub-{i}" for i in generator.integers(0, n_participants, n)],
    )


def as_contributions(contacts, tmp_path):
    source = tmp_path / "source.tsv"
    source.write_text("x")
    return Contributions("audiobook", contacts, "finetuned", "dk", True, (), (source,))


def value_at(volume, position):
    voxel = np.rint((np.asarray(position) - AFFINE[:3, 3]) / 2).astype(int)
    return volume[tuple(voxel)]


# ------------------------------------------------------------------------------- volumes


def test_volume_equals_a_loop():
    # Every number of the three maps, against loops over voxels, participants and contacts.
    contacts, kernel = random_contacts(300, 4), Kernel()
    maps = smooth_volume(contacts)
    generator = np.random.default_rng(1)
    covered = np.argwhere(maps.coverage > 0)
    for voxel in generator.permutation(covered)[:150]:
        centre = apply_affine(AFFINE, voxel[None].astype(float))[0]
        estimates, total = [], 0.0
        for _, own in contacts.groupby("participant"):
            distance = np.linalg.norm(own[["x", "y", "z"]].to_numpy() - centre, axis=1)
            weight = np.exp(-(distance**2) / 2 / (10 / 2.354820045) ** 2) * (distance <= 12.5)
            total += weight.sum()
            if weight.sum() >= kernel.min_density:
                estimates.append((weight * own["contribution"]).sum() / weight.sum())
        place = tuple(voxel)
        assert maps.coverage[place] == pytest.approx(total, rel=1e-5)
        assert maps.n[place] == len(estimates)
        expected = np.mean(estimates) if estimates else np.nan
        assert maps.effect[place] == pytest.approx(expected, nan_ok=True)


def test_grid_holds_the_whole_brain():
    # A map that ended inside the brain would hide contacts there.
    tissue = mni152_tissue()
    brain = np.argwhere(tissue.data > 0)
    corners = apply_affine(tissue.affine, np.array([brain.min(axis=0), brain.max(axis=0)]))
    voxels = (corners - AFFINE[:3, 3]) / 2
    assert (voxels >= 0).all()
    assert (voxels <= np.array(SHAPE) - 1).all()


def test_many_contacts_do_not_look_like_a_large_effect():
    # The same contribution everywhere is flat, however unevenly contacts are spread.
    dense = HESCHL + np.random.default_rng(2).normal(0, 6, (200, 3))
    maps = smooth_volume(contacts_at(np.vstack([dense, [[40, 30, 20]]]), 0.2))
    np.testing.assert_allclose(maps.effect[maps.n > 0], 0.2)
    assert value_at(maps.coverage, HESCHL) > 30 * value_at(maps.coverage, [40, 30, 20])


def test_participants_count_equally():
    # 50 contacts of one person and one of another at a place: the mean of two people.
    contacts = contacts_at([HESCHL] * 51, [0.4] * 50 + [0.0], ["sub-01"] * 50 + ["sub-02"])
    maps = smooth_volume(contacts)
    assert value_at(maps.effect, HESCHL) == pytest.approx(0.2)
    assert value_at(maps.n, HESCHL) == 2
    assert value_at(maps.coverage, HESCHL) == pytest.approx(51)


def test_effect_ends_where_coverage_ends():
    # One contact speaks for 5 mm around it (half the full width); beyond there is no effect, not 0.
    maps = smooth_volume(contacts_at([HESCHL], 0.3))
    centres = apply_affine(AFFINE, np.argwhere(np.ones(SHAPE)).astype(float))
    distance = np.linalg.norm(centres - HESCHL, axis=1).reshape(SHAPE)
    assert np.array_equal(np.isfinite(maps.effect), distance <= 5.0 + 1e-9)
    assert np.array_equal(maps.coverage > 0, distance <= 12.5)
    assert np.array_equal(maps.n, distance <= 5.0 + 1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_peak_is_where_it_was_planted(seed):
    # The promise: noisy contacts of 8 people, an effect around one place, the peak is there.
    generator = np.random.default_rng(seed)
    tables = []
    for i in range(8):
        elsewhere = generator.uniform([-65, -60, -30], [65, 50, 50], (150, 3))
        shafts = [shaft_through(HESCHL + generator.normal(0, 8, 3), generator) for _ in range(3)]
        positions = np.vstack([elsewhere, *shafts])
        distance = np.linalg.norm(positions - HESCHL, axis=1)
        values = 0.2 * np.exp(-((distance / 8) ** 2) / 2) + generator.normal(0, 0.03, len(distance))
        tables.append(contacts_at(positions, values, f"sub-{i}"))
    maps = smooth_volume(pd.concat(tables))
    position, value = find_peak(maps, n_at_least=4)
    assert np.linalg.norm(position - HESCHL) <= 5.0
    assert 0.1 < value < 0.25
    nowhere, nothing = find_peak(maps, n_at_least=9)
    assert np.isnan(nowhere).all()
    assert np.isnan(nothing)


def shaft_through(centre, generator):
    """Return 11 contacts, 3.5 mm apart, in a random direction through a place."""
    direction = generator.normal(0, 1, 3)
    return centre + np.arange(-5, 6)[:, None] * 3.5 * direction / np.linalg.norm(direction)


def test_contacts_without_a_place_are_counted():
    # Not localised, in another space, outside of the volume: left out and said, never guessed.
    contacts = contacts_at(
        [HESCHL, [np.nan] * 3, HESCHL, [300, 0, 0]],
        space=["MNI152", "MNI152", "ScanRAS", "MNI152"],
    )
    maps = smooth_volume(contacts)
    assert maps.n_contacts == 1
    assert "2 of 4 electrodes have no position" in maps.notes[0]
    assert "1 electrodes lie outside of the volume" in maps.notes[1]
    empty = smooth_volume(contacts[1:3])
    assert np.isnan(empty.effect).all()
    assert empty.n.sum() == empty.coverage.sum() == 0


def test_contacts_at_the_edge_of_the_grid():
    # A neighbourhood that leaves the grid must not come in again on the other side.
    maps = smooth_volume(contacts_at([[-96, -132, -78]]))
    assert maps.coverage[0, 0, 0] == pytest.approx(1.0)
    assert maps.coverage[40:].sum() == maps.coverage[:, 40:].sum() == 0


def test_three_thousand_contacts():
    # The promise: seconds, and memory that does not grow with contacts times voxels.
    contacts = random_contacts(3000, 15)
    start = time.process_time()
    smooth_volume(contacts)
    assert time.process_time() - start < 5.0
    tracemalloc.start()
    smooth_volume(contacts)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 400e6


def test_nifti_files(tmp_path):
    # What other programs read: type, space, units, names, and the same bytes each time.
    from nilearn.image import load_img

    contacts = random_contacts(50, 3)
    out = Derivatives(tmp_path / "out", source=tmp_path / "in", command="", simulated=True)
    maps = smooth_volume(contacts)
    paths = write_volumes(out, as_contributions(contacts, tmp_path), maps)
    stem = "group_task-audiobook_space-MNI152NLin2009cAsym_desc"
    assert [p.name for p in paths] == [f"{stem}-{kind}_map.nii.gz" for kind in MAPS]
    for path, kind in zip(paths, MAPS, strict=True):
        image = load_img(path)
        assert image.shape == SHAPE
        assert np.array_equal(image.affine, AFFINE)
        assert image.get_data_dtype() == np.float32
        header = image.header
        assert header.get_xyzt_units()[0] == "mm"
        assert (int(header["sform_code"]), int(header["qform_code"])) == (4, 4)
        assert header.get_intent()[2] == kind
        assert bytes(header["descrip"]).startswith(b"SIMULATED")
        data = np.asarray(image.dataobj)
        np.testing.assert_allclose(data, getattr(maps, kind), rtol=1e-6)
        sidecar = json.loads((path.parent / path.name.replace(".nii.gz", ".json")).read_text())
        assert sidecar["Kernel"]["fwhm"] == 10.0
        assert sidecar["NContacts"] == 50
        assert ("Peak" in sidecar) == (kind == "effect")
    before = [path.read_bytes() for path in paths]
    write_volumes(out, as_contributions(contacts, tmp_path), maps)
    assert before == [path.read_bytes() for path in paths]


# ------------------------------------------------------------------------------ surfaces


def test_surface_equals_a_loop():
    # The same estimate at vertices, against a loop; contacts of the other hemisphere play no part.
    contacts = random_contacts(200, 3, seed=4)
    positions = from_mni152(contacts[["x", "y", "z"]].to_numpy(), "MNI305")
    maps, vertices = smooth_surface(contacts), middle_surfaces()
    assert set(maps) == {"L", "R"}
    generator = np.random.default_rng(5)
    for side, sign in (("L", -1), ("R", 1)):
        nearest = [np.linalg.norm(vertices[side] - place, axis=1).min() for place in positions]
        covered = np.flatnonzero(maps[side].coverage > 0)
        for vertex in generator.permutation(covered)[:60]:
            estimates, total = [], 0.0
            for participant in contacts["participant"].unique():
                weights, products = 0.0, 0.0
                for k in np.flatnonzero(contacts["participant"] == participant):
                    distance = np.linalg.norm(vertices[side][vertex] - positions[k])
                    if np.sign(positions[k, 0]) == sign and nearest[k] <= 8 and distance <= 12.5:
                        weight = 2 ** -((distance / 5) ** 2)
                        weights += weight
                        products += weight * contacts["contribution"].iloc[k]
                total += weights
                if weights >= 0.5:
                    estimates.append(products / weights)
            assert maps[side].coverage[vertex] == pytest.approx(total)
            assert maps[side].n[vertex] == len(estimates)
            expected = np.mean(estimates) if estimates else np.nan
            assert maps[side].effect[vertex] == pytest.approx(expected, nan_ok=True)


def test_surface_peak_is_where_it_was_planted():
    # An effect at a vertex, known in MNI152 as contacts are, comes back at that vertex.
    vertices = middle_surfaces()["R"]
    target = vertices[np.argmin(np.linalg.norm(vertices - [50, -20, 8], axis=1))]
    generator = np.random.default_rng(6)
    near = target + generator.normal(0, 8, (400, 3))
    values = 0.2 * np.exp(-((np.linalg.norm(near - target, axis=1) / 6) ** 2) / 2)
    from bids_speechdecode.anatomy.spaces import to_mni152

    contacts = contacts_at(to_mni152(near, "MNI305"), values, [f"sub-{i % 5}" for i in range(400)])
    maps = smooth_surface(contacts)["R"]
    peak = vertices[np.nanargmax(np.where(maps.n >= 4, maps.effect, np.nan))]
    assert np.linalg.norm(peak - target) <= 5.0


def test_other_hemisphere_is_not_informed():
    # The medial walls are millimetres apart; a left contact says nothing about the right.
    maps = smooth_surface(contacts_at([[-3.0, 20.0, 35.0]], 0.1))
    assert (maps["L"].n_contacts, maps["R"].n_contacts) == (1, 0)
    assert maps["L"].n.sum() > 0
    assert maps["R"].coverage.sum() == 0
    # The table's hemisphere counts before the sign of x: grids may cross the midline.
    crossed = smooth_surface(contacts_at([[-1.0, 20.0, 35.0]], 0.1, hemisphere="R"))
    assert (crossed["L"].n_contacts, crossed["R"].n_contacts) == (0, 1)


def test_deep_contacts_do_not_count():
    # The putamen is not on the surface; drawing its contacts on the insula would be wrong.
    maps = smooth_surface(contacts_at([HESCHL, [-26, 2, 2]], 0.1))["L"]
    assert maps.n_contacts == 1
    assert "1 of 2 electrodes of this hemisphere lie more than 8 mm" in maps.notes[0]


def test_medial_wall_stays_empty():
    # There is no cortex where the hemispheres were cut apart: the thalamus lies behind it.
    atlas = load_atlas()
    assert atlas.surface is not None
    cortex = (atlas.surface[0] > 0, atlas.surface[1] > 0)
    assert 0.02 < 1 - cortex[0].mean() < 0.15
    contacts = contacts_at([HESCHL, [-6, -16, 6]])
    maps = smooth_surface(contacts, cortex=cortex)["L"]
    assert maps.n_contacts == 1
    assert np.isnan(maps.effect[~cortex[0]]).all()
    assert maps.n[~cortex[0]].sum() == maps.coverage[~cortex[0]].sum() == 0
    same = smooth_surface(contacts_at([HESCHL]))["L"]
    np.testing.assert_allclose(maps.effect[cortex[0]], same.effect[cortex[0]])


def test_gifti_files(tmp_path):
    # nibabel and nilearn read one value per vertex and the hemisphere it belongs to.
    from nilearn.surface import load_surf_data

    contacts = random_contacts(100, 3)
    out = Derivatives(tmp_path / "out", source=tmp_path / "in", command="", simulated=True)
    maps = smooth_surface(contacts)
    paths = write_surfaces(out, as_contributions(contacts, tmp_path), maps)
    assert [p.name for p in paths] == [
        f"group_task-audiobook_hemi-{side}_space-fsaverage5_desc-{kind}_map.shape.gii"
        for side in "LR"
        for kind in MAPS
    ]
    for path in paths:
        side, kind = path.name.split("hemi-")[1][0], path.name.split("desc-")[1].split("_")[0]
        image = nibabel.load(path)
        structure = {"L": "CortexLeft", "R": "CortexRight"}[side]
        assert image.meta["AnatomicalStructurePrimary"] == structure
        assert image.darrays[0].meta["AnatomicalStructurePrimary"] == structure
        data = load_surf_data(path)
        assert data.shape == (10242,)
        np.testing.assert_allclose(data, getattr(maps[side], kind), rtol=1e-6)
        sidecar = json.loads((path.parent / path.name.replace(".shape.gii", ".json")).read_text())
        assert sidecar["Description"] == MAPS[kind]


# --------------------------------------------------------------------------------- labels


def test_table_of_labels(tmp_path):
    # BIDS wants one name per index; the tables of contributions must still find their label.
    out = Derivatives(tmp_path, source=tmp_path / "in", command="", simulated=True)
    atlas = load_atlas()
    path = write_dseg(out, atlas)
    assert path.name == "atlas-desikankilliany_dseg.tsv"
    table = read_table(path)
    assert list(table.columns) == ["index", "name", "label", "hemisphere", "structure"]
    assert table["index"].is_unique
    assert table["name"].is_unique
    assert set(table["index"]) == set(atlas.labels["index"])
    described = json.loads(path.with_suffix(".json").read_text())
    assert all(described[name]["Description"] for name in table)
    row = table[(table["label"] == "transversetemporal") & (table["hemisphere"] == "R")]
    assert row["name"].tolist() == ["R_transversetemporal"]


def test_names_that_are_unique_stay_as_they_are():
    # An atlas that names left and right itself is not renamed.
    labels = pd.DataFrame(
        {"index": [2, 1], "name": ["STG_R", "STG_L"], "hemisphere": ["R", "L"], "structure": ""}
    )
    table = dseg_table(Atlas("mine", np.zeros((1, 1, 1), int), np.eye(4), labels))
    assert table["name"].tolist() == ["STG_L", "STG_R"]
    assert table["structure"].isna().all()


@pytest.mark.skipif(not VALIDATOR, reason="bids-validator-deno is not installed")
def test_validator_accepts_maps_and_labels(tmp_path):
    # What the official validator rejects, archives reject; the table of labels is plain BIDS.
    contacts = random_contacts(20, 2)
    out = Derivatives(tmp_path / "out", source=tmp_path / "in", command="", simulated=True)
    out.initialise()
    found = as_contributions(contacts, tmp_path)
    write_volumes(out, found, smooth_volume(contacts))
    write_surfaces(out, found, smooth_surface(contacts))
    write_contacts(out, found)
    write_dseg(out, load_atlas())
    write_json(out.root / "sub-01" / "ieeg" / "sub-01_task-audiobook_desc-x_scores.json", {})
    run = subprocess.run([VALIDATOR, str(out.root)], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
    assert "TSV_ADDITIONAL_COLUMNS" not in run.stdout
