"""Which channels the models read: the table that step ``select`` writes, read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from bids_speechdecode.bids.sidecars import read_table
from bids_speechdecode.steps.context import PREPROCESSED, Context, require_step
from bids_speechdecode.steps.plan import PlannedRecording


def selected_file(context: Context) -> Path:
    """Return where the table of every channel, kept or dropped, lies."""
    if not context.variant:
        return context.summary_file("selected", "channels", ".tsv")
    return context.experiment_file(f"selected{context.variant.capitalize()}", "channels", ".tsv")


def model_channels(context: Context) -> tuple[str, ...]:
    """Return the channels that the models read, in their order."""
    return tuple(kept_channels(context)["name"])


def model_positions(context: Context) -> np.ndarray:
    """Return the positions of the channels that the models read, (n_channels, 3), mm or NaN."""
    return kept_channels(context)[["x", "y", "z"]].to_numpy(dtype=float)


def kept_channels(context: Context) -> pd.DataFrame:
    """Return the rows of the channels that the models read."""
    table = read_table(require_step(selected_file(context), "select"))
    kept = table["kept"].astype(str).str.lower() == "true"
    return table[kept].reset_index(drop=True)


def good_channels(context: Context, planned: PlannedRecording) -> list[str]:
    """Return the channels of a preprocessed recording that are neither flat nor NaN."""
    table = preprocessed_channels(context, planned)
    return table.loc[table["status"] == "good", "name"].tolist()


def preprocessed_channels(context: Context, planned: PlannedRecording) -> pd.DataFrame:
    """Return the table of the channels of a preprocessed recording, of all its bands."""
    files = [
        context.recording_file(planned, PREPROCESSED[band], "channels", ".tsv")
        for band in planned.montages
    ]
    return pd.concat([read_table(path) for path in files], ignore_index=True)
