"""Units of the encoding steps, against signals whose meaning is known: value is time."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
import soundfile

from bids_speechdecode.bids.dataset import list_recordings, open_dataset
from bids_speechdecode.bids.derivatives import Derivatives
from bids_speechdecode.bids.words import read_words
from bids_speechdecode.config import Config, EncodingConfig, InputConfig, Nuisance, TargetConfig
from bids_speechdecode.encoding.ceilings import Powers
from bids_speechdecode.encoding.folds import Folds
from bids_speechdecode.errors import DataError, MissingInputError, UsageError
from bids_speechdecode.group.encoding.summary import read_encoding
from bids_speechdecode.progress import Progress
from bids_speechdecode.signals.export import write_brainvision_header
from bids_speechdecode.signals.filters import design_filter
from bids_speechdecode.steps.context import Context, signal_fingerprint
from bids_speechdecode.steps.encoding import score as step
from bids_speechdecode.steps.encoding.frames import feature_file, make_features, nuisance_file
from bids_speechdecode.steps.encoding.gather import Responses, choose_complete, gather_responses
from bids_speechdecode.steps.encoding.responses import (
    edges_of,
    filter_reach,
    load_responses,
    make_responses,
)
from bids_speechdecode.steps.encoding.run import prepare_config
from bids_speechdecode.steps.encoding.sounds import Sound, list_sounds
from bids_speechdecode.steps.make_plan import plan_recordings
from bids_speechdecode.steps.speech_model_names import NamedModel, find_tuned, name_models

RATE = 512.0
LENGTH = 40.0  # seconds of the sound
CARRIER = 110.0  # hertz; no harmonic of the power line
BEFORE = 3.3  # seconds of recording before a sound
DRIFT = 1 + 4e-4  # seconds of audio in a second of the recording
SETTINGS = EncodingConfig(context=2.0, max_lag=0.2, reference="none", n_folds=3)
MEL = NamedModel("mel", TargetConfig("mel", "", 0))

Course = np.ndarray  # what a channel's high-gamma amplitude is, by audio time


def audio_time(heard: tuple[float, float], seconds: float) -> np.ndarray:
    """Return the time of the audio (s) at every sample of a recording of a stretch."""
    return heard[0] + (np.arange(round(seconds * RATE)) / RATE - BEFORE) * DRIFT


def write_recording(
    root: Path,
    run: int,
    courses: Mapping[str, object],
    heard: tuple[float, float] = (0.0, LENGTH),
    *,
    sub: str = "01",
    sound: str = "talk",
    events: Sequence[str] = (),
) -> Path:
    """Write a recording in which a stretch of a sound is heard from 3.3 s on.

    `courses` give each channel's amplitude (V) as a function of the time of the audio.
    """
    seconds = BEFORE + (heard[1] - heard[0]) / DRIFT + 3
    times = audio_time(heard, seconds)
    carrier = np.cos(2 * np.pi * CARRIER * np.arange(len(times)) / RATE)
    data = np.column_stack([course(times) * carrier for course in courses.values()])  # type: ignore[operator]
    stem = f"sub-{sub}_task-story_run-{run}"
    folder = root / f"sub-{sub}" / "ieeg"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem}_ieeg.eeg"
    data.astype("<f4").tofile(path)
    write_brainvision_header(path, list(courses), RATE, len(times), unit="V")
    about = {"TaskName": "story", "SamplingFrequency": RATE, "PowerLineFrequency": 50}
    (folder / f"{stem}_ieeg.json").write_text(json.dumps(about))
    rows = "\n".join(f"{name}\tSEEG\tV\t{RATE}\tgood" for name in courses)
    head = "name\ttype\tunits\tsampling_frequency\tstatus"
    (folder / f"{stem}_channels.tsv").write_text(f"{head}\n{rows}\n")
    anchors = np.linspace(*heard, 5)[:-1]
    lasts = (heard[1] - heard[0]) / 4 / DRIFT
    lines = [
        f"{BEFORE + (t - heard[0]) / DRIFT:.6f}\t{lasts:.6f}\tsound\t{sound}.wav\t{t:.6f}"
        for t in anchors
    ]
    head = "onset\tduration\ttrial_type\tstim_file\taudio_onset"
    (folder / f"{stem}_events.tsv").write_text("\n".join([head, *lines, *events, ""]))
    wave = root / "stimuli" / f"{sound}.wav"
    if not wave.exists():
        wave.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(len(sound)).uniform(-0.3, 0.3, round(LENGTH * 16000))
        soundfile.write(wave, noise, 16000)
        description = {"Name": "x", "BIDSVersion": "1.10.0"}
        (root / "dataset_description.json").write_text(json.dumps(description))
    return path


def make_context(
    root: Path, settings: EncodingConfig = SETTINGS, *, sub: str = "01", respond: bool = True
) -> Context:
    """Plan what was written, and make the responses."""
    out = root.parent / "out"
    inputs = InputConfig(finetune_task="story")
    config = prepare_config(Config(inputs=inputs, encoding=settings), "encoding", out)
    dataset = open_dataset(root)
    plan = plan_recordings(dataset, sub, list_recordings(dataset, sub), config)
    derivatives = Derivatives(out, source=root, command="", simulated=False)
    context = Context(plan, derivatives, config, out / ".work", Progress())
    for planned in plan.recordings if respond else ():
        make_responses(context, planned)
    return context


def ramp(times: np.ndarray) -> np.ndarray:
    """Amplitude that says the time of the audio: 1 V at 0 s, 2 V at 100 s."""
    return 1 + times / 100


def told_time(responses: np.ndarray) -> np.ndarray:
    """Return the time of the audio that a response to `ramp` says."""
    return (responses - 1) * 100


def in_recording(responses: np.ndarray) -> np.ndarray:
    """Return z-scores of one recording's responses, (n_times, n_channels), from 2 s on."""
    scored = np.arange(len(responses)) >= SETTINGS.context * SETTINGS.rate
    return np.asarray(
        (responses - np.nanmean(responses[scored], axis=0)) / np.nanstd(responses[scored], axis=0)
    )


def smooth(seed: int) -> object:
    """Return a course of slow noise around 1 V."""
    values = np.random.default_rng(seed).normal(size=400)
    return lambda t: 1 + 0.2 * np.interp(t, np.arange(400) * 0.4 - 20, values)


def heard_once(y: np.ndarray, stretch: np.ndarray) -> Responses:
    """Return responses to sounds that were heard once and without gaps."""
    unknown = np.full(y.shape[1], np.nan)
    valid, once = np.ones(len(y), bool), np.ones(y.shape, int)
    return Responses(y, stretch, valid, once, Powers(unknown, unknown), 1)


# ------------------------------------------------------------------------------ the clock


def test_responses_lie_at_the_time_of_the_audio(tmp_path: Path) -> None:
    """A shift of one sample, or a drift that is ignored, would move every latency.

    The amplitude is the time of the audio, so the response itself says when it was recorded;
    without the drift of 400 ppm the last one would be 16 ms off, without the start 3.3 s.
    """
    write_recording(tmp_path / "data", 1, {"A1": ramp, "A2": smooth(1)})
    context = make_context(tmp_path / "data")
    (sound,) = list_sounds(context.plan)
    (response,) = load_responses(context, sound, ["A2", "A1"], "highgamma")
    times = sound.times(20.0)
    np.testing.assert_allclose(times, np.arange(800) / 20)
    inner = slice(10, -10)  # within half a second of the ends filters see no ramp
    np.testing.assert_allclose(told_time(response[inner, 1]), times[inner], atol=4e-3)
    assert np.isfinite(response).all()


def test_a_sound_that_was_heard_in_two_halves_is_one_sound(tmp_path: Path) -> None:
    """A story continued the next day: each half from its recording, on one clock."""
    root = tmp_path / "data"
    write_recording(root, 1, {"A1": ramp, "A2": smooth(1)}, (0, 20))
    write_recording(root, 2, {"A1": ramp, "A2": smooth(1)}, (20, 40))
    context = make_context(root)
    (sound,) = list_sounds(context.plan)
    assert sound.interval == (0.0, LENGTH)
    first, second = load_responses(context, sound, ["A1", "A2"], "highgamma")
    times = sound.times(20.0)
    assert np.isfinite(first[:400]).all()
    assert np.isfinite(second[401:]).all()
    assert np.isnan(first[402:]).all()
    assert np.isnan(second[:398]).all()
    found = gather_responses(context, [sound], ["A1", "A2"])
    expected = np.where(times[:, None] < 20, in_recording(first), in_recording(second))
    away = np.abs(times - 20) > 1
    np.testing.assert_allclose(found.values[away], expected[away], atol=1e-5)
    assert np.isnan(found.ceiling()).all()
    assert found.n_hearings == 1
    assert found.valid[40:].mean() > 0.99
    assert not found.valid[:40].any()  # the first seconds have no full context


def test_repeats_of_a_sound_give_a_ceiling_and_lie_in_one_fold(tmp_path: Path) -> None:
    """The same sound in training and test would be the worst of leaks."""
    root = tmp_path / "data"
    for run in (1, 2):
        shared, own = smooth(1), smooth(10 + run)
        both = lambda t, s=shared, o=own: 0.7 * s(t) + 0.3 * o(t)  # noqa: E731
        write_recording(root, run, {"A1": both, "A2": smooth(20 + run), "A3": smooth(3)})
    context = make_context(root)
    (sound,) = list_sounds(context.plan)
    channels = ["A1", "A2", "A3"]
    a, b = load_responses(context, sound, channels, "highgamma").astype(float)
    found = gather_responses(context, [sound], channels)
    a, b = in_recording(a), in_recording(b)
    np.testing.assert_allclose(found.values, (a + b) / 2, atol=1e-5)
    for k in range(3):
        shared_power, power = (
            np.cov(a[:, k], b[:, k])[0, 1],
            (a[:, k].var(ddof=1) + b[:, k].var(ddof=1)) / 2,
        )
        noise = power - shared_power
        expected = (
            np.sqrt(max(shared_power, 0) / (shared_power + noise / 2)) if shared_power > 0 else 0
        )
        np.testing.assert_allclose(found.ceiling()[k], expected, atol=1e-4)
    assert found.ceiling()[2] == pytest.approx(1, abs=1e-3)
    assert found.n_hearings == 2
    assert len(found.stretch) == 800  # each moment of the sound is there once
    assert set(found.stretch) == {0}


def test_the_ceiling_is_lower_where_other_sounds_were_heard_once(tmp_path: Path) -> None:
    """The mean of two repeats is less noisy than the rest, which is scored as well."""
    root = tmp_path / "data"
    for run, sound in ((1, "talk"), (2, "talk"), (3, "other")):
        shared, own = smooth(1), smooth(10 + run)
        both = lambda t, s=shared, o=own: 0.6 * s(t) + 0.4 * o(t)  # noqa: E731
        write_recording(root, run, {"A1": both, "A2": smooth(20 + run)}, sound=sound)
    context = make_context(root)
    sounds = list_sounds(context.plan)
    found = gather_responses(context, sounds, ["A1", "A2"])
    talk = next(sound for sound in sounds if sound.name == "talk.wav")
    a, b = (
        in_recording(r.astype(float))[:, 0]
        for r in load_responses(context, talk, ["A1"], "highgamma")
    )
    shared_power = np.cov(a, b)[0, 1]
    noise = (a.var(ddof=1) + b.var(ddof=1)) / 2 - shared_power
    twice = (found.n_averaged[found.valid, 0] == 2).mean()
    assert twice == pytest.approx(0.5, abs=0.01)
    expected = np.sqrt(shared_power / (shared_power + noise * (1 - twice / 2)))
    np.testing.assert_allclose(found.ceiling()[0], expected, atol=1e-4)
    # Each sound in a fold of its own: the mean of their ceilings, as r is the mean of theirs.
    block = np.where(found.valid, found.stretch, -1)
    each = [np.sqrt(shared_power / (shared_power + noise * n)) for n in (1, 0.5)]
    np.testing.assert_allclose(found.ceiling(block)[0], np.mean(each), atol=2e-3)


def test_the_gain_of_a_recording_does_not_matter(tmp_path: Path) -> None:
    """Other impedance on the second day: unscaled it would decide penalty, lag, r and ceiling."""
    found = []
    for gain in (1.0, 1000.0):
        root = tmp_path / f"gain{gain:g}" / "data"
        for run, sound in ((1, "talk"), (2, "talk"), (3, "other")):
            scale = gain if run == 2 else 1.0
            courses = {
                f"A{k}": lambda t, k=k, r=run, g=scale: g * (smooth(k)(t) + smooth(10 * r + k)(t))  # type: ignore[operator]
                for k in (1, 2)
            }
            write_recording(root, run, courses, sound=sound)
        context = make_context(root)
        found.append(gather_responses(context, list_sounds(context.plan), ["A1", "A2"]))
    np.testing.assert_allclose(found[1].values, found[0].values, atol=1e-4)
    np.testing.assert_allclose(found[1].ceiling(), found[0].ceiling(), atol=1e-4)
    assert (found[0].ceiling() > 0.2).all()


def test_gaps_and_artifacts_have_no_response(tmp_path: Path) -> None:
    """A seizure during the story must neither be fitted nor predicted."""
    artifact = f"{BEFORE + 10 / DRIFT:.4f}\t{5 / DRIFT:.4f}\tBAD_seizure\tn/a\tn/a"
    root = tmp_path / "data"
    write_recording(root, 1, {"A1": ramp, "A2": smooth(2)}, events=[artifact])
    path = root / "sub-01" / "ieeg" / "sub-01_task-story_run-1_ieeg.eeg"
    data = np.fromfile(path, "<f4").reshape(-1, 2)
    lost = np.round((BEFORE + np.array([25, 27]) / DRIFT) * RATE).astype(int)
    data[slice(*lost)] = np.nan
    data.tofile(path)
    context = make_context(root)
    (sound,) = list_sounds(context.plan)
    found = gather_responses(context, [sound], ["A1", "A2"])
    times = sound.times(20.0)
    marked = (times > 9.97) & (times < 15.03)
    missing = (times > 25) & (times < 27)
    assert np.isnan(found.values[marked | missing]).all()
    assert not found.valid[marked | missing].any()
    # The filters that take the power line out reach 3 s beyond what is missing.
    near = ((times > 9.5) & (times < 15.5)) | ((times > 21.9) & (times < 30.1))
    assert found.valid[(times >= 2) & ~near].all(), times[(times >= 2) & ~near & ~found.valid]
    (response,) = load_responses(context, sound, ["A1", "A2"], "highgamma")
    np.testing.assert_allclose(found.values, in_recording(response), atol=1e-5)
    told = told_time(response[:, 0])
    near = ((times > 9) & (times < 16)) | ((times > 20) & (times < 32))
    away = (times > 1) & (times < 39) & ~near
    np.testing.assert_allclose(told[away], times[away], atol=4e-3)


def test_sounds_come_as_they_were_heard(tmp_path: Path) -> None:
    """A fold is a stretch of the session: by name, one fold would be first and last minutes."""
    root = tmp_path / "data"
    for run, sound in ((2, "b"), (10, "a"), (11, "b")):
        write_recording(root, run, {"A1": smooth(1)}, sound=sound)
    early = "0.5\t1.0\tsound\tz.wav\t0.0"  # before the other sound of its recording
    soundfile.write(root / "stimuli" / "z.wav", np.zeros(16000), 16000)
    write_recording(root, 3, {"A1": smooth(1)}, sound="c", events=[early])
    sounds = list_sounds(make_context(root, respond=False).plan)
    assert [sound.name for sound in sounds] == ["b.wav", "z.wav", "c.wav", "a.wav"]
    assert [h.planned.label[-2:] for h in sounds[0].hearings] == ["-2", "11"]


def test_held_out_signal_reaches_no_training_response(tmp_path: Path) -> None:
    """The high-pass of the slow signal hands a signal on to responses half a minute away."""
    settings = replace(SETTINGS, bands=("slow", "highgamma"), max_lag=2.0)
    write_recording(tmp_path / "data", 1, {"A1": smooth(1)})
    context = make_context(tmp_path / "data", settings, respond=False)
    sounds = list_sounds(context.plan)
    reach = filter_reach(context, sounds)
    n, lags = 20 * 400, step.lags_of(settings)
    taps = design_filter(20.0, context.config.preprocess.highpass, 50.0)[0]
    raw = np.random.default_rng(0).normal(size=n)

    def changes(filtered: float) -> int:
        """Count training responses that change with the signal that a fold is scored on."""
        folds = step._folds(settings, heard_once(np.zeros((n, 1)), np.zeros(n, int)), filtered)
        rows = folds.list_rows(lags)
        changed = raw.copy()
        changed[np.unique(rows[1][:, None] + lags)] += 9
        trained = np.unique(np.concatenate([rows[0], rows[2]])[:, None] + lags)
        before, after = (np.convolve(x, taps, "same")[trained] for x in (raw, changed))
        return int((before != after).sum())

    assert changes(reach) == 0
    assert changes(reach - 1) > 0
    other = make_context(tmp_path / "data", replace(settings, bands=("theta",)), respond=False)
    assert filter_reach(other, sounds) == 0


# --------------------------------------------------------- channels that are not everywhere


def test_a_channel_that_one_recording_lacks_costs_the_others_nothing(tmp_path: Path) -> None:
    """Electrodes are exchanged between days; three of four must keep both days."""
    root = tmp_path / "data"
    write_recording(root, 1, {f"A{k}": smooth(k) for k in range(1, 5)})
    write_recording(root, 2, {f"A{k}": smooth(k) for k in range(1, 4)}, sound="other")
    context = make_context(root)
    sounds = list_sounds(context.plan)
    channels = ["A1", "A2", "A3", "A4"]
    found = gather_responses(context, sounds, channels)
    assert np.isnan(found.values[:, 3]).all()
    assert np.isfinite(found.values[found.valid][:, :3]).all()
    assert found.valid.sum() >= 2 * (800 - 40) - 2
    assert found.incomplete == ("A4",)
    assert found.stretch.tolist() == [0] * 800 + [1] * 800
    assert [s.name for s in sounds] == ["talk.wav", "other.wav"]  # as they were heard


def test_a_channel_that_died_in_one_of_two_repeats_keeps_the_other(tmp_path: Path) -> None:
    """One repeat is enough for a response, but not for a noise ceiling."""
    root = tmp_path / "data"
    write_recording(root, 1, {"A1": ramp, "A2": smooth(2)})
    write_recording(root, 2, {"A1": lambda t: 0 * t, "A2": smooth(2)})
    context = make_context(root)
    found = gather_responses(context, list_sounds(context.plan), ["A1", "A2"])
    (ramped,) = load_responses(context, list_sounds(context.plan)[0], ["A1"], "highgamma")[:1]
    np.testing.assert_allclose(found.values[:, :1], in_recording(ramped), atol=1e-5)
    assert np.isnan(found.ceiling()[0])
    assert np.isfinite(found.ceiling()[1])
    assert found.incomplete == ()


def test_no_electrode_has_a_response(tmp_path: Path) -> None:
    """Said with what to look at, not as an empty table."""
    write_recording(tmp_path / "data", 1, {"A1": smooth(1), "A2": smooth(2)})
    context = make_context(tmp_path / "data", replace(SETTINGS, context=50.0))
    with pytest.raises(DataError, match="no usable response") as error:
        gather_responses(context, list_sounds(context.plan), ["A1", "A2"])
    assert "context" in str(error.value)


def test_which_electrodes_and_samples_are_used() -> None:
    """Most samples of most electrodes, as found by trying all sets of electrodes."""
    y = np.zeros((10, 5))
    y[6:, 4] = np.nan  # lacks the last recording
    y[:6, 3] = np.nan  # lacks the first
    y[:, 2] = np.nan  # dead
    wanted = np.arange(10) > 0
    used, valid = choose_complete(y, wanted)
    there = np.isfinite(y) & wanted[:, None]
    sets = [list(s) for n in range(1, 6) for s in itertools.combinations(range(5), n)]
    best = max(len(s) * there[:, s].all(axis=1).sum() for s in sets)
    assert used.sum() * valid.sum() == best == 18
    assert used.tolist() == [True, True, False, False, False]
    assert valid.tolist() == wanted.tolist()
    nothing = choose_complete(np.full((4, 2), np.nan), np.ones(4, bool))
    assert not nothing[0].any()
    assert not nothing[1].any()


# ------------------------------------------------------------------------------- folds


def test_an_embargo_belongs_to_the_nearest_fold() -> None:
    """Means are removed within folds, so each sample needs one."""
    block = np.array([-1, 0, 0, -1, -1, -1, 1, -1, 1, -1, -1])
    n = len(block)
    found = step.fold_of_samples(Folds(block, np.zeros(n, int), block >= 0, 2, 3))
    known = np.flatnonzero(block >= 0)
    nearest = [known[np.abs(known - t).argmin()] for t in range(n)]
    assert found.tolist() == block[nearest].tolist()


@pytest.mark.parametrize(
    ("settings", "seconds"),
    [
        (EncodingConfig(), 6.0),
        (EncodingConfig(context=0.5, max_lag=2.0), 4.0),
        (EncodingConfig(context=4.0, lags="delays", delays=(0, 20)), 5.0),
        (EncodingConfig(context=4.0, lags="delays", delays=(-100, 20)), 10.0),
    ],
)
def test_folds_share_neither_sound_nor_response(settings: EncodingConfig, seconds: float) -> None:
    """Context before, lags to both sides: whatever is shorter must not shorten the embargo."""
    n = 20 * 200
    responses = heard_once(np.zeros((n, 1)), np.zeros(n, int))
    folds = step._folds(settings, responses)
    assert folds.embargo == seconds * 20
    folds.list_rows(step.lags_of(settings))  # raises where lags reach into another fold


def fitted(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    x: np.ndarray,
    y: np.ndarray,
    settings: EncodingConfig,
    nuisance: np.ndarray | None = None,
) -> tuple[step.Fit, Folds]:
    """Fit a model whose features, and the nuisance, are these arrays."""
    root = tmp_path / "data"
    if not root.exists():
        write_recording(root, 1, {"A1": smooth(1), "A2": smooth(2)})
    context = make_context(root, settings, respond=False)
    monkeypatch.setattr(step, "load_features", lambda *_: x)
    monkeypatch.setattr(step, "load_nuisance", lambda *_: x if nuisance is None else nuisance)
    n = len(y)
    stretch = (np.arange(n) >= n // 3).astype(int)
    responses = heard_once(y, stretch)
    folds = step._folds(settings, responses)
    (fit,) = step._fit_all(context, [MEL], [], responses, folds)
    return fit, folds


@pytest.mark.parametrize("lags", ["best", "delays"])
def test_held_out_responses_change_nothing_that_predicts_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lags: Literal["best", "delays"]
) -> None:
    """Leakage: with other responses in the last fold, its predictions stay as they are.

    Lags and penalties to the bit; predictions but for the rounding of float32, since the mean of
    the held-out block is subtracted for precision and added again.
    """
    settings = replace(SETTINGS, context=1.0, max_lag=0.3, n_permutations=5, alphas=3, lags=lags)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3000, 6)).astype(np.float32)
    y = (x @ rng.normal(size=(6, 4)) + rng.normal(size=(3000, 4))).astype(np.float32)
    before, folds = fitted(monkeypatch, tmp_path, x, y, settings)
    last = folds.block == folds.n_folds - 1
    changed = y.copy()
    changed[last] = rng.normal(3, 9, (int(last.sum()), 4))
    after, _ = fitted(monkeypatch, tmp_path, x, changed, settings)
    one, two = before.ridge, after.ridge
    assert np.isfinite(one.prediction[last]).mean() > 0.9
    np.testing.assert_allclose(one.prediction[last], two.prediction[last], atol=3e-6)
    np.testing.assert_array_equal(one.lag[-1], two.lag[-1])
    np.testing.assert_array_equal(one.alpha[-1], two.alpha[-1])
    others = (folds.block >= 0) & ~last
    assert np.nanmean(np.abs(one.prediction[others] - two.prediction[others])) > 0.01


def test_the_nuisance_has_the_same_delays_as_the_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A model that is the nuisance explains nothing beyond it, however late the response."""
    settings = replace(SETTINGS, lags="delays", delays=(0, 4, 8), n_permutations=5, context=1.0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3000, 3)).astype(np.float32)
    y = np.roll(x, 4, axis=0) @ rng.normal(size=(3, 4)) + rng.normal(size=(3000, 4))
    fit, _ = fitted(monkeypatch, tmp_path, x, y.astype(np.float32), settings)
    assert fit.r2.min() > 0.1
    assert np.abs(fit.unique_r2).max() < 0.01
    other = rng.normal(size=(3000, 3)).astype(np.float32)
    fit, _ = fitted(monkeypatch, tmp_path, x, y.astype(np.float32), settings, other)
    np.testing.assert_allclose(fit.unique_r2, fit.r2, rtol=0.1)  # penalties are chosen anew


def test_a_late_response_to_acoustics_is_not_credited_to_the_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Features of a context hold what was heard 0.1 to 0.4 s ago; the nuisance must, too."""
    settings = replace(SETTINGS, context=1.0, max_lag=0.3, n_permutations=5)
    rng = np.random.default_rng(0)
    n, delays = 4000, np.arange(2, 9)  # samples of 50 ms
    sound = np.apply_along_axis(np.convolve, 0, rng.normal(size=(n, 3)), np.hanning(5), "same")
    y = sum(np.roll(sound, d, axis=0) @ rng.normal(size=(3, 4)) for d in delays)
    y = (y + y.std() * rng.normal(size=y.shape)).astype(np.float32)
    model = np.hstack([np.roll(sound, d, axis=0) for d in range(0, 10, 2)])
    model = np.hstack([model, rng.normal(size=(n, 5))]).astype(np.float32)
    fit, _ = fitted(monkeypatch, tmp_path, model, y, settings, sound.astype(np.float32))
    assert fit.r2.min() > 0.3
    assert np.abs(fit.unique_r2).max() < 0.02
    monkeypatch.setattr(step, "_past", lambda _: [0])
    fit, _ = fitted(monkeypatch, tmp_path, model, y, settings, sound.astype(np.float32))
    assert fit.unique_r2.min() > 0.1


# -------------------------------------------------------------------------- signatures


@pytest.mark.parametrize("nuisance", [("envelope", "mel"), ()])
def test_silence_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, nuisance: tuple[Nuisance, ...]
) -> None:
    """A file without sound has no score; without the reason somebody looks for it in the brain."""
    root = tmp_path / "data"
    for run, sound in ((1, "talk"), (2, "quiet")):
        write_recording(root, run, {"A1": smooth(1)}, sound=sound)
    context = make_context(root, replace(SETTINGS, nuisance=nuisance), respond=False)
    soundfile.write(root / "stimuli" / "quiet.wav", np.zeros(round(LENGTH * 16000)), 16000)
    sounds = list_sounds(context.plan)
    make_features(context, [MEL], sounds)
    (note,) = step._note_silent(context, [MEL], sounds)
    assert note.startswith("quiet.wav is silent")
    assert note in caplog.text
    *_, note = step._note_silent(context, [MEL], sounds[1:])
    assert "all sounds are silent" in note


def test_what_features_depend_on(tmp_path: Path) -> None:
    """Shared by all who heard the file; other words, rates and contexts are other features."""
    root = tmp_path / "data"
    for sub in ("01", "02"):
        write_recording(root, 1, {"A1": smooth(1), "A2": smooth(2)}, sub=sub)
    one, two = (make_context(root, sub=sub, respond=False) for sub in ("01", "02"))
    (a,), (b,) = list_sounds(one.plan), list_sounds(two.plan)
    assert feature_file(one, a, MEL, 0) == feature_file(two, b, MEL, 0)
    assert nuisance_file(one, a) == nuisance_file(two, b)

    def keys(context: Context, sound: Sound) -> tuple[str, str]:
        return feature_file(context, sound, MEL, 0)[1], nuisance_file(context, sound)[1]

    before = keys(one, a)
    (root / "stimuli" / "talk_words.tsv").write_text("onset\n1.0\n")
    assert keys(one, a)[0] == before[0]
    assert keys(one, a)[1] != before[1]
    for change in ({"rate": 10.0}, {"context": 1.0}, {"token": "mean"}):
        other = make_context(root, replace(SETTINGS, **change), respond=False)  # type: ignore[arg-type]
        assert keys(other, a)[0] != before[0]
    times = (root / "stimuli" / "talk.wav").stat()
    os.utime(root / "stimuli" / "talk.wav", ns=(times.st_atime_ns, times.st_mtime_ns + 10**9))
    assert keys(one, a)[0] != before[0]


def test_edges_of_bands() -> None:
    """High-gamma has the edges that are asked for, the slow signal none."""
    settings = EncodingConfig(bands=("slow", "highgamma", "theta"), high_gamma=(80.0, 120.0))
    assert edges_of(settings) == {"slow": None, "highgamma": (80.0, 120.0), "theta": (4.0, 8.0)}


# ------------------------------------------------------------------------------- names


def tuned(out: Path, label: str, base: str = "", **more: object) -> Path:
    """Write the sidecars of a tuned model, and the files of its base."""
    if not base:
        (out / "base").mkdir(exist_ok=True)
        for name in ("config.json", "model.safetensors"):
            (out / "base" / name).write_text("{}")
        base = str(out / "base")
    folder = out / "speechmodels" / label
    folder.mkdir(parents=True)
    about = {
        "Target": "wavlm",
        "Layer": 5,
        "Control": "",
        "Seed": 0,
        "Amount": 1.0,
        "RepetitionTime": 2.0,
        **more,
    }
    (folder / "tuning.json").write_text(json.dumps(about))
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    (folder / "adapter_model.safetensors").touch()
    return folder


def names(out: Path, *models: str, **target: object) -> tuple[NamedModel, ...]:
    return name_models(
        Config(
            target=TargetConfig(**({"name": "wavlm", "model": "own/model", "layer": 9} | target)),  # type: ignore[arg-type]
            encoding=EncodingConfig(models=models),
        ),
        out,
    )


def test_names_of_models(tmp_path: Path) -> None:
    """Who is compared with whom depends on these few words."""
    tuned(tmp_path, "joint")
    tuned(tmp_path, "joint_control-phase_seed-1", Control="phase", Seed=1, Amount=0.5)
    (tmp_path / "speechmodels" / "unfinished").mkdir()
    models = names(tmp_path, "untuned", "tuned", "joint", "mel", "else/where")
    assert [(m.label, m.kind) for m in models] == [
        ("untuned", "untuned"),
        ("joint", "tuned"),
        ("joint_control-phase_seed-1", "control"),
        ("mel", "other"),
        ("where", "other"),
    ]
    assert models[0].target.model == str(tmp_path / "base")  # what the others were tuned from
    assert models[0].target.layer == models[1].target.layer == 5
    assert models[1].target.model == str(tmp_path / "speechmodels" / "joint")
    assert (models[2].control, models[2].seed, models[2].amount) == ("phase", 1, 0.5)
    assert models[2].word == "jointcontrolphaseseed1"
    assert names(tmp_path, "untuned")[0].target.model == "own/model"
    assert find_tuned("unfinished", tmp_path) is None
    (alone,) = names(tmp_path, "untuned", name="mel", model="", layer=0)
    assert alone.label == "mel"  # nothing tunes a spectrogram
    (path,) = names(tmp_path / "new", str(tmp_path / "speechmodels" / "joint"))
    assert (path.label, path.kind, path.target.layer) == ("joint", "tuned", 5)


@pytest.mark.parametrize(
    ("models", "error", "words"),
    [
        (("untuned", "jiont"), MissingInputError, "did you mean 'joint'"),
        (("untund",), MissingInputError, "did you mean 'untuned'"),
        (("storm",), MissingInputError, "joint"),
        (("a/model", "b/model"), UsageError, "same name"),
        (("joint", "other/joint"), UsageError, "same name"),
        (("tuned", "stranger"), UsageError, "base, other/base"),
        (("broken",), DataError, "cannot be read"),
        (("bare",), DataError, "expected: Target, Layer"),
        (("baseless",), DataError, "base_model_name_or_path"),
    ],
)
def test_names_that_mean_nothing(
    tmp_path: Path, models: tuple[str, ...], error: type[Exception], words: str
) -> None:
    """Each with what was meant, or what can be done."""
    tuned(tmp_path, "joint")
    if "stranger" in models:
        tuned(tmp_path, "stranger", "other/base")
    if "broken" in models:
        (tuned(tmp_path, "broken") / "tuning.json").write_text("{")
    if "bare" in models:
        (tuned(tmp_path, "bare") / "tuning.json").write_text('{"Target": "wavlm"}')
    if "baseless" in models:
        (tuned(tmp_path, "baseless") / "adapter_config.json").write_text("{}")
    with pytest.raises(error) as raised:
        names(tmp_path, *models)
    assert words in str(raised.value)


def test_nothing_was_tuned(tmp_path: Path) -> None:
    """The commonest mistake: encoding in another output than tuning."""
    with pytest.raises(MissingInputError, match="no tuned model") as error:
        names(tmp_path, "untuned", "tuned")
    assert "fmri-tuning" in str(error.value)


# ------------------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("talk_words.tsv", "onset\toffset\tword\n2.5\t3\tb\n1\tn/a\ta\nn/a\t2\tc\n"),
        ("talk_transcript.csv", "\ufeffWord, Start,End\nb,2.5,3\na,1,\nc,,2\n"),
        ("talk_transcript.tsv", "start\tstop\n1\tn/a\n2.5\t3\n"),
        ("talk_words.csv", "onset,end\n1,\n2.5,3\n"),
    ],
)
def test_tables_of_words_as_they_come(tmp_path: Path, name: str, content: str) -> None:
    """Annotators have different habits; the times are what counts."""
    (tmp_path / name).write_text(content, encoding="utf-8")
    found = read_words(tmp_path / "talk.wav")
    expected = pd.DataFrame({"onset": [1.0, 2.5], "offset": [np.nan, 3.0]})
    pd.testing.assert_frame_equal(found, expected)
    assert read_words(tmp_path / "other.wav") is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"word\tend\na\t1\n", "no times"),
        (b"onset\tword\nsoon\ta\n", "no times"),
        (b"", "cannot be read"),
        ("onset\tword\n1\té\n".encode("utf-16"), "cannot be read"),
        (b"onset\tword\n1\ta\n2\tb\tc\td\n", "cannot be read"),
    ],
)
def test_tables_of_words_that_help_nobody(tmp_path: Path, content: bytes, words: str) -> None:
    """Named with the file, or the nuisance features would silently lack the words."""
    (tmp_path / "talk_words.tsv").write_bytes(content)
    with pytest.raises(DataError, match=words) as error:
        read_words(tmp_path / "talk.wav")
    assert "talk_words.tsv" in str(error.value)


def test_a_table_of_words_that_was_not_downloaded(tmp_path: Path) -> None:
    """A dangling link of git-annex is no absent table."""
    (tmp_path / "talk_words.tsv").symlink_to("../.git/annex/objects/absent")
    with pytest.raises(MissingInputError):
        read_words(tmp_path / "talk.wav")


# ------------------------------------------------------------------------------- group


def test_tables_without_a_sidecar_are_nobodys(tmp_path: Path) -> None:
    """What an interrupted run leaves behind is no participant."""
    path = tmp_path / "sub-01" / "ieeg" / "sub-01_task-x_desc-encoding_scores.tsv"
    path.parent.mkdir(parents=True)
    path.write_text("model\tr\nuntuned\t0.1\n")
    with pytest.raises(MissingInputError, match="complete") as error:
        read_encoding(tmp_path, ["01", "02"], "x")
    assert "sub-01" in str(error.value)


def test_a_signal_counts_behind_an_unchanged_header(tmp_path: Path) -> None:
    """The samples of BrainVision do not lie in the file that names the recording."""
    header, samples = tmp_path / "a.vhdr", tmp_path / "a.eeg"
    header.write_text("[Common Infos]\nDataFile=a.eeg\n")
    samples.write_bytes(bytes(64))
    planned: Any = SimpleNamespace(recording=SimpleNamespace(path=header, format="brainvision"))
    before = signal_fingerprint(planned)
    samples.write_bytes(b"\1" * 64)
    assert signal_fingerprint(planned) != before
