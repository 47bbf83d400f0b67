"""Which channels respond to sound: loudness and signal of the task's training windows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from bids_speechdecode.decoding.responsive import (
    note_on_blocks,
    sound_envelope,
    sound_responses,
)
from bids_speechdecode.steps.context import Context
from bids_speechdecode.steps.data import LoadedWindows, load_signal, load_windows
from bids_speechdecode.steps.features import AUDIO_RATE, audio_reader
from bids_speechdecode.steps.plan import FINETUNE
from bids_speechdecode.timeline import sample_at

# A single channel among 200 must be able to pass a false discovery rate of 0.05.
N_PERMUTATIONS = 10_000


def listen(context: Context, channels: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """Return how each channel follows the loudness of sound in the task's training windows.

    Returns
    -------
    responses : DataFrame
        name, sound_r, sound_lag (s), sound_p, sound_q.
    notes : list of str
        What limits them, in words.
    """
    version = context.plan.versions(FINETUNE)[0]
    store = load_signal(context, FINETUNE, channels=channels)
    windows = load_windows(context, store, FINETUNE, "train", version)
    rate, lag = context.config.preprocess.rate, context.config.windows.brain_lag
    # From the onset of the sound: the lags are those of the response, whatever `brain_lag` is.
    starts = (windows.starts - sample_at(lag, rate)).clamp(min=0)
    blocks = windows.blocks(context.config)
    with context.progress.task("select", f"sub-{context.participant} responds to sound", 1) as done:
        found = sound_responses(
            windows.signal,
            starts,
            windows.n_samples,
            _envelopes(context, windows, version),
            blocks,
            np.random.default_rng([context.config.run.seed, 6]),
            n_permutations=N_PERMUTATIONS,
            rate=rate,
        )
        done(1)
    note = note_on_blocks(blocks, N_PERMUTATIONS)
    return found.assign(name=list(channels)), [note] if note else []


def _envelopes(context: Context, windows: LoadedWindows, version: str) -> np.ndarray:
    """Return the loudness over time of every window's sound, shape (n_windows, n_samples)."""
    rate = context.config.preprocess.rate
    envelope_of: dict[tuple[str, float], np.ndarray] = {}
    for piece in context.plan.select(FINETUNE, version, "train"):
        sound = audio_reader(context, [piece])(piece.audio.start, piece.audio.stop)
        envelope = sound_envelope(sound, AUDIO_RATE, rate)
        for start in piece.audio_starts:
            first = sample_at(float(start) - piece.audio.start, rate)
            part = envelope[first : first + windows.n_samples]
            # Rounding may leave the last window one sample short.
            missing = windows.n_samples - len(part)
            key = (piece.recording, round(float(start), 4))
            envelope_of[key] = np.pad(part, (0, missing), mode="edge")
    return np.stack([envelope_of[key] for key in _keys(windows.table)])


def _keys(table: pd.DataFrame) -> list[tuple[str, float]]:
    onsets = table["audio_onset"].round(4)
    return list(zip(table["recording"], onsets, strict=True))
