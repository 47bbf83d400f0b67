"""What was planted, kept under ``sourcedata/simulation`` for those who want to check a method."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bids_speechdecode.simulate.brain import BAND_EDGES, DRIVES, FRAME_RATE, LAGS
from bids_speechdecode.simulate.participant import Participant, slow_amplitude
from bids_speechdecode.simulate.playback import Spoken
from bids_speechdecode.simulate.settings import SimulationSettings
from bids_speechdecode.simulate.sidecars import contact_columns, write_json, write_tsv
from bids_speechdecode.simulate.words import TOPICS, Meaning

# At their defaults they go unsaid.
_UNTOLD = (
    "loudness_only",
    "meaning",
    "night_runs",
    "response_drift",
    "offset_drift",
    "gain_drift",
    "gain_swing",
)


def truth_folder(root: Path) -> Path:
    """Return the folder of the truth within a simulated dataset."""
    return root / "sourcedata" / "simulation"


def write_settings(root: Path, settings: SimulationSettings) -> None:
    """Write the settings and the definition of the drives."""
    told = dataclasses.asdict(settings)
    for name in _UNTOLD:
        if told[name] == getattr(SimulationSettings, name):
            del told[name]
    content: dict[str, Any] = {
        "Settings": told,
        "FrameRate": FRAME_RATE,
        "Drives": list(DRIVES),
        "BandEdges": [round(float(edge), 3) for edge in BAND_EDGES],
        "Description": "response[t] = sum over drives and lags of function * drive[t - lag]",
    }
    write_json(truth_folder(root) / "settings.json", content)


def write_participant(root: Path, participant: Participant) -> None:
    """Write contacts, response functions and gains of one participant."""
    stem = truth_folder(root) / f"sub-{participant.label}_simulated"
    write_tsv(_named(stem, "contacts.tsv"), _contacts(participant))
    write_json(_named(stem, "contacts.json"), contact_columns())
    write_tsv(_named(stem, "functions.tsv"), _functions(participant))
    write_tsv(_named(stem, "gains.tsv"), _gains(participant))
    if participant.drift is not None:
        for day in range(1, len(participant.drift.slow)):
            functions = _functions(participant, day)
            write_tsv(_named(stem, f"day-{day + 1:02d}_functions.tsv"), functions)
        write_tsv(_named(stem, "rhythm.tsv"), _rhythm(participant))


def write_meaning(root: Path, participant: Participant, meaning: Meaning) -> None:
    """Write the mixture of topics that each contact follows, one row a contact."""
    stem = truth_folder(root) / f"sub-{participant.label}_simulated"
    names = [participant.brain.contacts[i].name for i in participant.brain.auditory]
    table = pd.DataFrame(meaning.mixture.T.round(6), columns=list(TOPICS))
    table.insert(0, "amplitude_uv", meaning.amplitude.round(5))
    table.insert(0, "name", names)
    write_tsv(_named(stem, "meaning.tsv"), table)


def write_recordings(root: Path, label: str, rows: Sequence[dict[str, Any]]) -> None:
    """Write the clocks: one row per recording and sound, ``audio = slope * time + offset``."""
    stem = truth_folder(root) / f"sub-{label}_simulated"
    write_tsv(_named(stem, "clocks.tsv"), pd.DataFrame(rows))


def write_sound(
    root: Path,
    stimulus: str,
    spoken: Sequence[Spoken],
    scenes: Sequence[tuple[float, float, str]] = (),
) -> None:
    """Write who said what when in a sound file, and what else was heard."""
    folder = truth_folder(root) / "sounds"
    stem = folder / Path(stimulus).stem
    lines = [dataclasses.asdict(line) for line in spoken]
    write_tsv(
        _named(stem, "sentences.tsv"),
        pd.DataFrame(lines, columns=["onset", "duration", "voice", "text"]),
    )
    if scenes:
        table = pd.DataFrame(scenes, columns=["onset", "duration", "kind"])
        write_tsv(_named(stem, "scenes.tsv"), table)


def _named(stem: Path, ending: str) -> Path:
    return stem.with_name(f"{stem.name}_{ending}")


def _contacts(participant: Participant) -> pd.DataFrame:
    """Return one row per contact."""
    brain = participant.brain
    auditory = list(brain.auditory)
    table = pd.DataFrame(
        {
            "name": [c.name for c in brain.contacts],
            "weight": [c.weight for c in brain.contacts],
            "bad": [i in participant.bad for i in range(len(brain.contacts))],
            "spike_uv": participant.spiking.round(2),
        }
    )
    planted = {
        "latency": brain.latency,
        "correlation": brain.correlation,
        "slow_amplitude_uv": slow_amplitude(participant),
        "high_gamma_rise": brain.rise,
    }
    for name, values in planted.items():
        table[name] = np.nan
        table.loc[auditory, name] = np.round(values, 5)
    return table


def _rhythm(participant: Participant) -> pd.DataFrame:
    """Return the rms of the rhythm (µV), one row a day, one column a contact."""
    assert participant.drift is not None
    names = [contact.name for contact in participant.brain.contacts]
    return pd.DataFrame(participant.drift.rhythm.round(4), columns=names)


def _functions(participant: Participant, day: int = 0) -> pd.DataFrame:
    """Return the response functions, one row per contact, signal and drive; a column per lag."""
    brain = participant.brain
    names = [brain.contacts[i].name for i in brain.auditory]
    index = pd.MultiIndex.from_product(
        [("slow", "high_gamma"), names, DRIVES], names=["signal", "name", "drive"]
    )
    values = np.stack(participant.responses(day)).reshape(len(index), len(LAGS))
    columns = [f"lag_{lag:.2f}" for lag in LAGS]
    return pd.DataFrame(values.round(6), index, columns).reset_index()


def _gains(participant: Participant) -> pd.DataFrame:
    """Return the gains at the beginning of each day, one row per day and contact."""
    brain = participant.brain
    response = np.full(participant.gains.shape, np.nan)
    response[:, list(brain.auditory)] = participant.response_gains
    names = [contact.name for contact in brain.contacts]
    days = range(len(participant.gains))
    table = pd.DataFrame([(day, name) for day in days for name in names], columns=["day", "name"])
    table["electrode_gain"] = participant.gains.ravel().round(6)
    table["response_gain"] = response.ravel().round(6)
    return table
