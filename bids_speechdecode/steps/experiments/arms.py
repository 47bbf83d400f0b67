"""Experiment ``targets``: the same data, another target.

An arm is a change of settings. Every arm is trained with pretraining and without, from every seed,
and ranks the windows that the run's own settings rank; where words are the target, those of them in
which a word is heard, which the run's own target then ranks once more after training on the like;
and they rank them once more with what their sound tells taken out.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from bids_speechdecode.config import (
    DEFAULT_MODELS,
    TEXT,
    WITHOUT_MODEL,
    Config,
    TargetConfig,
    override,
)
from bids_speechdecode.errors import MissingInputError, UsageError
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
from bids_speechdecode.steps.experiments.heard import BEYOND, say_heard, without_sound
from bids_speechdecode.steps.experiments.scaling import seeds
from bids_speechdecode.steps.plan import FINETUNE, PRETRAIN, ParticipantPlan
from bids_speechdecode.steps.words import needs_words, require_words

log = logging.getLogger(__name__)

Results = Sequence[tuple[Factors, Scored]]
Changes = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Arm:
    """A change of settings.

    Attributes
    ----------
    changes : tuple of (str, value)
        By ``"section.field"``.
    against : str
        The arm that it is compared with; "" for one that others are compared with.
    pretrains : bool
        Whether it can be pretrained, where the run is.
    """

    changes: Changes = ()
    against: str = ""
    pretrains: bool = True


def targets(context: Context) -> Experiment:
    """Compare the run's target with those of ``experiments.targets``.

    Raises
    ------
    MissingInputError
        The words heard are to be the target, and nobody has them.
    UsageError
        A target contradicts the run's other settings, or all are the run's own.
    """
    own = context.config.target
    name = _label(own.name, own.layer)
    arms = {name: Arm()}
    missing: MissingInputError | None = None
    for text in context.config.experiments.targets:
        label, changes = _read_target(text, own)
        config = override(context.config, dict(changes))
        if config.target.name != TEXT or needs_words(context.config):
            arms.setdefault(label, Arm(changes, name))
            continue
        try:
            require_words(context.plan, FINETUNE, config)
        except MissingInputError as error:
            if "all" not in context.config.experiments.names:
                raise
            missing = error
            log.warning("experiment targets: %s is left out: %s", label, error.problem)
            continue
        same = f"{name}, windows with words"
        pretrains = _is_spoken(context.plan, PRETRAIN, config)
        arms.setdefault(same, Arm((("windows.words_only", True),), "", pretrains))
        arms.setdefault(label, Arm(changes, same, pretrains))
    if missing and len(arms) == 1:
        raise missing  # nothing else is left to compare
    if len(arms) == 1:
        named = ", ".join(context.config.experiments.targets) or "none"
        raise UsageError(
            "experiment 'targets' has nothing to compare",
            expected="another target in targets of [experiments] than that of the run",
            found=f"{named}; the run has {name}",
            fix='name others, such as targets = ["wav2vec2:9"], or choose other experiments',
        )
    return _compare(context, "targets", arms)


def _is_spoken(plan: ParticipantPlan, role: str, config: Config) -> bool:
    if not plan.select(role):
        return False
    try:
        require_words(plan, role, config)
    except MissingInputError:
        return False
    return True


def _read_target(text: str, own: TargetConfig) -> tuple[str, Changes]:
    """Return label and settings of a target written as ``name`` or ``name:layer``."""
    name, _, layer = text.partition(":")
    model, default = DEFAULT_MODELS[name]
    changes = (
        ("target.name", name),
        ("target.model", own.model if own.name == name else model),
        ("target.layer", int(layer or default)),
    )
    return _label(name, int(layer or default)), changes


def _label(name: str, layer: int) -> str:
    return name if name in WITHOUT_MODEL else f"{name} layer {layer}"


def _compare(context: Context, name: str, arms: Mapping[str, Arm]) -> Experiment:
    version = context.plan.versions(FINETUNE)[0]
    cells: dict[Cell, Factors] = {}
    for seed, (label, arm) in itertools.product(seeds(context), arms.items()):
        alone = Training(TASK_ONLY, seed, changes=arm.changes)
        of = {"arm": label, "seed": seed}
        cells[Cell(alone, FINETUNE, version)] = {**of, "pretrained": False}
        best, pretrained = alone, bool(context.plan.select(PRETRAIN)) and arm.pretrains
        if pretrained:
            parent = Training(PRETRAINED, seed, changes=arm.changes)
            best = Training(FINETUNED, seed, changes=arm.changes, parent=parent)
            cells[Cell(best, FINETUNE, version)] = {**of, "pretrained": True}
        if _is_text(context, arm):
            of = {"arm": without_sound(label), "seed": seed, "pretrained": pretrained}
            cells[Cell(best, FINETUNE, version, view=BEYOND)] = of
    return Experiment(name, cells, lambda results: Found(_say(context, arms, results)))


def _say(context: Context, arms: Mapping[str, Arm], results: Results) -> Iterator[Finding]:
    rng = partial(np.random.default_rng, [context.config.run.seed, 4])
    settings = context.config.evaluation
    for label, arm in arms.items():
        best = bool(_pick(results, label, pretrained=True))
        where = "pretrained and finetuned" if best else "trained on the task"
        if _is_text(context, arm):
            scored = _pick(results, label, best), _pick(results, without_sound(label), best)
            yield from say_heard(label, where, _apart(context, arm), scored, settings, rng())
        if not arm.against:
            continue
        pair = arm.against, label
        found = contrast(
            " against ".join(pair) + _apart(context, arm),
            _pick(results, arm.against, best),
            _pick(results, label, best),
            (f"{arm.against} ({where})", label),
            settings,
            rng(),
        )
        yield replace(found, text=found.text + _say_words(context, arm, results))
        if best:
            gains = [
                (_pick(results, a, pretrained=True), _pick(results, a, pretrained=False))
                for a in pair
            ]
            name = f"gain from pretraining, {' against '.join(pair)}"
            yield contrast_gains(name, gains[0], gains[1], pair, settings, rng())


def _is_text(context: Context, arm: Arm) -> bool:
    return dict(arm.changes).get("target.name", context.config.target.name) == TEXT


def _apart(context: Context, arm: Arm) -> str:
    """Return what keeps a comparison apart from that of participants who have pretraining."""
    lacks = bool(context.plan.select(PRETRAIN)) and not arm.pretrains
    return " (task only)" if lacks else ""


def _say_words(context: Context, arm: Arm, results: Results) -> str:
    """Return on which windows the words heard are compared, in words; "" for other arms."""
    if not _is_text(context, arm) or needs_words(context.config):
        return ""
    version = context.plan.versions(FINETUNE)[0]
    n_all = sum(p.n_usable for p in context.plan.select(FINETUNE, version, "test"))
    n = len(_pick(results, arm.against, pretrained=False)[0].ranks)
    text = (
        f" Both were trained and tested on windows in which a word is heard: {n} of the {n_all} "
        "held-out windows."
    )
    if _apart(context, arm):
        text += " The pretraining recordings have no words, so neither is pretrained."
    return text


def _pick(results: Results, arm: str, pretrained: bool) -> list[Scored]:
    return [s for f, s in results if f["arm"] == arm and f["pretrained"] == pretrained]
