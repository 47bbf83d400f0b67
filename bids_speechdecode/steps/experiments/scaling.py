"""Experiments ``scaling`` and ``finetune-size``: what more recordings, and more task, bring."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from bids_speechdecode.decoding.scaling import fit_scaling
from bids_speechdecode.steps.context import FINETUNED, PRETRAINED, TASK_ONLY, Context
from bids_speechdecode.steps.experiments.cells import Cell, Scored, Training, vary
from bids_speechdecode.steps.experiments.findings import (
    Experiment,
    Factors,
    Finding,
    Found,
    contrast,
    from_law,
    require_ambient,
)
from bids_speechdecode.steps.experiments.subsets import Subset, count_windows
from bids_speechdecode.steps.plan import FINETUNE, PRETRAIN

Results = Sequence[tuple[Factors, Scored]]
# What is tested, and in words.
AMBIENT, ZERO_SHOT, TASK = "ambient", "zeroshot", "task"
WORDS = {
    AMBIENT: "held-out ambient speech",
    ZERO_SHOT: "the task without finetuning",
    TASK: "the task after finetuning",
}


def seeds(context: Context) -> range:
    """Return the seeds of an experiment; the first one is that of the run."""
    first = context.config.run.seed
    return range(first, first + context.config.experiments.seeds)


def scaling(context: Context) -> Experiment:
    """Pretrain on nested shares of the recording files; rank ambient speech and the task.

    Raises
    ------
    MissingInputError
        There is no pretraining.
    """
    require_ambient(context, "scaling")
    ambient, task = context.plan.versions(PRETRAIN)[0], context.plan.versions(FINETUNE)[0]
    cells: dict[Cell, Factors] = {}
    for seed in seeds(context):
        for share, hours in _amounts(context, PRETRAINED, seed):
            model = Training(PRETRAINED, seed, Subset(share))
            tuned = Training(FINETUNED, seed, parent=model)
            of = {"share": share, "hours": hours, "seed": seed}
            cells[Cell(model, PRETRAIN, ambient)] = {"tested": AMBIENT, **of}
            cells[Cell(model, FINETUNE, task)] = {"tested": ZERO_SHOT, **of}
            cells[Cell(tuned, FINETUNE, task)] = {"tested": TASK, **of}
        alone = Cell(Training(TASK_ONLY, seed), FINETUNE, task)
        cells[alone] = {"tested": TASK, "share": 0.0, "hours": 0.0, "seed": seed}
    return Experiment("scaling", cells, lambda results: Found(_say_scaling(context, results)))


def _amounts(context: Context, condition: str, seed: int) -> Iterator[tuple[float, float]]:
    """Yield the shares that differ in data, each with its hours."""
    settings = context.config.experiments
    shares = settings.shares if condition == PRETRAINED else settings.task_shares
    before = 0
    for share in sorted(shares):
        training = Training(condition, seed, Subset(share))
        n_windows = count_windows(vary(context, training).plan, training.role)
        if n_windows > before:
            step = min(context.config.windows.stride, context.config.windows.duration)
            yield share, n_windows * step / 3600
        before = n_windows


def _say_scaling(context: Context, results: Results) -> Iterator[Finding]:
    evaluation = context.config.evaluation
    for tested, words in WORDS.items():
        some = [(f, s) for f, s in results if f["tested"] == tested and f["share"] > 0]
        name = f"twice the recordings, {words}"
        doubled = "the pretraining data", f" on {words}"
        yield from _law(name, some, doubled, evaluation.confidence)
    task = [(f, s) for f, s in results if f["tested"] == TASK]
    largest = max(f["share"] for f, _ in task)
    yield contrast(
        "pretraining against none",
        [s for f, s in task if f["share"] == largest],
        [s for f, s in task if f["share"] == 0],
        ("all pretraining data", "none"),
        evaluation,
        np.random.default_rng([context.config.run.seed, 4]),
    )


def _law(
    name: str, results: Results, words: tuple[str, str], confidence: float
) -> Iterator[Finding]:
    hours = [f["hours"] for f, _ in results]
    if len(set(hours)) < 2:
        return
    ranks = np.stack([s.ranks for _, s in results])
    law = fit_scaling(hours, ranks, results[0][1].blocks, confidence=confidence)
    yield from_law(name, law, words)


def finetune_size(context: Context) -> Experiment:
    """Finetune on nested shares of the task's blocks, with pretraining and without."""
    task = context.plan.versions(FINETUNE)[0]
    has_pretraining = bool(context.plan.select(PRETRAIN))
    cells: dict[Cell, Factors] = {}
    for seed in seeds(context):
        for share, hours in _amounts(context, TASK_ONLY, seed):
            of = {"share": share, "hours": hours, "seed": seed}
            alone = Training(TASK_ONLY, seed, Subset(share))
            cells[Cell(alone, FINETUNE, task)] = {"pretrained": False, **of}
            if has_pretraining:
                tuned = Training(FINETUNED, seed, Subset(share), parent=Training(PRETRAINED, seed))
                cells[Cell(tuned, FINETUNE, task)] = {"pretrained": True, **of}
    return Experiment("finetune-size", cells, lambda results: Found(_say_size(context, results)))


def _say_size(context: Context, results: Results) -> Iterator[Finding]:
    evaluation = context.config.evaluation
    for pretrained, words in ((False, "without pretraining"), (True, "with pretraining")):
        some = [(f, s) for f, s in results if f["pretrained"] == pretrained]
        if some:
            name, doubled = f"twice the task, {words}", ("the task's data", f" {words}")
            yield from _law(name, some, doubled, evaluation.confidence)
    shares = sorted({f["share"] for f, _ in results if f["pretrained"]})
    for share in shares:
        part = [(f, s) for f, s in results if f["share"] == share]
        yield contrast(
            f"pretraining at {100 * share:g}% of the task",
            [s for f, s in part if f["pretrained"]],
            [s for f, s in part if not f["pretrained"]],
            (f"pretraining and {100 * share:g}% of the task", "the same without pretraining"),
            evaluation,
            np.random.default_rng([context.config.run.seed, 4]),
        )
