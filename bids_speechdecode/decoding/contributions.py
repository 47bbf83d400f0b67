"""Which electrodes carry the result? Loss of rank without an electrode, and rank with it alone.

All on held-out windows, all N of them candidates, with the similarity of the loss:

- *contribution*: the signal of the electrode in each window is replaced by its signal in a window
  of another block. What this costs in mean relative rank (permutation importance, Breiman 2001,
  doi:10.1023/A:1010933404324; above 0: the electrode helps). Whole blocks change place, so the
  signal keeps its autocorrelation.
- *margin*: the same replacement, seen in how far the true sound stands out among the candidates.
  The rank of a window that stays first tells nothing; its margin does. Where decoding is good,
  this is the more sensitive of the two.
- *shaft*: the same for all electrodes of a shaft together. Neighbours hear the same sources and can
  stand in for each other, so a shaft may matter when none of its contacts does.
- *alone*: every other electrode is replaced, together, and only this one is intact: the mean
  relative rank (0.5: chance). The encoder has learnt with all electrodes; one trained on this
  electrode only may do better.
- *integrated gradient*: a second opinion that replaces nothing (see `gradients`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from scipy import stats

from bids_speechdecode.config import ContributionConfig, EvaluationConfig
from bids_speechdecode.decoding.encoder import Encoder
from bids_speechdecode.decoding.evaluation import CHANCE
from bids_speechdecode.decoding.gradients import PathIntegrals, integrate_gradients
from bids_speechdecode.decoding.neighbours import nearest_correlations
from bids_speechdecode.decoding.permutation import Exchange, order_blocks, plan_exchange
from bids_speechdecode.decoding.rank_loss import Estimate, RankTest
from bids_speechdecode.decoding.replacement import Retrieval
from bids_speechdecode.decoding.windows import WindowSet
from bids_speechdecode.errors import DataError
from bids_speechdecode.statistics import FEW_BLOCKS

# A rank alone is read to two digits and wants fewer windows than a small loss.
_ALONE_SHARE = 4
# A step along the path goes forward and back: it takes about as long as three windows.
_COST_OF_STEP = 3
# A path integral with a larger error, relative to the score, is not shared out.
_COARSE = 0.1

COLUMNS = {
    "contribution": "Loss of mean relative rank when the electrode's signal is replaced by its "
    "signal in another block (above 0: the electrode helps)",
    "ci_low": "Lower limit of the interval of contribution, from resampled blocks",
    "ci_high": "Upper limit of the interval of contribution",
    "p": "Probability of such a loss if the electrode's signal told nothing of the sound or of the "
    "other electrodes, from exchanged blocks",
    "p_min": "The smallest p that this number of blocks can give",
    "q": "False discovery rate over electrodes (Benjamini-Hochberg)",
    "margin_contribution": "Fall of the margin (how many standard deviations of all candidates' "
    "similarities the true sound is above their mean) when the electrode's signal is replaced",
    "margin_ci_low": "Lower limit of the interval of margin_contribution, from resampled blocks",
    "margin_ci_high": "Upper limit of the interval of margin_contribution",
    "margin_p": "As p, for the margin",
    "margin_q": "False discovery rate of margin_p over electrodes (Benjamini-Hochberg)",
    "rank_alone": "Mean relative rank when all other electrodes are replaced (0.5: chance)",
    "alone_ci_low": "Lower limit of the interval of rank_alone, from resampled blocks",
    "alone_ci_high": "Upper limit of the interval of rank_alone",
    "shaft_contribution": "Loss of mean relative rank when all electrodes of the shaft are "
    "replaced together",
    "shaft_ci_low": "Lower limit of the interval of shaft_contribution, from resampled blocks",
    "shaft_ci_high": "Upper limit of the interval of shaft_contribution",
    "shaft_p": "As p, for the shaft",
    "shaft_q": "False discovery rate over shafts (Benjamini-Hochberg)",
    "integrated_gradient": "Share of the electrode in the path integral of the score from no "
    "signal to the window; all electrodes sum to 1",
    "redundancy": "shaft_contribution minus the sum of the contributions of the shaft's "
    "electrodes (above 0: they stand in for each other)",
    "nearest_neighbour_r": "Correlation with another electrode that is highest in absolute value",
}


@dataclass(frozen=True)
class Contributions:
    """Contributions of electrodes.

    Attributes
    ----------
    columns : dict of str to array, shape (C,)
        One array for each name in `COLUMNS`, which says what it is; NaN where nothing can be said.
    p_min : float
        The smallest p that these blocks can give.
    mean_rank : float
        Mean relative rank of all windows, with all electrodes.
    score_gain : float
        What the path integrals of the electrodes sum to: the mean over windows of ``s(x) - s(0)``,
        with s the cosine with the own sound minus the mean cosine with all.
    n_windows, n_blocks : int
    n_repeats : int
        How often each window was replaced, at least.
    notes : tuple of str
        What limits these numbers, and which shafts matter while none of their contacts does.
    """

    columns: dict[str, np.ndarray] = field(repr=False)
    p_min: float
    mean_rank: float
    score_gain: float
    n_windows: int
    n_blocks: int
    n_repeats: int
    notes: tuple[str, ...]

    def table(self) -> pd.DataFrame:
        """Return one row an electrode, in the order of the channels."""
        return pd.DataFrame(self.columns)

    def summary(self) -> dict[str, object]:
        """Return what belongs beside the table."""
        return {
            "MeanRank": self.mean_rank,
            "ScoreGain": self.score_gain,
            "NWindows": self.n_windows,
            "NBlocks": self.n_blocks,
            "Repeats": self.n_repeats,
            "Notes": list(self.notes),
        }


def electrode_contributions(
    encoder: Encoder,
    windows: WindowSet,
    blocks: np.ndarray,
    shafts: Sequence[str],
    settings: ContributionConfig,
    evaluation: EvaluationConfig,
    rng: np.random.Generator,
    on_progress: Callable[[float], None] | None = None,
) -> Contributions:
    """Return what each electrode contributes to retrieving the sound of held-out windows.

    Every window takes the signal of several others, as many as `settings.draws` needs and as give
    the blocks more orders than `settings.n_permutations`. From their ranks the mean rank under any
    order of the blocks follows, so the permutation test needs no further encoding (see
    `permutation`). Its null hypothesis is that the electrode's blocks are exchangeable: that its
    signal depends neither on the sound nor on the other electrodes. An electrode that hears
    nothing but shares noise with one that does may well help, by telling noise from sound.

    The intervals take blocks as independent, although all share their candidates and lend signal
    to each other. In simulations with 8 and 20 blocks (250 datasets each), 95% intervals covered
    the mean loss over datasets in 90 to 93% where the electrode or shaft helps, and in 95 to 98%
    where it does not.

    Parameters
    ----------
    encoder : Encoder
        Moved to the device of the windows and set to evaluation mode.
    windows : WindowSet
        Held-out windows; those of a block in order of time.
    blocks : array, shape (N,)
        Contiguous block of each window (see `statistics.label_blocks`).
    shafts : sequence of str, length C
        Shaft of each electrode; "" where it has none.
    settings : ContributionConfig
    evaluation : EvaluationConfig
        For its `n_bootstrap` and `confidence`.
    rng : numpy.random.Generator
        All electrodes share its draws.
    on_progress : callable, optional
        Called with the share of the work done since the last call; they sum to 1.

    Raises
    ------
    DataError
        Fewer than two windows, numbers that do not match, or anything that is not finite.
    """
    blocks = np.asarray(blocks)
    _check(windows, blocks, shafts)
    exchange = plan_exchange(blocks, settings.draws, settings.n_permutations, rng)
    orders = order_blocks(exchange, settings.n_permutations, rng)
    work = _Work.plan(exchange, shafts, settings)
    tell = _share_of(work.n_encoded(len(windows), settings.ig_steps), on_progress)
    retrieval = Retrieval(encoder, windows, tell)
    test = RankTest(retrieval, exchange, orders, evaluation, int(rng.integers(2**63)))

    losses = [test.replace([c]) for c in range(windows.n_channels)]
    single, margins = [loss.rank for loss in losses], [loss.margin for loss in losses]
    by_shaft = {
        # One contact is its shaft.
        name: test.replace(members).rank if len(members) > 1 else single[members[0]]
        for name, members in work.shafts.items()
    }
    alone = [test.keep(c, *work.alone) for c in range(windows.n_channels)]
    integrals = integrate_gradients(
        retrieval.encoder,
        windows,
        torch.from_numpy(work.explained).to(windows.device),
        settings.ig_steps,
        batch_size=retrieval.batch_size,
        on_encoded=lambda n: tell(_COST_OF_STEP * n),
    )
    score = test.interval(integrals.gained, blocks[work.explained])
    columns = {
        **_columns("", single, ("contribution", "ci_low", "ci_high", "p")),
        "p_min": np.full(len(single), test.p_min),
        "q": _false_discovery_rates([e.p for e in single]),
        **_columns("margin_", margins, ("contribution", "ci_low", "ci_high", "p")),
        "margin_q": _false_discovery_rates([e.p for e in margins]),
        **_columns("", alone, ("rank_alone", "alone_ci_low", "alone_ci_high")),
        **_shaft_columns(shafts, single, by_shaft, work.shafts),
        "integrated_gradient": _shares(integrals, score),
        "nearest_neighbour_r": nearest_correlations(windows),
    }
    notes = (
        *_limits(test, integrals, score, len(single)),
        *_stand_ins(columns, work.shafts, 1 - evaluation.confidence),
    )
    return Contributions(
        columns={name: columns[name] for name in COLUMNS},
        p_min=test.p_min,
        mean_rank=test.mean_rank,
        score_gain=score.mean,
        n_windows=len(windows),
        n_blocks=exchange.n_blocks,
        n_repeats=exchange.n_repeats,
        notes=notes,
    )


def _check(windows: WindowSet, blocks: np.ndarray, shafts: Sequence[str]) -> None:
    if len(windows) < 2 or len(blocks) != len(windows):
        raise DataError(
            "Contributions need at least two windows, each with its block.",
            expected=f"a block for each of {len(windows)} windows",
            found=f"{len(blocks)} blocks",
        )
    if len(shafts) != windows.n_channels:
        raise DataError(
            "Each electrode needs the name of its shaft, or an empty one.",
            expected=f"{windows.n_channels} names",
            found=str(len(shafts)),
        )


@dataclass(frozen=True)
class _Work:
    """What there is to do.

    Attributes
    ----------
    n_pairs : int
        Replaced windows of each electrode and shaft.
    alone : tuple of two arrays
        Windows that keep one electrode only, and the windows the others come from.
    explained : array
        Windows with a path integral.
    shafts : dict of str to list of int
        Electrodes of each shaft.
    n_channels : int
    """

    n_pairs: int
    alone: tuple[np.ndarray, np.ndarray]
    explained: np.ndarray
    shafts: dict[str, list[int]]
    n_channels: int

    @classmethod
    def plan(cls, exchange: Exchange, shafts: Sequence[str], settings: ContributionConfig) -> _Work:
        in_time = np.argsort(exchange.block_of, kind="stable")
        n_alone = -(-settings.draws // _ALONE_SHARE)
        members: dict[str, list[int]] = {}
        for channel, shaft in enumerate(shafts):
            if shaft:
                members.setdefault(shaft, []).append(channel)
        return cls(
            n_pairs=len(exchange.target),
            alone=exchange.subset(_evenly(in_time, n_alone), -(-n_alone // len(in_time))),
            explained=np.sort(_evenly(in_time, settings.draws)),
            shafts=members,
            n_channels=len(shafts),
        )

    def n_encoded(self, n_windows: int, n_steps: int) -> int:
        """Return how many windows are encoded in all, a step of a path counted as several."""
        n_joint = sum(len(members) > 1 for members in self.shafts.values())
        return (
            n_windows
            + (self.n_channels + n_joint) * self.n_pairs
            + self.n_channels * len(self.alone[0])
            + _COST_OF_STEP * n_steps * len(self.explained)
        )


def _evenly(values: np.ndarray, n: int) -> np.ndarray:
    """Return at most `n` of the values, evenly spread."""
    places = np.linspace(0, len(values) - 1, min(n, len(values)))
    return values[places.round().astype(int)]


def _share_of(total: int, on_progress: Callable[[float], None] | None) -> Callable[[int], None]:
    """Return a function that takes an amount of work and tells its share of the total."""
    return lambda amount: on_progress(amount / total) if on_progress else None


def _columns(
    prefix: str, estimates: Sequence[Estimate], names: Sequence[str]
) -> dict[str, np.ndarray]:
    """Return the first numbers of each estimate as columns."""
    parts = ("mean", "low", "high", "p")
    return {
        prefix + name: np.array([getattr(e, part) for e in estimates])
        for name, part in zip(names, parts, strict=False)
    }


def _shaft_columns(
    shafts: Sequence[str],
    single: Sequence[Estimate],
    by_shaft: Mapping[str, Estimate],
    members: Mapping[str, Sequence[int]],
) -> dict[str, np.ndarray]:
    """Return the columns of shafts, each electrode with those of its own."""
    rates = _false_discovery_rates([e.p for e in by_shaft.values()])
    rate_of = dict(zip(by_shaft, rates, strict=True))
    surplus = {
        name: estimate.mean - sum(single[c].mean for c in members[name])
        for name, estimate in by_shaft.items()
    }
    nan = float("nan")
    own = [by_shaft.get(name, Estimate()) for name in shafts]
    return {
        **_columns("shaft_", own, ("contribution", "ci_low", "ci_high", "p")),
        "shaft_q": np.array([rate_of.get(name, nan) for name in shafts]),
        "redundancy": np.array([surplus.get(name, nan) for name in shafts]),
    }


def _false_discovery_rates(p: Sequence[float]) -> np.ndarray:
    """Return q-values (Benjamini and Hochberg 1995) of those p that are known."""
    values = np.array(p, dtype=float)
    known = np.isfinite(values)
    if known.any():
        values[known] = stats.false_discovery_control(values[known])
    return values


def _shares(integrals: PathIntegrals, score: Estimate) -> np.ndarray:
    """Return each electrode's share of the path integral; NaN where the whole is not known."""
    means = integrals.by_electrode.mean(axis=0)
    known = _is_positive(score) and integrals.error <= _COARSE
    return means / means.sum() if known else np.full(len(means), np.nan)


def _is_positive(score: Estimate) -> bool:
    return score.mean > 0 and not score.low <= 0


def _limits(
    test: RankTest, integrals: PathIntegrals, score: Estimate, n_electrodes: int
) -> list[str]:
    """Return in words what these numbers cannot show."""
    notes, alpha = [], 1 - test.evaluation.confidence
    n_blocks, p_min = test.exchange.n_blocks, test.p_min
    if n_blocks < 2:
        notes.append("One block of test windows: no signal of another block can be put in place.")
    elif n_blocks < FEW_BLOCKS:
        notes.append(
            f"Only {n_blocks} blocks of test windows: intervals are unreliable "
            f"(at least {FEW_BLOCKS} are needed)."
        )
    if p_min > alpha:
        notes.append(f"No p below {p_min:.3g} is possible here.")
    elif p_min * n_electrodes > alpha:
        notes.append(
            f"One electrode alone cannot have a q below {min(1.0, p_min * n_electrodes):.2g} here: "
            f"p is at least {p_min:.2g} and there are {n_electrodes} electrodes."
        )
    if test.mean_rank >= CHANCE:
        notes.append(
            f"With all electrodes the mean relative rank is {test.mean_rank:.3f}, not better than "
            "chance: there is nothing to share out."
        )
    if not _is_positive(score):
        notes.append("The mean score may be zero: integrated gradients have no share of it.")
    elif integrals.error > _COARSE:
        notes.append(
            f"The path integrals miss {integrals.error:.0%} of the score and are not shared out: "
            "take more steps."
        )
    return notes


def _stand_ins(
    columns: Mapping[str, np.ndarray], members: Mapping[str, Sequence[int]], alpha: float
) -> list[str]:
    """Return in words which shafts matter while none of their contacts does."""
    notes = []
    for name, channels in members.items():
        q_shaft, q = columns["shaft_q"][channels[0]], columns["q"][list(channels)]
        if len(channels) > 1 and q_shaft <= alpha and (q > alpha).all():
            loss = columns["shaft_contribution"][channels[0]]
            redundant = columns["redundancy"][channels[0]] > 0
            notes.append(
                f"Shaft {name} matters (loss of rank {loss:.3f}, q = {q_shaft:.2g}) but none of "
                f"its {len(channels)} electrodes reaches that alone"
                + (": they stand in for each other." if redundant else ".")
            )
    return notes
