"""Write boutiques.json from the click command: ``python tools/boutiques_descriptor.py``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from bids_speechdecode import __version__, errors
from bids_speechdecode.cli import DESCRIPTION, command
from bids_speechdecode.config import LEVELS
from bids_speechdecode.options import Option

PATH = Path(__file__).resolve().parents[1] / "boutiques.json"

# What validators of BIDS-App descriptors expect to come first, in this order.
FIRST = ("participant_label", "session_label")


def describe() -> dict[str, Any]:
    """Return the descriptor of the command as it is now."""
    # --help and --version end at once: they are no inputs of a pipeline.
    options = [p for p in command.params if isinstance(p, Option) and p.expose_value]
    options.sort(key=_place)
    keys = " ".join(f"[{_name(option).upper()}]" for option in options)
    return {
        "name": "bids_speechdecode",
        "tool-version": __version__,
        "schema-version": "0.5",
        "description": " ".join(DESCRIPTION.split()),
        "author": "the bids_speechdecode developers",
        "command-line": "mkdir -p [OUTPUT_DIR]; bids_speechdecode [BIDS_DIR] [OUTPUT_DIR]"
        f" [ANALYSIS_LEVEL] {keys}",
        "inputs": [*_positionals(), *map(_describe_option, options)],
        "groups": [
            {
                "id": "output_directory",
                "name": "Output directory",
                "description": "The same place in two types, which descriptors of BIDS Apps have.",
                "members": ["output_dir_name", "output_dir"],
                "mutually-exclusive": True,
                "one-is-required": True,
            }
        ],
        "output-files": [
            {
                "id": "derivatives",
                "name": "Derivatives",
                "description": "BIDS derivatives and reports.",
                "path-template": "[OUTPUT_DIR]",
                "optional": False,
            }
        ],
        "error-codes": _error_codes(),
        "tags": {"domain": ["neuroinformatics", "bids", "bids-app", "ieeg", "speech"]},
        "suggested-resources": {"cpu-cores": 4, "ram": 16, "walltime-estimate": 14400},
    }


def _place(option: Option) -> int:
    name = _name(option)
    return FIRST.index(name) if name in FIRST else len(FIRST)


def _name(option: Option) -> str:
    return str(option.name)


def _positionals() -> list[dict[str, Any]]:
    # The BIDS rules of bosh want a String and a File with one key, of which bosh itself puts only
    # the first into the command line: output_dir_name serves both levels.
    out = {"value-key": "[OUTPUT_DIR]", "optional": True}
    return [
        {
            "id": "bids_dir",
            "name": "BIDS directory",
            "description": "The iEEG-BIDS dataset; it is only read.",
            "type": "File",
            "value-key": "[BIDS_DIR]",
            "optional": False,
        },
        {
            "id": "output_dir_name",
            "name": "Output directory name",
            "description": "Where the derivatives go: a new name, or for the group level the folder"
            " that the participant level wrote.",
            "type": "String",
            **out,
        },
        {
            "id": "output_dir",
            "name": "Existing output directory",
            "description": "An existing folder, for platforms that bring folders to where a tool"
            " runs; bosh itself needs the name instead.",
            "type": "File",
            **out,
        },
        {
            "id": "analysis_level",
            "name": "Analysis level",
            "description": "participant: decode each participant. group: combine the results.",
            "type": "String",
            "value-choices": list(LEVELS),
            "value-key": "[ANALYSIS_LEVEL]",
            "optional": False,
        },
    ]


def _describe_option(option: Option) -> dict[str, Any]:
    name = _name(option)
    entry = {
        "id": name,
        "name": name.replace("_", " ").capitalize(),
        "description": str(option.help),
        "value-key": f"[{name.upper()}]",
        "command-line-flag": max(option.opts, key=len),
        "optional": True,
    }
    if option.is_flag or option.count:
        return entry | {"type": "Flag"}
    if option.multiple:
        return entry | {"type": "String", "list": True, "min-list-entries": 1}
    if isinstance(option.type, click.Choice):
        return entry | {"type": "String", "value-choices": list(option.type.choices)}
    if isinstance(option.type, (click.types.IntParamType, click.types.FloatParamType)):
        whole = isinstance(option.type, click.types.IntParamType)
        return entry | {"type": "Number", **({"integer": True} if whole else {})}
    # A work or index folder may be new; only a file that is read has to be there.
    read = isinstance(option.type, click.Path) and option.metavar == "FILE"
    return entry | {"type": "File" if read else "String"}


def _error_codes() -> list[dict[str, Any]]:
    """Return the exit statuses and what they mean, from the classes of the errors."""
    kinds = [errors.SpeechDecodeError, *errors.SpeechDecodeError.__subclasses__()]
    return [
        {
            "code": kind.exit_code,
            "description": "Failure."
            if kind is errors.SpeechDecodeError
            else str(kind.__doc__).split(" (")[0] + ".",
        }
        for kind in sorted(kinds, key=lambda kind: kind.exit_code)
    ]


def to_json(descriptor: dict[str, Any]) -> str:
    """Return the text of the file."""
    return json.dumps(descriptor, indent=2) + "\n"


if __name__ == "__main__":
    PATH.write_text(to_json(describe()))
    print(PATH)
