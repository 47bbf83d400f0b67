"""The simulated dataset on disk: sounds, participants, recordings, in BIDS."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import soundfile

from bids_speechdecode.errors import CannotWriteError
from bids_speechdecode.simulate import sidecars, truth
from bids_speechdecode.simulate.brain import DriveExtractor
from bids_speechdecode.simulate.participant import Participant, draw_participant, write_recording
from bids_speechdecode.simulate.playback import (
    Heard,
    Spoken,
    record_chapter,
    record_playback,
    record_room,
)
from bids_speechdecode.simulate.sentences import SentenceWriter
from bids_speechdecode.simulate.settings import SimulationSettings
from bids_speechdecode.simulate.speech import Synthesiser
from bids_speechdecode.simulate.words import draw_meaning, write_words
from bids_speechdecode.simulate.writers import EXTENSIONS
from bids_speechdecode.timeline import ClockMap

_STORY_SECONDS = 60.0
_FIRST_DAY = "1924-03-01"  # dates before 1925 say, in BIDS, that they are not real


@dataclass(frozen=True)
class _Plan:
    """One recording to be made."""

    task: str
    day: int
    run: int
    hour: float
    chapter: int | None = None


def write_dataset(root: Path, settings: SimulationSettings) -> Path:
    """Write the dataset and return its folder; raises as `fill_folder`."""
    return fill_folder(root, lambda folder: _fill(folder, settings))


def fill_folder(root: Path, fill: Callable[[Path], None]) -> Path:
    """Have a dataset written and return its folder, which appears only when it is complete.

    Raises
    ------
    CannotWriteError
        The folder holds something already or cannot be written.
    """
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise CannotWriteError(
            "the simulated dataset needs a folder of its own",
            expected="a folder that does not exist or is empty",
            found="something in it",
            where=root,
            fix="name another folder, or remove this one",
        )
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        unfinished = root.with_name(f".{root.name}.{os.getpid()}")
        unfinished.mkdir()
    except OSError as error:
        raise CannotWriteError(f"cannot write: {error.strerror}", where=root) from error
    try:
        fill(unfinished)
        unfinished.replace(root)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return root


def _fill(root: Path, settings: SimulationSettings) -> None:
    """Write everything below an existing, empty folder."""
    (root / "stimuli").mkdir()
    # Participants have random states of their own: one more does not change the others' brains.
    sound_seed, *seeds = np.random.SeedSequence(settings.seed).spawn(settings.participants + 1)
    sound_rng = np.random.default_rng(sound_seed)
    with Synthesiser() as synthesiser:
        writer = SentenceWriter(sound_rng)
        story = _ordinary_speech(synthesiser, writer, sound_rng)
        told = []
        for chapter in range(settings.chapters):
            path = root / "stimuli" / chapter_name(chapter)
            duration = round(settings.audiobook_minutes * 60 / settings.chapters)
            spoken = record_chapter(path, duration, synthesiser, writer, sound_rng)
            truth.write_sound(root, path.name, spoken)
            write_words(path, spoken)
            told.append(spoken)
        participants = []
        for number, seed in enumerate(seeds, start=1):
            rng = np.random.default_rng(seed)
            participant = draw_participant(f"sim{number:02d}", settings, story, rng)
            _Recorder(root, settings, participant, synthesiser, writer, rng, told).record_all()
            participants.append(participant)
    sidecars.write_top_level(root, participants)
    truth.write_settings(root, settings)


def chapter_name(index: int) -> str:
    """Return the file name of a chapter of the audiobook."""
    return f"simulated_audiobook_chapter-{index + 1:02d}.flac"


def _ordinary_speech(
    synthesiser: Synthesiser, writer: SentenceWriter, rng: np.random.Generator
) -> np.ndarray:
    """Return the drives of a minute of the narrator's speech, which no participant hears."""
    ear = DriveExtractor()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "story.flac"
        record_chapter(path, _STORY_SECONDS, synthesiser, writer, rng)
        ear.push(soundfile.read(path, dtype="float32")[0])
    return ear.finish()


def list_plans(settings: SimulationSettings) -> list[_Plan]:
    """Return the recordings of a participant in the order of time."""
    plans = [
        _Plan("ambient", day, run, hour=8 + 12 * run / max(1, settings.ambient_runs))
        for day in range(settings.days)
        for run in range(settings.ambient_runs)
    ]
    plans += [
        _Plan("ambient", day, settings.ambient_runs + run, hour=5 * run / settings.night_runs)
        for day in range(settings.days)
        for run in range(settings.night_runs)
    ]
    for chapter in range(settings.chapters):
        day = chapter % settings.days
        plans.append(_Plan("audiobook", day, chapter // settings.days, 20 + chapter / 99, chapter))
    return sorted(plans, key=lambda plan: (plan.day, plan.hour))


class _Recorder:
    """Makes the recordings of one participant."""

    def __init__(
        self,
        root: Path,
        settings: SimulationSettings,
        participant: Participant,
        synthesiser: Synthesiser,
        writer: SentenceWriter,
        rng: np.random.Generator,
        told: Sequence[Sequence[Spoken]],
    ) -> None:
        self._root, self._settings, self._participant = root, settings, participant
        self._synthesiser, self._writer, self._rng = synthesiser, writer, rng
        self._told = told  # what is said in each chapter
        self._meaning = (
            draw_meaning(participant, settings.meaning, settings.seed) if settings.meaning else None
        )
        self._clocks: list[dict[str, Any]] = []
        self._scans: dict[int, list[tuple[str, str]]] = {}

    def record_all(self) -> None:
        """Write all recordings, their sidecars and the truth about them."""
        for plan in list_plans(self._settings):
            self._record(plan)
        label = self._participant.label
        for day, rows in self._scans.items():
            session = f"ses-day{day + 1:02d}"
            folder = self._root / f"sub-{label}" / session
            stem = f"sub-{label}_{session}"
            sidecars.write_electrodes(folder / "ieeg", stem, self._participant)
            table = pd.DataFrame(rows, columns=["filename", "acq_time"])
            sidecars.write_tsv(folder / f"{stem}_scans.tsv", table)
        truth.write_participant(self._root, self._participant)
        if self._meaning:
            truth.write_meaning(self._root, self._participant, self._meaning)
        truth.write_recordings(self._root, label, self._clocks)

    def _record(self, plan: _Plan) -> None:
        """Write one recording and everything that belongs to it."""
        label, settings = self._participant.label, self._settings
        session = f"ses-day{plan.day + 1:02d}"
        folder = self._root / f"sub-{label}" / session / "ieeg"
        folder.mkdir(parents=True, exist_ok=True)
        stem = f"sub-{label}_{session}_task-{plan.task}_run-{plan.run + 1:02d}"
        room_file = f"simulated_{stem}_room.flac"
        microphone = self._start_clock(self._participant.microphone_ppm, self._rng.uniform(1, 4))
        events: list[dict[str, Any]] = []
        if plan.chapter is None:
            heard = self._live(room_file)
        else:
            heard, events = self._play(room_file, plan.chapter, microphone)
        events += sidecars.list_anchors(room_file, "ambient", microphone, heard.duration)
        duration = float(math.ceil(microphone.to_recording(heard.duration) + 2))
        path = folder / f"{stem}_ieeg{EXTENSIONS[settings.format]}"
        write_recording(
            path,
            self._participant,
            settings,
            drives=heard.drives,
            clock=microphone,
            duration=duration,
            start_day=plan.day + plan.hour / 24,
            rng=self._rng,
            meaning=self._follow_words(heard),
        )
        sidecars.write_ieeg_json(
            folder / f"{stem}_ieeg.json", plan.task, duration, self._participant, settings
        )
        sidecars.write_channels(folder / f"{stem}_channels.tsv", self._participant, settings)
        sidecars.write_events(folder / f"{stem}_events.tsv", events)
        start = pd.Timestamp(_FIRST_DAY) + pd.Timedelta(hours=24 * plan.day + plan.hour)
        scan = (f"ieeg/{path.name}", start.round("s").isoformat())
        self._scans.setdefault(plan.day, []).append(scan)
        self._note_clock(stem, room_file, microphone)

    def _live(self, room_file: str) -> Heard:
        """Record the room's life."""
        path = self._root / "stimuli" / room_file
        seconds = round(self._settings.ambient_minutes * 60)
        heard = record_room(path, seconds, self._synthesiser, self._writer, self._rng)
        truth.write_sound(self._root, room_file, heard.spoken, heard.scenes)
        write_words(path, heard.spoken)
        return heard

    def _follow_words(self, heard: Heard) -> np.ndarray | None:
        """Return the response to what is said, if contacts follow it."""
        if self._meaning is None:
            return None
        return self._meaning.respond(heard.spoken, len(heard.drives))

    def _play(
        self, room_file: str, chapter: int, microphone: ClockMap
    ) -> tuple[Heard, list[dict[str, Any]]]:
        """Play a chapter in the room; return what was heard and the rows of the clean file."""
        clean = self._root / "stimuli" / chapter_name(chapter)
        start = round(self._rng.uniform(2, 5), 3)  # whole milliseconds are whole samples
        played = self._start_clock(self._participant.playback_ppm, microphone.to_recording(start))
        duration = soundfile.info(clean).duration
        heard = record_playback(
            self._root / "stimuli" / room_file,
            clean,
            start=start,
            speed=played.slope / microphone.slope,
            duration=start + duration + 2,
            rng=self._rng,
            told=self._told[chapter],
        )
        stem = room_file.removeprefix("simulated_").removesuffix("_room.flac")
        self._note_clock(stem, clean.name, played)
        return heard, sidecars.list_anchors(clean.name, "true", played, duration)

    @staticmethod
    def _start_clock(ppm: float, onset: float) -> ClockMap:
        """Return the clock of a device that starts at a time of the recording."""
        slope = 1 + ppm * 1e-6
        return ClockMap(slope, -slope * onset)

    def _note_clock(self, recording: str, stimulus: str, clock: ClockMap) -> None:
        """Keep the truth about a clock."""
        row = {"recording": recording, "stimulus": stimulus}
        self._clocks.append({**row, "slope": clock.slope, "offset": clock.offset})
