"""The words heard as a target: whether they are decoded, and beyond what their sound tells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from bids_speechdecode.config import EvaluationConfig
from bids_speechdecode.steps.experiments.cells import Scored
from bids_speechdecode.steps.experiments.findings import Finding
from bids_speechdecode.steps.experiments.remaining import (
    against_chance,
    compare_chance,
    judge,
    say_rank,
)

BEYOND = "beyond"  # the view in which the sound is taken out of words and brain
VERDICT_TO_WORDS = {
    "better": "More of the words was decoded than this description of their sound tells.",
    "chance": "It is not shown that more was decoded than the sound of the words.",
    "worse": "It is not shown that more was decoded than the sound of the words.",
    "unknown": "There are too few blocks of test windows to tell.",
}


def without_sound(label: str) -> str:
    """Return what the arm of a text target is called when the sound is taken out."""
    return f"{label}, sound taken out"


def say_heard(
    label: str,
    model: str,
    apart: str,
    scored: tuple[Sequence[Scored], Sequence[Scored]],
    settings: EvaluationConfig,
    rng: np.random.Generator,
) -> Iterator[Finding]:
    """Yield whether the words are decoded, and whether they are beyond their sound.

    Parameters
    ----------
    label : str
        Of the arm.
    model : str
        How the model was trained, in words.
    apart : str
        What keeps the findings apart from those of other participants; "" for nothing.
    scored : (sequence of Scored, sequence of Scored)
        Among all candidates, and with the sound taken out; one a seed.
    settings : EvaluationConfig
    rng : numpy.random.Generator
    """
    among_all, beyond = scored
    found = compare_chance(among_all, settings, rng)
    text = f"With {label} ({model}) the model had {say_rank(found)}."
    yield against_chance(f"{label} against chance{apart}", label, found, text)
    found = compare_chance(beyond, settings, rng)
    assert found, "all candidates are ranked"
    share = float(np.mean([s.row["explained"] for s in beyond]))
    text = (
        "With what goes along with the mean and the variation of each mel band in a window taken "
        f"out of the embeddings of its words ({100 * max(share, 0.0):.0f}% of their variance) and "
        f"of what the model made of the brain, it had {say_rank(found)}. "
        f"{VERDICT_TO_WORDS[judge(found, settings)]}"
    )
    name = without_sound(label)
    yield against_chance(f"{name}, against chance{apart}", name, found, text)
