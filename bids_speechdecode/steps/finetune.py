"""Step ``finetune``: every condition that learns from the task, on the same training windows.

``backward``, ``linear`` and ``taskonly`` never see the ambient recordings; ``frozen`` and
``finetuned`` start from the pretrained encoder. Without ambient recordings ``finetuned`` starts
from a pooled checkpoint, if there is one. ``taskonly``, ``frozen`` and ``finetuned``
have the same linear head and the same budget. With spatial attention, ``projection`` is
``taskonly`` without it: what the attention brings is the difference.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from safetensors.torch import load_file, save_file

from bids_speechdecode.bids.files import atomic_write
from bids_speechdecode.bids.sidecars import read_sidecar, write_sidecar
from bids_speechdecode.decoding.backward import BackwardModel, fit_backward
from bids_speechdecode.decoding.distributed import on_main
from bids_speechdecode.decoding.encoder import Encoder, WithHead
from bids_speechdecode.decoding.windows import TargetScaler
from bids_speechdecode.steps.channels import model_channels
from bids_speechdecode.steps.context import (
    BACKWARD,
    FINETUNED,
    FROZEN,
    JOINT,
    LINEAR,
    PRETRAINED,
    PROJECTION,
    RANDOM,
    TASK_ONLY,
    Context,
    other_settings,
    require_step,
    signature_of,
)
from bids_speechdecode.steps.data import LoadedWindows, load_signal, load_windows
from bids_speechdecode.steps.models import (
    fit,
    is_current,
    model_signature,
    read_model,
    read_scaler,
)
from bids_speechdecode.steps.plan import FINETUNE, PRETRAIN
from bids_speechdecode.steps.pretrain import (
    encoder_settings,
    new_encoder,
    pretraining_signature,
)
from bids_speechdecode.steps.start import Start, find_start


def trained_conditions(context: Context) -> tuple[str, ...]:
    """Return the conditions that learn from the task, in the order of the report."""
    pretrained: tuple[str, ...] = (FINETUNED,) if context.config.inputs.init_from else ()
    if context.plan.select(PRETRAIN):
        pretrained = FROZEN, FINETUNED
    by_place = context.config.encoder.spatial == "attention"
    return (BACKWARD, LINEAR, *((PROJECTION,) if by_place else ()), TASK_ONLY, *pretrained)


def finetune(context: Context) -> None:
    """Train every condition that is not current."""
    keys = {name: _signature(context, name) for name in trained_conditions(context)}
    files = {name: context.model_file(name) for name in keys}
    todo = [name for name, key in keys.items() if not is_current(context, files[name], key)]
    if not todo:
        return
    sets = load_task(context)
    for name in todo:
        if name == BACKWARD:
            on_main(partial(_fit_backward, context, *sets, keys[name]))
            continue
        parent = context.model_file(PRETRAINED) if context.plan.select(PRETRAIN) else None
        fit_condition(context, name, files[name], keys[name], parent, sets)


def load_task(context: Context) -> tuple[LoadedWindows, LoadedWindows]:
    """Return the task's training and validation windows."""
    store = load_signal(context, FINETUNE)
    version = context.plan.versions(FINETUNE)[0]
    training, validation = (
        load_windows(context, store, FINETUNE, split, version) for split in ("train", "val")
    )
    return training, validation


def load_joint(context: Context) -> tuple[LoadedWindows, LoadedWindows]:
    """Return the training windows of both tasks, and the finetuning task's validation windows.

    What is tested is the finetuning task; so it alone says when to stop, as for the models that
    the joint one is compared with.
    """
    store = load_signal(context, PRETRAIN, FINETUNE)
    version = context.plan.versions(FINETUNE)[0]
    ambient = load_windows(context, store, PRETRAIN, "train")
    training, validation = (
        load_windows(context, store, FINETUNE, split, version) for split in ("train", "val")
    )
    return ambient.join(training), validation


def fit_condition(
    context: Context,
    name: str,
    path: Path,
    key: str,
    parent: Path | None,
    sets: tuple[LoadedWindows, LoadedWindows],
) -> None:
    """Train one condition and keep it at `path`.

    `parent` is the pretrained encoder; without it, frozen and finetuned start from the pooled
    checkpoint of the settings.

    The condition ``random`` is kept as it is before any training: a parent of ``frozen``.
    """
    pooled = parent is None and name in (FROZEN, FINETUNED)
    start = _require_start(context) if pooled else None
    if name == JOINT:  # its training is the participant's first, as pretraining otherwise is
        start = find_start(context)
    encoder = _new_model(context, name, sets[0], parent or start)
    frozen = ("encoder",) if name == FROZEN else ()
    settings = context.config.finetune
    if name == RANDOM:
        settings = replace(settings, max_epochs=0)
    fit(context, path, encoder, sets, settings, key, frozen, start)


def require_trained(context: Context) -> None:
    """Raise unless every model was trained with the settings of this run.

    Raises
    ------
    MissingInputError
        A model is missing or belongs to other settings.
    """
    if context.plan.select(PRETRAIN):
        path = require_step(context.model_file(PRETRAINED), "pretrain")
        if not context.out.is_current(path, pretraining_signature(context)):
            raise other_settings(path, "pretrain")
    for name in trained_conditions(context):
        path = require_step(context.model_file(name), "finetune")
        if not context.out.is_current(path, _signature(context, name)):
            raise other_settings(path, "finetune")


def _signature(context: Context, name: str) -> str:
    if name == BACKWARD:
        folds = context.config.evaluation.block  # the penalty is chosen across these blocks
        return model_signature(context, FINETUNE, {"condition": name, "folds": folds})
    if not context.plan.select(PRETRAIN):
        return condition_signature(context, name, None)
    path = context.model_file(PRETRAINED)
    return condition_signature(context, name, signature_of(path) if path.exists() else "absent")


def condition_signature(context: Context, name: str, parent: str | None) -> str:
    """Return what a condition depends on; `parent` is the signature of the pretrained encoder.

    Without it, frozen and finetuned start from the pooled checkpoint of the settings.
    """
    parents: tuple[str, ...] = ()
    if name in (FROZEN, FINETUNED):
        parents = (_require_start(context).signature if parent is None else parent,)
    if name == JOINT:
        start = find_start(context)
        windows = model_signature(context, PRETRAIN, {"condition": name})
        parents = (windows, start.signature) if start else (windows,)
    settings = {
        "condition": name,
        **encoder_settings(context),
        "training": asdict(context.config.finetune),
    }
    return model_signature(context, FINETUNE, settings, parents)


def _require_start(context: Context) -> Start:
    """Return the pooled checkpoint of the settings."""
    start = find_start(context)
    assert start, "neither a pretrained encoder nor --init-from"
    return start


def _new_model(
    context: Context, name: str, training: LoadedWindows, parent: Path | Start | None
) -> Encoder:
    """Return what a condition starts from."""
    if name == LINEAR:
        return new_encoder(context, training, "linear")
    if name == RANDOM:
        return new_encoder(context, training)
    if name in (TASK_ONLY, PROJECTION) or (name == JOINT and parent is None):
        return new_encoder(context, training, head=True, spatial=name != PROJECTION)
    if isinstance(parent, Start):
        encoder = new_encoder(context, training)
        parent.give_to(encoder)
        return WithHead(encoder, training.targets.shape[-1])
    assert parent
    pretrained = read_model(require_step(parent, "pretrain"), context.device)
    return WithHead(pretrained.encoder, training.targets.shape[-1])


def _fit_backward(
    context: Context, training: LoadedWindows, validation: LoadedWindows, key: str
) -> None:
    """Fit the closed-form ridge on training and validation windows: it needs no early stopping."""
    scaler = TargetScaler.fit(training.targets)
    both = training.join(validation)
    rate = context.config.preprocess.rate
    model = fit_backward(both.scaled(scaler), both.blocks(context.config), rate=rate)
    path = context.model_file(BACKWARD)
    with atomic_write(path) as temporary:
        weights, intercept = model.weights.contiguous(), model.intercept.contiguous()
        save_file({"weights": weights, "intercept": intercept}, temporary)
    write_sidecar(
        path,
        step="train",
        signature=key,
        Description="Backward model: time-lagged ridge from brain to target",
        Channels=model_channels(context),
        Alpha=model.alpha,
        Alphas=model.alphas,
        Errors=model.errors,
        NFrames=model.n_frames,
        Rate=model.rate,
        TargetMean=scaler.mean,
        TargetScale=scaler.scale,
        TrainingWindows=len(both),
        Simulated=context.plan.simulated,
    )


def load_backward(context: Context) -> tuple[BackwardModel, TargetScaler, int]:
    """Load the backward model, the scaling of its targets and the count of training windows."""
    path = require_step(context.model_file(BACKWARD), "finetune")
    sidecar = read_sidecar(path)
    model = BackwardModel(
        **load_file(path),
        alpha=sidecar["Alpha"],
        alphas=tuple(sidecar["Alphas"]),
        errors=tuple(sidecar["Errors"]),
        n_frames=sidecar["NFrames"],
        rate=sidecar["Rate"],
    )
    return model, read_scaler(sidecar), int(sidecar["TrainingWindows"])
