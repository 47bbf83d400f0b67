"""Which channels respond to sound: lagged correlation with loudness, against sound out of place.

The test sees the windows it is given and nothing else, so that a selection by it is part of the
training as long as these are training windows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from scipy import sparse, stats

from bids_speechdecode.errors import DataError
from bids_speechdecode.statistics import FEW_BLOCKS
from bids_speechdecode.timeline import sample_at

MAX_LAG = 0.5  # seconds from sound to response
DYNAMIC_RANGE_DB = 40.0  # sound that far below the mean power counts as silence
# Blocks are joined to this many units at most: work and memory grow with their square, while 64!
# orders are plenty.
MAX_UNITS = 64
_MEMORY_BYTES = 64e6  # for the sums of all pairs of units, and for the null
_WINDOWS_AT_ONCE = 16
_ROUNDING = 1e-6  # relative; equal statistics may differ by it in single precision
_FLAT = 1e-7  # standard deviation over mean, below which a window is constant


def sound_envelope(samples: ArrayLike, rate_in: float, rate_out: float) -> np.ndarray:
    """Return the loudness of a sound over time as its log power, in dB of its mean power.

    Sample k is ``10 log10`` of the mean power between ``(k - 1/2) / rate_out`` and
    ``(k + 1/2) / rate_out``, so that it lies at the same time as sample k of a signal at that
    rate. Power more than 40 dB below the mean of the whole counts as 40 dB below, so that neither
    digital silence nor the noise of a quiet room dominates the correlation.

    Parameters
    ----------
    samples : array, shape (n,)
        Mono, in any unit.
    rate_in, rate_out : float
        Hertz, of the sound and of the envelope.

    Returns
    -------
    envelope : array, shape (sample_at(n / rate_in, rate_out),), dB
        All 0 where the sound is digital silence throughout.
    """
    samples = np.asarray(samples, dtype=float)
    n_out = sample_at(len(samples) / rate_in, rate_out)
    edges = np.clip((np.arange(n_out + 1) - 0.5) * rate_in / rate_out, 0, len(samples))
    integral = np.concatenate([[0.0], np.cumsum(samples**2)])
    at_edges = np.interp(edges, np.arange(len(integral)), integral)
    power = np.diff(at_edges) / np.diff(edges)
    mean = integral[-1] / max(len(samples), 1)
    if mean <= 0:
        return np.zeros(n_out)
    return 10 * np.log10(np.maximum(power / mean, 10 ** (-DYNAMIC_RANGE_DB / 10)))


def sound_responses(
    signal: torch.Tensor | np.ndarray,
    starts: torch.Tensor | ArrayLike,
    n_samples: int,
    envelope: ArrayLike,
    blocks: ArrayLike,
    rng: np.random.Generator,
    n_permutations: int,
    rate: float,
) -> pd.DataFrame:
    """Return for each channel how strongly, how late and how surely it follows the loudness.

    ``r(lag) = sum_w <e_w(lag), s_w> / sqrt(sum_w |e_w(lag)|^2  sum_w |s_w|^2)``, where ``s_w`` is
    the signal of window w from the longest lag on and ``e_w(lag)`` the envelope as much earlier,
    each minus its mean: the correlation over all windows of what changes within them. Slower
    changes, which any two slow courses share by chance, have no part in it. The lags go from 0
    to 0.5 s, or to half a window if that is shorter.

    The statistic is the largest ``|r|`` over lags; its sign says nothing, because reference and
    polarity decide it. Its null distribution comes from whole blocks of sound against blocks of
    signal in another order, with the largest ``|r|`` over lags taken anew for each order:
    ``p = (1 + #{as large}) / (1 + #{orders})``. Every order is counted where there are no more
    than `n_permutations`. A block of sound that is shorter than its block of signal starts again.
    More than 64 blocks are joined with their neighbours to 64.

    Windows in which a channel is constant (zero where it is bad) or NaN are left out for this
    channel. A channel without any other has r NaN and p and q of 1: it never responds.

    Parameters
    ----------
    signal : tensor or array, shape (n_times, n_channels)
        Nothing outside the windows is read.
    starts : array of int, shape (W,)
        First sample of each window in the signal: where its sound starts, as lags count from it.
    n_samples : int
        Length of a window.
    envelope : array, shape (W, n_samples)
        Loudness of each window's sound at the rate of the signal, as of `sound_envelope`.
    blocks : array, shape (W,)
        Which windows stay together and in order; neighbours in time have neighbouring numbers.
    rng : numpy Generator
    n_permutations : int
    rate : float
        Hertz.

    Returns
    -------
    DataFrame
        One row per channel: sound_r (signed, at the best lag), sound_lag (s), sound_p, sound_q
        (Benjamini-Hochberg over the channels that can be tested).

    Raises
    ------
    DataError
        There are no windows, one lies outside the signal, or the shapes do not fit each other.
    """
    starts = np.asarray(torch.as_tensor(starts).cpu(), dtype=np.int64)
    envelope = np.asarray(envelope, dtype=float)
    blocks = np.asarray(blocks)
    _check(signal, starts, n_samples, envelope, blocks)
    sound = _Sound.lag(envelope, min(sample_at(MAX_LAG, rate), n_samples // 2) + 1)
    units = _join_blocks(blocks)
    orders = _draw_orders(len(units), n_permutations, rng)
    parts = [
        _respond(signal, channels, starts, sound, units, orders)
        for channels in _channel_chunks(signal.shape[1], sound.n_lags, len(units), len(orders))
    ]
    r, lag, p = (np.concatenate(column) for column in zip(*parts, strict=True))
    tested = np.isfinite(r)
    q = np.ones(len(p))
    q[tested] = stats.false_discovery_control(p[tested]) if tested.any() else 1.0
    return pd.DataFrame({"sound_r": r, "sound_lag": lag / rate, "sound_p": p, "sound_q": q})


def smallest_p(n_blocks: int, n_permutations: int) -> float:
    """Return the smallest p that `sound_responses` can give with so many blocks.

    Examples
    --------
    >>> round(smallest_p(3, 1000), 3)
    0.167
    """
    n_orders = math.factorial(min(n_blocks, MAX_UNITS))
    return 1 / min(n_orders, 1 + n_permutations)


def note_on_blocks(blocks: ArrayLike, n_permutations: int) -> str:
    """Return in words what so few blocks of training sound cannot show; "" if there are enough."""
    n_blocks = len(np.unique(np.asarray(blocks)))
    if n_blocks >= FEW_BLOCKS:
        return ""
    plural = "block" if n_blocks == 1 else "blocks"
    return (
        f"{n_blocks} {plural} of training sound: no p of a response to sound can be smaller than "
        f"{smallest_p(n_blocks, n_permutations):.2g}, however strong the response"
    )


@dataclass(frozen=True)
class _Sound:
    """The envelope at every lag, shape (W, n_lags, T), each minus its mean; and its energy."""

    lagged: np.ndarray
    energy: np.ndarray  # (W, n_lags)

    @classmethod
    def lag(cls, envelope: np.ndarray, n_lags: int) -> _Sound:
        n = envelope.shape[1] - n_lags + 1
        views = np.lib.stride_tricks.sliding_window_view(envelope, n, axis=1)[:, ::-1]
        centred = views - views.mean(axis=2, keepdims=True)  # lag 0 is the latest stretch
        energy = (centred**2).sum(axis=2)
        flat = energy <= n * (_FLAT * views.mean(axis=2)) ** 2
        centred[flat], energy[flat] = 0, 0
        return cls(centred.astype(np.float32), energy.astype(np.float32))

    @property
    def n_lags(self) -> int:
        return self.lagged.shape[1]

    @property
    def n_used(self) -> int:
        """Number of samples of each window that enter at every lag."""
        return self.lagged.shape[2]


def _check(
    signal: torch.Tensor | np.ndarray,
    starts: np.ndarray,
    n_samples: int,
    envelope: np.ndarray,
    blocks: np.ndarray,
) -> None:
    expected = (len(starts), n_samples)
    if len(starts) == 0 or envelope.shape != expected or len(blocks) != len(starts):
        raise DataError(
            "the response to sound cannot be estimated from these windows",
            expected="at least one window, each with its sound and its block",
            found=f"{len(starts)} windows of {n_samples} samples, sound of shape "
            f"{envelope.shape}, {len(blocks)} blocks",
        )
    if starts.min() < 0 or starts.max() + n_samples > len(signal):
        raise DataError(
            "a window lies outside the signal",
            expected=f"windows within {len(signal)} samples",
            found=f"{starts.min()} to {starts.max() + n_samples}",
        )
    if not np.isfinite(envelope).all():
        raise DataError(
            "the loudness of the sound has NaN or infinite values",
            found=f"{int((~np.isfinite(envelope)).sum())} of {envelope.size} values",
        )


def _join_blocks(blocks: np.ndarray) -> list[np.ndarray]:
    """Return the windows of each unit: a block, or neighbouring blocks if there are too many."""
    members = np.unique(blocks, return_inverse=True)[1]
    n_blocks = int(members.max()) + 1
    unit_of_block = np.arange(n_blocks) * min(n_blocks, MAX_UNITS) // n_blocks
    units = unit_of_block[members]
    return [np.flatnonzero(units == unit) for unit in range(int(unit_of_block[-1]) + 1)]


def _draw_orders(n_units: int, n_permutations: int, rng: np.random.Generator) -> np.ndarray:
    """Return orders of the units of sound, shape (1 + n, n_units); the first is the true one."""
    if math.factorial(n_units) <= 1 + n_permutations:
        return np.array(list(itertools.permutations(range(n_units))))
    true = np.arange(n_units)
    return np.vstack([true, rng.permuted(np.tile(true, (n_permutations, 1)), axis=1)])


def _channel_chunks(
    n_channels: int, n_lags: int, n_units: int, n_orders: int
) -> Iterator[np.ndarray]:
    """Yield the channels that fit into memory together."""
    bytes_each = 2 * 4 * n_lags * (n_units**2 + n_orders)  # covariance and energy, single
    at_once = max(1, int(_MEMORY_BYTES / bytes_each))
    for first in range(0, n_channels, at_once):
        yield np.arange(first, min(first + at_once, n_channels))


def _respond(
    signal: torch.Tensor | np.ndarray,
    channels: np.ndarray,
    starts: np.ndarray,
    sound: _Sound,
    units: list[np.ndarray],
    orders: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return signed r, best lag (samples) and p of some channels."""
    covariance, energy, power = _pair_units(signal, channels, starts, sound, units)
    picks = _pick_pairs(orders)
    shape = (len(orders), sound.n_lags, len(channels))
    numerator = (picks @ covariance).reshape(shape)
    denominator = np.sqrt(picks @ energy).reshape(shape) * np.sqrt(power)
    possible = denominator > 0
    r = np.divide(numerator, denominator, out=np.zeros(shape), where=possible)
    size = np.abs(r)
    largest = size.max(axis=1)  # (n_orders, n_channels)
    best = size[0].argmax(axis=0)
    n_as_large = (largest[1:] >= largest[0] * (1 - _ROUNDING)).sum(axis=0)
    dead = ~possible[0].any(axis=0)
    signed = np.take_along_axis(r[0], best[None], axis=0)[0].astype(float)
    p = (1 + n_as_large) / len(orders)
    return np.where(dead, np.nan, signed), np.where(dead, np.nan, best), np.where(dead, 1.0, p)


def _pick_pairs(orders: np.ndarray) -> sparse.csr_matrix:
    """Return the matrix that sums, for each order, its pairs (unit of signal, unit of sound)."""
    n_orders, n_units = orders.shape
    pairs = np.arange(n_units) * n_units + orders
    ends = np.arange(n_orders + 1) * n_units
    ones = np.ones(orders.size, np.float32)
    return sparse.csr_matrix((ones, pairs.ravel(), ends), shape=(n_orders, n_units**2))


def _pair_units(
    signal: torch.Tensor | np.ndarray,
    channels: np.ndarray,
    starts: np.ndarray,
    sound: _Sound,
    units: list[np.ndarray],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the sums over windows of every unit of signal against every unit of sound.

    Sums add up over units, so that any order of the sound costs additions only once these are
    known.

    Returns
    -------
    covariance, energy : array, shape (n_units ** 2, n_lags * n_channels)
        Products of signal and sound, and squares of the sound where the channel is alive. The
        unit of sound varies faster in the first axis.
    power : array, shape (n_channels,)
        Squares of the signal over all windows.
    """
    n_units, n_lags, n_channels = len(units), sound.n_lags, len(channels)
    covariance = np.zeros((n_units, n_units * n_lags, n_channels), np.float32)
    energy = np.zeros_like(covariance)
    power = np.zeros(n_channels)
    for first in range(0, max(map(len, units)), _WINDOWS_AT_ONCE):
        position = first + np.arange(_WINDOWS_AT_ONCE)
        windows = np.stack([unit[position % len(unit)] for unit in units])  # the sound's
        lagged = sound.lagged[windows].swapaxes(1, 2).reshape(n_units * n_lags, -1)
        squares = sound.energy[windows].swapaxes(1, 2).reshape(n_units * n_lags, -1)
        for i, unit in enumerate(units):
            some = unit[first : first + _WINDOWS_AT_ONCE]
            if not len(some):
                continue
            brain, alive = _read_windows(signal, channels, starts[some], sound)
            covariance[i] += lagged[:, : len(brain)] @ brain
            energy[i] += squares[:, : len(alive)] @ alive
            power += (brain.astype(float) ** 2).sum(axis=0)
    shape = (n_units**2, n_lags * n_channels)
    return covariance.reshape(shape), energy.reshape(shape), power


def _read_windows(
    signal: torch.Tensor | np.ndarray, channels: np.ndarray, starts: np.ndarray, sound: _Sound
) -> tuple[np.ndarray, np.ndarray]:
    """Return the signal of some windows from the longest lag on, each minus its mean.

    Returns
    -------
    brain : array of float32, shape (n_windows * n_used, n_channels)
        0 where a window is constant or has NaN.
    alive : array of float32, shape (n_windows, n_channels)
        1 where it is neither.
    """
    rows = starts[:, None] + np.arange(sound.n_lags - 1, sound.n_lags - 1 + sound.n_used)
    span = slice(channels[0], channels[-1] + 1)
    if isinstance(signal, torch.Tensor):
        found = signal[torch.from_numpy(rows).to(signal.device), span].float().cpu().numpy()
    else:
        found = signal[rows, span]
    brain = found.astype(float)  # (n_windows, n_used, n_channels)
    mean = brain.mean(axis=1, keepdims=True)
    brain -= mean
    spread = (brain**2).mean(axis=1)
    alive = np.isfinite(spread) & (spread > (_FLAT * mean[:, 0]) ** 2)
    brain = np.where(alive[:, None], brain, 0)
    return brain.astype(np.float32).reshape(-1, len(channels)), alive.astype(np.float32)
