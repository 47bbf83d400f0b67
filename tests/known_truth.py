"""Experiments on simulated participants, of whom the truth is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bids_speechdecode.cli import main
from bids_speechdecode.simulate import simulate_dataset


def run_experiments(folder: Path, names: str, settings: str, **simulation: Any) -> Path:
    """Simulate a participant in `folder`, make experiments and return the folder of their tables.

    Parameters
    ----------
    folder : path
        Gets ``data``, ``out`` and ``settings.toml``.
    names : str
        Of the experiments, with blanks between them.
    settings : str
        Of the run, TOML.
    **simulation
        Settings of the simulation that differ from the preset tiny.
    """
    data, out, config = folder / "data", folder / "out", folder / "settings.toml"
    simulate_dataset(data, preset="tiny", **{"participants": 1, **simulation})
    config.write_text(settings)
    steps = "preprocess,features,select,experiments"
    words = ["participant", "--config", str(config), "--steps", steps]
    assert main([str(data), str(out), *words, "--experiments", *names.split()]) == 0
    return out / "sub-sim01" / "ieeg"
