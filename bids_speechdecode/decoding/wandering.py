"""How much of a channel's activity differs between days rather than within them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats

from bids_speechdecode.decoding.orders import Orders

SLOPE_BAND = (1.0, 15.0)  # hertz, of the line through the spectrum of a window
_BATCH = 1024  # windows


@dataclass(frozen=True)
class WindowFeatures:
    """What a window of signal is like, channel by channel.

    Attributes
    ----------
    mean, log_variance, slope : array, shape (n_windows, n_channels)
        Robust z; natural logarithm of its variance; slope of the logarithm of power over that of
        frequency from 1 to 15 Hz. NaN for a channel that does not vary.
    """

    mean: np.ndarray
    log_variance: np.ndarray
    slope: np.ndarray


@torch.no_grad()
def describe_windows(
    signal: torch.Tensor, starts: torch.Tensor, n_samples: int, rate: float
) -> WindowFeatures:
    """Return the features of windows, computed a batch at a time.

    Parameters
    ----------
    signal : tensor, shape (n_times, n_channels), robust z
    starts : tensor of int64, shape (n_windows,)
    n_samples : int
    rate : float, hertz
    """
    taper = torch.hann_window(n_samples, dtype=torch.float64, device=signal.device)
    frequencies = torch.fft.rfftfreq(n_samples, 1 / rate)
    inside = (frequencies >= SLOPE_BAND[0]) & (frequencies <= min(SLOPE_BAND[1], 0.45 * rate))
    x = frequencies[inside].double().log().to(signal.device)
    x = x - x.mean()
    steps = torch.arange(n_samples, device=signal.device)
    found = []
    for some in starts.split(_BATCH):
        window = signal[some[:, None] + steps].double()  # (B, T, C)
        mean, variance = window.mean(dim=1), window.var(dim=1)
        centred = (window - mean[:, None]) * taper[:, None]
        power = torch.fft.rfft(centred, dim=1)[:, inside].abs().square()
        slope = torch.einsum("f,bfc->bc", x, power.log()) / (x @ x)
        found.append(torch.stack([mean, variance.log(), slope]))
    features = torch.cat(found, dim=1)
    dead = ~features.isfinite().all(dim=0)
    features[:, dead] = torch.nan
    return WindowFeatures(*features.cpu().numpy())


@dataclass(frozen=True)
class DayShare:
    """Share of the variance of channels that lies between days.

    Attributes
    ----------
    share : array, shape (n_channels,)
        eta squared: sum of squares between days, of the total over windows. NaN for a channel
        without a number in some window.
    expected : array, shape (n_channels,)
        The same where recordings belong to days at random, mean over orders.
    p, q : array, shape (n_channels,)
        From these orders; false discovery rate over channels (Benjamini-Hochberg).
    p_mean : float
        Of the mean share over channels.
    p_min : float
        1 where every recording is a day of its own: recordings then differ as days do.
    """

    share: np.ndarray
    expected: np.ndarray
    p: np.ndarray
    q: np.ndarray
    p_mean: float
    p_min: float


def share_between_days(
    values: np.ndarray, recordings: np.ndarray, days: np.ndarray, orders: Orders
) -> DayShare:
    """Return how much of the variance over windows lies between days.

    Parameters
    ----------
    values : array, shape (n_windows, n_channels)
    recordings : array of int, shape (n_windows,)
        From 0.
    days : array of int, shape (n_recordings,)
        Of each recording.
    orders : Orders
        Of the recordings: whole recordings change their day.
    """
    known = np.isfinite(values).all(axis=0)
    x = np.where(known, values, 0.0)
    x = x - x.mean(axis=0)
    counts = np.bincount(recordings, minlength=len(days))
    sums = np.zeros((len(days), x.shape[1]))
    np.add.at(sums, recordings, x)
    members = np.unique(days, return_inverse=True)[1]
    between = np.stack([_between(sums, counts, members[order]) for order in orders.orders])
    total = (x**2).sum(axis=0)
    share = np.full(between.shape, np.nan)
    np.divide(between, total, out=share, where=known & (total > 0))
    same = np.array([_is_same(members[order], members) for order in orders.orders])
    p = np.where(np.isnan(share[0]), np.nan, orders.p_value(np.nan_to_num(share)))
    q = np.full_like(p, np.nan)
    tested = np.isfinite(p)
    if tested.any():
        q[tested] = stats.false_discovery_control(p[tested])
    p_mean = float(orders.p_value(np.nan_to_num(share).mean(axis=1)))
    return DayShare(share[0], share.mean(axis=0), p, q, p_mean, orders.p_min(same))


def _between(sums: np.ndarray, counts: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Return the sum of squares between days of each channel; the total mean is 0."""
    by_day = np.zeros((members.max() + 1, sums.shape[1]))
    np.add.at(by_day, members, sums)
    return (by_day**2 / np.bincount(members, counts)[:, None]).sum(axis=0)


def _is_same(first: np.ndarray, second: np.ndarray) -> bool:
    """Return whether two labellings put the same units together."""
    pairs = len(np.unique(np.stack([first, second]), axis=1).T)
    return pairs == len(np.unique(second))
