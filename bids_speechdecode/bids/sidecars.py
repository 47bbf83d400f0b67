"""Sidecars: what a derivative was made from, and whether it still is what was written.

A derivative is its own cache. Its sidecar carries the signature of what made it and is written
after the data; replacing the data first removes the sidecar. So a sidecar on disk always
describes the complete data beside it, wherever the program was interrupted. It also has the size
of each of its files, so that one that was cut short later (a full disk, a broken copy) is found.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from bids_speechdecode.bids.files import json_types, sidecar_path, write_json
from bids_speechdecode.errors import DataError

_ENDS = 64 * 1024  # bytes of a file's head and tail that go into its fingerprint


def fingerprint(path: Path) -> str:
    """Return what identifies an input's content without reading all of it.

    SHA-256 over size, modification time (ns) and the first and last 64 KiB; for a folder
    (MEF3), over the names and fingerprints of its files. An edit in the middle of a large file
    that keeps both its size and its modification time goes unseen.
    """
    digest = hashlib.sha256()
    if path.is_dir():
        for part in sorted(p for p in path.rglob("*") if p.is_file()):
            digest.update(f"{part.relative_to(path)}\n{fingerprint(part)}\n".encode())
        return digest.hexdigest()
    status = path.stat()
    digest.update(f"{status.st_size} {status.st_mtime_ns}\n".encode())
    with path.open("rb") as file:
        digest.update(file.read(_ENDS))
        if status.st_size > _ENDS:
            file.seek(max(_ENDS, status.st_size - _ENDS))
            digest.update(file.read(_ENDS))
    return digest.hexdigest()


def signature(step: str, version: int, settings: object, inputs: Iterable[str]) -> str:
    """Return the SHA-256 (hex) of all that decides a step's result.

    Parameters
    ----------
    step : str
        Its name.
    version : int
        Raised whenever the step's code changes what it writes.
    settings : dataclass or mapping
        The step's own part of the configuration.
    inputs : iterable of str
        Fingerprints or signatures of its inputs; their order counts.
    """
    parts = {"step": step, "version": version, "settings": settings, "inputs": list(inputs)}
    text = json.dumps(json_types(parts), sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def write_sidecar(path: Path, *others: Path, step: str, signature: str, **fields: object) -> None:
    """Write the sidecar of a derivative; call it last, when all its data are on disk.

    Parameters
    ----------
    path : path
        The derivative, not the sidecar.
    others : path
        Files of the same output that were made together with it, such as headers.
    step, signature : str
        Which step made it, and the signature that `Derivatives.is_current` compares.
    fields : JSON values
        What else the sidecar says.
    """
    sizes = {os.path.relpath(p, path.parent): p.stat().st_size for p in (path, *others)}
    content = {**fields, "Step": step, "Signature": signature, "Bytes": sizes}
    write_json(sidecar_path(path), content)


def read_sidecar(path: Path) -> dict[str, Any]:
    """Return the sidecar of a derivative, empty where absent or broken."""
    try:
        content = json.loads(sidecar_path(path).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def find_damage(path: Path) -> str:
    """Return which file of a derivative is missing or has not the size that its sidecar says.

    Empty where all are whole, and where no sidecar says a size. Contents are not read.
    """
    sizes = read_sidecar(path).get("Bytes", {})
    if not isinstance(sizes, dict):
        return "no sizes in the sidecar"
    for name, size in sizes.items():
        file = path.parent / name
        found = file.stat().st_size if file.is_file() else None
        if found != size:
            return f"{file.name}: " + ("missing" if found is None else f"{found} of {size} bytes")
    return ""


def damaged(path: Path, found: str) -> DataError:
    """Return the error of a file in the output that is not as it was written."""
    return DataError(
        "A file in the output is damaged, or was changed after it was written.",
        found=found,
        where=path,
        fix="run the command that made it once more (participant level, without --steps): "
        "what is damaged is made again",
    )


# Columns of words: pandas would take an `audio` that is everywhere "true" for a boolean.
_TEXT_COLUMNS = (
    "audio",
    "condition",
    "contrast",
    "group",
    "hemisphere",
    "label",
    "name",
    "participant",
    "reason",
    "status",
    "task",
)


def read_table(path: Path) -> pd.DataFrame:
    """Return a BIDS table; ``n/a`` becomes NaN, other words stay as they are.

    Raises
    ------
    DataError
        It is not a table, or not the one that its sidecar was written for.
    """
    if damage := find_damage(path):
        raise damaged(path, damage)
    if path.stat().st_size == 1:  # a table without rows may have no header either
        return pd.DataFrame()
    try:
        return pd.read_csv(
            path,
            sep="\t",
            na_values=["n/a"],
            keep_default_na=False,
            dtype=dict.fromkeys(_TEXT_COLUMNS, str),
            encoding="utf-8-sig",
        )
    except ValueError as error:  # not parsed, empty or not UTF-8
        raise damaged(path, str(error).splitlines()[0]) from error
