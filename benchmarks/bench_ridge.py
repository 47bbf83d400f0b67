"""Ridge regression from block sums against himalaya's RidgeCV, and all lags against one.

Every measurement runs in a process of its own, so that the peak memory is its own; the data are
part of it. The peer is given the same penalties, blocks and score (correlation).

    python benchmarks/bench_ridge.py                 # smaller: about a minute
    python benchmarks/bench_ridge.py --full          # the promise itself: minutes, 10 GB
    python benchmarks/bench_ridge.py --screening     # how often the screened lag is the right one
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
from scipy.signal import lfilter

ALPHAS = np.logspace(0, 7, 10).astype("f4")
LAGS = np.arange(-40, 41)
EMBARGO = 120
N_FOLDS = 4


@dataclass(frozen=True)
class Size:
    """Samples, features, targets."""

    n: int
    p: int
    targets: int


FULL, SMALL = Size(27_000, 768, 1_268), Size(9_000, 256, 400)


def simulate(size: Size, signal: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Return features with a falling spectrum and smooth responses, which follow by 0 to 20."""
    rng = np.random.default_rng(0)
    scale = np.arange(1, size.p + 1) ** -0.5
    x = lfilter([1], [1, -0.9], rng.standard_normal((size.n, size.p), dtype="f4") * scale, axis=0)
    x = (x @ rng.standard_normal((size.p, size.p), dtype="f4")).astype("f4")
    x /= x.std(0)
    y = np.empty((size.n, size.targets), dtype="f4")
    for e in range(size.targets):
        noise = lfilter([0.44], [1, -0.9], rng.standard_normal(size.n))
        weights = rng.standard_normal(size.p)
        driven = x @ (weights / np.linalg.norm(x[:1000] @ weights) * 1000**0.5)
        y[:, e] = noise + signal * np.roll(driven, e % 21)
    return x, y


def run_himalaya(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from himalaya.backend import set_backend
    from himalaya.ridge import RidgeCV
    from himalaya.scoring import correlation_score

    set_backend("torch")
    blocks = cut(len(x)).block
    splits = [
        (np.flatnonzero((blocks >= 0) & (blocks != k)), np.flatnonzero(blocks == k))
        for k in range(N_FOLDS)
    ]
    settings = {"score_func": correlation_score, "warn": False}
    model = RidgeCV(alphas=ALPHAS, fit_intercept=True, cv=splits, solver_params=settings)
    model.fit(x, y)
    return model.best_alphas_.numpy(), model.cv_scores_.numpy()


def cut(n: int):  # type: ignore[no-untyped-def]
    from bids_speechdecode.encoding.folds import contiguous_folds

    return contiguous_folds(np.zeros(n, int), np.ones(n, bool), N_FOLDS, EMBARGO)


def run_plain(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from bids_speechdecode.encoding.ridge import fit_ridge_cv

    fit = fit_ridge_cv(x, y, cut(len(x)).block, alphas=ALPHAS, standardised=False)
    return fit.alpha, fit.score


def run_lags(lags: np.ndarray, screen: int = 96) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    def run(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        from bids_speechdecode.encoding.ridge import fit_lagged_ridge

        fit = fit_lagged_ridge(x, y, cut(len(x)), lags=lags, alphas=ALPHAS, screen=screen)
        return fit.alpha, fit.r

    return run


METHODS = {
    "himalaya RidgeCV": run_himalaya,
    "fit_ridge_cv": run_plain,
    "fit_lagged_ridge, 1 lag": run_lags(np.array([10])),
    "fit_lagged_ridge, 81 lags": run_lags(LAGS),
}


@dataclass(frozen=True)
class Measured:
    """What one process took; bytes of memory at its peak."""

    seconds: float
    cpu: float
    peak: float
    alpha: list[float]
    score: list[float]


def measure(method: str, size: Size) -> Measured:
    x, y = simulate(size)
    METHODS[method](x[:1500, :8], y[:1500, :8])  # imports and first calls are not measured
    began, began_cpu = time.perf_counter(), time.process_time()
    alpha, score = METHODS[method](x, y)
    seconds, cpu = time.perf_counter() - began, time.process_time() - began_cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Measured(seconds, cpu, peak, alpha.ravel().tolist(), score.tolist())


def compare(size: Size) -> None:
    """Print a row per method, and how far choices and scores of the two plain ones agree."""
    print(
        f"n = {size.n:,}, p = {size.p}, {size.targets:,} targets, {len(ALPHAS)} penalties,", end=" "
    )
    print(f"{N_FOLDS} folds\n\n| ridge | time | CPU time | peak memory |\n|---|---|---|---|")
    found = {}
    for method in METHODS:
        command = [sys.executable, __file__, "--measure", method, json.dumps(asdict(size))]
        answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found[method] = one = Measured(**json.loads(answer.splitlines()[-1]))
        cells = f"{one.seconds:.1f} s | {one.cpu:.1f} s | {one.peak / 1e9:.2f} GB"
        print(f"| {method} | {cells} |", flush=True)
    peer, plain, single, all_lags = found.values()
    same = np.isclose(peer.alpha, plain.alpha).mean()
    apart = np.abs(np.subtract(peer.score, plain.score)).max()
    print(f"\nsame penalty: {same:.2%} of targets; largest difference of scores: {apart:.1e}")
    for name, a, b in (("himalaya / ours", peer, plain), ("81 lags / 1 lag", all_lags, single)):
        print(f"{name}: {a.seconds / b.seconds:.1f} x the time, {a.cpu / b.cpu:.1f} x CPU time")


def compare_screens() -> None:
    """Print how often the lag sought in few components is that of all features, and its cost."""
    from bids_speechdecode.encoding.ridge import fit_lagged_ridge

    size = Size(8_000, 256, 210)
    print("| signal | screen | r | same lag | within 50 ms | mean cost in r | 95% of costs below |")
    print("|" + "---|" * 7)
    for signal in (0.1, 0.2, 0.5):
        x, y = simulate(size, signal)
        fits = {
            screen: fit_lagged_ridge(x, y, cut(size.n), lags=LAGS, alphas=ALPHAS, screen=screen)
            for screen in (256, 128, 96, 64, 32)
        }
        exact = fits.pop(256)
        for screen, fit in fits.items():
            apart = np.abs(fit.lag - exact.lag)
            cost = exact.r - fit.r
            print(
                f"| {signal} | {screen} of {size.p} | {exact.r.mean():.3f} "
                f"| {(apart == 0).mean():.1%} | {(apart <= 1).mean():.1%} "
                f"| {cost.mean():+.4f} | {np.quantile(cost, 0.95):+.4f} |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--screening", action="store_true")
    parser.add_argument("--measure", nargs=2)
    arguments = parser.parse_args()
    if arguments.measure:
        method, size = arguments.measure
        print(json.dumps(asdict(measure(method, Size(**json.loads(size))))))
    elif arguments.screening:
        compare_screens()
    else:
        compare(FULL if arguments.full else SMALL)


if __name__ == "__main__":
    main()
