"""The methods section: settings of the run beside what the source paper says, and references."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bids_speechdecode.config import Config
from bids_speechdecode.report.page import DASH, Table, make_table

Settings = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Reference:
    """A cited work."""

    key: str
    text: str
    link: str


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

# In the order in which the text cites them.
REFERENCES = (
    Reference(
        "bids",
        "Holdgraf C, Appelhoff S, Bickel S, et al. iEEG-BIDS, extending the Brain Imaging Data "
        "Structure specification to human intracranial electrophysiology. Scientific Data 6, "
        "102 (2019).",
        "https://doi.org/10.1038/s41597-019-0105-7",
    ),
    Reference(
        "pybids",
        "Yarkoni T, Markiewicz CJ, de la Vega A, et al. PyBIDS: Python tools for BIDS datasets. "
        "Journal of Open Source Software 4, 1294 (2019).",
        "https://doi.org/10.21105/joss.01294",
    ),
    Reference(
        "mne",
        "Gramfort A, Luessi M, Larson E, et al. MEG and EEG data analysis with MNE-Python. "
        "Frontiers in Neuroscience 7, 267 (2013).",
        "https://doi.org/10.3389/fnins.2013.00267",
    ),
    Reference(
        "mnebids",
        "Appelhoff S, Sanderson M, Brooks TL, et al. MNE-BIDS: organizing electrophysiological "
        "data into the BIDS format and facilitating their analysis. Journal of Open Source "
        "Software 4, 1896 (2019).",
        "https://doi.org/10.21105/joss.01896",
    ),
    Reference(
        "wav2vec2",
        "Baevski A, Zhou Y, Mohamed A, Auli M. wav2vec 2.0: a framework for self-supervised "
        "learning of speech representations. NeurIPS 33 (2020).",
        "https://arxiv.org/abs/2006.11477",
    ),
    Reference(
        "hubert",
        "Hsu W-N, Bolte B, Tsai Y-HH, et al. HuBERT: self-supervised speech representation "
        "learning by masked prediction of hidden units. IEEE/ACM TASLP 29, 3451-3460 (2021).",
        "https://arxiv.org/abs/2106.07447",
    ),
    Reference(
        "wavlm",
        "Chen S, Wang C, Chen Z, et al. WavLM: large-scale self-supervised pre-training for "
        "full stack speech processing. IEEE JSTSP 16, 1505-1518 (2022).",
        "https://arxiv.org/abs/2110.13900",
    ),
    Reference(
        "whisper",
        "Radford A, Kim JW, Xu T, et al. Robust speech recognition via large-scale weak "
        "supervision. ICML (2023).",
        "https://arxiv.org/abs/2212.04356",
    ),
    Reference(
        "transformers",
        "Wolf T, Debut L, Sanh V, et al. Transformers: state-of-the-art natural language "
        "processing. EMNLP, System Demonstrations, 38-45 (2020).",
        "https://doi.org/10.18653/v1/2020.emnlp-demos.6",
    ),
    Reference(
        "clip",
        "Radford A, Kim JW, Hallacy C, et al. Learning transferable visual models from natural "
        "language supervision. ICML (2021).",
        "https://arxiv.org/abs/2103.00020",
    ),
    Reference(
        "defossez",
        "Défossez A, Caucheteux C, Rapin J, Kabeli O, King J-R. Decoding speech perception "
        "from non-invasive brain recordings. Nature Machine Intelligence 5, 1097-1107 (2023).",
        "https://doi.org/10.1038/s42256-023-00714-5",
    ),
    Reference(
        "torch",
        "Paszke A, Gross S, Massa F, et al. PyTorch: an imperative style, high-performance deep "
        "learning library. NeurIPS 32 (2019).",
        "https://arxiv.org/abs/1912.01703",
    ),
    Reference(
        "source",
        "From Minutes to Days: Scaling Intracranial Speech Decoding with Supervised "
        "Pretraining. arXiv:2512.15830 (2025). The source paper of the method.",
        "https://arxiv.org/abs/2512.15830",
    ),
)
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


def cited_references(settings: Settings) -> dict[str, tuple[int, Reference]]:
    """Return the works that a run with these settings cites, numbered from 1."""
    # wav2vec 2.0 is the paper's target, so it is cited whatever this run used.
    unused = set(SPEECH_MODELS) - {"wav2vec2", settings["target"]["name"]}
    if settings["target"]["name"] == "mel":
        unused.add("transformers")
    used = [reference for reference in REFERENCES if reference.key not in unused]
    used.sort(key=lambda r: r.key == "wav2vec2" and settings["target"]["name"] != "wav2vec2")
    return {reference.key: (n, reference) for n, reference in enumerate(used, start=1)}


def list_choices(settings: Settings) -> tuple[Choice, ...]:
    """Return the settings that shape the result, each beside what is known of the paper's."""
    pre, target, windows = settings["preprocess"], settings["target"], settings["windows"]
    splits, finetune = settings["splits"], settings["finetune"]
    loss = "both directions" if finetune["symmetric"] else "brain to audio only"
    return (
        Choice("Sampling rate", f"{pre['rate']:g} Hz", "40 Hz", PAPER),
        Choice(
            "Pass band",
            f"{pre['highpass']:g} to about {pre['rate'] / 2:g} Hz (Nyquist)",
            "0.05 to 50 Hz, then 40 Hz sampling",
            PAPER,
        ),
        Choice("Scaling of channels", "median and interquartile range", "robust", PAPER),
        Choice("Clamp", f"±{pre['clamp']:g} robust units", "±20", CODE),
        Choice("Reference", str(pre["reference"]), DASH, OPEN),
        Choice("Audio target", describe_target(settings), "wav2vec 2.0, layer 19", PAPER),
        Choice("Weights of the speech model", describe_weights(settings), "XLSR-53", REVIEWS),
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


def choice_table(settings: Settings) -> Table:
    """Return the choices as a table of the report."""
    columns = ["Setting", "This run", "Source paper", "Source of the paper's value"]
    choices = list_choices(settings)
    return make_table(columns, [(c.what, c.here, c.paper, c.origin) for c in choices])


def describe_target(settings: Settings) -> str:
    """Return the audio target in a few words."""
    target = settings["target"]
    if target["name"] == "mel":
        return "mel spectrogram, 40 bands"
    return f"{SPEECH_MODELS[target['name']]}, layer {target['layer']}"


def describe_weights(settings: Settings) -> str:
    """Return which weights the speech model has."""
    target = settings["target"]
    return "none: no speech model" if target["name"] == "mel" else str(target["model"])


def describe_pooling(settings: Settings) -> str:
    """Return how a window's features are pooled, in a few words."""
    target = settings["target"]
    return "mean" if target["pooling"] == "mean" else f"frames at {target['frame_rate']:g} Hz"
