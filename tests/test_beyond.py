"""What brain and target have in common beyond a third thing that both follow."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from bids_speechdecode.decoding.beyond import take_out_of_both
from bids_speechdecode.decoding.contrastive import relative_ranks
from bids_speechdecode.decoding.unexplained import take_out

N, P, D = 240, 30, 40


def draw(seed: int, *, shared: float, n: int = N) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a sound, and a brain and a target that follow it and share something else."""
    rng = np.random.default_rng(seed)
    sound = rng.standard_normal((n, P))
    of_sound = sound @ rng.standard_normal((P, D)) / np.sqrt(P)
    more = shared * rng.standard_normal((n, D))
    brain = of_sound + more + rng.standard_normal((n, D))
    return sound, brain, of_sound + more + 1.5 * rng.standard_normal((n, D))


def rank(brain: np.ndarray, targets: np.ndarray) -> float:
    sides = (torch.as_tensor(x, dtype=torch.float32) for x in (brain, targets))
    return float(np.mean(relative_ranks(*sides).relative))


def test_what_both_follow_is_gone() -> None:
    """Neither found again, as after a prediction from other windows, nor turned around."""
    ranks = []
    for seed in range(12):
        sound, brain, targets = draw(seed, shared=0.0, n=2 * N)
        rest, _ = take_out((sound[:N], sound[N:]), (targets[:N], targets[N:]))
        one, other, _ = take_out_of_both(sound[N:], brain[N:], targets[N:])
        ranks.append([rank(brain[N:], targets[N:]), rank(brain[N:], rest), rank(one, other)])
    raw, predicted, both = np.mean(ranks, axis=0)
    assert raw < 0.1
    assert predicted < 0.3
    assert both == pytest.approx(0.5, abs=3 * 0.29 / np.sqrt(12 * N))


def test_what_is_shared_beyond_it_remains() -> None:
    """A control that takes everything away would call every finding sound."""
    for seed in range(3):
        one, other, _ = take_out_of_both(*draw(seed, shared=1.0))
        assert rank(one, other) < 0.25


def test_one_column_is_a_partial_correlation() -> None:
    """Against the formula of three correlations."""
    rng = np.random.default_rng(0)
    z = rng.standard_normal(60)
    x, y = z + rng.standard_normal(60), 3 - 0.5 * z + rng.standard_normal(60)
    one, other, explained = take_out_of_both(z[:, None], x[:, None], y[:, None])
    xy, xz, yz = (np.corrcoef(a, b)[0, 1] for a, b in ((x, y), (x, z), (y, z)))
    expected = (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))
    assert stats.pearsonr(one[:, 0], other[:, 0]).statistic == pytest.approx(expected, abs=1e-6)
    assert explained == pytest.approx(1 - (1 - yz**2) * 59 / 58, abs=1e-6)


def test_more_columns_than_windows_do_not_take_everything() -> None:
    """A quarter of what can vary at the most; constant and doubled columns take nothing."""
    rng = np.random.default_rng(1)
    values = rng.standard_normal((41, 2, 3))
    one, other, explained = take_out_of_both(rng.standard_normal((41, 100)), values, values)
    assert np.linalg.matrix_rank(one.reshape(41, -1)) == 6
    assert one.shape == values.shape
    assert (one**2).sum() / ((values - values.mean(axis=0)) ** 2).sum() == pytest.approx(
        0.75, abs=0.12
    )
    np.testing.assert_array_equal(one, other)
    assert abs(explained) < 0.2
    column = rng.standard_normal((41, 1))
    same = take_out_of_both(np.hstack([column, column, np.ones((41, 1))]), values, values)[0]
    np.testing.assert_allclose(same, take_out_of_both(column, values, values)[0], atol=1e-5)
