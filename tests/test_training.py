"""Training: it learns what is there, nothing else, and no interruption changes a bit."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from bids_speechdecode.config import TrainingConfig
from bids_speechdecode.decoding import checkpoint as checkpoint_module
from bids_speechdecode.decoding.checkpoint import read_state, write_state
from bids_speechdecode.decoding.contrastive import relative_ranks
from bids_speechdecode.decoding.encoder import Encoder, EncoderSpec, WithHead, build_encoder
from bids_speechdecode.decoding.training import Epoch, History, embed_windows, train
from bids_speechdecode.decoding.windows import WindowSet
from bids_speechdecode.errors import CannotWriteError, DataError, UsageError

N_CHANNELS, N_SAMPLES, DIMENSION = 8, 40, 12
SETTINGS = TrainingConfig(batch_size=32, learning_rate=2e-3, max_epochs=4, patience=4)


class Interrupted(BaseException):
    """Stands for a kill: not an Exception, so that nothing may swallow it."""


def _windows(
    n: int, *, strength: float = 1.0, n_frames: int | None = None, seed: int = 0
) -> WindowSet:
    """Windows whose signal carries their targets, times `strength`, in noise."""
    rng = np.random.default_rng(seed)
    frames = n_frames or 1
    sound = rng.standard_normal((n, frames, DIMENSION)).astype(np.float32)
    mixing = np.random.default_rng(99).standard_normal((DIMENSION, N_CHANNELS)) / 3
    carried = np.repeat(sound @ mixing, N_SAMPLES // frames, axis=1)  # (n, T, C)
    signal = strength * carried + rng.standard_normal((n, N_SAMPLES, N_CHANNELS))
    return WindowSet(
        torch.from_numpy(signal.reshape(-1, N_CHANNELS).astype(np.float32)),
        torch.arange(n) * N_SAMPLES,
        N_SAMPLES,
        torch.from_numpy(sound if n_frames else sound[:, 0]),
    )


def _encoder(kind: str = "conv", dropout: float = 0.2, n_frames: int | None = None) -> Encoder:
    spec = EncoderSpec(
        kind,  # type: ignore[arg-type]
        N_CHANNELS,
        N_SAMPLES,
        DIMENSION,
        n_frames=n_frames,
        preset="small",
        dropout=dropout,
    )
    return build_encoder(spec, seed=7)


def _fit(encoder: Encoder, training: WindowSet, val: WindowSet, **options: object) -> History:
    settings = options.pop("settings", SETTINGS)
    return train(encoder, training, val, settings, **{"seed": 3, "device": "cpu", **options})  # type: ignore[arg-type]


def _test_rank(encoder: Encoder, windows: WindowSet) -> np.ndarray:
    return relative_ranks(embed_windows(encoder, windows), windows.targets).relative


def _same_weights(a: Encoder, b: Encoder) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def _without_seconds(history: History) -> list[str]:
    return [repr(replace(epoch, seconds=0.0)) for epoch in history.epochs]


@pytest.mark.parametrize("kind", ["conv", "linear"])
@pytest.mark.parametrize("n_frames", [None, 10])
def test_planted_signal_is_found(kind: str, n_frames: int | None) -> None:
    """A decoder that misses a signal that is plainly there is broken."""
    data = [_windows(n, n_frames=n_frames, seed=s) for s, n in ((1, 300), (2, 60), (3, 80))]
    encoder = _encoder(kind, dropout=0.0, n_frames=n_frames)
    history = _fit(encoder, data[0], data[1], settings=replace(SETTINGS, max_epochs=12))
    assert _test_rank(encoder, data[2]).mean() < 0.1
    assert history.best.val_rank < 0.1
    assert history.epochs[-1].train_loss < history.epochs[1].train_loss


def test_noise_is_at_chance() -> None:
    """What is decoded from noise must be 0.5 within its own interval, after all the fitting."""
    data = [_windows(n, strength=0.0, seed=s) for s, n in ((1, 300), (2, 60), (3, 400))]
    encoder = _encoder()
    _fit(encoder, data[0], data[1])
    ranks = _test_rank(encoder, data[2])
    assert abs(ranks.mean() - 0.5) < 2.6 * ranks.std() / np.sqrt(len(ranks))


def test_shuffled_pairing_destroys_the_score() -> None:
    """Trained on wrong pairs, the same data and loop must find nothing in right ones."""
    training, val, test = (_windows(n, seed=s) for s, n in ((1, 400), (2, 60), (3, 400)))
    shuffle = torch.randperm(len(training), generator=torch.Generator().manual_seed(0))
    encoder = _encoder("linear")
    _fit(encoder, replace(training, targets=training.targets[shuffle]), _shuffled(val))
    ranks = _test_rank(encoder, test)
    assert abs(ranks.mean() - 0.5) < 0.1
    right = _encoder("linear")
    _fit(right, training, val)
    assert _test_rank(right, test).mean() < 0.1


def _shuffled(windows: WindowSet) -> WindowSet:
    return replace(windows, targets=windows.targets.roll(7, 0))


def test_test_windows_never_touch_the_weights() -> None:
    """Leakage: another test signal and other test sounds leave every weight bit-identical."""
    data = _windows(200)
    parts = [torch.arange(0, 120), torch.arange(120, 150), torch.arange(150, 200)]
    encoders = []
    for change in (0.0, 5.0):
        signal, targets = data.signal.clone(), data.targets.clone()
        signal[150 * N_SAMPLES :] += change
        targets[150:] *= 1.0 + change
        changed = replace(data, signal=signal, targets=targets)
        encoder = _encoder()
        _fit(encoder, changed.subset(parts[0]), changed.subset(parts[1]))
        encoders.append(encoder)
    assert _same_weights(*encoders)


def test_same_seed_same_bytes_and_other_seed_other_bytes(tmp_path: Path) -> None:
    """Repeatable to the bit, whatever was drawn before, and the seed does something."""
    encoders = [_encoder() for _ in range(3)]
    for encoder, seed, noise in zip(encoders, (3, 3, 4), (1, 2, 1), strict=True):
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        _fit(encoder, _windows(100), _windows(30, seed=1), seed=seed)
        assert torch.equal(before, torch.get_rng_state())
    assert _same_weights(encoders[0], encoders[1])
    assert not _same_weights(encoders[0], encoders[2])


@pytest.mark.parametrize("schedule", ["constant", "onecycle"])
@pytest.mark.parametrize("kill_after", [1, 2, 3])
def test_interrupted_after_an_epoch_equals_uninterrupted(
    tmp_path: Path, kill_after: int, schedule: str
) -> None:
    """A job that is requeued must give the numbers of one that was not, bit for bit."""
    settings = replace(SETTINGS, schedule=schedule)
    training, val = _windows(100), _windows(30, seed=1)
    whole, resumed = _encoder(), _encoder()
    expected = _fit(whole, training, val, settings=settings)

    def kill(epoch: Epoch) -> None:
        if epoch.epoch == kill_after:
            raise Interrupted

    path = tmp_path / "model.checkpoint"
    with pytest.raises(Interrupted):
        _fit(_encoder(), training, val, settings=settings, checkpoint=path, on_epoch=kill)
    seen: list[int] = []
    history = _fit(
        resumed,
        training,
        val,
        settings=settings,
        checkpoint=path,
        on_epoch=lambda e: seen.append(e.epoch),
    )
    assert seen == list(range(kill_after + 1, 5))
    assert _without_seconds(history) == _without_seconds(expected)
    assert _same_weights(whole, resumed)


def test_interrupted_within_an_epoch_equals_uninterrupted(tmp_path: Path) -> None:
    """Kills come between two batches too; the half epoch is done again from its start."""
    training, val = _windows(100), _windows(30, seed=1)
    whole, killed, resumed = _encoder(), _encoder(), _encoder()
    expected = _fit(whole, training, val)
    n_calls = 0

    def kill(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        nonlocal n_calls
        n_calls += module.training
        if n_calls == 11:  # the third batch of the third epoch
            raise Interrupted

    killed.register_forward_pre_hook(kill)
    path = tmp_path / "model.checkpoint"
    with pytest.raises(Interrupted):
        _fit(killed, training, val, checkpoint=path)
    history = _fit(resumed, training, val, checkpoint=path)
    assert _without_seconds(history) == _without_seconds(expected)
    assert _same_weights(whole, resumed)


def test_killed_while_writing_keeps_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a file under the final name would lose a week of pretraining."""
    training, val = _windows(100), _windows(30, seed=1)
    whole, resumed = _encoder(), _encoder()
    expected = _fit(whole, training, val)
    path = tmp_path / "model.checkpoint"
    n_writes = 0
    write = checkpoint_module.save_file

    def kill(tensors: dict[str, torch.Tensor], name: Path, header: dict[str, str]) -> None:
        nonlocal n_writes
        n_writes += 1
        write(tensors, name, header)
        if n_writes == 3:
            name.write_bytes(name.read_bytes()[:1000])
            raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_module, "save_file", kill)
        with pytest.raises(Interrupted):
            _fit(_encoder(), training, val, checkpoint=path)
    history = _fit(resumed, training, val, checkpoint=path)
    assert _without_seconds(history) == _without_seconds(expected)
    assert _same_weights(whole, resumed)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_finished_training_is_not_done_again(tmp_path: Path) -> None:
    """Killed after the last epoch and before the model was written: its weights are there."""
    training, val = _windows(100), _windows(30, seed=1)
    first, second = _encoder(), _encoder()
    path = tmp_path / "model.checkpoint"
    _fit(first, training, val, checkpoint=path)
    epochs: list[Epoch] = []
    _fit(second, training, val, checkpoint=path, on_epoch=epochs.append)
    assert epochs == []
    assert _same_weights(first, second)


@pytest.mark.parametrize("change", ["settings", "seed", "targets", "encoder", "broken file"])
def test_a_checkpoint_of_something_else_is_not_resumed(tmp_path: Path, change: str) -> None:
    """Old weights under new settings would be a result that nobody asked for."""
    training, val = _windows(100), _windows(30, seed=1)
    path = tmp_path / "model.checkpoint"
    _fit(_encoder(), training, val, checkpoint=path)
    options: dict[str, object] = {"seed": 3, "settings": SETTINGS}
    fresh = lambda: _encoder()  # noqa: E731
    if change == "settings":
        options["settings"] = replace(SETTINGS, learning_rate=1e-3)
    elif change == "seed":
        options["seed"] = 4
    elif change == "targets":
        training = replace(training, targets=training.targets * 2 + 1)
    elif change == "encoder":
        fresh = lambda: build_encoder(_encoder().spec, seed=8)  # noqa: E731
    else:
        path.write_bytes(b"\x00" * 100)
    expected, encoder = fresh(), fresh()
    _fit(expected, training, val, **options)
    history = _fit(encoder, training, val, checkpoint=path, **options)
    assert len(history.epochs) == 5
    assert _same_weights(expected, encoder)


def test_best_weights_are_restored() -> None:
    """With a learning rate that wrecks the encoder, the weights kept are not the last ones."""
    training, val = _windows(100), _windows(60, seed=1)
    encoder = _encoder("linear")
    _fit(encoder, training, val)
    before = _test_rank(encoder, val).mean()
    wreck = replace(SETTINGS, learning_rate=10.0, max_epochs=6, patience=3)
    noise = _shuffled(training)
    history = _fit(encoder, noise, val, settings=wreck)
    assert _test_rank(encoder, val).mean() == pytest.approx(history.best.val_rank)
    assert history.best.val_rank <= before
    assert history.epochs[-1].val_rank > history.best.val_rank


def test_early_stopping_waits_for_its_patience() -> None:
    """It stops that many epochs after the best one, not later and not earlier."""
    wreck = replace(SETTINGS, learning_rate=10.0, max_epochs=50, patience=3)
    history = _fit(_encoder("linear"), _windows(100), _windows(60, seed=1), settings=wreck)
    assert history.epochs[-1].epoch == history.best.epoch + 3 < 50


def test_frozen_parts_keep_every_bit() -> None:
    """A frozen encoder whose batch statistics drift is not frozen."""
    encoder = _encoder()
    _fit(encoder, _windows(100), _windows(30, seed=1))
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    model = WithHead(encoder, DIMENSION)
    _fit(model, _windows(100, seed=5), _windows(60, seed=6), frozen=("encoder",))
    assert all(torch.equal(v, before[k]) for k, v in model.encoder.state_dict().items())
    assert not torch.equal(model.head.weight, torch.eye(DIMENSION))
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("n", [2, 5, 33])
def test_few_windows_train(n: int) -> None:
    """Fewer windows than a batch, or one more than a batch, must neither crash nor be dropped."""
    history = _fit(_encoder(), _windows(n), _windows(4, seed=1))
    assert np.isfinite(history.to_frame()["train_loss"][1:]).all()
    assert history.to_frame().columns.tolist() == [
        "epoch",
        "train_loss",
        "val_loss",
        "val_rank",
        "learning_rate",
        "seconds",
    ]


def test_one_window_is_too_few() -> None:
    """Nothing to compare it with."""
    with pytest.raises(DataError, match="validation"):
        _fit(_encoder(), _windows(10), _windows(1, seed=1))


def test_nan_in_the_signal_stops_the_training() -> None:
    """Weights that are NaN must never be written or scored."""
    training = _windows(40)
    training.signal[100, 2] = torch.nan
    with pytest.raises(DataError, match="not finite"):
        _fit(_encoder(), training, _windows(10, seed=1))


def test_bfloat16_trains_and_half_on_a_cpu_is_refused() -> None:
    """Both precisions in one process, and a message instead of a crash in a kernel."""
    data = [_windows(n, seed=s) for s, n in ((1, 300), (2, 60))]
    history = _fit(_encoder("linear"), *data, precision="bf16")
    assert history.best.val_rank < 0.1
    assert _fit(_encoder("linear"), *data).best.val_rank < 0.1
    with pytest.raises(UsageError, match="GPU"):
        _fit(_encoder("linear"), *data, precision="fp16")


def test_embedding_leaves_the_encoder_alone() -> None:
    """No dropout, no batch statistics, and the same embedding in any batch size."""
    encoder, windows = _encoder(dropout=0.5).train(), _windows(30)
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    whole, parts = embed_windows(encoder, windows), embed_windows(encoder, windows, 7)
    np.testing.assert_allclose(whole, parts, atol=1e-5)
    assert encoder.training
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())


def test_states_come_back_bit_for_bit(tmp_path: Path) -> None:
    """Integer keys, floats that decimals do not hold, NaN, None and nested lists."""
    state = {
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}, 5: {}}, "groups": [{"lr": 0.1}]},
        "rate": 1 / 3,
        "none": None,
        "random": [torch.arange(4, dtype=torch.uint8)],
        "shared": [torch.ones(3)] * 2,
    }
    path = tmp_path / "state"
    write_state(path, state)
    back = read_state(path)
    assert back is not None
    assert list(back["optimizer"]["state"]) == [0, 5]
    assert back["rate"] == 1 / 3
    assert back["none"] is None
    assert torch.equal(back["random"][0], state["random"][0])  # type: ignore[index]
    torch.save(state, path)
    assert read_state(path) is None  # a pickle is never opened


def test_unwritable_checkpoint_is_said(tmp_path: Path) -> None:
    """Exit status 73, at the first epoch and not after the last."""
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotWriteError):
        _fit(_encoder(), _windows(40), _windows(10), checkpoint=tmp_path / "file" / "x")


_SCRIPT = """
import os, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_training as t
from bids_speechdecode.decoding.encoder import save_encoder
encoder = t._encoder(dropout=0.0)
out = Path({out!r})
history = t._fit(encoder, t._windows(200), t._windows(40, seed=1), checkpoint=out / "checkpoint")
rank = os.environ["RANK"]
save_encoder(out / (rank + ".safetensors"), encoder)
history.to_frame().to_csv(out / (rank + ".csv"))
t.torch.distributed.destroy_process_group()
"""


def test_torchrun_with_two_processes_trains_as_one(tmp_path: Path) -> None:
    """The loop through Accelerate: equal weights in both, and the losses of one process."""
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT.format(tests=str(Path(__file__).parent), out=str(tmp_path)))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*torchrun, "--nproc-per-node=2", str(script)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    expected = _fit(_encoder(dropout=0.0), _windows(200), _windows(40, seed=1)).to_frame()
    zero, other = (pd.read_csv(tmp_path / f"{rank}.csv") for rank in range(2))
    assert (tmp_path / "0.safetensors").read_bytes() == (tmp_path / "1.safetensors").read_bytes()
    pd.testing.assert_frame_equal(zero.drop(columns="seconds"), other.drop(columns="seconds"))
    # Sums in another order grow through Adam, so the epochs drift apart a little. (Ranks are
    # counts, which jump by whole places, and are left to the losses.)
    for column in ("train_loss", "val_loss"):
        np.testing.assert_allclose(zero[column], expected[column], rtol=0.01)
    np.testing.assert_allclose(zero["train_loss"][1], expected["train_loss"][1], rtol=1e-4)


def test_folder_that_another_process_removes_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever ends first removes the folder of checkpoints, if it happens to be empty."""
    path, save, calls = tmp_path / "shared" / "state", checkpoint_module.save_file, []

    def save_after_removal(*words: object) -> None:
        calls.append(words)
        if len(calls) == 1:
            path.parent.rmdir()
        save(*words)

    monkeypatch.setattr(checkpoint_module, "save_file", save_after_removal)
    write_state(path, {"a": 1})
    assert read_state(path) == {"a": 1}
