"""Step ``pretrain``: contrastive training of the brain encoder on the ambient recordings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from bids_speechdecode.decoding.encoder import Encoder, EncoderSpec, build_encoder
from bids_speechdecode.decoding.spatial import as_positions
from bids_speechdecode.steps.channels import model_positions
from bids_speechdecode.steps.context import PRETRAINED, Context
from bids_speechdecode.steps.data import LoadedWindows, load_signal, load_windows
from bids_speechdecode.steps.models import fit, is_current, model_signature
from bids_speechdecode.steps.plan import PRETRAIN
from bids_speechdecode.steps.start import find_start


def pretrain(context: Context) -> None:
    """Train the encoder on the ambient training files, stopped by the validation files."""
    path, key = context.model_file(PRETRAINED), pretraining_signature(context)
    if not is_current(context, path, key):
        fit_pretraining(context, path, key)


def fit_pretraining(
    context: Context,
    path: Path,
    key: str,
    pair: Callable[[LoadedWindows], LoadedWindows] | None = None,
) -> None:
    """Train the encoder and keep it at `path`; `pair` may give the windows other targets."""
    store = load_signal(context, PRETRAIN)
    training = load_windows(context, store, PRETRAIN, "train")
    validation = load_windows(context, store, PRETRAIN, "val")
    if pair is not None:
        training, validation = pair(training), pair(validation)
    encoder = new_encoder(context, training)
    start = find_start(context)
    if start:
        start.give_to(encoder)
    sets = training, validation
    fit(context, path, encoder, sets, context.config.pretrain, key, start=start)


def pretraining_signature(context: Context) -> str:
    """Return what the pretrained encoder depends on."""
    config = context.config
    settings = {**encoder_settings(context), "training": asdict(config.pretrain)}
    start = find_start(context)
    parents = (start.signature,) if start else ()
    return model_signature(context, PRETRAIN, settings, parents)


def encoder_settings(context: Context) -> dict[str, Any]:
    """Return what an encoder depends on besides the data that it learns from."""
    encoder = asdict(context.config.encoder)
    if encoder["kind"] == "conv":
        del encoder["kind"]  # the usual one goes unsaid, in models that were signed without it
    settings: dict[str, Any] = {"encoder": encoder}
    if context.config.encoder.spatial == "attention":
        settings["positions"] = as_positions(model_positions(context))
    return settings


def new_encoder(
    context: Context,
    loaded: LoadedWindows,
    kind: Literal["conv", "linear"] | None = None,
    *,
    head: bool = False,
    spatial: bool = True,
) -> Encoder:
    """Return an untrained encoder whose output has the shape of the targets.

    Parameters
    ----------
    context : Context
    loaded : LoadedWindows
        Training windows, for the shapes.
    kind : {"conv", "linear"}, optional
        That of the settings if left out.
    head : bool
        Whether a linear head comes on top.
    spatial : bool
        False leaves out the spatial attention that the settings ask for. The linear baseline
        never has it.

    Raises
    ------
    DataError
        If the settings ask for spatial attention and no channel has a position.
    """
    kind = kind or context.config.encoder.kind
    *n_frames, dimension = loaded.targets.shape[1:]
    by_place = spatial and kind == "conv" and context.config.encoder.spatial == "attention"
    spec = EncoderSpec(
        kind,
        n_channels=loaded.signal.shape[1],
        n_samples=loaded.n_samples,
        dimension=dimension,
        n_frames=n_frames[0] if n_frames else None,
        preset=context.config.encoder.preset,
        dropout=context.config.encoder.dropout,
        head=dimension if head else None,
        spatial="attention" if by_place else "none",
        positions_mm=as_positions(model_positions(context)) if by_place else None,
    )
    return build_encoder(spec, seed=context.config.run.seed)
