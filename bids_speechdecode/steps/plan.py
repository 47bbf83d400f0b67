"""What a participant's run will use: recordings, channels, audio, splits and windows.

The plan is made from headers, sidecars and events alone, before any sample is read and before
anything is fitted, so that every later step, on whatever machine, sees the same splits.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from bids_speechdecode.bids.alignment import Alignment, Segment, align
from bids_speechdecode.bids.dataset import (
    Channel,
    Dataset,
    ElectrodesFile,
    Recording,
    match_channels,
    require_signal,
)
from bids_speechdecode.bids.electrodes import read_electrodes
from bids_speechdecode.config import Config, WindowConfig
from bids_speechdecode.decoding.splits import split_blocks, split_recordings
from bids_speechdecode.decoding.windows import list_windows
from bids_speechdecode.errors import DataError, NothingSelectedError, SpeechDecodeError
from bids_speechdecode.signals.preprocess import Montage, make_montage
from bids_speechdecode.signals.readers import open_signal
from bids_speechdecode.timeline import Interval, merge_intervals

SPLITS = ("train", "val", "test")
PRETRAIN, FINETUNE = "pretrain", "finetune"
END_TOLERANCE = 0.05  # seconds by which a clock map may miss the ends of its audio file


@dataclass(frozen=True)
class PlannedRecording:
    """A recording that will be used, and how."""

    recording: Recording
    role: str  # PRETRAIN or FINETUNE
    sampling_rate: float
    n_times: int
    channel_names: tuple[str, ...]  # of the file
    kept: tuple[int, ...]  # indices into them
    dropped: tuple[tuple[str, str], ...]  # (channel name, reason)
    montage: Montage
    alignment: Alignment
    gaps: tuple[Interval, ...]
    electrodes: tuple[ElectrodesFile, ...] = ()  # those that can be read
    notes: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Name as in the file, e.g. ``sub-01_task-ambient_run-01``."""
        return self.recording.label

    @property
    def duration(self) -> float:
        """Seconds on the recording's clock."""
        return self.n_times / self.sampling_rate


@dataclass(frozen=True)
class Piece:
    """Windows of one split, cut from one stretch of one audio, as heard in one recording.

    ``audio_starts`` are on the audio's clock and ``brain_starts`` on the recording's (s);
    ``usable`` is False where the brain window leaves the recording or meets a gap or artifact.
    """

    recording: str
    role: str
    segment: int
    version: str  # "true" or "ambient"
    split: str
    block: int
    audio: Interval
    audio_starts: np.ndarray
    brain_starts: np.ndarray
    usable: np.ndarray

    @property
    def n_usable(self) -> int:
        """Count of usable windows."""
        return int(self.usable.sum())


@dataclass(frozen=True)
class ParticipantPlan:
    """Everything that a participant's run will use, and what it leaves out and why."""

    participant: str
    simulated: bool
    recordings: tuple[PlannedRecording, ...]
    pieces: tuple[Piece, ...]
    left_out: tuple[tuple[str, str], ...]
    errors: tuple[tuple[str, SpeechDecodeError], ...] = field(default=(), compare=False)

    def __getitem__(self, label: str) -> PlannedRecording:
        return next(r for r in self.recordings if r.label == label)

    def select(
        self, role: str, version: str | None = None, split: str | None = None
    ) -> list[Piece]:
        """Return the pieces of a role, and of a version and split where given."""
        return [
            p
            for p in self.pieces
            if p.role == role and version in (None, p.version) and split in (None, p.split)
        ]

    def versions(self, role: str) -> tuple[str, ...]:
        """Return the audio versions of a role, the primary one first."""
        present = {p.version for p in self.pieces if p.role == role}
        return tuple(v for v in ("true", "ambient") if v in present)

    def segment(self, piece: Piece) -> Segment:
        """Return the aligned audio segment that a piece was cut from."""
        return self[piece.recording].alignment.segments[piece.segment]


def plan_participant(
    dataset: Dataset,
    participant: str,
    recordings: Sequence[Recording],
    config: Config,
    *,
    unusable: Mapping[str, str] | None = None,
    stop_on_first_crash: bool = False,
) -> ParticipantPlan:
    """Plan the run of one participant.

    Parameters
    ----------
    dataset : Dataset
    participant : str
        Label without ``sub-``.
    recordings : sequence of Recording
        The participant's recordings that passed the filters.
    config : Config
    unusable : mapping, optional
        Recordings that an earlier step found unusable: label -> reason.
    stop_on_first_crash : bool
        Raise at the first recording that cannot be used.

    Raises
    ------
    NothingSelectedError
        No recording of a needed task.
    DataError, MissingInputError
        No recording of a needed task can be used; the first reason is raised.
    """
    unusable = unusable or {}
    planned: list[PlannedRecording] = []
    left_out: list[tuple[str, str]] = []
    errors: dict[str, list[tuple[str, SpeechDecodeError]]] = {PRETRAIN: [], FINETUNE: []}
    for recording in recordings:
        role = _role(recording.task, config)
        if role is None:
            left_out.append((recording.label, f"task {recording.task!r} is not used"))
            continue
        try:
            if recording.label in unusable:
                raise DataError(unusable[recording.label])
            planned.append(_plan_recording(dataset, recording, role, config))
        except SpeechDecodeError as error:
            if stop_on_first_crash:
                raise
            errors[role].append((recording.label, error))
            left_out.append((recording.label, str(error)))
    for role in _needed_roles(config):
        if not any(r.role == role for r in planned):
            if errors[role]:
                raise errors[role][0][1]
            task = _task_of(role, config)
            raise NothingSelectedError(
                f"sub-{participant} has no recording of task {task!r} after the filters",
                found=", ".join(sorted({r.task for r in recordings})) or "no recording",
            )
    pieces = _cut_pretraining(planned, config) + _cut_task(planned, config)
    _require_windows(participant, pieces, config)
    return ParticipantPlan(
        participant,
        dataset.simulated,
        tuple(planned),
        tuple(pieces),
        tuple(left_out),
        tuple(errors[PRETRAIN] + errors[FINETUNE]),
    )


def _needed_roles(config: Config) -> tuple[str, ...]:
    return (FINETUNE,) if config.inputs.pretrain_task == "none" else (PRETRAIN, FINETUNE)


def _require_windows(participant: str, pieces: Sequence[Piece], config: Config) -> None:
    """Raise if a split that training or evaluation needs has no usable window."""
    for role in _needed_roles(config):
        counts = {
            split: sum(p.n_usable for p in pieces if (p.role, p.split) == (role, split))
            for split in SPLITS
        }
        if not all(counts.values()):
            task = _task_of(role, config)
            raise DataError(
                f"sub-{participant} has too few windows of task {task!r} to split them",
                expected="training, validation and test windows with signal and sound",
                found=", ".join(f"{n} {split}" for split, n in counts.items()),
                fix="use more or longer recordings; --dry-run lists what is left out and why "
                "(gaps, artifacts, short audio)",
            )


def _task_of(role: str, config: Config) -> str:
    return config.inputs.pretrain_task if role == PRETRAIN else config.inputs.finetune_task


def _role(task: str, config: Config) -> str | None:
    if task == config.inputs.finetune_task:
        return FINETUNE
    return PRETRAIN if task == config.inputs.pretrain_task else None


def _plan_recording(
    dataset: Dataset, recording: Recording, role: str, config: Config
) -> PlannedRecording:
    """Read the header, choose the channels, align the audio."""
    if recording.problem:
        raise recording.problem
    require_signal(recording)
    reader = open_signal(recording.path, recording.format)
    kept, dropped, notes = choose_channels(recording, reader.channel_names)
    if not kept:
        raise DataError(
            "no good brain channel in this recording",
            expected="at least one channel of type SEEG, ECOG or DBS with status good",
            found=_count_words(dropped),
            where=recording.channels_path or recording.path,
            fix="correct type and status in channels.tsv; its names must be those of the signal",
        )
    duration = reader.n_times / reader.sampling_rate
    alignment = align(
        recording,
        duration=duration,
        stimuli_dir=dataset.root / "stimuli",
        audio=config.inputs.audio,
    )
    if not alignment.segments:
        raise DataError(
            "no audio is aligned to this recording",
            expected="events.tsv rows with stim_file, an AUDIO channel, or --audio FILE",
            found="; ".join(alignment.notes) or "none of them",
            where=recording.events_path or recording.path,
        )
    groups = {c.name: c.group for c in recording.channels}
    montage = make_montage(
        reader.channel_names,
        kept,
        config.preprocess.reference,
        [groups.get(name, "") for name in reader.channel_names],
    )
    electrodes, electrode_notes = _usable_electrodes(recording, reader.channel_names, kept)
    notes += (*_header_notes(recording, reader.sampling_rate, duration), *electrode_notes)
    return PlannedRecording(
        recording,
        role,
        reader.sampling_rate,
        reader.n_times,
        tuple(reader.channel_names),
        kept,
        dropped,
        montage,
        alignment,
        reader.gaps,
        electrodes,
        (*recording.notes, *notes, *alignment.notes),
    )


def _header_notes(recording: Recording, rate: float, duration: float) -> Iterator[str]:
    """Yield where the sidecar disagrees with the file, which is what is used."""
    stated = recording.sampling_frequency
    if stated and abs(stated - rate) > 1e-3 * rate:
        yield f"sidecar says {stated:g} Hz, the file {rate:g} Hz (used)"
    stated = recording.duration
    if stated and abs(stated - duration) > max(1.0, 1e-3 * duration):
        which = "; the file may be truncated" if duration < stated else ""
        yield f"sidecar says {stated:.1f} s, the file lasts {duration:.1f} s (used){which}"


def _usable_electrodes(
    recording: Recording, names: Sequence[str], kept: Sequence[int]
) -> tuple[tuple[ElectrodesFile, ...], tuple[str, ...]]:
    """Return the electrodes files that can be read, and notes on what is odd about them.

    Decoding needs no positions, so a broken file costs the maps and not the recording.
    """
    usable, notes = [], []
    for file in recording.electrodes:
        try:
            found = read_electrodes(file)
        except SpeechDecodeError as error:
            notes.append(f"{file.electrodes.name} is not used: {_in_one_line(error)}")
            continue
        usable.append(file)
        notes += [f"{file.electrodes.name}: {note}" for note in found.notes]
        nowhere = [names[i] for i in kept if names[i] not in found.names]
        if nowhere:
            notes.append(
                f"{file.electrodes.name}: {len(nowhere)} of {len(kept)} used channels are not in "
                f"it, such as {nowhere[0]}"
            )
    return tuple(usable), tuple(notes)


def _in_one_line(error: SpeechDecodeError) -> str:
    return "; ".join(" ".join(line.split()) for line in str(error).splitlines())


def choose_channels(
    recording: Recording, file_channels: Sequence[str]
) -> tuple[tuple[int, ...], tuple[tuple[str, str], ...], tuple[str, ...]]:
    """Return indices of good brain channels, (name, reason) of the others, and notes."""
    matched, notes = match_channels(recording.channels, file_channels)
    kept: list[int] = []
    dropped: list[tuple[str, str]] = []
    for index, (name, channel) in enumerate(zip(file_channels, matched, strict=True)):
        reason = _why_not(channel, name in file_channels[:index])
        if reason:
            dropped.append((name, reason))
        else:
            kept.append(index)
    return tuple(kept), tuple(dropped), notes


def _why_not(channel: Channel, seen_before: bool) -> str:
    """Return why a channel is not used, or an empty string."""
    if channel.status == "bad":
        return f"bad: {channel.status_description}" if channel.status_description else "bad"
    if not channel.is_brain:
        return f"type {channel.type}"
    return "a channel of this name came before" if seen_before else ""


def _count_words(dropped: Sequence[tuple[str, str]]) -> str:
    counts = Counter(reason for _, reason in dropped)
    return ", ".join(f"{n} {reason}" for reason, n in counts.most_common()) or "no channel"


def _rng(config: Config, purpose: int) -> np.random.Generator:
    """One stream of random numbers a purpose, so that one choice does not move another."""
    return np.random.default_rng([config.run.seed, purpose])


def _cut_pretraining(planned: Sequence[PlannedRecording], config: Config) -> list[Piece]:
    """Split by whole recording file; by blocks of time where there are fewer than three files."""
    recordings = [r for r in planned if r.role == PRETRAIN]
    if not recordings:
        return []
    if len(recordings) < len(SPLITS):
        return _cut_blocks(recordings, PRETRAIN, config, _rng(config, 1))
    split_of = split_recordings(
        {r.label: r.duration for r in recordings},
        config.splits.val_fraction,
        config.splits.test_fraction,
        _rng(config, 1),
    )
    pieces = []
    for block, planned_recording in enumerate(recordings):
        for index, segment in enumerate(planned_recording.alignment.segments):
            if segment.version != _primary_version([planned_recording]):
                continue
            split = split_of[planned_recording.label]
            interval = _heard(segment)
            pieces.append(
                _make_piece(planned_recording, index, split, block, interval, config.windows)
            )
    return pieces


def _cut_task(planned: Sequence[PlannedRecording], config: Config) -> list[Piece]:
    recordings = [r for r in planned if r.role == FINETUNE]
    pieces = _cut_blocks(recordings, FINETUNE, config, _rng(config, 2))
    if _primary_version(recordings) == "true":
        pieces += [
            heard
            for piece in pieces
            for heard in _as_the_room_heard_it(
                piece, next(r for r in recordings if r.label == piece.recording), config.windows
            )
        ]
    return pieces


def _primary_version(recordings: Sequence[PlannedRecording]) -> str:
    versions = {s.version for r in recordings for s in r.alignment.segments}
    return "true" if "true" in versions else "ambient"


def _cut_blocks(
    recordings: Sequence[PlannedRecording], role: str, config: Config, rng: np.random.Generator
) -> list[Piece]:
    """Cut contiguous blocks of the audio, the same for every recording in which it was heard."""
    version = _primary_version(recordings)
    heard: dict[str, list[Interval]] = {}
    for planned in recordings:
        for segment in planned.alignment.segments:
            if segment.version == version:
                source = _source_name(planned, segment)
                heard.setdefault(source, []).append(_heard(segment))
    blocks = split_blocks(
        heard,
        n_blocks=_n_blocks(heard, config),
        val_fraction=config.splits.val_fraction,
        test_fraction=config.splits.test_fraction,
        guard=config.splits.guard,
        window=config.windows.duration,
        rng=rng,
    )
    pieces = []
    for planned in recordings:
        for index, segment in enumerate(planned.alignment.segments):
            if segment.version != version:
                continue
            whole = _heard(segment)
            for block in blocks:
                same = block.source == _source_name(planned, segment)
                if same and block.interval.overlaps(whole):
                    piece = _make_piece(
                        planned, index, block.split, block.index, block.interval, config.windows
                    )
                    pieces.append(piece)
    return pieces


def _n_blocks(heard: Mapping[str, Sequence[Interval]], config: Config) -> int:
    """Return the number of blocks: fewer than asked for where the audio is short.

    A block of fewer than ten windows would lose most of them to the guards.
    """
    total = sum(i.duration for intervals in heard.values() for i in merge_intervals(intervals))
    return max(
        len(SPLITS), min(config.splits.n_blocks, int(total / (10 * config.windows.duration)))
    )


def _source_name(planned: PlannedRecording, segment: Segment) -> str:
    """Name an audio so that the same file heard twice is the same source."""
    if segment.source.path is not None:
        return str(segment.source.path)
    return f"{planned.label}:{segment.source.channel}"


def _heard(segment: Segment) -> Interval:
    """Return the stretch of audio that was heard, alike for everybody who heard it.

    Clock maps fitted to different recordings differ by milliseconds: ends near those of the file
    become those of the file, others are rounded.
    """
    start, stop = segment.audio_interval
    length = segment.source.duration or math.inf
    return Interval(
        0.0 if start < END_TOLERANCE else round(start, 3),
        length if stop > length - END_TOLERANCE else round(stop, 3),
    )


def _make_piece(
    planned: PlannedRecording,
    segment_index: int,
    split: str,
    block: int,
    audio: Interval,
    windows: WindowConfig,
) -> Piece:
    segment = planned.alignment.segments[segment_index]
    stride = windows.stride if split == "train" else max(windows.stride, windows.duration)
    heard = _heard(segment)
    audio_starts = list_windows(audio, windows.duration, stride, heard=heard)
    heard_at = np.array([segment.clock.to_recording(float(t)) for t in audio_starts])
    brain_starts = heard_at + windows.brain_lag
    usable = _usable(brain_starts, windows.duration, planned)
    return Piece(
        planned.label,
        planned.role,
        segment_index,
        segment.version,
        split,
        block,
        Interval(max(audio.start, heard.start), min(audio.stop, heard.stop)),
        audio_starts,
        brain_starts,
        usable,
    )


def _usable(brain_starts: np.ndarray, duration: float, planned: PlannedRecording) -> np.ndarray:
    """Return which brain windows lie in the recording and meet no gap and no artifact."""
    usable = (brain_starts >= 0) & (brain_starts + duration <= planned.duration)
    for hole in (*planned.gaps, *planned.alignment.artifacts):
        usable &= ~((brain_starts < hole.stop) & (hole.start < brain_starts + duration))
    return usable


def _as_the_room_heard_it(
    piece: Piece, planned: PlannedRecording, windows: WindowConfig
) -> list[Piece]:
    """Return the same brain windows paired with the simultaneous ambient audio, if any."""
    found = []
    heard_at = piece.brain_starts - windows.brain_lag
    for index, segment in enumerate(planned.alignment.segments):
        if segment.version != "ambient" or not len(heard_at):
            continue
        starts = np.array([segment.clock.to_audio(float(t)) for t in heard_at])
        whole = segment.audio_interval
        inside = (starts >= whole.start) & (starts + windows.duration <= whole.stop)
        if not inside.any():
            continue
        # The speech model may look no further than the block, in this version either.
        first, last = starts[inside][0], starts[inside][-1] + windows.duration
        found.append(
            replace(
                piece,
                segment=index,
                version="ambient",
                audio=Interval(float(first), float(last)),
                audio_starts=starts[inside],
                brain_starts=piece.brain_starts[inside],
                usable=piece.usable[inside],
            )
        )
    return found


def describe_plan(plan: ParticipantPlan) -> dict[str, object]:
    """Return the plan as plain values, as ``desc-plan_windows.json`` and the report show it."""
    return {
        "participant": plan.participant,
        "simulated": plan.simulated,
        "recordings": [_describe_recording(plan, r) for r in plan.recordings],
        "left_out": [{"what": what, "why": why} for what, why in plan.left_out],
    }


def _describe_recording(plan: ParticipantPlan, planned: PlannedRecording) -> dict[str, object]:
    mine = [p for p in plan.pieces if p.recording == planned.label]
    primary = [p for p in mine if p.version == _primary_version([planned])]
    splits = sorted({p.split for p in primary}, key=SPLITS.index)
    return {
        "label": planned.label,
        "role": planned.role,
        "format": planned.recording.format,
        "sampling_frequency": planned.sampling_rate,
        "duration": planned.duration,
        "n_channels": len(planned.kept) + len(planned.dropped),
        "kept": len(planned.kept),
        "dropped": dict(Counter(reason for _, reason in planned.dropped)),
        "split": splits[0] if len(splits) == 1 else "blocks",
        "alignment": [_describe_segment(s) for s in planned.alignment.segments],
        "windows": {s: sum(p.n_usable for p in primary if p.split == s) for s in SPLITS},
        "windows_left_out": sum(len(p.usable) - p.n_usable for p in primary),
        "notes": list(planned.notes),
    }


def _describe_segment(segment: Segment) -> dict[str, object]:
    source = segment.source
    return {
        "stimulus": Path(source.path).name if source.path else f"channel {source.channel}",
        "version": segment.version,
        "start": segment.interval.start,
        "stop": segment.interval.stop,
        "slope": segment.clock.slope,
        "offset": segment.clock.offset,
        "drift_ppm": segment.clock.drift_ppm,
        "residual_ms": segment.residual_ms,
        "n_anchors": len(segment.anchors),
        "reading": segment.reading,
    }
