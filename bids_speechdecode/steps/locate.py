"""Where the channels of a participant lie: electrodes.tsv -> positions and atlas labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bids_speechdecode.anatomy.atlas import COLUMNS as LABEL_COLUMNS
from bids_speechdecode.anatomy.atlas import DEFAULT, Atlas, label_contacts, load_atlas
from bids_speechdecode.anatomy.freesurfer import FreeSurferSubject, require_subjects_dir
from bids_speechdecode.anatomy.spaces import to_mni152
from bids_speechdecode.config import AnatomyConfig
from bids_speechdecode.steps.contacts import MontageChannel, Space, list_channels, read_spaces
from bids_speechdecode.steps.plan import ParticipantPlan

MNI152 = "MNI152"
HEAD_MM = 125.0  # in MNI152 along each axis; the brain ends at 106 mm
_PLACE_COLUMNS = ("x", "y", "z", "space", "source_space", *LABEL_COLUMNS)


@dataclass(frozen=True)
class Located:
    """The channels of a participant with position and label.

    Attributes
    ----------
    table : DataFrame
        One row a channel: name, type, group, contact_1, contact_2, x, y, z (mm), space,
        source_space, and the columns of `label_contacts`; NaN or None where unknown.
    notes : tuple of str
        What is doubtful about the positions, and how it was handled.
    labels : tuple of str
        All labels of the atlas.
    """

    table: pd.DataFrame
    notes: tuple[str, ...]
    labels: tuple[str, ...]


def locate(plan: ParticipantPlan, settings: AnatomyConfig) -> Located:
    """Return position and label of every channel of a participant.

    Raises
    ------
    UsageError
        A preferred space or an atlas that there is not.
    MissingInputError
        The FreeSurfer folder that was named is absent or incomplete.
    DataError
        The atlas or the participant's FreeSurfer folder cannot be used.
    """
    if settings.fs_subjects_dir:
        require_subjects_dir(settings.fs_subjects_dir)
    atlas = load_atlas(settings.atlas)
    channels = list_channels(plan)
    spaces, notes = read_spaces(plan, settings)
    table, used = _place(channels, spaces)
    for space in used:
        here = table["source_space"] == space.name
        ways = _ways(table.loc[here, ["x", "y", "z"]].to_numpy(float), space, atlas, plan, settings)
        _fill(table, here, ways, settings)
        notes = (*notes, *space.check(), *ways.notes)
    notes = (*notes, *_forget_impossible(table), *_count_unlocalised(table))
    return Located(table, notes, tuple(sorted(set(atlas.labels["name"]))))


def _place(
    channels: Sequence[MontageChannel], spaces: Sequence[Space]
) -> tuple[pd.DataFrame, list[Space]]:
    """Return the channels with their positions as given, and the spaces that gave one.

    A channel is placed in the first space that has all of its contacts.
    """
    rows: list[dict[str, object]] = []
    for channel in channels:
        pair = channel.contacts if len(channel.contacts) > 1 else (None, None)
        row = dict.fromkeys(_PLACE_COLUMNS) | {
            "name": channel.name,
            "type": channel.type,
            "group": channel.group or _shaft(channel, spaces),
            "contact_1": pair[0],
            "contact_2": pair[1],
        }
        for space in spaces:
            place = space.middle(channel.contacts)
            if np.isfinite(place).all():
                row |= dict(zip("xyz", place, strict=True)) | {"source_space": space.name}
                break
        rows.append(row)
    columns = ("name", "type", "group", "contact_1", "contact_2", *_PLACE_COLUMNS)
    table = pd.DataFrame(rows, columns=columns, dtype=object)
    table = table.astype(dict.fromkeys(("x", "y", "z"), float))
    return table, [space for space in spaces if (table["source_space"] == space.name).any()]


def _shaft(channel: MontageChannel, spaces: Sequence[Space]) -> str:
    """Return the shaft that electrodes.tsv names, or the letters of the name."""
    first = channel.contacts[0]
    named = next((s.group_of[first] for s in spaces if s.group_of.get(first)), "")
    return named or first.rstrip("0123456789") or first


@dataclass(frozen=True)
class _Ways:
    """Where the positions of one space lead.

    Attributes
    ----------
    space : str
        In which `positions_mm` are.
    positions_mm : array, shape (n, 3)
        In MNI152 if there is a way there.
    to_label_mm : array, shape (n, 3)
        In the space of the atlas.
    atlas : Atlas or None
        The one that labels them.
    notes : tuple of str
    """

    space: str
    positions_mm: np.ndarray
    to_label_mm: np.ndarray
    atlas: Atlas | None
    notes: tuple[str, ...] = ()


def _ways(
    positions_mm: np.ndarray,
    space: Space,
    atlas: Atlas,
    plan: ParticipantPlan,
    settings: AnatomyConfig,
) -> _Ways:
    if not space.is_native:
        moved = to_mni152(positions_mm, space.name)
        return _Ways(MNI152, moved, moved, atlas)
    if not settings.fs_subjects_dir:
        note = (
            f"space {space.name} is the participant's own: no labels and no maps without "
            "--fs-subjects-dir"
        )
        return _Ways(space.name, positions_mm, positions_mm, None, (note,))
    subject = FreeSurferSubject.open(settings.fs_subjects_dir, plan.participant)
    moved = subject.to_mni152(positions_mm)
    if atlas.name == DEFAULT:  # the participant's own parcellation is of it
        return _Ways(MNI152, moved, positions_mm, subject.parcellation)
    return _Ways(MNI152, moved, moved, atlas)


def _fill(table: pd.DataFrame, here: pd.Series, ways: _Ways, settings: AnatomyConfig) -> None:
    """Write the positions and labels of some rows of the table."""
    table.loc[here, ["x", "y", "z"]] = ways.positions_mm
    table.loc[here, "space"] = ways.space
    if ways.atlas is not None:
        labels = label_contacts(
            ways.to_label_mm,
            ways.atlas,
            max_distance=settings.max_distance,
            ball_radius=settings.ball_radius,
        )
        table.loc[here, list(LABEL_COLUMNS)] = labels.to_numpy(dtype=object)


def _forget_impossible(table: pd.DataFrame) -> list[str]:
    """Take away the positions that are in no head: a typing error must not stretch a map."""
    places = table[["x", "y", "z"]].to_numpy()
    far = (table["space"] == MNI152).to_numpy() & (np.abs(places) > HEAD_MM).any(axis=1)
    table.loc[far, list(_PLACE_COLUMNS)] = None
    if not far.any():
        return []
    return [
        f"{int(far.sum())} of {len(table)} channels lie more than {HEAD_MM:g} mm from the middle of"
        " the head and count as not localised"
    ]


def _count_unlocalised(table: pd.DataFrame) -> list[str]:
    nowhere = int(table["x"].isna().sum())
    return [f"{nowhere} of {len(table)} channels have no position"] if nowhere else []
