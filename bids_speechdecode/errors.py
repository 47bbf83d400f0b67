"""Errors that a user can act on, each with the exit status of the BIDS-Apps specification."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class SpeechDecodeError(Exception):
    """An error with one clear message and an exit status.

    Parameters
    ----------
    problem : str
        What is wrong, in one sentence.
    expected, found : str, optional
        What was needed and what was there instead.
    where : path or str, optional
        The file (and row, channel, ...) concerned.
    fix : str, optional
        What the user can do about it.
    """

    exit_code = 1

    def __init__(
        self,
        problem: str,
        *,
        expected: str = "",
        found: str = "",
        where: str | Path = "",
        fix: str = "",
    ) -> None:
        self.problem = problem
        details = {"expected": expected, "found": found, "where": str(where), "to do": fix}
        lines = [f"  {name + ':':<10}{text}" for name, text in details.items() if text]
        super().__init__("\n".join([problem, *lines]))


class InvalidBIDSError(SpeechDecodeError):
    """The input folder is not a BIDS dataset (16)."""

    exit_code = 16


class UnknownLevelError(SpeechDecodeError):
    """The analysis level is neither participant nor group (17)."""

    exit_code = 17


class NothingSelectedError(SpeechDecodeError):
    """The filters leave nothing to work on (18)."""

    exit_code = 18


class UsageError(SpeechDecodeError):
    """The command line or the configuration cannot be understood (64)."""

    exit_code = 64


class DataError(SpeechDecodeError):
    """The data are there but cannot be used (65)."""

    exit_code = 65


class MissingInputError(SpeechDecodeError):
    """A file or model that is needed is absent (66)."""

    exit_code = 66


class CannotWriteError(SpeechDecodeError):
    """The output cannot be written (73)."""

    exit_code = 73


class InputOutputError(SpeechDecodeError):
    """Reading or writing failed midway (74)."""

    exit_code = 74


class TemporaryError(SpeechDecodeError):
    """A passing condition; the same command may succeed later (75)."""

    exit_code = 75


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """Return ``"did you mean 'x'?"`` for the closest candidate, or an empty string.

    Examples
    --------
    >>> did_you_mean("audiobok", ["ambient", "audiobook"])
    "did you mean 'audiobook'?"
    """
    close = difflib.get_close_matches(word, list(candidates), n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else ""


class ElsewhereError(TemporaryError):
    """Another process of the same run failed; that process says why."""
