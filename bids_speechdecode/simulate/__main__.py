"""Command line: ``python -m bids_speechdecode.simulate OUT``."""

from __future__ import annotations

import dataclasses
import logging
import sys
from pathlib import Path
from typing import Any

import click

from bids_speechdecode.errors import SpeechDecodeError, UsageError
from bids_speechdecode.simulate import (
    PAIR_PRESETS,
    PRESETS,
    PairSettings,
    SimulationSettings,
    simulate_dataset,
)
from bids_speechdecode.simulate.settings import FORMATS, LATENTS

_HELP = {
    "participants": "number of participants (with iEEG)",
    "days": "days of recording, one session each",
    "ambient_runs": "ambient recordings per day",
    "night_runs": "further ambient recordings per day, in the night",
    "ambient_minutes": "minutes of each ambient recording",
    "audiobook_minutes": "minutes of the audiobook, all chapters together",
    "chapters": "chapters of the audiobook, one run each",
    "sampling_rate": "of the recordings, in hertz",
    "shafts": "sEEG shafts per participant",
    "contacts": "contacts per shaft",
    "best_correlation": "of the best contact's response with response plus background",
    "fmri_participants": "number of participants with fMRI (pair)",
    "podcast_minutes": "minutes of the podcast that is heard with iEEG (pair)",
    "stories": "stories heard with fMRI, one run each (pair)",
    "story_minutes": "minutes of each story (pair)",
    "change": "size of the planted change of the speech model, relative to its weights (pair)",
    "best_voxel_correlation": "of the best voxel's signal with signal plus noise (pair)",
    "repetition_time": "of the fMRI, in seconds (pair)",
    "voxels": "along each edge of the volume (pair)",
    "loudness_only": "contacts follow how loud it is and nothing else",
    "meaning": "of the best contact's response to the topics of the words, beside that to sound",
    "response_drift": "radians a day by which responses turn into others",
    "offset_drift": "of a rhythm that changes over days, relative to the background",
    "gain_drift": "of an electrode's gain from day to day, standard deviation of its logarithm",
    "gain_swing": "of an electrode's gain within a recording, over minutes, in the same unit",
    "line_frequency": "of the mains, in hertz",
    "seed": "the same seed gives the same bytes",
}


def _options(command: Any) -> Any:
    """Give the command one option per setting; unset ones are the preset's."""
    fields = {
        field.name: field
        for settings in (SimulationSettings, PairSettings)
        for field in dataclasses.fields(settings)
    }
    for field in reversed(fields.values()):
        name = f"--{field.name.replace('_', '-')}"
        if field.name == "latent":
            option = click.option(
                "--truth",
                "latent",
                type=click.Choice(LATENTS),
                help="what is followed: features of a changed speech model, or its own (pair)",
            )
        elif field.name == "format":
            option = click.option(name, type=click.Choice(FORMATS), help="of the recordings")
        else:
            kind = type(field.default)
            flag: dict[str, Any] = {"is_flag": True, "default": None} if kind is bool else {}
            option = click.option(name, type=kind, help=_HELP[field.name], **flag)
        command = option(command)
    return command


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--preset", type=click.Choice([*PRESETS, *PAIR_PRESETS]), default="demo", show_default=True
)
@_options
def command(out: Path, preset: str, **options: Any) -> None:
    """Write a simulated iEEG-BIDS dataset with known truth to the new folder OUT."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("bids_speechdecode.simulate").setLevel(logging.INFO)
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
