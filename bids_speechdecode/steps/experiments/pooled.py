"""Experiment ``pooled``: what an encoder of other participants brings to one it has never seen.

Four arms finetune on the same windows of the task and rank the same held-out windows. They differ
in what came before: nothing, the participant's own ambient recordings, those of the others, or
those of the others and then their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from bids_speechdecode.steps.context import FINETUNED, PRETRAINED, TASK_ONLY, Context
from bids_speechdecode.steps.experiments.cells import Cell, Scored, Training, vary
from bids_speechdecode.steps.experiments.findings import (
    Experiment,
    Factors,
    Finding,
    Found,
    contrast,
)
from bids_speechdecode.steps.experiments.scaling import seeds
from bids_speechdecode.steps.plan import FINETUNE, PRETRAIN
from bids_speechdecode.steps.start import POOLED, find_start

Results = Sequence[tuple[Factors, Scored]]
NONE, OTHERS, OWN, BOTH = "none", "others", "own", "both"
WORDS = {
    NONE: "no pretraining",
    OTHERS: "pretraining on other participants",
    OWN: "pretraining on own recordings",
    BOTH: "pretraining on other participants, then on own recordings",
}
# (first, second): the first is better where the difference is negative.
CONTRASTS = ((OTHERS, NONE), (BOTH, OWN), (OTHERS, OWN), (OWN, NONE))
FROM_POOLED = (("inputs.init_from", POOLED),)


def pooled(context: Context) -> Experiment:
    """Compare a start from the pooled checkpoint without the participant with other starts.

    Raises
    ------
    MissingInputError
        There is no such checkpoint.
    UsageError
        It has another target.
    """
    find_start(vary(context, Training(FINETUNED, 0, changes=FROM_POOLED)))
    version = context.plan.versions(FINETUNE)[0]
    cells: dict[Cell, Factors] = {}
    for seed in seeds(context):
        models = {
            NONE: Training(TASK_ONLY, seed),
            OTHERS: Training(FINETUNED, seed, changes=FROM_POOLED),
        }
        if context.plan.select(PRETRAIN):
            for arm, changes in ((OWN, ()), (BOTH, FROM_POOLED)):
                parent = Training(PRETRAINED, seed, changes=changes)
                models[arm] = Training(FINETUNED, seed, parent=parent)
        for arm, training in models.items():
            cells[Cell(training, FINETUNE, version)] = {"pretraining": arm, "seed": seed}
    return Experiment("pooled", cells, lambda results: Found(_say(context, results)))


def _say(context: Context, results: Results) -> Iterator[Finding]:
    rng = partial(np.random.default_rng, [context.config.run.seed, 4])
    arms: dict[str, list[Scored]] = {}
    for factors, scored in results:
        arms.setdefault(factors["pretraining"], []).append(scored)
    for first, second in CONTRASTS:
        if first in arms and second in arms:
            words = WORDS[first], WORDS[second]
            yield contrast(
                f"{words[0]} against {words[1]}",
                arms[first],
                arms[second],
                words,
                context.config.evaluation,
                rng(),
            )
