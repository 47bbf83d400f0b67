"""Regions that a user can name: labels of an atlas with or without a hemisphere, and presets."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from bids_speechdecode.anatomy.atlas import SPEECH_ROI
from bids_speechdecode.errors import UsageError, did_you_mean

SPEECH = "speech"
# Of these gyri only the ventral part, which holds mouth and larynx, belongs to the preset.
VENTRAL_ONLY = ("precentral", "postcentral")
# The limit is this project's, not the literature's: a round number between the representations of
# mouth and hand. There is no line on the cortex, and the dorsal larynx area lies close to it.
VENTRAL_BELOW_MM = 40.0  # z in MNI152

Side = Literal["L", "R"]
_SIDES: dict[str, Side] = {"left": "L", "right": "R", "lh": "L", "rh": "R", "l": "L", "r": "R"}
_SIDE_FIRST = re.compile(r"(?:ctx[-_. ]+)?(left|right|lh|rh|l|r)[-_., ]+(.+)", re.IGNORECASE)
_SIDE_LAST = re.compile(r"(?:ctx[-_. ]+)?(.+?)[-_., ]+(left|right|lh|rh|l|r)", re.IGNORECASE)


@dataclass(frozen=True)
class Region:
    """A label, on one side or both, whole or only below a height in MNI152 (mm)."""

    label: str
    side: Side | None = None
    below_mm: float | None = None

    def covers(self, label: str, hemisphere: str) -> bool:
        """Return whether it is this label on this side ("L", "R", "B" both, "" unknown)."""
        same_side = self.side is None or hemisphere in (self.side, "B")
        return same_side and label.casefold() == self.label.casefold()

    def holds(self, label: str, hemisphere: str, z_mm: float | None) -> bool | None:
        """Return whether a channel lies in it; None where that takes a height not known."""
        if not self.covers(label, hemisphere):
            return False
        if self.below_mm is None:
            return True
        return None if z_mm is None else z_mm < self.below_mm


def find_regions(
    texts: Sequence[str], hemisphere: str, labels: Sequence[str]
) -> tuple[Region, ...]:
    """Return the regions that the user named.

    Parameters
    ----------
    texts : sequence of str
        ``speech``, or labels, in any case, alone or with a hemisphere (``left insula``,
        ``lh.insula``, ``ctx-lh-insula``, ``insula left``).
    hemisphere : str
        "both", "left" or "right"; where a text names a hemisphere too, both must hold.
    labels : sequence of str
        All labels of the atlas, without hemisphere.

    Raises
    ------
    UsageError
        A label is unknown, or its hemisphere is not the one asked for; or there is none.

    Examples
    --------
    >>> find_regions(["lh.Insula"], "both", ["insula"])
    (Region(label='insula', side='L', below_mm=None),)
    """
    if not texts:
        raise UsageError(
            "--select roi needs regions",
            expected=f"{SPEECH}, or labels of the atlas",
            found="none",
            fix=f"name them with --roi, or leave --roi out for {SPEECH}",
        )
    asked = _SIDES.get(hemisphere)
    regions: list[Region] = []
    for text in texts:
        name, side = _split_side(text, labels)
        if side and asked and side != asked:
            raise UsageError(
                f"--roi {text!r} and --hemisphere {hemisphere} have nothing in common",
                fix="leave out --hemisphere, or the side of the region",
            )
        regions += _expand(name, side or asked, labels)
    return tuple(dict.fromkeys(regions))


def _split_side(text: str, labels: Sequence[str]) -> tuple[str, Side | None]:
    """Return the name in a text and the hemisphere beside it."""
    text = text.strip()
    if text.casefold() in {label.casefold() for label in labels}:
        return text, None
    if found := _SIDE_FIRST.fullmatch(text):
        return found[2], _SIDES[found[1].lower()]
    if found := _SIDE_LAST.fullmatch(text):
        return found[1], _SIDES[found[2].lower()]
    return text, None


def _expand(name: str, side: Side | None, labels: Sequence[str]) -> list[Region]:
    """Return the region of a label, or those of a preset."""
    known = {label.casefold(): label for label in labels}
    if name.casefold() in known:
        return [Region(known[name.casefold()], side)]
    if name.casefold() == SPEECH:
        return _speech(side, known)
    a_side = "write the side beside the label, as in lh.insula, or use --hemisphere"
    raise UsageError(
        f"unknown region: {name!r}",
        expected=f"{SPEECH}, or labels of the atlas: {', '.join(labels)}",
        fix=a_side
        if name.casefold() in _SIDES
        else did_you_mean(name.casefold(), [SPEECH, *known]) or "name some of these labels",
    )


def _speech(side: Side | None, known: Mapping[str, str]) -> list[Region]:
    """Return the regions of the preset that the atlas has."""
    parts = [part for part in SPEECH_ROI if part in known]
    if not parts:
        raise UsageError(
            f"the atlas has none of the regions of the preset {SPEECH!r}",
            expected="labels of the Desikan-Killiany atlas, such as superiortemporal",
            found=", ".join(list(known.values())[:10]) + (", ..." if len(known) > 10 else ""),
            fix="name labels of this atlas with --roi, or leave out --atlas",
        )
    limit = dict.fromkeys(VENTRAL_ONLY, VENTRAL_BELOW_MM)
    return [Region(known[part], side, limit.get(part)) for part in parts]
