"""Experiment ``zero-shot``: what the pretrained model does with other sound, and why it falls.

The model ranks held-out ambient speech, the task as the room heard it, and the task's clean file.
How far the targets of these sources are apart, and what of that is how they were recorded, is
measured without any brain.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd

from bids_speechdecode.bids.sidecars import read_sidecar, signature
from bids_speechdecode.config import EvaluationConfig
from bids_speechdecode.decoding.evaluation import CHANCE, compare_ranks
from bids_speechdecode.decoding.shift import FEWEST_BLOCKS
from bids_speechdecode.steps.context import (
    PRETRAINED,
    Context,
    plan_fingerprint,
    signature_of,
)
from bids_speechdecode.steps.experiments.cells import Cell, Scored, Training, model_of
from bids_speechdecode.steps.experiments.findings import (
    Experiment,
    Factors,
    Finding,
    Found,
    contrast,
    interval,
    mean_ranks,
    require_ambient,
    spell_p,
    unknown,
)
from bids_speechdecode.steps.experiments.scaling import seeds
from bids_speechdecode.steps.experiments.shifts import (
    map_sources,
    measure_shifts,
    property_table,
    say_shift,
)
from bids_speechdecode.steps.experiments.sources import (
    AMBIENT,
    TASK,
    TASK_AMBIENT,
    TASK_TRUE,
    WORDS,
    draw_sources,
    have_same_windows,
    list_windows,
)
from bids_speechdecode.steps.features import feature_file, group_by_audio
from bids_speechdecode.steps.models import read_scaler
from bids_speechdecode.steps.plan import FINETUNE, PRETRAIN

Results = Sequence[tuple[Factors, Scored]]


def zero_shot(context: Context) -> Experiment:
    """Rank ambient speech and both versions of the task by the pretrained model.

    Raises
    ------
    MissingInputError
        There is no pretraining.
    """
    require_ambient(context, "zero-shot")
    cells: dict[Cell, Factors] = {}
    for seed in seeds(context):
        model = Training(PRETRAINED, seed)
        ambient = Cell(model, PRETRAIN, context.plan.versions(PRETRAIN)[0])
        cells[ambient] = {"tested": AMBIENT, "seed": seed}
        for version in context.plan.versions(FINETUNE):
            cells[Cell(model, FINETUNE, version)] = {"tested": TASK[version], "seed": seed}
    return Experiment(
        "zero-shot",
        cells,
        lambda results: _analyse(context, results),
        inputs=lambda: [_source_signature(context)],
    )


def _source_signature(context: Context) -> str:
    """Return what the targets, the windows and the sound of the sources depend on."""
    plan = {role: plan_fingerprint(context, role) for role in (PRETRAIN, FINETUNE)}
    features = [feature_file(context, g)[1] for g in group_by_audio(context).values()]
    signals = [
        signature_of(p) for r in context.plan.recordings for p in context.preprocessed(r).values()
    ]
    return signature("sources", 1, plan, [*features, *signals])


def _analyse(context: Context, results: Results) -> Found:
    ranks = list(_say_ranks(context, results))
    rng = np.random.default_rng([context.config.run.seed, 11])
    sources = draw_sources(context, rng)
    model, _ = model_of(context, Training(PRETRAINED, context.config.run.seed))
    scaler = read_scaler(read_sidecar(model))  # the targets as the model sees them
    sources = [replace(s, targets=scaler.transform(s.targets)) for s in sources]
    tables = {
        "Properties": property_table(sources),
        "Map": map_sources(sources, context.config.run.seed),
    }
    few = min(len(np.unique(source.blocks)) for source in sources)
    if few < FEWEST_BLOCKS:
        return Found([*ranks, _too_few(few)], tables)
    shifts = list(measure_shifts(sources, context.config.evaluation, rng))
    tables["Shift"] = pd.DataFrame([shift.row() for shift in shifts])
    tables["Explained"] = pd.DataFrame([row for shift in shifts for row in shift.explained_rows()])
    return Found([*ranks, *(finding for s in shifts for finding in say_shift(s))], tables)


def _say_ranks(context: Context, results: Results) -> Iterator[Finding]:
    settings = context.config.evaluation
    rng = partial(np.random.default_rng, [context.config.run.seed, 4])
    by_source = {
        name: [s for f, s in results if f["tested"] == name]
        for name in WORDS
        if any(f["tested"] == name for f, _ in results)
    }
    for name, scored in by_source.items():
        yield _against_chance(name, scored, settings, rng())
    if {TASK_AMBIENT, TASK_TRUE} <= set(by_source):
        windows = [list_windows(context, FINETUNE, version, "test") for version in TASK]
        words = WORDS[TASK_AMBIENT], WORDS[TASK_TRUE]
        name = f"{words[0]} against {words[1]}"
        if have_same_windows(*windows):
            pairs = by_source[TASK_AMBIENT], by_source[TASK_TRUE]
            yield contrast(name, *pairs, words, settings, rng())
        else:
            reason = "the two versions of the task do not have the same test windows"
            yield unknown(name, f"{_start(words[0])} and {words[1]}: {reason}.")


def _against_chance(
    name: str, scored: Sequence[Scored], settings: EvaluationConfig, rng: np.random.Generator
) -> Finding:
    ranks = mean_ranks(scored)
    found = compare_ranks(ranks, np.full(len(ranks), CHANCE), scored[0].blocks, settings, rng)
    low, high = found.ci_low + CHANCE, found.ci_high + CHANCE
    text = (
        f"The pretrained model ranks {WORDS[name]} at {ranks.mean():.3f} on average "
        f"({interval(low, high)}, {spell_p(found.p)} against 0.5, sign-flip test over "
        f"{found.n_blocks} blocks)."
    )
    return Finding(
        f"{WORDS[name]} against chance",
        found.difference,
        found.ci_low,
        found.ci_high,
        found.p,
        found.p_min,
        found.n_blocks,
        "sign-flip over blocks",
        f"the pretrained model on {WORDS[name]}",
        "chance",
        text,
    )


def _too_few(n_blocks: int) -> Finding:
    return unknown(
        "shift of the targets",
        f"The targets of the sources cannot be compared: one of them has {n_blocks} blocks of "
        f"windows, and {FEWEST_BLOCKS} are needed.",
    )


def _start(text: str) -> str:
    return text[:1].upper() + text[1:]
