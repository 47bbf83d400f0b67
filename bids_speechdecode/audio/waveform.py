"""Sound files: read an excerpt as mono at one rate, and tell where somebody speaks."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile
import soxr
from scipy.ndimage import binary_closing, find_objects, label, minimum_filter1d, uniform_filter1d

from bids_speechdecode.errors import DataError, MissingInputError
from bids_speechdecode.timeline import sample_at

# Durations in headers and sidecars are rounded: an excerpt may end this much after the sound.
END_TOLERANCE = 0.01  # seconds

FRAME = 0.01  # seconds, one decision of the voice activity detector
WINDOW = 0.032  # seconds, what one decision is based on
SPEECH_BAND = (200.0, 4000.0)  # hertz
NOISE_SPAN = 8.0  # seconds in which speech is expected to pause at least once
ABOVE_NOISE_DB = 9.0
QUIETEST_NOISE_DB = -75.0  # relative to full scale; digital silence has no noise floor
MAX_FLATNESS = 0.15  # voiced speech lies at 0.01-0.1, white noise at 0.56, 1/f noise near 0.4
MIN_TONAL = 0.05  # seconds of harmonic sound in each stretch of speech
MAX_PAUSE = 0.25  # seconds; shorter gaps belong to the speech around them
MIN_SPEECH = 0.1  # seconds


def audio_duration(path: Path) -> float:
    """Return the length of a sound file in seconds.

    Raises
    ------
    MissingInputError
        If there is no such file.
    DataError
        If it is not a readable sound file, or is empty.
    """
    with _open_sound(path) as sound:
        return sound.frames / sound.samplerate


def read_audio(
    path: Path,
    start: float = 0.0,
    stop: float | None = None,
    rate: float = 16000,
    channel: int | None = None,
) -> np.ndarray:
    """Return the sound of ``[start, stop)`` as one channel at `rate`.

    Only the samples of the excerpt are read, and nothing outside it has any influence on what
    is returned, not even through the resampling filter: an excerpt of the training data is the
    same whatever follows it. (The price is a filter transient of about a millisecond at both ends.)

    Parameters
    ----------
    path : path
        Any format that libsndfile reads (WAV, FLAC, Ogg, MP3, ...).
    start, stop : float
        Seconds from the start of the file; `stop` None means its end.
    rate : float
        Sampling rate of the result, hertz.
    channel : int, optional
        Channel of the file, counted from 0; the mean of all channels by default.

    Returns
    -------
    wave : array of float32, shape (sample_at(stop, rate) - sample_at(start, rate),)

    Raises
    ------
    MissingInputError
        If there is no such file.
    DataError
        If it cannot be decoded, ends more than 10 ms before `stop`, or holds NaN.
    """
    with _open_sound(path) as sound:
        end = sound.frames / sound.samplerate
        stop = end if stop is None else stop
        if start < 0 or stop <= start or stop > end + END_TOLERANCE:
            raise DataError(
                "The sound does not cover the time asked for",
                expected=f"{start:.3f} to {stop:.3f} s",
                found=f"a sound of {end:.3f} s",
                where=path,
                fix="check onset and duration in events.tsv against the length of the file",
            )
        wave = _read_native(sound, path, start, stop, channel)
        resampled = resample(wave, sound.samplerate, rate)
    return fit_length(resampled, sample_at(stop, rate) - sample_at(start, rate))


def resample(wave: np.ndarray, old_rate: float, rate: float) -> np.ndarray:
    """Return `wave`, shape (n,), at another sampling rate (hertz) as float32, without delay."""
    if old_rate == rate:
        return np.asarray(wave, np.float32)
    return soxr.resample(np.asarray(wave, np.float32), old_rate, rate)


def fit_length(wave: np.ndarray, n: int) -> np.ndarray:
    """Return `wave` cut, or continued with zeros, to `n` samples."""
    return np.pad(wave[:n], (0, max(0, n - len(wave))))


def voice_activity(wave: np.ndarray, rate: float = 16000) -> np.ndarray:
    """Return for each 10 ms whether somebody speaks.

    A stretch of sound counts as speech where its level between 200 and 4,000 Hz lies 9 dB above
    the noise floor and part of it is harmonic. The noise floor is the lowest level (50 ms
    averages) within 4 s before and after, so it follows slow changes of the room. Harmonic is
    what has a spectral flatness (geometric over arithmetic mean of the power in that band) below
    0.15 for at least 50 ms of the stretch; whispering, rustling and slamming have not. Pauses
    of up to 250 ms are filled and stretches under 100 ms dropped.

    It is meant to leave out silence and steady noise, not to recognise speech: music, alarms
    and animals count as voices; speech less than about 9 dB above the noise, or behind steady
    babble, is missed; and the first 4 s after a sudden rise of the noise may count as speech if
    the noise is harmonic.

    Parameters
    ----------
    wave : array, shape (n,)
        Full scale is 1.
    rate : float
        Hertz; at least 8,000.

    Returns
    -------
    voiced : array of bool, shape (n // round(0.01 * rate),)
    """
    return _find_speech(*_band_features(wave, rate))


def voiced_frames(blocks: Iterable[np.ndarray], rate: float = 16000) -> np.ndarray:
    """Return `voice_activity` of a sound given in consecutive blocks of whole frames."""
    features = [_band_features(block, rate) for block in blocks]
    level, flatness = (np.concatenate(part) for part in zip(*features, strict=True))
    return _find_speech(level, flatness)


def _open_sound(path: Path) -> soundfile.SoundFile:
    if not Path(path).is_file():
        raise MissingInputError("A sound file is missing", expected="a sound file", where=path)
    try:
        sound = soundfile.SoundFile(path)
    except (soundfile.LibsndfileError, RuntimeError, TypeError) as error:
        raise _unreadable(path, str(error)) from error
    if sound.frames <= 0:
        sound.close()
        raise _unreadable(path, "no samples")
    return sound


def _unreadable(path: Path, found: str) -> DataError:
    return DataError(
        "A sound file cannot be read",
        expected="a format that libsndfile reads, such as WAV, FLAC, Ogg or MP3",
        found=found,
        where=path,
        fix="play the file; where it is damaged, fetch it again or convert the original",
    )


def _read_native(
    sound: soundfile.SoundFile, path: Path, start: float, stop: float, channel: int | None
) -> np.ndarray:
    """Return one channel of an excerpt at the file's own rate."""
    if channel is not None and not 0 <= channel < sound.channels:
        found = f"a file with {sound.channels} channels"
        raise DataError("No such audio channel", expected=str(channel), found=found, where=path)
    first = sample_at(start, sound.samplerate)
    n = min(sample_at(stop, sound.samplerate), sound.frames) - first
    try:
        sound.seek(first)
        samples = sound.read(n, dtype="float32", always_2d=True)  # (n, channels)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise _unreadable(path, str(error)) from error
    if len(samples) < n:
        raise _unreadable(path, f"{len(samples)} of {n} samples from {start:.3f} s on")
    if not np.isfinite(samples).all():
        raise _unreadable(path, f"NaN or infinite samples after {start:.3f} s")
    return samples.mean(axis=1) if channel is None else samples[:, channel]


def _band_features(wave: np.ndarray, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """Return level (dB of full scale) and spectral flatness of the speech band per frame."""
    hop, window = round(FRAME * rate), round(WINDOW * rate)
    n_frames = len(wave) // hop
    if n_frames == 0:
        return np.empty(0), np.empty(0)
    before = (window - hop) // 2
    padded = np.pad(np.asarray(wave[: n_frames * hop], np.float32), (before, window))
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop][:n_frames]
    taper = np.hanning(window).astype(np.float32)
    frequencies = np.fft.rfftfreq(window, 1 / rate)
    band = (frequencies >= SPEECH_BAND[0]) & (frequencies <= SPEECH_BAND[1])
    spectrum = np.fft.rfft(frames * taper)[:, band] / np.sqrt(window * (taper**2).sum() / 2)
    power = np.abs(spectrum) ** 2 + 1e-14  # (n_frames, n_frequencies)
    flatness = np.exp(np.log(power).mean(axis=1)) / power.mean(axis=1)
    return 10 * np.log10(power.sum(axis=1)), flatness


def _find_speech(level: np.ndarray, flatness: np.ndarray) -> np.ndarray:
    """Return which frames are speech, from the level (dB) and flatness of each frame."""
    if len(level) == 0:
        return np.zeros(0, dtype=bool)
    smooth = uniform_filter1d(level, 5)
    floor = minimum_filter1d(smooth, round(NOISE_SPAN / FRAME) + 1)
    loud = smooth > np.maximum(floor, QUIETEST_NOISE_DB) + ABOVE_NOISE_DB
    pause = round(MAX_PAUSE / FRAME)
    # Closing sees nothing beyond the ends; without padding it would erode what touches them.
    filled = binary_closing(np.pad(loud, pause), np.ones(pause + 1))[pause:-pause]
    tonal = loud & (uniform_filter1d(flatness, 3) < MAX_FLATNESS)
    stretches, _ = label(filled)
    speech = np.zeros(len(level), dtype=bool)
    for (stretch,) in find_objects(stretches):
        long_enough = stretch.stop - stretch.start >= round(MIN_SPEECH / FRAME)
        speech[stretch] = long_enough and tonal[stretch].sum() >= round(MIN_TONAL / FRAME)
    return speech
