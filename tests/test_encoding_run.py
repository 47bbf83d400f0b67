"""Tuning and encoding through the command line: what is written, shared, skipped and resumed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bids_speechdecode.bids.files import write_tsv
from bids_speechdecode.cli import main
from bids_speechdecode.steps.encoding import score as step

ENCODING = ("--analysis", "encoding", "--finetune-task", "podcast", "--speech-layer", "3")
NO_REPORT = ("--steps", "responses,features,encode")
WINDOWS = "\n[windows]\nduration = 1.0\nstride = 1.0\n[splits]\nguard = 1.0\n"  # a minute is short
ONE = ("--participant-label", "sim01")
TABLES = (
    "encoding",
    "encodingLags",
    "encodingModulations",
    "encodingContrasts",
    "encodingElectrodeContrasts",
)


def encode(root: Path, out: Path, config: Path, *more: str) -> int:
    """Run the participant level of the first participant."""
    words = [str(root), str(out), "participant", *ONE, *ENCODING, "--config", str(config)]
    if not {"--speech-model", "--target"} & set(more):
        more = (*more, "--speech-model", "untuned", "joint")
    return main([*words, *more])


def table(out: Path, desc: str = "encoding", who: str = "sim01") -> pd.DataFrame:
    path = out / f"sub-{who}" / "ieeg" / f"sub-{who}_task-podcast_desc-{desc}_scores.tsv"
    return pd.read_csv(path, sep="\t", na_values=["n/a"])


def results(out: Path) -> dict[str, bytes]:
    """Return everything that is a result, by its name: no logs, pages or figures."""
    found = {}
    for path in sorted(out.rglob("*")):
        if path.is_file() and path.suffix in {".tsv", ".npy", ".eeg", ".safetensors", ".json"}:
            name = str(path.relative_to(out))
            if "/log/" not in name:
                found[name] = path.read_bytes()
    return found


def done(shown: str) -> set[str]:
    """Return the steps that did something, from what was shown."""
    return set(re.findall(r"^(\w+): .* done in", shown, re.M))


@pytest.fixture
def begun(pair_run: Path, tmp_path: Path) -> Path:
    """Return a copy of an output in which a model was tuned, and nothing else was done."""
    out = tmp_path / "out"
    shutil.copytree(pair_run / "speechmodels", out / "speechmodels")
    # Paths to the base model that are relative to the adapters end with another output.
    path = out / "speechmodels" / "joint" / "adapter_config.json"
    about = json.loads(path.read_text())
    base = (pair_run / "speechmodels" / "joint" / about["base_model_name_or_path"]).resolve()
    path.write_text(json.dumps(about | {"base_model_name_or_path": str(base)}))
    return out


@pytest.fixture
def finished(begun: Path, pair_dataset: Path, pair_config: Path) -> Path:
    """Return a copy of that output in which one participant was encoded, without a report."""
    assert encode(pair_dataset, begun, pair_config, *NO_REPORT) == 0
    return begun


# ------------------------------------------------------------------------ what is written


def test_what_a_run_writes(pair_run: Path) -> None:
    """Tables for everybody and the group, one row per model, band and electrode, and pages."""
    for who in ("sim01", "sim02"):
        scores = table(pair_run, who=who)
        assert list(scores["model"].unique()) == ["untuned", "joint"]
        assert not scores.duplicated(["model", "layer", "band", "name"]).any()
        assert len(scores) == 2 * 8
        assert scores["simulated"].all()
        assert scores["r"].between(-1, 1).all()
        assert scores["p"].between(round(1 / 161, 6), 1).all()
        np.testing.assert_allclose(
            scores["unique_r2"], scores["joint_r2"] - scores["nuisance_r2"], atol=2e-6
        )
        halves = (scores["lag"] / 0.025).round(3)  # the median of two lags may lie between them
        assert (halves == halves.round()).all()
        assert scores["lag"].between(-0.3, 0.3).all()
        assert all((pair_run / f"sub-{who}.html").stat().st_size for who in ("sim01", "sim02"))
    about = json.loads(
        (pair_run / "sub-sim01/ieeg/sub-sim01_task-podcast_desc-encoding_scores.json").read_text()
    )
    assert about["NoiseCeiling"].startswith("none")
    assert [m["Kind"] for m in about["Models"]] == ["untuned", "tuned"]
    assert about["Reference"] == "untuned"
    assert about["Embargo"] == pytest.approx(4.3)
    electrodes = pd.read_csv(
        pair_run / "group_task-podcast_desc-encodingElectrodes_scores.tsv", sep="\t"
    )
    assert electrodes.groupby("participant").size().to_dict() == {"sub-sim01": 16, "sub-sim02": 16}
    assert "encoding" in (pair_run / "group.html").read_text().lower()


def test_contrasts_are_differences_of_the_tables(pair_run: Path) -> None:
    """What is concluded about models must be about the numbers that readers see."""
    scores = table(pair_run).pivot_table(index="name", columns="model", values="r")
    contrasts = table(pair_run, "encodingContrasts")
    row = contrasts[(contrasts["modulation"] == "broadband") & (contrasts["electrodes"] == "all")]
    expected = (scores["joint"] - scores["untuned"]).mean()
    np.testing.assert_allclose(row["difference"], expected, atol=3e-6)
    single = table(pair_run, "encodingElectrodeContrasts").set_index("name")["difference"]
    np.testing.assert_allclose(
        single, (scores["joint"] - scores["untuned"])[single.index], atol=3e-6
    )


def test_whoever_heard_the_same_file_shares_its_features(pair_run: Path) -> None:
    """An hour of speech model per participant would be wasted otherwise."""
    files = [p.name for p in (pair_run / "features").glob("*.npy")]
    kinds = sorted(re.sub(r"[0-9a-f]{8}_embeddings.npy$", "", name) for name in files)
    stem = "simulated_podcast_desc-"
    assert kinds == [f"{stem}jointL3", f"{stem}nuisance", f"{stem}untunedL3"]
    logs = sorted((pair_run / "sub-sim02" / "log").rglob("log.txt"))
    assert "features: simulated_podcast.flac untuned skipped (current)" in logs[0].read_text()


def test_derivatives_of_encoding_are_valid_bids(pair_run: Path) -> None:
    """What a user uploads next to the dataset has to pass the validator."""
    validator = Path(sys.executable).with_name("bids-validator-deno")
    if not validator.exists():
        pytest.skip("bids-validator-deno is not installed")
    outcome = subprocess.run(
        [validator, pair_run, "--ignoreWarnings"], capture_output=True, text=True, check=False
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


def test_the_mel_spectrogram_is_a_model_too(
    finished: Path, pair_dataset: Path, pair_config: Path
) -> None:
    """The baseline that every speech model must beat; by either spelling it is the same."""
    models = ("--speech-model", "joint", "mel")
    assert encode(pair_dataset, finished, pair_config, *NO_REPORT, *models) == 0
    beside = table(finished)
    assert list(beside["model"].unique()) == ["joint", "mel"]
    assert encode(pair_dataset, finished, pair_config, *NO_REPORT, "--target", "mel") == 0
    alone = table(finished)
    assert list(alone["model"].unique()) == ["mel"]
    columns = ["name", "r", "r2", "lag", "unique_r2"]
    mel = beside[beside["model"] == "mel"].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone[columns], mel[columns])
    assert table(finished, "encodingContrasts").empty
    group = [str(pair_dataset), str(finished), "group", "--analysis", "encoding", *ONE]
    assert main(group) == 0  # one model, no contrast: nothing to compare is no failure
    assert not list(finished.glob("group*encodingContrasts*"))


# -------------------------------------------------------------------- again, and resumed


def test_a_second_run_does_nothing(
    finished: Path, pair_dataset: Path, pair_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Jobs are resubmitted; nothing may be computed twice, nor change under a reader's hands."""
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*desc-enc*") if p.is_file()}
    before |= {p: p.stat().st_mtime_ns for p in finished.rglob("*.npy")}
    before |= {p: p.stat().st_mtime_ns for p in finished.rglob("*_ieeg.eeg")}
    capsys.readouterr()
    assert encode(pair_dataset, finished, pair_config, *NO_REPORT) == 0
    assert not done(capsys.readouterr().err)
    assert len(before) == 2 * len(TABLES) + 3 + 1
    assert {p: p.stat().st_mtime_ns for p in before} == before
    model = str(pair_dataset / "sourcedata" / "simulation" / "speech_model")
    tuning = ("--analysis", "fmri-tuning", "--speech-model", model, "--speech-layer", "3")
    words = [str(pair_dataset), str(finished), "participant", *tuning]
    assert main([*words, "--config", str(pair_config)]) == 0
    assert not done(capsys.readouterr().err)


@pytest.mark.parametrize("after", [1, 4])
def test_interrupted_and_resumed_equals_uninterrupted(
    begun: Path,
    tmp_path: Path,
    pair_dataset: Path,
    pair_config: Path,
    monkeypatch: pytest.MonkeyPatch,
    after: int,
) -> None:
    """A job that is stopped between two tables must not leave half of them for complete."""
    whole = Path(shutil.copytree(begun, tmp_path / "whole"))
    assert encode(pair_dataset, whole, pair_config, *NO_REPORT) == 0
    written: list[Path] = []

    def stop(path: Path, content: pd.DataFrame) -> None:
        if len(written) == after:
            raise KeyboardInterrupt
        write_tsv(path, content)
        written.append(path)

    with monkeypatch.context() as patch:
        patch.setattr(step, "write_tsv", stop)
        assert encode(pair_dataset, begun, pair_config, *NO_REPORT) == 130
    assert len(written) == after
    assert not list(begun.rglob("*_desc-encoding_scores.*"))
    assert encode(pair_dataset, begun, pair_config, *NO_REPORT) == 0
    assert results(begun) == results(whole)


def test_old_tables_do_not_pass_for_new_ones(
    finished: Path, pair_dataset: Path, pair_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped while other settings overwrite tables, the old settings are not current either."""
    before = results(finished)
    other = pair_config.with_name("other.toml")
    other.write_text(pair_config.read_text().replace("max_lag = 0.3", "max_lag = 0.1"))

    def stop(path: Path, content: pd.DataFrame) -> None:
        write_tsv(path, content)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(step, "write_tsv", stop)
        assert encode(pair_dataset, finished, other, *NO_REPORT) == 130
    assert encode(pair_dataset, finished, pair_config, *NO_REPORT) == 0
    assert results(finished) == before


def test_a_table_that_was_deleted_is_made_again(
    finished: Path, pair_dataset: Path, pair_config: Path
) -> None:
    """Otherwise the group would leave the participant out, and say to run what does nothing."""
    before = results(finished)
    (path,) = finished.rglob("*desc-encodingLags_scores.tsv")
    path.unlink()
    assert encode(pair_dataset, finished, pair_config, *NO_REPORT) == 0
    assert results(finished) == before


@pytest.mark.parametrize(
    ("pattern", "step_of_it"),
    [
        ("*_desc-highgamma_ieeg.eeg", "responses"),
        ("*_desc-highgamma_ieeg.vhdr", "responses"),
        ("*_desc-joint*_embeddings.npy", "features"),
        ("*_desc-nuisance*_embeddings.npy", "features"),
        ("*_desc-encodingLags_scores.tsv", "encode"),
    ],
)
def test_what_was_cut_short_is_made_again(
    finished: Path,
    pair_dataset: Path,
    pair_config: Path,
    capsys: pytest.CaptureFixture[str],
    pattern: str,
    step_of_it: str,
) -> None:
    """Half a file must neither be used nor end in a traceback."""
    (path,) = finished.rglob(pattern)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    capsys.readouterr()
    assert encode(pair_dataset, finished, pair_config, *NO_REPORT) == 0
    assert done(capsys.readouterr().err) == {step_of_it}
    assert path.read_bytes() == whole


def test_half_a_file_is_not_used_by_a_later_step(
    finished: Path, pair_dataset: Path, pair_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Steps may run as jobs of their own, each on what others left."""
    (path,) = finished.rglob("*_desc-joint*_embeddings.npy")
    path.write_bytes(path.read_bytes()[:-4])
    other = ("--steps", "encode", "--seed", "5")
    assert encode(pair_dataset, finished, pair_config, *other) == 65
    shown = capsys.readouterr().err
    assert "results of step 'features' are damaged" in shown
    assert path.name in shown
    assert "--steps features" in shown


@pytest.mark.parametrize("level", ["participant", "group"])
def test_half_a_table_is_neither_reported_nor_averaged(
    finished: Path,
    pair_dataset: Path,
    pair_config: Path,
    capsys: pytest.CaptureFixture[str],
    level: str,
) -> None:
    """A table that ends in the middle of its rows still looks like one."""
    (path,) = finished.rglob("*_desc-encodingLags_scores.tsv")
    rows = path.read_text().splitlines(keepends=True)
    path.write_text("".join(rows[: len(rows) // 2]))
    more = ("--reports-only",) if level == "participant" else ()
    words = [str(pair_dataset), str(finished), level, *ENCODING, *ONE, *more]
    assert main([*words, "--config", str(pair_config)]) == 65
    shown = capsys.readouterr().err
    assert "damaged" in shown
    assert str(path) in shown
    assert "unexpected" not in shown


@pytest.mark.parametrize(
    ("old", "new", "options", "steps"),
    [
        ("n_permutations = 50\nmax_lag", "n_permutations = 60\nmax_lag", (), {"encode"}),
        ("n_bootstrap = 50\nn_perm", "n_bootstrap = 50\nblock = 20.0\nn_perm", (), {"encode"}),
        ("50\n\n[evaluation]", "50\n\n[evaluation]", ("--seed", "5"), {"encode"}),
        ("max_lag = 0.3", "max_lag = 0.2", (), {"encode"}),
        ("max_lag", "high_gamma = [70, 120]\nmax_lag", (), {"responses", "encode"}),
        ("max_lag", "max_lag", ("--reference", "none"), {"responses", "encode"}),
        ("max_lag", "context = 2.0\nmax_lag", (), {"features", "encode"}),
        ('["envelope", "onsets"]', '["envelope"]', (), {"features", "encode"}),
        ("max_lag", "rate = 10.0\nmax_lag", (), {"responses", "features", "encode"}),
    ],
)
def test_a_changed_setting_redoes_what_depends_on_it(
    finished: Path,
    tmp_path: Path,
    pair_dataset: Path,
    pair_config: Path,
    capsys: pytest.CaptureFixture[str],
    old: str,
    new: str,
    options: tuple[str, ...],
    steps: set[str],
) -> None:
    """Less would be wrong results, more would be hours of a speech model for nothing."""
    config = tmp_path / "changed.toml"
    config.write_text(pair_config.read_text().replace(old, new))
    capsys.readouterr()
    assert encode(pair_dataset, finished, config, *NO_REPORT, *options) == 0
    assert done(capsys.readouterr().err) == steps


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: re.sub(r"^(\d+\.\d+)", lambda m: f"{float(m[1]) + 0.2:.4f}", text, flags=re.M),
        lambda text: text + "40\t5\tBAD_seizure\tn/a\tn/a\tn/a\n",
    ],
    ids=["the sound began later", "an artifact was marked"],
)
def test_corrected_events_are_encoded_again(
    finished: Path,
    tmp_path: Path,
    pair_dataset: Path,
    pair_config: Path,
    capsys: pytest.CaptureFixture[str],
    edit: Callable[[str], str],
) -> None:
    """A corrected onset moves every response against the sound, though no signal changed."""
    root = Path(shutil.copytree(pair_dataset, tmp_path / "data"))
    assert encode(root, finished, pair_config, *NO_REPORT) == 0
    before = table(finished)
    path = root / "sub-sim01" / "ieeg" / "sub-sim01_task-podcast_events.tsv"
    text = path.read_text()
    path.write_text(edit(text))
    assert path.read_text() != text
    capsys.readouterr()
    assert encode(root, finished, pair_config, *NO_REPORT) == 0
    assert done(capsys.readouterr().err) == {"encode"}
    assert not np.allclose(table(finished)["r"], before["r"])


def test_what_decoding_left_out_may_be_encoded(
    finished: Path, pair_dataset: Path, pair_config: Path
) -> None:
    """Both analyses share an output; a task that the one has no use for is the other's data."""
    path = finished / "sub-sim01" / "ieeg" / "sub-sim01_desc-plan_windows.json"
    left_out = [{"what": "sub-sim01_task-podcast", "why": "task 'podcast' is not used"}]
    path.write_text(json.dumps({"left_out": left_out}))
    assert encode(pair_dataset, finished, pair_config, *NO_REPORT) == 0


# ------------------------------------------------------------------ steps and dry runs


def test_steps_one_by_one(
    begun: Path,
    tmp_path: Path,
    pair_dataset: Path,
    pair_config: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Clusters run each step as a job of its own; out of order, each says what it lacks."""
    whole = Path(shutil.copytree(begun, tmp_path / "whole"))
    assert encode(pair_dataset, whole, pair_config, *NO_REPORT) == 0
    for lacking in ("responses", "features"):
        assert encode(pair_dataset, begun, pair_config, "--steps", "encode") == 66
        shown = capsys.readouterr().err
        assert f"step '{lacking}' are missing" in shown
        assert f"--steps {lacking}" in shown
        assert encode(pair_dataset, begun, pair_config, "--steps", lacking) == 0
        assert done(capsys.readouterr().err) == {lacking}
    assert encode(pair_dataset, begun, pair_config, "--steps", "encode") == 0
    assert results(begun) == results(whole)
    other = tmp_path / "other.toml"
    other.write_text(pair_config.read_text().replace("max_lag", "context = 2.0\nmax_lag"))
    assert encode(pair_dataset, begun, other, "--steps", "encode") == 66
    assert "--steps features" in capsys.readouterr().err


def test_only_the_report(
    finished: Path, pair_dataset: Path, pair_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A page can be drawn anew from what is there, without the model."""
    shutil.rmtree(finished / "speechmodels")
    assert encode(pair_dataset, finished, pair_config, "--reports-only") == 0
    assert (finished / "sub-sim01.html").exists()
    assert re.search(r"untuned +3 +highgamma +8 ", capsys.readouterr().out)


@pytest.mark.parametrize("analysis", ["decoding", "encoding"])
def test_a_report_of_nothing_is_an_error(
    tmp_path: Path, pair_dataset: Path, capsys: pytest.CaptureFixture[str], analysis: str
) -> None:
    """A mistyped output folder would else get an empty page, and success."""
    config = tmp_path / "windows.toml"
    config.write_text(WINDOWS)
    words = [str(pair_dataset), str(tmp_path / "out"), "participant", "--analysis", analysis]
    task = ["--pretrain-task", "none", "--task-label", "podcast", "--config", str(config)]
    assert main([*words, *task, *ONE, "--reports-only"]) == 66
    shown = capsys.readouterr().err
    assert "nothing to report of sub-sim01" in shown
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("analysis", ["decoding", "encoding", "fmri-tuning"])
def test_a_dry_run_says_what_would_be_used_and_writes_nothing(
    tmp_path: Path, pair_dataset: Path, capsys: pytest.CaptureFixture[str], analysis: str
) -> None:
    """The first command on a new dataset; it must neither fail nor leave anything behind."""
    config = tmp_path / "windows.toml"
    config.write_text(WINDOWS)
    model = str(pair_dataset / "sourcedata" / "simulation" / "speech_model")
    options = {
        "decoding": ("--pretrain-task", "none", "--finetune-task", "podcast"),
        "encoding": ("--finetune-task", "podcast"),
        "fmri-tuning": (),
    }[analysis]
    words = [str(pair_dataset), str(tmp_path / "out"), "participant", "--analysis", analysis]
    models = ("--target", "wavlm", "--speech-model", model, "--speech-layer", "3")
    assert main([*words, *options, *models, "--config", str(config), "--dry-run"]) == 0
    shown = "".join(capsys.readouterr())
    said = {
        "decoding": ("windows of task podcast", "channels: 8 used"),
        "encoding": (f"speech_model: {model}, layer 3", "highgamma", "simulated_podcast.flac"),
        "fmri-tuning": ("functional runs: 4, participants: 1", "joint", "would be tuned"),
    }[analysis]
    for words in said:
        assert words in shown
    assert "windows of task" not in shown or analysis == "decoding"
    assert list(tmp_path.iterdir()) == [config]


# ------------------------------------------------------- a tuned model in later runs


def test_a_tuned_model_is_decoded_with(
    begun: Path, tmp_path: Path, pair_dataset: Path, pair_config: Path
) -> None:
    """The tuned adapter serves decoding too, by its label in this output or by its folder."""
    config = pair_config.with_name("windows.toml")
    config.write_text(pair_config.read_text() + WINDOWS)
    target = ("--target", "wavlm", "--speech-layer", "3", "--config", str(config))
    task = ("--pretrain-task", "none", "--finetune-task", "podcast", *ONE)
    steps = ("--steps", "preprocess,features", "--speech-model")
    words = ["participant", *task, *target, *steps]
    assert main([str(pair_dataset), str(begun), *words, "joint"]) == 0
    folder = begun / "speechmodels" / "joint"
    for model in (folder, pair_dataset / "sourcedata" / "simulation" / "speech_model"):
        assert main([str(pair_dataset), str(tmp_path / "other"), *words, str(model)]) == 0
    (by_label,) = (begun / "features").glob("*.npy")
    tuned = tmp_path / "other" / "features" / by_label.name
    assert tuned.read_bytes() == by_label.read_bytes()
    (untuned,) = (p for p in tuned.parent.glob("*.npy") if p != tuned)
    difference = np.load(untuned) - np.load(tuned)
    assert 0 < np.abs(difference).max() < np.abs(np.load(untuned)).max()


@pytest.mark.slow
def test_all_of_decoding_with_a_tuned_model(
    begun: Path, pair_dataset: Path, quick_config: Path
) -> None:
    """From the preprocessed signal to the report, not only up to the targets."""
    config = begun / "windows.toml"
    config.write_text(quick_config.read_text() + WINDOWS)
    words = ["--target", "wavlm", "--speech-layer", "3", "--speech-model", "joint", *ONE]
    task = ["--pretrain-task", "none", "--finetune-task", "podcast"]
    options = [*words, *task, "--encoder", "small", "--config", str(config)]
    assert main([str(pair_dataset), str(begun), "participant", *options]) == 0
    assert list(begun.rglob("*desc-conditions_scores.tsv"))


def test_a_folder_with_adapters_of_another_output_is_known_as_tuned(
    finished: Path, tmp_path: Path, pair_dataset: Path, pair_config: Path
) -> None:
    """Models tuned once are used for several datasets; tables must not call them untuned."""
    before = table(finished)
    moved = tmp_path / "elsewhere" / "joint"
    shutil.copytree(finished / "speechmodels" / "joint", moved)
    shutil.rmtree(finished / "speechmodels")
    models = ("--speech-model", "untuned", str(moved))
    assert encode(pair_dataset, finished, pair_config, *NO_REPORT, *models) == 0
    assert list(table(finished)["model"].unique()) == ["untuned", "joint"]
    (path,) = finished.rglob("*_desc-encoding_scores.json")
    kinds = [m["Kind"] for m in json.loads(path.read_text())["Models"]]
    assert kinds == ["untuned", "tuned"]
    np.testing.assert_array_equal(before["r"], table(finished)["r"])


def test_a_real_process_does_the_same(begun: Path, pair_dataset: Path, pair_config: Path) -> None:
    """The installed command as people type it, lists before the positional arguments or after."""
    command = [str(Path(sys.executable).with_name("bids_speechdecode"))]
    words = [str(pair_dataset), str(begun), "participant", "--participant-label", "sim02"]
    models = ["--speech-model", "untuned", "tuned", "--speech-layer", "3"]
    task = ["--analysis", "encoding", "--finetune-task", "podcast", "--config", str(pair_config)]
    outcome = subprocess.run(
        [*command, *words, *task, *models, *NO_REPORT],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert outcome.returncode == 0, outcome.stderr
    assert set(table(begun, who="sim02")["model"]) == {"untuned", "joint"}
