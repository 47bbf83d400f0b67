"""A tiny speech model with random weights, and its teacher: the same with a planted change.

Its frames are 50 ms apart, a divisor of the usual strides (0.05 and 0.25 s), and its convolutional
front end normalises each frame by itself, so that windows that overlap share their frames exactly.
"""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Wav2Vec2FeatureExtractor, WavLMConfig, WavLMModel
from transformers.utils import logging

from bids_speechdecode.simulate.speech import RATE

LAYER = 3  # whose output is the latent features, counted as in transformers' hidden_states
RANK = 4  # of the planted change of each matrix
PLANTED_IN = ("q_proj", "k_proj", "v_proj")

# What attention gathers from the window weighs more than the window's last frame: without that,
# random features change from one 50 ms to the next, and BOLD could carry none of them.
_GATHERING_GAIN = 3.0
_NORMALISED = "layer_norm"


def tiny_config() -> WavLMConfig:
    """Return the shape of the model: a WavLM of 48 dimensions, four layers and 20 frames/s."""
    return WavLMConfig(
        hidden_size=48,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=96,
        conv_dim=(32,) * 5,
        conv_kernel=(10, 8, 8, 10, 4),
        conv_stride=(5, 4, 4, 5, 2),  # 800 samples: 50 ms
        conv_bias=True,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        num_buckets=32,
        max_bucket_distance=80,
        vocab_size=32,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        feat_proj_dropout=0.0,
        final_dropout=0.0,
        layerdrop=0.0,
        apply_spec_augment=False,
    )


def draw_model(rng: np.random.Generator) -> WavLMModel:
    """Return a model with random weights, ready to listen.

    Weights are normal with variance 1 / (number of inputs), attention's output three times as
    large; norms are left as they begin and biases are 0.
    """
    with torch.random.fork_rng():  # transformers draws weights of its own, which ours replace
        model = WavLMModel(tiny_config())
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            _fill(name, weight, rng)
    return model.eval().requires_grad_(False)


def _fill(name: str, weight: torch.Tensor, rng: np.random.Generator) -> None:
    """Draw one parameter."""
    if name.endswith("bias"):
        weight.zero_()
    elif weight.ndim < 2 or _NORMALISED in name or name.endswith("original0"):
        return
    else:
        gain = _GATHERING_GAIN if "out_proj" in name else 1.0
        size = gain / np.sqrt(np.prod(weight.shape[1:]))
        weight.copy_(torch.from_numpy(rng.standard_normal(tuple(weight.shape)) * size))


def plant_change(model: WavLMModel, size: float, rng: np.random.Generator) -> WavLMModel:
    """Return a copy whose queries, keys and values are changed: ``W + size |W| D / |D|``.

    D is a random matrix of rank 4 and ``|.|`` the Frobenius norm, in every layer up to the one
    that is listened to.
    """
    teacher = copy.deepcopy(model)
    for layer in teacher.encoder.layers[:LAYER]:
        for name in PLANTED_IN:
            weight = getattr(layer.attention, name).weight
            n_out, n_in = weight.shape
            left, right = rng.standard_normal((n_out, RANK)), rng.standard_normal((RANK, n_in))
            change = torch.from_numpy(left @ right).to(weight.dtype)
            with torch.no_grad():
                weight += size * weight.norm() * change / change.norm()
    return teacher


def save_model(model: WavLMModel, folder: Path, description: str) -> None:
    """Write the model as transformers reads it: configuration, weights, what input it wants."""
    with _quiet():
        model.save_pretrained(folder)
    # Normalising every window by itself would make frames depend on the rest of the window.
    Wav2Vec2FeatureExtractor(sampling_rate=RATE, do_normalize=False).save_pretrained(folder)
    path = folder / "config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["_description"] = description
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back transformers' progress bar."""
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if bars:
            logging.enable_progress_bar()


def receptive_samples(config: Any) -> tuple[int, int]:
    """Return how many samples a frame of the front end sees, and how many lie between frames."""
    seen, step = 1, 1
    for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
        seen += (kernel - 1) * step
        step *= stride
    return seen, step
