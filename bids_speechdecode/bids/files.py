"""Files that are written whole or not at all, whoever interrupts: text, JSON, tables and arrays.

A file is written beside its place and then takes it. What described the older one, its sidecar, is
removed first.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import math
import os
import re
import socket
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bids_speechdecode.errors import CannotWriteError, InputOutputError

_CANNOT_WRITE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EIO}
_DOUBLE_EXTENSIONS = (".nii.gz", ".shape.gii")


@contextlib.contextmanager
def atomic_write(path: Path, *, shared: bool = False) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success it becomes `path`.

    The sidecar of an older `path` is removed first. On error the temporary file is removed and
    `path` stays as it was.

    Parameters
    ----------
    path : path
    shared : bool
        Whether the name carries the signature, so that another process may write, or already
        read, the same content there: its sidecar is true of ours as well and stays.

    Raises
    ------
    CannotWriteError
        If the folder cannot be made or written.
    InputOutputError
        If the disk is full or fails.
    """
    host = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())
    temporary = path.with_name(f".{os.getpid()}.{host}.{uuid.uuid4().hex[:8]}.{path.name}")
    _make_folder(path.parent)
    try:
        yield temporary
        temporary.chmod(_usual_mode())  # safetensors writes for the owner alone
        if path.suffix != ".json" and not shared:
            invalidate(path)
        temporary.replace(path)
    except OSError as error:
        raise _explained(error, path, temporary) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _usual_mode() -> int:
    """Return the permissions that a new file gets here."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "no permission to write", str(folder))
    except OSError as error:
        raise CannotWriteError(
            "The output cannot be written.",
            found=str(error.strerror),
            where=error.filename,
            fix="name another output folder or allow writing there",
        ) from error


def _explained(error: OSError, path: Path, temporary: Path) -> Exception:
    """Return our own error for a failed write, and any other error as it is."""
    if error.errno in _FULL:
        return InputOutputError(
            "Writing failed.", found=str(error.strerror), where=path, fix="free space, run again"
        )
    if error.errno in _CANNOT_WRITE and str(error.filename) in {str(path), str(temporary)}:
        return CannotWriteError(
            "The output cannot be written.", found=str(error.strerror), where=path
        )
    return error


def sweep_leftovers(folder: Path) -> int:
    """Remove temporary files of processes of this machine that no longer run; return how many."""
    host = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())
    n_removed = 0
    for path in folder.rglob(f".*.{host}.*"):
        pid = path.name.split(".")[1]
        if pid.isdigit() and not _is_running(int(pid)):
            path.unlink(missing_ok=True)
            n_removed += 1
    return n_removed


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def write_text(path: Path, text: str) -> None:
    """Write a text file (UTF-8) atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: object) -> None:
    """Write JSON atomically; NaN and infinities become null, dataclasses objects."""
    write_text(path, to_json(content))


def write_tsv(path: Path, table: pd.DataFrame) -> None:
    """Write a BIDS table atomically; NaN and None become ``n/a``, booleans lower case."""
    table = table.copy()
    for column in table.select_dtypes("bool"):
        table[column] = table[column].map({True: "true", False: "false"})
    with atomic_write(path) as temporary:
        table.to_csv(
            temporary, sep="\t", index=False, na_rep="n/a", lineterminator="\n", encoding="utf-8"
        )


def write_array(path: Path, array: np.ndarray, *, shared: bool = False) -> None:
    """Write a ``.npy`` file atomically; `shared` as in `atomic_write`."""
    with atomic_write(path, shared=shared) as temporary, temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def sidecar_path(path: Path) -> Path:
    """Return the JSON sidecar of a derivative; a ``.json`` file is its own.

    Examples
    --------
    >>> sidecar_path(Path("group_desc-n_map.nii.gz")).name
    'group_desc-n_map.json'
    """
    extension = next((e for e in _DOUBLE_EXTENSIONS if path.name.endswith(e)), path.suffix)
    return path.with_name(path.name.removesuffix(extension) + ".json")


def invalidate(path: Path) -> None:
    """Remove the sidecar: from now until the next one, what lies there counts as unfinished."""
    sidecar_path(path).unlink(missing_ok=True)


def to_json(content: object) -> str:
    """Return JSON; NaN and infinities become null, dataclasses objects."""
    text = json.dumps(json_types(content), indent=2, ensure_ascii=False, allow_nan=False)
    return text + "\n"


def json_types(value: Any) -> Any:
    """Return `value` in types that JSON knows."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return json_types(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {str(key): json_types(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return json_types(value.tolist())
    if isinstance(value, list | tuple):
        return [json_types(item) for item in value]
    if isinstance(value, np.generic):
        return json_types(value.item())
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"no JSON for {type(value).__name__}")
