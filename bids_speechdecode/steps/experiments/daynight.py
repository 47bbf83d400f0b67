"""Experiment ``day-night``: whether recordings of the night help, or harm, pretraining."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from bids_speechdecode.errors import MissingInputError
from bids_speechdecode.steps.context import FINETUNED, PRETRAINED, Context
from bids_speechdecode.steps.experiments.cells import Cell, Scored, Training
from bids_speechdecode.steps.experiments.findings import (
    Experiment,
    Factors,
    Finding,
    Found,
    contrast,
    require_ambient,
    unknown,
)
from bids_speechdecode.steps.experiments.scaling import seeds
from bids_speechdecode.steps.experiments.subsets import ALL, Subset, count_windows, take
from bids_speechdecode.steps.experiments.times import recording_starts, say_untold
from bids_speechdecode.steps.plan import FINETUNE, PRETRAIN

Results = Sequence[tuple[Factors, Scored]]
DAY, NIGHT = (6.0, 23.0), (23.0, 6.0)  # hours [P]
FEWEST_TESTED = 10  # windows; among fewer, a rank says nothing
BY_DAY, AS_MUCH, ALL_HOURS = "day", "as much of all hours", "all hours"
ARM_WORDS = {
    BY_DAY: "pretraining on the day (06:00 to 23:00)",
    AS_MUCH: "as much of all 24 hours",
    ALL_HOURS: "all that was recorded in 24 hours",
}
DAY_SPEECH, NIGHT_SPEECH, ZERO_SHOT, TASK = "dayambient", "nightambient", "zeroshot", "task"
TEST_WORDS = {
    DAY_SPEECH: "ambient speech of the day",
    NIGHT_SPEECH: "ambient speech of the night",
    ZERO_SHOT: "the task without finetuning",
    TASK: "the task after finetuning",
}


def day_night(context: Context) -> Experiment:
    """Pretrain on the day, and on all hours: as many windows, and all of them.

    Raises
    ------
    MissingInputError
        There is no pretraining, the hours of the recordings are not known, or none is of the day.
    """
    _require_hours(context)
    cells: dict[Cell, Factors] = {}
    for seed, (arm, data) in itertools.product(seeds(context), _list_arms(context).items()):
        model = Training(PRETRAINED, seed, data)
        tuned = Training(FINETUNED, seed, parent=model)
        for tested, cell in _list_tests(context, model, tuned):
            cells[cell] = {"tested": tested, "trained_on": arm, "seed": seed}
    return Experiment("day-night", cells, lambda results: Found(_say(context, results)))


def _require_hours(context: Context) -> None:
    def refuse(problem: str, expected: str, found: str, fix: str) -> MissingInputError:
        return MissingInputError(
            f"experiment 'day-night' {problem}", expected=expected, found=found, fix=fix
        )

    pieces = context.plan.select(PRETRAIN)
    require_ambient(context, "day-night")
    starts = recording_starts(context.plan)
    if any(np.isnan(starts[piece.recording].hour) for piece in pieces):
        raise refuse(
            "needs to know when each recording began",
            "acq_time with the hour (1924-03-01T08:00:00) of every recording, in scans.tsv",
            f"{say_untold(context.plan) or 'dates'} without an hour that can be read",
            "add the hours (the date may be moved), or choose other experiments",
        )
    if not _count(context, DAY, "train"):
        raise refuse(
            "needs recordings of the day",
            "training windows between 06:00 and 23:00",
            "none",
            "check acq_time in scans.tsv, or choose other experiments",
        )


def _count(context: Context, hours: tuple[float, float], split: str) -> int:
    plan = take(context.plan, PRETRAIN, Subset(hours=hours), split=split)
    return count_windows(plan, PRETRAIN, split)


def _list_arms(context: Context) -> dict[str, Subset]:
    """Return the training data of each arm; without nights, all of them would be the same."""
    arms = {BY_DAY: Subset(hours=DAY)}
    n_night = _count(context, NIGHT, "train")
    if n_night:
        n_day = _count(context, DAY, "train")
        arms |= {AS_MUCH: Subset(n_day / (n_day + n_night)), ALL_HOURS: ALL}
    return arms


def _list_tests(context: Context, model: Training, tuned: Training) -> Iterator[tuple[str, Cell]]:
    ambient, task = context.plan.versions(PRETRAIN)[0], context.plan.versions(FINETUNE)[0]
    for tested, hours in ((DAY_SPEECH, DAY), (NIGHT_SPEECH, NIGHT)):
        if _count(context, hours, "test") >= FEWEST_TESTED:
            yield tested, Cell(model, PRETRAIN, ambient, Subset(hours=hours))
    yield ZERO_SHOT, Cell(model, FINETUNE, task)
    yield TASK, Cell(tuned, FINETUNE, task)


def _say(context: Context, results: Results) -> Iterator[Finding]:
    name = "{} against {}, {}"
    if len({factors["trained_on"] for factors, _ in results}) == 1:
        text = (
            "No training window lies in the night (23:00 to 06:00), so that pretraining on the day "
            "and on all hours is the same, and what the night brings cannot be told."
        )
        yield unknown(name.format(BY_DAY, ALL_HOURS, TEST_WORDS[TASK]), text)
        return
    rng = partial(np.random.default_rng, [context.config.run.seed, 4])
    for tested, words in TEST_WORDS.items():
        if not any(factors["tested"] == tested for factors, _ in results):
            yield unknown(
                name.format(BY_DAY, AS_MUCH, words),
                f"Fewer than {FEWEST_TESTED} held-out windows are {words}: they are not ranked.",
            )
            continue
        for arm in (AS_MUCH, ALL_HOURS):
            found = contrast(
                name.format(BY_DAY, arm, words),
                _pick(results, tested, BY_DAY),
                _pick(results, tested, arm),
                (ARM_WORDS[BY_DAY], ARM_WORDS[arm]),
                context.config.evaluation,
                rng(),
            )
            text = f"{words[:1].upper()}{words[1:]}: {found.text}"
            yield replace(found, text=text, aside=arm == ALL_HOURS)


def _pick(results: Results, tested: str, arm: str) -> list[Scored]:
    return [s for f, s in results if f["tested"] == tested and f["trained_on"] == arm]
