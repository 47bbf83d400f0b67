"""Time and memory of band envelopes, ours and MNE's, on one file in one run.

``python benchmarks/bench_bands.py`` prints a row of a Markdown table: five bands of 128 channels,
1,024 Hz, 5 minutes, int16 BrainVision. Each side runs in a process of its own, so that peak
memory is its own; both read the same file from a warm cache with the same number of threads. MNE
filters with the same Butterworth design, forwards and backwards.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from bench_preprocess import N_CHANNELS, RATE, best_of, clocks, describe, elapsed, write_recording

MINUTES = 5.0
EDGE = 10.0  # seconds at both ends that are not compared: there MNE's transform wraps around
BANDS = {
    "theta": (4.0, 8.0),
    "alpha": (8.0, 13.0),
    "beta": (13.0, 30.0),
    "gamma": (30.0, 70.0),
    "highgamma": (70.0, 150.0),
}


def run_ours(header: Path, out: Path) -> tuple[float, float]:
    from bids_speechdecode.signals.bands import band_envelopes
    from bids_speechdecode.signals.montage import make_montage
    from bids_speechdecode.signals.readers import open_signal

    start = clocks()
    with open_signal(header) as reader:
        montage = make_montage(reader.channel_names, range(N_CHANNELS), "average")
        paths = {band: out / band for band in BANDS}
        band_envelopes(reader, paths, montage=montage, edges=BANDS, line_frequency=50.0)
    return elapsed(start)


def run_mne(header: Path, out: Path) -> tuple[float, float]:
    import mne

    start = clocks()
    raw = mne.io.read_raw_brainvision(header, preload=True, verbose="error")
    raw.set_eeg_reference("average", verbose="error")
    raw.notch_filter([50, 100, 150, 200], notch_widths=1, verbose="error")
    butterworth = {"order": 4, "ftype": "butter"}
    for band, (low, high) in BANDS.items():
        one = raw.copy().filter(low, high, method="iir", iir_params=butterworth, verbose="error")
        one.apply_hilbert(envelope=True, verbose="error").resample(20.0, verbose="error")
        one.get_data().T.astype(np.float32).tofile(out / band)
    return elapsed(start)


def run_apart(side: str, header: Path, out: Path) -> dict[str, float]:
    """Return seconds and peak memory (MB) of one side, run in its own process."""
    command = [sys.executable, __file__, "--side", side, "--header", str(header), "--out", str(out)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def compare(ours: Path, mne: Path) -> float:
    """Return the lowest correlation of a channel in a band with the peer's."""
    lowest = 1.0
    for band in BANDS:
        a, b = (np.fromfile(f / band, np.float32).reshape(-1, N_CHANNELS) for f in (ours, mne))
        edge = slice(int(EDGE * 20), min(len(a), len(b)) - int(EDGE * 20))
        pairs = zip(a[edge].T, b[edge].T, strict=True)
        lowest = min(lowest, *(np.corrcoef(x, y)[0, 1] for x, y in pairs))
    return lowest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--side", choices=("ours", "mne"), help=argparse.SUPPRESS)
    parser.add_argument("--header", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        seconds, processor = {"ours": run_ours, "mne": run_mne}[options.side](
            options.header, options.out
        )
        # Not ru_maxrss: a process inherits that from the one that started it.
        status = Path("/proc/self/status").read_text().splitlines()
        peak = next(int(x.split()[1]) for x in status if x.startswith("VmHWM")) / 1024
        print(json.dumps({"seconds": seconds, "processor": processor, "peak_mb": peak}))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        header = write_recording(folder, options.minutes)
        runs: dict[str, list[dict[str, float]]] = {"ours": [], "mne": []}
        for side in runs:
            (folder / side).mkdir()
        # In turns, so that other work on the machine meets both alike.
        for _ in range(options.repeats):
            for side, done in runs.items():
                done.append(run_apart(side, header, folder / side))
        ours, peer = (best_of(done) for done in runs.values())
        correlation = compare(folder / "ours", folder / "mne")
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    print("| what | ours | MNE notch + filter + apply_hilbert + resample | ratio |")
    print("|---|---|---|---|")
    print(
        f"| envelopes of {len(BANDS)} bands, {N_CHANNELS} channels, {RATE} Hz, "
        f"{options.minutes:g} min ({threads} threads; lowest correlation {correlation:.5f}) "
        f"| {describe(ours)} | {describe(peer)} "
        f"| {peer['seconds'] / ours['seconds']:.1f} x "
        f"({peer['processor'] / ours['processor']:.1f} x processor time) |"
    )


if __name__ == "__main__":
    main()
