"""What ends a run: an exit status and one message for every exception and signal."""

from __future__ import annotations

import errno
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import click

from bids_speechdecode.config import Request
from bids_speechdecode.errors import (
    CannotWriteError,
    InputOutputError,
    MissingInputError,
    SpeechDecodeError,
    UsageError,
)

INTERRUPTED, TERMINATED = 130, 143


class Terminated(KeyboardInterrupt):
    """A batch system or a person asked the process to stop."""


@contextmanager
def termination() -> Iterator[None]:
    """Let SIGTERM unwind the stack, so that temporary files are removed on the way out."""

    def stop(number: int, frame: object) -> NoReturn:
        raise Terminated

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread: whoever owns that decides
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def explain(error: BaseException, request: Request | None) -> tuple[int, str]:
    """Return the exit status and the message for an exception.

    Parameters
    ----------
    error : BaseException
        What ended the run.
    request : Request or None
        What was asked for, where that is known.
    """
    goes_on = "run the same command again to go on from where it stopped"
    match error:
        case SpeechDecodeError():
            return error.exit_code, f"error: {error}"
        case click.Abort() | KeyboardInterrupt():
            name = "terminated" if isinstance(error, Terminated) else "interrupted"
            return TERMINATED if name == "terminated" else INTERRUPTED, f"{name}; {goes_on}"
        case click.ClickException():
            text = error.format_message()
            return UsageError.exit_code, f"error: {text}\n  to do:    see bids_speechdecode --help"
        case OSError() if error.errno in _OS_ERRORS:
            return _explain_os_error(error, request)
        case MemoryError():
            fix = "batch_size in [pretrain] and [finetune] of the --config file can be smaller"
            return 1, f"error: there is not enough memory\n  to do:    {fix}"
    report = "this is a mistake of the program: please report it, with the command and the log"
    name = type(error).__name__
    return 1, f"unexpected error: {name}: {error}\n  {_where_is_the_log(request)}\n  {report}"


_OS_ERRORS: dict[int, tuple[type[SpeechDecodeError], str]] = {
    errno.ENOSPC: (InputOutputError, "the disk is full"),
    errno.EDQUOT: (InputOutputError, "the disk quota is used up"),
    errno.EIO: (InputOutputError, "reading or writing failed"),
    errno.EPIPE: (InputOutputError, "nobody reads the output any more"),
    errno.EACCES: (CannotWriteError, "no permission to write"),
    errno.EPERM: (CannotWriteError, "no permission to write"),
    errno.EROFS: (CannotWriteError, "the output is on a read-only file system"),
}


def _explain_os_error(error: OSError, request: Request | None) -> tuple[int, str]:
    kind, problem = _OS_ERRORS[error.errno or 0]
    where = str(error.filename or "")
    inside = request and where and Path(where).resolve().is_relative_to(request.bids_dir.resolve())
    if kind is CannotWriteError and inside:
        # No permission on an input is another matter than on the output.
        kind, problem = MissingInputError, "no permission to read"
    described = kind(problem, found=error.strerror or "", where=where)
    return kind.exit_code, f"error: {described}"


def _where_is_the_log(request: Request | None) -> str:
    """Return a sentence that names the newest log of the run."""
    logs = [] if request is None else list(request.output_dir.glob("sub-*/log/*/log.txt"))
    newest = max(logs, key=lambda path: path.stat().st_mtime, default=None)
    return f"the log is {newest}" if newest else "the same command with -vv shows where it arose"
