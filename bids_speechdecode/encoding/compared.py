"""The speech models that are compared: what their labels say, and which belongs to which."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


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


def split_label(label: str) -> tuple[str, dict[str, str]]:
    """Return what was tuned on, and the control, seed and amount that a label names.

    The labels are those of `steps.tuning.tune.Variant`.

    Examples
    --------
    >>> split_label("sub-01_control-phase_seed-1")
    ('sub-01', {'control': 'phase', 'seed': '1'})
    """
    found = re.findall(r"_(control|seed|amount)-([^_]+)", str(label))
    return re.sub(r"_(control|seed|amount)-[^_]+", "", str(label)), dict(found)


def control_pairs(labels: Iterable[str]) -> list[tuple[str, str]]:
    """Return each tuned model with each of its own controls.

    A control is a model's own if it was tuned for the same participants, with the same seed and
    on the same share of the fMRI.

    Examples
    --------
    >>> control_pairs(["untuned", "joint", "joint_control-phase", "joint_control-phase_seed-1"])
    [('joint', 'joint_control-phase')]
    """
    found = [(label, *split_label(label)) for label in dict.fromkeys(labels)]
    return [
        (model, control)
        for model, base, parts in found
        for control, other, more in found
        if "control" in more and base == other and parts == _without_control(more)
    ]


def _without_control(parts: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in parts.items() if name != "control"}


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
    """Return the model that is told of first.

    The first tuned one with all data, else the first that is compared, else the reference.
    """
    compared = [model for model in models if model.label != reference]
    tuned = [m for m in compared if m.kind == "tuned" and not m.is_variant]
    return next((m.label for m in [*tuned, *compared]), reference)
