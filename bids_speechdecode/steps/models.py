"""Trained models as derivatives: fit, keep, load, apply."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bids_speechdecode.bids.files import atomic_write, write_tsv
from bids_speechdecode.bids.sidecars import read_sidecar, signature, write_sidecar
from bids_speechdecode.config import TrainingConfig
from bids_speechdecode.decoding.distributed import is_main_process, on_main
from bids_speechdecode.decoding.encoder import Encoder, load_encoder, save_encoder
from bids_speechdecode.decoding.training import embed_windows, train
from bids_speechdecode.decoding.windows import TargetScaler
from bids_speechdecode.steps.channels import model_channels
from bids_speechdecode.steps.context import (
    PRETRAINED,
    WORK,
    Context,
    plan_fingerprint,
    require_step,
    signature_of,
)
from bids_speechdecode.steps.data import LoadedWindows
from bids_speechdecode.steps.drift import drift_settings, make_adversary
from bids_speechdecode.steps.features import feature_file, group_by_audio
from bids_speechdecode.steps.start import Start

VERSION = 1
EMBED_BATCH = 512


@dataclass(frozen=True)
class TrainedModel:
    """An encoder, the scaling of its targets, and the channels that it reads."""

    encoder: Encoder
    scaler: TargetScaler
    channels: tuple[str, ...]
    n_train_windows: int

    def embed(self, loaded: LoadedWindows) -> tuple[np.ndarray, np.ndarray]:
        """Return brain and audio embeddings of windows, shapes (N, d) or (N, F, d)."""
        windows = loaded.scaled(self.scaler)
        return embed_windows(self.encoder, windows, EMBED_BATCH), windows.targets.cpu().numpy()


def model_signature(
    context: Context, role: str, settings: dict[str, Any], parents: tuple[str, ...] = ()
) -> str:
    """Return the signature of what is trained on a role's training and validation windows."""
    return signature(
        "train",
        VERSION,
        {
            **settings,
            **drift_settings(context),
            **plan_fingerprint(context, role),
            "channels": model_channels(context),
            "seed": context.config.run.seed,
            "precision": context.config.run.precision,
        },
        [*pair_signatures(context, role), *parents],
    )


def pair_signatures(context: Context, role: str) -> list[str]:
    """Return the signatures of the signals and of the targets of a role."""
    recordings = [r for r in context.plan.recordings if r.role == role]
    signals = [signature_of(p) for r in recordings for p in context.preprocessed(r).values()]
    groups = group_by_audio(context).values()
    targets = [feature_file(context, g)[1] for g in groups if any(p.role == role for p in g)]
    return [*signals, *targets]


def is_current(context: Context, path: Path, key: str) -> bool:
    """Return, alike in every process, whether a model needs no training."""
    current = on_main(lambda: context.out.is_current(path, key))
    if current and is_main_process():
        context.progress.skip("train", _name(path), "current")
    return current


def _name(path: Path) -> str:
    """Return what a model is called: the description in its file's name."""
    return path.name.partition("_desc-")[2].partition("_")[0]


def fit(
    context: Context,
    path: Path,
    encoder: Encoder,
    sets: tuple[LoadedWindows, LoadedWindows],
    settings: TrainingConfig,
    key: str,
    frozen: Sequence[str] = (),
    start: Start | None = None,
    scaler: TargetScaler | None = None,
) -> None:
    """Train `encoder` on (training, validation) windows and keep it at `path` with its history.

    `start` is the pooled checkpoint that its weights came from; `scaler` that of its targets where
    they are not scaled by the training windows.

    The checkpoint carries the signature in its name: an interrupted training goes on, and one
    with other settings starts anew.
    """
    training, validation = sets
    scaler = scaler or TargetScaler.fit(training.targets)
    name = _name(path)
    checkpoint = context.work_dir / f"sub-{context.participant}" / f"{name}-{key[:16]}.checkpoint"
    label, began = f"sub-{context.participant} {name}", time.monotonic()
    with context.progress.task("train", label, settings.max_epochs) as advance:
        history = train(
            encoder,
            training.scaled(scaler),
            validation.scaled(scaler),
            settings,
            seed=context.config.run.seed,
            device=context.device,
            precision=context.config.run.precision,
            checkpoint=checkpoint,
            resume=True,
            frozen=frozen,
            adversary=make_adversary(context, training.table, training.targets.shape[-1]),
            on_epoch=lambda _: advance(1),
        )

    def finish() -> None:
        course = history.to_frame()
        about = start.describe() if start else {}
        _keep(context, path, encoder, scaler, course, settings, len(training), key, began, about)
        forget_checkpoint(checkpoint)

    on_main(finish)


def forget_checkpoint(checkpoint: Path) -> None:
    """Remove the checkpoint of a training that is done, and its folder if it was the last."""
    for path in checkpoint.parent.glob(f"*{checkpoint.name}*"):
        path.unlink()
    with contextlib.suppress(OSError):  # not empty: another command trains there
        checkpoint.parent.rmdir()
        if checkpoint.parent.parent.name == WORK:  # ours, where the user named no folder
            checkpoint.parent.parent.rmdir()


def _keep(
    context: Context,
    path: Path,
    encoder: Encoder,
    scaler: TargetScaler,
    history: pd.DataFrame,
    settings: TrainingConfig,
    n_windows: int,
    key: str,
    began: float,
    about: Mapping[str, Any],
) -> None:
    with atomic_write(path) as temporary:
        save_encoder(temporary, encoder)
    course = path.with_name(path.name.replace("_model.safetensors", "_history.tsv"))
    write_tsv(course, history)
    write_sidecar(
        path,
        course,
        step="train",
        signature=key,
        Description=f"Brain encoder of condition {_name(path)}",
        Channels=model_channels(context),
        TargetMean=scaler.mean,
        TargetScale=scaler.scale,
        Training=settings,
        Target=context.config.target,
        TrainingWindows=n_windows,
        Seconds=round(time.monotonic() - began, 3),
        Simulated=context.plan.simulated,
        **about,
    )


def load_model(context: Context, model: str) -> TrainedModel:
    """Load a trained model, or say which step trains it."""
    step = "pretrain" if model == PRETRAINED else "finetune"
    return read_model(require_step(context.model_file(model), step), context.device)


def read_model(path: Path, device: str) -> TrainedModel:
    """Return the trained model of a file."""
    sidecar = read_sidecar(path)
    return TrainedModel(
        load_encoder(path, device),
        read_scaler(sidecar),
        tuple(sidecar["Channels"]),
        int(sidecar["TrainingWindows"]),
    )


def read_scaler(sidecar: dict[str, Any]) -> TargetScaler:
    """Return the scaling of targets that a model's sidecar keeps."""
    return TargetScaler(
        np.array(sidecar["TargetMean"], dtype=np.float32),
        np.array(sidecar["TargetScale"], dtype=np.float32),
    )
