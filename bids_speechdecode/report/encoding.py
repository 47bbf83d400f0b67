"""The encoding results in a participant's report: how well speech models predict electrodes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from bids_speechdecode.report import brain, encoding_tables, encoding_words
from bids_speechdecode.report import encoding_figures as charts
from bids_speechdecode.report.electrodes import TEMPLATE, located
from bids_speechdecode.report.encoding_figures import GAIN, PREDICTION, modulation_name
from bids_speechdecode.report.encoding_models import band_words, model_words
from bids_speechdecode.report.encoding_results import (
    BROADBAND,
    Encoding,
    band_profiles,
    best_lags,
    electrode_gains,
    gains_of,
    lag_curves,
    modulation_bands,
    nyquist,
    placed,
    spread,
    with_modulation,
)
from bids_speechdecode.report.page import Picture, Table, add_picture

STEPS = "steps 'responses', 'features' and 'encode'"
TITLES = {
    "strips": "Prediction of every electrode",
    "scatter": "Prediction of every electrode against the reference",
    "lags": "Prediction at every lag",
    "modulations": "Prediction by band of modulation",
    "bands": "Prediction by carrier band",
    "layers": "Prediction by layer",
    "brain": "Where electrodes are predicted",
    "gainBrain": "Where electrodes gain",
}
Drawn = Iterator[tuple[str, Figure, str]]
Profiles = list[tuple[str, str, pd.DataFrame]]


@dataclass(frozen=True)
class EncodingPage:
    """What a report shows of the encoding of one task.

    Attributes
    ----------
    task, main, reference, band : str
        Models and band in words.
    pictures : mapping of str to Picture
    tables : mapping of str to Table
    summary : tuple of str
        The result in sentences, for the top of the report.
    facts, layers : str
        How the numbers were made, and which layer is shown.
    missing : tuple of str
        Pieces that are not on disk, with the step that makes them.
    notes : tuple of str
    values : mapping of str to Any
        What only one of the templates asks for.
    """

    task: str
    main: str
    reference: str
    band: str
    pictures: Mapping[str, Picture]
    tables: Mapping[str, Table]
    summary: tuple[str, ...]
    facts: str
    layers: str
    missing: tuple[str, ...]
    notes: tuple[str, ...]
    values: Mapping[str, Any]


def asks_for_encoding(command: str) -> bool:
    """Return whether a command as typed asks for the analysis ``encoding``.

    Examples
    --------
    >>> asks_for_encoding("bids_speechdecode /d /o participant --analysis encoding")
    True
    """
    return re.search(r"--analysis[ =]+encoding\b", command) is not None


def encoding_pages(
    report: Path, name: str, found: Mapping[str, Encoding], level: str, simulated: bool
) -> list[EncodingPage]:
    """Return what a participant's report shows of encoding, one page per task.

    Parameters
    ----------
    report : path
        The report that is written.
    name : str
        ``sub-XX``.
    found : mapping of task to Encoding
    level : str
        Of the confidence intervals, such as ``95%``.
    simulated : bool
        Whether the figures say that the data are simulated.
    """
    return [_page(report, name, own, level, simulated) for own in found.values()]


def _page(report: Path, name: str, found: Encoding, level: str, simulated: bool) -> EncodingPage:
    folder = report.parent / name / "figures"
    pictures = {
        what: add_picture(
            report,
            folder,
            f"{name}_task-{found.task}_desc-encoding{what[0].upper()}{what[1:]}",
            figure,
            TITLES[what],
            simulated,
            words,
        )
        for what, figure, words in _draw(found)
    }
    tables = {
        "models": encoding_tables.model_table(found, found.shown),
        **encoding_tables.electrode_tables(found),
        **encoding_tables.contrast_tables(found),
    }
    if len(found.shown) < len(found.electrodes):
        tables["all_models"] = encoding_tables.model_table(found, found.electrodes)
    return EncodingPage(
        task=found.task,
        main=model_words(found.main),
        reference=model_words(found.reference),
        band=band_words(found.band),
        pictures=pictures,
        tables={what: table for what, table in tables.items() if table.rows},
        summary=tuple(encoding_words.encoding_in_words(found, level)),
        facts=encoding_words.facts(found),
        layers=encoding_words.layers_in_words(found),
        missing=tuple(find_missing(found)),
        notes=tuple(dict.fromkeys(note for table in found.tables.values() for note in table.notes)),
        values={
            "n_predicted": len(found.predicted),
            "n_compared": len(found.drawn) - 1,
            "nyquist": nyquist(found.sidecar),
            "has_profiles": bool({"modulations", "bands", "layers"} & set(pictures)),
        },
    )


def find_missing(found: Encoding) -> Iterator[str]:
    """Name the tables that are not on disk, and the step that makes them."""
    wanted = {"encodingLags": "r at every lag", "encodingModulations": "r by band of modulation"}
    if len(found.models) > 1:
        wanted["encodingContrasts"] = "contrasts between models"
        wanted["encodingElectrodeContrasts"] = "contrasts of single electrodes"
    for desc, what in wanted.items():
        if found.tables[desc].table.empty:
            yield f"No {what} found: run step 'encode'."


# -------------------------------------------------------------------------------- pictures


def _draw(found: Encoding) -> Drawn:
    """Yield the figures for which there are data, each with its words."""
    shown, drawn, styles = found.shown, found.drawn, found.styles
    strips = charts.electrode_strips(shown[shown["model"].isin(drawn)], styles, drawn)
    yield "strips", strips, encoding_words.strips(shown, drawn)
    gains = electrode_gains(found)
    compared = gains[gains["model"].isin(drawn)]
    if len(compared):
        order = compared["model"].map(drawn.index)
        compared = compared.iloc[order.argsort(kind="stable")]
        scatter = charts.prediction_scatter(compared, styles, found.reference)
        yield "scatter", scatter, encoding_words.scatter(compared)
    if len(curves := lag_curves(found)):
        best = best_lags(found)
        figure = charts.lag_profile(curves, best, styles, drawn)
        yield "lags", figure, encoding_words.lags(curves, best)
    yield from _draw_profiles(found)
    yield from draw_brains(shown[shown["model"] == found.main], gains[gains["model"] == found.main])


def _draw_profiles(found: Encoding) -> Drawn:
    styles, drawn = found.styles, found.drawn
    bands, profiles = _modulations(found)
    if profiles:
        names = [modulation_name(low, high) for low, high in bands]
        half = nyquist(found.sidecar)
        shaded = None if half is None else charts.nyquist_place(bands, half)
        label = "Band of modulation of the response (Hz)"
        figure = charts.category_profile(profiles, names, label, styles, drawn, shaded)
        yield "modulations", figure, encoding_words.categories(profiles, names)
    if len(found.bands) > 1:
        names = [band_words(band) for band in found.bands]
        tables = band_profiles(found, found.tables["encodingContrasts"].table)
        profiles = [panel for panel in zip_panels(tables) if _is_drawn(panel[2], found)]
        label = "Carrier band of the response"
        figure = charts.category_profile(profiles, names, label, styles, drawn, joined=False)
        yield "bands", figure, encoding_words.categories(profiles, names)
    if profiles := _layers(found):
        figure = charts.layer_profile(profiles, styles, drawn)
        yield "layers", figure, encoding_words.layer_peaks(profiles)


def zip_panels(tables: list[pd.DataFrame]) -> Profiles:
    """Return a panel of r and one of gains."""
    titles = (("Prediction", charts.R_LABEL), ("Gain over the reference", charts.GAIN_LABEL))
    return [(*title, table) for title, table in zip(titles, tables, strict=True)]


def _is_drawn(table: pd.DataFrame, found: Encoding) -> bool:
    return bool(len(table) and table["model"].isin(found.drawn).any())


def _modulations(found: Encoding) -> tuple[list[tuple[float, float]], Profiles]:
    """Return the bands of modulation, and r and gain of every model in them."""
    table = found.view("encodingModulations")
    own = table[table["name"].isin(found.predicted) & table["model"].isin(found.drawn)]
    bands = modulation_bands(own)
    contrasts = gains_of(found, with_modulation(found.view("encodingContrasts")))
    tables = [placed(spread(own, ["model", "low", "high"]), bands), placed(contrasts, bands)]
    panels = [panel for panel in zip_panels(tables) if _is_drawn(panel[2], found)]
    if own["coherence"].notna().any():
        coherence = placed(spread(own, ["model", "low", "high"], "coherence"), bands)
        panels.insert(1, ("Coherence", "Coherence", coherence))
    return bands, panels if len(bands) > 1 else []


def _layers(found: Encoding) -> Profiles:
    """Return r and gain of every model by layer, where a model has several."""
    own = found.electrodes[(found.electrodes["band"] == found.band)]
    own = own[own["model"].isin(found.drawn) & own["name"].isin(found.predicted)]
    several = own.groupby("model")["layer"].nunique()
    own = own[own["model"].isin(several.index[several > 1])]
    contrasts = found.tables["encodingContrasts"].table
    in_band = (contrasts["band"] == found.band) & (contrasts["modulation"] == BROADBAND)
    gains = gains_of(found, contrasts[in_band])
    gains = gains[gains["model"].isin(own["model"])]
    panels = zip_panels([spread(own, ["model", "layer"]), gains])
    return [panel for panel in panels if _is_drawn(panel[2], found)]


def draw_brains(predicted: pd.DataFrame, gains: pd.DataFrame) -> Drawn:
    """Yield the electrodes of one model on a brain, coloured by r and by gain.

    Parameters
    ----------
    predicted : data frame
        Columns x, y, z (mm), space, name, label, hemisphere, r and q.
    gains : data frame
        The same with gain, and q that of the gain.
    """
    for what, table, scale, words in (
        ("brain", predicted, PREDICTION, "r"),
        ("gainBrain", gains, GAIN, "gain in r"),
    ):
        told = encoding_words.brain_values(located(table), scale.column, words)
        if len(contacts := located(table, TEMPLATE)):
            yield what, brain.measure_brain(contacts, scale), told
        elif spaces := sorted(located(table)["space"].dropna().unique()):
            own = located(table, spaces[0])
            yield what, brain.native_measure(own, str(spaces[0]), scale), told
