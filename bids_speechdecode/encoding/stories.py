"""Stories that people heard in the scanner: sound and BOLD on one clock, in blocks to train on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import sparse

from bids_speechdecode.config import Control, FmriConfig
from bids_speechdecode.encoding.bold import downsample_bold, lanczos_weights, randomise_phases
from bids_speechdecode.errors import DataError

AUDIO_RATE = 16000  # hertz, of every story's sound
FEWEST_TRS = 3  # a story with fewer to compare has no correlation over time


@dataclass(frozen=True)
class Story:
    """One story, and the BOLD of everybody who heard it.

    Attributes
    ----------
    name : str
    wave : array of float32, shape (n_samples,), 16 kHz
    tr_times : array, shape (n_tr,), seconds
        Of each volume on the sound's clock, evenly spaced. Volumes before and after the sound
        may be there and are not used.
    bold : mapping from participant to array, shape (n_tr, v_p), z over time
        The voxels of a participant are the same in all stories.
    tr : float, seconds
        What delays count in; 0 stands for the spacing of `tr_times`.
    """

    name: str
    wave: np.ndarray
    tr_times: np.ndarray
    bold: Mapping[str, np.ndarray]
    tr: float = 0.0

    @property
    def spacing(self) -> float:
        """Seconds between two volumes."""
        return float(np.median(np.diff(self.tr_times)))

    @property
    def delay_unit(self) -> float:
        """Seconds of one delay."""
        return self.tr or self.spacing


@dataclass(frozen=True)
class PreparedStory:
    """A story with everything that does not depend on the speech model.

    Attributes
    ----------
    name : str
    wave : array of float32, shape (n_samples,)
    ends : array of int, shape (n_windows,)
        Sample after the last one of each window of sound.
    weights : sparse array, shape (n_rows * n_delays, n_windows)
        ``weights @ features``, as (n_rows, n_delays * d), are the delayed features of the volumes.
    bold : dict from participant to array of float32, shape (n_rows, v_p)
        Of the volumes whose delayed features all lie within the sound.
    blocks : tuple of int arrays
        Rows of contiguous volumes, for one step of training each.
    """

    name: str
    wave: np.ndarray = field(repr=False)
    ends: np.ndarray
    weights: sparse.csr_array
    bold: dict[str, np.ndarray]
    blocks: tuple[np.ndarray, ...]

    @property
    def n_rows(self) -> int:
        """Number of volumes."""
        return sum(len(block) for block in self.blocks)


def prepare_story(story: Story, settings: FmriConfig, context: float) -> PreparedStory:
    """Return where a story's windows end and how their features become those of its volumes.

    A window of `context` seconds ends every ``settings.stride`` seconds, the first one when that
    much has been heard; its features count for the time at which it ends. The features of a
    volume at time t are those at ``t - k TR`` for each delay k, by Lanczos with a cutoff of
    ``1 / TR`` [P].

    Raises
    ------
    DataError
        If the sound is silent or shorter than a window, times are uneven, BOLD does not fit them
        or is not finite, or sound and volumes hardly overlap.
    """
    _check_story(story)
    length, step = round(context * AUDIO_RATE), round(settings.stride * AUDIO_RATE)
    ends = np.arange(length, len(story.wave) + 1, step)
    if len(ends) < 2:
        raise DataError(
            f"The sound of story {story.name!r} is too short.",
            expected=f"more than {context + settings.stride:g} s",
            found=f"{len(story.wave) / AUDIO_RATE:g} s",
        )
    if len(story.wave) and np.ptp(story.wave) == 0:
        raise DataError(
            f"Story {story.name!r} is silent.",
            expected="sound",
            found=f"{len(story.wave)} samples, all {story.wave[0]:g}",
            fix="put the right audio file in its place, or leave out its runs",
        )
    times, unit = ends / AUDIO_RATE, story.delay_unit
    heard = story.tr_times[:, None] - unit * np.asarray(settings.delays)  # (n_tr, n_delays)
    used = np.flatnonzero(((heard >= times[0]) & (heard <= times[-1])).all(axis=1))
    if len(used) < FEWEST_TRS:
        raise DataError(
            f"BOLD and sound of story {story.name!r} hardly overlap.",
            expected=f"at least {FEWEST_TRS} volumes whose delayed sound is known",
            found=f"{len(used)} of {len(story.tr_times)}",
            fix="check the onset of the sound in events.tsv, or take fewer delays",
        )
    # A block is as many seconds of BOLD, however often it is sampled [P].
    n_blocks = max(1, round(len(used) * story.spacing / (settings.block * unit)))
    return PreparedStory(
        story.name,
        story.wave,
        ends,
        lanczos_weights(times, heard[used].ravel(), cutoff=1 / unit),
        # A stretch, so that BOLD that lies on disk stays there.
        {who: np.asarray(b[used[0] : used[-1] + 1], np.float32) for who, b in story.bold.items()},
        tuple(np.array_split(np.arange(len(used)), n_blocks)),
    )


def _check_story(story: Story) -> None:
    steps = np.diff(story.tr_times)
    if len(steps) < 1 or np.abs(steps - story.spacing).max() > 0.01 * story.spacing:
        raise DataError(
            f"The volumes of story {story.name!r} are not evenly spaced.",
            expected="one repetition time",
            found=f"{steps.min():g} to {steps.max():g} s" if len(steps) else "one volume",
        )
    if not story.bold:
        raise DataError(f"Nobody heard story {story.name!r}.", expected="BOLD of one participant")
    for who, bold in story.bold.items():
        if bold.ndim != 2 or len(bold) != len(story.tr_times) or bold.shape[1] < 2:
            raise DataError(
                f"BOLD of participant {who} does not fit story {story.name!r}.",
                expected=f"{len(story.tr_times)} volumes of at least 2 voxels",
                found=f"shape {bold.shape}",
            )
        if not np.isfinite(bold).all():
            raise DataError(
                f"BOLD of participant {who} in story {story.name!r} has NaN or infinite values.",
                expected="z-scored voxels, constant ones left out",
                found=f"{int((~np.isfinite(bold)).any(axis=0).sum())} such voxels",
            )


Keep = Callable[[np.ndarray], np.ndarray]


def in_memory(array: np.ndarray) -> np.ndarray:
    """Return the array: the keeper of who has memory enough."""
    return array


def with_control(
    stories: Sequence[Story],
    control: Control,
    rng: np.random.Generator,
    keep: Keep = in_memory,
) -> list[Story]:
    """Return stories whose BOLD was changed for comparison.

    Parameters
    ----------
    stories : sequence of Story
    control : {"downsampled", "phase", "stories"}
        "downsampled": low-passed onto every second volume and z-scored; delays stay what they
        were in seconds. "phase": random timing, the same for all voxels of a participant and
        story, with spectra and correlations over space kept. "stories": each sound with the BOLD
        of another story, cut to the shorter one.
    rng : numpy.random.Generator
    keep : callable
        Puts each changed array where it is to be kept and returns it from there.

    Raises
    ------
    DataError
        If one story alone shall be shuffled, or stories of different repetition times.
    """
    if control == "downsampled":
        return [_downsampled(story, keep) for story in stories]
    if control == "phase":
        return [_scrambled(story, rng, keep) for story in stories]
    return _shuffled(stories, rng)


def _downsampled(story: Story, keep: Keep) -> Story:
    bold = {}
    for who, values in story.bold.items():
        low, tr_times = downsample_bold(values, story.tr_times)
        spread = low.std(axis=0)
        bold[who] = keep((low - low.mean(axis=0)) / np.where(spread > 0, spread, 1))
    return dataclasses.replace(story, tr_times=tr_times, bold=bold, tr=story.delay_unit)


def _scrambled(story: Story, rng: np.random.Generator, keep: Keep) -> Story:
    bold = {who: keep(randomise_phases(values, rng)) for who, values in story.bold.items()}
    return dataclasses.replace(story, bold=bold)


def _shuffled(stories: Sequence[Story], rng: np.random.Generator) -> list[Story]:
    """Pair each sound with another story's BOLD; one random cycle through all stories."""
    spacings = [story.spacing for story in stories]
    if len(stories) < 2 or max(spacings) > 1.01 * min(spacings):
        raise DataError(
            "These stories cannot be shuffled.",
            expected="at least two stories of one repetition time",
            found=f"{len(stories)} with {', '.join(f'{s:g} s' for s in sorted(set(spacings)))}",
        )
    order = rng.permutation(len(stories))
    donors = dict(zip(order, np.roll(order, -1), strict=True))
    return [_with_bold_of(story, stories[donors[i]]) for i, story in enumerate(stories)]


def _with_bold_of(story: Story, donor: Story) -> Story:
    n_tr = min(len(story.tr_times), len(donor.tr_times))
    bold = {who: values[:n_tr] for who, values in donor.bold.items()}
    return dataclasses.replace(story, tr_times=story.tr_times[:n_tr], bold=bold)


def count_kept(share: float, n_stories: int) -> int:
    """Return how many of the stories a share of them is; at least one."""
    return max(1, round(share * n_stories))


def with_amount(stories: Sequence[Story], share: float, rng: np.random.Generator) -> list[Story]:
    """Return a random share of the stories, at least one, in their order.

    The same seed gives nested sets: what a small share has, a larger one has too.
    """
    n_kept = count_kept(share, len(stories))
    return [stories[i] for i in sorted(rng.permutation(len(stories))[:n_kept])]
