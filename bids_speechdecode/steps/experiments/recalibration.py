"""A pretrained model, finetuned on the first minutes of a day that it has not seen."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from bids_speechdecode.bids.sidecars import read_sidecar
from bids_speechdecode.config import TrainingConfig
from bids_speechdecode.errors import DataError
from bids_speechdecode.steps.context import Context
from bids_speechdecode.steps.data import LoadedWindows, SignalStore, load_signal, load_windows
from bids_speechdecode.steps.experiments.subsets import day_begins
from bids_speechdecode.steps.experiments.times import recording_starts
from bids_speechdecode.steps.models import fit, model_signature, read_model, read_scaler
from bids_speechdecode.steps.plan import PRETRAIN, ParticipantPlan, Piece

RECALIBRATED = "recalibrated"
_SLACK = 1e-6  # minutes; binary floats, not signal
LEARN = 0.8  # of the windows; those that follow say when to stop
FEWEST = 20  # windows in those minutes
VERSION = 2
BATCHES = 4  # of an epoch, at least
UPDATES = 400  # of the weights, at least


def early_windows(
    plan: ParticipantPlan, day: int, span: tuple[float, float], duration: float
) -> ParticipantPlan:
    """Return the plan with the ambient windows of a stretch of a day alone, whatever their split.

    Parameters
    ----------
    plan : ParticipantPlan
    day : int
        Since the participant's first recording.
    span : (float, float)
        Minutes since the first ambient window of the day; windows lie in it as a whole.
    duration : float
        Of a window, in seconds.
    """
    starts, begin = recording_starts(plan), day_begins(plan, PRETRAIN)[day]

    def keep(piece: Piece) -> np.ndarray:
        start = starts[piece.recording]
        since = start.clock(piece.brain_starts) - begin
        inside = (since >= 60 * span[0]) & (since + duration <= 60 * span[1])
        return piece.usable & inside & (start.days(piece.brain_starts) == day)

    pieces = tuple(
        replace(p, split="train", usable=keep(p)) if p.role == PRETRAIN else p for p in plan.pieces
    )
    return replace(plan, pieces=pieces)


def early_starts(context: Context, day: int) -> np.ndarray:
    """Return when the windows that serve recalibration start, in minutes since the first, sorted.

    The validation is among them.
    """
    minutes, duration = context.config.drift.recalibrate, context.config.windows.duration
    plan = early_windows(context.plan, day, (0.0, minutes), duration)
    starts, begin = recording_starts(plan), day_begins(plan, PRETRAIN)[day]
    found = [
        starts[p.recording].clock(p.brain_starts[p.usable])
        for p in plan.select(PRETRAIN, plan.versions(PRETRAIN)[0])
    ]
    return (np.sort(np.concatenate(found)) - begin) / 60


def recalibration_signature(context: Context, day: int, parent: str | None) -> str:
    """Return what a recalibrated model depends on; `parent` is the signature of the pretrained."""
    begins = day_begins(context.plan, PRETRAIN)
    settings = {
        "condition": RECALIBRATED,
        "day": day,
        "begin": str(begins[day]),
        "minutes": context.config.drift.recalibrate,
        "training": asdict(context.config.finetune),
        "version": VERSION,
    }
    return model_signature(context, PRETRAIN, settings, (parent or "absent",))


def fit_recalibrated(context: Context, day: int, path: Path, key: str, parent: Path | None) -> None:
    """Finetune the encoder of `parent` on the first minutes of a day and keep it at `path`.

    The first four fifths of the windows are learnt from, the last fifth says when to stop; a model
    that only becomes worse there stays as it was. Targets stay scaled as they were in pretraining.

    Raises
    ------
    DataError
        Hardly any window in these minutes.
    """
    minutes, known = context.config.drift.recalibrate, early_starts(context, day)
    if parent is None or len(known) < FEWEST:
        raise DataError(
            f"day {day} has too few windows in its first {minutes:g} minutes to recalibrate",
            expected=f"at least {FEWEST}",
            found=str(len(known)),
            fix="give more minutes (recalibrate in [drift]), or 0 for none",
        )
    store, cut = load_signal(context, PRETRAIN), float(known[int(LEARN * len(known))])
    training, validation = (
        _load(context, store, day, span) for span in ((0.0, cut + _SLACK), (cut - _SLACK, minutes))
    )
    encoder = read_model(parent, context.device).encoder
    scaler = read_scaler(read_sidecar(parent))
    sets = training, validation
    settings = adapt_training(context.config.finetune, len(training))
    fit(context, path, encoder, sets, settings, key, scaler=scaler)


def adapt_training(settings: TrainingConfig, n_windows: int) -> TrainingConfig:
    """Return the settings of finetuning for a handful of windows.

    A batch that holds all of them makes one update an epoch, and an encoder that is stopped after a
    few dozen updates is still the one that it was. So there are at least four batches and 400
    updates, and no patience: a dozen validation windows go up and down by chance.

    Examples
    --------
    >>> adapted = adapt_training(TrainingConfig(batch_size=128, max_epochs=30), 64)
    >>> adapted.batch_size, adapted.max_epochs, adapted.patience
    (16, 100, 100)
    """
    batch = max(2, min(settings.batch_size, n_windows // BATCHES))
    epochs = max(settings.max_epochs, -(-UPDATES // max(1, n_windows // batch)))
    return replace(settings, batch_size=batch, max_epochs=epochs, patience=epochs)


def _load(
    context: Context, store: SignalStore, day: int, span: tuple[float, float]
) -> LoadedWindows:
    plan = early_windows(context.plan, day, span, context.config.windows.duration)
    return load_windows(replace(context, plan=plan), store, PRETRAIN, "train")
