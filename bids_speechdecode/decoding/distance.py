"""Does a model age? Rank as a function of the days between training and test.

    rank(training day i, test day j) = level + a_i + b_j + slope * |i - j|

Days differ in what was recorded (a) and in how hard their windows are to tell apart (b); only what
is left when both are taken off speaks of the days between.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bids_speechdecode.decoding.orders import draw_orders
from bids_speechdecode.decoding.scaling import infer, variance_over_blocks


@dataclass(frozen=True)
class DistanceLaw:
    """How relative rank changes with the days between training and test.

    Attributes
    ----------
    slope : float
        Of the mean relative rank, per day; above 0: models age. NaN where it cannot be told from
        differences between days, as with a single test day or fewer than three training days.
    ci_low, ci_high : float
        Student's t from two variances: over blocks of windows within each test day, and over
        training days; NaN where a day has a single block.
    p, p_min : float
        Two-sided, from giving the models of each training day another training day.
    n_train_days, n_test_days, n_models, n_blocks : int
    """

    slope: float
    ci_low: float
    ci_high: float
    p: float
    p_min: float
    n_train_days: int
    n_test_days: int
    n_models: int
    n_blocks: int


def fit_distance(
    train_days: np.ndarray,
    test_days: np.ndarray,
    ranks: np.ndarray,
    blocks: np.ndarray,
    *,
    confidence: float,
    n_orders: int,
    rng: np.random.Generator,
) -> DistanceLaw:
    """Fit the slope of rank over days apart to models of one training day each.

    Parameters
    ----------
    train_days : array of int, shape (n_models,)
        Day that each model was trained on; several seeds of a day are one unit.
    test_days : array of int, shape (n_windows,)
    ranks : array, shape (n_models, n_windows)
        Relative rank of every held-out window, among those of its day, with every model.
    blocks : array, shape (n_windows,)
        Contiguous block of each window; of one day.
    confidence : float
    n_orders : int
        Orders of training days behind p, where there are more.
    rng : numpy.random.Generator
    """
    rows, row_of = np.unique(train_days, return_inverse=True)
    columns, column_of = np.unique(test_days, return_inverse=True)
    n_blocks = len(np.unique(blocks))
    sizes = len(rows), len(columns), len(train_days), n_blocks
    by_day = np.stack([ranks[row_of == row].mean(axis=0) for row in range(len(rows))])
    cells = np.stack(
        [by_day[:, column_of == column].mean(axis=1) for column in range(len(columns))], axis=1
    )
    apart = np.abs(rows[:, None] - columns).astype(float)
    pure, rest = _centre(apart), _centre(cells)
    squares = float((pure**2).sum())
    freedom = cells.size - sum(cells.shape)  # of the residuals
    if squares < 1e-9 or freedom < 1:
        nan = float("nan")
        return DistanceLaw(nan, nan, nan, nan, nan, *sizes)
    weights = pure / squares
    slope = float((weights * cells).sum())
    parts = [
        _over_windows(weights, by_day, column_of, blocks),
        _over_days(weights, rest - slope * pure, freedom),
    ]
    low, high, _ = infer(slope, parts, confidence)
    orders = draw_orders(len(rows), n_orders, rng)
    turned = np.stack([_centre(apart[order]) for order in orders.orders])
    norms = np.sqrt((turned**2).sum(axis=(1, 2)))
    found = np.abs((turned * rest).sum(axis=(1, 2))) / np.maximum(norms, 1e-9)
    known = np.isclose(turned, turned[0]).all(axis=(1, 2))
    known |= np.isclose(turned, -turned[0]).all(axis=(1, 2))
    return DistanceLaw(slope, low, high, float(orders.p_value(found)), orders.p_min(known), *sizes)


def _centre(cells: np.ndarray) -> np.ndarray:
    """Return a matrix less the means of its rows and columns."""
    return cells - cells.mean(axis=0) - cells.mean(axis=1, keepdims=True) + cells.mean()


def _over_windows(
    weights: np.ndarray, by_day: np.ndarray, column_of: np.ndarray, blocks: np.ndarray
) -> tuple[float, float]:
    """Return variance and degrees of freedom of the slope over blocks, the models as they are.

    The slope is a sum over test days of means over windows; so is its variance, and the degrees
    of freedom follow Satterthwaite.
    """
    found = []
    for column in range(weights.shape[1]):
        own = column_of == column
        values = weights[:, column] @ by_day[:, own]
        found.append(variance_over_blocks(values, blocks[own])[0])
    variance = sum(v for v, _ in found)
    if not np.isfinite(variance) or variance <= 0:
        return variance, 1
    return variance, variance**2 / sum(v**2 / n for v, n in found)


def _over_days(weights: np.ndarray, residuals: np.ndarray, freedom: int) -> tuple[float, float]:
    """Return variance and degrees of freedom of the slope over training days.

    What the models of a day miss hangs together over test days, so that a day is one draw.
    """
    n_days = len(weights)
    sums = (weights * residuals).sum(axis=1)
    widened = n_days / (n_days - 1) * residuals.size / freedom
    return float(widened * sums @ sums), n_days - 1
