"""The speech models of encoding results: their names in words, their order, colours and marks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bids_speechdecode.report.figures import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
)

MOST_DRAWN = 7  # models in one figure; more lines would not be told apart
CONTROL_TO_WORDS = {
    "phase": "phase-randomised BOLD",
    "downsampled": "BOLD at half the rate",
    "stories": "shuffled stories",
}
# Marks repeat what the colours say; hollow ones are controls.
_MARKS = {
    "tuned": ((VERMILION, "o"), (ORANGE, "D"), (PURPLE, "P")),
    "control": ((BLUE, "v"), (SKY, "^"), (GREEN, "<")),
    "other": ((GREY, "X"), (PURPLE, "*"), (ORANGE, "h")),
}
_BASES = {"untuned": "Untuned", "joint": "Tuned, joint"}


@dataclass(frozen=True)
class Model:
    """A speech model whose features predicted electrodes.

    Attributes
    ----------
    label : str
        As it stands in the tables, such as ``joint_control-phase``.
    kind : str
        untuned, tuned, control or other.
    seed : int
        Of the tuning; 0 is the first.
    amount : float
        Share of the fMRI it was tuned on, 0 to 1.
    """

    label: str
    kind: str
    seed: int = 0
    amount: float = 1.0

    @property
    def is_variant(self) -> bool:
        """Whether it repeats another model with another seed or less data."""
        return self.seed > 0 or self.amount < 1


def model_words(label: str) -> str:
    """Return the name of a model as a reader understands it.

    Examples
    --------
    >>> model_words("sub-01_control-phase_seed-1")
    'Tuned, sub-01, control: phase-randomised BOLD, seed 1'
    >>> model_words("joint_amount-50"), model_words("untuned"), model_words("mel")
    ('Tuned, joint, 50% of the fMRI', 'Untuned', 'mel')
    """
    base, parts = split_label(label)
    words = _BASES.get(base, f"Tuned, {base}" if base.startswith("sub-") else base)
    if "control" in parts:
        words += f", control: {CONTROL_TO_WORDS.get(parts['control'], parts['control'])}"
    if "seed" in parts:
        words += f", seed {parts['seed']}"
    return words + (f", {parts['amount']}% of the fMRI" if "amount" in parts else "")


def split_label(label: str) -> tuple[str, dict[str, str]]:
    """Return what was tuned on, and the control, seed and amount that a label names."""
    found = re.findall(r"_(control|seed|amount)-([^_]+)", str(label))
    return re.sub(r"_(control|seed|amount)-[^_]+", "", str(label)), dict(found)


def read_models(sidecar: Mapping[str, Any], labels: Iterable[str]) -> tuple[Model, ...]:
    """Return the models of a table in their order; what the sidecar leaves out, the label tells."""
    listed = [item for item in sidecar.get("Models") or [] if isinstance(item, Mapping)]
    told = {str(item.get("Label")): item for item in listed}
    present = list(dict.fromkeys(map(str, labels)))
    ordered = [label for label in told if label in present]
    ordered += [label for label in present if label not in told]
    return tuple(_model(label, told.get(label, {})) for label in ordered)


def _model(label: str, told: Mapping[str, Any]) -> Model:
    base, parts = split_label(label)
    tuned = "tuned" if base == "joint" or base.startswith("sub-") else "other"
    kind = "control" if "control" in parts else "untuned" if base == "untuned" else tuned
    amount = told.get("Amount")
    share = float(parts.get("amount", 100)) / 100 if amount is None else float(amount)
    seed = told.get("Seed")
    return Model(
        label,
        str(told.get("Kind") or kind),
        int(parts.get("seed", 0) if seed is None else seed),
        share,
    )


def find_reference(named: object, models: Sequence[Model]) -> str:
    """Return the label of the model that others are compared with: `named`, or the first."""
    first = models[0].label if models else ""
    return str(named) if named in [model.label for model in models] else first


def main_model(models: Sequence[Model], reference: str) -> str:
    """Return the model that a report tells of first.

    The first tuned one with all data, else the first that is compared, else the reference.
    """
    compared = [model for model in models if model.label != reference]
    tuned = [m for m in compared if m.kind == "tuned" and not m.is_variant]
    return next((m.label for m in [*tuned, *compared]), reference)


def drawn_models(models: Sequence[Model], reference: str) -> tuple[str, ...]:
    """Return which models a figure shows: reference, tuned, controls, others; no variants."""
    order = {"tuned": 1, "control": 2, "other": 3}
    ordered = sorted(models, key=lambda m: (m.label != reference, order.get(m.kind, 0)))
    kept = [m.label for m in ordered if m.label == reference or not m.is_variant]
    return tuple(kept[:MOST_DRAWN])


def model_styles(models: Sequence[Model], reference: str) -> dict[str, dict[str, Any]]:
    """Return colour and mark of every model; the reference is black."""
    styles: dict[str, dict[str, Any]] = {}
    n_of_kind: dict[str, int] = {}
    for model in models:
        kind = model.kind if model.kind in _MARKS else "other"
        if model.label == reference:
            styles[model.label] = {"color": BLACK, "marker": "s", "markerfacecolor": BLACK}
            continue
        if model.is_variant:
            styles[model.label] = {"color": GREY, "marker": ".", "markerfacecolor": GREY}
            continue
        marks = _MARKS[kind]
        color, marker = marks[n_of_kind.get(kind, 0) % len(marks)]
        n_of_kind[kind] = n_of_kind.get(kind, 0) + 1
        face = "white" if kind == "control" else color
        styles[model.label] = {"color": color, "marker": marker, "markerfacecolor": face}
    return styles


# ----------------------------------------------------------------- which rows a report shows


def shown_band(bands: Iterable[Any]) -> str:
    """Return the carrier band that is told of first: high gamma, or the first there is."""
    found = list(dict.fromkeys(map(str, bands)))
    return "highgamma" if "highgamma" in found or not found else found[0]


BAND_TO_WORDS = {
    "slow": "slow signal",
    "theta": "theta",
    "alpha": "alpha",
    "beta": "beta",
    "gamma": "gamma",
    "highgamma": "high gamma",
}


def band_words(band: str) -> str:
    """Return the name of a carrier band."""
    return BAND_TO_WORDS.get(band, band)


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
