"""Controls on simulated contacts that follow loudness alone, or the spectrum, too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from known_truth import run_experiments

from bids_speechdecode.bids.sidecars import read_sidecar, read_table
from bids_speechdecode.cli import main
from bids_speechdecode.steps.experiments.controls import ASIDE

# Long enough that most windows can be matched, and small enough for a test.
SIZES = {
    "ambient_runs": 0,
    "audiobook_minutes": 40.0,
    "chapters": 2,
    "best_correlation": 0.6,
    "seed": 7,
}
SETTINGS = """
[inputs]
pretrain_task = "none"
[target]
name = "mel"
pooling = "frames"
[encoder]
kind = "linear"
[finetune]
max_epochs = 15
patience = 8
[splits]
test_fraction = 0.4
[evaluation]
n_bootstrap = 500
n_permutations = 500
[experiments]
seeds = 2
"""


def run_controls(
    folder: Path, *, loudness_only: bool, seed: int = 7
) -> tuple[pd.DataFrame, list[str]]:
    """Return the findings of the experiment on a simulated participant, by name."""
    truth = {**SIZES, "loudness_only": loudness_only, "seed": seed}
    made = run_experiments(folder, "controls", SETTINGS, **truth)
    (path,) = made.glob("*_desc-controlsFindings_scores.tsv")
    (cells,) = made.glob("*_desc-controls_scores.tsv")
    return read_table(path).set_index("name"), read_sidecar(cells)["Text"]


@pytest.fixture(scope="module")
def loud(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, list[str]]:
    return run_controls(tmp_path_factory.mktemp("loud"), loudness_only=True)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, list[str]]:
    return run_controls(tmp_path_factory.mktemp("plain"), loudness_only=False)


@pytest.mark.slow
def test_loudness_is_exposed(loud: tuple[pd.DataFrame, list[str]]) -> None:
    """Contacts that follow loudness alone: a good rank, and most of it goes without."""
    findings, text = loud
    assert findings.loc["the model", "effect"] < -0.1
    assert findings.loc["the model", "p"] <= 0.05
    assert findings.loc["loudness alone", "p"] <= 0.05
    remains = findings.loc["without loudness", "effect"] / findings.loc["the model", "effect"]
    assert remains < 0.15
    assert any("and of the signal" in sentence for sentence in text)
    # A name that no finding has would put nothing aside.
    assert ASIDE - set(findings.index) == {"windows with speech of ambient recordings"}


@pytest.mark.slow
def test_nothing_remains_of_loudness_over_simulations(
    loud: tuple[pd.DataFrame, list[str]], tmp_path: Path
) -> None:
    """One simulation is one draw: over three, what remains must not be told from a twentieth.

    Not from nothing: contacts hear the sound with the echoes of a room, candidates are without.
    """
    found = [loud[0]]
    for seed in (8, 9):
        found.append(run_controls(tmp_path / str(seed), loudness_only=True, seed=seed)[0])
    gains = np.array([each.loc["the model", "effect"] for each in found])
    without = pd.DataFrame([each.loc["without loudness"] for each in found])
    shares = (without["effect"] / gains).to_numpy(float)
    errors = ((without["ci_high"] - without["ci_low"]) / 3.92 / -gains).to_numpy(float)
    low = shares.mean() - 1.96 * np.sqrt((errors**2).sum()) / len(shares)
    assert low < 0.05
    assert shares.max() < 0.15
    assert (without["p"] > 0.01).all()


@pytest.mark.slow
def test_spectrum_remains(
    loud: tuple[pd.DataFrame, list[str]], plain: tuple[pd.DataFrame, list[str]]
) -> None:
    """Contacts that follow the spectrum, too: some of the rank is more than loudness."""
    findings, text = plain
    assert findings.loc["without loudness", "p"] <= 0.05
    assert findings.loc["without loudness", "ci_high"] < loud[0].loc["without loudness", "ci_low"]
    assert any("What remains is more than" in sentence for sentence in text)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["shuffled pairing", "time-shifted pairing"])
def test_wrong_pairs_teach_nothing(
    name: str, loud: tuple[pd.DataFrame, list[str]], plain: tuple[pd.DataFrame, list[str]]
) -> None:
    """Were they better than chance, the test would leak."""
    for findings, _ in (loud, plain):
        assert findings.loc[name, "p"] > 0.01 or findings.loc[name, "effect"] > 0
        assert abs(findings.loc[name, "effect"]) < 0.05


@pytest.mark.slow
def test_controls_follow_pretraining_and_are_kept(
    tiny_dataset: Path, quick_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A control that starts from a truly paired encoder would have learnt what it must not."""
    out = tmp_path / "out"
    config = tmp_path / "quick.toml"
    config.write_text(quick_config.read_text() + "\n[experiments]\nseeds = 1\n")
    command = [str(tiny_dataset), str(out), "participant", "--participant-label", "sim01"]
    steps = "preprocess,features,select,experiments,report"
    command += ["--config", str(config), "--experiments", "controls", "--steps", steps]
    assert main(command) == 0
    (path,) = out.rglob("*_desc-controls_scores.tsv")
    cells = read_table(path)
    assert set(cells["model"]) == {"own", "shuffled", "shifted", "random", "energy", "pretrained"}
    assert set(cells["tested"]) == {"task", "ambient"}
    models = {path.name for path in (out / "experiments").rglob("*_model.safetensors")}
    # Of the truth, energy and both pairings: an encoder each.
    assert sum("pretrained" in name for name in models) == 4
    assert "Rank of every control" in (out / "sub-sim01.html").read_text()
    capsys.readouterr()
    assert main(command) == 0
    assert "all current" in capsys.readouterr().err
