"""Contributions by parcel and hemisphere, with participants as the random unit.

Electrodes of one participant share brain, model and recording. They are averaged to one value per
participant and parcel, and only participants are counted as evidence. Where electrodes lie was
decided by clinicians, so every effect stands beside its coverage.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from bids_speechdecode.bids.derivatives import Derivatives
from bids_speechdecode.config import EvaluationConfig
from bids_speechdecode.group.contributions import Contributions, write_group_table
from bids_speechdecode.group.rounding import round_off
from bids_speechdecode.group.statistics import t_interval
from bids_speechdecode.statistics import SignFlip, sign_flip

# What an exact one-sided sign-flip test needs to reach p <= 0.05: 1 / 2**5 = 0.031.
MIN_PARTICIPANTS = 5

_KEYS = ["label", "hemisphere"]
_BY_PARTICIPANT = {
    "participant": "Whose electrodes they are",
    "label": "Parcel of the atlas",
    "hemisphere": "L or R",
    "n_contacts": "Electrodes of the participant in the parcel",
    "mean": "Mean over these of the loss of mean relative rank when permuted; above 0: they help",
}
_COLUMNS = {
    "label": "Parcel of the atlas",
    "hemisphere": "L or R",
    "n_participants": "Participants with an electrode in the parcel",
    "n_contacts": "Electrodes in it, of all participants",
    "coverage": "Share of the participants with labelled electrodes who have one in the parcel",
    "mean": "Mean over participants of their mean contribution (loss of mean relative rank)",
    "ci_low": "Lower limit of Student's t interval over participants; n/a where not tested",
    "ci_high": "Upper limit",
    "p": "One-sided sign-flip test over participants: contribution above 0; n/a where too few "
    "participants have an electrode in the parcel",
    "p_min": "Smallest p that this number of participants can give",
    "q": "False discovery rate (Benjamini-Hochberg) over the tested parcels",
    "conclusion": "What may be concluded",
}


def min_participants(confidence: float) -> int:
    """Return how many participants a parcel needs to be tested: never fewer than 5.

    The smallest n with ``1 / 2**n <= 1 - confidence``: with fewer, no values could make the
    sign-flip test significant, and the test would only add to the number of tests.

    Examples
    --------
    >>> min_participants(0.95), min_participants(0.99)
    (5, 7)
    """
    return max(MIN_PARTICIPANTS, math.ceil(-math.log2(1 - confidence) - 1e-9))


def average_by_parcel(contacts: pd.DataFrame) -> pd.DataFrame:
    """Return each participant's mean contribution in each parcel and hemisphere.

    Parameters
    ----------
    contacts : data frame
        Columns participant, label, hemisphere, contribution (see `Contributions`). Electrodes
        without a label are in no parcel.

    Returns
    -------
    data frame
        Columns participant, label, hemisphere, n_contacts, mean.
    """
    grouped = contacts.groupby(["participant", *_KEYS], sort=True)["contribution"]
    return round_off(grouped.agg(n_contacts="size", mean="mean").reset_index())


def parcel_table(
    contacts: pd.DataFrame, settings: EvaluationConfig, rng: np.random.Generator
) -> pd.DataFrame:
    """Return one row per parcel and hemisphere: coverage, mean over participants, test, words.

    The test asks whether the mean over participants is above 0. It is exact up to 14
    participants. Parcels in which fewer than `min_participants` have electrodes are shown with
    coverage and mean only; they get no p and no interval, and do not count in the correction for
    many parcels.

    Parameters
    ----------
    contacts : data frame
        Of all participants. Where those without any labelled electrode have theirs is unknown:
        they do not count in the coverage.
    settings : EvaluationConfig
        ``confidence``; ``1 - confidence`` is the level of the tests. ``n_permutations`` is the
        number of sign patterns where not all are counted.
    rng : numpy.random.Generator

    Returns
    -------
    data frame
        Sorted by label and hemisphere; empty (with its columns) without labels.
    """
    n_all = contacts.loc[contacts["label"].notna(), "participant"].nunique()
    rows = [
        _parcel(str(label), str(hemisphere), values, n_all, settings, rng)
        for (label, hemisphere), values in average_by_parcel(contacts).groupby(_KEYS)
    ]
    table = pd.DataFrame(rows, columns=[*_COLUMNS])
    table = round_off(table)
    tested = table["p"].notna()
    table["q"] = np.nan
    if tested.any():
        table.loc[tested, "q"] = stats.false_discovery_control(table.loc[tested, "p"].to_numpy())
    table["conclusion"] = [
        _conclude(row, n_all, int(tested.sum()), 1 - settings.confidence)
        for row in table.to_dict("records")
    ]
    return table


def write_parcels(
    out: Derivatives,
    contributions: Contributions,
    table: pd.DataFrame,
    settings: EvaluationConfig,
) -> list[Path]:
    """Write the table of parcels and that of each participant's parcels; return their paths."""
    notes = _note_unlabelled(contributions.contacts)
    by_participant = average_by_parcel(contributions.contacts)
    return [
        write_group_table(
            out, contributions, desc, rows, columns, settings=settings, Notes=notes, **extra
        )
        for desc, rows, columns, extra in (
            (
                "parcels",
                table,
                _COLUMNS,
                {"MinParticipants": min_participants(settings.confidence)},
            ),
            ("parcelsByParticipant", by_participant, _BY_PARTICIPANT, {}),
        )
    ]


def _note_unlabelled(contacts: pd.DataFrame) -> list[str]:
    """Return in words how many electrodes, and which participants, are in no parcel."""
    is_labelled = contacts["label"].notna()
    notes = [
        f"{int((~is_labelled).sum())} of {len(contacts)} electrodes have no label and are in no "
        "parcel."
    ]
    labelled = set(contacts.loc[is_labelled, "participant"])
    without = [str(who) for who in contacts["participant"].unique() if who not in labelled]
    if without:
        notes.append(
            f"Without any labelled electrode, not counted in the coverage: {', '.join(without)}."
        )
    return notes


def _parcel(
    label: str,
    hemisphere: str,
    values: pd.DataFrame,
    n_all: int,
    settings: EvaluationConfig,
    rng: np.random.Generator,
) -> dict[str, object]:
    """Return the row of a parcel, tested where it may be."""
    means = values["mean"].to_numpy()
    row: dict[str, object] = {
        "label": label,
        "hemisphere": hemisphere,
        "n_participants": len(means),
        "n_contacts": int(values["n_contacts"].sum()),
        "coverage": len(means) / n_all,
        "mean": float(means.mean()),
    }
    if len(means) < min_participants(settings.confidence):
        return row
    test = _is_above_zero(means, settings, rng)
    low, high = t_interval(means, settings.confidence, bounds=(-1.0, 1.0))
    return {**row, "ci_low": low, "ci_high": high, "p": test.p, "p_min": test.p_min}


def _is_above_zero(
    means: np.ndarray, settings: EvaluationConfig, rng: np.random.Generator
) -> SignFlip:
    return sign_flip(-means, alternative="less", n_samples=settings.n_permutations, rng=rng)


def _conclude(row: Mapping[Hashable, Any], n_all: int, n_tested: int, alpha: float) -> str:
    """Return what may be concluded about a parcel."""
    n = int(row["n_participants"])
    if math.isnan(row["p"]):
        return f"seen in {n} of {n_all} participants: not tested"
    numbers = f"p = {row['p']:.3g}, q = {row['q']:.3g} over {n_tested} parcels, n = {n}"
    if row["q"] <= alpha:
        return f"Contributes over participants ({numbers})."
    if row["p"] <= alpha:
        found = "Contributes if it had been the only question, not among so many parcels"
    else:
        found = "No evidence of a contribution"
    text = f"{found} ({numbers}). This is not evidence that there is none."
    if row["p_min"] * n_tested > alpha:
        text += (
            f" With n = {n} it could not have passed alone, only together with other parcels "
            f"(smallest p {row['p_min']:.3g} times {n_tested})."
        )
    return text
