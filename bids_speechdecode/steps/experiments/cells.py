"""One cell of an experiment: a model, trained once whoever asks for it, and what it ranks.

A model is kept under its signature, so that two experiments that need the same one share it, and
the models of the participant's main run serve where they are the same.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bids_speechdecode.bids.files import write_array
from bids_speechdecode.bids.sidecars import read_sidecar, signature, write_sidecar
from bids_speechdecode.config import override
from bids_speechdecode.errors import InputOutputError
from bids_speechdecode.steps.context import EXPERIMENT_FILES, JOINT, PRETRAINED, Context
from bids_speechdecode.steps.data import load_signal, load_windows
from bids_speechdecode.steps.experiments.pairing import TRUE, pair
from bids_speechdecode.steps.experiments.ranking import rank_windows
from bids_speechdecode.steps.experiments.recalibration import (
    RECALIBRATED,
    fit_recalibrated,
    recalibration_signature,
)
from bids_speechdecode.steps.experiments.subsets import ALL, Subset, take
from bids_speechdecode.steps.experiments.variants import BAND, in_band, is_prepared
from bids_speechdecode.steps.experiments.views import VIEWS
from bids_speechdecode.steps.features import compute_features
from bids_speechdecode.steps.finetune import (
    condition_signature,
    fit_condition,
    load_joint,
    load_task,
)
from bids_speechdecode.steps.models import pair_signatures, read_model
from bids_speechdecode.steps.plan import FINETUNE, PRETRAIN
from bids_speechdecode.steps.pretrain import fit_pretraining, pretraining_signature
from bids_speechdecode.steps.words import keep_spoken

VERSION = 4


class BusyError(Exception):
    """Another process makes what is needed."""


@dataclass(frozen=True)
class Training:
    """A model by what it is trained on.

    Attributes
    ----------
    condition : str
        One of `steps.context`: pretrained, taskonly, linear, frozen, finetuned, joint or random; or
        recalibrated: the parent, finetuned on the first minutes of the one day of `data`.
    seed : int
        Of the start of the training, its draws, and the order in which shares are taken.
    data : Subset
        Which of the training windows of the condition's own role.
    validation : Subset
        Which of its validation windows.
    changes : tuple of (str, value)
        Settings that differ from those of the run, by ``"section.field"``.
    parent : Training, optional
        The encoder that frozen and finetuned begin with; none: the pooled one of the settings.
    pairing : str
        Whose targets the training and validation windows have (`pairing.pair`); a test has its own.
    """

    condition: str
    seed: int
    data: Subset = ALL
    validation: Subset = ALL
    changes: tuple[tuple[str, Any], ...] = ()
    parent: Training | None = None
    pairing: str = TRUE

    @property
    def role(self) -> str:
        """Whose windows it is trained on."""
        return PRETRAIN if self.condition in (PRETRAINED, RECALIBRATED) else FINETUNE

    @property
    def roles(self) -> tuple[str, ...]:
        """Whose windows it is trained on, all of them."""
        return (PRETRAIN, FINETUNE) if self.condition == JOINT else (self.role,)


@dataclass(frozen=True)
class Cell:
    """A model and the held-out windows that it ranks.

    Attributes
    ----------
    training : Training
    role, version : str
        Whose test windows, and of which version of the sound ("true" or "ambient").
    data : Subset
        Which of them.
    view : str
        Among which candidates: a name in `views.VIEWS`; "" is among all that are tested.
    """

    training: Training
    role: str
    version: str
    data: Subset = ALL
    view: str = ""


@dataclass(frozen=True)
class Scored:
    """What is known of a cell.

    Attributes
    ----------
    cell : Cell
    ranks, blocks : array, shape (n_windows,)
        What every held-out window adds to the mean relative rank: its own rank, and what it does to
        those of others as a candidate (`decoding.rivals`); NaN where a view leaves it out. And its
        contiguous block.
    row : mapping
        Training windows and scores, as `decoding.evaluation.Scores.row`.
    places : array of int, shape (n_windows,)
        Which of the plan's test windows they are: a gap in the signal costs each band its own.
    """

    cell: Cell
    ranks: np.ndarray
    blocks: np.ndarray
    row: Mapping[str, Any]
    places: np.ndarray


def vary(context: Context, training: Training) -> Context:
    """Return the participant with a model's settings, seed and share of the data.

    Splits were drawn before, with the seed of the run: they stay.
    """
    # Whatever the main run started from: a cell is about what it names.
    config = override(context.config, {"inputs.init_from": "", **dict(training.changes)})
    config = replace(config, run=replace(config.run, seed=training.seed))
    context = in_band(context, config.preprocess.band)
    plan = keep_spoken(context.plan, config)
    plan = take(plan, training.role, training.data, seed=training.seed)
    plan = take(plan, training.role, training.validation, split="val")
    return replace(context, config=config, plan=plan)


def model_of(context: Context, training: Training) -> tuple[Path, str]:
    """Return where a model is or will be kept, and its signature.

    Parameters
    ----------
    context : Context
        Of the run, not of the cell.
    """
    varied = vary(context, training)
    if training.condition == PRETRAINED:
        key = pretraining_signature(varied)
    else:
        parent = model_of(context, training.parent)[1] if training.parent else None
        if training.condition == RECALIBRATED:
            key = recalibration_signature(varied, training.data.days[0], parent)
        else:
            key = condition_signature(varied, training.condition, parent)
    if training.pairing != TRUE:
        block = context.config.evaluation.block
        key = signature("pairing", VERSION, {"pairing": training.pairing, "block": block}, [key])
    main = context.model_file(training.condition)
    if context.out.is_current(main, key):
        return main, key
    return context.experiment_file(f"{training.condition}{key[:12]}", "model", ".safetensors"), key


def score_of(context: Context, cell: Cell) -> tuple[Path, str]:
    """Return where the ranks of a cell are or will be kept, and their signature."""
    _, model = model_of(context, cell.training)
    varied = vary(context, cell.training)
    test = _tested(varied, cell).plan.select(cell.role, cell.version, "test")
    settings = {
        "test": [[p.recording, p.audio_starts.round(4).tolist(), p.usable.tolist()] for p in test],
        "view": cell.view and [cell.view, VIEWS[cell.view].settings(context, cell.role)],
        "evaluation": asdict(context.config.evaluation),
        "seed": context.config.run.seed,
        "target": asdict(varied.config.target),
    }
    key = signature("experiment", VERSION, settings, [model, *pair_signatures(varied, cell.role)])
    return context.experiment_file(f"{cell.training.condition}{key[:12]}", "scores", ".npy"), key


def _tested(context: Context, cell: Cell) -> Context:
    """Return the participant with the test windows of a cell alone."""
    return replace(context, plan=take(context.plan, cell.role, cell.data, split="test"))


def has_signals(context: Context, training: Training) -> bool:
    """Return whether the signal that a model reads is there; that of the run always is."""
    band = band_of(context, training)
    return band == context.config.preprocess.band or is_prepared(in_band(context, band))


def band_of(context: Context, training: Training) -> str:
    """Return which band of the signal a model reads."""
    return str(dict(training.changes).get(BAND, context.config.preprocess.band))


def is_trained(context: Context, training: Training) -> bool:
    """Return whether a model is on disk; its signal must be there."""
    return context.out.is_current(*model_of(context, training))


def is_done(context: Context, cell: Cell) -> bool:
    """Return whether a cell's ranks are on disk."""
    if not has_signals(context, cell.training):
        return False
    return context.out.is_current(*score_of(context, cell))


def make(context: Context, cell: Cell) -> None:
    """Train what a cell needs and is not there, and rank.

    Raises
    ------
    BusyError
        Another process makes this cell, or a model that it needs.
    InputOutputError
        The file system has no locks.
    """
    path, key = score_of(context, cell)
    with claimed(context, path):
        if not context.out.is_current(path, key):
            _score(context, cell, path, key)


def _score(context: Context, cell: Cell, path: Path, key: str) -> None:
    varied = vary(context, cell.training)
    if varied.config.target != context.config.target:
        for error in compute_features(varied).values():
            raise error
    model = _train(context, cell.training)
    tested = _tested(varied, cell)
    store = load_signal(tested, cell.role)
    test = load_windows(tested, store, cell.role, "test", cell.version)
    trained = read_model(model, context.device)
    seed = context.config.run.seed
    ranks, rivals, row = rank_windows(tested, trained, store, test, cell.role, cell.view, seed=seed)
    blocks = test.blocks(context.config)
    write_array(path, np.stack([ranks, blocks, _places(tested, cell, test.table), rivals]))
    write_sidecar(
        path,
        step="experiments",
        signature=key,
        Description="Relative rank, number of the block and of the window, and rivalry (what it "
        "does to the ranks of the others, 0 on average), of held-out windows",
        Scores=row,
        TrainingWindows=read_sidecar(model)["TrainingWindows"],
        Simulated=context.plan.simulated,
    )


def _places(context: Context, cell: Cell, table: pd.DataFrame) -> np.ndarray:
    """Return which of the plan's test windows, usable or not, those of a table are."""
    lag = context.config.windows.brain_lag
    windows = [
        (piece.recording, onset)
        for piece in context.plan.select(cell.role, cell.version, "test")
        for onset in (piece.brain_starts - lag).tolist()
    ]
    place = {window: number for number, window in enumerate(windows)}
    return np.array([place[w] for w in zip(table["recording"], table["onset"], strict=True)])


def _train(context: Context, training: Training) -> Path:
    """Return the file of a model, trained now if it is not there."""
    path, key = model_of(context, training)
    if context.out.is_current(path, key):
        return path
    with claimed(context, path):
        if context.out.is_current(path, key):
            return path
        varied = vary(context, training)
        paired = partial(pair, pairing=training.pairing, config=varied.config)
        if training.condition == PRETRAINED:
            fit_pretraining(varied, path, key, paired)
        else:
            parent = _train(context, training.parent) if training.parent else None
            if training.condition == RECALIBRATED:
                fit_recalibrated(varied, training.data.days[0], path, key, parent)
                return path
            load = load_joint if training.condition == JOINT else load_task
            train_set, validation = load(varied)
            sets = paired(train_set), paired(validation)
            fit_condition(varied, training.condition, path, key, parent, sets)
    return path


def read_scored(context: Context, cell: Cell) -> Scored:
    """Return a cell that is done."""
    path, _ = score_of(context, cell)
    ranks, blocks, places, rivals = np.load(path, allow_pickle=False)
    sidecar = read_sidecar(path)
    row = {"n_train_windows": sidecar["TrainingWindows"], **sidecar["Scores"]}
    return Scored(cell, ranks + rivals, blocks.astype(int), row, places.astype(int))


@contextmanager
def claimed(context: Context, path: Path) -> Iterator[None]:
    """Hold a file's name while it is made, or raise BusyError where another process holds it.

    The lock ends with the process, however that ends.
    """
    lock = context.work_dir / EXPERIMENT_FILES / f"{path.stem}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(path.name) from error
        except OSError as error:  # to wait for it would be to wait for ever
            raise InputOutputError(
                "a file cannot be locked",
                expected="a file system with working locks (flock)",
                found=error.strerror or "",
                where=lock,
                fix="name an output folder on another file system, or let its locks be enabled",
            ) from error
        yield
