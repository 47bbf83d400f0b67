"""Drift: dates from features, rank against days apart, channels between days, and remedies."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.linear_model import Ridge

from bids_speechdecode.decoding.distance import DistanceLaw, fit_distance
from bids_speechdecode.decoding.drift import (
    PENALTIES,
    Decoded,
    Moments,
    compare_decoded,
    decode,
    run_folds,
    spread_folds,
)
from bids_speechdecode.decoding.orders import draw_orders
from bids_speechdecode.decoding.standardise import (
    as_preprocessed,
    match_level,
    measure_level,
    standardise_sliding,
)
from bids_speechdecode.decoding.wandering import describe_windows, share_between_days
from bids_speechdecode.simulate.drift import SWING_PERIOD, Swing

N_RECORDINGS, PER_RECORDING = 14, 20
DAYS = np.repeat(np.arange(7.0), 2)


def features(rng: np.random.Generator, drift: float, n_features: int = 12) -> np.ndarray:
    """Return windows that share a state of their recording, and move with the day."""
    unit = np.repeat(np.arange(N_RECORDINGS), PER_RECORDING)
    state = rng.standard_normal((N_RECORDINGS, n_features))
    course = ((DAYS - DAYS.mean()) / DAYS.std())[:, None] * np.ones(n_features)
    noise = rng.standard_normal((len(unit), n_features))
    return (state + drift * course)[unit] + noise


def moments(period: float | None = None) -> Moments:
    unit = np.repeat(np.arange(N_RECORDINGS), PER_RECORDING)
    value = DAYS if period is None else (3.7 * np.arange(N_RECORDINGS)) % 24
    offset = np.zeros(len(unit)) if period is None else np.tile(np.arange(20) / 10, N_RECORDINGS)
    return Moments(unit, value, offset, period)


def told(x: np.ndarray, *, seed: int = 0, when: Moments | None = None, n: int = 60) -> Decoded:
    rng = np.random.default_rng(seed)
    when = when or moments()
    folds = spread_folds(len(when.value))
    orders = draw_orders(len(when.value), n, rng)
    return decode(x, when, folds, orders, confidence=0.95)


# ------------------------------------------------------------------------------------ dates


@pytest.mark.parametrize("period", [None, 24.0])
def test_predictions_are_those_of_nested_ridge(period: float | None) -> None:
    """The sums over folds are an economy; a loop with scikit-learn must give the same."""
    x, when = features(np.random.default_rng(0), 1.0), moments(period)
    folds = spread_folds(N_RECORDINGS)[when.unit]
    y = when.targets(np.arange(N_RECORDINGS)[None])[:, 0]
    expected = np.zeros_like(y)
    for fold in np.unique(folds):
        rest = folds != fold
        errors = np.zeros(len(PENALTIES))
        for inner in np.unique(folds[rest]):
            train, held = rest & (folds != inner), folds == inner
            for k, penalty in enumerate(PENALTIES):
                errors[k] += ((fit(x[train], y[train], penalty)(x[held]) - y[held]) ** 2).sum()
        expected[~rest] = fit(x[rest], y[rest], PENALTIES[errors.argmin()])(x[~rest])
    assert told(x, when=when).predicted == pytest.approx(expected, abs=1e-8)


def fit(x: np.ndarray, y: np.ndarray, penalty: float):
    mean, scale = x.mean(axis=0), x.std(axis=0)
    # Standardised features: the mean eigenvalue of their Gram matrix is the number of windows.
    model = Ridge(alpha=penalty * len(x)).fit((x - mean) / scale, y)
    return lambda new: model.predict((new - mean) / scale).reshape(len(new), -1)


def test_a_date_that_is_there_is_told_and_one_that_is_not_seldom() -> None:
    """Recordings differ from each other anyway: that must not look like a date."""
    rng = np.random.default_rng(1)
    found = told(features(rng, 2.0))
    assert found.r > 0.8
    assert found.p == found.p_min
    assert found.error < 0.7 * found.blind_error
    p = [told(features(rng, 0.0), seed=s, n=39).p for s in range(120)]
    assert np.mean(np.array(p) <= 0.05) <= 0.1  # of 120 at a level of 0.05: 98% quantile


def test_the_interval_of_a_date_holds_what_other_recordings_give() -> None:
    """Models of all folds share their data; recordings resampled alone held it in 3 of 4 cases."""
    found = [told(features(np.random.default_rng(k), 0.3), seed=k, n=1) for k in range(60)]
    mean = np.mean([f.r for f in found])
    assert np.mean([f.ci_low <= mean <= f.ci_high for f in found]) >= 0.85


def test_nothing_known_is_no_correlation() -> None:
    """The mean of the others is lower where a fold's own dates are high: r would be -1."""
    constant = np.ones((N_RECORDINGS * PER_RECORDING, 3))
    found = told(constant)
    assert found.r == 0.0
    assert found.p == 1.0


def test_whole_days_are_told_as_well_as_fractions() -> None:
    """Days are integers; predictions must not be cut to integers with them."""
    x, when = features(np.random.default_rng(5), 1.0), moments()
    whole = replace(when, value=when.value.astype(int), offset=when.offset.astype(int))
    assert told(x, when=whole).predicted == pytest.approx(told(x, when=when).predicted)


def test_hours_are_told_across_midnight() -> None:
    """Half past eleven and half past midnight are one hour apart, not 23."""
    when = moments(24.0)
    angle = 2 * np.pi * (when.value[when.unit] + when.offset) / 24
    noise = np.random.default_rng(2).standard_normal((len(angle), 2))
    found = told(np.column_stack([np.sin(angle), np.cos(angle)]) + 0.3 * noise, when=when)
    assert found.r > 0.8
    assert found.error < 2
    assert when.distance(np.array([[np.sin(0.0), np.cos(0.0)]] * len(angle))).max() <= 12


def test_sources_are_compared_on_the_same_recordings() -> None:
    rng = np.random.default_rng(3)
    strong, weak = told(features(rng, 2.0)), told(features(rng, 0.0))
    found = compare_decoded(strong, weak, confidence=0.95)
    assert found.difference == pytest.approx(strong.r - weak.r)
    assert found.p < 0.05
    assert found.ci_low > 0
    assert compare_decoded(strong, strong, confidence=0.95).difference == 0


@pytest.mark.slow
@pytest.mark.parametrize("drift", [0.0, 0.3, 0.6])
def test_sources_that_are_alike_seldom_differ(drift: float) -> None:
    """Models of all folds share their data; taken as independent, every fifth p was too small."""
    rng = np.random.default_rng(4)
    pairs = ([told(features(rng, drift), n=1) for _ in range(2)] for _ in range(150))
    p = [compare_decoded(*pair, confidence=0.95).p for pair in pairs]
    assert np.mean(np.array(p) <= 0.05) <= 0.1  # of 150 at 0.05: 99.5% quantile


def test_folds_hold_whole_days_and_spread_recordings() -> None:
    assert spread_folds(7).tolist() == [0, 1, 2, 3, 4, 0, 1]
    assert run_folds(7).tolist() == [0, 0, 1, 2, 2, 3, 4]


# ------------------------------------------------------------------------------------ distance


N_DAYS, N_SEEDS, N_BLOCKS, PER_BLOCK = 6, 2, 6, 8


def models(
    rng: np.random.Generator, slope: float, scatter: float = 0.02
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return training days, test days, ranks and blocks; days differ in themselves."""
    train = np.repeat(np.arange(N_DAYS), N_SEEDS)
    test = np.repeat(np.arange(N_DAYS), N_BLOCKS * PER_BLOCK)
    blocks = np.repeat(np.arange(N_DAYS * N_BLOCKS), PER_BLOCK)
    level = 0.4 + 0.05 * rng.standard_normal(N_DAYS)[train][:, None]
    level = level + 0.05 * rng.standard_normal(N_DAYS)[test]
    level = level + slope * np.abs(train[:, None] - test)
    pairs = scatter * rng.standard_normal((N_DAYS, N_DAYS))[train][:, test]
    start = 0.5 * scatter * rng.standard_normal((len(train), N_DAYS))[:, test]
    shared = 0.1 * rng.standard_normal(N_DAYS * N_BLOCKS)[blocks]
    own = 0.05 * rng.standard_normal((len(train), N_DAYS * N_BLOCKS))[:, blocks]
    window = 0.2 * rng.standard_normal((len(train), len(test)))
    return train, test, level + pairs + start + shared + own + window, blocks


def law(rng: np.random.Generator, slope: float, **how: float) -> DistanceLaw:
    return fit_distance(
        *models(rng, slope, **how), confidence=0.95, n_orders=99, rng=np.random.default_rng(0)
    )


def test_the_slope_is_that_of_a_regression_on_days() -> None:
    """The oracle has a column for every training day and every test day."""
    train, test, ranks, blocks = models(np.random.default_rng(0), 0.01)
    found = fit_distance(
        train, test, ranks, blocks, confidence=0.95, n_orders=99, rng=np.random.default_rng(0)
    )
    cells = np.array([[ranks[train == i][:, test == j].mean() for j in range(6)] for i in range(6)])
    i, j = np.indices(cells.shape)
    design = np.column_stack(
        [
            np.abs(i - j).ravel(),
            *(i.ravel() == d for d in range(6)),
            *(j.ravel() == d for d in range(6)),
        ]
    ).astype(float)
    expected = np.linalg.lstsq(design, cells.ravel(), rcond=None)[0][0]
    assert found.slope == pytest.approx(expected)
    assert (found.n_models, found.n_train_days, found.n_test_days) == (12, 6, 6)


def test_models_that_do_not_age_are_seldom_said_to() -> None:
    """Days that are harder, or teach better, must not look like distance."""
    rng = np.random.default_rng(1)
    found = [law(rng, 0.0) for _ in range(200)]
    assert np.mean([f.p <= 0.05 for f in found]) <= 0.085  # of 200 at 0.05: 97.5% quantile
    assert np.mean([f.ci_low <= 0 <= f.ci_high for f in found]) >= 0.91


def test_models_that_age_are_found() -> None:
    rng = np.random.default_rng(2)
    found = [law(rng, 0.02) for _ in range(100)]
    assert np.mean([f.p <= 0.05 for f in found]) > 0.8
    assert np.mean([f.ci_low <= 0.02 <= f.ci_high for f in found]) >= 0.88


def test_one_test_day_tells_nothing_of_distance() -> None:
    """Near and good training days cannot be told apart there."""
    train, test, ranks, blocks = models(np.random.default_rng(3), 0.02)
    one = test == 2
    found = fit_distance(
        train,
        test[one],
        ranks[:, one],
        blocks[one],
        confidence=0.95,
        n_orders=99,
        rng=np.random.default_rng(0),
    )
    assert np.isnan(found.slope)


# ------------------------------------------------------------------------------------ channels


def test_share_between_days_is_eta_squared() -> None:
    """The oracle is the F statistic of scipy; a channel that changes is found, others are not."""
    rng = np.random.default_rng(0)
    recording = np.repeat(np.arange(N_RECORDINGS), PER_RECORDING)
    values = (
        rng.standard_normal((len(recording), 8)) + rng.standard_normal((N_RECORDINGS, 8))[recording]
    )
    values[:, 3] += 4 * np.sin(DAYS)[recording]
    values[0, 7] = np.nan
    found = share_between_days(values, recording, DAYS, draw_orders(N_RECORDINGS, 199, rng))
    groups = [values[DAYS[recording] == day, 0] for day in range(7)]
    f = stats.f_oneway(*groups).statistic * 6 / (len(recording) - 7)
    assert found.share[0] == pytest.approx(f / (1 + f))
    assert np.flatnonzero(found.q <= 0.05).tolist() == [3]
    assert np.isnan(found.p[7])
    assert (found.share[3] - found.expected[3]) > 0.3


def test_a_recording_a_day_cannot_tell_days_from_recordings() -> None:
    rng = np.random.default_rng(0)
    recording = np.repeat(np.arange(4), 10)
    values = rng.standard_normal((40, 2)) + 5 * recording[:, None]
    found = share_between_days(values, recording, np.arange(4), draw_orders(4, 99, rng))
    assert found.p.tolist() == [1.0, 1.0]
    assert found.p_min == 1.0


def test_features_of_windows_know_noise_of_different_colour() -> None:
    rng = np.random.default_rng(0)
    white = rng.standard_normal(40 * 600)
    red = np.cumsum(white)
    signal = torch.tensor(np.stack([white, 3 * white, red, np.zeros_like(white)], axis=1))
    starts = torch.arange(0, 40 * 590, 120)
    found = describe_windows(signal, starts, 120, 40.0)
    difference = found.log_variance[:, 1] - found.log_variance[:, 0]
    assert difference == pytest.approx(np.full(len(starts), 2 * np.log(3)))
    assert abs(found.slope[:, 0].mean()) < 0.3
    assert found.slope[:, 2].mean() == pytest.approx(-2, abs=0.4)
    assert np.isnan(found.slope[:, 3]).all()


# ------------------------------------------------------------------------------------ remedies


def test_a_day_is_scaled_as_one() -> None:
    """All recordings of a day by one factor: else it would be another scaling of each."""
    parts = [torch.randn(300, 3) * 2 + 5, torch.randn(500, 3) - 1]
    for part in parts:
        part[:, 2] = 4.0
    whole = torch.cat(parts).double()
    match_level(parts, as_preprocessed(3), 0)
    expected = (whole - whole.mean(0)) / whole.std(0, correction=0).clamp_min(1e-9) / 1.349
    assert torch.allclose(torch.cat(parts).double(), expected, atol=1e-5)
    assert (torch.cat(parts)[:, 2] == 0).all()


def test_a_day_that_is_like_training_is_left_as_it_is() -> None:
    """Scaling that changes what needs none would pass for drift, or for a remedy."""
    make = torch.Generator().manual_seed(0)
    train = torch.randn(90000, 4, generator=make) * torch.tensor([1.0, 2.0, 0.5, 3.0])
    day = torch.randn(90000, 4, generator=make) * torch.tensor([1.0, 2.0, 0.5, 6.0])
    level, scaled = measure_level([train]), day.clone()
    match_level([scaled], level, 2400)
    factors = scaled.std(0) / day.std(0)
    assert factors[:3] == pytest.approx([1, 1, 1], abs=0.02)
    assert factors[3] == pytest.approx(0.5, abs=0.03)


def test_a_short_day_is_hardly_scaled() -> None:
    """Ten seconds with one wave say nothing of a channel's variance."""
    make = torch.Generator().manual_seed(0)
    short, long = (torch.randn(n, 2, generator=make) for n in (400, 400000))
    level, factors = measure_level([torch.randn(90000, 2, generator=make)]), []
    for part in (short, long):
        scaled = 3 * part
        match_level([scaled], level, 2400)
        factors.append(float(scaled.std() / (3 * part).std()))
    n, prior, variance = 400, 2400, 9 * float(short.var())
    assert factors[0] == pytest.approx(((n * variance + prior) / (n + prior)) ** -0.5, rel=0.03)
    assert factors[1] == pytest.approx(1 / 3, rel=0.02)


def test_a_channel_that_is_bad_in_a_recording_tells_nothing_of_the_day() -> None:
    """It is zero there; the day would look half as loud, and its other half be made louder."""
    whole = torch.randn(5000, 2, generator=torch.Generator().manual_seed(0))
    flat = torch.zeros(5000, 2)
    level = measure_level([whole, flat])
    assert level.n.tolist() == [5000, 5000]
    assert level.variance == pytest.approx(whole.double().var(0, correction=0))


def test_sliding_knows_the_past_alone() -> None:
    """What comes later must not change what was before; else nobody could use it at the bedside."""
    signal = torch.randn(6000, 2, generator=torch.Generator().manual_seed(0))
    changed = signal.clone()
    changed[3000:] = 50.0
    ours, theirs = signal.clone(), changed.clone()
    standardise_sliding(ours, 600)
    standardise_sliding(theirs, 600)
    assert torch.equal(ours[:3000], theirs[:3000])
    for t in (5, 333, 4444):  # a slow loop: whole steps of 10 samples before t, and what they weigh
        past = signal[max(0, t // 10 * 10 - 600) : t // 10 * 10].double()
        prior, n = 20.0, len(past) + 20.0
        mean = past.sum(0) / n
        variance = (past.square().sum(0) + prior / 1.349**2) / n - mean.square()
        assert torch.allclose(
            ours[t].double(), (signal[t].double() - mean) / variance.sqrt(), atol=1e-5
        )


def test_sliding_takes_a_gain_off_that_grows_within_a_recording() -> None:
    """One scale for the whole recording leaves it there."""
    time = torch.arange(24000)[:, None] / 24000
    signal = torch.randn(24000, 3, generator=torch.Generator().manual_seed(1)) * torch.exp(2 * time)
    scaled = signal.clone()
    standardise_sliding(scaled, 1200)
    before, after = (s[18000:].std() / s[2000:8000].std() for s in (signal, scaled))
    assert before > 2
    assert after == pytest.approx(1, abs=0.15)


def test_simulated_gains_swing_by_what_is_asked_for() -> None:
    """About 1, with the deviation that the documentation promises, and each contact on its own."""
    swing = Swing(0.7, np.array([0.0, 0.25]))
    logarithm = np.log(swing.gains(np.arange(0, 4 * SWING_PERIOD, 0.5)))
    assert logarithm.mean(axis=0) == pytest.approx([0, 0], abs=1e-9)
    assert logarithm.std(axis=0) == pytest.approx([0.7, 0.7])
    assert np.corrcoef(logarithm.T)[0, 1] == pytest.approx(0, abs=1e-9)
