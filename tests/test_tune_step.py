"""Functional runs become tuned models on disk: held-out stories stay out, nothing is done twice."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import soundfile
import torch
from sklearn.linear_model import Ridge
from tiny_models import save_tiny_model

from bids_speechdecode.audio.speech_models import load_speech_model
from bids_speechdecode.bids.dataset import open_dataset
from bids_speechdecode.bids.derivatives import Derivatives
from bids_speechdecode.cli import main
from bids_speechdecode.config import Config, EncodingConfig, FmriConfig, TargetConfig
from bids_speechdecode.encoding.fmri_tuning import Story
from bids_speechdecode.encoding.listener import hear_story
from bids_speechdecode.encoding.refit import ALPHAS, StoryFeatures, held_out_score
from bids_speechdecode.encoding.stories import prepare_story
from bids_speechdecode.errors import DataError, MissingInputError, UsageError
from bids_speechdecode.progress import Progress
from bids_speechdecode.steps.tuning import tune as step
from bids_speechdecode.steps.tuning.stories import (
    PlannedStory,
    keep_on_disk,
    load_bold,
    split_stories,
)

SHAPE = (3, 2, 2)
TR = 2.0
N_VOLUMES = 14
STORIES = ("a", "b", "c", "d", "e")
TINY = FmriConfig(
    n_validation=1, n_test=1, stride=1.0, delays=(1, 2), rank=2, readout=5, epochs=2, block=5
)


def write_run(root: Path, participant: str, run: int, seed: int) -> None:
    """Write derivatives of a run of noise that hears a story from 2 s on."""
    name = f"sub-{participant}_task-story_run-{run}"
    raw = root / f"sub-{participant}" / "func"
    stem = root / "derivatives" / "fmriprep" / f"sub-{participant}" / "func" / name
    for folder in (raw, stem.parent):
        folder.mkdir(parents=True, exist_ok=True)
    data = np.random.default_rng(seed).normal(100, 1, (*SHAPE, N_VOLUMES)).astype(np.float32)
    image = nibabel.Nifti1Image(data, np.eye(4))
    image.header.set_zooms((1, 1, 1, TR))
    image.header.set_xyzt_units("mm", "sec")
    nibabel.save(image, f"{stem}_space-T1w_desc-preproc_bold.nii.gz")
    mask = nibabel.Nifti1Image(np.ones(SHAPE, np.uint8), np.eye(4))
    nibabel.save(mask, f"{stem}_space-T1w_desc-brain_mask.nii.gz")
    rows = "\n".join(["n/a"] + ["0.1"] * 5 + ["-0.1"] * (N_VOLUMES - 6))
    Path(f"{stem}_desc-confounds_timeseries.tsv").write_text(f"trans_x\n{rows}\n")
    events = f"onset\tduration\tstim_file\n2\tn/a\t{STORIES[run]}.wav\n"
    (raw / f"{name}_events.tsv").write_text(events)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a dataset with five stories, two listeners, and a speech model in code/."""
    root = tmp_path_factory.mktemp("tune") / "data"
    (root / "stimuli").mkdir(parents=True)
    description = {"Name": "x", "BIDSVersion": "1.10.0"}
    (root / "dataset_description.json").write_text(json.dumps(description))
    (root / "task-story_bold.json").write_text(json.dumps({"RepetitionTime": TR}))
    for k, story in enumerate(STORIES):
        wave = np.random.default_rng(k).uniform(-0.3, 0.3, 24 * 16000).astype(np.float32)
        soundfile.write(root / "stimuli" / f"{story}.wav", wave, 16000)
        for who in ("01", "02"):
            write_run(root, who, k, 10 * k + int(who))
    save_tiny_model(root / "code" / "wavlm", "wavlm", hidden_size=16)
    return root


def configure(root: Path, **fmri: object) -> Config:
    return Config(
        target=TargetConfig("wavlm", str(root / "code" / "wavlm"), 2),
        encoding=EncodingConfig(context=1.0),
        fmri=replace(TINY, confounds=("trans",), bold_dir="derivatives/fmriprep", **fmri),  # type: ignore[arg-type]
    )


def run_step(
    root: Path, out: Path, config: Config, participants: tuple[str, ...] = ("01", "02")
) -> list[Path]:
    derivatives = Derivatives(out, source=root, command="", simulated=False)
    groups = step.plan_tuning(
        open_dataset(root), participants, config, out / ".work", Progress(), "cpu"
    )
    return step.tune_models(groups, derivatives)


def plan(root: Path, config: Config) -> step.Group:
    dataset = open_dataset(root)
    runs = step.find_bold(dataset, ("01", "02"), config.fmri)
    work_dir = root.parent / "work"
    return step.Group("joint", runs, dataset, config, "cpu", work_dir, Progress())


@pytest.fixture(scope="module")
def tuned(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the joint model, tuned once; read-only by convention."""
    (folder,) = run_step(made, tmp_path_factory.mktemp("tuned") / "out", configure(made))
    return folder


# --------------------------------------------------------------------------- on disk


def test_what_lies_on_disk(made: Path, tuned: Path) -> None:
    """Later runs and readers rely on these names and on what the sidecar says."""
    assert tuned.name == "joint"
    assert {p.name for p in tuned.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "tuning.json",
        "tuning.tsv",
    }
    about = json.loads((tuned / "tuning.json").read_text())
    stories = about["Stories"]
    assert [len(stories[part]) for part in ("Train", "Validation", "Test")] == [3, 1, 1]
    assert sorted(name for part in stories.values() for name in part) == [
        f"{s}.wav" for s in STORIES
    ]
    assert about["Participants"] == ["01", "02"]
    assert (about["Target"], about["Layer"], about["Control"]) == ("wavlm", 2, "")
    assert (about["Seed"], about["Amount"], about["Step"]) == (0, 1.0, "tune")
    assert about["Voxels"] == {"01": 12, "02": 12}
    assert about["Confounds"] == {"01": ["trans_x"], "02": ["trans_x"]}
    assert about["TrainingVolumes"] == {"01": 36, "02": 36}
    assert -1 < about["TestR"] < 1
    assert -1 < about["TestRUntuned"] < 1
    assert set(about["TestRByParticipant"]) == {"01", "02"}
    lines = (tuned / "tuning.tsv").read_text().splitlines()
    assert lines[0] == "epoch\tloss\tvalidation_r"
    assert lines[1].startswith("0\tn/a\t")
    assert len(lines) == 1 + 3
    assert not (tuned.parent.parent / ".work").exists()


def test_the_tuned_model_is_a_speech_model(made: Path, tuned: Path) -> None:
    """The folder is named wherever a model is; its base is found though the dataset moved along."""
    base = json.loads((tuned / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert not Path(base).is_absolute()
    assert (tuned / base).resolve() == (made / "code" / "wavlm").resolve()
    target = configure(made).target
    waves = torch.from_numpy(np.random.default_rng(1).normal(0, 0.1, (1, 16000))).float()
    plain = load_speech_model(target).embed(waves)
    adapted = load_speech_model(replace(target, model=str(tuned))).embed(waves)
    assert not torch.equal(plain, adapted)
    torch.testing.assert_close(plain, adapted, atol=0.5, rtol=0.5)


def test_how_the_base_is_named(made: Path, tmp_path: Path) -> None:
    """Names on the hub stay; folders outside dataset and output do not depend on where one is."""
    assert step.name_base("microsoft/wavlm-base", tmp_path / "m", made) == "microsoft/wavlm-base"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    relative = os.path.relpath(elsewhere)
    assert step.name_base(relative, tmp_path / "m", made) == str(elsewhere.resolve())
    inside = step.name_base(str(made / "code"), tmp_path / "m", made)
    assert (tmp_path / "m" / inside).resolve() == (made / "code").resolve()


def test_a_current_model_is_not_made_again(
    made: Path, tuned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hours of tuning must not be repeated because a command is; neither is BOLD read."""
    before = {p.name: p.stat().st_mtime_ns for p in tuned.iterdir()}
    for name in ("tune", "load_bold", "load_speech_model"):
        monkeypatch.setattr(step, name, lambda *_, **__: pytest.fail("work was done again"))
    assert run_step(made, tuned.parent.parent, configure(made)) == [tuned]
    assert {p.name: p.stat().st_mtime_ns for p in tuned.iterdir()} == before


@pytest.mark.parametrize(
    ("change", "current"),
    [
        ({"epochs": 3}, False),
        ({"confounds": ()}, False),
        ({"n_test": 2}, False),
        ({"controls": ("phase",), "n_seeds": 3, "amounts": (0.5, 1.0)}, True),
    ],
)
def test_what_makes_a_model_out_of_date(
    made: Path, tuned: Path, change: dict[str, object], current: bool
) -> None:
    """What decides the result is in the signature, and what only adds models is not."""
    config = configure(made)
    key = json.loads((tuned / "tuning.json").read_text())["Signature"]
    assert plan(made, config).signature(step.Variant()) == key
    config = replace(config, fmri=replace(config.fmri, **change))  # type: ignore[arg-type]
    assert (plan(made, config).signature(step.Variant()) == key) is current


def test_changed_bold_is_tuned_on_again(made: Path) -> None:
    """The signature sees the images, masks and confounds."""
    group = plan(made, configure(made))
    before = group.signature(step.Variant())
    paths = [group.runs[0].images[0], group.runs[0].mask, group.runs[0].confounds]
    for path in paths:
        assert path is not None
        times = path.stat().st_atime_ns, path.stat().st_mtime_ns
        os.utime(path, ns=(times[0], times[1] + 10**9))
        assert plan(made, configure(made)).signature(step.Variant()) != before
        os.utime(path, ns=times)
    assert plan(made, configure(made)).signature(step.Variant()) == before


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: halve(f / "adapter_model.safetensors"),
        lambda f: (f / "adapter_model.safetensors").unlink(),
        lambda f: halve(f / "adapter_config.json"),
        lambda f: edit_json(f / "adapter_config.json", base_model_name_or_path=None),
        lambda f: halve(f / "tuning.tsv"),
        lambda f: halve(f / "tuning.json"),
        lambda f: (f / "tuning.json").write_text(""),
        lambda f: edit_json(f / "tuning.json", Layer="two"),
        lambda f: edit_json(f / "tuning.json", Target="speech"),
    ],
    ids=[
        "weights",
        "no weights",
        "config",
        "no base",
        "history",
        "sidecar",
        "empty",
        "type",
        "word",
    ],
)
def test_a_damaged_model_is_tuned_again(
    made: Path, tuned: Path, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    """What encoding refuses, and says to tune again, must not count as current."""
    folder = tmp_path / "out" / "speechmodels" / "joint"
    shutil.copytree(tuned, folder)
    edit_json(folder / "adapter_config.json", base_model_name_or_path=str(made / "code" / "wavlm"))
    damage(folder)
    assert run_step(made, tmp_path / "out", configure(made)) == [folder]
    for name in ("adapter_model.safetensors", "tuning.tsv"):
        assert (folder / name).read_bytes() == (tuned / name).read_bytes()
    old, new = (json.loads((f / "tuning.json").read_text()) for f in (tuned, folder))
    assert new == old | {"BaseModel": new["BaseModel"]}  # a path relative to the folder
    load_speech_model(TargetConfig("wavlm", str(folder), 2))


def test_a_base_that_a_person_corrected_does_not_cost_a_tuning(
    made: Path, tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outputs are moved, and the message of the missing base says to write it there."""
    folder = tmp_path / "out" / "speechmodels" / "joint"
    shutil.copytree(tuned, folder)
    edit_json(folder / "adapter_config.json", base_model_name_or_path=str(made / "code" / "wavlm"))
    monkeypatch.setattr(step, "tune", lambda *args, **more: pytest.fail("tuned again"))
    assert run_step(made, tmp_path / "out", configure(made)) == [folder]


def test_a_model_of_other_people_is_not_replaced_in_silence(
    made: Path, tuned: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The label does not say who took part; results that used it are then of an older model."""
    folder = tmp_path / "out" / "speechmodels" / "joint"
    shutil.copytree(tuned, folder)
    run_step(made, tmp_path / "out", configure(made), ("01",))
    told = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert any(
        "joint was tuned on sub-01, sub-02 and is replaced by one of sub-01" in t for t in told
    )
    assert json.loads((folder / "tuning.json").read_text())["Participants"] == ["01"]


def test_interrupted_and_resumed_equals_uninterrupted(
    made: Path, tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cluster stops jobs after hours; what an epoch has learnt must not be lost or changed."""
    write, n_written = step.write_state, []

    def stop_after_epoch_1(path: Path, state: dict[str, object]) -> None:
        write(path, state)
        n_written.append(path)
        if len(n_written) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(step, "write_state", stop_after_epoch_1)
    with pytest.raises(KeyboardInterrupt):
        run_step(made, tmp_path / "out", configure(made))
    assert not list((tmp_path / "out").rglob("tuning.json"))
    assert n_written[0].exists()
    (folder,) = run_step(made, tmp_path / "out", configure(made))
    assert len(n_written) == 3  # one epoch was left to do
    for name in ("adapter_model.safetensors", "tuning.tsv"):
        assert (folder / name).read_bytes() == (tuned / name).read_bytes()
    assert not (tmp_path / "out" / ".work").exists()


# ---------------------------------------------------------------------------- variants


def test_which_models_are_asked_for() -> None:
    """Controls, seeds and amounts are crossed, and each has a name of its own."""
    settings = replace(TINY, controls=("phase",), n_seeds=2, amounts=(0.5, 1.0))
    assert [variant.label("joint") for variant in step.list_variants(settings)] == [
        "joint_amount-50",
        "joint",
        "joint_seed-1_amount-50",
        "joint_seed-1",
        "joint_control-phase_amount-50",
        "joint_control-phase",
        "joint_control-phase_seed-1_amount-50",
        "joint_control-phase_seed-1",
    ]


def test_each_model_is_tuned_on_something_else(made: Path, tmp_path: Path) -> None:
    """Two models with the same weights would be one result counted twice."""
    config = configure(made, epochs=1, controls=("stories",), amounts=(0.5, 1.0))
    folders = run_step(made, tmp_path / "out", config, ("01",))
    config = configure(made, epochs=1, n_seeds=2)
    folders += run_step(made, tmp_path / "out", config, ("01",))[1:]
    weights = {(folder / "adapter_model.safetensors").read_bytes() for folder in folders}
    assert len(weights) == len(folders) == 5
    sidecars = [json.loads((folder / "tuning.json").read_text()) for folder in folders]
    trained = {s["Label"]: set(s["Stories"]["Train"]) for s in sidecars}
    for about in sidecars:  # the settings that would make this model alone
        own = about["Settings"]
        assert own["amounts"] == [about["Amount"]]
        assert own["controls"] == ([about["Control"]] if about["Control"] else [])
        assert (own["n_seeds"], own["bold_dir"]) == (1, "derivatives/fmriprep")
    assert trained["joint_amount-50"] < trained["joint"]
    # The yardstick is the same for all: the untuned model on the real BOLD.
    assert len({s["TestRUntuned"] for s in sidecars}) == 1


@pytest.mark.parametrize("control", ["phase", "downsampled"])
def test_other_controls(made: Path, tmp_path: Path, control: str) -> None:
    """Each control runs through files, and its name is in the sidecar that encoding reads."""
    folders = run_step(
        made, tmp_path / "out", configure(made, epochs=1, controls=(control,)), ("01",)
    )
    assert folders[1].name == f"joint_control-{control}"
    assert json.loads((folders[1] / "tuning.json").read_text())["Control"] == control


def test_one_model_each(made: Path, tmp_path: Path) -> None:
    """The source tunes one model per participant; nobody else's BOLD may enter."""
    config = configure(made, epochs=1, participants="each")
    folders = run_step(made, tmp_path / "both", config)
    assert [folder.name for folder in folders] == ["sub-01", "sub-02"]
    (alone,) = run_step(made, tmp_path / "alone", config, ("02",))
    name = "adapter_model.safetensors"
    assert (alone / name).read_bytes() == (folders[1] / name).read_bytes()


# ---------------------------------------------------------------------------- held out


@pytest.mark.parametrize(
    ("n_test", "amounts", "found"),
    [
        (3, (0.5, 1.0), "50% and 100% of 1 stories are 1 each"),
        (3, (0.5,), "50% and 100% of 1 stories are 1 each"),
        (1, (0.2, 0.4, 1.0), "20% and 40% of 3 stories are 1 each"),
    ],
)
def test_amounts_that_are_the_same_stories(
    made: Path, tmp_path: Path, n_test: int, amounts: tuple[float, ...], found: str
) -> None:
    """Two names for one model would look like a gain that does not grow with the data."""
    with pytest.raises(DataError, match=found):
        run_step(made, tmp_path / "out", configure(made, n_test=n_test, amounts=amounts))
    assert not (tmp_path / "out").exists()


def test_amounts_that_differ_are_accepted(made: Path) -> None:
    """The check must count as the draw of the stories does."""
    config = configure(made, amounts=(0.4, 0.6, 1.0))
    (group,) = step.plan_tuning(
        open_dataset(made), ("01", "02"), config, made.parent / "work", Progress(), "cpu"
    )
    kept = [
        len(step.with_amount(group.split.train, amount, np.random.default_rng(0)))
        for amount in config.fmri.amounts
    ]
    assert kept == [1, 2, 3]


def test_the_split_is_drawn_from_names(made: Path) -> None:
    """The same seed holds out the same stories; another seed may hold out others."""
    config = configure(made)
    splits = []
    for seed in range(8):
        changed = replace(config, run=replace(config.run, seed=seed))
        splits.append(plan(made, changed).split.test[0].name)
        assert plan(made, changed).split.test[0].name == splits[-1]
    assert len(set(splits)) > 1


def test_test_stories_change_nothing_that_is_trained(made: Path, tmp_path: Path) -> None:
    """Leakage: with other BOLD in the test story, adapters stay bit-identical."""
    config = configure(made, epochs=1)
    (before,) = run_step(made, tmp_path / "before", config)
    (story,) = plan(made, config).split.test
    kept = {}
    for k, hearing in enumerate(story.hearings):
        path = hearing.run.images[0]
        kept[path] = (path.read_bytes(), path.stat().st_mtime_ns)
        image = nibabel.load(path)
        noise = np.random.default_rng(99 + k).normal(100, 1, image.shape).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(noise, image.affine, image.header), path)
    (after,) = run_step(made, tmp_path / "after", config)
    for path, (content, modified) in kept.items():
        path.write_bytes(content)
        os.utime(path, ns=(modified, modified))
    name = "adapter_model.safetensors"
    assert (before / name).read_bytes() == (after / name).read_bytes()
    scores = [json.loads((f / "tuning.json").read_text())["TestR"] for f in (before, after)]
    assert scores[0] != scores[1]


def test_too_few_stories(made: Path, tmp_path: Path) -> None:
    """Four held-out stories of five leave one; five leave none, which is said before any work."""
    with pytest.raises(DataError, match="too few stories") as error:
        run_step(made, tmp_path / "out", configure(made, n_validation=3, n_test=2))
    assert "at least 6" in str(error.value)
    assert error.value.exit_code == 65


def test_held_out_stories_are_those_that_all_heard(made: Path) -> None:
    """Otherwise somebody would have no score; the sound of a held-out story is never trained on."""
    group = plan(made, configure(made))
    everything = [*group.split.train, *group.split.validation, *group.split.test]
    partly = [
        PlannedStory(s.name, s.hearings[:1] if s.name < "c" else s.hearings) for s in everything
    ]
    for seed in range(6):
        split = split_stories(partly, configure(made).fmri, seed)
        held_out = {s.name for s in (*split.validation, *split.test)}
        assert held_out <= {"c.wav", "d.wav", "e.wav"}
    # The same sound at another phase goes where its twin goes.
    twins = [*everything, *(PlannedStory(f"{s.name} (2)", s.hearings) for s in everything)]
    split = split_stories(twins, configure(made).fmri, 0)
    assert len(split.test) == len(split.validation) == 2
    assert not {s.audio for s in split.train} & {s.audio for s in (*split.test, *split.validation)}


# ------------------------------------------------------------------------------- BOLD


def test_bold_of_a_story_is_clean_and_averaged(made: Path) -> None:
    """Confounds go, volumes outside the story go, and repeats are averaged."""
    config = configure(made)
    group = plan(made, config)
    story = group.split.train[0]
    (hearing,) = [h for h in story.hearings if h.run.participant == "01"]
    one = load_bold("01", [story], config.fmri)
    image = nibabel.load(hearing.run.images[0]).get_fdata().reshape(-1, N_VOLUMES).T
    part = image[1:13]  # heard from 2 to 26 s; volumes stand for 1, 3, ... s
    regressors = np.column_stack([np.ones(12), np.arange(12), [0.1] * 5 + [-0.1] * 7])
    expected = _z_scored(part, regressors)
    np.testing.assert_allclose(one.bold[story.name], expected, atol=1e-4)
    other = group.split.train[1]
    (again,) = [h for h in other.hearings if h.run.participant == "01"]
    twice = PlannedStory(story.name, (hearing, again))
    image = nibabel.load(again.run.images[0]).get_fdata().reshape(-1, N_VOLUMES).T
    mean = (expected + _z_scored(image[1:13], regressors)) / 2
    repeated = load_bold("01", [twice], config.fmri)
    np.testing.assert_allclose(repeated.bold[story.name], mean / mean.std(axis=0), atol=1e-4)


def _z_scored(bold: np.ndarray, regressors: np.ndarray) -> np.ndarray:
    residual = bold - regressors @ np.linalg.lstsq(regressors, bold, rcond=None)[0]
    return residual / residual.std(axis=0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_constant_voxels_are_dropped_in_all_runs(
    made: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, value: float
) -> None:
    """All stories of a participant need the same voxels, and a constant one has no z-score."""
    root = Path(shutil.copytree(made, tmp_path / "data"))
    path = next(root.rglob("sub-01_task-story_run-1_*_bold.nii.gz"))
    image = nibabel.load(path)
    damaged = image.get_fdata()
    damaged[0, 0, 0] = 5.0
    damaged[1, 0, 1, 3] = value
    nibabel.save(nibabel.Nifti1Image(damaged, image.affine, image.header), path)
    config = configure(root)
    whole, kept = (
        load_bold("01", plan(home, configure(home)).split.all, config.fmri) for home in (made, root)
    )
    lost = {int(np.ravel_multi_index(ijk, SHAPE)) for ijk in ((0, 0, 0), (1, 0, 1))}
    assert set(whole.voxels.index.tolist()) - set(kept.voxels.index.tolist()) == lost
    assert kept.voxels.n_constant == 2
    assert "run-1: 1 voxels have NaN or infinite values, and are left out" in caplog.text
    same = np.isin(whole.voxels.index, kept.voxels.index)
    assert len(kept.bold) == len(STORIES)
    for name, bold in kept.bold.items():
        np.testing.assert_allclose(bold, whole.bold[name][:, same], atol=1e-5)


def test_stories_of_one_file_name_stay_apart(made: Path, tmp_path: Path) -> None:
    """Their BOLD would be averaged, and what is held out would be trained on."""
    root = Path(shutil.copytree(made, tmp_path / "data"))
    for story in STORIES:
        (root / "stimuli" / story).mkdir()
        (root / "stimuli" / f"{story}.wav").rename(root / "stimuli" / story / "story.wav")
    for path in root.rglob("*_events.tsv"):
        text = path.read_text()
        for story in STORIES:
            text = text.replace(f"{story}.wav", f"{story}/story.wav")
        path.write_text(text)
    config = configure(root)
    names = [story.name for story in plan(root, config).split.all]
    assert sorted(names) == sorted(f"{story}/story.wav" for story in STORIES)
    bold = load_bold("01", plan(root, config).split.all, config.fmri).bold
    whole = load_bold("01", plan(made, configure(made)).split.all, config.fmri).bold
    for story in STORIES:
        np.testing.assert_array_equal(bold[f"{story}/story.wav"], whole[f"{story}.wav"])


def test_nothing_varies(made: Path, tmp_path: Path) -> None:
    """An image of zeros is an export that failed."""
    root = Path(shutil.copytree(made, tmp_path / "data"))
    path = next(root.rglob("sub-01_task-story_run-1_*_bold.nii.gz"))
    image = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(0 * image.get_fdata() + 7, image.affine, image.header), path)
    config = configure(root)
    with pytest.raises(DataError, match="No voxel varies"):
        load_bold("01", plan(root, config).split.all, config.fmri)


def test_bold_lies_on_disk_without_a_name(made: Path, tmp_path: Path) -> None:
    """Hours of whole brains do not fit into memory, and a killed process must leave nothing."""
    folder = tmp_path / "work"
    array = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    mapped = keep_on_disk(array, folder)
    assert list(folder.iterdir()) == []
    assert not mapped.flags.writeable
    np.testing.assert_array_equal(mapped, array)
    kept: list[np.ndarray] = []

    def keep(values: np.ndarray) -> np.ndarray:
        kept.append(keep_on_disk(values, folder))
        return kept[-1]

    config = configure(made)
    bold = load_bold("01", plan(made, config).split.all, config.fmri, keep).bold
    assert len(kept) == len(STORIES)
    assert all(any(values is one for one in kept) for values in bold.values())
    story = Story(
        "a",
        np.linspace(-0.1, 0.1, 16000 * 30, dtype=np.float32),
        np.arange(12) * TR,
        {"01": kept[0]},
        TR,
    )
    prepared = prepare_story(story, config.fmri, 1.0)
    assert np.shares_memory(prepared.bold["01"], kept[0])


def test_the_story_is_too_short_for_the_delays(made: Path, tmp_path: Path) -> None:
    """Fewer samples than lags: said with the run, not as a shape that does not fit."""
    with pytest.raises(DataError, match="delays") as error:
        run_step(made, tmp_path / "out", configure(made, delays=(1, 12)))
    assert "12 volumes" in str(error.value)


# ------------------------------------------------------------------------------ scores


def test_scores_are_those_of_scikit_learn() -> None:
    """The penalty comes from the validation stories, the score from the test stories alone."""
    rng = np.random.default_rng(3)
    mixing = rng.normal(size=(6, 4))

    def story(n: int) -> StoryFeatures:
        x = rng.normal(size=(n, 6)) * [1, 2, 3, 4, 5, 6] + 1
        y = (x @ mixing + 10 * rng.normal(size=(n, 4))).astype(np.float32)
        return StoryFeatures(torch.from_numpy(x), {"01": y})

    training, validation, test = [story(30), story(20)], [story(25)], [story(15), story(12)]
    x = np.concatenate([np.asarray(s.features) for s in training])
    y = np.concatenate([s.bold["01"] for s in training])
    mean, spread = x.mean(axis=0), x.std(axis=0)

    def correlate(model: Ridge, stories: list[StoryFeatures]) -> np.ndarray:
        new = np.concatenate([np.asarray(s.features) for s in stories])
        bold = np.concatenate([s.bold["01"] for s in stories])
        predicted = model.predict((new - mean) / spread)
        return np.array([np.corrcoef(a, b)[0, 1] for a, b in zip(predicted.T, bold.T, strict=True)])

    models = [Ridge(alpha=a * len(x)).fit((x - mean) / spread, y) for a in ALPHAS]
    best = max(models, key=lambda model: correlate(model, validation).mean())
    found = held_out_score(training, validation, test)["01"]
    np.testing.assert_allclose(found, correlate(best, test), atol=1e-6)


def test_who_has_no_test_story_has_no_score() -> None:
    """A missing score is absent, not zero."""
    x = torch.randn(9, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    both = StoryFeatures(x, {"01": x.numpy(), "02": x.numpy()})
    one = StoryFeatures(x, {"01": x.numpy()})
    assert list(held_out_score([both], [both], [one])) == ["01"]


@pytest.mark.parametrize("token", ["first", "last", "mean"])
def test_a_story_is_heard_in_windows_that_end_at_their_time(token: str) -> None:
    """A model that gives the time of its sound: delays of 1 and 2 TRs are read off directly."""

    class Clock:
        """Frames hold the sound itself, ten of them in a second."""

        dimension, module = 1, torch.nn.Linear(1, 1)

        def frames(self, waves: torch.Tensor) -> torch.Tensor:
            return waves.reshape(len(waves), 10, -1)[:, :, -1:]

    wave = (np.arange(30 * 16000) / 16000).astype(np.float32)  # value is time
    bold = np.random.default_rng(0).normal(size=(14, 3))
    heard = Story("a", wave, np.arange(14) * 2.0 + 1, {"01": bold})
    story = prepare_story(heard, replace(TINY, stride=0.25), 1.0)
    features = np.asarray(hear_story(Clock(), story, 1.0, token))  # type: ignore[arg-type]
    lead = {"first": 0.9, "last": 0.0, "mean": 0.45}[token]
    middle = features[4:-4]
    np.testing.assert_allclose(middle[:, 0] - middle[:, 1], TR, atol=0.02)
    np.testing.assert_allclose(np.diff(middle[:, 0]), TR, atol=0.02)
    # Volume k stands for 1 + 2 k s; the first one whose sound is known for both delays is 5 s.
    np.testing.assert_allclose(middle[0, 0], 5 + 4 * TR - TR - lead, atol=0.02)


# ------------------------------------------------------------------------------ errors


def test_mel_cannot_be_tuned(made: Path, tmp_path: Path) -> None:
    """A spectrogram has no weights; the message names targets that have."""
    config = replace(configure(made), target=TargetConfig("mel", "", 0))
    with pytest.raises(UsageError, match="no weights") as error:
        run_step(made, tmp_path / "out", config)
    assert "wavlm" in str(error.value)


def test_missing_audio_is_told_before_anything_is_written(made: Path, tmp_path: Path) -> None:
    """An absent story must not show after hours of tuning another participant."""
    path = made / "stimuli" / "c.wav"
    path.rename(made / "c.wav")
    try:
        with pytest.raises(MissingInputError, match="absent"):
            run_step(made, tmp_path / "out", configure(made, participants="each"))
    finally:
        (made / "c.wav").rename(path)
    assert not (tmp_path / "out").exists()


SETTINGS = """
[target]
name = "wavlm"
model = "{model}"
layer = 2

[fmri]
confounds = ["trans"]
n_test = 1
{more}
"""


def damage_nothing(_: Path) -> None:
    """Leave the dataset as it is."""


def remove_tr(root: Path) -> None:
    (root / "task-story_bold.json").write_text("{}")


def remove_audio(root: Path) -> None:
    (root / "stimuli" / "b.wav").unlink()


def remove_func(root: Path) -> None:
    shutil.rmtree(root / "derivatives" / "fmriprep" / "sub-01" / "func")
    shutil.rmtree(root / "derivatives" / "fmriprep" / "sub-02" / "func")


def shrink_mask(root: Path) -> None:
    (path, *_) = sorted(root.rglob("*_mask.nii.gz"))
    nibabel.save(nibabel.Nifti1Image(np.ones((3, 2, 1), np.uint8), np.eye(4)), path)


@pytest.mark.parametrize(
    ("damage", "more", "status", "words"),
    [
        (remove_tr, "", 65, "RepetitionTime"),
        (remove_audio, "", 66, "b.wav"),
        (remove_func, "", 66, "functional images"),
        (shrink_mask, "n_validation = 1", 65, "shape (3, 2, 1)"),
        (damage_nothing, "n_validation = 4", 65, "too few stories"),
        (damage_nothing, 'n_validation = 1\ntask = "storm"', 18, "'story'"),
        (damage_nothing, "n_validation = 1\ndelays = [30]", 65, "delays"),
    ],
)
def test_codes_and_messages_of_the_command(
    made: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
    more: str,
    status: int,
    words: str,
) -> None:
    """Bad input is told as a user meets it, and leaves no model behind."""
    root = Path(shutil.copytree(made, tmp_path / "data"))
    damage(root)
    config = tmp_path / "config.toml"
    config.write_text(SETTINGS.format(model=root / "code" / "wavlm", more=more))
    command = [str(root), str(tmp_path / "out"), "participant", "--analysis", "fmri-tuning"]
    options = ["--bold-dir", "derivatives/fmriprep", "--config", str(config)]
    assert main([*command, *options]) == status
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out" / "speechmodels").exists()


def test_a_dry_run_writes_nothing(made: Path, tmp_path: Path) -> None:
    """It says what would be tuned."""
    out = Derivatives(tmp_path / "out", source=made, command="", simulated=False)
    groups = step.plan_tuning(
        open_dataset(made), ("01",), configure(made), out.root / ".work", Progress(), "cpu"
    )
    (folder,) = step.tune_models(groups, out, dry_run=True)
    assert folder == tmp_path / "out" / "speechmodels" / "joint"
    assert not (tmp_path / "out").exists()
