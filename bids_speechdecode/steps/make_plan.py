"""Headers, sidecars and events -> the plan of a participant's run.

No sample is read and nothing is fitted here, so that every later step, on whatever machine, sees
the same splits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from bids_speechdecode.bids.alignment import align
from bids_speechdecode.bids.channels import Channel, match_channels
from bids_speechdecode.bids.dataset import (
    Dataset,
    ElectrodesFile,
    Recording,
    require_signal,
)
from bids_speechdecode.bids.electrodes import read_electrodes
from bids_speechdecode.config import Config
from bids_speechdecode.errors import DataError, NothingSelectedError, SpeechDecodeError
from bids_speechdecode.signals.readers import open_signal
from bids_speechdecode.steps.bands import make_montages
from bids_speechdecode.steps.cut import cut_pretraining, cut_task
from bids_speechdecode.steps.plan import (
    FINETUNE,
    PRETRAIN,
    SPLITS,
    ParticipantPlan,
    Piece,
    PlannedRecording,
)
from bids_speechdecode.steps.words import keep_spoken, needs_words, note_wordless, require_words


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
        No recording of a needed task can be used; the first reason is raised. Or words are needed
        and there are none.
    """
    plan = plan_recordings(
        dataset,
        participant,
        recordings,
        config,
        unusable=unusable,
        stop_on_first_crash=stop_on_first_crash,
    )
    pieces = cut_pretraining(plan.recordings, config) + cut_task(plan.recordings, config)
    _require_windows(participant, pieces, config)
    plan = replace(plan, pieces=tuple(pieces))
    if not needs_words(config):
        return plan
    for role in _needed_roles(config):
        require_words(plan, role, config)
    return keep_spoken(note_wordless(plan, config), config)


def plan_recordings(
    dataset: Dataset,
    participant: str,
    recordings: Sequence[Recording],
    config: Config,
    *,
    unusable: Mapping[str, str] | None = None,
    stop_on_first_crash: bool = False,
) -> ParticipantPlan:
    """Plan which recordings are used, with channels and sound, and cut no windows.

    Parameters and errors are those of `plan_participant`.
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
    return ParticipantPlan(
        participant,
        dataset.simulated,
        tuple(planned),
        (),
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
    if not kept and recording.channels_path is None:
        raise DataError(
            "this recording has no channels.tsv, so that its brain channels are not known",
            expected=f"{recording.label}_channels.tsv with the columns name, type and status",
            found=f"{len(reader.channel_names)} channels in the signal, and no such file",
            where=recording.path.parent,
            fix="add it, a row for each channel of the signal; the brain's are SEEG, ECOG or DBS",
        )
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
    montages = make_montages(recording, reader, kept, config.preprocess)
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
        montages,
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
