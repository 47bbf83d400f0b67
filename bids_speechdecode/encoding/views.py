"""Which rows of the tables of scores are told of: responsive electrodes, a band, a layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

RESPONSIVE_Q = 0.05


def keep_responsive(table: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a table that are about responsive electrodes.

    An electrode is responsive in a band if any of the compared models, in any layer, predicts it
    with q <= 0.05. The set is one for all models and layers, so that their means are about the
    same electrodes.

    Parameters
    ----------
    table : data frame
        Columns band, name, and participant where there are several.
    scores : data frame
        The same columns and q (false discovery rate), of all models and layers.
    """
    keys = [*(["participant"] if "participant" in scores else []), "band", "name"]
    chosen = pd.MultiIndex.from_frame(scores.loc[scores["q"] <= RESPONSIVE_Q, keys])
    return table[pd.MultiIndex.from_frame(table[keys]).isin(chosen)]


def shown_band(bands: Iterable[Any]) -> str:
    """Return the carrier band that is told of first: high gamma, or the first there is."""
    found = list(dict.fromkeys(map(str, bands)))
    return "highgamma" if "highgamma" in found or not found else found[0]


def shown_layers(electrodes: pd.DataFrame, reference: str, band: str) -> dict[str, float]:
    """Return the layer that is shown of each model; NaN where it has none.

    It is the layer with the highest mean r of the reference, so that the choice can only favour
    the reference; a model without that layer shows its own best.

    Parameters
    ----------
    electrodes : data frame
        Columns model, layer, band, r, and participant where there are several.
    """
    own = electrodes[electrodes["band"] == band]
    keys = ["model", "layer", *(["participant"] if "participant" in own else [])]
    means = own.groupby(keys, dropna=False, sort=False)["r"].mean()
    per_layer = means.groupby(["model", "layer"], dropna=False, sort=False).mean().dropna()
    best: dict[str, float] = {}
    every: dict[str, list[float]] = {}
    for model, found in per_layer.groupby("model", sort=False):
        layers = found.index.get_level_values("layer").to_numpy(float)
        best[str(model)] = float(layers[int(np.argmax(found.to_numpy()))])
        every[str(model)] = layers.tolist()
    wanted = best.get(reference, np.nan)
    return {model: wanted if wanted in every[model] else best[model] for model in best}


def in_view(table: pd.DataFrame, layers: Mapping[str, float], band: str | None) -> pd.DataFrame:
    """Return the rows of a band (None: all) at the layer that is shown of their model."""
    own = table if band is None else table[table["band"] == band]
    wanted = own["model"].map(lambda model: layers.get(str(model), np.nan)).astype(float)
    same = (own["layer"] == wanted) | (own["layer"].isna() & wanted.isna())
    # A table may know a model by one layer only, such as features without layers.
    absent = ~own["model"].isin(own.loc[same, "model"])
    first = own["layer"].fillna(-1) == own.groupby("model")["layer"].transform("first").fillna(-1)
    return own[same | (absent & first)]
