"""electrodes.tsv and coordsystem.json -> contacts in a named space, in millimetres."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bids_speechdecode.bids.dataset import ElectrodesFile
from bids_speechdecode.bids.tables import read_json, read_tsv
from bids_speechdecode.errors import DataError

_MM_PER_UNIT = {"m": 1000.0, "cm": 10.0, "mm": 1.0}
# A head, in millimetres: contacts spread wider than this, or all closer than that, are in
# another unit than their coordsystem.json says.
_LARGEST_MM = 1000.0
_SMALLEST_MM = 1.0


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
    notes : tuple of str
        Everything odd that was handled, counted.
    """

    names: tuple[str, ...]
    positions_mm: np.ndarray
    space: str
    groups: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

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
        )
    table = table[table["name"].notna()]
    system = read_json(electrodes_file.coordsystem) if electrodes_file.coordsystem else {}
    positions, unit_note = _to_mm(_coordinates(table, electrodes_file), system)
    n_nowhere = int(np.isnan(positions).any(axis=1).sum())
    if n_nowhere and not unit_note:
        unit_note = f"{n_nowhere} of {len(table)} contacts are not localised"
    groups = table["group"] if "group" in table else pd.Series([None] * len(table), dtype=object)
    return Electrodes(
        names=tuple(table["name"]),
        positions_mm=positions,
        space=_space(electrodes_file, system),
        groups=tuple(group or "" for group in groups),
        notes=(*notes, *([unit_note] if unit_note else [])),
    )


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
        )
    values = numbers.to_numpy(dtype=float)
    return np.where(np.isfinite(values), values, np.nan)


def _to_mm(values: np.ndarray, system: Mapping[str, Any]) -> tuple[np.ndarray, str]:
    """Return positions in mm, or NaN and why they cannot be had."""
    unit = str(system.get("iEEGCoordinateUnits", "n/a"))
    nowhere = np.full_like(values, np.nan)
    if unit not in _MM_PER_UNIT:
        return nowhere, f"coordinates in {unit!r}, which is no length: positions are not used"
    positions = values * _MM_PER_UNIT[unit]
    reach = np.abs(positions[np.isfinite(positions)])
    if reach.size and (reach.max() > _LARGEST_MM or reach.max() < _SMALLEST_MM):
        return nowhere, (
            f"coordinates up to {reach.max():g} mm from the origin, so their unit cannot be "
            f"{unit!r}: positions are not used"
        )
    return positions, ""


def _space(source: ElectrodesFile, system: Mapping[str, Any]) -> str:
    """Return the coordinate system by name; the file name's space if the sidecar is silent."""
    parts = dict(part.partition("-")[::2] for part in source.electrodes.stem.split("_"))
    return str(system.get("iEEGCoordinateSystem") or parts.get("space", ""))
