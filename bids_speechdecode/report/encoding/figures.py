"""Charts of encoding results: tables in, matplotlib figures out.

r is the correlation between the predicted and the held-out response. The axes reach to fixed
ends, so that most participants' figures share one scale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from bids_speechdecode.report.brain import DIVERGING, DPI, Q, Scale
from bids_speechdecode.report.encoding.models import model_words
from bids_speechdecode.report.figures import (
    BLACK,
    GREY,
    MANY,
    MINUS,
    STYLE,
    WIDTH,
    name_rows,
    plain,
)

Styles = Mapping[str, Mapping[str, Any]]

# Fixed classes of colour, for every picture of every report.
PREDICTION = Scale(
    "r",
    "Prediction (r on held-out time)",
    (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4),
    (
        "#E3E3E3",
        *(
            matplotlib.colors.to_hex(c)
            for c in matplotlib.colormaps["plasma_r"](np.linspace(0.04, 0.9, 8))
        ),
    ),
    is_signed=False,
)
# Lags are sought from -2 to 2 s, but responses to sound that can be followed take up to a second.
LAG = Scale(
    "lag",
    "Lag of the response (s)",
    (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0),
    (
        "#E3E3E3",
        *(
            matplotlib.colors.to_hex(c)
            for c in matplotlib.colormaps["viridis_r"](np.linspace(0.04, 0.96, 8))
        ),
    ),
    is_signed=False,
)
GAIN_STEPS = (0.002, 0.005, 0.01, 0.02, 0.05)
GAIN = Scale(
    "gain",
    "Gain in r over the reference model",
    (*(-step for step in reversed(GAIN_STEPS)), *GAIN_STEPS),
    DIVERGING,
)
R_ENDS = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
GAIN_ENDS = (0.006, 0.012, 0.03, 0.06, 0.12, 0.3, 1.0, 2.0)
DASHED = (0, (4, 3))
MAX_PANELS = 6
R_LABEL = "r on held-out time"
GAIN_LABEL = "Gain in r over the reference"


def fixed_end(ends: Sequence[float], *values: Any) -> float:
    """Return the first of some fixed ends of an axis that holds all finite values.

    Examples
    --------
    >>> fixed_end((0.1, 0.2, 0.4), [0.15, float("nan")], [-0.05])
    0.2
    """
    every = np.abs(np.concatenate([np.asarray(v, dtype=float).ravel() for v in values]))
    highest = float(np.max(every[np.isfinite(every)], initial=0.0))
    return next((end for end in ends if highest <= end), highest)


def _zero(axes: Axes, *, vertical: bool = False) -> None:
    style: Any = {"color": BLACK, "linewidth": 0.8, "linestyle": DASHED, "zorder": 1}
    axes.axvline(0, **style) if vertical else axes.axhline(0, **style)


def _name_models(axes: Axes, models: Sequence[str]) -> None:
    """Give each row the name of its model; what a control is stands on a line of its own."""
    places: list[float] = []
    lines: list[str] = []
    for y, model in enumerate(models):
        first, control, second = model_words(model).partition(", control: ")
        # Two ticks: an SVG viewer with another font would not set the lines of one label flush.
        places += [y - 0.14, y + 0.14] if control else [y]
        lines += [first, f"control: {second}"] if control else [first]
    name_rows(axes, [""] * len(models))
    axes.set_yticks(places, [plain(line) for line in lines])


def _handles(models: Sequence[str], styles: Styles, **style: Any) -> list[Line2D]:
    return [
        Line2D([], [], label=plain(model_words(m)), markersize=5, **{**styles[m], **style})
        for m in models
    ]


def _add_legend(figure: Figure, models: Sequence[str], styles: Styles, **style: Any) -> None:
    longest = max((len(model_words(m)) for m in models), default=0)
    columns = 2 if longest > 34 else 3 if longest > 18 else 4
    columns = columns if figure.get_figwidth() >= WIDTH else max(columns - 1, 1)
    handles = _handles(models, styles, **style)
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(models), columns))


# ------------------------------------------------------------------------------- electrodes


@matplotlib.rc_context(STYLE)
def electrode_strips(electrodes: pd.DataFrame, styles: Styles, models: Sequence[str]) -> Figure:
    """Draw r of every electrode under every model, with the mean over electrodes.

    Parameters
    ----------
    electrodes : data frame
        Columns model, name, r, q and noise_ceiling; one row per model and electrode.
    styles : mapping of model to colours and marks
    models : sequence of str
        One row each.
    """
    figure = Figure(figsize=(WIDTH, 1.05 + 0.5 * len(models)), dpi=DPI)
    axes = figure.subplots()
    rng = np.random.default_rng(0)
    shift = {name: rng.uniform(-0.26, 0.26) for name in electrodes["name"].unique()}
    _zero(axes, vertical=True)
    for y, model in enumerate(models):
        own = electrodes[electrodes["model"] == model]
        color = styles[model]["color"]
        places = y + own["name"].map(shift).to_numpy(float)
        face = [color if q <= Q else "white" for q in own["q"]]
        style: Any = {"edgecolors": color, "linewidths": 0.6, "alpha": 0.75, "zorder": 2}
        axes.scatter(own["r"], places, s=11, c=face, **style)
        axes.plot([own["r"].mean()] * 2, [y - 0.38, y + 0.38], color=BLACK, lw=2.2, zorder=3)
    ceiling = electrodes["noise_ceiling"].mean()
    handles = [
        Line2D([], [], **_circle(GREY), label=f"electrode, q ≤ {Q:g}"),
        Line2D([], [], **_circle("white"), label=f"electrode, q > {Q:g}"),
        Line2D([], [], color=BLACK, linewidth=2.2, label="mean over electrodes"),
    ]
    if np.isfinite(ceiling):
        axes.axvline(ceiling, color=GREY, linewidth=1.2, linestyle=(0, (1, 1.5)))
        label = "noise ceiling, mean over electrodes"
        handles.append(Line2D([], [], color=GREY, linestyle=(0, (1, 1.5)), label=label))
    _name_models(axes, models)
    end = fixed_end(R_ENDS, electrodes["r"])
    low = min(-0.1 * end, 1.1 * float(np.nanmin(electrodes["r"])))
    axes.set_xlim(low, end)
    axes.set_xlabel(R_LABEL)
    figure.legend(handles=handles, loc="outside upper right", ncols=4, columnspacing=1.0)
    return figure


def _circle(face: str) -> dict[str, Any]:
    return {
        "marker": "o",
        "linestyle": "none",
        "markersize": 4,
        "markerfacecolor": face,
        "markeredgecolor": GREY,
        "markeredgewidth": 0.7,
    }


@matplotlib.rc_context(STYLE)
def prediction_scatter(gains: pd.DataFrame, styles: Styles, reference: str) -> Figure:
    """Draw r of every electrode under each model against the reference, with the identity line.

    Parameters
    ----------
    gains : data frame
        Columns model, name, r, r_reference, and q of the difference (NaN: not tested).
    styles : mapping of model to colours and marks
    reference : str
        Label of the model on the horizontal axis.
    """
    models = list(dict.fromkeys(gains["model"]))[:MAX_PANELS]
    columns = min(len(models), 3)
    rows = -(-len(models) // columns)
    size = (max(WIDTH * columns / 3, WIDTH * 0.62), 2.55 * rows + 0.4)
    figure = Figure(figsize=size, dpi=DPI)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    end = fixed_end(R_ENDS, gains[["r", "r_reference"]])
    low = min(-0.1 * end, 1.1 * float(np.nanmin(gains[["r", "r_reference"]].to_numpy(float))))
    for axes, model in zip(panels, models, strict=False):
        own = gains[gains["model"] == model]
        axes.plot([low, end], [low, end], color=BLACK, linewidth=0.8, linestyle=DASHED, zorder=1)
        color = styles[model]["color"]
        face = [color if q <= Q else "white" for q in own["q"]]
        style: Any = {"edgecolors": color, "linewidths": 0.7, "alpha": 0.8, "zorder": 2}
        axes.scatter(own["r_reference"], own["r"], s=14, c=face, **style)
        above = int((own["r"] > own["r_reference"]).sum())
        text = f"{above} of {len(own)} above"
        axes.text(0.04, 0.96, text, transform=axes.transAxes, va="top", fontsize=8)
        axes.set(xlim=(low, end), ylim=(low, end), aspect="equal")
        axes.set_title(plain(_in_two_lines(model_words(model))), fontsize=8)
    for spare in panels[len(models) :]:
        spare.set_visible(False)
    figure.supxlabel(plain(f"r of “{model_words(reference)}”"), fontsize=9)
    figure.supylabel("r of the model above", fontsize=9)
    if gains["q"].notna().any():
        handles = [
            Line2D([], [], **_circle(GREY), label=f"difference with q ≤ {Q:g}"),
            Line2D([], [], **_circle("white"), label=f"q > {Q:g}"),
        ]
        figure.legend(handles=handles, loc="outside upper right", ncols=2)
    return figure


def _in_two_lines(words: str) -> str:
    return words.replace(", control: ", "\ncontrol: ").replace(", seed", "\nseed")


# --------------------------------------------------------------------------------- profiles


@matplotlib.rc_context(STYLE)
def lag_profile(
    curves: pd.DataFrame, best: Mapping[str, np.ndarray], styles: Styles, models: Sequence[str]
) -> Figure:
    """Draw r at every lag, and where the best lags lie.

    Parameters
    ----------
    curves : data frame
        Columns model, lag (seconds; above 0 the brain follows the sound), r, ci_low, ci_high; one
        row per model and lag.
    best : mapping of model to array, shape (n_electrodes,)
        Best lag of the electrodes (seconds); may be empty.
    """
    figure = Figure(figsize=(WIDTH, 3.1), dpi=DPI)
    widths = [1.7, 1] if best else [1]
    panels = figure.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0]
    lags, shown = panels[0], [m for m in models if m in set(curves["model"])]
    for i, model in enumerate(shown):
        own = curves[curves["model"] == model].sort_values("lag")
        color = styles[model]["color"]
        lags.plot(own["lag"], own["r"], color=color, linestyle=_line(i), zorder=3)
        if i < 2:  # spreads of more models would hide each other
            low, high = own["ci_low"].to_numpy(float), own["ci_high"].to_numpy(float)
            lags.fill_between(own["lag"], low, high, color=color, alpha=0.13, linewidth=0)
    lags.axvline(0, color=BLACK, linewidth=0.8, linestyle=DASHED, zorder=1)
    lags.axhline(0, color=GREY, linewidth=0.6, zorder=1)
    lags.set(xlabel="Lag of the brain after the sound (s)", ylabel=R_LABEL, title="r at every lag")
    lags.set_xlim(curves["lag"].min(), curves["lag"].max())
    if best:
        _draw_best_lags(panels[1], best, styles, (curves["lag"].min(), curves["lag"].max()))
    handles = [
        Line2D([], [], color=styles[m]["color"], linestyle=_line(i), label=plain(model_words(m)))
        for i, m in enumerate(shown)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(max(len(shown), 1), 2))
    return figure


def _line(i: int) -> Any:
    """Return the style of the i-th line, so that lines differ without their colours."""
    return ("-", (0, (5, 1.2)), (0, (1, 1)), (0, (4, 1, 1, 1)), (0, (7, 2)), (0, (2, 2)))[i % 6]


def _draw_best_lags(
    axes: Axes, best: Mapping[str, np.ndarray], styles: Styles, ends: tuple[float, float]
) -> None:
    bins = np.linspace(*ends, 41).tolist()
    for i, (model, lags) in enumerate(best.items()):
        weights = np.full(len(lags), 100 / max(len(lags), 1))
        style: Any = {"color": styles[model]["color"], "linewidth": 1.2}
        style |= {"histtype": "step"} if i else {"histtype": "stepfilled", "alpha": 0.35}
        axes.hist(lags, bins, weights=weights, **style)
    axes.axvline(0, color=BLACK, linewidth=0.8, linestyle=DASHED, zorder=1)
    axes.set(xlabel="Best lag (s)", ylabel="Electrodes (%)", title="Best lag of electrodes")
    axes.set_xlim(*ends)


@matplotlib.rc_context(STYLE)
def category_profile(
    profiles: Sequence[tuple[str, str, pd.DataFrame]],
    names: Sequence[str],
    label: str,
    styles: Styles,
    models: Sequence[str],
    shaded_from: float | None = None,
    *,
    joined: bool = True,
) -> Figure:
    """Draw values of every model over ordered categories: bands of modulation, carrier bands.

    Parameters
    ----------
    profiles : sequence of (title, label of the axis, data frame)
        One panel each: columns model, place (0 to the number of names), value, ci_low, ci_high.
    names : sequence of str
        Of the categories.
    label : str
        Of the shared axis, with its unit.
    shaded_from : float, optional
        Place from which the panels are shaded.
    joined : bool
        Whether a line joins the categories, as suits those that continue each other.
    """
    width = WIDTH if len(profiles) > 1 else 0.66 * WIDTH
    figure = Figure(figsize=(width, 3.3), dpi=DPI)
    panels = figure.subplots(1, len(profiles), squeeze=False)[0]
    present = {m for _, _, table in profiles for m in table["model"]}
    shown = [model for model in models if model in present]
    shifts = np.linspace(-0.24, 0.24, len(shown)) if len(shown) > 1 else np.zeros(1)
    for axes, (title, unit, table) in zip(panels, profiles, strict=True):
        if shaded_from is not None:
            axes.axvspan(shaded_from, len(names) - 0.5, color="#EDEDED", zorder=0, linewidth=0)
        _zero(axes)
        for model, shift in zip(shown, shifts, strict=True):
            own = table[table["model"] == model].sort_values("place")
            x = own["place"] + shift
            style = styles[model]
            axes.vlines(x, own["ci_low"], own["ci_high"], color=style["color"], lw=1.1, zorder=2)
            line = 0.8 if joined else 0.0
            axes.plot(x, own["value"], linewidth=line, markersize=4.5, zorder=3, **style)
        axes.set(title=title, ylabel=unit, xlim=(-0.5, len(names) - 0.5))
        turned = sum(map(len, names)) * len(profiles) > 60
        style_of_names: Any = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
        axes.set_xticks(
            range(len(names)), [plain(name) for name in names], **(style_of_names if turned else {})
        )
    panels[(len(panels) - 1) // 2].set_xlabel(label)
    _add_legend(figure, shown, styles, linewidth=float(joined))
    return figure


@matplotlib.rc_context(STYLE)
def layer_profile(
    profiles: Sequence[tuple[str, str, pd.DataFrame]], styles: Styles, models: Sequence[str]
) -> Figure:
    """Draw values of every model over its layers.

    Parameters
    ----------
    profiles : sequence of (title, label of the axis, data frame)
        One panel each: columns model, layer, value, ci_low, ci_high.
    """
    figure = Figure(figsize=(WIDTH, 3.0), dpi=DPI)
    panels = figure.subplots(1, len(profiles), squeeze=False)[0]
    present = {m for _, _, table in profiles for m in table["model"]}
    shown = [model for model in models if model in present]
    shifts = np.linspace(-0.12, 0.12, len(shown)) if len(shown) > 1 else np.zeros(1)
    for axes, (title, unit, table) in zip(panels, profiles, strict=True):
        _zero(axes)
        for model, shift in zip(shown, shifts, strict=True):
            own = table[table["model"] == model].sort_values("layer")
            x = own["layer"] + shift
            style = styles[model]
            axes.vlines(x, own["ci_low"], own["ci_high"], color=style["color"], lw=1.1, zorder=2)
            axes.plot(x, own["value"], linewidth=1.2, markersize=4.5, zorder=3, **style)
        axes.set(title=title, ylabel=unit, xlabel="Layer of the speech model")
        layers = sorted(table["layer"].unique())
        layers = layers[:: 1 + len(layers) // 14]  # labels of more would overlap
        axes.set_xticks(layers, [f"{layer:g}" for layer in layers])
    _add_legend(figure, shown, styles, linewidth=1.2)
    return figure


# ------------------------------------------------------------------------------------ group


@matplotlib.rc_context(STYLE)
def group_gains(
    participants: pd.DataFrame, group: pd.DataFrame, styles: Styles, models: Sequence[str]
) -> Figure:
    """Draw the gain of every model over the reference, per participant and on average.

    Parameters
    ----------
    participants : data frame
        Columns participant, model, electrodes ("all" or "responsive"), difference, ci_low, ci_high
        (r).
    group : data frame
        Columns model, electrodes, difference, ci_low, ci_high, detectable.
    """
    kinds = [k for k in ("all", "responsive") if (group["electrodes"] == k).any()]
    names = sorted(participants["participant"].unique())
    many = len(names) > MANY
    rows = [model for model in models if model in set(group["model"])]
    figure = Figure(figsize=(WIDTH, 1.35 + (0.62 if many else 0.52) * len(rows)), dpi=DPI)
    panels = figure.subplots(1, len(kinds), sharex=True, sharey=True, squeeze=False)[0]
    limits = ["ci_low", "ci_high"]
    points = participants["difference"] * 1.05
    end = fixed_end(GAIN_ENDS, points, participants[limits], group[limits])
    most = 0.36 if many else 0.2
    shifts = np.linspace(-most, most, len(names)) if len(names) > 1 else [0.0]
    shift = dict(zip(names, map(float, shifts), strict=True))
    width, size = (0.5, 2.5) if many else (1.0, 4.0)
    for axes, kind in zip(panels, kinds, strict=True):
        own_group = group[group["electrodes"] == kind]
        for y, model in enumerate(rows):
            own = participants[
                (participants["model"] == model) & (participants["electrodes"] == kind)
            ]
            _draw_gain_row(axes, y, own, own_group[own_group["model"] == model], shift)
            for row in own.to_dict("records"):
                place, color = y + shift[row["participant"]], styles[model]["color"]
                axes.plot([row["ci_low"], row["ci_high"]], [place] * 2, color="#A8A8A8", lw=width)
                face = styles[model]["markerfacecolor"]
                style: Any = {"color": color, "markerfacecolor": face, "markersize": size}
                axes.plot(row["difference"], place, marker=styles[model]["marker"], **style)
        _zero(axes, vertical=True)
        axes.set_xlim(-end, end)
        axes.set_xlabel(GAIN_LABEL)
        axes.set_title("All electrodes" if kind == "all" else "Responsive electrodes")
        axes.tick_params(axis="y", length=0)
        axes.set_xticks(ticks := np.linspace(-end, end, 5), [_tick(value) for value in ticks])
    _name_models(panels[0], rows)
    handles = [
        Line2D([], [], color=GREY, marker="o", linewidth=1, label="participant, with interval"),
        Line2D([], [], color=BLACK, linewidth=2.2, label="mean over participants"),
        Patch(color="#EDEDED", label="smaller than detectable"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def _tick(value: float) -> str:
    return f"{value:+g}".replace("-", MINUS) if value else "0"


def _draw_gain_row(
    axes: Axes, y: int, own: pd.DataFrame, group: pd.DataFrame, shift: Mapping[str, float]
) -> None:
    for row in group.to_dict("records"):
        if np.isfinite(row["detectable"]):
            ends = 2 * row["detectable"]
            axes.barh(y, ends, 0.86, left=-row["detectable"], color="#EDEDED", zorder=0)
        axes.plot([row["ci_low"], row["ci_high"]], [y, y], color=BLACK, linewidth=1.2, zorder=5)
        axes.plot([row["difference"]] * 2, [y - 0.3, y + 0.3], color=BLACK, linewidth=2.2, zorder=6)


@matplotlib.rc_context(STYLE)
def data_scaling(scaling: pd.DataFrame) -> Figure:
    """Draw the gain over the reference against the share of the fMRI that a model was tuned on.

    Parameters
    ----------
    scaling : data frame
        Columns base (what was tuned), amount (0 to 1), seed, difference, ci_low, ci_high (r).
    """
    figure = Figure(figsize=(0.62 * WIDTH, 3.0), dpi=DPI)
    axes = figure.subplots()
    _zero(axes)
    bases = list(dict.fromkeys(scaling["base"]))
    marks = ("#D55E00", "o"), ("#0072B2", "v"), ("#009E73", "D"), ("#CC79A7", "P"), (GREY, "X")
    for i, base in enumerate(bases):
        own = scaling[scaling["base"] == base].sort_values(["amount", "seed"])
        color, marker = marks[i % len(marks)]
        place = 100 * own["amount"] + 1.2 * own["seed"]
        axes.vlines(place, own["ci_low"], own["ci_high"], color=color, linewidth=1, alpha=0.8)
        first = (own["seed"] == 0).to_numpy()
        face = ["white" if seed else color for seed in own["seed"]]
        axes.scatter(
            place, own["difference"], s=26, c=face, edgecolors=color, marker=marker, zorder=3
        )
        axes.plot(place[first], own["difference"][first], color=color, linestyle=_line(i), lw=1.1)
    handles = [
        Line2D(
            [], [], color=marks[i % 5][0], marker=marks[i % 5][1], label=plain(model_words(base))
        )
        for i, base in enumerate(bases)
    ]
    if (scaling["seed"] > 0).any():
        other: Any = {"color": GREY, "marker": "o", "mfc": "white", "linestyle": "none"}
        handles.append(Line2D([], [], **other, label="other seed of the tuning"))
    axes.set(xlabel="Share of the fMRI used for tuning (%)", ylabel=GAIN_LABEL, xlim=(0, 106))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 2))
    return figure


def modulation_name(low: float, high: float) -> str:
    """Return a band of modulation in hertz, such as ``0.25–0.5``."""
    return f"{low:g}\N{EN DASH}{high:g}"


def nyquist_place(bands: Sequence[tuple[float, float]], nyquist: float) -> float | None:
    """Return where on the axis of bands a frequency lies; None outside of them.

    Bands stand at 0, 1, 2 ...; inside a band the frequency is placed by its logarithm.

    Examples
    --------
    >>> nyquist_place([(0.125, 0.25), (0.25, 0.5)], 0.25)
    0.5
    """
    for i, (low, high) in enumerate(bands):
        if nyquist <= low:
            return i - 0.5
        if nyquist < high:
            share = np.log(nyquist / low) / np.log(high / low) if low > 0 else nyquist / high
            return float(i - 0.5 + share)
    return None


def signed_number(value: float, digits: int = 4) -> str:
    """Return a gain with its sign, as it stands in tables."""
    return f"{round(value, digits) + 0.0:+.{digits}f}".replace("-", MINUS)  # never -0.0000
