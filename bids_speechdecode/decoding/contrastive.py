"""One similarity for training and for testing: the contrastive loss and the retrieval ranks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional

from bids_speechdecode.errors import DataError

# Similarities closer than this are equal: float32 sums differ by as much with their order.
TIE = 1e-6

# Sound of which the cosine differs from 1 by less is the same sound.
_SAME_SOUND = 1e-5

# As in CLIP: without a bound the scale runs away once the training pairs are learnt by heart.
_MAX_SCALE = 100.0


def unit_vectors(embeddings: torch.Tensor) -> torch.Tensor:
    """Return embeddings of length 1 in float32, shape (B, d) or (B, F * d).

    With frames, (B, F, d), the whole time course is one vector.
    """
    return functional.normalize(embeddings.flatten(1).float(), dim=1)


class ClipLoss(nn.Module):
    """Cross-entropy of finding the sound of each brain window among the sounds of the batch.

    ``-mean_i log softmax_j(cos(brain_i, audio_j) / temperature)[i]``

    The temperature is learnt (Radford et al., 2021); its inverse stays below 100. The symmetric
    form is the mean of this and of finding the brain window of each sound.

    A sound that is in the batch twice (heard in two recordings, or windows of silence with equal
    targets) is no negative for itself: such pairs are left out of the softmax.

    With several processes the negatives are those of all of them. Every process then computes the
    loss of the joint batch, and the gradient reaches its own windows only, scaled by the number of
    processes, so that the mean over processes that `DistributedDataParallel` takes is the gradient
    of one process with the joint batch, however it is shared out. In evaluation mode the loss is
    that of this process's windows alone.

    Parameters
    ----------
    temperature : float
        Initial value.
    symmetric : bool
        False is brain to audio only, as in arXiv 2512.15830.
    """

    def __init__(self, temperature: float = 0.07, symmetric: bool = False) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(1.0 / temperature)))
        self.symmetric = symmetric

    def forward(self, brain: torch.Tensor, audio: torch.Tensor) -> torch.Tensor:
        """Return the loss of pairs, each of shape (B, d) or (B, F, d)."""
        # Half precision would make similar candidates tie.
        with torch.autocast(brain.device.type, enabled=False):
            brain, audio = unit_vectors(brain), unit_vectors(audio)
            if self.training and dist.is_available() and dist.is_initialized():
                brain, audio = _gather(brain), _gather(audio)
            scale = self.log_scale.clamp(max=math.log(_MAX_SCALE)).exp()
            logits = scale * brain @ audio.T
            logits = logits.masked_fill(_same_sound(audio), -torch.inf)
            own = torch.arange(len(logits), device=logits.device)
            loss = functional.cross_entropy(logits, own)
            if self.symmetric:
                loss = (loss + functional.cross_entropy(logits.T, own)) / 2
            return loss


def _same_sound(audio: torch.Tensor) -> torch.Tensor:
    """Return which pairs of different windows have the same target, shape (B, B)."""
    same = audio @ audio.T > 1.0 - _SAME_SOUND
    return same.fill_diagonal_(False)


def _gather(vectors: torch.Tensor) -> torch.Tensor:
    """Return the vectors of all processes; only our own carry a gradient (see `ClipLoss`)."""
    n_ranks, rank = dist.get_world_size(), dist.get_rank()
    sizes = _gather_sizes(vectors)
    padded = functional.pad(vectors.detach(), (0, 0, 0, max(sizes) - len(vectors)))
    parts = [torch.empty_like(padded) for _ in range(n_ranks)]
    dist.all_gather(parts, padded)
    parts = [part[:size] for part, size in zip(parts, sizes, strict=True)]
    # The value is ours, bit for bit; the gradient is n_ranks times as large.
    parts[rank] = vectors.detach() + n_ranks * (vectors - vectors.detach())
    return torch.cat(parts)


def _gather_sizes(vectors: torch.Tensor) -> list[int]:
    """Return how many windows each process holds: a batch seldom divides evenly."""
    own = torch.tensor([len(vectors)], device=vectors.device)
    sizes = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, own)
    return [int(size) for size in sizes]


@dataclass(frozen=True)
class Ranks:
    """Where the true candidate of each window came.

    Attributes
    ----------
    n_above, n_tied : array of int64, shape (n_windows,)
        Wrong candidates that are more similar than the true one, or equally.
    """

    n_above: np.ndarray
    n_tied: np.ndarray

    @property
    def n_candidates(self) -> int:
        """Number of candidates, the true one among them."""
        return len(self.n_above)

    @property
    def relative(self) -> np.ndarray:
        """Relative rank, shape (n_windows,): 0 best, 1 worst, chance exactly 0.5.

        ``(n_above + n_tied / 2) / (n_candidates - 1)``: the mean of the strict and the non-strict
        rank over the wrong candidates. If the true candidate is any of them with equal
        probability, the expectation is 0.5 for every number of candidates. (Divided by
        `n_candidates`, with the true one counted as half, the expectation is 0.5 too, but the best
        value is 1 / (2 n_candidates) and sets of different sizes do not share a zero.)
        """
        return (self.n_above + self.n_tied / 2) / (self.n_candidates - 1)

    def top(self, k: int) -> np.ndarray:
        """Return the probability that the true candidate is in the best `k`, shape (n_windows,).

        0 or 1; in between where ties, broken by lot, decide. Chance is ``k / n_candidates``.
        """
        return np.clip((k - self.n_above) / (self.n_tied + 1), 0.0, 1.0)


@torch.no_grad()
def relative_ranks(
    brain: np.ndarray | torch.Tensor,
    audio: np.ndarray | torch.Tensor,
    *,
    block: int = 2048,
) -> Ranks:
    """Return the rank of the true candidate of each window among all candidates.

    The similarity is that of the loss. The matrix of similarities exists only as blocks of
    `block` x ``2 * block``; memory grows with the number of windows, not with its square.

    Parameters
    ----------
    brain, audio : array or tensor, shape (n_windows, d) or (n_windows, F, d)
        The true candidate of ``brain[i]`` is ``audio[i]``. Computed on the device of `brain`.

    Returns
    -------
    ranks : Ranks
        ``ranks.relative`` and ``ranks.top(k)`` are what one reports.

    Raises
    ------
    DataError
        If there are fewer than two windows or if anything is not finite: NaN has no rank.
    """
    brain = torch.as_tensor(brain).flatten(1)
    audio = torch.as_tensor(audio).flatten(1).to(brain.device)
    if brain.shape != audio.shape or len(brain) < 2:
        raise DataError(
            "Ranks need at least two windows, each with a brain and an audio embedding.",
            expected="two arrays of the same shape",
            found=f"{tuple(brain.shape)} and {tuple(audio.shape)}",
        )
    _require_finite(brain, "brain", block)
    _require_finite(audio, "audio", block)
    counts = [
        _count_above(brain, audio, rows, block)
        for rows in torch.arange(len(brain), device=brain.device).split(block)
    ]
    n_above, n_not_below = (torch.cat(part).cpu().numpy() for part in zip(*counts, strict=True))
    return Ranks(n_above, n_not_below - n_above)


def _count_above(
    brain: torch.Tensor, audio: torch.Tensor, rows: torch.Tensor, block: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Count, for the windows `rows`, the wrong candidates above the true one, and not below it."""
    query = unit_vectors(brain[rows])
    own = (query * unit_vectors(audio[rows])).sum(dim=1, keepdim=True)
    n_above = torch.zeros(len(rows), dtype=torch.int64, device=brain.device)
    n_not_below = torch.zeros_like(n_above)
    for columns in torch.arange(len(audio), device=brain.device).split(2 * block):
        similarity = query @ unit_vectors(audio[columns[0] : columns[-1] + 1]).T
        similarity[rows[:, None] == columns] = -torch.inf
        n_above += (similarity > own + TIE).sum(dim=1)
        n_not_below += (similarity >= own - TIE).sum(dim=1)
    return n_above, n_not_below


def _require_finite(embeddings: torch.Tensor, name: str, block: int) -> None:
    """Raise DataError if any embedding holds NaN or infinity."""
    bad = torch.cat([~part.isfinite().all(dim=1) for part in embeddings.split(block)])
    if bool(bad.any()):
        raise DataError(
            f"The {name} embeddings are not finite, so they have no rank.",
            expected="numbers",
            found=f"NaN or infinity in {int(bad.sum())} of {len(bad)} windows, "
            f"the first is window {int(bad.nonzero()[0])}",
        )
