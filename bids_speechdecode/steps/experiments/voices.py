"""Which speaker is heard most in each test window, where tables say who speaks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from bids_speechdecode.bids.sidecars import fingerprint
from bids_speechdecode.bids.speakers import event_speakers, sound_speakers
from bids_speechdecode.bids.words import find_words
from bids_speechdecode.decoding.strata import LEFT_OUT
from bids_speechdecode.steps.context import Context
from bids_speechdecode.steps.data import LoadedWindows


def window_speakers(context: Context, windows: LoadedWindows, role: str) -> np.ndarray | None:
    """Return a number for the speaker of each window, negative without one; None if none is named.

    events.tsv comes first; where it names no speaker in a recording, the tables of words beside
    the sounds do.
    """
    duration = context.config.windows.duration
    sounds = _sound_files(context, role)
    names = np.full(len(windows), "", dtype=object)
    for source, rows in windows.table.groupby(["recording", "stimulus"]):
        recording, stimulus = (str(part) for part in source)
        events = event_speakers(context.plan[recording].recording.events_path)
        path = sounds.get((recording, stimulus))
        if events is not None:
            names[rows.index] = most_heard(rows["onset"].to_numpy(float), duration, events)
        elif path is not None and (spans := sound_speakers(path)) is not None:
            names[rows.index] = most_heard(rows["audio_onset"].to_numpy(float), duration, spans)
    if not any(names):
        return None
    known = sorted({name for name in names if name})
    return np.array([known.index(name) if name else LEFT_OUT for name in names])


def most_heard(starts: np.ndarray, duration: float, spans: pd.DataFrame) -> list[str]:
    """Return who speaks longest in each window; "" where nobody does.

    Parameters
    ----------
    starts : array, shape (n_windows,), seconds
    duration : float
        Of each window, seconds.
    spans : DataFrame
        Columns onset, offset (on the same clock) and speaker.
    """
    named = []
    for start in starts:
        shared = np.minimum(spans["offset"], start + duration) - np.maximum(spans["onset"], start)
        heard = shared.clip(lower=0).groupby(spans["speaker"]).sum()
        named.append(str(heard.idxmax()) if len(heard) and heard.max() > 0 else "")
    return named


def speaker_tables(context: Context, role: str) -> list[str]:
    """Return the fingerprints of the tables that may name speakers."""
    return [fingerprint(path) for path in sorted(set(_tables(context, role)))]


def _tables(context: Context, role: str) -> Iterator[Path]:
    for recording in context.plan.recordings:
        if recording.role == role and recording.recording.events_path is not None:
            yield recording.recording.events_path
    for path in _sound_files(context, role).values():
        if (table := find_words(path)) is not None:
            yield table


def _sound_files(context: Context, role: str) -> dict[tuple[str, str], Path]:
    """Return the sound files of the test windows by recording and name."""
    pieces = context.plan.select(role, split="test")
    paths = [(p.recording, context.plan.segment(p).source.path) for p in pieces]
    return {(recording, path.name): path for recording, path in paths if path is not None}
