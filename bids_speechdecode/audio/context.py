"""Features of the sound that ends at each sample of a regular course, by a speech model.

Neighbouring windows of 4 s share nearly all of their sound. What the transformer makes of it
depends on the whole window and is computed for each; the convolutions before it see 25 ms at a
time, so that windows whose starts lie a whole number of their hops (20 ms) apart can share them:
those of every second sample at 20 Hz.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import numpy as np
import torch

from bids_speechdecode.audio.causal import AUDIO_RATE, HeardSound, step_means
from bids_speechdecode.audio.features import Reader
from bids_speechdecode.audio.speech_models import (
    MEL_HOP,
    MEL_N_FFT,
    VARIANCE_FLOOR,
    WHISPER_SECONDS,
    LayeredModel,
    MelSpectrogram,
    WaveModel,
    WhisperModel,
)
from bids_speechdecode.errors import DataError, UsageError
from bids_speechdecode.timeline import Interval, sample_at

Token = Literal["first", "last", "mean"]
Progress = Callable[[float], None]

SHORTEST_CONTEXT = 0.1  # seconds, or 5 frames; less makes no frame, or some without any meaning
BLOCK = 64  # windows that share what can be shared
GAIN_STEP = 0.5  # decibels; in read speech, a scale then serves six of 64 windows
OFFSET_STEP = 0.05  # standard deviations


class Window(NamedTuple):
    """Samples [start, stop) of the sound; those before 0 are silence."""

    start: int
    stop: int


class Scale(NamedTuple):
    """How a window is brought to about mean 0 and variance 1: ``gain * x - offset``."""

    gain: float
    offset: float


AS_IT_IS = Scale(1.0, 0.0)


def context_features(
    read: Reader,
    interval: Interval,
    rate: float,
    model: LayeredModel,
    *,
    context: float,
    token: Token,
    batch_size: int,
    on_progress: Progress | None = None,
) -> np.ndarray:
    """Return what each layer says of the sound that ends at each sample.

    Sample k lies at ``interval.start + k / rate``. Its window are the `context` seconds before it,
    or what has been heard since the interval's start where that is less, but at least 0.1 s, with
    silence before the start. No window sees the sound at or after its sample.

    Models that scale their input to mean 0 and variance 1 do so in each window. Where convolutions
    are shared, this gain is rounded to steps of 0.5 dB and the offset to 0.05 standard deviations,
    so that neighbouring windows agree (our default: a window still depends on its own sound
    alone, unlike with the scale of a longer stretch). Models with a group norm over time, and
    Whisper, share nothing. Whisper sees each window followed by silence to 30 s, as it was
    trained, and takes the time of 30 s for each sample.

    Parameters
    ----------
    read : function (start, stop) -> array of float32, shape (n,)
        Sound at 16 kHz; times in seconds of the audio. Never asked beyond `interval`.
    interval : Interval
        Sound that may be used, seconds of the audio.
    rate : float
        Of the samples, hertz.
    model : LayeredModel
        The mel spectrogram has no context: its value is the mean of the frames whose 32 ms end in
        the step of ``1 / rate`` seconds before the sample.
    context : float
        Seconds.
    token : {"first", "last", "mean"}
        Which frame of the window stands for it.
    batch_size : int
        Windows through the transformer at once.
    on_progress : function, optional
        Receives the fraction done.

    Returns
    -------
    features : array of float32, shape (n, n_layers, d)
        n is the interval's duration times `rate`, rounded; layers in the order of the model.

    Raises
    ------
    UsageError
        If the context is shorter than 0.1 s, or longer than Whisper's 30 s.
    DataError
        If the sound is shorter than the interval, shorter than one sample, or not finite.
    """
    heard = HeardSound(read, interval, rate)
    if isinstance(model, MelSpectrogram):
        return mel_steps(heard, model, on_progress)[:, None]
    _check_context(context, model)
    windows = _windows(heard.ends, context, model)
    features = np.empty((len(windows), len(model.layers), model.dimension), np.float32)
    for first in range(0, len(windows), BLOCK):
        block = windows[first : first + BLOCK]
        done = first
        for states in _block_states(heard, model, block, batch_size):
            features[done : done + len(states)] = _pick(states, token).cpu().numpy()
            done += len(states)
        _check_finite(features[first:done], interval.start + first / rate, model)
        if on_progress is not None:
            on_progress(done / len(windows))
    return features


def mel_steps(
    heard: HeardSound, model: MelSpectrogram, on_progress: Progress | None = None
) -> np.ndarray:
    """Return the mean logarithmic mel spectrum of each step, array of float32, shape (n, 40)."""
    # The model centres its windows and mirrors the sound at both ends: with 64 samples more in
    # front, its third frame is the first whose window is the first window of the sound.
    lead = 2 * MEL_HOP - (MEL_N_FFT - MEL_HOP) // 2

    def frames_of(wave: np.ndarray) -> np.ndarray:
        n_frames = 1 + (len(wave) - MEL_N_FFT) // MEL_HOP
        padded = torch.from_numpy(np.pad(wave, (lead, 0)))[None]
        return model.embed(padded)[0, 2 : 2 + n_frames].cpu().numpy()

    return step_means(heard, frames_of, MEL_N_FFT, MEL_HOP, on_progress)


def _check_context(context: float, model: LayeredModel) -> None:
    longest = WHISPER_SECONDS if isinstance(model, WhisperModel) else math.inf
    if not SHORTEST_CONTEXT <= context <= longest:
        upper = "" if longest == math.inf else f" to {longest:g} s, all that Whisper takes"
        raise UsageError(
            "The context of the features is too short or too long",
            expected=f"at least {SHORTEST_CONTEXT:g} s{upper}",
            found=f"context = {context:g}",
        )


def _windows(ends: np.ndarray, context: float, model: LayeredModel) -> list[Window]:
    longest = sample_at(context, AUDIO_RATE)
    shortest = sample_at(min(context, max(SHORTEST_CONTEXT, 5 / model.frame_rate)), AUDIO_RATE)
    return [Window(int(end - np.clip(end, shortest, longest)), int(end)) for end in ends]


def _block_states(
    heard: HeardSound, model: LayeredModel, block: list[Window], batch_size: int
) -> Iterator[torch.Tensor]:
    """Yield the hidden states of the windows in batches, (B, n_layers, n_frames, d), in order."""
    first = min(window.start for window in block)
    wave = heard.sound(first, block[-1].stop)
    sounds = [wave[window.start - first : window.stop - first] for window in block]
    with torch.inference_mode():
        if isinstance(model, WaveModel) and model.local_front:
            starts = [window.start - first for window in block]
            fronts = shared_fronts(model, wave, starts, sounds)
            for batch in _equal_batches(fronts, batch_size):
                yield model.states(torch.stack(batch))
        else:
            for batch in _equal_batches([torch.from_numpy(s) for s in sounds], batch_size):
                yield model.hidden(torch.stack(batch))


def _equal_batches(inputs: list[torch.Tensor], batch_size: int) -> Iterator[list[torch.Tensor]]:
    """Yield batches of equal shape, in order."""
    for _, alike in itertools.groupby(inputs, key=lambda x: x.shape):
        while batch := list(itertools.islice(alike, max(1, batch_size))):
            yield batch


def shared_fronts(
    model: WaveModel, wave: np.ndarray, starts: list[int], sounds: list[np.ndarray]
) -> list[torch.Tensor]:
    """Return for each window what the convolutions make of it, (n_frames, d).

    Parameters
    ----------
    model : WaveModel
        With a local front.
    wave : array of float32, shape (n,)
        Sound that holds all windows.
    starts : list of int
        Where in `wave` each window begins, samples.
    sounds : list of array
        The windows.

    Notes
    -----
    They run over the whole block once for each scale and each place relative to their hops. That
    they always run over all of it keeps every number independent of the sound that follows: not
    even the shapes of the arrays, on which rounding may depend, change with it.
    """
    scales = [window_scale(sound) if model.normalises else AS_IT_IS for sound in sounds]
    keys = [(start % model.hop, scale) for start, scale in zip(starts, scales, strict=True)]
    fronts = [torch.empty(0)] * len(sounds)
    for phase, scale in dict.fromkeys(keys):
        scaled = (wave[phase:] * scale.gain - scale.offset).astype(np.float32)
        front = model.front(torch.from_numpy(scaled)[None])[0]
        for i in (i for i, key in enumerate(keys) if key == (phase, scale)):
            begin = (starts[i] - phase) // model.hop
            n_frames = (len(sounds[i]) - model.field) // model.hop + 1
            fronts[i] = front[begin : begin + n_frames]
    return fronts


def window_scale(sound: np.ndarray) -> Scale:
    """Return what brings a window of sound to mean 0 and variance 1, rounded."""
    exact = 1 / math.sqrt(float(np.var(sound, dtype=float)) + VARIANCE_FLOOR)
    gain = 10 ** (round(20 * math.log10(exact) / GAIN_STEP) * GAIN_STEP / 20)
    offset = float(np.mean(sound, dtype=float)) * gain
    return Scale(gain, round(offset / OFFSET_STEP) * OFFSET_STEP)


def _pick(states: torch.Tensor, token: Token) -> torch.Tensor:
    """Return (B, n_layers, d) of (B, n_layers, n_frames, d)."""
    if token == "mean":
        return states.mean(dim=2)
    return states[:, :, 0 if token == "first" else -1]


def _check_finite(features: np.ndarray, time: float, model: LayeredModel) -> None:
    if not np.isfinite(features).all():
        raise DataError(
            "The speech model returned numbers that are not finite",
            expected=f"finite features of {model.name}",
            found="NaN or infinity",
            where=f"from {time:.3f} s of the sound on",
            fix="set half_precision = false, or check the model",
        )
