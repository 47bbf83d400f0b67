"""Contributions of parcels and regions: participants are the evidence, electrodes are not."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from bids_speechdecode.bids.derivatives import Derivatives
from bids_speechdecode.bids.files import write_json, write_tsv
from bids_speechdecode.bids.sidecars import read_sidecar, read_table
from bids_speechdecode.config import EvaluationConfig
from bids_speechdecode.errors import DataError, MissingInputError
from bids_speechdecode.group.contributions import (
    list_contribution_tasks,
    read_contributions,
    why_stale,
    write_contacts,
)
from bids_speechdecode.group.parcels import (
    average_by_parcel,
    min_participants,
    parcel_table,
    write_parcels,
)
from bids_speechdecode.group.regions import (
    compare_regions,
    hierarchical_bootstrap,
    interval_and_p,
    write_regions,
)

SETTINGS = EvaluationConfig(n_bootstrap=1000, n_permutations=1000)


def contacts_of(values: dict[tuple[str, str, str], list[float]]) -> pd.DataFrame:
    """Return a table from (participant, label, hemisphere) to the contributions of its contacts."""
    rows = [
        {"participant": who, "label": label or None, "hemisphere": side, "contribution": value}
        for (who, label, side), several in values.items()
        for value in several
    ]
    return pd.DataFrame(rows)


def make_participant(root, participant, contributions, task="audiobook", sidecar=None, **columns):
    """Write a participant's table of contributions as the participant level does."""
    out = Derivatives(root, source=root / "in", command="", simulated=True)
    n = len(contributions)
    table = pd.DataFrame(
        {
            "name": [f"A{i + 1}" for i in range(n)],
            "group": "1",
            "x": -50.0,
            "y": -20.0,
            "z": 8.0,
            "space": "MNI152",
            "label": "superiortemporal",
            "hemisphere": "L",
            "contribution": contributions,
        }
    ).assign(**columns)
    path = out.path(participant, task=task, desc="contrib", suffix="channels", extension=".tsv")
    write_tsv(path, table)
    facts = {"Model": "finetuned", "Atlas": "desikan-killiany", "Simulated": True}
    facts |= {"SelectedSignature": "s", "ModelSignature": "m", **(sidecar or {})}
    write_json(path.with_suffix(".json"), facts)
    for desc, suffix, signed in (("selected", "channels", "s"), (facts["Model"], "model", "m")):
        beside = out.path(participant, task=task, desc=desc, suffix=suffix, extension=".json")
        write_json(beside, {"Signature": signed})
    return out


def rng(seed=0):
    return np.random.default_rng(seed)


# ------------------------------------------------------------------------------- reading


def test_all_electrodes_of_all_participants(tmp_path):
    # The group table is the participants' tables and nothing else; who is missing is named.
    out = make_participant(tmp_path, "01", [0.1, 0.2])
    make_participant(tmp_path, "02", [0.3, np.nan], label=[None, "insula"])
    found = read_contributions(tmp_path, ["01", "02", "03"], "audiobook")
    assert list(found.contacts.columns[:2]) == ["participant", "name"]
    assert found.participants == ("sub-01", "sub-02")
    assert found.contacts["contribution"].tolist() == [0.1, 0.2, 0.3]
    assert found.contacts["group"].tolist() == ["1"] * 3
    assert (found.model, found.atlas, found.simulated) == ("finetuned", "desikan-killiany", True)
    assert [item.what for item in found.left_out] == ["sub-02", "sub-03"]
    assert "1 of its 2" in found.left_out[0].why
    again = read_table(write_contacts(out, found))
    assert again["contribution"].tolist() == [0.1, 0.2, 0.3]
    assert list_contribution_tasks(tmp_path, ["01", "02", "03"]) == ("audiobook",)


@pytest.mark.parametrize(
    ("key", "value"), [("Model", "taskonly"), ("Atlas", "mine"), ("Simulated", False)]
)
def test_different_measures_are_not_averaged(tmp_path, key, value):
    # The mean of contributions to two models, or of labels of two atlases, would mean nothing.
    make_participant(tmp_path, "01", [0.1])
    make_participant(tmp_path, "02", [0.1], sidecar={key: value})
    with pytest.raises(DataError, match=f"the same {key.lower()}") as error:
        read_contributions(tmp_path, ["01", "02"], "audiobook")
    assert "sub-01" in str(error.value)
    assert "sub-02" in str(error.value)


def test_the_target_is_what_it_means_not_how_it_was_computed(tmp_path):
    # Another batch size is the same measure; another layer is not.
    for label, size, layer in (("01", 8, 9), ("02", 4, 9), ("03", 8, 19)):
        target = {"name": "wavlm", "layer": layer, "pooling": "mean", "batch_size": size}
        make_participant(tmp_path, label, [0.1], sidecar={"Target": target})
    assert len(read_contributions(tmp_path, ["01", "02"], "audiobook").participants) == 2
    with pytest.raises(DataError, match="wavlm 19 mean: sub-03"):
        read_contributions(tmp_path, ["01", "03"], "audiobook")


def test_broken_tables_leave_out_their_participant_only(tmp_path):
    # One broken participant must not stop the others, and must not vanish silently either.
    out = make_participant(tmp_path, "01", [0.1])
    make_participant(tmp_path, "02", ["much"])
    make_participant(tmp_path, "03", [0.1, 0.2], name="A1")
    make_participant(tmp_path, "05", [])
    path = out.path("04", task="audiobook", desc="contrib", suffix="channels", extension=".tsv")
    make_participant(tmp_path, "04", [0.1])
    facts = read_sidecar(path)
    write_tsv(path, pd.DataFrame({"name": ["A1"]}))
    write_json(path.with_suffix(".json"), facts)
    found = read_contributions(tmp_path, ["01", "02", "03", "04"], "audiobook")
    assert found.participants == ("sub-01",)
    why = {item.what: item.why for item in found.left_out}
    assert "holds text" in why["sub-02"]
    assert "two rows" in why["sub-03"]
    assert "no x, y, z" in why["sub-04"]
    with pytest.raises(MissingInputError, match="no contributions"):
        read_contributions(tmp_path, ["02", "05", "09"], "audiobook")


@pytest.mark.parametrize("changed", ["SelectedSignature", "ModelSignature", "Model"])
def test_contributions_of_other_channels_or_models_are_left_out(tmp_path, changed):
    # Old contributions beside a new selection or model would enter the group map unnoticed.
    make_participant(tmp_path, "01", [0.1])
    for label, value in (("02", "another"), ("03", None)):  # None: the sidecar does not say
        out = make_participant(tmp_path, label, [0.5])
        path = out.path(
            label, task="audiobook", desc="contrib", suffix="channels", extension=".tsv"
        )
        assert why_stale(path) == ""
        write_json(path.with_suffix(".json"), {**read_sidecar(path), changed: value})
        assert "run step 'contributions' again" in why_stale(path)
    found = read_contributions(tmp_path, ["01", "02", "03"], "audiobook")
    assert found.participants == ("sub-01",)
    assert ["other channels" in item.why for item in found.left_out] == [True, True]


# ------------------------------------------------------------------------------- parcels


def test_parcel_numbers_equal_a_loop():
    # The averages behind every figure: first over electrodes, then over participants.
    generator = rng(1)
    values = {
        (f"sub-{i}", label, side): generator.normal(0.1, 0.1, generator.integers(1, 6)).tolist()
        for i in range(7)
        for label in ("insula", "precentral")
        for side in "LR"
        if generator.random() < 0.9
    }
    contacts = contacts_of(values)
    table = parcel_table(contacts, SETTINGS, rng()).set_index(["label", "hemisphere"])
    for (label, side), row in table.iterrows():
        means = [np.mean(v) for (_, a, b), v in values.items() if (a, b) == (label, side)]
        assert row["n_participants"] == len(means)
        assert row["coverage"] == pytest.approx(len(means) / 7)
        assert row["mean"] == pytest.approx(np.mean(means))
        if len(means) >= 5:
            test = stats.permutation_test(
                (means,),
                np.mean,
                permutation_type="samples",
                n_resamples=np.inf,
                alternative="greater",
            )
            assert row["p"] == pytest.approx(test.pvalue)
            interval = stats.ttest_1samp(means, 0).confidence_interval(0.95)
            assert (row["ci_low"], row["ci_high"]) == pytest.approx((interval.low, interval.high))
    assert len(average_by_parcel(contacts)) == len(values)
    assert table["n_contacts"].sum() == len(contacts)


def test_an_electrode_rich_participant_counts_once():
    # 100 electrodes in one brain are one observation.
    values = {(f"sub-{i}", "insula", "L"): [0.0] for i in range(5)}
    values["sub-5", "insula", "L"] = [0.6] * 100
    row = parcel_table(contacts_of(values), SETTINGS, rng()).iloc[0]
    assert row["mean"] == pytest.approx(0.1)
    assert row["p"] == pytest.approx(0.5)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_few_participants_are_shown_never_tested(n):
    # However large and consistent: no p, no q, no interval, but coverage, mean and the reason.
    values = {(f"sub-{i}", "insula", "L"): [0.4, 0.4] for i in range(n)}
    values |= {(f"sub-{i}", "precentral", "R"): [0.1] for i in range(8)}
    table = parcel_table(contacts_of(values), SETTINGS, rng()).set_index("label")
    rare, seen = table.loc["insula"], table.loc["precentral"]
    assert rare[["p", "q", "p_min", "ci_low", "ci_high"]].isna().all()
    assert rare["conclusion"] == f"seen in {n} of 8 participants: not tested"
    assert rare["mean"] == pytest.approx(0.4)
    assert (rare["n_contacts"], rare["coverage"]) == (2 * n, n / 8)
    # The untested parcel does not count among the tests either.
    assert seen["q"] == seen["p"] == pytest.approx(1 / 2**8)


def test_level_decides_how_many_are_needed():
    # At a stricter level five participants cannot reach significance and are not tested.
    assert [min_participants(c) for c in (0.5, 0.9, 0.95, 0.96875, 0.99, 0.999)] == [
        5,
        5,
        5,
        5,
        7,
        10,
    ]
    values = {(f"sub-{i}", "insula", "L"): [0.4] for i in range(6)}
    strict = EvaluationConfig(confidence=0.99)
    assert parcel_table(contacts_of(values), strict, rng())["p"].isna().all()


def test_many_parcels_are_corrected_for():
    # With 30 parcels, one at the smallest p of 5 participants is no finding, and the words say so.
    generator = rng(2)
    values = {
        (f"sub-{i}", f"parcel{j}", "L"): [0.3 if j == 0 else generator.normal(0, 0.1)]
        for i in range(5)
        for j in range(30)
    }
    table = parcel_table(contacts_of(values), SETTINGS, rng()).set_index("label")
    assert table["q"].to_numpy() == pytest.approx(stats.false_discovery_control(table["p"]))
    row = table.loc["parcel0"]
    assert row["p"] == row["p_min"] == 1 / 32
    assert row["q"] > 0.05
    assert "not among so many parcels" in row["conclusion"]
    assert "could not have passed alone" in row["conclusion"]
    alone = parcel_table(
        contacts_of({k: v for k, v in values.items() if k[1] == "parcel0"}), SETTINGS, rng()
    )
    assert alone["conclusion"].iloc[0].startswith("Contributes over participants")


def test_a_harmful_parcel_is_not_a_contribution():
    # The test is one-sided: contributions below 0 are no evidence of decoding.
    values = {(f"sub-{i}", "insula", "L"): [-0.3] for i in range(8)}
    row = parcel_table(contacts_of(values), SETTINGS, rng()).iloc[0]
    assert row["p"] == 1.0
    assert row["conclusion"].startswith("No evidence of a contribution")
    assert "not evidence that there is none" in row["conclusion"]


def test_nobody_has_a_label():
    # Datasets without positions reach the group level too.
    contacts = contacts_of({("sub-1", "", "L"): [0.1], ("sub-2", "", "L"): [0.2]})
    assert parcel_table(contacts, SETTINGS, rng()).empty
    assert compare_regions(contacts, SETTINGS, rng()).empty


def test_written_parcels(tmp_path):
    # What is on disk: both tables, n/a where not tested, every column explained.
    for i in range(5):
        out = make_participant(
            tmp_path, f"0{i}", [0.1 + i / 100, 0.2, 0.3], label=["insula", "insula", None]
        )
    make_participant(tmp_path, "09", [0.1], label="precentral")
    found = read_contributions(tmp_path, [f"0{i}" for i in (0, 1, 2, 3, 4, 9)], "audiobook")
    table = parcel_table(found.contacts, SETTINGS, rng())
    paths = write_parcels(out, found, table, SETTINGS)
    assert [path.name for path in paths] == [
        "group_task-audiobook_desc-parcels_contributions.tsv",
        "group_task-audiobook_desc-parcelsByParticipant_contributions.tsv",
    ]
    again = read_table(paths[0]).set_index("label")
    assert again.loc["insula", "p"] == 1 / 32
    assert "\tn/a\t" in paths[0].read_text()
    assert again.loc["precentral", "conclusion"] == "seen in 1 of 6 participants: not tested"
    for path in paths:
        sidecar = json.loads(path.with_suffix(".json").read_text())
        assert set(sidecar["Columns"]) == set(read_table(path).columns)
        assert sidecar["Simulated"] is True
        assert "5 of 16 electrodes have no label" in sidecar["Notes"][0]


@pytest.mark.slow
@pytest.mark.parametrize("n", [5, 8, 16])
def test_false_positives_of_parcels(n):
    # Without any contribution, p <= 0.05 comes up in at most about 5% of parcels, also where
    # electrodes of a participant share an offset that a test over electrodes would count many
    # times; and with correction in at most 5% of datasets.
    generator, p, any_found = rng(3), [], 0
    n_datasets, n_parcels = 150, 6
    for _ in range(n_datasets):
        values = {
            (f"sub-{i}", f"parcel{j}", "L"): (
                generator.normal(0, 0.1) + generator.normal(0, 0.1, generator.integers(1, 20))
            ).tolist()
            for i in range(n)
            for j in range(n_parcels)
        }
        table = parcel_table(contacts_of(values), SETTINGS, generator)
        p += table["p"].tolist()
        any_found += bool((table["q"] <= 0.05).any())
    n_tests = n_datasets * n_parcels
    assert np.mean(np.array(p) <= 0.05) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / n_tests)
    assert any_found / n_datasets < 0.05 + 3 * np.sqrt(0.05 * 0.95 / n_datasets)
    if n > 5:  # 1/32 is the only p <= 0.05 of five
        assert np.mean(np.array(p) <= 0.05) > 0.02


# ------------------------------------------------------------------------------- regions


def draw_pairs(generator, n, between, within, difference=0.0, most=10):
    """Return contributions of participants in two regions, with known mean difference."""
    pairs = []
    for _ in range(n):
        own = generator.normal(0, 3)  # how well this participant can be decoded at all
        first, second = (
            own + shift + generator.normal(0, between) + generator.normal(0, within, size)
            for shift, size in zip(
                (difference, 0.0), generator.integers(2, most, 2, endpoint=True), strict=True
            )
        )
        pairs.append((first, second))
    return pairs


def test_bootstrap_equals_a_loop():
    # The vectorised draws, against two nested loops over participants and electrodes.
    pairs = draw_pairs(rng(4), 6, 1.0, 1.0, 0.5)
    fast = hierarchical_bootstrap(pairs, 20000, rng(5))
    slow, generator = [], rng(6)
    for _ in range(4000):
        total = 0.0
        for i in generator.integers(6, size=6):
            first, second = pairs[i]
            total += generator.choice(first, len(first)).mean()
            total -= generator.choice(second, len(second)).mean()
        slow.append(total / 6)
    assert fast.mean() == pytest.approx(np.mean(slow), abs=4 * np.std(slow) / np.sqrt(4000))
    assert fast.std() == pytest.approx(np.std(slow), rel=0.05)
    assert np.quantile(fast, [0.05, 0.95]) == pytest.approx(
        np.quantile(slow, [0.05, 0.95]), abs=0.1 * np.std(slow)
    )


def test_participants_with_one_region_say_nothing():
    # Region A is covered in people who decode well, B in people who decode badly: no difference
    # within anybody must not become a difference between regions.
    values = {(f"sub-good{i}", "a", "L"): [1.0, 1.1] for i in range(6)}
    values |= {(f"sub-bad{i}", "b", "R"): [0.0, 0.1] for i in range(6)}
    values |= {(f"sub-{i}", label, "L"): [0.5, 0.6] for i in range(6) for label in "ab"}
    row = compare_regions(contacts_of(values), SETTINGS, rng()).iloc[0]
    assert row["difference"] == pytest.approx(0.0)
    assert (row["n_1"], row["n_2"], row["n_participants"]) == (12, 12, 6)
    assert row["p"] > 0.5
    assert "No evidence of a difference" in row["conclusion"]


def test_planted_difference_is_found_and_named():
    # The region that carries more is called by its name, whichever comes first in the alphabet.
    generator = rng(7)
    values = {}
    for i, (first, second) in enumerate(draw_pairs(generator, 12, 0.3, 1.0, 2.0)):
        values[f"sub-{i}", "zeta", "L"] = first.tolist()
        values[f"sub-{i}", "alpha", "R"] = second.tolist()
    row = compare_regions(contacts_of(values), SETTINGS, rng()).iloc[0]
    assert (row["region_1"], row["region_2"]) == ("alpha", "zeta")
    assert row["ci_low"] < -2.0 < row["ci_high"] < 0
    assert row["p"] == row["p_min"] < 0.02
    assert row["conclusion"].startswith("zeta contributes more than alpha")
    reverse = compare_regions(contacts_of(values), SETTINGS, rng(), regions=["zeta", "alpha"])
    assert reverse["difference"].iloc[0] == pytest.approx(-row["difference"])


def test_few_participants_are_not_compared_or_warned_about():
    # Below 5 there is no interval at all, below 8 the words say that it cannot be relied on.
    values = {(f"sub-{i}", label, "L"): [0.1, 0.2] for i in range(7) for label in "ab"}
    values |= {(f"sub-{i}", "c", "L"): [0.9] for i in range(3)}
    table = compare_regions(contacts_of(values), SETTINGS, rng(), regions=["a", "b", "c", "none"])
    table = table.set_index(["region_1", "region_2"])
    assert "may be too narrow" in table.loc[("a", "b"), "conclusion"]
    few = table.loc[("a", "c")]
    assert few[["ci_low", "ci_high", "p", "p_min", "q"]].isna().all()
    assert few["conclusion"] == "3 participants have electrodes in both: not compared"
    assert few["difference"] == pytest.approx(-0.75)


@pytest.mark.parametrize("n", [5, 10, 30])
def test_p_belongs_to_the_interval(n):
    # p below 0.05 exactly where the 95% interval leaves 0 out: two statements, one fact.
    generator = rng(8)
    for shift in np.linspace(-1, 1, 21):
        draws = generator.normal(shift, 0.4, 4000)
        low, high, p = interval_and_p(draws, n, 0.95)
        if abs(p - 0.05) > 0.005:
            assert (p < 0.05) == (low > 0 or high < 0)
    assert interval_and_p(np.zeros(100), n, 0.95)[2] == 1.0


def test_written_regions(tmp_path):
    # The file has one row per pair and explains its columns.
    for i in range(6):
        out = make_participant(tmp_path, f"0{i}", [0.1, 0.3], label=["insula", "precentral"])
    found = read_contributions(tmp_path, [f"0{i}" for i in range(6)], "audiobook")
    table = compare_regions(found.contacts, SETTINGS, rng())
    path = write_regions(out, found, table, SETTINGS)
    assert path.name == "group_task-audiobook_desc-regions_contributions.tsv"
    assert read_table(path)["difference"].tolist() == pytest.approx([-0.2])
    sidecar = json.loads(path.with_suffix(".json").read_text())
    assert set(sidecar["Columns"]) == set(table.columns)


@pytest.mark.slow
@pytest.mark.parametrize("n", [8, 12, 20])
@pytest.mark.parametrize(("between", "within"), [(1.0, 0.3), (1.0, 1.0), (0.3, 1.0)])
def test_interval_covers_the_truth(n, between, within):
    # The documented coverage of 95% intervals: about 95%, more where electrodes vary most.
    generator, n_datasets, truth = rng(9), 400, 0.7
    inside = 0
    for _ in range(n_datasets):
        pairs = draw_pairs(generator, n, between, within, truth)
        low, high, _ = interval_and_p(hierarchical_bootstrap(pairs, 1000, generator), n, 0.95)
        inside += low <= truth <= high
    coverage = inside / n_datasets
    assert coverage > 0.95 - 3 * np.sqrt(0.05 * 0.95 / n_datasets)
    if between >= within:
        assert coverage < 0.95 + 3 * np.sqrt(0.05 * 0.95 / n_datasets)


@pytest.mark.slow
def test_three_participants_cannot_be_covered():
    # Why pairs with few participants are not compared: the interval misses far too often.
    generator, inside = rng(10), 0
    for _ in range(300):
        pairs = draw_pairs(generator, 3, 1.0, 0.3)
        low, high, _ = interval_and_p(hierarchical_bootstrap(pairs, 1000, generator), 3, 0.95)
        inside += low <= 0 <= high
    assert inside / 300 < 0.9
