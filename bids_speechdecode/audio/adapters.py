"""Low-rank adapters in peft's format: find them, and merge them into the model they belong to.

An adapter's folder holds ``adapter_config.json`` and ``adapter_model.safetensors`` and stands for
its model wherever a model's folder does. Each adapted weight becomes

``W + s B A``, with ``s = lora_alpha / r`` (``lora_alpha / sqrt(r)`` where ``use_rslora``),

A of shape (r, n_in) and B of shape (n_out, r) (LoRA, arXiv:2106.09685). The weights themselves are
changed, so the result also holds where a model reads ``q_proj.weight`` without calling ``q_proj``,
as the attention of WavLM does in transformers.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from bids_speechdecode.audio.model_files import (
    find_model,
    fingerprint_folder,
)
from bids_speechdecode.errors import DataError, MissingInputError, SpeechDecodeError

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
BASE_KEY = "base_model_name_or_path"

SCALING = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora")
# Variants that change more than W + s B A; what they need is not in A and B alone.
OTHER_ARITHMETIC = ("use_dora", "fan_in_fan_out", "use_qalora", "layer_replication")
PLAIN_STARTS = (None, True, False, "gaussian", "orthogonal")  # others also change the base


@dataclass(frozen=True)
class ModelFiles:
    """Where a speech model lies.

    Attributes
    ----------
    folder : Path
        Settings and weights of the model itself.
    adapters : tuple of Path
        Folders of the adapters to merge into it, in this order.
    """

    folder: Path
    adapters: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Change:
    """What one adapter adds to one weight: ``scale * up @ down``.

    Attributes
    ----------
    down, up : tensor, shapes (r, n_in) and (n_out, r)
    """

    down: torch.Tensor
    up: torch.Tensor
    scale: float


def find_model_files(name: str) -> ModelFiles:
    """Return where the model of this name lies, and the adapters on the way to it.

    Parameters
    ----------
    name : str
        A model's folder, an adapter's folder, or the name of a model on the hub. An adapter
        names its base in the same way, or by a path relative to its own folder, which comes
        first; the base may be an adapter again.

    Raises
    ------
    UsageError, MissingInputError, DataError, TemporaryError
        As `find_model`; where the base of an adapter is missing, the adapter's settings do not
        name one or name it in a circle, or its weights are missing or pickled.
    """
    adapters: list[Path] = []
    folder = Path(name).expanduser()
    while (folder / CONFIG_FILE).is_file() and not (folder / "config.json").is_file():
        if folder.resolve() in [a.resolve() for a in adapters]:
            raise DataError("An adapter is its own base", where=folder / CONFIG_FILE)
        adapters.append(_require_weights(folder))
        name = _base_name(folder)
        folder = Path(name).expanduser()
    if not adapters:
        return ModelFiles(find_model(name))
    try:
        return ModelFiles(find_model(name), tuple(adapters[::-1]))
    except SpeechDecodeError as error:
        raise _base_missing(adapters[-1], name, error) from error


def fingerprint_files(files: ModelFiles) -> str:
    """Return a text that changes with the model or an adapter, wherever the files lie."""
    model = fingerprint_folder(files.folder)
    if not files.adapters:
        return model
    digest = hashlib.sha256(model.encode())
    for adapter in files.adapters:
        settings = _read_settings(adapter)
        digest.update(json.dumps([settings.get(key) for key in SCALING]).encode())
        digest.update((adapter / WEIGHTS_FILE).read_bytes())
    return digest.hexdigest()


def merge_adapters(module: nn.Module, whole: nn.Module, adapters: Iterable[Path]) -> None:
    """Add each adapter to the weights of `module`, in place.

    Parameters
    ----------
    module : nn.Module
        What was loaded of the model, which may end before its last layer; what an adapter adds
        to later layers is left out.
    whole : nn.Module
        All of the model; only names and shapes are read, so it may be on the ``meta`` device.
    adapters : iterable of Path

    Raises
    ------
    DataError
        If an adapter is not a plain low-rank one, says no rank or another rank than its weights
        have, is for modules that the model does not have or for other shapes, or is damaged.
    """
    weights = {name: part.weight for name, part in _linear_parts(module).items()}
    shapes = {name: tuple(part.weight.shape) for name, part in _linear_parts(whole).items()}
    for adapter in adapters:
        for name, change in _read_changes(adapter, shapes).items():
            if name in weights:
                with torch.no_grad():
                    weights[name] += change.scale * (change.up @ change.down).to(weights[name])


def _linear_parts(module: nn.Module) -> dict[str, nn.Linear]:
    return {n: part for n, part in module.named_modules() if isinstance(part, nn.Linear)}


def _read_changes(adapter: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Change]:
    """Return what an adapter adds to each weight of the model, after checking that it fits."""
    settings = _read_settings(adapter)
    _require_plain(settings, adapter)
    pairs = _pairs(_read_weights(adapter), adapter)
    names = {name: _name_in_model(name, shapes) for name in pairs}
    if unknown := [name for name, known in names.items() if known is None and _is_heard(name)]:
        raise DataError(
            "An adapter is for modules that the speech model does not have",
            expected=f"some of {', '.join(sorted({n.rsplit('.', 1)[-1] for n in shapes}))}",
            found=_first(unknown),
            where=adapter,
            fix=f"check {BASE_KEY} in {CONFIG_FILE}: is it the model that was tuned?",
        )
    changes = {}
    for name, (down, up) in pairs.items():
        known = names[name]
        if known is not None:
            rank, scale = _rank_and_scale(settings, name, adapter)
            _require_fit(down, up, rank, shapes[known], known, adapter)
            changes[known] = Change(down, up, scale)
    return changes


def _pairs(
    weights: Mapping[str, torch.Tensor], adapter: Path
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return A and B of each adapted module, by the module's name in the adapter."""
    known = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_([AB])(?:\.default)?\.weight")
    found: dict[str, dict[str, torch.Tensor]] = {}
    other = []
    for key, weight in weights.items():
        if match := known.fullmatch(key):
            found.setdefault(match[1], {})[match[2]] = weight.float()
        else:
            other.append(key)
    other += [name for name, pair in found.items() if len(pair) != 2]
    if other or not found:
        raise DataError(
            "An adapter has other weights than the pairs of low-rank ones",
            expected="*.lora_A.weight and *.lora_B.weight of each module",
            found=_first(other) or "no weights at all",
            where=adapter / WEIGHTS_FILE,
            fix="merge it into its model with peft (merge_and_unload) and name that folder",
        )
    return {name: (pair["A"], pair["B"]) for name, pair in found.items()}


def _name_in_model(name: str, shapes: Mapping[str, object]) -> str | None:
    """Return the model's own name of a module; wrappers such as a CTC head put parts before it."""
    parts = name.split(".")
    if not _is_heard(name):
        return None
    rests = (".".join(parts[first:]) for first in range(len(parts)))
    return next((rest for rest in rests if rest in shapes), None)


def _is_heard(name: str) -> bool:
    """Return whether a module listens; Whisper's decoder, which writes, is never used."""
    return "decoder" not in name.split(".")


def _rank_and_scale(settings: Mapping[str, Any], name: str, adapter: Path) -> tuple[int, float]:
    rank = _setting_of(settings, "rank_pattern", name, settings.get("r"))
    alpha = _setting_of(settings, "alpha_pattern", name, settings.get("lora_alpha"))
    for key, value, kind in (("r", rank, int), ("lora_alpha", alpha, (int, float))):
        if isinstance(value, bool) or not isinstance(value, kind) or value <= 0:
            raise DataError(
                "An adapter does not say how its weights are scaled",
                expected=f"{key}: a number above 0",
                found=f"{key}: {json.dumps(value)}",
                where=adapter / CONFIG_FILE,
            )
    return rank, alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def _setting_of(settings: Mapping[str, Any], patterns: str, name: str, default: Any) -> Any:
    """Return a module's own rank or alpha, where a pattern of its name gives one."""
    for pattern, value in (settings.get(patterns) or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", name):
            return value
    return default


def _require_fit(
    down: torch.Tensor,
    up: torch.Tensor,
    rank: int,
    shape: tuple[int, ...],
    name: str,
    adapter: Path,
) -> None:
    expected = (rank, shape[1]), (shape[0], rank)
    found = tuple(down.shape), tuple(up.shape)
    if found != expected:
        raise DataError(
            "An adapter does not fit its rank or its model",
            expected=f"A {expected[0]} and B {expected[1]}, as r = {rank} and the model say",
            found=f"A {found[0]} and B {found[1]}",
            where=f"{name} in {adapter}",
            fix=f"check r and {BASE_KEY} in {CONFIG_FILE}",
        )
    if not (torch.isfinite(down).all() and torch.isfinite(up).all()):
        raise DataError("An adapter has NaN or infinite weights", where=f"{name} in {adapter}")


def _require_plain(settings: Mapping[str, Any], adapter: Path) -> None:
    """Raise where the adapter changes its model in another way than ``W + s B A``."""
    unusual = {key: settings[key] for key in OTHER_ARITHMETIC if settings.get(key)}
    if settings.get("init_lora_weights") not in PLAIN_STARTS:
        unusual["init_lora_weights"] = settings["init_lora_weights"]
    if settings.get("peft_type") != "LORA":
        unusual["peft_type"] = settings.get("peft_type")
    if unusual:
        raise DataError(
            "An adapter is of a kind that cannot be merged here",
            expected="peft_type LORA without variants",
            found=", ".join(f"{key}: {json.dumps(value)}" for key, value in unusual.items()),
            where=adapter / CONFIG_FILE,
            fix="merge it into its model with peft (merge_and_unload) and name that folder",
        )


def _read_settings(adapter: Path) -> dict[str, Any]:
    path = adapter / CONFIG_FILE
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(
            "An adapter's settings are not JSON", found=str(error), where=path
        ) from error
    if not isinstance(settings, dict):
        raise DataError("An adapter's settings are not a JSON object", where=path)
    return settings


def _read_weights(adapter: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(adapter / WEIGHTS_FILE)
    except (SafetensorError, OSError) as error:
        raise DataError(
            "An adapter's weights cannot be read",
            found=str(error).splitlines()[0],
            where=adapter / WEIGHTS_FILE,
            fix="copy or tune it again",
        ) from error


def _require_weights(adapter: Path) -> Path:
    if (adapter / WEIGHTS_FILE).is_file():
        return adapter
    if (adapter / "adapter_model.bin").is_file():
        raise DataError(
            "An adapter has pickled weights only; these may run any code when they are loaded",
            expected=WEIGHTS_FILE,
            found="adapter_model.bin",
            where=adapter,
            fix="save it again with peft: save_pretrained(..., safe_serialization=True)",
        )
    raise MissingInputError(
        "An adapter has no weights", expected=WEIGHTS_FILE, found=CONFIG_FILE, where=adapter
    )


def _base_name(adapter: Path) -> str:
    """Return the base as a folder where it lies relative to the adapter, else as it is named."""
    name = _read_settings(adapter).get(BASE_KEY)
    if not isinstance(name, str) or not name:
        raise DataError(
            "An adapter does not say which model it belongs to",
            expected=f"{BASE_KEY}: a folder or a name on the hub",
            found=json.dumps(name),
            where=adapter / CONFIG_FILE,
        )
    beside = adapter / name
    return str(beside) if beside.is_dir() else name


def _base_missing(adapter: Path, name: str, error: SpeechDecodeError) -> SpeechDecodeError:
    """Return the same kind of error, said of the adapter's base."""
    path = Path(name).expanduser()
    is_hub_name = len(path.parts) <= 2 and name[0] not in "./~"
    places = [adapter / path] if path.is_absolute() else [adapter / path, path.absolute()]
    looked = " and ".join(dict.fromkeys(os.path.normpath(place) for place in places))
    get = f"fetch it (hf download {name} --local-dir FOLDER)" if is_hub_name else "find its folder"
    return type(error)(
        f"The model that an adapter belongs to cannot be used: {error.problem}",
        expected=f"{name}, as {BASE_KEY} says",
        found=f"looked for at {looked}" + (" and on the hub" if is_hub_name else ""),
        where=adapter / CONFIG_FILE,
        fix=f"{get}, or put it back where it was, or write its folder as {BASE_KEY}; "
        "if the base was moved together with the output, move it to the same place beside it",
    )


def _first(names: Sequence[str], n: int = 3) -> str:
    more = f" and {len(names) - n} more" if len(names) > n else ""
    return ", ".join(names[:n]) + more
