"""Embeddings that do not tell the day, and a training that is as it was without them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bids_speechdecode.config import TrainingConfig
from bids_speechdecode.decoding.adversarial import DayAdversary
from bids_speechdecode.decoding.encoder import build_encoder
from bids_speechdecode.decoding.encoder_spec import EncoderSpec
from bids_speechdecode.decoding.training import Epoch, embed_windows, train
from bids_speechdecode.decoding.windows import WindowSet

N, CHANNELS, SAMPLES, DIMENSION = 160, 6, 40, 8
SETTINGS = TrainingConfig(batch_size=40, max_epochs=6, patience=6, learning_rate=3e-3)
DAYS = torch.arange(N) % 2


def windows(seed: int, days: torch.Tensor = DAYS) -> WindowSet:
    """Return windows whose signal follows the target, and whose first channels tell the day."""
    make = torch.Generator().manual_seed(seed)
    targets = torch.randn(N, DIMENSION, generator=make)
    mixing = torch.randn(DIMENSION, CHANNELS, generator=torch.Generator().manual_seed(99))
    signal = torch.randn(N, SAMPLES, CHANNELS, generator=make) + (targets @ mixing)[:, None]
    signal[:, :, 0] += 6.0 * days[:, None]
    starts = torch.arange(N) * SAMPLES
    return WindowSet(signal.reshape(-1, CHANNELS), starts, SAMPLES, targets)


def encoder():
    spec = EncoderSpec("conv", CHANNELS, SAMPLES, DIMENSION, preset="small", dropout=0.1)
    return build_encoder(spec, seed=1)


def adversary(weight: float = 1.0) -> DayAdversary:
    return DayAdversary(DAYS, DIMENSION, weight, seed=5)


def run(hostile: DayAdversary | None, **options: object):
    model = encoder()
    how = {"settings": SETTINGS, **options}
    settings = how.pop("settings")
    history = train(  # type: ignore[arg-type]
        model, windows(1), windows(2), settings, seed=3, device="cpu", adversary=hostile, **how
    )
    return model, history


def test_the_gradient_is_turned_round_for_the_encoder_alone() -> None:
    """The oracle is the same classifier without the reversal."""
    hostile = adversary(0.5)
    embedding = torch.randn(N, DIMENSION, requires_grad=True)
    index = torch.arange(N)
    hostile(embedding, index).backward()
    turned, own = embedding.grad.clone(), hostile.classify[0].weight.grad.clone()
    embedding.grad = None
    hostile.zero_grad()
    direction = torch.nn.functional.normalize(embedding, dim=-1) * DIMENSION**0.5
    torch.nn.functional.cross_entropy(hostile.classify(direction), DAYS).backward()
    assert torch.allclose(turned, -0.5 * embedding.grad)
    assert torch.allclose(own, hostile.classify[0].weight.grad)


def day_error(model) -> float:
    """Return the share of other windows whose day a fresh linear classifier does not tell."""
    known, new = (embed_windows(model, windows(s)) for s in (1, 4))
    known, new = (e / np.linalg.norm(e, axis=1, keepdims=True) for e in (known, new))
    design = np.column_stack([known, np.ones(N)])
    weights = np.linalg.lstsq(design, 2.0 * DAYS.numpy() - 1, rcond=None)[0]
    told = np.column_stack([new, np.ones(N)]) @ weights > 0
    return float((told != DAYS.numpy().astype(bool)).mean())


@pytest.mark.slow
def test_embeddings_forget_the_day() -> None:
    long = replace(SETTINGS, max_epochs=40, patience=40)
    plain, _ = run(None, settings=long)
    hostile, _ = run(adversary(), settings=long)
    assert day_error(hostile) > day_error(plain)


def test_a_resumed_training_equals_one_that_was_not_interrupted(tmp_path: Path) -> None:
    """The classifier learns along; without its weights in the checkpoint all would differ."""

    def stop(epoch: Epoch) -> None:
        if epoch.epoch == 3:
            raise KeyboardInterrupt

    whole, _ = run(adversary())
    path = tmp_path / "checkpoint"
    with pytest.raises(KeyboardInterrupt):
        run(adversary(), checkpoint=path, on_epoch=stop)
    resumed, history = run(adversary(), checkpoint=path)
    assert history.epochs[-1].epoch == SETTINGS.max_epochs
    states = whole.state_dict(), resumed.state_dict()
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


def test_a_checkpoint_of_another_weight_is_not_gone_on_from(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    run(adversary(), checkpoint=path)
    fresh, _ = run(adversary(0.1))
    other, _ = run(adversary(0.1), checkpoint=path)
    states = fresh.state_dict(), other.state_dict()
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


def test_without_weight_the_encoder_learns_as_without_classifier() -> None:
    """Its first weights, its draws and its gradient leave nothing behind."""
    torch.manual_seed(0)
    before = torch.get_rng_state()
    hostile = adversary(0.0)
    assert torch.equal(before, torch.get_rng_state())
    # Not clipped together with the classifier's gradient.
    free = replace(SETTINGS, clip_norm=1e9)
    plain, _ = run(None, settings=free)
    with_it, _ = run(hostile, settings=free)
    states = plain.state_dict(), with_it.state_dict()
    assert all(torch.allclose(states[0][k], states[1][k], atol=1e-6) for k in states[0])
