"""The order in which people type arguments, brought to the one that click understands.

Click has no options that take several values; BIDS Apps have, and people mix them with the
positional arguments. Here a list ends at the next option, and what is missing of the positional
arguments is taken from its end, where that can be told for certain.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from bids_speechdecode.config import LEVELS, settings
from bids_speechdecode.errors import MissingInputError, UsageError, did_you_mean

POSITIONALS = ("BIDS_DIR", "OUTPUT_DIR", "{" + ",".join(LEVELS) + "}")
USAGE = "bids_speechdecode " + " ".join(POSITIONALS)


@dataclass(frozen=True)
class Grammar:
    """The options of a command, by how many values follow them."""

    flags: frozenset[str]
    single: frozenset[str]
    lists: frozenset[str]

    @property
    def options(self) -> frozenset[str]:
        """All of them."""
        return self.flags | self.single | self.lists


@dataclass(frozen=True)
class _Values:
    """The words after an option that takes several, with their places."""

    option: str
    words: tuple[tuple[int, str], ...]


@dataclass
class _Sorted:
    """A command line, sorted into its parts."""

    options: list[str]
    lists: list[_Values]
    positionals: list[tuple[int, str]]


def arrange(words: Sequence[str], grammar: Grammar) -> list[str]:
    """Return the same command line with one value per option and the positionals at the end.

    Parameters
    ----------
    words : sequence of str
        What was typed after the name of the program.
    grammar : Grammar
        The options there are.

    Raises
    ------
    UsageError
        An unknown option, an option without its values, or a list and positional arguments
        that cannot be told apart.
    """
    parts = _sort(words, grammar)
    missing = len(POSITIONALS) - len(parts.positionals)
    if missing > 0 and parts.lists:
        _take_positionals(parts, missing)
    for values in parts.lists:
        if not values.words:
            raise UsageError(f"{values.option} needs at least one value")
    listed = [f"{values.option}={word}" for values in parts.lists for _, word in values.words]
    return [*parts.options, *listed, "--", *(word for _, word in sorted(parts.positionals))]


def _sort(words: Sequence[str], grammar: Grammar) -> _Sorted:
    parts = _Sorted([], [], [])
    place = 0
    while place < len(words):
        word = words[place]
        place += 1
        if word == "--":
            parts.positionals += list(enumerate(words))[place:]
            break
        if not _is_option(word):
            parts.positionals.append((place - 1, word))
            continue
        name, equals, value = word.partition("=")
        if word.startswith("--"):
            name = name.replace("_", "-")
            _require_known(name, grammar.options)
        if name in grammar.lists:
            stop = place if equals else _end_of_list(words, place)
            found = [(place - 1, value)] if equals else list(enumerate(words))[place:stop]
            parts.lists.append(_Values(name, tuple(found)))
            place = stop
            continue
        parts.options.append(name + equals + value)
        if not equals and _takes_value(name, grammar):
            if place == len(words) or words[place].replace("_", "-") in grammar.options:
                raise UsageError(f"{name} needs a value")
            parts.options.append(words[place])
            place += 1
    return parts


def _takes_value(name: str, grammar: Grammar) -> bool:
    """Return whether the next word belongs to this option, also in a cluster like ``-vw``."""
    cluster = not name.startswith("--") and all(f"-{c}" in grammar.flags for c in name[1:-1])
    return name in grammar.single or (cluster and f"-{name[-1]}" in grammar.single)


def _end_of_list(words: Sequence[str], start: int) -> int:
    stop = start
    while stop < len(words) and not _is_option(words[stop]):
        stop += 1
    return stop


def _is_option(word: str) -> bool:
    """Return whether a word is an option; a negative number is a value."""
    return word.startswith("-") and word != "-" and not re.fullmatch(r"-\d+(\.\d*)?", word)


def _require_known(name: str, options: Collection[str]) -> None:
    if name not in options:
        word = name.removeprefix("--")
        sections = [s.partition(".")[0] for s in settings() if s.endswith("." + _as_key(word))]
        of_file = " or ".join(f"[{section}]" for section in sections)
        raise UsageError(
            f"unknown option {name}",
            fix=f"it is a setting: {_as_key(word)} in {of_file} of the --config file"
            if sections
            else did_you_mean(name, options) or "bids_speechdecode --help lists all options",
        )


def _as_key(word: str) -> str:
    return word.replace("-", "_")


def _take_positionals(parts: _Sorted, missing: int) -> None:
    """Move the missing positional arguments from the end of a list to where they belong."""
    has_level = any(is_level(word) for _, word in parts.positionals[-1:])
    if not has_level and not any(is_level(word) for v in parts.lists for _, word in v.words[-1:]):
        return  # the level is nowhere: click says what is missing
    found = [v for v in parts.lists if _holds_positionals(v, missing, has_level)]
    if len(found) != 1:
        raise _cannot_tell(parts.lists)
    values = found[0]
    parts.positionals += values.words[-missing:]
    parts.lists[parts.lists.index(values)] = _Values(values.option, values.words[:-missing])


def _holds_positionals(values: _Values, missing: int, has_level: bool) -> bool:
    """Return whether the missing arguments can be at the end of a list, after a value."""
    words = [word for _, word in values.words]
    if len(words) <= missing or not (has_level or is_level(words[-1])):
        return False
    folders = words[-missing:] if has_level else words[-missing:-1]
    return not folders or _is_folder(folders[0])


def is_level(word: str) -> bool:
    """Return whether a word is, or was meant as, an analysis level."""
    return word in LEVELS or bool(did_you_mean(word, LEVELS))


def _is_folder(word: str) -> bool:
    path = Path(word)
    return path.is_dir() or (os.sep in word and not path.is_file())


def _cannot_tell(lists: Sequence[_Values]) -> UsageError:
    return UsageError(
        f"cannot tell the values of {' and '.join(v.option for v in lists)} "
        "from the positional arguments",
        expected=" ".join(POSITIONALS),
        found=" ".join(w for v in lists for w in (v.option, *(word for _, word in v.words))),
        fix=f"type the positional arguments first: {USAGE} {lists[0].option} ...",
    )


def split_words(texts: Sequence[str]) -> tuple[str, ...]:
    """Return the words of texts in which commas or blanks separate them, each once."""
    return tuple(
        dict.fromkeys(word for text in texts for word in re.split(r"[,\s]+", text) if word)
    )


def read_labels(texts: Sequence[str], prefix: str, option: str) -> tuple[str, ...]:
    """Return labels without prefix, each once; files of labels are read.

    Parameters
    ----------
    texts : sequence of str
        Labels, several in one text (``"01,02"``), or files: ``@list.txt``, ``list.txt``,
        ``participants.tsv``. BIDS labels are letters and digits, so a dot or a slash is a file.
    prefix : str
        Taken off each label (``"sub-"``).
    option : str
        What the user typed, for messages.

    Raises
    ------
    MissingInputError
        A file that is not there.
    UsageError
        No label at all, or a file that is not text.
    """
    labels: list[str] = []
    for text in texts:
        if text.startswith("@") or "." in text or os.sep in text:
            labels += _read_label_file(Path(text.removeprefix("@")), option)
        else:
            labels += split_words([text])
    if texts and not labels:
        raise UsageError(f"{option} has no label", found=" ".join(map(repr, texts)))
    return tuple(dict.fromkeys(label.removeprefix(prefix) for label in labels))


def _read_label_file(path: Path, option: str) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise MissingInputError(
            f"the file of labels given to {option} does not exist",
            where=path,
            fix="labels have letters and digits only; one label per line in a file",
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"the file given to {option} is not text", where=path) from error
    lines = [line for line in lines if line.strip() and not line.startswith("#")]
    if lines and lines[0].split("\t")[0] == "participant_id":
        return tuple(line.split("\t")[0] for line in lines[1:])
    return split_words(lines)
