"""What a window adds to the mean rank as a candidate of the other windows.

The windows that are tested are each other's candidates. A sound that every brain embedding is close
to has a good rank itself and spoils that of all others: were embeddings all the same, the mean rank
would be 0.5 whatever the sounds, though blocks of windows differ as much as their sounds do.
Resampling ranks alone takes that for uncertainty. The mean rank of N windows,

    R = sum_k sum_i h(k, i) / (N (N - 1)),

where h(k, i) is 1 if sound i is closer to brain k than its own sound is, is a U-statistic, and to
first order (its projection, Hoeffding 1948, doi:10.1214/aoms/1177730196) window i moves it by
``(r_i - R) + (c_i - R)``: r_i, its rank, is the mean of h(i, .), and c_i, as a rival, that of
h(., i). In simulations with 20 blocks of five independent windows, the variance of R from blocks of
``r_i + c_i - R`` was 1.0 to 1.2 times the true one; from blocks of r_i it was 1.0 to 4.2 times, and
for the difference of two models 1.0 to 12 times.
"""

from __future__ import annotations

import numpy as np
import torch

from bids_speechdecode.decoding.contrastive import TIE, unit_vectors

_ROWS = 2048  # windows whose similarities are held in memory together


def rivalry(brain: np.ndarray, audio: np.ndarray, strata: np.ndarray | None = None) -> np.ndarray:
    """Return ``c_i - R`` of each window; added to the ranks, it leaves their mean as it is.

    Parameters
    ----------
    brain, audio : array, shape (N, d) or (N, F, d)
        The true candidate of ``brain[i]`` is ``audio[i]``.
    strata : array of int, shape (N,), optional
        Windows of one number are candidates for each other, as in `strata.rank_within`.

    Returns
    -------
    array, shape (N,)
        Above 0 for sounds that are often closer than the true one. The mean of a stratum is 0.
    """
    strata = np.zeros(len(brain), dtype=int) if strata is None else strata
    found = np.zeros(len(brain))
    for label in np.unique(strata):
        own = np.flatnonzero(strata == label)
        if len(own) > 1:
            found[own] = _rivalry(torch.as_tensor(brain[own]), torch.as_tensor(audio[own]))
    return found


@torch.no_grad()
def _rivalry(brain: torch.Tensor, audio: torch.Tensor) -> np.ndarray:
    candidates = unit_vectors(audio.flatten(1))
    n = len(brain)
    n_beaten = torch.zeros(n, dtype=torch.float64)
    for rows in torch.arange(n).split(_ROWS):
        query = unit_vectors(brain[rows].flatten(1))
        similarity = query @ candidates.T
        own = (query * candidates[rows]).sum(dim=1, keepdim=True)
        above = (similarity > own + TIE).double() + (similarity >= own - TIE).double()
        above[torch.arange(len(rows)), rows] = 0.0  # nobody is their own rival
        n_beaten += above.sum(dim=0) / 2
    share = n_beaten.numpy() / (n - 1)
    return np.asarray(share - share.mean())
