"""Step ``evaluate``: all conditions on the same held-out windows: chance, nulls, contrasts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from bids_speechdecode.bids.files import invalidate, write_array, write_json, write_tsv
from bids_speechdecode.bids.sidecars import signature, write_sidecar
from bids_speechdecode.decoding.evaluation import Scores, compare_ranks, score_ranks
from bids_speechdecode.steps.context import (
    BACKWARD,
    FINETUNED,
    FROZEN,
    LINEAR,
    PRETRAINED,
    PROJECTION,
    TASK_ONLY,
    ZERO_SHOT,
    Context,
    signature_of,
)
from bids_speechdecode.steps.data import LoadedWindows, load_signal, load_windows
from bids_speechdecode.steps.finetune import load_backward, require_trained, trained_conditions
from bids_speechdecode.steps.models import load_model
from bids_speechdecode.steps.plan import FINETUNE, PRETRAIN

VERSION = 1

# (first, second): a negative difference of mean relative rank means that the first is better.
CONTRASTS = (
    (FINETUNED, TASK_ONLY),
    (FINETUNED, ZERO_SHOT),
    (FINETUNED, FROZEN),
    (FINETUNED, LINEAR),
    (FINETUNED, BACKWARD),
    (TASK_ONLY, BACKWARD),
    (TASK_ONLY, PROJECTION),
)

RANK_COLUMNS = {
    "onset": "Start of the sound of the window on the recording's clock (s)",
    "duration": "Length of the window (s)",
    "stimulus": "Audio of the window",
    "audio_onset": "Start of the window in the audio (s)",
    "audio": "true (the clean file) or ambient (what the room microphone heard)",
    "block": "Contiguous stretch of windows, the unit of resampling",
    "rank": "Relative retrieval rank of the true sound: 0 best, 0.5 chance, 1 worst",
    "n_candidates": "Number of candidate sounds, the true one among them",
    "top1": "Whether the true sound came first (a fraction for ties)",
    "top5": "Whether the true sound is among the best five",
    "top10": "Whether the true sound is among the best ten",
}


@dataclass(frozen=True)
class Result:
    """A condition on one set of held-out windows, and the tables and arrays that keep it."""

    condition: str
    audio: str
    task: str
    n_train_windows: int
    scores: Scores
    blocks: np.ndarray
    files: tuple[Path, ...] = ()


def evaluate(context: Context) -> None:
    """Write ranks, scores and contrasts of every condition.

    Raises
    ------
    MissingInputError
        A model is missing or was trained with other settings.
    """
    require_trained(context)
    key = _signature(context)
    table_path = context.summary_file("conditions", "scores", ".tsv")
    if context.out.is_current(table_path, key):
        context.progress.skip("evaluate", f"sub-{context.participant}", "current")
        return
    invalidate(table_path)  # the files of single conditions, written first, have no signature
    results = list(_score_everything(context))
    contrasts = context.summary_file("contrasts", "scores", ".tsv")
    write_tsv(contrasts, _contrast_table(context, results))
    write_tsv(table_path, _condition_table(context, results))
    write_sidecar(
        table_path,
        contrasts,
        *(file for result in results for file in result.files),
        step="evaluate",
        signature=key,
        Description="Retrieval of held-out windows: one row a condition and audio version",
        Columns={"relative_rank": "0 best, 0.5 chance, 1 worst; mean over test windows"},
        Notes={f"{r.condition} ({r.audio})": r.scores.notes for r in results},
        Simulated=context.plan.simulated,
    )


def _signature(context: Context) -> str:
    models = [context.model_file(name) for name in trained_conditions(context)]
    if context.plan.select(PRETRAIN):
        models.append(context.model_file(PRETRAINED))
    settings = {**asdict(context.config.evaluation), "seed": context.config.run.seed}
    return signature("evaluate", VERSION, settings, [signature_of(m) for m in models if m.exists()])


def _score_everything(context: Context) -> Iterator[Result]:
    store = load_signal(context, FINETUNE)
    for version in context.plan.versions(FINETUNE):
        test = load_windows(context, store, FINETUNE, "test", version)
        for condition in _conditions(context):
            yield _score(context, condition, version, context.finetune_task, test)
    if context.plan.select(PRETRAIN):
        store = load_signal(context, PRETRAIN)
        test = load_windows(context, store, PRETRAIN, "test")
        yield _score(context, PRETRAINED, "ambient", context.config.inputs.pretrain_task, test)


def _conditions(context: Context) -> tuple[str, ...]:
    zero_shot = (ZERO_SHOT,) if context.plan.select(PRETRAIN) else ()
    return (*trained_conditions(context), *zero_shot)


def _score(
    context: Context, condition: str, version: str, task: str, test: LoadedWindows
) -> Result:
    """Embed, rank and keep one condition on one set of test windows."""
    label = f"sub-{context.participant} {condition} on {task} ({version})"
    with context.progress.task("evaluate", label, 1) as advance:
        brain, audio, n_train = _embed(context, condition, test)
        blocks = test.blocks(context.config)
        # The same draws for every condition: their nulls and intervals differ by data alone.
        rng = np.random.default_rng([context.config.run.seed, 3])
        order = np.arange(len(test))
        scores = score_ranks(brain, audio, blocks, order, context.config.evaluation, rng)
        result = Result(condition, version, task, n_train, scores, blocks)
        files = _write_condition(context, result, test, brain, audio)
        advance(1)
    return replace(result, files=files)


def _embed(
    context: Context, condition: str, test: LoadedWindows
) -> tuple[np.ndarray, np.ndarray, int]:
    """Return brain and audio embeddings, and on how many windows the condition was trained."""
    if condition == BACKWARD:
        model, scaler, n_train = load_backward(context)
        windows = test.scaled(scaler)
        return model.predict(windows), windows.targets.cpu().numpy(), n_train
    trained = load_model(context, PRETRAINED if condition == ZERO_SHOT else condition)
    brain, audio = trained.embed(test)
    return brain, audio, trained.n_train_windows


def _write_condition(
    context: Context, result: Result, test: LoadedWindows, brain: np.ndarray, audio: np.ndarray
) -> tuple[Path, ...]:
    """Write one row a window (per recording), the embeddings, and the draws of the nulls."""
    files = []
    desc = _desc(result)
    ranks = test.table.assign(
        duration=context.config.windows.duration,
        audio=result.audio,
        block=result.blocks,
        rank=result.scores.ranks,
        n_candidates=len(test),
        **{f"top{k}": inside for k, inside in result.scores.top.items()},
    )
    for label, rows in ranks.groupby("recording"):
        path = context.recording_file(context.plan[str(label)], desc, "events", ".tsv")
        write_tsv(path, rows[list(RANK_COLUMNS)].sort_values("onset"))
        files.append(path)
        write_json(path.with_suffix(".json"), _describe_columns(context))
    for name, array in (("brain", brain), ("audio", audio)):
        path = context.summary_file(f"{desc}{name}", "embeddings", ".npy", result.task)
        write_array(path, array.astype(np.float32))
        files.append(path)
        write_json(
            path.with_suffix(".json"),
            {
                "Description": f"{name.capitalize()} embeddings of the test windows",
                "Shape": list(array.shape),
                "Windows": test.table[["recording", "onset", "audio_onset"]].to_dict("list"),
                "Simulated": context.plan.simulated,
            },
        )
    path = context.summary_file(desc, "scores", ".json", result.task)
    files.append(path)
    write_json(
        path,
        {
            **_row(context, result),
            "null_shift_draws": result.scores.shift.draws.round(6).tolist(),
            "null_shuffle_draws": result.scores.shuffle.draws.round(6).tolist(),
            "notes": list(result.scores.notes),
            "settings": asdict(context.config.evaluation),
        },
    )
    return tuple(files)


def _desc(result: Result) -> str:
    """Name a result in one word: the condition, and the audio version where it is the room's."""
    room = result.audio == "ambient" and result.condition != PRETRAINED
    return f"{result.condition}Ambient" if room else result.condition


def _describe_columns(context: Context) -> dict[str, object]:
    columns: dict[str, object] = {
        name: {"Description": text}
        for name, text in RANK_COLUMNS.items()
        if name not in ("onset", "duration")
    }
    return {**columns, "Simulated": context.plan.simulated}


def _row(context: Context, result: Result) -> dict[str, object]:
    return {
        "condition": result.condition,
        "audio": result.audio,
        "task": result.task,
        "n_train_windows": result.n_train_windows,
        **result.scores.row(),
        "target": context.config.target.name,
        "pooling": context.config.target.pooling,
        "simulated": context.plan.simulated,
    }


def _condition_table(context: Context, results: list[Result]) -> pd.DataFrame:
    return pd.DataFrame([_row(context, result) for result in results])


def _contrast_table(context: Context, results: list[Result]) -> pd.DataFrame:
    """Compare conditions on the same windows, block by block."""
    by_name = {(r.condition, r.audio): r for r in results if r.condition != PRETRAINED}
    rows = []
    for audio in context.plan.versions(FINETUNE):
        for first, second in CONTRASTS:
            if (first, audio) not in by_name or (second, audio) not in by_name:
                continue
            a, b = by_name[first, audio], by_name[second, audio]
            contrast = compare_ranks(
                a.scores.ranks,
                b.scores.ranks,
                a.blocks,
                context.config.evaluation,
                np.random.default_rng([context.config.run.seed, 4]),
            )
            rows.append({"contrast": f"{first}-{second}", "audio": audio, **asdict(contrast)})
    return pd.DataFrame(rows)
