"""The words of what is said: their times, and the topics that contacts can follow."""

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
from bids_speechdecode.simulate.sentences import plural
from bids_speechdecode.simulate.sidecars import write_json, write_tsv

# What the words of the simulated sentences are about; all others are about nothing.
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
_TOPIC_OF = {
    form: k
    for k, words in enumerate(TOPICS.values())
    for word in words.split()
    for form in (word, plural(word))
}
# Set once, by what is known of responses to meaning. They begin 0.2 to 0.5 s after a word (the
# N400: Kutas & Federmeier 2011, doi:10.1146/annurev.psych.093008.131123).
LATENCY = 0.3  # seconds
# Contacts of the language network take together one, four or six words (Regev et al. 2024,
# doi:10.1038/s41562-024-01944-2): four words of the narrator's 160 a minute.
HELD = 1.5  # seconds for which a word counts

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


def topic_of(word: str) -> np.ndarray:
    """Return what a word is about, shape (n_topics,): 1 for its topic, 0 for all others.

    Examples
    --------
    >>> topic_of("Violins"), topic_of("the")
    (array([0., 1., 0., 0., 0., 0.]), array([0., 0., 0., 0., 0., 0.]))
    """
    vector = np.zeros(len(TOPICS))
    if word.lower() in _TOPIC_OF:
        vector[_TOPIC_OF[word.lower()]] = 1.0
    return vector


def topic_course(spoken: Sequence[Spoken], n_frames: int) -> np.ndarray:
    """Return what is talked about at each frame, shape (n_frames, n_topics), 100 Hz.

    For how long each topic was spoken of in the last 1.5 s, in units in which all of them together
    have the variance 1 while somebody speaks. What all words have in common is taken away, so that
    the course has no correlation with whether somebody speaks, and does not follow how loud it is.
    """
    course = np.zeros((n_frames, len(TOPICS)))
    is_spoken = np.zeros(n_frames)
    for word in list_words(spoken):
        ends = word.onset, word.onset + word.duration
        frames = slice(*(round(FRAME_RATE * end) for end in ends))
        course[frames] = topic_of(word.word)
        is_spoken[frames] = 1.0
    if not course.any():
        return course  # nothing was said that is about something
    held, of_speech = _sum_of_last(course), _sum_of_last(is_spoken[:, None])
    contrast = is_spoken - is_spoken.mean()
    held -= of_speech * (contrast @ held) / (contrast @ of_speech)
    return held / held[is_spoken > 0].std()


def _sum_of_last(course: np.ndarray) -> np.ndarray:
    """Return at each frame the sum over it and the frames before that still count."""
    n = round(HELD * FRAME_RATE)
    total = np.cumsum(np.concatenate([np.zeros((n, course.shape[1])), course]), axis=0)
    return total[n:] - total[:-n]


@dataclass(frozen=True)
class Meaning:
    """How the auditory contacts of a participant follow what is talked about.

    Attributes
    ----------
    mixture : array, shape (n_topics, n_auditory)
        Columns of length 1: how much each topic adds to the response of a contact.
    amplitude : array, shape (n_auditory,), µV
        Of a response of unit variance.
    """

    mixture: np.ndarray
    amplitude: np.ndarray

    def respond(self, spoken: Sequence[Spoken], n_frames: int) -> np.ndarray:
        """Return the response to what was said, shape (n_frames, n_auditory), µV, 100 Hz."""
        late = round(LATENCY * FRAME_RATE)
        course = topic_course(spoken, n_frames)
        delayed = np.concatenate([np.zeros((late, len(TOPICS))), course])[:n_frames]
        return delayed @ self.mixture * self.amplitude


def draw_meaning(participant: Participant, correlation: float, seed: int) -> Meaning:
    """Return random mixtures of topics, drawn apart from everything else of the participant.

    Parameters
    ----------
    participant : Participant
    correlation : float
        r of the contact that hears best: its response to topics has the amplitude
        ``s r / sqrt(1 - r^2)``, s the background's rms from 0.5 to 20 Hz, as the response to
        sound has. That of other contacts falls with their weight.
    seed : int
    """
    brain = participant.brain
    rng = np.random.default_rng([seed, *participant.label.encode()])
    mixture = rng.standard_normal((len(TOPICS), len(brain.auditory)))
    weight = np.array([brain.contacts[i].weight for i in brain.auditory])
    r = correlation * weight
    scale = participant.scale[list(brain.auditory)]
    return Meaning(
        mixture / np.linalg.norm(mixture, axis=0), SLOW_RMS * scale * r / np.sqrt(1 - r**2)
    )
