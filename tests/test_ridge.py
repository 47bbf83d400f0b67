"""Ridge regression over lags: equal to slow references, without leaks, robust to bad electrodes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy.signal import lfilter
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from bids_speechdecode.encoding import grams
from bids_speechdecode.encoding.folds import Folds, contiguous_folds
from bids_speechdecode.encoding.grams import Block, LaggedResponses, pool_features, sum_features
from bids_speechdecode.encoding.nested import score
from bids_speechdecode.encoding.penalties import HeldOut, decompose
from bids_speechdecode.encoding.ridge import (
    LaggedRidge,
    fit_lagged_ridge,
    fit_ridge_cv,
    stack_delays,
)
from bids_speechdecode.errors import DataError

ALPHAS = np.logspace(-1, 4, 6)
LAGS = np.arange(-5, 6)


@dataclasses.dataclass(frozen=True)
class Data:
    """Features, responses and their folds."""

    x: np.ndarray
    y: np.ndarray
    folds: Folds


def simulate(n: int = 600, p: int = 7, targets: int = 5, seed: int = 0) -> Data:
    """Return features of unequal size far from zero, and responses that follow at known lags."""
    rng = np.random.default_rng(seed)
    x = lfilter([1], [1, -0.8], rng.standard_normal((n, p)), axis=0) * np.arange(1, p + 1)
    y = 100 + 2 * rng.standard_normal((n, targets))
    for e in range(targets):
        y[:, e] += 0.2 * np.roll(x @ rng.standard_normal(p), true_lag(e))
    segments, valid = np.repeat([0, 1], [n - n // 3, n // 3]), np.ones(n, bool)
    valid[n // 6 : n // 6 + 4] = False
    return Data((x + 50).astype("f4"), y.astype("f4"), contiguous_folds(segments, valid, 4, 14))


def true_lag(electrode: int) -> int:
    return electrode % 5 - 2


@pytest.fixture(scope="module")
def data() -> Data:
    return simulate()


@pytest.fixture(scope="module")
def fit(data: Data) -> LaggedRidge:
    return fit_lagged_ridge(data.x, data.y, data.folds, lags=LAGS, alphas=ALPHAS, keep_weights=True)


def slow_predict(
    data: Data, train: np.ndarray, test: np.ndarray, lag: int, alpha: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return prediction and truth (m, T) by scikit-learn, in float64."""
    x, y = data.x.astype(float), data.y.astype(float)
    scaler = StandardScaler().fit(x[train])
    ridge = Ridge(alpha=alpha).fit(scaler.transform(x[train]), y[train + lag])
    return ridge.predict(scaler.transform(x[test])), y[test + lag]


def correlate(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the correlation of each pair of columns."""
    return np.array([np.corrcoef(one, other)[0, 1] for one, other in zip(a.T, b.T, strict=True)])


def test_equals_a_slow_loop(data: Data, fit: LaggedRidge) -> None:
    """Every choice, score and prediction: refitted by scikit-learn at each lag, penalty, fold."""
    rows = data.folds.list_rows(LAGS)
    profile = np.zeros(fit.lag_profile.shape)
    for k in range(4):
        others = [b for b in range(4) if b != k]
        train = np.concatenate([rows[b] for b in others])
        scores = np.zeros((len(LAGS), len(ALPHAS), 5))
        for i, j in np.ndindex(*scores.shape[:2]):
            for v in others:
                some = np.concatenate([rows[b] for b in others if b != v])
                scores[i, j] += correlate(*slow_predict(data, some, rows[v], LAGS[i], ALPHAS[j]))
        for e in range(5):
            i, j = np.unravel_index(scores[..., e].argmax(), scores.shape[:2])
            assert (fit.lag[k, e], fit.alpha[k, e]) == (LAGS[i], ALPHAS[j])
            held, y = (
                each[:, e] for each in slow_predict(data, train, rows[k], LAGS[i], ALPHAS[j])
            )
            np.testing.assert_allclose(fit.prediction[rows[k] + LAGS[i], e], held, atol=1e-4)
            assert fit.fold_r[k, e] == pytest.approx(np.corrcoef(held, y)[0, 1], abs=1e-5)
            r2 = 1 - (y - held).var() / y.var()
            assert fit.fold_r2[k, e] == pytest.approx(r2, abs=1e-5)
        for i, j in np.ndindex(*scores.shape[:2]):
            best = scores[i].argmax(0) == j
            held, y = slow_predict(data, train, rows[k], LAGS[i], ALPHAS[j])
            profile[i, best] += correlate(held, y)[best] / 4
    np.testing.assert_allclose(fit.lag_profile, profile, atol=1e-5)
    np.testing.assert_allclose(fit.r, fit.fold_r.mean(0), atol=1e-7)


def test_planted_lags_are_found(fit: LaggedRidge) -> None:
    """A sign error would turn "the brain follows the sound" into its opposite."""
    assert (fit.lag == [true_lag(e) for e in range(5)]).all()
    assert (fit.lags[fit.lag_profile.argmax(0)] == [true_lag(e) for e in range(5)]).all()


def test_value_is_time() -> None:
    """A response that *is* its time: a prediction must stand where its response stands."""
    n = 400
    time = np.arange(n, dtype=float)
    rng = np.random.default_rng(0)
    noise = np.stack([time % 50, rng.standard_normal(n)], axis=1)
    folds = contiguous_folds(np.repeat(np.arange(8), 50), np.ones(n, bool), 4, 12)
    y = np.roll(time % 50, 3)[:, None]
    fit = fit_lagged_ridge(noise, y, folds, lags=LAGS, alphas=[1e-3])
    there = ~np.isnan(fit.prediction[:, 0])
    assert there.sum() == sum(len(rows) for rows in folds.list_rows(LAGS))
    best = fit.lags[np.argmax(fit.lag_profile[:, 0])]
    assert best == fit.lag[0, 0]
    np.testing.assert_allclose(fit.prediction[there, 0], y[there, 0], atol=1e-2)


@pytest.mark.parametrize("standardised", [True, False])
def test_plain_cross_validation_equals_himalaya(standardised: bool) -> None:
    """The peer, with the same folds and penalties: the same choices, scores and weights."""
    ridge = pytest.importorskip("himalaya.ridge")
    scoring = pytest.importorskip("himalaya.scoring")
    rng = np.random.default_rng(3)
    x = rng.standard_normal((800, 40)).astype("f4") * np.linspace(0.5, 2, 40, dtype="f4")
    y = (x @ rng.standard_normal((40, 30)) + 20 * rng.standard_normal((800, 30))).astype("f4")
    blocks = np.repeat(np.arange(4), 200)
    if standardised:  # himalaya does not; on data standardised in each fold it need not
        for k in range(4):
            x[blocks == k] -= x[blocks == k].mean(0)
            x[blocks == k] /= x[blocks == k].std(0)
    splits = [(np.flatnonzero(blocks != k), np.flatnonzero(blocks == k)) for k in range(4)]
    alphas = np.logspace(0, 5, 10).astype("f4")
    peer = ridge.RidgeCV(
        alphas=alphas,
        fit_intercept=True,
        cv=splits,
        solver_params={"score_func": scoring.correlation_score},
    ).fit(x, y)
    ours = fit_ridge_cv(x, y, blocks, alphas=alphas, standardised=standardised)
    np.testing.assert_allclose(ours.alpha, peer.best_alphas_, rtol=1e-5)
    np.testing.assert_allclose(ours.score, peer.cv_scores_, atol=1e-5)
    np.testing.assert_allclose(ours.weights, peer.coef_, atol=1e-4)
    np.testing.assert_allclose(ours.intercept, peer.intercept_, atol=1e-4)


@pytest.mark.parametrize("lags", [np.arange(-20, 21), np.array([-7, -3, 0, 1, 9, 12]), LAGS[:3]])
def test_lagged_products_equal_direct_sums(lags: np.ndarray) -> None:
    """Segments, gaps and the ends of a recording must not let a sample in twice or leave one."""
    rng = np.random.default_rng(0)
    x, y = torch.tensor(rng.standard_normal((700, 3))), torch.tensor(rng.random((700, 4)) + 9)
    rows = np.concatenate([np.arange(25, 310), np.arange(333, 340), np.arange(400, 680)])
    block = Block(x, y, rows, lags)
    sums = LaggedResponses(block).sum_with(block.x)
    for i, lag in enumerate(lags):
        some, later = slice(4 * i, 4 * i + 4), y[rows + lag]
        centred = later - later.mean(0)
        np.testing.assert_allclose(sums.mean[some], later.mean(0), rtol=1e-10)
        np.testing.assert_allclose(sums.yy[some], (centred**2).sum(0), rtol=1e-10)
        np.testing.assert_allclose(sums.xy[:, some], block.x.T @ centred, atol=1e-9)


def test_pooled_sums_equal_those_of_all_samples() -> None:
    """Blocks that differ in their mean: forgetting that is the classic error of pooling."""
    x = torch.tensor(np.random.default_rng(0).standard_normal((90, 3))) + 5
    x[:30] += 10
    pooled = pool_features([sum_features(x[:30]), sum_features(x[30:])])
    np.testing.assert_allclose(pooled.xx, sum_features(x).xx, rtol=1e-9)


@pytest.mark.parametrize("kind", ["spread", "equal", "nearly equal", "deficient"])
def test_all_penalties_from_one_product(kind: str) -> None:
    """Partial fractions divide by differences of eigenvalues, which may be small or zero."""
    rng = np.random.default_rng(0)
    values = {
        "spread": np.logspace(-1, 7, 30),
        "equal": np.repeat([3.0, 500.0, 2e6], 10),
        "nearly equal": 1000 * (1 + 1e-5 * rng.random(30)),
        "deficient": np.r_[np.zeros(10), np.logspace(2, 5, 20)],
    }[kind]
    basis = np.linalg.qr(rng.standard_normal((30, 30)))[0]
    held = rng.standard_normal((50, 30)) @ (basis * np.sqrt(values + 1e-9)) @ basis.T
    y = rng.standard_normal((50, 6))
    y -= y.mean(0)
    held -= held.mean(0)
    gram = basis * values @ basis.T
    xy = basis * np.sqrt(values) @ rng.standard_normal((30, 6))
    alphas = np.logspace(0, 7, 10)
    arrays = (gram, xy, held.T @ held, held.T @ y, (y**2).sum(0))
    t_gram, t_xy, t_held, t_held_xy, t_yy = (torch.tensor(a) for a in arrays)
    features = grams.Features(50, torch.zeros(30), t_held)
    ours = HeldOut(decompose(t_gram), features, torch.tensor(alphas)).correlate(
        t_xy, t_held_xy, t_yy
    )
    for alpha, r in zip(alphas, ours, strict=True):
        prediction = held @ np.linalg.solve(gram + alpha * np.eye(30), xy)
        expected = [np.corrcoef(prediction[:, t], y[:, t])[0, 1] for t in range(6)]
        np.testing.assert_allclose(r, expected, atol=1e-6)


@pytest.mark.parametrize("screen", [3, 128])
@pytest.mark.parametrize("changed", ["x", "y"])
def test_held_out_data_do_not_reach_the_fit(data: Data, changed: str, screen: int) -> None:
    """Leakage: with other held-out data, lag, penalty and weights are the same to the last bit."""
    fits = []
    for change in (False, True):
        x, y = data.x.copy(), data.y.copy()
        if change:
            rows = data.folds.list_rows(LAGS)[1]
            rng = np.random.default_rng(9)
            if changed == "x":
                x[rows] = 1000 * rng.standard_normal((len(rows), x.shape[1]))
            else:
                around = slice(rows[0] + LAGS[0], rows[-1] + LAGS[-1] + 1)
                y[around] = 1000 * rng.standard_normal(y[around].shape)
        settings = {"lags": LAGS, "alphas": ALPHAS, "screen": screen, "keep_weights": True}
        fits.append(fit_lagged_ridge(x, y, data.folds, **settings))
    before, after = fits
    assert before.weights is not None
    assert after.weights is not None
    assert (before.weights[1] == after.weights[1]).all()
    assert (before.lag[1] == after.lag[1]).all()
    assert (before.alpha[1] == after.alpha[1]).all()
    assert (before.weights[0] != after.weights[0]).any()  # there the block is trained on


def test_bad_electrodes_give_nan(data: Data, fit: LaggedRidge) -> None:
    """A dead electrode must be neither an error, nor a number, nor a change to the others."""
    y = data.y.copy()
    y[:, 1] = 0.1
    y[data.folds.list_rows(LAGS)[2][3], 2] = np.nan
    y[:, 3] = np.nan
    bad = fit_lagged_ridge(data.x, y, data.folds, lags=LAGS, alphas=ALPHAS)
    broken = np.array([False, True, True, True, False])
    for values in (bad.r, bad.r2, bad.lag_profile[3], bad.lag[0], bad.alpha[0]):
        assert (np.isnan(values) == broken).all()
    assert np.isnan(bad.prediction[:, broken]).all()
    np.testing.assert_allclose(bad.r[~broken], fit.r[~broken], atol=1e-6)
    alone = fit_lagged_ridge(data.x, y, data.folds, lags=[0], alphas=ALPHAS)
    assert (np.isnan(alone.r) == broken).all()
    plain = fit_ridge_cv(data.x, y, data.folds.block, alphas=ALPHAS)
    assert (np.isnan(plain.alpha) == broken).all()


def test_gaps_in_the_response_are_not_bad_electrodes(data: Data, fit: LaggedRidge) -> None:
    """NaN where the response is not valid is how a gap is written; it must change nothing."""
    y = data.y.copy()
    y[~data.folds.valid] = np.nan
    gaps = fit_lagged_ridge(data.x, y, data.folds, lags=LAGS, alphas=ALPHAS)
    assert np.isfinite(gaps.r).all()
    np.testing.assert_allclose(gaps.r, fit.r, atol=1e-5)


def test_order_of_electrodes_does_not_matter(data: Data, fit: LaggedRidge) -> None:
    """Lags and penalties are picked per column; a slip in the indices would swap electrodes."""
    order = np.array([3, 0, 4, 1, 2])
    other = fit_lagged_ridge(data.x, data.y[:, order], data.folds, lags=LAGS, alphas=ALPHAS)
    assert (other.lag == fit.lag[:, order]).all()
    assert (other.alpha == fit.alpha[:, order]).all()
    np.testing.assert_allclose(other.r, fit.r[order], atol=1e-6)
    np.testing.assert_allclose(other.lag_profile, fit.lag_profile[:, order], atol=1e-6)


def test_constant_features_are_unused(data: Data, fit: LaggedRidge) -> None:
    """Silence gives constant features, whose deviation of zero must not divide anything."""
    x = np.concatenate([data.x, np.full((len(data.x), 2), 0.1, "f4")], axis=1)
    constant = fit_lagged_ridge(x, data.y, data.folds, lags=LAGS, alphas=ALPHAS)
    np.testing.assert_allclose(constant.r, fit.r, atol=1e-5)


def test_screening_keeps_the_lag() -> None:
    """With more features than `screen` the lag is sought in fewer dimensions, not elsewhere."""
    data = simulate(n=3000, p=40, targets=10, seed=1)
    settings = {"lags": LAGS, "alphas": ALPHAS}
    exact = fit_lagged_ridge(data.x, data.y, data.folds, **settings, screen=40)
    screened = fit_lagged_ridge(data.x, data.y, data.folds, **settings, screen=25)
    same = exact.lag == screened.lag
    assert same.mean() > 0.9
    assert (exact.alpha == screened.alpha)[same].all()
    np.testing.assert_allclose(exact.fold_r[same], screened.fold_r[same], atol=1e-5)


def test_strong_drift_leaves_the_scores(data: Data) -> None:
    """A level that is thousands of times what is predicted about it must not take its digits."""
    drift = np.array([500.0, 2000.0, -3000.0, 4000.0])[np.clip(data.folds.block, 0, None)]
    y = (data.y + drift[:, None]).astype("f4")
    moved = Data(data.x, y, data.folds)
    alpha = 1e7  # so that predictions vary little
    fit = fit_lagged_ridge(data.x, y, data.folds, lags=[0], alphas=[alpha])
    rows = data.folds.list_rows(np.zeros(1, int))
    for k in range(4):
        train = np.concatenate([rows[b] for b in range(4) if b != k])
        held, truth = slow_predict(moved, train, rows[k], 0, alpha)
        assert (held.std(0) < 1e-3 * np.abs((held - truth).mean(0))).all()
        np.testing.assert_allclose(fit.fold_r[k], correlate(held, truth), atol=1e-4)
        r2 = 1 - (truth - held).var(0) / truth.var(0)
        np.testing.assert_allclose(fit.fold_r2[k], r2, atol=1e-4)
    assert np.isfinite(fit.lag_profile).all()
    # Also where the prediction comes with its level.
    varying = torch.tensor(np.random.default_rng(1).standard_normal((3, 500)), dtype=torch.float32)
    level = torch.tensor([[0.0], [500.0], [-2000.0]])
    r, r2 = score(varying, 0.5 * varying + level, torch.zeros(3))
    np.testing.assert_allclose(r, 1, atol=1e-4)
    np.testing.assert_allclose(r2, 0.75, atol=1e-4)


def test_noise_gives_no_score() -> None:
    """The best of many lags and penalties is positive on the data it was chosen on, not here."""
    rng = np.random.default_rng(5)
    x = lfilter([1], [1, -0.8], rng.standard_normal((2000, 5)), axis=0)
    y = lfilter([1], [1, -0.8], rng.standard_normal((2000, 200)), axis=0)
    folds = contiguous_folds(np.zeros(2000, int), np.ones(2000, bool), 4, 14)
    r = fit_lagged_ridge(x, y, folds, lags=LAGS, alphas=ALPHAS).r
    assert abs(r.mean()) < 4 * r.std() / np.sqrt(200)


def test_delays_equal_a_slow_loop() -> None:
    """Delays never reach into another stretch of audio."""
    x, segments = np.arange(1.0, 13.0).reshape(6, 2), np.array([0, 0, 0, 1, 1, 1])
    stacked = stack_delays(x, [0, 2, -1], segments)
    for t in range(6):
        for j, delay in enumerate([0, 2, -1]):
            there = 0 <= t - delay < 6 and segments[t - delay] == segments[t]
            expected = x[t - delay] if there else np.zeros(2)
            assert (stacked[t, 2 * j : 2 * j + 2] == expected).all()


def test_progress_adds_up(data: Data) -> None:
    """A bar that ends at 80% looks like a crash."""
    for lags in ([0], LAGS):
        seen: list[float] = []
        settings = {"lags": lags, "alphas": ALPHAS, "on_progress": seen.append}
        fit_lagged_ridge(data.x, data.y, data.folds, **settings)
        assert sum(seen) == pytest.approx(1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": np.zeros((5, 2))}, "same samples"),
        ({"alphas": [0.0]}, "positive"),
        ({"lags": np.arange(-10, 11)}, "shorter than the range of the lags"),
    ],
)
def test_bad_input_is_named(data: Data, changes: dict[str, object], message: str) -> None:
    """A wrong shape must not end as an error of some matrix product."""
    settings = {"x": data.x, "y": data.y, "lags": LAGS, "alphas": ALPHAS} | changes
    x, y = settings.pop("x"), settings.pop("y")
    with pytest.raises(DataError, match=message):
        fit_lagged_ridge(x, y, data.folds, **settings)


def test_features_that_are_not_finite_are_refused(data: Data) -> None:
    """One NaN would make every score of every electrode NaN without a word."""
    x = data.x.copy()
    x[400, 0] = np.nan
    with pytest.raises(DataError, match="not finite"):
        fit_lagged_ridge(x, data.y, data.folds, lags=[0], alphas=ALPHAS)
