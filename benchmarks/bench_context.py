"""Features of the 4 s that end at each sample: shared front ends against window by window.

    python benchmarks/bench_context.py              # under a minute on one core
    python benchmarks/bench_context.py --width 768  # models of base size: about ten minutes

Prints one Markdown row a model. Plain is each window through the stock model of transformers, in
batches of equal length. The models have the shape of wav2vec 2.0 or WavLM base up to layer 9,
a quarter as wide, and random weights, which cost the same time as trained ones. Time is the
processor's, in the same run; the sound changes its loudness every 0.2 s. The difference is relative
to how much the features vary over time.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
import transformers

from bids_speechdecode.audio.context import context_features
from bids_speechdecode.audio.speech_models import load_speech_model
from bids_speechdecode.config import TargetConfig
from bids_speechdecode.timeline import Interval

AUDIO_RATE, RATE, CONTEXT, LAYER, BATCH = 16000, 20, 4.0, 9, 8
# family, norm of the front end, whether the input is scaled
MODELS = (
    ("wav2vec2", "layer", False),
    ("wav2vec2", "layer", True),
    ("wavlm", "layer", True),
    ("wavlm", "group", True),
)


def save_model(folder: Path, family: str, norm: str, normalise: bool, width: int) -> None:
    """Save random weights in the shape of a base model, `width` instead of 768 wide."""
    config = transformers.AutoConfig.for_model(
        family,
        hidden_size=width,
        num_hidden_layers=LAYER,
        num_attention_heads=width // 64,
        intermediate_size=4 * width,
        conv_dim=(width * 2 // 3,) * 7,
        feat_extract_norm=norm,
        conv_bias=norm == "layer",
        do_stable_layer_norm=norm == "layer",
    )
    torch.manual_seed(0)
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=normalise).save_pretrained(folder)


def make_sound(seconds: float) -> np.ndarray:
    """Return noise whose loudness changes every 0.2 s."""
    rng = np.random.default_rng(0)
    n = round(seconds * AUDIO_RATE)
    loudness = np.repeat(rng.uniform(0.01, 0.2, n // 3200 + 1), 3200)[:n]
    return (loudness * rng.standard_normal(n)).astype(np.float32)


def read_from(wave: np.ndarray, start: float, stop: float) -> np.ndarray:
    return wave[round(start * AUDIO_RATE) : round(stop * AUDIO_RATE)]


def plain_features(wave: np.ndarray, folder: Path) -> tuple[np.ndarray, float]:
    """Return the last frame of each window by the stock model, and the seconds it took."""
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    ends = range(2 * AUDIO_RATE // RATE, len(wave), AUDIO_RATE // RATE)
    windows = [wave[max(0, end - round(CONTEXT * AUDIO_RATE)) : end] for end in ends]
    begin, found = time.process_time(), []
    for _, alike in itertools.groupby(windows, key=len):
        while batch := list(itertools.islice(alike, BATCH)):
            values = extractor(batch, sampling_rate=AUDIO_RATE, return_tensors="pt").input_values
            with torch.inference_mode():
                found.append(model(values, output_hidden_states=True).hidden_states[LAYER][:, -1])
    return torch.cat(found).numpy(), time.process_time() - begin


def our_features(wave: np.ndarray, folder: Path, family: str) -> tuple[np.ndarray, float]:
    model = load_speech_model(TargetConfig(name=family, model=str(folder), layer=LAYER))  # type: ignore[arg-type]
    begin = time.process_time()
    found = context_features(
        partial(read_from, wave),
        Interval(0.0, len(wave) / AUDIO_RATE),
        RATE,
        model,
        context=CONTEXT,
        token="last",
        batch_size=BATCH,
    )
    return found[2:, 0], time.process_time() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="of sound")
    parser.add_argument("--width", type=int, default=192, help="of the models; base has 768")
    options = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    wave = make_sound(options.seconds)
    print("| what | ours | plain transformers | ratio |")
    print("|---|---|---|---|")
    for family, norm, normalise in MODELS:
        with tempfile.TemporaryDirectory() as name:
            save_model(Path(name), family, norm, normalise, options.width)
            plain, plain_seconds = plain_features(wave, Path(name))
            ours, seconds = our_features(wave, Path(name), family)
        difference = np.linalg.norm(ours - plain) / np.linalg.norm(plain - plain.mean(axis=0))
        scaled = "scaled" if normalise else "unscaled"
        print(
            f"| contexts of {CONTEXT:g} s, {options.seconds:g} s of sound at {RATE} Hz, {family} "
            f"{options.width} wide, {norm} norm, {scaled} input ({os.cpu_count()} cores, "
            f"{torch.get_num_threads()} threads, CPU time; difference {difference:.1e}) "
            f"| {seconds:.1f} s | {plain_seconds:.1f} s | {plain_seconds / seconds:.2f} x |"
        )


if __name__ == "__main__":
    main()
