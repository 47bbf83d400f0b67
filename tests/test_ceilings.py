"""Noise ceilings: what a perfect model of the sound reaches, and no more."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import signal

from bids_speechdecode.encoding.ceilings import measure_powers
from bids_speechdecode.encoding.scores import correlate

MINUTE = 1200  # samples


def slow_noise(rng: np.random.Generator, *shape: int, memory: float = 0.9) -> np.ndarray:
    """Return noise whose samples (second axis from the right) resemble their neighbours."""
    white = rng.standard_normal((*shape[:-2], shape[-2] + 200, shape[-1]))
    filtered = signal.lfilter([np.sqrt(1 - memory**2)], [1, -memory], white, axis=-2)
    return np.asarray(filtered[..., 200:, :])


@pytest.mark.parametrize("power", [0.25, 1.0, 4.0])
def test_ceiling_is_the_r_of_the_true_response(power: float) -> None:
    """Known in closed form and also scored like any model, for one repeat and for the mean."""
    rng = np.random.default_rng(11)
    driven = np.sqrt(power) * slow_noise(rng, 20000, 8)
    repeats = driven + slow_noise(rng, 5, 20000, 8)
    powers = measure_powers([repeats])
    for n_averaged, scored in ((1, repeats[0]), (5, repeats.mean(axis=0))):
        ceiling = powers.ceiling(n_averaged)
        np.testing.assert_allclose(ceiling, np.sqrt(power / (power + 1 / n_averaged)), atol=0.04)
        np.testing.assert_allclose(ceiling, correlate(driven, scored), atol=0.04)


@pytest.mark.parametrize("n_repeats", [2, 10])
@pytest.mark.parametrize("minutes_repeated", [[2], [1, 4], [15]])
def test_only_some_sounds_are_repeated(minutes_repeated: list[int], n_repeats: int) -> None:
    """A perfect model of all sounds reaches the ceiling, not that of the few that repeat.

    The folds may differ in how often they were heard, as sounds are not divided evenly.
    """
    rng = np.random.default_rng(3)
    single = 30 - sum(minutes_repeated)
    n_electrodes = 60
    sounds, means, counts, driven = [], [], [], []
    for minutes, n in [(single, 1), *((m, n_repeats) for m in minutes_repeated)]:
        true = 0.34 * slow_noise(rng, minutes * MINUTE, n_electrodes)
        heard = true + slow_noise(rng, n, minutes * MINUTE, n_electrodes)
        sounds.append(heard)
        driven.append(true)
        means.append(heard.mean(axis=0))
        counts.append(np.full(true.shape, n))
    truth, scored, n_averaged = (np.concatenate(parts) for parts in (driven, means, counts))
    folds = np.repeat(np.arange(5), 6 * MINUTE)
    ceiling = measure_powers(sounds).ceiling(n_averaged, folds)
    assert ceiling.mean() == pytest.approx(correlate(truth, scored, folds).mean(), abs=0.02)


def test_weights_of_sounds_are_their_samples() -> None:
    """Two pieces of a sound, one long and one short, tell almost what the whole does."""
    rng = np.random.default_rng(5)
    repeats = slow_noise(rng, 9000, 6) + slow_noise(rng, 3, 9000, 6)
    whole = measure_powers([repeats])
    pieces = measure_powers([repeats[:, :8000], repeats[:, 8000:], repeats[:1]])
    np.testing.assert_allclose(pieces.signal, whole.signal, rtol=0.03)
    np.testing.assert_allclose(pieces.noise, whole.noise, rtol=0.03)


def test_no_ceiling_where_there_is_none() -> None:
    """One presentation says nothing about noise; unrelated ones have a ceiling of about zero."""
    rng = np.random.default_rng(12)
    assert np.isnan(measure_powers([rng.standard_normal((1, 100, 2))]).ceiling(1)).all()
    unrelated = measure_powers([rng.standard_normal((4, 5000, 50))]).ceiling(1)
    assert 0.2 < (unrelated == 0).mean() < 0.8
    assert unrelated.max() < 0.15
    assert np.isnan(measure_powers([np.ones((3, 100, 1))]).ceiling(1)).all()


def test_an_electrode_that_was_not_heard_has_no_ceiling() -> None:
    """A gap in one of two repeats leaves the other; a sample without any cannot be scored."""
    rng = np.random.default_rng(13)
    repeats = slow_noise(rng, 4000, 3) + slow_noise(rng, 2, 4000, 3)
    repeats[1, :1000, 1] = np.nan
    repeats[1, :, 2] = np.nan
    ceiling = measure_powers([repeats]).ceiling(np.isfinite(repeats).sum(axis=0))
    assert np.isfinite(ceiling).tolist() == [True, True, False]
    nothing = np.ones((4000, 3), int)
    nothing[5, 0] = 0
    assert np.isnan(measure_powers([repeats]).ceiling(nothing)).tolist() == [True, False, True]
