"""Training windows with the sound of other windows: what a model learns where there is nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from bids_speechdecode.config import Config
from bids_speechdecode.errors import DataError
from bids_speechdecode.steps.data import LoadedWindows

TRUE, SHUFFLED, SHIFTED = "true", "shuffled", "shifted"


def pair(loaded: LoadedWindows, pairing: str, config: Config) -> LoadedWindows:
    """Return the windows of one split, each with the target that a pairing gives it.

    ======== ==================================================================================
    true     its own
    shuffled that of a random other window; no window keeps its own
    shifted  that of the window half a recording later, circularly, so that both sides keep their
             course in time; recordings of less than two blocks go together with the next one
    ======== ==================================================================================

    Parameters
    ----------
    loaded : LoadedWindows
        Of training or of validation; the windows of a test stay as they are.
    pairing : str
    config : Config
        Seed of the random order, and the length of a block.

    Raises
    ------
    DataError
        There is no other window.
    """
    if pairing == TRUE:
        return loaded
    if len(loaded) < 2:
        raise DataError(
            "A control needs the sound of another window.",
            expected="at least 2 training and 2 validation windows",
            found=str(len(loaded)),
        )
    if pairing == SHUFFLED:
        source = shuffle(len(loaded), np.random.default_rng([config.run.seed, 8]))
    else:
        step = min(config.windows.stride, config.windows.duration)
        n_block = math.ceil(config.evaluation.block / step)
        recordings, onsets = loaded.table["recording"], loaded.table["onset"]
        source = shift(recordings.to_numpy(), onsets.to_numpy(float), 2 * n_block)
    return replace(loaded, targets=loaded.targets[source])


def shuffle(n: int, rng: np.random.Generator) -> np.ndarray:
    """Return whose target each of `n` windows gets: that of the next one in a random circle.

    A random permutation would leave one window, in the mean, with its own.
    """
    circle = rng.permutation(n)
    source = np.empty(n, dtype=int)
    source[circle] = np.roll(circle, -1)
    return source


def shift(recordings: np.ndarray, onsets: np.ndarray, fewest: int) -> np.ndarray:
    """Return whose target each window gets: that of the one half of its recording later.

    Parameters
    ----------
    recordings : array of str, shape (N,)
    onsets : array, shape (N,), seconds
        On the clock of the recording.
    fewest : int
        Recordings with fewer windows are taken together with the next one.

    Returns
    -------
    source : array of int, shape (N,)
    """
    source = np.arange(len(onsets))
    for members in _together(_in_time(recordings, onsets), fewest):
        source[members] = np.roll(members, -(len(members) // 2))
    return source


def _in_time(recordings: np.ndarray, onsets: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the windows of each recording in the order of time."""
    for recording in dict.fromkeys(recordings):
        own = np.flatnonzero(recordings == recording)
        yield own[np.argsort(onsets[own], kind="stable")]


def _together(groups: Iterator[np.ndarray], fewest: int) -> Sequence[np.ndarray]:
    """Return the groups, those that are too small joined with the next one, or the last ones."""
    joined: list[np.ndarray] = []
    for group in groups:
        if joined and len(joined[-1]) < fewest:
            joined[-1] = np.concatenate([joined[-1], group])
        else:
            joined.append(group)
    if len(joined) > 1 and len(joined[-1]) < fewest:
        last = joined.pop()
        joined[-1] = np.concatenate([joined[-1], last])
    return joined
