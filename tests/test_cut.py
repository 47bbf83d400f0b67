"""Windows of different splits stay apart on the recording's clock."""

from __future__ import annotations

import numpy as np

from bids_speechdecode.config import Config
from bids_speechdecode.steps.cut import _keep_apart
from bids_speechdecode.steps.plan import FINETUNE, Piece
from bids_speechdecode.timeline import Interval


def make_piece(split: str, first: float, n_windows: int = 4, recording: str = "sub-01") -> Piece:
    starts = first + 3.0 * np.arange(n_windows)
    audio = Interval(0.0, 3.0 * n_windows)
    usable = np.ones(n_windows, dtype=bool)
    return Piece(recording, FINETUNE, 0, "true", split, 0, audio, starts - first, starts, usable)


def test_files_that_follow_closely_keep_the_guard() -> None:
    # Guards inside one file do not help where every sentence is a file of its own.
    pieces = [make_piece("train", 0.0), make_piece("test", 12.5), make_piece("train", 25.0)]
    before, test, after = _keep_apart(pieces, Config())
    assert test.usable.all()
    assert before.usable.tolist() == [True, True, True, False]  # 12 s is 0.5 s before 12.5 s
    assert after.usable.tolist() == [False, True, True, True]


def test_other_recordings_and_the_own_split_cost_nothing() -> None:
    # Time on another recording's clock is another time.
    pieces = [make_piece("train", 0.0), make_piece("test", 12.5, recording="sub-02")]
    pieces.append(make_piece("train", 12.0))
    assert all(piece.usable.all() for piece in _keep_apart(pieces, Config()))
