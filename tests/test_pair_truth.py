"""Tuning against the truth of the simulated pair, through the command line.

What was found with these commands is in docs/simulation.md.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from bids_speechdecode.cli import main
from bids_speechdecode.simulate import simulate_dataset

pytest.importorskip("espeakng_loader", reason="the synthesiser is in the extra [demo]")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

# Six passes at the higher of the published learning rates: what minutes allow.
SETTINGS = "[fmri]\nepochs = 6\nlearning_rate = 5e-4\nn_validation = 1\n"
LAYER = ["--speech-layer", "3"]


def _contrasts(folder: Path, latent: str, *control: str) -> pd.DataFrame:
    """Simulate, tune, encode and compare; return the contrasts over participants."""
    data, out, config = folder / "bids", folder / "out", folder / "tuning.toml"
    simulate_dataset(data, preset="encoding", latent=latent)
    config.write_text(SETTINGS)
    tuning = ["--analysis", "fmri-tuning", "--config", str(config), *LAYER, *control]
    base = ["--speech-model", str(data / "sourcedata/simulation/speech_model")]
    encoding = ["--analysis", "encoding"]
    models = ["--task-label", "podcast", "--speech-model", "untuned", "tuned", *LAYER]
    assert main([str(data), str(out), "participant", *tuning, *base]) == 0
    assert main([str(data), str(out), "participant", *encoding, *models]) == 0
    assert main([str(data), str(out), "group", *encoding]) == 0
    table = pd.read_csv(out / "group_task-podcast_desc-encodingContrasts_scores.tsv", sep="\t")
    shown = table[(table["modulation"] == "broadband") & (table["reference"] == "untuned")]
    return shown.set_index(["model", "electrodes"])


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Features that lie only partly in what the untuned model says, and a control."""
    return _contrasts(tmp_path_factory.mktemp("planted"), "planted", "--control", "phase")


@pytest.mark.parametrize("electrodes", ["responsive", "all"])
def test_tuning_finds_what_is_planted(planted: pd.DataFrame, electrodes: str) -> None:
    """Tuned on BOLD of other people, the model predicts iEEG better: the point of it all."""
    found = planted.loc[("joint", electrodes)]
    assert found["difference"] > 0
    assert found["p"] < 0.05


@pytest.mark.parametrize("electrodes", ["responsive", "all"])
def test_bold_of_random_phases_teaches_nothing(planted: pd.DataFrame, electrodes: str) -> None:
    """A gain from any tuning whatever would not be a gain from fMRI."""
    control = planted.loc[("joint_control-phase", electrodes)]
    assert not (control["difference"] > 0 and control["p"] < 0.05)
    assert control["difference"] < planted.loc[("joint", electrodes), "difference"]


def test_nothing_is_found_where_nothing_is(tmp_path: Path) -> None:
    """Where brains follow what the untuned model says already, tuning has nothing to give."""
    found = _contrasts(tmp_path, "untuned").loc["joint"]
    assert not ((found["difference"] > 0) & (found["p"] < 0.05)).any()
