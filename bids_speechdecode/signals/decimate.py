"""Any sampling rate -> a lower one, as matrix products over overlapping blocks.

Output sample k is the band-limited signal at exactly ``k / rate`` seconds. A windowed sinc is
evaluated at the distances between that moment and the samples around it, so the two rates need
no common multiple. A first, coarse stage by a whole number keeps the sharp filter short.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from bids_speechdecode.errors import DataError
from bids_speechdecode.signals.rows import FloatArray, ReadRows, SlidingRows, reach_over_ends

_ATTENUATION = 80.0  # decibels, of both stages
_BETA = 0.1102 * (_ATTENUATION - 8.7)  # Kaiser's window for that attenuation
_TRANSITION = 0.05  # width of the sharp filter's slope as a fraction of the output rate
_COARSE_RATE = 4  # the coarse stage ends at this multiple of the output rate or above
_MAX_MATRICES = 512
_BLOCK_BYTES = 4 << 20


def as_fraction(rate: float) -> Fraction:
    """Return `rate` as the simplest fraction that is within 1e-10 of it.

    999.4 is meant as 4997/5, not as the binary number next to it. The error stays below 0.1 ms
    in a week.
    """
    for limit in (1, 10, 100, 1000, 10**4, 10**6):
        fraction = Fraction(rate).limit_denominator(limit)
        if abs(fraction - Fraction(rate)) <= Fraction(rate) / 10**10:
            return fraction
    return Fraction(rate)


class Stage:
    """One low-pass and resampling: output j is the input at position ``j * step``.

    Parameters
    ----------
    step : Fraction
        Input samples per output sample.
    cutoff, transition : float
        Half-amplitude frequency and width of the slope, in cycles per input sample.
    group : int
        Outputs that one matrix product makes; more outputs cost idle zeros, fewer cost calls.
    """

    def __init__(self, step: Fraction, cutoff: float, transition: float, group: int) -> None:
        self.step, self.group = step, group
        self._cutoff = cutoff
        # Kaiser's estimate of the length that reaches the attenuation.
        self._half_length = (_ATTENUATION - 7.95) / (2.285 * 2 * np.pi * transition) / 2
        self.half = int(np.ceil(self._half_length))
        self._span = 2 * self.half + 2 + int(np.ceil((group - 1) * float(step)))
        self._matrices: dict[int, FloatArray] = {}

    def rows_needed(self, start: int, stop: int) -> tuple[int, int]:
        """Return the input rows from which outputs `start` to `stop` are made."""
        groups, _ = self._positions(np.arange(start, stop, self.group))
        return int(groups[0]), int(groups[-1]) + self._span

    def apply(self, rows: FloatArray, start: int, stop: int) -> FloatArray:
        """Return outputs `start` to `stop` from the rows of `rows_needed`.

        An output whose filter touches a sample that is not finite is NaN, no other.
        """
        with np.errstate(invalid="ignore"):
            out = self._multiply(rows, start, stop)
        if np.isfinite(out).all():
            return out
        bad = ~np.isfinite(rows)
        out = self._multiply(np.where(bad, np.float32(0), rows), start, stop)
        out[self._touches(bad, start, stop)] = np.nan
        return out

    def _multiply(self, rows: FloatArray, start: int, stop: int) -> FloatArray:
        groups = np.arange(start, stop, self.group)
        out = np.empty((len(groups), self.group, rows.shape[1]), dtype=np.float32)
        firsts, phases = self._positions(groups)
        firsts -= firsts[0]
        if self.step.denominator == 1:
            # All groups share one matrix: a single call, on windows that are not copied.
            every = self.group * self.step.numerator
            windows = sliding_window_view(rows, self._span, axis=0)[::every].swapaxes(1, 2)
            np.matmul(self._matrix(0), windows[: len(groups)], out=out)
        else:
            for made, first, phase in zip(out, firsts.tolist(), phases.tolist(), strict=True):
                np.matmul(self._matrix(phase), rows[first : first + self._span], out=made)
        return out.reshape(-1, rows.shape[1])[: stop - start]

    def _matrix(self, phase: int) -> FloatArray:
        """Return the weights (group, span) of a group that begins `phase` / denominator late."""
        if phase not in self._matrices:
            if len(self._matrices) >= _MAX_MATRICES:
                self._matrices.clear()
            late = np.arange(self.group) * self.step.numerator + phase
            positions = late / self.step.denominator
            distance = np.arange(self._span) - self.half - positions[:, None]
            inside = np.clip(1 - (distance / self._half_length) ** 2, 0, None)
            weights = np.sinc(2 * self._cutoff * distance) * np.i0(_BETA * np.sqrt(inside))
            weights[np.abs(distance) > self._half_length] = 0
            # Every output has a gain of exactly 1 at 0 Hz, whatever its phase.
            weights /= weights.sum(axis=1, keepdims=True)
            self._matrices[phase] = weights.astype(np.float32)
        return self._matrices[phase]

    def _touches(self, bad: np.ndarray, start: int, stop: int) -> np.ndarray:
        """Return which outputs, shape (stop - start, n_columns), have a bad row in reach."""
        counts = np.zeros((len(bad) + 1, bad.shape[1]), dtype=np.int32)
        np.cumsum(bad, axis=0, out=counts[1:])
        low, _ = self._positions(np.arange(start, stop))
        low -= low[0]
        high = np.minimum(low + 2 * self.half + 2, len(bad))
        return counts[high] > counts[low]

    def _positions(self, outputs: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the first row in reach of each output, and its phase."""
        scaled = outputs.astype(object if self._is_large(outputs) else np.int64)
        rows, phases = np.divmod(scaled * self.step.numerator, self.step.denominator)
        return (rows - self.half).astype(np.int64), phases

    def _is_large(self, outputs: NDArray[np.int64]) -> bool:
        """Return whether the positions of `outputs` overflow 64 bits (odd rates only)."""
        return int(np.abs(outputs).max()) * self.step.numerator >= 2**62


class Decimator:
    """Low-pass and resampling from `rate_in` to `rate_out`, block by block.

    The sharp filter falls from 1 to 0 between 0.475 and 0.525 of `rate_out` (19 to 21 Hz at
    40 Hz) and reaches 80 dB, which also takes the power line with it.

    Attributes
    ----------
    margin : float
        Seconds on each side that reach into an output sample.
    """

    def __init__(self, rate_in: float, rate_out: float) -> None:
        ratio = as_fraction(rate_in) / as_fraction(rate_out)
        if ratio < 1:
            raise DataError(
                "sampling rate is below the rate of the preprocessed signal",
                expected=f"at least {rate_out:g} Hz",
                found=f"{rate_in:g} Hz",
                fix="choose a lower rate in the section [preprocess] of the configuration",
            )
        self._ratio = ratio
        coarse_step = max(1, int(ratio / _COARSE_RATE))
        step = ratio / coarse_step
        self._coarse = _coarse_stage(ratio, coarse_step) if coarse_step > 1 else None
        self._sharp = Stage(step, 0.5 / float(step), _TRANSITION / float(step), group=16)
        reach = self._sharp.half * coarse_step + (self._coarse.half if self._coarse else 0)
        self.margin = reach / rate_in

    def n_out(self, n_times: int) -> int:
        """Return how many output samples lie within `n_times` input samples."""
        return int(-(-n_times // self._ratio))

    def stream(self, read: ReadRows, n_times: int, block: int) -> Iterator[FloatArray]:
        """Yield the whole signal at the new rate, `block` samples at a time.

        Parameters
        ----------
        read : callable
            ``read(start, stop)`` returns array, shape (stop - start, n_channels).
        n_times : int
            Input samples.
        block : int
            Output samples per block (rounded up to whole groups).
        """
        if self._ratio == 1:
            yield from (read(i, min(i + block, n_times)) for i in range(0, n_times, block))
            return
        source = SlidingRows(reach_over_ends(read, n_times))
        if self._coarse is not None:
            source = SlidingRows(_through(self._coarse, source))
        block = -(-block // self._sharp.group) * self._sharp.group
        n_out = self.n_out(n_times)
        for start in range(0, n_out, block):
            stop = min(start + block, n_out)
            yield self._sharp.apply(source(*self._sharp.rows_needed(start, stop)), start, stop)


def block_length(rate_in: float, rate_out: float, n_channels: int) -> int:
    """Return the output samples per block for which the input stays in the processor's cache."""
    n_rows = _BLOCK_BYTES / (4 * max(n_channels, 1))
    return max(16, int(n_rows * rate_out / rate_in) // 16 * 16)


def _coarse_stage(ratio: Fraction, step: int) -> Stage:
    """Return the stage that keeps what the sharp one lets through free of aliases."""
    passed = (0.5 + _TRANSITION / 2) / float(ratio)  # cycles per input sample
    stopped = 1 / step - passed
    return Stage(Fraction(step), (passed + stopped) / 2, stopped - passed, group=8)


def _through(stage: Stage, source: SlidingRows) -> ReadRows:
    def read(start: int, stop: int) -> FloatArray:
        return stage.apply(source(*stage.rows_needed(start, stop)), start, stop)

    return read
