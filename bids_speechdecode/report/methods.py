"""The methods section: settings of the run beside what the source paper says, and references."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from bids_speechdecode.anatomy.atlas import DEFAULT, SPEECH_ROI
from bids_speechdecode.anatomy.spaces import family
from bids_speechdecode.config import WITHOUT_MODEL, Config
from bids_speechdecode.errors import DataError
from bids_speechdecode.report.page import DASH, Table, make_table
from bids_speechdecode.report.references import ENCODING_REFERENCES, REFERENCES, Reference

Settings = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Choice:
    """One setting of this run beside the paper's, and where the paper's value is known from."""

    what: str
    here: str
    paper: str
    origin: str


PAPER = "stated in the paper"
REVIEWS = "known from its reviews, not from the paper"
CODE = "public code of the same team, not the paper"
OPEN = "not stated"

# Works that only the methods of an experiment cite, and the word of that experiment's files.
CITED_BY = {
    "robinson": "controls",
    "classifier": "transfer",
    "frechet": "transfer",
    "gradient": "drift",
}
SPEECH_MODELS = {
    "wav2vec2": "wav2vec 2.0",
    "hubert": "HuBERT",
    "wavlm": "WavLM",
    "whisper": "Whisper encoder",
}


def read_settings(path: Path) -> Settings:
    """Return the settings of a run; a key that the file leaves out has its default."""
    settings: Settings = asdict(Config())
    for section, values in tomllib.loads(path.read_text(encoding="utf-8")).items():
        if isinstance(values, Mapping):
            settings.setdefault(section, {}).update(values)
    return settings


@dataclass(frozen=True)
class Electrodes:
    """What a report has of electrodes, as far as its methods section must tell it.

    Attributes
    ----------
    families : frozenset of str
        Families of the spaces in which positions were given: MNI152, MNI305, Talairach, native.
    is_selected, is_contributed : bool
        Whether there are tables of selected channels, of contributions.
    is_group : bool
        Whether participants are put together.
    """

    families: frozenset[str] = frozenset()
    is_selected: bool = False
    is_contributed: bool = False
    is_group: bool = False

    def unused(self, settings: Settings) -> set[str]:
        """Return the works that have no part in this report."""
        moved = {"lancaster": "Talairach"} | {"freesurfer": "MNI305"}
        unused = {key for key, family in moved.items() if family not in self.families}
        if "native" in self.families:
            unused.discard("freesurfer")
        if not self.families or tuple(settings["anatomy"]["atlas"]) != (DEFAULT,):
            unused |= {"desikan", "abagen"}
        if not self.is_contributed:
            unused |= {"breiman", "sundararajan"}
            unused |= set() if self._is_corrected(settings) else {"benjamini"}
        if not (self.is_contributed and self.is_group):
            unused.add("saravanan")
        return unused if self.families else unused | {"nilearn"}

    def _is_corrected(self, settings: Settings) -> bool:
        return self.is_selected and "responsive" in settings["selection"]["rules"]


@dataclass(frozen=True)
class TunedTarget:
    """A target of decoding that was tuned on fMRI: its name, its base and its tuning in words."""

    name: str
    base: str
    tuning: str


def find_electrodes(
    selections: Iterable[pd.DataFrame], *, is_contributed: bool, is_group: bool = False
) -> Electrodes:
    """Return what the tables ``desc-selected`` say, for the methods section."""
    families, is_selected = set(), False
    for table in selections:
        is_selected = True
        if {"source_space", "x"} <= set(table):
            located = table.loc[table["x"].notna(), "source_space"]
            families |= {_family(str(space)) for space in located.dropna().unique()}
    return Electrodes(frozenset(families - {""}), is_selected, is_contributed, is_group)


def _family(space: str) -> str:
    try:
        return family(space)
    except DataError:
        return ""


def cited_references(
    settings: Settings,
    electrodes: Electrodes | None = None,
    *,
    is_tuned: bool = False,
    experiments: Collection[str] = (),
) -> dict[str, tuple[int, Reference]]:
    """Return the works that a run with these settings cites, numbered from 1.

    `is_tuned` says that its speech model was tuned on fMRI; `experiments` are those that are shown.
    """
    # wav2vec 2.0 is the paper's target, so it is cited whatever this run used.
    unused = set(SPEECH_MODELS) - {"wav2vec2", settings["target"]["name"]}
    if settings["target"]["name"] in WITHOUT_MODEL:
        unused.add("transformers")
    unused |= (electrodes or Electrodes()).unused(settings)
    unused |= {key for key, name in CITED_BY.items() if name not in experiments}
    used = [reference for reference in REFERENCES if reference.key not in unused]
    used.sort(key=lambda r: r.key == "wav2vec2" and settings["target"]["name"] != "wav2vec2")
    if is_tuned:
        after = 1 + [reference.key for reference in used].index("transformers")
        used[after:after] = [r for r in ENCODING_REFERENCES if r.key == "lora"]
    return {reference.key: (n, reference) for n, reference in enumerate(used, start=1)}


def in_template(
    settings: Settings | None,
    electrodes: Electrodes,
    tuned: TunedTarget | None = None,
    experiments: Collection[str] = (),
) -> dict[str, Any]:
    """Return what the template of the methods section needs; without settings it is left out.

    `tuned` tells of the speech model if it was tuned on fMRI; `experiments` are those that are
    shown, by the words of their files.
    """
    values: dict[str, Any] = {"settings": settings, "electrodes": electrodes, "tuned": tuned}
    if settings is None:
        return values
    return values | {
        "choice_table": choice_table(settings, tuned),
        "cited": cited_references(
            settings, electrodes, is_tuned=tuned is not None, experiments=experiments
        ),
        "explored": experiments,
        "selection": describe_selection(settings),
        "atlas": describe_atlas(settings),
    }


def describe_selection(settings: Settings) -> str:
    """Return which channels the models read, as the end of a sentence."""
    chosen = settings["selection"]
    rules = [_describe_rule(rule, settings) for rule in chosen["rules"] if rule != "all"]
    if not rules:
        return "all good channels"
    policy = {
        "keep": "channels without a position were kept",
        "drop": "channels without a position were dropped",
        "error": "a channel without a position would have stopped the run",
    }[chosen["unlocalised"]]
    needs_position = {"roi", "radius"} & set(chosen["rules"])
    return (
        "the good channels that " + " and ".join(rules) + (f" ({policy})" if needs_position else "")
    )


def _describe_rule(rule: str, settings: Settings) -> str:
    chosen = settings["selection"]
    if rule == "roi":
        side = "" if chosen["hemisphere"] == "both" else f"{chosen['hemisphere']} "
        preset = tuple(chosen["roi"]) == ("speech",)
        labels = SPEECH_ROI if preset else chosen["roi"]
        named = f"the {side}regions {', '.join(labels)}"
        return f"lie in {named}" + (" (the preset “speech”)" if preset else "")
    if rule == "radius":
        centres = " or ".join(f"({part.strip()})" for part in chosen["center"].split(";"))
        return f"lie within {chosen['radius']:g} mm of {centres} in MNI152"
    return (
        "respond to sound (lagged correlation with its loudness in the training windows against "
        f"sound out of place, false discovery rate {chosen['responsive_q']:g} over channels)"
    )


def describe_atlas(settings: Settings) -> str:
    """Return the atlas in a few words."""
    atlas = tuple(settings["anatomy"]["atlas"])
    if atlas == (DEFAULT,):
        return "the atlas of Desikan and Killiany"
    return f"the atlas {Path(atlas[0]).name}"


def list_choices(settings: Settings, tuned: TunedTarget | None = None) -> tuple[Choice, ...]:
    """Return the settings that shape the result, each beside what is known of the paper's."""
    pre, target, windows = settings["preprocess"], settings["target"], settings["windows"]
    splits, finetune = settings["splits"], settings["finetune"]
    loss = "both directions" if finetune["symmetric"] else "brain to audio only"
    return (
        Choice("Sampling rate", f"{pre['rate']:g} Hz", "40 Hz", PAPER),
        Choice(
            "Pass band",
            describe_band(settings),
            "0.05 to 50 Hz, then 40 Hz sampling",
            PAPER,
        ),
        Choice("Scaling of channels", "median and interquartile range", "robust", PAPER),
        Choice("Clamp", f"±{pre['clamp']:g} robust units", "±20", CODE),
        Choice("Reference", describe_reference(settings), DASH, OPEN),
        Choice("Audio target", describe_target(settings), "wav2vec 2.0, layer 19", PAPER),
        Choice(
            "Weights of the speech model", describe_weights(settings, tuned), "XLSR-53", REVIEWS
        ),
        Choice("Pooling over the window", describe_pooling(settings), "mean", PAPER),
        Choice("Audio context", f"{target['chunk']:g} s, never across a split", "30 s", PAPER),
        Choice("Window", f"{windows['duration']:g} s", "3 s", PAPER),
        Choice("Step between training windows", f"{windows['stride']:g} s", "3 s", REVIEWS),
        Choice("Brain after audio by", f"{windows['brain_lag']:g} s", "0.15 s", CODE),
        Choice("Split of pretraining data", "by recording file", "by 2 h recording file", PAPER),
        Choice(
            "Split of task data",
            f"{splits['n_blocks']} contiguous blocks, {splits['guard']:g} s guard",
            DASH,
            OPEN,
        ),
        Choice("Loss", f"CLIP, {loss}", "CLIP, brain to audio only", REVIEWS),
        Choice(
            "Temperature",
            f"learned, from {finetune['temperature']:g}",
            "learned, from 0.07",
            PAPER,
        ),
        Choice("Batch", str(finetune["batch_size"]), "about 128", REVIEWS),
        Choice(
            "Optimiser",
            f"rate {finetune['learning_rate']:g}, at most {finetune['max_epochs']} epochs, "
            f"patience {finetune['patience']}",
            DASH,
            OPEN,
        ),
        Choice("Channels enter the encoder", describe_entry(settings), "one by one", REVIEWS),
        Choice("Encoder", f"{settings['encoder']['preset']} preset", "sizes not given", OPEN),
        Choice("Frozen or free encoder in finetuning", "both, reported apart", DASH, OPEN),
        Choice(
            "Test of ranks",
            f"blocks of {settings['evaluation']['block']:g} s, "
            f"{settings['evaluation']['n_permutations']} permutations",
            DASH,
            OPEN,
        ),
    )


def choice_table(settings: Settings, tuned: TunedTarget | None = None) -> Table:
    """Return the choices as a table of the report."""
    columns = ["Setting", "This run", "Source paper", "Source of the paper's value"]
    choices = list_choices(settings, tuned)
    return make_table(columns, [(c.what, c.here, c.paper, c.origin) for c in choices])


def describe_band(settings: Settings) -> str:
    """Return the band of the signal in a few words."""
    pre = settings["preprocess"]
    slow = f"{pre['highpass']:g} to about {pre['rate'] / 2:g} Hz (Nyquist)"
    fast = "envelope of {:g} to {:g} Hz".format(*pre["high_gamma"])
    return {"slow": slow, "highgamma": fast, "both": f"{slow}, and {fast}"}[pre["band"]]


def describe_reference(settings: Settings) -> str:
    """Return how the channels were re-referenced, in a few words."""
    pre = settings["preprocess"]
    slow, fast = str(pre["reference"]), str(pre["high_gamma_reference"])
    return {"slow": slow, "highgamma": fast, "both": f"{slow}; envelope {fast}"}[pre["band"]]


def describe_target(settings: Settings) -> str:
    """Return the audio target in a few words."""
    target = settings["target"]
    if target["name"] == "mel":
        return "mel spectrogram, 40 bands"
    if target["name"] == "energy":
        return "level of the sound (dB), no spectrum"
    if target["name"] == "text":
        return f"the words heard, sentence encoder, layer {target['layer']}"
    return f"{SPEECH_MODELS[target['name']]}, layer {target['layer']}"


def describe_entry(settings: Settings) -> str:
    """Return how channels enter the encoder, in a few words."""
    by_position = settings["encoder"]["spatial"] == "attention"
    return "by position (spatial attention)" if by_position else "one by one"


def describe_weights(settings: Settings, tuned: TunedTarget | None = None) -> str:
    """Return which weights the speech model has."""
    target = settings["target"]
    if tuned:
        return f"{tuned.base}, tuned on fMRI ({tuned.name})"
    without = target["name"] in WITHOUT_MODEL
    return "none: no speech model" if without else str(target["model"])


def describe_pooling(settings: Settings) -> str:
    """Return how a window's features are pooled, in a few words."""
    target = settings["target"]
    return "mean" if target["pooling"] == "mean" else f"frames at {target['frame_rate']:g} Hz"
