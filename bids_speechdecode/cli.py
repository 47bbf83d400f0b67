"""The command line: BIDS-App arguments -> (Request, Config) -> workflow -> exit status.

Nothing heavy is imported before the arguments are understood, so ``--help`` and mistakes are
answered at once.
"""

from __future__ import annotations

import logging
import os
import shlex
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from bids_speechdecode import __version__
from bids_speechdecode.arguments import (
    POSITIONALS,
    USAGE,
    Grammar,
    arrange,
    read_labels,
    split_words,
)
from bids_speechdecode.config import (
    EXPERIMENTS,
    LEVELS,
    STEPS_OF,
    WITHOUT_MODEL,
    Config,
    Request,
    load_config,
    override,
)
from bids_speechdecode.errors import (
    ElsewhereError,
    MissingInputError,
    UnknownLevelError,
    UsageError,
    did_you_mean,
)
from bids_speechdecode.failures import explain, termination
from bids_speechdecode.options import OPTIONS, RUN, Option
from bids_speechdecode.progress import shown
from bids_speechdecode.validation import unknown

PROGRAM = "bids_speechdecode"

DESCRIPTION = """Decodes heard speech from intracranial EEG: contrastive pretraining on ambient
speech, finetuning on a listening task, and honest ranks with baselines and chance levels, for
each participant of an iEEG-BIDS dataset; then the group. Other analyses predict each electrode from
a speech model (encoding) and tune that model on fMRI of people who listen (fmri-tuning)."""

EXAMPLES = """\
Examples:
  bids_speechdecode /data /out participant --participant-label 01 02
  bids_speechdecode /data /out group
  bids_speechdecode /data /out participant --dry-run
  bids_speechdecode /data /out participant --target mel --encoder small
  bids_speechdecode /data /out participant --analysis fmri-tuning
  bids_speechdecode /data /out participant --analysis encoding --speech-model untuned tuned

Exit status:
  0 success, 1 failure, 16 not BIDS, 17 unknown level, 18 nothing selected,
  64 usage, 65 bad data, 66 missing input, 73 cannot write, 74 I/O error,
  75 try again later, 130 interrupted.
"""


class BidsAppCommand(click.Command):
    """A command that takes its arguments in the order in which people type them."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Bring the arguments into click's order and parse them."""
        return super().parse_args(ctx, arrange(args, grammar_of(self)))

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Return the words after ``Usage: bids_speechdecode``."""
        return [*POSITIONALS, "[OPTIONS]"]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the arguments and the options, by section."""
        with formatter.section("Arguments"):
            formatter.write_dl(list(zip(POSITIONALS, _POSITIONAL_HELP, strict=True)))
        sections: dict[str, list[tuple[str, str]]] = {option.section: [] for option in OPTIONS}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if isinstance(param, click.Option) and record is not None:
                sections[getattr(param, "section", RUN)].append(record)
        for section, records in sections.items():
            with formatter.section(section):
                formatter.write_dl(records, col_max=34)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples as they are typed, without wrapping."""
        formatter.write("\n" + EXAMPLES)


_POSITIONAL_HELP = (
    "The iEEG-BIDS dataset; it is only read.",
    "Where the derivatives go; not inside BIDS_DIR.",
    "participant: decode each participant. group: combine the participants' results.",
)


def grammar_of(command: click.Command) -> Grammar:
    """Return how many values follow each option of a click command."""
    kinds: dict[str, set[str]] = {"flags": {"-h", "--help"}, "single": set(), "lists": set()}
    for param in command.params:
        if isinstance(param, click.Option):
            one = "flags" if param.is_flag or param.count else "single"
            kinds["lists" if param.multiple else one].update(param.opts + param.secondary_opts)
    return Grammar(**{kind: frozenset(names) for kind, names in kinds.items()})


def parse(level: str, bids_dir: Path, output_dir: Path, **given: Any) -> tuple[Request, Config]:
    """Return what the arguments mean.

    Raises
    ------
    SpeechDecodeError
        Unknown level (17), contradicting or unknown values (64), absent dataset or file (66).
    """
    _check_level(level)
    _check_folders(bids_dir, given)
    if given["compare_to"] is not None and level != "group":
        raise UsageError(
            "--compare-to is of the group level",
            expected="group",
            found=level,
            fix="leave --compare-to out here and give it to the group level",
        )
    if given["pool"] and (level != "group" or given["analysis"] != "decoding"):
        raise UsageError(
            "--pool is of the group level of decoding",
            expected="group",
            found=f"{level} --analysis {given['analysis']}",
            fix="leave --pool out here; --init-from uses what it made",
        )
    labels = {
        field: read_labels(given[name], prefix, _spoken(name))
        for field, name, prefix in (
            ("participants", "participant_label", "sub-"),
            ("excluded", "exclude_participant_label", "sub-"),
        )
    }
    request = Request(
        bids_dir,
        output_dir,
        level,
        given["analysis"],
        **labels,
        steps=_steps(given["steps"], given["reports_only"], given["analysis"]),
        dry_run=given["dry_run"],
        reports_only=given["reports_only"],
        work_dir=given["work_dir"],
        filter_file=given["bids_filter_file"],
        database_dir=given["bids_database_dir"],
        compare_to=given["compare_to"],
        pool=given["pool"],
        stop_on_first_crash=given["stop_on_first_crash"],
        verbosity=given["verbose"],
    )
    config = _configure(given)
    if split_words(given["steps"]) and "experiments" in request.steps:
        _require_names(config)
    return request, config


def _require_names(config: Config) -> None:
    if not config.experiments.names:
        raise UsageError(
            "--steps names the step experiments, and no experiment is named",
            expected=f"--experiments with any of {', '.join((*EXPERIMENTS, 'all'))}",
            fix="add --experiments, or names in [experiments] of the --config file",
        )


def _check_level(level: str) -> None:
    if level not in LEVELS:
        raise UnknownLevelError(
            f"unknown analysis level {level!r}",
            expected=" or ".join(LEVELS),
            fix=did_you_mean(level, LEVELS) or f"the order is {USAGE}",
        )


def _check_folders(bids_dir: Path, given: Mapping[str, Any]) -> None:
    if not bids_dir.is_dir():
        raise MissingInputError(
            "the dataset folder does not exist", where=bids_dir, fix=f"the order is {USAGE}"
        )
    filters = given["bids_filter_file"]
    if filters is not None and not filters.is_file():
        raise MissingInputError("the file of --bids-filter-file does not exist", where=filters)
    for name in ("work_dir", "bids_database_dir"):
        if given[name] is not None and given[name].resolve().is_relative_to(bids_dir.resolve()):
            raise UsageError(
                f"{_spoken(name)} lies inside the input dataset, which is never written to",
                found=str(given[name]),
                fix="name a folder outside",
            )


def _steps(given: Sequence[str], reports_only: bool, analysis: str) -> tuple[str, ...]:
    """Return the steps to do, in their order."""
    known = STEPS_OF[analysis]
    wanted = split_words(given)
    for step in wanted:
        if step not in known:
            raise unknown(f"step of analysis {analysis}", step, known, "")
    if reports_only and wanted:
        raise UsageError("--reports-only and --steps contradict each other", fix="give only one")
    if reports_only:
        return ("report",)
    return tuple(step for step in known if step in wanted) or known


def _configure(given: Mapping[str, Any]) -> Config:
    """Return the settings: the defaults, then the file, then what was typed."""
    options = {option.setting: option for option in OPTIONS if option.setting}
    typed = {setting: given[option.name] for setting, option in options.items() if option.name}
    typed = {setting: value for setting, value in typed.items() if value not in (None, ())}
    for setting, prefix in (("inputs.sessions", "ses-"), ("inputs.runs", "run-")):
        if setting in typed:
            typed[setting] = read_labels(typed[setting], prefix, options[setting].opts[-1])
    lists = "anatomy.space", "selection.rules", "encoding.bands", "fmri.controls"
    for setting in (*lists, "experiments.names"):
        if setting in typed:
            typed[setting] = split_words(typed[setting])
            if not typed[setting]:  # as an unset variable of a shell gives it
                option = options[setting].opts[-1]
                raise UsageError(
                    f"{option} needs at least one value",
                    found="none",
                    fix=f"name one (--help says which there are), or leave {option} out",
                )
    if "selection.roi" in typed:  # "left insula" is one region
        typed["selection.roi"] = tuple(
            part.strip() for text in typed["selection.roi"] for part in text.split(",")
        )
    config = load_config(given["config"]) if given["config"] else Config()
    if given["analysis"] != "decoding" and config.target == Config().target:
        typed.setdefault("target.name", "wavlm")  # the encoding study's model [P]
    typed |= _speech_models(given)
    if given["analysis"] == "encoding" and "preprocess.reference" in typed:
        typed["encoding.reference"] = typed.pop("preprocess.reference")  # of another default
    if typed.get("target.name") in WITHOUT_MODEL and "target.model" in typed:
        raise UsageError(
            f"--target {typed['target.name']} uses no speech model",
            found=f"--speech-model {typed['target.model']}",
            fix="leave --speech-model out, or choose another --target",
        )
    spoken = {s: max(o.opts, key=len) for s, o in options.items()} | _SPOKEN_MODELS
    return override(config, typed, spoken=spoken)


_SPOKEN_MODELS = {
    "target.model": "--speech-model",
    "target.layer": "--speech-layer",
    "encoding.models": "--speech-model",
    "encoding.layers": "--speech-layer",
}


def _speech_models(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings behind the options of which encoding takes several values."""
    models = tuple(word for text in given["speech_model"] for word in _split_names(text))
    layers = split_words(given["speech_layer"])
    for text in layers:
        if not text.isdecimal():
            raise UsageError(
                f"--speech-layer cannot be {text!r}",
                expected="whole numbers from 0 to the number of layers of the speech model",
                found=" ".join(layers),
                fix="0 is the input of its transformer; the last is 12 in base models, 24 in "
                "large ones",
            )
    if given["analysis"] == "encoding":
        several = {"encoding.models": models, "encoding.layers": layers}
        return {name: values for name, values in several.items() if values}
    for option, values in (("--speech-model", models), ("--speech-layer", layers)):
        if len(values) > 1:
            raise UsageError(
                f"{option} takes one value here; several are compared by the analysis encoding",
                found=" ".join(values),
                fix="give one, or add --analysis encoding",
            )
    one = {"target.model": models, "target.layer": [int(text) for text in layers]}
    return {name: values[0] for name, values in one.items() if values}


def _split_names(text: str) -> list[str]:
    """Return names that commas separate; the name of a folder may hold one."""
    return [text] if Path(text).exists() else [word for word in text.split(",") if word]


def _print_version(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        click.echo(f"{PROGRAM} {__version__}")
        ctx.exit()


def _spoken(name: str) -> str:
    return "--" + name.replace("_", "-")


command = BidsAppCommand(
    PROGRAM,
    callback=parse,
    params=[
        click.Argument(["bids_dir"], type=click.Path(path_type=Path), metavar=POSITIONALS[0]),
        click.Argument(["output_dir"], type=click.Path(path_type=Path), metavar=POSITIONALS[1]),
        click.Argument(["level"], metavar=POSITIONALS[2]),
        *OPTIONS,
        Option(
            "--version",
            section=RUN,
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=_print_version,
            help="Show the version and exit.",
        ),
    ],
    help=DESCRIPTION,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status.

    Parameters
    ----------
    arguments : sequence of str, optional
        What follows the name of the program; by default what was typed.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        outcome = command.main(words, prog_name=PROGRAM, standalone_mode=False)
    except (Exception, KeyboardInterrupt) as error:
        return _fail(error, None)
    if isinstance(outcome, int):
        return outcome  # of --help and --version
    request, config = outcome
    return launch(request, config, shlex.join([PROGRAM, *words]))


def launch(request: Request, config: Config, typed: str) -> int:
    """Run the workflow; turn whatever goes wrong into a message and an exit status."""
    _set_threads(config.run.n_procs)
    try:
        with shown(_log_level(request.verbosity)), termination():
            # Imported here: it takes seconds, which a mistake in the arguments need not.
            from bids_speechdecode.workflow import run

            return run(request, config, typed)
    except (Exception, KeyboardInterrupt) as error:
        return _fail(error, request)


def _fail(error: BaseException, request: Request | None) -> int:
    """Say on stderr what went wrong; return the exit status."""
    status, message = explain(error, request)
    if _is_other_rank() and (
        request is None or isinstance(error, ElsewhereError | KeyboardInterrupt)
    ):
        return status  # the main process says why
    print(f"{PROGRAM}: {message}", file=sys.stderr, flush=True)
    if request is not None and request.verbosity >= 2:
        traceback.print_exception(error)
    return status


def _set_threads(n_procs: int) -> None:
    """Bound the threads of the numerical libraries, which read this when they are imported."""
    if n_procs:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            os.environ[name] = str(n_procs)


def _log_level(verbosity: int) -> int:
    """Return what is shown; of several processes only the first one speaks."""
    if _is_other_rank():
        return logging.ERROR
    return logging.DEBUG if verbosity else logging.INFO


def _is_other_rank() -> bool:
    """Return whether torchrun started this process to help a main one."""
    return int(os.environ.get("RANK", "0")) > 0
