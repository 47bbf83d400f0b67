"""Intelligible speech from espeak-ng, whose library and voices come with a Python package."""

from __future__ import annotations

import _ctypes
import ctypes
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr

from bids_speechdecode.errors import InputOutputError, MissingInputError
from bids_speechdecode.simulate.sentences import SentenceWriter

RATE = 16000  # hertz, of every simulated sound
SPEECH_RMS = 0.05  # of full scale while somebody speaks (-26 dB), the reference level

_SYNCHRONOUS = 2  # espeak_AUDIO_OUTPUT: synthesis returns when all samples were handed over
_DONT_EXIT = 0x8000
_UTF8 = 1
_SPEED, _VOLUME, _PITCH, _PITCH_RANGE = 1, 2, 3, 4
_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


@dataclass(frozen=True)
class Voice:
    """A speaker: accent and variant of espeak-ng, words per minute, pitch and its range (0-99)."""

    name: str
    speed: int
    pitch: int
    pitch_range: int


NARRATOR = Voice("en+f2", 160, 50, 60)

_ACCENTS = ("en-us", "en", "en-gb-scotland", "en-gb-x-rp", "en-029")
_VARIANTS = ("m1", "m2", "m3", "m4", "m5", "m6", "m7", "f1", "f3", "f4", "f5", "klatt2", "klatt4")


def draw_voice(rng: np.random.Generator) -> Voice:
    """Return a random voice, never the narrator's."""
    accent, variant = rng.choice(_ACCENTS), rng.choice(_VARIANTS)
    speed, pitch, pitch_range = rng.integers([140, 30, 35], [200, 75, 75])
    return Voice(f"{accent}+{variant}", int(speed), int(pitch), int(pitch_range))


@dataclass(frozen=True)
class Sentence:
    """A spoken sentence: text, voice, and sound of shape (n,) at 16 kHz."""

    text: str
    voice: Voice
    sound: np.ndarray


class Synthesiser:
    """espeak-ng in memory; use as a context manager.

    The library keeps state that no call resets, so each instance loads a copy of its own: what
    it says then depends only on what it was asked to say, in order.

    Raises
    ------
    MissingInputError
        The package that carries espeak-ng is not installed.
    """

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError as error:
            raise MissingInputError(
                "the speech synthesiser of the simulation is not installed",
                expected="the package espeakng-loader",
                fix='pip install "bids_speechdecode[demo]"',
            ) from error
        self._folder = tempfile.TemporaryDirectory(prefix="espeak-")
        copy = Path(self._folder.name) / Path(espeakng_loader.get_library_path()).name
        shutil.copyfile(espeakng_loader.get_library_path(), copy)
        self._library = ctypes.CDLL(str(copy))
        self._chunks: list[np.ndarray] = []
        self._callback = _Callback(self._collect)
        data_path = espeakng_loader.get_data_path().encode()
        self._native_rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, data_path, _DONT_EXIT)
        if self._native_rate <= 0:
            raise InputOutputError("espeak-ng could not be started", where=data_path.decode())
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # else the wall clock decides
        self._library.espeak_SetSynthCallback(self._callback)

    def __enter__(self) -> Synthesiser:
        return self

    def __exit__(self, *_: object) -> None:
        self._library.espeak_Terminate()
        # Unloaded, or a later copy that gets the same inode would be this library with its state.
        _ctypes.dlclose(self._library._handle)
        self._folder.cleanup()

    def _collect(self, samples: ctypes._Pointer[ctypes.c_short], n: int, events: int) -> int:
        if samples and n > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, (n,)).copy())
        return 0

    def say(self, text: str, voice: Voice) -> np.ndarray:
        """Return the spoken text, shape (n,), float32 at 16 kHz, scaled to the speech level."""
        if self._library.espeak_SetVoiceByName(voice.name.encode()):
            raise InputOutputError(f"espeak-ng has no voice {voice.name!r}")
        for parameter, value in (
            (_SPEED, voice.speed),
            (_VOLUME, 80),
            (_PITCH, voice.pitch),
            (_PITCH_RANGE, voice.pitch_range),
        ):
            self._library.espeak_SetParameter(parameter, value, 0)
        self._chunks.clear()
        message = text.encode()
        self._library.espeak_Synth(
            message, ctypes.c_size_t(len(message) + 1), 0, 1, 0, _UTF8, None, None
        )
        if not self._chunks:
            raise InputOutputError(f"espeak-ng said nothing for {text!r} as {voice.name}")
        sound = np.concatenate(self._chunks).astype(np.float32)
        return _trim_and_scale(soxr.resample(sound, self._native_rate, RATE))


def _trim_and_scale(sound: np.ndarray) -> np.ndarray:
    """Return the sound without the silence around it, at the speech level."""
    loud = np.flatnonzero(np.abs(sound) > 0.01 * np.abs(sound).max())
    sound = sound[loud[0] : loud[-1] + 1]
    return (sound * (SPEECH_RMS / np.sqrt(np.mean(sound**2)))).astype(np.float32)


def narrate(
    synthesiser: Synthesiser,
    writer: SentenceWriter,
    voices: list[Voice],
    n_samples: int,
    rng: np.random.Generator,
) -> Iterator[tuple[int, Sentence]]:
    """Yield sentences and their first samples, with pauses between, until `n_samples` are full.

    One voice reads on; several take turns of one to four sentences.
    """
    position = int(0.5 * RATE)
    speaker, left = 0, 0
    while True:
        if left == 0:
            speaker = (speaker + int(rng.integers(1, max(2, len(voices))))) % len(voices)
            left = int(rng.integers(1, 5))
        voice = voices[speaker]
        text = writer.write()
        sound = synthesiser.say(text, voice)
        if position + len(sound) > n_samples:
            return
        yield position, Sentence(text, voice, sound)
        left -= 1
        # A breath after most sentences, a longer pause after a paragraph or a turn.
        pause = rng.uniform(0.25, 0.7) if left else rng.uniform(0.7, 2.0)
        position += len(sound) + int(pause * RATE)
