"""Query of an iEEG-BIDS dataset: who and what is there, as frozen records; loads no signal.

Only the participant asked for is indexed (pybids). Sidecars and tables follow the inheritance
principle: the nearest applicable ``.tsv`` is used, applicable ``.json`` files are merged.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bids.layout import BIDSLayout, BIDSLayoutIndexer, Query

from bids_speechdecode.bids.channels import Channel, read_channels
from bids_speechdecode.bids.tables import as_number, list_some, read_json, require_content
from bids_speechdecode.errors import (
    DataError,
    InvalidBIDSError,
    MissingInputError,
    NothingSelectedError,
    SpeechDecodeError,
    UsageError,
    did_you_mean,
)

# Extension -> format, in the order of preference where a recording comes in several.
FORMATS = {
    ".vhdr": "brainvision",
    ".edf": "edf",
    ".set": "eeglab",
    ".mefd": "mef3",
    ".nwb": "nwb",
}
_INHERITED = r"(?:ieeg|events|channels|electrodes|coordsystem)\.(?:json|tsv)"
_OTHER_DATATYPES = r"/(?:anat|beh|dwi|eeg|fmap|func|meg|micr|motion|mrs|nirs|perf|pet)(?:/|$)"


@dataclass(frozen=True)
class ElectrodesFile:
    """An ``electrodes.tsv`` and the ``coordsystem.json`` that says what its numbers mean."""

    electrodes: Path
    coordsystem: Path | None = None


@dataclass(frozen=True)
class Recording:
    """One iEEG run of one participant, with everything its sidecars say.

    Where the signal itself is not in the dataset (only its sidecars are), `format` is empty,
    `path` is the name the signal would have less its extension, and `signal_missing` is true;
    `require_signal` then raises. Where a sidecar cannot be read, `problem` says why.
    """

    root: Path
    path: Path
    format: str
    participant: str
    session: str | None
    task: str
    run: str | None
    entities: tuple[tuple[str, str], ...]  # in the order of the file name
    channels: tuple[Channel, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    events_path: Path | None = None
    channels_path: Path | None = None
    electrodes: tuple[ElectrodesFile, ...] = ()
    notes: tuple[str, ...] = ()
    problem: SpeechDecodeError | None = field(default=None, compare=False)  # of its sidecars

    @property
    def label(self) -> str:
        """The name without suffix, e.g. ``sub-01_ses-01_task-x_run-01``."""
        return _join(self.entities)

    @property
    def sampling_frequency(self) -> float | None:
        """Hertz, from the sidecar."""
        return as_number(self.metadata.get("SamplingFrequency"))

    @property
    def duration(self) -> float | None:
        """Seconds, from the sidecar."""
        return as_number(self.metadata.get("RecordingDuration"))

    @property
    def power_line_frequency(self) -> float | None:
        """Hertz, from the sidecar."""
        return as_number(self.metadata.get("PowerLineFrequency"))

    @property
    def signal_missing(self) -> bool:
        """Whether the signal is absent, or a pointer to content that was not downloaded."""
        try:
            require_signal(self)
        except MissingInputError:
            return True
        return False


@dataclass(frozen=True)
class Dataset:
    """A BIDS dataset: where it is, what it is called and who took part."""

    root: Path
    name: str
    participants: tuple[str, ...]  # labels without "sub-"
    simulated: bool


# ------------------------------------------------------------------------- the signal


def require_signal(recording: Recording) -> None:
    """Raise if the recording's signal is absent or was not downloaded.

    Raises
    ------
    MissingInputError
        Naming the missing file and, for a pointer, the command that fetches it.
    """
    if not recording.format:
        extensions = ", ".join(FORMATS)
        raise MissingInputError(
            "The signal of a recording is absent; only its sidecars are in the dataset.",
            expected=f"{recording.path.name} with one of {extensions}",
            where=recording.path.parent,
            fix="download the recording, or leave it out (--session-label, --run-label)",
        )
    for path in signal_files(recording):
        require_content(path, recording.root)


def signal_files(recording: Recording) -> Iterator[Path]:
    """Yield every file that the signal needs; the header comes first, as it names the others."""
    path = recording.path
    yield path
    if recording.format == "brainvision":
        named = re.search(r"^DataFile=(.+)$", path.read_text("latin-1"), flags=re.MULTILINE)
        name = named[1].strip().replace("$b", path.stem) if named else f"{path.stem}.eeg"
        yield path.with_name(name)
    elif recording.format == "eeglab":
        yield from (p for p in [path.with_suffix(".fdt")] if p.exists() or p.is_symlink())
    elif recording.format == "mef3":
        yield from (p for p in path.rglob("*") if p.is_symlink())


# ------------------------------------------------------------------------- the dataset


def open_dataset(bids_dir: Path, *, validate: bool = True) -> Dataset:
    """Return what a dataset is called and who took part, from folder names alone.

    Raises
    ------
    MissingInputError
        If the folder is absent.
    InvalidBIDSError
        If `validate` and it is not a raw BIDS dataset with at least one participant.
    """
    root = Path(bids_dir).resolve()
    if not root.is_dir():
        raise MissingInputError(
            "The dataset folder is absent.",
            expected="a BIDS dataset",
            where=root,
            fix="check the path",
        )
    description = _description(root, validate)
    participants = sorted(
        entry.name.removeprefix("sub-")
        for entry in root.iterdir()
        if re.fullmatch(r"sub-[A-Za-z0-9+]+", entry.name) and entry.is_dir()
    )
    if validate and not participants:
        raise InvalidBIDSError(
            "The dataset has no participants.",
            expected="folders sub-<label>",
            where=root,
            fix="give the folder that holds the folders of the participants",
        )
    name = str(description.get("Name", root.name))
    return Dataset(root, name, tuple(participants), _is_simulated(description))


def _description(root: Path, validate: bool) -> dict[str, Any]:
    path = root / "dataset_description.json"
    try:
        if not path.is_file():
            raise DataError("There is no dataset_description.json.", where=root)
        description = read_json(path)
        absent = [key for key in ("Name", "BIDSVersion") if not description.get(key)]
        if absent:
            raise DataError("A required field is absent.", expected=", ".join(absent), where=path)
        if description.get("DatasetType", "raw") == "derivative":
            raise DataError("These are derivatives.", expected="a raw dataset", where=path)
    except DataError as error:
        if not validate:
            return {}
        raise InvalidBIDSError(
            "The input is not a raw BIDS dataset.",
            expected="dataset_description.json with Name and BIDSVersion",
            found=error.problem,
            where=path,
            fix="give the folder that holds dataset_description.json, "
            "or --skip-bids-validation if it is BIDS in all but this",
        ) from None
    return description


def _is_simulated(description: Mapping[str, Any]) -> bool:
    makers = description.get("GeneratedBy")
    makers = makers if isinstance(makers, list) else []
    names = [str(maker.get("Name", "")) for maker in makers if isinstance(maker, dict)]
    return any("simulat" in name.lower() for name in [str(description.get("Name", "")), *names])


def select_participants(
    dataset: Dataset,
    wanted: Sequence[str] = (),
    excluded: Sequence[str] = (),
    *,
    datatype: str = "ieeg",
) -> tuple[str, ...]:
    """Return labels to process; the prefix ``sub-`` is optional.

    By default all who have data of `datatype`; where nobody has, all, so that what is missing is
    told of each.

    Raises
    ------
    NothingSelectedError
        If a label is not in the dataset, or none is left.
    """
    for label in [*wanted, *excluded]:
        if _bare(label, "sub") not in dataset.participants:
            raise NothingSelectedError(
                f"There is no participant {_bare(label, 'sub')!r} in the dataset.",
                expected="one of " + list_some(dataset.participants),
                found=f"sub-{_bare(label, 'sub')}",
                where=dataset.root,
                fix=did_you_mean(_bare(label, "sub"), dataset.participants)
                or "give labels of the list, with or without the prefix sub-",
            )
    chosen = {_bare(label, "sub") for label in wanted} or {
        label for label in dataset.participants if _has(dataset, label, datatype)
    }
    chosen = chosen or set(dataset.participants)
    left = sorted(chosen - {_bare(label, "sub") for label in excluded})
    if not left:
        raise NothingSelectedError(
            "No participant is left.",
            expected="one of " + list_some(dataset.participants),
            found="all that were chosen are excluded",
            where=dataset.root,
            fix="name fewer in --exclude-participant-label",
        )
    return tuple(left)


def _has(dataset: Dataset, participant: str, datatype: str) -> bool:
    folder = dataset.root / f"sub-{participant}"
    return any(True for pattern in (datatype, f"ses-*/{datatype}") for _ in folder.glob(pattern))


def _bare(label: str, key: str) -> str:
    return label.strip().removeprefix(f"{key}-")


# -------------------------------------------------------------------------- recordings


@dataclass(frozen=True)
class _File:
    """A file of the index: its path and what its name says."""

    path: Path
    entities: tuple[tuple[str, str], ...]
    suffix: str

    def applies_to(self, path: Path, entities: Iterable[tuple[str, str]]) -> bool:
        """Whether a file at `path` with these entities inherits this file."""
        return set(self.entities).issubset(entities) and path.is_relative_to(self.path.parent)


def list_recordings(
    dataset: Dataset,
    participant: str,
    *,
    tasks: Sequence[str] = (),
    sessions: Sequence[str] = (),
    runs: Sequence[str] = (),
    filter_file: Path | None = None,
    database_dir: Path | None = None,
) -> tuple[Recording, ...]:
    """Return the iEEG recordings of one participant that pass the filters, sorted by name.

    A recording of which only sidecars exist is listed too, with `signal_missing`.

    Parameters
    ----------
    filter_file : path, optional
        JSON of pybids filters under the key ``ieeg``, e.g. ``{"ieeg": {"acquisition": "x"}}``.
    database_dir : path, optional
        Folder for the index of pybids, written if absent and trusted if there.

    Raises
    ------
    NothingSelectedError
        If the participant has no iEEG recording, or none passes the filters.
    """
    layout = _index(dataset.root, participant, database_dir)
    files = [*_parse(Path(f.path) for f in layout.get()), *_mef3(dataset.root, participant)]
    found = [_recording(dataset.root, stem, files) for stem in _stems(files, participant)]
    if not found:
        raise NothingSelectedError(
            f"Participant {participant!r} has no iEEG recording.",
            expected="sub-<label>/[ses-<label>/]ieeg/*_task-<label>*_ieeg.*",
            where=dataset.root / f"sub-{participant}",
            fix="add the recordings, or leave the participant out "
            f"(--exclude-participant-label {participant})",
        )
    kept = [r for r in found if _passes(r, tasks, sessions, runs)]
    if filter_file:
        allowed = _filtered(layout, filter_file)
        kept = [r for r in kept if r.label in allowed]
    if not kept:
        raise NothingSelectedError(
            f"The filters leave no recording of participant {participant!r}.",
            expected="one of " + list_some(r.label for r in found),
            where=dataset.root,
            fix="check --session-label, --run-label and --bids-filter-file",
        )
    return tuple(kept)


def _index(root: Path, participant: str, database_dir: Path | None) -> BIDSLayout:
    """Index one participant and the sidecars at the top that its files inherit."""
    others = rf"^/(?!sub-{re.escape(participant)}(?:/|$))(?!(?:[^/]*_)?{_INHERITED}$)"
    ignore = [re.compile(p) for p in (others, _OTHER_DATATYPES, r"\.mefd(?:/|$)")]
    indexer = BIDSLayoutIndexer(validate=False, index_metadata=False, ignore=ignore)
    database = database_dir / f"sub-{participant}" if database_dir else None
    layout = BIDSLayout(root, validate=False, indexer=indexer, database_path=database)
    if Path(layout.root) != root:
        raise UsageError(
            "The pybids index belongs to another dataset.",
            expected=str(root),
            found=layout.root,
            where=str(database),
            fix="name another --bids-database-dir, or delete this index",
        )
    return layout


def _parse(paths: Iterable[Path]) -> Iterator[_File]:
    for path in paths:
        *pairs, last = path.name.split("_")
        if all("-" in pair for pair in pairs):
            entities = tuple((key, value) for key, _, value in (p.partition("-") for p in pairs))
            yield _File(path, entities, last.partition(".")[0])


def _mef3(root: Path, participant: str) -> Iterator[_File]:
    """MEF3 recordings are folders, which pybids does not list."""
    home = root / f"sub-{participant}"
    for pattern in ("ieeg/*_ieeg.mefd", "ses-*/ieeg/*_ieeg.mefd"):
        yield from _parse(home.glob(pattern))


def _stems(files: Sequence[_File], participant: str) -> list[tuple[Path, tuple]]:
    """Return (folder, entities) of each recording, from its signal or, failing that, sidecars.

    A sidecar that other recordings inherit is not a recording of its own.
    """
    named = {
        (f.path.parent, f.entities): f.suffix == "ieeg" and f.path.suffix in FORMATS
        for f in sorted(files, key=lambda f: f.path.suffix in FORMATS)
        if f.suffix in {"ieeg", "channels"}
        and f.path.parent.name == "ieeg"
        and {"sub": participant}.items() <= dict(f.entities).items()
        and "task" in dict(f.entities)
    }
    stems = [
        (folder, entities)
        for (folder, entities), has_signal in named.items()
        if has_signal
        or not any(folder == other and set(entities) < set(others) for (other, others) in named)
    ]
    return sorted(stems, key=lambda stem: _join(stem[1]))


def _join(entities: Iterable[tuple[str, str]]) -> str:
    return "_".join(f"{key}-{value}" for key, value in entities)


def _recording(root: Path, stem: tuple[Path, tuple], files: Sequence[_File]) -> Recording:
    folder, entities = stem
    bare = folder / f"{_join(entities)}_ieeg"
    inherited = _inherited(files, bare, entities)
    own = {f.path.suffix: f.path for f in inherited if f.path.stem == bare.name}
    signals = [own[extension] for extension in FORMATS if extension in own]
    notes = []
    if len(signals) > 1:
        notes.append(f"{len(signals)} formats of one recording, {signals[0].name} is used")
    channels_path = _nearest(inherited, "channels", ".tsv")
    (channels, channel_notes), metadata, problem = _read_sidecars(channels_path, inherited)
    of = dict(entities)
    return Recording(
        root=root,
        path=signals[0] if signals else bare,
        format=FORMATS[signals[0].suffix] if signals else "",
        participant=of["sub"],
        session=of.get("ses"),
        task=of["task"],
        run=of.get("run"),
        entities=entities,
        channels=channels,
        metadata=metadata,
        events_path=_nearest(inherited, "events", ".tsv"),
        channels_path=channels_path,
        electrodes=_electrodes(files, bare, entities),
        notes=(*notes, *channel_notes),
        problem=problem,
    )


def _read_sidecars(
    channels_path: Path | None, inherited: Sequence[_File]
) -> tuple[tuple[tuple[Channel, ...], tuple[str, ...]], dict[str, Any], SpeechDecodeError | None]:
    """Return channels with notes, metadata, and the error that kept them from being read.

    One broken sidecar must not hide the other recordings, so the error is kept, not raised.
    """
    try:
        return read_channels(channels_path), _merged_metadata(inherited), None
    except SpeechDecodeError as error:
        return ((), ()), {}, error


def _inherited(
    files: Iterable[_File], path: Path, entities: Iterable[tuple[str, str]]
) -> list[_File]:
    """Return the files that apply to one recording, from the most general to the nearest."""
    return _sorted_by_nearness(f for f in files if f.applies_to(path, entities))


def _sorted_by_nearness(files: Iterable[_File]) -> list[_File]:
    return sorted(files, key=lambda f: (len(f.path.parts), len(f.entities)))


def _nearest(inherited: Sequence[_File], suffix: str, extension: str) -> Path | None:
    paths = [f.path for f in inherited if f.suffix == suffix and f.path.suffix == extension]
    return paths[-1] if paths else None


def _merged_metadata(inherited: Iterable[_File]) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for file in inherited:
        if file.suffix == "ieeg" and file.path.suffix == ".json":
            metadata |= read_json(file.path)
    return metadata


def _electrodes(
    files: Sequence[_File], path: Path, entities: Iterable[tuple[str, str]]
) -> tuple[ElectrodesFile, ...]:
    """Return each electrodes.tsv (one per space) with the coordsystem.json of its space.

    Where there is one space only, many datasets name it in one of the two names and not in the
    other: then the only coordsystem.json belongs to the only electrodes.tsv.
    """
    tables = _in_any_space(files, path, entities, "electrodes", ".tsv")
    alone = len({_space(table) for table in tables}) == 1
    pairs = []
    for table in tables:
        systems = _in_any_space(files, table.path, entities, "coordsystem", ".json")
        own = [f for f in systems if _space(f) == _space(table)]
        if not own and alone and len({_space(f) for f in systems}) == 1:
            own = systems
        pairs.append(ElectrodesFile(table.path, own[-1].path if own else None))
    return tuple(sorted(pairs, key=lambda pair: pair.electrodes.name))


def _in_any_space(
    files: Iterable[_File],
    path: Path,
    entities: Iterable[tuple[str, str]],
    suffix: str,
    extension: str,
) -> list[_File]:
    """Return the files that apply to a recording, whatever space they name, the nearest last."""
    return _sorted_by_nearness(
        f
        for f in files
        if (f.suffix, f.path.suffix) == (suffix, extension)
        and f.applies_to(path, [*entities, *_space(f)])
    )


def _space(file: _File) -> tuple[tuple[str, str], ...]:
    """Return the entity ``space`` of a file, or nothing."""
    return tuple(entity for entity in file.entities if entity[0] == "space")


def _passes(
    recording: Recording, tasks: Sequence[str], sessions: Sequence[str], runs: Sequence[str]
) -> bool:
    wanted = (
        (recording.task, [_bare(t, "task") for t in tasks]),
        (recording.session, [_bare(s, "ses") for s in sessions]),
        (_index_label(recording.run), [_index_label(_bare(r, "run")) for r in runs]),
    )
    return all(not labels or value in labels for value, labels in wanted)


def _index_label(run: str | None) -> str | None:
    """Run labels are indices: 1 and 01 are the same run."""
    return str(int(run)) if run and run.isdigit() else run


def _filtered(layout: BIDSLayout, filter_file: Path) -> set[str]:
    """Return the labels of the recordings that a filter file lets through."""
    filters = _read_filters(filter_file)
    known = sorted(layout.get_entities())
    for entity in filters:
        if entity not in known:
            raise UsageError(
                f"The filter file names an unknown entity {entity!r}.",
                expected=", ".join(known),
                found=entity,
                where=filter_file,
                fix=did_you_mean(entity, known) or "take one of these",
            )
    query = {"suffix": ["ieeg", "channels"], "datatype": "ieeg", **filters}
    return {_join(file.entities) for file in _parse(Path(f.path) for f in layout.get(**query))}


def _read_filters(filter_file: Path) -> dict[str, Any]:
    if not filter_file.is_file():
        raise MissingInputError(
            "The filter file is absent.", where=filter_file, fix="check --bids-filter-file"
        )
    try:
        content = read_json(filter_file)
    except DataError as error:
        raise UsageError(str(error)) from None
    filters = content.get("ieeg")
    if not isinstance(filters, dict):
        raise UsageError(
            "The filter file says nothing about iEEG.",
            expected='{"ieeg": {"<entity>": "<value>"}}',
            found="the keys " + ", ".join(content),
            where=filter_file,
            fix="put the filters under the key 'ieeg'",
        )
    queries = {"*": Query.ANY, "Query.ANY": Query.ANY, "Query.NONE": Query.NONE, None: Query.NONE}
    return {
        key: queries.get(value, value) if isinstance(value, str | None) else value
        for key, value in filters.items()
    }


def require_known_task(
    dataset: Dataset, participants: Iterable[str], task: str, option: str
) -> None:
    """Raise if none of the participants has a recording of a task; reads file names only.

    Raises
    ------
    NothingSelectedError
        Lists the tasks that exist.
    """
    tasks: set[str] = set()
    for participant in participants:
        home = dataset.root / f"sub-{participant}"
        for pattern in ("ieeg/*_task-*", "ses-*/ieeg/*_task-*"):
            tasks.update(p.name.partition("_task-")[2].split("_")[0] for p in home.glob(pattern))
        if _bare(task, "task") in tasks:
            return
    if tasks:  # without any recording there is more to say than that this task is missing
        raise _no_such_task(task, sorted(tasks), option, dataset.root)


def require_tasks(recordings: Sequence[Recording], task: str, option: str) -> tuple[Recording, ...]:
    """Return the recordings of a task.

    Raises
    ------
    NothingSelectedError
        If there is none; lists the tasks that exist.
    """
    chosen = tuple(r for r in recordings if r.task == _bare(task, "task"))
    if not chosen:
        tasks = sorted({r.task for r in recordings})
        home = recordings[0].root / f"sub-{recordings[0].participant}" if recordings else ""
        raise _no_such_task(task, tasks, option, home)
    return chosen


def _no_such_task(
    task: str, tasks: Sequence[str], option: str, where: str | Path
) -> NothingSelectedError:
    return NothingSelectedError(
        f"There is no recording of the task {task!r}.",
        expected="one of " + ", ".join(tasks),
        found=repr(task),
        where=where,
        fix=f"name the task with {option}; {did_you_mean(task, tasks)}".rstrip("; "),
    )
