"""How well a speech model's features predict BOLD of other stories: ridge in closed form.

It chooses the epoch of a tuning, and scores the tuned model on stories that took no part in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

# Penalties, as multiples of the number of volumes (the features have variance 1); our default.
ALPHAS = tuple(float(a) for a in np.logspace(-3, 3, 13))
VOXELS_AT_ONCE = 20_000  # read, projected and scored; BOLD may lie on disk


@dataclass(frozen=True)
class StoryFeatures:
    """Delayed features of one story's volumes, (n_rows, d), and its BOLD, (n_rows, v_p) each."""

    features: torch.Tensor
    bold: Mapping[str, np.ndarray]


def refit_score(
    training: Sequence[StoryFeatures],
    validation: Sequence[StoryFeatures],
    device: torch.device | str = "cpu",
) -> float:
    """Return the mean correlation of voxels of the validation stories with ridge predictions.

    ``B = (X'X + alpha n I)^-1 X'Y`` on the training stories, X standardised and Y centred by their
    training volumes. For each participant the one alpha counts that predicts the validation
    stories best on average; all epochs and the untuned model are scored in the same way.

    Returns
    -------
    float
        Mean over the voxels of each participant, then over participants.
    """
    scores = []
    for who in _people(validation):
        (by_alpha,) = _r_by_alpha(who, training, [validation], torch.device(device))
        scores.append(float(by_alpha.mean(dim=1).max()))
    return float(np.mean(scores))


def held_out_score(
    training: Sequence[StoryFeatures],
    validation: Sequence[StoryFeatures],
    test: Sequence[StoryFeatures],
    device: torch.device | str = "cpu",
) -> dict[str, np.ndarray]:
    """Return the correlation of measured with predicted BOLD of the test stories.

    The ridge of `refit_score`; its penalty, one per participant, is the one that predicts the
    validation stories best on average over voxels, and what counts is the score on the test
    stories.

    Returns
    -------
    r : dict from participant to array, shape (n_voxels,)
        Pearson's r over all volumes of the test stories; 0 for a voxel that does not vary.
        Participants who lack training, validation or test stories are left out.
    """
    people = _people(training) & _people(validation) & _people(test)
    scores = {}
    for who in sorted(people):
        chosen, judged = _r_by_alpha(who, training, [validation, test], torch.device(device))
        scores[who] = judged[int(chosen.mean(dim=1).argmax())].cpu().double().numpy()
    return scores


def _people(stories: Sequence[StoryFeatures]) -> set[str]:
    return {who for story in stories for who in story.bold}


@torch.no_grad()
def _r_by_alpha(
    who: str,
    training: Sequence[StoryFeatures],
    held_out: Sequence[Sequence[StoryFeatures]],
    device: torch.device,
) -> list[torch.Tensor]:
    """Return r of every penalty and voxel, (n_alphas, n_voxels), for each held-out set."""
    dtype = torch.float32 if device.type == "mps" else torch.float64
    sets = [[s for s in stories if who in s.bold] for stories in (training, *held_out)]
    x, *others = (torch.cat([s.features.to(device, dtype) for s in part]) for part in sets)
    mean, spread = x.mean(dim=0), x.std(dim=0, correction=0)
    spread[spread < 1e-8] = 1
    x = (x - mean) / spread
    strengths, directions = torch.linalg.eigh(x.T @ x)
    strengths = strengths.clamp(min=0)
    rotated = [((other - mean) / spread) @ directions for other in others]
    found: list[list[torch.Tensor]] = [[] for _ in others]
    for first in range(0, sets[0][0].bold[who].shape[1], VOXELS_AT_ONCE):
        some = slice(first, first + VOXELS_AT_ONCE)
        measured, *truths = (_voxels(part, who, some).to(device, dtype) for part in sets)
        projected = directions.T @ (x.T @ (measured - measured.mean(dim=0)))
        for z, truth, parts in zip(rotated, truths, found, strict=True):
            predictions = (z / (strengths + alpha * len(x)) @ projected for alpha in ALPHAS)
            parts.append(torch.stack([_correlate(p, truth) for p in predictions]))
    return [torch.cat(parts, dim=1) for parts in found]


def _voxels(stories: Sequence[StoryFeatures], who: str, some: slice) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([story.bold[who][:, some] for story in stories]))


def _correlate(predicted: torch.Tensor, measured: torch.Tensor) -> torch.Tensor:
    """Return Pearson r over time of each voxel; 0 where either does not vary."""
    a, b = predicted - predicted.mean(dim=0), measured - measured.mean(dim=0)
    product = a.norm(dim=0) * b.norm(dim=0)
    return torch.where(product > 1e-12, (a * b).sum(dim=0) / product.clamp(min=1e-12), 0)
