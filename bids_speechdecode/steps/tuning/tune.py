"""Step ``tune``: functional runs of people who listen to stories -> tuned speech models on disk.

One model for all participants or one each; and of each, as many as there are controls, seeds and
amounts of training stories. A tuned model is a folder with adapters in peft's format, how it was
made (tuning.json) and how the training went (tuning.tsv). It is a derivative like any other: made
again only when the data, the base model or the settings behind its signature change.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from bids_speechdecode.audio.adapters import WEIGHTS_FILE
from bids_speechdecode.audio.context import SHORTEST_CONTEXT
from bids_speechdecode.audio.speech_models import (
    LayeredModel,
    load_speech_model,
    model_fingerprint,
    require_layers,
)
from bids_speechdecode.audio.waveform import read_audio
from bids_speechdecode.bids.bold import BoldRun, find_bold
from bids_speechdecode.bids.dataset import Dataset
from bids_speechdecode.bids.derivatives import Derivatives
from bids_speechdecode.bids.files import invalidate, write_tsv
from bids_speechdecode.bids.sidecars import fingerprint, read_sidecar, signature, write_sidecar
from bids_speechdecode.config import WITHOUT_MODEL, Config, Control, FmriConfig, TargetConfig
from bids_speechdecode.decoding.checkpoint import read_state, write_state
from bids_speechdecode.encoding.fmri_tuning import Story, Tuned, tune, with_amount, with_control
from bids_speechdecode.encoding.listener import hear_story
from bids_speechdecode.encoding.lora import save_adapters
from bids_speechdecode.encoding.refit import StoryFeatures, held_out_score
from bids_speechdecode.encoding.stories import AUDIO_RATE, count_kept, prepare_story
from bids_speechdecode.errors import DataError, UsageError
from bids_speechdecode.progress import Progress
from bids_speechdecode.steps.context import WORK
from bids_speechdecode.steps.speech_model_names import FOLDER, read_tuned
from bids_speechdecode.steps.tuning.stories import (
    ParticipantBold,
    PlannedStory,
    StorySplit,
    keep_on_disk,
    load_bold,
    plan_stories,
    split_stories,
)

log = logging.getLogger(__name__)

VERSION = 3
JOINT = "joint"


@dataclass(frozen=True)
class Variant:
    """One of the models that are tuned for the same participants.

    Attributes
    ----------
    control : str
        Empty for the real BOLD.
    seed : int
        Counted from 0, which is the seed of the run.
    amount : float
        Share of the training stories.
    """

    control: Control | None = None
    seed: int = 0
    amount: float = 1.0

    def label(self, who: str) -> str:
        """Return the name of its folder.

        Examples
        --------
        >>> Variant("phase", 1, 0.5).label("joint")
        'joint_control-phase_seed-1_amount-50'
        """
        parts = [
            who,
            f"control-{self.control}" if self.control else "",
            f"seed-{self.seed}" if self.seed else "",
            f"amount-{100 * self.amount:g}" if self.amount < 1 else "",
        ]
        return "_".join(part for part in parts if part)


def list_variants(settings: FmriConfig) -> list[Variant]:
    """Return every combination of control (none first), seed and amount, without repeats."""
    controls: tuple[Control | None, ...] = (None, *settings.controls)
    variants = (
        Variant(control, seed, amount)
        for control in controls
        for seed in range(settings.n_seeds)
        for amount in settings.amounts
    )
    return list(dict.fromkeys(variants))


def plan_tuning(
    dataset: Dataset,
    participants: Sequence[str],
    config: Config,
    work_dir: Path,
    progress: Progress,
    device: str,
) -> list[Group]:
    """Return whose BOLD models are tuned on, with their stories; nothing is written.

    Raises
    ------
    UsageError
        If the target has no weights to tune, or several tasks or spaces are there and none named.
    MissingInputError
        If there are no functional runs, or audio is absent.
    DataError
        If functional runs and events do not fit, or there are too few stories, also for the
        amounts to differ.
    """
    _require_weights(config.target)
    require_layers(config.target, (config.target.layer,))
    if config.encoding.context < SHORTEST_CONTEXT:
        raise UsageError(
            "The windows of sound are too short for a speech model.",
            expected=f"at least {SHORTEST_CONTEXT:g} s",
            found=f"context = {config.encoding.context:g} in [encoding]",
        )
    runs = find_bold(
        dataset,
        participants,
        config.fmri,
        sessions=config.inputs.sessions,
        runs=config.inputs.runs,
    )
    groups = [
        Group(who, tuple(some), dataset, config, device, work_dir / FOLDER, progress)
        for who, some in _groups(runs, config)
    ]
    for group in groups:  # whatever is wrong with the stories of any shows before hours of work
        log.info("%s", group.describe())
    for group in groups:
        _require_amounts_differ(group)
    return groups


def tune_models(groups: Sequence[Group], out: Derivatives, *, dry_run: bool = False) -> list[Path]:
    """Tune every speech model that the settings ask for and that is not current.

    Returns
    -------
    folders : list of path
        Of all tuned models, current ones too.

    Raises
    ------
    MissingInputError
        If the speech model is absent.
    DataError
        If images, masks or confounds do not fit.
    """
    folders = []
    for group in groups:
        for variant in list_variants(group.config.fmri):
            _tune_one(group, variant, out, dry_run)
            folders.append(folder_of(out, variant.label(group.who)))
        group.release()
    return folders


def folder_of(out: Derivatives, label: str) -> Path:
    """Return where a tuned model is kept."""
    return out.root / FOLDER / label


def _require_weights(target: TargetConfig) -> None:
    if target.name in WITHOUT_MODEL:
        raise UsageError(
            "The target has no weights that could be tuned.",
            expected="--target wav2vec2, hubert, wavlm or whisper",
            found=target.name,
            fix="name another target, or the model with --speech-model",
        )


def _require_amounts_differ(group: Group) -> None:
    """Raise where two shares of the training stories are the same stories."""
    n_stories = len(group.split.train)
    taken = {n_stories: 1.0}
    for amount in sorted(group.config.fmri.amounts, reverse=True):
        n_kept = count_kept(amount, n_stories)
        other = taken.setdefault(n_kept, amount)
        if other != amount:
            raise DataError(
                f"Amounts of fMRI of {group.who} would give the same model.",
                expected="amounts that are different numbers of training stories",
                found=f"{amount:.0%} and {other:.0%} of {n_stories} stories are {n_kept} each",
                fix="leave one of them out of amounts in [fmri], or add stories: one long story "
                "can be cut into files that are named one after the other in events.tsv",
            )


def _groups(runs: Sequence[BoldRun], config: Config) -> Iterator[tuple[str, list[BoldRun]]]:
    """Yield whose BOLD a model is tuned on: that of all, or of one after the other."""
    if config.fmri.participants == "joint":
        yield JOINT, list(runs)
        return
    for participant in sorted({run.participant for run in runs}):
        yield f"sub-{participant}", [run for run in runs if run.participant == participant]


# ------------------------------------------------------------------- data of one group


@dataclass(frozen=True)
class Group:
    """Participants with one model together: their stories, split; sound and BOLD on demand."""

    who: str
    runs: tuple[BoldRun, ...]
    dataset: Dataset
    config: Config
    device: str
    work_dir: Path
    progress: Progress
    _waves: dict[Path, np.ndarray] = field(default_factory=dict, repr=False)

    @cached_property
    def split(self) -> StorySplit:
        """The stories, drawn before any BOLD is read."""
        stories = plan_stories(self.runs, self.dataset.root / "stimuli", self.config.fmri)
        return split_stories(stories, self.config.fmri, self.config.run.seed)

    @property
    def participants(self) -> list[str]:
        """Labels without ``sub-``."""
        return sorted({run.participant for run in self.runs})

    @cached_property
    def everybody(self) -> list[ParticipantBold]:
        """Clean BOLD of everybody; on disk, 4 bytes per voxel and volume."""
        return [self._bold_of(participant) for participant in self.participants]

    def _bold_of(self, participant: str) -> ParticipantBold:
        heard, settings = self.split.all, self.config.fmri
        n_runs = sum(h.run.participant == participant for s in heard for h in s.hearings)
        with self.progress.task("bold", f"sub-{participant}", n_runs) as advance:
            return load_bold(participant, heard, settings, self.keep, advance)

    def keep(self, array: np.ndarray) -> np.ndarray:
        """Return an array from the disk, where it stays as long as it is used."""
        return keep_on_disk(array, self.work_dir)

    def stories(self, planned: Sequence[PlannedStory]) -> list[Story]:
        """Return stories with their sound and BOLD."""
        return [
            Story(
                story.name,
                self._wave(story.audio),
                story.times,
                {
                    one.participant: one.bold[story.name]
                    for one in self.everybody
                    if story.name in one.bold
                },
                story.hearings[0].run.tr,
            )
            for story in planned
        ]

    def _wave(self, path: Path) -> np.ndarray:
        if path not in self._waves:
            self._waves[path] = self.keep(read_audio(path, rate=AUDIO_RATE))
        return self._waves[path]

    def release(self) -> None:
        """Let go of sound and BOLD."""
        self._waves.clear()
        self.__dict__.pop("everybody", None)

    def untuned(self) -> LayeredModel:
        """Load the model that is tuned; in single precision, or its gradients would vanish."""
        return load_speech_model(
            replace(self.config.target, half_precision=False), device=self.device
        )

    @cached_property
    def untuned_r(self) -> dict[str, np.ndarray]:
        """The untuned model's score in the test stories; see `score`."""
        return self.score(self.untuned())

    def score(self, model: LayeredModel) -> dict[str, np.ndarray]:
        """Return how well a model's features predict each voxel of the test stories.

        Whatever the model was tuned on, it is refitted to the real BOLD of all training stories.
        """
        train, validation, test = (
            self._hear(model, part)
            for part in (self.split.train, self.split.validation, self.split.test)
        )
        return held_out_score(train, validation, test, self.device)

    def _hear(self, model: LayeredModel, planned: Sequence[PlannedStory]) -> list[StoryFeatures]:
        context, token = self.config.encoding.context, self.config.encoding.token
        stories = [prepare_story(s, self.config.fmri, context) for s in self.stories(planned)]
        return [StoryFeatures(hear_story(model, s, context, token), s.bold) for s in stories]

    def signature(self, variant: Variant) -> str:
        """Return what decides a tuned model."""
        settings = {
            "fmri": asdict(essential(self.config.fmri)),
            "context": self.config.encoding.context,
            "token": self.config.encoding.token,
            "model": model_fingerprint(self.config.target),
            "target": self.config.target.name,
            "layer": self.config.target.layer,
            "control": variant.control or "",
            "seed": self.config.run.seed + variant.seed,
            "split_seed": self.config.run.seed,
            "amount": variant.amount,
            "stories": [
                [story.identity() for story in part]
                for part in (self.split.train, self.split.validation, self.split.test)
            ],
        }
        return signature("tune", VERSION, settings, self._fingerprints)

    @cached_property
    def _fingerprints(self) -> list[str]:
        paths = [p for run in self.runs for p in (*run.images, run.mask, run.confounds) if p]
        return [fingerprint(path) for path in paths]

    def describe(self) -> str:
        """Return in one line what is tuned on what."""
        # One sound counts once, also where people heard it at other times of the TR.
        train, validation, test = (
            sorted({story.audio.name for story in part})
            for part in (self.split.train, self.split.validation, self.split.test)
        )
        return (
            f"{self.who}: functional runs: {len(self.runs)}, participants: "
            f"{len(self.participants)}; stories to train on: {len(train)}, to choose the epoch: "
            f"{len(validation)}, to test: {len(test)} ({', '.join(test)})"
        )


def essential(settings: FmriConfig) -> FmriConfig:
    """Return settings without what says which models there are and where their data lie."""
    default = FmriConfig()
    names = ("task", "bold_dir", "space", "participants", "controls", "n_seeds", "amounts")
    return replace(settings, **{name: getattr(default, name) for name in names})


# ----------------------------------------------------------------------------- a model


def _tune_one(group: Group, variant: Variant, out: Derivatives, dry_run: bool) -> None:
    progress = group.progress
    label, key = variant.label(group.who), group.signature(variant)
    history = folder_of(out, label) / "tuning.tsv"
    if out.is_current(history, key) and _is_readable(history.parent, group.config):
        progress.skip("tune", label, "current")
        return
    if dry_run:
        progress.skip("tune", label, "would be tuned")
        return
    _warn_of_others(history, label, group.participants)
    state = group.work_dir / f"{label}-{key[:16]}.checkpoint"
    with progress.task("tune", label, 1.0) as advance:
        training, tuned = _fit(group, variant, state, _shares(advance))
        invalidate(history)  # from here until the sidecar is written, the folder is unfinished
        base = name_base(group.config.target.model, history.parent, group.dataset.root, out.root)
        save_adapters(history.parent, tuned.adapters, base)
        write_tsv(history, tuned.history)
        tuned_target = replace(group.config.target, model=str(history.parent), half_precision=False)
        tuned_r = group.score(load_speech_model(tuned_target, device=group.device))
        fields = _describe(group, variant, label, base, training, tuned, tuned_r)
        weights = history.parent / WEIGHTS_FILE
        write_sidecar(history, weights, step="tune", signature=key, **fields)
    _forget(state)
    r, before = _mean_r(tuned_r), _mean_r(group.untuned_r)
    log.info("%s: r in the test stories %.4f, untuned %.4f", label, r, before)


def _is_readable(folder: Path, config: Config) -> bool:
    """Return whether other analyses could take a tuned model; a person may have edited it."""
    try:
        read_tuned(folder, config)
    except DataError:
        return False
    return True


def _warn_of_others(history: Path, label: str, participants: list[str]) -> None:
    """Say it if a model of other people is replaced: the label does not tell them apart."""
    before = read_sidecar(history).get("Participants", participants)
    if before != participants:
        log.warning(
            "%s was tuned on sub-%s and is replaced by one of sub-%s; encode again what used it, "
            "or write to another output folder",
            label,
            ", sub-".join(before),
            ", sub-".join(participants),
        )


def _fit(
    group: Group, variant: Variant, state: Path, on_progress: Callable[[float], None]
) -> tuple[list[Story], Tuned]:
    """Tune one model, from the last finished epoch on if there is one; return its stories too."""
    config, seed = group.config, group.config.run.seed
    training = group.stories(group.split.train)
    validation = group.stories(group.split.validation)
    # The same seed for all amounts: a smaller amount is a part of a larger one.
    training = with_amount(training, variant.amount, np.random.default_rng([seed, 8]))
    if variant.control:
        # Both together: choosing the epoch must not see the real BOLD either, and a single
        # validation story could not be shuffled.
        rng = np.random.default_rng([seed + variant.seed, 9])
        changed = with_control([*training, *validation], variant.control, rng, group.keep)
        training, validation = changed[: len(training)], changed[len(training) :]
    tuned = tune(
        group.untuned(),
        training,
        validation,
        essential(config.fmri),
        context=config.encoding.context,
        token=config.encoding.token,
        seed=seed + variant.seed,
        resume=read_state(state),
        on_epoch=lambda now: write_state(state, now),
        on_progress=on_progress,
    )
    return training, tuned


def _shares(advance: Callable[[float], None]) -> Callable[[float], None]:
    """Return a function of the share that is done, made of one of how much more is done."""
    done = 0.0

    def tell(share: float) -> None:
        nonlocal done
        advance(share - done)
        done = share

    return tell


def name_base(model: str, folder: Path, *homes: Path) -> str:
    """Return how adapters in `folder` name the model that they belong to.

    A folder inside the dataset or the output is named relative to `folder`, so that both can be
    moved together; any other folder by its absolute path; a name on the hub as it is.
    """
    path = Path(model).expanduser()
    if not path.is_dir():
        return model
    path = path.resolve()
    if any(path.is_relative_to(home.resolve()) for home in homes):
        return os.path.relpath(path, folder.resolve())
    return str(path)


def _describe(
    group: Group,
    variant: Variant,
    label: str,
    base: str,
    training: Sequence[Story],
    tuned: Tuned,
    tuned_r: Mapping[str, np.ndarray],
) -> dict[str, object]:
    """Return what the sidecar says."""
    config, split, untuned_r = group.config, group.split, group.untuned_r
    return {
        "Description": "Low-rank adapters of a speech model, tuned to predict BOLD",
        "Label": label,
        "Participants": group.participants,
        "Target": config.target.name,
        "Layer": config.target.layer,
        "BaseModel": base,
        "Control": variant.control or "",
        "Seed": variant.seed,
        "Amount": variant.amount,
        "Context": config.encoding.context,
        "Token": config.encoding.token,
        "Settings": replace(
            config.fmri,
            controls=(variant.control,) if variant.control else (),
            n_seeds=1,
            amounts=(variant.amount,),
        ),
        "Task": group.runs[0].task,
        "Space": group.runs[0].space,
        "RepetitionTime": max(run.tr for run in group.runs),
        "Stories": {
            "Train": [story.name for story in training],
            "Validation": [story.name for story in split.validation],
            "Test": [story.name for story in split.test],
        },
        "TrainingVolumes": {
            p: sum(len(s.bold[p]) for s in training if p in s.bold) for p in group.participants
        },
        "Voxels": {x.participant: len(x.voxels.index) for x in group.everybody},
        "ConstantVoxels": {x.participant: x.voxels.n_constant for x in group.everybody},
        "Confounds": {x.participant: x.confounds for x in group.everybody},
        "Epoch": tuned.epoch,
        "ValidationR": tuned.validation_r,
        "ValidationRUntuned": tuned.validation_r_untuned,
        "TestR": _mean_r(tuned_r),
        "TestRUntuned": _mean_r(untuned_r),
        "TestRByParticipant": {
            p: {"Tuned": float(tuned_r[p].mean()), "Untuned": float(untuned_r[p].mean())}
            for p in tuned_r
        },
        "Simulated": group.dataset.simulated,
    }


def _mean_r(r: Mapping[str, np.ndarray]) -> float:
    """Return the mean over voxels, then over participants; NaN where nobody has a score."""
    return float(np.mean([values.mean() for values in r.values()])) if r else float("nan")


def _forget(state: Path) -> None:
    """Remove a checkpoint, and folders of checkpoints that are empty now."""
    state.unlink(missing_ok=True)
    for folder in (state.parent, state.parent.parent):
        if folder.name in {FOLDER, WORK} and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
