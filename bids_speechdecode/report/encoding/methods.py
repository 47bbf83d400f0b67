"""The methods of the analysis ``encoding``: settings of the run in words, and what they cite."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bids_speechdecode.config import WITHOUT_MODEL
from bids_speechdecode.encoding.compared import split_label
from bids_speechdecode.report.encoding.models import CONTROL_TO_WORDS, band_words
from bids_speechdecode.report.encoding.results import Encoding
from bids_speechdecode.report.methods import SPEECH_MODELS, Settings, read_settings
from bids_speechdecode.report.references import ENCODING_REFERENCES, REFERENCES, Reference
from bids_speechdecode.report.results import settings_file

# Keys in the order in which the text cites them.
_ORDER = (
    *("bids", "pybids", "mne", "mnebids", *SPEECH_MODELS, "transformers", "lora", "theiler"),
    *("hoerl", "nunez", "dupre", "benjamini", "nilearn", "slowfmri"),
)
_KEY_TO_REFERENCE = {reference.key: reference for reference in REFERENCES + ENCODING_REFERENCES}


@dataclass(frozen=True)
class Encoded:
    """What a methods section tells of encoding.

    Attributes
    ----------
    settings : Settings or None
        Of the run; None where no log has them, or where participants' differ.
    models : str
        The speech models that were not tuned, by the names of their folders or on the hub.
    bands, layers, nuisance : str
        In words; empty where there is nothing to tell.
    controls : str
        On what the controls were tuned.
    tuning : str
        How models were tuned, in sentences.
    is_tuned, is_unique, has_modulations, has_positions, is_group : bool
        Whether there are tuned models, variance unique to the speech model, bands of modulation,
        pictures of brains, participants put together.
    """

    settings: Settings | None
    models: str
    bands: str
    layers: str
    nuisance: str
    controls: str
    tuning: str
    n_lags: int
    is_tuned: bool
    is_compared: bool
    is_unique: bool
    has_modulations: bool
    has_positions: bool
    is_group: bool

    def used(self) -> tuple[str, ...]:
        """Return the keys of the works that the text cites, in its order."""
        if self.settings is None:
            return ()
        target = self.settings["target"]["name"]
        unused = set(SPEECH_MODELS) - {target}
        unused |= {"transformers"} if target in WITHOUT_MODEL else set()
        unused |= set() if self.is_tuned else {"lora"}
        unused |= set() if CONTROL_TO_WORDS["phase"] in self.controls else {"theiler"}
        unused |= set() if self.is_unique else {"nunez", "dupre"}
        unused |= set() if self.has_positions else {"nilearn"}
        return tuple(key for key in _ORDER if key not in unused)


def run_settings(folders: Sequence[Path], log_dir: Path | None = None) -> Settings | None:
    """Return the settings with which encoding was run, if those of all participants agree.

    Parameters
    ----------
    folders : sequence of path
        ``sub-XX`` of each participant.
    log_dir : path, optional
        Where to look where no run of a participant has settings.
    """
    found = []
    for folder in folders:
        path = settings_file(folder, log_dir, "encoding")
        if path and path.is_file():
            found.append(read_settings(path))
    for settings in found:
        settings.pop("run", None)  # device and cores may differ without changing the method
    return found[0] if found and all(settings == found[0] for settings in found) else None


def find_encoded(
    encoded: Mapping[str, Encoding],
    settings: Settings | None,
    *,
    tuning: str = "",
    is_group: bool = False,
) -> Encoded:
    """Return what the tables and the settings of a run say, for the methods section.

    `tuning` says how models were tuned.
    """
    chosen = (settings or {}).get("encoding", {})
    models = [model for found in encoded.values() for model in found.models]
    kinds = {model.kind for model in models}
    named = {split_label(m.label)[1].get("control", "") for m in models} - {""}
    electrodes = [found.electrodes for found in encoded.values()]
    modulations = ("encodingModulations", "encodingProfiles")
    tables = [
        f.tables[desc].table for f in encoded.values() for desc in modulations if desc in f.tables
    ]
    return Encoded(
        settings=settings,
        models=_join(_name_models(encoded.values())),
        bands=describe_bands(chosen) if chosen else "",
        layers=_join([f"{layer}" for layer in chosen.get("layers") or ()]),
        nuisance=_join([NUISANCE.get(name, name) for name in chosen.get("nuisance") or ()]),
        controls=_join([CONTROL_TO_WORDS.get(name, name) for name in sorted(named)]),
        tuning=tuning,
        n_lags=2 * round(float(chosen["max_lag"]) * float(chosen["rate"])) + 1 if chosen else 0,
        is_tuned=bool(kinds & {"tuned", "control"}),
        is_compared=any(len(found.models) > 1 for found in encoded.values()),
        is_unique=any(table["unique_r2"].notna().any() for table in electrodes),
        has_modulations=any(
            (table["low"].notna() & np.isfinite(table["r"])).any() for table in tables
        ),
        has_positions=any(table["x"].notna().any() for table in electrodes),
        is_group=is_group,
    )


def _name_models(encoded: Iterable[Encoding]) -> list[str]:
    """Return the models' names as the tables' sidecars have them, mel spectra as such."""
    names = []
    for found in encoded:
        models: Any = found.sidecar.get("Models") or []
        for model in models:
            if model.get("Name") == "mel":
                names.append("a mel spectrogram")
            elif model.get("Kind") in {"untuned", "other"}:
                names.append(str(model.get("Model", model.get("Label"))))
    return list(dict.fromkeys(names))


NUISANCE = {
    "mel": "a mel spectrogram",
    "envelope": "the envelope of the sound",
    "onsets": "its onsets",
    "pitch": "pitch with voicing",
    "words": "word onsets with their rate",
}
_EDGES = {"theta": "4 to 8", "alpha": "8 to 13", "beta": "13 to 30", "gamma": "30 to 70"}


def describe_bands(chosen: Mapping[str, Any]) -> str:
    """Return the carrier bands with their edges; the slow signal is not one of them.

    Examples
    --------
    >>> describe_bands({"bands": ["theta", "highgamma"], "high_gamma": [70, 150]})
    'theta (4 to 8 Hz) and high gamma (70 to 150 Hz)'
    """
    low, high = list(chosen["high_gamma"])[:2]
    edges = _EDGES | {"highgamma": f"{low:g} to {high:g}"}
    named = [f"{band_words(b)} ({edges[b]} Hz)" for b in chosen["bands"] if b in edges]
    return _join(named)


def _join(words: Sequence[str]) -> str:
    """Return words as an enumeration."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def in_template(
    values: Mapping[str, Any], encoded: Encoded | None, *, is_decoded: bool
) -> dict[str, Any]:
    """Return what both methods templates need, with references numbered through.

    Parameters
    ----------
    values : mapping
        What the methods of decoding need.
    encoded : Encoded or None
        None where there is no encoding.
    is_decoded : bool
        Whether the page has the methods of decoding, which come first.
    """
    cited: dict[str, tuple[int, Reference]] = dict(values.get("cited", {})) if is_decoded else {}
    for key in encoded.used() if encoded else ():
        cited.setdefault(key, (len(cited) + 1, _KEY_TO_REFERENCE[key]))
    return {**values, "cited": cited, "encoded": encoded}
