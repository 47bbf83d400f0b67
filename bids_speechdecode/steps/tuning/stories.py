"""Functional runs -> stories: who heard what, which stories are held out, BOLD that is clean."""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bids_speechdecode.bids.bold import BoldRun
from bids_speechdecode.bids.bold_images import ImageFiles, Voxels, read_confounds, read_images
from bids_speechdecode.bids.hearings import Hearing, group_by_story, list_hearings
from bids_speechdecode.bids.sidecars import fingerprint
from bids_speechdecode.config import FmriConfig
from bids_speechdecode.encoding.bold import clean_bold
from bids_speechdecode.encoding.stories import Keep, in_memory
from bids_speechdecode.errors import DataError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlannedStory:
    """One sound, and the volumes of all who heard it at the same times.

    Attributes
    ----------
    name : str
        File name of the audio, with its folder where another has the same; numbered from the
        second on where one audio was heard by some at other times of the TR.
    hearings : tuple of Hearing
        A participant has several where the sound was heard repeatedly.
    """

    name: str
    hearings: tuple[Hearing, ...]

    @property
    def audio(self) -> Path:
        """The sound file."""
        path = self.hearings[0].source.path
        assert path is not None, "functional runs have no audio channels"
        return path

    @property
    def times(self) -> np.ndarray:
        """Seconds of the audio at which the volumes were taken, shape (n_volumes,)."""
        return self.hearings[0].times

    @property
    def participants(self) -> tuple[str, ...]:
        """Who heard it."""
        return tuple(sorted({hearing.run.participant for hearing in self.hearings}))

    def identity(self) -> list[object]:
        """Return what of it decides a result, apart from the content of the images."""
        return [
            self.name,
            fingerprint(self.audio),
            [(h.run.label, h.first, h.times.round(4).tolist()) for h in self.hearings],
        ]


@dataclass(frozen=True)
class StorySplit:
    """Which stories are trained on, which choose the epoch, and which are only tested on."""

    train: tuple[PlannedStory, ...]
    validation: tuple[PlannedStory, ...]
    test: tuple[PlannedStory, ...]

    @property
    def all(self) -> tuple[PlannedStory, ...]:
        """All stories."""
        return (*self.train, *self.validation, *self.test)


def plan_stories(
    runs: Iterable[BoldRun], stimuli_dir: Path, settings: FmriConfig
) -> list[PlannedStory]:
    """Return the stories of functional runs, by name.

    Raises
    ------
    DataError, MissingInputError
        As `list_hearings`; and if a story has no more volumes than the longest delay.
    """
    hearings = [hearing for run in runs for hearing in list_hearings(run, stimuli_dir)]
    for note in (note for hearing in hearings for note in hearing.notes):
        log.warning("%s", note)
    audios: dict[Path | None, list[tuple[Hearing, ...]]] = {}
    for group in group_by_story(hearings):
        audios.setdefault(group[0].source.path, []).append(group)
    names = Counter(path.name for path in audios if path)
    stories = []
    for path, groups in audios.items():
        assert path is not None, "functional runs have no audio channels"
        inside = path.is_relative_to(stimuli_dir) and names[path.name] > 1
        name = str(path.relative_to(stimuli_dir)) if inside else path.name
        for number, group in enumerate(groups, start=1):
            stories.append(PlannedStory(name + (f" ({number})" if number > 1 else ""), group))
    if len({story.name for story in stories}) < len(stories):
        raise DataError(
            "Two stories have the same name.",
            expected="audio files inside stimuli/, or with names of their own",
            found=", ".join(sorted(name for name, n in names.items() if n > 1)),
            where=stimuli_dir,
            fix="move them into stimuli/, or rename one",
        )
    for story in stories:
        _require_volumes(story, settings)
    return sorted(stories, key=lambda story: story.name)


def _require_volumes(story: PlannedStory, settings: FmriConfig) -> None:
    if len(story.times) > max(settings.delays):
        return
    raise DataError(
        "A story is too short for the delays of the BOLD response.",
        expected=f"more than {max(settings.delays)} volumes",
        found=f"{len(story.times)} volumes while {story.name} was heard",
        where=story.hearings[0].run.images[0],
        fix="choose shorter delays in [fmri], or leave the run out",
    )


def split_stories(stories: Sequence[PlannedStory], settings: FmriConfig, seed: int) -> StorySplit:
    """Return stories for training, validation and test, drawn before anything is fitted.

    Audio files are drawn, not runs, so that nothing of a held-out sound is trained on. Where
    enough of them were heard by all participants, the held-out ones are drawn from those, so
    that everybody has a held-out score.

    Parameters
    ----------
    stories : sequence of PlannedStory
    settings : FmriConfig
    seed : int
        The same stories and the same seed give the same split.

    Raises
    ------
    DataError
        If no story is left to train on, or somebody has none there.
    """
    held_out = settings.n_validation + settings.n_test
    names = sorted({str(story.audio) for story in stories})
    if len(names) <= held_out:
        raise _too_few(stories, names, settings)
    everybody = {p for story in stories for p in story.participants}
    common = [n for n in names if _listeners(stories, n) == everybody]
    candidates = common if len(common) > held_out else names
    drawn = np.random.default_rng([seed, 7]).permutation(candidates)[:held_out].tolist()
    test, validation = drawn[: settings.n_test], drawn[settings.n_test :]
    split = StorySplit(
        tuple(s for s in stories if str(s.audio) not in drawn),
        tuple(s for s in stories if str(s.audio) in validation),
        tuple(s for s in stories if str(s.audio) in test),
    )
    trained = {p for story in split.train for p in story.participants}
    if trained != everybody:
        raise _too_few(stories, names, settings, sorted(everybody - trained))
    return split


def _listeners(stories: Iterable[PlannedStory], audio: str) -> set[str]:
    return {p for story in stories if str(story.audio) == audio for p in story.participants}


def _too_few(
    stories: Sequence[PlannedStory],
    names: Sequence[str],
    settings: FmriConfig,
    without: Sequence[str] = (),
) -> DataError:
    needed = settings.n_validation + settings.n_test + 1
    of_whom = f" (none to train on for {', '.join(without)})" if without else ""
    return DataError(
        "There are too few stories to train, to choose the epoch and to test.",
        expected=f"at least {needed}: {settings.n_validation} for validation, "
        f"{settings.n_test} for the test, the others to train on",
        found=f"{len(names)}{of_whom}: " + ", ".join(story.name for story in stories),
        where=stories[0].hearings[0].run.events.root if stories else "",
        fix="add stories, or lower n_validation and n_test in [fmri]; one long story can be cut "
        "into files that are named one after the other in events.tsv",
    )


# -------------------------------------------------------------------------------- BOLD


@dataclass(frozen=True)
class ParticipantBold:
    """A participant's clean BOLD of every story.

    Attributes
    ----------
    bold : dict
        Name of a story to its BOLD, float32, shape (n_volumes, n_voxels), z-scored.
    confounds : tuple of str
        Columns that were removed.
    """

    participant: str
    voxels: Voxels
    bold: dict[str, np.ndarray]
    confounds: tuple[str, ...]


def keep_on_disk(array: np.ndarray, folder: Path) -> np.ndarray:
    """Return the array as a read-only map of a file in `folder`.

    The file has no name, so that nothing of it is left however the process ends; it goes with the
    array.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        array.tofile(file)
        file.flush()
        return np.asarray(np.memmap(file, array.dtype, "r", shape=array.shape))


def load_bold(
    participant: str,
    stories: Sequence[PlannedStory],
    settings: FmriConfig,
    keep: Keep = in_memory,
    on_progress: Callable[[float], None] | None = None,
) -> ParticipantBold:
    """Read and clean what a participant's BOLD was during each story, one run after the other.

    Each run is cut to the story, its confounds and drifts are removed, and it is z-scored;
    runs in which one participant heard the same are then averaged. Voxels that are constant in
    any run are left out of all.

    Parameters
    ----------
    keep : callable
        Puts each array where it is to be kept and returns it from there; see `keep_on_disk`.
    on_progress : callable, optional
        Called with 1 after each run.

    Raises
    ------
    DataError
        As `read_images`, `read_confounds` and `clean_bold`; or if no voxel varies.
    """
    heard = [(s.name, h) for s in stories for h in s.hearings if h.run.participant == participant]
    if settings.confounds and any(h.run.confounds is None for _, h in heard):
        log.warning("sub-%s: runs without confounds; head motion is not removed", participant)
    files = [ImageFiles(h.run.images, h.run.mask, h.first, len(h.times)) for _, h in heard]
    first = heard[0][1].run
    voxels, arrays = read_images(files, first.kind, first.space)
    constant = np.zeros(len(voxels.index), dtype=bool)
    clean: dict[str, list[np.ndarray]] = {}
    names: tuple[str, ...] = ()
    for (name, hearing), array in zip(heard, arrays, strict=True):
        z, flat, columns = _clean(hearing, array, settings)
        clean.setdefault(name, []).append(keep(z))
        constant |= flat
        names = tuple(dict.fromkeys([*names, *columns]))
        if on_progress is not None:
            on_progress(1.0)
    if constant.all():
        raise DataError(
            "No voxel varies over time in all runs of a participant.",
            expected="BOLD",
            found=f"{len(constant)} voxels, each constant or not finite in some run",
            where=first.images[0],
            fix="look at the images; leave out runs that are empty",
        )
    bold = {name: _average(repeats, ~constant, keep) for name, repeats in clean.items()}
    return ParticipantBold(participant, voxels.keep(~constant), bold, names)


def _clean(
    hearing: Hearing, bold: np.ndarray, settings: FmriConfig
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return z-scored BOLD, which voxels are constant, and the names of the confounds."""
    run = hearing.run
    values, columns = read_confounds(run.confounds, settings.confounds, run.n_volumes)
    broken = int((~np.isfinite(bold)).any(axis=0).sum())
    if broken:
        log.warning(
            "%s: %d voxels have NaN or infinite values, and are left out", run.label, broken
        )
    part = values[hearing.first : hearing.first + len(hearing.times)]
    return *clean_bold(bold, part if columns else None, run.tr), columns


def _average(repeats: Sequence[np.ndarray], good: np.ndarray, keep: Keep) -> np.ndarray:
    """Return the mean of repeats in good voxels, z-scored again; one whole run as it is."""
    if len(repeats) == 1:
        return repeats[0] if good.all() else keep(repeats[0][:, good])
    mean = np.mean([array[:, good] for array in repeats], axis=0)
    spread = mean.std(axis=0)
    return keep((mean / np.where(spread > 0, spread, 1)).astype(np.float32))
