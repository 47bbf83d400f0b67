"""Whether embeddings tell when they were recorded, and which channels differ between days."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import reduce

import numpy as np
import pandas as pd

from bids_speechdecode.decoding.drift import (
    FEWEST_FOLDS,
    Decoded,
    Moments,
    compare_decoded,
    decode,
    run_folds,
    spread_folds,
)
from bids_speechdecode.decoding.orders import draw_orders
from bids_speechdecode.decoding.wandering import (
    DayShare,
    WindowFeatures,
    describe_windows,
    share_between_days,
)
from bids_speechdecode.steps.channels import kept_channels, preprocessed_channels
from bids_speechdecode.steps.context import Context
from bids_speechdecode.steps.data import LoadedWindows, load_signal, load_windows
from bids_speechdecode.steps.drift import drift_settings, window_days
from bids_speechdecode.steps.experiments.cells import Training, model_of
from bids_speechdecode.steps.experiments.findings import Finding, Found, interval, spell_p
from bids_speechdecode.steps.experiments.times import recording_starts
from bids_speechdecode.steps.models import read_model
from bids_speechdecode.steps.plan import PRETRAIN, SPLITS

MOST_WINDOWS = 10_000  # evenly spaced; more would take long and tell no more of a few recordings
MOST_ORDERS = 500
FEWEST_WHOLE_DAYS = 4  # to hold out whole days
BRAIN, AUDIO, SIGNAL = "brain", "audio", "signal"
DATE, HOUR = "date", "hour"
RECORDINGS, DAYS = "recordings", "days"
UNIT_WORDS = {DATE: "days", HOUR: "hours"}
CORRELATION = "correlation"
MAIN = DATE, RECORDINGS  # in the paragraph of results; the hour and whole days are beside it


@dataclass(frozen=True)
class _Heard:
    """Ambient windows, what is known of them, and when they were recorded.

    Attributes
    ----------
    features : dict of str to array, shape (N, p)
        Brain and audio embeddings; means and logarithms of variances of the signal.
    signal : WindowFeatures
    labels : list of str
        Recordings in the order of time.
    recording : array of int, shape (N,)
    day, onset : array, shape (N,)
        Day of each window; seconds on the recording's clock.
    """

    features: Mapping[str, np.ndarray]
    signal: WindowFeatures
    labels: list[str]
    recording: np.ndarray
    day: np.ndarray
    onset: np.ndarray


def tell_dates(context: Context, whole: Training) -> Found:
    """Return what the embeddings of the pretrained model, and the signal, say of date and hour."""
    heard = _load(context, whole)
    decoded, notes = _decode_all(context, heard)
    shares = _day_shares(context, heard)
    findings = [*_say_decoded(context, decoded), *_say_shares(shares)]
    tables = {
        "Dates": _tabulate(decoded),
        "Predicted": _predicted(heard, decoded),
        "Electrodes": _electrodes(context, shares),
    }
    return Found(findings, tables, notes)


def _load(context: Context, whole: Training) -> _Heard:
    """Embed the windows of all splits; the encoder was trained on some, and to tell sound only."""
    store = load_signal(context, PRETRAIN)
    parts = (load_windows(context, store, PRETRAIN, split) for split in SPLITS)
    windows = _thin(reduce(LoadedWindows.join, parts))
    brain, audio = read_model(model_of(context, whole)[0], context.device).embed(windows)
    names = tuple(kept_channels(context)["name"])
    raw = store.signal
    if drift_settings(context):  # which channels wander is asked of the signal as it was
        raw = load_signal(context, PRETRAIN, channels=names).signal
    rate = context.config.preprocess.rate
    signal = describe_windows(raw, windows.starts, windows.n_samples, rate)
    simple = np.concatenate([signal.mean, signal.log_variance], axis=1)
    starts = recording_starts(context.plan)
    known = windows.table["recording"].unique()
    labels = sorted(known, key=lambda name: (starts[name].day, starts[name].clock(np.zeros(1))[0]))
    return _Heard(
        {BRAIN: _flat(brain), AUDIO: _flat(audio), SIGNAL: np.nan_to_num(simple)},
        signal,
        labels,
        np.array([labels.index(name) for name in windows.table["recording"]]),
        window_days(context, windows.table),
        windows.table["onset"].to_numpy(float),
    )


def _thin(windows: LoadedWindows) -> LoadedWindows:
    n = len(windows)
    if n <= MOST_WINDOWS:
        return windows
    kept = np.linspace(0, n - 1, MOST_WINDOWS).round().astype(int)
    return replace(
        windows,
        starts=windows.starts[kept],
        targets=windows.targets[kept],
        table=windows.table.iloc[kept].reset_index(drop=True),
    )


def _flat(embedding: np.ndarray) -> np.ndarray:
    """Return one vector a window: the mean over frames, if it has frames."""
    return embedding.mean(axis=1) if embedding.ndim == 3 else embedding


# ---------------------------------------------------------------------------------- date and hour


Results = dict[tuple[str, str, str], Decoded]  # source, what is told, what is held out


def _decode_all(context: Context, heard: _Heard) -> tuple[Results, list[str]]:
    evaluation = context.config.evaluation
    tasks, notes = _list_tasks(context, heard)
    found: Results = {}
    for (what, held_out), (moments, folds) in tasks.items():
        for source, features in heard.features.items():
            rng = np.random.default_rng([context.config.run.seed, 4])
            n_orders = min(MOST_ORDERS, evaluation.n_permutations)
            found[source, what, held_out] = decode(
                features,
                moments,
                folds,
                draw_orders(len(moments.value), n_orders, rng),
                confidence=evaluation.confidence,
            )
    return found, notes


def _list_tasks(
    context: Context, heard: _Heard
) -> tuple[dict[tuple[str, str], tuple[Moments, np.ndarray]], list[str]]:
    """Return what can be told from these recordings, and why the rest cannot."""
    starts = recording_starts(context.plan)
    days = np.array([starts[label].day for label in heard.labels])
    hours = np.array([starts[label].hour for label in heard.labels])
    offset = heard.day - days[heard.recording]
    folds = spread_folds(len(days))
    if len(days) < FEWEST_FOLDS:
        return {}, ["With fewer than three recordings the date cannot be told from others."]
    tasks = {(DATE, RECORDINGS): (Moments(heard.recording, days, offset), folds)}
    notes = []
    names, unit = np.unique(heard.day, return_inverse=True)
    if len(names) >= FEWEST_WHOLE_DAYS:
        whole_days = Moments(unit, names, np.zeros(len(unit)))
        tasks[DATE, DAYS] = whole_days, run_folds(len(names))
    else:
        notes.append(
            f"With {len(names)} days the date could not be told of days that were left out as a "
            "whole; recordings that were left out had others of the same day in training."
        )
    if np.isnan(hours).any():
        notes.append("The hour was not told: scans.tsv does not say when recordings began.")
    elif len(np.unique(hours)) < FEWEST_FOLDS:
        notes.append("The hour was not told: recordings began at fewer than three hours.")
    else:
        moments = Moments(heard.recording, hours, heard.onset / 3600, period=24.0)
        tasks[HOUR, RECORDINGS] = moments, folds
    return tasks, notes


def _say_decoded(context: Context, decoded: Results) -> Iterator[Finding]:
    for (source, what, held_out), found in decoded.items():
        if source != SIGNAL:
            yield _say_one(source, what, held_out, found)
    for what, held_out in dict.fromkeys((w, h) for _, w, h in decoded):
        pair = decoded[BRAIN, what, held_out], decoded[AUDIO, what, held_out]
        yield _say_difference(what, held_out, pair, context.config.evaluation.confidence)


def _say_one(source: str, what: str, held_out: str, found: Decoded) -> Finding:
    text = (
        f"The {what} of windows was told from {source} embeddings of held-out {held_out} with "
        f"r = {found.r:.2f} ({interval(found.ci_low, found.ci_high, 2)}, {spell_p(found.p)}, "
        f"{what}s given to {held_out} at random, which gave {found.null:.2f}; {found.n_units} "
        f"{held_out}), with a mean error of {found.error:.1f} {UNIT_WORDS[what]} where a guess of "
        f"the mean has {found.blind_error:.1f}."
    )
    if found.p_min > 0.01:
        text += f" With so few {held_out}, p cannot be below {found.p_min:.2g}."
    return Finding(
        f"{what} from {source} embeddings of held-out {held_out}",
        found.r,
        found.ci_low,
        found.ci_high,
        found.p,
        found.p_min,
        found.n_units,
        f"{held_out} permuted",
        "",
        "",
        text,
        CORRELATION,
        aside=(what, held_out) != MAIN,
    )


def _say_difference(
    what: str,
    held_out: str,
    pair: tuple[Decoded, Decoded],
    confidence: float,
) -> Finding:
    found = compare_decoded(*pair, confidence=confidence)
    more = "better" if found.difference > 0 else "worse"
    text = (
        f"Brain embeddings told the {what} of held-out {held_out} {more} than the embeddings of "
        f"the sound: r was {abs(found.difference):.2f} {'higher' if more == 'better' else 'lower'} "
        f"({interval(found.ci_low, found.ci_high, 2)}, {spell_p(found.p)}, "
        f"{found.n_units} {held_out})."
    )
    return Finding(
        f"{what} of held-out {held_out}, brain less audio",
        found.difference,
        found.ci_low,
        found.ci_high,
        found.p,
        float("nan"),
        found.n_units,
        f"t over {held_out}",
        "",
        "",
        text,
        CORRELATION,
        aside=(what, held_out) != MAIN,
    )


def _tabulate(decoded: Results) -> pd.DataFrame:
    left = ("products", "predicted")
    return pd.DataFrame(
        [
            {
                "source": source,
                "told": what,
                "held_out": held_out,
                **{k: v for k, v in asdict(found).items() if k not in left},
            }
            for (source, what, held_out), found in decoded.items()
        ]
    )


def _predicted(heard: _Heard, decoded: Results) -> pd.DataFrame:
    """Return the mean predicted day of each recording, from each source."""
    frame = pd.DataFrame({"recording": heard.recording, "day": heard.day})
    for source in heard.features:
        if (source, DATE, RECORDINGS) in decoded:
            frame[f"{source}_day"] = decoded[source, DATE, RECORDINGS].predicted[:, 0]
    table = frame.groupby("recording").mean().reset_index()
    return table.assign(recording=[heard.labels[i] for i in table["recording"]])


# ------------------------------------------------------------------------------------- electrodes


def _day_shares(context: Context, heard: _Heard) -> dict[str, DayShare]:
    """Return for each feature of the signal how much of its variance lies between days."""
    starts = recording_starts(context.plan)
    days = np.array([starts[label].day for label in heard.labels])
    rng = np.random.default_rng([context.config.run.seed, 5])
    orders = draw_orders(len(days), context.config.evaluation.n_permutations, rng)
    amplitude = heard.signal.log_variance + 2 * _log_scales(context, heard)[heard.recording]
    features = {"amplitude": amplitude, "slope": heard.signal.slope}
    return {
        name: share_between_days(values, heard.recording, days, orders)
        for name, values in features.items()
    }


def _log_scales(context: Context, heard: _Heard) -> np.ndarray:
    """Return the logarithm of the unit that each channel had in each recording.

    Preprocessing divided it away; with it, a channel whose gain changes is seen to change.

    Returns
    -------
    array, shape (n_recordings, n_channels)
        NaN where a channel was bad.
    """
    names = kept_channels(context)["name"]
    rows = []
    for label in heard.labels:
        table = preprocessed_channels(context, context.plan[label]).set_index("name")
        scale = pd.to_numeric(table["scale"], errors="coerce").reindex(names)
        rows.append(np.log(scale.where(scale > 0)).to_numpy(float))
    return np.stack(rows)


def _say_shares(shares: Mapping[str, DayShare]) -> Iterator[Finding]:
    words = {"amplitude": "amplitude", "slope": "spectral slope"}
    for name, found in shares.items():
        tested = np.isfinite(found.p)
        if not tested.any():
            continue
        excess = float((found.share - found.expected)[tested].mean())
        n_found = int((found.q[tested] <= 0.05).sum())
        text = (
            f"Of the variance of the {words[name]} over windows, {found.share[tested].mean():.1%} "
            f"lay between days in the mean over channels, {found.expected[tested].mean():.1%} "
            f"where recordings belong to days at random; {n_found} of {int(tested.sum())} channels "
            f"differed between days (q <= 0.05, recordings permuted; p cannot be below "
            f"{found.p_min:.2g})."
        )
        yield Finding(
            f"variance of {words[name]} between days beyond chance",
            excess,
            float("nan"),
            float("nan"),
            found.p_mean,
            found.p_min,
            len(found.share),
            "recordings permuted",
            "",
            "",
            text,
            "share of variance",
        )


def _electrodes(context: Context, shares: Mapping[str, DayShare]) -> pd.DataFrame:
    """Return one row a channel."""
    channels = kept_channels(context)
    columns = [c for c in ("name", "x", "y", "z", "space", "label") if c in channels]
    table = channels[columns].copy()
    for name, found in shares.items():
        for part in ("share", "expected", "p", "q"):
            table[f"{name}_{part}"] = getattr(found, part)
    return table
