"""Responses to sound: planted ones found, slow loops as oracles, p uniform where there are none."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from scipy.signal import lfilter

from bids_speechdecode.decoding import responsive
from bids_speechdecode.decoding.responsive import (
    note_on_blocks,
    smallest_p,
    sound_envelope,
    sound_responses,
)
from bids_speechdecode.errors import DataError

RATE = 20.0
N_LAGS = 11  # 0 to 0.5 s
N = 40  # samples of a window


def respond(signal, envelope, blocks, *, starts=None, n_permutations=199, seed=0):
    n_windows, n_samples = envelope.shape
    starts = np.arange(n_windows) * n_samples if starts is None else starts
    rng = np.random.default_rng(seed)
    return sound_responses(signal, starts, n_samples, envelope, blocks, rng, n_permutations, RATE)


def noise(rng, shape, phi=0.0):
    """Return first-order autoregressive noise along the first axis."""
    return lfilter([1.0], [1.0, -phi], rng.standard_normal(shape), axis=0)


def data(seed=0, *, n_windows=60, n_channels=3, per_block=5):
    rng = np.random.default_rng(seed)
    envelope = noise(rng, n_windows * N, 0.7).reshape(n_windows, N)
    signal = noise(rng, (n_windows * N, n_channels), 0.7).astype(np.float32)
    return signal, envelope, np.arange(n_windows) // per_block


def plant(signal, envelope, channel, lag, gain):
    course = np.roll(envelope.ravel(), lag)
    signal[:, channel] += (gain * course).astype(np.float32)


def slow_r(signal, envelope, n_lags=N_LAGS):
    """Correlation per lag of windows that are each centred: the definition, spelt out.

    Parameters
    ----------
    signal, envelope : array, shape (n_windows, n_samples)
    """
    n_samples = envelope.shape[1]
    r = []
    for lag in range(n_lags):
        first, second = [], []
        for s, e in zip(signal, envelope, strict=True):
            late = s[n_lags - 1 :]
            early = e[n_lags - 1 - lag : n_samples - lag]
            first += list(late - late.mean())
            second += list(early - early.mean())
        r.append(np.corrcoef(first, second)[0, 1])
    return np.array(r)


def test_correlation_equals_a_slow_loop():
    """The reported r is what its definition says, at the lag where it is largest."""
    signal, envelope, blocks = data(n_channels=4)
    plant(signal, envelope, 1, 3, 0.2)
    found = respond(signal, envelope, blocks)
    for channel in range(4):
        r = slow_r(signal[:, channel].reshape(-1, N), envelope)
        best = np.abs(r).argmax()
        assert found["sound_r"][channel] == pytest.approx(r[best], abs=1e-5)
        assert found["sound_lag"][channel] == pytest.approx(best / RATE)


def test_p_equals_a_slow_loop_over_all_orders():
    """With few blocks every order counts once, also when blocks are not equally long."""
    sizes = [3, 5, 4, 4]
    signal, envelope, _ = data(3, n_windows=sum(sizes), n_channels=2)
    blocks = np.repeat(np.arange(4), sizes)
    found = respond(signal, envelope, blocks, n_permutations=1000)
    members = [np.flatnonzero(blocks == b) for b in range(4)]
    for channel in range(2):
        windows = signal[:, channel].reshape(-1, N).astype(float)
        null = []
        for order in itertools.permutations(range(4)):
            heard = [np.resize(members[order[b]], sizes[b]) for b in range(4)]
            null.append(np.abs(slow_r(windows, envelope[np.concatenate(heard)])).max())
        p = np.mean(np.array(null) >= null[0] - 1e-9)
        assert found["sound_p"][channel] == pytest.approx(p)


def test_planted_response_is_found_at_its_lag():
    """A response 0.25 s after the sound is found there, and the others are not responses."""
    signal, envelope, blocks = data(1, n_windows=120, n_channels=20)
    plant(signal, envelope, 7, 5, 0.3)
    found = respond(signal, envelope, blocks, n_permutations=999)
    assert found["sound_lag"][7] == pytest.approx(0.25)
    assert found["sound_q"][7] < 0.05
    assert (found["sound_q"].drop(7) > 0.05).all()


def test_q_is_benjamini_hochberg_over_testable_channels():
    """A dead channel makes no other channel's q worse."""
    signal, envelope, blocks = data(1, n_channels=6)
    plant(signal, envelope, 0, 2, 0.5)
    signal[:, 4], signal[:, 5] = 3.0, np.nan
    found = respond(signal, envelope, blocks)
    p = found["sound_p"][:4]
    adjusted = [min(1, *(q * 4 / (p <= q).sum() for q in p if q >= own)) for own in p]
    assert np.allclose(found["sound_q"][:4], adjusted)


def test_dead_channels_never_respond():
    """Constant, missing and absent signals have no r; they are never kept by accident."""
    signal, envelope, blocks = data(n_channels=4)
    signal[:, 0], signal[:, 1], signal[:, 2] = 0.0, 7.3, np.nan
    found = respond(signal, envelope, blocks)
    assert found["sound_r"][:3].isna().all()
    assert (found[["sound_p", "sound_q"]][:3] == 1).all(axis=None)
    assert np.isfinite(found["sound_r"][3])


def test_channel_that_is_zero_in_one_recording_is_tested_on_the_others():
    """A channel that is bad in one recording is zero there; its r is that of the rest."""
    signal, envelope, blocks = data(n_channels=1)
    plant(signal, envelope, 0, 3, 0.3)
    whole = signal.copy()
    signal[: 20 * N] = 0
    found = respond(signal, envelope, blocks)
    r = slow_r(whole[20 * N :, 0].reshape(-1, N), envelope[20:])
    assert found["sound_r"][0] == pytest.approx(r[np.abs(r).argmax()], abs=1e-5)
    signal[: 20 * N] = np.nan
    assert respond(signal, envelope, blocks).equals(found)


def test_silence_is_no_sound():
    """Where nothing is heard nothing can respond."""
    signal, envelope, blocks = data()
    found = respond(signal, np.zeros_like(envelope), blocks)
    assert found["sound_r"].isna().all()
    assert (found["sound_p"] == 1).all()


def test_nothing_outside_the_windows_matters():
    """No test sample may reach the choice of channels: what is not given is never read."""
    rng = np.random.default_rng(5)
    signal = rng.standard_normal((5000, 3)).astype(np.float32)
    starts = np.sort(rng.permutation(5000 // N - 1)[:50]) * N + 7
    envelope = rng.standard_normal((50, N))
    blocks = np.arange(50) // 5
    found = respond(signal, envelope, blocks, starts=starts)
    inside = np.zeros(5000, dtype=bool)
    inside[(starts[:, None] + np.arange(N)).ravel()] = True
    signal[~inside] = np.nan
    again = respond(signal, envelope, blocks, starts=starts)
    assert found.to_numpy().tobytes() == again.to_numpy().tobytes()


@pytest.mark.parametrize("factor", [-1.0, 2.0**-20, -3e5, 1e-6])
def test_scale_and_polarity_do_not_matter(factor):
    """Volts, microvolts and the choice of reference must not decide who responds."""
    signal, envelope, blocks = data()
    plant(signal, envelope, 0, 3, 0.2)
    found = respond(signal, envelope, blocks)
    scaled = respond((signal * factor).astype(np.float32), envelope * 7 + 3, blocks)
    assert np.allclose(scaled["sound_r"], found["sound_r"] * np.sign(factor), atol=1e-6)
    assert (scaled["sound_p"] == found["sound_p"]).all()


def test_offsets_and_slow_drifts_shared_with_the_sound_are_no_response():
    """Level differences between windows, which any two slow courses share, have no part in r."""
    signal, envelope, blocks = data()
    found = respond(signal, envelope, blocks)
    level = np.linspace(0, 50, len(envelope))
    drifting = signal + np.repeat(level, N)[:, None].astype(np.float32)
    moved = respond(drifting, envelope + level[:, None], blocks)
    assert np.allclose(moved["sound_r"], found["sound_r"], atol=1e-4)


def test_memory_and_storage_change_nothing(monkeypatch):
    """Channels in pieces, tensors and other channels beside it give a channel the same result."""
    signal, envelope, blocks = data(n_channels=5)
    found = respond(signal, envelope, blocks)
    assert respond(torch.from_numpy(signal), envelope, blocks).equals(found)
    monkeypatch.setattr(responsive, "_MEMORY_BYTES", 1)
    pd.testing.assert_frame_equal(respond(signal, envelope, blocks), found, atol=1e-6)


def test_many_blocks_are_joined_with_their_neighbours():
    """Work grows with the square of the units; neighbours stay together and none is lost."""
    units = responsive._join_blocks(np.repeat(np.arange(150), 2))
    assert len(units) == responsive.MAX_UNITS
    assert np.concatenate(units).tolist() == list(range(300))
    assert {len(unit) for unit in units} == {4, 6}


def test_few_blocks_say_what_they_cannot_show():
    """Three blocks have six orders: the note and the p agree about the smallest p."""
    signal, envelope, _ = data()
    plant(signal, envelope, 0, 3, 3.0)
    blocks = np.arange(60) // 20
    found = respond(signal, envelope, blocks)
    assert found["sound_p"][0] == pytest.approx(1 / 6) == smallest_p(3, 199)
    assert "3 blocks of training sound" in note_on_blocks(blocks, 199)
    assert "0.17" in note_on_blocks(blocks, 199)
    assert respond(signal, envelope, blocks * 0)["sound_p"][0] == 1
    assert note_on_blocks(np.arange(60) // 5, 199) == ""
    assert smallest_p(12, 199) == 1 / 200


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"starts": np.arange(60) * N + 1}, "outside the signal"),
        ({"starts": np.arange(0)}, "cannot be estimated"),
        ({"blocks": np.arange(3)}, "cannot be estimated"),
        ({"envelope": np.full((60, N), np.nan)}, "NaN"),
    ],
)
def test_what_does_not_fit_is_refused(change, words):
    """A wrong shape would silently pair sound with another window's brain."""
    signal, envelope, blocks = data()
    given = {"envelope": envelope, "blocks": blocks, "starts": None, **change}
    with pytest.raises(DataError, match=words):
        respond(signal, **given)


@pytest.mark.slow
@pytest.mark.parametrize(("phi", "per_block"), [(0.0, 5), (0.95, 5), (0.999, 5), (0.999, 1)])
def test_p_is_uniform_without_a_response(phi, per_block):
    """Slow signals and slow sound look alike by chance; the test must not mistake that."""
    n_seeds, n_permutations = 400, 99
    p = []
    for seed in range(n_seeds):
        rng = np.random.default_rng([seed, int(phi * 1000)])
        envelope = noise(rng, 60 * N, phi).reshape(60, N)
        signal = noise(rng, (60 * N, 1), phi)
        found = respond(
            signal, envelope, np.arange(60) // per_block, n_permutations=n_permutations, seed=seed
        )
        # p is one of 100 values; spread evenly below each, it is continuous under the null
        p.append(found["sound_p"][0] - rng.random() / (1 + n_permutations))
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_envelope_is_the_level_in_decibels():
    """Ten times the amplitude is 20 dB, and the mean power is 0 dB."""
    rng = np.random.default_rng(0)
    sound = rng.standard_normal(32000)
    sound[16000:] *= 10
    envelope = sound_envelope(sound, 16000, 40)
    assert len(envelope) == 80
    assert np.median(envelope[41:]) - np.median(envelope[:39]) == pytest.approx(20, abs=0.5)
    assert np.average(10 ** (envelope / 10)) == pytest.approx(1, abs=0.05)
    assert np.allclose(sound_envelope(sound * 1e-3, 16000, 40), envelope)


@pytest.mark.parametrize(("rate_in", "rate_out"), [(16000, 40), (44100, 100), (22050, 64.0)])
def test_envelope_keeps_time(rate_in, rate_out):
    """A click is loudest in the sample nearest to its time, at any pair of rates."""
    for time in (0.213, 0.5, 1.377):
        sound = np.full(2 * rate_in, 1e-3)
        sound[round(time * rate_in)] = 1.0
        assert sound_envelope(sound, rate_in, rate_out).argmax() == round(time * rate_out)


def test_envelope_survives_digital_silence():
    """A pause of zeros has no logarithm; it must be quiet, not minus infinity."""
    sound = np.sin(np.arange(16000.0))
    sound[4000:8000] = 0
    envelope = sound_envelope(sound, 16000, 40)
    assert envelope[12:18].tolist() == [-responsive.DYNAMIC_RANGE_DB] * 6
    assert (sound_envelope(np.zeros(16000), 16000, 40) == 0).all()
    assert len(sound_envelope(np.zeros(0), 16000, 40)) == 0
