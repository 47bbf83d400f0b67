"""How contacts follow sound: drives, temporal response functions, responses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.stats import norm

from bids_speechdecode.simulate.anatomy import Contact, distance_from_core, smooth_over_space
from bids_speechdecode.simulate.speech import RATE, SPEECH_RMS

FRAME_RATE = 100.0  # hertz, of drives, response functions and responses
BAND_EDGES = np.geomspace(100.0, 7000.0, 9)  # hertz
DRIVES = ("envelope", "onset", *(f"band{k + 1}" for k in range(len(BAND_EDGES) - 1)))
LAGS = np.arange(51) / FRAME_RATE  # seconds

# Set once: high-gamma amplitude of auditory cortex rises by some ten to hundred per cent.
BEST_HIGH_GAMMA_RISE = 0.6  # of the carrier's amplitude, per standard deviation of its response

_HOP = int(RATE / FRAME_RATE)
_WINDOW = int(0.025 * RATE)
_N_FFT = 512
_THRESHOLD = SPEECH_RMS**2 * 1e-3  # sounds 30 dB below speech are hardly heard


class DriveExtractor:
    """Turns sound into band loudness at 100 Hz, block by block.

    Frame k is the Hann-windowed power of the 25 ms around k / 100 s, in eight bands, as
    ``log10(1 + power / threshold)``: silence is exactly 0, and ten times the power is one more.
    """

    def __init__(self) -> None:
        frequencies = np.fft.rfftfreq(_N_FFT, 1 / RATE)
        inside = (frequencies >= BAND_EDGES[:-1, None]) & (frequencies < BAND_EDGES[1:, None])
        taper = np.hanning(_WINDOW)
        self._taper = taper.astype(np.float32)
        # Parseval: sums of these are the mean squared amplitude within the window.
        self._to_power = (inside * 2 / (_N_FFT * np.sum(taper**2))).T.astype(np.float32)
        self._left = np.zeros(_WINDOW // 2, np.float32)
        self._frames: list[np.ndarray] = []

    def push(self, sound: np.ndarray) -> None:
        """Take the next stretch of sound, shape (n,), 16 kHz."""
        sound = np.concatenate([self._left, sound])
        n_frames = max(0, (len(sound) - _WINDOW) // _HOP + 1)
        self._left = sound[n_frames * _HOP :]
        for start in range(0, n_frames, 4096):
            part = sound[start * _HOP : (min(n_frames, start + 4096) - 1) * _HOP + _WINDOW]
            frames = sliding_window_view(part, _WINDOW)[::_HOP] * self._taper
            power = np.abs(np.fft.rfft(frames, _N_FFT)) ** 2 @ self._to_power
            self._frames.append(np.log10(1 + power / _THRESHOLD).astype(np.float32))

    def finish(self) -> np.ndarray:
        """Return the drives of all that was pushed, shape (n_frames, n_drives), float32."""
        self.push(np.zeros(_WINDOW // 2 - 1, np.float32))
        return make_drives(np.concatenate(self._frames))


def make_drives(bands: np.ndarray) -> np.ndarray:
    """Return envelope, onsets and bands, shape (n_frames, n_drives).

    The envelope is the loudness of all bands together; an onset is its rise over 20 ms.
    """
    envelope = np.log10(1 + np.sum(10.0**bands - 1, axis=1))
    onset = np.maximum(0, envelope[2:] - envelope[:-2])
    return np.column_stack([envelope, np.pad(onset, (1, 1)), bands]).astype(np.float32)


@dataclass(frozen=True)
class Brain:
    """The contacts of a participant and how those that hear respond.

    Attributes
    ----------
    contacts : tuple of Contact
        All contacts.
    auditory : tuple of int
        Indices of those that hear.
    slow, high_gamma : array, shape (n_auditory, n_drives, n_lags)
        Response functions; a response has unit variance while a story is told.
    latency : array, shape (n_auditory,), seconds
        Of the first peak of `slow`.
    correlation : array, shape (n_auditory,)
        Planted correlation of the slow response with response plus background, 0.5 to 20 Hz.
    rise : array, shape (n_auditory,)
        Relative rise of the high-gamma amplitude per unit of response.
    """

    contacts: tuple[Contact, ...]
    auditory: tuple[int, ...]
    slow: np.ndarray
    high_gamma: np.ndarray
    latency: np.ndarray
    correlation: np.ndarray
    rise: np.ndarray


def draw_brain(
    contacts: tuple[Contact, ...],
    story: np.ndarray,
    best_correlation: float,
    rng: np.random.Generator,
    *,
    loudness_only: bool = False,
) -> Brain:
    """Return a brain whose auditory contacts have response functions of their own.

    Parameters
    ----------
    contacts : tuple of Contact
        As drawn.
    story : array, shape (n_frames, n_drives)
        Drives of ordinary speech, which set the scale of drives and responses.
    best_correlation : float
        Planted correlation of a contact in the core (see `SimulationSettings`).
    rng : numpy.random.Generator
        Source of latencies, tuning and polarity.
    loudness_only : bool
        Whether all follow the envelope alone: no onsets, no bands.
    """
    auditory = tuple(i for i, contact in enumerate(contacts) if contact.is_auditory)
    weight = np.array([contacts[i].weight for i in auditory])
    core = np.array([distance_from_core(np.array(contacts[i].position_mm)) for i in auditory])
    # Sound reaches the core first and moves outwards.
    latency = np.clip(0.06 + 0.003 * core + rng.normal(0, 0.015, len(auditory)), 0.05, 0.25)
    hearing = [contacts[i] for i in auditory]
    tuning = _draw_tuning(hearing, rng) / story.std(axis=0)
    if loudness_only:
        tuning[:, 1:] = 0.0
    field = smooth_over_space(hearing, rng.standard_normal(len(hearing)))
    polarity = np.where(field < 0, -1.0, 1.0)
    slow = (polarity * _biphasic(latency)).T[:, None, :] * tuning[:, :, None]
    high_gamma = _lobe(0.8 * latency, 0.35 * latency).T[:, None, :] * tuning[:, :, None]
    slow = slow / respond(story, slow).std(axis=0)[:, None, None]
    high_gamma = high_gamma / respond(story, high_gamma).std(axis=0)[:, None, None]
    correlation, rise = best_correlation * weight, BEST_HIGH_GAMMA_RISE * weight
    return Brain(contacts, auditory, slow, high_gamma, latency, correlation, rise)


def _draw_tuning(contacts: Sequence[Contact], rng: np.random.Generator) -> np.ndarray:
    """Return weights of envelope, onset and bands, shape (n_contacts, n_drives).

    They change smoothly along the cortex, as tonotopy does.
    """
    white = rng.standard_normal((4, len(contacts)))
    envelope, onset, best, width = norm.cdf(smooth_over_space(contacts, white))[:, :, None]
    n_bands = len(BAND_EDGES) - 1
    distance = (np.arange(n_bands) - best * (n_bands - 1)) / (0.8 + width)
    bands = np.exp(-0.5 * distance**2)
    bands -= 0.3 * bands.mean(axis=1, keepdims=True)
    return np.concatenate([0.2 + 0.8 * envelope, 0.2 + 0.8 * onset, bands], axis=1)


def _lobe(peak: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Return Gaussians over the lags, shape (n_lags, n), 0 at lag 0 for causality."""
    lobe = np.exp(-0.5 * ((LAGS[:, None] - peak) / width) ** 2)
    return lobe * np.minimum(1.0, LAGS[:, None] / 0.02)


def _biphasic(latency: np.ndarray) -> np.ndarray:
    """Return a peak at the latency and a slower, opposite one at twice of it: (n_lags, n).

    Their areas differ by two fifths of the first, which leaves a sustained response while sound
    lasts.
    """
    return _lobe(latency, 0.3 * latency) - 0.36 * _lobe(2 * latency, 0.5 * latency)


def respond(drives: np.ndarray, functions: np.ndarray, block: int = 8192) -> np.ndarray:
    """Return ``y[t, c] = sum over d and l of functions[c, d, l] * drives[t - l, d]``.

    Parameters
    ----------
    drives : array, shape (n_frames, n_drives)
        At 100 Hz; silent before the first frame.
    functions : array, shape (n_contacts, n_drives, n_lags)
        Response functions.

    Returns
    -------
    responses : array, shape (n_frames, n_contacts), float32
        At 100 Hz.
    """
    n_lags = functions.shape[2]
    padded = np.concatenate([np.zeros((n_lags - 1, drives.shape[1]), np.float32), drives])
    kernel = functions[:, :, ::-1].reshape(len(functions), -1).T.astype(np.float32)
    responses = np.empty((len(drives), len(functions)), np.float32)
    for start in range(0, len(drives), block):
        part = padded[start : start + block + n_lags - 1]
        lagged = sliding_window_view(part, n_lags, axis=0).reshape(-1, kernel.shape[0])
        responses[start : start + len(lagged)] = lagged @ kernel
    return responses
