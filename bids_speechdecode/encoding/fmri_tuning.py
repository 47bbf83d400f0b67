"""Tuning a speech model on fMRI: adapters such that its features predict BOLD.

Sound in windows -> speech model with adapters -> one vector per window -> Lanczos to the volumes
-> delays -> linear readout of every voxel, trained for the pattern over voxels at each time.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from bids_speechdecode.config import FmriConfig
from bids_speechdecode.encoding.listener import BATCH, Listener, Token, TunableModel
from bids_speechdecode.encoding.lora import Adapters, AttachedLora
from bids_speechdecode.encoding.refit import StoryFeatures, refit_score
from bids_speechdecode.encoding.stories import (
    AUDIO_RATE,
    PreparedStory,
    Story,
    prepare_story,
    with_amount,
    with_control,
)
from bids_speechdecode.errors import DataError, UsageError

__all__ = ["Story", "Tuned", "tune", "with_amount", "with_control"]


@dataclass(frozen=True)
class TuningEpoch:
    """What one epoch gave; epoch 0 is the untuned model, whose `loss` is NaN.

    `loss` is the mean training loss (-1 is best), `validation_r` the mean correlation of voxels
    of the validation stories after a ridge refit.
    """

    epoch: int
    loss: float
    validation_r: float


@dataclass(frozen=True)
class Tuned:
    """A tuned speech model.

    Attributes
    ----------
    adapters : Adapters
        Those of the chosen epoch.
    history : DataFrame
        Columns epoch, loss, validation_r; epoch 0 is the untuned model.
    epoch : int
        The chosen one: the best `validation_r` of epochs 1 and later, the first of equals. The
        untuned model is no candidate, or "tuned" could mean "not tuned"; whether tuning helped at
        all is to be read from `validation_r_untuned`.
    validation_r, validation_r_untuned : float
    """

    adapters: Adapters
    history: pd.DataFrame
    epoch: int
    validation_r: float
    validation_r_untuned: float


def tune(
    model: TunableModel,
    training: Sequence[Story],
    validation: Sequence[Story],
    settings: FmriConfig,
    *,
    context: float,
    token: Token,
    seed: int,
    batch_size: int = BATCH,
    resume: Mapping[str, Any] | None = None,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> Tuned:
    """Return adapters that make the model's features predict BOLD; the model stays as it was.

    The loss of a step is ``-mean_t r_t``, where ``r_t`` is the correlation over voxels of
    predicted and measured BOLD at time t [P]; with several participants the mean of theirs. The
    readout ``Linear(d * n_delays, readout) -> Linear(readout, voxels)`` shares its first layer
    between participants. Features are standardised by what the untuned model gives for the
    training stories (ours, as the source does not say), so that the readout starts well scaled.
    The speech model itself runs without dropout; `settings.dropout` is that of the adapters.

    Parameters
    ----------
    model : TunableModel
        In full precision.
    training, validation : sequences of Story
    settings : FmriConfig
    context : float, seconds
        Length of the windows of sound.
    token : {"first", "last", "mean"}
        Which frame stands for a window.
    seed : int
        Of adapters, readout, order of blocks and dropout.
    batch_size : int
        Windows through the model at once. It bounds memory: if a step needs more, activations
        are computed again for the gradient. Results differ in rounding only.
    resume : mapping, optional
        The last state that `on_epoch` got from the same tuning; the result is then the same, bit
        for bit, as without interruption.
    on_epoch : callable, optional
        Called after each epoch, 0 included, with the whole state: tensors, numbers, texts, lists
        and dictionaries of them.
    on_progress : callable, optional
        Called with the share that is done.

    Raises
    ------
    UsageError
        If the model has no attention that can be tuned.
    DataError
        If stories do not fit, the loss is not finite, or `resume` belongs to another tuning.
    """
    if not isinstance(getattr(model, "module", None), nn.Module):
        raise UsageError(
            "This target cannot be tuned, as it has no weights.",
            expected="a wav2vec 2.0, HuBERT, WavLM or Whisper model",
            found=str(getattr(model, "name", type(model).__name__)),
            fix="choose another --target",
        )
    stories = [prepare_story(story, settings, context) for story in training]
    held_out = [prepare_story(story, settings, context) for story in validation]
    n_voxels = _count_voxels(stories, held_out)
    listen = Listener(model, round(context * AUDIO_RATE), token, batch_size)
    generator = torch.Generator().manual_seed(seed)
    with (
        torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=False
        ),
        AttachedLora(
            model.module, settings.rank, settings.alpha, settings.dropout, generator
        ) as lora,
    ):
        run = _Run(listen, lora, stories, held_out, n_voxels, settings, generator, on_progress)
        key = _identity(stories, held_out, settings, context, token, seed)
        if resume is None:
            run.add_epoch(math.nan)
        else:
            run.load(resume, key)
        if resume is None and on_epoch is not None:
            on_epoch(run.state(key))
        while run.history[-1].epoch < settings.epochs:
            run.add_epoch(run.pass_over())
            if on_epoch is not None:
                on_epoch(run.state(key))
        return run.result()


def spatial_loss(predicted: torch.Tensor, measured: torch.Tensor) -> torch.Tensor:
    """Return ``-mean_t r_t``, r_t the correlation over voxels at time t, of (T, V) and (T, V)."""
    a = predicted - predicted.mean(dim=1, keepdim=True)
    b = measured - measured.mean(dim=1, keepdim=True)
    a, b = nn.functional.normalize(a, dim=1), nn.functional.normalize(b, dim=1)
    return -(a * b).sum(dim=1).mean()


class Readout(nn.Module):
    """Delayed features -> voxels of each participant, through one narrow layer for all.

    Parameters
    ----------
    n_in, width : int
        Length of the delayed features and of the shared layer.
    n_voxels : mapping from participant to int
    generator : torch.Generator
    """

    mean: torch.Tensor
    spread: torch.Tensor

    def __init__(
        self, n_in: int, width: int, n_voxels: Mapping[str, int], generator: torch.Generator
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_in))
        self.register_buffer("spread", torch.ones(n_in))
        self.shared = nn.Linear(n_in, width)
        self.people = sorted(n_voxels)
        self.heads = nn.ModuleList(nn.Linear(width, n_voxels[who]) for who in self.people)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.uniform_(-1, 1, generator=generator)
            for layer in (self.shared, *self.heads):
                for parameter in layer.parameters():
                    parameter /= math.sqrt(layer.in_features)

    def standardise(self, features: Sequence[torch.Tensor]) -> None:
        """Take mean and spread of features (n, n_in) for those that everything starts from."""
        joined = torch.cat(list(features)).double()
        spread = joined.std(dim=0, correction=0)
        self.mean.copy_(joined.mean(dim=0))
        self.spread.copy_(torch.where(spread > 1e-8, spread, 1))

    def forward(self, features: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the voxels (T, v) of each participant from delayed features (T, n_in)."""
        shared = self.shared((features - self.mean) / self.spread)
        return {who: head(shared) for who, head in zip(self.people, self.heads, strict=True)}


class _Run:
    """The state of one tuning: everything that a resumed one needs."""

    def __init__(
        self,
        listen: Listener,
        lora: AttachedLora,
        training: Sequence[PreparedStory],
        validation: Sequence[PreparedStory],
        n_voxels: Mapping[str, int],
        settings: FmriConfig,
        generator: torch.Generator,
        on_progress: Callable[[float], None] | None,
    ) -> None:
        self.listen, self.lora, self.settings = listen, lora, settings
        self.training, self.validation = training, validation
        self.generator, self.on_progress = generator, on_progress
        n_in = listen.model.dimension * len(settings.delays)
        readout = Readout(n_in, settings.readout, n_voxels, generator)
        self.readout = readout.to(listen.device)
        trained = [*lora.parameters(), *self.readout.parameters()]
        self.optimizer = torch.optim.Adam(trained, lr=settings.learning_rate)
        self.history: list[TuningEpoch] = []
        self.best: dict[str, torch.Tensor] = {}
        self.n_blocks = sum(len(story.blocks) for story in training)
        self.done = 0

    def pass_over(self) -> float:
        """Train on every block once, in random order; return the mean loss over volumes."""
        blocks = [(story, rows) for story in self.training for rows in story.blocks]
        total = 0.0
        for i in torch.randperm(len(blocks), generator=self.generator).tolist():
            self.lora.draw_dropout()
            total += self._step(*blocks[i]) * len(blocks[i][1])
            self._advance()
        loss = total / sum(len(rows) for _, rows in blocks)
        if not math.isfinite(loss):
            raise DataError(
                f"The loss of the tuning is not finite in epoch {len(self.history)}.",
                expected="a number between -1 and 1",
                found=str(loss),
                fix="look for NaN in the sound; try a lower learning rate",
            )
        return loss

    def _step(self, story: PreparedStory, rows: np.ndarray) -> float:
        predicted = self.readout(self.listen.hear(story, rows))
        losses = [
            spatial_loss(predicted[who], torch.from_numpy(bold[rows]).to(self.listen.device))
            for who, bold in sorted(story.bold.items())
        ]
        loss = torch.stack(losses).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    def add_epoch(self, loss: float) -> None:
        """Refit, note the epoch, and keep its adapters if they are the best of the tuned ones."""
        self.lora.no_dropout()
        fitted, scored = list(self._hear(self.training)), list(self._hear(self.validation))
        if not self.history:
            self.readout.standardise([story.features for story in fitted])
        r = refit_score(fitted, scored, self.listen.device)
        self.history.append(TuningEpoch(len(self.history), loss, r))
        if len(self.history) > 1 and self._chosen is self.history[-1]:
            self.best = self.lora.adapters().weights

    def _hear(self, stories: Sequence[PreparedStory]) -> Iterator[StoryFeatures]:
        for story in stories:
            yield StoryFeatures(self.listen.hear_all(story), story.bold)
            self._advance()

    @property
    def _chosen(self) -> TuningEpoch:
        return max(self.history[1:], key=lambda epoch: epoch.validation_r)

    def _advance(self) -> None:
        """Count one story heard or one block trained on."""
        self.done += 1
        if self.on_progress is not None:
            n_epochs, n_stories = self.settings.epochs, len(self.training) + len(self.validation)
            total = n_epochs * (self.n_blocks + n_stories) + n_stories
            self.on_progress(min(1.0, self.done / total))

    def state(self, key: str) -> dict[str, Any]:
        """Return a copy of all there is to know."""
        state = {
            "key": key,
            "adapters": self.lora.adapters().weights,
            "best": self.best,
            "readout": self.readout.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "history": [asdict(epoch) for epoch in self.history],
            "done": self.done,
        }
        return copy.deepcopy(state)

    def load(self, state: Mapping[str, Any], key: str) -> None:
        """Go back to a state that `state` gave."""
        if state["key"] != key:
            raise DataError(
                "The saved state belongs to another tuning.",
                expected=key,
                found=str(state["key"]),
                fix="remove the saved state",
            )
        saved = copy.deepcopy(dict(state))
        self.lora.load(saved["adapters"])
        self.best, self.done = saved["best"], saved["done"]
        self.readout.load_state_dict(saved["readout"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.generator.set_state(saved["generator"])
        self.history = [TuningEpoch(**epoch) for epoch in saved["history"]]

    def result(self) -> Tuned:
        """Return the adapters of the chosen epoch and how it came to them."""
        self.lora.load(self.best)
        return Tuned(
            adapters=self.lora.adapters(),
            history=pd.DataFrame([asdict(epoch) for epoch in self.history]),
            epoch=self._chosen.epoch,
            validation_r=self._chosen.validation_r,
            validation_r_untuned=self.history[0].validation_r,
        )


def _count_voxels(
    training: Sequence[PreparedStory], validation: Sequence[PreparedStory]
) -> dict[str, int]:
    """Return the number of voxels of each participant, or raise if it is not one number."""
    counts: dict[str, int] = {}
    for story in (*training, *validation):
        for who, bold in story.bold.items():
            if counts.setdefault(who, bold.shape[1]) != bold.shape[1]:
                raise DataError(
                    f"Participant {who} has other voxels in story {story.name!r}.",
                    expected=f"{counts[who]} voxels in all stories",
                    found=str(bold.shape[1]),
                )
    trained = {who for story in training for who in story.bold}
    validated = {who for story in validation for who in story.bold}
    if not trained or not validated or not validated <= trained:
        raise DataError(
            "Stories to train on and to validate on are needed for the same participants.",
            expected="at least one of each, heard by participants with training stories",
            found=f"training: {sorted(trained)}; validation: {sorted(validated)}",
        )
    return {who: counts[who] for who in sorted(trained)}


def _identity(
    training: Sequence[PreparedStory],
    validation: Sequence[PreparedStory],
    settings: FmriConfig,
    context: float,
    token: Token,
    seed: int,
) -> str:
    """Return what a saved state must agree with to be gone on from."""
    data = [
        [story.name, *_describe(story.wave), {who: _describe(b) for who, b in story.bold.items()}]
        for story in (*training, *validation)
    ]
    return json.dumps([asdict(settings), context, token, seed, len(training), data])


def _describe(values: np.ndarray) -> list[float]:
    return [*values.shape, float(np.abs(values).sum(dtype=np.float64))]
