"""Which output channels are made of which contacts: as recorded, common average, bipolar."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bids_speechdecode.errors import DataError

_ROUNDING = 1e-5
_CONTACT = re.compile(r"^(?P<stem>.*?)(?P<number>\d+)(?P<tail>\D*)$")


@dataclass(frozen=True)
class Montage:
    """Output channels as sums of contacts.

    Attributes
    ----------
    names : tuple of str
        Output channels; ``LA1-LA2`` for a bipolar pair.
    picks : tuple of int
        Channels of the recording that are read.
    members : tuple of tuple of int
        For each output channel, the positions within `picks` of its one or two contacts.
    average : bool
        Whether the mean of all usable contacts is subtracted.
    left_out : tuple of str
        Kept channels from which no output channel could be made.
    """

    names: tuple[str, ...]
    picks: tuple[int, ...]
    members: tuple[tuple[int, ...], ...]
    average: bool = False
    left_out: tuple[str, ...] = ()

    def weights(self, usable: NDArray[np.bool_]) -> NDArray[np.float32] | None:
        """Return the matrix (n_picks, n_outputs) that makes outputs of contacts.

        Parameters
        ----------
        usable : array of bool, shape (n_picks,)
            Contacts that may enter the common average.

        Returns
        -------
        weights : array or None
            None where outputs are the contacts themselves.
        """
        if not self.average and all(m == (i,) for i, m in enumerate(self.members)):
            return None
        weights = np.zeros((len(self.picks), len(self.members)), dtype=np.float32)
        for output, contacts in enumerate(self.members):
            for sign, contact in zip((1, -1), contacts, strict=False):
                weights[contact, output] = sign
        if self.average and usable.any():
            weights[usable] -= np.float32(1 / usable.sum())
        return weights


class Referencing:
    """Makes output channels of contacts, and remembers in which more than rounding was left.

    Contacts that are all alike, as one wire that was recorded twice, leave rounding errors behind
    their common average, which would pass for a signal.

    Attributes
    ----------
    left : array of bool, shape (n_outputs,)
        Outputs that have varied by more than 1e-5 of their contacts' level in some block: in single
        precision, an average of many contacts is rounded to about 1e-6 of it.
    """

    def __init__(self, montage: Montage, usable: NDArray[np.bool_]) -> None:
        self._weights = montage.weights(usable)
        self._contacts = [list(members) for members in zip(*montage.members, strict=True)]
        self.left = np.full(len(montage.members), self._weights is None)

    def __call__(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the outputs (n_times, n_outputs) of contacts `rows` (n_times, n_picks)."""
        if self._weights is None:
            return rows
        outputs = rows @ self._weights
        if not self.left.all():
            level = np.abs(rows).max(axis=0)
            largest = np.maximum.reduce([level[contacts] for contacts in self._contacts])
            self.left |= np.ptp(outputs, axis=0) > _ROUNDING * largest
        return outputs


def make_montage(
    channel_names: Sequence[str],
    kept: Sequence[int],
    reference: str,
    groups: Sequence[str] | None = None,
) -> Montage:
    """Return the montage of the channels `kept`.

    Parameters
    ----------
    channel_names : sequence of str
        All channels of the recording.
    kept : sequence of int
        Positions of the channels to use.
    reference : {"none", "average", "bipolar"}
        Bipolar pairs are contacts of one shaft whose numbers follow each other; a contact that
        is not kept is not bridged. On grids, this also pairs the ends of neighbouring rows.
    groups : sequence of str, optional
        The shaft of each channel of the recording (``group`` in channels.tsv), ``""`` or
        ``n/a`` where unknown; the letters before the number by default.

    Raises
    ------
    DataError
        Where no channel is kept, one alone for a common average, or no two contacts are neighbours.
    """
    kept = list(kept)
    names = [channel_names[i] for i in kept]
    if not kept:
        raise DataError("no channel is left to preprocess", expected="at least one good channel")
    if reference == "average" and len(kept) == 1:
        raise DataError(
            "one contact less the average of itself is nothing",
            expected="at least two good channels for the common average",
            found=names[0],
            fix="choose --reference none",
        )
    if reference != "bipolar":
        alone = tuple((i,) for i in range(len(kept)))
        return Montage(tuple(names), tuple(kept), alone, average=reference == "average")
    shafts = [_known(groups[i]) if groups is not None else "" for i in kept]
    pairs = _neighbours(names, shafts)
    if not pairs:
        raise DataError(
            "no two contacts are neighbours on a shaft",
            expected="names such as LA1, LA2",
            found=", ".join(names[:10]),
            fix='choose the reference "none" or "average"',
        )
    used = sorted({contact for pair in pairs for contact in pair})
    place = {contact: position for position, contact in enumerate(used)}
    return Montage(
        names=tuple(f"{names[a]}-{names[b]}" for a, b in pairs),
        picks=tuple(kept[i] for i in used),
        members=tuple((place[a], place[b]) for a, b in pairs),
        left_out=tuple(name for i, name in enumerate(names) if i not in place),
    )


def join_montages(montages: Sequence[Montage]) -> Montage:
    """Return the output channels of several montages of one recording side by side.

    It says of which contacts they are made; a common average belongs to its own montage, which
    alone can make it.
    """
    if len(montages) == 1:
        return montages[0]
    picks = sorted({pick for montage in montages for pick in montage.picks})
    place = {pick: position for position, pick in enumerate(picks)}
    return Montage(
        names=tuple(name for montage in montages for name in montage.names),
        picks=tuple(picks),
        members=tuple(
            tuple(place[montage.picks[contact]] for contact in contacts)
            for montage in montages
            for contacts in montage.members
        ),
        left_out=tuple(dict.fromkeys(name for montage in montages for name in montage.left_out)),
    )


def _neighbours(names: Sequence[str], shafts: Sequence[str]) -> list[tuple[int, int]]:
    """Return the positions of contacts n and n + 1 of each shaft, in the order of `names`."""
    contact_to_position: dict[tuple[str, str, int], int] = {}
    for position, (name, shaft) in enumerate(zip(names, shafts, strict=True)):
        if match := _CONTACT.match(name):
            tail = "" if shaft else match["tail"]
            contact = (shaft or match["stem"], tail, int(match["number"]))
            contact_to_position.setdefault(contact, position)
    pairs = []
    for (stem, tail, number), position in contact_to_position.items():
        if (following := contact_to_position.get((stem, tail, number + 1))) is not None:
            pairs.append((position, following))
    return sorted(pairs)


def _known(group: str) -> str:
    return "" if group.strip().lower() in ("", "n/a", "nan") else group.strip()
