"""electrodes.tsv and coordsystem.json -> contacts in a named space, in millimetres."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bids_speechdecode.bids.dataset import ElectrodesFile
from bids_speechdecode.bids.tables import list_some, read_json, read_tsv
from bids_speechdecode.errors import DataError

_MM_PER_UNIT = {"m": 1000.0, "cm": 10.0, "mm": 1.0}
# A head, in millimetres: contacts spread wider than this, or all closer than that, are in
# another unit than their coordsystem.json says.
_LARGEST_MM = 1000.0
_SMALLEST_MM = 1.0
_WIDEST_MM = 300.0
_UNITS = {"meters": "m", "metres": "m", "centimeters": "cm", "centimetres": "cm"}
_UNITS |= {"millimeters": "mm", "millimetres": "mm"}
# Where no file names the unit: neighbouring contacts are 1.5 to 15 mm apart (microgrids and
# distant single contacts aside), which no two units can both make of the same numbers.
_SPACING_MM = (1.5, 15.0)
_N_TO_INFER = 4


@dataclass(frozen=True)
class Electrodes:
    """Contacts of one participant in one space.

    Attributes
    ----------
    names : tuple of str, length n
    positions_mm : array, shape (n, 3), mm
        NaN where the contact is not localised or the unit is no length.
    space : str
        ``iEEGCoordinateSystem`` as given, e.g. ``MNI152NLin2009aSym``; "" where unknown.
    groups : tuple of str, length n
        Shaft, grid or strip; "" where not given.
    hemispheres : tuple of str, length n
        "L" or "R" as the column ``hemisphere`` has it; "" where not given.
    notes : tuple of str
        Everything odd that was handled, counted.
    doubts : tuple of str
        Those of the notes that make positions wrong or unused, or may.
    """

    names: tuple[str, ...]
    positions_mm: np.ndarray
    space: str
    groups: tuple[str, ...] = ()
    hemispheres: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()

    @property
    def n_localised(self) -> int:
        """Number of contacts with all three coordinates."""
        return int(np.isfinite(self.positions_mm).all(axis=1).sum())


def read_electrodes(electrodes_file: ElectrodesFile) -> Electrodes:
    """Return the contacts of an ``electrodes.tsv``, in mm, with the reason for every gap.

    Raises
    ------
    DataError
        If a column of name, x, y, z is missing or a coordinate is no number.
    """
    table, notes = read_tsv(electrodes_file.electrodes)
    missing = [column for column in ("name", "x", "y", "z") if column not in table]
    if missing:
        raise DataError(
            "electrodes.tsv lacks a column.",
            expected="name, x, y, z",
            found=", ".join(map(str, table.columns)),
            where=electrodes_file.electrodes,
            fix="name the columns so, separated by single tabs",
        )
    table, row_notes = _one_row_each(table)
    system = read_json(electrodes_file.coordsystem) if electrodes_file.coordsystem else {}
    space, space_notes = _space(electrodes_file, system)
    values, place_notes = _without_placeholders(_coordinates(table, electrodes_file))
    positions, unit_notes = _to_mm(values, system, space)
    positions, far_notes = _without_strays(positions, tuple(table["name"]))
    doubts = (*row_notes, *space_notes, *unit_notes, *place_notes, *far_notes)
    n_nowhere = int(np.isnan(positions).any(axis=1).sum())
    if n_nowhere and np.isfinite(positions).any():
        notes += (f"{n_nowhere} of {len(table)} contacts are not localised",)
    return Electrodes(
        names=tuple(table["name"]),
        positions_mm=positions,
        space=space,
        groups=_texts(table, "group"),
        hemispheres=tuple(_side(text) for text in _texts(table, "hemisphere")),
        notes=(*doubts, *notes),
        doubts=doubts,
    )


def _one_row_each(table: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return the rows that have a name, the first of each, and what was left out."""
    nameless = table["name"].isna()
    twice = ~nameless & table["name"].duplicated()
    notes = []
    if nameless.any():
        notes.append(f"{nameless.sum()} of {len(table)} rows have no name and are left out")
    if twice.any():
        names = list_some(dict.fromkeys(table.loc[twice, "name"]), 5)
        notes.append(f"{twice.sum()} rows repeat a name, the first is used: {names}")
    return table[~nameless & ~twice], tuple(notes)


def _texts(table: pd.DataFrame, column: str) -> tuple[str, ...]:
    if column not in table:
        return ("",) * len(table)
    return tuple(text or "" for text in table[column])


def _side(text: str) -> str:
    return {"l": "L", "left": "L", "r": "R", "right": "R"}.get(text.lower(), "")


def _coordinates(table: pd.DataFrame, source: ElectrodesFile) -> np.ndarray:
    """Return x, y, z as written, shape (n, 3); NaN for n/a."""
    text = table[["x", "y", "z"]]
    numbers = text.apply(pd.to_numeric, errors="coerce")
    wrong = numbers.isna() & text.notna() & (text.map(lambda v: str(v).lower()) != "nan")
    if wrong.to_numpy().any():
        line = table.index[wrong.any(axis=1)][0]
        raise DataError(
            "A coordinate is no number.",
            expected="a number or n/a",
            found="\t".join(str(value) for value in text.loc[line]),
            where=f"{source.electrodes}, line {line}",
            fix="write decimal points, no units, and n/a where a contact was not localised",
        )
    values = numbers.to_numpy(dtype=float)
    return np.where(np.isfinite(values), values, np.nan)


def _without_placeholders(values: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return coordinates with NaN for several contacts at exactly 0, 0, 0, which stands for n/a."""
    zero = (values == 0).all(axis=1)
    if zero.sum() < 2:
        return values, ()
    note = f"{zero.sum()} contacts are at exactly 0, 0, 0, which is taken for n/a"
    return np.where(zero[:, None], np.nan, values), (note,)


def _to_mm(
    values: np.ndarray, system: Mapping[str, Any], space: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return positions in mm, or NaN and why they cannot be had."""
    notes: tuple[str, ...] = ()
    unit = str(system.get("iEEGCoordinateUnits", "n/a")).strip()
    unit = _UNITS.get(unit.lower(), unit.lower() if unit.lower() in _MM_PER_UNIT else unit)
    if "iEEGCoordinateUnits" not in system and space != "Pixels":
        unit, notes = _infer_unit(values)
    nowhere = np.full_like(values, np.nan)
    if unit not in _MM_PER_UNIT:
        reason = (
            f"coordinates in {unit!r}, which is no length: positions are not used; "
            "iEEGCoordinateUnits may be m, cm or mm"
        )
        return nowhere, notes or (reason,)
    positions = values * _MM_PER_UNIT[unit]
    placed = positions[np.isfinite(positions).all(axis=1)]
    if not len(placed):
        return positions, (*notes, "no contact is localised")
    reach, width = np.abs(placed).max(axis=1), _distance_to_middle(placed)
    # The median, so that one typing error does not cost the other contacts.
    if not _SMALLEST_MM <= np.median(reach) <= _LARGEST_MM or np.median(width) > _WIDEST_MM / 2:
        fits = [other for other in _fitting_units(values) if other != unit]
        hint = f"; their spacing is that of contacts in {fits[0]}" if fits else ""
        return nowhere, (
            f"coordinates up to {reach.max():g} mm from the origin and "
            f"{np.ptp(placed, axis=0).max():g} mm apart, so their unit cannot be {unit!r}: "
            f"positions are not used; correct iEEGCoordinateUnits{hint}",
        )
    return positions, notes


def _distance_to_middle(positions_mm: np.ndarray) -> np.ndarray:
    """Return how far each contact is from the median one along the worst axis, mm."""
    middle = np.nanmedian(positions_mm, axis=0)
    return np.asarray(np.abs(positions_mm - middle).max(axis=1))


def _without_strays(
    positions_mm: np.ndarray, names: Sequence[str]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return positions with NaN for the contacts that no head can hold beside the others."""
    if not np.isfinite(positions_mm).all(axis=1).any():
        return positions_mm, ()
    away = _distance_to_middle(positions_mm)
    stray = away > _WIDEST_MM  # NaN is not
    if not stray.any():
        return positions_mm, ()
    who = list_some([name for name, is_it in zip(names, stray, strict=True) if is_it], 3)
    note = (
        f"{stray.sum()} of {len(names)} contacts lie up to {np.nanmax(away):.0f} mm from the "
        f"others, so they count as not localised: {who}"
    )
    return np.where(stray[:, None], np.nan, positions_mm), (note,)


def _infer_unit(values: np.ndarray) -> tuple[str, tuple[str, ...]]:
    """Return the unit in which the spacing of the contacts is that of electrodes, and a note."""
    fits = _fitting_units(values)
    if not fits:
        return "", (
            "no file says the unit of the coordinates, and the spacing of the contacts does not "
            "show it, so no length is known: positions are not used; write iEEGCoordinateUnits",
        )
    return fits[0], (
        f"no file says the unit of the coordinates; taken for {fits[0]}, in which neighbouring "
        f"contacts are {_median_spacing(values) * _MM_PER_UNIT[fits[0]]:.1f} mm apart",
    )


def _fitting_units(values: np.ndarray) -> list[str]:
    """Return the units in which the contacts are as far apart as contacts are: one or none."""
    spacing, (least, most) = _median_spacing(values), _SPACING_MM
    return [unit for unit, mm in _MM_PER_UNIT.items() if least <= spacing * mm < most]


def _median_spacing(values: np.ndarray) -> float:
    """Return the median distance to the nearest other contact; NaN for too few contacts."""
    from scipy import spatial

    placed = np.unique(values[np.isfinite(values).all(axis=1)], axis=0)
    if len(placed) < _N_TO_INFER:
        return float("nan")
    return float(np.median(spatial.cKDTree(placed).query(placed, k=2)[0][:, 1]))


def _space(source: ElectrodesFile, system: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """Return the coordinate system by name; the file name's space if the sidecar is silent."""
    stated = str(system.get("iEEGCoordinateSystem") or "")
    parts = dict(part.partition("-")[::2] for part in source.electrodes.stem.split("_"))
    named = parts.get("space", "")
    if stated and named and not _agree(stated, named):
        return stated, (
            f"the file's name says space {named}, coordsystem.json says {stated}, which is used",
        )
    if stated:
        return stated, ()
    lacking = (
        "coordsystem.json names no iEEGCoordinateSystem"
        if source.coordsystem
        else "there is no coordsystem.json"
    )
    if named:
        return named, (f"{lacking}; the space is taken from the file's name: {named}",)
    return "", (f"{lacking}, so the space of the coordinates is not known",)


def _agree(stated: str, named: str) -> bool:
    """Whether two names of a space can be one: a file's name is often shorter (``MNI``)."""
    stated, named = stated.lower(), named.lower()
    return stated.startswith(named) or named.startswith(stated)
