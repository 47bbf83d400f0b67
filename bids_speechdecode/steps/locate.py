"""Where the channels of a participant lie: electrodes.tsv -> positions and atlas labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bids_speechdecode.anatomy.atlas import Atlas, label_contacts, load_atlas
from bids_speechdecode.anatomy.checks import check_positions
from bids_speechdecode.anatomy.freesurfer import FreeSurferSubject
from bids_speechdecode.anatomy.spaces import choose_space, family, to_mni152, why_refused
from bids_speechdecode.bids.electrodes import Electrodes, read_electrodes
from bids_speechdecode.config import AnatomyConfig
from bids_speechdecode.steps.plan import ParticipantPlan, PlannedRecording

MNI152 = "MNI152"
LABEL_COLUMNS = ("label", "hemisphere", "probability", "nearest_label", "distance", "tissue")
# Positions of one contact in two files of one space that differ by more are two implants.
_SAME_PLACE_MM = 1.0
HEAD_MM = 125.0  # in MNI152 along each axis; the brain ends at 106 mm


@dataclass(frozen=True)
class Contact:
    """A channel of the montage: its one or two contacts and the shaft they are on."""

    name: str
    contacts: tuple[str, ...]
    type: str
    group: str


@dataclass(frozen=True)
class Located:
    """The channels of a participant with position and label.

    Attributes
    ----------
    table : DataFrame
        One row a channel: name, type, group, contact_1, contact_2, x, y, z (mm), space,
        source_space, and the columns of `label_contacts`; NaN or None where unknown.
    notes : tuple of str
        What was odd about the positions and how it was handled.
    labels : tuple of str
        All labels of the atlas.
    """

    table: pd.DataFrame
    notes: tuple[str, ...]
    labels: tuple[str, ...]


def list_channels(plan: ParticipantPlan) -> tuple[Contact, ...]:
    """Return every channel of the montages of all recordings, in the order of appearance."""
    found: dict[str, Contact] = {}
    for planned in plan.recordings:
        for channel in _montage_channels(planned):
            found.setdefault(channel.name, channel)
    return tuple(found.values())


def _montage_channels(planned: PlannedRecording) -> Iterator[Contact]:
    described = {c.name: c for c in planned.recording.channels}
    for name, members in zip(planned.montage.names, planned.montage.members, strict=True):
        contacts = tuple(planned.channel_names[planned.montage.picks[m]] for m in members)
        first = described.get(contacts[0])
        group = first.group if first and first.group not in ("", "n/a") else ""
        yield Contact(name, contacts, first.type if first else "SEEG", group)


def locate(plan: ParticipantPlan, settings: AnatomyConfig) -> Located:
    """Return position and label of every channel of a participant.

    Raises
    ------
    UsageError
        A preferred space or an atlas that there is not.
    MissingInputError
        The FreeSurfer folder that was named is incomplete.
    DataError
        The atlas cannot be used.
    """
    channels = list_channels(plan)
    atlas = load_atlas(settings.atlas)
    spaces, notes = _read_spaces(plan, channels, settings)
    rows = pd.DataFrame(
        {
            "name": [c.name for c in channels],
            "type": [c.type for c in channels],
            "group": [c.group or _group_of(c, spaces) for c in channels],
            "contact_1": [c.contacts[0] if len(c.contacts) > 1 else None for c in channels],
            "contact_2": [c.contacts[1] if len(c.contacts) > 1 else None for c in channels],
        }
    )
    positions = np.full((len(channels), 3), np.nan)
    source: list[str | None] = [None] * len(channels)
    for space in spaces:
        missing = np.isnan(positions).any(axis=1)
        for i in np.flatnonzero(missing):
            place = np.mean([space.position(name) for name in channels[i].contacts], axis=0)
            if np.isfinite(place).all():
                positions[i], source[i] = place, space.name
    labelled, label_notes = _label(positions, source, atlas, plan, settings)
    notes = (*notes, *label_notes, *_count_unlocalised(labelled))
    return Located(
        pd.concat([rows, labelled], axis=1), notes, tuple(sorted(set(atlas.labels["name"])))
    )


@dataclass(frozen=True)
class _Space:
    """All contacts that are given in one space."""

    name: str
    place_of: Mapping[str, np.ndarray]
    group_of: Mapping[str, str]

    def position(self, contact: str) -> np.ndarray:
        return self.place_of.get(contact, np.full(3, np.nan))


def _read_spaces(
    plan: ParticipantPlan, channels: Sequence[Contact], settings: AnatomyConfig
) -> tuple[list[_Space], tuple[str, ...]]:
    """Return the contacts space by space, the preferred first, and what was odd about them."""
    files = dict.fromkeys(f for r in plan.recordings for f in r.electrodes)
    read = [read_electrodes(file) for file in files]
    notes: list[str] = []
    names = list(dict.fromkeys(e.space for e in read))
    used = {contact for channel in channels for contact in channel.contacts}
    for name in names:
        if reason := why_refused(name):
            notes.append(f"positions in space {name!r} are not used: {reason}")
    spaces: list[_Space] = []
    for index in choose_space(names, settings.space):
        same = [e for e in read if e.space == names[index]]
        space, odd = _merge(names[index], same)
        notes += odd
        for electrodes in same:
            notes += _check(electrodes, used)
        spaces.append(space)
    return spaces, tuple(dict.fromkeys(notes))


def _merge(name: str, files: Sequence[Electrodes]) -> tuple[_Space, list[str]]:
    """Join the files of one space, such as those of several sessions; the first one wins."""
    place_of: dict[str, np.ndarray] = {}
    group_of: dict[str, str] = {}
    moved: list[str] = []
    for electrodes in files:
        for contact, place, group in zip(
            electrodes.names, electrodes.positions_mm, electrodes.groups, strict=True
        ):
            if contact in place_of and np.isfinite(place_of[contact]).all():
                if np.linalg.norm(place_of[contact] - place) > _SAME_PLACE_MM:
                    moved.append(contact)
                continue
            place_of[contact], group_of[contact] = place, group
    notes = []
    if moved:
        notes.append(
            f"space {name}: {len(moved)} contacts such as {moved[0]} lie elsewhere in another "
            "session's electrodes.tsv; the first position is used"
        )
    return _Space(name, place_of, group_of), notes


def _check(electrodes: Electrodes, used: set[str]) -> Iterator[str]:
    yield from check_positions(
        electrodes.names,
        electrodes.positions_mm,
        electrodes.space,
        hemispheres=electrodes.hemispheres,
    )
    unknown = [name for name in electrodes.names if name not in used]
    if unknown:
        yield (
            f"{len(unknown)} of {len(electrodes.names)} contacts of electrodes.tsv are no used "
            f"channel, such as {unknown[0]}"
        )


def _group_of(channel: Contact, spaces: Sequence[_Space]) -> str:
    """Return the shaft that electrodes.tsv names, or the letters of the name."""
    first = channel.contacts[0]
    named = next((s.group_of[first] for s in spaces if s.group_of.get(first)), "")
    return named or first.rstrip("0123456789") or first


def _label(
    positions: np.ndarray,
    source: Sequence[str | None],
    atlas: Atlas,
    plan: ParticipantPlan,
    settings: AnatomyConfig,
) -> tuple[pd.DataFrame, list[str]]:
    """Return positions in MNI152 where there is a way there, and labels."""
    columns = ["x", "y", "z", "space", "source_space", *LABEL_COLUMNS]
    table = pd.DataFrame(index=range(len(positions)), columns=columns, dtype=object)
    table[["x", "y", "z"]] = positions
    table["source_space"] = list(source)
    notes: list[str] = []
    for space in dict.fromkeys(s for s in source if s):
        here = np.array([s == space for s in source])
        ways = _ways(positions[here], space, atlas, plan.participant, settings)
        if ways is None:
            table.loc[here, "space"] = space
            notes.append(
                f"space {space} is the participant's own: no labels and no maps without "
                "--fs-subjects-dir"
            )
            continue
        table.loc[here, "space"] = MNI152
        table.loc[here, ["x", "y", "z"]] = ways.in_mni152
        labels = label_contacts(
            ways.to_label,
            ways.atlas,
            max_distance=settings.max_distance,
            ball_radius=settings.ball_radius,
        )
        table.loc[here, list(LABEL_COLUMNS)] = labels[list(LABEL_COLUMNS)].to_numpy(dtype=object)
    table = table.astype(dict.fromkeys(("x", "y", "z"), float))
    return table, [*notes, *_forget_impossible(table)]


def _forget_impossible(table: pd.DataFrame) -> list[str]:
    """Take away the positions that are in no head: a typing error must not stretch a map."""
    places = table[["x", "y", "z"]].to_numpy()
    far = (table["space"] == MNI152).to_numpy() & (np.abs(places) > HEAD_MM).any(axis=1)
    table.loc[far, ["x", "y", "z", "space", "source_space", *LABEL_COLUMNS]] = None
    if not far.any():
        return []
    return [
        f"{int(far.sum())} channels lie more than {HEAD_MM:g} mm from the middle of the head and "
        "count as not localised"
    ]


@dataclass(frozen=True)
class _Ways:
    """Positions of one space on their way: to MNI152, and to the atlas that labels them."""

    in_mni152: np.ndarray
    to_label: np.ndarray
    atlas: Atlas


def _ways(
    positions: np.ndarray, space: str, atlas: Atlas, participant: str, settings: AnatomyConfig
) -> _Ways | None:
    """Return where positions lead; None where nothing leads out of the participant's space."""
    if family(space) != "native":
        moved = to_mni152(positions, space)
        return _Ways(moved, moved, atlas)
    if not settings.fs_subjects_dir:
        return None
    subject = FreeSurferSubject.open(settings.fs_subjects_dir, participant)
    moved = to_mni152(subject.to_mni305(positions), "MNI305")
    if settings.atlas == AnatomyConfig().atlas:  # the participant's own parcellation is of it
        return _Ways(moved, positions, subject.parcellation)
    return _Ways(moved, moved, atlas)


def _count_unlocalised(table: pd.DataFrame) -> list[str]:
    nowhere = int(table["x"].isna().sum())
    return [f"{nowhere} of {len(table)} channels have no position"] if nowhere else []
