"""Functional MRI of people who listened to stories: which runs there are, and their clocks.

The images are the dataset's own (``func/*_bold.nii.gz``), or those of derivatives named as
fMRIPrep names them: ``*_desc-preproc_bold.nii.gz``, ``*_bold.dtseries.nii`` (CIFTI), or pairs of
``*_hemi-L_*_bold.func.gii`` and ``*_hemi-R_*`` (GIFTI). Their events always come
from the raw dataset. Here only names, sidecars and headers are read; `hearings` says what was
heard, `bold_images` reads the images.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from bids_speechdecode.bids.bold_images import Kind, read_shape
from bids_speechdecode.bids.dataset import Dataset, Recording
from bids_speechdecode.bids.tables import as_number, list_some, read_json
from bids_speechdecode.config import FmriConfig
from bids_speechdecode.errors import (
    DataError,
    MissingInputError,
    NothingSelectedError,
    UsageError,
    did_you_mean,
)

OWN_SPACE = "func"  # fMRIPrep's name for the grid of the run itself, which its files leave out
_KINDS: dict[str, Kind] = {
    ".nii.gz": "volume",
    ".nii": "volume",
    ".dtseries.nii": "grayordinates",
    ".func.gii": "surface",
}
# What the name of a derivative has more than the run that it was made from.
_OF_DERIVATIVES = ("space", "hemi", "den", "res", "desc", "cohort")

# A clock that is off by 0.1 % is off by a third of a volume after 300 volumes.
SAME_TR = 1e-3
# BOLD is sampled every 0.3 to 4 s; a number far outside is one of milliseconds.
_LONGEST_TR = 30.0
# Seconds; a scan begins with some volumes too many at most.
_LONGEST_START = 60.0


@dataclass(frozen=True)
class BoldRun:
    """One functional run of one participant: its files and its clock.

    Attributes
    ----------
    images : tuple of path
        One image, or the left and the right hemisphere.
    tr : float
        Seconds between volumes.
    first_time : float
        Seconds from time 0 of the events to the moment for which the first volume stands: the
        middle of its acquisition, or what slice-timing correction moved it to.
    events : Recording
        The run as `alignment` wants it; its channels and signal are empty.
    start : float
        Seconds from time 0 of the events to the start of the first volume, as where volumes were
        cut off.
    """

    participant: str  # without "sub-"
    label: str
    task: str
    space: str
    kind: Kind
    images: tuple[Path, ...]
    mask: Path | None
    confounds: Path | None
    n_volumes: int
    tr: float
    first_time: float
    events: Recording
    start: float = 0.0

    @property
    def duration(self) -> float:
        """When the run ends, seconds from time 0 of the events."""
        return self.start + self.n_volumes * self.tr


# ------------------------------------------------------------------------------- runs


@dataclass(frozen=True)
class _File:
    path: Path
    entities: dict[str, str]
    suffix: str
    extension: str


def find_bold(
    dataset: Dataset,
    participants: Sequence[str],
    settings: FmriConfig,
    *,
    sessions: Sequence[str] = (),
    runs: Sequence[str] = (),
) -> tuple[BoldRun, ...]:
    """Return the functional runs of the participants who have any, sorted by name.

    Parameters
    ----------
    dataset : Dataset
        Raw, with the events and the stimuli.
    participants : sequence of str
        Labels without ``sub-``; those without functional runs are left out.
    settings : FmriConfig
        Where the images are, in which space, of which task.
    sessions, runs : sequence of str
        Labels to keep; none keeps all.

    Raises
    ------
    MissingInputError
        If there are no functional images, no such folder, or half of a pair of hemispheres.
    NothingSelectedError
        If there are none of this task or space, or the filters leave none.
    UsageError
        If there are several tasks or spaces and none is named.
    DataError
        If the TR is missing, irregular or contradicted by the image.
    """
    home = _home(dataset, settings)
    files = [file for label in participants for file in _func_files(home, label)]
    images = [f for f in files if _is_image(f, derived=home != dataset.root)]
    if not images:
        raise _no_images(dataset, home, participants)
    images = _choose(images, "task", settings.task, home)
    images = _choose(images, "space", settings.space, home)
    kept = [f for f in images if _passes(f, sessions, runs)]
    if not kept:
        raise NothingSelectedError(
            "The filters leave no functional run.",
            expected="one of " + list_some(_join(f.entities) for f in images),
            where=home,
            fix="check --session-label and --run-label",
        )
    siblings = files + (_top_files(home) if home != dataset.root else [])
    found = [_run(dataset, members, siblings) for members in _by_run(kept)]
    return tuple(sorted(found, key=lambda run: run.label))


def _home(dataset: Dataset, settings: FmriConfig) -> Path:
    """Return the folder whose functional images are used."""
    if not settings.bold_dir:
        return dataset.root
    given = Path(settings.bold_dir)
    found = next((p for p in (given, dataset.root / given) if p.is_dir()), None)
    if found is None:
        raise MissingInputError(
            "The folder of functional derivatives is absent.",
            expected="a folder with sub-<label>/[ses-<label>/]func",
            where=given.absolute(),
            fix="check --bold-dir; without it the dataset's own func files are read",
        )
    return found.resolve()


def _parse(paths: Iterable[Path]) -> Iterator[_File]:
    for path in sorted(paths):
        *pairs, last = path.name.split("_")
        if all("-" in pair for pair in pairs):
            suffix, dot, extension = last.partition(".")
            entities = {key: value for key, _, value in (p.partition("-") for p in pairs)}
            yield _File(path, entities, suffix, dot + extension)


def _func_files(home: Path, participant: str) -> list[_File]:
    """Return the files of a participant that are functional, or that such files inherit."""
    top = home / f"sub-{participant}"
    patterns = ("*_*.*", "ses-*/*_*.*", "func/*_*.*", "ses-*/func/*_*.*")
    return list(_parse(path for pattern in patterns for path in top.glob(pattern)))


def _top_files(home: Path) -> list[_File]:
    return list(_parse([*home.glob("*bold.json"), *home.glob("*events.*")]))


def _is_image(file: _File, *, derived: bool) -> bool:
    if file.suffix != "bold" or file.extension not in _KINDS or "task" not in file.entities:
        return False
    if not derived:
        return not {"space", "desc"} & file.entities.keys() and file.entities.get("part") != "phase"
    return _KINDS[file.extension] != "volume" or file.entities.get("desc") == "preproc"


def _no_images(dataset: Dataset, home: Path, participants: Sequence[str]) -> MissingInputError:
    there = {
        folder.name
        for label in participants
        for pattern in ("*", "ses-*/*")
        for folder in (home / f"sub-{label}").glob(pattern)
        if folder.is_dir() and not folder.name.startswith("ses-")
    }
    derived = home != dataset.root
    names = "*_desc-preproc_bold.nii.gz, *_bold.dtseries.nii or pairs of *_bold.func.gii"
    return MissingInputError(
        "No participant has functional images.",
        expected="sub-<label>/[ses-<label>/]func/" + (names if derived else "*_task-*_bold.nii.gz"),
        found=f"of {len(participants)} participants: "
        + (", ".join(sorted(there)) or "no data at all"),
        where=home,
        fix="check --bold-dir, and which participants were asked for"
        if derived
        else "add the runs, or name the folder of their derivatives (--bold-dir)",
    )


_OPTIONS = {"task": "--fmri-task", "space": "space in [fmri] of --config"}


def _value(file: _File, key: str) -> str:
    return file.entities.get(key, OWN_SPACE if key == "space" else "")


def _choose(images: list[_File], key: str, wanted: str, home: Path) -> list[_File]:
    """Return the images of one task or space: the one named, or the only one there is."""
    there = sorted({_value(f, key) for f in images})
    wanted = wanted.removeprefix(f"{key}-")
    if not wanted and len(there) > 1:
        raise UsageError(
            f"The functional images are of {len(there)} {key}s.",
            expected="one, or the name of one",
            found=", ".join(there),
            where=home,
            fix=f"name one: {_OPTIONS[key]}",
        )
    if wanted and wanted not in there:
        raise NothingSelectedError(
            f"There are no functional images of the {key} {wanted!r}.",
            expected="one of " + ", ".join(there),
            where=home,
            fix=did_you_mean(wanted, there) or f"correct {_OPTIONS[key]}",
        )
    return [f for f in images if _value(f, key) == (wanted or there[0])]


def _passes(file: _File, sessions: Sequence[str], runs: Sequence[str]) -> bool:
    session, run = file.entities.get("ses"), file.entities.get("run", "")
    wanted_runs = {r.removeprefix("run-").lstrip("0") for r in runs}
    return (not sessions or session in {s.removeprefix("ses-") for s in sessions}) and (
        not runs or run.lstrip("0") in wanted_runs
    )


def _join(entities: dict[str, str], without: Sequence[str] = ()) -> str:
    return "_".join(f"{key}-{value}" for key, value in entities.items() if key not in without)


def _by_run(images: Iterable[_File]) -> Iterator[list[_File]]:
    """Yield the image of each run, or its two hemispheres.

    Raises
    ------
    DataError
        If several images claim to be the same run.
    MissingInputError
        If a hemisphere is absent.
    """

    def name(file: _File) -> str:
        return _join(file.entities, (*_OF_DERIVATIVES, "echo", "part"))

    for _, members in groupby(sorted(images, key=name), key=name):
        group = sorted(members, key=lambda f: f.entities.get("hemi", ""))
        halves = _KINDS[group[0].extension] == "surface"
        sides = [f.entities.get("hemi") for f in group]
        if halves and sides in (["L"], ["R"]):
            raise _one_hemisphere(group[0])
        if sides != ["L", "R"] if halves else len(group) > 1:
            raise _several_images(group)
        yield group


def _one_hemisphere(file: _File) -> MissingInputError:
    side = "R" if file.entities["hemi"] == "L" else "L"
    return MissingInputError(
        "A functional run has one hemisphere only.",
        expected=f"the same with hemi-{side}",
        found=file.path.name,
        where=file.path.parent,
        fix="make or fetch the other hemisphere",
    )


def _several_images(group: Sequence[_File]) -> DataError:
    return DataError(
        f"There are {len(group)} functional images of one run.",
        expected="one image (or a left and a right one), its echoes combined, in one resolution",
        found=", ".join(f.path.name for f in group),
        where=group[0].path.parent,
        fix="combine the echoes (fMRIPrep does; name its folder with --bold-dir), "
        "or move the images that are not meant elsewhere",
    )


def _run(dataset: Dataset, images: Sequence[_File], siblings: Sequence[_File]) -> BoldRun:
    image, kind = images[0], _KINDS[images[0].extension]
    raw = {k: v for k, v in image.entities.items() if k not in _OF_DERIVATIVES}
    source = [*_top_files(dataset.root), *_func_files(dataset.root, raw["sub"])]
    folder = dataset.root / f"sub-{raw['sub']}" / (f"ses-{raw['ses']}" if "ses" in raw else "")
    bare = folder / "func" / f"{_join(raw)}_bold"
    events = [f.path for f in _inherited(source, bare, raw) if _ends(f, "events", ".tsv")]
    metadata = _metadata(source, bare, raw) | _metadata(siblings, image.path, image.entities)
    n_volumes, stated = read_shape(tuple(f.path for f in images), kind)
    tr = _repetition_time(metadata, stated, n_volumes, image.path)
    start, first_time = _first_times(metadata, tr, image.path)
    beside = [f for f in siblings if f.path.parent == image.path.parent]
    return BoldRun(
        participant=raw["sub"],
        label=_join(raw),
        task=raw["task"],
        space=_value(image, "space"),
        kind=kind,
        images=tuple(f.path for f in images),
        mask=_mask_of(beside, image) if kind == "volume" else None,
        confounds=_confounds_of(beside, raw),
        n_volumes=n_volumes,
        tr=tr,
        first_time=first_time,
        events=Recording(
            root=dataset.root,
            path=bare,
            format="",
            participant=raw["sub"],
            session=raw.get("ses"),
            task=raw["task"],
            run=raw.get("run"),
            entities=tuple(raw.items()),
            events_path=events[-1] if events else None,
        ),
        start=start,
    )


def _inherited(files: Iterable[_File], path: Path, entities: dict[str, str]) -> list[_File]:
    """Return the files that apply to one at `path`, from the most general to the nearest."""
    applies = [
        f
        for f in files
        if f.entities.items() <= entities.items() and path.is_relative_to(f.path.parent)
    ]
    return sorted(applies, key=lambda f: (len(f.path.parts), len(f.entities)))


def _ends(file: _File, suffix: str, extension: str) -> bool:
    return (file.suffix, file.extension) == (suffix, extension)


def _metadata(files: Iterable[_File], path: Path, entities: dict[str, str]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for file in _inherited(files, path, entities):
        if _ends(file, "bold", ".json"):
            merged |= read_json(file.path)
    return merged


def _mask_of(files: Iterable[_File], image: _File) -> Path | None:
    """Return the brain mask beside an image, which has all of its entities but ``desc``."""
    wanted = image.entities | {"desc": "brain"}
    return _only(files, wanted, "mask", (".nii.gz", ".nii"))


def _confounds_of(files: Iterable[_File], raw: dict[str, str]) -> Path | None:
    """Return the confounds of a run, which name no space; early fMRIPrep called them regressors."""
    wanted = raw | {"desc": "confounds"}
    return _only(files, wanted, "timeseries", (".tsv",)) or _only(
        files, wanted, "regressors", (".tsv",)
    )


def _only(
    files: Iterable[_File], entities: dict[str, str], suffix: str, extensions: Sequence[str]
) -> Path | None:
    found = (
        f.path
        for f in files
        if f.suffix == suffix and f.extension in extensions and f.entities == entities
    )
    return next(found, None)


# -------------------------------------------------------------------------- the clock


def _repetition_time(
    metadata: dict[str, Any], stated: float | None, n_volumes: int, path: Path
) -> float:
    """Return the TR (seconds) of the sidecars, after checking it against the image's own."""
    tr = as_number(metadata.get("RepetitionTime"))
    if metadata.get("VolumeTiming") is not None:
        tr = _regular_step(metadata["VolumeTiming"], n_volumes, path)
    if tr is None:
        raise DataError(
            "The repetition time (TR) of a functional run is not known.",
            expected="RepetitionTime (seconds) in its sidecar, or in one that it inherits",
            found=repr(metadata["RepetitionTime"]) if "RepetitionTime" in metadata else "none",
            where=path,
            fix="add it" + (f"; the image itself says {stated:g} s" if stated else ""),
        )
    if tr > _LONGEST_TR:
        raise DataError(
            "The repetition time (TR) of a functional run cannot be true.",
            expected=f"seconds, at most {_LONGEST_TR:g}",
            found=f"RepetitionTime {tr:g}",
            where=path,
            fix="write it in seconds, not in milliseconds",
        )
    if stated is not None and abs(stated - tr) > SAME_TR * tr:
        raise DataError(
            "Image and sidecar differ about the repetition time (TR).",
            expected=f"{tr:g} s, as the sidecar says",
            found=f"{stated:g} s in the header",
            where=path,
            fix="find out which of the two is right and correct the other",
        )
    return tr


def _regular_step(timing: Any, n_volumes: int, path: Path) -> float:
    """Return the step of VolumeTiming, which must be the same between all volumes."""
    try:
        times = np.asarray(timing, dtype=float)
        steps = np.diff(times)
        regular = times.shape == (n_volumes,) and steps.min() > 0
        regular = regular and float(np.ptp(steps)) <= SAME_TR * float(steps.mean())
    except (TypeError, ValueError):
        regular = False
    if not regular:
        raise DataError(
            "The volumes of a functional run were not taken at regular times.",
            expected=f"one RepetitionTime, or VolumeTiming with {n_volumes} evenly spaced times",
            found="VolumeTiming that is uneven or of another length",
            where=path,
            fix="leave the run out, or resample it to a regular TR first",
        )
    return float(steps.mean())


def _first_times(metadata: dict[str, Any], tr: float, path: Path) -> tuple[float, float]:
    """Return when the first volume starts, and the moment for which it stands (seconds).

    ``StartTime`` beside a true ``SliceTimingCorrected`` is what fMRIPrep writes: the moment within
    the volume to which all slices were interpolated, half a TR by its default. Without the
    correction it is when the first volume starts on the clock of the events, and a volume stands
    for the middle of its acquisition.
    """
    corrected, given = metadata.get("SliceTimingCorrected"), metadata.get("StartTime")
    stated = as_number(given)
    if given in (None, "n/a") or (stated == 0 and not corrected):
        return 0.0, tr / 2
    if corrected is None:
        raise DataError(
            "It is not known what StartTime of a functional run means.",
            expected="SliceTimingCorrected beside it: true where slices were interpolated to that "
            "moment of each volume, false where the first volume starts then",
            found=f"StartTime {given!r} alone",
            where=path,
            fix="add SliceTimingCorrected to its sidecar",
        )
    lowest, highest = (0.0, tr * (1 + SAME_TR)) if corrected else (-_LONGEST_START, _LONGEST_START)
    if stated is None or not lowest <= stated <= highest:
        raise DataError(
            "StartTime of a functional run cannot be true.",
            expected=f"seconds from {lowest:g} to {highest:g}, "
            + ("within a volume: its slice timing was corrected" if corrected else "or none"),
            found=f"StartTime {given!r}",
            where=path,
            fix="write it in seconds, or take it out of the sidecar",
        )
    return (0.0, stated) if corrected else (stated, stated + tr / 2)
