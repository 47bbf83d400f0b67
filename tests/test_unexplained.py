"""Loudness taken out of signals: an oracle, timing, leakage, and what both sides together leave."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression

from bids_speechdecode.decoding.contrastive import relative_ranks
from bids_speechdecode.decoding.unexplained import take_out, take_out_of_signal
from bids_speechdecode.decoding.windows import WindowSet
from bids_speechdecode.steps.experiments import views
from bids_speechdecode.timeline import Interval

T, LAGS, CHANNELS = 12, 5, 3


def windows(signal: np.ndarray) -> WindowSet:
    """Return windows (n, T, C) that lie one after the other, the last one first."""
    n, n_samples, n_channels = signal.shape
    flat = torch.from_numpy(signal[::-1].reshape(-1, n_channels).astype(np.float32))
    starts = torch.arange(n).flip(0) * n_samples
    return WindowSet(flat, starts, n_samples, torch.zeros(n, 2))


def read(found: WindowSet) -> np.ndarray:
    """Return the signal of windows, shape (n, T, C)."""
    return found.brain(torch.arange(len(found))).transpose(1, 2).numpy()


def draw(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return courses (n, T + LAGS - 1) of loudness, and signals that have nothing to do with it."""
    return rng.normal(-30, 8, size=(n, T + LAGS - 1)), rng.normal(2, 1, size=(n, T, CHANNELS))


def design(course: np.ndarray) -> np.ndarray:
    """Return level and square at every lag of every sample, one by one."""
    rows = [
        np.concatenate([row[t : t + LAGS], row[t : t + LAGS] ** 2])
        for row in course
        for t in range(T)
    ]
    return np.array(rows)


def test_signal_loses_what_least_squares_predict() -> None:
    """The residuals of another implementation, with the means of the channels left in."""
    rng = np.random.default_rng(0)
    (x, y), (test_x, test_y) = draw(rng, 300), draw(rng, 20)
    y[..., 0] += 0.1 * x[:, 2 : 2 + T]
    found = take_out_of_signal((x, test_x), (windows(y), windows(test_y)))
    flat = y.reshape(-1, CHANNELS)
    model = LinearRegression().fit(design(x), flat)
    expected = test_y.reshape(-1, CHANNELS) - model.predict(design(test_x)) + flat.mean(axis=0)
    np.testing.assert_allclose(read(found).reshape(-1, CHANNELS), expected, atol=1e-3)


def test_a_response_goes_and_the_rest_stays() -> None:
    """Of levels and squares at several lags nothing may remain; of anything else, all."""
    rng = np.random.default_rng(1)
    (x, y), (test_x, test_y) = draw(rng, 600), draw(rng, 40)

    def respond(course: np.ndarray) -> np.ndarray:
        shape = (len(course), T, 1)
        return (design(course) @ np.r_[np.linspace(-1, 1, LAGS), 0.05 * np.ones(LAGS)]).reshape(
            shape
        )

    signals = windows(y + respond(x)), windows(test_y + respond(test_x))
    found = read(take_out_of_signal((x, test_x), signals))
    assert np.std(respond(test_x)) > 10
    centred, other = found - found.mean((0, 1)), test_y - test_y.mean((0, 1))
    assert np.std(centred - other) < 0.1


def test_test_windows_do_not_enter_the_response() -> None:
    """Leakage: another test window must not change what is left of the others."""
    rng = np.random.default_rng(2)
    (x, y), (test_x, test_y) = draw(rng, 50), draw(rng, 20)
    first = take_out_of_signal((x, test_x), (windows(y), windows(test_y)))
    again = take_out_of_signal((x, test_x[:8]), (windows(y), windows(test_y[:8])))
    np.testing.assert_array_equal(read(first)[:8], read(again))


def remain(rng: np.random.Generator, detail: float) -> tuple[float, float, float]:
    """Return mean ranks with loudness taken out of the targets, the signals, and both.

    Channels follow the level; the target is the level above a threshold, which few windows and
    squares do not spell, and a detail that channels may follow, too.
    """
    n_train, n = 40, 440
    x = 8 * rng.normal(size=(n, T + LAGS - 1)) - 30
    detail_course = rng.normal(size=(n, T))
    heard = x[:, 2 : 2 + T]
    target = np.maximum(heard + 28, 0) / 5 + detail_course
    brain = heard / 8 + detail * detail_course + rng.normal(size=(n, T))
    parts = slice(0, n_train), slice(n_train, n)
    courses, targets = (tuple(a[p] for p in parts) for a in (x, target))
    sets = tuple(windows(brain[p][..., None]) for p in parts)
    quiet = read(take_out_of_signal(courses, sets))[..., 0]
    rest, _ = take_out(courses, targets)
    mean = targets[0].mean(axis=0)
    sides = [(brain[parts[1]], rest), (quiet, targets[1] - mean), (quiet, rest)]
    return tuple(float(relative_ranks(*side).relative.mean()) for side in sides)


@pytest.mark.parametrize("detail", [0.0, 0.5])
def test_both_sides_leave_what_is_more_than_loudness(detail: float) -> None:
    """One side alone leaves its error, which reads as more than loudness."""
    ranks = np.array([remain(np.random.default_rng(seed), detail) for seed in range(6)])
    error = ranks.std(axis=0, ddof=1) / np.sqrt(len(ranks))
    mean = ranks.mean(axis=0)
    if detail:
        assert mean[2] < 0.45
    else:
        assert mean[0] < 0.5 - 4 * error[0]
        assert abs(mean[2] - 0.5) < 3 * error[2] + 0.005


def test_levels_lie_where_the_signal_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A course that is shifted in time takes out the wrong response."""
    rate, lag, click = 40.0, 0.2, 7.5
    sound = np.zeros(16000 * 20, np.float32)
    sound[int(click * 16000) :][:400] = 0.5
    piece = SimpleNamespace(audio=Interval(1.0, 19.0), audio_starts=np.array([3.0, 6.0, 16.0]))

    def measure(context: object, windows: object, role: str, each: views.Measure) -> np.ndarray:
        return each(lambda start, stop: sound[round(start * 16000) : round(stop * 16000)], piece)

    monkeypatch.setattr(views, "measure_windows", measure)
    context = SimpleNamespace(
        config=SimpleNamespace(
            windows=SimpleNamespace(brain_lag=lag), preprocess=SimpleNamespace(rate=rate)
        ),
        device="cpu",
    )
    course = views.loudness_around(context, SimpleNamespace(n_samples=120), "finetune")
    assert course.shape == (3, 120 + 60)
    # Column 40 is the sound at the time of the window's first sample.
    column = (click - 6.0 - lag) * rate + views.BEFORE * rate
    assert abs(int(course[1].argmax()) - column) <= 1
    assert np.ptp(course[0]) == 0
    assert np.isfinite(course).all()
