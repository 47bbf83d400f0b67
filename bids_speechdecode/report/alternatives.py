"""What each picture shows, in words with its main numbers, for readers who cannot see it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from bids_speechdecode.report import agreement as measured
from bids_speechdecode.report import brain, charts
from bids_speechdecode.report.brain_maps import GroupMap
from bids_speechdecode.report.electrode_tables import one_row_per_shaft
from bids_speechdecode.report.figures import Key, condition_label, contrast_label
from bids_speechdecode.report.page import clock, count, interval, number, p_value, several

MOST = 8  # regions, shafts or electrodes that are named


def _listed(parts: Iterable[str]) -> str:
    return "; ".join(parts) + "."


def _first(items: Sequence[str], what: str) -> str:
    """Return the first items in words, and how many more there are."""
    more = f"; and {len(items) - MOST} more {what}" if len(items) > MOST else ""
    return "; ".join(items[:MOST]) + more + "."


# ---------------------------------------------------------------------------------- decoding


def conditions(table: pd.DataFrame, value: str = "relative_rank") -> str:
    """Return the mean rank of every condition with its interval."""
    return "Mean relative rank (0 best, 0.5 chance): " + _listed(
        f"{condition_label(str(row['condition']), str(row['audio']))} {number(row[value])}"
        f"{_range(row)}"
        for row in table.to_dict("records")
    )


def contrasts(table: pd.DataFrame) -> str:
    """Return the mean difference of every contrast with its interval."""
    return "Difference in mean relative rank (negative: the first is better): " + _listed(
        f"{contrast_label(str(row['contrast']), str(row['audio']))} {number(row['difference'])}"
        f"{_range(row)}"
        for row in table.to_dict("records")
    )


def _range(row: Mapping[Any, Any], digits: int = 3) -> str:
    known = pd.notna(row["ci_low"]) and pd.notna(row["ci_high"])
    return f" ({interval(row['ci_low'], row['ci_high'], digits)})" if known else ""


def ranks(found: Mapping[Key, np.ndarray]) -> str:
    """Return the median rank of every condition and how many windows come in the best tenth."""
    finite = {key: values[np.isfinite(values)] for key, values in found.items()}
    return "Median rank and share of windows in the best tenth (chance 10%): " + _listed(
        f"{condition_label(*key)} {number(np.median(values))}, {100 * np.mean(values < 0.1):.0f}%"
        for key, values in finite.items()
        if len(values)
    )


def nulls(draws: Mapping[Key, tuple[np.ndarray, np.ndarray]], observed: Mapping[Key, float]) -> str:
    """Return the observed rank of every condition beside the middle of its null."""
    return "Observed mean rank, and middle 95% under time-shifted pairing: " + _listed(
        f"{condition_label(*key)} {number(observed.get(key))}, "
        f"{interval(*np.nanquantile(shifted, [0.025, 0.975]))}"
        for key, (shifted, _) in draws.items()
        if np.isfinite(shifted).any()
    )


def alignment(recordings: Sequence[Mapping[str, Any]]) -> str:
    """Return how much was recorded and how much of it has sound."""
    lengths: dict[str, float] = {}
    for recording in recordings:
        for segment in recording.get("alignment", []):
            version = str(segment.get("version"))
            heard = float(segment["stop"]) - float(segment["start"])
            lengths[version] = lengths.get(version, 0.0) + heard
    total = clock(sum(float(r.get("duration") or 0) for r in recordings))
    heard_words = "".join(f"; {name} audio {clock(length)}" for name, length in lengths.items())
    return f"{len(recordings)} recordings, {total} together{heard_words}."


def spectra(found: Sequence[tuple[str, pd.DataFrame]]) -> str:
    """Return the power near 1 and 10 Hz, the median over recordings."""
    return f"{len(found)} recordings; median power " + _listed(
        f"{column} at {frequency} Hz {_power(found, column, frequency)} V²/Hz"
        for column in ("before", "after")
        for frequency in (1, 10)
    )


def _power(found: Sequence[tuple[str, pd.DataFrame]], column: str, frequency: float) -> str:
    values = [
        table[column].to_numpy(float)[np.abs(table["frequency"].to_numpy(float) - frequency) < 0.5]
        for _, table in found
    ]
    known = [np.nanmedian(own) for own in values if np.isfinite(own).any()]
    return f"{np.median(known):.2g}" if known else "unknown"


def training(histories: Mapping[str, pd.DataFrame]) -> str:
    """Return the best epoch of every model and its validation rank."""
    kept = {
        model: history.iloc[int(history["val_rank"].argmin())]
        for model, history in histories.items()
        if history["val_rank"].notna().any()
    }
    return "Epoch that was kept and its validation rank: " + _listed(
        f"{condition_label(model)} epoch {row['epoch']:.0f}, {number(row['val_rank'])}"
        for model, row in kept.items()
    )


# -------------------------------------------------------------------------------- electrodes


def selection(contacts: pd.DataFrame) -> str:
    """Return how many channels with a position were kept and dropped, by reason."""
    counts = brain.selection_groups(contacts).value_counts()
    return _listed(
        f"{n} {name if name == 'kept' else f'dropped, {name}'}" for name, n in counts.items()
    )


def contributions(contacts: pd.DataFrame) -> str:
    """Return how many electrodes help on their own, and the first of them."""
    known = contacts.dropna(subset=["contribution"])
    ordered = known.sort_values("contribution", ascending=False, kind="stable")
    tested = f", {int((known['q'] <= brain.Q).sum())} of them with q ≤ {brain.Q:g}"
    named = [
        " ".join(
            [
                *([str(row["participant"])] if "participant" in row else []),
                str(row["name"]),
                *([charts.region_name(row["label"], row["hemisphere"])] if row["label"] else []),
                number(row["contribution"], 4),
            ]
        )
        for row in ordered[:5].to_dict("records")
    ]
    start = f"{len(known)} electrodes{tested if known['q'].notna().any() else ''}"
    return f"{start}. Largest contributions: {_listed(named)}" if named else f"{start}."


def agreement(contacts: pd.DataFrame) -> str:
    """Return how far the measures agree."""
    words = measured.agreement_words(contacts, measured.measures(contacts))
    return f"Over electrodes, {words}." if words else ""


def regions(means: pd.DataFrame) -> str:
    """Return the regions with the highest mean contribution."""
    named = [
        f"{charts.region_name(row['label'], row['hemisphere'])} {number(row['mean'], 4)} "
        f"({several(row['n_contacts'], 'electrode')})"
        for row in means.to_dict("records")
    ]
    return "Mean contribution: " + _first(named, "regions")


def shafts(contacts: pd.DataFrame) -> str:
    """Return what each shaft contributes as a whole."""
    named = [
        f"{row['shaft']} {number(row['contribution'])} (q {p_value(row['q'])}, "
        f"{row['n_helping']} of {row['n']} electrodes with q ≤ {brain.Q:g} on their own)"
        for row in one_row_per_shaft(contacts).to_dict("records")
    ]
    return "Contribution of whole shafts: " + _first(named, "shafts")


# ------------------------------------------------------------------------------------- group


def parcels(table: pd.DataFrame) -> str:
    """Return the tested regions, or else those seen in the most participants."""
    ordered = charts.ordered_regions(table, len(table))
    named = [
        f"{charts.region_name(row['label'], row['hemisphere'])} {number(row['mean'], 4)}"
        f"{_range(row, 4)}, {several(row['n_participants'], 'participant')}, "
        + (f"q {p_value(row['q'])}" if pd.notna(row["p"]) else "not tested")
        for row in ordered.to_dict("records")
    ]
    return "Mean contribution over participants: " + _first(named, "regions")


def surface(maps: Sequence[GroupMap]) -> str:
    """Return the extremes of the maps on the surface, and how much of it they cover."""
    return _maps((m.name, np.concatenate(m.surface)) for m in maps if m.surface is not None)


def volume(maps: Sequence[GroupMap]) -> str:
    """Return the extremes of the maps in the volume, and where the largest effect lies."""
    import nibabel

    found = []
    for group_map in maps:
        assert group_map.volume is not None
        image: Any = nibabel.load(group_map.volume)
        values = np.asarray(image.dataobj, dtype=float)
        found.append((group_map.name, values, image.affine))
    words = _maps((name, values.ravel()) for name, values, _ in found)
    for name, values, affine in found:
        if name == "effect" and np.isfinite(values).any():
            peak = np.unravel_index(np.nanargmax(values), values.shape)
            x, y, z = affine[:3, :3] @ peak + affine[:3, 3]
            words += f" The largest effect lies at x {x:.0f}, y {y:.0f}, z {z:.0f} mm."
    return words.replace("-", "\N{MINUS SIGN}")


def _maps(maps: Iterable[tuple[str, np.ndarray]]) -> str:
    parts = []
    for name, values in maps:
        known = values[np.isfinite(values)]
        if not len(known):
            continue
        if name == "effect":
            parts.append(
                f"effect from {number(known.min())} to {number(known.max())}, known in "
                f"{100 * len(known) / len(values):.1f}% of the map"
            )
        else:
            digits = 0 if name == "n" else 1
            what = "participants" if name == "n" else name
            parts.append(f"{what} up to {number(known.max(), digits)}")
    return _listed(parts) if parts else ""


def auditory(table: pd.DataFrame) -> str:
    """Return each participant's distance to auditory cortex and benefits."""
    kinds = charts.benefits(table)
    named = [
        f"{row['participant']}: nearest electrode {number(row['distance_auditory'], 1)} mm, "
        f"{count(row['n_auditory'])} in it"
        + "".join(f", benefit of {k} {number(row[f'benefit_{k}'])}" for k in kinds)
        for row in table.to_dict("records")
    ]
    return _first(named, "participants")
