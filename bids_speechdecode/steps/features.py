"""Step ``features``: every audio that was heard -> one target per window.

The store is keyed by audio file, settings and windows, and lies in ``features/`` of the
derivatives, so that participants who heard the same file share one computation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np

from bids_speechdecode.audio.features import voiced_fraction, window_features
from bids_speechdecode.audio.speech_models import load_speech_model
from bids_speechdecode.audio.text_target import load_text_encoder, target_fingerprint
from bids_speechdecode.audio.waveform import fit_length, read_audio, resample
from bids_speechdecode.bids.alignment import Segment
from bids_speechdecode.bids.files import write_array
from bids_speechdecode.bids.sidecars import signature, write_sidecar
from bids_speechdecode.config import TEXT, WITHOUT_MODEL
from bids_speechdecode.errors import DataError
from bids_speechdecode.signals.readers import SignalReader, open_signal
from bids_speechdecode.steps.context import Context, source_fingerprint
from bids_speechdecode.steps.plan import Piece, PlannedRecording
from bids_speechdecode.steps.words import texts_of
from bids_speechdecode.timeline import Interval, sample_at

VERSION = 1
AUDIO_RATE = 16000
CHANNEL_BLOCK = 60.0  # seconds of an AUDIO channel that are read at once

PieceKey = tuple[float, float, int, float]
Read = Callable[[float, float], np.ndarray]
Embed = Callable[[Read, Piece], np.ndarray]


def piece_key(piece: Piece) -> PieceKey:
    """Return what identifies a piece's windows within one audio (seconds, count)."""
    first = float(piece.audio_starts[0]) if len(piece.audio_starts) else 0.0
    return (
        round(piece.audio.start, 4),
        round(piece.audio.stop, 4),
        len(piece.audio_starts),
        round(first, 4),
    )


def group_by_audio(context: Context) -> dict[str, list[Piece]]:
    """Return the distinct pieces of every audio, keyed by the file or channel that holds it."""
    groups: dict[str, dict[PieceKey, Piece]] = {}
    for piece in context.plan.pieces:
        if len(piece.audio_starts):
            groups.setdefault(_audio_name(context, piece), {}).setdefault(piece_key(piece), piece)
    return {name: [found[k] for k in sorted(found)] for name, found in groups.items()}


def _audio_name(context: Context, piece: Piece) -> str:
    source = context.plan.segment(piece).source
    return str(source.path) if source.path else f"{piece.recording}:{source.channel}"


def target_name(context: Context) -> str:
    """Return the target as one word for file names, e.g. ``wav2vec2L19mean``."""
    target = context.config.target
    layer = "" if target.name in WITHOUT_MODEL else f"L{target.layer}"
    return f"{target.name}{layer}{target.pooling}"


def feature_file(context: Context, pieces: Sequence[Piece]) -> tuple[Path, str]:
    """Return the file with the targets of one audio's pieces, and its signature."""
    piece = pieces[0]
    planned, segment = context.plan[piece.recording], context.plan.segment(piece)
    settings = {
        **asdict(context.config.target),
        "model_files": target_fingerprint(context.config.target),
        "duration": context.config.windows.duration,
        "pieces": [[*piece_key(p), np.round(p.audio_starts, 4).tolist()] for p in pieces],
        "voicing": context.config.windows.voice_activity,
    }
    del settings["batch_size"], settings["model"]  # how, and where from; not what
    if context.config.target.name == TEXT:
        del settings["chunk"], settings["frame_rate"], settings["half_precision"]  # of sound
        settings["texts"] = [_texts(context, p) for p in pieces]
    key = signature("features", VERSION, settings, [source_fingerprint(planned, segment)])
    desc = f"{target_name(context)}{key[:8]}"
    if segment.source.path is None:
        return context.recording_file(planned, desc, "embeddings", ".npy"), key
    return context.stimulus_file(segment.source.path, desc), key


def compute_features(context: Context) -> dict[str, DataError]:
    """Write the targets of every audio of the plan.

    Returns
    -------
    dict
        The recordings whose audio turned out to be damaged, by label, with the error.
    """
    todo = [
        (name, pieces, *feature_file(context, pieces))
        for name, pieces in group_by_audio(context).items()
    ]
    missing = []
    unusable: dict[str, DataError] = {}
    for name, pieces, path, key in todo:
        if context.out.is_current(path, key):
            context.progress.skip("features", Path(name).name, "current")
        else:
            missing.append((name, pieces, path, key))
    if missing:
        # The model is loaded only where something is left to do: it may need a gigabyte.
        embed = _load_target(context)
        for name, pieces, path, key in missing:
            try:
                _compute_one(context, embed, Path(name).name, pieces, path, key)
            except DataError as error:
                unusable |= dict.fromkeys(_heard_in(context, name), error)
    return unusable


def _load_target(context: Context) -> Embed:
    """Return what turns the sound of a piece, or its words, into one target a window."""
    target, duration = context.config.target, context.config.windows.duration
    if target.name == TEXT:
        encoder = load_text_encoder(target, device=context.device)
        return lambda read, piece: encoder.embed(_texts(context, piece))
    model = load_speech_model(target, device=context.device)
    return lambda read, piece: window_features(
        read, piece.audio, piece.audio_starts, duration, model, target
    )


def _texts(context: Context, piece: Piece) -> list[str]:
    return texts_of(context.plan, piece, context.config.windows.duration)


def _heard_in(context: Context, name: str) -> list[str]:
    """Return the recordings in which an audio was heard."""
    return [p.recording for p in context.plan.pieces if _audio_name(context, p) == name]


def _compute_one(
    context: Context,
    embed: Embed,
    name: str,
    pieces: Sequence[Piece],
    path: Path,
    key: str,
) -> None:
    read = audio_reader(context, pieces)
    windows, target = context.config.windows, context.config.target
    features, voiced = [], []
    with context.progress.task("features", name, sum(p.audio.duration for p in pieces)) as advance:
        for piece in pieces:
            features.append(embed(read, piece))
            if windows.voice_activity:
                voiced.append(voiced_fraction(read, piece.audio_starts, windows.duration))
            advance(piece.audio.duration)
    array = np.concatenate(features)
    stored = array.astype(np.float16) if target.pooling == "frames" else array
    write_array(path, stored, shared=True)
    of_text = (
        {"WindowsWithoutWords": int(np.isnan(array[:, 0]).sum())} if target.name == TEXT else {}
    )
    write_sidecar(
        path,
        step="features",
        signature=key,
        Description="Targets of the windows of one audio file, before any scaling",
        Target=target,
        WindowDuration=windows.duration,
        Shape=array.shape,
        Pieces=[piece_key(p) for p in pieces],
        VoicedFraction=np.concatenate(voiced).round(4) if voiced else "n/a",
        **of_text,
        Simulated=context.plan.simulated,
    )


def audio_reader(context: Context, pieces: Sequence[Piece]) -> Callable[[float, float], np.ndarray]:
    """Return a function (start, stop in seconds of the audio) -> mono sound at 16 kHz."""
    planned, segment = context.plan[pieces[0].recording], context.plan.segment(pieces[0])
    # The scale is a statistic of the sound: held-out sound must not take part in it.
    training = [p.audio for p in pieces if p.split == "train"] or [p.audio for p in pieces]
    return segment_reader(planned, segment, training)


def segment_reader(
    planned: PlannedRecording, segment: Segment, scaled_on: Sequence[Interval]
) -> Callable[[float, float], np.ndarray]:
    """Return the reader of a segment's sound; a channel is scaled by its peak in intervals."""
    if segment.source.path is not None:
        return partial(_read_file, segment.source.path)
    reader = open_signal(planned.recording.path, planned.recording.format)
    pick = reader.channel_names.index(str(segment.source.channel))
    return partial(_read_channel, reader, pick, _channel_peak(reader, pick, scaled_on))


def _read_file(path: Path, start: float, stop: float) -> np.ndarray:
    return read_audio(path, start, stop, rate=AUDIO_RATE)


def _channel_peak(reader: SignalReader, pick: int, intervals: Sequence[Interval]) -> float:
    """Return the largest absolute value (V) of a channel in `intervals`, read in blocks."""
    rate = reader.sampling_rate
    length = sample_at(CHANNEL_BLOCK, rate)
    peak = 0.0
    for interval in intervals:
        stop = min(sample_at(interval.stop, rate), reader.n_times)
        for first in range(sample_at(interval.start, rate), stop, length):
            block = reader.read(first, min(first + length, stop), [pick])
            peak = max(peak, float(np.nanmax(np.abs(block), initial=0.0)))
    return peak or 1.0


def _read_channel(
    reader: SignalReader, pick: int, peak: float, start: float, stop: float
) -> np.ndarray:
    """Read an AUDIO channel as sound, with one scale for the whole recording."""
    rate = reader.sampling_rate
    first, last = sample_at(start, rate), min(sample_at(stop, rate), reader.n_times)
    wave = np.nan_to_num(reader.read(first, last, [pick])[:, 0]) / peak
    n_samples = sample_at(stop, AUDIO_RATE) - sample_at(start, AUDIO_RATE)
    return fit_length(resample(wave, rate, AUDIO_RATE), n_samples)
