"""How well held-out predictions agree with responses, overall and per modulation band.

Predictions come fold by fold, each from a model with its own intercept. That intercept is the mean
of the other folds, hence low where the held-out mean is high: correlated over all folds at once,
even useless predictions get a negative r. And each fold has its own penalty, so that predictions
of one fold may be a thousand times as large as those of another, which would then count for
nothing. For r, both signals are therefore standardised within `folds` when given.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import sparse
from scipy.signal import butter, get_window, sosfiltfilt

from bids_speechdecode.errors import DataError

# Hertz. 0.25 Hz is the Nyquist frequency of fMRI with a TR of 2 s, and octaves follow above it:
# whether tuning on fMRI helps above what fMRI measures is a question of the study [P].
MODULATION_EDGES = ((0.05, 0.25), (0.25, 0.5), (0.5, 1.0), (1.0, 2.0), (2.0, 4.0), (4.0, 8.0))
HIGHEST_EDGE = 0.4  # of the rate: below Nyquist, where decimation has left the response untouched
FILTER_ORDER = 2  # of each of the two passes; higher orders ring for longer
WINDOW_CYCLES = 4.0  # cycles of a band's low edge in one window of its coherence
OVERLAP_CORRELATION = 1 / 36  # of the periodograms of Hann windows that overlap by half
CONSTANT = 1e-10  # deviations below this fraction of a signal's size are rounding
FEWEST_SAMPLES = 3
CHUNK = 4_000_000  # values of one array that are worked on at once


def correlate(
    prediction: np.ndarray, response: np.ndarray, folds: ArrayLike | None = None
) -> np.ndarray:
    """Return Pearson's r between prediction and response of each electrode.

    ``r = sum x y / sqrt(sum x^2 sum y^2)`` over all folds, with ``x`` and ``y`` standardised within
    the fold a sample belongs to (over all samples without `folds`): the mean of the folds' r,
    weighted by their samples. A fold with a constant prediction has none and does not count.

    Parameters
    ----------
    prediction, response : array, shape (n_times, n_electrodes)
        NaN where there is none; such samples are left out.
    folds : array of int, shape (n_times,), optional
        The fold in which each sample was held out.

    Returns
    -------
    array, shape (n_electrodes,)
        NaN where either signal is constant or fewer than 3 samples have both.
    """
    check_shapes(prediction, response, folds)
    r = np.empty(response.shape[1])
    for some in chunk_electrodes(*response.shape):
        x, y, used = standardised_pair(prediction[:, some], response[:, some], folds)
        with np.errstate(invalid="ignore"):
            r[some] = _multiply(x, y) / np.sqrt(_multiply(x, x) * _multiply(y, y))
        r[some][used.sum(0) < FEWEST_SAMPLES] = np.nan
    return r


def r2(prediction: np.ndarray, response: np.ndarray, folds: ArrayLike | None = None) -> np.ndarray:
    """Return the fraction of the response's variance that each electrode's prediction explains.

    ``1 - sum (y - x)^2 / sum y^2`` with ``x`` and ``y`` the deviations from the mean of the fold a
    sample belongs to (of all samples without `folds`). Means are removed from the prediction too,
    for the level of a fold that was held out is none of the stimulus: with a slow drift the wrong
    level would outweigh what is predicted within the fold.
    Below zero where the prediction is worse than none; NaN as in `correlate`, save that a constant
    prediction has a value, 0.
    """
    check_shapes(prediction, response, folds)
    values = np.empty(response.shape[1])
    for some in chunk_electrodes(*response.shape):
        x, y, used = paired_deviations(prediction[:, some], response[:, some], folds)
        with np.errstate(invalid="ignore"):
            values[some] = 1 - _multiply(y - x, y - x) / _multiply(y, y)
        values[some][used.sum(0) < FEWEST_SAMPLES] = np.nan
    return values


def modulation_scores(
    prediction: np.ndarray,
    response: np.ndarray,
    rate: float,
    segments: ArrayLike,
    edges: Sequence[tuple[float, float]] = MODULATION_EDGES,
    folds: ArrayLike | None = None,
) -> pd.DataFrame:
    """Return how well each band of modulation frequencies is predicted, by r and by coherence.

    Both signals are standardised within folds, as in `correlate`, and band-passed (Butterworth,
    forwards and backwards) within each continuous stretch. Its ends, where the filter has seen
    what it had to make up, are discarded: one cycle of the band's low edge or two of its width,
    whichever is longer (what is left differs by about 1% from the filtered whole). Coherence is
    magnitude-squared (Welch): cross-spectra of Hann windows of 4 cycles of the low edge,
    overlapping by half, are summed over all stretches, and the coherence averaged over the
    frequencies of the band. It does not see a delay or sign.

    Parameters
    ----------
    prediction, response : array, shape (n_times, n_electrodes)
        NaN where there is none.
    rate : float, hertz
    segments : array of int, shape (n_times,)
        Label of the continuous stretch of sound of each sample.
    edges : sequence of (low, high), hertz
        Cut at 0.4 of the rate; bands wholly above it are left out.
    folds : array of int, shape (n_times,), optional
        The fold in which each sample was held out; nothing is filtered across two folds.

    Returns
    -------
    DataFrame, n_electrodes rows per band
        ``electrode`` (index), ``low``, ``high`` (hertz), ``r``, ``coherence`` and
        ``coherence_chance``, the expectation for unrelated signals: one over the number of
        independent windows, 0.95 of their number with this overlap (Welch 1967,
        doi:10.1109/TAU.1967.1161901). Scores are NaN where no stretch is long enough.
    """
    check_shapes(prediction, response, folds)
    bands = [(low, min(high, HIGHEST_EDGE * rate)) for low, high in edges]
    bands = [(low, high) for low, high in bands if low < high]
    if not bands:
        raise DataError(
            "No modulation band lies within what the responses can show.",
            expected=f"low edges below {HIGHEST_EDGE * rate:g} Hz ({HIGHEST_EDGE:g} of the rate)",
            found=", ".join(f"{low:g}-{high:g} Hz" for low, high in edges),
            fix="raise the rate of the responses",
        )
    n_electrodes = response.shape[1]
    scores = np.full((3, len(bands), n_electrodes), np.nan)
    for members, stretches in group_stretches(prediction, response, segments, folds):
        for some in chunk_electrodes(len(response), len(members)):
            chosen = members[some]
            x, y, _ = standardised_pair(prediction[:, chosen], response[:, chosen], folds)
            scores[:, :, chosen] = _score_bands(x, y, stretches, bands, rate)
    columns = dict(zip(("r", "coherence", "coherence_chance"), scores, strict=True))
    tables = [
        pd.DataFrame(
            {"electrode": range(n_electrodes), "low": low, "high": high}
            | {name: values[number] for name, values in columns.items()}
        )
        for number, (low, high) in enumerate(bands)
    ]
    return pd.concat(tables, ignore_index=True)


def check_shapes(prediction: np.ndarray, response: np.ndarray, *labels: ArrayLike | None) -> None:
    """Raise DataError unless predictions, responses and labels of samples fit each other."""
    if prediction.ndim != 2 or prediction.shape != response.shape:
        raise DataError(
            "Predictions and responses do not fit.",
            expected=f"predictions of the responses' shape {response.shape} (times, electrodes)",
            found=str(prediction.shape),
        )
    for label in labels:
        if label is not None and np.shape(label) != (len(response),):
            raise DataError(
                "Each sample needs the label of its stretch or fold.",
                expected=f"{len(response)} labels",
                found=f"an array of shape {np.shape(label)}",
            )


def chunk_electrodes(n_times: int, n_electrodes: int) -> Iterator[slice]:
    """Yield slices over electrodes, such that one array of a slice stays small."""
    step = max(1, CHUNK // max(n_times, 1))
    for first in range(0, n_electrodes, step):
        yield slice(first, min(first + step, n_electrodes))


def centre(values: np.ndarray, used: np.ndarray, folds: ArrayLike | None) -> np.ndarray:
    """Return deviations from each fold's mean over `used` samples, and 0 elsewhere.

    A signal that is constant up to rounding gets deviations of exactly 0.
    """
    return _Groups(used, folds).centre(values)


def standardise(values: np.ndarray, used: np.ndarray, folds: ArrayLike | None) -> np.ndarray:
    """Return the deviations of `centre` over their standard deviation within each fold.

    0 where a signal is constant in a fold, up to rounding.
    """
    return _Groups(used, folds).standardise(values)


class _Groups:
    """The `used` samples (n_times, n_electrodes) of each fold, for several signals."""

    def __init__(self, used: np.ndarray, folds: ArrayLike | None) -> None:
        self.used = used
        self._codes = (
            np.zeros(len(used), int) if folds is None else np.unique(folds, return_inverse=True)[1]
        )
        self._members = membership(self._codes)
        self._n_used = np.maximum(self._members @ used.astype(float), 1.0)

    def centre(self, values: np.ndarray) -> np.ndarray:
        values = np.where(self.used, values, 0.0)
        means = (self._members @ values) / self._n_used
        deviations = np.where(self.used, values - means[self._codes], 0.0)
        size, spread = _multiply(values, values), _multiply(deviations, deviations)
        constant = spread <= CONSTANT**2 * size
        return np.where(constant, 0.0, deviations)

    def standardise(self, values: np.ndarray) -> np.ndarray:
        deviations = self.centre(values)
        spread = np.sqrt((self._members @ deviations**2) / self._n_used)
        size = np.sqrt((self._members @ np.where(self.used, values, 0.0) ** 2) / self._n_used)
        constant = spread <= CONSTANT * size
        scale = np.where(constant, 1.0, spread)
        return np.where(constant[self._codes], 0.0, deviations / scale[self._codes])


def membership(codes: np.ndarray) -> sparse.csr_array:
    """Return the matrix, shape (n_groups, n_times), that sums samples of codes 0, 1, ...

    Samples with a negative code belong to no group.
    """
    of_group = np.flatnonzero(codes >= 0)
    shape = (int(codes.max(initial=-1)) + 1, len(codes))
    return sparse.csr_array((np.ones(len(of_group)), (codes[of_group], of_group)), shape=shape)


def paired_deviations(
    prediction: np.ndarray, response: np.ndarray, folds: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the deviations of both where both are finite (else 0), and where that is."""
    groups = _common(prediction, response, folds)
    x, y = (groups.centre(values.astype(float)) for values in (prediction, response))
    return x, y, groups.used


def standardised_pair(
    prediction: np.ndarray, response: np.ndarray, folds: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return both standardised within folds where both are finite (else 0), and where that is."""
    groups = _common(prediction, response, folds)
    x, y = (groups.standardise(values.astype(float)) for values in (prediction, response))
    return x, y, groups.used


def _common(prediction: np.ndarray, response: np.ndarray, folds: ArrayLike | None) -> _Groups:
    return _Groups(np.isfinite(prediction) & np.isfinite(response), folds)


def group_stretches(
    prediction: np.ndarray, response: np.ndarray, segments: ArrayLike, folds: ArrayLike | None
) -> Iterator[tuple[np.ndarray, list[slice]]]:
    """Yield electrodes (indices) with the same stretches, and those stretches.

    A stretch is a run of samples of one segment and fold in which both signals are finite.
    Electrodes differ in them when each has its own lag.
    """
    check_shapes(prediction, response, segments, folds)
    used = np.isfinite(prediction) & np.isfinite(response)
    patterns, group = np.unique(np.packbits(used, axis=0), axis=1, return_inverse=True)
    for number in range(patterns.shape[1]):
        members = np.flatnonzero(group.ravel() == number)
        yield members, _list_stretches(used[:, members[0]], segments, folds)


def _list_stretches(used: np.ndarray, segments: ArrayLike, folds: ArrayLike | None) -> list[slice]:
    labels = np.stack([used, np.asarray(segments), np.zeros_like(used) if folds is None else folds])
    starts = np.flatnonzero(np.append(True, (np.diff(labels, axis=1) != 0).any(axis=0)))
    stops = np.append(starts[1:], len(used))
    pairs = zip(starts.tolist(), stops.tolist(), strict=True)
    return [slice(start, stop) for start, stop in pairs if used[start]]


def _score_bands(
    prediction: np.ndarray,
    response: np.ndarray,
    stretches: list[slice],
    bands: list[tuple[float, float]],
    rate: float,
) -> np.ndarray:
    """Return r, coherence and its chance level, shape (3, n_bands, n_electrodes)."""
    pairs = [(prediction[s].astype(float), response[s].astype(float)) for s in stretches]
    scores = np.full((3, len(bands), response.shape[1]), np.nan)
    if not pairs:
        return scores
    for number, band in enumerate(bands):
        scores[0, number] = _band_r(pairs, band, rate)
        scores[1, number], scores[2, number] = _coherence(pairs, band, rate)
    # A constant leaves only rounding behind a filter, which must not be scored.
    scores[:2, :, ~(_varies(x for x, _ in pairs) & _varies(y for _, y in pairs))] = np.nan
    return scores


def _varies(parts: Iterable[np.ndarray]) -> np.ndarray:
    varies = np.zeros((), bool)
    for part in parts:
        size = np.abs(part).max(axis=0)
        varies = varies | (part.max(axis=0) - part.min(axis=0) > CONSTANT * size)
    return varies


def _band_r(
    pairs: list[tuple[np.ndarray, np.ndarray]], band: tuple[float, float], rate: float
) -> np.ndarray | float:
    sos = butter(FILTER_ORDER, band, "bandpass", fs=rate, output="sos")
    cycle = round(rate / band[0])
    edge = max(cycle, round(2 * rate / (band[1] - band[0])))
    kept = [
        [
            sosfiltfilt(sos, part - part.mean(axis=0), axis=0, padlen=edge)[edge:-edge]
            for part in pair
        ]
        for pair in pairs
        if len(pair[0]) >= 2 * edge + cycle
    ]
    if not kept:
        return np.nan
    x, y = (np.concatenate(parts) for parts in zip(*kept, strict=True))
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    with np.errstate(invalid="ignore"):
        return _multiply(x, y) / np.sqrt(_multiply(x, x) * _multiply(y, y))


def _multiply(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.asarray(np.einsum("te,te->e", x, y))


def _coherence(
    pairs: list[tuple[np.ndarray, np.ndarray]], band: tuple[float, float], rate: float
) -> tuple[np.ndarray | float, float]:
    length = round(WINDOW_CYCLES / band[0] * rate)
    frequencies = np.fft.rfftfreq(length, 1 / rate)
    rounding = 1e-6 * rate / length
    in_band = (frequencies >= band[0] - rounding) & (frequencies < band[1] - rounding)
    taper = get_window("hann", length)[:, None]
    n_windows = 0
    xx, yy, xy = np.zeros(()), np.zeros(()), np.zeros((), complex)
    for pair in pairs:
        for start in range(0, len(pair[0]) - length + 1, length // 2):
            windows = (part[start : start + length] for part in pair)
            x, y = (
                np.fft.rfft(taper * (window - window.mean(axis=0)), axis=0)[in_band]
                for window in windows
            )
            xx, yy, xy = xx + np.abs(x) ** 2, yy + np.abs(y) ** 2, xy + x.conj() * y
            n_windows += 1
    if n_windows < 2:  # the coherence of one window is 1, whatever it holds
        return np.nan, np.nan
    with np.errstate(invalid="ignore", divide="ignore"):
        coherence = (np.abs(xy) ** 2 / (xx * yy)).mean(axis=0)
    independent = n_windows / (1 + 2 * OVERLAP_CORRELATION * (1 - 1 / n_windows))
    return coherence, min(1.0, 1 / independent)
