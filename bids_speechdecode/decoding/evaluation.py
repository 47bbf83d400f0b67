"""Is it decoding? Mean relative rank with interval and nulls; paired comparison of conditions.

Every null keeps the same candidates and the same similarities and only changes which candidate is
called the true one, so one pass over the rows of the similarity matrix serves all of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch

from bids_speechdecode.config import EvaluationConfig
from bids_speechdecode.decoding.contrastive import TIE, relative_ranks, unit_vectors
from bids_speechdecode.errors import DataError
from bids_speechdecode.statistics import (
    FEW_BLOCKS,
    bootstrap_interval,
    require_finite,
    sign_flip,
    sum_blocks,
)

CHANCE = 0.5
_TOP = (1, 5, 10)
# Elements of the largest temporary arrays: rows of similarities, and stored pairings.
_CHUNK_ELEMENTS = 4_000_000
_PAIRING_ELEMENTS = 60_000_000


@dataclass(frozen=True)
class Null:
    """Mean relative ranks under pairings that should hold no information.

    Attributes
    ----------
    p : float
        Fraction of all pairings of this kind, the true one among them, that rank as well or better.
    p_min : float
        The smallest `p` that this many pairings can give.
    draws : array, shape (n_draws,)
        Mean relative rank of each pairing that takes every window away from its own sound; empty
        where there is none.
    confidence : float
        Of the interval.
    """

    p: float
    p_min: float
    draws: np.ndarray
    confidence: float

    @property
    def mean(self) -> float:
        """Mean over the draws; NaN without any."""
        return float(self.draws.mean()) if len(self.draws) else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """Quantiles of the draws that enclose `confidence` of them; NaN without any."""
        if not len(self.draws):
            return float("nan"), float("nan")
        tail = (1 - self.confidence) / 2
        low, high = np.quantile(self.draws, [tail, 1 - tail])
        return float(low), float(high)


@dataclass(frozen=True)
class Scores:
    """Retrieval of the sound of held-out windows.

    Attributes
    ----------
    ranks : array, shape (N,)
        Relative rank of each window: 0 best, 0.5 chance, 1 worst.
    top : dict of int to array, shape (N,)
        For k = 1, 5, 10: whether the true candidate is among the best k (a fraction for ties).
    relative_rank, ci_low, ci_high : float
        Mean over windows, and its interval from resampled blocks (NaN with a single block).
    shift : Null
        Brain and sound moved against each other in time.
    shuffle : Null
        Blocks of sound in random order.
    n_blocks : int
    notes : tuple of str
        What limits these numbers, in words.
    """

    ranks: np.ndarray
    top: dict[int, np.ndarray] = field(repr=False)
    relative_rank: float
    ci_low: float
    ci_high: float
    shift: Null
    shuffle: Null
    n_blocks: int
    notes: tuple[str, ...]

    def row(self) -> dict[str, float]:
        """Return the columns of the table of conditions."""
        nulls = {"shift": self.shift, "shuffle": self.shuffle}
        summary: dict[str, float] = {
            "n_test_windows": len(self.ranks),
            "n_blocks": self.n_blocks,
            "relative_rank": self.relative_rank,
            "ci_low": self.ci_low,
            "ci_high": self.ci_high,
        }
        summary |= {f"p_{name}": null.p for name, null in nulls.items()}
        summary |= {f"p_{name}_min": null.p_min for name, null in nulls.items()}
        summary |= {f"top{k}": float(inside.mean()) for k, inside in self.top.items()}
        for name, null in nulls.items():
            low, high = null.interval
            summary[f"null_{name}_rank"] = null.mean
            summary[f"null_{name}_low"] = low
            summary[f"null_{name}_high"] = high
        return summary


@dataclass(frozen=True)
class Contrast:
    """Mean difference of relative rank between two conditions on the same windows.

    Attributes
    ----------
    difference, ci_low, ci_high : float
        First minus second, negative where the first is better; interval from resampled blocks.
    p, p_min : float
        Two-sided sign-flip test over blocks, and the smallest value that it can give.
    n_blocks : int
    """

    difference: float
    ci_low: float
    ci_high: float
    p: float
    p_min: float
    n_blocks: int


def score_ranks(
    brain: np.ndarray | torch.Tensor,
    audio: np.ndarray | torch.Tensor,
    blocks: np.ndarray,
    order: np.ndarray,
    settings: EvaluationConfig,
    rng: np.random.Generator,
) -> Scores:
    """Return the retrieval scores of held-out windows, with interval and nulls.

    The time-shift null pairs each brain window with the sound `s` windows later (circularly, in
    order of time) for every `s`: it keeps all autocorrelation of both sides and is therefore the
    one to believe. Its p counts all shifts, also short ones: they make the set of shifts complete,
    without which slowly changing embeddings would give too many small p-values. The interval shown
    for the null is that of shifts by at least one block. The shuffle null permutes whole blocks;
    its p likewise counts all permutations, its interval those in which no window keeps its sound.
    It holds only where embeddings forget their past well within a block: in simulated noise with
    blocks of 10 windows, p <= 0.05 came up in 6, 7 and 11% of datasets where neighbouring windows
    correlate by 0.6, 0.8 and 0.9 (time shift: 6% in each).

    Parameters
    ----------
    brain, audio : array or tensor, shape (N, d) or (N, F, d)
        ``audio[i]`` is the true candidate of ``brain[i]``; the candidates are all N.
    blocks : array, shape (N,)
        Contiguous block of each window, the unit of resampling (see `statistics.label_blocks`).
    order : array, shape (N,)
        Sorts the windows in time (recordings one after the other).
    settings : EvaluationConfig
    rng : numpy.random.Generator

    Raises
    ------
    DataError
        Fewer than two windows, differing lengths, or anything that is not finite.
    """
    ranks = relative_ranks(brain, audio)
    blocks, order = np.asarray(blocks), np.asarray(order)
    sequence = _in_time(blocks, order, len(ranks.relative))
    low, high = bootstrap_interval(
        ranks.relative,
        blocks,
        n_bootstrap=settings.n_bootstrap,
        confidence=settings.confidence,
        rng=rng,
    )
    shift, shuffle = _null_tests(
        torch.as_tensor(brain), torch.as_tensor(audio), sequence, blocks[sequence], settings, rng
    )
    n_blocks = len(np.unique(blocks))
    return Scores(
        ranks=ranks.relative,
        top={k: ranks.top(k) for k in _TOP},
        relative_rank=float(ranks.relative.mean()),
        ci_low=low,
        ci_high=high,
        shift=shift,
        shuffle=shuffle,
        n_blocks=n_blocks,
        notes=_limits(n_blocks, shift, shuffle, settings.confidence),
    )


def compare_ranks(
    ranks_a: np.ndarray,
    ranks_b: np.ndarray,
    blocks: np.ndarray,
    settings: EvaluationConfig,
    rng: np.random.Generator,
) -> Contrast:
    """Return how the first condition's ranks differ from the second's on the same windows.

    The interval comes from resampled blocks; the p-value from flipping the sign of each block's
    sum of differences, which is exact if the two conditions are exchangeable within a block.

    Parameters
    ----------
    ranks_a, ranks_b : array, shape (N,)
        Relative ranks of the same windows in the same order.
    blocks : array, shape (N,)
        Contiguous block of each window.

    Raises
    ------
    DataError
        Differing lengths, or a rank that is not finite.
    """
    ranks_a, ranks_b = np.asarray(ranks_a, dtype=float), np.asarray(ranks_b, dtype=float)
    if ranks_a.shape != ranks_b.shape:
        raise DataError(
            "Two conditions can only be compared on the same windows.",
            expected=f"{ranks_a.size} ranks in both",
            found=f"{ranks_b.size} in the second",
        )
    difference = ranks_a - ranks_b
    sums, _ = sum_blocks(difference, blocks)
    low, high = bootstrap_interval(
        difference,
        blocks,
        n_bootstrap=settings.n_bootstrap,
        confidence=settings.confidence,
        rng=rng,
    )
    test = sign_flip(sums, alternative="two-sided", n_samples=settings.n_permutations, rng=rng)
    return Contrast(float(difference.mean()), low, high, test.p, test.p_min, len(sums))


def _in_time(blocks: np.ndarray, order: np.ndarray, n_windows: int) -> np.ndarray:
    """Return the positions of the windows in time, the windows of a block side by side."""
    if len(blocks) != n_windows or len(order) != n_windows:
        raise DataError(
            "Each window needs a block and a place in time.",
            expected=f"{n_windows} of each",
            found=f"{len(blocks)} blocks and {len(order)} places",
        )
    require_finite(order, "the places of the windows in time")
    members = np.unique(blocks, return_inverse=True)[1]
    first = np.full(members.max() + 1, np.inf)
    np.minimum.at(first, members, order)
    return np.lexsort((order, members, first[members]))


def _null_tests(
    brain: torch.Tensor,
    audio: torch.Tensor,
    sequence: np.ndarray,
    blocks: np.ndarray,
    settings: EvaluationConfig,
    rng: np.random.Generator,
) -> tuple[Null, Null]:
    """Return the time-shift and the shuffle null; `blocks` belong to the windows in time."""
    n = len(brain)
    shifts = _draw_shifts(n, settings.n_permutations, rng)
    n_shuffles = min(settings.n_permutations, max(_PAIRING_ELEMENTS // n, 199))
    shuffles = _shuffle_blocks(blocks, n_shuffles, rng)
    means = _mean_ranks(brain, audio, sequence, shifts, shuffles)
    observed, by_shift, by_shuffle = np.split(means, [1, 1 + len(shifts)])
    longest = int(np.unique(blocks, return_counts=True)[1].max())
    is_far = np.minimum(shifts, n - shifts) >= longest
    moves_all = ~(shuffles == np.arange(n)).any(axis=1)
    n_orders = math.factorial(min(len(np.unique(blocks)), 20))
    return (
        _null(observed[0], by_shift, is_far, 1 / (1 + len(shifts)), settings.confidence),
        _null(
            observed[0],
            by_shuffle,
            moves_all,
            max(1 / (1 + n_shuffles), 1 / n_orders),
            settings.confidence,
        ),
    )


def _null(
    observed: float, means: np.ndarray, is_shown: np.ndarray, p_min: float, confidence: float
) -> Null:
    n_as_good = int((means <= observed).sum())
    return Null((1 + n_as_good) / (1 + len(means)), p_min, means[is_shown], confidence)


def _draw_shifts(n: int, n_wanted: int, rng: np.random.Generator) -> np.ndarray:
    """Return all shifts 1 ... n - 1, or a random choice where they are many more than wanted."""
    shifts = np.arange(1, n)
    return shifts if len(shifts) <= 2 * n_wanted else rng.choice(shifts, n_wanted, replace=False)


def _shuffle_blocks(blocks: np.ndarray, n_shuffles: int, rng: np.random.Generator) -> np.ndarray:
    """Return, for each shuffle, the window whose sound each window is given, (n_shuffles, N)."""
    starts = np.flatnonzero(np.r_[True, blocks[1:] != blocks[:-1]])
    members = np.split(np.arange(len(blocks), dtype=np.int32), starts[1:])
    shuffles = np.empty((n_shuffles, len(blocks)), dtype=np.int32)
    for shuffle in shuffles:
        shuffle[:] = np.concatenate([members[b] for b in rng.permutation(len(members))])
    return shuffles


@torch.no_grad()
def _mean_ranks(
    brain: torch.Tensor,
    audio: torch.Tensor,
    sequence: np.ndarray,
    shifts: np.ndarray,
    shuffles: np.ndarray,
) -> np.ndarray:
    """Return the mean relative rank of the true pairing, of each shift and of each shuffle.

    Shifts and shuffles are of places in `sequence`, which lists the windows in time. Rows of
    similarities are made in chunks and sorted once; the rank of any candidate is then found by
    bisection.
    """
    n, device = len(brain), brain.device
    candidates = unit_vectors(audio.to(device))
    window_at = torch.as_tensor(sequence, device=device)
    moves = torch.as_tensor(np.concatenate([[0], shifts]), device=device)
    n_pairings = len(moves) + len(shuffles)
    total = torch.zeros(n_pairings, dtype=torch.float64, device=device)
    for rows in torch.arange(n, device=device).split(max(1, _CHUNK_ELEMENTS // (n + n_pairings))):
        shuffled = torch.as_tensor(shuffles[:, rows.cpu().numpy()].T.astype(np.int64))
        places = torch.cat([(rows[:, None] + moves) % n, shuffled.to(device)], dim=1)
        similarity = unit_vectors(brain[window_at[rows]]) @ candidates.T
        chosen = similarity.gather(1, window_at[places])
        sorted_row = similarity.sort(dim=1).values
        n_above = n - torch.searchsorted(sorted_row, chosen + TIE, right=True)
        n_not_below = n - torch.searchsorted(sorted_row, chosen - TIE)
        # In integers, doubled, so that the sums are exact.
        total += (n_above + n_not_below - 1).sum(dim=0)
    return (total / (2 * n * (n - 1))).cpu().numpy()


def _limits(n_blocks: int, shift: Null, shuffle: Null, confidence: float) -> tuple[str, ...]:
    """Return in words what these numbers cannot show."""
    notes = []
    if n_blocks < 2:
        notes.append("One block of test windows: no interval can be computed.")
    elif n_blocks < FEW_BLOCKS:
        notes.append(
            f"Only {n_blocks} blocks of test windows: the interval is unreliable "
            f"(at least {FEW_BLOCKS} are needed)."
        )
    for name, null in {"time-shift": shift, "shuffle": shuffle}.items():
        if null.p_min > 1 - confidence:
            notes.append(f"The {name} test cannot give a p below {null.p_min:.3g} here.")
        if not len(null.draws):
            notes.append(f"Too few test windows to show a {name} null.")
    return tuple(notes)
