"""Exchange of signal between blocks of windows, and the p-value of all exchanges at once.

An electrode that tells nothing may as well have its signal from another time. Blocks are put into
groups; within a group every block takes the signal of every other block once, window by window.
``cells[b, s]``, the summed rank of the windows of block b with the signal of block s, then gives
the mean rank under *any* order of the blocks within their groups, ``sum_b cells[b, order[b]]``,
without encoding anything again.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Exchange:
    """Which window takes the signal of which.

    Attributes
    ----------
    block_of : array of int, shape (N,)
        Block of each window, from 0.
    groups : tuple of arrays of int
        The blocks that exchange signal with one another; every block is in one group.
    target, source : array of int, shape (n_pairs,)
        Window `target` takes the signal of window `source`, of another block of its group.
    repeat : array of int, shape (n_pairs,)
        0 for the first source of a window, 1 for its second, ...
    """

    block_of: np.ndarray
    groups: tuple[np.ndarray, ...]
    target: np.ndarray
    source: np.ndarray
    repeat: np.ndarray

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return int(self.block_of.max()) + 1

    @property
    def n_repeats(self) -> int:
        """How often each window is replaced at least; 0 where there is one block."""
        return min(len(group) for group in self.groups) - 1

    def subset(self, windows: np.ndarray, n_repeats: int) -> tuple[np.ndarray, np.ndarray]:
        """Return `target` and `source` of some windows, with their first `n_repeats` sources."""
        chosen = np.isin(self.target, windows) & (self.repeat < n_repeats)
        return self.target[chosen], self.source[chosen]

    def mean_per_window(self, values: np.ndarray) -> np.ndarray:
        """Return the mean of `values`, shape (n_pairs,), over the sources of each window, (N,)."""
        n = len(self.block_of)
        return np.bincount(self.target, values, n) / np.bincount(self.target, minlength=n)

    def cells(self, intact: np.ndarray, replaced: np.ndarray) -> np.ndarray:
        """Return the sums over windows for each block and source of its signal.

        Parameters
        ----------
        intact : array of int, shape (N,)
        replaced : array of int, shape (n_pairs,)

        Returns
        -------
        array of int64, shape (n_blocks, n_blocks)
            Integers, so that equal sums are equal. Zero between groups.
        """
        cells = np.zeros((self.n_blocks, self.n_blocks), dtype=np.int64)
        np.add.at(cells, (self.block_of, self.block_of), intact)
        np.add.at(cells, (self.block_of[self.target], self.block_of[self.source]), replaced)
        return cells


@dataclass(frozen=True)
class BlockOrders:
    """Orders of the blocks within their groups.

    Attributes
    ----------
    orders : array of int, shape (n_orders, n_blocks)
        ``orders[k, b]`` is the block whose signal block b takes.
    complete : bool
        Whether these are all orders there are, the true one among them; else a random sample.
    """

    orders: np.ndarray
    complete: bool

    @property
    def p_min(self) -> float:
        """The smallest p-value that these orders can give."""
        return 1 / (len(self.orders) + (not self.complete))

    def p_value(self, cells: np.ndarray) -> float:
        """Return the probability of a sum as low as that of the true order, or lower.

        If the signals of the blocks of a group are exchangeable (whatever the sound and the other
        electrodes are), all orders are equally likely and ``P(p <= alpha) <= alpha`` for any number
        of blocks, exactly: with all orders p is their fraction, with a random sample the true order
        counts as one more (Phipson and Smyth 2010, doi:10.2202/1544-6115.1585).

        Parameters
        ----------
        cells : array of int, shape (n_blocks, n_blocks)
            From `Exchange.cells`.
        """
        sums = cells[np.arange(len(cells)), self.orders].sum(axis=1)
        n_as_low = int((sums <= np.trace(cells)).sum())
        n_more = not self.complete
        return (n_as_low + n_more) / (len(sums) + n_more)


def plan_exchange(
    blocks: np.ndarray, draws: int, n_orders: int, rng: np.random.Generator
) -> Exchange:
    """Return an exchange that replaces at least `draws` windows and allows `n_orders` orders.

    The groups are as small as both wishes allow, and at most one group of all blocks. Blocks of
    similar length share a group, otherwise by lot. Window j of a block takes window ``j mod n`` of
    a block of n windows. Where lengths within a group differ, windows beyond the shorter length are
    taken twice, and the test is exact only nearly.

    Parameters
    ----------
    blocks : array, shape (N,)
        Block of each window; the windows of a block stand in order of time.
    draws, n_orders : int
    rng : numpy.random.Generator
    """
    block_of = np.unique(blocks, return_inverse=True)[1]
    members = [np.flatnonzero(block_of == block) for block in range(block_of.max() + 1)]
    lengths = np.array([len(windows) for windows in members])
    by_lot = rng.permutation(len(members))
    alike = by_lot[np.argsort(lengths[by_lot], kind="stable")]
    groups = tuple(np.array_split(alike, _n_groups(lengths, draws, n_orders)))
    pairs = np.concatenate([_pair(group, members) for group in groups], axis=1)
    target, source, repeat = pairs[:, np.lexsort((pairs[0], pairs[2]))]
    return Exchange(block_of, groups, target, source, repeat)


def _n_groups(lengths: np.ndarray, draws: int, n_orders: int) -> int:
    """Return into how many groups the blocks go."""
    n_blocks = len(lengths)
    smallest = min(1 + max(1, math.ceil(draws / lengths.sum())), n_blocks)
    for n_groups in range(n_blocks // smallest, 1, -1):
        sizes = [len(part) for part in np.array_split(np.arange(n_blocks), n_groups)]
        if count_orders(sizes) > n_orders:
            return n_groups
    return 1


def count_orders(sizes: Sequence[int]) -> int:
    """Return the number of orders of blocks within groups of these sizes."""
    return math.prod(math.factorial(size) for size in sizes)


def _pair(group: np.ndarray, members: list[np.ndarray]) -> np.ndarray:
    """Return target, source and repeat of all windows of a group, shape (3, n)."""
    parts = [np.empty((3, 0), dtype=int)]
    for shift in range(1, len(group)):
        for block, lender in zip(group, np.roll(group, -shift), strict=True):
            target = members[block]
            source = members[lender][np.arange(len(target)) % len(members[lender])]
            parts.append(np.stack([target, source, np.full(len(target), shift - 1)]))
    return np.concatenate(parts, axis=1)


def order_blocks(exchange: Exchange, n_orders: int, rng: np.random.Generator) -> BlockOrders:
    """Return all orders of the blocks within their groups, or `n_orders` where there are more."""
    groups = exchange.groups
    orders = np.tile(np.arange(exchange.n_blocks), (n_orders, 1))
    if count_orders([len(group) for group in groups]) <= n_orders:
        return BlockOrders(np.array(list(_all_orders(groups, exchange.n_blocks))), complete=True)
    for group in groups:
        orders[:, group] = rng.permuted(orders[:, group], axis=1)
    return BlockOrders(orders, complete=False)


def _all_orders(groups: Sequence[np.ndarray], n_blocks: int) -> Iterator[np.ndarray]:
    for parts in itertools.product(*(itertools.permutations(group) for group in groups)):
        order = np.arange(n_blocks)
        for group, part in zip(groups, parts, strict=True):
            order[group] = part
        yield order
