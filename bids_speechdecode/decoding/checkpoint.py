"""Training states on disk: one safetensors file, written all or nothing, and no pickle.

Tensors go into the file as they are; everything else goes into its header as JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from bids_speechdecode.errors import CannotWriteError


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], header: dict[str, str]) -> None:
    """Write a safetensors file under a temporary name in the same folder, then rename it."""
    # A copy of each: safetensors refuses tensors that share memory.
    copies = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    for is_last in (False, True):
        try:
            _write_once(path, copies, header)
            return
        except (OSError, SafetensorError) as error:
            # Another process that was done may have removed the folder while it was empty.
            if is_last or path.parent.is_dir():
                raise CannotWriteError(
                    "Weights cannot be written.", found=str(error), where=path
                ) from error


def _write_once(path: Path, tensors: dict[str, torch.Tensor], header: dict[str, str]) -> None:
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, partial, header)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:  # of an interruption too
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a nested state (dicts and lists of tensors, numbers, strings, None)."""
    tensors: dict[str, torch.Tensor] = {}
    header = {"state": json.dumps(_pack(state, tensors))}
    write_tensors(path, tensors, header)


def read_state(path: Path) -> dict[str, Any] | None:
    """Return a state written by `write_state`, or None where there is none that can be read.

    Tuples come back as lists; numbers and tensors come back bit for bit.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            packed = json.loads((file.metadata() or {})["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return _unpack(packed, tensors)
    except (SafetensorError, OSError, KeyError, ValueError):
        return None


def _pack(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """Return `value` for JSON; every tensor is moved to `tensors` and leaves its name behind.

    A dict becomes a list of pairs, since JSON would turn the integer keys of optimiser states
    into strings.
    """
    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"dict": [[key, _pack(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return [_pack(item, tensors) for item in value]
    return value


def _unpack(packed: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """Undo `_pack`."""
    if isinstance(packed, list):
        return [_unpack(item, tensors) for item in packed]
    if not isinstance(packed, dict):
        return packed
    if "tensor" in packed:
        return tensors[packed["tensor"]]
    return {key: _unpack(item, tensors) for key, item in packed["dict"]}
