"""In what two runs differ besides their target, so that a benefit is not credited to it alone."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from bids_speechdecode.bids.sidecars import read_table

# Settings that decide a rank, besides the target. The seed is the only one of its section.
_SECTIONS = (
    "preprocess",
    "selection",
    "windows",
    "splits",
    "encoder",
    "pretrain",
    "finetune",
)
_SINGLE = {("inputs", "pretrain_task"): "pretraining task", ("run", "seed"): "seed"}


def other_differences(root: Path, other: Path, participant: str, task: str) -> tuple[str, ...]:
    """Return in words what differs between two runs of a participant, besides the target.

    Compared are the kept channels and the settings of each run's latest ``config.toml``, where
    both folders have them: what only one of them tells cannot be said to differ.

    Parameters
    ----------
    root, other : path
        Folders of derivatives.
    participant : str
        Label without "sub-".

    Returns
    -------
    tuple of str
        Such as ("kept channels", "windows stride", "seed").
    """
    channels = [_kept_channels(folder, participant, task) for folder in (root, other)]
    settings = [_settings(folder / f"sub-{participant}" / "log") for folder in (root, other)]
    differ = ["kept channels"] if None not in channels and channels[0] != channels[1] else []
    if settings[0] and settings[1]:
        names = sorted(settings[0].keys() | settings[1].keys())
        differ += [name for name in names if settings[0].get(name) != settings[1].get(name)]
    return tuple(differ)


def _kept_channels(root: Path, participant: str, task: str) -> frozenset[str] | None:
    """Return the channels that the models read; None where the table is absent or unreadable."""
    name = f"sub-{participant}_task-{task}_desc-selected_channels.tsv"
    try:
        table = read_table(root / f"sub-{participant}" / "ieeg" / name)
    except (ValueError, OSError):
        return None
    if not {"name", "kept"} <= set(table.columns):
        return None
    # A column that is everywhere "true" is read as booleans.
    return frozenset(table["name"][table["kept"].astype(str).str.lower() == "true"])


def _settings(log: Path) -> dict[str, Any]:
    """Return the settings of the latest run by name; empty where none can be read.

    The folders of runs sort by time.
    """
    for path in sorted(log.glob("*/config.toml"), reverse=True):
        try:
            sections = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError):
            continue
        return _by_name(sections)
    return {}


def _by_name(sections: dict[str, Any]) -> dict[str, Any]:
    """Return what is compared, by the words that name it."""
    values = {
        f"{section} {name}": value
        for section in _SECTIONS
        for name, value in sections.get(section, {}).items()
    }
    for (section, name), words in _SINGLE.items():
        values[words] = sections.get(section, {}).get(name)
    return values
