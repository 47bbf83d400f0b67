"""A speech model as a function from a story's volumes to their delayed features."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from bids_speechdecode.audio.context import shared_fronts
from bids_speechdecode.audio.speech_models import WaveModel
from bids_speechdecode.encoding.stories import AUDIO_RATE, PreparedStory

Token = Literal["first", "last", "mean"]


class TunableModel(Protocol):
    """What is needed of a speech model.

    Attributes
    ----------
    dimension : int
        Length of each frame's vector.
    module : nn.Module
        Holds the weights; in evaluation mode.
    """

    dimension: int
    module: nn.Module

    def frames(self, waves: torch.Tensor) -> torch.Tensor:
        """Return (B, n_frames, dimension), with gradient, of sound (B, n_samples)."""
        ...


BATCH = 32  # windows of sound through the model at once


class Listener:
    """The speech model as a function from a story's volumes to their delayed features."""

    def __init__(self, model: TunableModel, n_samples: int, token: Token, batch_size: int) -> None:
        self.model: Any = model
        self.token = token
        self.n_samples, self.batch_size = n_samples, batch_size
        self.device = next(model.module.parameters()).device
        # Nothing is tuned in front of the transformer, and neighbouring windows share nearly all
        # of their sound: the convolutions are computed once for both.
        self.shares = isinstance(model, WaveModel) and model.local_front

    def hear(self, story: PreparedStory, rows: np.ndarray) -> torch.Tensor:
        """Return the delayed features (len(rows), n_delays * d) of some volumes, with gradient."""
        n_delays = story.weights.shape[0] // story.n_rows
        flat = (rows[:, None] * n_delays + np.arange(n_delays)).ravel()
        some = story.weights[flat]
        used = np.unique(some.indices)
        weights = torch.from_numpy(some[:, used].toarray()).float().to(self.device)
        features = weights @ self._windows(story.wave, story.ends[used])
        return features.reshape(len(rows), -1)

    @torch.no_grad()
    def hear_all(self, story: PreparedStory) -> torch.Tensor:
        """Return the delayed features of all volumes, on the CPU."""
        features = self._windows(story.wave, story.ends).cpu().double().numpy()
        delayed = torch.from_numpy(story.weights @ features).float()
        return delayed.reshape(story.n_rows, -1)

    def _windows(self, wave: np.ndarray, ends: np.ndarray) -> torch.Tensor:
        """Return one vector for each window of sound, shape (n_windows, d)."""
        again = torch.is_grad_enabled() and len(ends) > self.batch_size
        parts = []
        for first in range(0, len(ends), self.batch_size):
            inputs = self._inputs(wave, ends[first : first + self.batch_size])
            parts.append(
                checkpoint(self._tokens, inputs, use_reentrant=False, preserve_rng_state=False)
                if again
                else self._tokens(inputs)
            )
        return torch.cat(parts)

    @torch.no_grad()
    def _inputs(self, wave: np.ndarray, ends: np.ndarray) -> torch.Tensor:
        """Return what comes before the adapters: of local models the shared convolutions."""
        starts = ends - self.n_samples
        sounds = [wave[start:end] for start, end in zip(starts, ends, strict=True)]
        if not self.shares:
            return torch.from_numpy(np.stack(sounds))
        first = int(starts.min())
        block = wave[first : int(ends.max())]
        return torch.stack(shared_fronts(self.model, block, (starts - first).tolist(), sounds))

    def _tokens(self, inputs: torch.Tensor) -> torch.Tensor:
        frames = self.model.states(inputs)[:, -1] if self.shares else self.model.frames(inputs)
        if self.token == "mean":
            return frames.mean(dim=1)
        return frames[:, 0 if self.token == "first" else -1]


def hear_story(
    model: TunableModel, story: PreparedStory, context: float, token: Token
) -> torch.Tensor:
    """Return the delayed features of a story's volumes, (n_rows, n_delays * d), on the CPU.

    Parameters
    ----------
    model : TunableModel
    story : PreparedStory
    context : float, seconds
        Length of the windows of sound, as the story was prepared with.
    token : {"first", "last", "mean"}
        Which frame stands for a window.
    """
    return Listener(model, round(context * AUDIO_RATE), token, BATCH).hear_all(story)
