"""How well features predict BOLD of other stories: ridge in closed form, scored by correlation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

# Penalties, as multiples of the number of volumes (the features have variance 1); our default.
ALPHAS = tuple(float(a) for a in np.logspace(-3, 3, 13))
VOXELS_AT_ONCE = 20_000


@dataclass(frozen=True)
class StoryFeatures:
    """Delayed features of one story's volumes, (n_rows, d), and its BOLD, (n_rows, v_p) each."""

    features: torch.Tensor
    bold: Mapping[str, np.ndarray]


@torch.no_grad()
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
    people = sorted({who for story in validation for who in story.bold})
    scores = [_score_person(who, training, validation, torch.device(device)) for who in people]
    return float(np.mean(scores))


def _score_person(
    who: str,
    training: Sequence[StoryFeatures],
    validation: Sequence[StoryFeatures],
    device: torch.device,
) -> float:
    dtype = torch.float32 if device.type == "mps" else torch.float64
    x, y = _of_person(who, training, device, dtype)
    x_new, y_new = _of_person(who, validation, device, dtype)
    mean, spread = x.mean(dim=0), x.std(dim=0, correction=0)
    spread[spread < 1e-8] = 1
    x, x_new = (x - mean) / spread, (x_new - mean) / spread
    strengths, directions = torch.linalg.eigh(x.T @ x)
    strengths, rotated = strengths.clamp(min=0), x_new @ directions
    parts = []
    for first in range(0, y.shape[1], VOXELS_AT_ONCE):
        some = slice(first, first + VOXELS_AT_ONCE)
        measured, held_out = (part[:, some].to(device, dtype) for part in (y, y_new))
        projected = directions.T @ (x.T @ (measured - measured.mean(dim=0)))
        shrunk = [strengths + alpha * len(x) for alpha in ALPHAS]
        predictions = (rotated / s @ projected for s in shrunk)
        parts.append(torch.stack([_correlate(p, held_out) for p in predictions]))
    by_alpha = torch.cat(parts, dim=1)  # (n_alphas, n_voxels)
    return float(by_alpha.mean(dim=1).max())


def _of_person(
    who: str, stories: Sequence[StoryFeatures], device: torch.device, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    heard = [story for story in stories if who in story.bold]
    features = torch.cat([story.features.to(device, dtype) for story in heard])
    bold = np.concatenate([story.bold[who] for story in heard])
    return features, torch.from_numpy(bold)  # voxels go to the device in parts


def _correlate(predicted: torch.Tensor, measured: torch.Tensor) -> torch.Tensor:
    """Return Pearson r over time of each voxel; 0 where either does not vary."""
    a, b = predicted - predicted.mean(dim=0), measured - measured.mean(dim=0)
    product = a.norm(dim=0) * b.norm(dim=0)
    return torch.where(product > 1e-12, (a * b).sum(dim=0) / product.clamp(min=1e-12), 0)
