"""What bad input gets from tuning and encoding: an exit status, one message that helps, no rest."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import soundfile
from nilearn.masking import compute_epi_mask
from safetensors.torch import load_file, save_file

from bids_speechdecode.cli import main

Damage = Callable[[Path], object]

SUB, BOLD = "sub-sim01", "sub-simbold01"
RUN = f"{BOLD}/func/{BOLD}_task-story_run-01"
EVENTS = f"{SUB}/ieeg/{SUB}_task-podcast_events.tsv"
CHANNELS = f"{SUB}/ieeg/{SUB}_task-podcast_channels.tsv"
HEADER = f"{SUB}/ieeg/{SUB}_task-podcast_ieeg.vhdr"
STORY = "simulated_story-01.flac"


def model_of(root: Path) -> Path:
    return root / "sourcedata" / "simulation" / "speech_model"


def edit(path: Path, pattern: str, new: str) -> None:
    text = path.read_text()
    path.write_text(re.sub(pattern, new, text))
    assert path.read_text() != text


def set_image(path: Path, change: Callable[[np.ndarray], np.ndarray], tr: float = 0) -> None:
    """Write an image anew; a pixdim of `tr` seconds where it is not 0."""
    image = nibabel.load(path)
    changed = nibabel.Nifti1Image(change(image.get_fdata(dtype=np.float32)), image.affine)
    zooms = [*image.header.get_zooms()[:3], tr or image.header.get_zooms()[3]]
    changed.header.set_zooms(zooms[: changed.ndim])
    changed.header.set_xyzt_units("mm", "sec")
    nibabel.save(changed, path)


def one_message(stderr: str) -> str:
    """Return the error message; it must be the only one, help, and be no traceback."""
    assert "Traceback" not in stderr
    assert len(re.findall("error:", stderr)) == 1, stderr
    message = stderr[stderr.index("error:") :]
    assert "to do:" in message or "expected:" in message, message
    assert "unexpected" not in message, message
    return message


@pytest.fixture
def damaged(pair_dataset: Path, tmp_path: Path) -> Path:
    """Return a copy of the dataset that a test may damage."""
    return Path(shutil.copytree(pair_dataset, tmp_path / "data"))


def tune(root: Path, out: Path, config: Path, *more: str) -> int:
    models = () if "--speech-model" in more else ("--speech-model", str(model_of(root)))
    words = [str(root), str(out), "participant", "--analysis", "fmri-tuning", *models]
    layer = () if "--speech-layer" in more else ("--speech-layer", "3")
    return main([*words, *layer, "--config", str(config), *more])


def encode(root: Path, out: Path, config: Path, *more: str) -> int:
    words = [str(root), str(out), "participant", "--analysis", "encoding"]
    models = () if {"--speech-model", "--target"} & set(more) else ("--speech-model", "mel")
    task = ("--finetune-task", "podcast", "--participant-label", "sim01")
    return main([*words, *models, *task, "--config", str(config), *more])


# --------------------------------------------------------------------- fMRI tuning


def drop_tr(root: Path) -> None:
    for path in root.rglob("*_bold.json"):
        about = json.loads(path.read_text())
        path.write_text(json.dumps({k: v for k, v in about.items() if k != "RepetitionTime"}))


def irregular(root: Path) -> None:
    path = root / f"{RUN}_bold.json"
    about = json.loads(path.read_text())
    n = nibabel.load(root / f"{RUN}_bold.nii.gz").shape[3]
    times = (np.arange(n) * 2.0 + (np.arange(n) % 3) * 0.4).tolist()
    about.pop("RepetitionTime")
    path.write_text(json.dumps(about | {"VolumeTiming": times, "FrameAcquisitionDuration": 1.0}))


def constant(root: Path) -> None:
    for path in root.glob(f"{BOLD}/func/*_bold.nii.gz"):
        set_image(path, np.ones_like)


TUNING: dict[str, tuple[Damage, tuple[str, ...], int, tuple[str, ...]]] = {
    "no TR": (drop_tr, (), 65, ("RepetitionTime",)),
    "volumes at irregular times": (
        irregular,
        (),
        65,
        ("not taken at regular times", "VolumeTiming"),
    ),
    "a TR that is not the image's": (
        lambda d: set_image(d / f"{RUN}_bold.nii.gz", lambda x: x, tr=1.3),
        (),
        65,
        ("1.3", "repetition time"),
    ),
    "a story without audio": (
        lambda d: (d / "stimuli" / STORY).unlink(),
        (),
        66,
        (STORY, "absent"),
    ),
    "events without stim_file": (
        lambda d: edit(d / f"{RUN}_events.tsv", "stim_file", "sound"),
        (),
        65,
        ("does not say which story", "stim_file"),
    ),
    "BOLD much shorter than the audio": (
        lambda d: set_image(d / f"{RUN}_bold.nii.gz", lambda x: x[..., :9]),
        (),
        65,
        ("much shorter than the story", STORY),
    ),
    "constant voxels only": (constant, (), 65, ("constant",)),
    "an image that is none": (
        lambda d: (d / f"{RUN}_bold.nii.gz").write_bytes(b"hello"),
        (),
        65,
        ("bold.nii.gz",),
    ),
    "no layer with attention": (lambda d: None, ("--speech-layer", "0"), 64, ("layer above 0",)),
    "a layer that is not there": (lambda d: None, ("--speech-layer", "40"), 64, ("no such layer",)),
    "nothing to tune": (lambda d: None, ("--target", "mel"), 64, ("no weights", "mel")),
    "a word of encoding": (
        lambda d: None,
        ("--speech-model", "untuned"),
        64,
        ("untuned is not a speech model that fmri-tuning can start from", "owner/name"),
    ),
    "mel by name": (lambda d: None, ("--speech-model", "mel"), 64, ("mel is not a speech model",)),
    "a context of no frame": (
        lambda d: None,
        ("--config", "{context}"),
        64,
        ("at least 0.1 s", "context = 0.09"),
    ),
    "a report": (lambda d: None, ("--reports-only",), 64, ("no report", "leave it out")),
    "several models": (
        lambda d: None,
        ("--speech-model", "a/b", "c/d"),
        64,
        ("--speech-model takes one value", "--analysis encoding"),
    ),
    "a step of another analysis": (
        lambda d: None,
        ("--steps", "encode"),
        64,
        ("step of analysis fmri-tuning", "'encode'", "tune"),
    ),
    "participants without fMRI": (
        lambda d: None,
        ("--participant-label", "sim01"),
        66,
        ("No participant has functional images", "ieeg"),
    ),
}


@pytest.mark.parametrize("case", TUNING)
def test_tuning_says_what_is_wrong(
    damaged: Path,
    tmp_path: Path,
    pair_config: Path,
    capsys: pytest.CaptureFixture[str],
    case: str,
) -> None:
    """Scanner exports differ; hours of tuning on misread volumes would be worse than a stop."""
    damage, options, status, words = TUNING[case]
    damage(damaged)
    short = tmp_path / "short.toml"
    short.write_text(pair_config.read_text().replace("[encoding]", "[encoding]\ncontext = 0.09"))
    options = tuple(word.replace("{context}", str(short)) for word in options)
    if "--target" in options:
        code = main(
            [
                str(damaged),
                str(tmp_path / "out"),
                "participant",
                "--analysis",
                "fmri-tuning",
                *options,
            ]
        )
    else:
        code = tune(damaged, tmp_path / "out", pair_config, *options)
    message = one_message(capsys.readouterr().err)
    assert code == status, message
    for word in words:
        assert word in message
    assert not (tmp_path / "out" / "speechmodels").exists()
    assert not list((tmp_path / "out").rglob("*.checkpoint"))


def test_a_tuned_model_is_not_tuned_by_its_label(
    pair_dataset: Path,
    pair_run: Path,
    tmp_path: Path,
    pair_config: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Encoding knows the label; tuning must not look for it on the hub."""
    copy_speech_models(pair_run, tmp_path)
    assert tune(pair_dataset, tmp_path, pair_config, "--speech-model", "joint") == 64
    message = one_message(capsys.readouterr().err)
    assert "a model that was tuned in" in message


@pytest.mark.slow
def test_some_constant_voxels_are_left_out_and_counted(
    damaged: Path, tmp_path: Path, pair_config: Path
) -> None:
    """Volumes have margins without a brain; they must neither stop nor enter the loss."""
    masks = []
    for path in sorted(damaged.glob(f"{BOLD}/func/*_bold.nii.gz")):
        image = nibabel.load(path)
        mean = nibabel.Nifti1Image(image.get_fdata().mean(axis=3), image.affine)
        masks.append(compute_epi_mask(mean, opening=False).get_fdata() > 0)
    common = np.argwhere(np.all(masks, axis=0))
    x, y, z = common[0]

    def flatten(data: np.ndarray) -> np.ndarray:
        data[x, y, z] = data[x, y, z].mean()  # as bright as before, so the mask stays
        return data

    set_image(damaged / f"{RUN}_bold.nii.gz", flatten)
    assert tune(damaged, tmp_path / "out", pair_config) == 0
    about = json.loads((tmp_path / "out" / "speechmodels" / "joint" / "tuning.json").read_text())
    assert about["ConstantVoxels"] == {"simbold01": 1}
    assert about["Voxels"] == {"simbold01": len(common) - 1}


def test_fmri_tuning_has_no_group(
    pair_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Models may join participants already at the participant level."""
    words = [str(pair_dataset), str(tmp_path / "out"), "group", "--analysis", "fmri-tuning"]
    assert main(words) == 64
    assert "no group level" in one_message(capsys.readouterr().err)


# ------------------------------------------------------------------------ encoding


def shorten(root: Path) -> None:
    """Let the podcast end after 12 s."""
    path = root / "stimuli" / "simulated_podcast.flac"
    wave, rate = soundfile.read(path)
    soundfile.write(path, wave[: 12 * rate], rate)
    events = root / EVENTS
    rows = events.read_text().splitlines()[:2]
    rows[1] = rows[1].replace("\t15.0\t", "\t12.0\t")
    events.write_text("\n".join(rows) + "\n")


def slow_recording(root: Path) -> None:
    edit(root / HEADER, r"SamplingInterval=\S+", "SamplingInterval=7812.5")
    edit(root / EVENTS, r"(?m)^(\d+\.\d+)\t15.0", lambda m: f"{float(m[1]) * 4:.3f}\t60.0")  # type: ignore[arg-type]


def one_electrode(root: Path) -> None:
    """Mark all channels bad but the first."""
    path = root / CHANNELS
    first, rest = path.read_text().split("\tgood\t", 1)
    path.write_text(first + "\tgood\t" + rest.replace("\tgood\t", "\tbad\t"))


ENCODING: dict[str, tuple[Damage, tuple[str, ...], str, int, tuple[str, ...]]] = {
    "folds too short for the embargo": (
        shorten,
        (),
        "",
        65,
        ("too short for the embargo", "fewer folds"),
    ),
    "fewer samples than lags": (
        lambda d: None,
        (),
        "max_lag = 4.0\ncontext = 0.5",
        65,
        ("fewer samples than there are lags", "161 samples"),
    ),
    "a context longer than the sound": (
        lambda d: None,
        (),
        "max_lag = 0.3\ncontext = 90.0",
        65,
        ("no usable response", "context"),
    ),
    "a band above Nyquist": (
        lambda d: None,
        (),
        "max_lag = 0.3\nhigh_gamma = [200, 400]",
        65,
        ("beyond what the recording holds", "256 Hz"),
    ),
    "words without a table": (
        lambda d: None,
        (),
        'max_lag = 0.3\nnuisance = ["words"]',
        66,
        ("when the words were spoken", "nuisance"),
    ),
    "an unknown label": (
        lambda d: None,
        ("--speech-model", "untuned", "jont"),
        "",
        66,
        ("no speech model 'jont'", "none"),
    ),
    "an unknown word": (
        lambda d: None,
        ("--speech-model", "untund"),
        "",
        66,
        ("did you mean 'untuned'",),
    ),
    "nothing tuned": (
        lambda d: None,
        ("--speech-model", "untuned", "tuned"),
        "",
        66,
        ("no tuned model in this output", "fmri-tuning"),
    ),
    "a folder without a model": (
        lambda d: None,
        ("--speech-model", "FOLDER/stimuli"),
        "",
        66,
        ("no speech model", "config.json"),
    ),
    "another family": (
        lambda d: None,
        ("--speech-model", "FOLDER/sourcedata/simulation/speech_model", "--target", "hubert"),
        "",
        64,
        ("another family", "wavlm"),
    ),
    "a layer that is not there": (
        lambda d: None,
        (
            "--speech-model",
            "FOLDER/sourcedata/simulation/speech_model",
            "--speech-layer",
            "3",
            "99",
        ),
        "",
        64,
        ("no such layer", "99"),
    ),
    "a layer that is no number": (
        lambda d: None,
        ("--speech-layer", "three"),
        "",
        64,
        ("--speech-layer", "three"),
    ),
    "a step of another analysis": (
        lambda d: None,
        ("--steps", "preprocess"),
        "",
        64,
        ("step of analysis encoding", "'preprocess'", "responses"),
    ),
    "an unknown band": (lambda d: None, ("--band", "thta"), "", 64, ("theta",)),
    "a rule of decoding": (
        lambda d: None,
        ("--select", "responsive"),
        "",
        64,
        ("responsive is of decoding",),
    ),
    "an analysis that is none": (
        lambda d: None,
        ("--analysis", "encodng"),
        "",
        64,
        ("did you mean 'encoding'",),
    ),
    "audio that is absent": (
        lambda d: (d / "stimuli" / "simulated_podcast.flac").unlink(),
        (),
        "",
        66,
        ("simulated_podcast.flac", "absent"),
    ),
    "a task that is not there": (
        lambda d: None,
        ("--finetune-task", "podcst"),
        "",
        18,
        ("podcst", "podcast"),
    ),
    "one electrode and its average": (
        one_electrode,
        ("--reference", "average"),
        "",
        65,
        ("average of itself", "--reference none"),
    ),
    "no channels.tsv": (
        lambda d: (d / CHANNELS).unlink(),
        (),
        "",
        65,
        ("has no channels.tsv", f"{SUB}_task-podcast_channels.tsv", "SEEG, ECOG or DBS"),
    ),
    "all channels bad": (
        lambda d: edit(d / CHANNELS, "\tgood\t", "\tbad\t"),
        (),
        "",
        65,
        ("no good brain channel",),
    ),
}
WRITES = (  # what only the signal, or all of the responses, can show
    "folds too short for the embargo",
    "fewer samples than lags",
    "a context longer than the sound",
    "a band above Nyquist",
    "words without a table",
    "another family",
    "a layer that is not there",
)


@pytest.mark.parametrize("case", ENCODING)
def test_encoding_says_what_is_wrong(
    damaged: Path,
    tmp_path: Path,
    pair_config: Path,
    capsys: pytest.CaptureFixture[str],
    case: str,
) -> None:
    """With the status that scripts read, and no table that a later group run would take."""
    damage, options, settings, status, words = ENCODING[case]
    damage(damaged)
    config = tmp_path / "config.toml"
    text = pair_config.read_text()
    if "nuisance" in settings:
        text = re.sub(r"nuisance = .*", "", text)
    config.write_text(text.replace("max_lag = 0.3", settings or "max_lag = 0.3"))
    options = tuple(o.replace("FOLDER", str(damaged)) for o in options)
    out = tmp_path / "out"
    assert encode(damaged, out, config, *options) == status
    message = one_message(capsys.readouterr().err)
    for word in words:
        assert word in message
    assert not list(out.rglob("*_scores.*"))
    assert not [p for p in out.rglob(".*") if p.is_file() and p.name != ".bidsignore"]
    assert case in WRITES or not out.exists()


def test_one_broken_participant_does_not_stop_the_others(
    damaged: Path, tmp_path: Path, pair_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The hours of the others are not lost, and the group goes on without the broken one."""
    (damaged / EVENTS).write_text("")
    out = tmp_path / "out"
    options = ["--analysis", "encoding", "--config", str(pair_config)]
    task = ["--finetune-task", "podcast", "--speech-model", "mel"]
    steps = ["--steps", "responses,features,encode"]
    assert main([str(damaged), str(out), "participant", *options, *task, *steps]) == 65
    assert "1 of 2 participants failed: sub-sim01" in capsys.readouterr().err
    assert [p.parts[-3] for p in out.rglob("*_desc-encoding_scores.tsv")] == ["sub-sim02"]


def test_several_models_in_decoding(
    pair_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever forgot --analysis encoding should read just that."""
    words = [str(pair_dataset), str(tmp_path / "out"), "participant"]
    assert main([*words, "--speech-model", "untuned", "tuned"]) == 64
    assert "--analysis encoding" in one_message(capsys.readouterr().err)
    assert main([*words, "--speech-model", "a/b", "--speech-layer", "3", "4"]) == 64
    assert "--speech-layer takes one value" in one_message(capsys.readouterr().err)


# ---------------------------------------------------------------- tuned models that do not fit


def copy_speech_models(pair_run: Path, out: Path) -> Path:
    """Copy the tuned model; its base is named by its whole path."""
    folder = Path(
        shutil.copytree(pair_run / "speechmodels" / "joint", out / "speechmodels" / "joint")
    )
    path = folder / "adapter_config.json"
    about = json.loads(path.read_text())
    base = (pair_run / "speechmodels" / "joint" / about["base_model_name_or_path"]).resolve()
    path.write_text(json.dumps(about | {"base_model_name_or_path": str(base)}))
    return folder


def other_base(folder: Path) -> None:
    """Add a tuned model of another base."""
    other = Path(shutil.copytree(folder, folder.with_name("sub-x")))
    path = other / "adapter_config.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps(about | {"base_model_name_or_path": "else/where"}))


def no_base(folder: Path) -> None:
    path = folder / "adapter_config.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps(about | {"base_model_name_or_path": "../../gone"}))


def wrong_type(folder: Path) -> None:
    path = folder / "tuning.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"Layer": "three"}))


def other_shape(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    save_file({k: v[:1].clone() for k, v in load_file(path).items()}, path)


@pytest.mark.parametrize(
    ("damage", "status", "words"),
    [
        (other_base, 64, ("different speech models", "else/where")),
        (no_base, 66, ("../../gone", "looked for at", "out/gone", "joint/adapter_config.json")),
        (lambda f: (f / "adapter_model.safetensors").unlink(), 66, ("adapter_model.safetensors",)),
        (lambda f: (f / "tuning.json").write_text("{"), 65, ("cannot be read", "tuning.json")),
        (lambda f: (f / "tuning.json").write_text(""), 65, ("cannot be read", "fmri-tuning")),
        (wrong_type, 65, ('Layer: "three"', "tuning.json", "fmri-tuning")),
        (lambda f: (f / "tuning.json").unlink(), 66, ("no tuned model",)),
        (other_shape, 65, ("adapter",)),
    ],
    ids=[
        *("other bases", "base gone", "weights gone", "broken", "empty", "type", "unfinished"),
        "shapes",
    ],
)
def test_tuned_models_that_do_not_fit(
    pair_dataset: Path,
    pair_run: Path,
    tmp_path: Path,
    pair_config: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Damage,
    status: int,
    words: tuple[str, ...],
) -> None:
    """Outputs are copied and cleaned up by hand; a wrong comparison must not come of it."""
    out = tmp_path / "out"
    damage(copy_speech_models(pair_run, out))
    models = ("--speech-model", "untuned", "tuned", "--speech-layer", "3")
    assert encode(pair_dataset, out, pair_config, *models) == status
    message = one_message(capsys.readouterr().err)
    for word in words:
        assert word in message
    assert not list(out.rglob("*_scores.*"))


# ------------------------------------------------------------------------------ group


def test_group_before_participants(
    pair_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both where nothing was written and where only a model was tuned."""
    words = [str(pair_dataset), str(tmp_path / "out"), "group", "--analysis", "encoding"]
    assert main(words) == 66
    assert "run the participant level" in one_message(capsys.readouterr().err)
    (tmp_path / "out" / "speechmodels").mkdir(parents=True)
    assert main(words) == 66
    assert "--analysis encoding" in one_message(capsys.readouterr().err)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["speechmodels"]
    assert main([*words, "--compare-to", str(tmp_path)]) == 64
    assert "--compare-to" in one_message(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("Context", 3.0),
        ("iEEGReference", "none"),
        ("Nuisance", []),
        ("Edges", {"highgamma": [70.0, 200.0]}),
        ("Layers", {"untuned": [2]}),
        ("Models", [{"Label": "untuned", "Kind": "untuned", "Fingerprint": "other"}]),
    ],
)
def test_participants_that_were_encoded_differently(
    pair_dataset: Path,
    pair_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    key: str,
    value: object,
) -> None:
    """A mean over two methods is a result of neither."""
    for who in ("sim01", "sim02"):
        for path in (pair_run / f"sub-{who}" / "ieeg").glob("*desc-encoding*_scores.*"):
            target = tmp_path / "out" / f"sub-{who}" / "ieeg" / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    path = tmp_path / "out/sub-sim02/ieeg/sub-sim02_task-podcast_desc-encoding_scores.json"
    about = json.loads(path.read_text())
    assert about[key] != value
    path.write_text(json.dumps(about | {key: value}))
    words = [str(pair_dataset), str(tmp_path / "out"), "group", "--analysis", "encoding"]
    assert main(words) == 65
    message = one_message(capsys.readouterr().err)
    assert f"differ in {key}" in message
    assert "sub-sim01" in message
    assert "sub-sim02" in message
    assert not list((tmp_path / "out").glob("group*"))
