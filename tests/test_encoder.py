"""Encoders: the published size, the right shapes, frames in their place, and a safe file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from bids_speechdecode.decoding.encoder import (
    ConvEncoder,
    Encoder,
    EncoderSpec,
    LinearEncoder,
    WithHead,
    build_encoder,
    load_encoder,
    n_parameters,
    save_encoder,
)
from bids_speechdecode.decoding.layers import BatchNorm, TimeAttention, frame_matrix
from bids_speechdecode.errors import CannotWriteError, DataError, MissingInputError

SPECS = [
    EncoderSpec("conv", 5, 120, 7, preset="small"),
    EncoderSpec("conv", 5, 120, 7, n_frames=30, preset="small"),
    EncoderSpec("conv", 5, 120, 7, preset="small", head=3),
    EncoderSpec("linear", 5, 120, 7),
    EncoderSpec("linear", 5, 120, 7, n_frames=30, head=7),
]


def _signal(n_windows: int = 4, n_channels: int = 5, n_samples: int = 120) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(n_windows, n_channels, n_samples, generator=generator)


def test_paper_preset_has_the_published_size() -> None:
    """About 7.3 million parameters at C = 200 and d = 1024; summed by hand from METHODS."""
    convolutions = [(200, 270, 1), (270, 320, 3), *[(320, 320, 3)] * 9, *[(320, 640, 3)] * 5]
    convolutions += [(320, 640, 1), (640, 1024, 1), (1024, 256, 1)]
    by_hand = sum(n_in * n_out * k + n_out for n_in, n_out, k in convolutions)
    by_hand += 10 * 2 * 320 + 256  # batch norms, attention vector
    assert n_parameters(ConvEncoder(200, 1024, None, 120, "paper")) == by_hand
    assert by_hand == pytest.approx(7.3e6, rel=0.01)


@pytest.mark.parametrize("spec", SPECS)
def test_shapes(spec: EncoderSpec) -> None:
    """The loss and the ranks rely on (B, d) or (B, F, d)."""
    d = spec.head or spec.dimension
    expected = (4, d) if spec.n_frames is None else (4, spec.n_frames, d)
    assert build_encoder(spec)(_signal()).shape == expected


@pytest.mark.parametrize("spec", SPECS)
def test_same_seed_same_weights(spec: EncoderSpec) -> None:
    """A result that nobody can repeat is none; and the seed must not leak into other draws."""
    before = torch.get_rng_state()
    a, b, c = (build_encoder(spec, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert any(not torch.equal(a[k], c[k]) for k in a)
    assert torch.equal(before, torch.get_rng_state())


def test_attention_is_its_equation() -> None:
    """sum_t softmax_t(v . tanh(W m_t + b)) m_t with m_t = M x_t + c, by a slow loop."""
    attention, last = TimeAttention(6, 4), torch.nn.Conv1d(9, 6, 1)
    x = _signal(3, 9, 11)
    weight, bias = attention.hidden.weight[:, :, 0], attention.hidden.bias
    v = attention.score.weight[0, :, 0]
    for window, pooled in zip(x, attention(x, last), strict=True):
        mapped = last.weight[:, :, 0] @ window + last.bias[:, None]
        score = torch.stack([v @ torch.tanh(weight @ mapped[:, t] + bias) for t in range(11)])
        share = torch.exp(score) / torch.exp(score).sum()
        expected = sum(share[t] * mapped[:, t] for t in range(11))
        torch.testing.assert_close(pooled, expected)


def test_the_mean_before_the_last_map_changes_nothing() -> None:
    """The order that saves time must give the outputs and gradients of the order of the paper."""
    encoder = build_encoder(SPECS[0], seed=4).double()
    x = _signal().double()
    encoder(x).square().sum().backward()
    gradients = [p.grad.clone() for p in encoder.parameters() if p.grad is not None]
    encoder.zero_grad()
    mapped = encoder.output(encoder.layers(encoder.project(x)))
    share = encoder.attention.score(torch.tanh(encoder.attention.hidden(mapped))).softmax(-1)
    slow = (mapped * share).sum(-1)
    slow.square().sum().backward()
    torch.testing.assert_close(encoder(x), slow)
    assert len(gradients) == len(list(encoder.parameters()))
    for parameter, gradient in zip(encoder.parameters(), gradients, strict=True):
        # A gradient in batch norm's null space is zero in theory and rounding in practice.
        torch.testing.assert_close(gradient, parameter.grad, atol=1e-12, rtol=1e-7)


def test_frames_are_means_over_their_stretch() -> None:
    """Against PyTorch's pooling where frames divide the window; total weight where they do not."""
    x = _signal()
    torch.testing.assert_close(
        x @ frame_matrix(120, 30), functional.adaptive_avg_pool1d(x, 30), atol=1e-6, rtol=1e-5
    )
    for n_frames in (7, 33, 250):
        matrix = frame_matrix(120, n_frames)
        torch.testing.assert_close(matrix.sum(0), torch.ones(n_frames))
        centre = matrix.T @ (torch.arange(120.0) + 0.5)
        expected = (torch.arange(n_frames) + 0.5) * 120 / n_frames
        assert (centre - expected).abs().max() < 0.5  # value is time


@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_frames_see_their_own_time(kind: str) -> None:
    """Frame f must answer to the signal around it: a shifted or flipped order decodes nothing."""
    spec = EncoderSpec(kind, 5, 120, 7, n_frames=30, preset="small")  # type: ignore[arg-type]
    encoder = build_encoder(spec).eval()
    x = _signal(1)
    for frame in (0, 11, 29):
        moved = x.clone()
        moved[:, :, 4 * frame : 4 * frame + 4] += 1.0
        change = (encoder(moved) - encoder(x)).norm(dim=2)[0]
        assert abs(int(change.argmax()) - frame) <= 2
        assert change[frame] > 10 * change[(frame + 15) % 30]


@pytest.mark.parametrize("spec", SPECS)
def test_encoding_what_was_mixed_is_the_encoder(spec: EncoderSpec) -> None:
    """Contributions mix once and encode many times: both parts together are the whole."""
    encoder = build_encoder(spec, seed=2).eval()
    assert torch.equal(encoder.encode(encoder.mix(_signal())), encoder(_signal()))


@pytest.mark.parametrize("spec", SPECS)
def test_the_mix_of_a_change_is_its_weights_times_the_change(spec: EncoderSpec) -> None:
    """Exchanging one electrode is a rank-one update only where the mix is affine over channels."""
    encoder = build_encoder(spec, seed=2).eval()
    x, dx = _signal(), _signal().roll(1, 0)
    dx[:, 1:] = 0  # one electrode
    weights = encoder.mixing_weights()
    assert weights.shape == (encoder.mix(x).shape[1], spec.n_channels)
    torch.testing.assert_close(encoder.mix(x + dx), encoder.mix(x) + weights @ dx)


def test_linear_encoder_is_linear() -> None:
    """The baseline answers what linear decoding reaches; a hidden nonlinearity would spoil it."""
    for n_frames in (None, 30):
        encoder = LinearEncoder(5, 120, 7, n_frames)
        a, b, zero = _signal(), _signal().flip(0), torch.zeros(4, 5, 120)
        offset = encoder(zero)
        combined = encoder(2 * a - 3 * b) - offset
        expected = 2 * (encoder(a) - offset) - 3 * (encoder(b) - offset)
        torch.testing.assert_close(combined, expected, atol=1e-4, rtol=1e-4)


def test_head_starts_from_the_zero_shot_model() -> None:
    """Finetuning adds to what pretraining learnt: before its first step nothing has changed."""
    encoder = build_encoder(SPECS[0], seed=5).eval()
    assert torch.equal(WithHead(encoder, 7).eval()(_signal()), encoder(_signal()))


def test_batch_norm_in_one_process_is_that_of_pytorch() -> None:
    """Statistics, output and running averages, in training and evaluation."""
    ours, theirs = BatchNorm(5), torch.nn.BatchNorm1d(5)
    for training in (True, True, False):
        ours.train(training)
        theirs.train(training)
        assert torch.equal(ours(_signal()), theirs(_signal()))
    assert torch.equal(ours.running_var, theirs.running_var)


@pytest.mark.parametrize("spec", SPECS)
def test_saved_and_loaded_is_the_same(spec: EncoderSpec, tmp_path: Path) -> None:
    """Evaluation runs on another node from the file alone."""
    encoder = build_encoder(spec, seed=1).eval()
    path = tmp_path / "new folder" / "model.safetensors"
    save_encoder(path, encoder, {"Signature": "abc"})
    loaded = load_encoder(path)
    assert isinstance(loaded, Encoder)
    assert loaded.spec == spec
    assert torch.equal(loaded(_signal()), encoder(_signal()))
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_files_that_are_not_ours_are_refused(tmp_path: Path) -> None:
    """A pickle, a truncated file or foreign weights give one clear message and run nothing."""
    path = tmp_path / "model.safetensors"
    with pytest.raises(MissingInputError):
        load_encoder(path)
    torch.save({"weights": torch.ones(2)}, path)
    with pytest.raises(DataError, match="cannot be read"):
        load_encoder(path)
    save_file({"weights": torch.ones(2)}, path)
    with pytest.raises(DataError):
        load_encoder(path)
    save_encoder(path, build_encoder(SPECS[3]))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError):
        load_encoder(path)


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    """Exit status 73 and no half file."""
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotWriteError):
        save_encoder(tmp_path / "file" / "model.safetensors", build_encoder(SPECS[3]))
