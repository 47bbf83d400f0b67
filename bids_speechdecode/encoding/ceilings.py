"""The highest correlation that any model of the stimulus alone can expect: the noise ceiling.

What repeats of a sound share is due to the sound, the rest is noise (Sahani & Linden 2003). Often
a few minutes are repeated and hours are not: how strong signal and noise are is then known from the
few minutes, and the ceiling follows from how often each scored sample was heard.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from bids_speechdecode.encoding.scores import centre


@dataclass(frozen=True)
class Powers:
    """Mean power of signal and noise in one presentation.

    Attributes
    ----------
    signal, noise : array, shape (n_electrodes,), square of the unit of the responses
        NaN where nothing was heard twice. Where repeats share nothing, the signal's estimate is
        as often below zero as above.
    """

    signal: np.ndarray
    noise: np.ndarray

    def ceiling(self, n_averaged: ArrayLike, folds: ArrayLike | None = None) -> np.ndarray:
        """Return the r of a perfect model with the mean of `n_averaged` presentations.

        Within a fold ``sqrt(SP / (SP + NP * mean(1 / n_averaged)))``, the mean over its samples;
        over folds the mean, weighted by their samples, as in `scores.correlate`.
        ``n_averaged=1`` is the ceiling for single presentations (Hsu et al. 2004,
        doi:10.1088/0954-898X_15_2_002), the number of repeats that for their average (CC_max of
        Schoppe et al. 2016, doi:10.3389/fncom.2016.00010).

        Parameters
        ----------
        n_averaged : int, or array of int, shape (n_times, n_electrodes)
            Presentations whose average is predicted, at each scored sample.
        folds : array of int, shape (n_times,), optional
            The fold in which each sample was held out.

        Returns
        -------
        array, shape (n_electrodes,)
            0 where the repeats share no power; NaN where nothing was heard twice, all is constant
            or some scored sample was not heard.
        """
        counts = np.atleast_2d(n_averaged)
        codes = np.zeros(len(counts), int) if folds is None else np.asarray(folds)
        total = np.zeros(self.signal.shape)
        signal = np.maximum(self.signal, 0.0)
        for fold in np.unique(codes):
            some = counts[codes == fold]
            with np.errstate(invalid="ignore", divide="ignore"):
                noise = self.noise * np.mean(1 / np.where(some > 0, some, np.nan), axis=0)
                total += len(some) * np.sqrt(signal / (signal + noise))
        return np.asarray(total / len(counts)) if len(counts) else np.full(total.shape, np.nan)


def measure_powers(sounds: Sequence[np.ndarray]) -> Powers:
    """Return the powers of signal and noise, pooled over the sounds that were heard repeatedly.

    Of a sound, ``SP = (var(sum of repeats) - sum of var(repeat)) / (N (N - 1))``, and `NP` is the
    rest of the mean power of one repeat. Over sounds they are averaged, weighted by their samples:
    a root of each sound's own estimate would be biased where the sound is short.

    Parameters
    ----------
    sounds : sequence of arrays, shape (n_repeats, n_times, n_electrodes)
        Responses to each sound; samples with NaN in any repeat are left out.
    """
    shape = sounds[0].shape[2:]
    weight, signal, noise = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for repeats in sounds:
        n_repeats = len(repeats)
        if n_repeats < 2:  # noise cannot be told from response
            continue
        used = np.isfinite(repeats).all(axis=0)
        n_used = used.sum(axis=0)
        deviations = np.stack([centre(repeat.astype(float), used, None) for repeat in repeats])
        freedom = np.maximum(n_used - 1, 1)
        powers = (deviations**2).sum(axis=1) / freedom
        of_sum = (deviations.sum(axis=0) ** 2).sum(axis=0) / freedom
        shared = (of_sum - powers.sum(axis=0)) / (n_repeats * (n_repeats - 1))
        share = np.where(n_used > 1, n_used, 0)
        weight += share
        signal += share * shared
        noise += share * (powers.mean(axis=0) - shared)
    known = np.where(weight > 0, weight, np.nan)
    return Powers(signal / known, noise / known)
