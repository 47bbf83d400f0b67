"""Experiment ``drift``: whether the brain's signal changes over days, what it costs, what helps.

Three kinds of models: the one of the run, whose embeddings may tell the date; one a day, each
tested on every day; and one a remedy, trained on the first days and tested on those after them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from bids_speechdecode.decoding.distance import fit_distance
from bids_speechdecode.steps.context import PRETRAINED, Context
from bids_speechdecode.steps.experiments.cells import Cell, Scored, Training
from bids_speechdecode.steps.experiments.dates import tell_dates
from bids_speechdecode.steps.experiments.days import Days, choose_days, name_days
from bids_speechdecode.steps.experiments.findings import (
    Experiment,
    Factors,
    Finding,
    Found,
    contrast,
    interval,
    spell_p,
)
from bids_speechdecode.steps.experiments.recalibration import RECALIBRATED
from bids_speechdecode.steps.experiments.remaining import (
    against_chance,
    compare_chance,
    judge,
    say_rank,
)
from bids_speechdecode.steps.experiments.scaling import seeds
from bids_speechdecode.steps.experiments.subsets import Subset
from bids_speechdecode.steps.experiments.times import recording_starts
from bids_speechdecode.steps.plan import PRETRAIN

Results = Sequence[tuple[Factors, Scored]]
WHOLE, MATRIX, REMEDY = "whole", "days", "remedies"  # parts of the experiment
NONE = "none"
# Weight of the adversary where the run has none: that of Ganin and Lempitsky at its end.
ADVERSARIAL = 1.0
REMEDIES: Mapping[str, tuple[tuple[str, Any], ...]] = {
    NONE: (),
    "per-day normalisation": (("drift.normalise", "day"),),
    "sliding normalisation": (("drift.normalise", "sliding"),),
    "adversarial days": (("drift.adversarial", ADVERSARIAL),),
    "time embedding": (("drift.time_embedding", True),),
}
RECALIBRATION = "recalibration"
OFF = (
    ("drift.normalise", "none"),
    ("drift.adversarial", 0.0),
    ("drift.time_embedding", False),
)


def drift(context: Context) -> Experiment:
    """Tell the date from embeddings, train a model a day, and compare remedies.

    Raises
    ------
    MissingInputError
        There is no pretraining, or it has fewer than three days.
    """
    days = choose_days(context)
    version = context.plan.versions(PRETRAIN)[0]
    cell = partial(Cell, role=PRETRAIN, version=version, view="day")
    whole = Training(PRETRAINED, context.config.run.seed)
    cells: dict[Cell, Factors] = {cell(whole): _factors(WHOLE, seed=whole.seed)}
    for seed in seeds(context) if days.test and len(days.train) > 1 else ():
        for day, share in days.train.items():
            model = Training(PRETRAINED, seed, Subset(share, (day,)))
            cells[cell(model)] = _factors(MATRIX, seed=seed, train_day=day)
    for seed in seeds(context) if days.after else ():
        tested = Subset(days=days.after, skip=days.skip)
        for arm, changes in _list_remedies(context, days).items():
            model = Training(PRETRAINED, seed, Subset(days=days.before), days.stop, changes)
            cells[cell(model, data=tested)] = _factors(REMEDY, seed=seed, arm=arm)
            if arm == NONE and days.skip:
                for day in days.after:
                    again = Training(RECALIBRATED, seed, Subset(days=(day,)), parent=model)
                    of = _factors(REMEDY, seed=seed, arm=RECALIBRATION, test_day=day)
                    cells[cell(again, data=replace(tested, days=(day,)))] = of
    return Experiment(
        "drift",
        cells,
        lambda results: _analyse(context, days, whole, results),
        inputs=lambda: [str(sorted(recording_starts(context.plan).items()))],
    )


def _factors(part: str, *, seed: int, **more: Any) -> Factors:
    return {"part": part, "arm": NONE, "train_day": "", "test_day": "", "seed": seed, **more}


def _list_remedies(context: Context, days: Days) -> dict[str, tuple[tuple[str, Any], ...]]:
    """Return the settings of every arm; without remedy, whatever the run has."""
    left_out = set()
    if len(days.before) < 2:
        left_out.add("adversarial days")
    if context.config.encoder.spatial == "attention":
        left_out.add("time embedding")
    base = dict(OFF)
    return {
        arm: tuple({**base, **dict(changes)}.items())
        for arm, changes in REMEDIES.items()
        if arm not in left_out
    }


# ------------------------------------------------------------------------------ what is found


def _analyse(context: Context, days: Days, whole: Training, results: Results) -> Found:
    dates = tell_dates(context, whole)
    parts = {p: [(f, s) for f, s in results if f["part"] == p] for p in (MATRIX, REMEDY)}
    findings, tables, notes = list(dates.findings), dict(dates.tables), [*dates.notes, *days.notes]
    place_to_day = _place_days(context)
    if parts[MATRIX]:
        tables["Matrix"] = _matrix(parts[MATRIX], place_to_day)
        findings += _say_distance(context, parts[MATRIX], place_to_day, notes)
    if parts[REMEDY]:
        findings += _say_remedies(context, days, parts[REMEDY], place_to_day)
    return Found(findings, tables, notes)


def _place_days(context: Context) -> np.ndarray:
    """Return the day of every ambient test window, by its place among all of them."""
    starts, lag = recording_starts(context.plan), context.config.windows.brain_lag
    version = context.plan.versions(PRETRAIN)[0]
    pieces = context.plan.select(PRETRAIN, version, "test")
    return np.concatenate([starts[p.recording].days(p.brain_starts - lag) for p in pieces])


def _ranked(scored: Scored, place_to_day: np.ndarray) -> tuple[Scored, np.ndarray]:
    """Return the windows that were ranked, in the order of their places, and their days.

    A day with hardly any window has no ranks.
    """
    order = np.argsort(scored.places, kind="stable")
    order = order[np.isfinite(scored.ranks[order])]
    parts = {name: getattr(scored, name)[order] for name in ("ranks", "blocks", "places")}
    return replace(scored, **parts), place_to_day[parts["places"]]


def _matrix(results: Results, place_to_day: np.ndarray) -> pd.DataFrame:
    """Return the mean rank for each pair of training and test day, mean over seeds."""
    rows = []
    for factors, scored in results:
        kept, days = _ranked(scored, place_to_day)
        for day in np.unique(days):
            own = days == day
            row = {
                "train_day": factors["train_day"],
                "test_day": int(day),
                "relative_rank": float(kept.ranks[own].mean()),
                "n_test_windows": int(own.sum()),
            }
            rows.append(row)
    groups = pd.DataFrame(rows).groupby(["train_day", "test_day"])
    table = groups.agg(
        relative_rank=("relative_rank", "mean"),
        n_models=("relative_rank", "size"),
        n_test_windows=("n_test_windows", "first"),
    ).reset_index()
    apart = (table["train_day"] - table["test_day"]).abs().astype(int)
    table.insert(2, "days_apart", apart)
    return table


def _say_distance(
    context: Context, results: Results, place_to_day: np.ndarray, notes: list[str]
) -> Iterator[Finding]:
    evaluation, seed = context.config.evaluation, context.config.run.seed
    kept = [(f["train_day"], *_ranked(s, place_to_day)) for f, s in results]
    first, test_days = kept[0][1:]
    law = fit_distance(
        np.array([day for day, _, _ in kept]),
        test_days,
        np.stack([s.ranks for _, s, _ in kept]),
        first.blocks,
        confidence=evaluation.confidence,
        n_orders=evaluation.n_permutations,
        rng=np.random.default_rng([seed, 4]),
    )
    if np.isnan(law.slope):
        notes.append(
            f"With {law.n_train_days} training days and {law.n_test_days} test days, what the days "
            "between them do to the rank cannot be told from how the days themselves differ."
        )
    else:
        text = (
            f"For each day between training and test the mean relative rank changed by "
            f"{law.slope:+.4f} ({interval(law.ci_low, law.ci_high, 4)}, {spell_p(law.p)}, training "
            f"days exchanged; {law.n_models} models of {law.n_train_days} days, "
            f"{law.n_test_days} test days). Above 0, models age."
        )
        numbers = law.slope, law.ci_low, law.ci_high, law.p, law.p_min
        yield Finding(
            "rank per day between training and test",
            *numbers,
            law.n_blocks,
            "training days exchanged",
            "",
            "",
            text,
            "relative rank per day",
        )
    yield from _say_own_day(context, kept, test_days)


def _say_own_day(
    context: Context, kept: Sequence[tuple[int, Scored, np.ndarray]], test_days: np.ndarray
) -> Iterator[Finding]:
    """Compare models of a window's own day with those of other days, on the same windows."""
    trained = {day for day, _, _ in kept}
    known = np.isin(test_days, sorted(trained))
    if len(set(test_days[known])) < 2:  # else good training days would look like near ones
        return
    ranks = np.stack([s.ranks for _, s, _ in kept])
    same = np.array([day for day, _, _ in kept])[:, None] == test_days
    blocks = kept[0][1].blocks[known]
    own, other = (
        [replace(kept[0][1], ranks=np.average(ranks, axis=0, weights=w)[known], blocks=blocks)]
        for w in (np.where(known, same, True), ~same)
    )
    yield contrast(
        "training on the day of the test against other days",
        own,
        other,
        ("as many recordings of the same day", "those of other days"),
        context.config.evaluation,
        np.random.default_rng([context.config.run.seed, 4]),
    )


def _say_remedies(
    context: Context, days: Days, results: Results, place_to_day: np.ndarray
) -> Iterator[Finding]:
    """Compare every remedy with none, on the same windows of days after training."""
    by_arm: dict[str, dict[int, list[tuple[Scored, np.ndarray]]]] = {}
    for factors, scored in results:
        seed_to_parts = by_arm.setdefault(factors["arm"], {})
        seed_to_parts.setdefault(factors["seed"], []).append(_ranked(scored, place_to_day))
    joined = {
        arm: [_join([s for s, _ in parts]) for parts in seeds_.values()]
        for arm, seeds_ in by_arm.items()
    }
    reference = joined.pop(NONE)
    before, after = (name_days(some).lower() for some in (days.before, days.after))
    yield _say_later(context, reference, f"Trained on {before} and tested on {after}")
    for arm, models in joined.items():
        same_blocks = [replace(s, blocks=reference[0].blocks) for s in models]
        yield contrast(
            f"{arm} against none",
            same_blocks,
            reference,
            (arm, "no remedy"),
            context.config.evaluation,
            np.random.default_rng([context.config.run.seed, 4]),
        )


def _say_later(context: Context, models: Sequence[Scored], how: str) -> Finding:
    """Return what models decode on later days: where they do not, no remedy can be judged."""
    settings = context.config.evaluation
    rng = np.random.default_rng([context.config.run.seed, 4])
    found = compare_chance(models, settings, rng)
    text = f"{how}, models without a remedy had {say_rank(found)}."
    if found and judge(found, settings) != "better":
        text += " That is no better than chance, so that nothing can be told of remedies."
    return against_chance("no remedy on later days", "no remedy", found, text)


def _join(parts: Sequence[Scored]) -> Scored:
    """Return the windows of several cells as one, in the order of their places."""
    places = np.concatenate([s.places for s in parts])
    order = np.argsort(places, kind="stable")
    ranks = np.concatenate([s.ranks for s in parts])[order]
    blocks = np.concatenate([s.blocks for s in parts])[order]
    return replace(parts[0], ranks=ranks, blocks=blocks, places=places[order])
