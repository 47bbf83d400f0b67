"""What is lost without some electrodes, and the rank with one alone, with interval and p."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bids_speechdecode.config import EvaluationConfig
from bids_speechdecode.decoding.permutation import BlockOrders, Exchange
from bids_speechdecode.decoding.replacement import MARGIN_UNIT, Retrieval
from bids_speechdecode.statistics import bootstrap_interval


@dataclass(frozen=True)
class Estimate:
    """A mean over windows, its interval from resampled blocks, and p; NaN where not known."""

    mean: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    p: float = float("nan")


@dataclass(frozen=True)
class Loss:
    """What replacing electrodes costs: rise of relative rank, and fall of the margin."""

    rank: Estimate = Estimate()
    margin: Estimate = Estimate()


class RankTest:
    """What replacing and keeping electrodes does to the ranks; all calls use the same draws."""

    def __init__(
        self,
        retrieval: Retrieval,
        exchange: Exchange,
        orders: BlockOrders,
        evaluation: EvaluationConfig,
        seed: int,
    ) -> None:
        self.retrieval, self.exchange, self.orders = retrieval, exchange, orders
        self.evaluation, self.seed = evaluation, seed
        self.intact = retrieval.intact()
        self.worst = 2 * (len(self.intact.ranks) - 1)

    @property
    def mean_rank(self) -> float:
        """Mean relative rank with all electrodes."""
        return float(self.intact.ranks.mean() / self.worst)

    @property
    def p_min(self) -> float:
        """The smallest p that is possible; NaN where there is one block."""
        return self.orders.p_min if self.exchange.n_repeats else float("nan")

    def replace(self, channels: Sequence[int]) -> Loss:
        """Return what it costs when `channels` take, together, the signal of other blocks."""
        exchange = self.exchange
        if not exchange.n_repeats:
            return Loss()
        replaced = self.retrieval.replaced(
            channels, exchange.target, exchange.source, exchange.target
        )
        # A small margin is bad, as a large rank is.
        return Loss(
            self._cost(self.intact.ranks, replaced.ranks, 1 / self.worst),
            self._cost(-self.intact.margins, -replaced.margins, MARGIN_UNIT),
        )

    def _cost(self, intact: np.ndarray, replaced: np.ndarray, unit: float) -> Estimate:
        """Return the mean rise of integers of `unit`, with interval and p."""
        exchange = self.exchange
        rise = (exchange.mean_per_window(replaced) - intact) * unit
        p = self.orders.p_value(exchange.cells(intact, replaced))
        return self.interval(rise, exchange.block_of, p)

    def keep(self, channel: int, target: np.ndarray, source: np.ndarray) -> Estimate:
        """Return the rank of windows `target` when all others come from windows `source`."""
        if not len(target):
            return Estimate()
        placed = self.retrieval.replaced([channel], source, target, target)
        return self.interval(placed.ranks / self.worst, self.exchange.block_of[target])

    def interval(self, values: np.ndarray, blocks: np.ndarray, p: float = float("nan")) -> Estimate:
        """Return the mean of values of windows, and its interval from resampled blocks."""
        low, high = bootstrap_interval(
            values,
            blocks,
            n_bootstrap=self.evaluation.n_bootstrap,
            confidence=self.evaluation.confidence,
            rng=np.random.default_rng(self.seed),
        )
        return Estimate(float(np.mean(values)), low, high, p)
