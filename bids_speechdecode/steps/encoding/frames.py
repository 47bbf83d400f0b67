"""Step ``features`` of encoding: every sound -> one feature vector per sample of the responses.

The store is keyed by audio file, model and settings, and lies in ``features/`` of the derivatives,
so that participants who heard the same file share one computation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bids_speechdecode.audio.context import context_features
from bids_speechdecode.audio.nuisance import nuisance_features
from bids_speechdecode.audio.speech_models import load_speech_model
from bids_speechdecode.bids.files import write_array
from bids_speechdecode.bids.sidecars import read_sidecar, signature, write_sidecar
from bids_speechdecode.bids.words import read_words
from bids_speechdecode.errors import MissingInputError
from bids_speechdecode.steps.context import (
    Context,
    other_settings,
    require_step,
    source_fingerprint,
)
from bids_speechdecode.steps.encoding.sounds import Sound
from bids_speechdecode.steps.features import segment_reader
from bids_speechdecode.steps.speech_model_names import MEL, NamedModel

VERSION = 1
NUISANCE = "nuisance"
CONSTANT = 1e-5  # of the largest value: less is the rounding of a speech model


def layers_of(context: Context, model: NamedModel) -> tuple[int, ...]:
    """Return the layers of a model that are compared; the mel spectrogram has one."""
    if model.target.name == MEL:
        return (0,)
    return context.config.encoding.layers or (model.target.layer,)


def make_features(context: Context, models: Sequence[NamedModel], sounds: Sequence[Sound]) -> None:
    """Write the features of every sound by every model, and the nuisance features.

    Raises
    ------
    MissingInputError
        A model is absent; or the words of a sound are asked for, and no table has them.
    """
    if "words" in context.config.encoding.nuisance:
        for sound in sounds:  # before hours of work
            _require_words(sound)
    for model in models:
        todo = []
        for sound in sounds:
            layers = [
                i for i in layers_of(context, model) if not _current(context, sound, model, i)
            ]
            if layers:
                todo.append((sound, tuple(layers)))
            else:
                context.progress.skip("features", f"{sound.name} {model.label}", "current")
        if todo:
            _compute(context, model, todo)
    if context.config.encoding.nuisance:
        for sound in sounds:
            _compute_nuisance(context, sound)


def _compute(
    context: Context, model: NamedModel, todo: Sequence[tuple[Sound, tuple[int, ...]]]
) -> None:
    settings = context.config.encoding
    layers = tuple(sorted({layer for _, wanted in todo for layer in wanted}))
    loaded = load_speech_model(model.target, device=context.device, layers=layers)
    for sound, wanted in todo:
        with context.progress.task("features", f"{sound.name} {model.label}", 1.0) as advance:
            found = context_features(
                _reader(sound),
                sound.interval,
                settings.rate,
                loaded,
                context=settings.context,
                token=settings.token,
                batch_size=context.config.target.batch_size,
                on_progress=_steps(advance),
            )
        for layer in wanted:
            path, key = feature_file(context, sound, model, layer)
            write_array(path, found[:, layers.index(layer)], shared=True)
            _describe(context, path, key, Model=model.label, Layer=layer, Shape=found.shape[::2])


def _steps(advance: Callable[[float], None]) -> Callable[[float], None]:
    """Return a function that takes the fraction done and advances by what is new of it."""
    done = 0.0

    def update(fraction: float) -> None:
        nonlocal done
        advance(fraction - done)
        done = fraction

    return update


def _compute_nuisance(context: Context, sound: Sound) -> None:
    path, key = nuisance_file(context, sound)
    if context.out.is_current(path, key):
        context.progress.skip("features", f"{sound.name} {NUISANCE}", "current")
        return
    settings = context.config.encoding
    with context.progress.task("features", f"{sound.name} {NUISANCE}", 1.0) as advance:
        found, columns = nuisance_features(
            _reader(sound), sound.interval, settings.rate, settings.nuisance, words=_words(sound)
        )
        advance(1.0)
    write_array(path, found, shared=True)
    _describe(context, path, key, Model=NUISANCE, FeatureColumns=columns, Shape=found.shape)


def _words(sound: Sound) -> pd.DataFrame | None:
    """Return the words of a sound, from a table beside its file, or None."""
    return read_words(sound.path) if sound.path is not None else None


def _require_words(sound: Sound) -> None:
    if _words(sound) is not None:
        return
    expected, found, where = "a sound file with a table of its words", f"sound of {sound.name}", ""
    if sound.path is not None:
        stem, where = sound.path.name.partition(".")[0], str(sound.path.parent)
        expected = f"{stem}_words.tsv or {stem}_transcript.csv with a column onset (s)"
        found = "no such table"
    raise MissingInputError(
        "It is not known when the words were spoken, which nuisance in [encoding] asks for",
        expected=expected,
        found=found,
        where=where,
        fix="put the table beside the sound, or leave words out of nuisance",
    )


def _reader(sound: Sound) -> Callable[[float, float], np.ndarray]:
    first = sound.hearings[0]
    return segment_reader(first.planned, first.segment, [sound.interval])


def _describe(context: Context, path: Path, key: str, **about: Any) -> None:
    settings = context.config.encoding
    write_sidecar(
        path,
        step="features",
        signature=key,
        Description="Features of one sound at the samples of the responses, before any scaling",
        Context=settings.context,
        Token=settings.token,
        SamplingFrequency=settings.rate,
        **about,
        Simulated=context.plan.simulated,
    )


def feature_file(context: Context, sound: Sound, model: NamedModel, layer: int) -> tuple[Path, str]:
    """Return the file of a sound's features by one layer of a model, and its signature."""
    settings = context.config.encoding
    about = {
        "model": model.fingerprint,
        "name": model.target.name,
        "half_precision": model.target.half_precision,
        "layer": layer,
        "context": settings.context,
        "token": settings.token,
    }
    return _file(context, sound, f"{model.word}L{layer}", about)


def nuisance_file(context: Context, sound: Sound) -> tuple[Path, str]:
    """Return the file of a sound's nuisance features, and its signature."""
    words = _words(sound)
    known = None if words is None else words.to_csv(index=False)
    return _file(
        context, sound, NUISANCE, {"names": context.config.encoding.nuisance, "words": known}
    )


def _file(context: Context, sound: Sound, word: str, about: dict[str, Any]) -> tuple[Path, str]:
    first = sound.hearings[0]
    settings = {
        **about,
        "rate": context.config.encoding.rate,
        "interval": [round(t, 4) for t in sound.interval],
    }
    source = source_fingerprint(first.planned, first.segment)
    key = signature("features", VERSION, settings, [source])
    desc = f"{word}{key[:8]}"
    if sound.path is None:
        return context.recording_file(first.planned, desc, "embeddings", ".npy"), key
    return context.stimulus_file(sound.path, desc), key


def _current(context: Context, sound: Sound, model: NamedModel, layer: int) -> bool:
    return context.out.is_current(*feature_file(context, sound, model, layer))


def load_features(
    context: Context, sounds: Sequence[Sound], model: NamedModel, layer: int
) -> np.ndarray:
    """Return the features of all sounds, one after the other, (n_times, n_features)."""
    return _load(context, [feature_file(context, s, model, layer) for s in sounds])


def load_nuisance(context: Context, sounds: Sequence[Sound]) -> np.ndarray:
    """Return the nuisance features of all sounds, one after the other."""
    return _load(context, [nuisance_file(context, s) for s in sounds])


def _load(context: Context, files: Sequence[tuple[Path, str]]) -> np.ndarray:
    for path, key in files:
        if not context.out.is_current(require_step(path, "features"), key):
            raise other_settings(path, "features")
    return np.concatenate([np.load(path) for path, _ in files])


def nuisance_columns(context: Context, sound: Sound) -> list[str]:
    """Return the names of the nuisance features."""
    return list(read_sidecar(nuisance_file(context, sound)[0])["FeatureColumns"])


def silent_sounds(context: Context, sounds: Sequence[Sound], model: NamedModel) -> list[str]:
    """Return the names of sounds in which no feature changes: nothing can be predicted from them.

    Those of the nuisance features, or of a model's first layer where there are none.
    """
    settings = context.config.encoding
    first = int(settings.context * settings.rate)  # before, a context fills
    silent = []
    for sound in sounds:
        if settings.nuisance:
            path, _ = nuisance_file(context, sound)
        else:
            path, _ = feature_file(context, sound, model, layers_of(context, model)[0])
        values = np.load(require_step(path, "features"), mmap_mode="r")[first:]
        if len(values) and (np.ptp(values, axis=0) <= CONSTANT * np.abs(values).max(axis=0)).all():
            silent.append(sound.name)
    return silent
