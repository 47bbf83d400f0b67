"""Bands beside each other, joint training, and the experiment that compares them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bids_speechdecode.bids.dataset import list_recordings, open_dataset
from bids_speechdecode.bids.derivatives import Derivatives
from bids_speechdecode.bids.sidecars import read_table, signature
from bids_speechdecode.cli import main
from bids_speechdecode.config import Config, override
from bids_speechdecode.decoding.training import train
from bids_speechdecode.decoding.windows import TargetScaler, WindowSet
from bids_speechdecode.errors import DataError
from bids_speechdecode.progress import Progress
from bids_speechdecode.steps.bands import change_band
from bids_speechdecode.steps.channels import model_channels, model_positions
from bids_speechdecode.steps.context import (
    FINETUNED,
    JOINT,
    PRETRAINED,
    Context,
    signal_fingerprint,
    signature_of,
)
from bids_speechdecode.steps.data import LoadedWindows, load_signal, load_windows
from bids_speechdecode.steps.experiments.cells import Cell, Scored, Training, model_of
from bids_speechdecode.steps.experiments.encoders import encoders
from bids_speechdecode.steps.experiments.findings import on_common_windows
from bids_speechdecode.steps.experiments.variants import in_band, is_prepared, why_not
from bids_speechdecode.steps.features import compute_features
from bids_speechdecode.steps.finetune import load_joint
from bids_speechdecode.steps.make_plan import plan_participant
from bids_speechdecode.steps.plan import FINETUNE, PRETRAIN
from bids_speechdecode.steps.preprocess import (
    preprocess_recording,
    split_boundaries,
    training_intervals,
)
from bids_speechdecode.steps.pretrain import encoder_settings, new_encoder
from bids_speechdecode.steps.select import select

QUICK: dict[str, Any] = {"target.name": "mel", "encoder.preset": "small"}


def plan(root: Path, out: Path, **changes: Any) -> Context:
    """Return a participant of the tiny dataset, planned."""
    config = override(Config(), {**QUICK, **changes})
    dataset = open_dataset(root)
    planned = plan_participant(dataset, "sim01", list_recordings(dataset, "sim01"), config)
    derivatives = Derivatives(out, source=dataset.root, command="", simulated=True)
    return Context(planned, derivatives, config, out / ".work", Progress())


def prepare(context: Context) -> Context:
    """Make what a training reads."""
    for planned in context.plan.recordings:
        preprocess_recording(context, planned)
    assert not compute_features(context)
    select(context)
    return context


@pytest.fixture(scope="module")
def slow(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Context:
    """Return the participant as the defaults prepare it."""
    return prepare(plan(tiny_dataset, tmp_path_factory.mktemp("bands") / "out"))


@pytest.fixture(scope="module")
def both(slow: Context) -> Context:
    """Return the same participant in both bands, in the same output."""
    return prepare(in_band(slow, "both"))


def test_defaults_have_the_signature_that_they_had(slow: Context) -> None:
    """Whoever has signals on disk must not make them again because there are bands now."""
    planned = slow.plan.recordings[0]
    intervals = training_intervals(slow, planned)
    settings = {
        "reference": "none",
        "notch": True,
        "rate": 40.0,
        "highpass": 0.05,
        "clamp": 20.0,
        "montage": planned.montage.names,
        "line_frequency": planned.recording.power_line_frequency,
        "cuts": [round(cut, 4) for cut in split_boundaries(slow, planned)],
        "scale_intervals": intervals and [[round(t, 4) for t in i] for i in intervals],
    }
    expected = signature("preprocess", 3, settings, [signal_fingerprint(planned)])
    (path,) = slow.preprocessed(planned).values()
    assert path.name.endswith("_desc-preproc_ieeg.eeg")
    assert signature_of(path) == expected


def test_the_usual_encoder_has_the_signature_that_it_had(slow: Context) -> None:
    """Whoever has models on disk must not train them again because there are kinds now."""
    usual = {"preset": "small", "dropout": 0.4, "spatial": "none"}
    assert encoder_settings(slow) == {"encoder": usual}
    linear = replace(slow, config=override(slow.config, {"encoder.kind": "linear"}))
    assert encoder_settings(linear) == {"encoder": {**usual, "kind": "linear"}}


def test_bands_share_files_and_replace_none(slow: Context, both: Context) -> None:
    """The run's own signals and channels are what its models were trained on."""
    for planned in slow.plan.recordings:
        (own,) = slow.preprocessed(planned).values()
        assert both.preprocessed(both.plan[planned.label])["slow"] == own
    assert is_prepared(slow)
    assert is_prepared(both)
    assert not any(name.endswith("highgamma") for name in model_channels(slow))


def test_channels_of_both_bands_lie_side_by_side(slow: Context, both: Context) -> None:
    """A column that belonged to another channel would be decoded and placed as that one."""
    fast = prepare(in_band(slow, "highgamma"))
    parts = [load_signal(context, FINETUNE).signal for context in (slow, fast)]
    joined = load_signal(both, FINETUNE).signal
    names = model_channels(both)
    assert names == (*model_channels(slow), *model_channels(fast))
    assert len(set(names)) == len(names)
    torch.testing.assert_close(joined, torch.cat(parts, dim=1), rtol=0, atol=0)


def test_a_pair_lies_between_its_contacts(slow: Context, both: Context) -> None:
    """Selection by region, maps and spatial attention go by the position of a channel."""
    place = dict(zip(model_channels(slow), model_positions(slow), strict=True))
    found = dict(zip(model_channels(both), model_positions(both), strict=True))
    pairs = [name for name in found if name.endswith(" highgamma")]
    assert pairs
    for pair in pairs:
        first, second = pair.removesuffix(" highgamma").split("-")
        middle = (place[first] + place[second]) / 2
        np.testing.assert_allclose(found[pair], middle, atol=0.02)  # tables round to 0.01 mm


def test_windows_are_the_same_in_every_band(slow: Context, both: Context) -> None:
    """Splits are drawn once; a band changes what is read there and nothing else."""
    for role in (PRETRAIN, FINETUNE):
        tables = [
            load_windows(context, load_signal(context, role), role, "test").table
            for context in (slow, both)
        ]
        assert tables[0].equals(tables[1])


# What cannot be made


def too_slow(context: Context) -> Context:
    """Return the participant with a recording that was sampled at 200 Hz."""
    first, *others = context.plan.recordings
    recordings = (replace(first, sampling_rate=200.0), *others)
    return replace(context, plan=replace(context.plan, recordings=recordings))


def without_neighbours(context: Context) -> Context:
    """Return the participant with every second contact of each recording."""
    recordings = tuple(replace(r, kept=r.kept[::2]) for r in context.plan.recordings)
    return replace(context, plan=replace(context.plan, recordings=recordings))


def test_a_band_that_is_not_there_is_refused_with_what_to_do(slow: Context) -> None:
    """The person must learn whether the sampling rate or the electrodes are in the way."""
    settings = override(slow.config, {"preprocess.band": "highgamma"}).preprocess
    with pytest.raises(DataError, match="half of the sampling rate") as rate:
        change_band(too_slow(slow).plan, settings)
    with pytest.raises(DataError, match="pairs neighbours") as pairs:
        change_band(without_neighbours(slow).plan, settings)
    assert 'the band "slow"' in str(rate.value)
    assert "high_gamma_reference" in str(pairs.value)


def test_arms_that_cannot_be_made_are_left_out_with_a_sentence(slow: Context) -> None:
    """One slow recording must not stop the experiment, nor change its data for one arm only."""
    whole = encoders(slow)
    assert {f["arm"] for f in whole.cells.values()} == {
        "as the run",
        "linear encoder",
        "symmetric loss",
        "high-gamma",
        "both bands",
        "joint training",
    }
    context = too_slow(slow)
    assert "beyond what the recording holds" in why_not(context, "both")
    part = encoders(context)
    assert {f["arm"] for f in whole.cells.values()} - {f["arm"] for f in part.cells.values()} == {
        "high-gamma",
        "both bands",
    }
    assert why_not(slow, "both") == ""


def test_contrasts_are_of_windows_that_all_arms_have() -> None:
    """A gap costs each band its own windows; ranks must not be paired by their position."""
    cell = Cell(Training(FINETUNED, 0), FINETUNE, "true")
    places = ([0, 1, 2, 5], [1, 2, 4, 5])
    results = [
        ({"arm": str(n)}, Scored(cell, np.array(p) / 10, np.array(p) // 2, {}, np.array(p)))
        for n, p in enumerate(places)
    ]
    for _, scored in on_common_windows(results):
        assert scored.places.tolist() == [1, 2, 5]
        assert scored.ranks.tolist() == [0.1, 0.2, 0.5]
        assert scored.blocks.tolist() == [0, 1, 2]


# Joint training


def rows(loaded: LoadedWindows) -> list[tuple[bytes, bytes]]:
    """Return signal and target of every window, sorted."""
    windows = loaded.scaled(TargetScaler(np.float32(0), np.float32(1)))
    brain = windows.brain(torch.arange(len(windows))).numpy()
    return sorted((b.tobytes(), t.tobytes()) for b, t in zip(brain, loaded.targets, strict=True))


def test_joint_training_has_the_windows_of_both_tasks(slow: Context) -> None:
    """Each source keeps its own sound: an offset into the other signal would pair them wrongly."""
    training, validation = load_joint(slow)
    ambient = load_windows(slow, load_signal(slow, PRETRAIN), PRETRAIN, "train")
    version = slow.plan.versions(FINETUNE)[0]
    store = load_signal(slow, FINETUNE)
    task, own = (load_windows(slow, store, FINETUNE, s, version) for s in ("train", "val"))
    assert len(training) == len(ambient) + len(task)
    assert rows(training) == sorted([*rows(ambient), *rows(task)])
    assert rows(validation) == rows(own)


def test_an_epoch_has_every_window_of_both_once(
    slow: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All windows, shuffled: no source is drawn more often than it has windows."""
    training, validation = load_joint(slow)
    scaler = TargetScaler.fit(training.targets)
    seen: list[torch.Tensor] = []
    audio = WindowSet.audio

    def spy(self: WindowSet, index: torch.Tensor) -> torch.Tensor:
        if len(self) == len(training):
            seen.append(index)
        return audio(self, index)

    monkeypatch.setattr(WindowSet, "audio", spy)
    settings = replace(slow.config.finetune, max_epochs=2, batch_size=16)
    encoder = new_encoder(slow, training, head=True)
    sets = training.scaled(scaler), validation.scaled(scaler)
    train(encoder, *sets, settings, seed=0, device="cpu")
    order = torch.cat(seen)
    assert len(order) == 2 * len(training)
    for epoch in order.split(len(training)):
        assert sorted(epoch.tolist()) == list(range(len(training)))
    sources = training.table["recording"].str.contains("ambient").to_numpy()[order.numpy()]
    assert np.mean(sources[: len(training)] != sources[len(training) :]) > 0


def test_a_joint_model_depends_on_both_tasks(slow: Context) -> None:
    """Other ambient windows make another joint model, and leave the task's own alone."""
    pieces = [
        replace(p, usable=p.usable & (np.arange(len(p.usable)) > 0)) if p.role == PRETRAIN else p
        for p in slow.plan.pieces
    ]
    other = replace(slow, plan=replace(slow.plan, pieces=tuple(pieces)))
    assert model_of(slow, Training(JOINT, 0))[1] != model_of(other, Training(JOINT, 0))[1]
    alone = Training("taskonly", 0)
    assert model_of(slow, alone)[1] == model_of(other, alone)[1]
    assert model_of(slow, Training(JOINT, 0))[1] != model_of(slow, Training(JOINT, 1))[1]
    assert model_of(slow, Training(PRETRAINED, 0))[1] != model_of(other, Training(PRETRAINED, 0))[1]


# Runs


SETTINGS = """
[target]
name = "mel"
[encoder]
preset = "small"
[pretrain]
max_epochs = 2
batch_size = 16
[finetune]
max_epochs = 2
batch_size = 16
[evaluation]
block = 6.0
n_bootstrap = 50
n_permutations = 50
[contributions]
draws = 20
n_permutations = 50
[experiments]
seeds = 1
"""
OF_BAND = "preprocess,features,select,pretrain,finetune"


def command(dataset: Path, out: Path, *more: str, band: str = "slow") -> list[str]:
    config = out.parent / "config.toml"
    config.write_text(f'{SETTINGS}[preprocess]\nband = "{band}"\n')
    of = ["participant", "--participant-label", "sim01", "--config", str(config)]
    return [str(dataset), str(out), *of, *more]


@pytest.mark.slow
def test_experiment_from_the_command_line(
    tiny_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a user types it: variants are made beside the run, and made once."""
    out = tmp_path / "out"
    asked = command(tiny_dataset, out, "--experiments", "encoders", "--steps")
    steps = f"{OF_BAND},experiments,report"
    assert main([*asked, OF_BAND]) == 0
    before = {p.name: p.stat().st_mtime_ns for p in out.rglob("*_ieeg.eeg")}
    assert main([*asked, steps, "--dry-run"]) == 0
    assert "arm both bands, seed 0, pretrained True: to do" in capsys.readouterr().out
    assert main([*asked, steps]) == 0
    after = {p.name: p.stat().st_mtime_ns for p in out.rglob("*_ieeg.eeg")}
    assert before.items() <= after.items()
    assert len(after) == 2 * len(before)
    table = read_table(next(out.rglob("*_desc-encoders_scores.tsv")))
    counts = table.groupby("arm")["pretrained"].count().to_dict()
    assert counts.pop("joint training") == 1
    assert set(counts.values()) == {2}
    assert len(counts) == 5
    findings = read_table(next(out.rglob("*_desc-encodersFindings_scores.tsv")))
    assert {
        "slow band against high-gamma",
        "slow band against both bands",
        "both bands against high-gamma",
        "convolutional encoder against linear encoder",
        "one-way loss against symmetric loss",
        "pretraining and finetuning against joint training",
    } <= set(findings["name"])
    assert findings["effect"].between(-1, 1).all()
    joint = next((out / "experiments" / "sub-sim01").glob("*_desc-joint*_model.json"))
    assert len(json.loads(joint.read_text())["TargetMean"]) == 40
    page = next(out.glob("sub-sim01.html")).read_text("utf-8")
    assert "joint training" in page
    capsys.readouterr()
    assert main([*asked, steps]) == 0
    assert "cells, all current" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_in_both_bands(tiny_dataset: Path, tmp_path: Path) -> None:
    """Contributions and the report must find every channel of the joined signal."""
    out = tmp_path / "out"
    steps = f"{OF_BAND},evaluate,contributions,report"
    assert main(command(tiny_dataset, out, "--steps", steps, band="both")) == 0
    selected = read_table(next(out.rglob("*_desc-selected_channels.tsv")))
    contributed = read_table(next(out.rglob("*_desc-contrib_channels.tsv")))
    kept = selected.loc[selected["kept"].astype(str).str.lower() == "true", "name"]
    assert contributed["name"].tolist() == kept.tolist()
    fast = contributed["name"].str.endswith(" highgamma")
    assert fast.any()
    assert not fast.all()
    assert contributed.loc[fast, "x"].notna().all()
    page = next(out.glob("sub-sim01.html")).read_text("utf-8")
    assert "envelope of 70 to 120 Hz" in page
