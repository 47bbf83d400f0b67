"""What a person sees while it works: bars on a terminal, plain lines elsewhere.

Everything goes through the package's logger, so a program that only imports the package stays
quiet, and the log file of a run has the same lines as the screen.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

LOGGER = logging.getLogger("bids_speechdecode")
EVERY = 30.0  # seconds between two plain lines of one task
SPEED_OVER = 3600.0  # seconds; over less, a task of long pieces would never tell what is left

Advance = Callable[[float], None]


class ConsoleHandler(logging.Handler):
    """Writes log lines to a stream, above the bars while there are any."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self.stream = stream
        self.bars: Bars | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        try:
            line = self.format(record)
            if self.bars is None:
                print(line, file=self.stream, flush=True)
            else:
                self.bars.console.print(line, markup=False, highlight=False, soft_wrap=True)
        except Exception:
            self.handleError(record)

    @contextmanager
    def shown_bars(self) -> Iterator[Bars]:
        """Give the bars of the screen; they disappear when the outermost task ends."""
        if self.bars is not None:
            yield self.bars
            return
        self.bars = _make_bars(self.stream)
        try:
            with self.bars:
                yield self.bars
        finally:
            self.bars = None


class _Plain(logging.Formatter):
    """A message as a person would say it; the level only where it matters."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return text if record.levelno <= logging.INFO else f"{record.levelname.title()}: {text}"


@contextmanager
def shown(level: int = logging.INFO, stream: TextIO | None = None) -> Iterator[ConsoleHandler]:
    """Show the package's log lines of `level` and above (and bars, on a terminal) meanwhile."""
    handler = ConsoleHandler(stream if stream is not None else sys.stderr)
    handler.setFormatter(_Plain())
    handler.setLevel(level)
    before = LOGGER.level, LOGGER.propagate
    LOGGER.addHandler(handler)
    # A run's log file keeps what is told by default, whatever the screen shows.
    LOGGER.setLevel(min(level, logging.INFO))
    LOGGER.propagate = False
    try:
        yield handler
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(before[0])
        LOGGER.propagate = before[1]


class Progress:
    """How far the steps are.

    Examples
    --------
    >>> with Progress().task("preprocess", "sub-01_task-ambient", total=60.0) as advance:
    ...     advance(30.0)
    ...     advance(30.0)
    """

    @contextmanager
    def task(self, step: str, label: str, total: float) -> Iterator[Advance]:
        """Show one piece of work while it is done.

        Parameters
        ----------
        step, label : str
            What is done, and to what.
        total : float
            How much there is to do, in any unit (seconds of a recording, epochs, ...).

        Yields
        ------
        advance : callable
            ``advance(amount)`` tells that so much more is done, in the unit of `total`.
        """
        start = time.monotonic()
        handler = _terminal()
        if handler is None:
            yield _lines(step, label, total)
        else:
            with handler.shown_bars() as bars:
                bar = bars.add_task(f"{step} {label}", total=total or None)
                try:
                    yield lambda amount: bars.advance(bar, amount)
                finally:
                    bars.remove_task(bar)
        LOGGER.info("%s: %s done in %s", step, label, spell_time(time.monotonic() - start))

    def skip(self, step: str, label: str, why: str) -> None:
        """Tell that a piece of work was not needed."""
        LOGGER.info("%s: %s skipped (%s)", step, label, why)


def spell_time(seconds: float) -> str:
    """Return a duration as a person would say it.

    Examples
    --------
    >>> spell_time(3.21), spell_time(75), spell_time(3 * 3600 + 61)
    ('3.2 s', '1 min 15 s', '3 h 1 min')
    """
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _terminal() -> ConsoleHandler | None:
    """Return the handler of the screen, if a person watches one."""
    for handler in LOGGER.handlers:
        if (
            isinstance(handler, ConsoleHandler)
            and handler.level <= logging.INFO
            and handler.stream.isatty()
        ):
            return handler
    return None


def _lines(step: str, label: str, total: float) -> Advance:
    """Return an `advance` that logs a line now and then, with the time that is left."""
    done, last = 0.0, time.monotonic()
    start: tuple[float, float] | None = None  # after the first piece: it may have been resumed

    def advance(amount: float) -> None:
        nonlocal done, last, start
        done += amount
        now = time.monotonic()
        start = start or (now, done)
        if now - last >= EVERY:
            last = now
            share = 100 * min(done / total, 1) if total else 0
            left = ""
            if done > start[1]:
                seconds = (now - start[0]) / (done - start[1]) * max(0.0, total - done)
                left = f", about {spell_time(seconds)} left"
            LOGGER.info("%s: %s %.0f%%%s", step, label, share, left)

    return advance


def _make_bars(stream: TextIO) -> Bars:
    # Imported here: --help and runs without a terminal do without.
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        speed_estimate_period=SPEED_OVER,
        console=Console(file=stream),
        transient=True,
    )
