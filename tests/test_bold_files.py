"""Functional images are read at the right time, in the right voxels, or the error says why not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import soundfile
from nibabel.cifti2 import cifti2_axes

from bids_speechdecode.bids.bold import BoldRun, find_bold
from bids_speechdecode.bids.bold_images import ImageFiles, Voxels, read_confounds, read_images
from bids_speechdecode.bids.dataset import Dataset, open_dataset
from bids_speechdecode.bids.hearings import Hearing, group_by_story, list_hearings
from bids_speechdecode.config import FmriConfig
from bids_speechdecode.errors import (
    DataError,
    MissingInputError,
    NothingSelectedError,
    SpeechDecodeError,
    UsageError,
)

SHAPE = (4, 3, 2)
AFFINE = np.array([[-3.0, 0, 0, 10], [0, 3, 0, -20], [0, 0, 4, 5], [0, 0, 0, 1]])
TR = 2.0
N_VOLUMES = 15
AUDIO = 20.0  # seconds
ONSET = 5.0
FMRIPREP = "derivatives/fmriprep"


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_events(path: Path, onset: float = ONSET, stimulus: str = "a.wav", more: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"onset\tduration\tstim_file\n{onset}\tn/a\t{stimulus}\n{more}")


def counting(shape: tuple[int, ...] = SHAPE, n: int = N_VOLUMES) -> np.ndarray:
    """Every value is 1000 times its volume plus its voxel."""
    voxels = np.arange(np.prod(shape)).reshape(shape)
    return (1000.0 * np.arange(n) + voxels[..., None]).astype(np.float32)


def write_volume(
    path: Path, data: np.ndarray, affine: np.ndarray = AFFINE, tr: float = TR, unit: str = "sec"
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(data, affine)
    if data.ndim == 4:
        image.header.set_zooms((*image.header.get_zooms()[:3], tr))
    image.header.set_xyzt_units("mm", unit)
    nibabel.save(image, path)
    return path


def write_cifti(path: Path, n: int = N_VOLUMES, tr: float = TR) -> Path:
    """Three vertices of a left hemisphere of five, then two voxels of a thalamus."""
    cortex = cifti2_axes.BrainModelAxis.from_surface([0, 2, 4], 5, "cortex_left")
    volume = cifti2_axes.BrainModelAxis(
        ["thalamus_left"] * 2,
        voxel=np.array([[1, 1, 1], [2, 1, 0]]),
        affine=AFFINE,
        volume_shape=SHAPE,
    )
    series = cifti2_axes.SeriesAxis(0, tr, n)
    image = nibabel.Cifti2Image(counting((5,), n).T, (series, cortex + volume))
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    return path


def write_gifti(path: Path, first: int, n_vertices: int = 3, n: int = N_VOLUMES) -> Path:
    arrays = [
        nibabel.gifti.GiftiDataArray(
            (1000.0 * t + first + np.arange(n_vertices)).astype(np.float32),
            intent="NIFTI_INTENT_TIME_SERIES",
        )
        for t in range(n)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.gifti.GiftiImage(darrays=arrays), path)
    return path


def add_run(root: Path, participant: str = "01", run: str = "1", **events: object) -> Path:
    """Write a raw run that hears a.wav from 5 s on; return its name without suffix."""
    stem = root / f"sub-{participant}" / "func" / f"sub-{participant}_task-story_run-{run}"
    write_volume(Path(f"{stem}_bold.nii.gz"), counting())
    write_json(Path(f"{stem}_bold.json"), {"RepetitionTime": TR, "TaskName": "story"})
    write_events(Path(f"{stem}_events.tsv"), **events)  # type: ignore[arg-type]
    return stem


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a raw dataset of one participant with one run."""
    data = tmp_path / "data"
    write_json(data / "dataset_description.json", {"Name": "x", "BIDSVersion": "1.10.0"})
    (data / "stimuli").mkdir()
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, int(AUDIO * 8000))
    soundfile.write(data / "stimuli" / "a.wav", noise, 8000)
    add_run(data)
    return data


def add_derivatives(root: Path, space: str = "MNI152NLin2009cAsym") -> Path:
    """Write what fMRIPrep writes of the run; return the folder."""
    home = root / "derivatives" / "fmriprep"
    stem = home / "sub-01" / "func" / "sub-01_task-story_run-1"
    name = f"{stem}_space-{space}_desc-preproc_bold"
    write_volume(Path(f"{name}.nii.gz"), counting())
    write_json(Path(f"{name}.json"), {"SliceTimingCorrected": True, "StartTime": 0.75})
    mask = np.zeros(SHAPE, np.uint8)
    mask[1:3, :, 1] = 1
    write_volume(Path(f"{stem}_space-{space}_desc-brain_mask.nii.gz"), mask)
    rows = ["trans_x\ttrans_x_derivative1\trot_x\tcsf", "0.5\tn/a\t0.1\t9"]
    rows += ["0.25\t0.125\t0.1\t9"] * (N_VOLUMES - 1)
    Path(f"{stem}_desc-confounds_timeseries.tsv").write_text("\n".join(rows) + "\n")
    return home


def find(root: Path, participants: tuple[str, ...] = ("01",), **settings: object) -> list[BoldRun]:
    return list(find_bold(dataset(root), participants, FmriConfig(**settings)))  # type: ignore[arg-type]


def dataset(root: Path) -> Dataset:
    return open_dataset(root)


def hear(root: Path, run: BoldRun) -> Hearing:
    (hearing,) = list_hearings(run, root / "stimuli")
    return hearing


def read(runs: list[BoldRun]) -> tuple[list[np.ndarray], Voxels]:
    files = [ImageFiles(run.images, run.mask, 0, run.n_volumes) for run in runs]
    voxels, bold = read_images(files, runs[0].kind, runs[0].space)
    return list(bold), voxels


def rename(path: Path, name: str) -> Path:
    return path.rename(path.with_name(name))


# ------------------------------------------------------------------------------ clocks


def test_volumes_have_the_time_of_the_audio(root: Path) -> None:
    """A shift by a volume moves the response against the sound by seconds."""
    hearing = hear(root, find(root)[0])
    # Volumes stand for 1, 3, 5, ... s; the story is heard from 5 to 25 s.
    assert hearing.first == 2
    np.testing.assert_allclose(hearing.times, np.arange(0, 20, TR))
    assert hearing.source.name == "a.wav"
    assert hearing.notes == ()


def test_a_run_that_starts_within_the_story(root: Path) -> None:
    """Scanners that start late say so by audio_onset; the same rule as for recordings holds."""
    path = root / "sub-01" / "func" / "sub-01_task-story_run-1_events.tsv"
    path.write_text("onset\tduration\tstim_file\taudio_onset\n0\tn/a\ta.wav\t12.5\n")
    hearing = hear(root, find(root)[0])
    assert hearing.first == 0
    np.testing.assert_allclose(hearing.times, [13.5, 15.5, 17.5, 19.5])


def test_slice_timing_correction_moves_the_volumes(root: Path) -> None:
    """Derivatives that are interpolated to another moment of the TR say so in StartTime."""
    home = add_derivatives(root)
    run = find(root, bold_dir=str(home))[0]
    assert run.first_time == 0.75
    np.testing.assert_allclose(hear(root, run).times[:2], [1.75, 3.75])


def test_without_slice_timing_correction_start_time_is_the_first_volume(root: Path) -> None:
    """Where the first volumes were cut off, the events still count from the scanner's start."""
    home = add_derivatives(root)
    (sidecar,) = home.rglob("*_bold.json")
    write_json(sidecar, {"SliceTimingCorrected": False, "StartTime": 4.0})
    (run,) = find(root, bold_dir=str(home))
    assert run.first_time == 4.0 + TR / 2
    assert run.duration == 4.0 + N_VOLUMES * TR
    heard = hear(root, run)
    assert heard.first == 0
    np.testing.assert_allclose(heard.times[:2], 4.0 + TR / 2 - ONSET + np.array([0, TR]))


@pytest.mark.parametrize(
    "sidecar",
    [
        {"SliceTimingCorrected": True, "StartTime": 975},  # milliseconds
        {"SliceTimingCorrected": True, "StartTime": -0.5},
        {"SliceTimingCorrected": False, "StartTime": 4000},
        {"SliceTimingCorrected": True, "StartTime": "later"},
        {"StartTime": 1.0},
    ],
)
def test_a_start_time_that_cannot_be_true(root: Path, sidecar: dict[str, object]) -> None:
    """All of the sound would be heard at another time, and only r would show it."""
    home = add_derivatives(root)
    (path,) = home.rglob("*_bold.json")
    write_json(path, sidecar)
    with pytest.raises(DataError, match=r"StartTime(.|\n)*_bold.nii.gz"):
        find(root, bold_dir=str(home))


def test_the_tr_is_inherited(root: Path) -> None:
    """Most datasets keep the TR once, at the top."""
    (root / "sub-01" / "func" / "sub-01_task-story_run-1_bold.json").unlink()
    write_json(root / "task-story_bold.json", {"RepetitionTime": TR})
    assert find(root)[0].tr == TR


def test_even_volume_timing_is_a_tr(root: Path) -> None:
    """BIDS allows the times of all volumes instead of a TR."""
    path = root / "sub-01" / "func" / "sub-01_task-story_run-1_bold.json"
    write_json(path, {"VolumeTiming": [TR * k for k in range(N_VOLUMES)]})
    assert find(root)[0].tr == pytest.approx(TR)


@pytest.mark.parametrize(
    ("sidecar", "words"),
    [
        ({}, "RepetitionTime"),
        ({"RepetitionTime": "n/a"}, "'n/a'"),
        ({"RepetitionTime": 2000}, "milliseconds"),
        ({"RepetitionTime": 1.9}, "2 s in the header"),
        ({"VolumeTiming": [0, 2, 4, 9, *range(10, 21)]}, "VolumeTiming that is uneven"),
        ({"VolumeTiming": [0, 2]}, "15 evenly spaced"),
        ({"VolumeTiming": "n/a"}, "VolumeTiming"),
    ],
)
def test_no_regular_tr_is_an_error(root: Path, sidecar: dict[str, object], words: str) -> None:
    """A wrong TR stretches the response against the sound, which looks like no response."""
    write_json(root / "sub-01" / "func" / "sub-01_task-story_run-1_bold.json", sidecar)
    with pytest.raises(DataError, match=r"TR|regular") as error:
        find(root)
    assert words in str(error.value)
    assert error.value.exit_code == 65


@pytest.mark.parametrize(("step", "unit"), [(2000, "msec"), (7, "unknown"), (0, "sec")])
def test_headers_in_milliseconds_or_without_a_tr(root: Path, step: float, unit: str) -> None:
    """Headers that say nothing must not contradict, and milliseconds are not seconds."""
    path = root / "sub-01" / "func" / "sub-01_task-story_run-1_bold.nii.gz"
    write_volume(path, counting(), tr=step, unit=unit)
    assert find(root)[0].tr == TR


# --------------------------------------------------------------------- what was heard


def test_runs_without_a_story(root: Path) -> None:
    """Tasks without sound are common; the message says which column is missing."""
    path = root / "sub-01" / "func" / "sub-01_task-story_run-1_events.tsv"
    run = find(root)[0]
    path.write_text("onset\tduration\ttrial_type\n1\t2\tgo\n")
    with pytest.raises(DataError, match="which story was heard") as error:
        list_hearings(run, root / "stimuli")
    assert "no such column" in str(error.value)
    path.unlink()
    with pytest.raises(DataError, match=r"no events\.tsv"):
        list_hearings(find(root)[0], root / "stimuli")


def test_the_audio_is_absent(root: Path) -> None:
    """Stimuli are often left out of a download (66: it can be fetched)."""
    write_events(root / "sub-01" / "func" / "sub-01_task-story_run-1_events.tsv", stimulus="b.wav")
    with pytest.raises(MissingInputError, match="absent") as error:
        list_hearings(find(root)[0], root / "stimuli")
    assert error.value.exit_code == 66


def test_bold_that_ends_early_is_cut_and_said(root: Path) -> None:
    """Scanners stop before the story does; its volumes until then are as good as any."""
    path = root / "sub-01" / "func" / "sub-01_task-story_run-1_bold.nii.gz"
    write_volume(path, counting(n=9))
    hearing = hear(root, find(root)[0])
    np.testing.assert_allclose(hearing.times, np.arange(0, 13, TR))
    assert "7.0 s before a.wav" in hearing.notes[0]


def test_bold_of_less_than_half_the_story_is_an_error(root: Path) -> None:
    """It is the wrong run or the wrong story."""
    path = root / "sub-01" / "func" / "sub-01_task-story_run-1_bold.nii.gz"
    write_volume(path, counting(n=7))
    with pytest.raises(DataError, match="much shorter") as error:
        list_hearings(find(root)[0], root / "stimuli")
    assert "11.0 s" in str(error.value)


def test_events_that_end_the_story_are_no_shortage(root: Path) -> None:
    """A run that only plays a part of the file, as its events say, is complete."""
    path = root / "sub-01" / "func" / "sub-01_task-story_run-1_events.tsv"
    path.write_text("onset\tduration\tstim_file\n5\t8\ta.wav\n")
    hearing = hear(root, find(root)[0])
    assert hearing.notes == ()
    assert hearing.times[-1] == 6.0


# ---------------------------------------------------------------------------- stories


def test_participants_share_a_story_at_the_same_times(root: Path) -> None:
    """Joint tuning takes one pass over the sound for all; a shift would mix up their TRs."""
    add_run(root, "02", onset=3.0)  # one TR earlier
    add_run(root, "03", onset=5.9)  # another phase
    runs = find(root, ("01", "02", "03"))
    stories = group_by_story(hear(root, run) for run in runs)
    assert [[h.run.participant for h in story] for story in stories] == [["01", "02"], ["03"]]
    first, second = stories[0]
    np.testing.assert_allclose(first.times, second.times)
    assert (first.first, second.first) == (2, 1)


def test_common_times_are_those_that_all_have(root: Path) -> None:
    """Runs of different length leave only volumes that everybody has."""
    add_run(root, "02", onset=5.0)
    short = root / "sub-02" / "func" / "sub-02_task-story_run-1_bold.nii.gz"
    write_volume(short, counting(n=11))
    path = root / "sub-01" / "func" / "sub-01_task-story_run-1_events.tsv"
    path.write_text("onset\tduration\tstim_file\taudio_onset\n0\tn/a\ta.wav\t3\n")
    (story,) = group_by_story(hear(root, run) for run in find(root, ("01", "02")))
    for hearing in story:
        np.testing.assert_allclose(hearing.times, np.arange(4, 18, TR))
        taken = (hearing.first + np.arange(7)) * TR + 1
        offset = -3 if hearing.run.participant == "01" else 5
        np.testing.assert_allclose(taken, hearing.times + offset)


def test_other_audio_is_another_story(root: Path) -> None:
    """Two stories never share features."""
    soundfile.write(root / "stimuli" / "b.wav", np.ones(int(AUDIO * 8000)) / 9, 8000)
    add_run(root, run="2", stimulus="b.wav")
    stories = group_by_story(hear(root, run) for run in find(root))
    assert [story[0].source.name for story in stories] == ["a.wav", "b.wav"]


# ----------------------------------------------------------------------------- images


def test_volumes_inside_the_mask(root: Path) -> None:
    """Value is time and voxel, so a transposed axis or a shifted mask cannot pass."""
    run = find(root, bold_dir=str(add_derivatives(root)))[0]
    files = ImageFiles(run.images, run.mask, 4, 6)
    voxels, (bold,) = read_images([files], run.kind, run.space)
    mask = np.zeros(SHAPE, bool)
    mask[1:3, :, 1] = True
    assert bold.dtype == np.float32
    expected = counting()[mask][:, 4:10].T
    np.testing.assert_array_equal(bold, expected)
    np.testing.assert_array_equal(voxels.index, expected[0] - 4000)
    np.testing.assert_allclose(voxels.position_mm[0], [10 - 3, -20, 5 + 4])
    assert run.space == voxels.space == "MNI152NLin2009cAsym"


def test_long_images_are_read_in_blocks(root: Path) -> None:
    """Blocks must neither overlap nor leave out a volume."""
    path = root / "sub-01" / "func" / "sub-01_task-story_run-1_bold.nii.gz"
    data = counting(n=150)
    write_volume(path, data)
    mask = write_volume(root / "mask.nii.gz", np.ones(SHAPE, np.uint8))
    _, (bold,) = read_images([ImageFiles((path,), mask, 10, 135)], "volume", "func")
    np.testing.assert_array_equal(bold, data.reshape(-1, 150).T[10:145])


def test_without_a_mask_the_bright_part_is_the_brain(root: Path) -> None:
    """Raw data have no mask; air must not become voxels."""
    rng = np.random.default_rng(1)
    grid = np.stack(np.meshgrid(*[np.arange(20)] * 3, indexing="ij")) - 9.5
    ball = np.sqrt((grid**2).sum(axis=0)) < 7
    data = np.where(ball, 1000.0, 20.0)[..., None] + rng.normal(0, 5, (20, 20, 20, 8))
    path = write_volume(root / "x_bold.nii.gz", data.astype(np.float32))
    voxels, _ = read_images([ImageFiles((path,), None, 0, 8)], "volume", "func")
    found = np.zeros(ball.size, bool)
    found[voxels.index] = True
    assert not (found & ~ball.ravel()).any()
    assert found.sum() > 0.8 * ball.sum()


def test_cifti(root: Path) -> None:
    """Grayordinates of cortex and thalamus: values, names, positions of the voxels."""
    name = "sub-01_task-story_run-1_space-fsLR_den-91k_bold.dtseries.nii"
    home = root / "derivatives" / "p"
    write_cifti(home / "sub-01" / "func" / name)
    run = find(root, bold_dir="derivatives/p")[0]
    assert (run.kind, run.space, run.tr, run.mask) == ("grayordinates", "fsLR", TR, None)
    (bold,), voxels = read([run])
    np.testing.assert_array_equal(bold, counting((5,)).T)
    assert voxels.structure.tolist() == ["cortex_left"] * 3 + ["thalamus_left"] * 2
    assert np.isnan(voxels.position_mm[:3]).all()
    np.testing.assert_allclose(voxels.position_mm[3], [10 - 3, -20 + 3, 5 + 4])
    assert hear(root, run).first == 2


def test_the_tr_of_cifti_is_checked(root: Path) -> None:
    """Its header states it too."""
    name = "sub-01_task-story_run-1_space-fsLR_den-91k_bold.dtseries.nii"
    write_cifti(root / "derivatives" / "p" / "sub-01" / "func" / name, tr=1.0)
    with pytest.raises(DataError, match="differ about the repetition time"):
        find(root, bold_dir="derivatives/p")


def test_gifti_pairs(root: Path) -> None:
    """Left and right hemisphere are one run, left first, whatever the order of the name."""
    home = root / "derivatives" / "p" / "sub-01" / "func"
    write_gifti(home / "sub-01_task-story_run-1_space-fsaverage5_hemi-R_bold.func.gii", 3)
    write_gifti(home / "sub-01_task-story_run-1_space-fsaverage5_hemi-L_bold.func.gii", 0)
    run = find(root, bold_dir="derivatives/p")[0]
    (bold,), voxels = read([run])
    np.testing.assert_array_equal(bold, counting((6,)).T)
    assert voxels.structure.tolist() == ["left"] * 3 + ["right"] * 3
    assert run.n_volumes == N_VOLUMES


def test_one_hemisphere_is_half_a_run(root: Path) -> None:
    """Half of the brain without a word would look like a one-sided result."""
    home = root / "derivatives" / "p" / "sub-01" / "func"
    write_gifti(home / "sub-01_task-story_run-1_hemi-L_space-fsaverage5_bold.func.gii", 0)
    with pytest.raises(MissingInputError, match="hemi-R"):
        find(root, bold_dir="derivatives/p")


def test_hemispheres_of_different_length(root: Path) -> None:
    """One of them was cut short."""
    home = root / "derivatives" / "p" / "sub-01" / "func"
    write_gifti(home / "sub-01_task-story_run-1_hemi-L_space-fsaverage5_bold.func.gii", 0)
    write_gifti(home / "sub-01_task-story_run-1_hemi-R_space-fsaverage5_bold.func.gii", 0, n=9)
    with pytest.raises(DataError, match="no time series"):
        find(root, bold_dir="derivatives/p")


@pytest.mark.parametrize(
    ("mask", "affine", "words"),
    [
        (np.ones((4, 3, 3), np.uint8), AFFINE, "shape (4, 3, 3)"),
        (np.ones(SHAPE, np.uint8), AFFINE + np.eye(4) * [0.5, 0, 0, 0], "another affine"),
        (np.zeros(SHAPE, np.uint8), AFFINE, "no voxel inside"),
    ],
)
def test_masks_that_do_not_fit(
    root: Path, mask: np.ndarray, affine: np.ndarray, words: str
) -> None:
    """A mask of another grid would pick other voxels without a word."""
    path = write_volume(root / "mask.nii.gz", mask, affine)
    with pytest.raises(DataError) as error:
        read_images([ImageFiles(find(root)[0].images, path, 0, 5)], "volume", "func")
    assert words in str(error.value)


def test_runs_on_other_grids(root: Path) -> None:
    """Columns must mean the same voxel in every run."""
    second = add_run(root, run="2")
    write_volume(Path(f"{second}_bold.nii.gz"), counting((4, 3, 3)))
    with pytest.raises(DataError, match="two runs do not lie on the same grid"):
        read(find(root))


def test_a_truncated_image(root: Path) -> None:
    """Interrupted downloads are common."""
    path = find(root)[0].images[0]
    path.write_bytes(path.read_bytes()[:600])
    mask = write_volume(root / "mask.nii.gz", np.ones(SHAPE, np.uint8))
    with pytest.raises(DataError, match="cannot be read"):
        list(read_images([ImageFiles((path,), mask, 0, 15)], "volume", "func")[1])


def test_a_truncated_mask(root: Path) -> None:
    """Its name must be in the message, and not that of the image."""
    image = find(root)[0].images[0]
    mask = write_volume(root / "mask.nii", np.ones(SHAPE, np.uint8))
    mask.write_bytes(mask.read_bytes()[:-8])
    with pytest.raises(DataError, match=r"cannot be read(.|\n)*mask\.nii"):
        read_images([ImageFiles((image,), mask, 0, 15)], "volume", "func")


@pytest.mark.filterwarnings("error")
def test_infinite_values_are_missing(root: Path) -> None:
    """Divisions by zero leave them at the edge of the brain; one must not become a warning."""
    values = counting().astype(np.float64)
    values[1, 1, 1, 3], values[1, 2, 1, 4] = np.inf, 1e300
    path = write_volume(find(root)[0].images[0], values)
    mask = write_volume(root / "mask.nii.gz", np.ones(SHAPE, np.uint8))
    (bold,) = read_images([ImageFiles((path,), mask, 0, N_VOLUMES)], "volume", "func")[1]
    assert np.isnan(bold).sum() == 2
    assert not np.isinf(bold).any()
    list(read_images([ImageFiles((path,), None, 0, N_VOLUMES)], "volume", "func")[1])


# -------------------------------------------------------------------------- confounds


def test_confounds_by_the_start_of_their_names(root: Path) -> None:
    """Derivatives of confounds have n/a in the first row, which must not lose the run."""
    run = find(root, bold_dir=str(add_derivatives(root)))[0]
    values, names = read_confounds(run.confounds, ("trans", "csf"), N_VOLUMES)
    assert names == ["trans_x", "trans_x_derivative1", "csf"]
    np.testing.assert_array_equal(values[:2], [[0.5, 0, 9], [0.25, 0.125, 9]])
    assert values.shape == (N_VOLUMES, 3)


def test_raw_runs_have_no_confounds(root: Path) -> None:
    """Raw data have none; that is no error."""
    run = find(root)[0]
    values, names = read_confounds(run.confounds, ("trans",), N_VOLUMES)
    assert values.shape == (N_VOLUMES, 0)
    assert names == []


@pytest.mark.parametrize(
    ("prefix", "n", "words"), [("white", N_VOLUMES, "trans_x"), ("rot", 12, "15 rows")]
)
def test_confounds_that_do_not_fit(root: Path, prefix: str, n: int, words: str) -> None:
    """A name that fits nothing would clean nothing; the message lists what exists."""
    run = find(root, bold_dir=str(add_derivatives(root)))[0]
    with pytest.raises(DataError, match="confounds") as error:
        read_confounds(run.confounds, (prefix,), n)
    assert words in str(error.value)


def test_a_confound_that_is_no_number(tmp_path: Path) -> None:
    """A decimal comma is not silently a zero."""
    path = tmp_path / "c.tsv"
    path.write_text("rot_x\n0,5\n1\n")
    with pytest.raises(DataError, match="no number"):
        read_confounds(path, ("rot",), 2)


# ------------------------------------------------------------------------- which runs


def test_participants_without_functional_runs_are_left_out(root: Path) -> None:
    """Patients with iEEG and listeners with fMRI share one dataset."""
    (root / "sub-p1" / "ieeg").mkdir(parents=True)
    assert [run.label for run in find(root, ("01", "p1"))] == ["sub-01_task-story_run-1"]


def test_no_functional_runs_at_all(root: Path) -> None:
    """The message says what there is instead."""
    (root / "sub-p1" / "ses-1" / "ieeg").mkdir(parents=True)
    (root / "sub-p1" / "anat").mkdir()
    with pytest.raises(MissingInputError, match="functional images") as error:
        find(root, ("p1",))
    assert "anat, ieeg" in str(error.value)
    assert error.value.exit_code == 66


def two_tasks(root: Path) -> None:
    func = root / "sub-01" / "func"
    write_volume(func / "sub-01_task-rest_bold.nii.gz", counting())
    write_json(func / "sub-01_task-rest_bold.json", {"RepetitionTime": TR})


def two_echoes(root: Path) -> None:
    func = root / "sub-01" / "func"
    rename(func / "sub-01_task-story_run-1_bold.nii.gz", "sub-01_task-story_run-1_echo-1_bold.nii")
    write_volume(func / "sub-01_task-story_run-1_echo-2_bold.nii.gz", counting())


def three_dimensions(root: Path) -> None:
    path = root / "sub-01" / "func" / "sub-01_task-story_run-1_bold.nii.gz"
    write_volume(path, counting()[..., 0])


def pointer(root: Path) -> None:
    path = root / "sub-01" / "func" / "sub-01_task-story_run-1_bold.nii.gz"
    path.unlink()
    path.symlink_to("../../.git/annex/objects/x.nii.gz")


def no_image(root: Path) -> None:
    path = root / "sub-01" / "func" / "sub-01_task-story_run-1_bold.nii.gz"
    path.write_bytes(b"not an image" * 20)


@pytest.mark.parametrize(
    ("damage", "settings", "kind", "words"),
    [
        (two_tasks, {}, UsageError, "rest, story"),
        (two_tasks, {"task": "storys"}, NothingSelectedError, "'story'"),
        (two_echoes, {}, DataError, "echoes"),
        (three_dimensions, {}, DataError, "no time series"),
        (pointer, {}, MissingInputError, "datalad get"),
        (no_image, {}, DataError, "cannot be read"),
        (two_tasks, {"bold_dir": "derivatives/none"}, MissingInputError, "--bold-dir"),
        (add_derivatives, {"bold_dir": FMRIPREP, "space": "T1w"}, NothingSelectedError, "MNI152"),
    ],
)
def test_which_runs_cannot_be_told(
    root: Path,
    damage: Callable[[Path], object],
    settings: dict[str, object],
    kind: type[SpeechDecodeError],
    words: str,
) -> None:
    """Each way in which a folder of functional runs is not clear, with what to do."""
    damage(root)
    with pytest.raises(kind) as error:
        find(root, **settings)
    assert words in str(error.value)


def test_two_spaces_must_be_chosen(root: Path) -> None:
    """FMRIPrep writes several; which one is not ours to guess."""
    add_derivatives(root)
    home = add_derivatives(root, "T1w")
    with pytest.raises(UsageError, match="spaces") as error:
        find(root, bold_dir=str(home))
    assert "MNI152NLin2009cAsym, T1w" in str(error.value)
    assert find(root, bold_dir=str(home), space="T1w")[0].space == "T1w"


def test_filters_of_runs(root: Path) -> None:
    """--run-label 1 and 01 are the same run."""
    add_run(root, run="2")
    found = find_bold(dataset(root), ("01",), FmriConfig(), runs=("02",))
    assert [run.label for run in found] == ["sub-01_task-story_run-2"]
    with pytest.raises(NothingSelectedError):
        find_bold(dataset(root), ("01",), FmriConfig(), runs=("7",))
