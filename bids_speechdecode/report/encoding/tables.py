"""The tables of encoding results in the reports: text in every cell."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from bids_speechdecode.encoding.compared import Model
from bids_speechdecode.report.brain import Q
from bids_speechdecode.report.charts import region_name
from bids_speechdecode.report.encoding.figures import modulation_name, signed_number
from bids_speechdecode.report.encoding.models import band_words, model_words
from bids_speechdecode.report.encoding.results import BROADBAND, Encoding, electrode_gains
from bids_speechdecode.report.page import (
    DASH,
    Table,
    count,
    interval,
    make_concluded_table,
    make_table,
    number,
    p_value,
)

TOP = 15  # electrodes in the first table; all are in the second
KIND_TO_WORDS = {
    "untuned": "speech model as published",
    "tuned": "tuned on fMRI",
    "control": "tuned on a control",
    "other": "another speech model",
}


def _layer(value: Any) -> str:
    return DASH if pd.isna(value) else f"{value:g}"


def _region(row: Mapping[Any, Any]) -> str:
    return region_name(row["label"], row["hemisphere"]) if row["label"] else DASH


# ------------------------------------------------------------------------- of a participant


def model_table(found: Encoding, electrodes: pd.DataFrame) -> Table:
    """Return how well every model predicts over electrodes: a row per model, band and layer.

    Parameters
    ----------
    electrodes : data frame
        Which rows of the table of electrodes are told of.
    """
    columns = ["Speech model", "What it is", "Band", "Layer", "Mean r", "Highest r", "Mean r²"]
    columns += [f"With q\u00a0≤\u00a0{Q:g}", "Mean unique r²"]
    rows = []
    for model in found.models:
        own = electrodes[electrodes["model"] == model.label]
        for (band, layer), part in own.groupby(["band", "layer"], sort=False, dropna=False):
            rows.append(
                (
                    model_words(model.label),
                    kind_words(model),
                    band_words(str(band)).replace(" ", "\u00a0"),
                    _layer(layer),
                    number(part["r"].mean()),
                    number(part["r"].max()),
                    number(part["r2"].mean()),
                    f"{count((part['q'] <= Q).sum())} of {count(len(part))}",
                    number(part["unique_r2"].mean()),
                )
            )
    return make_table(columns, rows, columns[3:])


def kind_words(model: Model) -> str:
    """Return what a model is, in a few words."""
    words = "no speech model" if model.label == "mel" else KIND_TO_WORDS.get(model.kind, model.kind)
    return words + (f", {100 * model.amount:g}% of the fMRI" if model.amount < 1 else "")


def electrode_tables(found: Encoding) -> dict[str, Table]:
    """Return the electrodes by r under the main model: the first ones, and all of them."""
    own = found.shown[found.shown["model"] == found.main]
    gains = electrode_gains(found)
    gains = gains.loc[gains["model"] == found.main, ["name", "gain", "q"]]
    merged = own.merge(gains.rename(columns={"q": "gain_q"}), on="name", how="left")
    ordered = merged.sort_values("r", ascending=False, kind="stable").to_dict("records")
    columns = ["Electrode", "Region", "r", "r²", "q", "Lag (s)", "Unique r²"]
    columns += ["Gain in r", "q (gain)"] if gains["gain"].notna().any() else []
    few = [_electrode_cells(row, len(columns)) for row in ordered[:TOP]]
    every = [_electrode_cells(row, len(columns)) for row in ordered]
    tables = {"electrodes": make_table(columns, few, columns[2:])}
    if len(every) > TOP:
        tables["all_electrodes"] = make_table(columns, every, columns[2:])
    return tables


def _electrode_cells(row: Mapping[Any, Any], n: int) -> tuple[str, ...]:
    gain = row.get("gain")
    return (
        str(row["name"]),
        _region(row),
        number(row["r"]),
        number(row["r2"]),
        p_value(row["q"]),
        number(row["lag"], 2),
        number(row["unique_r2"]),
        DASH if pd.isna(gain) else signed_number(float(gain)),
        p_value(row.get("gain_q")),
    )[:n]


def contrast_tables(found: Encoding) -> dict[str, Table]:
    """Return the contrasts of models: in the shown band and layers, and everywhere else."""
    every = found.tables["encodingContrasts"].table
    own = shown_contrasts(found)
    rest = every.drop(index=own.index)
    columns = ["Contrast", "Band", "Layer", "Modulation (Hz)", "Electrodes", "n", "Gain in r"]
    columns += ["CI", "p", "Detectable"]
    few = [i for i, name in enumerate(columns) if name not in ("Band", "Layer", columns[3])]
    shown = [[_contrast_cells(row)[i] for i in few] for row in own.to_dict("records")]
    others = [_contrast_cells(row) for row in rest.to_dict("records")]
    numeric = set(columns) - {"Contrast", "Band", "Electrodes"}
    names = [columns[i] for i in few]
    return {
        "contrasts": make_table(names, shown, numeric & set(names)),
        "all_contrasts": make_table(columns, others, numeric),
    }


def shown_contrasts(found: Encoding) -> pd.DataFrame:
    """Return the contrasts over the whole response: with the reference, then with own controls.

    Among either, drawn models come first.
    """
    table = found.view("encodingContrasts")
    own = table[table["modulation"] == BROADBAND]
    order = {model: i for i, model in enumerate(found.drawn)}
    places = own["model"].map(lambda model: order.get(model, len(order))).to_numpy(float)
    is_later = (own["reference"] != found.reference).to_numpy(bool)
    return own.iloc[np.lexsort((places, is_later))]


def _contrast_cells(row: Mapping[Any, Any]) -> tuple[str, ...]:
    return (
        f"{model_words(row['model'])} against {model_words(row['reference'])}",
        *_place(row),
        str(row["electrodes"]),
        count(row["n_electrodes"]),
        DASH if pd.isna(row["difference"]) else signed_number(row["difference"]),
        interval(row["ci_low"], row["ci_high"], 4),
        p_value(row["p"]),
        number(row["detectable"], 4),
    )


def _place(row: Mapping[Any, Any]) -> tuple[str, str, str]:
    band = band_words(str(row["band"])).replace(" ", "\u00a0")
    return band, _layer(row["layer"]), _modulation(row)


def _modulation(row: Mapping[Any, Any]) -> str:
    text = str(row["modulation"])
    low, _, high = text.partition("-")
    try:
        return modulation_name(float(low), float(high))
    except ValueError:
        return text


# ------------------------------------------------------------------------------ of the group


def participant_table(found: Encoding) -> Table:
    """Return one row per participant: the mean r of every drawn model over the electrodes."""
    columns = [
        "Participant",
        "Electrodes",
        f"With q\u00a0≤\u00a0{Q:g}",
        "Best electrode",
        "Highest r",
    ]
    columns += [f"Mean r: {model_words(model)}" for model in found.drawn]
    rows = []
    for name, own in found.shown.groupby("participant", sort=True):
        main = own[own["model"] == found.main]
        rows_of_main = main.to_dict("records")
        best = max(rows_of_main, key=lambda row: float(row["r"]), default=None)
        means = own.groupby("model")["r"].mean()
        rows.append(
            (
                str(name),
                count(len(main)),
                count((main["q"] <= Q).sum()),
                DASH if best is None else f"{best['name']} ({_region(best)})",
                DASH if best is None else number(best["r"]),
                *(number(means.get(model)) for model in found.drawn),
            )
        )
    return make_table(columns, rows, [c for c in columns[1:] if c != "Best electrode"])


def group_contrast_table(table: pd.DataFrame, *, in_full: bool) -> Table:
    """Return the contrasts over participants with what they could have detected.

    Parameters
    ----------
    table : data frame
        Rows of the group's ``desc-encodingContrasts``.
    in_full : bool
        Whether band, layer and modulation are named in every row.
    """
    columns = ["Contrast", "Electrodes", "n", "Gain in r", "CI", "p", "Smallest possible p"]
    columns += ["Better", "Detectable", "n for 0.005"]
    where = ["Band", "Layer", "Modulation (Hz)"] if in_full else []
    records = table.to_dict("records")
    rows = [
        (
            f"{model_words(row['model'])} against {model_words(row['reference'])}",
            *_place(row)[: len(where)],
            str(row["electrodes"]),
            count(row["n_participants"]),
            DASH if pd.isna(row["difference"]) else signed_number(row["difference"]),
            interval(row["ci_low"], row["ci_high"], 4),
            p_value(row["p"]),
            p_value(row["p_min"]),
            f"{count(row['n_better'])} of {count(row['n_participants'])}",
            number(row["detectable"], 4),
            count(row["n_needed"]),
        )
        for row in records
    ]
    shown = [columns[0], *where, *columns[1:]]
    conclusions = [_conclusion(row) for row in records]
    numeric = [c for c in shown if c not in ("Contrast", "Band", "Electrodes")]
    return make_concluded_table(shown, rows, conclusions, numeric)


def _conclusion(row: Mapping[Any, Any]) -> str:
    """Return what was concluded, with the models as the page calls them."""
    models = {str(row[name]): f"“{model_words(row[name])}”" for name in ("model", "reference")}
    label = "|".join(map(re.escape, sorted(models, key=len, reverse=True)))
    return re.sub(rf"(?<![\w-])({label})(?![\w-])", lambda m: models[m[1]], row["conclusion"] or "")
