"""What can be heard in a hospital room: voices, music, clatter and silence, with echoes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.signal import lfilter, oaconvolve

from bids_speechdecode.simulate.sentences import SentenceWriter
from bids_speechdecode.simulate.speech import (
    RATE,
    SPEECH_RMS,
    Sentence,
    Synthesiser,
    draw_voice,
    narrate,
)

MICROPHONE_NOISE = 0.004  # rms of ventilation and microphone, of full scale (22 dB below speech)
MICROPHONE_GAIN = 0.8

_RESPONSE_SAMPLES = int(0.6 * RATE)
_SCENES = ("conversation", "silence", "television", "music", "clatter")
_SCENE_SECONDS = {
    "conversation": (60.0, 150.0),
    "silence": (25.0, 90.0),
    "television": (50.0, 120.0),
    "music": (20.0, 50.0),
    "clatter": (10.0, 25.0),
}


@dataclass(frozen=True)
class Scene:
    """A stretch of sound at its source.

    Attributes
    ----------
    kind : str
        What is going on.
    sound : array, shape (n,), of full scale
        The dry sound at 16 kHz.
    sentences : tuple of (int, Sentence)
        What is said, each with its first sample in `sound`.
    """

    kind: str
    sound: np.ndarray
    sentences: tuple[tuple[int, Sentence], ...] = ()


def draw_scenes(
    n_samples: int, synthesiser: Synthesiser, writer: SentenceWriter, rng: np.random.Generator
) -> Iterator[Scene]:
    """Yield scenes that fill `n_samples` together; every kind comes before one comes again."""
    scale = min(1.0, n_samples / RATE / 500.0)
    left = n_samples
    while left:
        for index in rng.permutation(len(_SCENES)):
            kind = _SCENES[index]
            n = min(left, int(scale * rng.uniform(*_SCENE_SECONDS[kind]) * RATE))
            if n:
                yield _make_scene(kind, n, synthesiser, writer, rng)
            left -= n


def _make_scene(
    kind: str,
    n: int,
    synthesiser: Synthesiser,
    writer: SentenceWriter,
    rng: np.random.Generator,
) -> Scene:
    """Return one scene of `n` samples."""
    level = 10 ** (rng.uniform(-6, 3) / 20)
    if kind == "silence":
        return Scene(kind, np.zeros(n, np.float32))
    if kind == "music":
        return Scene(kind, level * make_music(n, rng))
    if kind == "clatter":
        return Scene(kind, level * make_clatter(n, rng, per_second=0.8))
    voices = [draw_voice(rng) for _ in range(1 if kind == "television" else rng.integers(2, 4))]
    sentences = tuple(narrate(synthesiser, writer, voices, n, rng))
    sound = mix_sentences(sentences, n)
    if kind == "television":
        sound += 0.15 * make_music(n, rng)
    return Scene(kind, level * sound, sentences)


def mix_sentences(sentences: tuple[tuple[int, Sentence], ...], n: int) -> np.ndarray:
    """Return the sentences at their places in `n` samples of silence, float32."""
    sound = np.zeros(n, np.float32)
    for start, sentence in sentences:
        sound[start : start + len(sentence.sound)] += sentence.sound
    return sound


def make_music(n: int, rng: np.random.Generator) -> np.ndarray:
    """Return a melody over chords with a drum, shape (n,), float32, about as loud as speech."""
    sound = np.zeros(n + 2 * RATE, np.float32)
    beat = int(rng.uniform(0.3, 0.6) * RATE)
    key = 110.0 * 2 ** (rng.integers(12) / 12)
    scale = np.array([0, 2, 4, 5, 7, 9, 11, 12])
    for index, start in enumerate(range(0, n, beat)):
        root = scale[rng.integers(6)]
        notes = [24 + scale[rng.integers(8)]]
        if index % 4 == 0:
            notes += [root, root + 4, root + 7]
        for note in notes:
            tone = _tone(key * 2 ** (note / 12), int(rng.uniform(1.0, 3.0) * beat))
            sound[start : start + len(tone)] += tone[: len(sound) - start]
        if index % 2:
            drum = _burst(int(0.08 * RATE), rng)
            sound[start : start + len(drum)] += 0.5 * drum
    sound = sound[:n]
    return (sound * (SPEECH_RMS / (np.sqrt(np.mean(sound**2)) + 1e-9))).astype(np.float32)


def _tone(frequency: float, n: int) -> np.ndarray:
    """Return a plucked tone of six harmonics, shape (n,), float32.

    The k-th harmonic, of amplitude 1/k, dies away as ``exp(-2 k t)``: all are powers of one
    complex exponential, whose polynomial is evaluated from the inside.
    """
    time = np.arange(n, dtype=np.float32) / np.float32(RATE)
    z = np.exp(time * np.complex64(-2 + 2j * np.pi * frequency))
    tone = np.full(n, 1 / 6, np.complex64)
    for k in range(5, 0, -1):
        tone *= z
        tone += np.float32(1 / k)
    return (tone * z).imag * np.minimum(1, time / np.float32(0.01))


def _burst(n: int, rng: np.random.Generator) -> np.ndarray:
    """Return decaying noise, shape (n,)."""
    return rng.standard_normal(n, np.float32) * np.exp(-np.linspace(0, 5, n, dtype=np.float32))


def make_clatter(n: int, rng: np.random.Generator, *, per_second: float) -> np.ndarray:
    """Return doors, dishes and the beeps of a monitor at random times, shape (n,), float32."""
    sound = np.zeros(n + RATE, np.float32)
    for start in rng.integers(0, n, rng.poisson(per_second * n / RATE)):
        length = int(rng.uniform(0.05, 0.6) * RATE)
        if rng.random() < 0.3:
            event = 0.1 * np.sin(2 * np.pi * 960 * np.arange(int(0.15 * RATE)) / RATE)
        else:
            darkness = rng.uniform(0.2, 0.9)
            event = 0.15 * lfilter([1 - darkness], [1, -darkness], _burst(length, rng))
        sound[start : start + len(event)] += event
    return sound[:n]


def draw_room(rng: np.random.Generator, *, reverberant: float) -> np.ndarray:
    """Return a synthetic room impulse response, shape (n_taps,), float32.

    The direct sound, a few early reflections and a tail of noise that dies away by 60 dB in
    0.3 to 0.6 s.

    Parameters
    ----------
    reverberant : float
        Energy of everything but the direct sound, relative to the direct sound.
    """
    time = np.arange(_RESPONSE_SAMPLES) / RATE
    decay = 10 ** (-3 * time / rng.uniform(0.3, 0.6))
    tail = lfilter([0.5], [1, -0.5], rng.standard_normal(_RESPONSE_SAMPLES)) * decay
    tail[: int(0.004 * RATE)] = 0
    for start in rng.integers(int(0.004 * RATE), int(0.04 * RATE), 8):
        tail[start] += rng.choice([-4.0, 4.0]) * decay[start]
    tail *= np.sqrt(reverberant / np.sum(tail**2))
    tail[0] = 1.0
    return tail.astype(np.float32)


class Room:
    """Lets sound reach the ear and the microphone; echoes run on from block to block.

    Sound travels without delay, so that simulated times mean the same at the source, the ear and
    the microphone; what stands between them is the reverberation and the noise.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of room responses and noise.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._echoes = np.zeros((2, _RESPONSE_SAMPLES - 1), np.float32)
        self._noise_state = np.zeros(1)
        self.place_source()

    def place_source(self) -> None:
        """Put the source elsewhere; what it said before still echoes from where it was."""
        ear = draw_room(self._rng, reverberant=0.15)
        microphone = draw_room(self._rng, reverberant=self._rng.uniform(0.4, 1.2))
        self._responses = np.stack([ear, MICROPHONE_GAIN * microphone])

    def hear(self, sound: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return what ear and microphone receive while `sound`, shape (n,), is made."""
        heard = oaconvolve(sound[None], self._responses, axes=1)
        heard[:, : self._echoes.shape[1]] += self._echoes
        self._echoes = heard[:, len(sound) :]
        return heard[0, : len(sound)], heard[1, : len(sound)] + self._make_noise(len(sound))

    def _make_noise(self, n: int) -> np.ndarray:
        """Return the steady noise that only the microphone counts, since hearing adapts to it."""
        pole = 0.9
        white = self._rng.standard_normal(n, np.float32)
        noise, self._noise_state = lfilter(
            [np.sqrt(1 - pole**2)], [1, -pole], white, zi=self._noise_state
        )
        return (MICROPHONE_NOISE * noise).astype(np.float32)
