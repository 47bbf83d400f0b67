"""Command line: ``python -m bids_speechdecode.simulate OUT``."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import click

from bids_speechdecode.errors import SpeechDecodeError, UsageError
from bids_speechdecode.simulate import PRESETS, SimulationSettings, simulate_dataset
from bids_speechdecode.simulate.settings import FORMATS

_HELP = {
    "participants": "number of participants",
    "days": "days of recording, one session each",
    "ambient_runs": "ambient recordings per day",
    "ambient_minutes": "minutes of each ambient recording",
    "audiobook_minutes": "minutes of the audiobook, all chapters together",
    "chapters": "chapters of the audiobook, one run each",
    "sampling_rate": "of the recordings, in hertz",
    "shafts": "sEEG shafts per participant",
    "contacts": "contacts per shaft",
    "best_correlation": "of the best contact's response with response plus background",
    "line_frequency": "of the mains, in hertz",
    "seed": "the same seed gives the same bytes",
}


def _options(command: Any) -> Any:
    """Give the command one option per setting; unset ones are the preset's."""
    for field in reversed(dataclasses.fields(SimulationSettings)):
        name = f"--{field.name.replace('_', '-')}"
        if field.name == "format":
            option = click.option(name, type=click.Choice(FORMATS), help="of the recordings")
        else:
            kind = type(field.default)
            option = click.option(name, type=kind, help=_HELP[field.name])
        command = option(command)
    return command


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--preset", type=click.Choice(list(PRESETS)), default="demo", show_default=True)
@_options
def command(out: Path, preset: str, **options: Any) -> None:
    """Write a simulated iEEG-BIDS dataset with known truth to the new folder OUT."""
    given = {name: value for name, value in options.items() if value is not None}
    simulate_dataset(out, preset=preset, **given)
    click.echo(f"simulated dataset written to {out}")


def main() -> int:
    """Run the command and return its exit status."""
    try:
        command.main(prog_name="python -m bids_speechdecode.simulate", standalone_mode=False)
    except click.exceptions.Abort:
        return 1
    except click.ClickException as error:
        error.show()
        return UsageError.exit_code
    except SpeechDecodeError as error:
        click.echo(f"error: {error}", err=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
