"""Step ``contributions``: which electrodes carry the result on held-out windows."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from bids_speechdecode.bids.files import write_tsv
from bids_speechdecode.bids.sidecars import signature, write_sidecar
from bids_speechdecode.decoding.contributions import COLUMNS, electrode_contributions
from bids_speechdecode.steps.channels import kept_channels, selected_file
from bids_speechdecode.steps.context import (
    FINETUNED,
    TASK_ONLY,
    Context,
    signature_of,
)
from bids_speechdecode.steps.data import load_signal, load_windows
from bids_speechdecode.steps.drift import n_time_columns
from bids_speechdecode.steps.finetune import require_trained, trained_conditions
from bids_speechdecode.steps.models import load_model
from bids_speechdecode.steps.plan import FINETUNE
from bids_speechdecode.steps.select import COLUMNS as SELECTED_COLUMNS

VERSION = 3
# What is known of an electrode before any decoding, taken over from the table of channels.
ANATOMY = ("group", "x", "y", "z", "space", "label", "hemisphere", "distance")


def contribute(context: Context) -> None:
    """Write what each electrode contributes to one model's ranks of held-out windows.

    Raises
    ------
    MissingInputError
        A model is missing or was trained with other settings.
    """
    require_trained(context)
    name = chosen_model(context)
    path, key = contributions_file(context), _signature(context, name)
    if context.out.is_current(path, key):
        context.progress.skip("contributions", f"sub-{context.participant}", "current")
        return
    channels = kept_channels(context)
    store = load_signal(context, FINETUNE)
    test = load_windows(context, store, FINETUNE, "test", context.plan.versions(FINETUNE)[0])
    trained = load_model(context, name)
    # The time, where encoders read it, is the last of what they read and no electrode.
    shafts = channels["group"].fillna("").astype(str).tolist() + [""] * n_time_columns(context)
    with context.progress.task("contributions", f"sub-{context.participant} {name}", 1) as advance:
        found = electrode_contributions(
            trained.encoder,
            test.scaled(trained.scaler),
            test.blocks(context.config),
            shafts,
            context.config.contributions,
            context.config.evaluation,
            np.random.default_rng([context.config.run.seed, 7]),
            on_progress=advance,
        )
    write_tsv(path, _table(channels, found.table()[: len(channels)], context.plan.simulated))
    write_sidecar(
        path,
        step="contributions",
        signature=key,
        Description="What each electrode contributes to the ranks of the held-out windows",
        Model=name,
        SelectedSignature=signature_of(selected_file(context)),
        ModelSignature=signature_of(context.model_file(name)),
        Atlas=" ".join(context.config.anatomy.atlas),
        Target=context.config.target,
        **found.summary(),
        **{
            column: {"Description": text}
            for column, text in {
                **{c: SELECTED_COLUMNS[c] for c in ANATOMY},
                **COLUMNS,
                "simulated": "Whether the data are simulated",
            }.items()
        },
        Simulated=context.plan.simulated,
    )


def contributions_file(context: Context) -> Path:
    """Return where the table of contributions lies."""
    return context.summary_file("contrib", "channels", ".tsv")


def chosen_model(context: Context) -> str:
    """Return the encoder that is asked for; where it does not exist, the one of the task alone."""
    asked = context.config.contributions.model
    wanted = FINETUNED if asked == "auto" else asked
    return wanted if wanted in trained_conditions(context) else TASK_ONLY


def _signature(context: Context, name: str) -> str:
    settings = {
        **asdict(context.config.contributions),
        "block": context.config.evaluation.block,
        "n_bootstrap": context.config.evaluation.n_bootstrap,
        "confidence": context.config.evaluation.confidence,
        "seed": context.config.run.seed,
        "model": name,
        "selected": signature_of(selected_file(context)),
    }
    return signature("contributions", VERSION, settings, [signature_of(context.model_file(name))])


def _table(channels: pd.DataFrame, found: pd.DataFrame, simulated: bool) -> pd.DataFrame:
    """Return the numbers beside the names and places of the electrodes."""
    bids = channels[["name", "type"]].assign(units="n/a", low_cutoff="n/a", high_cutoff="n/a")
    numbers = found[list(COLUMNS)].reset_index(drop=True)
    floats = numbers.select_dtypes("float").columns
    numbers[floats] = numbers[floats] + 0.0  # a difference of nothing is 0.0 and not -0.0
    return pd.concat([bids, channels[list(ANATOMY)], numbers], axis=1).assign(simulated=simulated)
