"""What group tables must not claim: coverage, findings and signs that nobody measured."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd

from bids_speechdecode.anatomy.atlas import load_atlas
from bids_speechdecode.bids.derivatives import Derivatives
from bids_speechdecode.config import EvaluationConfig
from bids_speechdecode.group.contributions import Contributions
from bids_speechdecode.group.dseg import write_dseg
from bids_speechdecode.group.parcels import parcel_table, write_parcels
from bids_speechdecode.group.regions import compare_regions

SETTINGS = EvaluationConfig(n_bootstrap=200, n_permutations=200)


def contacts_of(values):
    rows = [
        {"participant": who, "label": label, "hemisphere": "L", "contribution": value}
        for who, label, value in values
    ]
    return pd.DataFrame(rows)


def test_participants_without_labels_are_not_counted_as_elsewhere(tmp_path):
    # Their electrodes may lie in any parcel: coverage is of those of whom it is known.
    contacts = contacts_of(
        [("sub-1", "insula", 0.1), ("sub-2", "cuneus", 0.1), ("sub-3", None, 0.1)]
    )
    table = parcel_table(contacts, SETTINGS, np.random.default_rng(0))
    assert table["coverage"].tolist() == [0.5, 0.5]
    assert table["conclusion"].tolist() == ["seen in 1 of 2 participants: not tested"] * 2
    source = tmp_path / "source.tsv"
    source.write_text("x")
    found = Contributions("story", contacts, "finetuned", "dk", True, (), (source,))
    out = Derivatives(tmp_path / "out", source=tmp_path, command="", simulated=True)
    notes = json.loads(
        write_parcels(out, found, table, SETTINGS)[0].with_suffix(".json").read_text()
    )
    assert notes["Notes"][1].endswith("not counted in the coverage: sub-3.")


def test_regions_that_could_not_be_found_say_so():
    # With 5 participants and few draws the smallest p of the bootstrap is above 0.05, however
    # large the difference.
    values = [
        (f"sub-{i}", label, value + 0.001 * i)
        for i in range(5)
        for label, value in (("insula", 0.5), ("cuneus", 0.0))
    ]
    row = compare_regions(contacts_of(values), SETTINGS, np.random.default_rng(0)).iloc[0]
    assert row["p_min"] > 0.05
    assert row["conclusion"].startswith("Nothing could have been found with n = 5")
    assert "alone" not in row["conclusion"]


def test_contributions_that_cancel_are_zero():
    # 0.1 + 0.2 - 0.3 is 5.6e-17 in floating point; that is no direction, and "-0.0" neither.
    values = [("sub-1", "insula", v) for v in (0.1, 0.2, -0.3)] + [("sub-1", "cuneus", -0.0)]
    table = parcel_table(contacts_of(values), SETTINGS, np.random.default_rng(0))
    assert [str(value) for value in table["mean"]] == ["0.0", "0.0"]


def test_indices_of_the_atlas_stay_integers(tmp_path):
    # BIDS defines the column as an integer; a description without a format would make it text.
    out = Derivatives(tmp_path / "out", source=tmp_path, command="", simulated=True)
    sidecar = json.loads(write_dseg(out, load_atlas()).with_suffix(".json").read_text())
    assert sidecar["index"]["Format"] == "integer"
