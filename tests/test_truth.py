"""Contributions and maps against the truth of the simulated dataset, through the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from bids_speechdecode.cli import main
from bids_speechdecode.group.contributions import read_contributions
from bids_speechdecode.group.maps import find_peak, smooth_volume
from bids_speechdecode.simulate import simulate_dataset
from bids_speechdecode.simulate.anatomy import hearing_weight

pytest.importorskip("espeakng_loader", reason="the synthesiser is in the extra [demo]")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

PARTICIPANTS = ("sim01", "sim02")
SMALL_MEL = ["--target", "mel", "--pooling", "frames", "--encoder", "small"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two participants of the demo, its strength of response, and four times its story.

    The study that the method comes from has stories of 43 to 250 minutes; with the demo's 24, the
    test windows are too few to tell every contact (see docs/simulation.md).
    """
    out = tmp_path_factory.mktemp("truth") / "bids"
    return simulate_dataset(out, preset="demo", days=2, ambient_runs=0, audiobook_minutes=96)


@pytest.fixture(scope="module")
def derivatives(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("truth")
    out, config = folder / "derivatives", folder / "linear.toml"
    # The simulated responses are linear, and without pretraining this encoder finds them best.
    config.write_text('[contributions]\nmodel = "linear"\n')
    command = [str(dataset), str(out)]
    words = ["--pretrain-task", "none", "--config", str(config), *SMALL_MEL]
    assert main([*command, "participant", *words]) == 0
    assert main([*command, "group", *SMALL_MEL]) == 0
    return out


def _contributions(dataset: Path, derivatives: Path, participant: str) -> pd.DataFrame:
    """Return the contributions with the planted weight of each contact."""
    path = derivatives / f"sub-{participant}/ieeg"
    table = pd.read_csv(
        path / f"sub-{participant}_task-audiobook_desc-contrib_channels.tsv", sep="\t"
    )
    truth = dataset / f"sourcedata/simulation/sub-{participant}_simulated_contacts.tsv"
    return table.merge(pd.read_csv(truth, sep="\t")[["name", "weight"]], on="name")


@pytest.mark.parametrize("participant", PARTICIPANTS)
def test_contributions_find_the_contacts_that_hear(
    dataset: Path, derivatives: Path, participant: str
) -> None:
    """What the report draws first must be right where the truth is known.

    Deaf contacts may contribute, too, because they share noise with those that hear and help to
    remove it. That p is uniform where nothing is shared is tested in test_contributions.
    """
    table = _contributions(dataset, derivatives, participant)
    hears = table["weight"] > 0
    assert 5 < hears.sum() < len(table) - 5
    assert roc_auc_score(hears, table["contribution"]) >= 0.9
    assert roc_auc_score(hears, table["margin_contribution"]) >= 0.9
    assert (table.loc[hears, "q"] <= 0.05).any()


@pytest.mark.parametrize("participant", PARTICIPANTS)
def test_shafts_that_hear_are_told_from_those_that_do_not(
    dataset: Path, derivatives: Path, participant: str
) -> None:
    """A shaft can matter when no single contact does; a deaf one must not."""
    table = _contributions(dataset, derivatives, participant)
    shafts = table.groupby("group").agg(
        hears=("weight", "max"), p=("shaft_p", "first"), effect=("shaft_contribution", "first")
    )
    assert (shafts.loc[shafts["hears"] > 0.5, "p"] <= 0.05).all()
    assert roc_auc_score(shafts["hears"] > 0.5, shafts["effect"]) == 1.0


def test_the_group_map_peaks_where_the_simulated_brain_hears(derivatives: Path) -> None:
    """The map is what a paper shows: its peak must lie in the planted region."""
    found = read_contributions(derivatives, PARTICIPANTS, "audiobook")
    place, value = find_peak(smooth_volume(found.contacts))
    assert value > 0
    assert hearing_weight(np.asarray(place, dtype=float)) > 0  # 0 outside of that region
