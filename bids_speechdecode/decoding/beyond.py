"""What brain and target have in common beyond a third thing that both may follow."""

from __future__ import annotations

import numpy as np

LARGEST_SHARE = 0.25  # of the windows' degrees of freedom that may be taken out


def take_out_of_both(
    known: np.ndarray, brain: np.ndarray, targets: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return brain and targets without what is known, as in a partial correlation.

    ``rest = y - mean - U U' (y - mean)``, U an orthonormal basis of the standardised columns of
    what is known: of their first principal components where they are more than a quarter of the
    windows.

    Least squares over the windows that are ranked, with no penalty and from both sides: a
    prediction that is learned elsewhere, or held back by a penalty, leaves a part of what it should
    take out, which a brain that follows the same thing finds again. If either side depends on what
    is known linearly, and on the other only through it, ranks are at chance.

    Parameters
    ----------
    known : array, shape (n_windows, p)
    brain, targets : array, shape (n_windows, ...)

    Returns
    -------
    brain, targets : arrays of float32, in their shapes
    explained : float
        Share of the targets' variance that is taken out, less what is by chance (adjusted R²).
    """
    n = len(known)
    n_most = int(LARGEST_SHARE * (n - 1))
    scale = known.std(axis=0)
    standard = (known - known.mean(axis=0)) / np.where(scale > 0, scale, 1.0)
    left, values, _ = np.linalg.svd(standard, full_matrices=False)
    basis = left[:, values > 1e-6 * values.max(initial=1.0)][:, :n_most]
    rests = [_project_out(basis, side) for side in (brain, targets)]
    flat = targets.reshape(n, -1)
    total = float(((flat - flat.mean(axis=0)) ** 2).sum())
    unadjusted = float((rests[1] ** 2).sum()) / total if total else 1.0
    explained = 1 - unadjusted * (n - 1) / max(n - 1 - basis.shape[1], 1)
    return rests[0], rests[1], explained


def _project_out(basis: np.ndarray, values: np.ndarray) -> np.ndarray:
    flat = values.reshape(len(values), -1).astype(float)
    flat = flat - flat.mean(axis=0)
    rest = flat - basis @ (basis.T @ flat)
    return rest.reshape(values.shape).astype(np.float32)
