"""The text files that make the simulated recordings a BIDS dataset."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bids_speechdecode import __version__
from bids_speechdecode.simulate.anatomy import SPACE
from bids_speechdecode.simulate.participant import Participant
from bids_speechdecode.simulate.settings import SimulationSettings
from bids_speechdecode.timeline import ClockMap

BIDS_VERSION = "1.10.0"
_ANCHOR_SECONDS = 60.0  # at most, between the anchors of one sound file

_README = """# Simulated intracranial EEG of heard speech

**Everything here is simulated.** No person was recorded: the sounds come from a speech
synthesiser, the rooms from random echoes, the brain signals from random numbers to which
responses to the sound were added at known contacts. Use it to try and test software, never as
evidence about brains.

- `task-ambient`: a room over several days, with conversations, television, music, clatter and
  silence, recorded by a microphone in the room.
- `task-audiobook`: a story played in the room. `events.tsv` names the clean file
  (`audio_version` true) and what the microphone took (`audio_version` ambient).
- `sourcedata/simulation`: the truth: which contacts follow the sound, with which temporal response
  functions and gains; the clocks; who said what when.

Made by bids_speechdecode {version} with the settings in `sourcedata/simulation/settings.json`; the
same settings give the same bytes.
"""

_EVENT_COLUMNS = {
    "onset": {"Description": "Start of the row on the clock of the recording", "Units": "s"},
    "duration": {"Description": "Length of the row on the clock of the recording", "Units": "s"},
    "trial_type": {
        "Description": "Kind of event",
        "Levels": {"sound": "A stretch of a sound file that was heard; also an anchor in time"},
    },
    "stim_file": {"Description": "Sound file, relative to the folder stimuli"},
    "audio_version": {
        "Description": "What the sound file holds",
        "Levels": {
            "true": "The clean sound as it was played",
            "ambient": "What a microphone in the room recorded",
        },
    },
    "audio_onset": {
        "Description": "Time in the sound file at which the row starts",
        "Units": "s",
    },
}
_CONTACT_COLUMNS = {
    "weight": "How strongly the contact hears, 0 to 1; 0: sound does not reach it",
    "latency": "First peak of the slow response function (s)",
    "correlation": "Planted correlation of the slow response with response plus background, "
    "0.5-20 Hz",
    "slow_amplitude_uv": "Standard deviation of the slow response during a story (uV)",
    "high_gamma_rise": "Relative rise of the 70-150 Hz amplitude per unit of response",
    "spike_uv": "Amplitude of interictal spikes (uV)",
}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_tsv(path: Path, table: pd.DataFrame) -> None:
    """Write a table with tabs and ``n/a``, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, sep="\t", index=False, na_rep="n/a", lineterminator="\n")


def write_description(root: Path, name: str, readme: str) -> None:
    """Write what every simulated dataset says of itself; the name must say that it is simulated."""
    write_json(
        root / "dataset_description.json",
        {
            "Name": name,
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "raw",
            "License": "CC0-1.0",
            "Authors": ["bids_speechdecode.simulate"],
            "GeneratedBy": [
                {
                    "Name": "bids_speechdecode.simulate",
                    "Version": __version__,
                    "Description": "Everything in this dataset is simulated.",
                }
            ],
        },
    )
    (root / "README.md").write_text(readme.format(version=__version__), encoding="utf-8")
    (root / "CHANGES").write_text(f"{__version__} 2026-01-01\n  - Simulated.\n", encoding="utf-8")


def write_top_level(root: Path, participants: Sequence[Participant]) -> None:
    """Write what concerns the whole dataset."""
    write_description(root, "Simulated intracranial EEG of heard speech (simulated)", _README)
    sides = ["left" if p.brain.contacts[0].position_mm[0] < 0 else "right" for p in participants]
    ids = [f"sub-{p.label}" for p in participants]
    write_tsv(
        root / "participants.tsv",
        pd.DataFrame({"participant_id": ids, "implanted_side": sides, "simulated": "true"}),
    )
    write_json(
        root / "participants.json",
        {
            "implanted_side": {"Description": "Hemisphere of the shaft along Heschl's gyrus"},
            "simulated": {"Description": "This participant does not exist"},
        },
    )
    write_event_columns(root, ("ambient", "audiobook"))


def write_event_columns(root: Path, tasks: Sequence[str]) -> None:
    """Write the explanation of events.tsv for every task."""
    for task in tasks:
        write_json(root / f"task-{task}_events.json", _EVENT_COLUMNS)


def list_anchors(
    stimulus: str, version: str, clock: ClockMap, audio_duration: float
) -> list[dict[str, Any]]:
    """Return the rows of events.tsv for one sound file: contiguous, each an anchor.

    Onsets are rounded to 1 ms, so that the clock map fitted to them has a residual.
    """
    n = max(4, int(audio_duration / _ANCHOR_SECONDS))
    rows = []
    for k in range(n):
        start, stop = k * audio_duration / n, (k + 1) * audio_duration / n
        rows.append(
            {
                "onset": round(clock.to_recording(start), 3),
                "duration": round((stop - start) / clock.slope, 3),
                "trial_type": "sound",
                "stim_file": stimulus,
                "audio_version": version,
                "audio_onset": round(start, 6),
            }
        )
    return rows


def write_events(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write events.tsv in the order of onsets."""
    write_tsv(path, pd.DataFrame(rows).sort_values("onset", kind="stable"))


def write_channels(path: Path, participant: Participant, settings: SimulationSettings) -> None:
    """Write channels.tsv of one recording."""
    contacts = participant.brain.contacts
    bad = [index in participant.bad for index in range(len(contacts))]
    table = pd.DataFrame(
        {
            "name": participant.channel_names,
            "type": ["SEEG"] * len(contacts) + ["ECG"],
            "units": "µV",
            "low_cutoff": settings.sampling_rate / 2,
            "high_cutoff": "n/a",
            "reference": ["simulated scalp"] * len(contacts) + ["n/a"],
            "group": [*(contact.shaft for contact in contacts), "n/a"],
            "sampling_frequency": settings.sampling_rate,
            "status": [*("bad" if b else "good" for b in bad), "good"],
            "status_description": [*("broken wire" if b else "n/a" for b in bad), "n/a"],
        }
    )
    write_tsv(path, table)


def write_ieeg_json(
    path: Path, task: str, duration: float, participant: Participant, settings: SimulationSettings
) -> None:
    """Write the sidecar of one recording."""
    description = {
        "ambient": "Simulated life in a hospital room.",
        "audiobook": "Simulated listening to a story.",
        "podcast": "Simulated listening to a podcast.",
    }
    write_json(
        path,
        {
            "TaskName": task,
            "TaskDescription": description[task],
            "Manufacturer": "simulated",
            "SamplingFrequency": settings.sampling_rate,
            "PowerLineFrequency": settings.line_frequency,
            "SoftwareFilters": "n/a",
            "iEEGReference": "simulated scalp electrode",
            "RecordingDuration": duration,
            "RecordingType": "continuous",
            "SEEGChannelCount": len(participant.brain.contacts),
            "ECGChannelCount": 1,
            "ElectrodeManufacturer": "simulated",
            "iEEGPlacementScheme": "sEEG shafts",
        },
    )


def write_electrodes(folder: Path, stem: str, participant: Participant) -> None:
    """Write electrodes.tsv and coordsystem.json of one session."""
    contacts = participant.brain.contacts
    table = pd.DataFrame([c.position_mm for c in contacts], columns=["x", "y", "z"])
    table.insert(0, "name", [c.name for c in contacts])
    table["size"] = 5.0
    table["group"] = [c.shaft for c in contacts]
    table["type"] = "depth"
    table["hemisphere"] = ["L" if c.position_mm[0] < 0 else "R" for c in contacts]
    write_tsv(folder / f"{stem}_space-{SPACE}_electrodes.tsv", table)
    write_json(
        folder / f"{stem}_space-{SPACE}_coordsystem.json",
        {
            "iEEGCoordinateSystem": SPACE,
            "iEEGCoordinateUnits": "mm",
            "iEEGCoordinateProcessingDescription": "none: the positions were chosen",
        },
    )


def contact_columns() -> dict[str, dict[str, str]]:
    """Return the explanation of the truth's table of contacts."""
    return {name: {"Description": text} for name, text in _CONTACT_COLUMNS.items()}
