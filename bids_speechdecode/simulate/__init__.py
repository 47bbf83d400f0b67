"""A small iEEG-BIDS dataset with known truth: speech, rooms and brains, all simulated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bids_speechdecode.simulate.settings import (
    PAIR_PRESETS,
    PRESETS,
    PairSettings,
    SimulationSettings,
    make_pair_settings,
    make_settings,
)

__all__ = [
    "PAIR_PRESETS",
    "PRESETS",
    "PairSettings",
    "SimulationSettings",
    "make_pair_settings",
    "make_settings",
    "simulate_dataset",
]


def simulate_dataset(
    out: str | Path, *, preset: str = "demo", seed: int = 0, **overrides: Any
) -> Path:
    """Write a simulated BIDS dataset and return its folder.

    Parameters
    ----------
    out : path
        Folder to make; it must not exist yet, or be empty.
    preset : {"demo", "tiny", "encoding", "encoding-tiny"}
        Sizes to start from; the last two are a pair of iEEG and fMRI.
    seed : int
        The same seed gives the same bytes.
    **overrides
        Fields of `SimulationSettings`, or of `PairSettings` for a pair, to set otherwise, e.g.
        ``sampling_rate=256``.

    Raises
    ------
    UsageError
        The preset or a setting is unknown or out of range.
    MissingInputError
        The speech synthesiser is not installed.
    CannotWriteError
        The folder holds something already or cannot be written.
    """
    # Imported late so that the settings (and --help) do not wait for scipy, soundfile and torch.
    if preset in PAIR_PRESETS:
        pair = make_pair_settings(preset, seed=seed, **overrides)
        from bids_speechdecode.simulate.pair import write_pair

        return write_pair(Path(out), pair)
    settings = make_settings(preset, seed=seed, **overrides)
    from bids_speechdecode.simulate.dataset import write_dataset

    return write_dataset(Path(out), settings)
