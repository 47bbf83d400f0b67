"""Remedies in the steps: what the time means, who is scaled together, what a new day may see."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from bids_speechdecode.config import Config, TrainingConfig, override
from bids_speechdecode.errors import UsageError
from bids_speechdecode.steps import drift
from bids_speechdecode.steps.experiments import recalibration, subsets
from bids_speechdecode.steps.experiments.days import _cut, name_days
from bids_speechdecode.steps.experiments.recalibration import early_windows
from bids_speechdecode.steps.experiments.subsets import Subset, take
from bids_speechdecode.steps.experiments.times import Start
from bids_speechdecode.steps.plan import PRETRAIN, ParticipantPlan, Piece
from bids_speechdecode.timeline import Interval

STARTS = {"a": Start(0, 23.0), "b": Start(1, 8.0), "c": Start(1, 12.0), "d": Start(2, 9.0)}
SPLIT = {"a": "train", "b": "test", "c": "train", "d": "test"}


def piece(label: str) -> Piece:
    times = np.arange(0.0, 7200.0, 300.0)
    usable = np.ones(len(times), dtype=bool)
    return Piece(
        label, PRETRAIN, 0, "ambient", SPLIT[label], 0, Interval(0, 7200), times, times, usable
    )


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch) -> ParticipantPlan:
    for module in (drift, recalibration, subsets):
        monkeypatch.setattr(module, "recording_starts", lambda _: STARTS)
    return ParticipantPlan("01", True, (), tuple(piece(label) for label in STARTS), ())


def counts(plan: ParticipantPlan) -> dict[str, int]:
    return {p.recording: p.n_usable for p in plan.pieces}


def test_settings_at_their_defaults_leave_signatures_alone() -> None:
    """All models of all users would be trained again otherwise."""
    context: Any = SimpleNamespace(config=Config(), plan=None)
    assert drift.drift_settings(context) == {}
    minutes = override(Config(), {"drift.recalibrate": 9.0, "drift.normalise_minutes": 7.0})
    assert drift.drift_settings(SimpleNamespace(config=minutes, plan=None)) == {}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [
        {"drift.normalise": "day"},
        {"drift.normalise": "sliding"},
        {"drift.adversarial": 0.1},
        {"drift.time_embedding": True},
    ],
)
def test_every_remedy_changes_the_signature(plan: ParticipantPlan, changes: dict[str, Any]) -> None:
    context: Any = SimpleNamespace(config=override(Config(), changes), plan=plan)
    assert (
        drift.drift_settings(context)["drift"].items()
        >= {name.removeprefix("drift."): value for name, value in changes.items()}.items()
    )


def test_time_goes_on_over_midnight() -> None:
    """The same moment is the same numbers in both recordings."""
    known = (0.0, 9.0)
    before = drift.time_columns(Start(0, 23.0), np.array([0.0, 7200.0]), known)
    after = drift.time_columns(Start(1, 1.0), np.array([0.0]), known)
    assert before[1] == pytest.approx(after[0])
    assert before[1, 0] * 7 == pytest.approx(1 + 1 / 24)
    unknown = drift.time_columns(Start(3, float("nan")), np.zeros(1), known)
    assert unknown.tolist() == [[3 / 7, 0.0, 0.0]]


def test_days_that_no_model_has_seen_are_the_nearest_that_it_has(plan: ParticipantPlan) -> None:
    """A number beyond those of training would make of every later day something new."""
    known = drift.trained_days(Fake(plan, Config()))  # type: ignore[arg-type]
    assert known == pytest.approx((23 / 24, 1 + 12 / 24 + 6900 / 86400))
    late = drift.time_columns(STARTS["d"], np.array([0.0, 3600.0]), known)
    assert (late[:, 0] == known[1] / 7).all()
    assert late[0, 1] != late[1, 1]  # the hour goes on
    blank = replace(plan, pieces=tuple(replace(p, usable=p.usable & False) for p in plan.pieces))
    assert drift.trained_days(Fake(blank, Config())) == (0.0, 0.0)  # type: ignore[arg-type]


def test_time_needs_channels_by_name() -> None:
    with pytest.raises(UsageError, match="time_embedding"):
        override(Config(), {"drift.time_embedding": True, "encoder.spatial": "attention"})


@dataclass
class Fake:
    """As much of a context as the signal needs."""

    plan: Any
    config: Config
    roles: dict[str, Any] = field(default_factory=dict)


def test_held_out_recordings_are_not_scaled_with_training(
    plan: ParticipantPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B and c are of one day: were they scaled together, the test would reach into training."""
    monkeypatch.setattr(
        ParticipantPlan, "__getitem__", lambda self, label: SimpleNamespace(role=PRETRAIN)
    )
    config = override(Config(), {"drift.normalise": "day", "drift.time_embedding": True})

    def prepared(test_signal: torch.Tensor) -> dict[str, torch.Tensor]:
        make = torch.Generator().manual_seed(0)
        parts = {name: torch.randn(200, 5, generator=make) for name in STARTS}
        parts["b"] = test_signal.clone()
        drift.prepare_signal(Fake(plan, config), parts)  # type: ignore[arg-type]
        return parts

    ours, theirs = prepared(torch.randn(200, 5)), prepared(100 * torch.randn(200, 5))
    assert torch.equal(ours["c"], theirs["c"])
    assert not torch.equal(ours["b"], theirs["b"])
    known = drift.trained_days(Fake(plan, config))  # type: ignore[arg-type]
    assert ours["b"][0, 2:] == pytest.approx(drift.time_columns(STARTS["b"], np.zeros(1), known)[0])


def test_what_recalibration_sees_is_not_tested(plan: ParticipantPlan) -> None:
    """The first hour of day 1 is the end of recording a, which began the day before."""
    early = early_windows(plan, 1, (0.0, 30.0), 3.0)
    rest = take(plan, PRETRAIN, Subset(days=(1,), skip=30.0), split="test")
    assert {p.split for p in early.pieces} == {"train"}
    assert counts(early) == {"a": 6, "b": 0, "c": 0, "d": 0}
    assert counts(rest)["b"] == 24
    later = {**STARTS, "a": Start(0, 2.0)}
    subsets.recording_starts = recalibration.recording_starts = lambda _: later  # type: ignore[assignment]
    early = early_windows(plan, 1, (0.0, 30.0), 3.0)
    rest = take(plan, PRETRAIN, Subset(days=(1,), skip=30.0), split="test")
    assert counts(early)["b"] == 6
    assert counts(rest)["b"] == 24 - 6
    both = [p.usable for plan_ in (early, rest) for p in plan_.pieces if p.recording == "b"]
    assert not (both[0] & both[1]).any()


def test_few_windows_get_enough_updates() -> None:
    """One update an epoch left recalibrated models where they were."""
    settings = TrainingConfig(batch_size=128, max_epochs=30, patience=5)
    for n in (16, 47, 90, 700, 20000):
        adapted = recalibration.adapt_training(settings, n)
        per_epoch = n // adapted.batch_size
        assert per_epoch >= 4
        assert per_epoch * adapted.max_epochs >= 400
        assert adapted.batch_size <= 128
        assert adapted.patience == adapted.max_epochs >= 30
        assert adapted.learning_rate == settings.learning_rate


def test_skipping_does_not_depend_on_what_is_used(plan: ParticipantPlan) -> None:
    """Arms are trained on other windows; the first minutes of a day must be the same for all."""
    blank = tuple(replace(p, usable=p.usable & (p.split == "test")) for p in plan.pieces)
    subset = Subset(days=(1,), skip=45.0)
    full = take(plan, PRETRAIN, subset, split="test")
    thin = take(replace(plan, pieces=blank), PRETRAIN, subset, split="test")
    assert counts(full)["b"] == counts(thin)["b"]


def test_remedies_are_tested_on_later_days() -> None:
    even = dict.fromkeys(range(6), 10)
    assert _cut(even, (1, 4, 5)) == ((0, 1, 2, 3), (4, 5))
    assert _cut(even, (0, 1)) == ((0,), (1,))
    assert _cut(even, (0,)) == ((), ())
    assert name_days([0, 2, 4]) == "Days 1, 3 and 5"
