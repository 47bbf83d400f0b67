"""The sound files of the dataset, and what reached the ears while each was recorded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import soundfile
import soxr

from bids_speechdecode.simulate.brain import DriveExtractor
from bids_speechdecode.simulate.sentences import SentenceWriter
from bids_speechdecode.simulate.sound import Room, draw_scenes, make_clatter
from bids_speechdecode.simulate.speech import (
    NARRATOR,
    RATE,
    Sentence,
    Synthesiser,
    Voice,
    narrate,
)

_BLOCK = 30 * RATE


@dataclass(frozen=True)
class Spoken:
    """One line of a transcript; seconds in the sound file."""

    onset: float
    duration: float
    voice: str
    text: str


@dataclass(frozen=True)
class Heard:
    """What reached the ears while a microphone recorded, on the microphone's clock.

    Attributes
    ----------
    drives : array, shape (n_frames, n_drives), 100 Hz
        Loudness and onsets at the ear.
    duration : float, seconds
        Of the microphone's file.
    spoken : tuple of Spoken
        What was said.
    scenes : tuple of (float, float, str)
        Onset, duration and kind of what went on.
    """

    drives: np.ndarray
    duration: float
    spoken: tuple[Spoken, ...] = ()
    scenes: tuple[tuple[float, float, str], ...] = field(default=())


def record_chapter(
    path: Path,
    duration: float,
    synthesiser: Synthesiser,
    writer: SentenceWriter,
    rng: np.random.Generator,
    voice: Voice = NARRATOR,
) -> tuple[Spoken, ...]:
    """Write a chapter read by one voice, exactly `duration` long; return its transcript."""
    n_samples = round(duration * RATE)
    spoken: list[Spoken] = []
    position = 0
    with _open(path) as file:
        for start, sentence in narrate(synthesiser, writer, [voice], n_samples, rng):
            file.write(np.zeros(start - position, np.float32))
            file.write(sentence.sound)
            position = start + len(sentence.sound)
            spoken.append(_spoken(start, sentence))
        file.write(np.zeros(n_samples - position, np.float32))
    return tuple(spoken)


def record_room(
    path: Path,
    duration: float,
    synthesiser: Synthesiser,
    writer: SentenceWriter,
    rng: np.random.Generator,
) -> Heard:
    """Write what a microphone records of a room's life; return what reached the ears."""
    room, ear = Room(rng), DriveExtractor()
    spoken: list[Spoken] = []
    scenes: list[tuple[float, float, str]] = []
    n_samples, position = round(duration * RATE), 0
    with _open(path) as file:
        for scene in draw_scenes(n_samples, synthesiser, writer, rng):
            room.place_source()
            for start in range(0, len(scene.sound), _BLOCK):
                at_ear, at_microphone = room.hear(scene.sound[start : start + _BLOCK])
                ear.push(at_ear)
                file.write(at_microphone)
            spoken += [_spoken(position + start, said) for start, said in scene.sentences]
            scenes.append((position / RATE, len(scene.sound) / RATE, scene.kind))
            position += len(scene.sound)
    return Heard(ear.finish(), n_samples / RATE, tuple(spoken), tuple(scenes))


def record_playback(
    path: Path,
    chapter: Path,
    *,
    start: float,
    speed: float,
    duration: float,
    rng: np.random.Generator,
    told: Sequence[Spoken] = (),
) -> Heard:
    """Write what a microphone records while a chapter is played in the room.

    Parameters
    ----------
    start : float, seconds
        When the chapter begins in the microphone's file.
    speed : float
        Chapter seconds per second of the microphone's clock.
    duration : float, seconds
        Of the microphone's file.
    told : sequence of Spoken
        What is said in the chapter.
    """
    room, ear = Room(rng), DriveExtractor()
    left = round(duration * RATE)
    with _open(path) as file:
        for played in _play(chapter, round(start * RATE), speed):
            sound = played[:left] + make_clatter(len(played[:left]), rng, per_second=0.05)
            left -= len(sound)
            _listen(sound, room, ear, file)
        while left:
            sound = np.zeros(min(left, _BLOCK), np.float32)
            left -= len(sound)
            _listen(sound, room, ear, file)
    spoken = tuple(
        replace(s, onset=start + s.onset / speed, duration=s.duration / speed) for s in told
    )
    return Heard(ear.finish(), round(duration * RATE) / RATE, spoken)


def _listen(sound: np.ndarray, room: Room, ear: DriveExtractor, file: soundfile.SoundFile) -> None:
    """Let ear and microphone hear a stretch of sound."""
    if len(sound):
        at_ear, at_microphone = room.hear(sound)
        ear.push(at_ear)
        file.write(at_microphone)


def _play(path: Path, n_before: int, speed: float) -> Iterator[np.ndarray]:
    """Yield silence and then the file as another clock, of relative `speed`, samples it."""
    yield np.zeros(n_before, np.float32)
    resampler = soxr.ResampleStream(RATE * speed, RATE, 1, dtype="float32")
    with soundfile.SoundFile(path) as file:
        left = file.frames
        while left:
            block = file.read(min(left, _BLOCK), dtype="float32")
            left -= len(block)
            yield resampler.resample_chunk(block, last=left == 0)


def _spoken(start: int, sentence: Sentence) -> Spoken:
    """Return the transcript's line of a sentence."""
    return Spoken(start / RATE, len(sentence.sound) / RATE, sentence.voice.name, sentence.text)


def _open(path: Path) -> soundfile.SoundFile:
    """Open a lossless sound file for writing."""
    return soundfile.SoundFile(path, "w", RATE, 1, subtype="PCM_16", format="FLAC")
