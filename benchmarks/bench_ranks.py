"""Retrieval ranks in blocks against the plain way, which holds every similarity at once.

Prints one Markdown row a measurement. Each runs in a process of its own, so that the peak memory
is its own; the embeddings are part of it.

    python benchmarks/bench_ranks.py                 # about a minute on one idle core
    python benchmarks/bench_ranks.py 100000          # the promise itself: about ten minutes
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

DIMENSION = 1024
PLAIN_SIZE = 12_000
SIZES = (6_000, 12_000, 24_000)


def plain_ranks(brain: np.ndarray, audio: np.ndarray) -> np.ndarray:
    """Return relative ranks from the full matrix of cosine similarities, in float32."""
    brain = brain / np.linalg.norm(brain, axis=1, keepdims=True)
    audio = audio / np.linalg.norm(audio, axis=1, keepdims=True)
    similarity = brain @ audio.T
    own = np.diag(similarity)[:, None]
    n_above, n_tied = (similarity > own).sum(1), (similarity == own).sum(1) - 1
    return (n_above + n_tied / 2) / (len(brain) - 1)


def block_ranks(brain: np.ndarray, audio: np.ndarray) -> np.ndarray:
    from bids_speechdecode.decoding.contrastive import relative_ranks

    return relative_ranks(brain, audio).relative


METHODS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "blocks": block_ranks,
    "full matrix": plain_ranks,
}


def measure(method: str, n_windows: int) -> None:
    """Rank random pairs here; print seconds, CPU seconds, peak bytes and the mean rank."""
    rng = np.random.default_rng(0)
    audio = rng.standard_normal((n_windows, DIMENSION), dtype=np.float32)
    brain = rng.standard_normal((n_windows, DIMENSION), dtype=np.float32)
    for rows in range(0, n_windows, 4096):
        brain[rows : rows + 4096] += 0.1 * audio[rows : rows + 4096]
    METHODS[method](brain[:64], audio[:64])  # imports and first calls are not what is measured
    began, began_cpu = time.perf_counter(), time.process_time()
    mean = METHODS[method](brain, audio).mean()
    seconds, cpu = time.perf_counter() - began, time.process_time() - began_cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(seconds, cpu, peak, mean)


def row(method: str, n_windows: int) -> str:
    """Measure in a new process and return the row of the table."""
    command = [sys.executable, __file__, "--measure", method, str(n_windows)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    seconds, cpu, peak, mean = (float(x) for x in answer)
    matrix = n_windows**2 * 4 / 1e9
    return (
        f"| {method} | {n_windows:,} x {n_windows:,} x {DIMENSION:,} | {seconds:.1f} s "
        f"| {cpu:.1f} s | {peak / 1e9:.2f} GB | {matrix:.2f} GB | {mean:.4f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sizes", type=int, nargs="*", default=SIZES)
    parser.add_argument("--measure", choices=METHODS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure, arguments.sizes[0])
        return
    print("| ranks | N x N x dimensions | time | CPU time | peak memory | one matrix | mean |")
    print("|" + "---|" * 7)
    for n_windows in arguments.sizes:
        print(row("blocks", n_windows), flush=True)
    print(row("full matrix", min(PLAIN_SIZE, max(arguments.sizes))))


if __name__ == "__main__":
    main()
