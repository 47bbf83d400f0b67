"""Step ``responses``: every recording -> what its channels do in each band, 20 times a second."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.interpolate import make_interp_spline

from bids_speechdecode.bids.files import atomic_write, write_tsv
from bids_speechdecode.bids.sidecars import read_sidecar, signature, write_sidecar
from bids_speechdecode.config import EncodingConfig
from bids_speechdecode.signals.bands import BAND_EDGES, SLOW, Bands, band_envelopes
from bids_speechdecode.signals.export import write_brainvision_header
from bids_speechdecode.signals.filters import design_filter
from bids_speechdecode.signals.readers import open_signal
from bids_speechdecode.steps.context import (
    Context,
    other_settings,
    require_step,
    signal_fingerprint,
)
from bids_speechdecode.steps.encoding.sounds import HeardSegment, Sound
from bids_speechdecode.steps.plan import PlannedRecording
from bids_speechdecode.steps.preprocess import copy_electrodes
from bids_speechdecode.timeline import Interval

VERSION = 2

Edges = tuple[float, float] | None


def edges_of(settings: EncodingConfig) -> dict[str, Edges]:
    """Return the edges (Hz) of the bands that are asked for; None for the signal itself."""
    known: dict[str, Edges] = {**BAND_EDGES, SLOW: None}
    known["highgamma"] = (settings.high_gamma[0], settings.high_gamma[1])
    return {band: known[band] for band in settings.bands}


def make_responses(context: Context, planned: PlannedRecording) -> None:
    """Write the responses of one recording in all bands that are not current.

    Raises
    ------
    DataError
        The recording is damaged, or too slow for a band.
    """
    edges = {}
    for band, pair in edges_of(context.config.encoding).items():
        path, key = response_file(context, planned, band), _signature(context, planned, band)
        if context.out.is_current(path, key):
            context.progress.skip("responses", f"{planned.label} {band}", "current")
        else:
            edges[band] = pair
    copy_electrodes(context, planned)  # BIDS wants them beside every recording
    if edges:
        _make(context, planned, edges)


def _make(context: Context, planned: PlannedRecording, edges: Mapping[str, Edges]) -> None:
    label = f"{planned.label} {' '.join(edges)}"
    paths = {band: response_file(context, planned, band) for band in edges}
    with (
        context.progress.task("responses", label, planned.duration) as advance,
        ExitStack() as stack,
    ):
        temporary = {band: stack.enter_context(atomic_write(p)) for band, p in paths.items()}
        result = band_envelopes(
            open_signal(planned.recording.path, planned.recording.format),
            temporary,
            montage=planned.montage,
            edges=edges,
            rate=context.config.encoding.rate,
            highpass=context.config.preprocess.highpass,
            line_frequency=_line_frequency(context, planned),
            on_progress=advance,
        )
    for band, pair in edges.items():
        _write_companions(context, planned, band, pair, result)


def response_file(context: Context, planned: PlannedRecording, band: str) -> Path:
    """Return where the responses of a recording in one band lie."""
    return context.recording_file(planned, band, "ieeg", ".eeg")


def _line_frequency(context: Context, planned: PlannedRecording) -> float | None:
    return planned.recording.power_line_frequency if context.config.preprocess.notch else None


def _signature(context: Context, planned: PlannedRecording, band: str) -> str:
    settings: dict[str, Any] = {
        "rate": context.config.encoding.rate,
        "reference": context.config.encoding.reference,
        "montage": planned.montage.names,
        "edges": edges_of(context.config.encoding)[band],
        "highpass": context.config.preprocess.highpass if band == SLOW else None,
        "line_frequency": _line_frequency(context, planned),
    }
    return signature("responses", VERSION, settings, [signal_fingerprint(planned)])


def _write_companions(
    context: Context, planned: PlannedRecording, band: str, edges: Edges, result: Bands
) -> None:
    """Write header and channels; the sidecar last, it says 'complete'."""
    eeg, names = response_file(context, planned, band), list(planned.montage.names)
    what = "voltage" if edges is None else "amplitude of the band"
    headers = write_brainvision_header(eeg, names, result.rate, result.n_times, unit=f"V, {what}")
    dead = {**dict.fromkeys(result.flat, "flat"), **dict.fromkeys(result.nan, "NaN")}
    types = {c.name: c.type for c in planned.recording.channels}
    channels = context.recording_file(planned, band, "channels", ".tsv")
    write_tsv(
        channels,
        pd.DataFrame(
            {
                "name": names,
                "type": [types.get(n, types.get(n.split("-")[0], "SEEG")) for n in names],
                "units": "V",
                "low_cutoff": "n/a",
                "high_cutoff": result.rate / 2,
                "sampling_frequency": result.rate,
                "status": ["bad" if n in dead else "good" for n in names],
                "status_description": [dead.get(n, "n/a") for n in names],
            }
        ),
    )
    write_sidecar(
        eeg,
        *headers,
        channels,
        step="responses",
        signature=_signature(context, planned, band),
        Description=f"Responses in band {band}: {what}, decimated",
        Sources=[planned.recording.path.name],
        TaskName=planned.recording.task,
        SamplingFrequency=result.rate,
        PowerLineFrequency=planned.recording.power_line_frequency or "n/a",
        iEEGReference=context.config.encoding.reference,
        SoftwareFilters={
            "band": {"edges (Hz)": list(edges) if edges else "n/a"},
            "antialias": {"below (Hz)": result.rate / 2},
        },
        RecordingDuration=result.n_times / result.rate,
        FlatChannels=result.flat,
        NaNChannels=result.nan,
        Gaps=result.gaps,
        Simulated=context.plan.simulated,
    )


def responses_signature(context: Context, sounds: Sequence[Sound]) -> list[str]:
    """Return the signatures of all responses that are read, or say which step makes them."""
    found = []
    for planned in {h.planned.label: h.planned for s in sounds for h in s.hearings}.values():
        for band in context.config.encoding.bands:
            path = require_step(response_file(context, planned, band), "responses")
            key = _signature(context, planned, band)
            if not context.out.is_current(path, key):
                raise other_settings(path, "responses")
            found.append(key)
    return found


def filter_reach(context: Context, sounds: Sequence[Sound]) -> float:
    """Return how far (s) a sample of the responses depends on signal before and after it.

    It is that of the high-pass of the slow signal; the filters of carrier bands ring for less than
    the sound that two neighbouring samples share.
    """
    settings = context.config
    if SLOW not in settings.encoding.bands:
        return 0.0
    lines = {_line_frequency(context, h.planned) for s in sounds for h in s.hearings}
    rate = settings.encoding.rate
    taps = [design_filter(rate, settings.preprocess.highpass, line)[0] for line in lines]
    return max(len(t) // 2 for t in taps) / rate


def load_responses(
    context: Context, sound: Sound, channels: Sequence[str], band: str
) -> np.ndarray:
    """Return the responses to a sound, once for every time it was heard.

    Returns
    -------
    responses : array of float32, shape (n_hearings, n_times, n_channels)
        On the clock of the audio (`Sound.times`); NaN where the sound was not heard, in gaps and
        artifacts, and for channels that a recording lacks.
    """
    times = sound.times(context.config.encoding.rate)
    found = np.full((len(sound.hearings), len(times), len(channels)), np.nan, np.float32)
    for hearing, target in zip(sound.hearings, found, strict=True):
        _fill(context, hearing, band, channels, times, target)
    return found


def _fill(
    context: Context,
    hearing: HeardSegment,
    band: str,
    channels: Sequence[str],
    times: np.ndarray,
    target: np.ndarray,
) -> None:
    """Interpolate the responses of one recording at times of the audio, in place."""
    planned, rate = hearing.planned, context.config.encoding.rate
    path = response_file(context, planned, band)
    sidecar = read_sidecar(path)
    names = list(planned.montage.names)
    data = np.memmap(path, np.float32, "r").reshape(-1, len(names))
    dead = {*sidecar["FlatChannels"], *sidecar["NaNChannels"]}
    pairs = [(i, names.index(n)) for i, n in enumerate(channels) if n in names and n not in dead]
    heard_at = hearing.sample_times(times)
    inside = hearing.segment.interval
    usable = (heard_at >= max(0.0, inside.start)) & (heard_at <= inside.stop)
    usable &= heard_at <= (len(data) - 1) / rate
    gaps = [Interval(*gap) for gap in sidecar["Gaps"]]
    for hole in (*gaps, *planned.gaps, *planned.alignment.artifacts):
        usable &= (heard_at < hole.start - 1 / rate) | (heard_at > hole.stop + 1 / rate)
    if not usable.any() or not pairs:
        return
    into, columns = (list(part) for part in zip(*pairs, strict=True))
    # Cubic, because clocks that drift against each other put samples between samples.
    course = make_interp_spline(np.arange(len(data)) / rate, data[:, columns], k=3)
    target[np.ix_(usable, into)] = course(heard_at[usable])
