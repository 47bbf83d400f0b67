"""What changes, where that is asked for: how contacts respond, their rhythm, and their gain.

Gains wander from day to day in every simulated brain (`participant`). Beyond that responses may
turn, day by day, into others, a rhythm may grow in some contacts and fade in others, and gains may
swing within recordings. All have random states of their own: without them everything is as it was.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.signal import butter, sosfilt, sosfreqz

from bids_speechdecode.simulate.background import SLOW_RMS
from bids_speechdecode.simulate.brain import Brain, draw_brain, respond
from bids_speechdecode.simulate.settings import SimulationSettings

RHYTHM_BAND = (8.0, 12.0)  # hertz
SWING_PERIOD = 240.0  # seconds


@dataclass(frozen=True)
class Drift:
    """How a participant differs from day to day.

    Attributes
    ----------
    slow, high_gamma : array, shape (n_days, n_auditory, n_drives, n_lags)
        Response functions of each day, as in `Brain`; those of the first day are the brain's own.
    rhythm : array, shape (n_days, n_contacts), µV
        Root mean square of the rhythm on each day.
    """

    slow: np.ndarray
    high_gamma: np.ndarray
    rhythm: np.ndarray


def draw_drift(
    brain: Brain,
    scale: np.ndarray,
    settings: SimulationSettings,
    story: np.ndarray,
    rng: np.random.Generator,
) -> Drift:
    """Return the drift of a participant.

    On day d responses are ``cos(d a) first + sin(d a) other``, a being `response_drift` (radians),
    with response functions `other` drawn as those of the first day were; each day's responses have
    unit variance while a story is told.

    Parameters
    ----------
    brain : Brain
    scale : array, shape (n_contacts,)
        Relative amplitude of each contact's background.
    settings : SimulationSettings
    story : array, shape (n_frames, n_drives)
    rng : numpy.random.Generator
    """
    other = draw_brain(
        brain.contacts,
        story,
        settings.best_correlation,
        rng,
        loudness_only=settings.loudness_only,
    )
    angles = settings.response_drift * np.arange(settings.days)
    slow, high_gamma = (
        np.stack([first, *(_turn(first, last, angle, story) for angle in angles[1:])])
        for first, last in ((brain.slow, other.slow), (brain.high_gamma, other.high_gamma))
    )
    grows = rng.permutation(len(scale)) % 2 == 0
    course = np.linspace(0, 1, settings.days)[:, None]
    level = np.where(grows, course, 1 - course)
    return Drift(slow, high_gamma, settings.offset_drift * SLOW_RMS * scale * level)


def _turn(first: np.ndarray, last: np.ndarray, angle: float, story: np.ndarray) -> np.ndarray:
    if not angle:
        return first
    mixed = np.cos(angle) * first + np.sin(angle) * last
    return mixed / respond(story, mixed).std(axis=0)[:, None, None]


class Rhythm:
    """Noise of 8 to 12 Hz that runs on from block to block, each contact its own."""

    def __init__(self, rms: np.ndarray, rate: float, rng: np.random.Generator) -> None:
        self._rms, self._rng = rms, rng
        self._sections = butter(2, RHYTHM_BAND, "bandpass", fs=rate, output="sos")
        _, response = sosfreqz(self._sections, worN=2**16, fs=rate)
        self._sections[0, :3] /= np.sqrt(np.mean(np.abs(response) ** 2))
        self._state = np.zeros((len(self._sections), 2, len(rms)))
        self.make(int(2 * rate))  # the filter must have settled

    def make(self, n: int) -> np.ndarray:
        """Return the next `n` samples, shape (n, n_contacts), µV."""
        white = self._rng.standard_normal((n, len(self._rms)), np.float32)
        filtered, self._state = sosfilt(self._sections, white, axis=0, zi=self._state)
        return filtered * self._rms


@dataclass(frozen=True)
class Swing:
    """Gains ``exp(sqrt(2) s sin(2 pi (t / period + phase)))``, whose logarithm has deviation s.

    Attributes
    ----------
    deviation : float
    phase : array, shape (n_contacts,)
        In periods.
    """

    deviation: float
    phase: np.ndarray

    def gains(self, time: np.ndarray) -> np.ndarray:
        """Return the gains at times (s) of the recording, shape (n_times, n_contacts)."""
        angle = 2 * np.pi * (time[:, None] / SWING_PERIOD + self.phase)
        return np.exp(np.sqrt(2) * self.deviation * np.sin(angle))
