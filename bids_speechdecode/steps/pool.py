"""Pooled pretraining: one encoder of all participants, and one without each of them.

The ones without a participant make transfer honest: what that participant starts from has never
seen them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bids_speechdecode.bids.files import atomic_write, write_tsv
from bids_speechdecode.bids.sidecars import signature, write_sidecar
from bids_speechdecode.config import DriftConfig
from bids_speechdecode.decoding.distributed import n_processes
from bids_speechdecode.decoding.encoder_spec import EncoderSpec
from bids_speechdecode.decoding.pooled import PooledEncoder, pool_windows, save_body
from bids_speechdecode.decoding.training import History, train
from bids_speechdecode.decoding.windows import TargetScaler, WindowSet
from bids_speechdecode.errors import DataError, MissingInputError, UsageError
from bids_speechdecode.steps.channels import kept_channels, model_channels
from bids_speechdecode.steps.context import Context
from bids_speechdecode.steps.data import load_signal, load_windows
from bids_speechdecode.steps.experiments.cells import BusyError, claimed
from bids_speechdecode.steps.experiments.grid import WAIT
from bids_speechdecode.steps.features import feature_file, group_by_audio
from bids_speechdecode.steps.models import forget_checkpoint, model_signature
from bids_speechdecode.steps.plan import PRETRAIN
from bids_speechdecode.steps.preprocess import require_preprocessed
from bids_speechdecode.steps.pretrain import encoder_settings, new_encoder
from bids_speechdecode.steps.select import require_selected
from bids_speechdecode.steps.start import POOLED, pooled_file

VERSION = 1


@dataclass(frozen=True)
class _Member:
    """A participant's part in pooled training."""

    spec: EncoderSpec
    training: WindowSet
    validation: WindowSet


def pool(contexts: Sequence[Context]) -> None:
    """Write the checkpoint of all participants, and one without each.

    Several processes may do this at once: each makes checkpoints that nobody else is making.

    Parameters
    ----------
    contexts : sequence of Context
        Of every participant, with the settings of this command.

    Raises
    ------
    UsageError
        There are fewer than two, a setting cannot be shared, or the run has several processes.
    MissingInputError
        Signals, targets or channels of a participant are missing.
    DataError
        Spatial attention is asked for and positions are in several spaces.
    """
    _require_sense(contexts)
    _require_prepared(contexts)
    jobs = _list_jobs(contexts)
    members: dict[str, _Member] = {}
    todo = list(jobs)
    while todo:
        left = [without for without in todo if not _made(jobs[without], without, members)]
        if len(left) == len(todo):
            time.sleep(WAIT)
        todo = left


def foresee_pooling(contexts: Sequence[Context]) -> str:
    """Return in words which participants would be pooled, and what is there already."""
    labels = ", ".join(f"sub-{c.participant}" for c in contexts)
    jobs = {} if _list_lacking(contexts) else _list_jobs(contexts)
    n_done = sum(_is_current(members, without) for without, members in jobs.items())
    return (
        f"the group level would pool {labels}, and all but each of them "
        f"({n_done} of {len(contexts) + 1} checkpoints are there)"
    )


def _list_jobs(contexts: Sequence[Context]) -> dict[str, list[Context]]:
    """Return who is pooled in each checkpoint, by who is left out; "" for nobody."""
    jobs = {"": list(contexts)}
    return jobs | {c.participant: [o for o in contexts if o is not c] for c in contexts}


def _is_current(contexts: Sequence[Context], without: str) -> bool:
    first = contexts[0]
    path = pooled_file(first.out, first.config.inputs.pretrain_task, without)
    return first.out.is_current(path, _signature(contexts))


def _require_sense(contexts: Sequence[Context]) -> None:
    if n_processes() > 1:
        raise UsageError(
            "pooled training runs in one process",
            expected="the command without torchrun",
            found=f"{n_processes()} processes",
            fix="start it several times instead: each makes checkpoints that no other is making",
        )
    drift = contexts[0].config.drift if contexts else DriftConfig()
    if drift.adversarial or drift.time_embedding:
        raise UsageError(
            "days of several participants are not the same days, so that nothing about them can "
            "be shared",
            expected="adversarial 0 and time_embedding false in [drift]",
            found=f"adversarial {drift.adversarial:g}, time_embedding {drift.time_embedding}",
        )
    if len(contexts) < 2:
        raise UsageError(
            "there are too few participants to pool",
            expected="at least 2 with recordings for pretraining",
            found=", ".join(f"sub-{c.participant}" for c in contexts) or "none",
        )


def _require_prepared(contexts: Sequence[Context]) -> None:
    """Raise unless every participant has signals, targets and channels of these settings."""
    if lacking := _list_lacking(contexts):
        raise MissingInputError(
            "participants are not prepared for pooling",
            expected="results of these steps, made with the settings of this command",
            found="; ".join(lacking),
            where=contexts[0].out.root,
            fix="run the participant level with --steps preprocess,features,select and the same "
            "settings first, or leave them out with --exclude-participant-label",
        )
    if contexts[0].config.encoder.spatial == "attention":
        _require_one_space(contexts)


def _list_lacking(contexts: Sequence[Context]) -> list[str]:
    """Return who lacks which steps."""
    checks: dict[str, Callable[[Context], None]] = {
        "preprocess": require_preprocessed,
        "features": _require_features,
        "select": require_selected,
    }
    lacking = []
    for context in contexts:
        steps = [step for step, check in checks.items() if _lacks(context, check)]
        if steps:
            lacking.append(f"sub-{context.participant}: {', '.join(steps)}")
    return lacking


def _lacks(context: Context, check: Callable[[Context], None]) -> bool:
    try:
        check(context)
    except (MissingInputError, DataError):
        return True
    return False


def _require_features(context: Context) -> None:
    for pieces in group_by_audio(context).values():
        if any(piece.role == PRETRAIN for piece in pieces):
            path, key = feature_file(context, pieces)
            if not context.out.is_current(path, key):
                raise MissingInputError("targets are missing", where=path)


def _require_one_space(contexts: Sequence[Context]) -> None:
    """Raise where positions of participants mean different places."""
    spaces = {c.participant: set(kept_channels(c)["space"]) for c in contexts}
    strange = [f"sub-{who}: {', '.join(sorted(s))}" for who, s in spaces.items() if s != {"MNI152"}]
    if strange:
        raise DataError(
            "spatial attention reads positions, and those of participants cannot be compared",
            expected="positions of all in MNI152",
            found="; ".join(strange),
            fix="give --fs-subjects-dir, leave these participants out, or use --spatial none",
        )


def _made(contexts: Sequence[Context], without: str, members: dict[str, _Member]) -> bool:
    """Make a checkpoint that is not there; return False where another process is making it."""
    first = contexts[0]
    path = pooled_file(first.out, first.config.inputs.pretrain_task, without)
    key = _signature(contexts)
    try:
        with claimed(first, path):
            if first.out.is_current(path, key):
                first.progress.skip("pool", _name(without), "current")
                return True
            for context in contexts:
                if context.participant not in members:
                    members[context.participant] = _load(context)
            _fit(contexts, [members[c.participant] for c in contexts], path, key, without)
    except BusyError:
        return False
    return True


def _name(without: str) -> str:
    return f"all but sub-{without}" if without else "all participants"


def _signature(contexts: Sequence[Context]) -> str:
    settings = {
        "participants": [c.participant for c in contexts],
        "training": asdict(contexts[0].config.pretrain),
    }
    inputs = [model_signature(c, PRETRAIN, encoder_settings(c)) for c in contexts]
    return signature("pool", VERSION, settings, inputs)


def _load(context: Context) -> _Member:
    """Put a participant's signal and targets on the device; targets by their own statistics."""
    store = load_signal(context, PRETRAIN)
    training = load_windows(context, store, PRETRAIN, "train")
    validation = load_windows(context, store, PRETRAIN, "val")
    scaler = TargetScaler.fit(training.targets)
    spec = new_encoder(context, training).spec
    return _Member(spec, training.scaled(scaler), validation.scaled(scaler))


def _fit(
    contexts: Sequence[Context], members: Sequence[_Member], path: Path, key: str, without: str
) -> None:
    first, start = contexts[0], time.monotonic()
    run, settings = first.config.run, first.config.pretrain
    encoder = PooledEncoder([member.spec for member in members], run.seed)
    checkpoint = first.work_dir / "group" / f"{POOLED}{without}-{key[:16]}.checkpoint"
    with first.progress.task("pool", _name(without), settings.max_epochs) as advance:
        history = train(
            encoder,
            pool_windows([member.training for member in members]),
            pool_windows([member.validation for member in members]),
            settings,
            seed=run.seed,
            device=first.device,
            precision=run.precision,
            checkpoint=checkpoint,
            on_epoch=lambda _: advance(1),
        )
    with atomic_write(path) as temporary:
        save_body(temporary, encoder)
    labels = [f"sub-{c.participant}" for c in contexts]
    about = {
        "Participants": labels,
        "LeftOut": f"sub-{without}" if without else "n/a",
        "Channels": {s: model_channels(c) for s, c in zip(labels, contexts, strict=True)},
        "TrainingWindows": {s: len(m.training) for s, m in zip(labels, members, strict=True)},
        "Simulated": any(c.plan.simulated for c in contexts),
    }
    _describe(first, path, key, history, {**about, "Seconds": round(time.monotonic() - start, 3)})
    forget_checkpoint(checkpoint)


def _describe(
    context: Context, path: Path, key: str, history: History, about: dict[str, Any]
) -> None:
    course = path.with_name(path.name.replace("_model.safetensors", "_history.tsv"))
    write_tsv(course, history.to_frame())
    write_sidecar(
        path,
        course,
        step="pool",
        signature=key,
        Description="Brain encoder pretrained on several participants: what they share",
        Target=context.config.target,
        Encoder=context.config.encoder,
        Training=context.config.pretrain,
        Seed=context.config.run.seed,
        Precision=context.config.run.precision,
        **about,
    )
