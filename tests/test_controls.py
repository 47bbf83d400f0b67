"""Controls: pairings, the energy target, voices, what is said, and a simulated confound."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.signal import get_window

from bids_speechdecode.audio.features import window_features
from bids_speechdecode.audio.speech_models import load_speech_model, model_fingerprint
from bids_speechdecode.bids.speakers import event_speakers, sound_speakers
from bids_speechdecode.config import Config, EvaluationConfig, TargetConfig, override
from bids_speechdecode.decoding.evaluation import Contrast
from bids_speechdecode.errors import DataError, UsageError
from bids_speechdecode.report.experiments.controls import draw_controls
from bids_speechdecode.simulate.anatomy import draw_contacts
from bids_speechdecode.simulate.brain import DRIVES, draw_brain
from bids_speechdecode.simulate.settings import make_settings
from bids_speechdecode.steps.data import LoadedWindows
from bids_speechdecode.steps.experiments.cells import Cell, Scored, Training
from bids_speechdecode.steps.experiments.pairing import SHIFTED, SHUFFLED, TRUE, pair, shift
from bids_speechdecode.steps.experiments.remaining import (
    judge,
    say_matched,
    say_remaining,
    say_without,
)
from bids_speechdecode.steps.experiments.views import pitch_strata
from bids_speechdecode.steps.experiments.voices import most_heard
from bids_speechdecode.timeline import Interval

# ----------------------------------------------------------------------------------------- pairing


def windows(lengths: dict[str, int]) -> LoadedWindows:
    """Return windows of recordings whose target is their number, in a mixed order."""
    table = pd.DataFrame(
        [(name, 3.0 * i) for name, n in lengths.items() for i in range(n)],
        columns=["recording", "onset"],
    )
    table = table.sample(frac=1, random_state=0, ignore_index=True)
    targets = np.arange(len(table), dtype=np.float32)[:, None]
    starts = torch.arange(len(table))
    return LoadedWindows(torch.zeros(len(table) + 3, 1), starts, 3, targets, table)


def test_no_window_keeps_its_sound_when_shuffled() -> None:
    """One true pair in the mean of a plain permutation is one too many where windows are few."""
    loaded = windows({"a": 7, "b": 5})
    for seed in range(20):
        config = override(Config(), {"run.seed": seed})
        source = pair(loaded, SHUFFLED, config).targets[:, 0].astype(int)
        assert sorted(source) == list(range(12))
        assert (source != np.arange(12)).all()


def test_shift_is_half_a_recording_in_time() -> None:
    """Value is time: every window gets the sound of a fixed, large time later, circularly."""
    loaded = windows({"a": 40, "b": 60})
    config = override(Config(), {"evaluation.block": 30.0})
    source = pair(loaded, SHIFTED, config).targets[:, 0].astype(int)
    table = loaded.table
    assert (table["recording"].to_numpy()[source] == table["recording"]).all()
    later = (table["onset"].to_numpy()[source] - table["onset"]).to_numpy()
    length = table["recording"].map({"a": 120.0, "b": 180.0}).to_numpy()
    np.testing.assert_allclose(later % length, length / 2)


def test_short_recordings_are_shifted_together() -> None:
    """Half of one window is no shift at all: it would keep its own sound."""
    recordings = np.array(["a"] * 1 + ["b"] * 2 + ["c"] * 30 + ["d"] * 1)
    onsets = np.concatenate([np.arange(n) for n in (1, 2, 30, 1)]).astype(float)
    source = shift(recordings, onsets, fewest=20)
    assert sorted(source) == list(range(34))
    distance = np.abs(source - np.arange(34))
    assert np.minimum(distance, 34 - distance).min() == 17


def test_pairing_changes_targets_alone() -> None:
    loaded = windows({"a": 30})
    assert pair(loaded, TRUE, Config()) is loaded
    for pairing in (SHUFFLED, SHIFTED):
        other = pair(loaded, pairing, Config())
        assert other.signal is loaded.signal
        assert other.starts is loaded.starts
        assert other.table is loaded.table
    with pytest.raises(DataError, match="another window"):
        pair(windows({"a": 1}), SHUFFLED, Config())


def test_pairing_enters_what_a_model_is() -> None:
    """Two models that differ in their pairing alone must never be taken for each other."""
    assert Training("finetuned", 0) == Training("finetuned", 0, pairing=TRUE)
    assert Training("finetuned", 0) != Training("finetuned", 0, pairing=SHUFFLED)


# ------------------------------------------------------------------------------------------ energy


def test_energy_equals_a_slow_loop() -> None:
    wave = np.random.default_rng(0).normal(size=1600).astype(np.float32) * 0.1
    found = load_speech_model(TargetConfig("energy", "")).embed(torch.from_numpy(wave)[None])
    padded = np.pad(wave.astype(float), 192, mode="reflect")
    window = get_window("hann", 512)
    for k in range(len(wave) // 128):
        power = np.average(padded[128 * k : 128 * k + 512] ** 2, weights=window)
        assert float(found[0, k, 0]) == pytest.approx(10 * np.log10(1e-6 + power), abs=1e-3)
    assert found.shape == (1, 12, 1)


def test_energy_has_no_spectrum() -> None:
    """Sounds of one level and other spectra must be the same target."""
    time = np.arange(32000) / 16000
    model = load_speech_model(TargetConfig("energy", ""))
    low, high = (np.sin(2 * np.pi * f * time).astype(np.float32) for f in (200, 3000))
    frames = model.embed(torch.from_numpy(np.stack([low, high])))[:, 2:-2]
    assert float((frames[0] - frames[1]).abs().max()) < 0.1
    assert float(frames.mean()) == pytest.approx(10 * np.log10(0.5), abs=0.05)


def test_energy_is_a_course_in_frames() -> None:
    """One number a window has a cosine that is a sign: half of all candidates would tie."""
    assert override(Config(), {"target.name": "energy"}).target.pooling == "frames"
    with pytest.raises(UsageError, match="cosine"):
        override(Config(), {"target.name": "energy", "target.pooling": "mean"})
    settings = override(Config(), {"target.name": "energy"}).target
    wave = np.random.default_rng(0).normal(size=160000).astype(np.float32)
    features = window_features(
        lambda start, stop: wave[round(16000 * start) : round(16000 * stop)],
        Interval(0, 10),
        np.array([0.0, 3.0]),
        3.0,
        load_speech_model(settings),
        settings,
    )
    assert features.shape == (2, 30, 1)
    assert model_fingerprint(settings) != model_fingerprint(TargetConfig("mel", ""))


# ------------------------------------------------------------------------------------------ voices


def test_pitch_strata_are_large_and_leave_out_what_has_no_pitch() -> None:
    pitch = np.random.default_rng(0).uniform(80, 250, 100)
    pitch[::10] = np.nan
    strata = pitch_strata(pitch)
    assert (strata[::10] == -1).all()
    known = strata >= 0
    assert (np.diff(strata[known][np.argsort(pitch[known])]) >= 0).all()
    assert np.bincount(strata[known]).tolist() == [23, 23, 22, 22]
    assert (pitch_strata(pitch[:8]) <= 0).all()


def test_a_window_belongs_to_whom_it_hears_longest() -> None:
    spans = pd.DataFrame(
        [(0.0, 2.0, "ann"), (2.0, 5.0, "ben"), (5.0, 5.5, "ann")],
        columns=["onset", "offset", "speaker"],
    )
    assert most_heard(np.array([0.0, 1.0, 4.6, 9.0]), 3.0, spans) == ["ann", "ben", "ann", ""]


def test_speakers_are_read_from_both_tables(tmp_path: Path) -> None:
    """The voice control is only as good as the table that names the voices."""
    events = tmp_path / "x_events.tsv"
    events.write_text("onset\tduration\tspeaker\n1\t2\tann\n3\tn/a\tben\n5\t1\tn/a\n")
    found = event_speakers(events)
    assert found is not None
    assert found.to_numpy().tolist() == [[1.0, 3.0, "ann"]]
    (tmp_path / "talk_words.csv").write_text("start,end,speaker,word\n0.5,1,7,hello\n")
    found = sound_speakers(tmp_path / "talk.wav")
    assert found is not None
    assert found.to_numpy().tolist() == [[0.5, 1.0, "7"]]
    (tmp_path / "talk_words.csv").write_text("start,end,word\n0.5,1,hello\n")
    assert sound_speakers(tmp_path / "talk.wav") is None
    assert event_speakers(None) is None
    events.write_text("onset\tspeaker\n1\tann\n")
    with pytest.raises(DataError, match="not when"):
        event_speakers(events)


# --------------------------------------------------------------------------------- what they say

SETTINGS = EvaluationConfig()


def contrast_of(difference: float, p: float, p_min: float) -> Contrast:
    return Contrast(difference, difference - 0.02, difference + 0.02, p, p_min, 20)


def test_more_than_loudness_is_claimed_without_loudness_alone() -> None:
    """Candidates that are nearly alike leave some loudness to a model that spells it well."""
    better, chance = contrast_of(-0.1, 0.001, 0.0005), contrast_of(-0.01, 0.6, 0.0005)
    few = contrast_of(-0.2, 0.25, 0.25)
    assert judge(better, SETTINGS) == "better"
    assert judge(few, SETTINGS) == "unknown"
    assert "rank without loudness" in say_matched(better, chance, SETTINGS)
    assert "What remains is more" in say_without(better, SETTINGS)
    assert "No more than loudness" in say_without(chance, SETTINGS)
    assert "may be loudness" in say_matched(better, better, SETTINGS)
    assert "no more than loudness" in say_matched(chance, chance, SETTINGS)
    assert "too few" in say_matched(better, few, SETTINGS)


def scored(ranks: list[float]) -> list[Scored]:
    cell = Cell(Training("finetuned", 0), "finetune", "true")
    windows = np.arange(len(ranks))
    return [Scored(cell, np.array(ranks), windows, {}, windows)]


def test_what_went_is_said_of_the_same_windows() -> None:
    """Windows that no stratum takes must not enter one of the two sides alone."""
    text = say_remaining(scored([0.4, 0.3, np.nan]), scored([0.1, 0.2, 0.9]))
    assert "0.350 below chance" in text
    assert "of this 0.150 (43%) remains" in text


def test_figure_shows_what_could_not_be_ranked() -> None:
    """A row that silently disappears reads as if it had not been asked."""
    names = ["the model", "shuffled pairing", "silent windows of the task"]
    findings = pd.DataFrame(
        {
            "name": names,
            "effect": [-0.3, 0.01, np.nan],
            "ci_low": [-0.35, -0.02, np.nan],
            "ci_high": [-0.25, 0.03, np.nan],
        }
    )
    figure = draw_controls({"": pd.DataFrame(), "Findings": findings})
    assert figure is not None
    (axis,) = figure.axes
    labels = [label.get_text() for label in axis.get_yticklabels()]
    assert labels[:2] == ["Model", "Shuffled pairing"]
    assert any("too few" in text.get_text() for text in axis.texts)


# -------------------------------------------------------------------------------------- simulation


def test_contacts_follow_the_envelope_alone() -> None:
    """The confound is only a confound if there is nothing but loudness to decode."""
    story = np.random.default_rng(0).uniform(size=(3000, len(DRIVES))).astype(np.float32)
    contacts = draw_contacts(2, 6, np.random.default_rng(1))
    plain, loud = (
        draw_brain(contacts, story, 0.4, np.random.default_rng(2), loudness_only=only)
        for only in (False, True)
    )
    for functions in (loud.slow, loud.high_gamma):
        assert (functions[:, 1:] == 0).all()
        assert (np.abs(functions[:, 0]).max(axis=1) > 0).all()
    assert (np.abs(plain.slow[:, 1:]).max(axis=(1, 2)) > 0).all()
    np.testing.assert_array_equal(plain.latency, loud.latency)
    assert not make_settings().loudness_only
