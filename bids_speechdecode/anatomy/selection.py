"""Which channels the models read: rules of region, distance and response, and reasons in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import pandas as pd

from bids_speechdecode.anatomy.regions import Region, find_regions
from bids_speechdecode.config import RULES, SelectionConfig
from bids_speechdecode.errors import DataError, NothingSelectedError, UsageError

_SIDE_WORDS = {"L": "left", "R": "right", "B": "both sides"}
# The field of view of the MNI152 template at 1 mm, in which there is no room for more head.
_HEAD_MM = np.array([[-90.0, 91.0], [-126.0, 91.0], [-72.0, 109.0]])


class Verdict(NamedTuple):
    """What a rule says of a channel; None: it cannot tell, because a position is missing."""

    passes: bool | None
    reason: str


@dataclass(frozen=True)
class Channel:
    """What the rules know about a channel."""

    name: str
    position_mm: tuple[float, float, float] | None  # in MNI152
    label: str
    hemisphere: str  # "L", "R", "B", or "" where unknown
    nearest_label: str
    distance: float  # mm to the nearest label; NaN where no atlas was asked

    @property
    def region(self) -> str:
        """Return label and side in words, as in ``insula, left``."""
        return ", ".join(filter(None, [self.label, _SIDE_WORDS.get(self.hemisphere, "")]))


class Rule(Protocol):
    """A condition that a channel meets or not."""

    def judge(self, channel: Channel) -> Verdict:
        """Return whether `channel` passes and why, in words."""

    def __str__(self) -> str:
        """Return what is asked for, in words."""


@dataclass(frozen=True)
class Roi:
    """In one of several regions of the atlas."""

    regions: tuple[Region, ...]
    words: str

    def judge(self, channel: Channel) -> Verdict:
        """Pass a channel whose label is one of the regions.

        A label is enough, so that a contact in a participant's own space passes by the label that
        the participant's own MRI gives it; the ventral part of a gyrus needs a position in MNI152.
        """
        if not channel.label and not np.isfinite(channel.distance):
            return Verdict(None, "not localised")
        z = None if channel.position_mm is None else channel.position_mm[2]
        inside = [r.holds(channel.label, channel.hemisphere, z) for r in self.regions]
        if True in inside:
            return Verdict(True, f"in {channel.region}")
        if None in inside:
            return Verdict(None, f"not localised in MNI152 (ventral or dorsal {channel.region}?)")
        return Verdict(False, f"outside the regions: {self._where(channel)}")

    def _where(self, channel: Channel) -> str:
        if not channel.label:
            nearest = f"{channel.nearest_label} is the nearest, " if channel.nearest_label else ""
            return f"no label ({nearest}{channel.distance:.1f} mm away)"
        for region in self.regions:
            if channel.position_mm and region.covers(channel.label, channel.hemisphere):
                z, limit = channel.position_mm[2], region.below_mm
                return f"{channel.region}, z = {z:.1f} mm (ventral: below {limit:g} mm)"
        return channel.region

    def __str__(self) -> str:
        """Return the regions as the user named them."""
        return f"in {self.words}"


@dataclass(frozen=True)
class Radius:
    """Near one of several points."""

    centers_mm: np.ndarray  # (k, 3), in MNI152
    radius: float  # mm

    def judge(self, channel: Channel) -> Verdict:
        """Pass a channel whose nearest centre is no farther than the radius."""
        if channel.position_mm is None:
            return Verdict(None, f"not localised{' in MNI152' if channel.label else ''}")
        away = self.distance(channel.position_mm)
        where = f"{away:.1f} mm from the nearest centre"
        if away <= self.radius:
            return Verdict(True, where)
        return Verdict(False, f"{where} (limit {self.radius:g} mm)")

    def distance(self, position_mm: tuple[float, float, float]) -> float:
        """Return the distance to the nearest centre, mm."""
        return float(np.linalg.norm(self.centers_mm - position_mm, axis=1).min())

    def __str__(self) -> str:
        """Return radius and centres."""
        centers = "; ".join(",".join(f"{c:g}" for c in center) for center in self.centers_mm)
        return f"within {self.radius:g} mm of {centers}"


@dataclass(frozen=True)
class Responsive:
    """Responds to sound; needs no position."""

    q_of: dict[str, float]  # NaN where there is nothing to test
    limit: float  # false discovery rate

    def judge(self, channel: Channel) -> Verdict:
        """Pass a channel whose response was found at the false discovery rate."""
        q = self.q_of.get(channel.name, np.nan)
        if not np.isfinite(q):
            return Verdict(False, "does not respond to sound (constant or missing signal)")
        passes = bool(q <= self.limit)
        does = "responds" if passes else "does not respond"
        return Verdict(passes, f"{does} to sound (q = {q:.2g})")

    def __str__(self) -> str:
        """Return the limit."""
        return f"responding to sound (q <= {self.limit:g})"


def select_channels(
    table: pd.DataFrame,
    settings: SelectionConfig,
    labels: Sequence[str],
    responsive: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Return the table with the columns kept and reason.

    A channel must pass every rule; the reason of a dropped one is the first rule that it fails,
    in the order region, distance, response. ``all`` adds nothing to other rules.

    Parameters
    ----------
    table : DataFrame
        One row a channel: name, x, y, z (mm), space, label, hemisphere, nearest_label, distance
        (mm). Missing values where unknown. Only positions in MNI152 count as positions.
    settings : SelectionConfig
    labels : sequence of str
        All labels of the atlas, without hemisphere.
    responsive : DataFrame, optional
        name, sound_r and sound_q of `sound_responses`, in any order; needed by ``responsive``.

    Returns
    -------
    DataFrame
        `table` with kept (bool) and reason (str).

    Raises
    ------
    NothingSelectedError
        No channel passes.
    UsageError
        No rule, a region that the atlas has not, or a centre that is none.
    DataError
        A rule needs the position of a channel that has none, under ``--unlocalised error``.
    """
    rules = list(make_rules(settings, labels, responsive))
    channels = list(_read_channels(table))
    verdicts = [[rule.judge(channel) for rule in rules] for channel in channels]
    if settings.unlocalised == "error":
        _refuse_unlocalised(channels, verdicts)
    chosen = [_decide(each, keep=settings.unlocalised == "keep") for each in verdicts]
    table = table.assign(
        kept=np.array([kept for kept, _ in chosen], dtype=bool), reason=[why for _, why in chosen]
    )
    if not table["kept"].any():
        raise _nothing_selected(table, rules)
    return table


def make_rules(
    settings: SelectionConfig, labels: Sequence[str], responsive: pd.DataFrame | None
) -> Iterator[Rule]:
    """Yield the rules of the settings; none under ``all`` alone."""
    if not settings.rules:
        raise UsageError(
            "--select needs a rule",
            expected="some of " + ", ".join(RULES),
            found="none",
            fix="leave --select out for all good channels",
        )
    if "roi" in settings.rules:
        regions = find_regions(settings.roi, settings.hemisphere, labels)
        side = "" if settings.hemisphere == "both" else f" ({settings.hemisphere})"
        yield Roi(regions, ", ".join(settings.roi) + side)
    if "radius" in settings.rules:
        yield Radius(parse_centers(settings.center), settings.radius)
    if "responsive" in settings.rules:
        assert responsive is not None, "the rule 'responsive' needs the responses"
        q = responsive["sound_q"].where(responsive["sound_r"].notna())
        yield Responsive(
            dict(zip(responsive["name"], q.astype(float), strict=True)), settings.responsive_q
        )


def parse_centers(text: str) -> np.ndarray:
    """Return the points of ``x,y,z; x,y,z``, shape (k, 3), mm.

    Raises
    ------
    UsageError
        Anything else than three finite numbers for each point.

    Examples
    --------
    >>> parse_centers("-50,-20,8; 50,-20,8").tolist()
    [[-50.0, -20.0, 8.0], [50.0, -20.0, 8.0]]
    """
    try:  # the minus of papers is not the minus of keyboards
        points = [[float(n) for n in p.split(",")] for p in text.replace("\u2212", "-").split(";")]
    except ValueError:
        points = [[]]
    if any(len(point) != 3 or not np.isfinite(point).all() for point in points):
        raise UsageError(
            f"--center cannot be {text!r}",
            expected="x,y,z in MNI152 (mm) with decimal points, several separated by ';'",
            found=repr(text),
            fix="for example --center '-50,-20,8; 50,-20,8'",
        )
    return np.array(points)


def notes_on_centers(centers_mm: np.ndarray) -> tuple[str, ...]:
    """Return in words which centres, shape (k, 3), cannot lie in a head in MNI152."""
    outside = ((centers_mm < _HEAD_MM[:, 0]) | (centers_mm > _HEAD_MM[:, 1])).any(axis=1)
    return tuple(
        f"the centre {x:g},{y:g},{z:g} lies outside the head: --center is in mm in MNI152"
        for x, y, z in centers_mm[outside]
    )


def count_by_region(table: pd.DataFrame) -> str:
    """Return how many channels lie where, the most frequent first.

    Examples
    --------
    >>> table = pd.DataFrame({"label": ["insula", "insula", None], "hemisphere": ["L", "L", None]})
    >>> count_by_region(table)
    'insula left 2, not localised 1'
    """
    counts: dict[str, int] = {}
    for channel in _read_channels(table):
        unlabelled = "no label" if np.isfinite(channel.distance) else "not localised"
        place = channel.region.replace(",", "") if channel.label else unlabelled
        counts[place] = counts.get(place, 0) + 1
    in_order = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{place} {count}" for place, count in in_order)


def _read_channels(table: pd.DataFrame) -> Iterator[Channel]:
    """Yield what the rules know of each row; columns that are absent are unknown."""
    texts = ["name", "space", "label", "hemisphere", "nearest_label"]
    numbers = ["x", "y", "z", "distance"]
    rows = table.reindex(columns=[*texts, *numbers])
    rows[texts] = rows[texts].astype(object).where(rows[texts].notna(), "")
    rows[numbers] = rows[numbers].apply(pd.to_numeric, errors="coerce").astype(float)
    for row in rows.to_dict("records"):
        position = (row["x"], row["y"], row["z"])
        located = row["space"] == "MNI152" and bool(np.isfinite(position).all())
        yield Channel(
            name=str(row["name"]),
            position_mm=position if located else None,
            label=str(row["label"]),
            hemisphere=str(row["hemisphere"]),
            nearest_label=str(row["nearest_label"]),
            distance=row["distance"],
        )


def _decide(verdicts: Sequence[Verdict], *, keep: bool) -> tuple[bool, str]:
    """Return whether a channel is kept, and the first reason against it or all for it."""
    reasons = []
    for passes, reason in verdicts:
        if passes is False or (passes is None and not keep):
            return False, reason
        reasons.append(f"{reason}: kept as --unlocalised keep asks" if passes is None else reason)
    return True, "; ".join(dict.fromkeys(reasons)) or "good brain channel"


def _refuse_unlocalised(channels: Sequence[Channel], verdicts: Sequence[Sequence[Verdict]]) -> None:
    names = [
        channel.name
        for channel, each in zip(channels, verdicts, strict=True)
        if any(verdict.passes is None for verdict in each)
    ]
    if names:
        raise DataError(
            f"{len(names)} of {len(channels)} channels have no position, which --select needs",
            expected="a position in electrodes.tsv for every channel, as --unlocalised error asks",
            found=", ".join(names),
            fix="add the positions, or choose --unlocalised drop or keep",
        )


def _nothing_selected(table: pd.DataFrame, rules: Sequence[Rule]) -> NothingSelectedError:
    channels = list(_read_channels(table))
    placed = [channel for channel in channels if channel.position_mm or channel.label]
    fix = "name other regions, a larger --radius, fewer rules, or --unlocalised keep"
    if not placed and not all(isinstance(rule, Responsive) for rule in rules):
        fix = (
            "give positions in MNI152, or in the participant's own space with --fs-subjects-dir; "
            "or choose --unlocalised keep"
        )
    counts = f": {count_by_region(table)}" if len(table) else ""
    nearest = [_nearest(channels, rule) for rule in rules if isinstance(rule, Radius)]
    return NothingSelectedError(
        "no channel passes --select",
        expected="channels " + ", ".join(map(str, rules)) if rules else "good brain channels",
        found="; ".join(filter(None, [f"none of {len(table)} passed{counts}", *nearest])),
        fix=fix,
    )


def _nearest(channels: Sequence[Channel], rule: Radius) -> str:
    """Return in words which channel is nearest to the centres; "" if none has a position."""
    away = [(rule.distance(c.position_mm), c.name) for c in channels if c.position_mm]
    return "the nearest is {1}, {0:.1f} mm away".format(*min(away)) if away else ""
