"""Encoding results in sentences: for the top of the reports, and what each picture shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from bids_speechdecode.report.brain import Q
from bids_speechdecode.report.charts import region_name
from bids_speechdecode.report.encoding.figures import signed_number
from bids_speechdecode.report.encoding.models import band_words, model_words
from bids_speechdecode.report.encoding.results import (
    Encoding,
    gains_of,
    own_controls,
)
from bids_speechdecode.report.encoding.tables import shown_contrasts
from bids_speechdecode.report.page import (
    clock,
    count,
    interval,
    number,
    p_phrase,
    several,
)

MOST = 8  # items that an alternative text names


RESPONSIVE = f"q ≤ {Q:g} with any of the models, in any layer"


def counted_in_words(found: Encoding) -> str:
    """Return over which electrodes the page's means are."""
    if found.counted == "responsive":
        return f"responsive electrodes ({RESPONSIVE})"
    return "all electrodes, as none is responsive"


def _quoted(model: str) -> str:
    return f"“{model_words(model)}”"


# ------------------------------------------------------------------------- of a participant


def encoding_in_words(found: Encoding, level: str) -> list[str]:
    """Return the result of a participant in sentences.

    Parameters
    ----------
    found : Encoding
    level : str
        Of the confidence intervals, such as ``95%``.
    """
    return [_lead(found), *_level(found), *_gains(found, level), _ceiling(found)]


def _lead(found: Encoding) -> str:
    others = [model for model in found.drawn if model != found.main]
    n_predicted, n = _n_predicted(found, found.main)
    compared = "".join(f"; {_quoted(m)}, {count(_n_predicted(found, m)[0])}" for m in others)
    own = found.shown[found.shown["model"] == found.main]
    best = own.iloc[int(np.argmax(own["r"].to_numpy(float)))]
    where = f" ({region_name(best['label'], best['hemisphere'])})" if best["label"] else ""
    lag = f" at a lag of {number(best['lag'], 2)} s" if pd.notna(best["lag"]) else ""
    return (
        f"Task {found.task}: the speech model {_quoted(found.main)} predicted {count(n_predicted)} "
        f"of {several(n, 'electrode')} in {band_words(found.band)} on held-out time "
        f"(q ≤ {Q:g}{compared}). Its best electrode was {best['name']}{where}, with "
        f"r = {number(best['r'])}{lag}."
    )


def _level(found: Encoding) -> list[str]:
    """Return how high r is over the responsive electrodes; nothing where there are none."""
    own = found.shown[found.shown["model"] == found.main]
    values = found.only_counted(own)["r"]
    if found.counted != "responsive" or not len(values):
        return []
    return [
        f"Over its {several(len(values), 'responsive electrode')} ({RESPONSIVE}), r with "
        f"{_quoted(found.main)} was {number(values.mean())} on average (median "
        f"{number(values.median())})."
    ]


def _n_predicted(found: Encoding, model: str) -> tuple[int, int]:
    own = found.shown[found.shown["model"] == model]
    return int((own["q"] <= Q).sum()), len(own)


def _gains(found: Encoding, level: str) -> list[str]:
    shown = shown_contrasts(found)
    own = gains_of(found, shown)
    own = own[own["model"].isin(found.drawn)]
    told = pd.concat([own, _with_controls(found, shown)]).dropna(subset=["difference"])
    return [_gain(row, level) for row in told.to_dict("records")]


def _with_controls(found: Encoding, contrasts: pd.DataFrame) -> pd.DataFrame:
    """Return the main model's contrasts with its own controls over the counted electrodes."""
    own = own_controls(found, contrasts, [found.main])
    return own[own["electrodes"] == found.counted]


def _gain(row: Mapping[Any, Any], level: str) -> str:
    known = pd.notna(row["p"]) and row["p"] < 0.05
    change = "higher" if round(row["difference"], 4) >= 0 else "lower"
    which = "responsive electrodes" if row["electrodes"] == "responsive" else "electrodes"
    return (
        f"With {_quoted(row['model'])}, r was {number(abs(row['difference']), 4)} {change} than "
        f"with {_quoted(row['reference'])} on average over {count(row['n_electrodes'])} {which} "
        f"({level} CI of the difference {interval(row['ci_low'], row['ci_high'], 4)}; "
        f"{p_phrase(row['p'])}{'' if known else '; this does not establish a difference'})."
    )


def _ceiling(found: Encoding) -> str:
    told = str(found.sidecar.get("NoiseCeiling") or "").strip().rstrip(".")
    told = told.replace("none: ", "none, as ", 1)
    mean = found.shown["noise_ceiling"].mean()
    if np.isfinite(mean):
        return f"Noise ceiling, mean over electrodes: {number(mean)}{f' ({told})' if told else ''}."
    return f"Noise ceiling: {told or 'none; the table of electrodes gives no reason'}."


def facts(found: Encoding) -> str:
    """Return how the numbers were made, in a sentence, as far as the sidecar tells."""
    told = found.sidecar
    known = {
        "Duration": lambda v: f"{clock(v)} of sound and response",
        "Rate": lambda v: f"at {v:g} Hz{_n_predicted_samples(found)}",
        "NFolds": lambda v: f"in {count(v)} folds",
        "Context": lambda v: f"context of {v:g} s",
        "Token": lambda v: f"token {v}",
        "iEEGReference": lambda v: f"reference {v}",
    }
    parts = [words(told[key]) for key, words in known.items() if told.get(key) not in (None, "")]
    text = ", ".join(parts)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _n_predicted_samples(found: Encoding) -> str:
    """Return over how many samples r is; folds lose some at their ends."""
    known = found.shown["n_samples"].dropna()
    ends = [count(n) for n in sorted({known.min(), known.max()})] if len(known) else []
    return f", of which {' to '.join(ends)} samples were predicted" if ends else ""


def layers_in_words(found: Encoding) -> str:
    """Return which layer of each model the page shows, and why."""
    layers = {m: layer for m, layer in found.layers.items() if np.isfinite(layer)}
    several_layers = found.electrodes.groupby("model")["layer"].nunique().max() > 1
    if not layers:
        return ""
    distinct = sorted(set(layers.values()))
    if len(distinct) == 1:
        text = f"Shown is layer {distinct[0]:g} of the speech models"
    else:
        named = ", ".join(f"{layer:g} of {_quoted(model)}" for model, layer in layers.items())
        text = f"Shown are layers {named}"
    why = ", in which the reference predicts best, so that the choice cannot favour another model"
    return text + (why if several_layers else "") + "."


# ------------------------------------------------------------------------------ of the group


def group_in_words(found: Encoding, level: str) -> list[str]:
    """Return the group's result in sentences.

    How high r is, the gain of each drawn model over the reference, and that of the main model over
    its own controls.
    """
    n = found.electrodes["participant"].nunique()
    start = f"Task {found.task}, {several(n, 'participant')}, {band_words(found.band)}: "
    shown = shown_contrasts(found)
    own = shown[(shown["reference"] == found.reference) & shown["model"].isin(found.drawn)]
    rows = pd.concat([own, _with_controls(found, shown)]).dropna(subset=["difference"])
    told = [_group_level(found), *[_group_gain(row, level) for row in rows.to_dict("records")]]
    return [start + told[0], *told[1:]]


def _group_level(found: Encoding) -> str:
    own = found.shown[found.shown["model"] == found.main]
    n_predicted = f"{count((own['q'] <= Q).sum())} of {several(len(own), 'electrode')}"
    means = found.only_counted(own).groupby("participant")["r"].mean()
    return (
        f"{_quoted(found.main)} predicted {n_predicted} (q ≤ {Q:g}); over "
        f"{counted_in_words(found)}, r was {number(means.mean())} on average over "
        f"{several(len(means), 'participant')} (median {number(means.median())})."
    )


def _group_gain(row: Mapping[Any, Any], level: str) -> str:
    known = pd.notna(row["p"]) and row["p"] < 0.05
    n = several(row["n_participants"], "participant")
    limits = interval(row["ci_low"], row["ci_high"], 4)
    detectable = (
        f"; a difference of {number(row['detectable'], 4)} could have been detected"
        if pd.notna(row["detectable"])
        else ""
    )
    return (
        f"{_quoted(row['model'])} against {_quoted(row['reference'])}, {row['electrodes']} "
        f"electrodes: gain of {signed_number(row['difference'])} in r over {n} "
        f"({level} CI {limits}; {p_phrase(row['p'])}; "
        f"better in {count(row['n_better'])} of them{detectable}"
        f"{'' if known else '; this does not establish a difference'})."
    )


# ------------------------------------------------------------------- what the pictures show


def _listed(parts: Iterable[str]) -> str:
    parts = list(parts)
    more = f"; and {len(parts) - MOST} more" if len(parts) > MOST else ""
    return "; ".join(parts[:MOST]) + more + "."


def strips(electrodes: pd.DataFrame, models: Sequence[str]) -> str:
    """Return mean and highest r and the number of predicted electrodes of each model."""
    parts = []
    for model in models:
        own = electrodes[electrodes["model"] == model]
        parts.append(
            f"{model_words(model)} mean {number(own['r'].mean())}, highest {number(own['r'].max())}"
            f", {int((own['q'] <= Q).sum())} of {len(own)} with q ≤ {Q:g}"
        )
    return "r on held-out time: " + _listed(parts)


def scatter(gains: pd.DataFrame) -> str:
    """Return how many electrodes each model predicts better than the reference."""
    parts = []
    for model, own in gains.groupby("model", sort=False):
        tested = f", {int((own['q'] <= Q).sum())} with q ≤ {Q:g}" if own["q"].notna().any() else ""
        parts.append(
            f"{model_words(str(model))} better in {int((own['gain'] > 0).sum())} of {len(own)} "
            f"electrodes{tested}, mean difference {signed_number(own['gain'].mean())}"
        )
    return _listed(parts)


def lags(curves: pd.DataFrame, best: Mapping[str, np.ndarray]) -> str:
    """Return the lag of the highest mean r of each model, and the middle of the best lags."""
    parts = []
    for model, own in curves.groupby("model", sort=False):
        peak = own.iloc[int(np.argmax(own["r"].to_numpy(float)))]
        parts.append(
            f"{model_words(str(model))} highest, {number(peak['r'])}, at {number(peak['lag'], 2)} s"
        )
    parts += [
        f"best lags of {len(values)} electrodes with {model_words(model)}: median "
        f"{number(np.median(values), 2)} s"
        for model, values in best.items()
    ]
    return "Mean r by lag: " + _listed(parts)


def categories(profiles: Sequence[tuple[str, str, pd.DataFrame]], names: Sequence[str]) -> str:
    """Return in which band each model has its highest value, panel by panel."""
    text = f"{len(names)} bands, {names[0]} to {names[-1]}. "
    for title, _, table in profiles:
        text += f"{title}: " + _highest(table, "place", lambda row: names[int(row["place"])]) + " "
    return text.strip()


def layer_peaks(profiles: Sequence[tuple[str, str, pd.DataFrame]]) -> str:
    """Return in which layer each model has its highest value, panel by panel."""
    parts = [
        f"{title}: " + _highest(table, "layer", lambda row: f"layer {row['layer']:g}")
        for title, _, table in profiles
    ]
    return " ".join(parts)


def _highest(table: pd.DataFrame, column: str, words: Any) -> str:
    parts = []
    for model, own in table.dropna(subset=["value", column]).groupby("model", sort=False):
        row = own.iloc[int(np.argmax(own["value"].to_numpy(float)))]
        value = number(row["value"], 4)
        parts.append(f"{model_words(str(model))} highest, {value}, in {words(row)}")
    return _listed(parts)


def brain_values(contacts: pd.DataFrame, column: str, what: str) -> str:
    """Return how many electrodes there are, how many tested positive, and the highest."""
    tested = (
        f", {int((contacts['q'] <= Q).sum())} with q ≤ {Q:g}" if contacts["q"].notna().any() else ""
    )
    ordered = contacts.sort_values(column, ascending=False, kind="stable")[:5]
    named = [
        " ".join(
            [
                *([str(row["participant"])] if "participant" in row else []),
                str(row["name"]),
                *([region_name(row["label"], row["hemisphere"])] if row["label"] else []),
                number(row[column], 4),
            ]
        )
        for row in ordered.to_dict("records")
    ]
    return f"{len(contacts)} electrodes{tested}. Highest {what}: {_listed(named)}"


def lag_values(contacts: pd.DataFrame) -> str:
    """Return the median and the extremes of the lags that mean something."""
    lags = contacts["lag"].dropna()
    return (
        f"{len(contacts)} electrodes, {len(lags)} with q ≤ {Q:g}. Their lags: median "
        f"{number(lags.median(), 2)} s, from {number(lags.min(), 2)} to {number(lags.max(), 2)} s."
    )


def gains(group: pd.DataFrame) -> str:
    """Return the mean gain of each model with its interval."""
    parts = []
    for row in group.to_dict("records"):
        better = f"better in {count(row['n_better'])} of {count(row['n_participants'])}"
        limits = interval(row["ci_low"], row["ci_high"], 4)
        start = f"{model_words(row['model'])}, {row['electrodes']} electrodes"
        parts.append(f"{start} {signed_number(row['difference'])} ({limits}), {better}")
    return "Gain in r over the reference: " + _listed(parts)


def scaling(table: pd.DataFrame) -> str:
    """Return the gain at every share of the fMRI."""
    parts = []
    for row in table.sort_values(["base", "amount", "seed"]).to_dict("records"):
        seed = f", seed {count(row['seed'])}" if row["seed"] else ""
        gain = signed_number(row["difference"])
        parts.append(f"{model_words(row['base'])} {100 * row['amount']:g}%{seed} {gain}")
    return "Gain in r by share of the fMRI: " + _listed(parts)


def maps(found: Sequence[tuple[str, np.ndarray]]) -> str:
    """Return the extremes of maps and how much of the brain they cover."""
    parts = []
    for title, values in found:
        known = values[np.isfinite(values)]
        if len(known):
            parts.append(
                f"{title} from {number(known.min(), 4)} to {number(known.max(), 4)}, known in "
                f"{100 * len(known) / len(values):.1f}% of the map"
            )
    return _listed(parts) if parts else ""
