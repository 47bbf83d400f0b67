"""Windows as each other's candidates: how sure a mean rank is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bids_speechdecode.decoding.contrastive import relative_ranks
from bids_speechdecode.decoding.rivals import rivalry
from bids_speechdecode.decoding.scaling import variance_over_blocks
from bids_speechdecode.decoding.strata import rank_within


def rank(brain: np.ndarray, audio: np.ndarray) -> np.ndarray:
    return relative_ranks(torch.as_tensor(brain), torch.as_tensor(audio)).relative


def test_rivals_are_counted_as_ranks_are() -> None:
    """The oracle is a loop over all pairs, with a tie as half."""
    rng = np.random.default_rng(0)
    brain, audio = rng.standard_normal((2, 9, 2, 3))
    audio[4] = audio[2]
    unit = [
        x.reshape(9, -1) / np.linalg.norm(x.reshape(9, -1), axis=1)[:, None] for x in (brain, audio)
    ]
    close = unit[0] @ unit[1].T
    beats = np.zeros((9, 9))
    for k in range(9):
        for i in set(range(9)) - {k}:
            apart = close[k, i] - close[k, k]
            beats[k, i] = 0.5 if abs(apart) < 1e-9 else float(apart > 0)
    np.testing.assert_allclose(rank(brain, audio), beats.sum(axis=1) / 8)
    expected = beats.sum(axis=0) / 8 - beats.sum() / 72
    np.testing.assert_allclose(rivalry(brain, audio), expected, atol=1e-12)


def test_models_that_know_nothing_have_no_doubt_about_chance() -> None:
    """With one embedding for all windows the mean rank is 0.5, whatever the windows."""
    rng = np.random.default_rng(1)
    audio = rng.standard_normal((40, 5))
    brain = np.tile(rng.standard_normal(5), (40, 1))
    ranks = rank(brain, audio)
    assert ranks.std() > 0.2
    np.testing.assert_allclose(ranks + rivalry(brain, audio), 0.5, atol=1e-9)


def test_strata_keep_their_means_apart() -> None:
    """Windows of another stratum are nobody's rivals, and each mean rank stays what it was."""
    rng = np.random.default_rng(2)
    brain, audio = rng.standard_normal((2, 30, 4))
    strata = np.repeat([0, 1, -1], 10)
    ranks, rivals = rank_within(brain, audio, strata), rivalry(brain, audio, strata)
    for label in (0, 1):
        own = strata == label
        assert (ranks + rivals)[own].mean() == pytest.approx(ranks[own].mean())
        np.testing.assert_allclose(rivals[own], rivalry(brain[own], audio[own]))


@pytest.mark.parametrize("follows", [0.0, 0.5])
def test_the_variance_over_blocks_is_the_true_one(follows: float) -> None:
    """Over simulated datasets, of a model whose embeddings share a direction with some sounds."""
    rng = np.random.default_rng(3)
    blocks = np.repeat(np.arange(16), 4)
    means, raw, whole = [], [], []
    for _ in range(250):
        audio = rng.standard_normal((64, 6)) + 0.5
        brain = follows * audio + rng.standard_normal((64, 6)) + 2.0
        ranks = rank(brain, audio)
        means.append(ranks.mean())
        raw.append(variance_over_blocks(ranks, blocks)[0][0])
        whole.append(variance_over_blocks(ranks + rivalry(brain, audio), blocks)[0][0])
    assert np.mean(whole) / np.var(means) == pytest.approx(1.05, abs=0.25)
    assert np.mean(raw) / np.var(means) > 1.7
