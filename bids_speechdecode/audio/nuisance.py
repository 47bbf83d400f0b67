"""What is heard without any model of speech: loudness, onsets, spectrum, pitch, words.

Each is a mean over the step of ``1 / rate`` seconds that ends at the sample, of frames that end
within the step; no sound after a sample enters its value. They are regressors of no interest, to
show what a speech model explains beyond them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from scipy import fft, signal

from bids_speechdecode.audio.causal import AUDIO_RATE, HeardSound, step_means
from bids_speechdecode.audio.context import mel_steps
from bids_speechdecode.audio.features import Reader
from bids_speechdecode.audio.speech_models import MEL_BANDS, MelSpectrogram
from bids_speechdecode.errors import MissingInputError
from bids_speechdecode.timeline import Interval
from bids_speechdecode.validation import unknown

HOP = 128  # samples of sound between frames, 8 ms
ENVELOPE_WINDOW = 512  # samples, 32 ms: longer than a period of any voice
LOUDNESS_POWER = 0.6  # Biesmans et al. 2017, doi:10.1109/TNSRE.2016.2571900
PITCH_WINDOW = 800  # samples, 50 ms: three periods of the lowest pitch
LOWEST_PITCH, HIGHEST_PITCH = 60.0, 500.0  # hertz
MIN_PERIODICITY = 0.5  # of the corrected autocorrelation, whose maximum is 1
OCTAVE_COST = 0.03  # per octave: of a period and its double, which fit alike, the shorter is right
QUIETEST_VOICE = 1e-3  # RMS, full scale 1; rounding noise has a pitch, too
REFERENCE_PITCH = 100.0  # hertz
WORD_SPAN = 2.0  # seconds over which the rate of words is taken


def nuisance_features(
    read: Reader,
    interval: Interval,
    rate: float,
    names: Sequence[str],
    words: pd.DataFrame | None = None,
) -> tuple[np.ndarray, list[str]]:
    """Return acoustic and lexical features at the samples of a regular course.

    Sample k lies at ``interval.start + k / rate``; at the first nothing has been heard yet.

    ======== ==================================================================================
    envelope loudness: root mean square of 32 ms (Hann window; full scale 1) to the power of 0.6
    onsets   how much that rises from one frame to the next (8 ms); falls count as 0
    mel      40 bands, logarithmic, as the target ``mel``
    pitch    octaves above 100 Hz, mean of the voiced frames (0 without any); share of voiced frames
    words    how many words began; words per second over the last 2 s
    ======== ==================================================================================

    Parameters
    ----------
    read : function (start, stop) -> array of float32, shape (n,)
        Sound at 16 kHz; times in seconds of the audio. Never asked beyond `interval`.
    interval : Interval
        Seconds of the audio.
    rate : float
        Of the samples, hertz.
    names : sequence of str
        Some of envelope, onsets, mel, pitch, words.
    words : DataFrame, optional
        Column ``onset``, seconds of the audio.

    Returns
    -------
    features : array of float32, shape (n, d)
        n is the interval's duration times `rate`, rounded.
    columns : list of str
        The name of each column.

    Raises
    ------
    UsageError
        If a name is none of these.
    MissingInputError
        If words are asked for and there are none.
    DataError
        If the sound is shorter than the interval, shorter than one sample, or not finite.
    """
    heard = HeardSound(read, interval, rate)
    parts, columns = [np.zeros((len(heard.ends), 0), np.float32)], []
    for name in names:
        if name == "words":
            parts.append(word_course(heard, words))
        elif name in _COURSES:
            parts.append(_COURSES[name](heard))
        else:
            raise unknown("nuisance feature", name, [*_COLUMNS], "")
        columns += _COLUMNS[name]
    return np.concatenate(parts, axis=1), columns


def envelope_course(heard: HeardSound) -> np.ndarray:
    """Return the mean loudness of each step, array of float32, shape (n, 1)."""
    return step_means(heard, lambda wave: _loudness(wave)[:, None], ENVELOPE_WINDOW, HOP)


def onset_course(heard: HeardSound) -> np.ndarray:
    """Return the mean rise of the loudness in each step, array of float32, shape (n, 1)."""

    def rise(wave: np.ndarray) -> np.ndarray:
        return np.maximum(0, np.diff(_loudness(wave)))[:, None]

    return step_means(heard, rise, ENVELOPE_WINDOW + HOP, HOP)


def mel_course(heard: HeardSound) -> np.ndarray:
    """Return the mean logarithmic mel spectrum of each step, array of float32, shape (n, 40)."""
    return mel_steps(heard, MelSpectrogram(torch.device("cpu")))


def pitch_course(heard: HeardSound) -> np.ndarray:
    """Return pitch (octaves above 100 Hz) and share of voiced frames, float32, shape (n, 2)."""

    def frames_of(wave: np.ndarray) -> np.ndarray:
        pitch = pitch_of_frames(wave)
        octaves = np.log2(np.where(pitch > 0, pitch, REFERENCE_PITCH) / REFERENCE_PITCH)
        return np.stack([octaves, pitch > 0], axis=1)

    octaves, voiced = step_means(heard, frames_of, PITCH_WINDOW, HOP).T
    mean = np.divide(octaves, voiced, out=np.zeros_like(octaves), where=voiced > 0)
    return np.stack([mean, voiced], axis=1)


def pitch_of_frames(wave: np.ndarray) -> np.ndarray:
    """Return the pitch of each 50 ms of sound, every 8 ms, in hertz; 0 where there is none.

    The period is the lag at which the autocorrelation of the Hann-windowed sound over that of the
    window, relative to lag 0, is highest, less 0.03 for each octave below 500 Hz; both the division
    and the cost are Boersma's (1993, Proc. Inst. Phonetic Sciences Amsterdam 17:97-110). Between
    the lags, a parabola through three values tells the highest. Sound counts as voiced where the
    autocorrelation is at least 0.5 and the RMS at least 0.001 of full scale (our defaults).

    Parameters
    ----------
    wave : array, shape (n,)
        At 16 kHz; full scale is 1.

    Returns
    -------
    pitch : array, shape (1 + (n - 800) // 128,), hertz
    """
    frames = np.lib.stride_tricks.sliding_window_view(wave, PITCH_WINDOW)[::HOP]
    pitch = np.empty(len(frames))
    for first in range(0, len(frames), 1000):
        pitch[first : first + 1000] = _pitch(frames[first : first + 1000].astype(float))
    return pitch


def _pitch(frames: np.ndarray) -> np.ndarray:
    """Return the pitch of each of (n, 800) frames."""
    shortest, longest = int(AUDIO_RATE / HIGHEST_PITCH), int(np.ceil(AUDIO_RATE / LOWEST_PITCH))
    window = signal.windows.hann(PITCH_WINDOW, sym=False)
    frames = frames - (frames @ window / window.sum())[:, None]
    level = np.sqrt((frames**2).mean(axis=1))
    raw = _autocorrelation(frames * window, longest + 2)
    known = _autocorrelation(window[None], longest + 2)
    power = np.maximum(raw[:, :1], np.finfo(float).tiny)
    periodicity = (raw / power) / (known / known[:, :1])
    lags = np.arange(shortest, longest + 1)
    cost = OCTAVE_COST * np.log2(lags / shortest)
    inner, before, after = (periodicity[:, lags + d] for d in (0, -1, 1))
    peaks = (inner >= before) & (inner > after)
    best = np.argmax(np.where(peaks, inner - cost, -np.inf), axis=1)
    row = np.arange(len(frames))
    left, top, right = (part[row, best] for part in (before, inner, after))
    bend = left - 2 * top + right
    shift = np.divide(left - right, 2 * bend, out=np.zeros_like(bend), where=bend < 0)
    voiced = peaks.any(axis=1) & (top >= MIN_PERIODICITY) & (level >= QUIETEST_VOICE)
    return np.where(voiced, AUDIO_RATE / (lags[best] + shift), 0.0)


def _autocorrelation(frames: np.ndarray, n_lags: int) -> np.ndarray:
    """Return the autocorrelation of each row at lags 0 to ``n_lags - 1``."""
    size = fft.next_fast_len(frames.shape[1] + n_lags, real=True)
    power = np.abs(fft.rfft(frames, size, axis=1)) ** 2
    return fft.irfft(power, size, axis=1)[:, :n_lags]


def word_course(heard: HeardSound, words: pd.DataFrame | None) -> np.ndarray:
    """Return how many words began in each step, and their rate (1/s), float32, shape (n, 2)."""
    if words is None:
        raise MissingInputError(
            "It is not known when the words were spoken",
            expected="a table with a column onset, seconds of the audio",
            found="no table of words for this sound",
            fix="put it beside the sound (see the documentation), or leave words out of nuisance",
        )
    onsets = np.asarray(words["onset"], float) - heard.interval.start
    # The step of a word is that of its first sample of sound, which ends after it.
    samples = np.floor(np.round(onsets * AUDIO_RATE, 3))
    step = np.searchsorted(heard.ends, samples[(samples >= 0)], side="right")
    n = len(heard.ends)
    counts = np.bincount(step[step < n], minlength=n)
    n_before = np.concatenate([[0], np.cumsum(counts)])
    span = max(1, round(WORD_SPAN * heard.rate))
    upper = np.arange(1, n + 1)
    rate = (n_before[upper] - n_before[np.maximum(0, upper - span)]) * heard.rate / span
    return np.stack([counts, rate], axis=1).astype(np.float32)


def _loudness(wave: np.ndarray) -> np.ndarray:
    """Return the loudness of each window of 32 ms, every 8 ms, shape (n_frames,)."""
    windows = np.lib.stride_tricks.sliding_window_view(np.square(wave), ENVELOPE_WINDOW)[::HOP]
    # A window with soft edges, or each period of a voice would be an onset.
    weights = signal.windows.hann(ENVELOPE_WINDOW, sym=False).astype(np.float32)
    return np.asarray(windows @ weights / weights.sum(), float) ** (LOUDNESS_POWER / 2)


_COURSES: dict[str, Callable[[HeardSound], np.ndarray]] = {
    "envelope": envelope_course,
    "onsets": onset_course,
    "mel": mel_course,
    "pitch": pitch_course,
}
_COLUMNS = {
    "envelope": ["envelope"],
    "onsets": ["onsets"],
    "mel": [f"mel{band:02d}" for band in range(MEL_BANDS)],
    "pitch": ["pitch_octaves", "pitch_voiced"],
    "words": ["word_onsets", "word_rate"],
}
