"""The loss of rank without some electrodes and the rank with one alone, with interval and p."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bids_speechdecode.config import EvaluationConfig
from bids_speechdecode.decoding.permutation import BlockOrders, Exchange
from bids_speechdecode.decoding.replacement import Retrieval
from bids_speechdecode.decoding.statistics import bootstrap_interval


@dataclass(frozen=True)
class Estimate:
    """A mean over windows, its interval from resampled blocks, and p; NaN where not known."""

    mean: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    p: float = float("nan")


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
        self.worst = 2 * (len(self.intact) - 1)

    @property
    def mean_rank(self) -> float:
        """Mean relative rank with all electrodes."""
        return float(self.intact.mean() / self.worst)

    @property
    def p_min(self) -> float:
        """The smallest p that is possible; NaN where there is one block."""
        return self.orders.p_min if self.exchange.n_repeats else float("nan")

    def replace(self, channels: Sequence[int]) -> Estimate:
        """Return the loss of rank when `channels` take, together, the signal of other blocks."""
        exchange = self.exchange
        if not exchange.n_repeats:
            return Estimate()
        replaced = self.retrieval.replaced(
            channels, exchange.target, exchange.source, exchange.target
        )
        loss = (exchange.mean_per_window(replaced) - self.intact) / self.worst
        p = self.orders.p_value(exchange.cells(self.intact, replaced))
        return self.interval(loss, exchange.block_of, p)

    def keep(self, channel: int, target: np.ndarray, source: np.ndarray) -> Estimate:
        """Return the rank of windows `target` when all others come from windows `source`."""
        if not len(target):
            return Estimate()
        ranks = self.retrieval.replaced([channel], source, target, target) / self.worst
        return self.interval(ranks, self.exchange.block_of[target])

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
