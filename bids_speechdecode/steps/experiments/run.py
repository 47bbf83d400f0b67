"""Step ``experiments``: the cells of every experiment that is asked for, and what they say."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from bids_speechdecode.bids.files import invalidate, write_tsv
from bids_speechdecode.bids.sidecars import read_sidecar, signature, write_sidecar
from bids_speechdecode.config import EXPERIMENTS
from bids_speechdecode.errors import MissingInputError, UsageError
from bids_speechdecode.group.experiments import experiment_word
from bids_speechdecode.steps.channels import selected_file
from bids_speechdecode.steps.context import Context
from bids_speechdecode.steps.experiments.arms import targets
from bids_speechdecode.steps.experiments.cells import (
    BusyError,
    claimed,
    is_done,
    read_scored,
    score_of,
)
from bids_speechdecode.steps.experiments.controls import controls
from bids_speechdecode.steps.experiments.daynight import day_night
from bids_speechdecode.steps.experiments.drift import drift
from bids_speechdecode.steps.experiments.encoders import encoders
from bids_speechdecode.steps.experiments.findings import Experiment, as_table, tabulate
from bids_speechdecode.steps.experiments.grid import WAIT, foresee_grid, run_grid
from bids_speechdecode.steps.experiments.pooled import pooled
from bids_speechdecode.steps.experiments.scaling import finetune_size, scaling
from bids_speechdecode.steps.experiments.transfer import zero_shot
from bids_speechdecode.steps.experiments.variants import is_prepared

log = logging.getLogger(__name__)

VERSION = 2
MAKERS: dict[str, Callable[[Context], Experiment]] = {
    "scaling": scaling,
    "finetune-size": finetune_size,
    "targets": targets,
    "encoders": encoders,
    "pooled": pooled,
    "controls": controls,
    "zero-shot": zero_shot,
    "day-night": day_night,
    "drift": drift,
}


def list_experiments(context: Context) -> list[Experiment]:
    """Return the experiments that are asked for; of ``all``, those that can be made.

    Raises
    ------
    SpeechDecodeError
        One that was asked for by its name cannot be made.
    """
    names = context.config.experiments.names
    if "all" not in names:
        return [MAKERS[name](context) for name in dict.fromkeys(names)]
    made = []
    for name in EXPERIMENTS:
        try:
            made.append(MAKERS[name](context))
        except (MissingInputError, UsageError) as error:
            log.warning("experiment %s is left out: %s", name, error.problem)
    return made


def show_experiments(context: Context) -> str:
    """Return every cell, whether it is done, and what the rest will cost, in words."""
    experiments = list_experiments(context)
    n = len({cell for e in experiments for cell in e.cells})
    if not selected_file(context).exists():
        return f"experiments: {n} cells, none done (their channels are not selected yet)"
    if not is_prepared(context):
        # What is done now was made from other signals or channels.
        return f"experiments: {n} cells, to be made after preprocess and select (inputs changed)"
    lines = []
    for experiment in experiments:
        lines.append(f"experiment {experiment.name}:")
        for cell, factors in experiment.cells.items():
            what = ", ".join(
                f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
                for name, value in factors.items()
                if value != ""
            )
            lines.append(f"  {what}: {'done' if is_done(context, cell) else 'to do'}")
    outlook = foresee_grid(context, [cell for e in experiments for cell in e.cells])
    return "\n".join([*lines, f"experiments: {outlook}"])


def run_experiments(context: Context) -> None:
    """Make the cells of all experiments, then write the tables of each.

    Raises
    ------
    SpeechDecodeError
        Of the first cell that could not be made, once all that does not need it is written.
    """
    experiments = list_experiments(context)
    if "all" in context.config.experiments.names:
        for name in set(EXPERIMENTS) - {experiment.name for experiment in experiments}:
            forget(context, name)
    failed = run_grid(context, [cell for experiment in experiments for cell in experiment.cells])
    for experiment in experiments:
        if errors := [failed[cell] for cell in experiment.cells if cell in failed]:
            log.warning(
                "experiment %s: %d of %d cells failed (%s)",
                experiment.name,
                len(errors),
                len(experiment.cells),
                errors[0].problem,
            )
        else:
            _conclude(context, experiment)
    for error in failed.values():
        raise error


def forget(context: Context, name: str) -> None:
    """Remove the tables of an experiment that can no longer be made; its cells stay.

    Reports would show them beside results of other inputs.
    """
    table = context.summary_file(experiment_word(name), "scores", ".tsv")
    files = read_sidecar(table).get("Bytes", {})
    if not files:
        return
    log.warning("experiment %s: tables of an earlier run are removed", name)
    invalidate(table)
    for file in files:
        (table.parent / file).unlink(missing_ok=True)


def _conclude(context: Context, experiment: Experiment) -> None:
    """Write what an experiment found, unless it is there or another process is at it."""
    word = experiment_word(experiment.name)
    cells = context.summary_file(word, "scores", ".tsv")
    key = _signature(context, experiment)
    while not context.out.is_current(cells, key):
        try:
            with claimed(context, cells):
                _write(context, experiment, word, cells, key)
        except BusyError:
            time.sleep(WAIT)


def _write(context: Context, experiment: Experiment, word: str, cells: Path, key: str) -> None:
    results = [(factors, read_scored(context, c)) for c, factors in experiment.cells.items()]
    found = experiment.analyse(results)
    findings = list(found.findings)
    tables = {"Findings": as_table(findings), **found.tables}
    files = {name: context.summary_file(f"{word}{name}", "scores", ".tsv") for name in tables}
    for name, table in tables.items():
        write_tsv(files[name], table.assign(simulated=context.plan.simulated))
    write_tsv(cells, tabulate(results).assign(simulated=context.plan.simulated))
    write_sidecar(
        cells,
        *files.values(),
        step="experiments",
        signature=key,
        Description=f"Experiment {experiment.name}: one row a model and what it was tested on",
        Text=[*(finding.text for finding in findings), *found.notes],
        Simulated=context.plan.simulated,
    )


def _signature(context: Context, experiment: Experiment) -> str:
    inputs = [score_of(context, cell)[1] for cell in experiment.cells]
    settings = {
        "experiment": experiment.name,
        "version": experiment.version,
        # The same cells may mean something else: hours, once windows have another stride.
        "factors": list(experiment.cells.values()),
    }
    return signature("experiments", VERSION, settings, [*inputs, *experiment.inputs()])
