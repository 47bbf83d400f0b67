"""What a speech model makes of a sound: its last frame of every window."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import nn

from bids_speechdecode.errors import UsageError
from bids_speechdecode.simulate.speech import RATE
from bids_speechdecode.simulate.tiny_model import LAYER, receptive_samples

CONTEXT = 4.0  # seconds of each window
_BATCH = 128  # windows
_STRETCH = 600  # frames of sound that go through the front end at once


class SpeechFeatures:
    """Hears sounds through one layer of a speech model.

    Features at time t are the last frame of the layer's output for the window ``[t - 4 s, t]``,
    cut where the sound begins. At times before the first frame is complete they are those of the
    first time at which it is.

    Parameters
    ----------
    model : transformers.WavLMModel
        Whose front end normalises every frame by itself.
    """

    def __init__(self, model: Any) -> None:
        self._model = copy.deepcopy(model)
        self._model.encoder.layers = self._model.encoder.layers[:LAYER]
        self._model.encoder.layer_norm = nn.Identity()  # hidden states are taken before it
        self._seen, self._step = receptive_samples(model.config)

    @torch.inference_mode()
    def hear(self, sound: np.ndarray, rate: float) -> np.ndarray:
        """Return the features, shape (floor(duration * rate), n_features), float32.

        Parameters
        ----------
        sound : array, shape (n_samples,), 16 kHz
        rate : float, hertz
            Of the features; sample k lies at ``k / rate``.

        Raises
        ------
        UsageError
            The times do not fall on the model's frames.
        """
        steps = RATE / rate / self._step  # frames between features
        if steps % 1 or CONTEXT * RATE % self._step:
            raise UsageError(
                f"the simulation cannot take features at {rate:g} Hz",
                expected=f"{RATE / self._step:g} Hz divided by a whole number",
                found=f"{rate:g} Hz",
            )
        frames = self._front_end(torch.from_numpy(sound))
        ends = np.arange(int(len(sound) / RATE * rate)) * int(steps)  # in frames
        return self._listen(frames, np.maximum(ends, self._n_frames(1)))

    def _front_end(self, sound: torch.Tensor) -> torch.Tensor:
        """Return all frames, shape (n_frames, n_features), a stretch of sound at a time."""
        n_frames = (len(sound) - self._seen) // self._step + 1
        parts = []
        for first in range(0, n_frames, _STRETCH):
            n = min(_STRETCH, n_frames - first)
            start = first * self._step
            part = sound[start : start + (n - 1) * self._step + self._seen]
            parts.append(self._model.feature_extractor(part[None]).transpose(1, 2))
        return self._model.feature_projection(torch.cat(parts, dim=1))[0][0]

    def _n_frames(self, n: int) -> int:
        """Return after how many steps of sound n frames are complete."""
        return n - 1 + -(-self._seen // self._step)

    def _listen(self, frames: torch.Tensor, ends: np.ndarray) -> np.ndarray:
        """Return the last output of the layers for windows that end after so many steps."""
        lost = self._n_frames(1) - 1  # steps by which the last complete frame lags the end
        n_whole = int(CONTEXT * RATE) // self._step - lost
        features = np.empty((len(ends), frames.shape[1]), np.float32)
        whole = ends - lost >= n_whole
        for index in np.flatnonzero(~whole):
            window = frames[: ends[index] - lost]
            features[index] = self._model.encoder(window[None])[0][0, -1].numpy()
        for part in np.array_split(np.flatnonzero(whole), max(1, whole.sum() // _BATCH)):
            rows = ends[part, None] - lost - n_whole + np.arange(n_whole)
            features[part] = self._model.encoder(frames[rows])[0][:, -1].numpy()
        return features


def untuned_share(latent: np.ndarray, untuned: np.ndarray, n_folds: int = 8) -> float:
    """Return the share of the latent variance that the untuned features explain, 0 to 1.

    Mean over latent features of ``1 - |y - X b|^2 / |y|^2`` on held-out contiguous eighths, X and
    y standardised and b by ridge with a penalty of a thousandth of the number of samples.

    Parameters
    ----------
    latent, untuned : array, shape (n_times, n_features)
        At the same times.
    """
    x, y = (_standardise(values.astype(float)) for values in (untuned, latent))
    residual = np.empty_like(y)
    for test in np.array_split(np.arange(len(x)), n_folds):
        train = np.setdiff1d(np.arange(len(x)), test)
        gram = x[train].T @ x[train] + 1e-3 * len(train) * np.eye(x.shape[1])
        residual[test] = y[test] - x[test] @ np.linalg.solve(gram, x[train].T @ y[train])
    return float(np.mean(1 - np.mean(residual**2, axis=0) / np.mean(y**2, axis=0)))


def _standardise(values: np.ndarray) -> np.ndarray:
    """Return columns of mean 0 and standard deviation 1."""
    return (values - values.mean(axis=0)) / values.std(axis=0)
