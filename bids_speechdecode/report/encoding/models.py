"""The speech models of encoding results in words, colours and marks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bids_speechdecode.encoding.compared import Model, split_label
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
