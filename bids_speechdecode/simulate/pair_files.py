"""The text files of the simulated pair, and the truth about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from transformers import WavLMModel

from bids_speechdecode.simulate.bold import Scanned, write_image
from bids_speechdecode.simulate.electrodes import Follower
from bids_speechdecode.simulate.settings import PairSettings
from bids_speechdecode.simulate.sidecars import (
    write_description,
    write_event_columns,
    write_events,
    write_json,
    write_tsv,
)
from bids_speechdecode.simulate.speech_features import CONTEXT
from bids_speechdecode.simulate.tiny_model import LAYER, PLANTED_IN, RANK, save_model
from bids_speechdecode.simulate.truth import truth_folder

_README = """# Simulated intracranial EEG and fMRI of heard speech

**Everything here is simulated.** No person was recorded: the sounds come from a speech
synthesiser, the signals from random numbers to which features of a small speech model with random
weights were added. Use it to try and test software, never as evidence about brains: the features
come from the very kind of model that is then tuned to find them.

- `sub-sim*`, `task-podcast`: intracranial EEG of people who heard one podcast; high-gamma amplitude
  of contacts that hear follows mixtures of the latent features.
- `sub-simbold*`, `task-story`: fMRI of other people who heard stories; voxels follow mixtures of
  the same features through a hemodynamic response.
- `sourcedata/simulation/speech_model`: the untuned speech model, to be tuned.
- `sourcedata/simulation/teacher_model`: the model whose features are the latent ones.
- `sourcedata/simulation`: the rest of the truth.

Made by bids_speechdecode {version} with the settings in `sourcedata/simulation/settings.json`.
"""


def write_top_level(root: Path, followers: Sequence[Follower], scanned: Sequence[Scanned]) -> None:
    """Write what concerns the whole dataset."""
    name = "Simulated intracranial EEG and fMRI of heard speech (simulated)"
    write_description(root, name, _README)
    rows = [(f"sub-{f.participant.label}", "ieeg", "true") for f in followers]
    rows += [(f"sub-{s.label}", "fmri", "true") for s in scanned]
    columns = ["participant_id", "recorded", "simulated"]
    write_tsv(root / "participants.tsv", pd.DataFrame(rows, columns=columns))
    levels = {"ieeg": "Intracranial EEG", "fmri": "Functional MRI"}
    write_json(
        root / "participants.json",
        {
            "recorded": {"Description": "What was simulated", "Levels": levels},
            "simulated": {"Description": "This participant does not exist"},
        },
    )
    write_event_columns(root, ("podcast", "story"))


def write_bold_sidecars(
    path: Path, repetition_time: float, stimulus: str, onset: float, duration: float
) -> None:
    """Write what belongs to one run: how it was taken, and when which story was heard."""
    stem = path.name.removesuffix("_bold.nii.gz")
    write_json(
        path.with_name(f"{stem}_bold.json"),
        {
            "TaskName": "story",
            "TaskDescription": "Simulated listening to a story.",
            "RepetitionTime": repetition_time,
            "Manufacturer": "simulated",
            "Instructions": "none: simulated",
        },
    )
    row = {
        "onset": onset,
        "duration": float(duration),
        "trial_type": "sound",
        "stim_file": stimulus,
        "audio_version": "true",
        "audio_onset": 0.0,
    }
    write_events(path.with_name(f"{stem}_events.tsv"), [row])


def write_models(
    root: Path, student: WavLMModel, teacher: WavLMModel, settings: PairSettings
) -> None:
    """Write the untuned model and the one whose features are the latent ones."""
    folder = truth_folder(root)
    words = "Simulated: a tiny speech model with random weights"
    save_model(student, folder / "speech_model", words)
    changed = f"{words} and a planted change of {', '.join(PLANTED_IN)}"
    save_model(
        teacher, folder / "teacher_model", changed if settings.latent == "planted" else words
    )


def write_settings(root: Path, settings: PairSettings, share: float) -> None:
    """Write the settings and what the latent features are."""
    content: dict[str, Any] = {
        "Settings": dataclasses.asdict(settings),
        "LatentLayer": LAYER,
        "LatentContext": CONTEXT,
        "LatentToken": "last",
        "PlantedRank": RANK if settings.latent == "planted" else 0,
        "UntunedShare": round(share, 4),
        "Description": "Latent features are the output of layer LatentLayer of teacher_model for "
        "the last frame of the window that ends at the sample, standardised over the podcast. "
        "UntunedShare: of their variance in the podcast, what a ridge regression on the features "
        "of speech_model at the same time explains on held-out eighths.",
    }
    write_json(truth_folder(root) / "settings.json", content)


def write_latent(root: Path, stimulus: str, latent: np.ndarray) -> None:
    """Write the standardised latent features of a sound, shape (n_times, n_features)."""
    path = truth_folder(root) / "sounds" / f"{Path(stimulus).stem}_latent.npy"
    np.save(path, latent.astype(np.float32))


def write_follower(root: Path, follower: Follower) -> None:
    """Write what the contacts of one participant follow, how strongly and how late."""
    participant = follower.participant
    brain, auditory = participant.brain, list(participant.brain.auditory)
    names = [contact.name for contact in brain.contacts]
    table = pd.DataFrame({"name": names, "weight": [c.weight for c in brain.contacts]})
    planted = {
        "lag": brain.latency,
        "correlation": follower.correlation,
        "high_gamma_rise": brain.rise,
    }
    for name, values in planted.items():
        table[name] = np.nan
        table.loc[auditory, name] = np.round(values, 5)
    stem = f"sub-{participant.label}_simulated"
    write_tsv(truth_folder(root) / f"{stem}_contacts.tsv", table)
    columns = {
        "weight": "How strongly the contact hears, 0 to 1; 0: sound does not reach it",
        "lag": "By which the high-gamma amplitude follows the latent features (s)",
        "correlation": "Planted correlation of the high-gamma amplitude with its mixture, to 10 Hz",
        "high_gamma_rise": "Relative rise of the carrier's amplitude per unit of the mixture",
    }
    explained = {name: {"Description": text} for name, text in columns.items()}
    write_json(truth_folder(root) / f"{stem}_contacts.json", explained)
    mixture = pd.DataFrame(follower.mixture.T.round(6), columns=_features(follower.mixture))
    mixture.insert(0, "name", [names[i] for i in auditory])
    write_tsv(truth_folder(root) / f"{stem}_mixtures.tsv", mixture)


def write_scanned(root: Path, scanned: Scanned) -> None:
    """Write mask and voxels of one participant: what they follow and how strongly."""
    stem = truth_folder(root) / f"sub-{scanned.label}_simulated"
    write_image(stem.with_name(f"{stem.name}_mask.nii.gz"), scanned.mask.astype(np.uint8))
    table = pd.DataFrame(np.argwhere(scanned.mask), columns=["i", "j", "k"])
    table["weight"], table["correlation"] = scanned.weight.round(5), scanned.correlation.round(5)
    mixture = pd.DataFrame(scanned.mixture.T.round(6), columns=_features(scanned.mixture))
    write_tsv(stem.with_name(f"{stem.name}_voxels.tsv"), pd.concat([table, mixture], axis=1))


def _features(mixture: np.ndarray) -> list[str]:
    """Return the names of the columns of a mixture."""
    return [f"feature{k + 1}" for k in range(len(mixture))]
