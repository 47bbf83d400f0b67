"""Encoding results on disk, and the parts of them that a report shows; absent is empty."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from bids_speechdecode.bids.sidecars import read_table
from bids_speechdecode.encoding.compared import Model, find_reference, main_model, read_models
from bids_speechdecode.encoding.views import in_view, keep_responsive, shown_band, shown_layers
from bids_speechdecode.report.brain import Q
from bids_speechdecode.report.electrode_tables import Described
from bids_speechdecode.report.encoding.models import drawn_models, model_styles
from bids_speechdecode.report.page import entity, read_object, tolerate

BROADBAND = "broadband"
_WORDS = frozenset(
    {"model", "reference", "band", "modulation", "electrodes", "profile", "participant"}
    | {"name", "type", "group", "space", "label", "hemisphere", "simulated", "conclusion"}
)
_PLACE = ("x", "y", "z", "space", "label", "hemisphere")
_TEST = ("difference", "ci_low", "ci_high", "p")
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "encoding": (
        *("model", "layer", "band", "name", "type", "group", *_PLACE, "distance", "r", "r2"),
        *("p", "q", "lag", "alpha", "noise_ceiling", "unique_r2", "nuisance_r2", "joint_r2"),
        *("n_samples", "simulated"),
    ),
    "encodingLags": ("model", "layer", "band", "name", "lag", "r"),
    "encodingModulations": ("model", "layer", "band", "name", "low", "high", "r", "coherence"),
    "encodingContrasts": (
        *("model", "reference", "layer", "band", "modulation", "electrodes", "n_electrodes"),
        *_TEST,
        "detectable",
    ),
    "encodingElectrodeContrasts": (
        *("model", "reference", "layer", "band", "name", *_PLACE, *_TEST, "q"),
    ),
}


def read_scores(path: Path, columns: Sequence[str]) -> Described:
    """Return a table of scores with all of `columns`, words as words, and its sidecar."""
    table = tolerate(read_table(path) if path.is_file() else pd.DataFrame(), columns)
    for name in table.columns:
        if name in _WORDS:
            as_text = [None if pd.isna(word) else str(word) for word in table[name]]
            table[name] = pd.Series(as_text, index=table.index, dtype=object)
        elif name in columns:
            table[name] = pd.to_numeric(table[name], errors="coerce")
    return Described(table, read_object(path.with_suffix(".json")))


@dataclass(frozen=True)
class Encoding:
    """The encoding results of one participant, or of the group, in one task.

    Attributes
    ----------
    task : str
    tables : mapping of desc to Described
        By the ``desc`` of the file; of the group `electrodes` and `contrasts` hold all
        participants.
    """

    task: str
    tables: Mapping[str, Described]

    @property
    def electrodes(self) -> pd.DataFrame:
        """One row per model, layer, band and electrode that has an r."""
        table = self.tables[self._main].table
        return table[table["r"].notna()]

    @property
    def sidecar(self) -> Mapping[str, object]:
        """What the step says of the electrodes' table."""
        return self.tables[self._main].sidecar

    @property
    def _main(self) -> str:
        return next(iter(self.tables))

    @cached_property
    def models(self) -> tuple[Model, ...]:
        """Every model, in the order of the step."""
        return read_models(self.sidecar, self.electrodes["model"])

    @cached_property
    def reference(self) -> str:
        """Label of the model that others are compared with."""
        contrasts = self.tables["encodingContrasts"].table["reference"].dropna()
        named = self.sidecar.get("Reference") or next(iter(contrasts), None)
        return find_reference(named, self.models)

    @cached_property
    def main(self) -> str:
        """Label of the model that is told of first."""
        return main_model(self.models, self.reference)

    @cached_property
    def drawn(self) -> tuple[str, ...]:
        """Labels of the models in figures, the reference first."""
        return drawn_models(self.models, self.reference)

    @cached_property
    def styles(self) -> dict[str, dict[str, object]]:
        """Colour and mark of every model."""
        return model_styles(self.models, self.reference)

    @cached_property
    def bands(self) -> list[str]:
        """Carrier bands, in the order of the step."""
        return list(dict.fromkeys(self.electrodes["band"].dropna()))

    @cached_property
    def band(self) -> str:
        """The carrier band that is told of first."""
        return shown_band(self.bands)

    @cached_property
    def layers(self) -> dict[str, float]:
        """The layer that is shown of each model in that band."""
        return shown_layers(self.electrodes, self.reference, self.band)

    @cached_property
    def shown(self) -> pd.DataFrame:
        """The electrodes in the shown band and layers: one row per model and electrode."""
        return in_view(self.electrodes, self.layers, self.band)

    @cached_property
    def counted(self) -> str:
        """Which electrodes the means of the page are over: "responsive", "all" where none is."""
        own = self.electrodes[self.electrodes["band"] == self.band]
        return "responsive" if len(keep_responsive(own, own)) else "all"

    def only_counted(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return the rows of a table with columns band and name that are of these electrodes."""
        return keep_responsive(table, self.electrodes) if self.counted == "responsive" else table

    def view(self, desc: str) -> pd.DataFrame:
        """Return the rows of a table in the shown band and layers."""
        table = self.tables[desc].table
        return in_view(table, self.layers, self.band)


def read_encoding(folder: Path) -> dict[str, Encoding]:
    """Return what there is of a participant's encoding, by task.

    Parameters
    ----------
    folder : path
        ``sub-XX`` of the derivative dataset.
    """
    pattern = re.compile(rf"{re.escape(folder.name)}_task-[^_]+_desc-encoding_scores\.tsv")
    paths = sorted(p for p in (folder / "ieeg").glob("*.tsv") if pattern.fullmatch(p.name))
    found = {entity(path, "task"): _read_all(path) for path in paths}
    return {task: own for task, own in found.items() if len(own.electrodes)}


def _read_all(path: Path) -> Encoding:
    tables = {
        desc: read_scores(path.with_name(path.name.replace("desc-encoding_", f"desc-{desc}_")), c)
        for desc, c in COLUMNS.items()
    }
    return Encoding(entity(path, "task"), tables)


# ------------------------------------------------------- what figures and tables are made from


def electrode_gains(found: Encoding) -> pd.DataFrame:
    """Return the gain of every compared model over the reference, electrode by electrode.

    Columns of the electrodes' table, with q that of the difference (NaN: not tested),
    r_reference, and gain (difference in r).
    """
    keys = ["participant", "name"] if "participant" in found.shown else ["name"]
    own = found.shown[found.shown["model"] != found.reference].drop(columns=["q", "p"])
    reference = found.shown.loc[found.shown["model"] == found.reference, [*keys, "r"]]
    gains = own.merge(reference.rename(columns={"r": "r_reference"}), on=keys, how="inner")
    gains["gain"] = gains["r"] - gains["r_reference"]
    tested = found.tables.get("encodingElectrodeContrasts")
    if tested is None or tested.table.empty:
        return gains.assign(q=np.nan)
    contrasts = in_view(tested.table, found.layers, found.band)
    contrasts = contrasts[contrasts["reference"] == found.reference]
    contrasts = contrasts[["model", "name", "q"]].drop_duplicates(["model", "name"])
    return gains.merge(contrasts, on=["model", "name"], how="left")


def spread(table: pd.DataFrame, keys: Sequence[str], column: str = "r") -> pd.DataFrame:
    """Return the mean over electrodes and their quartiles: value, ci_low, ci_high by `keys`."""
    grouped = table.dropna(subset=[column]).groupby(list(keys), sort=False, dropna=False)[column]
    found = grouped.agg(
        value="mean", ci_low=lambda v: v.quantile(0.25), ci_high=lambda v: v.quantile(0.75)
    )
    return found.reset_index()


def lag_curves(found: Encoding) -> pd.DataFrame:
    """Return the mean r at every lag over the counted electrodes: model, lag, r, quartiles."""
    table = found.only_counted(found.view("encodingLags"))
    own = table[table["model"].isin(found.drawn)]
    return spread(own, ["model", "lag"]).rename(columns={"value": "r"})


def best_lags(found: Encoding) -> dict[str, np.ndarray]:
    """Return the best lags of the predicted electrodes (seconds) under main model and reference."""
    best = {}
    for model in dict.fromkeys([found.main, found.reference]):
        own = found.shown[found.shown["model"] == model]
        lags = own.loc[own["q"] <= Q, "lag"].dropna().to_numpy(float)
        if len(lags):
            best[model] = lags
    return best


def own_controls(found: Encoding, contrasts: pd.DataFrame, models: Sequence[str]) -> pd.DataFrame:
    """Return the contrasts of some models with their own controls, not with the reference."""
    is_own = contrasts["model"].isin(models) & (contrasts["reference"] != found.reference)
    return contrasts[is_own]


def gains_of(found: Encoding, contrasts: pd.DataFrame) -> pd.DataFrame:
    """Return contrasts with the reference over the counted electrodes, with a column value."""
    own = contrasts[contrasts["reference"] == found.reference]
    own = own[own["electrodes"] == found.counted]
    return own.assign(value=own["difference"])


def modulation_bands(table: pd.DataFrame) -> list[tuple[float, float]]:
    """Return the bands of modulation (hertz) of a table with columns low and high, in order."""
    known = table[["low", "high"]].dropna().drop_duplicates().sort_values(["low", "high"])
    return [(float(low), float(high)) for low, high in known.to_numpy(float)]


def with_modulation(contrasts: pd.DataFrame) -> pd.DataFrame:
    """Return the contrasts in bands of modulation, with columns low and high (hertz)."""
    parts = contrasts["modulation"].astype(str).str.extract(r"^([\d.]+)-([\d.]+)$").astype(float)
    return contrasts.assign(low=parts[0], high=parts[1]).dropna(subset=["low", "high"])


def placed(table: pd.DataFrame, bands: Sequence[tuple[float, float]]) -> pd.DataFrame:
    """Return the rows of a table that lie in one of the bands, with their place on the axis."""
    keys = [(round(low, 6), round(high, 6)) for low, high in bands]
    own = [(round(lo, 6), round(hi, 6)) for lo, hi in table[["low", "high"]].to_numpy(float)]
    places = [keys.index(key) if key in keys else np.nan for key in own]
    return table.assign(place=np.array(places, dtype=float)).dropna(subset=["place"])


def band_profiles(found: Encoding, contrasts: pd.DataFrame) -> list[pd.DataFrame]:
    """Return r and gain of every model in every carrier band, each at its band's shown layers.

    Two tables with columns model, place (of the band), value, ci_low, ci_high.
    """
    levels, gains = [], []
    for place, band in enumerate(found.bands):
        layers = shown_layers(found.electrodes, found.reference, band)
        own = in_view(found.electrodes, layers, band)
        levels.append(spread(found.only_counted(own), ["model"]).assign(place=place))
        broad = in_view(contrasts[contrasts["modulation"] == BROADBAND], layers, band)
        gains.append(gains_of(found, broad).assign(place=place))
    return [pd.concat(levels), pd.concat(gains)]


def nyquist(sidecar: Mapping[str, object]) -> float | None:
    """Return half the rate of the fMRI (hertz) where the sidecar has its time of repetition."""
    for key in ("RepetitionTime", "TR"):
        value = sidecar.get(key)
        if isinstance(value, int | float) and value > 0:
            return 0.5 / float(value)
    return None


def any_simulated(encoded: Mapping[str, Encoding]) -> bool:
    """Return whether any table of encoding says that its data are simulated."""
    return any(
        str(found.sidecar.get("Simulated")).lower() == "true"
        or (found.electrodes["simulated"].astype(str).str.lower() == "true").any()
        for found in encoded.values()
    )
