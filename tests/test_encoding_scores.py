"""Scores of held-out predictions, and tests of one electrode at a time."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import signal, stats
from sklearn.metrics import r2_score

from bids_speechdecode.encoding.folds import contiguous_folds
from bids_speechdecode.encoding.nulls import (
    block_permutation_p,
    circular_shift_p,
    false_discovery_rate,
)
from bids_speechdecode.encoding.ridge import fit_lagged_ridge
from bids_speechdecode.encoding.scores import (
    MODULATION_EDGES,
    correlate,
    modulation_scores,
    r2,
)
from bids_speechdecode.errors import DataError

RATE = 20.0


def slow_noise(rng, n_times, n_electrodes, memory=0.9):
    """Return noise whose samples resemble their neighbours, as envelopes do."""
    white = rng.standard_normal((n_times + 200, n_electrodes))
    return signal.lfilter([np.sqrt(1 - memory**2)], [1, -memory], white, axis=0)[200:]


def gappy_pair(rng, n_times=600, n_electrodes=4):
    response = slow_noise(rng, n_times, n_electrodes)
    prediction = 0.3 * response + rng.standard_normal(response.shape)
    prediction[:7, 1] = np.nan
    response[100:130, 2] = np.nan
    return prediction, response


def test_scores_equal_scipy_and_sklearn():
    # The two numbers every table starts from, against other implementations, gaps included.
    prediction, response = gappy_pair(np.random.default_rng(1))
    for electrode in range(4):
        x, y = prediction[:, electrode], response[:, electrode]
        both = np.isfinite(x) & np.isfinite(y)
        x, y = x[both], y[both]
        expected = stats.pearsonr(x, y)[0], r2_score(y - y.mean(), x - x.mean())
        assert correlate(prediction, response)[electrode] == pytest.approx(expected[0])
        assert r2(prediction, response)[electrode] == pytest.approx(expected[1])


def test_scores_of_one_fold_equal_the_plain_ones_and_single_precision_agrees():
    # Fold means must change nothing where there is one fold, nor may float32 features.
    prediction, response = gappy_pair(np.random.default_rng(2))
    one = np.full(len(response), 3)
    for score in (correlate, r2):
        plain = score(prediction, response)
        np.testing.assert_allclose(score(prediction, response, one), plain)
        single = score(prediction.astype(np.float32), response.astype(np.float32))
        np.testing.assert_allclose(single, plain, atol=1e-6)


def test_nothing_to_score_is_nan():
    # A dead electrode or a model that predicts its mean has no r; 0.1 sums with rounding errors.
    response = np.random.default_rng(3).standard_normal((500, 3))
    prediction = response.copy()
    prediction[:, 0], prediction[:, 1] = 0.1, np.nan
    response[:, 2] = 1e-6 / 3
    assert np.isnan(correlate(prediction, response)).all()
    bands = modulation_scores(prediction, response, RATE, np.zeros(500, int), [(1.0, 2.0)])
    assert bands["r"].isna().all()
    assert bands["coherence"].isna().all()


def test_intercepts_of_folds_do_not_lower_r():
    # The mean of the other folds predicts this fold's mean with the wrong sign: an r of useless
    # predictions that is far below 0 would hide differences of 0.005.
    rng = np.random.default_rng(4)
    response = slow_noise(rng, 8000, 200, memory=0.995)
    folds = np.repeat(np.arange(4), 2000)
    prediction = 0.01 * slow_noise(rng, 8000, 200)
    for fold in range(4):
        prediction[folds == fold] += response[folds != fold].mean(axis=0)
    r = correlate(prediction, response, folds)
    assert abs(r.mean()) < 3 * r.std() / np.sqrt(200)
    assert correlate(prediction, response).mean() < -0.1


def test_drift_between_folds_does_not_lower_r2():
    # A drift moves the level of each fold, which no model of the sound can know: r2 and r must not
    # disagree about whether something was predicted.
    rng = np.random.default_rng(13)
    driven, folds = slow_noise(rng, 4000, 4), np.repeat(np.arange(4), 1000)
    response = driven + 2 * slow_noise(rng, 4000, 4)
    still = r2(0.8 * driven, response, folds)
    assert (still > 0.1).all()
    drift = np.array([-3.0, 5.0, 1.0, -2.0])[folds, None]
    np.testing.assert_allclose(r2(0.8 * driven - drift, response + drift, folds), still)
    x, y = (
        np.concatenate(
            [values[folds == fold, 0] - values[folds == fold, 0].mean() for fold in range(4)]
        )
        for values in (0.8 * driven, response)
    )
    assert still[0] == pytest.approx(1 - ((y - x) ** 2).sum() / (y**2).sum())
    assert r2(np.ones_like(response), response + drift, folds) == pytest.approx(np.zeros(4))


def test_shapes_that_do_not_fit_are_named():
    # A mistaken axis must not broadcast into a score.
    with pytest.raises(DataError, match="do not fit"):
        correlate(np.zeros((10, 2)), np.zeros((2, 10)))
    with pytest.raises(DataError, match="label"):
        correlate(np.zeros((10, 2)), np.zeros((10, 2)), np.zeros(9))


def test_planted_band_is_found_in_its_band_alone():
    # A model that knows 1 to 2 Hz must not appear to know its neighbours, across two stretches.
    rng = np.random.default_rng(5)
    response = rng.standard_normal((12000, 2))
    sos = signal.butter(4, (1.0, 2.0), "bandpass", fs=RATE, output="sos")
    prediction = signal.sosfiltfilt(sos, response, axis=0) + 0.3 * rng.standard_normal((12000, 2))
    table = modulation_scores(prediction, response, RATE, np.repeat([0, 1], 6000))
    assert list(dict.fromkeys(zip(table["low"], table["high"], strict=True))) == [*MODULATION_EDGES]
    inside = (table["low"] == 1.0).to_numpy()
    far = ~inside & (table["low"] != 2.0).to_numpy() & (table["low"] != 0.5).to_numpy()
    assert (table["r"][inside] > 0.9).all()
    assert (table["r"][far].abs() < 0.25).all()
    assert (table["coherence"][inside] > 0.6).all()
    assert (table["coherence"][far] < table["coherence_chance"][far] + 0.1).all()


def test_band_r_equals_filtering_the_whole():
    # Cutting a recording into stretches must not colour the score: edges are discarded.
    rng = np.random.default_rng(6)
    response = slow_noise(rng, 12000, 20, memory=0.98)
    prediction = response + slow_noise(rng, 12000, 20, memory=0.98)
    inner = slice(4000, 8000)
    segments = np.zeros(12000, int)
    segments[inner] = 1
    cut = [np.where(segments[:, None] == 1, values, np.nan) for values in (prediction, response)]
    for low, high in MODULATION_EDGES[:3]:
        sos = signal.butter(2, (low, high), "bandpass", fs=RATE, output="sos")
        edge = round(RATE * max(1 / low, 2 / (high - low)))
        kept = slice(inner.start + edge, inner.stop - edge)
        whole = [signal.sosfiltfilt(sos, values, axis=0)[kept] for values in (prediction, response)]
        table = modulation_scores(*cut, RATE, segments, [(low, high)])
        np.testing.assert_allclose(table["r"], correlate(*whole), atol=0.005)


def test_coherence_equals_scipy():
    # Magnitude-squared coherence of one stretch, against scipy's Welch.
    rng = np.random.default_rng(7)
    response = slow_noise(rng, 4000, 3)
    prediction = response + rng.standard_normal((4000, 3))
    table = modulation_scores(prediction, response, RATE, np.zeros(4000, int), [(0.5, 1.0)])
    frequencies, coherence = signal.coherence(
        prediction, response, RATE, "hann", nperseg=160, noverlap=80, axis=0
    )
    band = (frequencies >= 0.5) & (frequencies < 1.0)
    np.testing.assert_allclose(table["coherence"], coherence[band].mean(axis=0))


def test_coherence_by_chance_is_what_unrelated_signals_show():
    # Few windows look coherent by chance; the reader needs to know how much.
    rng = np.random.default_rng(8)
    pair = slow_noise(rng, 6000, 300), slow_noise(rng, 6000, 300)
    table = modulation_scores(*pair, RATE, np.repeat([0, 1, 2], 2000), [(0.05, 0.25), (0.5, 1.0)])
    for _, band in table.groupby("low"):
        error = band["coherence"].std() / np.sqrt(300)
        assert band["coherence"].mean() == pytest.approx(
            band["coherence_chance"].iloc[0], abs=max(4 * error, 0.002)
        )


def test_bands_that_cannot_be_measured():
    # Above 0.4 of the rate the decimation filter rules; short stretches hold no slow cycle.
    rng = np.random.default_rng(9)
    pair = rng.standard_normal((2, 300, 2))
    table = modulation_scores(*pair, 10.0, np.zeros(300, int))
    assert table["high"].max() == 4.0
    assert table["r"][table["low"] == 0.05].isna().all()
    assert table["coherence"][table["low"] == 0.05].isna().all()
    assert table["r"][table["low"] == 2.0].notna().all()
    with pytest.raises(DataError, match="modulation band"):
        modulation_scores(*pair, 10.0, np.zeros(300, int), [(4.0, 8.0)])


def test_each_electrode_keeps_its_own_gaps():
    # With a lag of its own every electrode has other samples; the others must not lose any.
    rng = np.random.default_rng(10)
    response = rng.standard_normal((2000, 3))
    prediction = response + rng.standard_normal((2000, 3))
    prediction[:30, 1] = np.nan
    prediction[-20:, 2] = np.nan
    together = modulation_scores(prediction, response, RATE, np.zeros(2000, int), [(1.0, 2.0)])
    for electrode in range(3):
        alone = modulation_scores(
            prediction[:, [electrode]],
            response[:, [electrode]],
            RATE,
            np.zeros(2000, int),
            [(1.0, 2.0)],
        )
        for score in ("r", "coherence"):
            assert together[score][electrode] == pytest.approx(alone[score][0])


def test_shift_p_equals_rotating_one_by_one():
    # Fourier transforms must count what a loop over rotations counts: each pair of shifts of two
    # stretches, without those of up to 2 samples of 80 and 1 of 50 on either side.
    rng = np.random.default_rng(13)
    y = slow_noise(rng, 130, 3, memory=0.5)
    x = y * [0, 0.1, 0.2] + slow_noise(rng, 130, 3, memory=0.5)
    segments = np.repeat([0, 1], [80, 50])
    p = circular_shift_p(x, y, segments, 1.0, min_shift=5, n_permutations=40000, rng=rng)
    for electrode in range(3):
        r = [
            np.corrcoef(x[:, electrode], np.concatenate([np.roll(first, i), np.roll(second, j)]))
            for first, second in [np.split(y[:, electrode], [80])]
            for i in range(2, 79)
            for j in range(1, 50)
        ]
        observed = np.corrcoef(x[:, electrode], y[:, electrode])[0, 1]
        exact = np.mean(np.array(r)[:, 0, 1] >= observed)
        assert p[electrode] == pytest.approx(exact, abs=0.01)


def test_block_p_equals_permuting_one_by_one():
    # Inner products of blocks must count what r of permuted signals counts.
    rng = np.random.default_rng(14)
    y = slow_noise(rng, 50, 2)
    x = y * [0, 0.15] + slow_noise(rng, 50, 2)
    p = block_permutation_p(x, y, np.zeros(50, int), 1.0, block=10, n_permutations=20000, rng=rng)
    for electrode in range(2):
        blocks = y[:, electrode].reshape(5, 10)
        orders = [list(order) for order in itertools.permutations(range(5))]
        r = [np.corrcoef(blocks[order].ravel(), x[:, electrode])[0, 1] for order in orders]
        assert p[electrode] == pytest.approx(np.mean(np.array(r) >= r[0] - 1e-12), abs=0.015)


@pytest.mark.parametrize("test", [circular_shift_p, block_permutation_p])
def test_p_is_uniform_for_unrelated_slow_signals(test):
    # Neighbouring samples are alike; a test that forgot it would call a third of these findings.
    ps = []
    for seed in range(6):
        rng = np.random.default_rng([15, seed])
        x, y = slow_noise(rng, 6000, 100), slow_noise(rng, 6000, 100)
        segments = np.repeat([0, 1, 2], 2000)
        ps.append(test(x, y, segments, RATE, n_permutations=400, rng=rng))
    p = np.concatenate(ps)
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert stats.binomtest(int((p <= 0.05).sum()), len(p), 0.05).pvalue > 0.01
    naive = [stats.pearsonr(x[:, e], y[:, e], alternative="greater").pvalue for e in range(100)]
    assert np.mean(np.array(naive) <= 0.05) > 0.2


@pytest.mark.parametrize("test", [circular_shift_p, block_permutation_p])
def test_p_is_right_for_predictions_of_fitted_models(test):
    # What two folds share by chance enters twice, once from either side: without its correction the
    # test calls 13 % of electrodes that hear nothing findings at 5 %.
    n_times, ps = 6000, []
    folds = contiguous_folds(np.zeros(n_times, int), np.ones(n_times, bool), 4, 60)
    labels = np.repeat(np.arange(4), n_times // 4)
    for seed in range(6):
        rng = np.random.default_rng([16, seed])
        x, y = slow_noise(rng, n_times, 24), slow_noise(rng, n_times, 100)
        fitted = fit_lagged_ridge(x, y, folds, lags=[0], alphas=np.geomspace(1, 1e6, 7)).prediction
        ps.append(test(fitted, y, labels, RATE, n_permutations=400, rng=rng, folds=labels))
    share = (np.concatenate(ps) <= 0.05).mean()
    assert 0.02 < share < 0.09  # five standard errors of clustered electrodes either way


def test_every_fold_counts_whatever_its_penalty():
    # A heavy penalty makes one fold's predictions a thousand times smaller; its r must still count.
    rng = np.random.default_rng(17)
    folds = np.repeat([0, 1, 2], [300, 500, 400])
    y = rng.normal(size=(1200, 2)) + 5
    x = (0.3 * y + rng.normal(size=y.shape)) * np.array([1.0, 1e3, 1e-3])[folds][:, None]
    of_folds = [
        [np.corrcoef(x[folds == k, e], y[folds == k, e])[0, 1] for k in range(3)] for e in range(2)
    ]
    expected = np.average(of_folds, axis=1, weights=[300, 500, 400])
    np.testing.assert_allclose(correlate(x, y, folds), expected, atol=1e-12)


@pytest.mark.parametrize("test", [circular_shift_p, block_permutation_p])
def test_planted_electrodes_are_found(test):
    # Power: an r of 0.15 in ten minutes must be found after correction, and little else.
    rng = np.random.default_rng(16)
    x, y = slow_noise(rng, 12000, 40), slow_noise(rng, 12000, 40)
    x[:, :10] += 0.2 * y[:, :10]
    q = false_discovery_rate(test(x, y, np.zeros(12000, int), RATE, rng=rng))
    assert (q[:10] <= 0.05).mean() >= 0.9
    assert (q[10:] <= 0.05).sum() <= 2


@pytest.mark.parametrize("test", [circular_shift_p, block_permutation_p])
def test_what_cannot_be_tested_has_no_p(test):
    # Constant or absent signals: neither a finding nor evidence of none, nor in the way of others.
    rng = np.random.default_rng(17)
    x, y = rng.standard_normal((2, 900, 3))
    x[:, 0], x[:, 1] = 0.1, np.nan
    p = test(x, y, np.repeat([0, 1], 450), RATE, n_permutations=50, rng=rng)
    assert np.isnan(p[:2]).all()
    assert 0 < p[2] <= 1
    q = false_discovery_rate(p)
    assert np.isnan(q[:2]).all()
    assert q[2] == p[2]


def test_short_stretches_can_still_be_shifted():
    # Stretches of 10 s must not turn every unrelated electrode into a finding for want of shifts.
    rng = np.random.default_rng(18)
    x, y = slow_noise(rng, 4000, 200, 0.8), slow_noise(rng, 4000, 200, 0.8)
    p = circular_shift_p(x, y, np.arange(4000) // 200, RATE, n_permutations=400, rng=rng)
    assert stats.binomtest(int((p <= 0.05).sum()), 200, 0.05).pvalue > 0.01
