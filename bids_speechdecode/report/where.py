"""Where in the brain the result comes from, in sentences for the top of the reports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pandas as pd

from bids_speechdecode.report.brain import Q
from bids_speechdecode.report.charts import region_name
from bids_speechdecode.report.electrode_tables import Described, one_row_per_shaft
from bids_speechdecode.report.figures import condition_label
from bids_speechdecode.report.page import count, interval, number, p_phrase, p_value, several

FEWEST = 5  # participants that a test over them needs, where the table does not say
MOST_NAMED = 3  # regions in one sentence


# -------------------------------------------------------------------------- of a participant


def electrodes_in_words(found: Described, level: str) -> list[str]:
    """Return how many electrodes help on their own and which shaft helps most.

    Parameters
    ----------
    found : Described
        The table ``desc-contrib``.
    level : str
        Of the intervals, such as ``95%``.
    """
    table = found.table
    if table.empty or table["contribution"].isna().all():
        return []
    return [*_single(table, found.sidecar, level), *_shafts(table, level)]


def _single(table: pd.DataFrame, sidecar: Mapping[str, Any], level: str) -> list[str]:
    known = table.dropna(subset=["contribution"])
    n, tested = len(known), int(known["q"].notna().sum())
    model = (
        f" in the model “{condition_label(str(sidecar['Model']))}”" if "Model" in sidecar else ""
    )
    among = several(n, "electrode")
    if not tested:
        return [f"Contributions of {among}{model} were estimated but could not be tested."]
    best = known.iloc[int(known["contribution"].argmax())]
    n_helping = int((known["q"] <= Q).sum())
    cost = (
        f"{number(best['contribution'])} of mean relative rank "
        f"({level} CI {interval(best['ci_low'], best['ci_high'])}; {p_phrase(best['p'])})"
    )
    if not n_helping:
        return [
            f"Where: of {among}{model} none reaches q ≤ {Q:g} on its own; permuting the "
            f"first, {best['name']}{_in_region(best)}, costs {cost}. This does not show that none "
            "matters: neighbours can stand in for each other."
        ]
    return [
        f"Where: {count(n_helping)} of {among} help on their own{model} (q ≤ {Q:g}); "
        f"permuting the first, {best['name']}{_in_region(best)}, costs {cost}."
    ]


def _in_region(row: Any) -> str:
    if not row["label"]:
        return ""
    away = f"{row['distance']:.1f} mm from " if row["distance"] > 0 else ""
    return f" ({away}{region_name(row['label'], row['hemisphere'])})"


def _shafts(table: pd.DataFrame, level: str) -> list[str]:
    shafts = one_row_per_shaft(table).dropna(subset=["contribution"])
    if shafts.empty:
        return []
    best = shafts.iloc[int(shafts["contribution"].argmax())]
    n_helping = int((shafts["q"] <= Q).sum())
    numbers = (
        f"{number(best['contribution'])} ({level} CI {interval(best['ci_low'], best['ci_high'])}; "
        f"{p_phrase(best['p'])})"
    )
    where = f"mostly {best['region']}" if best["region"] else "in no region of the atlas"
    name = f"{best['shaft']} ({several(best['n'], 'electrode')}, {where})"
    among = f"{count(n_helping)} of {count(len(shafts))} shafts reach q ≤ {Q:g}"
    if not best["q"] <= Q:
        return [f"Of the shafts, permuting {name} costs most, {numbers}; {among}."]
    return [f"The strongest shaft is {name}: permuting all of it costs {numbers}; {among}."]


# ------------------------------------------------------------------------------ of the group


def regions_in_words(parcels: Described, contacts: pd.DataFrame) -> list[str]:
    """Return which regions contribute over participants, or why none was tested.

    Parameters
    ----------
    parcels : Described
        The group's table ``desc-parcels``.
    contacts : data frame
        The group's table ``desc-contacts``: columns participant, label, hemisphere, q.
    """
    table = parcels.table
    if table.empty:
        return []
    least = int(parcels.sidecar.get("MinParticipants") or FEWEST)
    tested = table[table["p"].notna()]
    sentences = [_tested(tested, len(table), least) if len(tested) else _untested(table, least)]
    return sentences + _in_single_participants(contacts)


def _untested(table: pd.DataFrame, least: int) -> str:
    most = int(table["n_participants"].max())
    return (
        f"Where: no region was tested. A test over participants needs at least {least} of them "
        f"with electrodes in a region, and none of the {count(len(table))} regions with electrodes "
        f"has more than {most}."
    )


def _tested(tested: pd.DataFrame, n_regions: int, least: int) -> str:
    start = (
        f"Where: {count(len(tested))} of {count(n_regions)} regions with electrodes were seen in "
        f"at least {least} participants and tested; "
    )
    found = tested[tested["q"] <= Q].sort_values("mean", ascending=False, kind="stable")
    if found.empty:
        return start + (
            f"in none does permuting an electrode cost rank over participants (q ≤ {Q:g}), which "
            "is not evidence that none contributes."
        )
    named = "; ".join(
        f"{region_name(row['label'], row['hemisphere'])} ({number(row['mean'])}, CI "
        f"{interval(row['ci_low'], row['ci_high'])}, q {p_value(row['q'])})"
        for row in found[:MOST_NAMED].to_dict("records")
    )
    first = " (the first three)" if len(found) > MOST_NAMED else ""
    return start + (
        f"permuting an electrode costs rank over participants in {count(len(found))} of them "
        f"(q ≤ {Q:g}){first}: {named}."
    )


def _in_single_participants(contacts: pd.DataFrame) -> list[str]:
    """Return where the electrodes lie that help in their own participant."""
    if contacts.empty or contacts["q"].isna().all():
        return []
    helping = contacts[contacts["q"] <= Q]
    among = several(len(contacts), "electrode")
    text = (
        f"Within participants, {count(len(helping))} of {among} help on their own "
        f"(q ≤ {Q:g} in their participant)"
    )
    names = Counter(
        region_name(label, side)
        for label, side in zip(helping["label"], helping["hemisphere"], strict=True)
        if label
    )
    if not names:
        return [f"{text}."]
    most = ", ".join(f"{name} ({count(n)})" for name, n in names.most_common(MOST_NAMED))
    n = helping["participant"].nunique()
    own = several(n, "participant")
    return [f"{text}; they are in {own}, most of them in {most}."]
