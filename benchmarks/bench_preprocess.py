"""Time and memory of preprocessing, ours and MNE's, on one file in one run.

``python benchmarks/bench_preprocess.py`` prints a row of a Markdown table: 128 channels, 1,024 Hz,
20 minutes, int16 BrainVision. Each side runs in a process of its own, so that peak memory is
its own; both read the same file from a warm cache with the same number of threads.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

N_CHANNELS, RATE, MINUTES = 128, 1024, 20.0
EDGE = 66.0  # seconds: the length of MNE's 0.05 Hz filter


def write_recording(folder: Path, minutes: float) -> Path:
    """Write a 1/f recording with a 50 Hz line, in blocks."""
    rng = np.random.default_rng(0)
    n_block = 60 * RATE
    frequencies = np.fft.rfftfreq(n_block, 1 / RATE)
    amplitude = 1 / np.sqrt(np.maximum(frequencies, 1 / 60))
    line = 300 * np.sin(2 * np.pi * 50 * np.arange(n_block) / RATE)
    with (folder / "x.eeg").open("wb") as file:
        last = np.zeros((1, N_CHANNELS))
        for _ in range(max(1, round(minutes))):
            noise = rng.standard_normal((len(frequencies), N_CHANNELS, 2)) @ [1, 1j]
            block = np.fft.irfft(noise * amplitude[:, None], n_block, axis=0)
            block *= 1000 / block.std()
            # Blocks are joined without a step, whose spectrum would not be 1/f.
            ramp = np.linspace(1, 0, n_block)[:, None]
            block += (last - block[:1]) * ramp
            last = block[-1:]
            file.write(np.round(block + line[:, None]).clip(-32768, 32767).astype("<i2").tobytes())
    channels = "\n".join(f"Ch{i}=A{i},,0.1,µV" for i in range(1, N_CHANNELS + 1))
    header = folder / "x.vhdr"
    header.write_text(
        "Brain Vision Data Exchange Header File Version 1.0\n[Common Infos]\nCodepage=UTF-8\n"
        "DataFile=x.eeg\nMarkerFile=x.vmrk\nDataFormat=BINARY\nDataOrientation=MULTIPLEXED\n"
        f"NumberOfChannels={N_CHANNELS}\nSamplingInterval={1e6 / RATE}\n[Binary Infos]\n"
        f"BinaryFormat=INT_16\n[Channel Infos]\n{channels}\n",
        encoding="utf-8",
    )
    (folder / "x.vmrk").write_text(
        "Brain Vision Data Exchange Marker File, Version 1.0\n[Common Infos]\nCodepage=UTF-8\n"
        "DataFile=x.eeg\n[Marker Infos]\nMk1=New Segment,,1,1,0\n"
    )
    return header


def clocks() -> tuple[float, float]:
    """Return the time and the processor time of this process, in seconds."""
    return time.perf_counter(), time.process_time()


def elapsed(start: tuple[float, float]) -> tuple[float, float]:
    wall, processor = clocks()
    return wall - start[0], processor - start[1]


def run_ours(header: Path, out: Path) -> tuple[float, float]:
    from bids_speechdecode.signals.preprocess import make_montage, preprocess
    from bids_speechdecode.signals.readers import open_signal

    start = clocks()
    with open_signal(header) as reader:
        montage = make_montage(reader.channel_names, range(N_CHANNELS), "none")
        preprocess(reader, out, montage=montage, line_frequency=50.0)
    return elapsed(start)


def run_mne(header: Path, out: Path) -> tuple[float, float]:
    import mne
    from sklearn.preprocessing import RobustScaler

    start = clocks()
    raw = mne.io.read_raw_brainvision(header, preload=True, verbose="error")
    raw.filter(0.05, 50.0, verbose="error").resample(40.0, verbose="error")
    scaled = RobustScaler().fit_transform(raw.get_data().T)
    scaled.clip(-20, 20).astype(np.float32).tofile(out)
    return elapsed(start)


def run_apart(side: str, header: Path, out: Path) -> dict[str, float]:
    """Return seconds and peak memory (MB) of one side, run in its own process."""
    command = [sys.executable, __file__, "--side", side, "--header", str(header), "--out", str(out)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def best_of(runs: list[dict[str, float]]) -> dict[str, float]:
    """Return the lowest of each measure; whatever else the machine does only adds to it."""
    return {measure: min(run[measure] for run in runs) for measure in runs[0]}


def compare(ours: Path, mne: Path) -> float:
    """Return the lowest correlation of a channel with the peer's, away from the edges."""
    a, b = (np.fromfile(path, np.float32).reshape(-1, N_CHANNELS) for path in (ours, mne))
    edge = slice(int(EDGE * 40), min(len(a), len(b)) - int(EDGE * 40))
    return min(np.corrcoef(x, y)[0, 1] for x, y in zip(a[edge].T, b[edge].T, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--side", choices=("ours", "mne"), help=argparse.SUPPRESS)
    parser.add_argument("--header", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        seconds, processor = {"ours": run_ours, "mne": run_mne}[options.side](
            options.header, options.out
        )
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "processor": processor, "peak_mb": peak}))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        header = write_recording(folder, options.minutes)
        paths = {side: folder / side for side in ("ours", "mne")}
        runs: dict[str, list[dict[str, float]]] = {"ours": [], "mne": []}
        # In turns, so that other work on the machine meets both alike.
        for _ in range(options.repeats):
            for side, done in runs.items():
                done.append(run_apart(side, header, paths[side]))
        ours, peer = (best_of(done) for done in runs.values())
        correlation = compare(paths["ours"], paths["mne"])
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    print("| what | ours | MNE filter + resample + RobustScaler | ratio |")
    print("|---|---|---|---|")
    print(
        f"| preprocessing, {N_CHANNELS} channels, {RATE} Hz, {options.minutes:g} min "
        f"({threads} threads; lowest correlation {correlation:.5f}) "
        f"| {describe(ours)} | {describe(peer)} "
        f"| {peer['seconds'] / ours['seconds']:.0f} x "
        f"({peer['processor'] / ours['processor']:.0f} x processor time) |"
    )


def describe(best: dict[str, float]) -> str:
    return (
        f"{best['seconds']:.2f} s ({best['processor']:.2f} s processor), {best['peak_mb']:.0f} MB"
    )


if __name__ == "__main__":
    main()
