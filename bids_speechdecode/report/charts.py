"""Charts of contributions: regions with their coverage, shafts contact by contact, hearing.

Tables in, matplotlib figures out.
"""

from __future__ import annotations

import re
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from bids_speechdecode.report.brain import DPI, FAINT, UNIT, Q, contribution_hex
from bids_speechdecode.report.figures import (
    BLACK,
    BLUE,
    GREY,
    STYLE,
    VERMILION,
    WIDTH,
    name_rows,
    plain,
)

MAX_REGIONS = 40  # rows of one figure: what fits a page
MAX_SHAFTS = 28
NEAR_MM = 5.0  # least length of the axis of distances
MAX_NAMES = 12  # participants whose names stand beside their points; more would overlap
REGION_LETTERS = 34  # of a name beside its row
SHAFT_LETTERS = 20  # of a name above its panel
# An axis reaches to the first of these that holds its values, so that most reports share one.
REACHES = (0.03, 0.06, 0.1, 0.2, 0.4, 1.0)
SLACK = 1.06  # room for a marker at the end of an axis
HEMISPHERE_COLOR = {"L": BLUE, "R": VERMILION}
DASHED = (0, (4, 3))


def reach(*values: Any) -> float:
    """Return the first of the fixed ends of an axis that holds all finite values.

    Examples
    --------
    >>> reach([0.01, -0.03], [float("nan")])
    0.03
    """
    every = np.abs(np.concatenate([np.asarray(v, dtype=float).ravel() for v in values]))
    highest = float(np.max(every[np.isfinite(every)], initial=0.0))
    return next((end for end in REACHES if highest <= SLACK * end), float(np.ceil(highest)))


def limits(*values: Any) -> tuple[float, float]:
    """Return the ends of an axis of contributions: little room below zero if nothing is there."""
    end = reach(*values)
    every = np.concatenate([np.asarray(v, dtype=float).ravel() for v in values])
    lowest = float(np.min(every[np.isfinite(every)], initial=0.0))
    below = next(part for part in (0.25, 0.5, 1.0) if lowest >= -SLACK * part * end)
    return -SLACK * below * end, SLACK * end


def region_name(label: Any, hemisphere: Any) -> str:
    """Return ``superiortemporal L``."""
    side = "" if pd.isna(hemisphere) else f" {hemisphere}"
    return f"{label}{side}"


def shortened(name: str, most: int) -> str:
    """Return a name of at most `most` characters: its middle gives way, as sides are at the end.

    Examples
    --------
    >>> shortened("G_and_S_cingul-Mid-Ant L", 15)
    'G_and_S…d-Ant L'
    """
    if len(name) <= most:
        return name
    tail = (most - 1) // 2
    return f"{name[: most - 1 - tail]}…{name[-tail:]}"


def _region_rows(axes: Axes, regions: pd.DataFrame) -> None:
    names = [region_name(r.label, r.hemisphere) for r in regions.itertuples()]
    name_rows(axes, [shortened(name, REGION_LETTERS) for name in names])


# -------------------------------------------------------------------------- of a participant


def region_means(contacts: pd.DataFrame) -> pd.DataFrame:
    """Return one row per region in the brain: mean contribution and contacts, highest first.

    Parameters
    ----------
    contacts : data frame
        Columns label, hemisphere, contribution and q; rows without a label are left out.
    """
    located = contacts.dropna(subset=["label", "contribution"])
    grouped = located.groupby(["label", "hemisphere"], sort=True, dropna=False)["contribution"]
    means = grouped.agg(mean="mean", n_contacts="size").reset_index()
    return means.sort_values("mean", ascending=False, kind="stable").reset_index(drop=True)


def _region_axes(n_rows: int) -> tuple[Figure, Axes, Axes]:
    """Return a figure with a wide panel for values and a narrow one for coverage."""
    figure = Figure(figsize=(WIDTH, 1.15 + 0.2 * n_rows), dpi=DPI)
    values, coverage = figure.subplots(1, 2, sharey=True, width_ratios=[4.2, 1])
    values.set_xlabel(UNIT)
    values.axvline(0, color=BLACK, linewidth=0.8, zorder=1)
    coverage.tick_params(axis="y", length=0)
    coverage.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    return figure, values, coverage


@matplotlib.rc_context(STYLE)
def region_contributions(contacts: pd.DataFrame) -> Figure:
    """Draw the mean contribution per region with its contacts, and how many there are.

    Parameters
    ----------
    contacts : data frame
        Columns label, hemisphere, contribution (loss of mean relative rank) and q.
    """
    means = drawn_regions(region_means(contacts))
    figure, axes, coverage = _region_axes(len(means))
    for y, row in enumerate(means.to_dict("records")):
        color = HEMISPHERE_COLOR.get(str(row["hemisphere"]), GREY)
        axes.barh(y, row["mean"], 0.66, color=color, alpha=0.45, zorder=2)
        own = contacts[_in_region(contacts, row)]
        shift = np.linspace(-0.22, 0.22, len(own)) if len(own) > 1 else [0.0]
        face = [BLACK if q <= Q else "white" for q in own["q"]]
        style: Any = {"edgecolors": BLACK, "linewidths": 0.5, "zorder": 3}
        axes.scatter(own["contribution"], y + np.asarray(shift), s=9, c=face, **style)
        _write_count(coverage, y, row["n_contacts"], str(row["n_contacts"]), color, filled=True)
    _region_rows(axes, means)
    axes.set_xlim(limits(contacts["contribution"]))
    coverage.set_xlim(0, 1.35 * max(means["n_contacts"].max(), 1))
    coverage.set_xlabel("Contacts (n)")
    handles = [
        *(Patch(color=HEMISPHERE_COLOR[h], alpha=0.45, label=f"mean, {w}") for h, w in SIDES),
        Line2D([], [], **_dot(BLACK), label=f"contact, q ≤ {Q:g}"),
        Line2D([], [], **_dot("white"), label=f"contact, q > {Q:g}"),
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=4)
    return figure


SIDES = (("L", "left"), ("R", "right"))


def drawn_regions(means: pd.DataFrame) -> pd.DataFrame:
    """Return the regions that a figure has room for: those with the most contacts."""
    most = means["n_contacts"].sort_values(ascending=False, kind="stable").index[:MAX_REGIONS]
    return means.loc[sorted(most)].reset_index(drop=True)


def _in_region(table: pd.DataFrame, row: Any) -> pd.Series:
    side = row["hemisphere"]
    same_side = table["hemisphere"].isna() if pd.isna(side) else table["hemisphere"] == side
    return (table["label"] == row["label"]) & same_side & table["label"].notna()


def _write_count(axes: Axes, y: float, n: float, text: str, color: str, *, filled: bool) -> None:
    """Draw a bar of a count with its number; hollow and hatched where nothing was tested."""
    style: Any = {"color": color, "alpha": 0.45} if filled else HOLLOW
    axes.barh(y, n, 0.66, **style)
    axes.annotate(text, (n, y), (3, 0), textcoords="offset points", va="center", fontsize=7)


HOLLOW: Any = {"facecolor": "none", "edgecolor": GREY, "hatch": "//////", "linewidth": 0.7}


def _dot(face: str) -> dict[str, Any]:
    return {
        "marker": "o",
        "linestyle": "none",
        "markersize": 3.5,
        "markerfacecolor": face,
        "markeredgecolor": BLACK,
        "markeredgewidth": 0.6,
    }


def contact_number(name: str) -> float:
    """Return the number of a contact on its shaft; of a bipolar pair, the middle of the two.

    Examples
    --------
    >>> contact_number("LA10"), contact_number("LA1-LA2"), contact_number("REF")
    (10.0, 1.5, nan)
    """
    found = [re.findall(r"\d+", part) for part in str(name).split("-")]
    numbers = [float(digits[-1]) for digits in found if digits]
    return float(np.mean(numbers)) if numbers else float("nan")


def shafts_of(contacts: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the contacts of each shaft in their order along it, by the shaft's name.

    Contacts of one number, or without one, keep the order of the table.
    """
    known = contacts.dropna(subset=["group", "contribution"])
    numbers = known["name"].map(contact_number).astype(float)
    known = known.assign(number=numbers)
    found = {}
    for shaft, rows in known.groupby(known["group"].astype(str), sort=True):
        if rows["number"].isna().any() or rows["number"].duplicated().any():
            rows = rows.assign(number=np.arange(1.0, len(rows) + 1))
        found[str(shaft)] = rows.sort_values("number", kind="stable")
    return found


@matplotlib.rc_context(STYLE)
def shaft_contributions(contacts: pd.DataFrame) -> Figure:
    """Draw the contribution along each shaft, contact by contact, with intervals.

    Parameters
    ----------
    contacts : data frame
        Columns name, group (the shaft), contribution, ci_low, ci_high (loss of mean relative
        rank), q, shaft_contribution and shaft_q.
    """
    shafts = drawn_shafts(contacts)
    columns = min(len(shafts), 4)
    rows = -(-len(shafts) // columns)
    # A name beside the words on the whole shaft has room for a few letters only.
    on_two_lines = max(map(len, shafts)) > 8
    height = 1.3 + 0.13 * on_two_lines
    figure = Figure(figsize=(WIDTH * max(columns, 2) / 4, height * rows + 0.55), dpi=DPI)
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for axes, (shaft, along) in zip(panels, shafts.items(), strict=False):
        _draw_shaft(axes, along)
        name = plain(shortened(shaft, SHAFT_LETTERS)) + "\n" * on_two_lines
        axes.set_title(name, fontsize=8, pad=3)
    for spare in panels[len(shafts) :]:
        spare.set_visible(False)
    drawn = pd.concat(shafts.values())
    panels[0].set_ylim(limits(drawn[["contribution", "ci_low", "ci_high"]]))
    figure.supxlabel("Number of the contact on its shaft or grid", fontsize=9)
    label = "Contribution (loss of relative rank)" if rows > 1 else "Contribution\n(loss of rank)"
    figure.supylabel(label, fontsize=9)
    return figure


def drawn_shafts(contacts: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the contacts of the shafts that a figure has room for: those that matter most."""
    shafts = shafts_of(contacts)
    worth = {
        name: np.nanmax(np.abs(rows[["shaft_contribution", "contribution"]].to_numpy(float)))
        for name, rows in shafts.items()
    }
    most = sorted(worth, key=lambda name: -worth[name])[:MAX_SHAFTS]
    return {name: rows for name, rows in shafts.items() if name in most}


def _draw_shaft(axes: Axes, along: pd.DataFrame) -> None:
    axes.axhline(0, color=BLACK, linewidth=0.7, linestyle=DASHED, zorder=1)
    axes.plot(along["number"], along["contribution"], color="#B8B8B8", linewidth=0.9, zorder=2)
    axes.vlines(along["number"], along["ci_low"], along["ci_high"], color=GREY, lw=1, zorder=2)
    significant = along["q"] <= Q
    for part, edge, width, size in (
        (along[~significant], FAINT, 0.5, 14),
        (along[significant], BLACK, 1.0, 24),
    ):
        style: Any = {"s": size, "edgecolors": edge, "linewidths": width, "zorder": 3}
        faces = contribution_hex(part["contribution"])
        axes.scatter(part["number"], part["contribution"], c=faces, **style)
    axes.set_title(_shaft_words(along.iloc[0]), loc="right", fontsize=7, fontweight="normal", pad=3)
    axes.set_xlim(along["number"].min() - 0.7, along["number"].max() + 0.7)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    axes.tick_params(labelsize=7, pad=2)


def _shaft_words(row: pd.Series) -> str:
    """Return what the whole shaft contributes, as it stands above its panel."""
    if pd.isna(row["shaft_contribution"]):
        return ""
    text = f"shaft {row['shaft_contribution']:.3f}".replace("-", "\N{MINUS SIGN}")
    if pd.isna(row["shaft_q"]):
        return text
    q = f"q {row['shaft_q']:.2g}" if row["shaft_q"] >= 0.001 else "q < 0.001"
    return f"{text}, {q}"


# ------------------------------------------------------------------------------ of the group


@matplotlib.rc_context(STYLE)
def group_regions(regions: pd.DataFrame, participants: pd.DataFrame) -> Figure:
    """Draw the group's mean contribution per region, with every participant and the coverage.

    Parameters
    ----------
    regions : data frame
        Columns label, hemisphere, n_participants, n_contacts, mean, ci_low, ci_high and p, which
        is NaN where too few participants were seen to test.
    participants : data frame
        Columns label, hemisphere, mean: one row per participant and region.
    """
    regions = ordered_regions(regions)
    figure, axes, coverage = _region_axes(len(regions))
    for y, row in enumerate(regions.to_dict("records")):
        _draw_group_row(axes, y, row, participants[_in_region(participants, row)])
        tested = np.isfinite(row["p"])
        color = HEMISPHERE_COLOR.get(str(row["hemisphere"]), GREY)
        counts = f"{row['n_participants']:.0f} ({row['n_contacts']:.0f})"
        _write_count(coverage, y, row["n_participants"], counts, color, filled=tested)
    _region_rows(axes, regions)
    shown = regions.loc[regions["p"].notna(), ["ci_low", "ci_high"]]
    axes.set_xlim(limits(regions["mean"], shown, participants["mean"]))
    coverage.set_xlim(0, 1.75 * max(regions["n_participants"].max(), 1))
    coverage.set_xlabel("Participants\n(contacts)")
    handles = [
        *(Patch(color=HEMISPHERE_COLOR[h], alpha=0.45, label=f"mean, {w}") for h, w in SIDES),
        Patch(**HOLLOW, label="too few participants: not tested"),
        Line2D([], [], **_dot("white"), label="participant"),
        Line2D([], [], color=BLACK, marker="$*$", linestyle="none", label=f"q ≤ {Q:g}"),
    ]
    figure.legend(
        handles=handles, loc="outside upper right", ncols=5, columnspacing=0.9, handlelength=1.6
    )
    return figure


def ordered_regions(regions: pd.DataFrame, most: int = MAX_REGIONS) -> pd.DataFrame:
    """Return tested regions by their mean, then untested ones by coverage, as many as fit."""
    tested = regions[regions["p"].notna()].sort_values("mean", ascending=False, kind="stable")
    keys = ["n_participants", "n_contacts"]
    untested = regions[regions["p"].isna()].sort_values(keys, ascending=False, kind="stable")
    return pd.concat([tested, untested])[:most].reset_index(drop=True)


def _draw_group_row(axes: Axes, y: int, row: Any, own: pd.DataFrame) -> None:
    tested = np.isfinite(row["p"])
    color = HEMISPHERE_COLOR.get(str(row["hemisphere"]), GREY)
    style: Any = {"color": color, "alpha": 0.45} if tested else HOLLOW
    axes.barh(y, row["mean"], 0.66, zorder=2, **style)
    if tested:
        axes.plot([row["ci_low"], row["ci_high"]], [y, y], color=BLACK, linewidth=1, zorder=3)
    shift = np.linspace(-0.2, 0.2, len(own)) if len(own) > 1 else np.zeros(len(own))
    points: Any = {"c": "white", "edgecolors": BLACK, "linewidths": 0.6, "zorder": 4}
    axes.scatter(own["mean"], y + shift, s=9, **points)
    if row.get("q", np.nan) <= Q:
        place = max([row["ci_high"], row["mean"], *own["mean"]])
        axes.annotate("*", (place, y), (4, -3), textcoords="offset points", va="center")


@matplotlib.rc_context(STYLE)
def auditory_benefit(table: pd.DataFrame) -> Figure:
    """Draw what pretraining and the speech model bring against the distance to auditory cortex.

    Parameters
    ----------
    table : data frame
        Columns participant, n_auditory (contacts in primary auditory cortex), distance_auditory
        (mm from it to the nearest contact) and benefit_<what>, benefit_<what>_ci_low,
        benefit_<what>_ci_high (difference of mean relative rank; positive: better with it).
    """
    kinds = benefits(table)
    furthest = max(NEAR_MM, float(table["distance_auditory"].max()))
    places = _beside_each_other(table["distance_auditory"], 0.02 * furthest)
    figure = Figure(figsize=(WIDTH, 2.9), dpi=DPI)
    for axes, kind in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
        axes.axhline(0, color=BLACK, linewidth=0.8, linestyle=DASHED, zorder=1)
        for row, x in zip(table.to_dict("records"), places, strict=True):
            _draw_benefit(axes, x, row, kind, named=len(table) <= MAX_NAMES)
        axes.set_xlabel("Distance to primary auditory cortex (mm)")
        axes.set_ylabel("Gain in relative rank")
        axes.set_title(plain(benefit_title(table, kind)))
        axes.set_xlim(-0.06 * furthest, 1.2 * furthest)  # room for the names
        axes.margins(y=0.15)
    handles = [
        Line2D([], [], color=BLUE, marker="o", linewidth=1, label="contacts in it"),
        Line2D([], [], color=BLUE, marker="o", mfc="white", linewidth=1, label="none in it"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


BENEFITS = {"pretraining": "Benefit of pretraining", "target": "Benefit of the speech model"}


def benefit_title(table: pd.DataFrame, kind: str) -> str:
    """Return the words for a benefit, naming the targets that were compared."""
    names = list(table["targets"].dropna().unique()) if "targets" in table else []
    return f"Benefit of {names[0]}" if kind == "target" and len(names) == 1 else BENEFITS[kind]


def benefits(table: pd.DataFrame) -> list[str]:
    """Return which benefits a table has values of."""
    columns = [f"benefit_{kind}" for kind in BENEFITS]
    known = [name for name in columns if name in table and table[name].notna().any()]
    return [name.removeprefix("benefit_") for name in known]


def benefit_interval(row: Any, kind: str) -> tuple[float, float]:
    """Return the limits of a benefit, NaN where the table has none."""
    low, high = (row.get(f"benefit_{kind}_ci_{end}", np.nan) for end in ("low", "high"))
    return float(low), float(high)


def _beside_each_other(values: pd.Series, step: float) -> list[float]:
    """Return the values with those that are equal moved apart, so that all of them are seen."""
    n_before = values.groupby(values).cumcount()
    n_equal = values.groupby(values).transform("size")
    return [float(x) for x in values + step * (n_before - (n_equal - 1) / 2)]


def _draw_benefit(axes: Axes, x: float, row: Any, kind: str, *, named: bool) -> None:
    y = row[f"benefit_{kind}"]
    if not (np.isfinite(x) and np.isfinite(y)):
        return
    axes.plot([x, x], benefit_interval(row, kind), color=BLUE, linewidth=1, zorder=2)
    face = BLUE if row["n_auditory"] > 0 else "white"
    axes.plot(x, y, "o", color=BLUE, markerfacecolor=face, markersize=5, zorder=3)
    label = plain(row["participant"]) if named else ""
    style: Any = {"fontsize": 7, "zorder": 4, "bbox": {"fc": "white", "ec": "none", "pad": 0.3}}
    axes.annotate(label, (x, y), (5, 3), textcoords="offset points", **style)
