"""Time and memory of the targets, ours and the plain way with transformers, in one run.

``python benchmarks/bench_features.py`` prints a row of a Markdown table. The model has the shape of
wav2vec 2.0 large (24 layers of 1,024 dimensions) and random weights, which cost the same time as
trained ones; ``--model FOLDER --family NAME --layer L`` measures another. Plain is what the
documentation of transformers suggests: the whole model with ``output_hidden_states=True``, the
same chunks one after the other, interpolation to 120 Hz, then means. Each side runs in a process
of its own, so that peak memory is its own; loading the model is not timed. On a CPU the time is
the processor's, summed over threads, which what else runs on the machine changes little.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import transformers

from bids_speechdecode.audio.features import cut_chunks, window_features
from bids_speechdecode.audio.speech_models import load_speech_model
from bids_speechdecode.config import TargetConfig
from bids_speechdecode.timeline import Interval

RATE, WINDOW = 16000, 3.0


def save_large_model(folder: Path) -> None:
    """Save random weights in the shape of the default model."""
    config = transformers.Wav2Vec2Config(
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
        feat_extract_norm="layer",
        conv_bias=True,
        do_stable_layer_norm=True,
    )
    torch.manual_seed(0)
    transformers.Wav2Vec2Model(config).save_pretrained(folder)
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
    extractor.save_pretrained(folder)


def read_noise(start: float, stop: float) -> np.ndarray:
    """Return sound that is the same at the same time."""
    seconds = range(int(start), int(np.ceil(stop)))
    noise = [np.random.default_rng(s).standard_normal(RATE).astype(np.float32) for s in seconds]
    return np.concatenate(noise)


def clock(device: str) -> float:
    """Return seconds: of the processor on a CPU, on the wall with a GPU."""
    return time.process_time() if device == "cpu" else time.perf_counter()


def run_ours(settings: TargetConfig, interval: Interval, device: str) -> tuple[np.ndarray, float]:
    model = load_speech_model(settings, device=device)
    starts = np.arange(interval.start, interval.stop - WINDOW + 1e-6, WINDOW)
    begin = clock(device)
    found = window_features(read_noise, interval, starts, WINDOW, model, settings)
    return found, clock(device) - begin


def run_plain(settings: TargetConfig, interval: Interval, device: str) -> tuple[np.ndarray, float]:
    extractor = transformers.AutoFeatureExtractor.from_pretrained(settings.model)
    model = transformers.AutoModel.from_pretrained(settings.model, dtype=torch.float32)
    model = (model.encoder if settings.name == "whisper" else model).to(device).eval()
    begin = clock(device)
    course = []
    for chunk in cut_chunks(interval, settings.chunk, RATE):
        wave = read_noise(chunk.start, chunk.stop)
        inputs = extractor(wave, sampling_rate=RATE, return_tensors="pt")
        values = inputs[extractor.model_input_names[0]].to(device)
        with torch.no_grad():
            hidden = model(values, output_hidden_states=True).hidden_states[settings.layer]
        n_fine = round((chunk.stop - chunk.start) * 120)
        course.append(torch.nn.functional.interpolate(hidden.transpose(1, 2), n_fine)[0].cpu())
    fine = torch.cat(course, dim=1)  # (d, n)
    n_window = round(WINDOW * 120)
    n_windows = fine.shape[1] // n_window
    windows = fine[:, : n_windows * n_window].reshape(len(fine), n_windows, n_window)
    return windows.mean(dim=2).T.numpy(), clock(device) - begin


def measure(side: str, arguments: list[str], out: Path) -> dict[str, float]:
    """Run one side in a process of its own; return its time and peak memory."""
    command = [sys.executable, __file__, "--side", side, "--out", str(out), *arguments]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(answer.splitlines()[-1])


def run_side(options: argparse.Namespace) -> None:
    settings = TargetConfig(
        name=options.family,
        model=options.model,
        layer=options.layer,
        half_precision=options.half and options.side == "ours",
    )
    run = run_ours if options.side == "ours" else run_plain
    features, seconds = run(settings, Interval(0, 60 * options.minutes), options.device)
    np.save(options.out, features)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2  # kB -> GB
    if options.device == "cuda":
        peak = torch.cuda.max_memory_allocated() / 1024**3
    print(json.dumps({"seconds": seconds, "peak_gb": peak}))


def hardware(device: str) -> str:
    """Return what the numbers were measured on."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    names = [s for s in info.read_text().splitlines() if "model name" in s] if info.exists() else []
    name = names[0].split(":")[1].strip() if names else platform.machine()
    return f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, CPU time"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--model", default="")
    parser.add_argument("--family", default="wav2vec2")
    parser.add_argument("--layer", type=int, default=19)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--half", action="store_true", help="ours in half precision")
    parser.add_argument("--side", choices=["ours", "plain"], help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        run_side(options)
        return
    with tempfile.TemporaryDirectory() as folder:
        if not options.model:
            save_large_model(Path(folder))
        arguments = [
            *("--model", options.model or folder, "--family", options.family),
            *("--layer", str(options.layer), "--minutes", str(options.minutes)),
            *("--device", options.device, *(["--half"] if options.half else [])),
        ]
        ours = measure("ours", arguments, Path(folder) / "ours.npy")
        plain = measure("plain", arguments, Path(folder) / "plain.npy")
        a, b = (np.load(Path(folder) / name) for name in ("ours.npy", "plain.npy"))
    model = Path(options.model).name or "wav2vec 2.0 large (random)"
    correlation = min(np.corrcoef(x, y)[0, 1] for x, y in zip(a, b, strict=True))
    print("| what | ours | plain transformers | ratio |")
    print("|---|---|---|---|")
    print(
        f"| targets, {options.minutes:g} min of sound, {model}, layer {options.layer}"
        f"{', ours in 16 bits' if options.half else ''} "
        f"({hardware(options.device)}; lowest correlation {correlation:.5f}) "
        f"| {ours['seconds']:.1f} s, {ours['peak_gb']:.1f} GB "
        f"| {plain['seconds']:.1f} s, {plain['peak_gb']:.1f} GB "
        f"| {plain['seconds'] / ours['seconds']:.2f} x |"
    )


if __name__ == "__main__":
    main()
