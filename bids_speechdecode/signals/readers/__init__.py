"""Recording -> blocks of samples in volts, in the five formats that BIDS allows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bids_speechdecode.errors import DataError, MissingInputError
from bids_speechdecode.signals.readers.base import SignalReader
from bids_speechdecode.signals.readers.brainvision import open_brainvision
from bids_speechdecode.signals.readers.edf import EdfReader
from bids_speechdecode.signals.readers.eeglab import open_eeglab
from bids_speechdecode.signals.readers.mef3 import Mef3Reader
from bids_speechdecode.signals.readers.nwb import NwbReader

__all__ = ["SignalReader", "open_signal"]

_FORMAT_TO_OPEN: dict[str, Callable[[Path], SignalReader]] = {
    "brainvision": open_brainvision,
    "edf": EdfReader,
    "eeglab": open_eeglab,
    "mef3": Mef3Reader,
    "nwb": NwbReader,
}
_SUFFIX_TO_FORMAT = {
    ".vhdr": "brainvision",
    ".edf": "edf",
    ".set": "eeglab",
    ".mefd": "mef3",
    ".nwb": "nwb",
}


def open_signal(path: Path, format: str | None = None) -> SignalReader:
    """Return a reader of the recording at `path`.

    Parameters
    ----------
    path : Path
        The ``.vhdr``, ``.edf``, ``.set``, ``.mefd`` or ``.nwb``.
    format : {"brainvision", "edf", "eeglab", "mef3", "nwb"}, optional
        From the suffix by default.

    Raises
    ------
    MissingInputError
        Where the file, or a package that reads it, is absent.
    DataError
        Where the file is truncated or cannot be understood.
    """
    path = Path(path)
    name = format or _SUFFIX_TO_FORMAT.get(path.suffix.lower(), "")
    if name not in _FORMAT_TO_OPEN:
        raise DataError(
            "recording is in no format that BIDS allows",
            expected=", ".join(_SUFFIX_TO_FORMAT),
            found=name or path.suffix or "no suffix",
            where=path,
            fix="convert it to one of these formats",
        )
    if not path.exists():
        raise MissingInputError("recording is absent", where=path, fix="put it there")
    return _FORMAT_TO_OPEN[name](path)
