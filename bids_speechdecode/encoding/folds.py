"""Which times are fitted and which held out: contiguous blocks with an embargo between them.

Neighbouring samples share sound, context and response, so a fold is a stretch of time and not a
random draw. Every block is trimmed where it touches another, which keeps *any* two blocks apart:
whatever is summed over a block (a Gram matrix) then serves every combination of blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bids_speechdecode.errors import DataError


@dataclass(frozen=True)
class Folds:
    """Blocks of time; outer fold k holds block k out, its inner folds each other block in turn.

    Attributes
    ----------
    block : array of int, shape (n,)
        Number of the block of each sample; -1 for samples of none.
    stretch : array of int, shape (n,)
        Number of the stretch of continuous audio of each sample, increasing with time.
    valid : array of bool, shape (n,)
        Where there is a response.
    n_folds : int
    embargo : int
        Two samples of one stretch that are in different blocks are at least this far apart.
    """

    block: np.ndarray
    stretch: np.ndarray
    valid: np.ndarray
    n_folds: int
    embargo: int

    @property
    def inner(self) -> list[list[int]]:
        """The blocks held out in turn within each outer fold."""
        return [[j for j in range(self.n_folds) if j != k] for k in range(self.n_folds)]

    def list_rows(self, lags: np.ndarray) -> list[np.ndarray]:
        """Return the samples t of each block whose t + lag, at all `lags`, can be used.

        Parameters
        ----------
        lags : array of int, shape (L,), samples
            ``t + lag`` must lie in the stretch of t and have a response, at every lag, so that
            all lags are compared on the same samples of the features.

        Raises
        ------
        DataError
            A block has fewer samples than there are lags, or lags reach from one block into
            the responses of another.
        """
        self._check_reach(lags)
        n = len(self.block)
        usable = self.block >= 0
        for lag in lags:
            later = np.arange(n) + lag
            inside = np.clip(later, 0, n - 1)
            usable &= (later == inside) & (self.stretch[inside] == self.stretch)
            usable &= self.valid[inside]
        rows = [np.flatnonzero(usable & (self.block == k)) for k in range(self.n_folds)]
        fewest = min(len(r) for r in rows)
        if fewest < max(len(lags), 2):
            raise DataError(
                "A fold has fewer samples than there are lags.",
                expected=f"at least {max(len(lags), 2)} samples in each of {self.n_folds} folds",
                found=f"{[len(r) for r in rows]} samples at which every lag has a response",
                fix="Use fewer folds, a smaller longest lag or a lower rate, or longer recordings.",
            )
        return rows

    def _check_reach(self, lags: np.ndarray) -> None:
        span = int(np.max(lags) - np.min(lags))
        if span > self.embargo:
            raise DataError(
                "The embargo is shorter than the range of the lags, so that folds share responses.",
                expected=f"an embargo of at least {span} samples",
                found=f"{self.embargo} samples",
                fix="Make the embargo longer: the context plus the longest lag, or more.",
            )


def contiguous_folds(segments: np.ndarray, valid: np.ndarray, n_folds: int, embargo: int) -> Folds:
    """Cut time into `n_folds` contiguous blocks of about equal valid length.

    Blocks are cut over the concatenated stretches. Where a cut falls inside a stretch, half of the
    embargo is left out on either side of it; between stretches nothing is left out.

    Parameters
    ----------
    segments : array of int, shape (n,)
        Label of the stretch of continuous audio of each sample; a label that returns later is
        another stretch.
    valid : array of bool, shape (n,)
        Where the responses can be used.
    n_folds : int
        At least 2.
    embargo : int, samples
        At least the features' context plus the longest lag.

    Raises
    ------
    DataError
        A block has nothing left between its embargoes.

    Examples
    --------
    >>> import numpy as np
    >>> contiguous_folds(np.zeros(12, int), np.ones(12, bool), 2, embargo=4).block
    array([ 0,  0,  0,  0, -1, -1, -1, -1,  1,  1,  1,  1])
    """
    segments, valid = np.asarray(segments), np.asarray(valid, dtype=bool)
    _check_input(segments, valid, n_folds, embargo)
    stretch = np.cumsum(np.diff(segments, prepend=segments[:1]) != 0)
    share = (np.cumsum(valid) - valid) / max(valid.sum(), 1)
    block = np.minimum((share * n_folds + 1e-9).astype(int), n_folds - 1)
    trimmed = block.copy()
    for cut in (np.flatnonzero(np.diff(block)) + 1).tolist():
        if stretch[cut] == stretch[cut - 1]:
            near = slice(max(cut - embargo // 2, 0), cut + embargo - embargo // 2)
            trimmed[near][stretch[near] == stretch[cut]] = -1
    trimmed[~valid] = -1
    _check_left(block, trimmed, valid, n_folds, embargo)
    return Folds(trimmed, stretch, valid, n_folds, embargo)


def _check_input(segments: np.ndarray, valid: np.ndarray, n_folds: int, embargo: int) -> None:
    if segments.shape != valid.shape or segments.ndim != 1:
        raise DataError(
            "Each sample needs the label of its stretch and whether it is valid.",
            expected="two arrays of one shape (n,)",
            found=f"{segments.shape} and {valid.shape}",
        )
    if n_folds < 2 or embargo < 0:
        raise DataError(
            "Folds need at least two blocks and an embargo that is not negative.",
            found=f"{n_folds} folds, embargo of {embargo} samples",
        )


def _check_left(
    block: np.ndarray, trimmed: np.ndarray, valid: np.ndarray, n_folds: int, embargo: int
) -> None:
    before = np.bincount(block[valid], minlength=n_folds)
    left = np.bincount(trimmed[trimmed >= 0], minlength=n_folds)
    if left.min() == 0:
        raise DataError(
            "The folds are too short for the embargo.",
            expected=f"more than {embargo} valid samples in each of {n_folds} folds",
            found=f"{before.tolist()} valid samples, {left.tolist()} once the embargo is left out",
            fix="Use fewer folds, a shorter context or smaller longest lag, no band slow, "
            "or longer recordings.",
        )
