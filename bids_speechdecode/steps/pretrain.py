"""Step ``pretrain``: contrastive training of the brain encoder on the ambient recordings."""

from __future__ import annotations

from dataclasses import asdict
from typing import Literal

import numpy as np

from bids_speechdecode.decoding.encoder import Encoder, EncoderSpec, build_encoder
from bids_speechdecode.decoding.spatial import as_positions
from bids_speechdecode.steps.context import PRETRAINED, Context
from bids_speechdecode.steps.data import LoadedWindows, load_signal, load_windows
from bids_speechdecode.steps.models import fit, is_current, model_signature
from bids_speechdecode.steps.plan import PRETRAIN


def pretrain(context: Context) -> None:
    """Train the encoder on the ambient training files, stopped by the validation files."""
    config, key = context.config, pretraining_signature(context)
    if is_current(context, PRETRAINED, key):
        return
    store = load_signal(context, PRETRAIN)
    training = load_windows(context, store, PRETRAIN, "train")
    validation = load_windows(context, store, PRETRAIN, "val")
    encoder = new_encoder(context, training)
    fit(context, PRETRAINED, encoder, (training, validation), config.pretrain, key)


def pretraining_signature(context: Context) -> str:
    """Return what the pretrained encoder depends on."""
    config = context.config
    settings = {"encoder": asdict(config.encoder), "training": asdict(config.pretrain)}
    return model_signature(context, PRETRAIN, settings)


def new_encoder(
    context: Context,
    loaded: LoadedWindows,
    kind: Literal["conv", "linear"] = "conv",
    *,
    head: bool = False,
    positions: np.ndarray | None = None,
) -> Encoder:
    """Return an untrained encoder whose output has the shape of the targets.

    Parameters
    ----------
    context : Context
    loaded : LoadedWindows
        Training windows, for the shapes.
    kind : {"conv", "linear"}
    head : bool
        Whether a linear head comes on top.
    positions : array, shape (n_channels, 3), mm, optional
        Of the channels of `loaded`, NaN where not localised. Spatial attention needs them; the
        linear baseline never uses them.

    Raises
    ------
    DataError
        If the settings ask for spatial attention and no channel has a position.
    """
    *n_frames, dimension = loaded.targets.shape[1:]
    spatial = context.config.encoder.spatial if kind == "conv" else "none"
    if spatial == "none":
        positions = None
    spec = EncoderSpec(
        kind,
        n_channels=loaded.signal.shape[1],
        n_samples=loaded.n_samples,
        dimension=dimension,
        n_frames=n_frames[0] if n_frames else None,
        preset=context.config.encoder.preset,
        dropout=context.config.encoder.dropout,
        head=dimension if head else None,
        spatial=spatial,
        positions_mm=None if positions is None else as_positions(positions),
    )
    return build_encoder(spec, seed=context.config.run.seed)
