"""Sentences for the voices: a small grammar with a vocabulary large enough never to repeat."""

from __future__ import annotations

import numpy as np


def _list(text: str) -> list[str]:
    """Return words, or phrases separated by bars."""
    return text.split("|") if "|" in text else text.split()


_PEOPLE = _list(
    "captain gardener painter neighbour baker doctor farmer teacher sailor widow postman miller "
    "violinist shepherd locksmith cousin stranger watchmaker fisherman librarian nurse traveller "
    "carpenter singer grandmother inspector weaver beekeeper ferryman apprentice"
)
_THINGS = _list(
    "lantern letter basket window bridge kettle garden mirror compass orchard ladder violin "
    "notebook harbour candle blanket fountain suitcase telescope staircase teapot feather bicycle "
    "chimney painting bottle curtain hammer pocket island umbrella wagon necklace drawer map "
    "pebble scarf piano jar clock"
)
_PLACES = _list(
    "harbour village forest market kitchen valley attic station river library meadow courtyard "
    "lighthouse workshop chapel cellar mountain beach vineyard square museum bakery field theatre"
)
_QUALITIES = _list(
    "old quiet golden crooked patient heavy bright narrow forgotten silver gentle frozen hollow "
    "curious wooden dusty careful broken yellow enormous faithful salty velvet sleepy honest pale "
    "distant clever stubborn warm"
)
_PAST = _list(
    "carried found repaired painted followed opened remembered borrowed polished dropped measured "
    "buried described noticed wrapped examined guarded lifted traded promised admired hid drew "
    "washed sold recognised pushed covered watched kept"
)
_PRESENT = _list("carry find repair paint follow open remember borrow keep describe hide sell")
_MOMENTS = _list(
    "in the morning|after the storm|long before winter|on the last day of summer|at midnight|"
    "when the bells rang|a few weeks later|while everybody slept|during the heavy rain|that evening"
)
_ADVERBS = _list("slowly quietly suddenly gladly carefully proudly hardly nearly always secretly")
_NUMBERS = _list("two three four five seven eleven twelve fifteen twenty thirty")
_LINKS = _list("because although until before after while")
_FEELINGS = _list("tired happy afraid late hungry surprised certain alone proud angry")


def plural(noun: str) -> str:
    """Return the regular plural."""
    if noun.endswith("man"):
        return noun[:-2] + "en"
    if noun.endswith(("x", "ch", "s")):
        return noun + "es"
    return noun[:-1] + "ies" if noun.endswith("ry") else noun + "s"


class SentenceWriter:
    """Writes grammatical English sentences of which no two are equal.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of every choice.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._used: set[str] = set()

    def write(self) -> str:
        """Return a sentence that this writer has not returned before."""
        while True:
            sentence = self._draw()
            if sentence not in self._used:
                self._used.add(sentence)
                return sentence

    def _pick(self, words: list[str]) -> str:
        return words[int(self._rng.integers(len(words)))]

    def _noun(self, nouns: list[str]) -> str:
        quality = f"{self._pick(_QUALITIES)} " if self._rng.random() < 0.55 else ""
        return f"the {quality}{self._pick(nouns)}"

    def _clause(self) -> str:
        adverb = f"{self._pick(_ADVERBS)} " if self._rng.random() < 0.3 else ""
        return f"{self._noun(_PEOPLE)} {adverb}{self._pick(_PAST)} {self._noun(_THINGS)}"

    def _draw(self) -> str:
        """Return one sentence of a random form."""
        form = int(self._rng.integers(8))
        place = f"{self._pick(['near', 'behind', 'inside', 'beyond'])} {self._noun(_PLACES)}"
        if form == 0:
            text = f"{self._clause()} {place}."
        elif form == 1:
            text = f"{self._pick(_MOMENTS)}, {self._clause()}."
        elif form == 2:
            text = f"{self._clause()} {self._pick(_LINKS)} {self._clause()}."
        elif form == 3:
            things = plural(self._pick(_THINGS))
            text = f"there were {self._pick(_NUMBERS)} {self._pick(_QUALITIES)} {things} {place}."
        elif form == 4:
            text = (
                f"did {self._noun(_PEOPLE)} really {self._pick(_PRESENT)} {self._noun(_THINGS)} "
                f"{self._pick(_MOMENTS)}?"
            )
        elif form == 5:
            text = (
                f"nobody {place} knew why {self._noun(_PEOPLE)} was so {self._pick(_FEELINGS)}, "
                f"but {self._clause()}."
            )
        elif form == 6:
            text = (
                f"{self._pick(_PRESENT)} {self._noun(_THINGS)}, said {self._noun(_PEOPLE)}, "
                f"and {self._pick(_PRESENT)} {self._pick(_NUMBERS)} {plural(self._pick(_THINGS))}."
            )
        else:
            text = (
                f"{self._noun(_PEOPLE)} and {self._noun(_PEOPLE)} {self._pick(_PAST)} "
                f"{self._noun(_THINGS)} {place}, and {self._clause()}."
            )
        return text[0].upper() + text[1:]
