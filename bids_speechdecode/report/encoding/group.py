"""The encoding results in the group's report: gains over participants, profiles, scaling, maps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bids_speechdecode.bids.files import sidecar_path
from bids_speechdecode.encoding.compared import split_label
from bids_speechdecode.report import brain_maps
from bids_speechdecode.report.brain import Scale
from bids_speechdecode.report.brain_maps import GroupMap
from bids_speechdecode.report.encoding import figures as charts
from bids_speechdecode.report.encoding import sentences
from bids_speechdecode.report.encoding.figures import GAIN, PREDICTION, modulation_name
from bids_speechdecode.report.encoding.models import band_words, model_words
from bids_speechdecode.report.encoding.page import Drawn, EncodingPage, Place, make_page
from bids_speechdecode.report.encoding.participant import (
    Profiles,
    draw_brains,
    zip_panels,
)
from bids_speechdecode.report.encoding.results import (
    BROADBAND,
    COLUMNS,
    Encoding,
    band_profiles,
    electrode_gains,
    gains_of,
    modulation_bands,
    nyquist,
    placed,
    read_scores,
    with_modulation,
)
from bids_speechdecode.report.encoding.tables import (
    group_contrast_table,
    participant_table,
    shown_contrasts,
)
from bids_speechdecode.report.page import (
    Table,
    entity,
    make_table,
    number,
    read_object,
)

TITLES = {
    "gains": "Gain of every model over the reference, participant by participant",
    "lags": "Prediction at every lag, over participants",
    "modulations": "Prediction by band of modulation, over participants",
    "bands": "Gain by carrier band, over participants",
    "layers": "Prediction by layer, over participants",
    "scaling": "Gain by amount of fMRI",
    "brain": "Where electrodes of all participants are predicted",
    "lagBrain": "When electrodes of all participants respond",
    "gainBrain": "Where electrodes of all participants gain",
    "surface": "Prediction and gain on the cortical surface",
    "volume": "Prediction and gain in slices",
}
_GROUP_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "encodingElectrodes": ("participant", *COLUMNS["encoding"]),
    "encodingContrasts": (
        *("model", "reference", "layer", "band", "modulation", "electrodes", "n_participants"),
        *("difference", "ci_low", "ci_high", "p", "p_min", "n_better", "detectable", "n_needed"),
        "conclusion",
    ),
    "encodingParticipantContrasts": ("participant", *COLUMNS["encodingContrasts"]),
    "encodingProfiles": (
        *("profile", "electrodes", "model", "layer", "band", "value", "low", "high"),
        *("n_participants", "r", "ci_low", "ci_high", "coherence"),
    ),
    "encodingScaling": (
        *("model", "amount", "seed", "layer", "band", "electrodes", "n_participants"),
        "difference",
        *("ci_low", "ci_high"),
    ),
}
_WHAT = {
    "encodingContrasts": "group table of encoding contrasts",
    "encodingParticipantContrasts": "table of the participants' encoding contrasts",
    "encodingProfiles": "encoding profiles",
}
MAPS: Mapping[str, tuple[str, Scale | None]] = {
    "encodingR": ("Prediction", PREDICTION),
    "encodingGain": ("Gain", GAIN),
    "encodingCoverage": ("Coverage", None),
    "encodingN": ("Participants", None),
}
_COUNTS = {"encodingCoverage": "coverage", "encodingN": "n"}


def read_group_encoding(root: Path) -> dict[str, Encoding]:
    """Return the group's encoding results by task."""
    paths = sorted(root.glob("group_task-*_desc-encodingElectrodes_scores.tsv"))
    found = {entity(path, "task"): _read_all(path) for path in paths}
    return {task: own for task, own in found.items() if len(own.electrodes)}


def _read_all(path: Path) -> Encoding:
    tables = {
        desc: read_scores(path.with_name(path.name.replace("encodingElectrodes", desc)), columns)
        for desc, columns in _GROUP_COLUMNS.items()
    }
    return Encoding(entity(path, "task"), tables)


def encoding_left_out(found: Mapping[str, Encoding]) -> list[tuple[str, str]]:
    """Return who is not in the tables of encoding, and why."""
    listed = [
        (str(item.get("what")), str(item.get("why")))
        for own in found.values()
        for table in own.tables.values()
        for item in table.sidecar.get("LeftOut") or []
        if isinstance(item, Mapping)
    ]
    return list(dict.fromkeys(listed))


def group_encoding_pages(
    root: Path, report: Path, found: Mapping[str, Encoding], level: str, simulated: bool
) -> list[EncodingPage]:
    """Return what the group's report shows of encoding, one page per task.

    Parameters
    ----------
    root : path
        The derivative dataset, for the maps.
    report : path
        The report that is written.
    found : mapping of task to Encoding
    level : str
        Of the confidence intervals, such as ``95%``.
    simulated : bool
        Whether the figures say that the data are simulated.
    """
    place = Place(report, report.parent / "figures", "group", simulated)
    return [_page(root, place, own, level) for own in found.values()]


def _page(root: Path, place: Place, found: Encoding, level: str) -> EncodingPage:
    return make_page(
        place,
        found,
        _draw(root, found),
        TITLES,
        _tables(found),
        summary=tuple(sentences.group_in_words(found, level)),
        missing=tuple(find_missing(found)),
        values={"nyquist": nyquist(found.sidecar)},
    )


def find_missing(found: Encoding) -> Iterator[str]:
    """Name the group's tables that are not on disk."""
    for desc, what in _WHAT.items():
        if found.tables[desc].table.empty and (len(found.models) > 1 or "Profiles" in desc):
            yield f"No {what} found: run step 'group level'."


def _tables(found: Encoding) -> dict[str, Table]:
    every = found.tables["encodingContrasts"].table
    shown = shown_contrasts(found)
    rest = every.drop(index=shown.index) if len(every) else every
    return {
        "participants": participant_table(found),
        "contrasts": group_contrast_table(shown, in_full=False),
        "all_contrasts": group_contrast_table(rest, in_full=True),
        "scaling": scaling_table(_scaling(found)),
    }


# -------------------------------------------------------------------------------- pictures


def _draw(root: Path, found: Encoding) -> Drawn:
    """Yield the figures for which there are data, each with its words."""
    drawn, styles = found.drawn, found.styles
    group = shown_contrasts(found)
    group = group[group["model"].isin(drawn) & (group["reference"] == found.reference)]
    group = group.dropna(subset=["difference"])
    own = found.view("encodingParticipantContrasts")
    own = own[(own["modulation"] == BROADBAND) & (own["reference"] == found.reference)]
    if len(group) and len(own):
        yield "gains", charts.group_gains(own, group, styles, drawn), sentences.gains(group)
    yield from _draw_profiles(found)
    scaling = _scaling(found)
    if len(scaling := scaling[scaling["electrodes"] == found.counted]):
        yield "scaling", charts.data_scaling(scaling), sentences.scaling(scaling)
    gains = electrode_gains(found)
    shown = found.shown
    yield from draw_brains(shown[shown["model"] == found.main], gains[gains["model"] == found.main])
    yield from _draw_maps(root, found.task)


def _profile(found: Encoding, profile: str, value: str = "r") -> pd.DataFrame:
    """Return the rows of a profile that are drawn, with columns value, ci_low and ci_high."""
    table = found.tables["encodingProfiles"].table
    own = table[(table["profile"] == profile) & (table["band"] == found.band)]
    if profile != "layer":
        own = found.view("encodingProfiles")
        own = own[own["profile"] == profile]
    own = own[own["model"].isin(found.drawn) & (own["electrodes"] == found.counted)]
    own = own.dropna(subset=[value])
    return own.assign(place_value=own["value"], value=own[value])


def _draw_profiles(found: Encoding) -> Drawn:
    drawn, styles = found.drawn, found.styles
    curves = _profile(found, "lag")
    if len(curves):
        curves = curves.assign(lag=curves["place_value"])
        figure = charts.lag_profile(curves, {}, styles, drawn)
        yield "lags", figure, sentences.lags(curves, {})
    bands, profiles = _modulations(found)
    if len(bands) > 1 and profiles:
        names = [modulation_name(low, high) for low, high in bands]
        half = nyquist(found.sidecar)
        shaded = None if half is None else charts.nyquist_place(bands, half)
        label = "Band of modulation of the response (Hz)"
        figure = charts.category_profile(profiles, names, label, styles, drawn, shaded)
        yield "modulations", figure, sentences.categories(profiles, names)
    if len(found.bands) > 1 and len(found.tables["encodingContrasts"].table):
        names = [band_words(band) for band in found.bands]
        tables = band_profiles(found, found.tables["encodingContrasts"].table)
        profiles = [panel for panel in zip_panels(tables)[1:] if len(panel[2])]
        if profiles:
            label = "Carrier band of the response"
            figure = charts.category_profile(profiles, names, label, styles, drawn, joined=False)
            yield "bands", figure, sentences.categories(profiles, names)
    if profiles := _layers(found):
        figure = charts.layer_profile(profiles, styles, drawn)
        yield "layers", figure, sentences.layer_peaks(profiles)


def _modulations(found: Encoding) -> tuple[list[tuple[float, float]], Profiles]:
    """Return the bands of modulation, and r, coherence and gain in them."""
    own = _profile(found, "modulation")
    coherence = _profile(found, "modulation", "coherence").assign(ci_low=np.nan, ci_high=np.nan)
    contrasts = gains_of(found, with_modulation(found.view("encodingContrasts")))
    contrasts = contrasts[contrasts["model"].isin(found.drawn)]
    bands = modulation_bands(own if len(own) else contrasts)
    tables = [placed(table, bands) for table in (own, contrasts)]
    panels = [panel for panel in zip_panels(tables) if len(panel[2])]
    if len(coherence):
        panels.insert(min(1, len(panels)), ("Coherence", "Coherence", placed(coherence, bands)))
    return bands, panels


def _layers(found: Encoding) -> Profiles:
    """Return r and gain by layer, where a model has several."""
    own = _profile(found, "layer")
    own = own.assign(layer=own["place_value"])
    several = own.groupby("model")["layer"].nunique()
    own = own[own["model"].isin(several.index[several > 1])]
    table = found.tables["encodingContrasts"].table
    in_band = (table["band"] == found.band) & (table["modulation"] == BROADBAND)
    gains = gains_of(found, table[in_band])
    gains = gains[gains["model"].isin(own["model"])]
    return [panel for panel in zip_panels([own, gains]) if len(panel[2])]


def _scaling(found: Encoding) -> pd.DataFrame:
    """Return the gain by share of the fMRI, where several shares or seeds were tuned."""
    table = found.view("encodingScaling").dropna(subset=["difference", "amount"])
    table = table.assign(seed=table["seed"].fillna(0), base=table["model"].map(_tuned_on))
    counts = table.groupby("base")["model"].nunique()
    return table[table["base"].isin(counts.index[counts > 1])].reset_index(drop=True)


def _tuned_on(label: str) -> str:
    base, parts = split_label(label)
    return f"{base}_control-{parts['control']}" if "control" in parts else base


def scaling_table(scaling: pd.DataFrame) -> Table:
    """Return the gain at every share of the fMRI and with every seed."""
    columns = ["Model", "Electrodes", "Share of the fMRI (%)", "Seed", "Participants"]
    columns += ["Gain in r", "CI"]
    rows = [
        (
            model_words(row["base"]),
            str(row["electrodes"]),
            f"{100 * row['amount']:g}",
            f"{row['seed']:g}",
            number(row["n_participants"], 0),
            charts.signed_number(row["difference"]),
            sentences.interval(row["ci_low"], row["ci_high"], 4),
        )
        for row in scaling.sort_values(["base", "electrodes", "amount", "seed"]).to_dict("records")
    ]
    return make_table(columns, rows, columns[2:])


# ------------------------------------------------------------------------------------ maps


def _draw_maps(root: Path, task: str) -> Drawn:
    if surfaces := _surfaces(root, task):
        values = [(m.title, np.concatenate(m.surface)) for m in surfaces if m.surface is not None]
        yield "surface", brain_maps.surface_maps(surfaces), sentences.maps(values)
    if volumes := _volumes(root, task):
        values = [(m.title, _volume_values(m.volume)) for m in volumes if m.volume is not None]
        yield "volume", brain_maps.volume_maps(volumes), sentences.maps(values)


def _map(name: str, path: Path, **where: Any) -> GroupMap:
    title, scale = MAPS[name]
    told = read_object(sidecar_path(path))
    if scale and told.get("Model"):
        title += f" of “{model_words(str(told['Model']))}”"
        title += f", layer {told['Layer']}" if told.get("Layer") is not None else ""
        title += f", {band_words(str(told['Band']))}" if told.get("Band") else ""
    return GroupMap(_COUNTS.get(name, name), scale=scale, title=title, **where)


def _surfaces(root: Path, task: str) -> list[GroupMap]:
    """Return the maps on the surface; one that is not on disk is left out."""
    found = []
    for name in MAPS:
        pattern = f"group_task-{task}_hemi-{{}}_space-fsaverage5_desc-{name}_map.shape.gii"
        paths = [root / pattern.format(side) for side in "LR"]
        if all(path.is_file() for path in paths):
            left, right = (_read_gifti(path, name) for path in paths)
            found.append(_map(name, paths[0], surface=(left, right)))
    return found


def _read_gifti(path: Path, name: str) -> np.ndarray:
    import nibabel

    loaded: Any = nibabel.load(path)
    values = np.asarray(loaded.agg_data(), dtype=float)
    return np.where(values > 0, values, np.nan) if name in _COUNTS else values


def _volumes(root: Path, task: str) -> list[GroupMap]:
    found = []
    for name in MAPS:
        paths = sorted(root.glob(f"group_task-{task}_space-*_desc-{name}_map.nii.gz"))
        found += [_map(name, path, volume=path) for path in paths[:1]]
    return found


def _volume_values(path: Path) -> np.ndarray:
    import nibabel

    image: Any = nibabel.load(path)
    return np.asarray(image.dataobj, dtype=float).ravel()
