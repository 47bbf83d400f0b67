"""Step ``preprocess``: every planned recording -> a clean, scaled signal at 40 Hz, in each band."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bids_speechdecode.bids.dataset import ElectrodesFile
from bids_speechdecode.bids.files import atomic_write, sidecar_path, write_json, write_tsv
from bids_speechdecode.bids.sidecars import fingerprint, read_sidecar, signature, write_sidecar
from bids_speechdecode.bids.tables import read_json
from bids_speechdecode.errors import DataError
from bids_speechdecode.signals.highgamma import preprocess_high_gamma
from bids_speechdecode.signals.preprocess import (
    Preprocessed,
    preprocess,
    write_brainvision_header,
)
from bids_speechdecode.signals.readers import open_signal
from bids_speechdecode.steps.bands import HIGH_GAMMA, SLOW, edges_of, reference_of
from bids_speechdecode.steps.context import (
    PREPROCESSED,
    Context,
    other_settings,
    signal_fingerprint,
)
from bids_speechdecode.steps.plan import PlannedRecording
from bids_speechdecode.timeline import Interval, merge_intervals

VERSION = 3

_DESCRIPTIONS = {
    SLOW: "Band-limited, decimated, robustly scaled signal; unit: robust z",
    HIGH_GAMMA: "Envelope of high gamma, decimated, robustly scaled; unit: robust z",
}
CHANNEL_COLUMNS = {
    "center": "Median of the training stretches before scaling (V)",
    "scale": "Interquartile range of the training stretches before scaling (V)",
    "clamped_fraction": "Fraction of samples that were clamped",
}


def preprocess_recording(context: Context, planned: PlannedRecording) -> None:
    """Write the preprocessed signal of one recording in every band in which it is not current.

    Raises
    ------
    DataError
        Nothing usable is in the recording (all channels flat or NaN, file truncated).
    """
    for band in planned.montages:
        _preprocess_band(context, planned, band)


def _preprocess_band(context: Context, planned: PlannedRecording, band: str) -> None:
    eeg, key = _file(context, planned, band), _signature(context, planned, band)
    label = planned.label if band == SLOW else f"{planned.label} {band}"
    if context.out.is_current(eeg, key):
        context.progress.skip("preprocess", label, "current")
        return
    reader = open_signal(planned.recording.path, planned.recording.format)
    montage, settings = planned.montages[band], context.config.preprocess
    how: dict[str, Any] = {
        "montage": montage,
        "rate": settings.rate,
        "line_frequency": _line_frequency(context, planned),
        "clamp": settings.clamp,
        "scale_intervals": training_intervals(context, planned),
        "cuts": split_boundaries(context, planned),
    }
    with (
        context.progress.task("preprocess", label, planned.duration) as advance,
        atomic_write(eeg) as temporary,
    ):
        if band == SLOW:
            result = preprocess(
                reader, temporary, highpass=settings.highpass, on_progress=advance, **how
            )
        else:
            result = preprocess_high_gamma(
                reader, temporary, edges=edges_of(settings), on_progress=advance, **how
            )
        dead = set(result.flat) | set(result.nan)
        if len(dead) == len(montage.names):
            raise DataError(
                "every good channel of this recording is flat or NaN",
                expected="at least one channel with a signal",
                found=f"{len(result.flat)} flat and {len(result.nan)} NaN channels",
                where=planned.recording.path,
                fix="mark the recording's channels bad, or leave it out with --run-label"
                + ("; with one electrode, choose --reference none" * montage.average),
            )
    _write_companions(context, planned, band, result, key)


def _file(
    context: Context,
    planned: PlannedRecording,
    band: str,
    suffix: str = "ieeg",
    extension: str = ".eeg",
) -> Path:
    return context.recording_file(planned, PREPROCESSED[band], suffix, extension)


def training_intervals(context: Context, planned: PlannedRecording) -> list[Interval] | None:
    """Return the training stretches (recording clock) of a recording that a split cuts.

    None where the whole recording belongs to one split: it is then scaled on itself, as the
    source paper's team does per file; no label and no other split takes part in that.
    """
    mine = [p for p in context.plan.pieces if p.recording == planned.label]
    splits = {p.split for p in mine}
    if len(splits) < 2 or "train" not in splits:
        return None
    duration = context.config.windows.duration
    return merge_intervals(
        Interval(float(p.brain_starts[0]), float(p.brain_starts[-1]) + duration)
        for p in mine
        if p.split == "train" and len(p.brain_starts)
    )


def require_preprocessed(context: Context) -> None:
    """Raise unless the signal of every recording was made with the settings of this run.

    Raises
    ------
    MissingInputError
        It is missing, or was made with other settings or from another file.
    """
    for planned in context.plan.recordings:
        for band, eeg in context.preprocessed(planned).items():
            if not context.out.is_current(eeg, _signature(context, planned, band)):
                raise other_settings(eeg, "preprocess")


def is_preprocessed(context: Context, planned: PlannedRecording) -> bool:
    """Return whether the signal of a recording is there in every band."""
    return all(
        context.out.is_current(_file(context, planned, band), _signature(context, planned, band))
        for band in planned.montages
    )


def split_boundaries(context: Context, planned: PlannedRecording) -> list[float]:
    """Return the times (recording clock) halfway between windows of different splits.

    The high-pass has a reach of half a minute. Cut there, no training sample depends on the
    signal of a held-out window.
    """
    mine = [p for p in context.plan.pieces if p.recording == planned.label and p.n_usable]
    in_time = sorted(mine, key=lambda p: float(p.brain_starts[0]))
    duration = context.config.windows.duration
    return [
        (float(before.brain_starts[-1]) + duration + float(after.brain_starts[0])) / 2
        for before, after in pairwise(in_time)
        if before.split != after.split
    ]


def _line_frequency(context: Context, planned: PlannedRecording) -> float | None:
    return planned.recording.power_line_frequency if context.config.preprocess.notch else None


def _signature(context: Context, planned: PlannedRecording, band: str) -> str:
    chosen = context.config.preprocess
    intervals, cuts = training_intervals(context, planned), split_boundaries(context, planned)
    settings: dict[str, Any] = {
        "rate": chosen.rate,
        "clamp": chosen.clamp,
        "notch": chosen.notch,
        "reference": reference_of(band, chosen),
        "montage": planned.montages[band].names,
        "line_frequency": _line_frequency(context, planned),
        "cuts": [round(cut, 4) for cut in cuts],
        "scale_intervals": intervals and [[round(t, 4) for t in i] for i in intervals],
    }
    if band == SLOW:
        settings["highpass"] = chosen.highpass
    else:
        settings["band"] = edges_of(chosen)
    return signature("preprocess", VERSION, settings, [signal_fingerprint(planned)])


def _write_companions(
    context: Context, planned: PlannedRecording, band: str, result: Preprocessed, key: str
) -> None:
    """Write header, channels and spectra; the sidecar last, it says 'complete'."""
    eeg, names = _file(context, planned, band), planned.montages[band].names
    headers = write_brainvision_header(eeg, names, result.rate, result.n_times)
    channels = _file(context, planned, band, "channels", ".tsv")
    write_tsv(channels, _channels_table(context, planned, band, result))
    write_json(channels.with_suffix(".json"), _describe(CHANNEL_COLUMNS))
    spectra = _file(context, planned, band, "spectra", ".tsv")
    write_tsv(spectra, _spectra(result))
    copy_electrodes(context, planned)
    write_sidecar(
        eeg,
        *headers,
        channels,
        spectra,
        step="preprocess",
        signature=key,
        Description=_DESCRIPTIONS[band],
        Sources=[planned.recording.path.name],
        TaskName=planned.recording.task,
        SamplingFrequency=result.rate,
        PowerLineFrequency=planned.recording.power_line_frequency or "n/a",
        iEEGReference=reference_of(band, context.config.preprocess),
        SoftwareFilters={
            **_filter_of(context, band),
            "antialias": {"below (Hz)": result.rate / 2},
            "notch": {"at (Hz)": list(result.notches)},
        },
        RecordingDuration=result.n_times / result.rate,
        Cuts=split_boundaries(context, planned),
        ScaleIntervals=training_intervals(context, planned) or "whole recording",
        FlatChannels=result.flat,
        NaNChannels=result.nan,
        Gaps=result.gaps,
        Simulated=context.plan.simulated,
    )


def _filter_of(context: Context, band: str) -> dict[str, dict[str, object]]:
    settings = context.config.preprocess
    if band == SLOW:
        return {"highpass": {"cutoff (Hz)": settings.highpass}}
    return {"band": {"edges (Hz)": edges_of(settings)}}


def _describe(columns: Mapping[str, str]) -> dict[str, dict[str, str]]:
    return {name: {"Description": text} for name, text in columns.items()}


def _spectra(result: Preprocessed) -> pd.DataFrame:
    """Median power over channels before and after, on the union of both frequency axes."""
    before, after = (
        pd.DataFrame({"frequency": frequencies, name: power})
        for name, (frequencies, power) in (
            ("before", result.spectrum_before),
            ("after", result.spectrum_after),
        )
    )
    return before.merge(after, how="outer", on="frequency")


def _channels_table(
    context: Context, planned: PlannedRecording, band: str, result: Preprocessed
) -> pd.DataFrame:
    types = {c.name: c.type for c in planned.recording.channels}
    highpass = context.config.preprocess.highpass if band == SLOW else 0.0
    dead = {**dict.fromkeys(result.flat, "flat"), **dict.fromkeys(result.nan, "NaN")}
    names = list(planned.montages[band].names)
    bare = [name.removesuffix(f" {band}") for name in names]
    return pd.DataFrame(
        {
            "name": names,
            "type": [types.get(name, types.get(name.split("-")[0], "SEEG")) for name in bare],
            "units": "n/a",
            "low_cutoff": highpass or "n/a",
            "high_cutoff": result.rate / 2,
            "sampling_frequency": result.rate,
            "status": ["bad" if name in dead else "good" for name in names],
            "status_description": [dead.get(name, "n/a") for name in names],
            "center": result.center,
            "scale": result.scale,
            "clamped_fraction": np.round(result.clamped_fraction, 6),
        }
    )


def copy_electrodes(context: Context, planned: PlannedRecording) -> None:
    """Put electrodes.tsv and coordsystem.json beside the signal, unchanged."""
    for electrodes in planned.electrodes:
        for source in (electrodes.electrodes, electrodes.coordsystem):
            if source is None:
                continue
            target = _copy_of(context, source)
            if not target.exists() or fingerprint(target) != fingerprint(source):
                target.parent.mkdir(parents=True, exist_ok=True)
                with atomic_write(target) as temporary:
                    shutil.copyfile(source, temporary)
        write_json(
            sidecar_path(_copy_of(context, electrodes.electrodes)), _describe_contacts(electrodes)
        )


def _copy_of(context: Context, source: Path) -> Path:
    return context.out.root / source.relative_to(context.out.source)


def _describe_contacts(electrodes: ElectrodesFile) -> dict[str, Any]:
    """Return the sidecar of electrodes.tsv, which derivatives need where no template is named."""
    system = read_json(electrodes.coordsystem) if electrodes.coordsystem else {}
    keys = ("iEEGCoordinateSystemDescription", "iEEGCoordinateSystem")
    reference = next((system[key] for key in keys if system.get(key)), "n/a")
    return {"SpatialReference": reference, **read_sidecar(electrodes.electrodes)}
