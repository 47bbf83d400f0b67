"""Loss and ranks: the equation, chance, ties, and two processes that equal one."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from bids_speechdecode.decoding.contrastive import ClipLoss, Ranks, relative_ranks
from bids_speechdecode.decoding.encoder import EncoderSpec, build_encoder
from bids_speechdecode.errors import DataError


def _pairs(n: int, *shape: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(n, *shape, generator=generator) for _ in range(2))  # type: ignore[return-value]


def _slow_loss(brain: torch.Tensor, audio: torch.Tensor, temperature: float) -> float:
    """Cross-entropy of each row by a loop in double precision."""
    brain, audio = (x.flatten(1).double().numpy() for x in (brain, audio))
    losses = []
    for i, b in enumerate(brain):
        cosines = [b @ a / np.linalg.norm(b) / np.linalg.norm(a) for a in audio]
        shares = np.exp(np.array(cosines) / temperature)
        losses.append(-math.log(shares[i] / shares.sum()))
    return float(np.mean(losses))


@pytest.mark.parametrize("shape", [(16,), (6, 5)])
def test_loss_is_its_equation(shape: tuple[int, ...]) -> None:
    """Against a slow loop, for window means and whole time courses, one way and both ways."""
    brain, audio = _pairs(9, *shape)
    one_way = _slow_loss(brain, audio, 0.07)
    assert float(ClipLoss(0.07)(brain, audio)) == pytest.approx(one_way, rel=1e-5)
    both = (one_way + _slow_loss(audio, brain, 0.07)) / 2
    assert float(ClipLoss(0.07, symmetric=True)(brain, audio)) == pytest.approx(both, rel=1e-5)


def test_temperature_learns_and_stays_bounded() -> None:
    """An unbounded scale makes training diverge once the pairs are learnt by heart."""
    brain, audio = _pairs(9, 16)
    loss = ClipLoss(0.07)
    loss(brain, audio).backward()
    assert loss.log_scale.grad is not None
    assert loss.log_scale.grad != 0
    with torch.no_grad():
        loss.log_scale.fill_(50.0)
    assert float(loss(brain, audio).detach()) == pytest.approx(
        _slow_loss(brain, audio, 0.01), rel=1e-4
    )


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_sound_is_no_negative_for_itself(symmetric: bool) -> None:
    """The same sound heard in two recordings: pushing it away from itself teaches nonsense."""
    brain, audio = _pairs(6, 16)
    audio[4] = audio[1]
    total = 0.0
    for i in range(6):
        others = [j for j in range(6) if {i, j} != {1, 4}]
        row = others.index(i)
        cosine = torch.cosine_similarity(brain[i][None], audio[others]) / 0.07
        loss = -float(cosine.log_softmax(0)[row])
        if symmetric:
            cosine = torch.cosine_similarity(audio[i][None], brain[others]) / 0.07
            loss = (loss - float(cosine.log_softmax(0)[row])) / 2
        total += loss / 6
    assert float(ClipLoss(0.07, symmetric)(brain, audio)) == pytest.approx(total, rel=1e-5)


def test_loss_computes_in_full_precision_under_autocast() -> None:
    """Bfloat16 cosines have three digits: hundreds of candidates would tie."""
    brain, audio = _pairs(32, 64)
    expected = ClipLoss()(brain, audio)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ClipLoss()(brain, audio), expected)


def _joint_gradients(rank: int, n_ranks: int, symmetric: bool, folder: str) -> None:
    """Write loss, gradients and batch statistics of one step on this process's share."""
    torch.set_num_threads(1)
    if n_ranks > 1:
        dist.init_process_group(
            "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=n_ranks
        )
    signal, audio = _pairs(13, 5, 40)[0], _pairs(13, 7, seed=1)[1]  # shares of 7 and 6
    audio[10] = audio[1]  # a sound that both processes have
    pairing = torch.nn.ModuleDict(
        {
            "encoder": build_encoder(EncoderSpec("conv", 5, 40, 7, preset="small")),
            "loss": ClipLoss(0.07, symmetric),
        }
    )

    class Step(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = pairing

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return self.parts["loss"](self.parts["encoder"](x), y)

    step = Step().train()
    parallel = DistributedDataParallel(step) if n_ranks > 1 else step
    loss = parallel(signal[rank::n_ranks], audio[rank::n_ranks])
    loss.backward()
    result = {name: p.grad for name, p in step.named_parameters()}
    result |= {name: b for name, b in step.named_buffers() if "running" in name}
    torch.save({"loss": loss.detach(), **result}, f"{folder}/{rank}.pt")
    if n_ranks > 1:
        dist.destroy_process_group()


@pytest.mark.parametrize("symmetric", [False, True])
def test_two_processes_give_the_gradients_of_one(symmetric: bool) -> None:
    """More GPUs must mean faster and not a different, weaker training."""
    results = []
    for n_ranks in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            if n_ranks == 1:
                _joint_gradients(0, 1, symmetric, folder)
            else:
                mp.spawn(_joint_gradients, (n_ranks, symmetric, folder), nprocs=n_ranks)
            for rank in range(n_ranks):
                results.append(torch.load(Path(folder) / f"{rank}.pt", weights_only=True))
    one, *two = results
    assert one["parts.loss.log_scale"] != 0
    for other in two:
        assert other.keys() == one.keys()
        for name, expected in one.items():
            torch.testing.assert_close(other[name], expected, atol=2e-6, rtol=1e-4, msg=name)


def _slow_ranks(brain: np.ndarray, audio: np.ndarray) -> np.ndarray:
    """Return relative ranks from scipy-like sorting by hand: a loop over windows in float64."""
    relative = []
    for i, b in enumerate(brain.reshape(len(brain), -1).astype(float)):
        flat = audio.reshape(len(audio), -1).astype(float)
        cosine = flat @ b / np.linalg.norm(flat, axis=1) / np.linalg.norm(b)
        wrong = np.delete(cosine, i)
        strict = np.sum(wrong > cosine[i] + 1e-6)
        loose = np.sum(wrong >= cosine[i] - 1e-6)
        relative.append((strict + loose) / 2 / len(wrong))
    return np.array(relative)


@pytest.mark.parametrize("block", [1, 7, 64, 4096])
@pytest.mark.parametrize("shape", [(12,), (5, 4)])
def test_ranks_equal_a_slow_loop(shape: tuple[int, ...], block: int) -> None:
    """For any size of block, with doubled candidates among them."""
    brain, audio = (x.numpy() for x in _pairs(83, *shape))
    brain = brain + 0.5 * audio
    audio[40:50] = audio[:10]
    ranks = relative_ranks(brain, audio, block=block)
    np.testing.assert_allclose(ranks.relative, _slow_ranks(brain, audio), atol=1e-12)


def test_best_worst_and_chance() -> None:
    """0 is best, 1 worst, and the mean over all possible partners is 0.5 whatever N."""
    audio = _pairs(11, 32)[0]
    assert relative_ranks(audio, audio).relative.max() == 0.0
    two = torch.eye(2)
    assert relative_ranks(two, two.flip(0)).relative.tolist() == [1.0, 1.0]
    for n in (2, 3, 10):
        brain, audio = _pairs(n, 4, seed=n)
        shifted = [relative_ranks(brain, audio.roll(k, 0)).relative.mean() for k in range(n)]
        assert np.mean(shifted) == pytest.approx(0.5)


def test_a_silent_decoder_is_at_chance() -> None:
    """A constant or zero embedding knows nothing: everything ties, which must not look good."""
    audio = _pairs(20, 8)[1]
    ranks = relative_ranks(torch.zeros(20, 8), audio)
    assert ranks.relative.tolist() == [0.5] * 20
    np.testing.assert_allclose(ranks.top(5), 5 / 20)
    same = relative_ranks(torch.ones(20, 8), audio).relative
    assert same.mean() == pytest.approx(0.5)


def test_top_k_counts_and_breaks_ties_by_lot() -> None:
    """Top-k by hand: above, tied, own."""
    ranks = Ranks(n_above=np.array([0, 4, 1, 0]), n_tied=np.array([0, 0, 1, 3]))
    np.testing.assert_allclose(ranks.top(1), [1, 0, 0, 0.25])
    np.testing.assert_allclose(ranks.top(2), [1, 0, 0.5, 0.5])
    np.testing.assert_allclose(ranks.top(5), [1, 1, 1, 1])


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_nan_never_becomes_a_rank(side: int, value: float) -> None:
    """NaN compares false with everything and would be the best candidate of all."""
    pairs = [x.numpy() for x in _pairs(30, 8)]
    pairs[side][17, 3] = value
    with pytest.raises(DataError, match="window 17"):
        relative_ranks(*pairs, block=8)


def test_ranks_need_candidates() -> None:
    """One window is always right; a score from it would be a perfect lie."""
    for brain, audio in (_pairs(1, 8), (torch.ones(3, 8), torch.ones(4, 8))):
        with pytest.raises(DataError):
            relative_ranks(brain, audio)


def test_half_precision_embeddings_are_ranked_in_float32() -> None:
    """Stored in float16 to save space, they must still give distinct similarities."""
    brain, audio = (x.half() for x in _pairs(60, 256))
    expected = _slow_ranks(brain.numpy(), audio.numpy())
    np.testing.assert_allclose(relative_ranks(brain, audio).relative, expected, atol=1e-12)
