"""The level of sound and nothing else: a target with which only loudness can be decoded."""

from __future__ import annotations

import torch
from torch import nn

RATE = 16000  # hertz
WINDOW = 512  # samples, 32 ms: longer than a period of any voice
HOP = 128  # samples, 8 ms
FLOOR = 1e-6  # of full scale squared, -60 dB: softer sound is hardly heard beside speech


class Energy:
    """Level in decibels at 125 Hz, without any spectrum.

    ``y[k] = 10 log10(1e-6 + sum_n w[n] x[n]**2 / sum_n w[n])``

    with a periodic Hann window ``w`` of 512 samples (32 ms) centred on the 8 ms that frame k stands
    for, as the frames of the mel spectrogram. At both ends of a chunk the sound is reflected.

    It is one number a frame. The mean over a window would be one number a window, whose cosine with
    another is a sign: as a target it is used as a course in frames.
    """

    name = "energy"
    dimension = 1
    frame_rate = RATE / HOP
    sampling_rate = RATE
    layers: tuple[int, ...] = (0,)

    def __init__(self, device: torch.device) -> None:
        self.module = nn.Module()  # without weights
        window = torch.hann_window(WINDOW, periodic=True, dtype=torch.float64)
        self._weights = (window / window.sum()).float().to(device)

    @torch.inference_mode()
    def embed(self, waves: torch.Tensor) -> torch.Tensor:
        """Return frames (B, n_samples // 128, 1) of equally long chunks (B, n_samples)."""
        return self.frames(waves)

    def hidden(self, waves: torch.Tensor) -> torch.Tensor:
        """Return (B, 1, n_samples // 128, 1) of equally long chunks (B, n_samples)."""
        return self.frames(waves)[:, None]

    def frames(self, waves: torch.Tensor) -> torch.Tensor:
        """Return frames (B, n_samples // 128, 1), with gradient to the sound."""
        margin = (WINDOW - HOP) // 2
        padded = nn.functional.pad(waves.to(self._weights.device), (margin, margin), mode="reflect")
        weights = self._weights[None, None]
        power = nn.functional.conv1d(padded.square()[:, None], weights, stride=HOP)
        return (10 * torch.log10(power + FLOOR)).transpose(1, 2)


def energy_fingerprint() -> str:
    """Return a text that changes when the definition does."""
    return f"energy {WINDOW} {HOP} {FLOOR} v1"
