"""On which day, and at which hour, each window was heard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime

import numpy as np

from bids_speechdecode.bids.acquired import acquisition_time
from bids_speechdecode.steps.plan import ParticipantPlan

DAY = 86400.0


@dataclass(frozen=True)
class Start:
    """When a recording began.

    Attributes
    ----------
    day : int
        Since the participant's first recording, whose day is 0.
    hour : float
        Of the day, 0 to 24; NaN where the dataset does not say.
    """

    day: int
    hour: float

    def days(self, seconds: np.ndarray) -> np.ndarray:
        """Return the day of times on the recording's clock."""
        if np.isnan(self.hour):
            return np.full(len(seconds), self.day)
        return self.day + ((3600 * self.hour + seconds) // DAY).astype(int)

    def clock(self, seconds: np.ndarray) -> np.ndarray:
        """Return seconds since midnight of the first day; NaN where the hour is not known."""
        return DAY * self.day + 3600 * self.hour + seconds

    def hours(self, seconds: np.ndarray) -> np.ndarray:
        """Return the hour of the day (0 to 24) of times on the recording's clock."""
        return (self.hour + seconds / 3600) % 24


def recording_starts(plan: ParticipantPlan) -> Mapping[str, Start]:
    """Return when each recording began, by its label.

    From scans.tsv; where it does not tell of every recording, each session is a day of its own, in
    the order of their names, and the hours are not known. Nor are they where it has dates alone.
    """
    told = {r.label: acquisition_time(r.recording) for r in plan.recordings}
    days = {label: _date(time) for label, time in told.items() if time is not None}
    if len(days) < len(told):
        sessions = sorted({r.recording.session or "" for r in plan.recordings})
        return {
            r.label: Start(sessions.index(r.recording.session or ""), float("nan"))
            for r in plan.recordings
        }
    first = min(days.values())
    hours = _hours(told)
    return {label: Start((day - first).days, hours[label]) for label, day in days.items()}


def say_untold(plan: ParticipantPlan) -> str:
    """Return whose beginning scans.tsv does not tell, in words; "" where it tells of all."""
    untold = [r.label for r in plan.recordings if acquisition_time(r.recording) is None]
    if not untold:
        return ""
    return f"{len(untold)} of {len(plan.recordings)} recordings (such as {untold[0]})"


def _date(time: date) -> date:
    return time.date() if isinstance(time, datetime) else time


def _hours(told: Mapping[str, date | None]) -> Mapping[str, float]:
    """Return the hour of each recording, NaN for all where that of one is not known.

    Two recordings of one midnight, and none at another hour, are dates without hours.
    """
    times = [time for time in told.values() if isinstance(time, datetime)]
    only_dates = len(set(times)) < len(times) and not any(map(_hour, times))
    if len(times) < len(told) or only_dates:
        return dict.fromkeys(told, float("nan"))
    return {label: _hour(time) for label, time in zip(told, times, strict=True)}


def _hour(time: datetime) -> float:
    return time.hour + time.minute / 60 + time.second / 3600
