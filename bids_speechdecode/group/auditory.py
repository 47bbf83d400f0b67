"""Whether participants with electrodes in primary auditory cortex gain less.

In arXiv 2512.15830 wav2vec 2.0 was the better target than mel in patients 2 and 3, not in
patient 1, whose electrodes reach primary auditory cortex. Three patients cannot show whether that
is the reason. The tables here put both side by side for any number of participants, and say what
follows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bids_speechdecode.anatomy.atlas import Atlas
from bids_speechdecode.anatomy.spaces import apply_affine
from bids_speechdecode.anatomy.tissue import voxel_values
from bids_speechdecode.bids.derivatives import Derivatives
from bids_speechdecode.config import EvaluationConfig
from bids_speechdecode.errors import DataError, MissingInputError
from bids_speechdecode.group.benefits import Benefit, pretraining_benefit, target_benefit
from bids_speechdecode.group.comparability import other_differences
from bids_speechdecode.group.contributions import (
    ANALYSIS_SPACE,
    Contributions,
    in_analysis_space,
    write_group_table,
)
from bids_speechdecode.group.correlation import Correlation, spearman
from bids_speechdecode.group.rounding import round_off

# The transverse temporal gyrus (Heschl's) holds primary auditory cortex and somewhat more.
LABEL = "transversetemporal"
NEAR_MM = 5.0

_QUESTION = (
    "Do participants whose electrodes cover primary auditory cortex gain less from the target of a "
    "speech model over mel, and from pretraining? (open in arXiv 2512.15830)"
)
_CONDITION = "finetuned"
_BENEFITS = {"benefit_pretraining": "pretraining", "benefit_target": "the target"}
_COVERAGES = {
    "n_auditory": "the number of electrodes in primary auditory cortex",
    "distance_auditory": "the distance of the nearest electrode to primary auditory cortex",
}
_OF_BENEFIT = {"": "value", "_ci_low": "ci_low", "_ci_high": "ci_high", "_p": "p"}

_COLUMNS = {
    "participant": "Whose electrodes",
    "n_contacts": "Electrodes that the model reads",
    "n_auditory": f"Of these, how many are labelled {LABEL}; n/a where that is unknown",
    "n_auditory_near": f"Of these, how many lie in it or within {NEAR_MM:g} mm",
    "distance_auditory": "Distance of the nearest electrode to it (mm), 0 inside",
    "benefit_pretraining": "Mean relative rank without minus with pretraining (taskonly - "
    "finetuned); above 0: pretraining helps",
    "benefit_pretraining_ci_low": "Lower limit from resampled blocks of windows",
    "benefit_pretraining_ci_high": "Upper limit",
    "benefit_pretraining_p": "Two-sided sign-flip test over blocks, this participant alone",
    "benefit_target": "Mean relative rank of the second minus of the first target named in column "
    "targets, on the same windows; above 0: the first is better",
    "benefit_target_ci_low": "Lower limit from resampled blocks of windows",
    "benefit_target_ci_high": "Upper limit",
    "benefit_target_p": "Two-sided sign-flip test over blocks, this participant alone",
    "targets": "Which target over which",
    "note": "Why something is n/a, and in what the compared run differs besides the target",
}
_CORRELATION_COLUMNS = {
    "benefit": "Column of the table of participants",
    "coverage": "Column of the table of participants",
    "n_participants": "Participants with both",
    "rho": "Spearman's correlation over participants",
    "p": "Two-sided permutation test (exact up to 8 participants); not corrected for the number of "
    "rows",
    "p_min": "Smallest p that these participants' values could give in any order",
    "conclusion": "What may be concluded",
}


@dataclass(frozen=True)
class Auditory:
    """Benefit against coverage of primary auditory cortex.

    Attributes
    ----------
    participants : data frame
        One row per participant: coverage, benefits with interval and p, notes.
    correlations : data frame
        One row per benefit and measure of coverage, over participants.
    """

    participants: pd.DataFrame
    correlations: pd.DataFrame


def summarise_auditory(
    root: Path,
    contributions: Contributions,
    settings: EvaluationConfig,
    rng: np.random.Generator,
    *,
    atlas: Atlas | None = None,
    other: Path | None = None,
    condition: str = _CONDITION,
) -> Auditory:
    """Return every participant's coverage and benefits, and how they go together.

    Parameters
    ----------
    root : path
        Folder of the derivatives.
    contributions : Contributions
        The electrodes: those that the models read, not those that were dropped before.
    settings : EvaluationConfig
    rng : numpy.random.Generator
    atlas : Atlas, optional
        For distances, in MNI152; without it, or where it has no such label, they are n/a.
    other : path, optional
        Derivatives of the same participants made with another target.
    condition : str
        Whose ranks the targets are compared by.

    Raises
    ------
    MissingInputError
        `other` is no folder.
    """
    _require_folder(other)
    task = contributions.task
    rows = []
    for participant, own in contributions.contacts.groupby("participant", sort=False):
        label = str(participant).removeprefix("sub-")
        coverage, unknown = measure_coverage(own, atlas)
        pretraining, why = _attempt(pretraining_benefit, root, label, task)
        target, why_not, also = None, "", ""
        if other is not None:
            target, why_not = _attempt(
                target_benefit,
                root,
                other,
                label,
                task,
                condition=condition,
                settings=settings,
                rng=rng,
            )
            differ = other_differences(root, other, label, task)
            also = f"The compared run also differs in: {', '.join(differ)}." if differ else ""
        rows.append(
            {
                "participant": participant,
                **coverage,
                **_of(pretraining, "benefit_pretraining"),
                **_of(target, "benefit_target"),
                "targets": target.of if target else None,
                "note": " ".join(text for text in (unknown, why, why_not, also) if text) or None,
            }
        )
    participants = round_off(pd.DataFrame(rows, columns=list(_COLUMNS)))
    return Auditory(participants, correlate(participants, settings, rng))


def measure_coverage(
    contacts: pd.DataFrame, atlas: Atlas | None, label: str = LABEL
) -> tuple[dict[str, float], str]:
    """Return how well one participant's electrodes cover a label, and what is unknown, in words.

    Returns
    -------
    coverage : dict
        n_contacts, n_auditory, n_auditory_near, distance_auditory (mm); NaN where unknown. An
        electrode without a place is not an electrode elsewhere: with none localised, none
        labelled in another space, or an atlas without the label, the count is unknown, not 0.
    note : str
    """
    is_placed = np.isfinite(contacts[["x", "y", "z"]].to_numpy(float)).all(axis=1)
    is_labelled = contacts["label"].notna().to_numpy()
    is_known = is_placed | is_labelled
    coverage = {"n_contacts": len(contacts), "n_auditory": float("nan")}
    coverage |= {"n_auditory_near": float("nan"), "distance_auditory": float("nan")}
    if not is_known.any():
        return coverage, "No electrode is localised."
    if atlas is not None and label not in set(atlas.labels["name"]):
        return coverage, f"The atlas has no label {label}."
    notes = []
    placed = in_analysis_space(contacts)
    # Without any label it is unknown which labels there are, unless positions can be compared.
    if is_labelled.any() or (atlas is not None and len(placed)):
        coverage["n_auditory"] = int((contacts["label"] == label).sum())
    else:
        notes.append("No electrode has a label.")
    if not is_known.all():
        notes.append(f"{int((~is_known).sum())} of {len(contacts)} electrodes are not localised.")
    distance = distance_to_label(placed[["x", "y", "z"]].to_numpy(float), atlas, label)
    if len(distance):
        coverage["n_auditory_near"] = int((distance <= NEAR_MM).sum())
        coverage["distance_auditory"] = float(distance.min())
    else:
        notes.append(f"No distance to {label}: it needs positions in MNI152 and an atlas with it.")
    return coverage, " ".join(notes)


def distance_to_label(positions_mm: np.ndarray, atlas: Atlas | None, label: str) -> np.ndarray:
    """Return the distance of positions to a label in either hemisphere, in mm; 0 inside.

    Parameters
    ----------
    positions_mm : array, shape (n, 3)
        In MNI152.

    Returns
    -------
    array, shape (n,)
        To the nearest voxel centre; empty where the atlas is not in MNI152 or lacks the label.
    """
    from scipy.spatial import cKDTree

    if atlas is None or atlas.space != ANALYSIS_SPACE or not len(positions_mm):
        return np.zeros(0)
    indices = atlas.labels["index"][atlas.labels["name"] == label].to_numpy()
    voxels = np.argwhere(np.isin(atlas.data, indices))
    if not len(voxels):
        return np.zeros(0)
    tree = cKDTree(apply_affine(atlas.affine, voxels))
    inside = np.isin(voxel_values(atlas.data, atlas.affine, positions_mm), indices)
    return np.where(inside, 0.0, tree.query(positions_mm)[0])


def correlate(
    participants: pd.DataFrame, settings: EvaluationConfig, rng: np.random.Generator
) -> pd.DataFrame:
    """Return how each benefit goes with each measure of coverage, over participants.

    Benefits that nobody has (no other target given) have no row.
    """
    rows = []
    for benefit, of_what in _BENEFITS.items():
        for coverage, measure in _COVERAGES.items():
            both = participants.dropna(subset=[benefit, coverage])
            if both.empty:
                continue
            values = both[[benefit, coverage]].to_numpy(float).T
            result = spearman(*values, n_samples=settings.n_permutations, rng=rng)
            alone = _alone(both, benefit, 1 - settings.confidence)
            if benefit == "benefit_target":
                of_what = " and ".join(sorted(set(both["targets"])))
            rows.append(
                {
                    "benefit": benefit,
                    "coverage": coverage,
                    "n_participants": result.n,
                    "rho": result.rho,
                    "p": result.p,
                    "p_min": result.p_min,
                    "conclusion": _conclude(
                        result, of_what, measure, alone, 1 - settings.confidence
                    ),
                }
            )
    return round_off(pd.DataFrame(rows, columns=list(_CORRELATION_COLUMNS)))


def write_auditory(
    out: Derivatives,
    contributions: Contributions,
    auditory: Auditory,
    settings: EvaluationConfig,
) -> list[Path]:
    """Write the table of participants and that of correlations; return their paths."""
    return [
        write_group_table(
            out, contributions, desc, table, columns, settings=settings, Question=_QUESTION
        )
        for desc, table, columns in (
            ("auditory", auditory.participants, _COLUMNS),
            ("auditoryCorrelation", auditory.correlations, _CORRELATION_COLUMNS),
        )
    ]


def _require_folder(other: Path | None) -> None:
    if other is not None and not other.is_dir():
        raise MissingInputError(
            "The derivatives to compare with are absent.",
            expected="the output folder of another run",
            where=other,
        )


def _attempt(
    read: Callable[..., Benefit], *arguments: Any, **options: Any
) -> tuple[Benefit | None, str]:
    """Return a benefit and "", or None and why there is none."""
    try:
        return read(*arguments, **options), ""
    except DataError as error:
        return None, error.problem


def _of(benefit: Benefit | None, name: str) -> dict[str, float]:
    return {
        name + ending: getattr(benefit, field) if benefit else float("nan")
        for ending, field in _OF_BENEFIT.items()
    }


def _alone(rows: pd.DataFrame, benefit: str, alpha: float) -> str:
    """Return in whom the benefit is there on their own data."""
    own = rows[(rows[f"{benefit}_p"] <= alpha) & (rows[benefit] > 0)]["participant"]
    who = f" ({', '.join(own)})" if len(own) else ""
    return f"Benefit on their own data (p <= {alpha:.2g}) in {len(own)} of {len(rows)}{who}."


def _conclude(result: Correlation, of_what: str, measure: str, alone: str, alpha: float) -> str:
    """Return what may be concluded about a benefit and a measure of coverage."""
    if np.isnan(result.rho):
        return (
            f"Nothing can be concluded: all {result.n} participants have the same benefit or the "
            f"same value of {measure}. {alone}"
        )
    if result.p_min > alpha:
        return (
            f"Nothing can be concluded from {result.n} participants, whatever the values: no order "
            f"of them could give p <= {alpha:.2g} (smallest possible: {result.p_min:.3g}). {alone}"
        )
    how = "exact" if result.exact else "sampled"
    numbers = f"rho = {result.rho:.2f}, p = {result.p:.3g}, {how} permutations, n = {result.n}"
    if result.p > alpha:
        return (
            f"No evidence that the benefit of {of_what} goes with {measure} ({numbers}). This is "
            f"not evidence that it does not. {alone}"
        )
    verb = "grows" if result.rho > 0 else "falls"
    return (
        f"The benefit of {of_what} {verb} with {measure} ({numbers}). Coverage was chosen by "
        f"clinicians, so this need not be its cause. {alone}"
    )
