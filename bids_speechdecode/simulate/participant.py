"""One participant: a brain, its electrodes, and the recordings made from them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bids_speechdecode.simulate.anatomy import draw_contacts
from bids_speechdecode.simulate.background import SLOW_RMS, Background
from bids_speechdecode.simulate.brain import FRAME_RATE, Brain, draw_brain, respond
from bids_speechdecode.simulate.drift import Drift, Rhythm, Swing, draw_drift
from bids_speechdecode.simulate.settings import SimulationSettings
from bids_speechdecode.simulate.writers import open_writer
from bids_speechdecode.timeline import ClockMap

_GAIN_STEP = 0.08  # standard deviation of a day's change of the logarithm of a response's gain
_BLOCK = 30.0  # seconds
_ECG_UV = 400.0


@dataclass(frozen=True)
class Participant:
    """What stays the same (the brain) and what drifts (gains) over the days of a participant.

    Attributes
    ----------
    brain : Brain
        Contacts and response functions.
    scale : array, shape (n_contacts,)
        Relative amplitude of each contact's background.
    spiking : array, shape (n_contacts,), µV
        Amplitude of interictal spikes.
    bad : tuple of int
        Contacts with a broken wire.
    gains : array, shape (n_days + 1, n_contacts)
        Of the electrode, at the beginning of each day.
    response_gains : array, shape (n_days + 1, n_auditory)
        Of the response alone, at the beginning of each day.
    playback_ppm, microphone_ppm : float
        How much faster these clocks run than the recording's.
    drift : Drift, optional
        Of responses and rhythms.
    """

    label: str
    brain: Brain
    scale: np.ndarray
    spiking: np.ndarray
    bad: tuple[int, ...]
    gains: np.ndarray
    response_gains: np.ndarray
    playback_ppm: float
    microphone_ppm: float
    drift: Drift | None = None

    def responses(self, day: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the response functions of a day: slow, high gamma."""
        if self.drift is None:
            return self.brain.slow, self.brain.high_gamma
        day = min(day, len(self.drift.slow) - 1)
        return self.drift.slow[day], self.drift.high_gamma[day]

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Contacts, then the electrocardiogram."""
        return (*(contact.name for contact in self.brain.contacts), "ECG")


def draw_participant(
    label: str, settings: SimulationSettings, story: np.ndarray, rng: np.random.Generator
) -> Participant:
    """Return a participant; `story` are the drives of ordinary speech, as `draw_brain` takes."""
    contacts = draw_contacts(settings.shafts, settings.contacts, rng)
    brain = draw_brain(
        contacts, story, settings.best_correlation, rng, loudness_only=settings.loudness_only
    )
    deaf = [i for i, contact in enumerate(contacts) if not contact.is_auditory]
    bad = sorted(rng.choice(deaf, min(len(deaf) // 3, int(rng.integers(1, 3))), replace=False))
    participant = Participant(
        label,
        brain,
        scale=rng.lognormal(0, 0.25, len(contacts)),
        spiking=_draw_spiking([contact.shaft for contact in contacts], rng),
        bad=tuple(int(i) for i in bad),
        gains=_random_walk(settings.days, len(contacts), settings.gain_drift, rng),
        response_gains=_random_walk(settings.days, len(brain.auditory), _GAIN_STEP, rng),
        playback_ppm=float(np.round(rng.choice([-1, 1]) * rng.uniform(20, 50), 2)),
        microphone_ppm=float(np.round(rng.choice([-1, 1]) * rng.uniform(20, 50), 2)),
    )
    if not (settings.response_drift or settings.offset_drift):
        return participant
    own = np.random.default_rng([settings.seed, *label.encode(), 1])
    drift = draw_drift(brain, participant.scale, settings, story, own)
    return dataclasses.replace(participant, drift=drift)


def _draw_spiking(shafts: list[str], rng: np.random.Generator) -> np.ndarray:
    """Return spike amplitudes: one focus, on the second shaft if there is one."""
    names = list(dict.fromkeys(shafts))
    members = np.flatnonzero(np.array(shafts) == names[min(1, len(names) - 1)])
    focus = members[rng.integers(0, min(4, len(members)))]
    spiking = np.zeros(len(shafts))
    spiking[members] = rng.uniform(250, 500) * np.exp(-np.abs(members - focus) / 1.5)
    return spiking


def _random_walk(n_days: int, n: int, step: float, rng: np.random.Generator) -> np.ndarray:
    """Return gains that start at 1 and wander from day to day, shape (n_days + 1, n)."""
    steps = rng.normal(0, step, (n_days + 1, n))
    steps[0] = 0
    return np.exp(np.cumsum(steps, axis=0))


def gain_at(walk: np.ndarray, day: float) -> np.ndarray:
    """Return the gains at a time in days, shape (n,): linear between the days of the walk."""
    day = min(max(day, 0.0), len(walk) - 1.0)
    before = min(int(day), len(walk) - 2)
    return walk[before] + (day - before) * (walk[before + 1] - walk[before])


def write_recording(
    path: Path,
    participant: Participant,
    settings: SimulationSettings,
    *,
    drives: np.ndarray,
    clock: ClockMap,
    duration: float,
    start_day: float,
    rng: np.random.Generator,
    meaning: np.ndarray | None = None,
) -> None:
    """Simulate and write one recording, block by block.

    Parameters
    ----------
    path : path
        Of the file to write (.vhdr or .edf).
    drives : array, shape (n_frames, n_drives), 100 Hz
        What reached the ears, on the sound's clock.
    clock : ClockMap
        From the recording's to the sound's.
    duration : float, seconds
        Of the recording.
    start_day : float, days
        When the recording begins, since midnight of the first day.
    meaning : array, shape (n_frames, n_auditory), µV, optional
        Response to what is said, as the drives at 100 Hz on the sound's clock.
    """
    rate, brain = settings.sampling_rate, participant.brain
    slow, high_gamma = (
        respond(drives, functions) if len(drives) else np.zeros((1, len(brain.auditory)))
        for functions in participant.responses(int(start_day))
    )
    rhythm = _start_rhythm(participant, settings, start_day)
    swing = _draw_swing(participant, settings, start_day)
    background = Background(
        brain.contacts,
        scale=participant.scale,
        auditory=brain.auditory,
        spiking=participant.spiking,
        bad=participant.bad,
        rate=rate,
        line_frequency=settings.line_frequency,
        rng=rng,
    )
    auditory = list(brain.auditory)
    amplitude = slow_amplitude(participant)
    n_samples, size = round(duration * rate), int(_BLOCK * rate)
    beats = _draw_beats(duration, rng)
    with open_writer(path, settings.format, participant.channel_names, rate) as writer:
        for first in range(0, n_samples, size):
            time = np.arange(first, min(first + size, n_samples)) / rate
            day = start_day + time[0] / 86400
            frames = FRAME_RATE * (clock.slope * time + clock.offset)
            response_gain = gain_at(participant.response_gains, day)
            signal = background.make(len(time))
            rise = 1 + brain.rise * response_gain * _interpolate(high_gamma, frames)
            signal[:, auditory] += background.make_carrier(len(time)) * np.maximum(0, rise)
            signal[:, auditory] += amplitude * response_gain * _interpolate(slow, frames)
            if meaning is not None:
                signal[:, auditory] += response_gain * _interpolate(meaning, frames)
            if rhythm is not None:
                signal += rhythm.make(len(time))
            signal *= gain_at(participant.gains, day)
            if swing is not None:
                signal *= swing.gains(time)
            signal = background.add_electronics(signal)
            writer.write(np.column_stack([signal, _electrocardiogram(time, beats)]))


def _start_rhythm(
    participant: Participant, settings: SimulationSettings, start_day: float
) -> Rhythm | None:
    """Return the rhythm of a recording, from a random state of its own; None if there is none."""
    if participant.drift is None or not settings.offset_drift:
        return None
    day = min(int(start_day), settings.days - 1)
    rng = _own_state(participant, settings, start_day, 2)
    return Rhythm(participant.drift.rhythm[day], settings.sampling_rate, rng)


def _draw_swing(
    participant: Participant, settings: SimulationSettings, start_day: float
) -> Swing | None:
    """Return how gains swing within a recording; None if they do not."""
    if not settings.gain_swing:
        return None
    rng = _own_state(participant, settings, start_day, 3)
    return Swing(settings.gain_swing, rng.uniform(0, 1, len(participant.scale)))


def _own_state(
    participant: Participant, settings: SimulationSettings, start_day: float, what: int
) -> np.random.Generator:
    """Return a random state of a recording's own, so that all else is as it was without."""
    own = [settings.seed, *participant.label.encode(), what, round(start_day * 86400)]
    return np.random.default_rng(own)


def slow_amplitude(participant: Participant) -> np.ndarray:
    """Return the amplitude of each auditory contact's unit response, in µV.

    ``a = s r / sqrt(1 - r^2)``, where s is the background's rms from 0.5 to 20 Hz and r the
    planted correlation.
    """
    r = participant.brain.correlation
    return SLOW_RMS * participant.scale[list(participant.brain.auditory)] * r / np.sqrt(1 - r**2)


def _interpolate(responses: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Return the responses at fractional frames, (n_times, n); 0 outside the sound."""
    known = np.arange(len(responses))
    columns = [np.interp(frames, known, column, left=0, right=0) for column in responses.T]
    return np.stack(columns, axis=1) if columns else np.zeros((len(frames), 0))


def _draw_beats(duration: float, rng: np.random.Generator) -> np.ndarray:
    """Return the times of heartbeats, about one in 0.85 s."""
    return np.cumsum(rng.normal(0.85, 0.04, int(duration / 0.7) + 2))


def _electrocardiogram(time: np.ndarray, beats: np.ndarray) -> np.ndarray:
    """Return R and T waves of the beats, shape (n_times,), µV."""
    signal = np.zeros(len(time))
    for beat in beats[(beats > time[0] - 1) & (beats < time[-1] + 1)]:
        near = slice(*np.searchsorted(time, [beat - 0.1, beat + 0.5]))
        since = time[near] - beat
        signal[near] += np.exp(-0.5 * (since / 0.012) ** 2)
        signal[near] += 0.25 * np.exp(-0.5 * ((since - 0.25) / 0.04) ** 2)
    return _ECG_UV * signal
