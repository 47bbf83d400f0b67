"""The encoding analysis on real weights: a Whisper encoder, from the command line to the report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import SHARED

from bids_speechdecode.cli import main

MODEL = SHARED / "models" / "whisper-tiny.en"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not MODEL.is_dir(), reason=f"no {MODEL.name} beside the project"),
]

# Each sample costs Whisper a pass over 30 s: two samples a second of a minute of sound.
SETTINGS = """
[encoding]
rate = 2.0
max_lag = 0.5
context = 2.0
n_folds = 3
n_permutations = 50
nuisance = ["envelope"]
[evaluation]
n_bootstrap = 50
n_permutations = 50
"""


def test_whisper_runs_from_the_sound_to_the_report(pair_dataset: Path, tmp_path: Path) -> None:
    """Tiny random models hide what real ones do: other families, norms, sizes of features.

    The sound is simulated and so are the responses: whether they are predicted is not asked.
    """
    out, config = tmp_path / "out", tmp_path / "settings.toml"
    config.write_text(SETTINGS)
    words = ["participant", "--participant-label", "sim01", "--config", str(config)]
    analysis = ["--analysis", "encoding", "--finetune-task", "podcast", "--target", "whisper"]
    model = ["--speech-model", str(MODEL), "mel", "--speech-layer", "4"]
    assert main([str(pair_dataset), str(out), *words, *analysis, *model]) == 0
    scores = pd.read_csv(
        out / "sub-sim01/ieeg/sub-sim01_task-podcast_desc-encoding_scores.tsv", sep="\t"
    )
    assert set(scores["model"]) == {"whisper-tiny.en", "mel"}
    assert np.isfinite(scores.loc[scores["model"] == "whisper-tiny.en", "r"]).all()
    features = next((out / "features").glob("*whispertinyen*_embeddings.npy"))
    assert np.load(features).shape[1] == 384
    assert (out / "sub-sim01.html").is_file()
