"""Experiment ``encoders``: another encoder, loss or band of the signal, and joint training.

An arm is what differs from the settings of the run. All arms rank the same windows.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from bids_speechdecode.config import Config
from bids_speechdecode.steps.context import FINETUNED, JOINT, PRETRAINED, TASK_ONLY, Context
from bids_speechdecode.steps.experiments.arms import Changes, Results
from bids_speechdecode.steps.experiments.cells import Cell, Scored, Training
from bids_speechdecode.steps.experiments.findings import (
    Experiment,
    Factors,
    Finding,
    Found,
    contrast,
    contrast_gains,
    on_common_windows,
)
from bids_speechdecode.steps.experiments.scaling import seeds
from bids_speechdecode.steps.experiments.variants import BAND, why_not
from bids_speechdecode.steps.plan import FINETUNE, PRETRAIN

log = logging.getLogger(__name__)

OWN, JOINT_ARM = "as the run", "joint training"
BAND_WORDS = {"slow": "slow band", "highgamma": "high-gamma", "both": "both bands"}


def encoders(context: Context) -> Experiment:
    """Compare the run with another encoder, another loss, other bands, and joint training."""
    arms, notes = _list_arms(context)
    pretrained = bool(context.plan.select(PRETRAIN))
    version = context.plan.versions(FINETUNE)[0]
    cells: dict[Cell, Factors] = {}
    for seed in seeds(context):
        for arm, changes in {OWN: (), **arms}.items():
            of = {"arm": arm, "seed": seed}
            alone = Training(TASK_ONLY, seed, changes=changes)
            cells[Cell(alone, FINETUNE, version)] = {**of, "pretrained": False}
            if pretrained:
                parent = Training(PRETRAINED, seed, changes=changes)
                tuned = Training(FINETUNED, seed, changes=changes, parent=parent)
                cells[Cell(tuned, FINETUNE, version)] = {**of, "pretrained": True}
        if pretrained:
            of = {"arm": JOINT_ARM, "seed": seed, "pretrained": True}
            cells[Cell(Training(JOINT, seed), FINETUNE, version)] = of
    if not pretrained:
        notes.append(f"The arm “{JOINT_ARM}” is left out: there are no ambient recordings.")
    for note in notes:
        log.warning("sub-%s: experiment encoders: %s", context.participant, note)
    return Experiment(
        "encoders",
        cells,
        lambda results: Found(_say(context, list(arms), on_common_windows(results)), notes=notes),
    )


def _list_arms(context: Context) -> tuple[dict[str, Changes], list[str]]:
    """Return the arms that differ from the run in their settings, and why others are left out."""
    config = context.config
    one_way = not config.pretrain.symmetric
    encoder: Changes = (("encoder.kind", "linear"), ("encoder.spatial", "none"))
    if config.encoder.kind == "linear":
        encoder = (("encoder.kind", "conv"),)
    arms: dict[str, Changes] = {
        _other(_encoder_words(config)): encoder,
        _other(_loss_words(config)): tuple(
            (f"{part}.symmetric", one_way) for part in ("pretrain", "finetune")
        ),
    }
    notes = []
    for band, words in BAND_WORDS.items():
        if band == config.preprocess.band:
            continue
        if reason := why_not(context, band):
            notes.append(f"The arm “{words}” is left out: {reason}.")
        else:
            arms[words] = ((BAND, band),)
    return arms, notes


def _encoder_words(config: Config) -> tuple[str, str]:
    """Return the encoder of the run and the other one."""
    words = ("convolutional encoder", "linear encoder")
    return words if config.encoder.kind == "conv" else words[::-1]


def _loss_words(config: Config) -> tuple[str, str]:
    """Return the loss of the run and the other one."""
    words = ("one-way loss", "symmetric loss")
    return words[::-1] if config.pretrain.symmetric else words


def _other(words: tuple[str, str]) -> str:
    return words[1]


def _say(context: Context, arms: Sequence[str], results: Results) -> Iterator[Finding]:
    rng = partial(np.random.default_rng, [context.config.run.seed, 4])
    settings = context.config.evaluation
    best = any(f["pretrained"] for f, _ in results)
    where = "pretrained and finetuned" if best else "trained on the task"
    for own, arm in _pairs(context.config, arms):
        mine = OWN if own not in arms else own
        sides = _pick(results, mine, best), _pick(results, arm, best)
        words = f"{_with_article(own)} ({where})", _with_article(arm)
        yield contrast(f"{own} against {arm}", *sides, words, settings, rng())
        if best:
            gains = [
                (_pick(results, a, pretrained=True), _pick(results, a, pretrained=False))
                for a in (mine, arm)
            ]
            name = f"gain from pretraining, {own} against {arm}"
            words = _with_article(own), _with_article(arm)
            yield contrast_gains(name, gains[0], gains[1], words, settings, rng())
    if best:
        own = "pretraining and finetuning"
        sides = _pick(results, OWN, pretrained=True), _pick(results, JOINT_ARM, pretrained=True)
        yield contrast(f"{own} against {JOINT_ARM}", *sides, (own, JOINT_ARM), settings, rng())


def _with_article(arm: str) -> str:
    """Return an arm as a sentence names it."""
    articles = {"encoder": "a ", "loss": "a ", "band": "the "}
    return articles.get(arm.split()[-1], "") + arm


def _pairs(config: Config, arms: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield what is compared; what is no arm is how the run does it."""
    own_band = BAND_WORDS[config.preprocess.band]
    instead_of: Mapping[str, str] = {
        other: own for own, other in (_encoder_words(config), _loss_words(config))
    }
    for arm in arms:
        yield instead_of.get(arm, own_band), arm
    bands = [arm for arm in arms if arm in BAND_WORDS.values()]
    if len(bands) == 2:
        yield bands[1], bands[0]


def _pick(results: Results, arm: str, pretrained: bool) -> list[Scored]:
    return [s for f, s in results if f["arm"] == arm and f["pretrained"] == pretrained]
