"""Ranks against chance in words: what a control leaves of the rank, and what went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from bids_speechdecode.config import EvaluationConfig
from bids_speechdecode.decoding.chance import chance_over_models
from bids_speechdecode.decoding.evaluation import CHANCE, Contrast, compare_ranks
from bids_speechdecode.steps.experiments.cells import Scored
from bids_speechdecode.steps.experiments.findings import Finding, interval, mean_ranks, spell_p

TEST = "sign-flip over blocks"
OVER_MODELS = "t over blocks and models"
Verdict = Literal["better", "worse", "chance", "unknown"]


def drop_unranked(scored: Sequence[Scored]) -> list[Scored]:
    """Return the cells without the windows that their view leaves out."""
    kept = []
    for cell in scored:
        known = np.isfinite(cell.ranks)
        parts = {name: getattr(cell, name)[known] for name in ("ranks", "blocks", "places")}
        kept.append(replace(cell, **parts))
    return kept


def compare_chance(
    scored: Sequence[Scored], settings: EvaluationConfig, rng: np.random.Generator
) -> Contrast | None:
    """Return how ranks, means over seeds, differ from 0.5; None where no window was ranked."""
    if not scored or not len(scored[0].ranks):
        return None
    ranks = mean_ranks(scored)
    return compare_ranks(ranks, np.full(len(ranks), CHANCE), scored[0].blocks, settings, rng)


def judge(found: Contrast, settings: EvaluationConfig) -> Verdict:
    """Return whether ranks are better or worse than chance, at chance, or too few to tell."""
    alpha = 1 - settings.confidence
    if found.p <= alpha:
        return "better" if found.difference < 0 else "worse"
    return "unknown" if found.p_min > alpha else "chance"


def compare_models(
    scored: Sequence[Scored], settings: EvaluationConfig, rng: np.random.Generator
) -> tuple[Contrast, str]:
    """Return how models of wrong pairs differ from 0.5, and the test: over models if it can be."""
    ranks, blocks = np.stack([s.ranks for s in scored]), scored[0].blocks
    if len(scored) > 1 and len(np.unique(blocks)) > 1:
        return chance_over_models(ranks, blocks, confidence=settings.confidence), OVER_MODELS
    found = compare_ranks(ranks.mean(axis=0), np.full(len(blocks), CHANCE), blocks, settings, rng)
    return found, TEST


def against_chance(
    name: str, model: str, found: Contrast | None, text: str, test: str = TEST
) -> Finding:
    """Return the finding of ranks against chance.

    Parameters
    ----------
    name : str
    model : str
        What is better than chance where the effect is negative.
    found : Contrast or None
        None where nothing could be ranked.
    text : str
    test : str
        How p was found.
    """
    if found is None:
        nan = float("nan")
        return Finding(name, nan, nan, nan, nan, nan, 0, test, model, "chance", text)
    numbers = found.difference, found.ci_low, found.ci_high, found.p, found.p_min
    return Finding(name, *numbers, found.n_blocks, test, model, "chance", text)


def say_rank(found: Contrast | None, test: str = TEST) -> str:
    """Return a mean rank with its distance from chance, in words."""
    assert found, "nothing was ranked"
    tested = "sign-flip test over" if test == TEST else "t-test over models and"
    return (
        f"a mean relative rank of {CHANCE + found.difference:.3f} ({found.difference:+z.3f} from "
        f"chance, {interval(found.ci_low, found.ci_high)}, {spell_p(found.p)}, {tested} "
        f"{found.n_blocks} blocks)"
    )


def say_control(found: Contrast, settings: EvaluationConfig, test: str) -> str:
    """Return in words whether models that can have learnt nothing rank as they should."""
    verdict = judge(found, settings)
    if test == TEST and verdict in ("better", "worse"):
        return (
            "That is not chance, but this is one model, which may lean to one side by luck: train "
            "from more seeds."
        )
    return {
        "chance": "No difference from chance was found, as it should be.",
        "unknown": "There are too few blocks of test windows to tell this from chance.",
        "better": (
            "That is better than chance: something other than the pairing of brain and sound tells "
            "the windows apart, and the model's own rank may come from it, too."
        ),
        "worse": "That is worse than chance, which must not be: train from more seeds.",
    }[verdict]


def say_matched(found: Contrast, check: Contrast, settings: EvaluationConfig) -> str:
    """Return what the rank among candidates of the same loudness means.

    Parameters
    ----------
    found, check : Contrast
        Of the model, and of a model of loudness alone, among the same candidates.
    settings : EvaluationConfig
    """
    mine, loudness = judge(found, settings), judge(check, settings)
    if "unknown" in (mine, loudness):
        return "There are too few blocks of test windows to tell what remains."
    if loudness == "better":
        return (
            "But a model of loudness alone still tells these candidates apart: there are too few "
            "windows to match them better, and what remains may be loudness."
        )
    if mine == "better":
        return (
            "A model of loudness alone was not better than chance among them. Whether what remains "
            "is more than loudness is said by the rank without loudness."
        )
    return (
        "Nor was a model of loudness alone better than chance among them: no more than loudness "
        "was found."
    )


def say_without(found: Contrast | None, settings: EvaluationConfig) -> str:
    """Return what the rank means without what loudness predicts of candidates and signal."""
    assert found, "nothing was ranked"
    return {
        "better": (
            "What remains is more than the level of the sound and its square tell; less than a "
            "tenth of the rank may still be loudness as the room changed it on its way to the ear."
        ),
        "chance": "No more than loudness was found.",
        "worse": "No more than loudness was found.",
        "unknown": "There are too few blocks of test windows to tell what remains.",
    }[judge(found, settings)]


def say_remaining(within: Sequence[Scored], among_all: Sequence[Scored]) -> str:
    """Return what remains of the distance from chance among candidates that are alike.

    Parameters
    ----------
    within, among_all : sequence of Scored
        Of the same windows; those that are NaN in the first are left out of both.
    """
    known = np.isfinite(mean_ranks(within))
    gain = CHANCE - float(mean_ranks(among_all)[known].mean())
    left = CHANCE - float(mean_ranks(within)[known].mean())
    if gain <= 0:
        return "Among all candidates the same windows ranked no better than chance."
    before = f"Among all candidates the same windows ranked {gain:.3f} below chance"
    if left >= gain:
        return f"{before}: nothing of this went."
    if left <= 0:
        return f"{before}: nothing of this remains."
    return f"{before}: of this {left:.3f} ({100 * left / gain:.0f}%) remains."


def say_strata(scored: Sequence[Scored]) -> str:
    """Return how many windows were ranked in how many strata."""
    row = scored[0].row
    sizes = f"{row['n_test_windows']} windows in {row['n_strata']} strata"
    return f"{sizes}, {row['n_left_out']} left out" if row["n_left_out"] else sizes
