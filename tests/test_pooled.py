"""Pooled pretraining: what is shared, who takes part, and that the left-out one really does not."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bids_speechdecode.bids.sidecars import read_sidecar, read_table
from bids_speechdecode.cli import main
from bids_speechdecode.config import TrainingConfig
from bids_speechdecode.decoding.contrastive import relative_ranks
from bids_speechdecode.decoding.encoder import EncoderSpec, build_encoder
from bids_speechdecode.decoding.pooled import (
    PooledEncoder,
    PooledWindows,
    load_body,
    pool_windows,
    save_body,
    take_over,
)
from bids_speechdecode.decoding.spatial import as_positions
from bids_speechdecode.decoding.training import Epoch, embed_windows, train
from bids_speechdecode.decoding.windows import WindowSet
from bids_speechdecode.errors import DataError, UsageError
from bids_speechdecode.simulate import simulate_dataset

N_SAMPLES, DIMENSION = 40, 6
CHANNELS = (5, 8, 5)  # two with the same count: it does not say whose windows they are
SETTINGS = TrainingConfig(batch_size=16, learning_rate=2e-3, max_epochs=4, patience=4)


def windows(n: int, n_channels: int, seed: int, strength: float = 1.0) -> WindowSet:
    """Windows in which every channel carries a mix of the targets that is the participant's own."""
    rng = np.random.default_rng(seed)
    sound = rng.standard_normal((n, DIMENSION)).astype(np.float32)
    mixing = np.random.default_rng(100 + n_channels).standard_normal((DIMENSION, n_channels))
    carried = np.repeat((sound @ mixing)[:, None], N_SAMPLES, axis=1)
    signal = strength * carried + rng.standard_normal((n, N_SAMPLES, n_channels))
    return WindowSet(
        torch.from_numpy(signal.reshape(-1, n_channels).astype(np.float32)),
        torch.arange(n) * N_SAMPLES,
        N_SAMPLES,
        torch.from_numpy(sound),
    )


def pooled(n: int = 40, seed: int = 0) -> PooledWindows:
    return pool_windows([windows(n + 7 * i, c, seed + i) for i, c in enumerate(CHANNELS)])


def spec(n_channels: int, spatial: str = "none") -> EncoderSpec:
    plain = EncoderSpec("conv", n_channels, N_SAMPLES, DIMENSION, preset="small")
    if spatial == "none":
        return plain
    places = np.random.default_rng(n_channels).uniform(-60, 60, (n_channels, 3))
    return replace(plain, spatial="attention", positions_mm=as_positions(places))


def encoder(spatial: str = "none") -> PooledEncoder:
    return PooledEncoder([spec(n, spatial) for n in CHANNELS], seed=1)


def test_batches_hold_one_participant_and_all_windows_once_an_epoch() -> None:
    """Windows of another participant as negatives would teach telling rooms apart."""
    sets = pooled()
    seen: list[tuple[int, int]] = []
    order = []
    for part, index in sets.batches(16, torch.Generator().manual_seed(0)):
        member, signal = part.read(index)
        assert signal.shape == (len(index), CHANNELS[member], N_SAMPLES)
        assert len(index) <= 16
        seen += [(member, int(i)) for i in index]
        order.append(member)
    everything = [(m, i) for m, part in enumerate(sets.parts) for i in range(len(part))]
    assert sorted(seen) == everything
    assert len(order) == sets.n_batches(16)
    assert order != sorted(order)  # participants take turns


@pytest.mark.parametrize("spatial", ["none", "attention"])
def test_gradients_reach_the_body_and_the_own_entrance_only(spatial: str) -> None:
    """A batch that changed another participant's projection would be a mistake of numbering."""
    model = encoder(spatial)
    x = windows(9, CHANNELS[1], 3).brain(torch.arange(9))
    model((1, x)).square().sum().backward()
    body = dict(model.body.named_parameters())
    for name, parameter in body.items():
        if spatial == "none" and name.startswith("project."):
            assert parameter.grad is None, name  # that of the first participant
        else:
            assert parameter.grad is not None, name
    if spatial == "none":
        assert model.entrances[1].weight.grad.abs().sum() > 0
        assert model.entrances[2].weight.grad is None
    shared = {id(parameter) for parameter in body.values()}
    own = [p for p in model.parameters() if id(p) not in shared]
    assert len(own) == (4 if spatial == "none" else 0)  # weight and bias of two more


@pytest.mark.parametrize("spatial", ["none", "attention"])
def test_a_member_reads_as_the_encoder_alone_does(spatial: str) -> None:
    """The body must be the very network that a participant's own training goes on with."""
    model = encoder(spatial).eval()
    x = windows(5, CHANNELS[1], 3).brain(torch.arange(5))
    alone = build_encoder(spec(CHANNELS[1], spatial), seed=9).eval()
    weights = {k: v for k, v in model.body.state_dict().items() if not k.startswith("project.")}
    if spatial == "attention":
        weights = model.body.state_dict()
    else:
        weights |= {f"project.{k}": v for k, v in model.entrances[1].state_dict().items()}
    alone.load_state_dict(weights)
    torch.testing.assert_close(alone(x), model((1, x)))


@pytest.mark.parametrize("spatial", ["none", "attention"])
def test_body_is_taken_over_and_nothing_else(spatial: str, tmp_path: Path) -> None:
    """The participant's own projection stays new; with attention there is none."""
    model, path = encoder(spatial), tmp_path / "pooled.safetensors"
    save_body(path, model)
    new = build_encoder(spec(11, spatial), seed=5)
    before = {k: v.clone() for k, v in new.state_dict().items()}
    take_over(new, load_body(path))
    for name, value in new.state_dict().items():
        kept = spatial == "none" and name.startswith("project.")
        expected = before[name] if kept else model.body.state_dict()[name]
        assert torch.equal(value, expected), name


@pytest.mark.parametrize(
    "change",
    [{"dimension": 7}, {"n_frames": 4}, {"preset": "paper"}, {"n_samples": 20}],
    ids=str,
)
def test_another_shape_is_refused_with_both_named(change: dict, tmp_path: Path) -> None:
    """A message about tensor sizes would not say which setting to change."""
    path = tmp_path / "pooled.safetensors"
    save_body(path, encoder())
    ((name, value),) = change.items()
    with pytest.raises(UsageError) as caught:
        take_over(build_encoder(replace(spec(5), **change)), load_body(path))
    ours = getattr(spec(5), name)
    assert f"{name} {ours}" in str(caught.value)
    assert f"{name} {value}" in str(caught.value)


def test_by_name_and_by_place_do_not_mix(tmp_path: Path) -> None:
    """With attention another layer reads the body's first weights."""
    path = tmp_path / "pooled.safetensors"
    save_body(path, encoder("attention"))
    with pytest.raises(UsageError, match="spatial attention"):
        take_over(build_encoder(spec(5)), load_body(path))


def test_a_file_that_is_no_body_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    path.write_bytes(b"nothing")
    with pytest.raises(UsageError, match="no pooled checkpoint"):
        load_body(path)


def test_linear_encoders_cannot_be_pooled() -> None:
    """They have a weight for each channel and sample: nothing to share."""
    with pytest.raises(UsageError, match="only the convolutional encoder"):
        PooledEncoder([EncoderSpec("linear", 5, N_SAMPLES, DIMENSION)] * 2)


def test_a_participant_with_one_window_is_refused() -> None:
    """All together have enough, but each is compared with its own."""
    few = pool_windows([windows(20, 5, 0), windows(1, 8, 1)])
    model = PooledEncoder([spec(5), spec(8)])
    with pytest.raises(DataError, match="Too few training windows"):
        train(model, few, few, SETTINGS, seed=0, device="cpu")


@pytest.mark.parametrize("spatial", ["none", "attention"])
def test_resumed_equals_uninterrupted(spatial: str, tmp_path: Path) -> None:
    """A week of pooled training will be interrupted; the order of participants must go on too."""

    class Interrupted(BaseException):
        pass

    def stop(epoch: Epoch) -> None:
        if epoch.epoch == 2:
            raise Interrupted

    data, val = pooled(), pooled(20, seed=50)
    whole = encoder(spatial)
    train(whole, data, val, SETTINGS, seed=3, device="cpu")
    options = {"seed": 3, "device": "cpu", "checkpoint": tmp_path / "state"}
    with pytest.raises(Interrupted):
        train(encoder(spatial), data, val, SETTINGS, on_epoch=stop, **options)
    resumed = encoder(spatial)
    train(resumed, data, val, SETTINGS, **options)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_planted_signal_is_found_in_every_participant() -> None:
    """Each mixes the sound into channels in another way; one body must do for all."""
    data, val, test = (pooled(n, seed) for n, seed in ((150, 0), (40, 50), (60, 90)))
    model = encoder()
    settings = replace(SETTINGS, max_epochs=15, patience=15)
    history = train(model, data, val, settings, seed=3, device="cpu")
    for part in test.parts:
        with torch.no_grad():
            brain = model(part.read(torch.arange(len(part))))
        assert relative_ranks(brain, part.targets).relative.mean() < 0.2
    # Validation is among each one's own windows, weighted by their number.
    with torch.no_grad():
        ranks = [
            relative_ranks(model(p.read(torch.arange(len(p)))), p.targets).relative
            for p in val.parts
        ]
    assert history.best.val_rank == pytest.approx(np.concatenate(ranks).mean())


def courses(seed: int) -> np.ndarray:
    """Draw how targets become time courses of sources, (targets, sources, times)."""
    return np.random.default_rng(seed).standard_normal((DIMENSION, 4, N_SAMPLES))


def recorded(n: int, person: int, course: np.ndarray, seed: int) -> WindowSet:
    """Windows in which ten channels mix, in the own way of a person, sources with these courses."""
    rng = np.random.default_rng([seed, person])
    sound = rng.standard_normal((n, DIMENSION)).astype(np.float32)
    mixing = np.random.default_rng([77, person]).standard_normal((4, 10)) / 2
    sources = np.einsum("nd,dkt->ntk", sound, course) / np.sqrt(DIMENSION)
    signal = sources @ mixing + 2 * rng.standard_normal((n, N_SAMPLES, 10))
    return WindowSet(
        torch.from_numpy(signal.reshape(-1, 10).astype(np.float32)),
        torch.arange(n) * N_SAMPLES,
        N_SAMPLES,
        torch.from_numpy(sound),
    )


@pytest.mark.slow
def test_transfer_is_there_where_people_have_something_in_common_and_only_there(
    tmp_path: Path,
) -> None:
    """Others with the same time courses help a new person with 40 windows; with others, nobody."""
    settings = replace(SETTINGS, batch_size=32, max_epochs=12, patience=12)

    def rank_of_a_new_one(start: PooledEncoder | None) -> float:
        sets = [recorded(n, 9, courses(0), k) for k, n in ((3, 40), (4, 30), (5, 300))]
        model = build_encoder(spec(10), seed=2)
        if start is not None:
            save_body(tmp_path / "pooled", start)
            take_over(model, load_body(tmp_path / "pooled"))
        train(model, *sets[:2], settings, seed=0, device="cpu")
        brain = embed_windows(model, sets[2])
        return float(relative_ranks(brain, sets[2].targets).relative.mean())

    def others(seeds: tuple[int, ...]) -> PooledEncoder:
        parts = [
            pool_windows([recorded(n, i, courses(s), k) for i, s in enumerate(seeds)])
            for k, n in ((1, 200), (2, 40))
        ]
        model = PooledEncoder([spec(10)] * len(seeds), seed=1)
        train(model, *parts, settings, seed=0, device="cpu")
        return model

    alone = rank_of_a_new_one(None)
    assert rank_of_a_new_one(others((0, 0, 0))) < alone - 0.1
    assert abs(rank_of_a_new_one(others((11, 12, 13))) - alone) < 0.1


# ------------------------------------------------------------------------- as people type it

QUICK = """
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
[experiments]
seeds = 1
"""
PREPARE = ("--steps", "preprocess,features,select")
TRAIN = ("--steps", "pretrain,finetune,evaluate,report")


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with data of three participants, settings and their preparation."""
    root = tmp_path_factory.mktemp("pooled")
    simulate_dataset(root / "data", preset="tiny", participants=3)
    (root / "quick.toml").write_text(QUICK)
    assert run(root, "participant", *PREPARE) == 0
    return root


def run(root: Path, level: str, *more: str) -> int:
    config = ("--config", str(root / "quick.toml"))
    return main([str(root / "data"), str(root / "out"), level, *config, *more])


def checkpoint(root: Path, desc: str) -> Path:
    return root / "out" / f"group_task-ambient_desc-{desc}_model.safetensors"


@pytest.fixture(scope="module")
def made(three: Path) -> Path:
    assert run(three, "group", "--pool") == 0
    return three


def model_sidecar(root: Path, who: str, model: str) -> dict:
    (path,) = (root / "out" / f"sub-{who}" / "ieeg").glob(f"*_desc-{model}_model.safetensors")
    return read_sidecar(path)


@pytest.mark.slow
def test_pooled_checkpoints_say_who_is_in_them(made: Path) -> None:
    """Who uses the file elsewhere has nothing but the sidecar to judge by."""
    everybody = ["sub-sim01", "sub-sim02", "sub-sim03"]
    for without in ("", "sim01", "sim02", "sim03"):
        path = checkpoint(made, f"pooledWithout{without}" if without else "pooled")
        about = read_sidecar(path)
        expected = [who for who in everybody if who != f"sub-{without}"]
        assert about["Participants"] == expected
        assert list(about["Channels"]) == list(about["TrainingWindows"]) == expected
        assert about["LeftOut"] == (f"sub-{without}" if without else "n/a")
        assert about["Target"]["name"] == "mel"
        assert about["Seed"] == 0
        assert about["Simulated"] is True
        assert path.with_name(path.name.replace("_model.safetensors", "_history.tsv")).is_file()
    assert not list((made / "out" / ".work").glob("group/*"))


@pytest.mark.slow
def test_pooled_again_trains_nothing(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {p: p.stat().st_mtime_ns for p in (made / "out").glob("group_*")}
    assert run(made, "group", "--pool") == 0
    assert {p: p.stat().st_mtime_ns for p in (made / "out").glob("group_*")} == before
    assert capsys.readouterr().err.count("current") == 4
    assert run(made, "group", "--pool", "--dry-run") == 0
    assert "4 of 4 checkpoints are there" in capsys.readouterr().out


@pytest.mark.slow
def test_killed_and_two_at_once(made: Path, tmp_path: Path) -> None:
    """An array of jobs with one command: no checkpoint is trained twice, none differs by a bit."""
    shutil.copytree(made / "out", tmp_path / "out", ignore=shutil.ignore_patterns("group_*"))
    words = [str(made / "data"), str(tmp_path / "out"), "group", "--pool"]
    words += ["--config", str(made / "quick.toml")]
    command = [sys.executable, "-m", "bids_speechdecode", *words]
    first = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 240
    while not list((tmp_path / "out").rglob("*.checkpoint")) and time.monotonic() < limit:
        time.sleep(0.02)
    first.kill()
    first.wait()
    two = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = "".join(process.communicate()[1] for process in two)
    assert [process.returncode for process in two] == [0, 0]
    assert len(re.findall(r"^pool: .* done in", said, re.MULTILINE)) == 4
    for path in (made / "out").glob("group_*_model.safetensors"):
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()


@pytest.mark.slow
def test_left_out_participant_changes_no_bit(made: Path, tmp_path: Path) -> None:
    """The honest test of leaving out: other data of that person, the same checkpoint."""
    simulate_dataset(tmp_path / "data", preset="tiny", participants=3)
    for path in (tmp_path / "data" / "sub-sim03").rglob("*_ieeg.eeg"):
        noise = np.random.default_rng(0).permutation(np.fromfile(path, dtype="<i2"))
        noise.tofile(path)
    (tmp_path / "quick.toml").write_text(QUICK)
    assert run(tmp_path, "participant", *PREPARE) == 0
    assert run(tmp_path, "group", "--pool") == 0
    same, other = (
        checkpoint(made, desc).read_bytes() == checkpoint(tmp_path, desc).read_bytes()
        for desc in ("pooledWithoutsim03", "pooled")
    )
    assert same
    assert not other


@pytest.mark.slow
def test_who_lacks_which_step_is_said(three: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With 20 participants, 'something is missing' costs a morning."""
    assert run(three, "group", "--pool", "--pooling", "frames", "--dry-run") == 0
    assert "0 of 4 checkpoints are there" in capsys.readouterr().out
    assert run(three, "group", "--pool", "--pooling", "frames") == 66
    told = capsys.readouterr().err
    assert "sub-sim01: features; sub-sim02: features; sub-sim03: features" in told


@pytest.mark.slow
def test_training_from_the_pooled_checkpoint(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`pooled` is the one without the participant; a file with them is used and told."""
    who = ("--participant-label", "sim01")
    assert run(made, "participant", *who, "--init-from", "pooled", *TRAIN) == 0
    start = model_sidecar(made, "sim01", "pretrained")["InitFrom"]
    assert start["File"] == checkpoint(made, "pooledWithoutsim01").name
    assert start["Participants"] == ["sub-sim02", "sub-sim03"]
    assert start["HasSeenParticipant"] is False
    report = (made / "out" / "sub-sim01.html").read_text()
    assert "2 participants (sub-sim02, sub-sim03), this one not among them" in report
    capsys.readouterr()
    assert run(made, "participant", *who, "--init-from", "pooled", *TRAIN) == 0
    assert "pretrained skipped (current)" in capsys.readouterr().err

    path = str(checkpoint(made, "pooled"))
    assert run(made, "participant", *who, "--init-from", path, *TRAIN) == 0
    assert model_sidecar(made, "sim01", "pretrained")["InitFrom"]["HasSeenParticipant"] is True
    assert "does not show a transfer" in (made / "out" / "sub-sim01.html").read_text()


@pytest.mark.slow
def test_without_ambient_recordings_finetuning_starts_there(made: Path) -> None:
    """A patient with an hour of task and nothing else is whom a pooled encoder is for."""
    words = ("--participant-label", "sim02", "--pretrain-task", "none", "--init-from", "pooled")
    assert run(made, "participant", *words, *PREPARE) == 0
    assert run(made, "participant", *words, *TRAIN) == 0
    about = model_sidecar(made, "sim02", "finetuned")["InitFrom"]
    assert about["Participants"] == ["sub-sim01", "sub-sim03"]
    assert "InitFrom" not in model_sidecar(made, "sim02", "taskonly")
    scores = read_table(next((made / "out").rglob("sub-sim02_*_desc-conditions_scores.tsv")))
    assert {"finetuned", "taskonly"} <= set(scores["condition"])
    assert "pretrained" not in set(scores["condition"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "told"),
    [(["--pooling", "frames"], "another target"), (["--encoder", "paper"], "preset small")],
    ids=["target", "shape"],
)
def test_what_does_not_fit_is_refused(
    made: Path, words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before it was refused, features of another target would have been matched to this body."""
    who = ("--participant-label", "sim03", "--init-from", "pooled")
    assert run(made, "participant", *who, *words, "--steps", "pretrain") == 64
    assert told in capsys.readouterr().err


@pytest.mark.slow
def test_experiment_compares_the_four_starts(made: Path) -> None:
    """Leave-one-participant-out transfer as a row, on the windows of all other rows."""
    words = ("--participant-label", "sim03", "--experiments", "pooled")
    steps = ("--steps", "pretrain,finetune,experiments,report")
    assert run(made, "participant", *words, *steps) == 0
    folder = made / "out" / "sub-sim03" / "ieeg"
    cells = read_table(next(folder.glob("*_desc-pooled_scores.tsv")))
    assert list(cells["pretraining"]) == ["none", "others", "own", "both"]
    assert cells["n_test_windows"].nunique() == 1
    findings = read_table(next(folder.glob("*_desc-pooledFindings_scores.tsv")))
    assert len(findings) == 4
    rank = dict(zip(cells["pretraining"], cells["relative_rank"], strict=True))
    assert findings["effect"][0] == pytest.approx(rank["others"] - rank["none"], abs=1e-4)
    models = made / "out" / "experiments" / "sub-sim03"
    starts = [read_sidecar(p).get("InitFrom") for p in models.glob("*_model.safetensors")]
    starts = [s for s in starts if s]
    assert len(starts) == 2  # of "others" and of the pretraining of "both"
    assert all("sub-sim03" not in s["Participants"] for s in starts)
    assert "Pretraining on other participants" in (made / "out" / "sub-sim03.html").read_text()


@pytest.mark.slow
def test_experiment_without_a_checkpoint_is_left_out_of_all(
    three: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`all` must go on; asked for by name it must stop."""
    who = [
        str(three / "data"),
        str(tmp_path / "out"),
        "participant",
        "--participant-label",
        "sim01",
    ]
    config = ["--config", str(three / "quick.toml"), "--dry-run"]
    assert main([*who, *config, "--experiments", "all"]) == 0
    told = capsys.readouterr()
    assert "experiment pooled is left out: there is no pooled checkpoint" in told.err
    assert main([*who, *config, "--experiments", "pooled"]) == 66
    assert "group level with --pool" in capsys.readouterr().err


def test_pool_is_of_the_group_level(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), str(tmp_path / "out"), "participant", "--pool"]) == 64
    assert "--pool is of the group level" in capsys.readouterr().err
