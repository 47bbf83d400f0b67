"""What a contact records besides sound: 1/f activity, reference, mains, spikes, broken wires."""

from __future__ import annotations

import numpy as np
from scipy.signal import butter, sosfilt, sosfreqz, zpk2sos

from bids_speechdecode.simulate.anatomy import Contact, smooth_over_space

SLOW_BAND = (0.5, 20.0)  # hertz
SLOW_RMS = 30.0  # µV of the background in that band, before differences between contacts
_EXPONENT = 1.8  # of the background's power over frequency
_CARRIER_RMS = 3.0  # µV of local high-gamma activity
_CARRIER_BAND = (70.0, 150.0)  # hertz
_AMPLITUDE_BAND = 10.0  # hertz, of changes of the carrier's amplitude that count
_AMPLIFIER_RMS = 0.8  # µV
_LINE_AMPLITUDE = 8.0  # µV
_REFERENCE_SHARE = 0.25  # of SLOW_RMS, common to all channels
_SPIKES_PER_MINUTE = 3.0


def power_law_filter(rate: float) -> np.ndarray:
    """Return second-order sections that turn white noise into 1/f^1.8 noise above 0.1 Hz.

    Poles and zeros alternate along the frequency axis; noise of variance 1 leaves with unit rms
    in the slow band.
    """
    corners = 0.1 * 4.0 ** np.arange(6)
    corners = corners[corners < 0.2 * rate]
    poles = np.exp(-2 * np.pi * corners / rate)
    zeros = np.exp(-2 * np.pi * corners * 4.0 ** (_EXPONENT / 2) / rate)
    sections = zpk2sos(zeros, poles, 1.0)
    frequencies, response = sosfreqz(sections, worN=2**16, fs=rate)
    inside = (frequencies >= SLOW_BAND[0]) & (frequencies <= SLOW_BAND[1])
    variance = np.sum(np.abs(response[inside]) ** 2) / len(frequencies)
    sections[0, :3] /= np.sqrt(variance)
    return sections


def rise_for(correlation: np.ndarray, scale: np.ndarray, rate: float) -> np.ndarray:
    """Return by how much the carrier must rise per unit of response to correlate so strongly.

    With carrier power C and background power B between 70 and 150 Hz, the amplitude of both
    rises by ``C / (C + B)`` of what the carrier rises. Chance varies it by ``0.25`` of its mean:
    Gaussian noise of bandwidth W = 80 Hz has an amplitude of variance ``4 / pi - 1``, squared
    means, of which ``2 f / W - (f / W)^2`` lies below f = 10 Hz.

    Parameters
    ----------
    correlation : array, shape (n,)
        Of the amplitude up to 10 Hz with the response, below 1.
    scale : array, shape (n,)
        Of each contact's background, relative.
    """
    low, high = _CARRIER_BAND[0], min(_CARRIER_BAND[1], 0.45 * rate)
    frequencies, response = sosfreqz(power_law_filter(rate), worN=2**16, fs=rate)
    inside = (frequencies >= low) & (frequencies <= high)
    background = np.sum(np.abs(response[inside]) ** 2) / len(frequencies) * (SLOW_RMS * scale) ** 2
    background = background + _AMPLIFIER_RMS**2 * (high - low) / (rate / 2)
    below = _AMPLITUDE_BAND / (high - low)
    chance = np.sqrt((4 / np.pi - 1) * (2 * below - below**2))
    share = _CARRIER_RMS**2 / (_CARRIER_RMS**2 + background)
    return correlation / np.sqrt(1 - correlation**2) * chance / share


class _Filter:
    """A causal filter whose state runs on from block to block; (n_times, n_channels)."""

    def __init__(self, sections: np.ndarray, n_channels: int) -> None:
        self._sections = sections
        self._state = np.zeros((len(sections), 2, n_channels))

    def __call__(self, block: np.ndarray) -> np.ndarray:
        filtered, self._state = sosfilt(self._sections, block, axis=0, zi=self._state)
        return filtered


class Background:
    """The background of one recording, block by block, in µV.

    Parameters
    ----------
    contacts : tuple of Contact
        All contacts.
    scale : array, shape (n_contacts,)
        Each contact's own amplitude, relative.
    auditory : sequence of int
        Contacts that carry a local high-gamma carrier.
    spiking : array, shape (n_contacts,)
        Amplitude of interictal spikes in µV, 0 where there are none.
    bad : sequence of int
        Contacts whose wire is broken.
    """

    def __init__(
        self,
        contacts: tuple[Contact, ...],
        *,
        scale: np.ndarray,
        auditory: tuple[int, ...],
        spiking: np.ndarray,
        bad: tuple[int, ...],
        rate: float,
        line_frequency: float,
        rng: np.random.Generator,
    ) -> None:
        n = len(contacts)
        self._rng, self._rate, self._bad, self._spiking = rng, rate, bad, spiking
        self._scale = SLOW_RMS * scale
        self._contacts = contacts
        sections = power_law_filter(rate)
        self._colour, self._colour_reference = _Filter(sections, n), _Filter(sections, 1)
        self._carrier = _Filter(_carrier_filter(rate), len(auditory))
        self._line = _Mains(n, rate, line_frequency, rng)
        self._spike_tail = np.zeros(int(0.5 * rate))
        # The slowest parts of the filters must have settled before the recording begins.
        self.make(int(10 * rate))

    def make_carrier(self, n: int) -> np.ndarray:
        """Return local 70-150 Hz activity of the auditory contacts, (n, n_auditory), µV."""
        noise = self._rng.standard_normal((n, self._carrier._state.shape[2]), np.float32)
        return _CARRIER_RMS * self._carrier(noise)

    def make(self, n: int) -> np.ndarray:
        """Return the background of all contacts, (n, n_contacts), µV, before the electrodes."""
        white = self._rng.standard_normal((n, len(self._scale)), np.float32)
        signal = self._colour(smooth_over_space(self._contacts, white)) * self._scale
        return signal + self._make_spikes(n)[:, None] * self._spiking

    def add_electronics(self, signal: np.ndarray) -> np.ndarray:
        """Return the signal, (n, n_contacts), with reference, mains, amplifier and bad wires."""
        n, n_contacts = signal.shape
        reference = self._colour_reference(self._rng.standard_normal((n, 1), np.float32))
        mains = self._line.make(n)
        signal = signal + _REFERENCE_SHARE * SLOW_RMS * reference + mains
        signal += _AMPLIFIER_RMS * self._rng.standard_normal((n, n_contacts), np.float32)
        for index in self._bad:
            noise = self._rng.standard_normal(n, np.float32)
            signal[:, index] = 0.1 * signal[:, index] + 150 * noise + 60 * mains[:, index]
        return signal

    def _make_spikes(self, n: int) -> np.ndarray:
        """Return interictal spikes of unit amplitude at random times, shape (n,)."""
        template = _spike(self._rate)
        train = np.zeros(n + len(template))
        train[: len(self._spike_tail)] += self._spike_tail[: len(train)]
        expected = _SPIKES_PER_MINUTE / 60 * n / self._rate
        for start in self._rng.integers(0, n, self._rng.poisson(expected)):
            train[start : start + len(template)] += self._rng.uniform(0.6, 1.2) * template
        self._spike_tail = train[n:]
        return train[:n]


def _carrier_filter(rate: float) -> np.ndarray:
    """Return a band-pass that gives white noise of variance 1 unit rms."""
    high = min(_CARRIER_BAND[1], 0.45 * rate)
    sections = butter(2, (_CARRIER_BAND[0], high), "bandpass", fs=rate, output="sos")
    _, response = sosfreqz(sections, worN=2**14, fs=rate)
    sections[0, :3] /= np.sqrt(np.mean(np.abs(response) ** 2))
    return sections


def _spike(rate: float) -> np.ndarray:
    """Return a sharp wave of 70 ms and the slow wave after it, shape (n,), peak 1."""
    time = np.arange(int(0.5 * rate)) / rate
    sharp = np.exp(-0.5 * ((time - 0.05) / 0.012) ** 2)
    slow = np.exp(-0.5 * ((time - 0.2) / 0.06) ** 2)
    return sharp - 0.4 * slow


class _Mains:
    """Mains hum with two harmonics, whose phase runs on from block to block."""

    def __init__(
        self, n_channels: int, rate: float, frequency: float, rng: np.random.Generator
    ) -> None:
        exact = frequency + rng.normal(0, 0.01)  # grids wander a little
        self._frequencies = [k * exact for k in (1, 2, 3) if k * exact < 0.48 * rate]
        self._rate, self._time = rate, 0
        size = (len(self._frequencies), n_channels)
        decline = np.array([1.0, 0.3, 0.4])[: size[0], None]
        self._amplitudes = _LINE_AMPLITUDE * decline * rng.lognormal(0, 0.4, size)
        self._phases = rng.uniform(0, 2 * np.pi, (size[0], 1)) + rng.normal(0, 0.2, size)

    def make(self, n: int) -> np.ndarray:
        """Return the next `n` samples, (n, n_channels), µV."""
        time = (self._time + np.arange(n)) / self._rate
        self._time += n
        angle = 2 * np.pi * np.outer(time, self._frequencies)
        # sin(a + b) as a sum of products, one matrix product for all channels.
        cosine = self._amplitudes * np.cos(self._phases)
        sine = self._amplitudes * np.sin(self._phases)
        return np.sin(angle) @ cosine + np.cos(angle) @ sine
