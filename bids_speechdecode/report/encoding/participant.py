"""The encoding results in a participant's report: how well speech models predict electrodes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd

from bids_speechdecode.report import brain
from bids_speechdecode.report.brain import Q
from bids_speechdecode.report.electrodes import TEMPLATE, located
from bids_speechdecode.report.encoding import figures as charts
from bids_speechdecode.report.encoding import sentences
from bids_speechdecode.report.encoding.figures import GAIN, LAG, PREDICTION, modulation_name
from bids_speechdecode.report.encoding.models import band_words
from bids_speechdecode.report.encoding.page import Drawn, EncodingPage, Place, make_page
from bids_speechdecode.report.encoding.results import (
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
from bids_speechdecode.report.encoding.tables import (
    contrast_tables,
    electrode_tables,
    model_table,
)

STEPS = "steps 'responses', 'features' and 'encode'"
TITLES = {
    "strips": "Prediction of every electrode",
    "scatter": "Prediction of every electrode against the reference",
    "lags": "Prediction at every lag",
    "modulations": "Prediction by band of modulation",
    "bands": "Prediction by carrier band",
    "layers": "Prediction by layer",
    "brain": "Where electrodes are predicted",
    "lagBrain": "When electrodes respond",
    "gainBrain": "Where electrodes gain",
}
Profiles = list[tuple[str, str, pd.DataFrame]]


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
    place = Place(report, report.parent / name / "figures", name, simulated)
    return [_page(place, own, level) for own in found.values()]


def _page(place: Place, found: Encoding, level: str) -> EncodingPage:
    tables = {
        "models": model_table(found, found.shown),
        **electrode_tables(found),
        **contrast_tables(found),
    }
    if len(found.shown) < len(found.electrodes):
        tables["all_models"] = model_table(found, found.electrodes)
    return make_page(
        place,
        found,
        _draw(found),
        TITLES,
        tables,
        summary=tuple(sentences.encoding_in_words(found, level)),
        missing=tuple(find_missing(found)),
        values={
            "n_compared": len(found.drawn) - 1,
            "has_best_lags": bool(best_lags(found)),
            "nyquist": nyquist(found.sidecar),
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
    yield "strips", strips, sentences.strips(shown, drawn)
    gains = electrode_gains(found)
    compared = gains[gains["model"].isin(drawn)]
    if len(compared):
        order = compared["model"].map(drawn.index)
        compared = compared.iloc[order.argsort(kind="stable")]
        scatter = charts.prediction_scatter(compared, styles, found.reference)
        yield "scatter", scatter, sentences.scatter(compared)
    if len(curves := lag_curves(found)):
        best = best_lags(found)
        figure = charts.lag_profile(curves, best, styles, drawn)
        yield "lags", figure, sentences.lags(curves, best)
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
        yield "modulations", figure, sentences.categories(profiles, names)
    if len(found.bands) > 1:
        names = [band_words(band) for band in found.bands]
        tables = band_profiles(found, found.tables["encodingContrasts"].table)
        profiles = [panel for panel in zip_panels(tables) if _is_drawn(panel[2], found)]
        label = "Carrier band of the response"
        figure = charts.category_profile(profiles, names, label, styles, drawn, joined=False)
        yield "bands", figure, sentences.categories(profiles, names)
    if profiles := _layers(found):
        figure = charts.layer_profile(profiles, styles, drawn)
        yield "layers", figure, sentences.layer_peaks(profiles)


def zip_panels(tables: list[pd.DataFrame]) -> Profiles:
    """Return a panel of r and one of gains."""
    titles = (("Prediction", charts.R_LABEL), ("Gain over the reference", charts.GAIN_LABEL))
    return [(*title, table) for title, table in zip(titles, tables, strict=True)]


def _is_drawn(table: pd.DataFrame, found: Encoding) -> bool:
    return bool(len(table) and table["model"].isin(found.drawn).any())


def _modulations(found: Encoding) -> tuple[list[tuple[float, float]], Profiles]:
    """Return the bands of modulation, and r and gain of every model in them."""
    table = found.view("encodingModulations")
    own = found.only_counted(table[table["model"].isin(found.drawn)])
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
    own = found.only_counted(own[own["model"].isin(found.drawn)])
    several = own.groupby("model")["layer"].nunique()
    own = own[own["model"].isin(several.index[several > 1])]
    contrasts = found.tables["encodingContrasts"].table
    in_band = (contrasts["band"] == found.band) & (contrasts["modulation"] == BROADBAND)
    gains = gains_of(found, contrasts[in_band])
    gains = gains[gains["model"].isin(own["model"])]
    panels = zip_panels([spread(own, ["model", "layer"]), gains])
    return [panel for panel in panels if _is_drawn(panel[2], found)]


def draw_brains(predicted: pd.DataFrame, gains: pd.DataFrame) -> Drawn:
    """Yield the electrodes of one model on a brain, coloured by r, by lag and by gain.

    Parameters
    ----------
    predicted : data frame
        Columns x, y, z (mm), space, name, label, hemisphere, r, lag (s) and q.
    gains : data frame
        The same with gain, and q that of the gain.
    """
    # The lag of an electrode that is not predicted means nothing.
    timed = predicted.assign(lag=predicted["lag"].where(predicted["q"] <= Q))
    panels = [
        ("brain", predicted, PREDICTION, sentences.brain_values(located(predicted), "r", "r")),
        ("gainBrain", gains, GAIN, sentences.brain_values(located(gains), "gain", "gain in r")),
    ]
    if is_timed(located(timed)):
        panels.insert(1, ("lagBrain", timed, LAG, sentences.lag_values(located(timed))))
    for what, table, scale, told in panels:
        if len(contacts := located(table, TEMPLATE)):
            yield what, brain.measure_brain(contacts, scale), told
        elif spaces := sorted(located(table)["space"].dropna().unique()):
            own = located(table, spaces[0])
            yield what, brain.native_measure(own, str(spaces[0]), scale), told


def is_timed(electrodes: pd.DataFrame) -> bool:
    """Return whether electrodes have lags; there is but one where all delays enter together."""
    return bool((electrodes["lag"].fillna(0) != 0).any())
