"""What a speech model predicts beyond acoustics: two bands of features with their own penalties.

    w = argmin sum_t (y(t + lag) - w_m' x_m(t) - w_n' x_n(t) - b)^2
               + alpha (|w_m|^2 / g_m + |w_n|^2 / g_n)

with standardised features and ``g_m + g_n = 1``, ``g_m`` the ratio (Dupre la Tour et al. 2022,
doi:10.1016/j.neuroimage.2022.119728). That is ridge regression on bands scaled by sqrt(g), and
scaling a band scales its part of every Gram matrix, so that all ratios follow from the same sums.
Unique variance is what the joint fit explains of held-out responses beyond the nuisance alone.
It is a difference of r2, so penalties and ratio are chosen by r2 in the inner folds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike

from bids_speechdecode.encoding.folds import Folds
from bids_speechdecode.encoding.nested import Advance, Fit, Problem, fit_nested, to_numpy
from bids_speechdecode.errors import DataError

RATIOS = (0.0, 0.01, 0.1, 0.5, 0.9, 0.99, 1.0)


@dataclass(frozen=True)
class Banded:
    """Held-out scores of both bands together and of each alone.

    Attributes
    ----------
    r2_joint, r2_nuisance, r2_model : array, shape (T,)
        1 - (squared error / squared deviation), means removed within the fold from prediction and
        response, mean over outer folds; NaN without a score.
    unique_model, unique_nuisance : array, shape (T,)
        `r2_joint` less the other band's r2. Held-out, hence it may fall below zero.
    r_joint, r_nuisance, r_model : array, shape (T,)
    alpha, ratio : array, shape (n_folds, T)
        Of the joint fit, chosen in its inner folds.
    prediction, prediction_nuisance : array of float32, shape (n, T)
        Held-out, at the time of the response; NaN where there is none.
    """

    r2_joint: np.ndarray
    r2_nuisance: np.ndarray
    r2_model: np.ndarray
    unique_model: np.ndarray
    unique_nuisance: np.ndarray
    r_joint: np.ndarray
    r_nuisance: np.ndarray
    r_model: np.ndarray
    alpha: np.ndarray
    ratio: np.ndarray
    prediction: np.ndarray
    prediction_nuisance: np.ndarray


def fit_banded_ridge(
    x_model: ArrayLike,
    x_nuisance: ArrayLike,
    y: ArrayLike,
    folds: Folds,
    *,
    lag: ArrayLike = 0,
    lags: ArrayLike | None = None,
    alphas: ArrayLike,
    ratios: ArrayLike = RATIOS,
    device: str | torch.device = "cpu",
    on_progress: Advance | None = None,
) -> Banded:
    """Predict responses from a speech model and from nuisance features, together and apart.

    Parameters
    ----------
    x_model : array, shape (n, p)
    x_nuisance : array, shape (n, q)
    y : array, shape (n, T)
    folds : Folds
    lag : int, or array of int, shape (T,) or (n_folds, T), samples
        At which each electrode is predicted, as in `LaggedRidge.lag`; NaN stands for 0.
    lags : array of int, shape (L,), samples, optional
        All lags among which `lag` was chosen: samples are used where each of them can be. Those
        in `lag` if left out.
    alphas : array, shape (A,)
    ratios : array, shape (R,)
        Share of the model's band, from 0 (nuisance only) to 1 (model only). With both ends among
        them a band that adds nothing can be left out.
    device : str or torch.device
    on_progress : callable, optional
        Called with shares of the work done, which add up to 1.

    Raises
    ------
    DataError
        As `fit_lagged_ridge`, or a ratio is not between 0 and 1.
    """
    model, nuisance = np.asarray(x_model, np.float32), np.asarray(x_nuisance, np.float32)
    shares = np.atleast_1d(np.asarray(ratios, dtype=float))
    _check(model, nuisance, shares)
    chosen = np.nan_to_num(np.asarray(lag, dtype=float)).astype(int)
    chosen = np.broadcast_to(chosen, (folds.n_folds, np.shape(y)[-1]))
    reach = np.unique(chosen if lags is None else np.append(chosen.ravel(), lags).astype(int))
    both = np.concatenate([model, nuisance], axis=1)
    problem = Problem.prepare(both, y, folds, reach, alphas, device)
    is_model = np.arange(both.shape[1]) < model.shape[1]

    def fit(some: np.ndarray) -> Fit:
        factors = np.sqrt(np.where(is_model, some[:, None], 1 - some[:, None]))
        share = len(some) / (len(shares) + 2)
        tell = None if on_progress is None else lambda done: on_progress(share * done)
        return fit_nested(
            problem, chosen, torch.as_tensor(factors), criterion="r2", on_progress=tell
        )

    return _collect(fit(shares), fit(np.zeros(1)), fit(np.ones(1)), shares)


def _collect(joint: Fit, nuisance: Fit, model: Fit, shares: np.ndarray) -> Banded:
    r2 = [to_numpy(fit.r2.mean(0)) for fit in (joint, nuisance, model)]
    r = [to_numpy(fit.r.mean(0)) for fit in (joint, nuisance, model)]
    alpha = to_numpy(joint.alpha)
    ratio = shares[to_numpy(joint.scaling)]
    return Banded(
        r2_joint=r2[0],
        r2_nuisance=r2[1],
        r2_model=r2[2],
        unique_model=r2[0] - r2[1],
        unique_nuisance=r2[0] - r2[2],
        r_joint=r[0],
        r_nuisance=r[1],
        r_model=r[2],
        alpha=alpha,
        ratio=np.where(np.isnan(alpha), np.nan, ratio),
        prediction=to_numpy(joint.prediction),
        prediction_nuisance=to_numpy(nuisance.prediction),
    )


def _check(model: np.ndarray, nuisance: np.ndarray, shares: np.ndarray) -> None:
    if model.ndim != 2 or nuisance.ndim != 2 or len(model) != len(nuisance):
        raise DataError(
            "The two bands of features must have the same samples.",
            expected="two arrays with a row per sample",
            found=f"shapes {model.shape} and {nuisance.shape}",
        )
    if not ((shares >= 0) & (shares <= 1)).all() or not len(shares):
        raise DataError(
            "The ratios of the bands must lie between 0 and 1.", found=str(shares.tolist())
        )
