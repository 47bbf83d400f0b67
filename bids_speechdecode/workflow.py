"""The ordered steps of the participant and group levels, and what happens when one fails."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import click

from bids_speechdecode.audio.text_target import target_fingerprint
from bids_speechdecode.bids.dataset import (
    Dataset,
    Recording,
    list_recordings,
    open_dataset,
    require_known_task,
    require_tasks,
    select_participants,
)
from bids_speechdecode.bids.derivatives import Derivatives, check_output
from bids_speechdecode.bids.files import sweep_leftovers
from bids_speechdecode.config import Config, Request
from bids_speechdecode.decoding.distributed import (
    choose_device,
    disconnected_at_the_end,
    is_main_process,
    n_processes,
    on_main,
)
from bids_speechdecode.errors import (
    CannotWriteError,
    DataError,
    InputOutputError,
    MissingInputError,
    NothingSelectedError,
    SpeechDecodeError,
    UsageError,
)
from bids_speechdecode.progress import Progress
from bids_speechdecode.steps.context import WORK, Context
from bids_speechdecode.steps.contribute import contribute
from bids_speechdecode.steps.encoding.group import summarise_encoding
from bids_speechdecode.steps.encoding.run import prepare_config, run_encoding, show_models
from bids_speechdecode.steps.evaluate import evaluate
from bids_speechdecode.steps.experiments.run import run_experiments, show_experiments
from bids_speechdecode.steps.features import compute_features
from bids_speechdecode.steps.finetune import finetune
from bids_speechdecode.steps.group import (
    map_contributions,
    report_group,
    show_group,
    summarise,
    summarise_experiments,
)
from bids_speechdecode.steps.make_plan import plan_participant, plan_recordings
from bids_speechdecode.steps.plan import PRETRAIN, ParticipantPlan
from bids_speechdecode.steps.pool import foresee_pooling, pool
from bids_speechdecode.steps.preprocess import preprocess_recording, require_preprocessed
from bids_speechdecode.steps.pretrain import pretrain
from bids_speechdecode.steps.record import (
    attach_log,
    read_left_out,
    show_plan,
    show_recordings,
    show_selection,
    start_log,
    write_plan,
)
from bids_speechdecode.steps.report import report_participant, show_participant
from bids_speechdecode.steps.select import foresee, require_selected, select
from bids_speechdecode.steps.start import find_start
from bids_speechdecode.steps.tuning.tune import plan_tuning, tune_models

log = logging.getLogger(__name__)


@disconnected_at_the_end()
def run(request: Request, config: Config, command: str) -> int:
    """Run the command of `request`; return the exit status.

    Raises
    ------
    SpeechDecodeError
        With its exit status; of several participants that failed, the first one's is returned.
    """
    config = prepare_config(config, request.analysis, request.output_dir)
    if request.analysis == "fmri-tuning":
        return _tune(request, config, command)
    if request.pool:
        return _pool(request, config, command)
    if request.level == "group":
        if is_main_process():  # there is nothing to share out
            dataset, out, participants = _open(request, config, command)
            run_group(out, participants, request, config, command)
        return 0
    dataset, out, participants = on_main(lambda: _open(request, config, command))
    if request.analysis == "encoding" and not request.reports_only:
        told = on_main(lambda: show_models(config, out.root))  # an absent one is told once
        if request.dry_run:
            click.echo(told)
    if len(participants) == 1:
        run_participant(dataset, out, participants[0], request, config, command)
        return 0
    statuses = [_guarded(dataset, out, p, request, config, command) for p in participants]
    failed = [p for p, status in zip(participants, statuses, strict=True) if status]
    if failed:
        log.error(
            "%d of %d participants failed: %s; exit status %d",
            len(failed),
            len(participants),
            ", ".join(f"sub-{p}" for p in failed),
            next(filter(None, statuses)),
        )
    return next(filter(None, statuses), 0)


def _tune(request: Request, config: Config, command: str) -> int:
    """Tune speech models on fMRI; this has no group level, since models may join participants."""
    if request.level == "group":
        raise UsageError(
            "fMRI tuning has no group level",
            expected="participant",
            found="group",
            fix="run the participant level; --fmri-participants joint tunes one model of all",
        )
    if request.reports_only:
        raise UsageError(
            "fMRI tuning has no report of its own",
            found="--reports-only",
            fix="leave it out; tuning.json of each model says how its tuning went",
        )
    dataset, out, participants = _open(request, config, command)
    device = choose_device(config.run.device)
    work_dir = request.work_dir or out.root / WORK
    groups = plan_tuning(dataset, participants, config, work_dir, Progress(), device)
    if not request.dry_run:
        _open_output(out, request, config)
    tune_models(groups, out, dry_run=request.dry_run)
    return 0


def _pool(request: Request, config: Config, command: str) -> int:
    """Pretrain on several participants together, from what the participant level prepared."""
    if config.inputs.pretrain_task == "none":
        raise UsageError(
            "pooling needs recordings for pretraining",
            expected="a pretraining task",
            found="--pretrain-task none",
        )
    dataset, out, participants = _open(request, config, command)
    work_dir, device = request.work_dir or out.root / WORK, choose_device(config.run.device)
    contexts = []
    for participant in participants:
        known = read_left_out(out, participant)
        recordings = _list(dataset, participant, request, config)
        try:
            plan = _plan(dataset, participant, recordings, request, config, known)
        except NothingSelectedError as error:
            log.warning("sub-%s is not pooled: %s", participant, error.problem)
            continue
        contexts.append(Context(plan, out, config, work_dir, Progress(), device))
    if request.dry_run:
        click.echo(foresee_pooling(contexts))
    else:
        pool(contexts)
    return 0


def _open(
    request: Request, config: Config, command: str
) -> tuple[Dataset, Derivatives, tuple[str, ...]]:
    """Return the dataset, the derivatives and the participants that are asked for."""
    check_output(request.bids_dir, request.output_dir)
    dataset = open_dataset(request.bids_dir, validate=not config.inputs.skip_bids_validation)
    out = Derivatives(
        request.output_dir, source=dataset.root, command=command, simulated=dataset.simulated
    )
    participants = select_participants(
        dataset,
        request.participants,
        request.excluded,
        datatype="func" if request.analysis == "fmri-tuning" else "ieeg",
    )
    if request.level == "participant" and request.analysis != "fmri-tuning":
        for task, option in _tasks(config):
            require_known_task(dataset, participants, task, option)
    if request.level == "participant" and not request.dry_run:
        out.check_owner()
        sweep_leftovers(out.root)
    return dataset, out, participants


def run_group(
    out: Derivatives,
    participants: Sequence[str],
    request: Request,
    config: Config,
    command: str,
) -> None:
    """Run the group level on the derivatives of the participants, or list what it would read.

    Raises
    ------
    MissingInputError
        No participant has results yet.
    """
    if not out.root.is_dir():
        raise MissingInputError(
            "there are no results of the participant level yet",
            expected="derivatives of at least one participant",
            where=out.root,
            fix="run the participant level first",
        )
    if request.compare_to and not request.compare_to.is_dir():
        raise MissingInputError(
            "the derivatives to compare with do not exist",
            expected="the output folder of a run of the same participants with another --target",
            where=request.compare_to,
            fix="run the participant level into that folder first, or correct --compare-to",
        )
    if request.compare_to and request.analysis == "encoding":
        raise UsageError(
            "--compare-to compares targets of decoding",
            fix="leave it out; encoding compares the models of --speech-model in each participant",
        )
    if request.dry_run:
        click.echo("the group level would read the results of: " + ", ".join(participants))
        return
    if not request.reports_only:
        if request.analysis == "encoding":
            click.echo(summarise_encoding(out, participants, config))
        else:
            summary = summarise(out, participants, config)
            map_contributions(out, participants, config, request.compare_to)
            summarise_experiments(out, participants, config)
            click.echo(show_group(summary))
    report_group(out, command)


def _guarded(
    dataset: Dataset,
    out: Derivatives,
    participant: str,
    request: Request,
    config: Config,
    command: str,
) -> int:
    """Run one of several participants; a failure is told and does not stop the others."""
    try:
        run_participant(dataset, out, participant, request, config, command)
    except SpeechDecodeError as error:
        # Other processes may be elsewhere in the work of this participant, and where one
        # participant's results cannot be written, nobody's can.
        nobody = isinstance(error, CannotWriteError | InputOutputError | UsageError)
        if request.stop_on_first_crash or n_processes() > 1 or nobody:
            raise
        log.error("sub-%s failed (exit status %d): %s", participant, error.exit_code, error)
        return error.exit_code
    return 0


def run_participant(
    dataset: Dataset,
    out: Derivatives,
    participant: str,
    request: Request,
    config: Config,
    command: str,
) -> None:
    """Run the participant level of one participant, or show what it would do.

    Raises
    ------
    SpeechDecodeError
        When nothing usable is left for one of the needed tasks, or a step fails.
    """
    plan = on_main(lambda: _first_plan(dataset, out, participant, request, config))
    device = choose_device(config.run.device)
    work_dir = request.work_dir or out.root / WORK
    context = Context(plan, out, config, work_dir, Progress(), device)
    if {"pretrain", "finetune"} & set(request.steps):
        on_main(lambda: find_start(context))  # what does not fit is told before hours of work
    if request.dry_run:
        if "experiments" in request.steps and config.experiments.names:
            on_main(lambda: click.echo(show_experiments(context)))
        return
    if request.steps == ("report",):
        _require_results(out, participant, request.analysis)
    on_main(lambda: _open_output(out, request, config))
    with _logged(context, command) as log_dir:
        if request.analysis == "encoding":
            on_main(lambda: run_encoding(request, context, command, log_dir))
            return
        _run_steps(dataset, request, context, command, log_dir)


def _require_results(out: Derivatives, participant: str, analysis: str) -> None:
    """Raise where a report would have nothing to tell; one with gaps names them itself."""
    pattern = "*_desc-encoding_scores.tsv" if analysis == "encoding" else "*_desc-*"
    if not any((out.root / f"sub-{participant}").rglob(pattern)):
        raise MissingInputError(
            f"there is nothing to report of sub-{participant}",
            expected=f"results of --analysis {analysis}: files {pattern}",
            where=out.root,
            fix="run the same command without --reports-only and --steps, or correct OUTPUT_DIR",
        )


def _first_plan(
    dataset: Dataset, out: Derivatives, participant: str, request: Request, config: Config
) -> ParticipantPlan:
    """Return the plan before any signal is read; show it where that is all that is asked for."""
    # What decoding left out in the same output, such as other tasks, encoding may use.
    fresh = request.dry_run or "preprocess" in request.steps or request.analysis == "encoding"
    known = {} if fresh else read_left_out(out, participant)
    recordings = _list(dataset, participant, request, config)
    if request.dry_run:
        click.echo(f"sub-{participant}: {len(recordings)} recordings in the dataset")
        click.echo(show_recordings(recordings))
    plan = _plan(dataset, participant, recordings, request, config, known)
    if request.dry_run:
        click.echo(show_plan(plan, config))
    if {"select", "encode"} & set(request.steps) and not request.reports_only:
        located, chosen = foresee(plan, config)
        if request.dry_run:
            click.echo(show_selection(located, chosen, config))
    return plan


def _open_output(out: Derivatives, request: Request, config: Config) -> None:
    if request.analysis != "encoding" and set(request.steps) - {"preprocess", "report"}:
        target_fingerprint(config.target)  # an absent model is told before hours of work
    out.initialise()  # only now: a mistake in the input leaves nothing behind


@contextmanager
def _logged(context: Context, command: str) -> Iterator[Path | None]:
    """Keep settings, versions and log lines of this run; only the main process does."""
    if not is_main_process():
        yield None
        return
    folder = start_log(context, command)
    handler = attach_log(folder)
    try:
        yield folder
    except BaseException as error:
        # Whoever catches it tells the person; the traceback is for the file alone.
        trace = (type(error), error, error.__traceback__)
        record = log.makeRecord(log.name, logging.ERROR, __file__, 0, "%s", (error,), trace)
        handler.handle(record)
        raise
    finally:
        logging.getLogger("bids_speechdecode").removeHandler(handler)
        handler.close()


def _run_steps(
    dataset: Dataset, request: Request, context: Context, command: str, log_dir: Path | None
) -> None:
    plan = on_main(lambda: _prepare(dataset, request, context))
    context = replace(context, plan=plan)
    on_main(lambda: _select(request, context))
    if "pretrain" in request.steps and context.plan.select(PRETRAIN):
        pretrain(context)
    if "finetune" in request.steps:
        finetune(context)
    on_main(lambda: _conclude(request, context, command, log_dir))


def _select(request: Request, context: Context) -> None:
    if "select" in request.steps:
        select(context)
    elif set(request.steps) & {"pretrain", "finetune", "evaluate", "contributions"}:
        require_selected(context)


def _conclude(request: Request, context: Context, command: str, log_dir: Path | None) -> None:
    if "evaluate" in request.steps:
        evaluate(context)
    if "contributions" in request.steps:
        contribute(context)
    if "experiments" in request.steps and context.config.experiments.names:
        run_experiments(context)
    if "report" in request.steps:
        report_participant(context, command, log_dir)
        click.echo(show_participant(context))
    _say_how_it_ended(context.plan)


def _list(
    dataset: Dataset, participant: str, request: Request, config: Config
) -> tuple[Recording, ...]:
    return list_recordings(
        dataset,
        participant,
        sessions=config.inputs.sessions,
        runs=config.inputs.runs,
        filter_file=request.filter_file,
        database_dir=request.database_dir,
    )


def _tasks(config: Config) -> list[tuple[str, str]]:
    """Return the tasks that are needed, each with the option that names it."""
    tasks = [(config.inputs.finetune_task, "--finetune-task (or --task-label)")]
    if config.inputs.pretrain_task != "none":
        tasks.append((config.inputs.pretrain_task, "--pretrain-task"))
    return tasks


def _plan(
    dataset: Dataset,
    participant: str,
    recordings: Sequence[Recording],
    request: Request,
    config: Config,
    unusable: dict[str, str],
) -> ParticipantPlan:
    for task, option in _tasks(config):
        require_tasks(recordings, task, option)
    make = plan_recordings if request.analysis == "encoding" else plan_participant
    return make(
        dataset,
        participant,
        recordings,
        config,
        unusable=unusable,
        stop_on_first_crash=request.stop_on_first_crash,
    )


def _prepare(dataset: Dataset, request: Request, context: Context) -> ParticipantPlan:
    """Make signals and targets; plan again without recordings whose samples cannot be used.

    A recording that drops out can move the splits of the others, so the pass is repeated
    until it finds nothing new; what is current by then is skipped.
    """
    for label, error in context.plan.errors:
        _warn(label, error)
    unusable: dict[str, str] = {}
    while True:
        errors = _make_signals_and_targets(request, context)
        if not errors:
            return context.plan
        for label, error in errors.items():
            _warn(label, error)
            unusable[label] = str(error)
        recordings = _list(dataset, context.participant, request, context.config)
        plan = _plan(dataset, context.participant, recordings, request, context.config, unusable)
        context = replace(context, plan=plan)


def _make_signals_and_targets(request: Request, context: Context) -> dict[str, DataError]:
    """Preprocess and compute the targets; return the errors of unusable recordings.

    Raises
    ------
    DataError
        A recording cannot be used and may not be left out: on request, or because an earlier
        command preprocessed the others on the understanding that it takes part.
    """
    errors: dict[str, DataError] = {}
    if "preprocess" in request.steps:
        for planned in context.plan.recordings:
            try:
                preprocess_recording(context, planned)
            except DataError as error:
                if request.stop_on_first_crash:
                    raise
                errors[planned.label] = error
    elif set(request.steps) - {"features", "report"}:
        require_preprocessed(context)
    if errors:
        return errors
    write_plan(context)
    if "features" in request.steps:
        errors = compute_features(context)
    if errors and (request.stop_on_first_crash or "preprocess" not in request.steps):
        raise next(iter(errors.values()))
    return errors


def _warn(label: str, error: SpeechDecodeError) -> None:
    """Name a recording that is left out; the report has the whole story."""
    log.warning("%s is left out: %s", label, error.problem.splitlines()[0])


def _say_how_it_ended(plan: ParticipantPlan) -> None:
    broken = len(plan.errors)
    log.info(
        "sub-%s done with %d recordings%s",
        plan.participant,
        len(plan.recordings),
        f"; {broken} left out because they cannot be used (see the report)" if broken else "",
    )
