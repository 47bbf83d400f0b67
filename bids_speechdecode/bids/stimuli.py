"""The sound files of a dataset: found, checked, probed; their samples are not read here."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import soundfile

from bids_speechdecode.bids.tables import require_content
from bids_speechdecode.errors import DataError, MissingInputError, did_you_mean


@dataclass(frozen=True)
class AudioSource:
    """Where sound comes from: a file, or a channel of the recording."""

    path: Path | None = None
    channel: str | None = None
    duration: float | None = None  # seconds
    sampling_rate: float | None = None  # hertz

    @property
    def name(self) -> str:
        """The file's or channel's name."""
        return self.path.name if self.path else f"channel {self.channel}"


class Stimuli:
    """The audio files of one dataset, each opened (its header only) once."""

    def __init__(self, root: Path, stimuli_dir: Path) -> None:
        self.root = root.absolute()
        self.folder = stimuli_dir.absolute()
        self._sources: dict[Path, AudioSource] = {}

    def find(self, name: str, where: str | Path) -> AudioSource:
        """Return the file that a stim_file names.

        Raises
        ------
        DataError
            If it lies outside the dataset or is no audio.
        MissingInputError
            If it is absent or a pointer.
        """
        if name.startswith("bids::"):
            path = self.root / name.removeprefix("bids::")
        else:
            path = self.folder / name
            if name.startswith("stimuli/") and not path.exists():
                path = self.folder / name.removeprefix("stimuli/")
        path = Path(os.path.normpath(path))
        if not (path.is_relative_to(self.root) or path.is_relative_to(self.folder)):
            raise DataError(
                "A stim_file leads out of the dataset.",
                expected=f"a path relative to {self.folder}",
                found=repr(name),
                where=where,
                fix="put the audio into that folder and correct stim_file",
            )
        if not path.exists() and not path.is_symlink():
            raise _absent(name, path, where)
        return self.open(path)

    def open(self, path: Path) -> AudioSource:
        """Return a file as a source."""
        if path not in self._sources:
            require_content(path, self.root)
            self._sources[path] = _probe(path)
        return self._sources[path]


def _absent(name: str, path: Path, where: str | Path) -> MissingInputError:
    folder = path.parent
    names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    hint = did_you_mean(path.name, names)
    return MissingInputError(
        "The audio that events.tsv names is absent.",
        expected=str(path),
        found=f"no such file for stim_file {name!r}",
        where=where,
        fix="put the audio there, or correct stim_file" + (f"; {hint}" if hint else ""),
    )


def _probe(path: Path) -> AudioSource:
    try:
        info = soundfile.info(path)
    except (soundfile.LibsndfileError, OSError, TypeError) as error:
        raise DataError(
            "An audio file cannot be read.",
            expected="audio that libsndfile opens (WAV, FLAC, OGG, MP3, ...)",
            found=str(error),
            where=path,
            fix="play the file; where it is damaged, fetch it again or convert the original",
        ) from None
    if not info.frames:
        raise DataError("An audio file is empty.", found="0 samples", where=path)
    return AudioSource(path, None, info.frames / info.samplerate, float(info.samplerate))
