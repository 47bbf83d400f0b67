"""Bad positions of electrodes, as a user meets them on the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from damaged_electrodes import (
    MNI,
    QUICK,
    SUB,
    Damage,
    N,
    Said,
    add_space,
    both,
    change,
    command,
    dry_run,
    flip,
    light_copy,
    move,
    put,
    state,
    system_of,
    table_of,
    write,
)

from bids_speechdecode.cli import main


@pytest.fixture
def data(tiny_dataset: Path, tmp_path: Path) -> Path:
    """Return a light copy of one session, to be damaged."""
    return light_copy(tiny_dataset, tmp_path / "data")


# --------------------------------------------------------- positions that are doubtful

HEADER = "name\tx\ty\tz\n"

NOTED: dict[str, tuple[Damage, int, tuple[str, ...]]] = {
    "no coordsystem": (
        lambda d: system_of(d).unlink(),
        N,
        ("there is no coordsystem.json", f"from the file's name: {MNI}", "taken for mm"),
    ),
    "coordsystem without units": (state(Units=None), N, ("taken for mm", "3.5 mm apart")),
    "coordsystem without system": (
        state(System=None),
        N,
        ("names no iEEGCoordinateSystem", f"from the file's name: {MNI}"),
    ),
    "coordsystem that is no JSON": (
        lambda d: system_of(d).write_text("{"),
        0,
        ("electrodes.tsv: not used: A JSON file cannot be read", f"{N} of {N} channels have no"),
    ),
    "coordsystem that is a list": (
        lambda d: system_of(d).write_text("[]"),
        0,
        ("not used: A JSON file holds no object",),
    ),
    "name and content disagree": (
        state(System="Talairach"),
        N,
        (f"name says space {MNI}", "coordsystem.json says Talairach, which is used"),
    ),
    "metres declared mm": (
        move(1e-3),
        0,
        ("unit cannot be 'mm'", "spacing is that of contacts in m", "iEEGCoordinateUnits"),
    ),
    "mm declared metres": (
        state(Units="m"),
        0,
        ("unit cannot be 'm'", "48820 mm from the origin", "that of contacts in mm"),
    ),
    "cm declared mm, collapsed inside the head": (
        move(0.1),
        N,
        ("half of the contacts lie within 0.35 mm", "unit may be cm or m", "labels wrong"),
    ),
    "mm declared cm": (
        state(Units="cm"),
        0,
        ("12 of 12 contacts outside of any head", "check the unit", "count as not localised"),
    ),
    "all contacts in one place": (
        put({"x": 40, "y": -20, "z": 5}),
        N,
        ("12 contacts have only 1 different positions",),
    ),
    "all contacts at the origin": (
        put({"x": 0, "y": 0, "z": 0}),
        0,
        ("12 contacts are at exactly 0, 0, 0", "no contact is localised"),
    ),
    "all far outside": (
        move(shift=150),
        0,
        ("12 of 12 contacts outside of any head, up to 287 mm", "RHG1, RHG2, RHG3, ..."),
    ),
    "one far outside": (
        put({"x": 140}, slice(2, 3)),
        N - 1,
        ("1 of 12 contacts outside of any head", "(RHG3)", "1 of 10 channels have no position"),
    ),
    "one typing error": (
        put({"x": 1400}, slice(2, 3)),
        N - 1,
        ("1 of 12 contacts lie up to 1360 mm from the others", "not localised: RHG3"),
    ),
    "left and right flipped": (
        flip(),
        N,
        (
            "12 of 12 contacts lie on the other side than their name says (RHG1, RHG2, RHG3, ...)",
            "12 of 12 contacts lie on the other side than their hemisphere column says",
            "left and right are exchanged",
        ),
    ),
    "two contacts flipped": (
        flip(slice(0, 2)),
        N,
        ("2 of 12 contacts lie on the other side than their name says (RHG1, RHG2)",),
    ),
    "outside the brain": (
        lambda d: change(d, lambda t: t.assign(x=t["x"] * 1.9)),
        N,
        ("5 of 12 contacts more than 5 mm outside the brain, up to 21 mm (RHG4, RHG5, RHG6, ...)",),
    ),
    "names twice": (
        lambda d: change(d, lambda t: pd.concat([t, t.iloc[:2].assign(x=1)])),
        N,
        ("2 rows repeat a name, the first is used: RHG1, RHG2",),
    ),
    "channels without a row": (
        lambda d: change(d, lambda t: t.iloc[3:]),
        N - 3,
        ("3 of 10 channels have no position",),
    ),
    "a row without a channel": (
        lambda d: change(d, lambda t: pd.concat([t, t.iloc[:1].assign(name="XX1", x=30)])),
        N,
        ("1 of 13 contacts of electrodes.tsv are no channel of a recording: XX1",),
    ),
    "names written otherwise": (
        lambda d: change(d, lambda t: t.assign(name=t["name"].str.replace("RHG", "RHG-0"))),
        N - 6,
        ("6 of 12 contacts of electrodes.tsv are no channel", "RHG-01 may be the channel RHG1"),
    ),
    "pixels": (
        state(System="Pixels", Units="pixels"),
        0,
        ("no length", "in space Pixels are not used: pixels of a picture", "MNI152"),
    ),
    "units in pixels only": (state(Units="pixels"), 0, ("'pixels', which is no length",)),
    "units n/a": (state(Units="n/a"), 0, ("m, cm or mm",)),
    "units as a number": (state(Units=3), 0, ("coordinates in '3', which is no length",)),
    "space Other": (
        state(System="Other"),
        0,
        ("space Other are not used: a space that is only described in words", "ACPC or ScanRAS"),
    ),
    "space with a typing error": (
        state(System="MNI152NLin2009cAsm"),
        0,
        ("no transform from it to MNI152 is known", f"did you mean '{MNI}'?"),
    ),
    "space as a list": (state(System=["MNI305"]), 0, ("did you mean 'MNI305'?",)),
    "a template without transform": (state(System="ICBM452AirSpace"), 0, ("no transform",)),
    "own space without FreeSurfer": (
        state(System="ScanRAS"),
        N,
        ("the participant's own: no labels and no maps without --fs-subjects-dir",),
    ),
    "electrodes.tsv absent": (lambda d: table_of(d).unlink(), 0, ("there is no electrodes.tsv",)),
    "electrodes.tsv empty": (write(""), 0, ("electrodes.tsv: not used: A table is empty",)),
    "electrodes.tsv with a header only": (write(HEADER), 0, ("no contact is localised",)),
    "electrodes.tsv in UTF-16": (
        write((HEADER + "RHG1\t40\t-20\t5\n").encode("utf-16")),
        0,
        ("not used: A table is not a text file",),
    ),
    "electrodes.tsv in Latin-1": (
        write((HEADER + "RHG1\t40\t-20\t5\nR\u00e91\t1\t2\t3\n").encode("latin-1")),
        1,
        ("are no channel of a recording: R\u00e91",),
    ),
    "electrodes.tsv with commas": (
        write("name,x,y,z\nRHG1,1,2,3\n"),
        0,
        ("not used: electrodes.tsv lacks a column",),
    ),
    "a column missing": (
        lambda d: change(d, lambda t: t.drop(columns="z")),
        0,
        ("not used: electrodes.tsv lacks a column",),
    ),
    "a column twice": (
        write("name\tx\tx\ty\tz\nRHG1\t1\t1\t2\t3\n"),
        0,
        ("not used: A table has a column twice",),
    ),
    "text in a coordinate": (
        put({"y": "left"}, slice(0, 1)),
        0,
        ("not used: A coordinate is no number",),
    ),
    "decimal commas": (put({"y": "1,5"}), 0, ("not used: A coordinate is no number",)),
    "n/a everywhere": (
        put({"x": "n/a", "y": "n/a", "z": "n/a"}),
        0,
        ("no contact is localised", f"{N} of {N} channels have no position"),
    ),
    "one coordinate of three": (
        put({"y": "n/a"}, slice(0, 1)),
        N - 1,
        ("1 of 10 channels have no position",),
    ),
    "a second table without a named space": (
        lambda d: shutil.copy(table_of(d), table_of(d, "")),
        N,
        ("positions in space unknown are not used", "iEEGCoordinateSystem"),
    ),
    "two tables of one space": (
        lambda d: add_space(d, "MNI305", system=MNI, shift=5),
        N,
        (
            f"space {MNI}: 12 contacts lie elsewhere in {SUB}_ses-day01_space-MNI305_electrodes",
            "RHG1, RHG2, RHG3",
        ),
    ),
}


@pytest.mark.parametrize("case", NOTED)
def test_doubtful_positions_are_told_and_decoding_goes_on(
    data: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    """Decoding needs no positions; but a wrong one must not become a spot on a brain in silence."""
    damage, n_placed, words = NOTED[case]
    damage(data)
    said = dry_run(capsys, data)
    assert said.status == 0, said.err
    for word in words:
        assert word in said.notes
    assert said.n_placed == n_placed
    assert f"--select all: {N} of {N} channels kept" in said.out


FINE: dict[str, Damage] = {
    "as it is": lambda d: None,
    "metres": both(move(1e-3), state(Units="m")),
    "centimetres": both(move(0.1), state(Units="cm")),
    "unit in words": state(Units="Millimeters"),
    "Windows line ends": lambda d: table_of(d).write_bytes(
        table_of(d).read_bytes().replace(b"\n", b"\r\n")
    ),
    "coordsystem without space- in its name": lambda d: system_of(d).rename(system_of(d, "")),
    "electrodes without space- in its name": lambda d: table_of(d).rename(table_of(d, "")),
    "a coordsystem for all sessions too": lambda d: (
        d / SUB / f"{SUB}_space-{MNI}_coordsystem.json"
    ).write_text('{"iEEGCoordinateSystem": "Talairach", "iEEGCoordinateUnits": "m"}'),
}


@pytest.mark.parametrize("case", FINE)
def test_good_positions_are_not_doubted(
    data: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    """A warning on every dataset is read on none; and the same place in any unit is one place."""
    FINE[case](data)
    said = dry_run(capsys, data, "--select", "roi", "--roi", "superiortemporal")
    assert (said.status, said.n_placed, said.notes) == (0, N, "")
    assert f"3 of {N} channels kept" in said.out


def test_a_coordsystem_of_another_table_is_not_borrowed(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of two tables one has lost its coordsystem.json: the other one's is of another space."""
    table_of(data).rename(table_of(data, ""))
    add_from = pd.read_csv(table_of(data, ""), sep="\t")
    add_from.to_csv(table_of(data, "ACPC"), sep="\t", index=False)
    said = dry_run(capsys, data)
    assert "electrodes.tsv: there is no coordsystem.json, so the space" in said.out
    assert "from the file's name: ACPC" in said.out


# -------------------------------------------------------------- where they are told


def test_doubts_are_warned_of_in_every_run_and_kept_beside_the_table(
    data: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Who reads only the log, only the screen or only the report must hear of a flip, once."""
    both(flip(), lambda d: change(d, lambda t: pd.concat([t, t.iloc[:1]])))(data)
    out = tmp_path / "out"
    words = ("--encoder", "small", "--steps", "preprocess,features,select")
    doubts = ("12 of 12 contacts lie on the other side than their name says", "repeat a name")
    logs: set[Path] = set()
    for _ in range(2):  # the second one finds everything current
        said = Said(capsys, main(command(data, *words, "--roi", "insula", out=out)))
        assert said.status == 0, said.err
        (log,) = set((out / SUB / "log").glob("*/log.txt")) - logs
        logs.add(log)
        for doubt in (*doubts, "--roi is not used without --select roi"):
            assert said.err.count(doubt) == 1
            assert log.read_text().count(doubt) == 1
            assert any(doubt in line and "WARNING" in line for line in log.read_text().splitlines())
    sidecar = out / SUB / "ieeg" / f"{SUB}_task-audiobook_desc-selected_channels.json"
    notes = json.loads(sidecar.read_text())["Notes"]
    for doubt in doubts:
        assert sum(doubt in note for note in notes) == 1
    assert f"{SUB}_ses-day01_space-{MNI}_electrodes.tsv: 1 rows repeat" in "\n".join(notes)


def test_a_refused_selection_comes_with_the_doubts_that_explain_it(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """'No channel passes' is no help to somebody whose coordsystem.json has the wrong unit."""
    state(Units="m")(data)
    said = Said(capsys, main(command(data, "--select", "roi")))
    assert said.status == 18
    assert "not localised 10" in said.message
    assert "--fs-subjects-dir" in said.message
    assert "unit cannot be 'm'" in said.err
    assert not (data.parent / "out").exists()


# ------------------------------------------------------------- options that cannot work


def no_positions(root: Path) -> None:
    put({"x": "n/a", "y": "n/a", "z": "n/a"})(root)


def nothing(root: Path) -> None:
    pass


REGIONS = ("hippocampus right 3", "superiortemporal right 3", "transversetemporal right 2")
REFUSED: dict[str, tuple[Damage, int, tuple[str, ...]]] = {
    "--select rois": (nothing, 64, ("'rois'", "did you mean 'roi'?")),
    "--select=": (nothing, 64, ("--select needs at least one value", "leave --select out")),
    "--select roi --roi insulla": (nothing, 64, ("did you mean 'insula'?", "speech, or labels")),
    "--select roi --roi speeech": (nothing, 64, ("did you mean 'speech'?",)),
    "--select roi --roi left insula": (nothing, 64, ("lh.insula", "--hemisphere")),
    "--select roi --roi zzz": (nothing, 64, ("unknown region: 'zzz'", "name some of these")),
    "--select roi --hemisphere lef": (nothing, 64, ("did you mean 'left'?",)),
    "--select roi --roi lh.insula --hemisphere right": (nothing, 64, ("nothing in common",)),
    "--select roi --roi cuneus": (nothing, 18, ("channels in cuneus", "none of 10", *REGIONS)),
    "--select roi --hemisphere left": (nothing, 18, ("speech (left)", *REGIONS)),
    "--select radius --center here": (nothing, 64, ("--center cannot be 'here'", "-50,-20,8")),
    "--select radius --center 1,2": (nothing, 64, ("x,y,z in MNI152 (mm)",)),
    "--select radius --center nan,1,2": (nothing, 64, ("'nan,1,2'",)),
    "--select radius --center -50,-20,8": (
        nothing,
        18,
        ("within 10 mm of -50,-20,8", "the nearest is RHG1, 84.4 mm away", *REGIONS),
    ),
    "--space Talairac": (nothing, 64, ("did you mean 'Talairach'?", MNI, "MNI152, MNI305")),
    "--space zzz": (nothing, 64, ("'zzz'", f"in the dataset: {MNI}", "leave --space out")),
    "--space Pixels": (
        state(System="Pixels"),
        64,
        ("--space cannot be 'Pixels'", "pixels of a picture"),
    ),
    "--unlocalised eror": (nothing, 64, ("did you mean 'error'?",)),
    "--select roi --unlocalised error": (
        put({"x": "n/a"}, slice(0, 1)),
        65,
        ("1 of 10 channels have no position", "RHG1", "drop or keep"),
    ),
    "--spatial atention": (nothing, 64, ("did you mean 'attention'?",)),
    "--spatial attention": (
        no_positions,
        65,
        ("Spatial attention needs positions", "10 channels", "--spatial none"),
    ),
    "--compare-to elsewhere": (nothing, 64, ("--compare-to is of the group level",)),
    "--fs-subjects-dir /nowhere": (nothing, 66, ("no folder of FreeSurfer subjects", "recon-all")),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_work_is_refused_before_any_signal_is_read(
    data: Path, capsys: pytest.CaptureFixture[str], words: str
) -> None:
    """A typing error must cost seconds; the message has what there is and what was meant."""
    damage, status, said_words = REFUSED[words]
    damage(data)
    said = Said(capsys, main(command(data, *QUICK, *words.split(" "))))
    assert said.status == status, said.err
    for word in said_words:
        assert word in said.message
    assert not (data.parent / "out").exists()


@pytest.mark.parametrize("words", ["--select radius", "--atlas a b c"])
def test_values_that_contradict_each_other(
    data: Path, capsys: pytest.CaptureFixture[str], words: str
) -> None:
    """A rule without its point and an atlas of three parts mean nothing."""
    said = Said(capsys, main(command(data, *words.split())))
    assert said.status == 64
    assert words.split()[0].removeprefix("--") in said.err


def test_attention_says_which_channels_it_does_not_read(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A contact without a position cannot be read: the user may want to localise it first."""
    put({"x": "n/a"}, slice(0, 1))(data)
    said = dry_run(capsys, data, "--spatial", "attention")
    assert said.status == 0
    assert "9 of 10 channels kept" in said.out
    assert "not localised: spatial attention reads channels by their position" in said.out


def test_a_preferred_space_that_nobody_gives_is_told(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One participant of many may lack it, so that it ends nothing; but it is not silent."""
    said = dry_run(capsys, data, "--space", "Talairach")
    assert said.status == 0
    assert f"no position is in a space of --space Talairach: {MNI} is used" in said.notes
