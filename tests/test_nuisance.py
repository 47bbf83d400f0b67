"""Acoustic and lexical regressors say what is in the sound, at the right time, and no earlier."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import pytest
from scipy.interpolate import CubicSpline

from bids_speechdecode.audio.nuisance import nuisance_features, pitch_of_frames
from bids_speechdecode.errors import DataError, MissingInputError, UsageError
from bids_speechdecode.timeline import Interval

RATE = 16000
ACOUSTIC = ("envelope", "onsets", "mel", "pitch")


def read_from(wave: np.ndarray, start: float, stop: float) -> np.ndarray:
    return wave[round(start * RATE) : round(stop * RATE)]


def course(
    wave: np.ndarray, *names: str, rate: float = 20.0, words: pd.DataFrame | None = None
) -> tuple[np.ndarray, list[str]]:
    interval = Interval(0.0, len(wave) / RATE)
    return nuisance_features(partial(read_from, wave), interval, rate, names, words)


def harmonic(pitch: float, seconds: float, n_harmonics: int = 10) -> np.ndarray:
    """Return a voice-like sound: harmonics that fall by 6 dB an octave."""
    t = np.arange(round(seconds * RATE)) / RATE
    parts = [np.sin(2 * np.pi * pitch * h * t + h) / h for h in range(1, n_harmonics + 1)]
    return (0.1 * np.sum(parts, axis=0)).astype(np.float32)


def clicks(times: list[float], seconds: float) -> np.ndarray:
    wave = np.zeros(round(seconds * RATE), np.float32)
    wave[[round(t * RATE) for t in times]] = 1.0
    return wave


def test_the_envelope_of_a_tone_is_its_loudness() -> None:
    """A sine of amplitude a has the RMS a / sqrt(2), whatever the step it falls into."""
    t = np.arange(4 * RATE) / RATE
    amplitude = np.where(t < 2, 0.1, 0.4)
    wave = (amplitude * np.sin(2 * np.pi * 1000 * t)).astype(np.float32)
    found, columns = course(wave, "envelope")
    assert columns == ["envelope"]
    assert found.shape == (80, 1)
    assert found.dtype == np.float32
    assert found[0, 0] == 0  # nothing was heard yet
    np.testing.assert_allclose(found[2:41, 0], (0.1 / np.sqrt(2)) ** 0.6, rtol=1e-3)
    np.testing.assert_allclose(found[42:, 0], (0.4 / np.sqrt(2)) ** 0.6, rtol=1e-3)


def test_clicks_are_onsets_in_their_steps() -> None:
    """A click in a step must show in that step; what is longer ago than a step must not."""
    times = [0.51, 1.02, 1.63, 2.31, 2.97]
    found, _ = course(clicks(times, 4.0), "onsets", "envelope")
    # Step k holds the sound of [(k - 1) / 20, k / 20); the frames rise for 24 ms after a click.
    expected = [11, 21, 33, 47, 60]
    assert np.flatnonzero(found[:, 0] > 1e-6).tolist() == expected
    np.testing.assert_allclose(found[expected, 0], found[11, 0], rtol=0.2)  # 6 or 7 frames a step
    assert np.flatnonzero(found[:, 1] > 1e-6)[0] == 11


@pytest.mark.parametrize("name", ["mel", "envelope"])
def test_features_describe_the_sound_41_ms_before_their_sample(name: str) -> None:
    """Lags count from the sample: half a step of 50 ms and half a window of 32 ms are missing."""
    rng = np.random.default_rng(0)
    times = np.arange(30 * 16000) / 16000
    loudness = CubicSpline(np.arange(62) / 2, rng.normal(size=62))  # slower than all windows
    wave = rng.normal(size=len(times)) * 0.05 * np.exp(0.3 * loudness(times))
    found = course(wave, name)[0].mean(axis=1)[20:]
    at = np.arange(20, 20 + len(found)) / 20
    before = np.arange(0, 0.1, 0.001)
    r = [np.corrcoef(found, loudness(at - d))[0, 1] for d in before]
    assert max(r) > 0.95
    assert before[np.argmax(r)] == pytest.approx(0.041, abs=0.005)


def test_a_steady_voice_has_one_onset() -> None:
    """The periods of a voice are no onsets: one rise at its start, then next to none."""
    wave = np.concatenate([np.zeros(RATE, np.float32), harmonic(110.0, 2.0)])
    found = course(wave, "onsets")[0][:, 0]
    assert int(found.argmax()) in (21, 22)
    assert found[24:].max() < 0.02 * found.max()


@pytest.mark.parametrize("pitch", [75.0, 110.0, 163.7, 240.0, 391.0])
def test_the_pitch_of_voices_and_tones(pitch: float) -> None:
    """Known pitches within 0.3%, not an octave off, with and without noise."""
    noise = 0.02 * np.random.default_rng(0).standard_normal(2 * RATE).astype(np.float32)
    tone = (0.1 * np.sin(2 * np.pi * pitch * np.arange(2 * RATE) / RATE)).astype(np.float32)
    for wave in (harmonic(pitch, 2.0), harmonic(pitch, 2.0) + noise, tone):
        found, columns = course(wave, "pitch")
        assert columns == ["pitch_octaves", "pitch_voiced"]
        np.testing.assert_allclose(100 * 2.0 ** found[3:, 0], pitch, rtol=3e-3)
        np.testing.assert_allclose(found[3:, 1], 1.0)


def test_a_missing_fundamental_is_heard() -> None:
    """Telephone speech has no fundamental; its period is there all the same."""
    wave = harmonic(120.0, 1.0) - harmonic(120.0, 1.0, n_harmonics=2)
    found, _ = course(wave, "pitch")
    np.testing.assert_allclose(100 * 2.0 ** found[3:, 0], 120.0, rtol=3e-3)


def test_a_gliding_pitch_is_followed() -> None:
    """Intonation is what the regressor is for: within 0.5% of the glide, at its time."""
    t = np.arange(3 * RATE) / RATE
    pitch = 120 * 2 ** (t / 3)  # one octave in 3 s
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    wave = (0.1 * sum(np.sin(h * phase) / h for h in range(1, 8))).astype(np.float32)
    found = 100 * 2.0 ** course(wave, "pitch")[0][3:, 0]
    middle = np.arange(3, 60) / 20 - 0.046  # of the 50 ms of frames that end within the step
    np.testing.assert_allclose(found, 120 * 2 ** (middle / 3), rtol=5e-3)


def test_what_is_not_voiced_has_no_pitch() -> None:
    """Noise, clicks, silence and rounding noise; a pitch there would be invented."""
    rng = np.random.default_rng(1)
    noise = (0.1 * rng.standard_normal(10 * RATE)).astype(np.float32)
    assert course(noise, "pitch")[0][:, 1].mean() < 0.01
    assert not course(np.zeros(RATE, np.float32), "pitch")[0].any()
    assert not course(clicks([0.3, 0.71], 1.0), "pitch")[0].any()
    quiet = np.round(harmonic(110.0, 1.0) * 2e-4 * 32768).astype(np.float32) / 32768
    assert not pitch_of_frames(quiet).any()


def test_half_voiced_steps_keep_the_pitch_of_their_voice() -> None:
    """The mean is over voiced frames only: the end of a voice must not seem to fall."""
    wave = np.concatenate([harmonic(200.0, 1.017), np.zeros(RATE, np.float32)])
    found = course(wave, "pitch")[0]
    partly = (found[:, 1] > 0) & (found[:, 1] < 1)
    assert partly.any()
    np.testing.assert_allclose(found[partly, 0], 1.0, atol=0.02)
    assert not found[found[:, 1] == 0, 0].any()


def test_mel_has_its_bands() -> None:
    """Another tone moves the energy to another band."""
    t = np.arange(RATE) / RATE
    for frequency in (300.0, 3000.0):
        found, columns = course(np.sin(2 * np.pi * frequency * t).astype(np.float32), "mel")
        assert len(columns) == found.shape[1] == 40
        corners = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 42) / 2595) - 1)
        assert found[10].argmax() == np.abs(corners[1:-1] - frequency).argmin()


def test_words_count_in_the_step_after_their_onset() -> None:
    """Onsets against a slow loop over samples of sound, and the rate over 2 s."""
    onsets = np.array([-0.5, 0.0, 0.0499, 0.05, 0.0501, 0.26, 1.0, 1.01, 3.2, 3.999, 4.0, 9.0])
    words = pd.DataFrame({"onset": onsets + 5.0})
    wave = np.zeros(10 * RATE, np.float32)
    found, columns = nuisance_features(
        partial(read_from, wave), Interval(5.0, 9.0), 20.0, ("words",), words
    )
    assert columns == ["word_onsets", "word_rate"]
    times = np.arange(80) / 20
    expected = [((onsets >= t - 0.05) & (onsets < t) & (onsets >= 0)).sum() for t in times]
    np.testing.assert_allclose(found[:, 0], expected)
    rates = [((onsets >= max(0, t - 2)) & (onsets < t)).sum() / 2 for t in times]
    np.testing.assert_allclose(found[:, 1], rates)


def test_what_follows_a_sample_changes_nothing() -> None:
    """Not one bit of what came before may know the sound, or the words, that follow."""
    rng = np.random.default_rng(3)
    wave = (0.1 * rng.standard_normal(4 * RATE)).astype(np.float32) + harmonic(130.0, 4.0)
    other = wave.copy()
    other[2 * RATE :] = rng.standard_normal(2 * RATE)
    words = [pd.DataFrame({"onset": [0.3, 1.2, 1.99, *rest]}) for rest in ([2.0, 2.5], [3.0])]
    names = (*ACOUSTIC, "words")
    a, b = (
        course(w, *names, words=table)[0] for w, table in zip((wave, other), words, strict=True)
    )
    assert a.shape == (80, 46)
    assert np.array_equal(a[:41], b[:41])
    assert (np.abs(a[41:] - b[41:]) > 0).all(axis=0).sum() >= 40
    assert not np.array_equal(a[41:, 44], b[41:, 44])


def test_blocks_do_not_show() -> None:
    """A long sound is read a minute at a time; the steps around the joint are like the others."""
    wave = harmonic(150.0, 62.0)
    found, _ = course(wave, *ACOUSTIC)
    later = course(wave[58 * RATE :], *ACOUSTIC)[0]
    np.testing.assert_allclose(found[1164:, :], later[4:, :], atol=2e-3)
    assert found.shape == (1240, 44)


def test_an_interval_is_all_that_is_read() -> None:
    """Sound beyond the interval belongs to other folds."""
    asked: list[tuple[float, float]] = []
    wave = harmonic(150.0, 10.0)

    def read(start: float, stop: float) -> np.ndarray:
        asked.append((start, stop))
        return read_from(wave, start, stop)

    found, _ = nuisance_features(read, Interval(3.0, 7.02), 20.0, ACOUSTIC)
    assert len(found) == 80
    assert min(start for start, _ in asked) >= 3.0
    assert max(stop for _, stop in asked) <= 7.02


def test_high_rates_repeat_the_last_frame() -> None:
    """Steps shorter than a frame are legal: 200 Hz against 125 frames a second."""
    found, _ = course(harmonic(100.0, 1.0), "envelope", rate=200.0)
    assert found.shape == (200, 1)
    assert (found[8:] > 0).all()


def test_bad_input_is_named() -> None:
    """Words without a table, names that do not exist, sound that ends early."""
    wave = harmonic(100.0, 1.0)
    with pytest.raises(MissingInputError, match="when the words were spoken"):
        course(wave, "words")
    with pytest.raises(UsageError, match="did you mean 'envelope'"):
        course(wave, "envelop")
    with pytest.raises(DataError, match="shorter than the events say"):
        nuisance_features(partial(read_from, wave), Interval(0, 2), 20.0, ("envelope",))
