"""Acoustic properties of sounds whose properties are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import butter, fftconvolve, sosfilt

from bids_speechdecode.audio.acoustics import (
    PROPERTIES,
    bandwidth,
    decay_time,
    frame_levels,
    sound_properties,
)

RATE = 16000


def measure(waves: list[np.ndarray]) -> dict[str, np.ndarray]:
    return dict(zip(PROPERTIES, sound_properties(waves).T, strict=True))


def bursts(seconds: float, t60: float, noise_db: float, seed: int = 0) -> np.ndarray:
    """Noise that stops at once in a room that rings for `t60`, with steady noise behind it."""
    rng = np.random.default_rng(seed)
    n = int(seconds * RATE)
    dry = 0.1 * rng.normal(size=n) * ((np.arange(n) / RATE) % 2.0 < 0.3)
    time = np.arange(int(1.5 * RATE)) / RATE
    room = rng.normal(size=len(time)) * 10 ** (-3 * time / t60)
    heard = fftconvolve(dry, room / np.sqrt((room**2).sum()))[:n]
    return heard + 10 ** (noise_db / 20) * rng.normal(size=n)


@pytest.mark.parametrize("t60", [0.2, 0.4, 0.7, 1.0])
def test_decay_time_of_noise_that_dies_away(t60: float) -> None:
    """The number that is called reverberation is the one that was put in."""
    wave = bursts(24, t60, noise_db=-70)
    level = frame_levels(wave, RATE)
    assert decay_time([level], -70) == pytest.approx(t60, rel=0.15)


def test_decay_time_is_that_of_the_room_behind_noise() -> None:
    """A noisy microphone must not make a room longer or shorter by much."""
    found = measure(np.split(bursts(24, 0.4, noise_db=-45), 8))
    assert found["decay_time"][0] == pytest.approx(0.4, rel=0.2)
    assert len(set(found["decay_time"])) == 1


def test_steady_noise_has_no_decay() -> None:
    """Nothing falls, so that nothing can be said."""
    wave = 0.1 * np.random.default_rng(0).normal(size=3 * RATE)
    assert np.isnan(measure([wave])["decay_time"][0])


def test_level_floor_and_ratio() -> None:
    """A tone over half of each window, in noise: all three follow from their powers."""
    rng = np.random.default_rng(1)
    time = np.arange(3 * RATE) / RATE
    tone = 0.2 * np.sqrt(2) * np.sin(2 * np.pi * 440 * time) * (time < 1.5)
    noise = 0.002 * rng.normal(size=len(time))
    found = measure([tone + noise, 0.5 * tone + noise])
    assert found["level"][0] == pytest.approx(10 * np.log10(0.04 / 2), abs=0.1)
    assert found["noise_floor"][0] == pytest.approx(20 * np.log10(0.002), abs=1)
    expected = 20 * np.log10(0.2 / 0.002)
    assert found["snr"][0] == pytest.approx(expected, abs=1)
    assert found["snr"][1] == pytest.approx(expected - 6.02, abs=1)


def test_bandwidth_is_that_of_the_filter() -> None:
    """White noise up to an edge has 95% of its power below 95% of the edge."""
    noise = np.random.default_rng(2).normal(size=3 * RATE)
    for edge in (1000.0, 4000.0):
        filtered = sosfilt(butter(10, edge, fs=RATE, output="sos"), noise)
        assert bandwidth(filtered, RATE) == pytest.approx(0.95 * edge, rel=0.05)


def test_digital_silence_is_finite() -> None:
    """A clean file has stretches of zeros, and the targets are regressed on these numbers."""
    found = sound_properties([np.zeros(3 * RATE, np.float32)] * 2)
    assert np.isfinite(found[:, :4]).all()
    assert np.isnan(found[:, 4]).all()
