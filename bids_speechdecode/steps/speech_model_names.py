"""What people call a speech model -> which one is loaded."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bids_speechdecode.audio.adapters import find_model_files
from bids_speechdecode.audio.speech_models import model_fingerprint
from bids_speechdecode.config import DEFAULT_MODELS, Config, TargetConfig
from bids_speechdecode.errors import DataError, MissingInputError, UsageError, did_you_mean

UNTUNED, TUNED, MEL = "untuned", "tuned", "mel"
FOLDER = "speechmodels"  # of tuned models, in the output
TUNE_AGAIN = "run the command with --analysis fmri-tuning that made it again: it is repaired"


@dataclass(frozen=True)
class NamedModel:
    """A speech model of an encoding analysis.

    Attributes
    ----------
    label : str
        What tables and reports call it.
    target : TargetConfig
        How it is loaded; its layer is the default one.
    kind : str
        "untuned", "tuned", "control" or "other".
    control : str
        Which control; empty for none.
    seed : int
    amount : float
        Share of the fMRI data that it was tuned on.
    repetition_time : float or None
        Of that fMRI (s): half its inverse is the fastest modulation that it can show.
    """

    label: str
    target: TargetConfig
    kind: str = "other"
    control: str = ""
    seed: int = 0
    amount: float = 1.0
    repetition_time: float | None = None

    @property
    def word(self) -> str:
        """The label as it may stand in the name of a file."""
        return re.sub(r"[^A-Za-z0-9]", "", self.label) or "model"

    @property
    def fingerprint(self) -> str:
        """What changes when the model does; raises where it is not on this machine."""
        return model_fingerprint(self.target)


def model_name(model: str) -> str:
    """Return the name of a folder, or the name on the hub as it is.

    Examples
    --------
    >>> model_name("microsoft/wavlm-base-plus"), model_name("/models/wavlm/")
    ('microsoft/wavlm-base-plus', 'wavlm')
    """
    path = Path(model)
    return path.name if path.is_absolute() or path.is_dir() else model


def name_models(config: Config, out: Path) -> tuple[NamedModel, ...]:
    """Return the models of an encoding analysis; the others are compared with the first.

    Parameters
    ----------
    config : Config
        ``encoding.models`` are "untuned", "tuned" (all that were tuned in this output), labels of
        tuned models, "mel", folders or hub names.
    out : path
        The output, with tuned models in ``speechmodels/``.

    Raises
    ------
    UsageError
        Tuned models of different base models.
    MissingInputError
        There is no such tuned model.
    """
    there = sorted(p.parent.name for p in (out / FOLDER).glob("*/tuning.json"))
    names: list[str] = []
    for name in config.encoding.models:
        if name == TUNED and not there:
            raise _nothing_tuned(out)
        names += there if name == TUNED else [name]
    names = list(dict.fromkeys(names))
    folders = {name: folder for name in names if (folder := find_tuned(name, out))}
    known = {name: read_tuned(folder, config) for name, folder in folders.items()}
    base = _common_base(list(known.values()), config)
    models = [known[n] if n in known else _name_other(n, base, config, there) for n in names]
    _require_distinct(models, names)
    return tuple(models)


def find_tuned(name: str, out: Path) -> Path | None:
    """Return the folder of a tuned model, by its label in this output or by its path."""
    folders = [out / FOLDER / name, Path(name).expanduser()]
    # The sidecar is written last: a folder without it is unfinished.
    return next((f for f in folders if (f / "tuning.json").is_file()), None)


def require_own_name(target: TargetConfig, analysis: str, out: Path) -> None:
    """Raise where a model is named by a word that only encoding knows, or a label of its own.

    Raises
    ------
    UsageError
        Neither a folder nor a name on the hub.
    """
    name = target.model
    if target.name == MEL or Path(name).expanduser().is_dir():
        return
    tuned = (out / FOLDER / name / "tuning.json").is_file()
    if name not in (UNTUNED, TUNED, MEL) and not tuned:
        return
    fix = {
        MEL: "--target mel" if analysis == "decoding" else "leave --speech-model out",
        UNTUNED: "leave --speech-model out for the default model",
    }
    instead = "name one tuned model" if analysis == "decoding" else "name the model it came from"
    raise UsageError(
        f"--speech-model {name} is not a speech model that {analysis} can start from",
        expected="the folder of a speech model, or owner/name on the hub",
        found=f"a model that was tuned in {out}" if tuned else "a word of --analysis encoding",
        fix=fix.get(name, instead),
    )


def _require_distinct(models: Sequence[NamedModel], names: Sequence[str]) -> None:
    labels = [model.label for model in models]
    twice = [name for name, label in zip(names, labels, strict=True) if labels.count(label) > 1]
    if twice:
        raise UsageError(
            "two speech models would have the same name in the tables",
            expected="folders whose last parts differ",
            found=", ".join(twice),
            fix="leave one out, or rename its folder",
        )


def _name_other(name: str, base: TargetConfig, config: Config, there: Sequence[str]) -> NamedModel:
    if name == UNTUNED and base.name != MEL:
        return NamedModel(UNTUNED, base, UNTUNED)
    if name in (MEL, UNTUNED):  # with --target mel, nothing else is untuned
        model, layer = DEFAULT_MODELS[MEL]
        return NamedModel(MEL, replace(config.target, name="mel", model=model, layer=layer))
    close = did_you_mean(name, [UNTUNED, TUNED, MEL, *there])
    if "/" not in name and not Path(name).exists():
        raise MissingInputError(
            f"there is no speech model {name!r}",
            expected="untuned, tuned, mel, the label of a tuned model, a folder, or owner/name",
            found=f"tuned models in this output: {', '.join(there) or 'none'}",
            fix=close or "tune it with --analysis fmri-tuning, or correct --speech-model",
        )
    return NamedModel(Path(name).name, replace(config.target, model=name))


# What is read of a tuned model's sidecar, and of which type it is.
_TUNED_FIELDS: dict[str, type | tuple[type, ...]] = {
    "Target": str,
    "Layer": int,
    "Control": str,
    "Seed": int,
    "Amount": (int, float),
    "RepetitionTime": (int, float),
}


def read_tuned(folder: Path, config: Config) -> NamedModel:
    """Return a tuned model as its sidecar describes it.

    Raises
    ------
    DataError
        The sidecar is damaged or incomplete, or the adapter does not name its base.
    """
    about = _read_json(folder / "tuning.json")
    about_adapter(folder)
    wrong = [k for k, kind in _TUNED_FIELDS.items() if not isinstance(about.get(k), kind)]
    if wrong or about["Target"] not in DEFAULT_MODELS:
        key = wrong[0] if wrong else "Target"
        raise DataError(
            "the sidecar of a tuned model is incomplete or damaged",
            expected=", ".join(_TUNED_FIELDS) + ", as fmri-tuning writes them",
            found=f"{key}: {json.dumps(about[key])}" if key in about else f"no {key}",
            where=folder / "tuning.json",
            fix=TUNE_AGAIN,
        )
    target = replace(config.target, name=about["Target"], layer=about["Layer"])
    return NamedModel(
        folder.name,
        replace(target, model=str(folder)),
        "control" if about["Control"] else "tuned",
        about["Control"],
        about["Seed"],
        float(about["Amount"]),
        float(about["RepetitionTime"]),
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            "a file of a tuned model cannot be read",
            expected="a JSON object",
            found=str(error),
            where=path,
            fix=TUNE_AGAIN,
        ) from error


def about_adapter(folder: Path) -> dict[str, Any]:
    """Return the settings of an adapter, which name its base; raise where they do not."""
    path = folder / "adapter_config.json"
    settings = _read_json(path)
    if not isinstance(settings.get("base_model_name_or_path"), str):
        raise DataError(
            "the settings of an adapter do not name its base model",
            expected="the key base_model_name_or_path",
            where=path,
            fix=TUNE_AGAIN,
        )
    return settings


def _common_base(tuned: Sequence[NamedModel], config: Config) -> TargetConfig:
    """Return the model that all were tuned from; the settings' own where none was."""
    bases = {}
    for model in tuned:
        base = about_adapter(Path(model.target.model))["base_model_name_or_path"]
        beside = Path(model.target.model, base)
        bases[str(beside.resolve()) if beside.is_dir() else base] = model.target
    if len(bases) > 1:
        raise UsageError(
            "the tuned models come from different speech models",
            expected="one base model, with which all are compared",
            found=", ".join(bases),
            fix="name models of one base with --speech-model",
        )
    for model in tuned[:1]:
        find_model_files(model.target.model)  # says of which adapter the base is missing
    for base, target in bases.items():
        return replace(target, model=base)
    return config.target


def _nothing_tuned(out: Path) -> MissingInputError:
    return MissingInputError(
        "there is no tuned model in this output",
        expected=f"{FOLDER}/<label>/adapter_config.json",
        where=out,
        fix="run --analysis fmri-tuning with the same OUTPUT_DIR first, or leave 'tuned' out",
    )
