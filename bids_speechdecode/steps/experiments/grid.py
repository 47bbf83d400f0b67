"""All cells of the experiments: what is done, what remains, and making it.

Several processes may work on one grid: each takes the cells that nobody else is making.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bids_speechdecode.bids.sidecars import read_sidecar
from bids_speechdecode.errors import SpeechDecodeError
from bids_speechdecode.progress import spell_time
from bids_speechdecode.steps.channels import selected_file
from bids_speechdecode.steps.context import Context
from bids_speechdecode.steps.experiments.cells import (
    BusyError,
    Cell,
    Training,
    band_of,
    claimed,
    has_signals,
    is_done,
    is_trained,
    make,
    model_of,
    vary,
)
from bids_speechdecode.steps.experiments.subsets import count_windows
from bids_speechdecode.steps.experiments.variants import in_band
from bids_speechdecode.steps.plan import PlannedRecording
from bids_speechdecode.steps.preprocess import is_preprocessed, preprocess_recording
from bids_speechdecode.steps.select import is_selected, select

log = logging.getLogger(__name__)

WAIT = 2.0  # seconds until a cell that another process makes is looked at again


def run_grid(context: Context, cells: Sequence[Cell]) -> dict[Cell, SpeechDecodeError]:
    """Make every cell that is not there, each in one process alone; return those that failed."""
    failed: dict[Cell, SpeechDecodeError] = {}
    todo = [cell for cell in dict.fromkeys(cells) if not is_done(context, cell)]
    label = f"sub-{context.participant}"
    if not todo:
        context.progress.skip("experiments", label, f"{len(cells)} cells, all current")
        return failed
    for band in dict.fromkeys(band_of(context, cell.training) for cell in todo):
        if band != context.config.preprocess.band:
            _prepare(in_band(context, band))
    with context.progress.task("experiments", label, len(todo)) as advance:
        while todo:
            left = [cell for cell in todo if not _made(context, cell, failed)]
            advance(len(todo) - len(left))
            if len(left) == len(todo):
                time.sleep(WAIT)
            todo = left
    return failed


def _prepare(context: Context) -> None:
    """Make signals and channels in the context's band, each in one process alone."""
    todo = [r for r in context.plan.recordings if not is_preprocessed(context, r)]
    while todo:
        left = [planned for planned in todo if not _preprocessed(context, planned)]
        if len(left) == len(todo):
            time.sleep(WAIT)
        todo = left
    while not is_selected(context):
        try:
            with claimed(context, selected_file(context)):
                select(context)
        except BusyError:
            time.sleep(WAIT)


def _preprocessed(context: Context, planned: PlannedRecording) -> bool:
    # One name for all bands, since "both" makes the signals of the others.
    try:
        with claimed(context, context.recording_file(planned, "preproc", "ieeg", ".eeg")):
            preprocess_recording(context, planned)
    except BusyError:
        return False
    return True


def _made(context: Context, cell: Cell, failed: dict[Cell, SpeechDecodeError]) -> bool:
    try:
        make(context, cell)
    except BusyError:
        return False
    except SpeechDecodeError as error:
        failed[cell] = error  # what does not need this cell goes on
    return True


@dataclass(frozen=True)
class Outlook:
    """What a grid will cost.

    Attributes
    ----------
    n_cells, n_done : int
    n_models : int
        Still to be trained.
    seconds : float
        Estimated from the models that were trained; NaN where none was yet.
    """

    n_cells: int
    n_done: int
    n_models: int
    seconds: float

    def __str__(self) -> str:
        left = f"{self.n_cells} cells, {self.n_done} done, {self.n_models} models to train"
        if not self.n_models:
            return left
        if np.isnan(self.seconds):
            return f"{left} (no model has been trained yet that would tell how long that takes)"
        return f"{left}, about {spell_time(self.seconds)} on a machine like the one so far"


def foresee_grid(context: Context, cells: Sequence[Cell]) -> Outlook:
    """Return what is done and what the rest will take."""
    unique = list(dict.fromkeys(cells))
    n_done = sum(is_done(context, cell) for cell in unique)
    models = dict.fromkeys(m for cell in unique for m in _ancestry(cell.training))
    rates: list[float] = []
    n_missing, n_windows = 0, 0
    for training in models:
        # Before its signal is there, nobody knows what a model's signature will be.
        if has_signals(context, training) and is_trained(context, training):
            told = read_sidecar(model_of(context, training)[0])
            rates.append(told["Seconds"] / told["TrainingWindows"])
        else:
            plan = vary(context, training).plan
            n_missing += 1
            n_windows += sum(count_windows(plan, role) for role in training.roles)
    seconds = float(np.median(rates)) * n_windows if rates else float("nan")
    return Outlook(len(unique), n_done, n_missing, seconds)


def _ancestry(training: Training) -> list[Training]:
    parents = _ancestry(training.parent) if training.parent else []
    return [*parents, training]
