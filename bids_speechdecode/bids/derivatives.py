"""Derivatives on disk: names, sidecars, signatures and atomic writes.

A derivative is its own cache. Its sidecar carries the signature of what made it and is written
after the data; replacing the data first removes the sidecar. So a sidecar on disk always
describes the complete data beside it, wherever the program was interrupted. It also has the size
of each of its files, so that one that was cut short later (a full disk, a broken copy) is found.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import errno
import hashlib
import json
import math
import os
import re
import socket
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd

from bids_speechdecode import __version__
from bids_speechdecode.errors import CannotWriteError, DataError, InputOutputError, UsageError

NAME = "bids_speechdecode"
_BIDS_VERSION = "1.10.0"
_ENTITY_ORDER = (
    "sub",
    "ses",
    "task",
    "acq",
    "run",
    "hemi",
    "space",
    "recording",
    "atlas",
    "res",
    "desc",
)
_DOUBLE_EXTENSIONS = (".nii.gz", ".shape.gii")
_ENDS = 64 * 1024  # bytes of a file's head and tail that go into its fingerprint
_CANNOT_WRITE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EIO}

# What BIDS does not name yet.
_IGNORED = (
    "*.html",
    "logs",
    "**/figures",
    "figures",
    "sub-*/log",
    "group_*",
    "**/*_embeddings.*",
    "**/*_scores.*",
    "**/*_model.*",
    "**/*_history.*",
    "**/*_windows.*",
    "**/*_spectra.*",
    "**/*_features.*",
    "features",
    "speechmodels",
)
_CONDITIONS = (
    "backward",
    "linear",
    "projection",
    "taskonly",
    "zeroshot",
    "frozen",
    "finetuned",
    "pretrained",
)
_DESCRIPTIONS = {
    "preproc": "cleaned, decimated and robustly scaled signal",
    "selected": "every channel: kept or dropped, why, and where it lies",
    "plan": "which recordings, channels and windows are used, and what is left out",
    "conditions": "retrieval ranks of every condition on the held-out windows",
    "contrasts": "paired differences of rank between conditions",
    "backward": "time-lagged ridge from brain to audio",
    "linear": "linear encoder, trained on the task only",
    "taskonly": "convolutional encoder with the same head and budget, trained on the task only",
    "projection": "as taskonly, without the spatial attention that the others have",
    "zeroshot": "pretrained encoder without finetuning",
    "frozen": "pretrained encoder, only the head finetuned",
    "finetuned": "pretrained encoder, all of it finetuned",
    "pretrained": "encoder pretrained on ambient recordings",
    "participants": "the scores of all participants",
    "participantContrasts": "the contrasts of all participants",
    "contrib": "what each electrode contributes to the model's retrieval ranks",
    "contacts": "the contributions of all electrodes of all participants",
    "parcels": "contributions by parcel and hemisphere, over participants",
    "parcelsByParticipant": "contributions by parcel and hemisphere, of each participant",
    "regions": "differences of contribution between regions within participants",
    "auditory": "benefits of pretraining and of the target, and coverage of auditory cortex",
    "auditoryCorrelation": "whether those benefits go with that coverage, over participants",
    "effect": "mean contribution over the participants who cover a place",
    "coverage": "electrodes that inform a place, all participants together",
    "n": "participants who cover a place",
    "slow": "the signal itself, decimated",
    "theta": "amplitude of the theta band, decimated",
    "alpha": "amplitude of the alpha band, decimated",
    "beta": "amplitude of the beta band, decimated",
    "gamma": "amplitude of the gamma band, decimated",
    "highgamma": "amplitude of the high-gamma band, decimated",
    "encoding": "how well speech models predict each electrode in held-out time",
    "encodingLags": "the same at every lag",
    "encodingModulations": "the same in bands of modulation",
    "encodingContrasts": "speech models compared",
    "encodingElectrodeContrasts": "speech models compared at each electrode",
    "encodingElectrodes": "how well speech models predict the electrodes of all participants",
    "encodingParticipantContrasts": "speech models compared in each participant",
    "encodingProfiles": "prediction by layer, lag and band of modulation, over participants",
    "encodingScaling": "gain of tuned speech models by the amount of fMRI",
    "encodingR": "where speech models predict",
    "encodingGain": "where a tuned speech model predicts better",
    "encodingCoverage": "electrodes that inform a place of these maps",
    "encodingN": "participants who cover a place of these maps",
}
_DESCRIPTIONS |= {
    f"{condition}{version}{what}": f"{text}{of_version}{of_what}"
    for condition, text in tuple(_DESCRIPTIONS.items())
    if condition in _CONDITIONS
    for version, of_version in (("", ""), ("Ambient", "; the room's version of the sound"))
    for what, of_what in (
        ("", ""),
        ("brain", "; embeddings of the brain"),
        ("audio", "; embeddings of the sound"),
    )
}


def check_output(bids_dir: Path, out: Path) -> None:
    """Raise if the output folder is, or lies inside, the input dataset.

    Raises
    ------
    UsageError
        Inputs are never written to.
    """
    source, target = Path(bids_dir).resolve(), Path(out).resolve()
    if target == source or source in target.parents:
        raise UsageError(
            "The output folder lies inside the input dataset.",
            expected="a folder outside the dataset, which is never written to",
            found=str(out),
            where=source,
            fix="name another output folder",
        )


class Derivatives:
    """A folder of BIDS derivatives; making the object writes nothing.

    Parameters
    ----------
    root : path
        The output folder.
    source : path
        The dataset that the derivatives are made from.
    command : str
        The command line as typed, kept in the README.
    simulated : bool
        Whether the source is simulated; then the name says so.
    """

    def __init__(self, root: Path, *, source: Path, command: str, simulated: bool) -> None:
        self.root = Path(root).absolute()
        self.source = Path(source).absolute()
        self.command = command
        self.simulated = simulated

    def initialise(self) -> None:
        """Write the files that make the folder a BIDS dataset, where they differ or are absent.

        Safe while another process does the same.

        Raises
        ------
        UsageError
            If the folder is inside the source, or holds somebody else's dataset.
        CannotWriteError
            If it cannot be written.
        """
        check_output(self.source, self.root)
        self.check_owner()
        title = f"{NAME}{' (simulated)' if self.simulated else ''}"
        _write_if_changed(self.root / "dataset_description.json", _to_json(self._description()))
        _write_if_changed(self.root / "README", _readme(title, self.command, self.simulated))
        if not (self.root / "CHANGES").exists():
            today = datetime.date.today().isoformat()
            write_text(self.root / "CHANGES", f"{__version__} {today}\n  - First derivatives.\n")
        _write_if_changed(self.root / ".bidsignore", "\n".join(_IGNORED) + "\n")
        rows = "".join(f"desc-{desc}\t{text}\n" for desc, text in _DESCRIPTIONS.items())
        _write_if_changed(self.root / "descriptions.tsv", f"desc_id\tdescription\n{rows}")

    def check_owner(self) -> None:
        """Raise a UsageError if the folder holds somebody else's dataset."""
        path = self.root / "dataset_description.json"
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
            makers = json.loads(path.read_text("utf-8")).get("GeneratedBy") or [{}]
            if makers[0].get("Name") != NAME:
                raise UsageError(
                    "The output folder holds another dataset.",
                    expected=f"a new folder, or derivatives of {NAME}",
                    where=path,
                    fix="name another output folder",
                )

    def _description(self) -> dict[str, Any]:
        return {
            "Name": f"{NAME}: speech in intracranial EEG{' (simulated)' if self.simulated else ''}",
            "BIDSVersion": _BIDS_VERSION,
            "DatasetType": "derivative",
            "GeneratedBy": [
                {
                    "Name": NAME,
                    "Version": __version__,
                    "Description": "Decoding of heard speech from intracranial EEG, and encoding "
                    "models of it",
                }
            ],
            "SourceDatasets": [{"URL": "file://" + quote(str(self.source))}],
        }

    def path(
        self,
        participant: str,
        *,
        session: str | None = None,
        task: str | None = None,
        run: str | None = None,
        desc: str | None = None,
        suffix: str,
        extension: str,
        datatype: str = "ieeg",
        **entities: str | None,
    ) -> Path:
        """Return where a derivative of a participant lives; creates nothing.

        Examples
        --------
        >>> out = Derivatives(Path("/out"), source=Path("/data"), command="", simulated=False)
        >>> str(out.path("01", task="x", desc="preproc", suffix="ieeg", extension=".vhdr"))
        '/out/sub-01/ieeg/sub-01_task-x_desc-preproc_ieeg.vhdr'
        """
        given = {"ses": session, "task": task, "run": run, "desc": desc, **entities}
        name = entity_name({"sub": participant, **given}, suffix, extension)
        folder = self.root / f"sub-{participant}"
        if session:
            folder /= f"ses-{session}"
        return folder / datatype / name

    def group_path(
        self,
        *,
        task: str | None = None,
        hemi: str | None = None,
        space: str | None = None,
        desc: str | None = None,
        suffix: str,
        extension: str,
    ) -> Path:
        """Return where a table, figure or map of the whole group lives.

        Examples
        --------
        >>> out = Derivatives(Path("/out"), source=Path("/data"), command="", simulated=False)
        >>> str(out.group_path(hemi="L", desc="n", suffix="map", extension=".shape.gii"))
        '/out/group_hemi-L_desc-n_map.shape.gii'
        """
        entities = {"task": task, "hemi": hemi, "space": space, "desc": desc}
        return self.root / ("group_" + entity_name(entities, suffix, extension))

    def atlas_path(self, atlas: str) -> Path:
        """Return where the table of an atlas's labels lives.

        Examples
        --------
        >>> out = Derivatives(Path("/out"), source=Path("/data"), command="", simulated=False)
        >>> str(out.atlas_path("desikan-killiany"))
        '/out/atlas-desikankilliany_dseg.tsv'
        """
        word = re.sub(r"[^A-Za-z0-9]", "", atlas) or "unnamed"
        return self.root / entity_name({"atlas": word}, "dseg", ".tsv")

    def is_current(self, path: Path, signature: str) -> bool:
        """Return whether a derivative is there, whole and made with this signature."""
        about = read_sidecar(path)
        return "Bytes" in about and about.get("Signature") == signature and not find_damage(path)


def entity_name(entities: Mapping[str, str | None], suffix: str, extension: str) -> str:
    """Return a BIDS file name with its entities in order; those that are None are left out."""
    known = {key: value for key, value in entities.items() if value is not None}
    unknown = known.keys() - set(_ENTITY_ORDER)
    assert not unknown, f"no place in a name for {unknown}"
    assert all(re.fullmatch(r"[A-Za-z0-9+]+", value) for value in known.values()), known
    pairs = [f"{key}-{known[key]}" for key in _ENTITY_ORDER if key in known]
    return "_".join([*pairs, suffix]) + extension


def _readme(title: str, command: str, simulated: bool) -> str:
    warning = "\nMade from SIMULATED data: nothing here is about a brain.\n" if simulated else ""
    return (
        f"# {title}\n{warning}\n"
        "Heard speech and intracranial EEG. Decoding: preprocessed signals, encoders and\n"
        "retrieval ranks with their chance levels. Encoding: how well speech models predict\n"
        "each electrode (desc-encoding*), and speech models tuned on fMRI (speechmodels).\n\n"
        f"The last command that wrote here:\n\n    {command}\n\n"
        "Start with group.html and sub-*.html. Files whose sidecar has a Signature are made\n"
        "again only when the settings or the inputs behind that signature change.\n"
    )


# --------------------------------------------------------------------------- signatures


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
    text = json.dumps(_plain(parts), sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


# ------------------------------------------------------------------------ atomic writes


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


def _write_if_changed(path: Path, text: str) -> None:
    with contextlib.suppress(OSError):
        if path.read_text("utf-8") == text:
            return
    write_text(path, text)


def write_text(path: Path, text: str) -> None:
    """Write a text file (UTF-8) atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: object) -> None:
    """Write JSON atomically; NaN and infinities become null, dataclasses objects."""
    write_text(path, _to_json(content))


def write_tsv(path: Path, table: pd.DataFrame) -> None:
    """Write a BIDS table atomically; NaN and None become ``n/a``, booleans lower case."""
    table = table.copy()
    for column in table.select_dtypes("bool"):
        table[column] = table[column].map({True: "true", False: "false"})
    with atomic_write(path) as temporary:
        table.to_csv(
            temporary, sep="\t", index=False, na_rep="n/a", lineterminator="\n", encoding="utf-8"
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


def read_sidecar(path: Path) -> dict[str, Any]:
    """Return the sidecar of a derivative, empty where absent or broken."""
    try:
        content = json.loads(sidecar_path(path).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _to_json(content: object) -> str:
    text = json.dumps(_plain(content), indent=2, ensure_ascii=False, allow_nan=False)
    return text + "\n"


def _plain(value: Any) -> Any:
    """Return `value` in types that JSON knows."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"no JSON for {type(value).__name__}")
