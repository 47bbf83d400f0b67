"""Spatial attention: maps over positions, other montages, and a place that is found by training."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from bids_speechdecode.config import EncoderConfig, TrainingConfig
from bids_speechdecode.decoding.contrastive import relative_ranks
from bids_speechdecode.decoding.encoder import (
    ConvEncoder,
    Encoder,
    EncoderSpec,
    build_encoder,
    load_encoder,
    save_encoder,
)
from bids_speechdecode.decoding.spatial import (
    BOX_MM,
    Positions,
    SpatialAttention,
    as_positions,
    fourier_features,
    wave_vectors,
)
from bids_speechdecode.decoding.training import embed_windows, train
from bids_speechdecode.decoding.windows import WindowSet
from bids_speechdecode.errors import DataError, UsageError
from bids_speechdecode.steps import pretrain as pretraining
from bids_speechdecode.steps.pretrain import new_encoder


def _positions(n_channels: int, seed: int = 0) -> Positions:
    """Return places all over the MNI152 brain."""
    generator = np.random.default_rng(seed)
    return as_positions(generator.uniform((-72, -106, -72), (72, 72, 82), (n_channels, 3)))


def _spec(positions: Positions, **changes: object) -> EncoderSpec:
    spec = EncoderSpec("conv", len(positions), 40, 7, preset="small", spatial="attention")
    return dataclasses.replace(spec, positions_mm=positions, **changes)  # type: ignore[arg-type]


def _signal(n_channels: int, n_windows: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(n_windows, n_channels, 40, generator=generator)


def test_attention_is_its_equation() -> None:
    """Softmax over channels of a sum of cosines and sines, by a slow loop over waves."""
    positions = _positions(5)
    attention = SpatialAttention(positions, 3)
    x = _signal(5)
    waves = wave_vectors().tolist()
    for o, output in enumerate(attention(x).unbind(1)):
        z = attention.coefficients[o].tolist()
        real, imaginary = z[: len(waves)], z[len(waves) :]
        maps = []
        for p in positions:
            assert p is not None
            phases = [2 * math.pi * float(np.dot(w, p)) / BOX_MM for w in waves]
            terms = zip(real, imaginary, phases, strict=True)
            maps.append(sum(a * math.cos(f) + b * math.sin(f) for a, b, f in terms))
        total = sum(math.exp(a) for a in maps)
        expected = sum(math.exp(a) / total * x[:, c] for c, a in enumerate(maps))
        torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-4)


def test_waves_are_each_there_once() -> None:
    """A wave beside its mirror image, or the constant, would be coefficients for nothing."""
    waves = {tuple(wave) for wave in wave_vectors().tolist()}
    cube = itertools.product(range(-6, 7), repeat=3)
    ball = [w for w in cube if 0 < math.hypot(*w) <= 6]
    assert len(waves) == len(ball) / 2 == 462
    assert all((w in waves) != (tuple(-k for k in w) in waves) for w in ball)


def test_features_belong_to_a_place_and_not_to_a_montage() -> None:
    """Weights can only be shared between participants if a place has the same features in all."""
    few, many = _positions(3), _positions(30)
    assert few == many[:3]
    torch.testing.assert_close(fourier_features(few), fourier_features(many)[:3])


def test_the_order_of_the_channels_does_not_matter() -> None:
    """Files list their channels in any order."""
    positions, order = _positions(9), torch.tensor([4, 1, 8, 0, 2, 7, 3, 6, 5])
    encoder = build_encoder(_spec(positions), seed=1)  # training: batch norm magnifies differences
    other = encoder.with_montage(tuple(positions[i] for i in order))
    x = _signal(9)
    torch.testing.assert_close(other(x[:, order]), encoder(x), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(other(x), encoder(x), atol=1e-2, rtol=0.1)


@pytest.mark.parametrize("head", [None, 3])
def test_channels_without_position_have_no_weight(head: int | None) -> None:
    """Not little weight but none: a loud reference channel must not leak in."""
    positions = _positions(6)
    encoder = build_encoder(_spec(positions, head=head), seed=1)
    other = encoder.with_montage((None, *positions, None))
    assert torch.count_nonzero(other.mixing_weights()[:, [0, -1]]) == 0
    x, unlocalised = _signal(6), torch.full((4, 1, 40), 1e6)
    more = torch.cat([unlocalised, x, unlocalised], 1)
    torch.testing.assert_close(other(more), encoder(x), atol=1e-5, rtol=1e-4)


def test_both_parts_are_the_encoder_and_the_mix_is_affine() -> None:
    """Contributions exchange one electrode behind the attention as they do without it."""
    encoder = build_encoder(_spec((*_positions(6), None)), seed=1).eval()
    assert isinstance(encoder, ConvEncoder)
    x, dx = _signal(7), torch.zeros(4, 7, 40)
    dx[:, 2] = _signal(1)[:, 0]
    weights = encoder.mixing_weights()
    torch.testing.assert_close(encoder.mix(x + dx), encoder.mix(x) + weights @ dx)
    torch.testing.assert_close(encoder.mix(x), encoder.project(encoder.spatial(x)))
    assert torch.equal(encoder.encode(encoder.mix(x)), encoder(x))


def test_file_keeps_the_positions(tmp_path: Path) -> None:
    """A model must be read where there is no electrodes.tsv; the header must be JSON for all."""
    encoder = build_encoder(_spec((*_positions(4), None), head=3), seed=1).eval()
    path = tmp_path / "model.safetensors"
    save_encoder(path, encoder)
    loaded = load_encoder(path)
    assert loaded.spec == encoder.spec
    assert torch.equal(loaded(_signal(5)), encoder(_signal(5)))
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["encoder"], parse_constant=pytest.fail)
    assert header["positions_mm"][-1] is None


def test_specification_without_spatial_settings_is_read() -> None:
    """Files from before there was a choice are encoders without attention."""
    text = '{"kind": "conv", "n_channels": 5, "n_samples": 40, "dimension": 7}'
    assert EncoderSpec.from_json(text) == EncoderSpec("conv", 5, 40, 7)


def test_positions_that_do_not_fit_are_refused() -> None:
    """Silence would be worse: NaN weights, or a contact read at the other side of the head."""
    with pytest.raises(DataError, match="no channel has one"):
        build_encoder(_spec((None, None)))
    with pytest.raises(DataError, match="outside every head"):
        build_encoder(_spec(((0.0, 0.0, 129.0), None)))
    for n_channels, positions in ((3, _positions(2)), (3, None)):
        with pytest.raises(DataError, match="do not fit"):
            build_encoder(
                dataclasses.replace(
                    _spec(_positions(3)), n_channels=n_channels, positions_mm=positions
                )
            )
    with pytest.raises(UsageError):
        build_encoder(EncoderSpec("conv", 5, 40, 7, preset="small")).with_montage(_positions(5))


def test_positions_from_an_array() -> None:
    """A row with any gap is a contact without position."""
    rows = np.array([[1.0, 2.0, 3.0], [1.0, np.nan, 3.0]])
    assert as_positions(rows) == ((1.0, 2.0, 3.0), None)


N_SAMPLES, N_SOURCES = 20, 6


def _planted(montage: Positions, n_windows: int, seed: int) -> WindowSet:
    """Return windows in noise to which six places of 20 mm width give one target each."""
    places = torch.tensor(_positions(N_SOURCES, seed=5))
    reach = torch.exp(-torch.cdist(places, torch.tensor(montage)).square() / (2 * 20**2))
    generator = torch.Generator().manual_seed(seed)
    sound = torch.randn(n_windows, N_SOURCES, generator=generator)
    noise = torch.randn(n_windows * N_SAMPLES, len(montage), generator=generator)
    signal = 3 * (sound @ reach).repeat_interleave(N_SAMPLES, 0) + noise
    return WindowSet(signal, torch.arange(n_windows) * N_SAMPLES, N_SAMPLES, sound)


def _trained(spec: EncoderSpec, montage: Positions, max_epochs: int) -> Encoder:
    settings = TrainingConfig(batch_size=64, learning_rate=3e-3, max_epochs=max_epochs)
    encoder = build_encoder(spec, seed=7)
    windows = _planted(montage, 300, 1), _planted(montage, 60, 2)
    train(encoder, *windows, settings, seed=3, device="cpu")
    return encoder


def test_training_finds_the_places() -> None:
    """Planted sources are found, and found by place: other contacts near them are read as well."""
    montage, other = _positions(100, seed=1), _positions(100, seed=2)
    spec = _spec(montage, n_samples=N_SAMPLES, dimension=N_SOURCES)
    encoder = _trained(spec, montage, 10)

    def rank(positions: Positions, claimed: Positions | None = None) -> float:
        windows = _planted(positions, 100, 3)
        brain = embed_windows(encoder.with_montage(claimed or positions), windows)
        return float(relative_ranks(brain, windows.targets).relative.mean())

    assert rank(montage) < 0.1
    assert rank(other) < 0.25
    assert rank(other, claimed=other[::-1]) > 0.35  # contacts are not where they claim to be


def test_same_seed_same_maps() -> None:
    """The coefficients get gradients, and the same ones each time."""
    montage = _positions(20)
    spec = _spec(montage, n_samples=N_SAMPLES, dimension=N_SOURCES)
    encoders = [build_encoder(spec, seed=7), *(_trained(spec, montage, 1) for _ in range(2))]
    start, a, b = (encoder.get_parameter("spatial.coefficients") for encoder in encoders)
    assert torch.equal(a, b)
    assert (a != start).all()


def test_setting_reaches_the_encoder_but_not_the_linear_baseline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An option that changes nothing is worse than none; the baseline must stay what it is."""
    signal = SimpleNamespace(shape=(400, 3))
    loaded: Any = SimpleNamespace(signal=signal, n_samples=40, targets=torch.zeros(10, 7))
    positions = np.array([[1.0, 2.0, 3.0], [np.nan] * 3, [4.0, 5.0, 6.0]])
    monkeypatch.setattr(pretraining, "model_positions", lambda _: positions)
    for spatial, kind, expected in (
        ("attention", "conv", as_positions(positions)),
        ("none", "conv", None),
        ("attention", "linear", None),
    ):
        encoder = EncoderConfig(preset="small", spatial=spatial)  # type: ignore[arg-type]
        config = SimpleNamespace(encoder=encoder, run=SimpleNamespace(seed=0))
        context: Any = SimpleNamespace(config=config)
        built = new_encoder(context, loaded, kind)  # type: ignore[arg-type]
        assert built.spec.positions_mm == expected
    config.encoder = EncoderConfig(preset="small", spatial="attention")
    monkeypatch.setattr(pretraining, "model_positions", lambda _: np.full((3, 3), np.nan))
    with pytest.raises(DataError):
        new_encoder(context, loaded)
