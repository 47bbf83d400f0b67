"""Which differences so many units can show: power of paired tests."""

from __future__ import annotations

import numpy as np
from scipy import optimize, stats

POWER = 0.8  # with which a difference counts as detectable
MOST_UNITS = 100_000


def minimum_detectable_difference(
    deviation: float, n_units: int, *, alpha: float, power: float = POWER
) -> float:
    """Return the smallest true mean difference that a two-sided paired t test finds with `power`.

    The d for which a variable with the noncentral t distribution, ``n - 1`` degrees of freedom and
    noncentrality ``d sqrt(n) / deviation``, exceeds ``t(1 - alpha / 2; n - 1)`` in absolute value
    with probability `power` (Cohen 1988, Statistical Power Analysis for the Behavioral Sciences,
    chapter 2, in its exact form).

    Parameters
    ----------
    deviation : float
        Standard deviation of the differences between units (``n - 1`` in its denominator).
    n_units : int
        Number of units (participants, blocks).
    alpha, power : float
        Level of the test, and probability of finding the difference.

    Returns
    -------
    float
        In the unit of `deviation`; NaN below two units or for a deviation that is unknown or 0.
    """
    if n_units < 2 or not 0 < deviation < np.inf:
        return float("nan")
    scale = deviation / np.sqrt(n_units)
    highest = 2.0
    while _t_power(highest, n_units, alpha) < power:
        highest *= 2
    root = optimize.brentq(lambda d: _t_power(d, n_units, alpha) - power, 0.0, highest)
    return float(root * scale)


def units_needed(
    deviation: float, difference: float, *, alpha: float, power: float = POWER
) -> int | None:
    """Return the smallest number of units with which `difference` would be found with `power`.

    Enough for the paired t test of `minimum_detectable_difference`, and for the exact two-sided
    sign-flip test to have any p as small as `alpha` (``2 / 2**n``). None for more than 100,000 or
    a deviation that is unknown or 0.
    """
    if not 0 < deviation < np.inf:
        return None
    enough = int(np.ceil(1 - np.log2(alpha)))  # for the sign-flip test

    def too_few(n: int) -> bool:
        return minimum_detectable_difference(deviation, n, alpha=alpha, power=power) > difference

    below, above = enough - 1, enough
    while too_few(above):
        below, above = above, 2 * above
        if below > MOST_UNITS:
            return None
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (middle, above) if too_few(middle) else (below, middle)
    return above


def _t_power(noncentrality: float, n: int, alpha: float) -> float:
    critical = stats.t.ppf(1 - alpha / 2, n - 1)
    right = stats.nct.sf(critical, n - 1, noncentrality)
    # On the wrong side there is next to nothing, which scipy returns as NaN where it is tiny.
    wrong = np.nan_to_num(stats.nct.cdf(-critical, n - 1, noncentrality))
    return float(right + wrong)
