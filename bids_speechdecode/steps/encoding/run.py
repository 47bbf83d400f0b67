"""The analysis ``encoding`` of one participant, step by step."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import click
import pandas as pd

from bids_speechdecode.audio.speech_models import require_layers
from bids_speechdecode.bids.sidecars import read_table
from bids_speechdecode.config import TEXT, Config, Request
from bids_speechdecode.errors import DataError, UsageError
from bids_speechdecode.report.console import format_encoding
from bids_speechdecode.steps.context import Context
from bids_speechdecode.steps.encoding.frames import make_features
from bids_speechdecode.steps.encoding.responses import make_responses
from bids_speechdecode.steps.encoding.score import SUFFIX, encode
from bids_speechdecode.steps.encoding.sounds import list_sounds
from bids_speechdecode.steps.plan import PlannedRecording
from bids_speechdecode.steps.report import report_participant
from bids_speechdecode.steps.select import foresee
from bids_speechdecode.steps.speech_model_names import (
    FOLDER,
    MEL,
    name_models,
    require_own_name,
)

log = logging.getLogger(__name__)


def prepare_config(config: Config, analysis: str, out: Path) -> Config:
    """Return the settings as an analysis reads them.

    Encoding needs no pretraining recordings; decoding takes the label of a tuned model of this
    output for its folder.

    Raises
    ------
    UsageError
        A setting that this analysis has no use for.
    """
    if analysis != "decoding" and config.target.name == TEXT:
        raise UsageError(
            "--target text is of decoding: this analysis needs a model that hears sound",
            found=f"--analysis {analysis} --target text",
            fix="choose another --target",
        )
    if analysis == "decoding" and config.target.name != MEL:
        tuned = out / FOLDER / config.target.model
        if (tuned / "tuning.json").is_file():
            return replace(config, target=replace(config.target, model=str(tuned)))
    if analysis != "encoding":
        require_own_name(config.target, analysis, out)
        return config
    if "responsive" in config.selection.rules:
        raise UsageError(
            "--select responsive is of decoding: an encoding model tests each electrode itself",
            found=" ".join(config.selection.rules),
            fix="leave it out; the tables have p and q of every electrode",
        )
    return replace(
        config,
        inputs=replace(config.inputs, pretrain_task="none"),
        preprocess=replace(config.preprocess, reference=config.encoding.reference, band="slow"),
    )


def run_encoding(request: Request, context: Context, command: str, log_dir: Path | None) -> None:
    """Run the steps that are asked for.

    Raises
    ------
    SpeechDecodeError
        When nothing usable is left, or a step fails.
    """
    for label, error in context.plan.errors:
        log.warning("%s is left out: %s", label, error.problem.splitlines()[0])
    if set(request.steps) != {"report"}:
        context = _make_everything(request, context)
    if "report" in request.steps:
        report_participant(context, command, log_dir)
        click.echo(show_encoding(context))


def show_models(config: Config, out: Path) -> str:
    """Return in words which speech models and bands an analysis compares.

    Raises
    ------
    SpeechDecodeError
        As `name_models`; or a model is not on this machine, or lacks a layer.
    """
    models = name_models(config, out)
    settings = config.encoding
    lines = []
    for model in models:
        chosen = settings.layers or (model.target.layer,)
        require_layers(model.target, chosen)
        layers = " ".join(map(str, chosen))
        where = "" if model.target.name == MEL else f": {model.target.model}, layer {layers}"
        lines.append(f"  {model.label}{where} ({model.kind}; {model.fingerprint[:12]})")
    bands = ", ".join(settings.bands)
    return "\n".join(["speech models, compared with the first:", *lines, f"bands: {bands}"])


def _make_everything(request: Request, context: Context) -> Context:
    models = name_models(context.config, context.out.root)
    if "responses" in request.steps:
        context = _respond(request, context)
    sounds = list_sounds(context.plan)
    if "features" in request.steps:
        make_features(context, models, sounds)
    if "encode" in request.steps:
        located, chosen = foresee(context.plan, context.config)
        kept = chosen[chosen["kept"].astype(bool)].reset_index(drop=True)
        notes = [
            *located.notes,
            *(f"{what} is left out: {why}" for what, why in _left_out(context)),
        ]
        encode(context, models, sounds, _as_electrodes(kept), notes)
    return context


def _respond(request: Request, context: Context) -> Context:
    """Make the responses; return the context without recordings whose samples cannot be used.

    Raises
    ------
    DataError
        No recording is left, or one fails under ``--stop-on-first-crash``.
    """
    usable: list[PlannedRecording] = []
    errors: list[tuple[str, DataError]] = []
    for planned in context.plan.recordings:
        try:
            make_responses(context, planned)
            usable.append(planned)
        except DataError as error:
            if request.stop_on_first_crash:
                raise
            log.warning("%s is left out: %s", planned.label, error.problem.splitlines()[0])
            errors.append((planned.label, error))
    if not usable:
        raise errors[0][1]
    left_out = (*context.plan.left_out, *((label, str(error)) for label, error in errors))
    return replace(context, plan=replace(context.plan, recordings=tuple(usable), left_out=left_out))


def _left_out(context: Context) -> tuple[tuple[str, str], ...]:
    return tuple((what, why) for what, why in context.plan.left_out if "is not used" not in why)


def _as_electrodes(chosen: pd.DataFrame) -> pd.DataFrame:
    columns = ["name", "type", "group", "x", "y", "z", "space", "label", "hemisphere", "distance"]
    return chosen[columns]


def show_encoding(context: Context) -> str:
    """Return how well every model predicts as a text table, empty where there is none yet."""
    path = context.summary_file("encoding", SUFFIX, ".tsv")
    if not path.exists():
        return ""
    simulated = " (simulated data)" if context.plan.simulated else ""
    return format_encoding(read_table(path), f"sub-{context.participant}{simulated}")
