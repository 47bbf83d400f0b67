"""iEEG and fMRI of people who follow the same features of the same speech model, in BIDS."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from bids_speechdecode.simulate import pair_files, sidecars, truth
from bids_speechdecode.simulate.bold import (
    Scanned,
    draw_scanned,
    expected_bold,
    make_run,
    write_image,
)
from bids_speechdecode.simulate.dataset import fill_folder
from bids_speechdecode.simulate.electrodes import Follower, draw_follower, make_drives
from bids_speechdecode.simulate.participant import write_recording
from bids_speechdecode.simulate.playback import record_chapter
from bids_speechdecode.simulate.sentences import SentenceWriter
from bids_speechdecode.simulate.settings import PairSettings, SimulationSettings
from bids_speechdecode.simulate.speech import Synthesiser
from bids_speechdecode.simulate.speech_features import SpeechFeatures, untuned_share
from bids_speechdecode.simulate.tiny_model import draw_model, plant_change
from bids_speechdecode.simulate.writers import EXTENSIONS
from bids_speechdecode.timeline import ClockMap

PODCAST = "simulated_podcast.flac"
PODCAST_RATE = 20.0  # hertz, of the latent features that electrodes follow
# Of those that voxels follow: the hemodynamic response lets nothing faster through.
STORY_RATE = 4.0
_TAIL = 10.0  # seconds that the scanner runs on after a story

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Sounds:
    """The latent features of everything that is heard, standardised as those of the podcast."""

    podcast: np.ndarray
    stories: tuple[np.ndarray, ...]


def write_pair(root: Path, settings: PairSettings) -> Path:
    """Write the dataset and return its folder; raises as `fill_folder`."""
    return fill_folder(root, lambda folder: _fill(folder, settings))


def story_name(index: int) -> str:
    """Return the file name of a story."""
    return f"simulated_story-{index + 1:02d}.flac"


def _fill(root: Path, settings: PairSettings) -> None:
    """Write everything below an existing, empty folder."""
    seeds = np.random.SeedSequence(settings.seed).spawn(5)
    words, model, change = (np.random.default_rng(seed) for seed in seeds[:3])
    # Participants have random states of their own: one more does not change the others' brains.
    _write_sounds(root, settings, words)
    sounds = _listen(root, settings, model, change)
    followers = [
        _record(root, settings, sounds, f"sim{k + 1:02d}", np.random.default_rng(seed))
        for k, seed in enumerate(seeds[3].spawn(settings.participants))
    ]
    scanned = [
        _scan(root, settings, sounds, f"simbold{k + 1:02d}", np.random.default_rng(seed))
        for k, seed in enumerate(seeds[4].spawn(settings.fmri_participants))
    ]
    pair_files.write_top_level(root, followers, scanned)


def _write_sounds(root: Path, settings: PairSettings, rng: np.random.Generator) -> None:
    """Write the podcast and the stories, and who said what when."""
    (root / "stimuli").mkdir()
    lengths = {PODCAST: settings.podcast_minutes}
    lengths |= {story_name(k): settings.story_minutes for k in range(settings.stories)}
    writer = SentenceWriter(rng)
    with Synthesiser() as synthesiser:
        for name, minutes in lengths.items():
            path = root / "stimuli" / name
            spoken = record_chapter(path, round(minutes * 60), synthesiser, writer, rng)
            truth.write_sound(root, name, spoken)
            log.info("wrote %s", name)


def _listen(
    root: Path, settings: PairSettings, model_rng: np.random.Generator, rng: np.random.Generator
) -> _Sounds:
    """Draw student and teacher, write both, and return what the teacher makes of the sounds."""
    student = draw_model(model_rng)
    size = settings.change if settings.latent == "planted" else 0.0
    teacher = plant_change(student, size, rng)
    pair_files.write_models(root, student, teacher, settings)
    speech = SpeechFeatures(teacher)
    podcast = _features(root, speech, PODCAST, PODCAST_RATE)
    share = untuned_share(podcast, _features(root, SpeechFeatures(student), PODCAST, PODCAST_RATE))
    pair_files.write_settings(root, settings, share)
    log.info("the untuned features explain %.2f of the latent variance", share)
    mean, spread = podcast.mean(axis=0), podcast.std(axis=0)
    stories = []
    for k in range(settings.stories):
        features = _features(root, speech, story_name(k), STORY_RATE)
        stories.append((features - mean) / spread)
        pair_files.write_latent(root, story_name(k), stories[-1])
        log.info("listened to %s", story_name(k))
    sounds = _Sounds((podcast - mean) / spread, tuple(stories))
    pair_files.write_latent(root, PODCAST, sounds.podcast)
    return sounds


def _features(root: Path, speech: SpeechFeatures, name: str, rate: float) -> np.ndarray:
    """Return what a model makes of a sound file, shape (n_times, n_features)."""
    return speech.hear(soundfile.read(root / "stimuli" / name, dtype="float32")[0], rate)


def _record(
    root: Path, settings: PairSettings, sounds: _Sounds, label: str, rng: np.random.Generator
) -> Follower:
    """Write the iEEG of one participant who hears the podcast."""
    follower = draw_follower(label, settings, sounds.podcast.shape[1], rng)
    participant = follower.participant
    slope = 1 + participant.playback_ppm * 1e-6
    clock = ClockMap(slope, -slope * round(rng.uniform(2, 5), 3))
    length = soundfile.info(root / "stimuli" / PODCAST).duration
    duration = float(math.ceil(clock.to_recording(length) + 2))
    folder, stem = root / f"sub-{label}" / "ieeg", f"sub-{label}_task-podcast"
    folder.mkdir(parents=True)
    path = folder / f"{stem}_ieeg{EXTENSIONS[settings.format]}"
    common = _recording_settings(settings)
    write_recording(
        path,
        participant,
        common,
        drives=make_drives(follower, sounds.podcast, PODCAST_RATE),
        clock=clock,
        duration=duration,
        start_day=0.5,
        rng=rng,
    )
    sidecars.write_ieeg_json(folder / f"{stem}_ieeg.json", "podcast", duration, participant, common)
    sidecars.write_channels(folder / f"{stem}_channels.tsv", participant, common)
    events = sidecars.list_anchors(PODCAST, "true", clock, length)
    sidecars.write_events(folder / f"{stem}_events.tsv", events)
    sidecars.write_electrodes(folder, f"sub-{label}", participant)
    pair_files.write_follower(root, follower)
    row = {"recording": stem, "stimulus": PODCAST, "slope": clock.slope, "offset": clock.offset}
    truth.write_recordings(root, label, [row])
    log.info("wrote %s", path.name)
    return follower


def _recording_settings(settings: PairSettings) -> SimulationSettings:
    """Return what the writers of recordings need to know, in their own words."""
    return SimulationSettings(
        sampling_rate=settings.sampling_rate,
        line_frequency=settings.line_frequency,
        format=settings.format,
    )


def _scan(
    root: Path, settings: PairSettings, sounds: _Sounds, label: str, rng: np.random.Generator
) -> Scanned:
    """Write the fMRI of one participant who hears the stories, one run each."""
    n_features = sounds.podcast.shape[1]
    best = settings.best_voxel_correlation
    scanned = draw_scanned(label, settings.voxels, n_features, best, rng)
    spacing, length = settings.repetition_time, round(settings.story_minutes * 60)
    onsets = np.round(rng.uniform(6, 10, settings.stories), 3)
    runs = [
        expected_bold(
            latent,
            STORY_RATE,
            onset=onset,
            n_volumes=math.ceil((onset + length + _TAIL) / spacing),
            repetition_time=spacing,
        )
        for latent, onset in zip(sounds.stories, onsets, strict=True)
    ]
    spread = (np.concatenate(runs) @ scanned.mixture).std(axis=0)
    for k, (expected, onset) in enumerate(zip(runs, onsets, strict=True)):
        stem = f"sub-{label}_task-story_run-{k + 1:02d}"
        path = root / f"sub-{label}" / "func" / f"{stem}_bold.nii.gz"
        write_image(path, make_run(scanned, expected, spread, rng), spacing)
        pair_files.write_bold_sidecars(path, spacing, story_name(k), float(onset), length)
        log.info("wrote %s", path.name)
    pair_files.write_scanned(root, scanned)
    return scanned
