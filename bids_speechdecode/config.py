"""Settings: one dataclass per section, TOML in and out.

Defaults that the source paper states are marked ``[P]``; every other default is this project's.
"""

from __future__ import annotations

import dataclasses
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bids_speechdecode.errors import MissingInputError, UsageError, did_you_mean


@dataclass(frozen=True)
class InputConfig:
    """Which recordings serve what."""

    pretrain_task: str = "ambient"
    finetune_task: str = "audiobook"
    sessions: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    audio: str = ""  # audio that starts with each recording, where events.tsv names none
    skip_bids_validation: bool = False


@dataclass(frozen=True)
class PreprocessConfig:
    """Recording -> clean, scaled signal at a low rate."""

    reference: Literal["none", "average", "bipolar"] = "none"
    notch: bool = True  # at the sidecar's PowerLineFrequency and its harmonics
    rate: float = 40.0  # [P]
    highpass: float = 0.05  # [P]
    clamp: float = 20.0  # robust standard units
    min_good_fraction: float = 0.5  # of a participant's recording time, for a channel to be used


@dataclass(frozen=True)
class TargetConfig:
    """Sound -> targets."""

    name: Literal["wav2vec2", "hubert", "wavlm", "whisper", "mel"] = "wav2vec2"  # [P]
    model: str = "facebook/wav2vec2-large-xlsr-53"  # hub name or folder
    layer: int = 19  # hidden_states[layer], 0 is the input of the transformer [P]
    pooling: Literal["mean", "frames"] = "mean"  # [P]: mean
    frame_rate: float = 10.0  # of the frames, in hertz
    chunk: float = 30.0  # seconds through the model at once [P]
    batch_size: int = 8
    half_precision: bool = False


@dataclass(frozen=True)
class WindowConfig:
    """Windows of paired signal and sound."""

    duration: float = 3.0  # [P]
    stride: float = 3.0  # [P]: windows do not overlap
    brain_lag: float = 0.15  # the brain window starts this much after the sound's
    voice_activity: bool = False  # leave out windows in which nobody speaks
    min_voiced_fraction: float = 0.1


@dataclass(frozen=True)
class SplitConfig:
    """Train, validation and test, as time intervals made before anything is fitted."""

    val_fraction: float = 0.1
    test_fraction: float = 0.2
    n_blocks: int = 20  # contiguous blocks of the task's audio
    guard: float = 3.0  # seconds left out on each side of a boundary between splits


@dataclass(frozen=True)
class EncoderConfig:
    """The brain encoder."""

    preset: Literal["paper", "small"] = "paper"
    dropout: float = 0.0


@dataclass(frozen=True)
class TrainingConfig:
    """One contrastive training, used for pretraining, finetuning and every baseline."""

    batch_size: int = 128
    learning_rate: float = 3e-4
    weight_decay: float = 0.0
    max_epochs: int = 100
    patience: int = 10
    clip_norm: float = 1.0
    symmetric: bool = False  # [P]: one direction, brain to audio
    temperature: float = 0.07  # initial; learnable [P]


@dataclass(frozen=True)
class EvaluationConfig:
    """Ranks, intervals and nulls."""

    block: float = 30.0  # seconds of contiguous audio that stay together when resampling
    n_bootstrap: int = 2000
    n_permutations: int = 2000
    confidence: float = 0.95


@dataclass(frozen=True)
class RunConfig:
    """How to run, which does not change what is computed (except seed and precision)."""

    seed: int = 0
    device: str = "auto"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    n_procs: int = 0  # 0: all cores
    mem_gb: float = 0.0  # 0: no bound given


@dataclass(frozen=True)
class Config:
    """All settings; every part of the code receives only its own section."""

    inputs: InputConfig = field(default_factory=InputConfig)
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)
    target: TargetConfig = field(default_factory=TargetConfig)
    windows: WindowConfig = field(default_factory=WindowConfig)
    splits: SplitConfig = field(default_factory=SplitConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    pretrain: TrainingConfig = field(default_factory=TrainingConfig)
    finetune: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    run: RunConfig = field(default_factory=RunConfig)
