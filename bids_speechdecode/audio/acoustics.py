"""How a stretch of sound was recorded: level, noise floor, bandwidth, reverberation.

Nothing is known here but the sound itself, so that all of it is estimated blindly.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import signal

PROPERTIES = {
    "level": "dB of full scale",
    "noise_floor": "dB of full scale",
    "snr": "dB",
    "bandwidth": "Hz",
    "decay_time": "s",
}
FRAME, HOP = 0.032, 0.01  # seconds: longer than two periods of most voices
QUIETEST_DB = -100.0  # of full scale; digital silence has no level
FLOOR_PERCENTILE, LOUD_PERCENTILE = 5, 90  # of the levels of frames
ROLL_OFF = 0.95  # of the power lies below the bandwidth
DECAY_FRAMES = 8  # of one slope: 70 ms
LEAST_FALL_DB = 3.0  # over a slope; decay times above 1.4 s are beyond that
ABOVE_FLOOR_DB = 6.0  # below, it is the noise that bends the slope
LEAST_FIT = 0.95  # of the variance of the level that a line explains
STEEPEST = 0.9  # quantile of slopes: the others are those of the source
FEWEST_SLOPES = 3


def sound_properties(waves: Sequence[np.ndarray], rate: float = 16000) -> np.ndarray:
    """Return the properties of windows that were recorded at one place and time.

    ============ =================================================================================
    level        root mean square of the window
    noise_floor  5th percentile of the level of 32 ms frames, over all windows together
    snr          90th percentile of the level of the window's frames, less the noise floor
    bandwidth    frequency below which 95 % of the window's power lies
    decay_time   reverberation of all windows together, as `decay_time` sees it
    ============ =================================================================================

    The noise and the room belong to the place: what a single window of a few seconds tells of them
    depends on whether somebody pauses in it.

    Parameters
    ----------
    waves : sequence of array, shape (n_samples,)
        Full scale is 1.
    rate : float
        Hertz.

    Returns
    -------
    array, shape (n_windows, 5)
        In the order of `PROPERTIES`; a decay time may be NaN.
    """
    levels = [frame_levels(wave, rate) for wave in waves]
    floor = float(np.percentile(np.concatenate(levels), FLOOR_PERCENTILE))
    decay = decay_time(levels, floor)
    return np.array(
        [
            [
                _decibel(float(np.mean(np.square(wave, dtype=float)))),
                floor,
                np.percentile(level, LOUD_PERCENTILE) - floor,
                bandwidth(wave, rate),
                decay,
            ]
            for wave, level in zip(waves, levels, strict=True)
        ]
    )


def frame_levels(wave: np.ndarray, rate: float) -> np.ndarray:
    """Return the level (dB of full scale) of Hann-weighted frames of 32 ms, every 10 ms.

    Sound shorter than one frame is one frame.
    """
    length, hop = round(FRAME * rate), round(HOP * rate)
    power = np.square(np.pad(wave, (0, max(0, length - len(wave)))), dtype=float)
    window = signal.windows.hann(length, sym=False)
    frames = np.lib.stride_tricks.sliding_window_view(power, length)[::hop]
    return np.asarray(_decibel(frames @ window / window.sum()))


def bandwidth(wave: np.ndarray, rate: float) -> float:
    """Return the frequency (Hz) below which 95 % of the power lies; 0 for silence."""
    frequencies, power = signal.welch(np.asarray(wave, float), rate, nperseg=min(512, len(wave)))
    total = np.cumsum(power)
    if total[-1] <= 0:
        return 0.0
    return float(frequencies[np.searchsorted(total, ROLL_OFF * total[-1])])


def decay_time(levels: Sequence[np.ndarray], floor: float) -> float:
    """Return in which time sound dies away by 60 dB, ``60 / steepest slope``.

    A room does not let a level fall faster than its own decay; where the source stops at once,
    the level falls as fast as the room allows. So the steepest slopes of the level tell of the
    room, and the others of the source (the idea of Wen, Habets & Naylor 2008,
    doi:10.1109/ICASSP.2008.4517613; ours is much simpler). Lines are fitted to the level over
    every 70 ms; those count that fall by 3 dB or more, stay 6 dB above the noise floor, and explain
    95 % of the level's variance. The 90th percentile of their slopes (dB/s) is the room's.

    It is comparable between recordings rather than exact: a voice that fades makes a room longer.

    Parameters
    ----------
    levels : sequence of array, shape (n_frames,), dB
        Every 10 ms, of stretches of sound; no slope spans two of them.
    floor : float, dB
        Of the noise.

    Returns
    -------
    float
        Seconds; NaN where fewer than three slopes can be seen.
    """
    slopes = np.concatenate([_slopes(level, floor) for level in levels])
    if len(slopes) < FEWEST_SLOPES:
        return float("nan")
    return float(60 / np.quantile(slopes, STEEPEST))


def _slopes(level: np.ndarray, floor: float) -> np.ndarray:
    """Return how fast (dB/s, positive) the level falls wherever it clearly decays."""
    if len(level) < DECAY_FRAMES:
        return np.empty(0)
    stretches = np.lib.stride_tricks.sliding_window_view(level, DECAY_FRAMES)
    time = HOP * (np.arange(DECAY_FRAMES) - (DECAY_FRAMES - 1) / 2)
    centred = stretches - stretches.mean(axis=1, keepdims=True)
    slope = centred @ time / (time @ time)
    total = np.maximum((centred**2).sum(axis=1), np.finfo(float).tiny)
    fit = slope**2 * (time @ time) / total
    falls = -slope * HOP * (DECAY_FRAMES - 1) >= LEAST_FALL_DB
    is_heard = stretches.min(axis=1) >= floor + ABOVE_FLOOR_DB
    return -slope[falls & is_heard & (fit >= LEAST_FIT)]


def _decibel(power: np.ndarray | float) -> np.ndarray | float:
    return 10 * np.log10(np.maximum(power, 10 ** (QUIETEST_DB / 10)))
