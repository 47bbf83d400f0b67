"""The contacts of a participant: which channels they make, and where electrodes.tsv puts them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bids_speechdecode.anatomy.checks import check_positions
from bids_speechdecode.anatomy.spaces import choose_space, family, is_preferred, why_refused
from bids_speechdecode.bids.electrodes import Electrodes, read_electrodes
from bids_speechdecode.bids.tables import list_some
from bids_speechdecode.config import AnatomyConfig
from bids_speechdecode.errors import SpeechDecodeError
from bids_speechdecode.steps.plan import ParticipantPlan, PlannedRecording

# Positions of one contact in two files of one space that differ by more are two implants.
_SAME_PLACE_MM = 1.0
_NOT_IN_NAMES = re.compile(r"[^a-z0-9']|(?<![0-9])0+(?=[0-9])")  # LA-01 and LA1 are one contact


@dataclass(frozen=True)
class MontageChannel:
    """A channel of the montage: its one contact, or the two of a bipolar pair, and their shaft."""

    name: str
    contacts: tuple[str, ...]
    type: str
    group: str  # as channels.tsv has it; "" where it has none


@dataclass(frozen=True)
class Space:
    """All contacts that are given in one space.

    Attributes
    ----------
    name : str
    place_of : mapping
        Name of a contact to its position, shape (3,), mm; NaN where not localised.
    group_of, side_of : mapping
        Its shaft and its hemisphere ("L" or "R") in electrodes.tsv; "" where not given.
    """

    name: str
    place_of: Mapping[str, np.ndarray]
    group_of: Mapping[str, str]
    side_of: Mapping[str, str]

    @property
    def is_native(self) -> bool:
        """Whether it is the participant's own."""
        return family(self.name) == "native"

    def middle(self, contacts: Sequence[str]) -> np.ndarray:
        """Return the mean position of contacts, shape (3,), mm; NaN if one is not localised."""
        nowhere = np.full(3, np.nan)
        return np.mean([self.place_of.get(contact, nowhere) for contact in contacts], axis=0)

    def check(self) -> Iterator[str]:
        """Yield what is odd about the positions."""
        positions = np.array(list(self.place_of.values()))
        sides = list(self.side_of.values())
        for note in check_positions(list(self.place_of), positions, self.name, hemispheres=sides):
            yield f"space {self.name}: {note}"


def list_channels(plan: ParticipantPlan) -> tuple[MontageChannel, ...]:
    """Return every channel of the montages of all recordings, in the order of appearance."""
    found: dict[str, MontageChannel] = {}
    for planned in plan.recordings:
        for channel in _montage_channels(planned):
            found.setdefault(channel.name, channel)
    return tuple(found.values())


def _montage_channels(planned: PlannedRecording) -> Iterator[MontageChannel]:
    described = {c.name: c for c in planned.recording.channels}
    for name, members in zip(planned.montage.names, planned.montage.members, strict=True):
        contacts = tuple(planned.channel_names[planned.montage.picks[m]] for m in members)
        first = described.get(contacts[0])
        group = first.group if first and first.group not in ("", "n/a") else ""
        yield MontageChannel(name, contacts, first.type if first else "SEEG", group)


def read_spaces(
    plan: ParticipantPlan, settings: AnatomyConfig
) -> tuple[list[Space], tuple[str, ...]]:
    """Return the contacts space by space, the one to be used first, and what was odd.

    Positions in a participant's own space are left out where they lead nowhere and others lead
    to MNI152: places in two spaces that nothing joins must not stand in one table.

    Raises
    ------
    UsageError
        A preferred space that there is not.
    """
    tables, notes = _read_tables(plan)
    names = list(dict.fromkeys(table.space for _, table in tables))
    for name in names:
        if reason := why_refused(name):
            notes.append(f"positions in space {name or 'unknown'} are not used: {reason}")
    spaces = []
    for index in choose_space(names, settings.space):
        same = [(file, table) for file, table in tables if table.space == names[index]]
        space, moved = _merge(names[index], same)
        spaces.append(space)
        notes += moved
    notes += _compare_names([table for _, table in tables], plan)
    if settings.space and spaces and not is_preferred(spaces[0].name, settings.space):
        notes.append(
            f"no position is in a space of --space {' '.join(settings.space)}: "
            f"{spaces[0].name} is used"
        )
    spaces, lost = _joinable(spaces, settings)
    return spaces, (*notes, *lost)


def _read_tables(plan: ParticipantPlan) -> tuple[list[tuple[str, Electrodes]], list[str]]:
    """Return each electrodes.tsv by the name of its file, and what was odd, once for all files."""
    tables: list[tuple[str, Electrodes]] = []
    files_of: dict[str, list[str]] = {}
    files = dict.fromkeys(file for r in plan.recordings for file in r.recording.electrodes)
    for file in files:
        try:
            table = read_electrodes(file)
        except SpeechDecodeError as error:
            problem = error.problem.rstrip(".")
            files_of.setdefault(f"not used: {problem} (see the note on the recording)", []).append(
                file.electrodes.name
            )
            continue
        tables.append((file.electrodes.name, table))
        for doubt in table.doubts:
            files_of.setdefault(doubt, []).append(file.electrodes.name)
    notes = [f"{list_some(names, 2)}: {note}" for note, names in files_of.items()]
    return tables, notes if files else ["there is no electrodes.tsv"]


def _merge(name: str, tables: Iterable[tuple[str, Electrodes]]) -> tuple[Space, list[str]]:
    """Join the tables of one space, such as those of several sessions; the first one wins."""
    place_of: dict[str, np.ndarray] = {}
    group_of: dict[str, str] = {}
    side_of: dict[str, str] = {}
    moved: dict[str, list[str]] = {}
    for file, table in tables:
        sides, groups = table.hemispheres, table.groups
        for contact, place, group, side in zip(
            table.names, table.positions_mm, groups, sides, strict=True
        ):
            before = place_of.get(contact)
            if before is None or np.isnan(before).any():
                place_of[contact], group_of[contact], side_of[contact] = place, group, side
            elif np.linalg.norm(before - place) > _SAME_PLACE_MM:
                moved.setdefault(file, []).append(contact)
    return Space(name, place_of, group_of, side_of), [
        f"space {name}: {len(contacts)} contacts lie elsewhere in {file} than in a table before "
        f"it, which is used: {list_some(contacts, 3)}"
        for file, contacts in moved.items()
    ]


def _compare_names(tables: Sequence[Electrodes], plan: ParticipantPlan) -> Iterator[str]:
    """Yield which contacts are in electrodes.tsv and in no recording, and what they may be."""
    placed = list(dict.fromkeys(name for table in tables for name in table.names))
    recorded = {name for r in plan.recordings for name in r.channel_names}
    strangers = [name for name in placed if name not in recorded]
    if not strangers:
        return
    alike = {_bare(name): name for name in recorded - set(placed)}
    hints = [f"{n} may be the channel {alike[_bare(n)]}" for n in strangers if _bare(n) in alike]
    yield (
        f"{len(strangers)} of {len(placed)} contacts of electrodes.tsv are no channel of a "
        f"recording: {list_some(strangers, 3)}"
        + (f"; {hints[0]}, and both files must name it alike" if hints else "")
    )


def _bare(name: str) -> str:
    return _NOT_IN_NAMES.sub("", name.lower())


def _joinable(spaces: Sequence[Space], settings: AnatomyConfig) -> tuple[list[Space], list[str]]:
    """Return the spaces that MNI152 can be reached from; if there is none, the first one."""
    if settings.fs_subjects_dir:
        return list(spaces), []
    joined = [space for space in spaces if not space.is_native] or list(spaces[:1])
    return joined, [
        f"positions in space {space.name} are not used without --fs-subjects-dir, because others "
        f"are in {joined[0].name}"
        for space in spaces
        if space not in joined
    ]
