"""Is an electrode predicted at all? Tests that keep the slowness of sound and brain.

Neighbouring samples are alike in prediction and response, so shuffled samples would be a far too
easy null. Here the response is moved as a whole, or in blocks, against the prediction.

Predictions of different folds are not independent: what two folds have in common by chance enters
twice, once when one is held out and once when the other is. If nothing is to be found, and A and B
are these two, then ``var(A + B) <= 2 (var A + var B)``, with equality where both folds weigh it
alike; but moving the response against a fixed prediction gives ``var A + var B``. What the moved
responses give is therefore multiplied by sqrt(2) (`OF_BOTH`) wherever predictions were made by
cross-validation, that is, with `folds`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import fft, stats

from bids_speechdecode.encoding.scores import (
    check_shapes,
    chunk_electrodes,
    group_stretches,
    standardised_pair,
)

MIN_SHIFT = 10.0  # seconds; our default, beyond context (4 s) and longest lag (2 s) together
EXCLUDED = 0.025  # of a stretch at most, on either side of no shift
BLOCK = 20.0  # seconds; our default
OF_BOTH = float(np.sqrt(2))
MAX_PRODUCTS = 20_000_000  # inner products of blocks that are kept at once


def circular_shift_p(
    prediction: np.ndarray,
    response: np.ndarray,
    segments: ArrayLike,
    rate: float,
    *,
    min_shift: float = MIN_SHIFT,
    n_permutations: int = 1000,
    rng: np.random.Generator,
    folds: ArrayLike | None = None,
) -> np.ndarray:
    """Return each electrode's p against responses that are shifted in time, one-sided.

    Within every continuous stretch the response is rotated by a random number of samples. A
    rotation changes no variance, so r is compared by its numerator; that of every rotation comes
    from one Fourier transform per stretch. With N random rotations and c = sqrt(2) (1 without
    `folds`; see above), ``p = (1 + #(c r_rotated >= r)) / (1 + N)``.

    Rotations by less than `min_shift` are left out, for they keep some of a true agreement. In a
    short stretch that would leave so few, all alike, that p becomes far too small (10% of
    unrelated signals at p <= 0.05 when 40% of each stretch was left out); never more than 2.5% of a
    stretch is therefore left out at either end. With an autocorrelation that falls to 1/e in 1 s,
    stretches of 25 s and more then gave 4 to 6%; stretches of 5 s, whose joined ends count for
    more, 8%.

    Parameters
    ----------
    prediction, response : array, shape (n_times, n_electrodes)
        NaN where there is none.
    segments : array of int, shape (n_times,)
        Label of the continuous stretch of sound of each sample.
    rate : float, hertz
    min_shift : float, seconds
        Applies in full to stretches of 40 times its length.
    n_permutations : int
    rng : Generator
    folds : array of int, shape (n_times,), optional
        As in `correlate`; nothing is moved from one fold to another.

    Returns
    -------
    array, shape (n_electrodes,)
        NaN where a signal is constant or absent.
    """
    check_shapes(prediction, response, segments, folds)
    gap = round(min_shift * rate)
    p = np.full(response.shape[1], np.nan)
    for members, stretches in group_stretches(prediction, response, segments, folds):
        for some in chunk_electrodes(len(response), len(members)):
            chosen = members[some]
            x, y, _ = standardised_pair(prediction[:, chosen], response[:, chosen], folds)
            p[chosen] = _shift(x, y, stretches, gap, n_permutations, rng, _widening(folds))
    return p


def _shift(
    x: np.ndarray,
    y: np.ndarray,
    stretches: list[slice],
    gap: int,
    n_permutations: int,
    rng: np.random.Generator,
    widening: float,
) -> np.ndarray:
    observed, null, scale = np.zeros(x.shape[1]), np.zeros((n_permutations, x.shape[1])), 0.0
    for stretch in stretches:
        n = stretch.stop - stretch.start
        spectra = fft.rfft(x[stretch], axis=0).conj() * fft.rfft(y[stretch], axis=0)
        products = fft.irfft(spectra, n, axis=0)  # sum over t of x(t) y(t + shift)
        observed += products[0]
        least = min(gap, int(EXCLUDED * n))
        null += products[rng.integers(least, n - least, size=n_permutations, endpoint=True) % n]
        scale = scale + np.linalg.norm(x[stretch], axis=0) * np.linalg.norm(y[stretch], axis=0)
    return _one_sided_p(observed, widening * null, np.broadcast_to(scale, observed.shape))


def block_permutation_p(
    prediction: np.ndarray,
    response: np.ndarray,
    segments: ArrayLike,
    rate: float,
    *,
    block: float = BLOCK,
    n_permutations: int = 1000,
    rng: np.random.Generator,
    folds: ArrayLike | None = None,
) -> np.ndarray:
    """Return each electrode's p against responses whose blocks change places, one-sided.

    Stretches are cut into blocks of equal length (a rest shorter than a block is left out), and
    the response's blocks are dealt out anew over all stretches, as short ones allow too. The
    numerator of every r is a sum of inner products of blocks, which are computed once. Parameters
    and p are those of `circular_shift_p`, and p is NaN also where there are not two blocks.

    What adjacent blocks have in common is lost, which makes p too small unless blocks are long
    against the time over which both signals resemble themselves: of unrelated signals whose
    autocorrelation falls to 1/e in 1 s, 5.8% had p <= 0.05 with blocks of 10 s; in 5 s, 7.6%.
    """
    check_shapes(prediction, response, segments, folds)
    length = max(1, round(block * rate))
    p = np.full(response.shape[1], np.nan)
    for members, stretches in group_stretches(prediction, response, segments, folds):
        starts = [
            start
            for stretch in stretches
            for start in range(stretch.start, stretch.stop - length + 1, length)
        ]
        if len(starts) < 2:
            continue
        samples = np.add.outer(starts, np.arange(length))
        orders = [rng.permutation(len(starts)) for _ in range(n_permutations)]
        n_chunks = -(-len(members) * max(len(starts) ** 2, len(response)) // MAX_PRODUCTS)
        for some in np.array_split(members, min(n_chunks, len(members))):
            x, y, _ = standardised_pair(prediction[:, some], response[:, some], folds)
            p[some] = _permute(x[samples], y[samples], orders, _widening(folds))
    return p


def _permute(x: np.ndarray, y: np.ndarray, orders: list[np.ndarray], widening: float) -> np.ndarray:
    # x, y: (n_blocks, length, n_electrodes); products: (n_electrodes, n_blocks, n_blocks)
    products = x.transpose(2, 0, 1) @ y.transpose(2, 1, 0)
    places = np.arange(len(x))
    observed = products[:, places, places].sum(axis=1)
    null = np.stack([products[:, places, order].sum(axis=1) for order in orders])
    scale = np.sqrt((x**2).sum(axis=(0, 1)) * (y**2).sum(axis=(0, 1)))
    return _one_sided_p(observed, widening * null, scale)


def _widening(folds: ArrayLike | None) -> float:
    return 1.0 if folds is None else OF_BOTH


def _one_sided_p(observed: np.ndarray, null: np.ndarray, scale: np.ndarray) -> np.ndarray:
    # The same sum by another route differs in its last bits and must still count as equal.
    extreme = (null >= observed - 1e-12 * scale).sum(axis=0)
    return np.where(scale > 0, (1 + extreme) / (1 + len(null)), np.nan)


def false_discovery_rate(p: np.ndarray) -> np.ndarray:
    """Return q: the false discovery rate of calling this and all smaller p a finding.

    Benjamini & Hochberg 1995 (doi:10.1111/j.2517-6161.1995.tb02031.x) over the electrodes that
    have a p; NaN stays NaN.
    """
    q = np.full(len(p), np.nan)
    known = np.isfinite(p)
    if known.any():
        q[known] = stats.false_discovery_control(p[known], method="bh")
    return q
