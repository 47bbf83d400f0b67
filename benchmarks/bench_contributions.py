"""Contributions of 200 electrodes on 1,000 windows against the whole encoder once an electrode.

Prints one Markdown row a measurement. Each runs in a process of its own, so that the peak memory
is its own; signal and targets are part of it. The plain way replaces one electrode in all windows,
encodes them from the channels on, and ranks them with every similarity at once. It does so for a
few electrodes only; its row says for how many, and the time is that of all 200, in proportion. It
does not even give shafts, ranks alone and gradients.

    python benchmarks/bench_contributions.py           # about five minutes on two idle cores
    python benchmarks/bench_contributions.py cuda
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time

import numpy as np
import torch

from bids_speechdecode.config import ContributionConfig, EvaluationConfig
from bids_speechdecode.decoding.contributions import electrode_contributions
from bids_speechdecode.decoding.encoder import Encoder, EncoderSpec, build_encoder
from bids_speechdecode.decoding.windows import WindowSet

N_CHANNELS, N_WINDOWS, N_SAMPLES, WINDOWS_A_BLOCK, CONTACTS_A_SHAFT = 200, 1000, 120, 10, 10
N_PLAIN = 10
# Name -> dimension and frames of a target.
TARGETS: dict[str, tuple[int, int | None]] = {
    "wav2vec2, means": (1024, None),
    "mel, frames": (80, 30),
    "wav2vec2, frames": (1024, 30),
}


def make(target: str, device: str) -> tuple[Encoder, WindowSet]:
    """Return a random encoder of the small preset and random windows."""
    dimension, n_frames = TARGETS[target]
    random = torch.Generator().manual_seed(0)
    shape = (N_WINDOWS, dimension) if n_frames is None else (N_WINDOWS, n_frames, dimension)
    windows = WindowSet(
        torch.randn(N_WINDOWS * N_SAMPLES, N_CHANNELS, generator=random).to(device),
        (torch.arange(N_WINDOWS) * N_SAMPLES).to(device),
        N_SAMPLES,
        torch.randn(shape, generator=random).to(device),
    )
    encoder = build_encoder(
        EncoderSpec("conv", N_CHANNELS, N_SAMPLES, dimension, n_frames, preset="small")
    )
    return encoder.to(device).eval(), windows


def ours(encoder: Encoder, windows: WindowSet) -> float:
    """Do everything; return 1, the part of the work that is done."""
    electrode_contributions(
        encoder,
        windows,
        np.arange(N_WINDOWS) // WINDOWS_A_BLOCK,
        [str(c // CONTACTS_A_SHAFT) for c in range(N_CHANNELS)],
        ContributionConfig(),
        EvaluationConfig(),
        np.random.default_rng(0),
    )
    return 1.0


@torch.inference_mode()
def plain(encoder: Encoder, windows: WindowSet) -> float:
    """Replace a few electrodes, once, the plain way; return the part of all that they are."""
    everything = torch.arange(N_WINDOWS, device=windows.device)
    x, audio = windows.brain(everything), windows.targets.flatten(1)
    audio = audio / audio.norm(dim=1, keepdim=True)
    moved = everything.roll(WINDOWS_A_BLOCK)
    for c in range(N_PLAIN):
        changed = x.clone()
        changed[:, c] = x[moved, c]
        brain = torch.cat([encoder(part) for part in changed.split(128)]).flatten(1)
        similarity = (brain / brain.norm(dim=1, keepdim=True)) @ audio.T
        (similarity > similarity.diagonal()[:, None]).sum(dim=1).cpu()
    return N_PLAIN / N_CHANNELS


METHODS = {"ours": ours, "plain": plain}


def measure(method: str, target: str, device: str) -> None:
    """Work here; print seconds, CPU seconds and peak bytes."""
    encoder, windows = make(target, device)
    with torch.inference_mode():
        encoder(windows.brain(torch.arange(8, device=device)))  # first calls are not measured
    began, began_cpu = time.perf_counter(), time.process_time()
    part = METHODS[method](encoder, windows)
    seconds, cpu = time.perf_counter() - began, time.process_time() - began_cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(seconds / part, cpu / part, peak, torch.get_num_threads())


def row(method: str, target: str, device: str) -> str:
    """Measure in a new process and return the row of the table."""
    command = [sys.executable, __file__, device, "--measure", method, target]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    seconds, cpu, peak, n_threads = (float(x) for x in answer)
    name = "all four measures" if method == "ours" else f"plain, from {N_PLAIN} electrodes"
    return (
        f"| {name} | {target} | {seconds:.0f} s | {cpu:.0f} s | {peak / 1e9:.2f} GB "
        f"| {n_threads:.0f} | {device} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("device", nargs="?", default="cpu")
    parser.add_argument("--measure", nargs=2, metavar=("METHOD", "TARGET"))
    arguments = parser.parse_args()
    if arguments.measure:
        measure(*arguments.measure, arguments.device)
        return
    print(f"{N_CHANNELS} electrodes, {N_WINDOWS:,} windows of 3 s, small preset:\n")
    print("| contributions | target | time | CPU time | peak memory | threads | device |")
    print("|" + "---|" * 7)
    for target in TARGETS:
        for method in METHODS:
            print(row(method, target, arguments.device), flush=True)


if __name__ == "__main__":
    main()
