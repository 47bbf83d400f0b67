"""Every option of the command line, in the order and the sections of ``--help``."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Any

import click

from bids_speechdecode.config import ANALYSES, BANDS, EXPERIMENTS, RULES, STEPS_OF, Config, settings
from bids_speechdecode.errors import UsageError, did_you_mean
from bids_speechdecode.validation import choices

WHO, METHOD, ACTION, RUN = "What to use", "Method", "What to do", "How to run"


class Option(click.Option):
    """An option with its section of the help, and the setting it changes (if it does)."""

    def __init__(self, *names: str, section: str, setting: str = "", **more: Any) -> None:
        super().__init__(list(names), **more)
        self.section = section
        self.setting = setting


def _setting(names: str, setting: str, section: str, text: str, metavar: str = "") -> Option:
    """Return the option of a setting: type, words and default are those of `Config`."""
    hint = settings()[setting]
    part, _, key = setting.partition(".")
    default = getattr(getattr(Config(), part), key)
    if default != "" and default != () and default is not False:
        shown = " ".join(default) if isinstance(default, tuple) else default
        text = f"{text} [default: {shown}]"
    more: dict[str, Any] = {"metavar": metavar} if metavar else {}
    if words := choices(hint):
        more |= {"type": Word(words)}
    elif hint is bool:
        more |= {"is_flag": True}
    elif isinstance(default, tuple):
        more |= {"multiple": True}
    else:
        more |= {"type": typing.get_args(hint)[0] if typing.get_args(hint) else hint}
    # None, not the default, so that only what was typed wins over the configuration file.
    return Option(
        *names.split(), section=section, setting=setting, help=text, **{"default": None, **more}
    )


class Word(click.Choice[str]):
    """One of a few words, with a suggestion for what is close to one."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the word, or say which one may have been meant."""
        if value not in self.choices:
            raise UsageError(
                f"{param.opts[-1] if param else 'the value'} cannot be {value!r}",
                expected="one of " + ", ".join(self.choices),
                fix=did_you_mean(str(value), self.choices),
            )
        return str(value)


def _folder(names: str, section: str, text: str, metavar: str) -> Option:
    kind = click.Path(path_type=Path)
    return Option(*names.split(), section=section, type=kind, metavar=metavar, help=text)


def _words(names: str, section: str, text: str, metavar: str) -> Option:
    return Option(*names.split(), section=section, multiple=True, metavar=metavar, help=text)


def _switch(names: str, section: str, text: str, **more: Any) -> Option:
    return Option(*names.split(), section=section, help=text, **(more or {"is_flag": True}))


def _steps() -> str:
    """Return the steps of every analysis in words."""
    return "; ".join(f"{analysis}: {', '.join(steps)}" for analysis, steps in STEPS_OF.items())


OPTIONS: tuple[Option, ...] = (
    Option(
        "--analysis",
        section=WHO,
        type=Word(ANALYSES),
        default=ANALYSES[0],
        help="Decode speech, model each electrode from a speech model, or tune that on fMRI. "
        f"[default: {ANALYSES[0]}]",
    ),
    _words(
        "--participant-label",
        WHO,
        "Participants, with or without sub-: words, or a file of labels. [default: all]",
        "LABEL...",
    ),
    _words("--exclude-participant-label", WHO, "Participants to leave out.", "LABEL..."),
    _setting("--session-label", "inputs.sessions", WHO, "Sessions. [default: all]", "LABEL..."),
    _setting("--run-label", "inputs.runs", WHO, "Runs. [default: all]", "LABEL..."),
    _setting(
        "--pretrain-task",
        "inputs.pretrain_task",
        WHO,
        "Task of the pretraining recordings; 'none' does without.",
        "TASK",
    ),
    _setting(
        "--finetune-task --task-label",
        "inputs.finetune_task",
        WHO,
        "Task of finetuning and test, or of encoding.",
        "TASK",
    ),
    _setting(
        "--audio",
        "inputs.audio",
        WHO,
        "Audio that starts with each recording, where events.tsv names none.",
        "FILE",
    ),
    _setting(
        "--init-from",
        "inputs.init_from",
        WHO,
        "Start training from a pooled checkpoint: a file, or 'pooled' for the one of this output "
        "without the participant.",
        "FILE|pooled",
    ),
    _folder("--bids-filter-file", WHO, "JSON file of pybids filters.", "FILE"),
    _folder("--bids-database-dir", WHO, "Keep the dataset's index here for later runs.", "DIR"),
    _setting(
        "--skip-bids-validation",
        "inputs.skip_bids_validation",
        WHO,
        "Do not check that BIDS_DIR is a BIDS dataset.",
    ),
    _setting(
        "--reference",
        "preprocess.reference",
        METHOD,
        "Re-reference the channels (encoding: average by default).",
    ),
    _setting(
        "--space",
        "anatomy.space",
        METHOD,
        "Coordinate spaces of electrodes.tsv, the preferred one first. [default: MNI152 first]",
        "SPACE...",
    ),
    _setting(
        "--fs-subjects-dir",
        "anatomy.fs_subjects_dir",
        METHOD,
        "FreeSurfer subjects, for contacts in a participant's own space.",
        "DIR",
    ),
    _setting(
        "--atlas",
        "anatomy.atlas",
        METHOD,
        "Atlas of the labels: a name, or an image in MNI152 and its table of labels.",
        "NAME|IMAGE LABELS",
    ),
    _setting(
        "--atlas-max-distance",
        "anatomy.max_distance",
        METHOD,
        "A contact farther than this from every label has none (mm).",
        "MM",
    ),
    _setting(
        "--select",
        "selection.rules",
        METHOD,
        f"Rules that a channel must pass: {', '.join(RULES)}.",
        "RULE...",
    ),
    _setting(
        "--roi",
        "selection.roi",
        METHOD,
        "Regions of --select roi: 'speech', or labels of the atlas.",
        "LABEL...",
    ),
    _setting("--hemisphere", "selection.hemisphere", METHOD, "Hemisphere of --select roi."),
    _setting(
        "--center",
        "selection.center",
        METHOD,
        "Centre of --select radius in MNI152 (mm); several separated by ';'.",
        "X,Y,Z",
    ),
    _setting("--radius", "selection.radius", METHOD, "Reach of --select radius (mm).", "MM"),
    _setting(
        "--unlocalised",
        "selection.unlocalised",
        METHOD,
        "Channels without a position where a rule needs one.",
    ),
    _setting(
        "--target",
        "target.name",
        METHOD,
        "What brain activity is matched with; mel needs no model weights; text is the words heard.",
    ),
    _words(
        "--speech-model",
        METHOD,
        "Speech model: hub name, folder, or a tuned model of this output. Encoding takes several "
        "and compares them with the first: 'untuned', 'tuned' (all), their labels, 'mel'.",
        "NAME...",
    ),
    _words(
        "--speech-layer",
        METHOD,
        "Layer of the speech model; 0 is the input of its transformer. Encoding takes several.",
        "N...",
    ),
    _setting("--pooling", "target.pooling", METHOD, "A window's mean, or its time course."),
    _setting(
        "--voice-activity/--no-voice-activity",
        "windows.voice_activity",
        METHOD,
        "Leave out windows in which nobody speaks. [default: off]",
    ),
    _setting("--encoder", "encoder.preset", METHOD, "Brain encoder; small suits CPUs."),
    _setting(
        "--spatial",
        "encoder.spatial",
        METHOD,
        "How channels enter the encoder: by name (none), or by position (attention).",
    ),
    _setting("--band", "encoding.bands", METHOD, f"Encoding: {', '.join(BANDS)}.", "BAND..."),
    _setting("--fmri-task", "fmri.task", METHOD, "Tuning: task of the BOLD runs.", "TASK"),
    _setting(
        "--bold-dir",
        "fmri.bold_dir",
        METHOD,
        "Tuning: derivatives of fMRIPrep. [default: the func files of BIDS_DIR]",
        "DIR",
    ),
    _setting(
        "--fmri-participants", "fmri.participants", METHOD, "Tuning: one model of all, or one each."
    ),
    _setting(
        "--control",
        "fmri.controls",
        METHOD,
        "Tuning: also tune controls: BOLD downsampled, its phases randomised, stories shuffled.",
        "CONTROL...",
    ),
    _setting(
        "--experiments",
        "experiments.names",
        METHOD,
        f"Train many models to answer: {', '.join(EXPERIMENTS)}; or all.",
        "NAME...",
    ),
    _folder("--config", METHOD, "TOML file with any setting; what is typed wins.", "FILE"),
    _folder(
        "--compare-to",
        ACTION,
        "Group level: derivatives of the same participants made with another --target.",
        "DIR",
    ),
    _switch(
        "--pool",
        ACTION,
        "Group level: pretrain one encoder of all participants, and one without each, for "
        "--init-from; write no tables.",
    ),
    _words("--steps", ACTION, f"Only some of the steps: {_steps()}. [default: all]", "STEP,..."),
    _switch("--reports-only", ACTION, "Only write the reports again, from what is there."),
    _switch(
        "--dry-run",
        ACTION,
        "Say which files, channels and windows would be used, and what is left out and why;"
        " write nothing.",
    ),
    _switch("--stop-on-first-crash", ACTION, "Stop at the first recording that fails."),
    _folder("-w --work-dir", RUN, "For checkpoints and such. [default: OUTPUT_DIR/.work]", "DIR"),
    _setting("--device", "run.device", RUN, "auto, cpu, cuda, cuda:1 or mps.", "DEVICE"),
    _setting("--precision", "run.precision", RUN, "Precision of the training."),
    _setting("--seed", "run.seed", RUN, "Seed of everything random.", "N"),
    _setting(
        "--n-procs",
        "run.n_procs",
        RUN,
        "CPU threads; 0 means OMP_NUM_THREADS, else all cores.",
        "N",
    ),
    _setting(
        "--mem-gb",
        "run.mem_gb",
        RUN,
        "Memory to plan with: a signal above a quarter of it is kept in half precision.",
        "GB",
    ),
    _switch("-v --verbose", RUN, "Say more; -vv also where an error arose.", count=True),
)
