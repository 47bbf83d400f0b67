"""Two bands with their own penalties, and what one explains beyond the other."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import lfilter

from bids_speechdecode.encoding.banded import fit_banded_ridge
from bids_speechdecode.encoding.folds import Folds, contiguous_folds
from bids_speechdecode.errors import DataError

ALPHAS = np.logspace(-1, 4, 6)
RATIOS = np.array([0.0, 0.1, 0.5, 0.9, 1.0])


def smooth(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return lfilter([0.6], [1, -0.8], rng.standard_normal(shape), axis=0)


def folds_of(n: int) -> Folds:
    return contiguous_folds(np.zeros(n, int), np.ones(n, bool), 4, embargo=10)


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    model, nuisance = smooth(rng, 900, 6) * 3 + 1, smooth(rng, 900, 4) - 2
    y = model @ rng.standard_normal((6, 5)) / 3 + nuisance @ rng.standard_normal((4, 5))
    return model, nuisance, y + 2 * smooth(rng, 900, 5)


def test_equals_a_slow_loop(data: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    """The reference refits every fold, penalty and ratio from the samples with plain algebra."""
    model, nuisance, y = data
    folds, lag = folds_of(900), np.array([0, 1, 2, -1, 0])
    fit = fit_banded_ridge(model, nuisance, y, folds, lag=lag, alphas=ALPHAS, ratios=RATIOS)
    rows = folds.list_rows(np.unique(lag))
    x = np.concatenate([model, nuisance], axis=1)

    def predict(train: np.ndarray, test: np.ndarray, e: int, alpha: float, g: float) -> np.ndarray:
        band = np.sqrt(np.r_[np.full(6, g), np.full(4, 1 - g)])
        mean, scale = x[train].mean(0), band / x[train].std(0)
        z, target = (x[train] - mean) * scale, y[train + lag[e], e]
        weights = np.linalg.solve(z.T @ z + alpha * np.eye(10), z.T @ (target - target.mean()))
        return (x[test] - mean) * scale @ weights + target.mean()

    def score(ratios: np.ndarray, e: int) -> float:
        r2 = []
        for k in range(4):
            others = [b for b in range(4) if b != k]
            best, chosen = -np.inf, (0.0, 0.0)
            for g in ratios:
                for alpha in ALPHAS:
                    r = 0.0
                    for v in others:
                        train = np.concatenate([rows[b] for b in others if b != v])
                        held = predict(train, rows[v], e, alpha, g)
                        target = y[rows[v] + lag[e], e]
                        r -= (target - held).var() / target.var()
                    if r > best:
                        best, chosen = r, (alpha, g)
            held = predict(np.concatenate([rows[b] for b in others]), rows[k], e, *chosen)
            target = y[rows[k] + lag[e], e]
            r2.append(1 - (target - held).var() / target.var())
        return float(np.mean(r2))

    for e in range(5):
        assert fit.r2_joint[e] == pytest.approx(score(RATIOS, e), abs=1e-5)
        assert fit.r2_nuisance[e] == pytest.approx(score(np.zeros(1), e), abs=1e-5)
        assert fit.r2_model[e] == pytest.approx(score(np.ones(1), e), abs=1e-5)


def test_weights_of_the_bands_equal_himalaya(
    data: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    """An independent implementation of the same equation, at one ratio and one penalty."""
    ridge = pytest.importorskip("himalaya.ridge")
    model, nuisance, y = data
    folds = folds_of(900)
    fit = fit_banded_ridge(model, nuisance, y, folds, alphas=[30.0], ratios=[0.2])
    rows = folds.list_rows(np.array([0]))
    train = np.concatenate(rows[1:])
    means = [x[train].mean(0) for x in (model, nuisance)]
    scaled = [(x - m) / x[train].std(0) for x, m in zip((model, nuisance), means, strict=True)]
    _, weights, _ = ridge.solve_group_ridge_random_search(
        [z[train] for z in scaled],
        y[train] - y[train].mean(0),
        n_iter=np.array([[0.2, 0.8]]),
        alphas=30.0,
        return_weights=True,
        progress_bar=False,
        cv=2,
    )
    expected = np.concatenate(scaled, axis=1)[rows[0]] @ weights + y[train].mean(0)
    np.testing.assert_allclose(fit.prediction[rows[0]], expected, atol=1e-4)


def test_planted_unique_variance_is_found() -> None:
    """An electrode of a quarter model, a quarter nuisance and half noise must show just that."""
    rng = np.random.default_rng(1)
    n = 40_000  # so that the parts are nearly uncorrelated in the sample as well
    model, nuisance, noise = smooth(rng, n, 3), smooth(rng, n, 3), smooth(rng, n, 8)
    y = model[:, :1] + nuisance[:, :1] + 2**0.5 * noise
    fit = fit_banded_ridge(model, nuisance, y, folds_of(n), alphas=ALPHAS)
    assert fit.unique_model.mean() == pytest.approx(0.25, abs=0.03)
    assert fit.unique_nuisance.mean() == pytest.approx(0.25, abs=0.03)
    assert fit.r2_joint.mean() == pytest.approx(0.5, abs=0.03)


def test_level_of_a_fold_is_not_judged(data: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    """A drift from fold to fold would drown what the model adds in an error of no model."""
    model, nuisance, y = data
    folds = folds_of(900)
    y = y + np.array([0.0, 8.0, 8.0, 0.0])[np.clip(folds.block, 0, None)][:, None]
    fit = fit_banded_ridge(model, nuisance, y, folds, alphas=ALPHAS, ratios=RATIOS)
    rows = folds.list_rows(np.array([0]))
    for r2, held in (
        (fit.r2_joint, fit.prediction),
        (fit.r2_nuisance, fit.prediction_nuisance),
    ):
        expected = [1 - (y[r] - held[r]).var(0) / y[r].var(0) for r in rows]
        np.testing.assert_allclose(r2, np.mean(expected, axis=0), atol=1e-4)
        raw = [1 - ((y[r] - held[r]) ** 2).mean(0) / y[r].var(0) for r in rows]
        assert (np.mean(raw, axis=0) < r2 - 0.5).all()


def test_a_repeat_of_the_nuisance_adds_nothing() -> None:
    """Without this a speech model that only hears loudness would seem to hear speech."""
    rng = np.random.default_rng(2)
    nuisance = smooth(rng, 4000, 3)
    y = nuisance @ rng.standard_normal((3, 20)) + 2 * smooth(rng, 4000, 20)
    model = nuisance @ rng.standard_normal((3, 5))
    fit = fit_banded_ridge(model, nuisance, y, folds_of(4000), alphas=ALPHAS)
    assert fit.r2_nuisance.mean() > 0.2
    assert np.abs(fit.unique_model).max() < 0.005


def test_lag_of_each_fold_and_broken_electrodes(
    data: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    """What `fit_lagged_ridge` returns goes in as it is: (n_folds, T) with NaN where no score."""
    model, nuisance, y = data
    y = y.copy()
    y[:, 1], y[5, 2] = 7.7, np.nan
    lag = np.zeros((4, 5))
    lag[:, 1:3] = np.nan
    seen: list[float] = []
    fit = fit_banded_ridge(
        model, nuisance, y, folds_of(900), lag=lag, alphas=ALPHAS, on_progress=seen.append
    )
    assert np.isnan(fit.unique_model).tolist() == [False, True, True, False, False]
    assert np.isnan(fit.ratio).all(0).tolist() == [False, True, True, False, False]
    assert sum(seen) == pytest.approx(1)


def test_impossible_ratios_are_refused(data: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    """The square root of a negative share would be NaN everywhere."""
    with pytest.raises(DataError, match="between 0 and 1"):
        fit_banded_ridge(*data, folds_of(900), alphas=ALPHAS, ratios=[1.5])
