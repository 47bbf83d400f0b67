"""Pictures of contacts on a brain, and the one colour scale of contributions.

Tables in, matplotlib figures out; nilearn draws the brains. Positions are in mm in the
MNI152 family.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import BoundaryNorm, ListedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bids_speechdecode.report.figures import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    MINUS,
    ORANGE,
    PURPLE,
    SKY,
    STYLE,
    VERMILION,
    WIDTH,
    plain,
)

# Contributions span two orders of magnitude between participants, and each participant's report
# is written without knowing the others. So the classes of colour are fixed, for every picture of
# every report; their bounds are losses of mean relative rank.
STEPS = (0.002, 0.005, 0.01, 0.02, 0.05)
BOUNDS = (*(-step for step in reversed(STEPS)), *STEPS)
UNIT = "Contribution (loss of relative rank)"
Q = 0.05  # a contribution of at most this q-value is outlined
MAX_REASONS = 5
DPI = 200  # of what is kept as pixels inside a figure

FAINT = "#5a5a5a"  # the edge of a contact that is not significant
FREE_STYLE: Any = STYLE | {"figure.constrained_layout.use": False}  # nilearn places its own axes
_REASON_MARKS = ((VERMILION, "X"), (ORANGE, "^"), (PURPLE, "s"), (GREEN, "D"), (SKY, "v"))


# ---------------------------------------------------------------------- fixed colour scales


@dataclass(frozen=True)
class Scale:
    """The fixed classes of colour of one measure.

    Attributes
    ----------
    column : str
        Of the tables that hold the measure.
    label : str
        What it is, with its unit, as it stands under the colour bar.
    bounds : tuple of float
        Between the classes.
    colors : tuple of str
        One per class, from below the lowest bound to above the highest.
    is_signed : bool
        Whether the numbers carry a sign.
    """

    column: str
    label: str
    bounds: tuple[float, ...]
    colors: tuple[str, ...]
    is_signed: bool = True

    def classes(self, values: Any) -> np.ndarray:
        """Return the class of each value, from 0; NaN where there is none."""
        values = np.asarray(values, dtype=float)
        return np.where(np.isnan(values), np.nan, np.digitize(values, self.bounds).astype(float))

    def hex(self, values: Any) -> list[str]:
        """Return the colour of each value; grey where there is none."""
        return [GREY if np.isnan(k) else self.colors[int(k)] for k in self.classes(values)]


# Purple to orange (ColorBrewer's PuOr, 11 classes) differ for all colour-blind readers. The ends
# of PuOr are nearly black, which would hide the outline of a contact.
DIVERGING = tuple(
    to_hex(c) for c in matplotlib.colormaps["PuOr_r"](np.linspace(0.06, 0.94, len(BOUNDS) + 1))
)
CONTRIBUTION = Scale("contribution", UNIT, BOUNDS, DIVERGING)


def contribution_colors() -> list[str]:
    """Return one colour per class, from below the lowest bound to above the highest."""
    return list(CONTRIBUTION.colors)


def contribution_class(values: Any) -> np.ndarray:
    """Return the class of colour of each contribution, 0 to 10; NaN where there is none.

    Examples
    --------
    >>> contribution_class([-1, 0, 0.003, 1]).tolist()
    [0.0, 5.0, 6.0, 10.0]
    """
    return CONTRIBUTION.classes(values)


def contribution_hex(values: Any) -> list[str]:
    """Return the colour of each contribution; grey where there is none."""
    return CONTRIBUTION.hex(values)


def signed(value: float) -> str:
    """Return a number with its sign, as it stands on an axis."""
    return f"{value:+g}".replace("-", MINUS)


def add_scale(
    figure: Figure, place: tuple[float, float, float, float], scale: Scale = CONTRIBUTION
) -> None:
    """Add the colour bar of a measure, the same in all pictures."""
    colors, bounds = scale.colors, scale.bounds
    inner = ListedColormap(colors[1:-1]).with_extremes(under=colors[0], over=colors[-1])
    mappable = ScalarMappable(BoundaryNorm(bounds, len(bounds) - 1), inner)
    axes = figure.add_axes(place)
    bar = Colorbar(axes, mappable, orientation="horizontal", extend="both", extendfrac=0.08)
    shown = signed if scale.is_signed else "{:g}".format
    bar.set_ticks(list(bounds), labels=[shown(bound) for bound in bounds])
    bar.ax.tick_params(labelsize=6.5, length=2, pad=1.5)
    bar.set_label(f"{scale.label}; the same classes in all pictures", fontsize=8, labelpad=2)


# ---------------------------------------------------------------------- contacts in a brain


def _glass(figure: Figure, bottom: float, top: float) -> Any:
    """Return nilearn's empty glass brain from four sides between two heights of the figure."""
    from nilearn.plotting import plot_glass_brain

    place = (0.0, bottom, 1.0, top - bottom)
    display = plot_glass_brain(None, display_mode="lyrz", figure=figure, axes=place, annotate=False)
    display.annotate(size=9)
    for x, title in zip((0.14, 0.395, 0.64, 0.895), VIEWS, strict=True):
        figure.text(x, top + 0.01, title, fontsize=8, ha="center", va="bottom")
    return display


VIEWS = ("left", "coronal", "right", "axial")


def _positions(contacts: pd.DataFrame) -> np.ndarray:
    return contacts[["x", "y", "z"]].to_numpy(dtype=float)  # (n, 3) mm


def marker_area(n: int) -> float:
    """Return the area of a marker in points squared: many contacts need small ones."""
    return float(np.clip(3000 / max(n, 1), 9, 26))


def contribution_brain(contacts: pd.DataFrame) -> Figure:
    """Draw contacts on a glass brain, coloured by contribution.

    Parameters
    ----------
    contacts : data frame
        Columns x, y, z (mm, MNI152), contribution (loss of mean relative rank) and q; a contact
        without a contribution is grey.
    """
    return measure_brain(contacts, CONTRIBUTION)


@matplotlib.rc_context(FREE_STYLE)
def measure_brain(contacts: pd.DataFrame, scale: Scale) -> Figure:
    """Draw contacts on a glass brain, coloured by a measure.

    Parameters
    ----------
    contacts : data frame
        Columns x, y, z (mm, MNI152), that of the scale, and q; a contact without a value is grey.
    scale : Scale
        Which measure, and its colours.
    """
    figure = Figure(figsize=(WIDTH, 2.7), dpi=DPI)
    display = _glass(figure, 0.26, 0.91)
    for part, style in _measure_marks(contacts, scale):
        colors, size = np.array(scale.hex(part[scale.column])), style.pop("s")
        display.add_markers(_positions(part), colors, size, **style)
    add_scale(figure, (0.06, 0.15, 0.6, 0.045), scale)
    _add_q_legend(figure, contacts, scale)
    return figure


def _measure_marks(
    contacts: pd.DataFrame, scale: Scale
) -> Iterator[tuple[pd.DataFrame, dict[str, Any]]]:
    """Yield the contacts that are not significant, then those that are, with their style."""
    # What matters most is drawn last, on top of what overlaps it in the projection.
    order = np.argsort(contacts[scale.column].abs().fillna(-1).to_numpy(), kind="stable")
    ordered = contacts.iloc[order]
    size = marker_area(len(contacts))
    for significant, edge, width, area in ((False, FAINT, 0.6, 1.0), (True, BLACK, 1.0, 1.5)):
        part = ordered[(ordered["q"] <= Q) == significant]
        if len(part):
            style = {"edgecolors": edge, "linewidths": width, "zorder": 1000 + significant}
            yield part, style | {"s": size * area}


def _add_q_legend(figure: Figure, contacts: pd.DataFrame, scale: Scale) -> None:
    if contacts["q"].isna().all():  # the group's table has no tests of single electrodes
        figure.text(0.98, 0.13, f"{len(contacts)} electrodes", fontsize=8, ha="right")
        return
    n = int((contacts["q"] <= Q).sum())
    face = scale.colors[-3]
    has_value = contacts.loc[~(contacts["q"] <= Q), scale.column].notna().any()
    handles = [
        Line2D([], [], **_dot(BLACK, 0.8, 6, face), label=f"q ≤ {Q:g} ({n} electrodes)"),
        Line2D(
            [],
            [],
            **_dot(FAINT, 0.4, 4.5, face if has_value else GREY),
            label=f"q > {Q:g} ({len(contacts) - n})",
        ),
    ]
    figure.legend(handles=handles, loc="lower right", bbox_to_anchor=(0.99, 0.02))


def _dot(edge: str, width: float, size: float, face: str) -> dict[str, Any]:
    return {
        "marker": "o",
        "linestyle": "none",
        "markersize": size,
        "markerfacecolor": face,
        "markeredgecolor": edge,
        "markeredgewidth": width,
    }


def reason_groups(reasons: Sequence[str]) -> list[str]:
    """Return each reason without its details: up to a colon or bracket, numbers left open.

    Examples
    --------
    >>> reason_groups(["bad: noisy", "12.3 mm away (limit 10 mm)", "type ECG", ""])
    ['bad', '… mm away', 'type ECG', 'other']
    """
    heads = (re.split(r"[:;,(]", reason, maxsplit=1)[0].strip() for reason in reasons)
    return [re.sub(r"\d+(\.\d+)?", "…", head) or "other" for head in heads]


def selection_groups(contacts: pd.DataFrame) -> pd.Series:
    """Return the group of each row: ``kept``, or why it was dropped; rare reasons are ``other``."""
    groups = pd.Series(reason_groups(contacts["reason"].fillna("").astype(str).tolist()))
    groups.index = contacts.index
    groups[contacts["kept"]] = "kept"
    common = [name for name in groups.value_counts(sort=True).index if name != "kept"]
    return groups.where(~groups.isin(common[MAX_REASONS:]), "other")


def selection_marks(groups: pd.Series) -> dict[str, dict[str, Any]]:
    """Return colour, shape and legend text of each group, kept contacts first."""
    counts = groups.value_counts(sort=True)
    names = [name for name in counts.index if name not in ("kept", "other")]
    marks = {"kept": {"c": BLUE, "marker": "o"}} if "kept" in counts else {}
    marks |= {
        name: {"c": color, "marker": marker}
        for name, (color, marker) in zip(names, _REASON_MARKS, strict=False)
    }
    marks |= {"other": {"c": GREY, "marker": "P"}} if "other" in counts else {}
    return {
        name: mark | {"label": plain(f"{_legend_name(name)} ({counts[name]})")}
        for name, mark in marks.items()
    }


def _legend_name(name: str) -> str:
    text = name if name in ("kept", "other") else f"dropped: {name}"
    text = "dropped: other reasons" if name == "other" else text
    return text if len(text) <= 52 else f"{text[:51]}…"


@matplotlib.rc_context(FREE_STYLE)
def selection_brain(contacts: pd.DataFrame) -> Figure:
    """Draw the contacts that were kept and dropped, with the reason, on a glass brain.

    Parameters
    ----------
    contacts : data frame
        Columns x, y, z (mm, MNI152), kept (bool) and reason (words).
    """
    marks = selection_marks(groups := selection_groups(contacts))
    rows = -(-len(marks) // 2)
    height = 2.1 + 0.2 * rows
    figure = Figure(figsize=(WIDTH, height), dpi=DPI)
    display = _glass(figure, 0.2 * rows / height, 1 - 0.22 / height)
    size = marker_area(len(contacts)) * 1.2
    for name in groups.value_counts().index:  # the rarest on top
        part, mark = _positions(contacts[groups == name]), marks[name]
        style = {"edgecolors": "white", "linewidths": 0.3}
        display.add_markers(part, mark["c"], size, marker=mark["marker"], **style)
    figure.legend(handles=mark_handles(marks), loc="lower center", ncols=2)
    return figure


def mark_handles(marks: Mapping[str, Mapping[str, Any]]) -> list[Line2D]:
    """Return what a legend shows for the marks of `selection_marks`."""
    return [
        Line2D([], [], color=m["c"], marker=m["marker"], linestyle="none", label=m["label"])
        for m in marks.values()
    ]


NATIVE_VIEWS = (("y", "z", "sagittal"), ("x", "z", "coronal"), ("x", "y", "axial"))


def _native_axes(figure: Figure, space: str, bottom: float) -> list[Axes]:
    """Return three axes for a space without a template brain, in mm, titled with the space."""
    figure.subplots_adjust(left=0.08, right=0.99, bottom=bottom, top=0.86, wspace=0.3)
    title = f"Coordinates as given in the space {space}; no template brain belongs to it"
    figure.text(0.5, 0.985, plain(title), fontsize=8, ha="center", va="top")
    panels = list(figure.subplots(1, 3))
    for axes, (across, up, title) in zip(panels, NATIVE_VIEWS, strict=True):
        axes.set_aspect("equal", adjustable="datalim")
        axes.set(xlabel=f"{across} (mm)", ylabel=f"{up} (mm)")
        axes.set_title(title, loc="center", fontweight="normal", fontsize=8)
    return panels


@matplotlib.rc_context(FREE_STYLE)
def native_selection(contacts: pd.DataFrame, space: str) -> Figure:
    """Draw kept and dropped contacts of a space that has no template brain, from three sides.

    Parameters
    ----------
    contacts : data frame
        Columns x, y, z (mm in `space`), kept (bool) and reason.
    space : str
        Name of the coordinate system.
    """
    marks = selection_marks(groups := selection_groups(contacts))
    rows = -(-len(marks) // 2)
    height = 2.9 + 0.2 * rows
    figure = Figure(figsize=(WIDTH, height), dpi=DPI)
    panels = _native_axes(figure, space, (0.55 + 0.2 * rows) / height)
    for axes, (across, up, _) in zip(panels, NATIVE_VIEWS, strict=True):
        for name in groups.value_counts().index:
            part, mark = contacts[groups == name], marks[name]
            axes.scatter(part[across], part[up], s=14, c=mark["c"], marker=mark["marker"], lw=0.3)
    figure.legend(handles=mark_handles(marks), loc="lower center", ncols=2)
    return figure


def native_contributions(contacts: pd.DataFrame, space: str) -> Figure:
    """Draw contributions in a space that has no template brain, from three sides.

    Parameters
    ----------
    contacts : data frame
        Columns x, y, z (mm in `space`), contribution (loss of mean relative rank) and q.
    space : str
        Name of the coordinate system.
    """
    return native_measure(contacts, space, CONTRIBUTION)


@matplotlib.rc_context(FREE_STYLE)
def native_measure(contacts: pd.DataFrame, space: str, scale: Scale) -> Figure:
    """Draw a measure of contacts in a space that has no template brain, from three sides.

    Parameters
    ----------
    contacts : data frame
        Columns x, y, z (mm in `space`), that of the scale, and q.
    space : str
        Name of the coordinate system.
    scale : Scale
        Which measure, and its colours.
    """
    figure = Figure(figsize=(WIDTH, 3.4), dpi=DPI)
    panels = _native_axes(figure, space, 0.34)
    for axes, (across, up, _) in zip(panels, NATIVE_VIEWS, strict=True):
        for part, style in _measure_marks(contacts, scale):
            axes.scatter(part[across], part[up], c=scale.hex(part[scale.column]), **style)
    add_scale(figure, (0.06, 0.12, 0.6, 0.036), scale)
    _add_q_legend(figure, contacts, scale)
    return figure
