"""Figures of the reports: tables and arrays in, matplotlib figures out; no file is touched."""

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
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

Key = tuple[str, str]  # condition, audio version

MINUS = "\N{MINUS SIGN}"

# Okabe & Ito's palette, which stays legible for colour-blind readers and in grey print; the
# markers carry the same information a second time.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#6B6B6B"

CONDITION_TO_LABEL = {
    "backward": "Backward ridge",
    "linear": "Linear encoder",
    "projection": "Task only, plain projection",
    "taskonly": "Task only",
    "zeroshot": "Zero-shot",
    "frozen": "Finetuned, frozen encoder",
    "finetuned": "Pretrained + finetuned",
    "pretrained": "Pretrained, held-out ambient",
}
CONDITION_TO_COLOR = {
    "backward": BLACK,
    "linear": ORANGE,
    "projection": GREY,
    "taskonly": SKY,
    "zeroshot": PURPLE,
    "frozen": GREEN,
    "finetuned": VERMILION,
    "pretrained": BLUE,
}
CONDITION_TO_MARKER = {
    "backward": "s",
    "linear": "^",
    "projection": "d",
    "taskonly": "D",
    "zeroshot": "v",
    "frozen": "P",
    "finetuned": "o",
    "pretrained": "X",
}
CHANCE = 0.5
MANY = 8  # participants, from which their marks are drawn smaller
WIDTH = 7.0  # inches: two columns of a journal page
STYLE: Any = {
    "font.family": ["sans-serif"],
    "font.sans-serif": ["Arial", "Helvetica", "Liberation Sans", "DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "figure.constrained_layout.use": True,
}


def plain(text: str) -> str:
    """Return `text` so that matplotlib draws it literally (a dollar sign opens no formula)."""
    return str(text).replace("$", r"\$")


def condition_label(condition: str, audio: str = "true") -> str:
    """Return the words for a condition, naming the audio where it is not the true file."""
    label = CONDITION_TO_LABEL.get(condition, condition)
    return label if audio == "true" or condition == "pretrained" else f"{label} ({audio} audio)"


def _panel_title(condition: str, audio: str) -> str:
    """Return a title that fits a narrow panel: the audio goes to a second line."""
    label = plain(condition_label(condition))
    return label if audio == "true" or condition == "pretrained" else f"{label}\n{audio} audio"


def condition_order(condition: str) -> int:
    """Return the place of a condition in tables and figures: simple ones first, unknown last."""
    known = list(CONDITION_TO_LABEL)
    return known.index(condition) if condition in known else len(known)


def _color(condition: str) -> str:
    return CONDITION_TO_COLOR.get(condition, GREY)


def _marker(condition: str, audio: str = "true") -> dict[str, Any]:
    """Return marker style: filled for the true audio, hollow for what the room heard."""
    face = "white" if audio == "ambient" and condition != "pretrained" else _color(condition)
    return {
        "marker": CONDITION_TO_MARKER.get(condition, "o"),
        "color": _color(condition),
        "markerfacecolor": face,
    }


def _figure(height: float) -> Figure:
    return Figure(figsize=(WIDTH, height))


def name_rows(axes: Axes, labels: Sequence[str]) -> None:
    """Give each row of a horizontal plot its name, the first row at the top."""
    axes.set_yticks(range(len(labels)), [plain(label) for label in labels])
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)


def _grid(n: int, height: float, n_columns: int = 3) -> tuple[Figure, list[Axes]]:
    """Return a figure with `n` small panels that share both axes."""
    columns = min(n, n_columns)
    rows = -(-n // columns)
    figure = Figure(figsize=(WIDTH * columns / n_columns, height * rows + 0.35))
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for spare in axes[n:]:
        spare.set_visible(False)
        # The panel above an empty place is the last of its column and keeps its tick labels.
    for above in axes[max(n - columns, 0) : n]:
        above.tick_params(labelbottom=True)
    return figure, list(axes[:n])


@matplotlib.rc_context(STYLE)
def condition_ranks(table: pd.DataFrame) -> Figure:
    """Draw the mean relative rank of every condition with its interval and its null.

    Parameters
    ----------
    table : data frame
        Columns condition, audio, relative_rank, ci_low, ci_high, and null_shift_low,
        null_shift_high where there is a null; ranks are fractions (0 best, 0.5 chance).
    """
    figure = _figure(0.9 + 0.34 * len(table))
    axes = figure.subplots()
    for y, row in enumerate(table.to_dict("records")):
        condition, audio = str(row["condition"]), str(row["audio"])
        if np.isfinite(row.get("null_shift_low", np.nan)):
            width = row["null_shift_high"] - row["null_shift_low"]
            axes.barh(y, width, 0.62, left=row["null_shift_low"], color="#DCDCDC", zorder=1)
        color = _color(condition)
        axes.plot([row["ci_low"], row["ci_high"]], [y, y], color=color, linewidth=2, zorder=3)
        axes.plot(row["relative_rank"], y, markersize=7, zorder=4, **_marker(condition, audio))
    labels = [
        condition_label(c, a) for c, a in zip(table["condition"], table["audio"], strict=True)
    ]
    name_rows(axes, labels)
    axes.axvline(CHANCE, color=BLACK, linestyle=(0, (4, 3)), linewidth=0.9, zorder=2)
    axes.set_xlim(0, max(0.62, float(np.nanmax(table["ci_high"])) + 0.04))
    axes.set_xlabel("Mean relative rank (0 = best, 0.5 = chance)")
    handles = [
        Line2D([], [], color=GREY, marker="o", linewidth=2, label="mean and confidence interval"),
        Patch(color="#DCDCDC", label="null (time-shifted pairing)"),
        Line2D([], [], color=BLACK, linestyle=(0, (4, 3)), linewidth=0.9, label="chance"),
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=3)
    return figure


@matplotlib.rc_context(STYLE)
def rank_histograms(ranks: Mapping[Key, np.ndarray]) -> Figure:
    """Draw how the relative ranks of the test windows are distributed, against chance.

    Parameters
    ----------
    ranks : mapping of (condition, audio) to array, shape (n_windows,)
        Relative rank of each window, 0 best; chance is flat.
    """
    bins = np.linspace(0, 1, 21).tolist()
    figure, panels = _grid(len(ranks), 1.55)
    for axes, ((condition, audio), values) in zip(panels, ranks.items(), strict=True):
        finite = values[np.isfinite(values)]
        weights = np.full(len(finite), 100 / max(len(finite), 1))
        axes.hist(finite, bins=bins, weights=weights, color=_color(condition), alpha=0.85)
        axes.axhline(100 / (len(bins) - 1), color=BLACK, linestyle=(0, (4, 3)), linewidth=0.9)
        axes.set_title(_panel_title(condition, audio))
        label = f"{len(finite)} windows"
        axes.text(0.97, 0.95, label, transform=axes.transAxes, ha="right", va="top", fontsize=8)
        axes.set(xlim=(0, 1), xticks=[0, 0.5, 1])
    figure.supxlabel("Relative rank of the true sound (dashed: chance)", fontsize=9)
    figure.supylabel("Test windows (%)", fontsize=9)
    return figure


@matplotlib.rc_context(STYLE)
def null_distributions(
    draws: Mapping[Key, tuple[np.ndarray, np.ndarray]], observed: Mapping[Key, float]
) -> Figure:
    """Draw the mean rank under time-shifted and shuffled pairing beside the observed one.

    Parameters
    ----------
    draws : mapping of (condition, audio) to (shifted, shuffled)
        Mean relative rank of each permutation; either may be empty.
    observed : mapping of (condition, audio) to float
        Mean relative rank with the true pairing.
    """
    everything = [d for pair in draws.values() for d in pair] + [np.array(list(observed.values()))]
    values = np.concatenate(everything)
    low, high = np.nanmin(values), np.nanmax(values)
    bins = np.linspace(low - 0.01, high + 0.01, 61).tolist()
    figure, panels = _grid(len(draws), 1.55)
    for axes, (key, (shifted, shuffled)) in zip(panels, draws.items(), strict=True):
        filled: Any = {"color": GREY, "alpha": 0.5, "histtype": "stepfilled"}
        outline: Any = {"color": BLACK, "linewidth": 1, "histtype": "step"}
        for null, style in ((shifted, filled), (shuffled, outline)):
            axes.hist(null, bins, weights=np.full(len(null), 100 / max(len(null), 1)), **style)
        if key in observed:
            axes.axvline(observed[key], color=_color(key[0]), linewidth=2.2)
        axes.set_title(_panel_title(*key))
    handles = [
        Patch(color=GREY, alpha=0.5, label="null: time-shifted pairing"),
        Patch(edgecolor=BLACK, facecolor="none", label="null: shuffled pairing"),
        Line2D([], [], color=VERMILION, linewidth=2.2, label="observed (condition's colour)"),
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=3)
    figure.supxlabel("Mean relative rank (0 = best, 0.5 = chance)", fontsize=9)
    figure.supylabel("Permutations (%)", fontsize=9)
    return figure


@matplotlib.rc_context(STYLE)
def training_curves(histories: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw loss and validation rank over the epochs of every model.

    Parameters
    ----------
    histories : mapping of model to data frame
        Columns epoch, train_loss, val_loss (nats) and val_rank (0 best, 0.5 chance).
    """
    figure = _figure(2.9)
    loss, rank = figure.subplots(1, 2)
    for model, history in histories.items():
        color, epochs = _color(model), history["epoch"]
        few = {"marker": "."} if len(history) < 3 else {}
        loss.plot(epochs, history["train_loss"], color=color, **few)
        loss.plot(epochs, history["val_loss"], color=color, linestyle=(0, (3, 1.5)), **few)
        rank.plot(epochs, history["val_rank"], color=color, **few)
        if history["val_rank"].notna().any():
            best = history.iloc[int(np.nanargmin(history["val_rank"]))]
            rank.plot(best["epoch"], best["val_rank"], markersize=6, **_marker(model))
    rank.axhline(CHANCE, color=BLACK, linestyle=(0, (4, 3)), linewidth=0.9)
    loss.set(xlabel="Epoch", ylabel="Contrastive loss (nats)", title="Loss")
    rank.set(xlabel="Epoch", ylabel="Mean relative rank", title="Validation rank")
    for axes in (loss, rank):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    loss.legend(
        handles=[
            Line2D([], [], color=GREY, label="training"),
            Line2D([], [], color=GREY, linestyle=(0, (3, 1.5)), label="validation"),
        ]
    )
    models = [Line2D([], [], label=plain(condition_label(m)), **_marker(m)) for m in histories]
    figure.legend(handles=models, loc="outside lower center", ncols=min(len(models), 3))
    return figure


@matplotlib.rc_context(STYLE)
def power_spectra(spectra: Sequence[tuple[str, pd.DataFrame]]) -> Figure:
    """Draw the power spectra of all recordings before and after preprocessing.

    Parameters
    ----------
    spectra : sequence of (task, data frame)
        One per recording: columns frequency (hertz), before and after (V^2/Hz, before the scaling),
        each the median over the channels kept.
    """
    figure = _figure(2.9)
    panels = figure.subplots(1, 2)
    tasks = list(dict.fromkeys(task for task, _ in spectra))
    colors = dict(
        zip(tasks, [BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY] * len(tasks), strict=False)
    )
    for axes, column in zip(panels, ("before", "after"), strict=True):
        for task, table in spectra:
            shown = table[(table["frequency"] > 0) & (table[column] > 0)]
            axes.loglog(shown["frequency"], shown[column], color=colors[task], lw=0.9, alpha=0.7)
        axes.set_xlabel("Frequency (Hz)")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_major_formatter(FuncFormatter(_power_of_ten))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_minor_formatter(NullFormatter())
    panels[0].set(title="Before: as recorded", ylabel="Power (V²/Hz)")
    panels[1].set(title="After: filtered and decimated", ylabel="Power (V²/Hz)")
    handles = [Line2D([], [], color=colors[task], label=plain(f"task {task}")) for task in tasks]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(tasks), 4))
    return figure


def _power_of_ten(value: float, _: int) -> str:
    """Return a power of ten in plain characters, which every viewer sets in the page's font."""
    superscripts = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
    return "10" + str(round(np.log10(value))).translate(superscripts)


@matplotlib.rc_context(STYLE)
def aligned_audio(recordings: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw which stretches of each recording have sound aligned to them.

    Parameters
    ----------
    recordings : sequence of mappings
        As in the plan: label, duration (seconds), split, and alignment, a list of mappings with
        start and stop (seconds on the recording's clock) and version ("true" or "ambient").
    """
    longest = max(float(r.get("duration") or 0) for r in recordings)
    scale, unit = (3600, "h") if longest > 2 * 3600 else (60, "min") if longest > 120 else (1, "s")
    figure = _figure(0.9 + 0.26 * len(recordings))
    axes = figure.subplots()
    version_to_place = {"true": (VERMILION, -0.3), "ambient": (BLUE, 0.0)}
    for y, recording in enumerate(recordings):
        duration = float(recording.get("duration") or 0) / scale
        axes.barh(y, duration, 0.66, color="#E4E4E4", zorder=1)
        for segment in recording.get("alignment", []):
            color, offset = version_to_place.get(str(segment.get("version")), (GREY, -0.15))
            start, stop = float(segment["start"]) / scale, float(segment["stop"]) / scale
            axes.barh(y + offset + 0.15, stop - start, 0.26, left=start, color=color, zorder=2)
    name_rows(axes, [str(recording.get("label", "?")) for recording in recordings])
    axes.set_xlabel(f"Time on the recording's clock ({unit})")
    handles = [
        Patch(color="#E4E4E4", label="recorded"),
        Patch(color=VERMILION, label="true audio"),
        Patch(color=BLUE, label="ambient audio"),
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=3)
    return figure


def _participant_shifts(participants: Sequence[str], most: float = 0.16) -> dict[str, float]:
    """Return a sideways shift per participant, so that equal values stay visible."""
    shifts = np.linspace(-most, most, len(participants)) if len(participants) > 1 else [0.0]
    return dict(zip(participants, map(float, shifts), strict=True))


@matplotlib.rc_context(STYLE)
def group_ranks(participants: pd.DataFrame, group: pd.DataFrame) -> Figure:
    """Draw every participant's rank in every condition, with the mean over participants.

    Parameters
    ----------
    participants : data frame
        Columns participant, condition, audio, relative_rank.
    group : data frame
        Columns condition, audio, mean_rank, ci_low, ci_high; one row per place on the axis.
    """
    figure = _figure(0.9 + 0.4 * len(group))
    axes = figure.subplots()
    names = sorted(participants["participant"].unique())
    shift = _participant_shifts(names, 0.3 if len(names) > MANY else 0.16)
    size = 3 if len(names) > MANY else 5
    for y, row in enumerate(group.to_dict("records")):
        key = (str(row["condition"]), str(row["audio"]))
        same = (participants["condition"] == key[0]) & (participants["audio"] == key[1])
        for own in participants[same].to_dict("records"):
            place = y + shift[own["participant"]]
            axes.plot(own["relative_rank"], place, markersize=size, zorder=3, **_marker(*key))
        axes.plot([row["ci_low"], row["ci_high"]], [y, y], color=GREY, linewidth=1, zorder=1)
        axes.plot([row["mean_rank"]] * 2, [y - 0.33, y + 0.33], color=BLACK, lw=2.2, zorder=2)
    labels = [
        condition_label(c, a) for c, a in zip(group["condition"], group["audio"], strict=True)
    ]
    name_rows(axes, labels)
    axes.axvline(CHANCE, color=BLACK, linestyle=(0, (4, 3)), linewidth=0.9, zorder=0)
    worst = [CHANCE, *participants["relative_rank"].dropna(), *group["ci_high"].dropna()]
    axes.set_xlim(0, max(worst) + 0.05)
    axes.set_xlabel("Mean relative rank (0 = best, 0.5 = chance)")
    handles = [
        Line2D([], [], color=GREY, marker="o", linestyle="none", label="participant"),
        Line2D([], [], color=BLACK, linewidth=2.2, label="mean over participants"),
        Line2D([], [], color=BLACK, linestyle=(0, (4, 3)), linewidth=0.9, label="chance"),
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=3)
    return figure


@matplotlib.rc_context(STYLE)
def group_contrasts(participants: pd.DataFrame, group: pd.DataFrame) -> Figure:
    """Draw the difference between conditions, per participant and on average.

    Parameters
    ----------
    participants : data frame
        Columns participant, contrast, audio, difference, ci_low, ci_high (relative rank).
    group : data frame
        Columns contrast, audio, difference, ci_low, ci_high; one row per place on the axis.
    """
    names = sorted(participants["participant"].unique())
    many = len(names) > MANY
    figure = _figure(1.1 + (0.62 if many else 0.5) * len(group))
    axes = figure.subplots()
    shift = _participant_shifts(names, 0.34 if many else 0.16)
    width, size = (0.5, 2.5) if many else (1.0, 4.0)
    for y, row in enumerate(group.to_dict("records")):
        same = (participants["contrast"] == row["contrast"]) & (
            participants["audio"] == row["audio"]
        )
        for own in participants[same].to_dict("records"):
            place = y + shift[own["participant"]]
            axes.plot([own["ci_low"], own["ci_high"]], [place] * 2, color="#A8A8A8", lw=width)
            axes.plot(own["difference"], place, "o", color=GREY, markersize=size)
        axes.plot([row["ci_low"], row["ci_high"]], [y, y], color=BLACK, linewidth=1.2, zorder=3)
        axes.plot([row["difference"]] * 2, [y - 0.3, y + 0.3], color=BLACK, linewidth=2.2, zorder=4)
    axes.axvline(0, color=BLACK, linestyle=(0, (4, 3)), linewidth=0.9)
    labels = [contrast_label(c, a) for c, a in zip(group["contrast"], group["audio"], strict=True)]
    _name_rows_on_two_lines(axes, [label.partition(f" {MINUS} ") for label in labels])
    axes.set_xlabel("Difference in mean relative rank\n(negative: the first is better)")
    handles = [
        Line2D([], [], color=GREY, marker="o", linewidth=1, label="participant, with interval"),
        Line2D([], [], color=BLACK, linewidth=2.2, label="mean over participants"),
        Line2D([], [], color=BLACK, linestyle=(0, (4, 3)), linewidth=0.9, label="no difference"),
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=3)
    return figure


def _name_rows_on_two_lines(axes: Axes, labels: Sequence[tuple[str, str, str]]) -> None:
    """Give each row a name of two lines, such as ``first``, `` − ``, ``second``."""
    # Two ticks: an SVG viewer with another font would not set the lines of one label flush.
    places = [y + side for y in range(len(labels)) for side in (-0.14, 0.14)]
    lines = [line for first, minus, second in labels for line in (first, (minus + second).strip())]
    name_rows(axes, labels=[""] * len(labels))
    axes.set_yticks(places, [plain(line) for line in lines])


def contrast_label(contrast: str, audio: str = "true") -> str:
    """Return the words for a contrast such as ``finetuned-taskonly``."""
    first, _, second = contrast.partition("-")
    label = f"{condition_label(first)} {MINUS} {condition_label(second)}" if second else contrast
    return label if audio == "true" else f"{label} ({audio} audio)"


def mark_simulated(figure: Figure) -> Figure:
    """Write on the figure itself that its data are simulated, and return it."""
    figure.suptitle("simulated data", x=0.004, ha="left", fontsize=7, color=VERMILION)
    return figure
