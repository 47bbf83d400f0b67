"""What training does against changes over days: scaling, time as an input, an adversary.

All of it is off by default. No label is used, and training and test are treated alike.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
import torch

from bids_speechdecode.config import DriftConfig
from bids_speechdecode.decoding.adversarial import DayAdversary
from bids_speechdecode.decoding.standardise import (
    Level,
    as_preprocessed,
    match_level,
    measure_level,
    standardise_sliding,
)
from bids_speechdecode.steps.context import Context
from bids_speechdecode.steps.experiments.times import Start, recording_starts
from bids_speechdecode.steps.plan import FINETUNE, PRETRAIN
from bids_speechdecode.timeline import sample_at

VERSION = 2  # of scaling by the day and of the time as an input
PRIOR_MINUTES = 1.0  # of signal like the training recordings', beside what a day has
WEEK = 7.0  # days; the unit of elapsed time
TIME_COLUMNS = 3


def drift_settings(context: Context) -> dict[str, Any]:
    """Return what a model depends on in the settings against drift; nothing at their defaults."""
    settings, default = asdict(context.config.drift), asdict(DriftConfig())
    del settings["recalibrate"]  # it has models of its own
    if settings["normalise"] != "sliding":
        del settings["normalise_minutes"]
    changed = {name: value for name, value in settings.items() if value != default[name]}
    if settings["normalise"] == "sliding":
        changed["normalise_minutes"] = settings["normalise_minutes"]
    if not changed:
        return {}
    starts = {k: (s.day, str(s.hour)) for k, s in sorted(recording_starts(context.plan).items())}
    found: dict[str, Any] = {"drift": changed, "starts": starts}
    if settings["normalise"] == "day":
        found["scaled"] = VERSION
    if settings["time_embedding"]:
        found["time"] = [VERSION, *(round(day, 6) for day in trained_days(context))]
    return found


def n_time_columns(context: Context) -> int:
    """Return how many columns of the signal tell the time."""
    return TIME_COLUMNS if context.config.drift.time_embedding else 0


def prepare_signal(context: Context, parts: dict[str, torch.Tensor]) -> None:
    """Scale the channels of recordings again and write the time beside them, in place.

    Parameters
    ----------
    context : Context
    parts : dict of str to tensor, shape (n_times, n_channels + n_time_columns)
        The signal of each recording, by its label; the last columns are free for the time.
    """
    n_time, settings = n_time_columns(context), context.config.drift
    if settings.normalise != "none":
        _normalise(context, {k: v[:, : v.shape[1] - n_time] for k, v in parts.items()})
    if n_time:
        starts, known = recording_starts(context.plan), trained_days(context)
        for label, part in parts.items():
            seconds = np.arange(len(part)) / context.config.preprocess.rate
            columns = time_columns(starts[label], seconds, known)
            part[:, -n_time:] = torch.from_numpy(columns).to(part)


def _normalise(context: Context, parts: dict[str, torch.Tensor]) -> None:
    settings = context.config.drift
    if settings.normalise == "sliding":
        n_past = sample_at(60 * settings.normalise_minutes, context.config.preprocess.rate)
        for part in parts.values():
            standardise_sliding(part, n_past)
        return
    together: dict[Hashable, list[torch.Tensor]] = {}
    for label, part in parts.items():
        together.setdefault(_day_and_split(context, label), []).append(part)
    level = _training_level(context, parts)
    n_prior = 60 * PRIOR_MINUTES * context.config.preprocess.rate
    for some in together.values():
        match_level(some, level, n_prior)


def _training_level(context: Context, parts: dict[str, torch.Tensor]) -> Level:
    """Return the level of what is trained on; if none of it is there, that of preprocessing."""
    trained = [parts[label] for label in sorted(_trained(context) & set(parts))]
    return (
        measure_level(trained) if trained else as_preprocessed(next(iter(parts.values())).shape[1])
    )


def _trained(context: Context) -> set[str]:
    """Return the recordings with windows that are trained on."""
    return {p.recording for p in context.plan.pieces if p.split == "train" and p.usable.any()}


def trained_days(context: Context) -> tuple[float, float]:
    """Return when the first and the last training window were, in days since the first midnight.

    Of the ambient windows; where there are none, of the task's.
    """
    starts = recording_starts(context.plan)
    for role in (PRETRAIN, FINETUNE):
        moments = [
            _elapsed(starts[p.recording], p.brain_starts[p.usable])
            for p in context.plan.select(role, split="train")
            if p.usable.any()
        ]
        if moments:
            return min(float(m.min()) for m in moments), max(float(m.max()) for m in moments)
    return 0.0, 0.0


def _elapsed(start: Start, seconds: np.ndarray) -> np.ndarray:
    """Return days since the midnight before the first recording; whole ones without an hour."""
    if np.isnan(start.hour):
        return np.full(len(seconds), float(start.day))
    return start.day + (start.hour * 3600 + seconds) / 86400


def _day_and_split(context: Context, label: str) -> Hashable:
    """Return what a recording shares with those that are scaled with it.

    A held-out recording is never scaled together with one that is trained on: nothing of the test
    signal may reach a training window.
    """
    splits = frozenset(p.split for p in context.plan.pieces if p.recording == label)
    return recording_starts(context.plan)[label].day, context.plan[label].role, splits


def time_columns(start: Start, seconds: np.ndarray, known: tuple[float, float]) -> np.ndarray:
    """Return what encoders read of the time: weeks since the first day, sine and cosine of the day.

    Before and after the training days, weeks stand still: what a model makes of a number that it
    has not seen is arbitrary, and the nearest day that it knows is the best guess.

    Parameters
    ----------
    start : Start
        Of the recording; where the hour is not known, sine and cosine are 0.
    seconds : array, shape (n_times,)
        On the recording's clock.
    known : (float, float)
        First and last moment that was trained on, in days.

    Returns
    -------
    array, shape (n_times, 3)
    """
    days = _elapsed(start, seconds)
    weeks = days.clip(*known) / WEEK
    if np.isnan(start.hour):
        return np.column_stack([weeks, np.zeros((len(seconds), 2))])
    angle = 2 * np.pi * days
    return np.column_stack([weeks, np.sin(angle), np.cos(angle)])


def window_days(context: Context, table: pd.DataFrame) -> np.ndarray:
    """Return the day of each window of a table with columns recording and onset."""
    starts, onsets = recording_starts(context.plan), table["onset"].to_numpy(float)
    days = np.zeros(len(table), dtype=int)
    for label in table["recording"].unique():
        own = (table["recording"] == label).to_numpy()
        days[own] = starts[label].days(onsets[own])
    return days


def make_adversary(context: Context, table: pd.DataFrame, dimension: int) -> DayAdversary | None:
    """Return what learns the days of training windows; None if it is off or there is one day."""
    weight = context.config.drift.adversarial
    days = np.unique(window_days(context, table), return_inverse=True)[1] if weight else [0]
    if len(set(days)) < 2:
        return None
    return DayAdversary(torch.as_tensor(days), dimension, weight, context.config.run.seed)
