"""Sound -> one vector per window, or per frame of each window, in bounded memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from bids_speechdecode.audio.speech_models import SpeechModel
from bids_speechdecode.audio.waveform import FRAME, fit_length, voiced_frames
from bids_speechdecode.config import TargetConfig
from bids_speechdecode.errors import DataError, UsageError
from bids_speechdecode.timeline import Interval, sample_at

Reader = Callable[[float, float], np.ndarray]

SHORTEST_CHUNK = 1.0  # seconds
READ_TOLERANCE = 0.02  # seconds that a reader may return too little, from rounding rates
TIME_TOLERANCE = 1e-6  # seconds
VOICE_BLOCK = 60.0  # seconds read at once to find speech


@dataclass(frozen=True)
class Chunk:
    """A stretch of sound that goes through the model at once (seconds)."""

    start: float
    stop: float
    n_samples: int


def window_features(
    read: Reader,
    interval: Interval,
    starts: np.ndarray,
    duration: float,
    model: SpeechModel,
    settings: TargetConfig,
    on_progress: Callable[[float], None] | None = None,
) -> np.ndarray:
    """Return the mean features of each window, or of each frame of each window.

    The interval is cut into chunks. The native frames of a chunk share its duration equally, and
    each is taken to hold until the next. A window's feature is the mean of that piecewise-constant
    course over the window: a mean of native frames weighted by their overlap,

    ``y = sum_k overlap_k x_k / sum_k overlap_k``.

    It is what averaging the course interpolated to 120 Hz gives, as the source paper does, up to
    its rounding to 1/120 s.

    Parameters
    ----------
    read : function (start, stop) -> array of float32, shape (n,)
        Sound at 16 kHz; times in seconds of the audio. Never asked beyond `interval`.
    interval : Interval
        Sound that may be used, in seconds of the audio: no context crosses its ends.
    starts : array, shape (n_windows,), seconds
        In any order; windows may overlap.
    duration : float
        Of each window, seconds.
    model : SpeechModel
    settings : TargetConfig
        ``pooling`` "mean" gives one vector per window; "frames" one for each of
        ``duration * frame_rate`` (rounded) equal parts of it.
    on_progress : function, optional
        Receives the fraction done.

    Returns
    -------
    features : array of float32, shape (n_windows, d) or (n_windows, n_frames, d)

    Raises
    ------
    DataError
        If a window reaches beyond the interval, or the sound is too short or not finite.
    UsageError
        If the chunks are shorter than 1 s.
    """
    starts = np.asarray(starts, float)
    _check_inside(interval, starts, duration)
    n_frames = (
        max(1, sample_at(duration, settings.frame_rate)) if settings.pooling == "frames" else 1
    )
    edges = starts[:, None] + duration * np.arange(n_frames + 1) / n_frames
    pooled = np.zeros((len(starts), n_frames, model.dimension), np.float32)
    chunks = _used_chunks(cut_chunks(interval, settings.chunk, model.sampling_rate), edges)
    done = 0
    for batch in _equal_batches(chunks, settings.batch_size):
        waves = np.stack([read_chunk(read, chunk, model.sampling_rate) for chunk in batch])
        frames = model.embed(torch.from_numpy(waves)).cpu().numpy()
        _check_finite(frames, batch, model, settings)
        for chunk, chunk_frames in zip(batch, frames, strict=True):
            _add_overlaps(pooled, edges, chunk_frames, chunk)
        done += len(batch)
        if on_progress is not None:
            on_progress(done / len(chunks))
    return pooled if settings.pooling == "frames" else pooled[:, 0]


def cut_chunks(interval: Interval, seconds: float, rate: float) -> list[Chunk]:
    """Return consecutive chunks of `seconds` that fill the interval.

    Where less than half a chunk would remain at the end, the last two chunks share their sound
    equally: a speech model has little to say about a second without context.

    Examples
    --------
    >>> [c.stop - c.start for c in cut_chunks(Interval(0, 70), 30, 16000)]
    [30.0, 20.0, 20.0]
    """
    if seconds < SHORTEST_CHUNK:
        found = f"chunk = {seconds:g}"
        raise UsageError("Chunks of sound are too short", expected=">= 1 s", found=found)
    whole = sample_at(seconds, rate)
    total = int(round(interval.duration * rate, 3))  # not one sample beyond the interval
    n_whole, rest = divmod(total, whole)
    sizes = [whole] * n_whole + [rest] * (rest > 0)
    if n_whole and 0 < rest < whole / 2:
        sizes[-2:] = [whole + rest - (whole + rest) // 2, (whole + rest) // 2]
    bounds = [interval.start + first / rate for first in itertools.accumulate(sizes, initial=0)]
    bounds[-1] = interval.stop
    return [
        Chunk(start, stop, size)
        for (start, stop), size in zip(itertools.pairwise(bounds), sizes, strict=True)
    ]


def voiced_fraction(
    read: Reader, starts: np.ndarray, duration: float, rate: float = 16000
) -> np.ndarray:
    """Return how much of each window is speech, as `voice_activity` sees it.

    Sound is read in blocks, from the first window's start to the last window's end and not
    beyond; the noise floor of a window is that of the 8 s around it within this stretch.

    Parameters
    ----------
    read : function (start, stop) -> array of float32, shape (n,)
        Sound at `rate`; times in seconds of the audio.
    starts : array, shape (n_windows,), seconds
    duration : float
        Of each window, seconds.
    rate : float
        Hertz.

    Returns
    -------
    fraction : array of float32, shape (n_windows,), in [0, 1]
    """
    starts = np.asarray(starts, float)
    if len(starts) == 0:
        return np.zeros(0, np.float32)
    first, stop = float(starts.min()), float(starts.max()) + duration
    block_starts = np.arange(first, stop - FRAME / 2, VOICE_BLOCK)
    blocks = (_read_whole_frames(read, t, min(t + VOICE_BLOCK, stop), rate) for t in block_starts)
    total = np.concatenate([[0], np.cumsum(voiced_frames(blocks, rate))])
    begin = np.array([sample_at(start - first, 1 / FRAME) for start in starts])
    end = np.minimum(begin + max(1, sample_at(duration, 1 / FRAME)), len(total) - 1)
    return ((total[end] - total[begin]) / np.maximum(1, end - begin)).astype(np.float32)


def _check_inside(interval: Interval, starts: np.ndarray, duration: float) -> None:
    if len(starts) == 0:
        return
    first, stop = starts.min(), starts.max() + duration
    if first < interval.start - TIME_TOLERANCE or stop > interval.stop + TIME_TOLERANCE:
        raise DataError(
            "A window reaches beyond the sound that it may use",
            expected=f"windows within {interval.start:.3f} to {interval.stop:.3f} s",
            found=f"windows from {first:.3f} to {stop:.3f} s",
        )


def _check_finite(
    frames: np.ndarray, batch: Sequence[Chunk], model: SpeechModel, settings: TargetConfig
) -> None:
    if not np.isfinite(frames).all():
        raise DataError(
            "The speech model returned numbers that are not finite",
            expected=f"finite features of {model.name}",
            found="NaN or infinity",
            where=f"{batch[0].start:.3f} to {batch[-1].stop:.3f} s of the sound",
            fix="set half_precision = false" if settings.half_precision else "check the model",
        )


def _used_chunks(chunks: Sequence[Chunk], edges: np.ndarray) -> list[Chunk]:
    """Return the chunks that at least one window overlaps."""
    first, last = edges[:, 0], edges[:, -1]
    return [c for c in chunks if np.any((first < c.stop) & (last > c.start))]


def _equal_batches(chunks: Sequence[Chunk], batch_size: int) -> Iterator[list[Chunk]]:
    """Yield batches of equally long chunks, in order."""
    for _, alike in itertools.groupby(chunks, key=lambda chunk: chunk.n_samples):
        while batch := list(itertools.islice(alike, max(1, batch_size))):
            yield batch


def read_chunk(read: Reader, chunk: Chunk, rate: float) -> np.ndarray:
    """Return the sound of a chunk, exactly as many samples as it says.

    Raises
    ------
    DataError
        If there is less sound, or it is not finite.
    """
    wave = np.asarray(read(chunk.start, chunk.stop), np.float32)
    missing = chunk.n_samples - len(wave)
    if missing > READ_TOLERANCE * rate:
        raise DataError(
            "The sound is shorter than the events say",
            expected=f"{chunk.n_samples / rate:.3f} s from {chunk.start:.3f} s on",
            found=f"{len(wave) / rate:.3f} s",
        )
    if not np.isfinite(wave).all():
        raise DataError(
            "The sound has NaN or infinite samples",
            found=f"{int((~np.isfinite(wave)).sum())} samples",
            where=f"{chunk.start:.3f} to {chunk.stop:.3f} s",
        )
    return fit_length(wave, chunk.n_samples)


def _read_whole_frames(read: Reader, start: float, stop: float, rate: float) -> np.ndarray:
    """Return the sound as a whole number of the detector's frames, so that blocks join."""
    hop = round(FRAME * rate)
    n_frames = sample_at(stop - start, 1 / FRAME)
    return fit_length(np.asarray(read(start, stop), np.float32), n_frames * hop)


def _add_overlaps(pooled: np.ndarray, edges: np.ndarray, frames: np.ndarray, chunk: Chunk) -> None:
    """Add a chunk's share to the means of all windows that it overlaps, in place.

    The course is piecewise constant, so its integral I is piecewise linear, and the share of a
    part [a, b) of a window is (I(b) - I(a)) / (b - a), with a and b moved into the chunk.

    Parameters
    ----------
    pooled : array of float32, shape (n_windows, n_frames, d)
    edges : array, shape (n_windows, n_frames + 1), seconds
    frames : array, shape (n_native, d)
    chunk : Chunk
    """
    touched = np.flatnonzero((edges[:, 0] < chunk.stop) & (edges[:, -1] > chunk.start))
    integral = np.zeros((len(frames) + 1, frames.shape[1]))  # in units of one native frame
    np.cumsum(frames, axis=0, dtype=float, out=integral[1:])
    width = (chunk.stop - chunk.start) / len(frames)
    position = (np.clip(edges[touched], chunk.start, chunk.stop) - chunk.start) / width
    below = np.minimum(position.astype(int), len(frames) - 1)
    above = (position - below)[..., None]
    at_edges = (1 - above) * integral[below] + above * integral[below + 1]
    part = (edges[0, 1] - edges[0, 0]) / width
    pooled[touched] += np.diff(at_edges, axis=1) / part
