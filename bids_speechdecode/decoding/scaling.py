"""What more data bring: relative rank as a function of hours, and whether the gain comes to an end.

Every amount of data gives a model, every model ranks the same held-out windows. Two things make
such a curve uncertain: other windows would have been ranked otherwise, and another start of the
training would have given another model. Blocks of windows tell the first, the scatter of the
models around the curve the second.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

from bids_speechdecode.errors import DataError
from bids_speechdecode.statistics import sum_blocks

LINE, PLATEAU, POWER = "line", "plateau", "power"
FEWEST_AMOUNTS = 3  # a line through two has nothing to be judged by
CLEARLY = 2.0  # of AICc: the usual bound of "less support" (Burnham & Anderson 2002)
EXPONENTS = (1e-3, 5.0)  # of the power law, per doubling


@dataclass(frozen=True)
class ScalingLaw:
    """How relative rank changes with the logarithm of the amount of data.

    Attributes
    ----------
    slope : float
        Change of the mean relative rank per doubling of the data; negative is better.
    level : float
        Mean relative rank on the line at 1 hour.
    ci_low, ci_high, p : float
        Of the slope, two-sided; NaN with fewer than three amounts, or a single block.
    n_amounts, n_models, n_blocks : int
    aicc : dict from str to float
        Corrected information criterion of a line in the logarithm ("line"), a line that ends in a
        plateau ("plateau") and a power law that approaches a floor ("power"), less that of the
        best; infinite where there are too few models.
    plateau : float or None
        Hours from which on the best plateau lies flat.
    """

    slope: float
    level: float
    ci_low: float
    ci_high: float
    p: float
    n_amounts: int
    n_models: int
    n_blocks: int
    aicc: dict[str, float]
    plateau: float | None

    @property
    def saturates(self) -> bool:
        """Whether a curve that comes to an end describes the models clearly better than a line."""
        return min(self.aicc[PLATEAU], self.aicc[POWER]) + CLEARLY < self.aicc[LINE]


def fit_scaling(
    hours: ArrayLike, ranks: np.ndarray, blocks: ArrayLike, *, confidence: float = 0.95
) -> ScalingLaw:
    """Fit ``rank = level + slope * log2(hours)`` to models that ranked the same windows.

    The slope is linear in the ranks, ``sum_m w_m rank_m``; its variance is the sum of two: that
    of its mean over blocks of windows (the models as they are), and that from the scatter of the
    models' mean ranks around the line: of least squares, or with the residuals that models would
    have had if they had been left out (HC3, MacKinnon and White 1985,
    doi:10.1016/0304-4076(85)90158-7), whichever is larger, since models of much data may scatter
    otherwise than those of little. What windows contribute to that scatter is counted twice, so
    that the interval is rather too wide than too narrow. Student's t, degrees of freedom after
    Satterthwaite (1946, doi:10.2307/3002019).

    Parameters
    ----------
    hours : array, shape (n_models,)
        Amount of training data of each model, above 0.
    ranks : array, shape (n_models, n_windows)
        Relative rank of every held-out window with every model.
    blocks : array, shape (n_windows,)
        Contiguous block of each window.
    confidence : float

    Raises
    ------
    DataError
        Fewer than two different amounts, or an amount that is not above 0.
    """
    hours, ranks = np.asarray(hours, dtype=float), np.asarray(ranks, dtype=float)
    n_amounts = len(np.unique(hours))
    if n_amounts < 2 or not (hours > 0).all():
        raise DataError(
            "A scaling law needs models of different amounts of data.",
            expected="at least two amounts, all above 0 hours",
            found=", ".join(f"{h:g}" for h in np.unique(hours)) or "none",
        )
    x, y = np.log2(hours), ranks.mean(axis=1)
    centred = x - x.mean()
    weights = centred / (centred @ centred)
    slope = float(weights @ y)
    level = float(y.mean() - slope * x.mean())
    by_window, n_blocks = variance_over_blocks(weights @ ranks, blocks)
    by_model = _variance_over_models(y - level - slope * x, centred)
    low, high, p = infer(slope, [by_window, by_model], confidence)
    aicc, plateau = _compare_curves(x, y)
    return ScalingLaw(slope, level, low, high, p, n_amounts, len(hours), n_blocks, aicc, plateau)


def variance_over_blocks(values: np.ndarray, blocks: ArrayLike) -> tuple[tuple[float, int], int]:
    """Return variance and degrees of freedom of the mean over windows, and the number of blocks."""
    sums, counts = sum_blocks(values, blocks)
    n = len(sums)
    if n < 2:
        return (float("nan"), 0), n
    deviations = sums - counts * values.mean()
    return (float(n / (n - 1) * (deviations @ deviations) / counts.sum() ** 2), n - 1), n


def _variance_over_models(residuals: np.ndarray, centred: np.ndarray) -> tuple[float, int]:
    """Return variance and degrees of freedom of the slope from residuals of the models."""
    n, squares = len(residuals), float(centred @ centred)
    freedom = n - 2
    if freedom < 1:
        return float("nan"), 0
    left = 1 - 1 / n - centred**2 / squares  # 1 less the leverage
    alone = left < 1e-9  # the line goes through it wherever it is
    left_out = np.where(alone, 0.0, residuals / np.where(alone, 1.0, left))
    by_least_squares = float(residuals @ residuals) / freedom / squares
    return max(by_least_squares, float(((centred * left_out) ** 2).sum()) / squares**2), freedom


def infer(
    slope: float, parts: Sequence[tuple[float, float]], confidence: float
) -> tuple[float, float, float]:
    """Return interval and p from several variances with their degrees of freedom."""
    variance = sum(v for v, _ in parts)
    if not np.isfinite(variance) or variance <= 0:
        return float("nan"), float("nan"), float("nan")
    freedom = variance**2 / sum(v**2 / n for v, n in parts)
    error = variance**0.5
    reach = float(stats.t.ppf((1 + confidence) / 2, freedom)) * error
    return slope - reach, slope + reach, float(2 * stats.t.sf(abs(slope) / error, freedom))


# --------------------------------------------------------------------- does it come to an end?


def _compare_curves(x: np.ndarray, y: np.ndarray) -> tuple[dict[str, float], float | None]:
    """Return AICc of each curve less that of the best, and hours at the start of the plateau."""
    bend, plateau = _fit_plateau(x, y)
    # Parameters of the mean, and the variance.
    scores = {
        LINE: _aicc(_squares(_line(x), y), len(y), 3),
        PLATEAU: _aicc(plateau, len(y), 4),
        POWER: _aicc(_fit_power(x, y), len(y), 4),
    }
    best = min(scores.values())
    apart = {name: s - best if np.isfinite(best) else np.inf for name, s in scores.items()}
    return apart, None if bend is None else float(2**bend)


def _aicc(squares: float, n: int, k: int) -> float:
    if n - k - 1 < 1 or not np.isfinite(squares):
        return float("inf")
    return float(n * np.log(max(squares, 1e-300) / n) + 2 * k + 2 * k * (k + 1) / (n - k - 1))


def _line(x: np.ndarray) -> np.ndarray:
    return np.column_stack([np.ones_like(x), x])


def _squares(design: np.ndarray, y: np.ndarray) -> float:
    residual = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    return float(residual @ residual)


def _fit_plateau(x: np.ndarray, y: np.ndarray) -> tuple[float | None, float]:
    """Return where the best line with a flat end bends, and its sum of squares."""
    amounts = np.unique(x)
    if len(amounts) < FEWEST_AMOUNTS:
        return None, float("inf")
    # At least two amounts before the bend: else it is two levels and no line.
    bends = np.linspace(amounts[1], amounts[-1], 50)[:-1]
    found = [_squares(_line(np.minimum(x, bend)), y) for bend in bends]
    return float(bends[int(np.argmin(found))]), float(min(found))


def _fit_power(x: np.ndarray, y: np.ndarray) -> float:
    """Return the sum of squares of ``floor + gain * hours ** -k``, linear but for k."""
    if len(np.unique(x)) < FEWEST_AMOUNTS:
        return float("inf")
    error: Callable[[float], float] = lambda k: _squares(  # noqa: E731
        np.column_stack([np.ones_like(x), 2 ** (-k * (x - x.min()))]), y
    )
    found = optimize.minimize_scalar(error, bounds=EXPONENTS, method="bounded")
    return float(found.fun)
