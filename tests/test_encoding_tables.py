"""Tables of encoding: what is compared with what, over which electrodes, and what pages show."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

import numpy as np
import pandas as pd
import pytest

from bids_speechdecode.config import EvaluationConfig
from bids_speechdecode.encoding.compared import control_pairs, split_label
from bids_speechdecode.encoding.ridge import LaggedRidge
from bids_speechdecode.encoding.scores import correlate
from bids_speechdecode.encoding.views import keep_responsive
from bids_speechdecode.errors import DataError
from bids_speechdecode.group.encoding import summary as group
from bids_speechdecode.group.encoding.maps import GAIN, PREDICTION, _values
from bids_speechdecode.report.electrode_tables import Described
from bids_speechdecode.report.encoding.results import Encoding
from bids_speechdecode.steps.encoding.tables import (
    Fit,
    Heard,
    contrast_tables,
    modulation_table,
    score_table,
)
from bids_speechdecode.steps.tuning.tune import Variant

N_TIMES, N_ELECTRODES, RATE = 2400, 5, 20.0
BANDS = ("theta", "highgamma")
SETTINGS = EvaluationConfig(block=5.0, n_bootstrap=60, n_permutations=60)


@pytest.fixture(scope="module")
def heard() -> Heard:
    rng = np.random.default_rng(0)
    electrodes = pd.DataFrame({"name": [f"A{i}" for i in range(N_ELECTRODES)]})
    places = {"x": -50.0, "y": -20.0, "z": 5.0, "space": "MNI152", "label": "", "hemisphere": "L"}
    values = rng.normal(size=(N_TIMES, len(BANDS) * N_ELECTRODES)).astype(np.float32)
    stretch, fold = np.zeros(N_TIMES, int), np.repeat(range(4), N_TIMES // 4)
    ceiling = np.full(values.shape[1], np.nan)
    return Heard(electrodes.assign(**places), BANDS, values, ceiling, stretch, fold, RATE)


def fit(heard: Heard, model: str, layer: int, share: float, predicted: list[int]) -> Fit:
    """Return a fit whose predictions share something with all responses; p is invented."""
    rng = np.random.default_rng([len(model), layer])
    noise = rng.normal(size=heard.values.shape)
    prediction = (share * heard.values + noise).astype(np.float32)
    n = heard.values.shape[1]
    r = correlate(prediction, heard.values, folds=heard.fold)
    q = np.where(np.isin(np.arange(n), predicted), 0.01, 0.9)
    folds = np.zeros((4, n))
    ridge = LaggedRidge(
        folds, folds + 1, prediction, r, r, folds, folds, np.zeros((1, n)), np.zeros(1, int)
    )
    return Fit(model, layer, ridge, r, r**2, q / 10, q, *[np.full(n, np.nan)] * 3)


@pytest.fixture(scope="module")
def fits(heard: Heard) -> list[Fit]:
    """Three models of two layers; each predicts electrodes of its own in the first band."""
    return [
        fit(heard, "untuned", 1, 0.2, [0]),
        fit(heard, "untuned", 2, 0.2, []),
        fit(heard, "joint", 1, 0.3, []),
        fit(heard, "joint", 2, 0.3, [2]),
        fit(heard, "joint_control-phase", 1, 0.2, [3]),
        fit(heard, "joint_control-phase", 2, 0.2, []),
    ]


@pytest.fixture(scope="module")
def tables(fits: list[Fit], heard: Heard) -> dict[str, pd.DataFrame]:
    scores, modulations = score_table(fits, heard), modulation_table(fits, heard)
    rng = np.random.default_rng(1)
    overall, single = contrast_tables(fits, heard, scores, modulations, SETTINGS, rng)
    return {
        "encoding": scores,
        "encodingModulations": modulations,
        "encodingContrasts": overall,
        "encodingElectrodeContrasts": single,
    }


# -------------------------------------------------------------------------- what is compared


def test_labels_say_what_they_were_made_from() -> None:
    """Controls are found by labels: the two ends of that must not drift apart."""
    for variant in (Variant(), Variant("phase", 1, 0.5), Variant(None, 2, 0.25)):
        base, parts = split_label(variant.label("sub-01"))
        assert base == "sub-01"
        assert parts.get("control") == variant.control
        assert int(parts.get("seed", 0)) == variant.seed
        assert float(parts.get("amount", 100)) == 100 * variant.amount


def test_a_control_belongs_to_one_tuned_model() -> None:
    """Against the control of another seed or share, luck and amount would count as fMRI."""
    variants = [Variant(c, s, a) for c in (None, "phase") for s in (0, 1) for a in (0.5, 1.0)]
    labels = ["untuned", "mel", *(v.label(who) for who in ("joint", "sub-1") for v in variants)]
    pairs = control_pairs(labels)
    assert len(pairs) == 2 * 4
    expected = {
        (Variant(None, v.seed, v.amount).label(who), v.label(who))
        for who in ("joint", "sub-1")
        for v in variants
        if v.control
    }
    assert set(pairs) == expected
    assert control_pairs(["untuned", "joint", "sub-1_control-phase"]) == []


def test_tuned_models_are_compared_with_their_controls(
    tables: dict[str, pd.DataFrame], fits: list[Fit]
) -> None:
    """A gain over the untuned model may be that of any tuning whatever."""
    for desc in ("encodingContrasts", "encodingElectrodeContrasts"):
        pairs = tables[desc][["model", "reference"]].drop_duplicates().to_numpy().tolist()
        assert pairs == [
            ["joint", "untuned"],
            ["joint_control-phase", "untuned"],
            ["joint", "joint_control-phase"],
        ]
    r = tables["encoding"].set_index(["model", "layer", "band", "name"])["r"]
    for row in tables["encodingElectrodeContrasts"].to_dict("records"):
        place = (row["layer"], row["band"], row["name"])
        expected = r[(row["model"], *place)] - r[(row["reference"], *place)]
        assert row["difference"] == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("first", ["joint", "joint_control-phase"])
def test_no_pair_is_compared_twice(fits: list[Fit], heard: Heard, first: str) -> None:
    """The same test under another sign would look like a second finding."""
    own = sorted(fits, key=lambda f: f.model != first)
    scores, modulations = score_table(own, heard), modulation_table(own, heard)
    rng = np.random.default_rng(1)
    overall, _ = contrast_tables(own, heard, scores, modulations, SETTINGS, rng)
    pairs = overall[["model", "reference"]].drop_duplicates()
    assert len(pairs) == 2
    assert set(pairs["reference"]) == {first}


# ---------------------------------------------------------------------- responsive electrodes


def test_all_contrasts_are_about_the_same_electrodes(tables: dict[str, pd.DataFrame]) -> None:
    """Means over different electrodes differ though no model does."""
    own = tables["encodingContrasts"]
    counts = own[own["electrodes"] == "responsive"].groupby("band")["n_electrodes"].unique()
    assert counts["theta"].tolist() == [3]  # one electrode each, of three fits
    assert counts["highgamma"].tolist() == [0]
    assert own.loc[own["electrodes"] == "all", "n_electrodes"].eq(N_ELECTRODES).all()
    scores = tables["encoding"]
    kept = keep_responsive(scores, scores)
    assert set(kept["name"]) == {"A0", "A2", "A3"}
    assert len(kept) == 3 * 6


@pytest.mark.parametrize("electrodes", ["all", "responsive"])
def test_means_over_electrodes_are_those_of_the_tables(
    tables: dict[str, pd.DataFrame], electrodes: str
) -> None:
    """In the whole response and in bands of modulation, the same electrodes are averaged."""
    names = ["A0", "A2", "A3"] if electrodes == "responsive" else [f"A{i}" for i in range(5)]
    own = tables["encodingContrasts"]
    own = own[(own["electrodes"] == electrodes) & (own["band"] == "theta")]
    broad = tables["encoding"].assign(modulation="broadband")
    table = tables["encodingModulations"]
    edges = [f"{low:g}-{high:g}" for low, high in table[["low", "high"]].to_numpy()]
    every = pd.concat([broad, table.assign(modulation=edges)])
    every = every[every["name"].isin(names) & (every["band"] == "theta")]
    means = every.groupby(["model", "layer", "modulation"])["r"].mean()
    assert own["modulation"].nunique() > 3
    for row in own.to_dict("records"):
        place = (row["layer"], row["modulation"])
        expected = means[(row["model"], *place)] - means[(row["reference"], *place)]
        assert row["difference"] == pytest.approx(expected, abs=3e-6)
        assert np.isfinite(row["detectable"]) == (row["modulation"] == "broadband")


# ------------------------------------------------------------------------------- the group


def about(**more: object) -> dict[str, object]:
    models = [("untuned", "untuned", "a" * 64), ("joint", "tuned", "b" * 64)]
    listed = [{"Label": m, "Kind": k, "Amount": 1.0, "Fingerprint": f} for m, k, f in models]
    return {"Models": listed, "Reference": "untuned", "Rate": 20.0, "Lags": [0.0] * 81} | more


def test_other_weights_are_said_in_words() -> None:
    """Fingerprints of 64 digits tell nobody what to do."""
    listed = about()["Models"]
    older = [listed[0], {**listed[1], "Fingerprint": "c" * 64}]  # type: ignore[index, dict-item]
    abouts = {"sub-03": about(), "sub-01": about(), "sub-02": about(Models=older)}
    with pytest.raises(DataError) as error:
        group.require_same(abouts)
    text = str(error.value)
    assert "differ in Models" in text
    assert "the model 'joint' had other weights, and was tuned again since (sub-02)" in text
    assert "--participant-label 02)" in text
    assert "untuned, joint (sub-03, encoded last)" in text
    assert "ccc" not in text
    assert "{" not in text


def test_other_models_are_named_and_who_has_them() -> None:
    """Who adds a control for one participant sees which others to run again."""
    listed = about()["Models"]
    fewer = listed[:1]  # type: ignore[index]
    abouts = {"sub-03": about(), "sub-01": about(Models=fewer), "sub-02": about(Models=fewer)}
    with pytest.raises(DataError) as error:
        group.require_same(abouts)
    assert "untuned (sub-01, sub-02)" in str(error.value)
    assert "--participant-label 01 02)" in str(error.value)
    with pytest.raises(DataError, match=r"10\.0 \(sub-02\)"):
        group.require_same({"sub-01": about(), "sub-02": about(Rate=10.0)})
    group.require_same({"sub-01": about(), "sub-02": about()})


@pytest.fixture(scope="module")
def together(tables: dict[str, pd.DataFrame], fits: list[Fit]) -> group.GroupEncoding:
    """Two participants with the same numbers, the second with other responsive electrodes."""
    joined = {}
    empty = pd.DataFrame(columns=["participant", "model", "layer", "band", "name", "lag", "r"])
    for desc in group.TABLES:
        own = tables.get(desc, empty.drop(columns="participant"))
        second = own.assign(q=np.where(own["name"] == "A4", 0.01, 0.9)) if "q" in own else own
        parts = [own.assign(participant="sub-01"), second.assign(participant="sub-02")]
        joined[desc] = pd.concat(parts, ignore_index=True)
    kinds = {"untuned": "untuned", "joint": "tuned", "joint_control-phase": "control"}
    listed = [{"Label": m, "Kind": k, "Amount": 1.0, "Seed": 0} for m, k in kinds.items()]
    told = {"Models": listed, "Reference": "untuned"}
    return group.GroupEncoding("talk", joined, MappingProxyType(told), (), ())


def test_profiles_of_the_group_are_over_each_participants_electrodes(
    together: group.GroupEncoding,
) -> None:
    """An electrode that responds in one person says nothing about its namesake in another."""
    found = group.profile_table(together, SETTINGS).set_index(
        ["profile", "electrodes", "model", "layer", "band"]
    )
    r = together.tables["encoding"].set_index(["participant", "model", "layer", "band", "name"])[
        "r"
    ]
    place = ("joint", 2, "theta")
    first = np.mean([r[("sub-01", *place, name)] for name in ("A0", "A2", "A3")])
    second = r[("sub-02", *place, "A4")]
    row = found.loc[("layer", "responsive", *place)]
    assert row["r"] == pytest.approx((first + second) / 2)
    everybody = found.loc[("layer", "all", *place)]
    assert everybody["r"] == pytest.approx(
        np.mean([r[("sub-01", *place, f"A{i}")] for i in range(5)])
    )


def test_controls_pass_through_the_group_and_not_into_the_scaling(
    together: group.GroupEncoding,
) -> None:
    """The gain by amount is over the untuned model; a row over the control would double it."""
    contrasts = group.contrast_table(together, SETTINGS, np.random.default_rng(0))
    own = contrasts[contrasts["reference"] == "joint_control-phase"]
    assert set(own["model"]) == {"joint"}
    assert set(own["electrodes"]) == {"all", "responsive"}
    scaling = group.scaling_table(contrasts, together.about)
    assert set(scaling["model"]) == {"joint"}
    assert not scaling.duplicated(["model", "layer", "band", "electrodes"]).any()
    broad = contrasts[
        (contrasts["modulation"] == "broadband") & (contrasts["reference"] == "untuned")
    ]
    gains = broad.set_index(["model", "layer", "band", "electrodes"])["difference"]
    for row in scaling.to_dict("records"):
        place = (row["model"], row["layer"], row["band"], row["electrodes"])
        assert row["difference"] == gains[place]


def test_maps_and_page_are_of_the_same_model_layer_and_band(together: group.GroupEncoding) -> None:
    """A map of theta beside a page about high gamma would be read as one of high gamma."""
    table = together.tables["encoding"]
    better = (table["model"] == "untuned") & (table["layer"] == 2) & (table["band"] == "highgamma")
    table = table.assign(r=table["r"] + 0.3 * better)
    found = replace(together, tables={**together.tables, "encoding": table})
    described = Described(table, dict(found.about))
    contrasts = Described(found.tables["encodingContrasts"], {})
    page = Encoding("talk", {"encoding": described, "encodingContrasts": contrasts})
    mapped = {kind: (contacts, which) for kind, contacts, which in _values(found)}
    assert list(mapped) == [PREDICTION, GAIN]
    for contacts, which in mapped.values():
        assert which == {"Model": page.main, "Layer": page.layers[page.main], "Band": page.band}
        assert which == {"Model": "joint", "Layer": 2, "Band": "highgamma"}
        assert len(contacts) == 2 * N_ELECTRODES
    shown = page.shown[page.shown["model"] == page.main]
    np.testing.assert_array_equal(mapped[PREDICTION][0]["contribution"], shown["r"])
    assert set(mapped[GAIN][0]["reference"]) == {"untuned"}
