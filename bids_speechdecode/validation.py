"""The values that a setting may have, checked and converted with a message that helps."""

from __future__ import annotations

import math
import re
import sys
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from bids_speechdecode.errors import UsageError, did_you_mean


@dataclass(frozen=True)
class Range:
    """The numbers that a setting may have."""

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf

    def __contains__(self, number: float) -> bool:
        """Whether `number` is finite and inside; NaN never is."""
        return (
            abs(number) <= sys.float_info.max
            and self.least <= number <= self.most
            and self.above < number < self.below
        )

    def __str__(self) -> str:
        """Return the bounds in words, as in ``at least 0 and below 1``."""
        bounds = {
            "at least": self.least,
            "above": self.above,
            "at most": self.most,
            "below": self.below,
        }
        return " and ".join(f"{k} {v:.10g}" for k, v in bounds.items() if math.isfinite(v))


@dataclass(frozen=True)
class Pattern:
    """The texts that a setting may have."""

    regex: str
    words: str

    def __contains__(self, text: str) -> bool:
        """Whether the whole of `text` matches."""
        return re.fullmatch(self.regex, text) is not None

    def __str__(self) -> str:
        """Return the allowed texts in words."""
        return self.words


Positive = Annotated[float, Range(above=0)]
NotNegative = Annotated[float, Range(least=0)]
Share = Annotated[float, Range(least=0, most=1)]
InnerShare = Annotated[float, Range(above=0, below=1)]
Count = Annotated[int, Range(least=1)]


def choices(hint: Any) -> tuple[str, ...]:
    """Return the words that a setting of this type may be; none if it is not a choice."""
    return typing.get_args(hint) if typing.get_origin(hint) is Literal else ()


def unknown(what: str, found: str, known: Iterable[str], where: str | Path) -> UsageError:
    """Return the error for a word that is not among the `known` ones."""
    known = list(known)
    return UsageError(
        f"unknown {what}: {found!r}",
        expected="one of " + ", ".join(known),
        where=where,
        fix=did_you_mean(found, known),
    )


def convert(value: Any, hint: Any, name: str, *, where: str | Path = "", prefix: str = "") -> Any:
    """Return `value` as the type `hint`.

    Parameters
    ----------
    value : object
        A value as TOML or the command line gives it.
    hint : type
        ``bool``, ``str``, a ``Literal``, a number with its `Range`, or a tuple of one of these.
    name : str
        What the user calls the setting.
    where : path or str, optional
        The file the value comes from.
    prefix : str, optional
        Taken off texts and labels (``"ses-"``).

    Raises
    ------
    UsageError
        Wrong type, unknown word, or outside the range.
    """
    words = choices(hint)
    if words and value in words:
        return value
    if hint is bool and isinstance(value, bool):
        return value
    if hint is str and isinstance(value, str):
        return value.strip().removeprefix(prefix)
    if typing.get_origin(hint) is tuple:
        return _convert_list(value, hint, name, where, prefix)
    if typing.get_origin(hint) is Annotated:
        kind, bounds = typing.get_args(hint)
        if _is_a(value, kind) and value in bounds:
            return kind(value)
    raise UsageError(
        f"{name} cannot be {value!r}",
        expected=describe(hint),
        found=repr(value),
        where=where,
        fix=did_you_mean(str(value), words),
    )


def _convert_list(
    value: Any, hint: Any, name: str, where: str | Path, prefix: str
) -> tuple[Any, ...]:
    """Return several values, each of its own type and once."""
    kind = typing.get_args(hint)[0]
    if kind is str and (texts := _as_texts(value)) is not None:
        return tuple(dict.fromkeys(text.removeprefix(prefix) for text in texts))
    if kind is not str and isinstance(value, (str, int, float, list, tuple)):
        items = value if isinstance(value, (list, tuple)) else [value]
        return tuple(
            dict.fromkeys(convert(_as_number(i, kind), kind, name, where=where) for i in items)
        )
    raise UsageError(
        f"{name} cannot be {value!r}", expected=describe(hint), found=repr(value), where=where
    )


def _as_number(item: Any, kind: Any) -> Any:
    """Return the number that a text stands for, where one is wanted; otherwise the item."""
    if isinstance(item, str) and not choices(kind):
        try:
            return float(item)
        except ValueError:
            return item
    return item


_KINDS = {int: "a whole number ", float: "a number ", str: ""}


def _as_texts(value: Any) -> tuple[str, ...] | None:
    """Return one or several labels as texts; runs may be written as numbers."""
    items = value if isinstance(value, (list, tuple)) else [value]
    plain = all(isinstance(i, (str, int)) and not isinstance(i, bool) for i in items)
    return tuple(str(i).strip() for i in items) if plain else None


def _is_a(value: Any, kind: type) -> bool:
    if kind is str:
        return isinstance(value, str)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return kind is float or isinstance(value, int) or value.is_integer()


def describe(hint: Any) -> str:
    """Return in words what a setting of this type may be."""
    if words := choices(hint):
        return "one of " + ", ".join(words)
    if typing.get_origin(hint) is Annotated:
        kind, bounds = typing.get_args(hint)
        return f"{_KINDS[kind]}{bounds}"
    if typing.get_origin(hint) is tuple and typing.get_args(hint)[0] is not str:
        return f"a list, each {describe(typing.get_args(hint)[0])}"
    return {bool: "true or false", str: "text"}.get(hint, "a list of labels")
