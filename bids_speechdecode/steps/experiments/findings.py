"""What an experiment says: its table of cells, and sentences with their numbers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from bids_speechdecode.config import EvaluationConfig
from bids_speechdecode.decoding.arms import compare_arms
from bids_speechdecode.decoding.evaluation import Contrast, compare_ranks
from bids_speechdecode.decoding.scaling import ScalingLaw
from bids_speechdecode.errors import MissingInputError
from bids_speechdecode.group.experiments import RANK
from bids_speechdecode.steps.context import Context
from bids_speechdecode.steps.experiments.cells import Cell, Scored
from bids_speechdecode.steps.plan import PRETRAIN

Factors = Mapping[str, Any]
OVER_BLOCKS, OVER_MODELS = "sign-flip over blocks", "t over blocks and models"


@dataclass(frozen=True)
class Finding:
    """One number with its uncertainty, and the sentence that says it.

    Attributes
    ----------
    name : str
        What was compared or fitted, the same in every participant.
    effect : float
        0 where there is nothing; of relative ranks, negative is better.
    ci_low, ci_high, p, p_min : float
        NaN where there is none.
    n : int
        Blocks of held-out windows.
    test : str
        How p was found.
    first, second : str
        What is better where the effect is negative, and where it is positive; "" for a measure
        that compares nothing.
    text : str
    unit : str
        Of the effect.
    aside : bool
        Whether it stands in the list of all findings alone, not in the paragraph of results: a
        check of another finding, or one of many alike.
    """

    name: str
    effect: float
    ci_low: float
    ci_high: float
    p: float
    p_min: float
    n: int
    test: str
    first: str
    second: str
    text: str
    unit: str = RANK
    aside: bool = False


@dataclass(frozen=True)
class Found:
    """What an experiment found.

    Attributes
    ----------
    findings : iterable of Finding
    tables : mapping of str to DataFrame
        Further tables of the experiment, by a word (letters and digits) for the file's name.
    notes : sequence of str
        What was left out, and why.
    """

    findings: Iterable[Finding]
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Experiment:
    """A question that many models answer.

    Attributes
    ----------
    name : str
    cells : mapping of Cell to mapping
        Every cell with what distinguishes it: columns of the table.
    analyse : callable
        What is found, once all cells are scored.
    version : int
        To be raised when the analysis gives another result.
    inputs : callable
        Returns signatures of what else the analysis reads, once the cells are there.
    """

    name: str
    cells: Mapping[Cell, Factors]
    analyse: Callable[[Sequence[tuple[Factors, Scored]]], Found]
    version: int = 1
    inputs: Callable[[], Sequence[str]] = tuple


def require_ambient(context: Context, name: str) -> None:
    """Raise unless there are recordings to pretrain on.

    Raises
    ------
    MissingInputError
        There are none.
    """
    if not context.plan.select(PRETRAIN):
        raise MissingInputError(
            f"experiment {name!r} needs ambient recordings",
            expected="a pretraining task",
            found="--pretrain-task none",
            fix="leave that option out, or choose other experiments",
        )


def tabulate(results: Sequence[tuple[Factors, Scored]]) -> pd.DataFrame:
    """Return one row a cell: what distinguishes it, and its scores."""
    return pd.DataFrame([{**factors, **scored.row} for factors, scored in results])


def as_table(findings: Iterable[Finding]) -> pd.DataFrame:
    """Return one row a finding."""
    columns = list(Finding.__dataclass_fields__)
    return pd.DataFrame([asdict(f) for f in findings], columns=columns)


def on_common_windows(
    results: Sequence[tuple[Factors, Scored]],
) -> list[tuple[Factors, Scored]]:
    """Return what is known of cells on the windows that all of them have ranked."""
    common = functools.reduce(np.intersect1d, (scored.places for _, scored in results))
    kept = []
    for factors, scored in results:
        mine = np.isin(scored.places, common)
        parts = {name: getattr(scored, name)[mine] for name in ("ranks", "blocks", "places")}
        kept.append((factors, replace(scored, **parts)))
    return kept


def mean_ranks(scored: Sequence[Scored]) -> np.ndarray:
    """Return each window's rank, mean over models that differ by their seed."""
    return np.mean([s.ranks for s in scored], axis=0)


def contrast(
    name: str,
    first: Sequence[Scored],
    second: Sequence[Scored],
    words: tuple[str, str],
    settings: EvaluationConfig,
    rng: np.random.Generator,
) -> Finding:
    """Return by how much the first models rank better than the second, on the same windows."""
    found, test = _compare([first], [second], settings, rng)
    text = (
        f"With {words[0]} the mean relative rank was {_spell_change(found.difference)} with "
        f"{words[1]} ({interval(found.ci_low, found.ci_high)}, {spell_p(found.p)}, "
        f"{_spell_test(test, found)})."
    )
    numbers = found.difference, found.ci_low, found.ci_high, found.p, found.p_min
    return Finding(name, *numbers, found.n_blocks, test, *words, text)


def contrast_gains(
    name: str,
    first: tuple[Sequence[Scored], Sequence[Scored]],
    second: tuple[Sequence[Scored], Sequence[Scored]],
    words: tuple[str, str],
    settings: EvaluationConfig,
    rng: np.random.Generator,
) -> Finding:
    """Return by how much more the first arm gains from pretraining than the second.

    Each is a pair: with pretraining, without. Ranks of other arms may have other targets; their
    windows and candidates are the same.
    """
    found, test = _compare([first[0], second[1]], [first[1], second[0]], settings, rng)
    text = (
        f"What pretraining changes in the mean relative rank with {words[0]} was "
        f"{_spell_change(found.difference)} with {words[1]} "
        f"({interval(found.ci_low, found.ci_high)}, {spell_p(found.p)}, "
        f"{_spell_test(test, found)})."
    )
    numbers = found.difference, found.ci_low, found.ci_high, found.p, found.p_min
    sides = f"pretraining with {words[0]}", f"pretraining with {words[1]}"
    return Finding(name, *numbers, found.n_blocks, test, *sides, text, aside=True)


def _compare(
    plus: Sequence[Sequence[Scored]],
    minus: Sequence[Sequence[Scored]],
    settings: EvaluationConfig,
    rng: np.random.Generator,
) -> tuple[Contrast, str]:
    """Return the mean rank of some arms minus that of others, and the test.

    Where an arm has a single model, only blocks can be resampled.
    """
    blocks = plus[0][0].blocks
    if all(len(arm) > 1 for arm in (*plus, *minus)) and len(np.unique(blocks)) > 1:
        one, other = ([np.stack([s.ranks for s in arm]) for arm in side] for side in (plus, minus))
        return compare_arms(one, other, blocks, confidence=settings.confidence), OVER_MODELS
    one_sum, other_sum = (np.sum([mean_ranks(a) for a in side], axis=0) for side in (plus, minus))
    return compare_ranks(one_sum, other_sum, blocks, settings, rng), OVER_BLOCKS


def _spell_test(test: str, found: Contrast) -> str:
    if test == OVER_MODELS:
        return f"t-test over models and {found.n_blocks} blocks"
    return (
        f"sign-flip test over {found.n_blocks} blocks; what another start of the training would "
        "change is not known"
    )


def unknown(name: str, text: str) -> Finding:
    """Return a finding of which nothing is known but, in `text`, why."""
    nan = float("nan")
    return Finding(name, nan, nan, nan, nan, nan, 0, "none", "", "", text)


def _spell_change(change: float) -> str:
    """Return how a mean relative rank differs.

    Examples
    --------
    >>> _spell_change(-0.012), _spell_change(0.0002)
    ('0.012 lower (better) than', 'the same to three decimals as')
    """
    if abs(change) < 0.0005:
        return "the same to three decimals as"
    return f"{abs(change):.3f} {'lower (better)' if change < 0 else 'higher (worse)'} than"


def from_law(name: str, law: ScalingLaw, words: tuple[str, str]) -> Finding:
    """Return what doubling the data brings; `words` say which data, and for what."""
    data, where = words
    text = (
        f"With twice {data} the mean relative rank{where} was {_spell_change(law.slope)} with the "
        f"single amount ({interval(law.ci_low, law.ci_high)}, {spell_p(law.p)}, t-test over "
        f"{law.n_models} models of {law.n_amounts} amounts and {law.n_blocks} blocks). "
        f"{_say_end(law)}"
    )
    numbers = law.slope, law.ci_low, law.ci_high, law.p, float("nan")
    sides = f"more of {data}", f"less of {data}"
    return Finding(name, *numbers, law.n_blocks, "t over blocks and models", *sides, text)


def _say_end(law: ScalingLaw) -> str:
    if not np.isfinite(law.aicc["line"]):
        return "There are too few models to say whether the gain comes to an end."
    if not law.saturates:
        return "A curve that comes to an end does not describe the models clearly better."
    where = f" (a plateau from {law.plateau:.2g} h on)" if law.plateau else ""
    return f"A curve that comes to an end describes the models clearly better{where}."


def interval(low: float, high: float, digits: int = 3) -> str:
    """Return a confidence interval in words.

    Examples
    --------
    >>> interval(-0.02, -0.01)
    'CI -0.020 to -0.010'
    """
    if np.isnan(low):
        return "no CI"
    return f"CI {low:.{digits}f} to {high:.{digits}f}"


def spell_p(p: float) -> str:
    """Return p in words.

    Examples
    --------
    >>> spell_p(0.00002), spell_p(0.04)
    ('p < 0.001', 'p = 0.040')
    """
    if np.isnan(p):
        return "no p-value"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
