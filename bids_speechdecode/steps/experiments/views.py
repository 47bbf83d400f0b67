"""Among which candidates a test window is ranked: of the same loudness, voice or day."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from bids_speechdecode.audio.energy import Energy, energy_fingerprint
from bids_speechdecode.audio.features import Reader, voiced_fraction, window_features
from bids_speechdecode.audio.nuisance import pitch_of_frames
from bids_speechdecode.audio.speech_models import MelSpectrogram, model_fingerprint
from bids_speechdecode.config import TargetConfig
from bids_speechdecode.decoding.strata import LEFT_OUT, SMALLEST, match_strata
from bids_speechdecode.decoding.unexplained import SIGNAL_PENALTY
from bids_speechdecode.steps.context import Context
from bids_speechdecode.steps.data import LoadedWindows
from bids_speechdecode.steps.drift import window_days
from bids_speechdecode.steps.experiments.times import recording_starts
from bids_speechdecode.steps.experiments.voices import speaker_tables, window_speakers
from bids_speechdecode.steps.features import audio_reader
from bids_speechdecode.steps.plan import Piece
from bids_speechdecode.timeline import sample_at

COURSE_RATE = 10.0  # hertz, of the course of loudness by which windows are matched
# Seconds of sound before and after a moment that its signal may follow: responses outlast sound,
# and filters without delay spread them to both sides.
BEFORE, AFTER = 1.0, 0.5
MIN_VOICED = 0.1  # of a window's frames, for it to have a pitch
N_PITCHES = 8  # strata of pitch at the most
PER_PITCH = 4 * SMALLEST  # windows in each, at the least
Measure = Callable[[Reader, Piece], np.ndarray]  # one row a window of the piece


@dataclass(frozen=True)
class View:
    """Among which candidates windows are ranked.

    Attributes
    ----------
    strata : callable, optional
        The stratum of every window, negative for those that are left out; each is ranked among
        those of its own. None: among all, with what loudness predicts taken out, or what `beyond`
        says.
    settings : callable
        What the view depends on besides the windows and their sound.
    around : callable, optional
        The loudness that the signal of every window may follow: taken out of it.
    beyond : callable, optional
        What is taken out of brain embeddings and targets alike, one row a window.
    """

    strata: Callable[[Context, LoadedWindows, str], np.ndarray] | None
    settings: Callable[[Context, str], Any]
    around: Callable[[Context, LoadedWindows, str], np.ndarray] | None = None
    beyond: Callable[[Context, LoadedWindows, str], np.ndarray] | None = None


def measure_windows(
    context: Context, windows: LoadedWindows, role: str, measure: Measure
) -> np.ndarray:
    """Return what `measure` makes of the sound of every window of a split, in their order."""
    version, split = (str(windows.table[name].iloc[0]) for name in ("version", "split"))
    lag = context.config.windows.brain_lag
    found: dict[tuple[str, float], np.ndarray] = {}
    for piece in context.plan.select(role, version, split):
        if len(piece.audio_starts):
            rows = measure(_reader(context, piece), piece)
            onsets = (piece.brain_starts - lag).round(4)
            found |= {(piece.recording, float(t)): row for t, row in zip(onsets, rows, strict=True)}
    keys = zip(windows.table["recording"], windows.table["onset"].round(4), strict=True)
    return np.stack([found[key] for key in keys])


def _reader(context: Context, piece: Piece) -> Reader:
    """Return the reader of a piece's sound, at the scale that the features of its sound have."""
    source = context.plan.segment(piece).source
    same = [p for p in context.plan.pieces if p.recording == piece.recording]
    return audio_reader(context, [p for p in same if context.plan.segment(p).source == source])


# -------------------------------------------------------------------------------------- loudness


def same_level(context: Context, windows: LoadedWindows, role: str) -> np.ndarray:
    """Return strata of windows whose level is alike, in the mean and in how much it varies (dB)."""
    course = loudness_course(context, windows, role)
    return match_strata(np.stack([course.mean(axis=1), course.std(axis=1)], axis=1))


def same_loudness(context: Context, windows: LoadedWindows, role: str) -> np.ndarray:
    """Return strata of windows whose level takes a similar course."""
    return match_strata(loudness_course(context, windows, role))


def loudness_course(context: Context, windows: LoadedWindows, role: str) -> np.ndarray:
    """Return the level of every window in parts of 0.1 s, shape (n_windows, n_parts), dB."""
    duration = context.config.windows.duration
    settings = TargetConfig("energy", "", 0, "frames", max(COURSE_RATE, 1 / duration))

    def measure(read: Reader, piece: Piece) -> np.ndarray:
        energy = Energy(torch.device(context.device))
        return window_features(read, piece.audio, piece.audio_starts, duration, energy, settings)

    return measure_windows(context, windows, role, measure)[..., 0]


def loudness_around(context: Context, windows: LoadedWindows, role: str) -> np.ndarray:
    """Return the level around every window, dB, for `unexplained.take_out_of_signal`.

    At the rate of the signal, from 1 s before the window's signal to 0.5 s after it: (n_windows,
    n_parts). Beyond the sound of its split, the level is that of the end.
    """
    rate = context.config.preprocess.rate
    first, last = (sample_at(seconds, rate) for seconds in (BEFORE, AFTER))
    parts = np.arange(-first, windows.n_samples + last) / rate
    times = context.config.windows.brain_lag + parts
    energy = Energy(torch.device(context.device))

    def measure(read: Reader, piece: Piece) -> np.ndarray:
        whole, start = piece.audio.duration, piece.audio.start
        settings = TargetConfig("energy", "", 0, "frames", rate)
        starts = np.array([start])
        levels = window_features(read, piece.audio, starts, whole, energy, settings)[0, :, 0]
        centres = start + (np.arange(len(levels)) + 0.5) * whole / len(levels)
        return np.interp(piece.audio_starts[:, None] + times, centres, levels).astype(np.float32)

    return measure_windows(context, windows, role, measure)


# -------------------------------------------------------------------------------------- spectrum


def spectrum(context: Context, windows: LoadedWindows, role: str) -> np.ndarray:
    """Return mean and standard deviation of each mel band within every window, (n_windows, 80)."""
    duration, settings = context.config.windows.duration, _mel_of(context)

    def measure(read: Reader, piece: Piece) -> np.ndarray:
        mel = MelSpectrogram(torch.device(context.device))
        return window_features(read, piece.audio, piece.audio_starts, duration, mel, settings)

    course = measure_windows(context, windows, role, measure)
    return np.concatenate([course.mean(axis=1), course.std(axis=1)], axis=1)


def _mel_of(context: Context) -> TargetConfig:
    rate = max(COURSE_RATE, 2 / context.config.windows.duration)
    return TargetConfig("mel", "", 0, "frames", rate)


# ----------------------------------------------------------------------------------------- voice


def spoken(context: Context, windows: LoadedWindows, role: str, *, silent: bool) -> np.ndarray:
    """Return one stratum: the windows in which somebody speaks, or those in which nobody does."""
    duration = context.config.windows.duration

    def measure(read: Reader, piece: Piece) -> np.ndarray:
        return voiced_fraction(read, piece.audio_starts, duration)

    fraction = measure_windows(context, windows, role, measure)
    is_silent = fraction < context.config.windows.min_voiced_fraction
    return np.where(is_silent == silent, 0, LEFT_OUT)


def same_voice(context: Context, windows: LoadedWindows, role: str) -> np.ndarray:
    """Return strata of windows with the same speaker, or of similar pitch where none is named."""
    speakers = window_speakers(context, windows, role)
    if speakers is not None:
        return speakers
    duration = context.config.windows.duration
    pitch = measure_windows(context, windows, role, partial(_median_pitch, duration))
    return pitch_strata(pitch)


def _median_pitch(duration: float, read: Reader, piece: Piece) -> np.ndarray:
    """Return the median pitch of each window's voiced frames (Hz); NaN where few are voiced."""
    pitches = []
    for start in piece.audio_starts:
        stop = min(float(start) + duration, piece.audio.stop)
        frames = pitch_of_frames(read(float(start), stop))
        voiced = frames > 0
        pitches.append(np.median(frames[voiced]) if voiced.mean() >= MIN_VOICED else np.nan)
    return np.array(pitches)


def pitch_strata(pitch: np.ndarray) -> np.ndarray:
    """Return equally large strata of pitch; windows without one (NaN) are left out.

    At most 8, of at least 20 windows each: voices differ by more than a sentence's melody does.
    """
    strata = np.full(len(pitch), LEFT_OUT)
    known = np.flatnonzero(np.isfinite(pitch))
    n_strata = int(np.clip(len(known) // PER_PITCH, 1, N_PITCHES))
    order = known[np.argsort(pitch[known], kind="stable")]
    for label, members in enumerate(np.array_split(order, n_strata)):
        strata[members] = label
    return strata


# ----------------------------------------------------------------------------------------- days


def same_day(context: Context, windows: LoadedWindows, role: str) -> np.ndarray:
    """Return the day of every window."""
    return window_days(context, windows.table)


def _day_settings(context: Context, role: str) -> Any:
    return {k: (s.day, str(s.hour)) for k, s in sorted(recording_starts(context.plan).items())}


def _loudness_settings(context: Context, role: str) -> Any:
    return [energy_fingerprint(), COURSE_RATE, SMALLEST]


def _around_settings(context: Context, role: str) -> Any:
    return [*_loudness_settings(context, role), BEFORE, AFTER, SIGNAL_PENALTY]


def _spectrum_settings(context: Context, role: str) -> Any:
    return [model_fingerprint(_mel_of(context)), COURSE_RATE]


def _voicing_settings(context: Context, role: str) -> Any:
    return context.config.windows.min_voiced_fraction


def _voice_settings(context: Context, role: str) -> Any:
    return [speaker_tables(context, role), MIN_VOICED, N_PITCHES, PER_PITCH]


VIEWS: Mapping[str, View] = {
    "silent": View(partial(spoken, silent=True), _voicing_settings),
    "spoken": View(partial(spoken, silent=False), _voicing_settings),
    "level": View(same_level, _loudness_settings),
    "loudness": View(same_loudness, _loudness_settings),
    "unexplained": View(None, _around_settings, loudness_around),
    "beyond": View(None, _spectrum_settings, beyond=spectrum),
    "voice": View(same_voice, _voice_settings),
    "day": View(same_day, _day_settings),
}
