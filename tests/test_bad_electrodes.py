"""Bad positions, atlases and FreeSurfer folders, as a user meets them on the command line."""

from __future__ import annotations

import gzip
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from bids_speechdecode.anatomy.atlas import load_atlas
from bids_speechdecode.anatomy.spaces import from_mni152
from bids_speechdecode.bids.dataset import list_recordings, open_dataset
from bids_speechdecode.cli import main
from bids_speechdecode.config import Config, override
from bids_speechdecode.steps.locate import Located, locate
from bids_speechdecode.steps.make_plan import plan_participant

MNI = "MNI152NLin2009cAsym"
SUB = "sub-sim01"
XYZ = ["x", "y", "z"]
Damage = Callable[[Path], object]


# ------------------------------------------------------------------ damaged datasets


def light_copy(source: Path, target: Path, days: tuple[int, ...] = (1,)) -> Path:
    """Copy the tables of some sessions of one participant; signals and audio are linked."""
    target.mkdir()
    for name in ("dataset_description.json", "participants.tsv"):
        shutil.copy(source / name, target)
    (target / "stimuli").symlink_to(source / "stimuli")
    for day in days:
        folder = Path(SUB, f"ses-day{day:02d}", "ieeg")
        (target / folder).mkdir(parents=True)
        for path in (source / folder).iterdir():
            new = target / folder / path.name
            new.symlink_to(path) if path.suffix == ".eeg" else shutil.copy(path, new)
    return target


@pytest.fixture
def data(tiny_dataset: Path, tmp_path: Path) -> Path:
    """Return a light copy of one session, to be damaged."""
    return light_copy(tiny_dataset, tmp_path / "data")


def table_of(root: Path, space: str = MNI, day: int = 1) -> Path:
    named = f"_space-{space}" if space else ""
    folder = root / SUB / f"ses-day{day:02d}" / "ieeg"
    return folder / f"{SUB}_ses-day{day:02d}{named}_electrodes.tsv"


def system_of(root: Path, space: str = MNI, day: int = 1) -> Path:
    path = table_of(root, space, day)
    return path.with_name(path.name.replace("electrodes.tsv", "coordsystem.json"))


def change(root: Path, make: Callable[[pd.DataFrame], pd.DataFrame | None], day: int = 1) -> None:
    """Rewrite the table of electrodes by a function that returns it or changes it in place."""
    table = pd.read_csv(table_of(root, day=day), sep="\t", keep_default_na=False)
    made = make(table)
    (table if made is None else made).to_csv(
        table_of(root, day=day), sep="\t", index=False, na_rep="n/a"
    )


def move(scale: float = 1.0, shift: float = 0.0, rows: slice = slice(None)) -> Damage:
    """Return a damage that scales and shifts the positions of some rows."""

    def make(table: pd.DataFrame) -> None:
        index = table.index[rows]
        table.loc[index, XYZ] = table.loc[index, XYZ].astype(float) * scale + shift

    return lambda root: change(root, make)


def flip(rows: slice = slice(None)) -> Damage:
    def make(table: pd.DataFrame) -> None:
        table.loc[table.index[rows], "x"] *= -1

    return lambda root: change(root, make)


def put(values: dict[str, Any], rows: slice = slice(None)) -> Damage:
    """Return a damage that writes some cells."""

    def make(table: pd.DataFrame) -> pd.DataFrame:
        table = table.astype(object)
        table.loc[table.index[rows], list(values)] = list(values.values())
        return table

    return lambda root: change(root, make)


def write(text: str | bytes) -> Damage:
    return lambda root: table_of(root).write_bytes(text.encode() if isinstance(text, str) else text)


def state(**keys: Any) -> Damage:
    """Return a damage that changes keys of coordsystem.json; None takes one away."""

    def damage(root: Path) -> None:
        system = json.loads(system_of(root).read_text())
        system |= {f"iEEGCoordinate{key}": value for key, value in keys.items()}
        system_of(root).write_text(json.dumps({k: v for k, v in system.items() if v is not None}))

    return damage


def both(*damages: Damage) -> Damage:
    return lambda root: [damage(root) for damage in damages]


def add_space(root: Path, space: str, *, system: str = "", shift: float = 0.0) -> None:
    """Write a second table beside the first one, with its coordsystem.json."""
    table = pd.read_csv(table_of(root), sep="\t")
    table[XYZ] += shift
    table.to_csv(table_of(root, space), sep="\t", index=False)
    content = {"iEEGCoordinateSystem": system or space, "iEEGCoordinateUnits": "mm"}
    system_of(root, space).write_text(json.dumps(content))


def command(root: Path, *words: str, out: Path | None = None) -> list[str]:
    base = [str(root), str(out or root.parent / "out"), "participant", "--participant-label"]
    return [*base, "sim01", "--pretrain-task", "none", "--target", "mel", *words]


# So that a refusal that does not come costs seconds and not a training.
QUICK = ("--steps", "preprocess,features,select")


class Said:
    """What a command printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str], status: int) -> None:
        shown = capsys.readouterr()
        self.status, self.out, self.err = status, shown.out, shown.err
        assert "Traceback" not in self.err
        assert "unexpected" not in self.err, self.err

    @property
    def notes(self) -> str:
        """The notes on the selection, which come after the counts."""
        lines = self.out[self.out.index("  positions:") :].splitlines()
        return "\n".join(line for line in lines if "note: " in line)

    @property
    def n_placed(self) -> int:
        return int(self.out.split("positions: ")[1].split(" of ")[0])

    @property
    def message(self) -> str:
        """The error, which must be the only one and say what to do."""
        assert self.err.count("error:") == 1, self.err
        message = self.err[self.err.index("error:") :]
        assert "to do:" in message, message
        return message


def dry_run(capsys: pytest.CaptureFixture[str], root: Path, *words: str) -> Said:
    said = Said(capsys, main(command(root, "--dry-run", *words)))
    assert not (root.parent / "out").exists()
    return said


# --------------------------------------------------------- positions that are doubtful

N = 10  # good channels of the recording
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
    "--select=": (nothing, 64, ("--select needs a rule", "all, roi, radius, responsive")),
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
