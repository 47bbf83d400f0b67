"""The words of what is said: their times, and a meaning that contacts can follow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from bids_speechdecode.simulate.background import SLOW_RMS
from bids_speechdecode.simulate.brain import FRAME_RATE
from bids_speechdecode.simulate.participant import Participant
from bids_speechdecode.simulate.playback import Spoken
from bids_speechdecode.simulate.sidecars import write_json, write_tsv

# What words of the simulated stories are about; others are about nothing.
TOPICS = {
    "sea": "captain sailor ferryman fisherman harbour lighthouse island beach compass pebble river "
    "salty",
    "music": "violinist singer violin piano theatre bells",
    "craft": "carpenter locksmith watchmaker weaver apprentice ladder hammer workshop wooden "
    "repaired polished repair mirror clock",
    "home": "kettle kitchen teapot jar bottle blanket curtain drawer candle cellar attic "
    "grandmother baker bakery basket scarf",
    "country": "gardener beekeeper garden orchard forest meadow vineyard mountain field farmer "
    "shepherd miller feather valley village",
    "paper": "teacher librarian notebook letter museum map telescope painting painter inspector "
    "library postman",
}
_TOPIC_OF = {word: k for k, words in enumerate(TOPICS.values()) for word in words.split()}
DIMENSIONS = len(TOPICS)  # of what a word is about
LATENCY = 0.3  # seconds from a word to the response to its meaning
HELD = 1.0  # seconds for which a word is held in mind with those that follow

_COLUMNS = {
    "onset": {"Description": "When the word begins in the sound", "Units": "s"},
    "duration": {
        "Description": "Length of the word. Onsets and durations of sentences are exact; their "
        "time is shared out among their words by letters",
        "Units": "s",
    },
    "word": {"Description": "The word, without punctuation"},
}


@dataclass(frozen=True)
class Word:
    """A word and its time in the sound (s)."""

    onset: float
    duration: float
    word: str


def list_words(spoken: Sequence[Spoken]) -> Iterator[Word]:
    """Yield the words of sentences, the time of each sentence shared out by letters."""
    for sentence in spoken:
        words = [w.strip(".,?!;:\"'") for w in sentence.text.split()]
        ends = np.cumsum([0, *map(len, words)]) / sum(map(len, words))
        for word, first, last in zip(words, ends[:-1], ends[1:], strict=True):
            onset = sentence.onset + first * sentence.duration
            yield Word(onset, (last - first) * sentence.duration, word)


def write_words(sound: Path, spoken: Sequence[Spoken]) -> None:
    """Write the table of a sound's words beside it, as an annotator would."""
    table = pd.DataFrame(
        [(round(w.onset, 4), round(w.duration, 4), w.word) for w in list_words(spoken)],
        columns=list(_COLUMNS),
    )
    write_tsv(sound.with_name(f"{sound.stem}_words.tsv"), table)
    write_json(sound.with_name(f"{sound.stem}_words.json"), _COLUMNS)


def vector_of(word: str) -> np.ndarray:
    """Return what a word is about, shape (DIMENSIONS,): 1 for its topic, in singular or plural."""
    vector = np.zeros(DIMENSIONS)
    word = word.lower()
    for form in (word, word[:-1], word[:-2], word[:-3] + "y", word.replace("men", "man")):
        if form in _TOPIC_OF:
            vector[_TOPIC_OF[form]] = 1.0
            break
    return vector


def meaning_course(spoken: Sequence[Spoken], n_frames: int) -> np.ndarray:
    """Return what was said just now at each frame, shape (n_frames, DIMENSIONS), 100 Hz.

    The sum of the vectors of what was said in the last second, of unit variance while somebody
    speaks and 0 where nobody spoke. What all words have in common is taken away, so that the
    course has no correlation with whether somebody speaks, and does not follow how loud it is.
    """
    course = np.zeros((n_frames, DIMENSIONS))
    is_spoken = np.zeros(n_frames)
    for word in list_words(spoken):
        ends = word.onset, word.onset + word.duration
        frames = slice(*(round(FRAME_RATE * end) for end in ends))
        course[frames] = vector_of(word.word)
        is_spoken[frames] = 1.0
    if not is_spoken.any():
        return course
    held, of_speech = _sum_of_last(course), _sum_of_last(is_spoken[:, None])
    contrast = is_spoken - is_spoken.mean()
    held -= of_speech * (contrast @ held) / (contrast @ of_speech)
    return held / held[is_spoken > 0].std()


def _sum_of_last(course: np.ndarray) -> np.ndarray:
    """Return at each frame the sum over what is held in mind: it and the frames before."""
    n = round(HELD * FRAME_RATE)
    total = np.cumsum(np.concatenate([np.zeros((n, course.shape[1])), course]), axis=0)
    return total[n:] - total[:-n]


@dataclass(frozen=True)
class Meaning:
    """How the auditory contacts of a participant follow what is said.

    Attributes
    ----------
    mixture : array, shape (DIMENSIONS, n_auditory)
        Columns of length 1: a response is a projection of the word's vector.
    amplitude : array, shape (n_auditory,), µV
        Of a response of unit variance.
    """

    mixture: np.ndarray
    amplitude: np.ndarray

    def respond(self, spoken: Sequence[Spoken], n_frames: int) -> np.ndarray:
        """Return the response to what was said, shape (n_frames, n_auditory), µV, 100 Hz."""
        late = round(LATENCY * FRAME_RATE)
        course = meaning_course(spoken, n_frames)
        delayed = np.concatenate([np.zeros((late, DIMENSIONS)), course])[:n_frames]
        return delayed @ self.mixture * self.amplitude


def draw_meaning(participant: Participant, correlation: float, seed: int) -> Meaning:
    """Return random projections, drawn apart from everything else of the participant.

    Parameters
    ----------
    participant : Participant
    correlation : float
        r of the contact that hears best: its response to words has the amplitude
        ``s r / sqrt(1 - r^2)``, s the background's rms from 0.5 to 20 Hz, as the response to
        sound has. That of other contacts falls with their weight.
    seed : int
    """
    brain = participant.brain
    rng = np.random.default_rng([seed, *participant.label.encode()])
    mixture = rng.standard_normal((DIMENSIONS, len(brain.auditory)))
    weight = np.array([brain.contacts[i].weight for i in brain.auditory])
    r = correlation * weight
    scale = participant.scale[list(brain.auditory)]
    return Meaning(
        mixture / np.linalg.norm(mixture, axis=0), SLOW_RMS * scale * r / np.sqrt(1 - r**2)
    )
