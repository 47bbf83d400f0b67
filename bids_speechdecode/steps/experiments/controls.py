"""Experiment ``controls``: what of the rank remains when what should carry it is taken away."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bids_speechdecode.config import EvaluationConfig
from bids_speechdecode.decoding.evaluation import Contrast
from bids_speechdecode.decoding.strata import SMALLEST
from bids_speechdecode.steps.context import (
    FINETUNED,
    FROZEN,
    PRETRAINED,
    RANDOM,
    TASK_ONLY,
    Context,
)
from bids_speechdecode.steps.experiments.cells import Cell, Scored, Training
from bids_speechdecode.steps.experiments.findings import (
    Experiment,
    Factors,
    Finding,
    Found,
    contrast,
)
from bids_speechdecode.steps.experiments.pairing import SHIFTED, SHUFFLED, TRUE
from bids_speechdecode.steps.experiments.remaining import (
    against_chance,
    compare_chance,
    compare_models,
    drop_unranked,
    judge,
    say_control,
    say_matched,
    say_rank,
    say_remaining,
    say_strata,
    say_without,
)
from bids_speechdecode.steps.experiments.scaling import seeds
from bids_speechdecode.steps.plan import FINETUNE, PRETRAIN

Results = Sequence[tuple[Factors, Scored]]
Changes = tuple[tuple[str, Any], ...]
# Models, beside the pairings and the pretrained one.
OWN, ENERGY, UNTRAINED = "own", "energy", "random"
TASK, AMBIENT = "task", "ambient"
EVERY, UNEXPLAINED, VOICE = "all", "unexplained", "voice"  # candidates

PAIRING_TO_WORDS = {
    SHUFFLED: ("shuffled pairing", "the sounds of random other windows"),
    SHIFTED: ("time-shifted pairing", "the sounds of half a recording later"),
}
# Of a view: the name of its findings, and what candidates have in common.
MATCHED_TO_WORDS = {
    "level": ("same level", "about the same level and variation of level"),
    "loudness": ("same course of loudness", "a similar course of loudness"),
}
SPOKEN_TO_WORDS = {
    "silent": ("silent windows", "in which nobody speaks"),
    "spoken": ("windows with speech", "in which somebody speaks"),
}
TESTED_TO_WORDS = {TASK: "of the task", AMBIENT: "of ambient recordings"}
LOUDNESS = "a model of loudness alone"
# Findings that the paragraph of results leaves to the list: checks of others, and what says less.
ASIDE = {
    "target against loudness alone",
    "trained against random encoder",
    "same level",
    *(f"{name}, loudness alone" for name, _ in MATCHED_TO_WORDS.values()),
    *(f"{name}, target against loudness alone" for name, _ in MATCHED_TO_WORDS.values()),
    *(f"windows with speech {where}" for where in TESTED_TO_WORDS.values()),
}


def controls(context: Context) -> Experiment:
    """Train models that should rank at chance, and rank among candidates that are alike."""
    cells: dict[Cell, Factors] = {}
    for seed in seeds(context):
        for cell, factors in _cells(context, seed):
            cells[cell] = {**factors, "seed": seed}
    return Experiment("controls", cells, lambda results: Found(_find(context, results)))


def _cells(context: Context, seed: int) -> Iterator[tuple[Cell, Factors]]:
    own = _own(context, seed)
    for view in ("", *SPOKEN_TO_WORDS, *MATCHED_TO_WORDS, UNEXPLAINED, VOICE):
        yield _cell(context, OWN, own, view)
    for pairing in PAIRING_TO_WORDS:
        yield _cell(context, pairing, _control(context, seed, pairing=pairing))
    yield _cell(context, UNTRAINED, Training(FROZEN, seed, parent=Training(RANDOM, seed)))
    if context.config.target.name != ENERGY:
        energy = _control(context, seed, changes=(("target.name", ENERGY),))
        for view in ("", *MATCHED_TO_WORDS):
            yield _cell(context, ENERGY, energy, view)
    if own.parent:
        for view in SPOKEN_TO_WORDS:
            yield _cell(context, PRETRAINED, own.parent, view, PRETRAIN)


def _cell(
    context: Context, model: str, training: Training, view: str = "", role: str = FINETUNE
) -> tuple[Cell, Factors]:
    cell = Cell(training, role, context.plan.versions(role)[0], view=view)
    tested = TASK if role == FINETUNE else AMBIENT
    return cell, {"model": model, "tested": tested, "among": view or EVERY}


def _own(context: Context, seed: int) -> Training:
    """Return the run's own model: finetuned, or trained on the task where nothing comes before."""
    if context.plan.select(PRETRAIN):
        return Training(FINETUNED, seed, parent=Training(PRETRAINED, seed))
    return Training(FINETUNED if context.config.inputs.init_from else TASK_ONLY, seed)


def _control(context: Context, seed: int, pairing: str = TRUE, changes: Changes = ()) -> Training:
    """Return the own model with another pairing or other settings, from its first training on."""
    if context.config.inputs.init_from:
        # What a pooled checkpoint knows comes from true pairs, and is of the run's own target.
        changes = (*changes, ("inputs.init_from", ""))
    if not context.plan.select(PRETRAIN):
        return Training(TASK_ONLY, seed, changes=changes, pairing=pairing)
    parent = Training(PRETRAINED, seed, changes=changes, pairing=pairing)
    return Training(FINETUNED, seed, changes=changes, parent=parent, pairing=pairing)


# ---------------------------------------------------------------------------------- what they say


def _find(context: Context, results: Results) -> Iterator[Finding]:
    for finding in _say(context, results):
        yield replace(finding, aside=finding.name in ASIDE)


def _say(context: Context, results: Results) -> Iterator[Finding]:
    scores = _Scores(results, context.config.evaluation, context.config.run.seed)
    yield from _say_own(scores)
    for pairing in PAIRING_TO_WORDS:
        yield _say_pairing(scores, pairing)
    yield from _say_energy(scores)
    yield from _say_untrained(scores)
    for view in MATCHED_TO_WORDS:
        yield from _say_matched(scores, view)
    yield _say_unexplained(scores)
    yield _say_voice(scores)
    for view in SPOKEN_TO_WORDS:
        yield _say_spoken(scores, OWN, TASK, view)
    if scores.pick(PRETRAINED, "spoken", AMBIENT):
        for view in SPOKEN_TO_WORDS:
            yield _say_spoken(scores, PRETRAINED, AMBIENT, view)


@dataclass(frozen=True)
class _Scores:
    """All cells, and how they are tested."""

    results: Results
    settings: EvaluationConfig
    seed: int

    def pick(self, model: str, among: str = EVERY, tested: str = TASK) -> list[Scored]:
        """Return the cells of a model, one a seed, without the windows that were not ranked."""
        return drop_unranked(self.pick_all(model, among, tested))

    def pick_all(self, model: str, among: str = EVERY, tested: str = TASK) -> list[Scored]:
        """Return the same with all windows, NaN where one was not ranked."""
        wanted = (model, among, tested)
        return [s for f, s in self.results if (f["model"], f["among"], f["tested"]) == wanted]

    def test(self, scored: Sequence[Scored]) -> Contrast | None:
        """Return how ranks differ from chance; None where nothing was ranked."""
        return compare_chance(scored, self.settings, np.random.default_rng([self.seed, 4]))

    def test_models(self, scored: Sequence[Scored]) -> tuple[Contrast, str]:
        """Return how models of wrong pairs differ from chance, and by which test."""
        return compare_models(scored, self.settings, np.random.default_rng([self.seed, 4]))

    def contrast(self, name: str, other: str, words: tuple[str, str], among: str) -> Finding:
        """Return how the own model differs from another one among the same candidates."""
        first, second = self.pick(OWN, among), self.pick(other, among)
        rng = np.random.default_rng([self.seed, 4])
        return contrast(name, first, second, words, self.settings, rng)


def _say_own(scores: _Scores) -> Iterator[Finding]:
    found = scores.test(scores.pick(OWN))
    text = f"Among all candidates the model had {say_rank(found)}."
    yield against_chance("the model", "the model", found, text)


def _say_pairing(scores: _Scores, pairing: str) -> Finding:
    name, sounds = PAIRING_TO_WORDS[pairing]
    found, test = scores.test_models(scores.pick(pairing))
    text = (
        f"Trained with {sounds}, it had {say_rank(found, test)}. "
        f"{say_control(found, scores.settings, test)}"
    )
    return against_chance(name, f"a model trained with {sounds}", found, text, test)


def _say_energy(scores: _Scores) -> Iterator[Finding]:
    scored = scores.pick(ENERGY)
    if scored:
        found = scores.test(scored)
        text = f"Trained to find the course of loudness alone, it had {say_rank(found)}."
        yield against_chance("loudness alone", LOUDNESS, found, text)
        words = ("the target of the run", "loudness alone")
        yield scores.contrast("target against loudness alone", ENERGY, words, EVERY)


def _say_untrained(scores: _Scores) -> Iterator[Finding]:
    found = scores.test(scores.pick(UNTRAINED))
    text = f"With an encoder that was never trained and a trained head it had {say_rank(found)}."
    yield against_chance("random encoder", "a head on a random encoder", found, text)
    words = ("the trained encoder", "a random encoder")
    yield scores.contrast("trained against random encoder", UNTRAINED, words, EVERY)


def _say_matched(scores: _Scores, view: str) -> Iterator[Finding]:
    """Yield what remains among candidates of the same loudness, and the check of that."""
    name, alike = MATCHED_TO_WORDS[view]
    within = scores.pick(OWN, view)
    found, check = scores.test(within), scores.test(scores.pick(ENERGY, view))
    text = _say_alike(scores, view, alike, found)
    if found and check:
        text = f"{text} {say_matched(found, check, scores.settings)}"
    yield against_chance(name, f"the model among candidates of {alike}", found, text)
    if found and check:
        text = f"The model of loudness alone had {say_rank(check)} among these candidates."
        yield against_chance(f"{name}, loudness alone", LOUDNESS, check, text)
        words = (f"the target of the run, among candidates of {alike}", "loudness alone")
        yield scores.contrast(f"{name}, target against loudness alone", ENERGY, words, view)


def _say_unexplained(scores: _Scores) -> Finding:
    within = scores.pick(OWN, UNEXPLAINED)
    found = scores.test(within)
    share = float(np.mean([s.row["explained"] for s in within]))
    text = (
        f"With what loudness predicts taken out of all candidates "
        f"({100 * max(share, 0.0):.0f}% of their variance) and of the signal, it had "
        f"{say_rank(found)}. "
        f"{_say_left(scores, within)} {say_without(found, scores.settings)}"
    )
    return against_chance("without loudness", "the model without loudness", found, text)


def _say_voice(scores: _Scores) -> Finding:
    alike = "the same voice (or similar pitch, where no table says who speaks)"
    found = scores.test(scores.pick(OWN, VOICE))
    text = _say_alike(scores, VOICE, alike, found)
    return against_chance("same voice", "the model among candidates of a voice", found, text)


def _say_alike(scores: _Scores, view: str, alike: str, found: Contrast | None) -> str:
    if found is None:
        return f"Fewer than {SMALLEST} test windows of the task have {alike}: none could be ranked."
    within = scores.pick_all(OWN, view)
    return (
        f"Among candidates of {alike} ({say_strata(within)}) it had {say_rank(found)}. "
        f"{_say_left(scores, within)}"
    )


def _say_left(scores: _Scores, within: Sequence[Scored]) -> str:
    """Return what remains of the model's rank among all candidates, if it has one."""
    own = scores.pick(OWN)
    found = scores.test(own)
    if found is None or judge(found, scores.settings) != "better":
        return "Among all candidates the model was not told from chance: nothing could remain."
    return say_remaining(within, own)


def _say_spoken(scores: _Scores, model: str, tested: str, view: str) -> Finding:
    name, which = SPOKEN_TO_WORDS[view]
    where = TESTED_TO_WORDS[tested]
    scored = scores.pick(model, view, tested)
    found = scores.test(scored)
    text = f"Fewer than {SMALLEST} test windows {where} are windows {which}: none could be ranked."
    if found:
        n = len(scored[0].ranks)
        text = f"Among the {n} test windows {where} {which} it had {say_rank(found)}."
    return against_chance(f"{name} {where}", f"the model on {name}", found, text)
