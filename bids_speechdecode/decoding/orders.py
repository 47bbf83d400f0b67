"""Orders of a few units, such as days or recordings: all of them, or a random choice."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Orders:
    """Orders of `n` units under which something is computed again.

    Attributes
    ----------
    orders : array of int, shape (n_orders, n)
        ``orders[k, u]`` is the unit whose label unit u takes. The first is the true order.
    complete : bool
        Whether these are all orders there are; else the others are a random sample.
    """

    orders: np.ndarray
    complete: bool

    def p_value(self, values: np.ndarray) -> np.ndarray:
        """Return the share of orders with a value as high as that of the true order, or higher.

        With a random sample the true order counts as one more (Phipson and Smyth 2010,
        doi:10.2202/1544-6115.1585), since it stands at the head of `orders` in any case.

        Parameters
        ----------
        values : array, shape (n_orders, ...)

        Returns
        -------
        array, shape (...)
        """
        # The same sum in another order may differ in its last bits; it must still count as equal.
        slack = 1e-9 * np.maximum(1e-9, np.abs(values).max(axis=0))
        return (values >= values[0] - slack).mean(axis=0)

    def p_min(self, is_same: np.ndarray) -> float:
        """Return the smallest p, given which orders bring the true labels back."""
        return float(is_same.mean())


def draw_orders(n: int, n_wanted: int, rng: np.random.Generator) -> Orders:
    """Return all orders of `n` units if they are at most `n_wanted`, else so many drawn at random.

    Examples
    --------
    >>> draw_orders(3, 10, np.random.default_rng(0)).orders.tolist()[:2]
    [[0, 1, 2], [0, 2, 1]]
    """
    if math.factorial(min(n, 20)) <= n_wanted:
        return Orders(np.array(list(itertools.permutations(range(n)))), complete=True)
    orders = rng.permuted(np.tile(np.arange(n), (n_wanted + 1, 1)), axis=1)
    orders[0] = np.arange(n)
    return Orders(orders, complete=False)
