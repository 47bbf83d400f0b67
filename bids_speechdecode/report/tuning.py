"""The speech models of a run that were tuned on fMRI: on what, and how well they predict BOLD."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from bids_speechdecode.bids.sidecars import read_table
from bids_speechdecode.encoding.compared import Model, split_label
from bids_speechdecode.errors import DataError
from bids_speechdecode.report.encoding.models import model_styles, model_words
from bids_speechdecode.report.encoding.results import Encoding
from bids_speechdecode.report.figures import BLACK, GREY, STYLE, WIDTH, plain
from bids_speechdecode.report.methods import Settings, TunedTarget
from bids_speechdecode.report.page import (
    DASH,
    Picture,
    Table,
    add_picture,
    clock,
    count,
    make_table,
    number,
    several,
)

FOLDER = "speechmodels"
TITLE = "Prediction of BOLD during tuning"
PARTS = ("Train", "Validation", "Test")
_UNREADABLE = (DataError, OSError, ValueError, TypeError, KeyError, AttributeError)


@dataclass(frozen=True)
class About:
    """What ``tuning.json`` tells.

    Attributes
    ----------
    base : str
        The model that was tuned, by the name of its folder or on the hub.
    layer : int
    participants : tuple of str
        Whose BOLD it was tuned on.
    task : str
        Of the functional runs.
    tr : float
        Their repetition time (s).
    durations : tuple of float
        Of the BOLD that was trained on, of each participant (s).
    n_voxels : tuple of int
        Of each participant.
    stories : mapping of str to tuple of str
        Sounds by part: Train, Validation, Test.
    epoch : int
        The chosen one.
    validation_r : float
        At that epoch.
    test_r, test_r_untuned : float
        In the test stories.
    n_higher : int
        Participants in whose test stories the tuned model predicts better.
    settings : mapping
        Of the tuning.
    """

    base: str
    layer: int
    participants: tuple[str, ...]
    task: str
    tr: float
    durations: tuple[float, ...]
    n_voxels: tuple[int, ...]
    stories: Mapping[str, tuple[str, ...]]
    epoch: int
    validation_r: float
    test_r: float
    test_r_untuned: float
    n_higher: int
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class TunedModel:
    """A tuned speech model as far as its folder tells of it.

    Attributes
    ----------
    label : str
        Name of its folder.
    about : About or None
        None where ``tuning.json`` is absent or unreadable.
    epochs : data frame
        Columns epoch and validation_r; empty where ``tuning.tsv`` is absent or unreadable.
    problems : tuple of str
        What could not be read.
    """

    label: str
    about: About | None
    epochs: pd.DataFrame
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class TuningPage:
    """What a report shows of tuned speech models.

    Attributes
    ----------
    table, details : Table
        How well they predict; whose BOLD and which stories.
    picture : Picture or None
        None where no model has epochs.
    problems : tuple of str
    has_controls : bool
    """

    table: Table
    details: Table
    picture: Picture | None
    problems: tuple[str, ...]
    has_controls: bool


# --------------------------------------------------------------------------------- on disk


def find_tuned(
    root: Path, encoded: Iterable[Encoding], run: Settings | None
) -> tuple[TunedModel, ...]:
    """Return the tuned models whose features predicted electrodes, in their order.

    Parameters
    ----------
    root : path
        The derivative dataset.
    encoded : iterable of Encoding
    run : settings or None
        Of the encoding: a model of another output is named there by its folder.
    """
    named = [str(name) for name in (run or {}).get("encoding", {}).get("models") or ()]
    models = (model for found in encoded for model in found.models)
    labels = dict.fromkeys(m.label for m in models if m.kind in {"tuned", "control"})
    elsewhere = {Path(name).name: Path(name) for name in named if "/" in name}
    return tuple(_read_nearest(root, label, elsewhere.get(label)) for label in labels)


def decoded_with(root: Path, settings: Settings | None) -> TunedModel | None:
    """Return the tuned model whose features are the target of decoding; None without one."""
    target = (settings or {}).get("target", {})
    folder = Path(str(target.get("model") or ""))
    if target.get("name") == "mel":
        return None
    if folder.parent.name != FOLDER and not (folder / "tuning.json").is_file():
        return None
    return _read_nearest(root, folder.name, folder)


def with_target(tuned: Sequence[TunedModel], target: TunedModel | None) -> tuple[TunedModel, ...]:
    """Return the tuned models of both analyses, each label once."""
    by_label = {model.label: model for model in (*tuned, *([target] if target else []))}
    return tuple(by_label.values())


def _read_nearest(root: Path, label: str, named: Path | None) -> TunedModel:
    """Read a model from where the run named it, else from this output, which may have moved."""
    folders = [*([named] if named else []), root / FOLDER / label]
    there = (folder for folder in folders if (folder / "tuning.json").is_file())
    return read_tuned(next(there, folders[-1]))


def read_tuned(folder: Path) -> TunedModel:
    """Read what the folder of a tuned model tells; what cannot be read is named."""
    about, epochs, problems = None, pd.DataFrame(columns=["epoch", "validation_r"]), []
    if not folder.is_dir():
        name = model_words(folder.name)
        told = f"“{name}” is not in {FOLDER} of this output, so its tuning is not shown."
        return TunedModel(folder.name, about, epochs, (told,))
    try:
        about = _parse(json.loads((folder / "tuning.json").read_text("utf-8")))
    except _UNREADABLE:
        problems.append(_problem(folder / "tuning.json"))
    try:
        epochs = _parse_epochs(read_table(folder / "tuning.tsv"))
    except _UNREADABLE:
        problems.append(_problem(folder / "tuning.tsv"))
    return TunedModel(folder.name, about, epochs, tuple(problems))


def _problem(path: Path) -> str:
    unreadable = "is unreadable (damaged, incomplete or changed by hand)"
    what = unreadable if path.is_file() else "is missing"
    return f"{FOLDER}/{path.parent.name}/{path.name} {what}; run --analysis fmri-tuning again."


def _parse(told: Mapping[str, Any]) -> About:
    tr, who = float(told["RepetitionTime"]), tuple(map(str, told["Participants"]))
    base, by_participant = str(told["BaseModel"]), told["TestRByParticipant"].values()
    return About(
        base=Path(base).name if base.startswith((".", "/")) else base,
        layer=int(told["Layer"]),
        participants=who,
        task=str(told["Task"]),
        tr=tr,
        durations=tuple(tr * int(told["TrainingVolumes"][p]) for p in who),
        n_voxels=tuple(int(told["Voxels"][p]) for p in who),
        stories={part: _sounds(told["Stories"][part]) for part in PARTS},
        epoch=int(told["Epoch"]),
        validation_r=_score(told["ValidationR"]),
        test_r=_score(told["TestR"]),
        test_r_untuned=_score(told["TestRUntuned"]),
        n_higher=sum(_score(r["Tuned"]) > _score(r["Untuned"]) for r in by_participant),
        settings=dict(told["Settings"]),
    )


def _score(value: Any) -> float:
    return float("nan") if value in (None, "n/a") else float(value)


def _sounds(stories: Iterable[str]) -> tuple[str, ...]:
    """Return sounds: a story heard at other times of the TR is listed with a number behind it."""
    return tuple(dict.fromkeys(re.sub(r" \(\d+\)$", "", str(story)) for story in stories))


def _parse_epochs(table: pd.DataFrame) -> pd.DataFrame:
    known = {name: pd.to_numeric(table[name]) for name in ("epoch", "validation_r")}
    return pd.DataFrame(known).dropna().sort_values("epoch", kind="stable")


# ---------------------------------------------------------------------------------- a page


def tuning_page(
    report: Path, folder: Path, name: str, models: Sequence[TunedModel], simulated: bool
) -> TuningPage | None:
    """Write the picture, and return what a report shows of tuned models; None without any.

    Parameters
    ----------
    report : path
        The report that is written.
    folder : path
        Of its pictures.
    name : str
        What their file names begin with: ``sub-XX`` or ``group``.
    models : sequence of TunedModel
        Each label once.
    simulated : bool
        Whether the figure says that the data are simulated.
    """
    if not models:
        return None
    drawn = [model for model in models if len(model.epochs)]
    picture = None
    if drawn:
        figure, words = tuning_curves(drawn), _curves_in_words(drawn)
        stem = f"{name}_desc-tuning"
        picture = add_picture(report, folder, stem, figure, TITLE, simulated, words)
    known = [(model, model.about) for model in models if model.about]
    return TuningPage(
        table=score_table(known),
        details=story_table(known),
        picture=picture,
        problems=tuple(problem for model in models for problem in model.problems),
        has_controls=any("control" in split_label(model.label)[1] for model in models),
    )


def score_table(known: Sequence[tuple[TunedModel, About]]) -> Table:
    """Return a row per model: on how much it was tuned, and how well it predicts BOLD."""
    columns = ["Speech model", "Participants", "BOLD of each", "Voxels", "Stories", "Epoch"]
    columns += ["Validation r", "Test r, untuned", "Test r, tuned", "Higher in"]
    rows = [
        (
            model_words(model.label),
            count(len(about.participants)),
            _range([clock(seconds) for seconds in sorted(about.durations)]),
            _range([count(n) for n in sorted(about.n_voxels)]),
            " / ".join(count(len(about.stories[part])) for part in PARTS),
            f"{about.epoch} of {_n_epochs(model, about)}",
            number(about.validation_r, 4),
            number(about.test_r_untuned, 4),
            number(about.test_r, 4),
            f"{about.n_higher} of {len(about.participants)}",
        )
        for model, about in known
    ]
    return make_table(columns, rows, columns[1:])


def _n_epochs(model: TunedModel, about: About) -> str:
    return f"{model.epochs['epoch'].max():g}" if len(model.epochs) else f"{about.epoch} or more"


def _range(ordered: Sequence[str]) -> str:
    """Return the first and the last of some values in words, or the one that they all are."""
    ends = list(dict.fromkeys([*ordered[:1], *ordered[-1:]]))
    return " to ".join(ends) or DASH


def story_table(known: Sequence[tuple[TunedModel, About]]) -> Table:
    """Return a row per model: whose BOLD, and which stories."""
    columns = ["Speech model", "Participants", "Task", "TR (s)", "Training stories"]
    columns += ["Validation stories", "Test stories"]
    rows = [
        (
            model_words(model.label),
            ", ".join(f"sub-{participant}" for participant in about.participants),
            about.task,
            f"{about.tr:g}",
            *(", ".join(about.stories[part]) for part in PARTS),
        )
        for model, about in known
    ]
    return make_table(columns, rows, ["TR (s)"])


@matplotlib.rc_context(STYLE)
def tuning_curves(models: Sequence[TunedModel]) -> Figure:
    """Draw validation r by epoch, the chosen epoch marked.

    A second panel has the change since epoch 0 where models start apart, as those do that were
    tuned on other BOLD: there one scale would flatten all of them.

    Parameters
    ----------
    models : sequence of TunedModel
        With epochs.
    """
    n_panels = 2 if len({round(m.epochs["validation_r"].iloc[0], 4) for m in models}) > 1 else 1
    figure = Figure(figsize=(WIDTH if n_panels > 1 else 0.62 * WIDTH, 3.1))
    panels = figure.subplots(1, n_panels, squeeze=False)[0]
    described = [_as_model(model.label) for model in models]
    styles = model_styles(described, "")
    for model, kind in zip(models, described, strict=True):
        style = styles[model.label] | ({"marker": "o"} if kind.is_variant else {})
        x, y = (model.epochs[name].to_numpy(float) for name in ("epoch", "validation_r"))
        chosen = x == model.about.epoch if model.about else x < 0
        width = 0.8 if kind.is_variant else 1.4
        for axes, values in zip(panels, (y, y - y[0]), strict=False):
            axes.plot(x, values, color=style["color"], linewidth=width)
            axes.plot(x[chosen], values[chosen], linestyle="none", markersize=6, **style)
    for axes, title in zip(panels, ("Validation stories", "Change since epoch 0"), strict=False):
        axes.set(title=title, xlabel="Epoch (0: untuned)")
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    panels[0].set_ylabel("r of measured and predicted BOLD")
    for axes in panels[1:]:
        axes.axhline(0, color=BLACK, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
        axes.set_ylabel("Difference in r")
    handles = [
        Line2D([], [], label=plain(model_words(m.label)), markersize=6, **styles[m.label])
        for m in described
        if not m.is_variant
    ]
    if any(model.is_variant for model in described):
        handles.append(Line2D([], [], color=GREY, marker="o", lw=0.8, label="other seed or amount"))
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def _as_model(label: str) -> Model:
    parts = split_label(label)[1]
    kind = "control" if "control" in parts else "tuned"
    return Model(label, kind, int(parts.get("seed", 0)), float(parts.get("amount", 100)) / 100)


def _curves_in_words(models: Sequence[TunedModel]) -> str:
    parts = []
    for model in models:
        r = model.epochs["validation_r"].to_numpy(float)
        chosen = f", epoch {model.about.epoch} chosen" if model.about else ""
        ends = f"{number(r[0], 4)} untuned, {number(r[-1], 4)} after {len(r) - 1} epochs"
        parts.append(f"{model_words(model.label)}: {ends}{chosen}")
    return "Validation r. " + "; ".join(parts) + "."


# -------------------------------------------------------------------------------- in words


def tuning_in_words(models: Iterable[TunedModel]) -> str:
    """Return how models were tuned, for the methods; empty where no folder tells."""
    known = [model.about for model in models if model.about]
    if not known:
        return ""
    # Shares of the data and models of one participant are parts of the most that was used.
    about = max(known, key=lambda a: (len(a.participants), sum(a.durations)))
    train, validation, test = (len(about.stories[part]) for part in PARTS)
    own, tuned = about.settings, several(len(about.participants), "participant")
    each = _range([clock(seconds) for seconds in sorted(about.durations)])
    most = "at most " if any(a.durations != about.durations for a in known) else ""
    readout = f", with a readout of rank {own['readout']}" if own.get("readout") else ""
    how = f"Adam, learning rate {own.get('learning_rate', DASH)}, {own.get('epochs', DASH)} epochs"
    return (
        f"They were tuned on the BOLD of {most}{tuned} ({each} each, repetition time "
        f"{about.tr:g} s) during {_stories(train)}: matrices of rank {own.get('rank', DASH)} for "
        f"the queries, keys and values of the attention up to layer {about.layer}{readout}, fitted "
        f"({how}) so that the predicted pattern over voxels correlates with the measured one at "
        "each volume. The epoch was chosen by a ridge regression from the features to the voxels "
        f"on {_stories(validation)} held out, and the result tested on {_stories(test)} more."
    )


def _stories(n: int) -> str:
    return f"{count(n)} {'story' if n == 1 else 'stories'}"


def describe_target(tuned: TunedModel | None) -> TunedTarget | None:
    """Return what the methods of decoding tell of a tuned target; None where it is none."""
    if tuned is None:
        return None
    base = tuned.about.base if tuned.about else "a speech model"
    text = tuning_in_words([tuned]).replace("They were", "It was", 1)
    return TunedTarget(f"“{model_words(tuned.label)}”", base, text)


def summarise_target(tuned: TunedModel) -> str:
    """Return for the summary of decoding that its target was tuned, and how well that went."""
    about, name = tuned.about, f"“{model_words(tuned.label)}”"
    base = about.base if about else "a speech model"
    start = f"The sound's features are those of {name}: {base} after tuning on fMRI"
    if not about:
        return f"{start}."
    return (
        f"{start} of {several(len(about.participants), 'participant')}. On the test stories of the "
        f"tuning, r of measured and predicted BOLD was {number(about.test_r, 4)}, untuned "
        f"{number(about.test_r_untuned, 4)}."
    )
