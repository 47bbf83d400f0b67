"""Step ``encode``: features of speech models -> how well they predict every electrode.

One ridge per model and layer predicts all electrodes in all bands; every table is about held-out
time.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from bids_speechdecode.bids.files import invalidate, write_tsv
from bids_speechdecode.bids.sidecars import signature, write_sidecar
from bids_speechdecode.config import EncodingConfig
from bids_speechdecode.encoding.banded import fit_banded_ridge
from bids_speechdecode.encoding.folds import Folds, contiguous_folds
from bids_speechdecode.encoding.nulls import circular_shift_p, false_discovery_rate
from bids_speechdecode.encoding.ridge import LaggedRidge, fit_lagged_ridge, stack_delays
from bids_speechdecode.encoding.scores import correlate, r2
from bids_speechdecode.encoding.views import RESPONSIVE_Q
from bids_speechdecode.steps.context import Context
from bids_speechdecode.steps.encoding.frames import (
    feature_file,
    layers_of,
    load_features,
    load_nuisance,
    nuisance_file,
    silent_sounds,
)
from bids_speechdecode.steps.encoding.gather import Responses, gather_responses
from bids_speechdecode.steps.encoding.responses import (
    edges_of,
    filter_reach,
    responses_signature,
)
from bids_speechdecode.steps.encoding.sounds import HeardSegment, Sound
from bids_speechdecode.steps.encoding.tables import (
    Fit,
    Heard,
    contrast_tables,
    lag_table,
    modulation_table,
    score_table,
)
from bids_speechdecode.steps.speech_model_names import NamedModel, model_name
from bids_speechdecode.timeline import sample_at

log = logging.getLogger(__name__)

VERSION = 4
# Seconds of sound before a sample that the nuisance features cover, and their step: brains respond
# to acoustics for a few hundred milliseconds; our default.
NUISANCE_PAST, NUISANCE_STEP = 0.7, 0.1
SUFFIX = "scores"
DESCRIPTIONS = {
    "encoding": "how well each electrode is predicted from held-out sound",
    "encodingLags": "the same at every lag",
    "encodingModulations": "the same in bands of modulation",
    "encodingContrasts": "speech models compared, all electrodes of the participant together",
    "encodingElectrodeContrasts": "speech models compared at each electrode",
}
COLUMNS = {
    "model": "Speech model",
    "layer": "Layer of the speech model; 0 is the input of its transformer",
    "band": "Band of the signal that is predicted",
    "name": "Channel",
    "type": "Type of channel",
    "group": "Shaft, grid or strip",
    "x": "Position (mm)",
    "y": "Position (mm)",
    "z": "Position (mm)",
    "space": "Space of the position",
    "label": "Label of the atlas",
    "hemisphere": "L or R",
    "distance": "Distance to the nearest label (mm)",
    "r": "Held-out correlation of prediction and response, means removed within folds",
    "r2": "Held-out share of the variance that is explained, means removed within folds",
    "p": "p of r, from circular shifts of the response",
    "q": "False discovery rate of p over electrodes",
    "lag": "Lag of the response after the end of the sound that is heard (s), median over folds",
    "alpha": "Penalty, geometric mean over folds",
    "noise_ceiling": "Highest r that any model of the sound can expect, by how often it was heard",
    "unique_r2": "Held-out r2 of model and nuisance together minus that of the nuisance alone",
    "nuisance_r2": "Held-out r2 of the nuisance features alone",
    "joint_r2": "Held-out r2 of model and nuisance together",
    "n_samples": "Samples of the responses that were predicted",
    "low": "Lower edge of the band of modulation (Hz)",
    "high": "Upper edge of the band of modulation (Hz)",
    "coherence": "Magnitude-squared coherence of prediction and response in that band",
    "coherence_chance": "Coherence that unrelated signals are expected to have",
    "reference": "Speech model that the other is compared with",
    "modulation": "Band of modulation (Hz), or broadband",
    "electrodes": "all, or responsive: q <= 0.05 with any of the models, in any layer",
    "n_electrodes": "Number of electrodes",
    "difference": "r with the model minus r with the reference",
    "ci_low": "Confidence interval of the difference",
    "ci_high": "Confidence interval of the difference",
    "detectable": "Smallest true difference that would be found with a power of 0.8",
    "simulated": "Whether the data are simulated",
}


def encode(
    context: Context,
    models: Sequence[NamedModel],
    sounds: Sequence[Sound],
    electrodes: pd.DataFrame,
    notes: Sequence[str] = (),
) -> None:
    """Fit the ridges and write the participant's tables.

    Parameters
    ----------
    context : Context
    models : sequence of NamedModel
        The first one is what the others are compared with; tuned ones with their controls too.
    sounds : sequence of Sound
    electrodes : DataFrame
        The channels to predict with their positions, as `steps.select.foresee` chose them.
    notes : sequence of str
        About the participant, for the sidecar.

    Raises
    ------
    DataError
        Too little sound for the folds, or no response at all.
    """
    path = context.summary_file("encoding", SUFFIX, ".tsv")
    key = _signature(context, models, sounds, electrodes)
    if all(
        context.out.is_current(context.summary_file(d, SUFFIX, ".tsv"), key) for d in DESCRIPTIONS
    ):
        context.progress.skip("encode", f"sub-{context.participant}", "current")
        return
    responses = gather_responses(context, sounds, list(electrodes["name"]))
    folds = _folds(context.config.encoding, responses, filter_reach(context, sounds))
    notes = [*notes, *_note_silent(context, models, sounds)]
    fits = list(_fit_all(context, models, sounds, responses, folds))
    heard = Heard(
        electrodes,
        context.config.encoding.bands,
        responses.values,
        responses.ceiling(np.asarray(folds.block)),
        responses.stretch,
        fold_of_samples(folds),
        context.config.encoding.rate,
    )
    tables = _make_tables(context, fits, heard)
    invalidate(path)
    for desc, table in reversed(tables.items()):  # the sidecar of the first says 'complete'
        file = context.summary_file(desc, SUFFIX, ".tsv")
        write_tsv(file, table.assign(simulated=context.plan.simulated))
        about = _about(context, models, responses, folds, notes) if file == path else {}
        about |= {n: {"Description": COLUMNS[n]} for n in [*table.columns, "simulated"]}
        write_sidecar(
            file,
            step="encode",
            signature=key,
            Description=DESCRIPTIONS[desc],
            **about,
            Simulated=context.plan.simulated,
        )


def _make_tables(context: Context, fits: Sequence[Fit], heard: Heard) -> dict[str, pd.DataFrame]:
    scores, modulations = score_table(fits, heard), modulation_table(fits, heard)
    rng = np.random.default_rng([context.config.run.seed, 12])
    settings = context.config.evaluation
    overall, single = contrast_tables(fits, heard, scores, modulations, settings, rng)
    return {
        "encoding": scores,
        "encodingLags": lag_table(fits, heard),
        "encodingModulations": modulations,
        "encodingContrasts": overall,
        "encodingElectrodeContrasts": single,
    }


def _signature(
    context: Context,
    models: Sequence[NamedModel],
    sounds: Sequence[Sound],
    electrodes: pd.DataFrame,
) -> str:
    settings = {
        **asdict(context.config.encoding),
        "models": None,  # they and their layers are in the labels and the inputs
        "layers": None,
        "seed": context.config.run.seed,
        "evaluation": asdict(context.config.evaluation),
        "electrodes": electrodes.fillna("n/a").round(4).to_dict("list"),
        "labels": [asdict(m) | {"target": m.fingerprint} for m in models],
    }
    inputs = responses_signature(context, sounds)
    inputs += [str(_identity(h)) for sound in sounds for h in sound.hearings]
    for sound in sounds:
        inputs += [
            feature_file(context, sound, m, layer)[1]
            for m in models
            for layer in layers_of(context, m)
        ]
        if context.config.encoding.nuisance:
            inputs.append(nuisance_file(context, sound)[1])
    return signature("encode", VERSION, settings, inputs)


def _identity(hearing: HeardSegment) -> list[object]:
    """Return what of a hearing decides which responses belong to which sound."""
    planned, segment = hearing.planned, hearing.segment
    holes = [*planned.gaps, *planned.alignment.artifacts]
    return [
        planned.label,
        (float(segment.clock.slope), round(segment.clock.offset, 6)),
        [[round(t, 6) for t in interval] for interval in (segment.interval, *holes)],
    ]


def _folds(settings: EncodingConfig, responses: Responses, filtered: float = 0.0) -> Folds:
    """Return the folds; `filtered` is how far (s) filters of the responses reach."""
    reach = sample_at(settings.max_lag, settings.rate)
    if settings.lags == "delays":
        reach = max(abs(delay) for delay in settings.delays)
    # Lags reach to either side: twice their range, and whatever the responses between are made of.
    response = reach + sample_at(filtered, settings.rate)
    embargo = reach + max(sample_at(settings.context, settings.rate), response)
    return contiguous_folds(responses.stretch, responses.valid, settings.n_folds, embargo)


def _past(settings: EncodingConfig) -> list[int]:
    """Return how many samples before a sample the nuisance features are taken, too."""
    longest = min(NUISANCE_PAST, settings.context)
    return sorted({round(d * settings.rate) for d in np.arange(0, longest + 1e-9, NUISANCE_STEP)})


def alphas_of(settings: EncodingConfig) -> np.ndarray:
    """Return the penalties, evenly spaced in their logarithm."""
    return np.geomspace(settings.lowest_alpha, settings.highest_alpha, settings.alphas)


def lags_of(settings: EncodingConfig) -> np.ndarray:
    """Return the lags in samples; one where all delays enter together."""
    if settings.lags == "delays":
        return np.zeros(1, int)
    reach = sample_at(settings.max_lag, settings.rate)
    return np.arange(-reach, reach + 1)


def _fit_all(
    context: Context,
    models: Sequence[NamedModel],
    sounds: Sequence[Sound],
    responses: Responses,
    folds: Folds,
) -> Iterator[Fit]:
    settings = context.config.encoding
    nuisance = load_nuisance(context, sounds) if settings.nuisance else None
    if nuisance is not None:
        # The model has heard what came before each sample; without a past of its own, the nuisance
        # would leave the model to explain what acoustics explain.
        past = settings.delays if settings.lags == "delays" else _past(settings)
        nuisance = stack_delays(nuisance, past, responses.stretch)
    for model in models:
        for layer in layers_of(context, model):
            x = load_features(context, sounds, model, layer)
            label = f"sub-{context.participant} {model.label} layer {layer}"
            with context.progress.task("encode", label, 1.0) as advance:
                if settings.lags == "delays":
                    x = stack_delays(x, settings.delays, responses.stretch)
                ridge = fit_lagged_ridge(
                    x,
                    responses.values,
                    folds,
                    lags=lags_of(settings),
                    alphas=alphas_of(settings),
                    device=context.device,
                )
                advance(0.5)
                yield _judge(context, model, layer, x, nuisance, ridge, responses, folds)
                advance(0.5)


def _judge(
    context: Context,
    model: NamedModel,
    layer: int,
    x: np.ndarray,
    nuisance: np.ndarray | None,
    ridge: LaggedRidge,
    responses: Responses,
    folds: Folds,
) -> Fit:
    """Return the fit with its p-values and what it explains beyond the nuisance."""
    settings = context.config.encoding
    fold = fold_of_samples(folds)
    pair = ridge.prediction, responses.values
    n_electrodes = responses.values.shape[1] // len(settings.bands)
    p = circular_shift_p(
        *pair,
        responses.stretch,
        settings.rate,
        # So many that one electrode alone can have q <= 0.05.
        n_permutations=max(settings.n_permutations, round(n_electrodes / RESPONSIVE_Q)),
        rng=np.random.default_rng([context.config.run.seed, 11]),
        folds=fold,
    )
    unique, alone, joint = _beyond_nuisance(context, x, nuisance, ridge, responses, folds)
    q = np.concatenate([false_discovery_rate(part) for part in p.reshape(-1, n_electrodes)])
    return Fit(
        model.label,
        layer,
        ridge,
        correlate(*pair, fold),
        r2(*pair, fold),
        p,
        q,
        unique,
        alone,
        joint,
    )


def _beyond_nuisance(
    context: Context,
    x: np.ndarray,
    nuisance: np.ndarray | None,
    ridge: LaggedRidge,
    responses: Responses,
    folds: Folds,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what the model explains beyond the nuisance, the nuisance alone, and both (r2)."""
    if nuisance is None:
        unknown = np.full(len(ridge.r), np.nan)
        return unknown, unknown, unknown
    found = fit_banded_ridge(
        x,
        nuisance,
        responses.values,
        folds,
        lag=ridge.lag,
        lags=lags_of(context.config.encoding),
        alphas=alphas_of(context.config.encoding),
        device=context.device,
    )
    return found.unique_model, found.r2_nuisance, found.r2_joint


def fold_of_samples(folds: Folds) -> np.ndarray:
    """Return the fold that each sample belongs to, samples of an embargo to the nearest one."""
    block = np.asarray(folds.block)
    known = np.flatnonzero(block >= 0)
    nearest = np.searchsorted(known, np.arange(len(block)))
    left, right = known[np.maximum(nearest - 1, 0)], known[np.minimum(nearest, len(known) - 1)]
    here = np.arange(len(block))
    return np.asarray(block[np.where(here - left <= right - here, left, right)])


def _about(
    context: Context,
    models: Sequence[NamedModel],
    responses: Responses,
    folds: Folds,
    notes: Sequence[str],
) -> dict[str, Any]:
    settings = context.config.encoding
    repeated = responses.n_hearings > 1
    return {
        "Models": [
            {
                "Label": m.label,
                "Kind": m.kind,
                "Control": m.control or "n/a",
                "Seed": m.seed,
                "Amount": m.amount,
                "Name": m.target.name,
                # Without the path, which may differ between machines that share one output.
                "Model": "n/a" if m.target.name == "mel" else model_name(m.target.model),
                "Fingerprint": m.fingerprint,
            }
            for m in models
        ],
        "Layers": {m.label: list(layers_of(context, m)) for m in models},
        "Reference": models[0].label,
        "RepetitionTime": max(m.repetition_time or 0.0 for m in models) or "n/a",
        "NSamples": int(responses.valid.sum()),
        "NFolds": folds.n_folds,
        "Embargo": folds.embargo / settings.rate,
        "Duration": float(responses.valid.sum() / settings.rate),
        "NoiseCeiling": (
            f"from sounds that were heard up to {responses.n_hearings} times"
            if repeated
            else "none: no sound was heard twice"
        ),
        "Lags": (lags_of(settings) / settings.rate).round(6).tolist(),
        "Alphas": alphas_of(settings).tolist(),
        "Context": settings.context,
        "Token": settings.token,
        "Rate": settings.rate,
        "Bands": list(settings.bands),
        "Edges": {band: edges or "n/a" for band, edges in edges_of(settings).items()},
        "Nuisance": list(settings.nuisance),
        "iEEGReference": settings.reference,
        "Notes": [*notes, *_note_incomplete(responses)],
    }


def _note_silent(
    context: Context, models: Sequence[NamedModel], sounds: Sequence[Sound]
) -> list[str]:
    silent = silent_sounds(context, sounds, models[0])
    notes = [f"{name} is silent as far as it was heard: it predicts nothing" for name in silent]
    if silent and len(silent) == len(sounds):
        notes.append("all sounds are silent, so that no electrode has a score")
    for note in notes:
        log.warning("sub-%s: %s", context.participant, note)
    return notes


def _note_incomplete(responses: Responses) -> list[str]:
    lacking = responses.incomplete
    if not lacking:
        return []
    names = ", ".join(lacking[:8]) + (", ..." if len(lacking) > 8 else "")
    return [
        f"{len(lacking)} electrodes have no score, for some of the recordings lack them: {names}"
    ]
