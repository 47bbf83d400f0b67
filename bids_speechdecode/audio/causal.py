"""Sound as it has been heard up to each sample of a regular course, and never later."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bids_speechdecode.audio.features import Chunk, Reader, read_chunk
from bids_speechdecode.errors import DataError
from bids_speechdecode.timeline import Interval, sample_at

AUDIO_RATE = 16000
READ_MARGIN = 0.05  # seconds; where a reader resamples, the ends of what it returns are distorted
BLOCK = 60.0  # seconds whose frames are computed at once


@dataclass(frozen=True)
class HeardSound:
    """The sound of an interval and the samples at which it is looked back on.

    Sample k lies at ``interval.start + k / rate``, k = 0 ... n - 1 with n the interval's duration
    times the rate, rounded.

    Attributes
    ----------
    read : function (start, stop) -> array of float32, shape (n,)
        Sound at 16 kHz; times in seconds of the audio. Never asked beyond `interval`.
    interval : Interval
        Seconds of the audio.
    rate : float
        Of the samples, hertz.
    """

    read: Reader
    interval: Interval
    rate: float

    @cached_property
    def ends(self) -> np.ndarray:
        """How many samples of sound were heard at each sample, int, shape (n,)."""
        n = sample_at(self.interval.duration, self.rate)
        if n < 1:
            raise DataError(
                "A stretch of sound is shorter than one sample of its features",
                expected=f"at least {1 / self.rate:g} s",
                found=f"{self.interval.duration:g} s from {self.interval.start:.3f} s on",
            )
        return np.array([sample_at(k / self.rate, AUDIO_RATE) for k in range(n)])

    def sound(self, first: int, last: int) -> np.ndarray:
        """Return samples [first, last) of the sound; what lies before its start is silence.

        Returns
        -------
        wave : array of float32, shape (last - first,)
        """
        total = int(round(self.interval.duration * AUDIO_RATE, 3))
        begin, stop = max(first, 0), min(last, total)
        if stop <= begin:
            return np.zeros(last - first, np.float32)
        margin = sample_at(READ_MARGIN, AUDIO_RATE)
        before, after = max(0, begin - margin), min(total, stop + margin)
        chunk = Chunk(self._time(before), self._time(after), after - before)
        wave = read_chunk(self.read, chunk, AUDIO_RATE)[begin - before : stop - before]
        return np.pad(wave, (begin - first, last - stop))

    def _time(self, sample: int) -> float:
        return min(self.interval.start + sample / AUDIO_RATE, self.interval.stop)


def step_means(
    heard: HeardSound,
    frames_of: Callable[[np.ndarray], np.ndarray],
    window: int,
    hop: int,
    on_progress: Callable[[float], None] | None = None,
) -> np.ndarray:
    """Return the mean over each step between samples of features of short windows of sound.

    Frame j is that of the `window` samples of sound that end with sample ``j * hop``. The value at
    a sample is the mean of the frames whose windows end within the step that ends there, or
    the last frame before where there is none. So no sound after a sample enters its value.

    Parameters
    ----------
    heard : HeardSound
    frames_of : function (wave of shape (n,)) -> array, shape (1 + (n - window) // hop, d)
        Features of each window of a stretch of sound, each of its own window alone.
    window, hop : int
        Samples of sound.
    on_progress : function, optional
        Receives the fraction done.

    Returns
    -------
    means : array of float32, shape (n, d)
    """
    n_ended = heard.ends // hop + 1  # frames that were complete at each sample
    before = np.minimum(np.concatenate([[0], n_ended[:-1]]), n_ended - 1)
    size = max(1, sample_at(BLOCK, heard.rate))
    means = []
    for k in range(0, len(n_ended), size):
        first, last = int(before[k]), int(n_ended[k : k + size][-1])
        frames = frames_of(heard.sound(first * hop - window, (last - 1) * hop))
        total = np.concatenate([np.zeros((1, frames.shape[1])), np.cumsum(frames, 0, dtype=float)])
        lower, upper = before[k : k + size] - first, n_ended[k : k + size] - first
        means.append((total[upper] - total[lower]) / (upper - lower)[:, None])
        if on_progress is not None:
            on_progress(min(1.0, (k + size) / len(n_ended)))
    return np.concatenate(means).astype(np.float32)
