"""The files of a speech model: find them, fetch them, know whether they changed."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.utils import RepositoryNotFoundError

from bids_speechdecode.errors import DataError, MissingInputError, TemporaryError, UsageError

NEEDED_FILES = (
    "config.json",
    "preprocessor_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
)
REQUEST_TIMEOUT = 5.0  # seconds
NETWORK_TIMEOUT = 15.0  # seconds until a hub that does not answer counts as absent
CONVERSION_AUTHOR = "SFconvertbot"  # the hub's own service that adds safetensors to old models
WITHOUT_WEIGHTS = "or do without any model: --target mel (decoding), --speech-model mel (encoding)"


def find_model(name: str, more: Sequence[str] = ()) -> Path:
    """Return the folder with the configuration and the safetensors weights of a model.

    A folder of that name comes first, then the Hugging Face cache; the network is tried last,
    not at all where ``HF_HUB_OFFLINE`` is set, and given up when it does not answer in 15 s.

    Parameters
    ----------
    name : str
        A folder, or the name of a model on the Hugging Face hub.
    more : sequence of str
        Patterns of further files to fetch.

    Raises
    ------
    UsageError
        If the name can be neither.
    MissingInputError
        If the model is not on this machine and cannot be fetched.
    DataError
        If there are only pickled weights, which may run code when they are loaded.
    TemporaryError
        If the download breaks off.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _require_complete(folder)
    _require_hub_name(name)
    cached = _cached_snapshot(name)
    if cached is None and constants.HF_HUB_OFFLINE:
        raise _absent(name, "nothing in the cache, and HF_HUB_OFFLINE is set")
    return cached or _require_complete(_fetch(name, more))


def fingerprint_folder(folder: Path, more: Sequence[str] = ()) -> str:
    """Return a hash of a model's settings and weights that reads a few megabytes at most.

    Settings are hashed whole; of each weights file the size and 64 KiB at 64 evenly spaced
    places. It does not depend on where the files lie or when they were written. `more` are
    patterns of further files that count.
    """
    digest = hashlib.sha256()
    for path in sorted(path for pattern in (*NEEDED_FILES, *more) for path in folder.glob(pattern)):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            for place in range(64):
                file.seek(place * max(0, size - 65536) // 63)
                digest.update(file.read(65536))
    return digest.hexdigest()


def fetch_instructions(name: str) -> str:
    """Return the commands that bring a model to a machine without network, and the way without."""
    folder = name.split("/")[-1]
    steps = (
        f"where there is network: hf download {name} --local-dir {folder} "
        '--exclude "*.msgpack" --exclude "*.h5"',
        f"if {folder} then holds no .safetensors file: {_convert_command(Path(folder))}",
        f"then run again with --speech-model {folder}",
        WITHOUT_WEIGHTS,
    )
    return "\n            ".join(steps)


def _convert_command(folder: Path) -> str:
    return (
        f"python -c \"from transformers import AutoModel; AutoModel.from_pretrained('{folder}', "
        f"use_safetensors=False).save_pretrained('{folder}')\""
    )


def _require_complete(folder: Path) -> Path:
    """Return the folder if everything that is needed to load the model lies in it."""
    if not (folder / "config.json").is_file():
        raise MissingInputError(
            "A folder holds no speech model",
            expected="config.json, preprocessor_config.json and *.safetensors",
            found="no config.json",
            where=folder,
            fix=f"name the folder of a model with --speech-model; {WITHOUT_WEIGHTS}",
        )
    if not any(folder.glob("*.safetensors")):
        if pickled := sorted([*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")]):
            raise _only_pickled(str(folder), pickled[0].name, folder)
        raise MissingInputError(
            "A speech model has no weights",
            expected="*.safetensors",
            found="config.json alone",
            where=folder,
            fix=f"fetch the model again; {WITHOUT_WEIGHTS}",
        )
    return folder


def _only_pickled(where: str, found: str, folder: Path) -> DataError:
    return DataError(
        "A speech model has pickled weights only; these may run any code when they are loaded",
        expected="*.safetensors",
        found=found,
        where=where,
        fix=f"if you trust them, convert them once: {_convert_command(folder)}\n            "
        f"{WITHOUT_WEIGHTS}",
    )


def _require_hub_name(name: str) -> None:
    """Raise where the name cannot be one of the hub, so it must be a folder that is absent."""
    parts = name.split("/")
    if not name:
        raise UsageError("No speech model is named", fix="pass --speech-model NAME_OR_FOLDER")
    if len(parts) > 2 or "" in parts or name[0] in ".~" or "\\" in name:
        raise MissingInputError(
            "The folder of the speech model is missing",
            expected="a folder with config.json and *.safetensors, or a name on the hub",
            where=name,
            fix=f"check --speech-model; {WITHOUT_WEIGHTS}",
        )


def _cached_snapshot(name: str) -> Path | None:
    """Return the newest complete copy in the Hugging Face cache, whatever its revision."""
    repository = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"
    snapshots = sorted(
        repository.glob("snapshots/*"), key=lambda path: path.stat().st_mtime, reverse=True
    )
    usable = (
        s for s in snapshots if (s / "config.json").is_file() and any(s.glob("*.safetensors"))
    )
    return next(usable, None)


def _fetch(name: str, more: Sequence[str]) -> Path:
    """Download what is needed of a model into the Hugging Face cache; return the folder."""
    try:
        revision = _within(NETWORK_TIMEOUT, lambda: _safe_revision(HfApi(), name))
    except (DataError, MissingInputError):
        raise
    except Exception as error:  # each version of the hub's client has other network errors
        raise _absent(
            name, f"nothing in the cache, and the hub does not answer ({error})"
        ) from error
    try:
        wanted = [*NEEDED_FILES, *more]
        return Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
    except Exception as error:
        raise TemporaryError(
            "The download of a speech model broke off",
            found=str(error).splitlines()[0] if str(error) else type(error).__name__,
            where=name,
            fix="run the same command again; what has arrived is kept",
        ) from error


def _absent(name: str, found: str) -> MissingInputError:
    return MissingInputError(
        "The weights of the speech model are not on this machine",
        expected=f"{name} in the Hugging Face cache, or its folder",
        found=found,
        where=str(constants.HF_HUB_CACHE),
        fix=fetch_instructions(name),
    )


def _safe_revision(api: HfApi, name: str) -> str | None:
    """Return the revision of a model on the hub that has safetensors; None is its main branch.

    Many older models have pickled weights on their main branch, and the same weights as
    safetensors in a pull request that the hub's conversion service opened.
    """
    try:
        info = api.model_info(name, timeout=REQUEST_TIMEOUT)
    except RepositoryNotFoundError as error:
        raise MissingInputError(
            "The hub has no such speech model, or it is private",
            where=name,
            fix=f"check --speech-model; {WITHOUT_WEIGHTS}",
        ) from error
    files = [file.rfilename for file in info.siblings or ()]
    if any(file.endswith(".safetensors") for file in files):
        return None
    for request in api.get_repo_discussions(
        name, author=CONVERSION_AUTHOR, discussion_type="pull_request"
    ):
        revision = f"refs/pr/{request.num}"
        if "model.safetensors" in api.list_repo_files(name, revision=revision):
            return revision
    raise MissingInputError(
        "The hub has only pickled weights of the speech model",
        expected="*.safetensors",
        found=", ".join(file for file in files if file.endswith((".bin", ".pt"))) or "no weights",
        where=name,
        fix=fetch_instructions(name),
    )


def _within(seconds: float, call: Callable[[], str | None]) -> str | None:
    """Return what `call` returns, or raise TimeoutError; name resolution knows no time limit."""
    outcome: list[str | None] = []
    failure: list[Exception] = []

    def run() -> None:
        try:
            outcome.append(call())
        except Exception as error:
            failure.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if failure:
        raise failure[0]
    if not outcome:
        raise TimeoutError(f"no answer in {seconds:g} s")
    return outcome[0]
