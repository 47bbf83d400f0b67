"""On which day, and at which hour, each window was heard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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
    the order of their names, and the hours are not known.
    """
    told = {r.label: acquisition_time(r.recording) for r in plan.recordings}
    times = {label: time for label, time in told.items() if time is not None}
    if len(times) < len(told):
        sessions = sorted({r.recording.session or "" for r in plan.recordings})
        return {
            r.label: Start(sessions.index(r.recording.session or ""), float("nan"))
            for r in plan.recordings
        }
    first = min(time.date() for time in times.values())
    return {
        label: Start(
            (time.date() - first).days,
            time.hour + time.minute / 60 + time.second / 3600,
        )
        for label, time in times.items()
    }
