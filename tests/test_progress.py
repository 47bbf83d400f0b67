"""What a person sees while it works."""

from __future__ import annotations

import io
import logging
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from bids_speechdecode import progress
from bids_speechdecode.progress import LOGGER, Progress, shown, spell_time


class Terminal(io.StringIO):
    """A stream that says that a person watches it."""

    def isatty(self) -> bool:
        return True


def work(steps: int = 4) -> None:
    with Progress().task("preprocess", "sub-01_task-x [1]", steps) as advance:
        for _ in range(steps):
            advance(1.0)


def test_a_library_stays_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever imports the package, and every test, did not ask for lines on the screen."""
    work()
    assert capsys.readouterr() == ("", "")


def test_files_get_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch job's log must be readable: no carriage returns, no escape codes."""
    monkeypatch.setattr(progress, "EVERY", 0.0)
    stream = io.StringIO()
    with shown(stream=stream):
        work()
        Progress().skip("features", "a.wav", "current")
    lines = stream.getvalue().splitlines()
    assert lines[0].endswith(" 25%"), "nothing to tell the speed from"
    for line, share in zip(lines[1:4], ("50", "75", "100"), strict=True):
        assert re.search(rf" {share}%, about 0\.0 s left$", line)
    assert lines[4].startswith("preprocess: sub-01_task-x [1] done in ")
    assert lines[5] == "features: a.wav skipped (current)"
    assert "\x1b" not in stream.getvalue()
    assert "\r" not in stream.getvalue()


@pytest.mark.parametrize("resumed", [0, 40])
def test_the_time_left_is_told(monkeypatch: pytest.MonkeyPatch, resumed: int) -> None:
    """Tuning takes hours; what an earlier run did would make the rest look shorter than it is."""
    clock = iter(np.arange(0.0, 100.0, 10.0))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    stream = io.StringIO()
    with shown(stream=stream), Progress().task("tune", "joint", 100) as advance:
        for amount in (1 + resumed, 1, 1, 1):
            advance(amount)
    # One piece in 10 s; a line every 30 s.
    seconds = 10 * (100 - resumed - 3)
    minutes = f"{seconds // 60} min {seconds % 60} s"
    assert f"tune: joint {3 + resumed}%, about {minutes} left" in stream.getvalue()


def test_slow_pieces_have_a_time_left_on_a_terminal() -> None:
    """Rich forgets pieces older than 30 s by default, and a story takes longer than that."""
    stream = Terminal()
    with shown(stream=stream), Progress().task("tune", "joint", 4) as advance:
        (handler,) = (h for h in LOGGER.handlers if isinstance(h, progress.ConsoleHandler))
        assert handler.bars is not None
        now = iter(np.arange(0.0, 4000.0, 100.0))
        handler.bars.get_time = lambda: next(now)
        for _ in range(3):
            advance(1)
        (task,) = handler.bars.tasks
        assert task.time_remaining is not None


def test_lines_do_not_flood(monkeypatch: pytest.MonkeyPatch) -> None:
    """A week-long recording advances a hundred thousand times; the log gets a line now and then."""
    stream = io.StringIO()
    with shown(stream=stream):
        work(10_000)
    assert len(stream.getvalue().splitlines()) == 1


def test_terminals_get_bars_and_lines() -> None:
    """Warnings stay readable above the bars, brackets in labels included."""
    stream = Terminal()
    with shown(stream=stream), Progress().task("pretrain", "sub-01", 2) as advance:
        advance(1)
        LOGGER.warning("channel [red]LA1[/red] is flat")
        work()
        advance(1)
    text = stream.getvalue()
    assert "Warning: channel [red]LA1[/red] is flat" in text
    assert "pretrain: sub-01 done in" in text


def test_a_task_that_fails_is_not_done() -> None:
    """A line that says "done" about what failed would contradict the exit status."""
    stream = Terminal()
    with shown(stream=stream):
        with (
            pytest.raises(ValueError, match="broken"),
            Progress().task("preprocess", "sub-01", 1),
        ):
            raise ValueError("broken")
        assert "done" not in stream.getvalue()
        work()
    assert "done" in stream.getvalue(), "bars work again after a failure"


def test_threads_share_the_screen() -> None:
    """Recordings may be read in parallel; none may be shown as quiet because of its thread."""
    stream = Terminal()
    with shown(stream=stream), ThreadPoolExecutor(4) as pool:
        for _ in range(12):
            pool.submit(work).result(timeout=30)
        assert list(pool.map(lambda _: work(), range(12))) == [None] * 12
    assert stream.getvalue().count("done in") == 24


def test_levels_and_restoring() -> None:
    """Other processes of one training show errors only; afterwards all is as before."""
    before = list(LOGGER.handlers), LOGGER.level, LOGGER.propagate
    stream = io.StringIO()
    with shown(logging.ERROR, stream):
        work()
        LOGGER.warning("no")
        LOGGER.error("yes")
    assert stream.getvalue() == "Error: yes\n"
    assert (list(LOGGER.handlers), LOGGER.level, LOGGER.propagate) == before


def test_times_are_spelt() -> None:
    """Seconds with a digit where they are few, none where they are not."""
    assert [spell_time(s) for s in (0.04, 59.96, 119.6, 3600 * 30)] == [
        "0.0 s",
        "1 min 0 s",
        "2 min 0 s",
        "30 h 0 min",
    ]
