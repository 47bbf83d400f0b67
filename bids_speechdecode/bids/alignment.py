"""events.tsv, stim_file and AUDIO channels -> clock maps between a recording and what was heard.

How the rows that name one file are read, in this order:

1. The column ``audio_onset`` gives the time in the audio file at which each row starts. Rows
   between which both clocks advance alike are anchors of one continuous playback and get a
   least-squares clock map; where they do not, the playback paused or jumped and a new stretch
   starts. This column decides every case and can always be added.
2. Without it, one row plays its file from the start.
3. Without it, several rows can mean that the file was *played once* from the first row on (the
   others mark parts within it), *replayed* from its start at every row, or that it is
   *session-long* and runs with the recording, so that an onset is also the time in the file.
   The one reading that fits onsets, durations and the length of the file is taken; if none or
   more than one fits, that is an error which shows them.

The column ``audio_version`` (``true`` or ``ambient``) tells apart two files heard at once: the
clean sound and what a microphone in the room took.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from pathlib import Path

import numpy as np

from bids_speechdecode.bids.dataset import Recording
from bids_speechdecode.bids.events import EventRow, Version, read_events
from bids_speechdecode.bids.stimuli import AudioSource, Stimuli
from bids_speechdecode.errors import DataError
from bids_speechdecode.timeline import ClockMap, Interval

# Clocks of real devices differ by far less than 0.1 %, and tables round times to about 0.1 s.
_MAX_DRIFT = 1e-3
_SLACK = 0.1  # seconds
_JITTER = 0.05  # seconds by which an anchor may be off
# A file of which never as much as a tenth was played is not one that was replayed.
_MIN_REPLAYED = 0.1


@dataclass(frozen=True)
class Segment:
    """A stretch of a recording during which one source was heard without a break.

    Attributes
    ----------
    interval : Interval, seconds
        On the recording's clock.
    clock : ClockMap
        From the recording's clock to the time in the audio.
    anchors : tuple of (float, float), seconds
        Pairs of recording time and audio time that `clock` was made from.
    residual_ms : float or None
        Root mean square of anchors about the map; None with fewer than three anchors.
    reading : str
        In words, how the events were read.
    """

    source: AudioSource
    version: Version
    interval: Interval
    clock: ClockMap
    anchors: tuple[tuple[float, float], ...] = ()
    residual_ms: float | None = None
    reading: str = ""

    @property
    def audio_interval(self) -> Interval:
        """The stretch of the audio that was heard, in seconds of the audio's clock."""
        start, stop = (self.clock.to_audio(time) for time in self.interval)
        return Interval(max(0.0, start), min(stop, self.source.duration or math.inf))


@dataclass(frozen=True)
class Alignment:
    """What was heard during a recording, and which parts of it are artifacts."""

    segments: tuple[Segment, ...]
    artifacts: tuple[Interval, ...] = ()
    notes: tuple[str, ...] = ()


def align(
    recording: Recording, *, duration: float, stimuli_dir: Path, audio: str = ""
) -> Alignment:
    """Return when which audio was heard during a recording.

    Parameters
    ----------
    recording : Recording
        Its events and channels are read, its signal is not.
    duration : float
        Length of the recording in seconds.
    stimuli_dir : path
        Folder to which ``stim_file`` is relative.
    audio : str, optional
        File (or channel of the recording) that starts with the recording; used only where
        events.tsv names no file.

    Raises
    ------
    DataError
        If the events cannot be read, have no single meaning, or name audio that is unreadable,
        too short or outside the dataset; or if nothing says what was heard.
    MissingInputError
        If an audio file is absent or was not downloaded.
    """
    segments = list(_audio_channels(recording, duration))
    rows, artifacts, notes = read_events(recording, duration, optional=bool(segments or audio))
    if segments and any(row.version == "ambient" for row in rows):
        # Both are what the room heard: windows of one stretch of brain must not count twice.
        notes.append(f"events.tsv names the room's sound, so {segments[0].source.name} is not used")
        segments = []
    stimuli = Stimuli(recording.root, stimuli_dir)
    for version, version_rows in _grouped(rows, lambda row: row.version):
        segments += _align_rows(version_rows, version, stimuli, duration, notes)
    if audio and not rows:
        segments.append(_from_start(recording, audio, stimuli, duration, notes))
    elif audio:
        notes.append(f"events.tsv names what was heard, so {audio!r} is not used")
    if not segments:
        raise _nothing_heard(recording, stimuli_dir)
    order = sorted(segments, key=lambda s: (s.interval.start, s.version))
    return Alignment(tuple(order), tuple(artifacts), tuple(notes))


# ------------------------------------------------------------------------------- audio


def _audio_channels(recording: Recording, duration: float) -> Iterator[Segment]:
    """Yield the recording's own microphone, if it has one: its first good AUDIO channel."""
    names = [c.name for c in recording.channels if c.type == "AUDIO" and c.status == "good"]
    if names:
        others = f"; {', '.join(names[1:])} not used" if names[1:] else ""
        yield _channel_segment(recording, names[0], duration, "ambient", others)


def _channel_segment(
    recording: Recording, name: str, duration: float, version: Version, others: str = ""
) -> Segment:
    rates = [c.sampling_frequency for c in recording.channels if c.name == name]
    source = AudioSource(None, name, duration, rates[0] or recording.sampling_frequency)
    reading = f"channel {name} of the recording, which shares its clock{others}"
    return Segment(source, version, Interval(0.0, duration), ClockMap(), reading=reading)


def _from_start(
    recording: Recording, audio: str, stimuli: Stimuli, duration: float, notes: list[str]
) -> Segment:
    """Return the audio that the user says starts with the recording."""
    if audio in {channel.name for channel in recording.channels}:
        return _channel_segment(recording, audio, duration, "true")
    elsewhere = Path(audio).absolute()
    path = stimuli.folder / audio
    source = stimuli.open(elsewhere if elsewhere.exists() and not path.exists() else path)
    stop = min(duration, source.duration or 0.0)
    if stop < duration - _SLACK:
        notes.append(f"{source.name} ends {duration - stop:.1f} s before the recording")
    return Segment(
        source,
        "true",
        Interval(0.0, stop),
        ClockMap(),
        ((0.0, 0.0),),
        reading="starts with the recording, as the user said; no event names it",
    )


def _nothing_heard(recording: Recording, stimuli_dir: Path) -> DataError:
    files = sorted(p.name for p in stimuli_dir.iterdir()) if stimuli_dir.is_dir() else []
    channels = ", ".join(c.name for c in recording.channels if c.type == "MISC")
    return DataError(
        "Nothing says what was heard during a recording.",
        expected="rows of events.tsv with stim_file, or a good channel of type AUDIO",
        found="neither" + (f"; MISC channels: {channels}" if channels else ""),
        where=recording.events_path or recording.path,
        fix="add stim_file to events.tsv, or name the audio that starts with the recording by "
        f"--audio (in {stimuli_dir}: {', '.join(files[:10]) or 'no files'})",
    )


# ---------------------------------------------------------------------------- alignment


@dataclass(frozen=True)
class _Play:
    """A stretch of one file without a break; times in seconds on the recording's clock."""

    start: float
    stop: float
    clock: ClockMap
    anchors: tuple[tuple[float, float], ...]
    reading: str
    residual_ms: float | None = None


def _grouped(rows: Sequence[EventRow], key: Callable[[EventRow], object]) -> Iterator[tuple]:
    for value, members in groupby(sorted(rows, key=lambda row: str(key(row))), key):
        yield value, sorted(members, key=lambda row: (row.onset, row.line))


def _align_rows(
    rows: Sequence[EventRow], version: Version, stimuli: Stimuli, duration: float, notes: list[str]
) -> list[Segment]:
    """Return the segments of all rows of one audio version, none overlapping another."""
    sources = {row.stimulus: stimuli.find(row.stimulus, row.where) for row in rows}
    segments = []
    for _, members in _grouped(rows, lambda row: sources[row.stimulus].path):
        audio = sources[members[0].stimulus]
        for play in _plays(members, audio, duration):
            if play.stop > duration + _SLACK:
                notes.append(f"{audio.name} goes on {play.stop - duration:.1f} s after the end")
            interval = Interval(max(0.0, play.start), min(play.stop, duration))
            segments.append(
                Segment(
                    audio,
                    version,
                    interval,
                    play.clock,
                    play.anchors,
                    play.residual_ms,
                    play.reading,
                )
            )
    segments.sort(key=lambda segment: segment.interval)
    return _one_at_a_time(segments, rows[0].where.rpartition(",")[0])


def _one_at_a_time(segments: list[Segment], where: str) -> list[Segment]:
    """Cut overlaps that are rounding; anything longer is two sounds at once, an error."""
    for i, (first, second) in enumerate(pairwise(segments)):
        if first.interval.stop - second.interval.start > _SLACK:
            raise DataError(
                "Two stimuli of the same version are heard at once, which has two readings: the "
                "first was stopped when the second began, or one is what the room's microphone "
                "took of the other.",
                found="; ".join(
                    f"{s.source.name} from {s.interval.start:.3f} to {s.interval.stop:.3f} s "
                    f"({s.reading})"
                    for s in (first, second)
                ),
                where=where,
                fix="if it was stopped, give its rows their real duration; if both were heard, "
                "say in a column audio_version which is 'true' and which 'ambient'",
            )
        if first.interval.stop > second.interval.start:
            cut = Interval(first.interval.start, second.interval.start)
            segments[i] = replace(first, interval=cut)
    return segments


def _plays(rows: Sequence[EventRow], audio: AudioSource, duration: float) -> list[_Play]:
    """Return how the rows that name one file are read."""
    length = audio.duration or 0.0
    given = [row for row in rows if row.audio_onset is not None]
    if given and len(given) < len(rows):
        row = next(row for row in rows if row.audio_onset is None)
        raise DataError(
            f"Only some of the rows of {audio.name} say where in the audio they start.",
            expected="audio_onset in all of its rows, or in none",
            found=f"{len(rows) - len(given)} of {len(rows)} rows without",
            where=row.where,
        )
    if given:
        return _anchored(given, audio, duration)
    readings = [_played_once(rows, length)]
    if len(rows) > 1:
        readings += [_replayed(rows, length), _session_long(rows, length)]
    fitting = [plays for _, plays in readings if isinstance(plays, list)]
    if len({tuple((p.start, p.stop, p.clock) for p in plays) for plays in fitting}) != 1:
        raise _no_single_reading(rows, audio, readings)
    return fitting[0]


_Reading = tuple[str, list[_Play] | str]  # what it means, and the result or why it cannot be


def _slack(seconds: float) -> float:
    """By how much two devices may disagree about a stretch of time."""
    return _SLACK + _MAX_DRIFT * seconds


def _played_once(rows: Sequence[EventRow], length: float) -> _Reading:
    first, *others = rows
    meaning = f"played once, from its start at {first.onset:.3f} s"
    lasts = first.duration or length
    if lasts > length + _slack(length):
        return meaning, f"line {first.line} lasts {lasts:.3f} s, the file {length:.3f} s"
    outside = [row for row in others if row.end > first.onset + lasts + _slack(lasts)]
    if others and (first.duration is None or outside):
        line = outside[0].line if outside else first.line
        return meaning, f"the rows do not all lie within the first (line {line})"
    stop = first.onset + min(lasts, length)
    clock = ClockMap(1.0, -first.onset)
    return meaning, [_Play(first.onset, stop, clock, ((first.onset, 0.0),), meaning)]


def _replayed(rows: Sequence[EventRow], length: float) -> _Reading:
    meaning = f"replayed from its start at each of {len(rows)} rows"
    gaps = [b.onset - a.onset for a, b in pairwise(rows)] + [math.inf]
    lasts = [row.duration or min(length, gap) for row, gap in zip(rows, gaps, strict=True)]
    for row, last, gap in zip(rows, lasts, gaps, strict=True):
        if last > length + _slack(length):
            return meaning, f"line {row.line} lasts {last:.3f} s, the file {length:.3f} s"
        if last > gap + _slack(last):
            return meaning, f"line {row.line} is not over when the next row starts"
    played = [row.duration or gap for row, gap in zip(rows, gaps, strict=True)]
    longest = max(seconds for seconds in played if seconds < math.inf)
    if longest < _MIN_REPLAYED * length:
        return meaning, f"no row plays more than {longest:.3f} of its {length:.3f} s"
    durations = {row.duration for row in rows}
    runs_too = isinstance(_session_long(rows, length)[1], list)
    if runs_too and None not in durations and np.ptp([d for d in durations if d]) > _JITTER:
        return meaning, "the rows last differently long, so they are not the same sound"
    return meaning, [
        _Play(
            row.onset,
            row.onset + min(last, length),
            ClockMap(1.0, -row.onset),
            ((row.onset, 0.0),),
            f"played from its start at {row.onset:.3f} s",
        )
        for row, last in zip(rows, lasts, strict=True)
    ]


def _session_long(rows: Sequence[EventRow], length: float) -> _Reading:
    meaning = "session-long: runs with the recording, an onset is also the time in the file"
    last = max(rows, key=lambda row: row.end)
    if last.end > length + _slack(length):
        return meaning, f"line {last.line} ends at {last.end:.3f} s, the file at {length:.3f} s"
    stop = length if rows[-1].duration is None else min(last.end, length)
    start = rows[0].onset
    return meaning, [_Play(start, stop, ClockMap(), ((start, start),), meaning)]


def _no_single_reading(
    rows: Sequence[EventRow], audio: AudioSource, readings: Sequence[_Reading]
) -> DataError:
    fits = [meaning for meaning, plays in readings if isinstance(plays, list)]
    if fits:
        problem = f"The rows of {audio.name} can be read in {len(fits)} ways."
        found = "; or ".join(fits)
    else:
        problem = f"The audio {audio.name} is shorter than the events say."
        found = "; ".join(f"{meaning}: no, {why}" for meaning, why in readings)
    return DataError(
        problem,
        expected="rows with one meaning"
        if fits
        else f"audio that lasts longer than {audio.duration:.3f} s, or other onsets and durations",
        found=found,
        where=rows[0].where,
        fix="add a column audio_onset: the time in the file at which each row starts (0 if it is "
        "replayed from its start each time, the same as onset if it runs with the recording)",
    )


# ------------------------------------------------------------------------------ anchors


def fit_clock(anchors: Sequence[tuple[float, float]]) -> tuple[ClockMap, float | None]:
    """Return the least-squares line ``audio = slope * recording + offset`` through anchors.

    One anchor gives no speed: the clocks are then taken to run alike. So are they where the
    anchors would have them differ by more than 0.1 %, as no pair of devices does: such anchors
    lie too close together to tell the speed from their rounding.

    Parameters
    ----------
    anchors : sequence of (float, float), seconds
        Recording time and audio time.

    Returns
    -------
    clock : ClockMap
    residual_ms : float or None
        Root mean square of audio time about the line, in ms; None for fewer than 3 anchors.
    """
    recording, audio = np.array(anchors, dtype=float).T
    x, y = recording - recording.mean(), audio - audio.mean()
    slope = float(x @ y / (x @ x)) if len(anchors) > 1 and x @ x > 0 else 1.0
    if abs(slope - 1.0) > _MAX_DRIFT:
        slope = 1.0
    clock = ClockMap(slope, float(audio.mean() - slope * recording.mean()))
    residual_ms = 1000 * float(np.sqrt(np.mean((y - slope * x) ** 2)))
    return clock, residual_ms if len(anchors) > 2 else None


def _anchored(rows: Sequence[EventRow], audio: AudioSource, duration: float) -> list[_Play]:
    """Return the stretches of a file whose rows all give the time in the audio."""
    length = audio.duration or 0.0
    for row in rows:
        begins = row.audio_onset or 0.0
        ends = begins + (row.duration or 0.0)
        if begins < 0 or ends > length + _slack(length) or begins >= length:
            raise DataError(
                f"The audio {audio.name} is shorter than the events say."
                if begins >= 0
                else "A time in the audio is negative.",
                expected=f"from 0 to {length:.3f} s, the length of the file",
                found=f"from {begins:.3f} to {ends:.3f} s",
                where=row.where,
                fix="correct audio_onset and duration, or fetch the whole audio again",
            )
    pieces = _continuous(rows)
    _require_same_speed(rows, pieces, audio)
    starts = [piece[0].onset for piece in pieces[1:]] + [duration]
    return [
        _anchored_play(piece, audio, limit) for piece, limit in zip(pieces, starts, strict=True)
    ]


def _continuous(rows: Sequence[EventRow]) -> list[list[EventRow]]:
    """Cut rows into pieces within which audio and recording advance alike."""
    pieces = [[rows[0]]]
    for before, row in pairwise(rows):
        elapsed = row.onset - before.onset
        heard = (row.audio_onset or 0.0) - (before.audio_onset or 0.0)
        if abs(heard - elapsed) <= _JITTER + _MAX_DRIFT * elapsed:
            pieces[-1].append(row)
        else:
            pieces.append([row])
    return pieces


def _anchors(rows: Sequence[EventRow]) -> tuple[tuple[float, float], ...]:
    return tuple((row.onset, row.audio_onset or 0.0) for row in rows)


def _require_same_speed(
    rows: Sequence[EventRow], pieces: Sequence[Sequence[EventRow]], audio: AudioSource
) -> None:
    """Raise if rows without durations lie on one line that is not at the recording's speed."""
    if len(pieces) < 3 or any(row.duration for row in rows):
        return
    recording, heard = np.array(_anchors(rows)).T
    slope, offset = np.polyfit(recording, heard, 1)
    if slope > 0 and np.abs(heard - slope * recording - offset).max() < _JITTER:
        raise DataError(
            f"The clock of {audio.name} does not run at the recording's speed.",
            expected="1 s of audio per second of recording, to within 0.1 %",
            found=f"{slope:.5f} s per second over {len(rows)} rows",
            where=rows[0].where,
            fix="check the sampling rates of audio and recording and the units of both onsets",
        )


def _anchored_play(rows: Sequence[EventRow], audio: AudioSource, limit: float) -> _Play:
    anchors = _anchors(rows)
    clock, residual_ms = fit_clock(anchors)
    errors = [abs(clock.to_audio(onset) - heard) for onset, heard in anchors]
    if max(errors) > _SLACK:
        worst = rows[int(np.argmax(errors))]
        raise DataError(
            f"The rows of {audio.name} do not lie on one clock.",
            expected=f"anchors within {_SLACK:g} s of a straight line",
            found=f"{max(errors):.3f} s off",
            where=worst.where,
        )
    ends_at = clock.to_recording(audio.duration or 0.0)
    last = max(rows, key=lambda row: row.end)
    stop = min(ends_at, limit) if rows[-1].duration is None else min(ends_at, last.end)
    reading = f"from {anchors[0][1]:.3f} s in the file, by {len(rows)} rows with audio_onset"
    return _Play(rows[0].onset, stop, clock, anchors, reading, residual_ms)
