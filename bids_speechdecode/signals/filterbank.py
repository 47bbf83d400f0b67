"""Analytic signals of several bands from one Fourier transform per block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from scipy import fft, signal

from bids_speechdecode.signals.decimate import Stage
from bids_speechdecode.signals.rows import FloatArray

Edges = tuple[float, float]  # hertz

_ORDER = 4  # of the Butterworth filter, before it runs a second time backwards
_FLOOR = 1e-4  # gain below which a band holds nothing
_TAIL = 1e-5  # share of the impulse response that a block may leave out
_RINGING = 0.1  # share of the impulse response that may reach over a gap
# The magnitude has kinks where it is near zero, so its spectrum is wide and fades slowly: too few
# samples of it fold that into the response.
_OVERSAMPLING = 8.0  # envelope samples per cycle of the band's width at the gain _FLOOR
_LEAST_SAMPLING = 200.0  # envelope samples per second
_WORKING_RATE = 3.0  # times the highest frequency at the gain _FLOOR, at least
_LEAST_WORKING_RATE = 400.0  # hertz
_BLOCK_LENGTH = 6  # times the half length of the longest filter
_MIN_BLOCK = 1 << 13
_NOTCH_WIDTH = 2.0  # hertz between the half-amplitude points


@dataclass(frozen=True)
class Carrier:
    """One band as a slice of the spectrum.

    Attributes
    ----------
    step : int
        Rows at the working rate per sample of the envelope.
    first : int
        Line of the spectrum at which the slice begins.
    gain : array, shape (n_lines,)
    guard : int
        Rows on each side of a sample that must not be missing.
    """

    step: int
    first: int
    gain: FloatArray
    guard: int

    def envelope(
        self, spectrum: NDArray[np.complex64], n_fft: int, start: int, stop: int
    ) -> FloatArray:
        """Return samples `start` to `stop` of a block of `n_fft` rows, (n_samples, n_channels)."""
        part = spectrum[:, self.first : self.first + len(self.gain)] * self.gain
        # That the slice is moved to 0 Hz turns the phase and leaves the magnitude.
        analytic = fft.ifft(part, n_fft // self.step, axis=1, overwrite_x=True)
        return np.ascontiguousarray(np.abs(analytic[:, start:stop]).T)


@dataclass(frozen=True)
class Bank:
    """The filters of all bands, applied in blocks that overlap by `half` rows on each side."""

    reduction: int = 1  # samples of the recording per row at the working rate
    stage: Stage | None = None  # that makes these rows
    n_fft: int = 0
    half: int = 0
    carriers: tuple[Carrier, ...] = ()
    notches: tuple[float, ...] = ()

    @property
    def hop(self) -> int:
        """Rows that each block gives."""
        return self.n_fft - 2 * self.half


def _gain(
    frequencies: NDArray[np.float64], edges: Edges, rate: float, notches: Sequence[float]
) -> NDArray[np.float64]:
    """Return the gain of filter, notches and analytic signal at positive `frequencies`."""
    sos = signal.butter(_ORDER, edges, "bandpass", fs=rate, output="sos")
    gain = 2 * np.abs(signal.sosfreqz(sos, frequencies, fs=rate)[1]) ** 2
    for notch in notches:
        # Flat at its bottom, for lines that wander by a tenth of a hertz; short in time.
        gain *= 1 - 0.5 ** ((frequencies - notch) / (_NOTCH_WIDTH / 2)) ** 4
    gain[frequencies == 0] = 0
    return gain


def _span(edges: Edges, rate: float) -> tuple[float, float]:
    """Return the frequencies between which a band holds something."""
    frequencies = np.geomspace(edges[0] / 100, rate / 2, 4096)[:-1]
    inside = frequencies[_gain(frequencies, edges, rate, ()) > _FLOOR]
    return float(inside[0]), float(inside[-1])


def _reach(edges: Edges, rate: float, notches: Sequence[float]) -> tuple[float, float]:
    """Return the seconds on each side outside which a filter has the shares _TAIL, _RINGING."""
    longest = 60 / min(edges[0], edges[1] - edges[0], _NOTCH_WIDTH)  # long after it has faded
    n = fft.next_fast_len(int(rate * longest), real=True)
    gain = _gain(fft.rfftfreq(n, 1 / rate), edges, rate, notches)
    weight = np.abs(fft.ifft(gain, n))
    both = weight[: n // 2] + weight[: -(n // 2) - 1 : -1]
    beyond = np.cumsum(both[::-1])[::-1] / both.sum()
    return float(np.argmax(beyond < _TAIL)) / rate, float(np.argmax(beyond < _RINGING)) / rate


def design_bank(
    sampling_rate: float, edges: Sequence[Edges], rate: float, line_frequency: float | None
) -> Bank:
    """Return the filters of bands with these `edges`, whose envelopes go to `rate` (hertz)."""
    if not edges:
        return Bank()
    spans = [_span(limits, sampling_rate) for limits in edges]
    top = max(rate, *(high for _, high in spans))
    reduction = max(1, int(sampling_rate / max(_WORKING_RATE * top, _LEAST_WORKING_RATE)))
    work = sampling_rate / reduction
    n_harmonics = int(sampling_rate / 2 / line_frequency) if line_frequency else 0
    lines = [number * (line_frequency or 0) for number in range(1, n_harmonics + 1)]
    notches = tuple(f for f in lines if any(low < f < high for low, high in spans))
    reaches = [_reach(limits, sampling_rate, notches) for limits in edges]
    least = max(_LEAST_SAMPLING, 2 * rate)
    steps = [_step(work, max(_OVERSAMPLING * (high - low), least)) for low, high in spans]
    unit = max(steps)
    half = -int(-max(half for half, _ in reaches) * work // unit) * unit
    n_fft = fft.next_fast_len(max(_BLOCK_LENGTH * half, _MIN_BLOCK) // unit, real=True) * unit
    carriers = []
    for limits, span, step, (_, ringing) in zip(edges, spans, steps, reaches, strict=True):
        gain = _gain(fft.rfftfreq(n_fft, 1 / work), limits, sampling_rate, notches)
        n_lines = n_fft // step
        first = max(0, int(sum(span) / 2 / work * n_fft) - n_lines // 2)
        part = (gain[first : first + n_lines] / step).astype(np.float32)
        carriers.append(Carrier(step, first, part, max(step, int(ringing * work))))
    stage = _reducing_stage(reduction, top / sampling_rate) if reduction > 1 else None
    return Bank(reduction, stage, n_fft, half, tuple(carriers), notches)


def _step(rate: float, needed: float) -> int:
    """Return the largest power of two by which `rate` can be divided to be above `needed`."""
    return 1 << int(np.log2(max(rate / needed, 1)))


def _reducing_stage(reduction: int, passed: float) -> Stage:
    """Return the stage that keeps what lies below `passed` (cycles per sample) as it is."""
    return Stage(Fraction(reduction), 0.5 / reduction, 1 / reduction - 2 * passed, group=8)
