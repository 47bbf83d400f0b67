"""Damage to the electrode tables of a dataset, and what a command says about it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bids_speechdecode.cli import main

MNI = "MNI152NLin2009cAsym"
SUB = "sub-sim01"
XYZ = ["x", "y", "z"]
N = 10  # good channels of the recording
Damage = Callable[[Path], object]


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
