"""The one training loop, for pretraining, finetuning and every baseline."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list, gather_object
from torch import nn

from bids_speechdecode.config import TrainingConfig
from bids_speechdecode.decoding.adversarial import DayAdversary
from bids_speechdecode.decoding.checkpoint import read_state, write_state
from bids_speechdecode.decoding.contrastive import ClipLoss, relative_ranks
from bids_speechdecode.decoding.distributed import process_number
from bids_speechdecode.decoding.encoder import Encoder
from bids_speechdecode.decoding.pooled import PooledEncoder, PooledWindows
from bids_speechdecode.decoding.windows import Signal, WindowSet
from bids_speechdecode.errors import DataError, UsageError

Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training windows gave; epoch 0 is the encoder as it came.

    `train_loss` (NaN in epoch 0) and `val_loss` are the contrastive loss, `val_rank` the mean
    relative rank among all validation windows, `learning_rate` that of the last step.
    """

    epoch: int
    train_loss: float
    val_loss: float
    val_rank: float
    learning_rate: float
    seconds: float


@dataclass
class History:
    """All epochs of a training."""

    epochs: list[Epoch] = field(default_factory=list)

    @property
    def best(self) -> Epoch:
        """The epoch whose weights are kept: the lowest validation rank, the first of equals."""
        return min(self.epochs, key=lambda epoch: epoch.val_rank)

    def is_over(self, settings: TrainingConfig) -> bool:
        """Return whether all epochs are done or the last `patience` of them brought nothing."""
        last = self.epochs[-1].epoch
        return last >= settings.max_epochs or last - self.best.epoch >= settings.patience

    def to_frame(self) -> pd.DataFrame:
        """Return one row an epoch, with the fields of `Epoch` as columns."""
        return pd.DataFrame([asdict(epoch) for epoch in self.epochs])


class _Pairing(nn.Module):
    """Encoder and losses as one module: all that is learnt is synchronised like the weights."""

    def __init__(
        self, encoder: Encoder | PooledEncoder, loss: ClipLoss, adversary: DayAdversary | None
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.loss = loss
        self.adversary = adversary

    def forward(self, signal: Signal, audio: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        brain = self.encoder(signal)
        loss = self.loss(brain, audio)
        return loss if self.adversary is None else loss + self.adversary(brain, index)


def train(
    encoder: Encoder | PooledEncoder,
    train: WindowSet | PooledWindows,
    val: WindowSet | PooledWindows,
    settings: TrainingConfig,
    *,
    seed: int,
    device: torch.device | str,
    precision: Precision = "fp32",
    checkpoint: Path | None = None,
    resume: bool = True,
    frozen: Sequence[str] = (),
    adversary: DayAdversary | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> History:
    """Train `encoder` in place and leave it, in evaluation mode, with its best weights.

    The best weights are those of the epoch with the lowest mean relative rank on `val`; training
    stops when `settings.patience` epochs brought no better one. The weights before training are a
    candidate too, so that finetuning never ends below its start on `val`.

    `settings.batch_size` counts the windows of all processes together: the number of processes
    changes the speed and not the training.

    Parameters
    ----------
    encoder : Encoder or PooledEncoder
    train, val : WindowSet or PooledWindows
        On `device`; pooled ones for a pooled encoder. Windows are compared with windows of their
        own participant alone.
    settings : TrainingConfig
    seed : int
        Of the order of the windows and of dropout.
    device : torch.device or str
    precision : {"fp32", "bf16", "fp16"}
        Of the training steps; validation runs in float32 like every score.
    checkpoint : Path, optional
        File for the state after each epoch. It holds all there is to know, so that a training
        that was interrupted and resumed equals one that was not, bit for bit.
    resume : bool
        Go on from `checkpoint` if it belongs to this encoder, settings, seed and windows.
    frozen : sequence of str
        Submodules of the encoder that are left as they are, batch statistics and dropout too.
    adversary : DayAdversary, optional
        A further term of the training loss, that learns along; of windows that are not pooled.
    on_epoch : callable, optional
        Called with each new `Epoch` once its checkpoint is on disk.

    Raises
    ------
    DataError
        If there are fewer than two windows to train or validate on, or if the loss is not finite.
    """
    _require_pairs(train, "training")
    _require_pairs(val, "validation")
    device = torch.device(device)
    with _reproducible(device, seed), _frozen(encoder, frozen) as held:
        n_batches = train.n_batches(settings.batch_size)
        if adversary is not None:
            adversary.to(device)
        run = _Run(
            encoder.to(device), held, adversary, n_batches, settings, seed, device, precision
        )
        key = _identity(encoder, train, val, settings, seed, precision, frozen, run.n_processes)
        if adversary is not None:
            key += json.dumps(adversary.identity())
        saved = read_state(checkpoint) if checkpoint is not None and resume else None
        if saved is not None and saved["key"] == key:
            run.load(saved)
        else:
            run.add_epoch(math.nan, val, seconds=0.0)
        while not run.history.is_over(settings):
            began = time.perf_counter()
            train_loss = run.pass_over(train)
            epoch = run.add_epoch(train_loss, val, seconds=time.perf_counter() - began)
            if checkpoint is not None:
                run.save(checkpoint, key)
            if on_epoch is not None:
                on_epoch(epoch)
        encoder.load_state_dict(run.best_weights)
    encoder.eval()
    return run.history


@torch.inference_mode()
def embed_windows(encoder: nn.Module, windows: WindowSet, batch_size: int = 512) -> np.ndarray:
    """Return the brain embedding of every window, float32, shape (N, d) or (N, F, d).

    The encoder runs in evaluation mode and float32 on the device of the windows, to which it is
    moved.
    """
    return _embed(encoder.to(windows.device), windows, batch_size).cpu().numpy()


class _Run:
    """The state of one training: everything that a checkpoint holds."""

    def __init__(
        self,
        encoder: Encoder | PooledEncoder,
        held: Sequence[nn.Module],
        adversary: DayAdversary | None,
        n_batches: int,
        settings: TrainingConfig,
        seed: int,
        device: torch.device,
        precision: Precision,
    ) -> None:
        self.encoder, self.held, self.settings = encoder, held, settings
        self.adversary = adversary
        self.accelerator = _make_accelerator(device, precision)
        self.n_processes = self.accelerator.num_processes
        self.loss = ClipLoss(settings.temperature, settings.symmetric).to(device)
        pairing = _Pairing(encoder, self.loss, adversary)
        optimizer = _make_optimizer(pairing, settings)
        self.pairing, self.optimizer = self.accelerator.prepare(pairing, optimizer)
        n_steps = settings.max_epochs * n_batches
        self.scheduler = _make_scheduler(optimizer, settings, n_steps)
        self.order = torch.Generator().manual_seed(seed)
        self.history = History()
        self.best_weights: dict[str, torch.Tensor] = {}

    def pass_over(self, windows: WindowSet | PooledWindows) -> float:
        """Train on every window once, in random order; return the mean loss."""
        self.pairing.train()
        for module in self.held:
            module.eval()
        total = torch.zeros((), device=windows.device)
        for part, batch in windows.batches(self.settings.batch_size, self.order):
            index = batch[self.accelerator.process_index :: self.n_processes].to(windows.device)
            loss = self.pairing(part.read(index), part.audio(index), index)
            self._step(loss)
            total += loss.detach() * len(batch)
        return _require_finite_loss(float(total) / len(windows), len(self.history.epochs))

    def _step(self, loss: torch.Tensor) -> None:
        self.optimizer.zero_grad()
        self.accelerator.backward(loss)
        if self.settings.clip_norm > 0:
            self.accelerator.clip_grad_norm_(self.pairing.parameters(), self.settings.clip_norm)
        self.optimizer.step()
        self.scheduler.step()

    def add_epoch(self, train_loss: float, val: WindowSet | PooledWindows, seconds: float) -> Epoch:
        """Validate, note the epoch and keep its weights if they are the best so far."""
        scores = [_validate(self.encoder, self.loss, val, self.settings.batch_size)]
        # One process's word, so that all stop at the same epoch.
        val_loss, val_rank = broadcast_object_list(scores)[0]
        rate = self.optimizer.param_groups[0]["lr"]
        epoch = Epoch(len(self.history.epochs), train_loss, val_loss, val_rank, rate, seconds)
        self.history.epochs.append(epoch)
        if self.history.best is epoch:
            self.best_weights = {k: v.clone() for k, v in self.encoder.state_dict().items()}
        return epoch

    def save(self, path: Path, key: str) -> None:
        """Write the state; one process writes for all."""
        random_states = gather_object([_random_state(self.accelerator.device)])
        if not self.accelerator.is_main_process:
            return
        scaler = self.accelerator.scaler
        write_state(
            path,
            {
                "key": key,
                "weights": self.encoder.state_dict(),
                "best_weights": self.best_weights,
                "loss": self.loss.state_dict(),
                "adversary": None if self.adversary is None else self.adversary.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scheduler": _plain(self.scheduler.state_dict()),
                "scaler": None if scaler is None else scaler.state_dict(),
                "order": self.order.get_state(),
                "random": random_states,
                "history": [asdict(epoch) for epoch in self.history.epochs],
            },
        )

    def load(self, state: dict[str, Any]) -> None:
        """Go back to a state that `save` wrote."""
        self.encoder.load_state_dict(state["weights"])
        self.best_weights = state["best_weights"]
        self.loss.load_state_dict(state["loss"])
        if self.adversary is not None:
            self.adversary.load_state_dict(state["adversary"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        if state["scaler"] is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.order.set_state(state["order"])
        own = state["random"][self.accelerator.process_index]
        _set_random_state(own, self.accelerator.device)
        self.history = History([Epoch(**epoch) for epoch in state["history"]])


def _embed(encoder: nn.Module, windows: WindowSet, batch_size: int) -> torch.Tensor:
    was_training = encoder.training
    encoder.eval()
    index = torch.arange(len(windows), device=windows.device)
    parts = [encoder(windows.read(part)).float() for part in index.split(batch_size)]
    encoder.train(was_training)
    return torch.cat(parts)


@torch.no_grad()
def _validate(
    encoder: nn.Module, loss: ClipLoss, val: WindowSet | PooledWindows, batch_size: int
) -> tuple[float, float]:
    """Return the mean loss in batches and the mean relative rank among a part's windows."""
    loss.eval()  # every process validates on all windows
    losses, ranks = [], []
    for part in val.parts:
        brain = _embed(encoder, part, batch_size)
        for _, batch in part.batches(batch_size):
            index = batch.to(part.device)
            losses.append(float(loss(brain[index], part.audio(index))) * len(index))
        ranks.append(relative_ranks(brain, part.targets).relative)
    return sum(losses) / len(val), float(np.concatenate(ranks).mean())


def _make_accelerator(device: torch.device, precision: Precision) -> Accelerator:
    if precision == "fp16" and device.type == "cpu":
        raise UsageError(
            "Half precision (fp16) needs a GPU.",
            expected="--precision fp32 or bf16 on a CPU",
            found="fp16",
        )
    mixed = "no" if precision == "fp32" else precision
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != mixed:
        # Accelerate keeps the first precision of a process for ever.
        AcceleratorState._reset_state()
    return Accelerator(mixed_precision=mixed, cpu=device.type == "cpu", device_placement=False)


def _make_optimizer(pairing: nn.Module, settings: TrainingConfig) -> torch.optim.Optimizer:
    """Return AdamW; weight decay pulls on matrices only, not on biases, norms and temperature."""
    trained = [p for p in pairing.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=settings.learning_rate)


def _make_scheduler(
    optimizer: torch.optim.Optimizer, settings: TrainingConfig, n_steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    if settings.schedule == "onecycle":
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer, settings.learning_rate, total_steps=n_steps + 1
        )
    return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0, total_iters=0)


def _plain(state: dict[str, Any]) -> dict[str, Any]:
    """Keep of a scheduler's state what changes: its functions are made anew with it."""
    return {k: v for k, v in state.items() if isinstance(v, int | float | list)}


@contextlib.contextmanager
def _reproducible(device: torch.device, seed: int) -> Iterator[None]:
    """Seed inside, deterministic kernels inside; afterwards everything is as it was."""
    devices = [device] if device.type == "cuda" else []
    backend = torch.backends.cudnn
    with (
        torch.random.fork_rng(devices=devices),
        backend.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
    ):
        # Each process its own dropout; one process alone has number 0.
        torch.manual_seed(seed + process_number())
        yield


@contextlib.contextmanager
def _frozen(encoder: nn.Module, names: Sequence[str]) -> Iterator[list[nn.Module]]:
    """Hold the named submodules: no gradient. Yields them; afterwards gradients are as before."""
    held = [encoder.get_submodule(name) for name in names]
    before = {p: p.requires_grad for module in held for p in module.parameters()}
    for parameter in before:
        parameter.requires_grad_(False)
    try:
        yield held
    finally:
        for parameter, requires_grad in before.items():
            parameter.requires_grad_(requires_grad)


def _identity(
    encoder: Encoder | PooledEncoder,
    train: WindowSet | PooledWindows,
    val: WindowSet | PooledWindows,
    settings: TrainingConfig,
    seed: int,
    precision: Precision,
    frozen: Sequence[str],
    n_processes: int,
) -> str:
    """Return what a checkpoint must agree with to be gone on from."""
    sums = [
        [len(w), int(w.starts.sum()), float(w.targets.sum(dtype=torch.float64))]
        for w in (*train.parts, *val.parts)
    ]
    start = [float(p.detach().sum(dtype=torch.float64)) for p in encoder.parameters()]
    spec, chosen = dataclasses.asdict(encoder.spec), asdict(settings)
    return json.dumps([spec, chosen, seed, precision, list(frozen), n_processes, sums, start])


def _random_state(device: torch.device) -> dict[str, torch.Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _set_random_state(states: dict[str, torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


def _require_pairs(windows: WindowSet | PooledWindows, name: str) -> None:
    fewest = min(len(part) for part in windows.parts)
    if fewest < 2:
        raise DataError(
            f"Too few {name} windows.",
            expected="at least 2, since every window is compared with others",
            found=str(fewest),
        )


def _require_finite_loss(loss: float, epoch: int) -> float:
    if not math.isfinite(loss):
        raise DataError(
            f"The training loss is not finite in epoch {epoch}.",
            expected="a number",
            found=str(loss),
            fix="look for NaN in signal and targets; try a lower learning rate or fp32",
        )
    return loss
