"""Experiments ``targets`` and ``encoders``: the same data, another target, encoder or loss.

An arm is a change of settings. Every arm is trained with pretraining and without, from every seed,
and ranks the windows that the run's own settings rank.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from bids_speechdecode.config import DEFAULT_MODELS, WITHOUT_MODEL
from bids_speechdecode.errors import UsageError
from bids_speechdecode.steps.context import FINETUNED, PRETRAINED, TASK_ONLY, Context
from bids_speechdecode.steps.experiments.cells import Cell, Scored, Training
from bids_speechdecode.steps.experiments.findings import (
    Experiment,
    Factors,
    Finding,
    Found,
    contrast,
    contrast_gains,
)
from bids_speechdecode.steps.experiments.scaling import seeds
from bids_speechdecode.steps.plan import FINETUNE, PRETRAIN

Results = Sequence[tuple[Factors, Scored]]
Changes = tuple[tuple[str, Any], ...]


def targets(context: Context) -> Experiment:
    """Compare the run's target with those of ``experiments.targets``."""
    own = context.config.target
    name = own.name if own.name in WITHOUT_MODEL else f"{own.name} layer {own.layer}"
    arms: dict[str, Changes] = {name: ()}
    for text in context.config.experiments.targets:
        label, changes = _read_target(text)
        arms.setdefault(label, changes)
    return _compare(context, "targets", arms)


def _read_target(text: str) -> tuple[str, Changes]:
    """Return label and settings of a target written as ``name`` or ``name:layer``.

    Raises
    ------
    UsageError
        No such target, or a layer that is no number.
    """
    name, _, layer = text.partition(":")
    if name not in DEFAULT_MODELS or (layer and not layer.isdigit()):
        raise UsageError(
            "targets of [experiments] cannot be read",
            expected=f"{', '.join(DEFAULT_MODELS)}, with :LAYER where it has layers",
            found=text,
        )
    model, default = DEFAULT_MODELS[name]
    changes = (
        ("target.name", name),
        ("target.model", model),
        ("target.layer", int(layer or default)),
    )
    return (name if name in WITHOUT_MODEL else f"{name} layer {layer or default}"), changes


def encoders(context: Context) -> Experiment:
    """Compare the run's encoder and loss with a linear encoder and the other loss."""
    one_way = not context.config.pretrain.symmetric
    loss = tuple((f"{part}.symmetric", one_way) for part in ("pretrain", "finetune"))
    arms: dict[str, Changes] = {
        "convolutional encoder": (),
        "linear encoder": (("encoder.kind", "linear"), ("encoder.spatial", "none")),
        "symmetric loss" if one_way else "one-way loss": loss,
    }
    return _compare(context, "encoders", arms)


def _compare(context: Context, name: str, arms: Mapping[str, Changes]) -> Experiment:
    version = context.plan.versions(FINETUNE)[0]
    cells: dict[Cell, Factors] = {}
    for seed, (arm, changes) in itertools.product(seeds(context), arms.items()):
        alone = Training(TASK_ONLY, seed, changes=changes)
        of = {"arm": arm, "seed": seed}
        cells[Cell(alone, FINETUNE, version)] = {**of, "pretrained": False}
        if context.plan.select(PRETRAIN):
            parent = Training(PRETRAINED, seed, changes=changes)
            tuned = Training(FINETUNED, seed, changes=changes, parent=parent)
            cells[Cell(tuned, FINETUNE, version)] = {**of, "pretrained": True}
    return Experiment(name, cells, lambda results: Found(_say(context, list(arms), results)))


def _say(context: Context, arms: Sequence[str], results: Results) -> Iterator[Finding]:
    rng = partial(np.random.default_rng, [context.config.run.seed, 4])
    settings = context.config.evaluation
    best = any(f["pretrained"] for f, _ in results)
    where = "pretrained and finetuned" if best else "trained on the task"
    for arm in arms[1:]:
        yield contrast(
            f"{arms[0]} against {arm}",
            _pick(results, arms[0], best),
            _pick(results, arm, best),
            (f"{arms[0]} ({where})", arm),
            settings,
            rng(),
        )
        if best:
            gains = [
                (_pick(results, a, pretrained=True), _pick(results, a, pretrained=False))
                for a in (arms[0], arm)
            ]
            name = f"gain from pretraining, {arms[0]} against {arm}"
            yield contrast_gains(name, gains[0], gains[1], (arms[0], arm), settings, rng())


def _pick(results: Results, arm: str, pretrained: bool) -> list[Scored]:
    return [s for f, s in results if f["arm"] == arm and f["pretrained"] == pretrained]
