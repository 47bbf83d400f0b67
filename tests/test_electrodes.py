"""Contact positions: units, spaces, and what is no position at all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bids_speechdecode.bids.dataset import ElectrodesFile, list_recordings, open_dataset
from bids_speechdecode.bids.electrodes import read_electrodes
from bids_speechdecode.errors import DataError

PODCAST = Path(__file__).resolve().parents[2] / "shared" / "data" / "ds005574"
ROWS = "name\tx\ty\tz\tsize\tgroup\nA1\t{0}\t{1}\t{2}\t4\tA\nA2\tn/a\tn/a\tn/a\t4\tn/a\n"


def write(folder: Path, rows: str, system: dict | None, stem: str = "sub-01") -> ElectrodesFile:
    electrodes = folder / f"{stem}_electrodes.tsv"
    electrodes.write_text(rows)
    if system is None:
        return ElectrodesFile(electrodes)
    coordsystem = folder / f"{stem}_coordsystem.json"
    coordsystem.write_text(json.dumps(system))
    return ElectrodesFile(electrodes, coordsystem)


@pytest.mark.parametrize(
    ("unit", "values"),
    [
        ("mm", ("-52.5", "28", "4e1")),
        ("cm", ("-5.25", "2.8", "4")),
        ("m", ("-.0525", ".028", ".04")),
    ],
)
def test_every_unit_of_length_becomes_millimetres(tmp_path, unit, values):
    """A position wrong by a factor of ten lies in another lobe."""
    system = {"iEEGCoordinateSystem": "MNI152NLin2009aSym", "iEEGCoordinateUnits": unit}
    found = read_electrodes(write(tmp_path, ROWS.format(*values), system))
    assert found.names == ("A1", "A2")
    np.testing.assert_allclose(found.positions_mm[0], [-52.5, 28, 40], rtol=1e-12)
    assert np.isnan(found.positions_mm[1]).all()
    assert (found.space, found.groups, found.n_localised) == ("MNI152NLin2009aSym", ("A", ""), 1)
    assert found.notes == ("1 of 2 contacts are not localised",)


@pytest.mark.parametrize("unit", ["n/a", "pixels", None])
def test_numbers_without_a_length_are_no_positions(tmp_path, unit):
    """Pixels of a photograph must never be drawn on a brain."""
    system = {"iEEGCoordinateSystem": "Pixels"} | ({"iEEGCoordinateUnits": unit} if unit else {})
    rows = "name\tx\ty\tz\nLT01\t301.0\t128.0\tn/a\nLT02\t277.0\t142.0\tn/a\n"
    found = read_electrodes(write(tmp_path, rows, system))
    assert np.isnan(found.positions_mm).all()
    assert len(found.notes) == 1
    assert "no length" in found.notes[0]


@pytest.mark.parametrize(("unit", "value"), [("m", "52"), ("mm", "0.052"), ("cm", "520")])
def test_impossible_units_are_not_believed(tmp_path, unit, value):
    """A head of 52 m or 0.1 mm means that the sidecar names the wrong unit."""
    system = {"iEEGCoordinateSystem": "ACPC", "iEEGCoordinateUnits": unit}
    found = read_electrodes(write(tmp_path, ROWS.format(value, value, value), system))
    assert np.isnan(found.positions_mm).all()
    assert "unit cannot be" in found.notes[0]


def test_without_coordsystem_the_name_says_the_space(tmp_path):
    """The space may be known where the unit is not."""
    found = read_electrodes(write(tmp_path, ROWS.format(1, 2, 3), None, "sub-01_space-Talairach"))
    assert found.space == "Talairach"
    assert np.isnan(found.positions_mm).all()


def grid(scale: float = 1.0, spacing: float = 10.0) -> str:
    """Return a table of 16 contacts on a plane, `spacing` mm apart, in a unit of `scale` per mm."""
    rows = [
        f"G{4 * i + j + 1}\t{(-60 - j) * scale!r}\t{(spacing * i - 20) * scale!r}\t"
        f"{(spacing * j + 5) * scale!r}"
        for i in range(4)
        for j in range(4)
    ]
    return "name\tx\ty\tz\n" + "\n".join(rows) + "\n"


@pytest.mark.parametrize(("unit", "scale"), [("mm", 1), ("cm", 0.1), ("m", 1e-3)])
@pytest.mark.parametrize("spacing", [2.0, 3.5, 10.0])
@pytest.mark.parametrize("system", [None, {"iEEGCoordinateSystem": "MNI152Lin"}])
def test_a_unit_that_no_file_states_shows_in_the_spacing(tmp_path, unit, scale, spacing, system):
    """Many old datasets have positions and no coordsystem; no two units fit the same contacts."""
    file = write(tmp_path, grid(scale, spacing), system, "sub-01_space-MNI152Lin")
    found = read_electrodes(file)
    np.testing.assert_allclose(found.positions_mm[0], [-60, -20, 5])
    assert found.space == "MNI152Lin"
    assert any(f"taken for {unit}, in which neighbouring contacts" in n for n in found.notes)


def test_a_unit_that_does_not_show_is_not_guessed(tmp_path):
    """Three contacts, or contacts of a microgrid, could be in any unit."""
    few = "\n".join(grid().splitlines()[:4]) + "\n"
    for rows in (few, grid(spacing=0.03)):
        found = read_electrodes(write(tmp_path, rows, None, "sub-01_space-ACPC"))
        assert found.n_localised == 0
        assert any("the spacing of the contacts does not show it" in n for n in found.notes)


def test_what_no_file_says_is_said(tmp_path):
    """Each of the two sources of a space, and neither."""
    notes = read_electrodes(write(tmp_path, grid(), None, "sub-01_space-ACPC")).notes
    assert notes[0] == "there is no coordsystem.json; the space is taken from the file's name: ACPC"
    found = read_electrodes(write(tmp_path, grid(), {"iEEGCoordinateUnits": "mm"}))
    assert found.space == ""
    assert "names no iEEGCoordinateSystem, so the space" in found.notes[0]
    assert found.n_localised == 16


def test_repeated_and_missing_names(tmp_path):
    """Which of two rows is meant nobody knows: the first is used and the user is told."""
    rows = grid() + "G1\t1\t2\t3\nG2\t1\t2\t3\nn/a\t1\t2\t3\n"
    system = {"iEEGCoordinateSystem": "ACPC", "iEEGCoordinateUnits": "mm"}
    found = read_electrodes(write(tmp_path, rows, system))
    assert len(found.names) == len(set(found.names)) == len(found.positions_mm) == 16
    np.testing.assert_allclose(found.positions_mm[0], [-60, -20, 5])
    assert found.notes == (
        "1 of 19 rows have no name and are left out",
        "2 rows repeat a name, the first is used: G1, G2",
    )


def test_zeros_that_stand_for_nothing(tmp_path):
    """Several contacts at the origin are contacts that nobody localised."""
    rows = grid() + "A1\t0\t0\t0\nA2\t0.0\t0\t0\n"
    system = {"iEEGCoordinateSystem": "ACPC", "iEEGCoordinateUnits": "mm"}
    found = read_electrodes(write(tmp_path, rows, system))
    assert found.n_localised == 16
    assert any("2 contacts are at exactly 0, 0, 0" in note for note in found.notes)
    assert any("2 of 18 contacts are not localised" in note for note in found.notes)


def test_positions_wider_than_a_head(tmp_path):
    """Millimetres that are called cm reach less than a metre, and still no head is so wide."""
    system = {"iEEGCoordinateSystem": "ACPC", "iEEGCoordinateUnits": "cm"}
    found = read_electrodes(write(tmp_path, grid(spacing=12), system))
    assert found.n_localised == 0
    assert "360 mm apart" in found.notes[0]


def test_hemispheres(tmp_path):
    """The column is optional; what is neither left nor right is neither."""
    rows = "name\tx\ty\tz\themisphere\nA\t1\t2\t3\tL\nB\t1\t2\t9\tright\nC\t4\t4\t4\tn/a\n"
    system = {"iEEGCoordinateSystem": "ACPC", "iEEGCoordinateUnits": "mm"}
    assert read_electrodes(write(tmp_path, rows, system)).hemispheres == ("L", "R", "")
    assert read_electrodes(write(tmp_path, grid(), system)).hemispheres == ("",) * 16


@pytest.mark.parametrize("rows", ["name\tx\ty\nA\t1\t2\n", ROWS.format("left", 2, 3)])
def test_unreadable_tables_are_errors(tmp_path, rows):
    """A typo in a coordinate is named by its line, not turned into a missing contact."""
    with pytest.raises(DataError):
        read_electrodes(write(tmp_path, rows, {"iEEGCoordinateUnits": "mm"}))


@pytest.mark.skipif(not PODCAST.is_dir(), reason="../shared/data/ds005574 is absent")
def test_podcast_contacts():
    """Real sidecars: MNI in mm is used, native space of unit n/a is not, BOM or not."""
    dataset = open_dataset(PODCAST)
    for participant in dataset.participants:
        [recording] = list_recordings(dataset, participant)
        mni, other = (read_electrodes(file) for file in recording.electrodes)
        assert mni.space == "MNI152NLin2009aSym"
        assert mni.n_localised == len(mni.names) > 0
        assert np.nanmax(np.abs(mni.positions_mm)) < 130
        assert other.n_localised == 0
        good = {c.name for c in recording.channels if c.is_brain and c.status == "good"}
        assert good <= set(mni.names), participant
