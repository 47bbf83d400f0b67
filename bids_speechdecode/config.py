"""Settings: one dataclass per section, TOML in and out.

Defaults that the source paper states are marked ``[P]``; every other default is this project's.
"""

from __future__ import annotations

import dataclasses
import functools
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w

from bids_speechdecode.errors import MissingInputError, UsageError
from bids_speechdecode.validation import (
    Count,
    InnerShare,
    NotNegative,
    Pattern,
    Positive,
    Range,
    Share,
    convert,
    unknown,
)

LEVELS = ("participant", "group")
ANALYSES = ("decoding", "encoding", "fmri-tuning")
STEPS = (
    "preprocess",
    "features",
    "select",
    "pretrain",
    "finetune",
    "evaluate",
    "contributions",
    "experiments",
    "report",
)
STEPS_OF = {
    "decoding": STEPS,
    "encoding": ("responses", "features", "encode", "report"),
    "fmri-tuning": ("tune",),
}
Rule = Literal["all", "roi", "radius", "responsive"]
RULES: tuple[str, ...] = typing.get_args(Rule)

# What each kind of target means unless the user names a model: hub name and hidden_states index.
DEFAULT_MODELS = {
    "wav2vec2": ("facebook/wav2vec2-large-xlsr-53", 19),  # [P]
    "hubert": ("facebook/hubert-base-ls960", 9),
    "wavlm": ("microsoft/wavlm-base-plus", 9),
    "whisper": ("openai/whisper-small.en", 9),
    "mel": ("", 0),
    "energy": ("", 0),
    "text": ("sentence-transformers/all-MiniLM-L6-v2", 6),
}
WITHOUT_MODEL = ("mel", "energy")  # targets that need no speech model
TEXT = "text"  # the target that reads words and hears no sound


Band = Literal["slow", "theta", "alpha", "beta", "gamma", "highgamma"]
BANDS: tuple[str, ...] = typing.get_args(Band)
Nuisance = Literal["mel", "envelope", "onsets", "pitch", "words"]
Control = Literal["downsampled", "phase", "stories"]
Layer = Annotated[int, Range(least=0)]
Delay = Annotated[int, Range(least=-200, most=200)]
ExperimentName = Literal[
    "scaling",
    "finetune-size",
    "targets",
    "encoders",
    "pooled",
    "controls",
    "zero-shot",
    "day-night",
    "drift",
    "all",
]
EXPERIMENTS: tuple[str, ...] = typing.get_args(ExperimentName)[:-1]
Amount = Annotated[float, Range(above=0, most=1)]

# What `experiments.targets` may hold.
TargetText = Annotated[
    str,
    Pattern(
        "|".join(DEFAULT_MODELS)
        + f"|({'|'.join(n for n in DEFAULT_MODELS if n not in WITHOUT_MODEL)}):[0-9]+",
        f"one of {', '.join(DEFAULT_MODELS)}; with :LAYER where a model has layers",
    ),
]
DEVICE = Pattern(r"auto|cpu|mps|cuda(:\d+)?", "auto, cpu, mps, cuda or cuda:N")


@dataclass(frozen=True)
class InputConfig:
    """Which recordings serve what."""

    pretrain_task: str = "ambient"
    finetune_task: str = "audiobook"
    sessions: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    audio: str = ""  # audio that starts with each recording, where events.tsv names none
    init_from: str = ""  # pooled checkpoint that training starts from: a file, or "pooled"
    skip_bids_validation: bool = False


@dataclass(frozen=True)
class PreprocessConfig:
    """Recording -> clean, scaled signal at a low rate."""

    band: Literal["slow", "highgamma", "both"] = "slow"  # [P]
    reference: Literal["none", "average", "bipolar"] = "none"
    notch: bool = True  # at the sidecar's PowerLineFrequency and its harmonics
    rate: Positive = 40.0  # [P]
    highpass: NotNegative = 0.05  # [P]
    high_gamma: tuple[Positive, ...] = (70.0, 120.0)  # hertz; reviews
    high_gamma_reference: Literal["none", "average", "bipolar"] = "bipolar"  # reviews
    clamp: Positive = 20.0  # robust standard units
    min_good_fraction: Share = 0.5  # of a participant's recording time, for a channel to be used


@dataclass(frozen=True)
class AnatomyConfig:
    """Where the contacts are."""

    space: tuple[str, ...] = ()  # coordinate spaces in the order of preference; none: our order
    fs_subjects_dir: str = ""  # FreeSurfer subjects, for contacts in a participant's own space
    atlas: tuple[str, ...] = ("desikan-killiany",)  # a name, or an image and its table of labels
    max_distance: NotNegative = 5.0  # mm from a contact to the nearest label that it may get
    ball_radius: Positive = 3.0  # mm around a contact in which the share of its label is counted


@dataclass(frozen=True)
class SelectionConfig:
    """Which of the good channels the models read; a channel must pass every rule."""

    rules: tuple[Rule, ...] = ("all",)
    roi: tuple[str, ...] = ("speech",)  # a preset, or labels of the atlas
    hemisphere: Literal["both", "left", "right"] = "both"
    center: str = ""  # "x,y,z" in MNI152 (mm), several separated by ";"
    radius: Positive = 10.0  # mm
    unlocalised: Literal["keep", "drop", "error"] = "drop"  # where a rule needs a position
    responsive_q: InnerShare = 0.05  # false discovery rate of "responds to sound"


@dataclass(frozen=True)
class TargetConfig:
    """Sound, or the words in it -> targets."""

    name: Literal["wav2vec2", "hubert", "wavlm", "whisper", "mel", "energy", "text"] = (
        "wav2vec2"  # [P]
    )
    model: str = "facebook/wav2vec2-large-xlsr-53"  # hub name or folder
    layer: Annotated[int, Range(least=0)] = (
        19  # hidden_states[layer], 0 is the input of the transformer [P]
    )
    pooling: Literal["mean", "frames"] = "mean"  # [P]: mean
    frame_rate: Positive = 10.0  # of the frames, in hertz
    chunk: Positive = 30.0  # seconds through the model at once [P]
    batch_size: Count = 8
    half_precision: bool = False


@dataclass(frozen=True)
class WindowConfig:
    """Windows of paired signal and sound."""

    duration: Positive = 3.0  # [P]
    stride: Positive = 3.0  # reviews: windows do not overlap
    brain_lag: Annotated[float, Range(least=-10, most=10)] = (
        0.15  # the brain window starts this much after the sound's
    )
    voice_activity: bool = False  # leave out windows in which nobody speaks
    min_voiced_fraction: Share = 0.1
    words_only: bool = False  # leave out windows without a word, as the target text does


@dataclass(frozen=True)
class SplitConfig:
    """Train, validation and test, as time intervals made before anything is fitted."""

    val_fraction: InnerShare = 0.1
    test_fraction: InnerShare = 0.2
    n_blocks: Annotated[int, Range(least=3)] = 20  # contiguous blocks of the task's audio
    guard: NotNegative = 3.0  # seconds left out on each side of a boundary between splits


@dataclass(frozen=True)
class EncoderConfig:
    """The brain encoder."""

    kind: Literal["conv", "linear"] = "conv"  # of all conditions but the linear baseline
    preset: Literal["paper", "small"] = "paper"
    dropout: Annotated[float, Range(least=0, below=1)] = 0.4
    spatial: Literal["none", "attention"] = "none"  # how channels enter: by name or by position


@dataclass(frozen=True)
class TrainingConfig:
    """One contrastive training, used for pretraining, finetuning and every baseline."""

    batch_size: Annotated[int, Range(least=2)] = 128
    learning_rate: Positive = 3e-4
    weight_decay: NotNegative = 0.0
    max_epochs: Count = 100
    patience: Count = 10
    clip_norm: Positive = 1.0
    symmetric: bool = False  # reviews: one direction, brain to audio
    temperature: Positive = 0.07  # initial; learnable [P]
    schedule: Literal["constant", "onecycle"] = "constant"  # of the learning rate


@dataclass(frozen=True)
class DriftConfig:
    """What training does against changes over days; the main run's too, but for recalibration."""

    normalise: Literal["none", "day", "sliding"] = "none"
    normalise_minutes: Positive = 30.0  # of a recording's own past, for "sliding"
    adversarial: NotNegative = 0.0  # weight of a classifier of days whose gradient is reversed
    time_embedding: bool = False  # encoders also read the day and the hour
    recalibrate: NotNegative = 5.0  # minutes of a new day, in experiment drift


@dataclass(frozen=True)
class EvaluationConfig:
    """Ranks, intervals and nulls."""

    block: Positive = 30.0  # seconds of contiguous audio that stay together when resampling
    n_bootstrap: Count = 2000
    n_permutations: Count = 2000
    confidence: InnerShare = 0.95


@dataclass(frozen=True)
class ContributionConfig:
    """Which electrodes carry the result."""

    # auto: finetuned, or taskonly without pretraining; the same for everybody, as a group needs
    model: Literal["auto", "finetuned", "frozen", "taskonly", "linear"] = "auto"
    draws: Count = 1000  # replaced windows behind each electrode's loss of rank, at least
    n_permutations: Count = 10000
    ig_steps: Count = 16  # of the path of integrated gradients


@dataclass(frozen=True)
class ExperimentConfig:
    """Many models of one participant (step ``experiments``), each trained from several seeds."""

    names: tuple[ExperimentName, ...] = ()
    seeds: Count = 3
    shares: tuple[Amount, ...] = (0.01, 0.03, 0.1, 0.3, 1.0)  # of the pretraining data
    task_shares: tuple[Amount, ...] = (0.1, 0.3, 1.0)  # of the task's training data
    targets: tuple[TargetText, ...] = ("mel",)  # to compare with the run's: name, or name:layer


@dataclass(frozen=True)
class EncodingConfig:
    """Speech model -> what each electrode does (analysis ``encoding``)."""

    # "untuned", tuned models of this output, folders or hub names; compared with the first
    models: tuple[str, ...] = ("untuned",)
    layers: tuple[Layer, ...] = ()  # hidden_states; none: the target's layer
    context: Positive = 4.0  # seconds of sound that end at the sample [P]
    token: Literal["first", "last", "mean"] = "last"  # which frame of the context
    bands: tuple[Band, ...] = ("highgamma",)  # carrier bands; "slow" is the signal itself
    high_gamma: tuple[Positive, ...] = (70.0, 150.0)  # hertz; the podcast study has 70 to 200
    rate: Positive = 20.0  # of responses and features, hertz [P]
    reference: Literal["none", "average", "bipolar"] = "average"  # [P]
    max_lag: Positive = 2.0  # seconds, before and after the sound [P]
    lags: Literal["best", "delays"] = "best"  # one lag per electrode, or all delays together
    delays: tuple[Delay, ...] = (0, 2, 4, 6, 8, 10)  # samples, for lags = "delays"
    alphas: Annotated[int, Range(least=1)] = 10  # penalties, evenly spaced in their logarithm
    lowest_alpha: Positive = 1.0
    highest_alpha: Positive = 1e7
    n_folds: Annotated[int, Range(least=3)] = 4  # [P]: 4
    nuisance: tuple[Nuisance, ...] = ("mel", "envelope", "onsets", "pitch")  # for unique variance
    n_permutations: Count = 1000


@dataclass(frozen=True)
class FmriConfig:
    """BOLD of people who listen to stories -> a tuned speech model (analysis ``fmri-tuning``)."""

    task: str = ""  # of the functional runs; none: the only one there is
    bold_dir: str = ""  # derivatives of fMRIPrep; none: the dataset's own func files
    space: str = ""  # of those derivatives; none: the only one there is
    participants: Literal["joint", "each"] = "joint"  # one model of all; the study has one each
    confounds: tuple[str, ...] = ("trans", "rot", "white_matter", "csf")  # column names begin so
    n_validation: Count = 2  # stories [P]
    n_test: Count = 1  # stories [P]
    stride: Positive = 0.25  # seconds between contexts [P]
    delays: tuple[Count, ...] = (1, 2, 3, 4)  # TRs [P]
    rank: Count = 4  # of the adapters [P]
    alpha: Positive = 4.0  # [P]
    dropout: Annotated[float, Range(least=0, below=1)] = 0.1  # [P]
    readout: Count = 100  # width of the readout [P]
    learning_rate: Positive = 1e-4  # the sources say 1e-4 and 5e-4
    epochs: Count = 20  # 20 to 30 [P]
    block: Count = 10  # contiguous TRs per step [P]
    controls: tuple[Control, ...] = ()  # tuned in the same way, for comparison
    n_seeds: Count = 1
    amounts: tuple[Amount, ...] = (1.0,)  # shares of the training stories


@dataclass(frozen=True)
class RunConfig:
    """How to run, which does not change what is computed (except seed and precision)."""

    seed: Annotated[int, Range(least=0, below=2**32)] = 0
    device: Annotated[str, DEVICE] = "auto"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    n_procs: Annotated[int, Range(least=0)] = 0  # 0: all cores
    mem_gb: NotNegative = 0.0  # to plan with; 0: not given


@dataclass(frozen=True)
class Config:
    """All settings; every part of the code receives only its own section."""

    inputs: InputConfig = field(default_factory=InputConfig)
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)
    anatomy: AnatomyConfig = field(default_factory=AnatomyConfig)
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    target: TargetConfig = field(default_factory=TargetConfig)
    windows: WindowConfig = field(default_factory=WindowConfig)
    splits: SplitConfig = field(default_factory=SplitConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    pretrain: TrainingConfig = field(default_factory=TrainingConfig)
    finetune: TrainingConfig = field(default_factory=TrainingConfig)
    drift: DriftConfig = field(default_factory=DriftConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    contributions: ContributionConfig = field(default_factory=ContributionConfig)
    experiments: ExperimentConfig = field(default_factory=ExperimentConfig)
    encoding: EncodingConfig = field(default_factory=EncodingConfig)
    fmri: FmriConfig = field(default_factory=FmriConfig)
    run: RunConfig = field(default_factory=RunConfig)


@dataclass(frozen=True)
class Request:
    """What one call of the command asks for, apart from the settings."""

    bids_dir: Path
    output_dir: Path
    level: str
    analysis: str = "decoding"
    participants: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    steps: tuple[str, ...] = STEPS  # of STEPS_OF[analysis]
    dry_run: bool = False
    reports_only: bool = False
    work_dir: Path | None = None
    filter_file: Path | None = None
    database_dir: Path | None = None
    compare_to: Path | None = None
    pool: bool = False
    stop_on_first_crash: bool = False
    verbosity: int = 0


def load_config(path: Path) -> Config:
    """Return the settings of a TOML file; what it leaves out keeps its default.

    Raises
    ------
    MissingInputError
        There is no such file.
    UsageError
        The file is not TOML, or has unknown sections, keys or values.
    """
    try:
        sections = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise MissingInputError(
            "the configuration file does not exist", where=path, fix="check --config"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, IsADirectoryError) as error:
        raise UsageError(
            "the configuration cannot be read as TOML",
            found=str(error),
            where=path,
            fix="correct that line; the documentation lists every section and key",
        ) from error
    return override(Config(), _flatten(sections, path), where=path)


def config_to_toml(config: Config) -> str:
    """Return all settings as TOML text that `load_config` reads back unchanged."""
    return tomli_w.dumps(dataclasses.asdict(config))


def override(
    config: Config,
    changes: Mapping[str, Any],
    *,
    where: str | Path = "",
    spoken: Mapping[str, str] | None = None,
) -> Config:
    """Return `config` with some values replaced, checked and converted.

    Naming another kind of target also replaces a model and a layer that were the old kind's
    default. To name ``energy`` is to ask for frames, to leave it is to ask for the mean.

    Parameters
    ----------
    config : Config
        Where everything that is not replaced comes from.
    changes : mapping
        ``"section.field"`` to value.
    where : path or str, optional
        The file the values come from, for messages.
    spoken : mapping, optional
        ``"section.field"`` to what the user typed for it (such as ``--target``), for messages.

    Raises
    ------
    UsageError
        An unknown section or field, a value of the wrong type or outside its range, or values
        that contradict each other.

    Examples
    --------
    >>> override(Config(), {"target.name": "mel"}).target.name
    'mel'
    """
    changes = _follow_target(config, changes)
    values: dict[str, dict[str, Any]] = {}
    for name, value in changes.items():
        section, key, hint = _find(name, where)
        shown = (spoken or {}).get(name, name)
        values.setdefault(section, {})[key] = convert(
            value, hint, shown, where=where, prefix=_PREFIXES.get(name, "")
        )
    sections = {s: dataclasses.replace(getattr(config, s), **v) for s, v in values.items()}
    changed = dataclasses.replace(config, **sections)
    _check_together(changed, where)
    return changed


def settings() -> dict[str, Any]:
    """Return the type of every setting, by ``"section.field"``."""
    return {
        f"{section.name}.{key}": hint
        for section in dataclasses.fields(Config)
        for key, hint in _hints(section.name).items()
    }


@functools.cache  # --help asks for every setting
def _hints(section: str) -> dict[str, Any]:
    kind = typing.get_type_hints(Config)[section]
    return typing.get_type_hints(kind, include_extras=True)


def _flatten(sections: Mapping[str, Any], where: Path) -> dict[str, Any]:
    flat = {}
    known = [f.name for f in dataclasses.fields(Config)]
    for section, values in sections.items():
        if section not in known:
            raise unknown("section", section, known, where)
        if not isinstance(values, dict):
            raise UsageError(
                f"{section!r} is a section, not a value",
                expected=f"[{section}] on a line of its own, its keys below",
                where=where,
            )
        flat.update({f"{section}.{key}": value for key, value in values.items()})
    return flat


def _find(name: str, where: str | Path) -> tuple[str, str, Any]:
    section, _, key = name.partition(".")
    known = [f.name for f in dataclasses.fields(Config)]
    if section not in known:
        raise unknown("section", section, known, where)
    hints = _hints(section)
    if key not in hints:
        raise unknown(f"key in section [{section}]", key, hints, where)
    return section, key, hints[key]


# People write labels with and without the prefix of their BIDS entity.
_PREFIXES = {
    "inputs.pretrain_task": "task-",
    "inputs.finetune_task": "task-",
    "inputs.sessions": "ses-",
    "inputs.runs": "run-",
}


def _follow_target(config: Config, changes: Mapping[str, Any]) -> Mapping[str, Any]:
    """Add what goes along with the new target: its default model and layer, its pooling."""
    old, name = config.target, changes.get("target.name", "")
    model, layer = DEFAULT_MODELS[old.name]
    if not isinstance(name, str) or name not in DEFAULT_MODELS:
        return changes
    filled: dict[str, Any] = {}
    if "energy" in (old.name, name) and old.name != name:
        filled["target.pooling"] = "frames" if name == "energy" else "mean"
    if old.model != model:
        return {**filled, **changes}
    filled["target.model"] = DEFAULT_MODELS[name][0]
    if old.layer == layer:
        filled["target.layer"] = DEFAULT_MODELS[name][1]
    return {**filled, **changes}


def _check_together(config: Config, where: str | Path) -> None:
    """Raise where values that are each allowed contradict each other."""
    inputs, target, windows, splits = config.inputs, config.target, config.windows, config.splits
    encoding = config.encoding
    problems = {
        "pretrain_task and finetune_task are the same task: the test set would be trained on": (
            inputs.pretrain_task == inputs.finetune_task
        ),
        "finetune_task is empty": not inputs.finetune_task,
        "val_fraction and test_fraction leave nothing to train on": (
            splits.val_fraction + splits.test_fraction >= 1
        ),
        "highpass is not below half of rate": (
            config.preprocess.highpass >= config.preprocess.rate / 2
        ),
        "chunk (of audio through the model) is shorter than a window": (
            target.name not in (*WITHOUT_MODEL, TEXT) and target.chunk < windows.duration
        ),
        "frame_rate gives no frame in a window": (
            target.pooling == "frames" and target.frame_rate * windows.duration < 1
        ),
        "target 'text' has no frames: a sentence encoder gives one vector for all words of a "
        'window (pooling = "mean")': target.name == TEXT and target.pooling == "frames",
        f"target {target.name!r} needs a model": (
            target.name not in WITHOUT_MODEL and not target.model
        ),
        "target 'energy' with pooling 'mean' is one number, of which a cosine sees the sign only": (
            target.name == "energy" and target.pooling == "mean"
        ),
        "--select radius needs --center X,Y,Z (center in [selection])": "radius"
        in config.selection.rules
        and not config.selection.center,
        "high_gamma is not a lower and a higher edge": (
            any(
                len(edges) != 2 or edges[0] >= edges[1]
                for edges in (encoding.high_gamma, config.preprocess.high_gamma)
            )
        ),
        "lowest_alpha is above highest_alpha": encoding.lowest_alpha > encoding.highest_alpha,
        "models, bands or delays (encoding) are empty": not (
            encoding.models and encoding.bands and encoding.delays
        ),
        "shares or task_shares (experiments) are empty": not (
            config.experiments.shares and config.experiments.task_shares
        ),
        "time_embedding (drift) needs channels by name: no --spatial attention, no --init-from": (
            config.drift.time_embedding
            and (config.encoder.spatial == "attention" or bool(inputs.init_from))
        ),
        "rate (encoding) is below 1 Hz": encoding.rate < 1,
        "stride (fmri) is below 0.02 s, a frame of speech models": config.fmri.stride < 0.02,
        "delays or amounts (fmri) are empty": not (config.fmri.delays and config.fmri.amounts),
        "atlas is a name, or an image and its table of labels": (
            len(config.anatomy.atlas) not in (1, 2)
        ),
    }
    for problem, present in problems.items():
        if present:
            raise UsageError(f"the settings contradict each other: {problem}", where=where)
