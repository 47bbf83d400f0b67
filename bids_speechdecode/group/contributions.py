"""Collect every participant's contributions of electrodes into one table.

A participant whose table is absent or unusable is named and left out. Participants whose
contributions do not measure the same (another model, target or atlas) are not put together.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from bids_speechdecode.bids.derivatives import Derivatives
from bids_speechdecode.bids.files import write_tsv
from bids_speechdecode.bids.sidecars import (
    fingerprint,
    read_sidecar,
    read_table,
    signature,
    write_sidecar,
)
from bids_speechdecode.errors import DataError, MissingInputError
from bids_speechdecode.group.summary import LeftOut

VERSION = 1
ANALYSIS_SPACE = "MNI152"
STALE = "they belong to other channels or another model: run step 'contributions' again"

_ENDING = "desc-contrib_channels"

_NUMBERS = ("x", "y", "z", "contribution")
_WORDS = ("space", "label", "hemisphere")
_NEEDED = ("name", *_NUMBERS, *_WORDS)
# What must be the same in all sidecars, where they say it.
_SAME_FOR_ALL = ("Model", "Target", "Atlas", "Simulated")
_OF_TARGET = ("name", "model", "layer", "pooling")  # not how it was computed, as in batches

_COLUMNS = {
    "participant": "Whose electrode it is",
    "name": "Channel",
    "group": "Shaft, grid or strip",
    "x": "Position in the space named by column space (mm), to the right",
    "y": "To the front (mm)",
    "z": "Up (mm)",
    "space": "Space of the position",
    "label": "Parcel of the atlas",
    "hemisphere": "L or R",
    "contribution": "Loss of mean relative rank when the electrode is permuted across windows; "
    "above 0: it helps",
}


@dataclass(frozen=True)
class Contributions:
    """The electrodes of all participants and what each contributes to decoding.

    Attributes
    ----------
    task : str
    contacts : data frame
        One row per electrode: `participant` ("sub-01") first, then the columns of the
        participants' tables; x, y, z in mm, NaN where not localised.
    model, atlas : str
        The condition whose ranks are explained and the atlas of the labels; "" where the
        sidecars do not say.
    simulated : bool
    left_out : tuple of LeftOut
    sources : tuple of path
        The tables that were read.
    """

    task: str
    contacts: pd.DataFrame
    model: str
    atlas: str
    simulated: bool
    left_out: tuple[LeftOut, ...]
    sources: tuple[Path, ...]

    @property
    def participants(self) -> tuple[str, ...]:
        """The participants with contributions, in the order of the table."""
        return tuple(self.contacts["participant"].unique())


def list_contribution_tasks(root: Path, participants: Sequence[str]) -> tuple[str, ...]:
    """Return the tasks for which any of the participants has contributions, sorted."""
    found = set()
    for participant in participants:
        for path in (root / f"sub-{participant}" / "ieeg").glob(_file_name(participant, "*")):
            match = re.search(r"_task-([A-Za-z0-9+]+)_", path.name)
            found |= {match.group(1)} if match else set()
    return tuple(sorted(found))


def read_contributions(root: Path, participants: Sequence[str], task: str) -> Contributions:
    """Return the contributions of all participants' electrodes.

    Parameters
    ----------
    root : path
        Folder of the derivatives.
    participants : sequence of str
        Labels without "sub-".
    task : str
        The task whose decoding is explained.

    Raises
    ------
    MissingInputError
        None of the participants has usable contributions.
    DataError
        The participants' contributions are of different models, targets or atlases, or some
        are simulated and others are not.
    """
    tables: list[pd.DataFrame] = []
    left_out: list[LeftOut] = []
    sources: list[Path] = []
    for participant in participants:
        path = root / f"sub-{participant}" / "ieeg" / _file_name(participant, task)
        if why := _why_unusable(path):
            left_out.append(LeftOut(f"sub-{participant}", why))
            continue
        try:
            table = _read(path)
        except DataError as error:
            left_out.append(LeftOut(f"sub-{participant}", " ".join(str(error).split())))
            continue
        left_out += _without_value(table, participant)
        table.insert(0, "participant", f"sub-{participant}")
        tables.append(table[table["contribution"].notna()])
        sources.append(path)
    filled = [table for table in tables if len(table)]
    if not filled:
        raise _nobody(root, task, left_out)
    facts = {f"sub-{path.name[4:].split('_')[0]}": read_sidecar(path) for path in sources}
    _require_same_measure(facts)
    return Contributions(
        task=task,
        contacts=pd.concat(filled, ignore_index=True),
        model=_fact(facts, "Model"),
        atlas=_fact(facts, "Atlas"),
        simulated=_fact(facts, "Simulated") == "True",
        left_out=tuple(left_out),
        sources=tuple(sources),
    )


def why_stale(path: Path) -> str:
    """Return why contributions do not belong to what lies beside them; "" if they do.

    Parameters
    ----------
    path : path
        A participant's table ``desc-contrib``. Its sidecar names the signatures of the table of
        channels and of the model that it was made from; one that names none is of unknown origin.
    """
    made = read_sidecar(path)
    model = f"desc-{made.get('Model')}_model.json"
    for key, name in (("Selected", "desc-selected_channels.tsv"), ("Model", model)):
        beside = path.with_name(path.name.replace(f"{_ENDING}.tsv", name))
        signed = made.get(f"{key}Signature")
        if signed is None or signed != read_sidecar(beside).get("Signature"):
            return STALE
    return ""


def write_contacts(out: Derivatives, contributions: Contributions) -> Path:
    """Write the electrodes of all participants as one table; return its path."""
    return write_group_table(out, contributions, "contacts", contributions.contacts, _COLUMNS)


def write_group_table(
    out: Derivatives,
    contributions: Contributions,
    desc: str,
    table: pd.DataFrame,
    columns: Mapping[str, str],
    *,
    settings: object = None,
    **fields: object,
) -> Path:
    """Write a group table made from contributions, with its sidecar; return its path.

    Parameters
    ----------
    desc : str
        Which table: the name's ``desc``.
    columns : mapping of str to str
        What the columns mean; those that the table lacks are not written.
    settings : dataclass or mapping, optional
        What decided the table besides the participants' tables.
    fields : JSON values
        What else the sidecar says.
    """
    path = out.group_path(
        task=contributions.task, desc=desc, suffix="contributions", extension=".tsv"
    )
    write_tsv(path, table)
    described = {name: text for name, text in columns.items() if name in table}
    describe(path, contributions, settings=settings, Columns=described, **fields)
    return path


def describe(
    path: Path, contributions: Contributions, *, settings: object = None, **fields: object
) -> None:
    """Write the sidecar of a group derivative that was made from contributions."""
    inputs = [fingerprint(source) for source in contributions.sources]
    write_sidecar(
        path,
        step="group",
        signature=signature("group", VERSION, settings, inputs),
        **fields,
        Model=contributions.model,
        Atlas=contributions.atlas,
        Participants=contributions.participants,
        LeftOut=[asdict(item) for item in contributions.left_out],
        Simulated=contributions.simulated,
    )


def in_analysis_space(contacts: pd.DataFrame) -> pd.DataFrame:
    """Return the contacts that have a position in MNI152."""
    is_known = np.isfinite(contacts[["x", "y", "z"]].to_numpy(float)).all(axis=1)
    return contacts.loc[is_known & (contacts["space"] == ANALYSIS_SPACE)]


def _file_name(participant: str, task: str) -> str:
    return f"sub-{participant}_task-{task}_{_ENDING}.tsv"


def _why_unusable(path: Path) -> str:
    """Return why there is nothing to read, as far as that shows without the table itself."""
    if not path.exists():
        return "no contributions: not run, or failed"
    why = why_stale(path)
    return f"its contributions are not used: {why}" if why else ""


def _read(path: Path) -> pd.DataFrame:
    """Return a participant's table, or raise DataError saying what is wrong with it."""
    table = read_table(path)
    missing = [name for name in _NEEDED if name not in table]
    if missing:
        raise DataError(
            "A table of contributions lacks columns.",
            expected=", ".join(_NEEDED),
            found=f"no {', '.join(missing)}",
            where=path,
            fix="run step contributions again",
        )
    for name in _NUMBERS:
        if not (pd.api.types.is_numeric_dtype(table[name]) or table[name].isna().all()):
            raise DataError(f"Column {name} holds text.", expected="numbers", where=path)
        table[name] = table[name].astype(float)
    for name in _WORDS:
        table[name] = table[name].astype(object)
    twice = table["name"][table["name"].duplicated()]
    if len(twice):
        raise DataError(
            "An electrode has two rows of contributions.", found=str(twice.iloc[0]), where=path
        )
    return table


def _without_value(table: pd.DataFrame, participant: str) -> list[LeftOut]:
    n_absent = int(table["contribution"].isna().sum())
    if not n_absent:
        return []
    why = f"the contribution of {n_absent} of its {len(table)} electrodes is n/a"
    return [LeftOut(f"sub-{participant}", why)]


def _nobody(root: Path, task: str, left_out: Sequence[LeftOut]) -> MissingInputError:
    return MissingInputError(
        "There are no contributions of electrodes to summarise.",
        expected=f"sub-*/ieeg/sub-*_task-{task}_desc-contrib_channels.tsv",
        found="; ".join(f"{item.what}: {item.why}" for item in left_out) or "no participants",
        where=root,
        fix="run the participant level first, with step contributions",
    )


def _require_same_measure(facts: Mapping[str, Mapping[str, object]]) -> None:
    """Raise DataError where the sidecars name different models, targets or atlases."""
    for key in _SAME_FOR_ALL:
        who: dict[str, list[str]] = {}
        for participant, sidecar in facts.items():
            if key in sidecar:
                who.setdefault(_in_words(sidecar[key]), []).append(participant)
        if len(who) > 1:
            raise DataError(
                "The participants' contributions cannot be put together.",
                expected=f"the same {key.lower()} for all",
                found="; ".join(f"{value}: {', '.join(names)}" for value, names in who.items()),
                fix="run step contributions of those participants again with the same settings "
                "(one named model instead of the best of each), or leave them out with "
                "--exclude-participant-label",
            )


def _in_words(value: object) -> str:
    """Return what a sidecar says, as text; of the settings of a target, what makes it another."""
    if isinstance(value, Mapping):
        return " ".join(str(value[name]) for name in _OF_TARGET if name in value)
    return str(value)


def _fact(facts: Mapping[str, Mapping[str, object]], key: str) -> str:
    return next((str(sidecar[key]) for sidecar in facts.values() if key in sidecar), "")
