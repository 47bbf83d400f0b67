"""Directive ``settings``: a table of every TOML setting, made from the dataclasses of the code.

Names, allowed values and defaults are read from `bids_speechdecode.config`; only what a setting
means, and who says so, is written here. A setting without a line here, or a line without a
setting, stops the build.
"""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from bids_speechdecode.config import DEFAULT_MODELS, Config
from bids_speechdecode.options import OPTIONS
from bids_speechdecode.validation import describe

PAPER, REVIEWS, CODE, OURS = "paper", "reviews", "public code", "ours"

# "<dataclass>.<field>": (what it means, where the default comes from).
MEANING: dict[str, tuple[str, str]] = {
    "InputConfig.pretrain_task": (
        "Task of the recordings for pretraining; `none` does without pretraining.",
        OURS,
    ),
    "InputConfig.finetune_task": ("Task for finetuning and for the test.", OURS),
    "InputConfig.sessions": ("Sessions to use; empty means all.", OURS),
    "InputConfig.runs": ("Runs to use; empty means all.", OURS),
    "InputConfig.audio": (
        "Audio file (or channel) that starts with each recording, used only where `events.tsv` "
        "names no audio.",
        OURS,
    ),
    "InputConfig.init_from": (
        "Pooled checkpoint that training starts from: a file, or `pooled` for the one of the "
        "output without the participant. None by default.",
        OURS,
    ),
    "InputConfig.skip_bids_validation": ("Do not check that the input is a BIDS dataset.", OURS),
    "PreprocessConfig.band": (
        "What the models read of the signal: `slow` (its waveform), `highgamma` (the envelope of "
        "`high_gamma`), or `both`, side by side.",
        PAPER,
    ),
    "PreprocessConfig.reference": ("How the channels of the slow band are re-referenced.", OURS),
    "PreprocessConfig.notch": (
        "Remove the power line (`PowerLineFrequency` of the sidecar) and its harmonics, where "
        "they lie in the band that is kept.",
        OURS,
    ),
    "PreprocessConfig.rate": ("Sampling rate of the output, in hertz.", PAPER),
    "PreprocessConfig.highpass": ("Edge of the high-pass, in hertz; 0 means none.", PAPER),
    "PreprocessConfig.high_gamma": ("Edges of high gamma, in hertz.", REVIEWS),
    "PreprocessConfig.high_gamma_reference": (
        "How the channels of high gamma are re-referenced.",
        REVIEWS,
    ),
    "PreprocessConfig.clamp": (
        "Samples beyond this many interquartile ranges are set to it.",
        CODE,
    ),
    "PreprocessConfig.min_good_fraction": (
        "A channel is used if it is good in at least this share of the recording time.",
        OURS,
    ),
    "AnatomyConfig.space": (
        "Coordinate spaces of `electrodes.tsv` in the order of preference; empty means MNI152, "
        "MNI305, Talairach, then the participant's own.",
        OURS,
    ),
    "AnatomyConfig.fs_subjects_dir": (
        "Folder of FreeSurfer subjects (`sub-XX` or `XX`), for contacts in a participant's own "
        "space.",
        OURS,
    ),
    "AnatomyConfig.atlas": (
        "A name (`desikan-killiany`, or an atlas of TemplateFlow), or an image in MNI152 and its "
        "table of labels.",
        OURS,
    ),
    "AnatomyConfig.max_distance": (
        "A contact farther than this (mm) from every label has none.",
        OURS,
    ),
    "AnatomyConfig.ball_radius": (
        "Radius (mm) of the ball in which the share of a contact's label is counted.",
        OURS,
    ),
    "SelectionConfig.rules": (
        "Rules that a channel must pass to be read by the models: `all`, `roi`, `radius`, "
        "`responsive`.",
        OURS,
    ),
    "SelectionConfig.roi": ("Regions of rule `roi`: `speech`, or labels of the atlas.", OURS),
    "SelectionConfig.hemisphere": ("Hemisphere of rule `roi`.", OURS),
    "SelectionConfig.center": (
        "Centre of rule `radius` in MNI152, `x,y,z` in mm; several separated by `;`.",
        OURS,
    ),
    "SelectionConfig.radius": ("Reach of rule `radius`, in mm.", OURS),
    "SelectionConfig.unlocalised": (
        "What happens to channels without a position where a rule needs one.",
        OURS,
    ),
    "SelectionConfig.responsive_q": (
        "False discovery rate of rule `responsive`, over channels.",
        OURS,
    ),
    "ContributionConfig.model": (
        "Whose contributions; `auto` is `finetuned`, or `taskonly` without pretraining.",
        OURS,
    ),
    "ContributionConfig.draws": (
        "Test windows with a replaced electrode behind each loss of rank, at least.",
        OURS,
    ),
    "ContributionConfig.n_permutations": ("Permutations behind each electrode's p.", OURS),
    "ContributionConfig.ig_steps": ("Points on the path of integrated gradients.", OURS),
    "EncoderConfig.spatial": (
        "How channels enter the encoder: by name, or by their position (spatial attention).",
        OURS,
    ),
    "TargetConfig.name": (
        "Kind of target. `mel` and `energy` (the level alone, always in frames) need no model "
        "weights; `text` is of the words heard.",
        PAPER,
    ),
    "TargetConfig.model": (
        "Speech model: a name on the Hugging Face hub, or a folder. Each kind of target has its "
        "own default.",
        REVIEWS,
    ),
    "TargetConfig.layer": (
        "Layer of the speech model, counted as in `hidden_states`: 0 is the input of the "
        "transformer.",
        PAPER,
    ),
    "TargetConfig.pooling": ("One vector per window, or a time course per window.", PAPER),
    "TargetConfig.frame_rate": ('Frames per second, with `pooling = "frames"`.', OURS),
    "TargetConfig.chunk": ("Seconds of sound that go through the model at once.", PAPER),
    "TargetConfig.batch_size": ("Chunks per batch. Changes the speed, not the result.", OURS),
    "TargetConfig.half_precision": ("Run the speech model in half precision.", OURS),
    "WindowConfig.duration": ("Length of a window, in seconds.", PAPER),
    "WindowConfig.stride": (
        "Seconds between the starts of training windows. Validation and test windows never "
        "overlap, whatever is set here.",
        REVIEWS,
    ),
    "WindowConfig.brain_lag": (
        "The brain window starts this many seconds after the sound's.",
        CODE,
    ),
    "WindowConfig.voice_activity": ("Leave out windows in which nobody speaks.", OURS),
    "WindowConfig.words_only": (
        "Leave out windows in which no word is heard. The target `text` always does.",
        OURS,
    ),
    "WindowConfig.min_voiced_fraction": (
        "With `voice_activity`: share of a window that must be speech.",
        OURS,
    ),
    "SplitConfig.val_fraction": ("Share of the data for validation.", OURS),
    "SplitConfig.test_fraction": ("Share of the data for the test.", OURS),
    "SplitConfig.n_blocks": (
        "Contiguous blocks into which the audio of the task is cut; fewer where it is short.",
        OURS,
    ),
    "SplitConfig.guard": (
        "Seconds of audio left out on each side of a boundary between splits.",
        OURS,
    ),
    "EncoderConfig.kind": (
        "`linear` makes every condition linear (with the same head); `conv` is the paper's.",
        PAPER,
    ),
    "EncoderConfig.preset": ("Size of the brain encoder; `small` suits CPUs.", CODE),
    "EncoderConfig.dropout": (
        "Dropout after every convolutional layer; 0.4 was better than 0 on the validation windows "
        "of the simulated dataset.",
        OURS,
    ),
    "TrainingConfig.batch_size": ("Windows per batch, over all processes together.", REVIEWS),
    "TrainingConfig.learning_rate": ("Learning rate of AdamW.", CODE),
    "TrainingConfig.weight_decay": ("Weight decay of AdamW, on matrices only.", OURS),
    "TrainingConfig.max_epochs": ("Training stops after this many epochs.", OURS),
    "TrainingConfig.patience": (
        "Training stops when this many epochs brought no better validation rank.",
        CODE,
    ),
    "TrainingConfig.clip_norm": ("Gradients longer than this are shortened to it.", CODE),
    "TrainingConfig.symmetric": (
        "Also find the brain window of each sound, not only the sound of each brain window.",
        REVIEWS,
    ),
    "TrainingConfig.temperature": ("Temperature of the loss at the start; it is learnt.", PAPER),
    "TrainingConfig.schedule": ("Course of the learning rate.", OURS),
    "EvaluationConfig.block": (
        "Seconds of contiguous audio that stay together in resampling.",
        OURS,
    ),
    "EvaluationConfig.n_bootstrap": ("Resamples behind each confidence interval.", OURS),
    "EvaluationConfig.n_permutations": (
        "Permutations of each null, and sign patterns where not all are counted.",
        OURS,
    ),
    "EvaluationConfig.confidence": (
        "Of every interval; 1 minus this is the level of the tests.",
        OURS,
    ),
    "EncodingConfig.models": (
        "Speech models, compared with the first: `untuned`, `tuned` (all that were tuned in this "
        "output), labels of tuned models, `mel`, folders, hub names.",
        OURS,
    ),
    "EncodingConfig.layers": ("Layers to compare; empty means the target's.", OURS),
    "EncodingConfig.context": ("Seconds of sound that end at the sample.", PAPER),
    "EncodingConfig.token": ("Which frame of the context is the feature.", OURS),
    "EncodingConfig.bands": (
        "Bands whose amplitude is predicted; `slow` is the signal itself.",
        OURS,
    ),
    "EncodingConfig.high_gamma": (
        "Edges of the band `highgamma` in Hz; the podcast study has 70 to 200.",
        OURS,
    ),
    "EncodingConfig.rate": ("Rate of responses and features in Hz.", PAPER),
    "EncodingConfig.reference": ("How the channels are re-referenced.", PAPER),
    "EncodingConfig.max_lag": (
        "Lags reach from this many seconds before the sound to as many after.",
        PAPER,
    ),
    "EncodingConfig.lags": (
        "`best`: one lag per electrode, chosen in inner folds; `delays`: all `delays` together.",
        OURS,
    ),
    "EncodingConfig.delays": ("Samples, used where `lags` is `delays`.", OURS),
    "EncodingConfig.alphas": ("Number of penalties of the ridge.", OURS),
    "EncodingConfig.lowest_alpha": ("Lowest penalty, as in scikit-learn.", OURS),
    "EncodingConfig.highest_alpha": ("Highest penalty.", OURS),
    "EncodingConfig.n_folds": ("Contiguous folds of held-out time.", PAPER),
    "EncodingConfig.nuisance": (
        "Acoustic features beyond which a model's own share is measured; empty does without.",
        REVIEWS,
    ),
    "EncodingConfig.n_permutations": ("Circular shifts behind each electrode's p.", OURS),
    "FmriConfig.task": ("Task of the functional runs; empty means the only one there is.", OURS),
    "FmriConfig.bold_dir": (
        "Derivatives of fMRIPrep; empty means the `func` files of the dataset itself.",
        OURS,
    ),
    "FmriConfig.space": ("Space of those derivatives; empty means the only one there is.", OURS),
    "FmriConfig.participants": (
        "`joint` tunes one model of all participants, `each` one of each (as the study does).",
        OURS,
    ),
    "FmriConfig.confounds": ("Confounds are columns whose names begin so.", OURS),
    "FmriConfig.n_validation": ("Stories that choose the epoch.", PAPER),
    "FmriConfig.n_test": ("Stories that nothing is fitted to.", PAPER),
    "FmriConfig.stride": ("Seconds between contexts.", PAPER),
    "FmriConfig.delays": ("Delays of the features in TRs, all together.", PAPER),
    "FmriConfig.rank": ("Rank of the adapters on q, k and v.", PAPER),
    "FmriConfig.alpha": ("Their scale, divided by the rank.", PAPER),
    "FmriConfig.dropout": ("Dropout in front of the adapters.", PAPER),
    "FmriConfig.readout": ("Width of the readout in front of the voxels.", PAPER),
    "FmriConfig.learning_rate": ("Of Adam; the sources say 1e-4 and 5e-4.", CODE),
    "FmriConfig.epochs": ("Passes over the training stories; the study has 20 to 30.", PAPER),
    "FmriConfig.block": ("Contiguous TRs of one step.", PAPER),
    "FmriConfig.controls": (
        "Also tune on BOLD of half the rate (`downsampled`), with randomised phases (`phase`) or "
        "of other stories (`stories`).",
        OURS,
    ),
    "FmriConfig.n_seeds": ("How often each model is tuned, with seeds of its own.", REVIEWS),
    "FmriConfig.amounts": ("Shares of the training stories, one model each.", OURS),
    "ExperimentConfig.names": (
        "Experiments to make by name, or `all` that can be made.",
        OURS,
    ),
    "ExperimentConfig.seeds": ("Trainings of every model, with seeds of their own.", OURS),
    "ExperimentConfig.targets": (
        "Targets that `targets` compares with the run's own: a name, or `name:layer`.",
        OURS,
    ),
    "ExperimentConfig.shares": (
        "Shares of the pretraining data; whole recording files, nested.",
        OURS,
    ),
    "ExperimentConfig.task_shares": (
        "Shares of the task's training data; whole blocks, nested.",
        OURS,
    ),
    "DriftConfig.normalise": (
        "Channels scaled once more: over the recordings of a `day` and split together, or by their "
        "own past (`sliding`).",
        REVIEWS,
    ),
    "DriftConfig.normalise_minutes": ("How much past `sliding` looks at.", OURS),
    "DriftConfig.adversarial": (
        "Weight of a classifier that learns the day of a window from its embedding, and whose "
        "reversed gradient trains the encoder; 0: none.",
        REVIEWS,
    ),
    "DriftConfig.time_embedding": (
        "Encoders also read when a window was recorded: days since the first recording, and sine "
        "and cosine of the hour.",
        REVIEWS,
    ),
    "DriftConfig.recalibrate": (
        "Minutes at the beginning of a new day on which the experiment `drift` finetunes; "
        "0: it does not. The main run never does.",
        OURS,
    ),
    "RunConfig.seed": ("Seed of everything random.", OURS),
    "RunConfig.device": (
        "Where the numbers are computed; `auto` takes a GPU if there is one.",
        OURS,
    ),
    "RunConfig.precision": ("Precision of the training; scores are always in fp32.", OURS),
    "RunConfig.n_procs": ("CPU threads; 0 means `OMP_NUM_THREADS`, else all cores.", OURS),
    "RunConfig.mem_gb": (
        "Memory to plan with (GB): a signal above a quarter of it is kept in half precision.",
        OURS,
    ),
}


def sections() -> dict[str, type]:
    """Return the dataclass of every section of the settings, by the section's name."""
    return typing.get_type_hints(Config)


def check_complete() -> None:
    """Raise if a setting is not described here, or a description has no setting."""
    known = {f"{kind.__name__}.{f.name}" for kind in sections().values() for f in _fields(kind)}
    if known != MEANING.keys():
        raise ValueError(f"docs/_ext/settings_table.py: differs in {sorted(known ^ set(MEANING))}")


def rows(section: str) -> list[tuple[str, str, str, str, str]]:
    """Return (name, default, allowed, meaning with option, source of the default) per setting."""
    kind = sections()[section]
    hints = typing.get_type_hints(kind, include_extras=True)
    options = {option.setting: option.opts[-1] for option in OPTIONS if option.setting}
    found = []
    for item in _fields(kind):
        text, source = MEANING[f"{kind.__name__}.{item.name}"]
        option = options.get(f"{section}.{item.name}")
        more = f" Option `{option}`." if option else ""
        allowed = describe(hints[item.name])
        found.append((item.name, _toml(item.default), allowed, text + more, source))
    return found


def _fields(kind: type) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(kind)


def _toml(value: object) -> str:
    """Return a value as one writes it in TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple):
        return str(list(value)).replace("'", '"')
    return f"{value:g}" if isinstance(value, float) else str(value)


class SettingsTable(SphinxDirective):
    """All sections of the settings, one table each; ``pretrain`` and ``finetune`` share one."""

    def run(self) -> list[nodes.Node]:
        """Return the tables."""
        check_complete()
        lines: list[str] = []
        shared: dict[type, list[str]] = {}
        for section, kind in sections().items():
            shared.setdefault(kind, []).append(section)
        for names in shared.values():
            lines += ["", "### " + " and ".join(f"`[{name}]`" for name in names), ""]
            lines += ["| setting | default | may be | meaning | default from |", "|---" * 5 + "|"]
            for name, default, allowed, text, source in rows(names[0]):
                mark = f"**{source}**" if source == PAPER else source
                lines.append(f"| `{name}` | `{default}` | {allowed} | {text} | {mark} |")
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


class DefaultModels(SphinxDirective):
    """The speech model and layer of every kind of target."""

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        lines = ["| target | model | layer |", "|---|---|---|"]
        for name, (model, layer) in DEFAULT_MODELS.items():
            lines.append(f"| `{name}` | `{model}` | {layer} |" if model else f"| `{name}` | | |")
        return self.parse_text_to_nodes("\n".join(lines))


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directives."""
    app.add_directive("settings", SettingsTable)
    app.add_directive("default-models", DefaultModels)
    return {"parallel_read_safe": True}
