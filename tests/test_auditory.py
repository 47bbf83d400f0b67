"""Benefit against coverage of primary auditory cortex: signs, pairing, and modest words."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from bids_speechdecode.anatomy.atlas import load_atlas
from bids_speechdecode.bids.derivatives import Derivatives
from bids_speechdecode.bids.files import write_tsv
from bids_speechdecode.bids.sidecars import read_table
from bids_speechdecode.config import EvaluationConfig
from bids_speechdecode.decoding.evaluation import compare_ranks
from bids_speechdecode.errors import DataError, MissingInputError
from bids_speechdecode.group.auditory import (
    LABEL,
    correlate,
    distance_to_label,
    measure_coverage,
    summarise_auditory,
    write_auditory,
)
from bids_speechdecode.group.benefits import pretraining_benefit, target_benefit
from bids_speechdecode.group.contributions import Contributions
from bids_speechdecode.group.correlation import spearman

SETTINGS = EvaluationConfig(n_bootstrap=500, n_permutations=500)
HESCHL, OCCIPITAL = (-44.0, -22.0, 9.0), (-10.0, -90.0, 5.0)


def rng(seed=0):
    return np.random.default_rng(seed)


def make_scores(root, participant, target, ranks, difference=-0.1, onsets=None, run=None):
    """Write what the evaluation of a participant leaves on disk, as far as it is read here."""
    out = Derivatives(root, source=root / "in", command="", simulated=True)
    conditions = {"condition": ["finetuned"], "audio": "true", "target": target}
    contrasts = {
        "contrast": ["finetuned-taskonly", "finetuned-zeroshot"],
        "audio": "true",
        "difference": [difference, 0.3],
        "ci_low": [difference - 0.05, 0.2],
        "ci_high": [difference + 0.02, 0.4],
        "p": [0.01, 0.5],
    }
    for desc, table in (("conditions", conditions), ("contrasts", contrasts)):
        path = out.path(participant, task="story", desc=desc, suffix="scores", extension=".tsv")
        write_tsv(path, pd.DataFrame(table))
    n = len(ranks)
    onsets = 10.0 + 3.0 * np.arange(n) if onsets is None else np.asarray(onsets)
    events = pd.DataFrame(
        {
            "onset": onsets,
            "duration": 3.0,
            "audio": "true",
            "block": np.arange(n) // 5,
            "rank": ranks,
        }
    )
    for desc in ("finetuned", "finetunedAmbient"):  # the room's version is another file
        path = out.path(
            participant, task="story", run=run, desc=desc, suffix="events", extension=".tsv"
        )
        write_tsv(path, events.assign(audio="true" if desc == "finetuned" else "ambient"))
    return out


def contacts_of(participant, positions, labels):
    x, y, z = np.atleast_2d(np.asarray(positions, dtype=float)).T
    table = pd.DataFrame({"x": x, "y": y, "z": z, "space": "MNI152", "label": labels})
    table = table.assign(hemisphere="L", contribution=0.1)
    table.insert(0, "participant", participant)
    return table


def as_contributions(contacts, tmp_path):
    source = tmp_path / "source.tsv"
    source.write_text("x")
    return Contributions("story", contacts, "finetuned", "dk", True, (), (source,))


# ------------------------------------------------------------------------------- benefits


def test_pretraining_benefit_is_positive_where_pretraining_helps(tmp_path):
    # The table of contrasts is negative where finetuned is better; a turned sign would tell the
    # opposite story.
    make_scores(tmp_path, "01", "mel", [0.3, 0.4], difference=-0.1)
    benefit = pretraining_benefit(tmp_path, "01", "story")
    assert benefit.value == pytest.approx(0.1)
    assert (benefit.ci_low, benefit.ci_high) == pytest.approx((0.08, 0.15))
    assert benefit.p == 0.01
    with pytest.raises(DataError, match="There is no contrast"):
        pretraining_benefit(tmp_path, "01", "story", audio="ambient")


@pytest.mark.parametrize("this", ["mel", "wav2vec2"])
def test_target_benefit_is_over_mel_from_either_side(tmp_path, this):
    # Whichever folder is called the other one: above 0 means that wav2vec2 is better than mel.
    generator = rng(1)
    mel = generator.uniform(0.2, 0.8, 60)
    wav = mel - 0.1 + generator.normal(0, 0.02, 60)
    make_scores(tmp_path / "a", "01", "mel", mel)
    make_scores(tmp_path / "b", "01", "wav2vec2", wav)
    folders = [tmp_path / "a", tmp_path / "b"]
    if this == "wav2vec2":
        folders.reverse()
    benefit = target_benefit(
        *folders, "01", "story", condition="finetuned", settings=SETTINGS, rng=rng()
    )
    blocks = np.arange(60) // 5
    oracle = compare_ranks(mel.round(15), wav, blocks, SETTINGS, rng())
    assert benefit.of == "wav2vec2 over mel"
    assert benefit.value == pytest.approx((mel - wav).mean())
    assert (benefit.ci_low, benefit.ci_high) == pytest.approx((oracle.ci_low, oracle.ci_high))
    assert benefit.p == oracle.p
    assert benefit.ci_low > 0


def test_windows_are_paired_by_recording_and_onset(tmp_path):
    # Rows in another order, and onsets written with another last digit, are the same windows.
    ranks, onsets = rng(2).uniform(0, 1, 20), 10 + 3.0 * np.arange(20)
    for run in ("1", "2"):
        make_scores(tmp_path / "a", "01", "wav2vec2", ranks, run=run)
        make_scores(tmp_path / "b", "01", "mel", ranks[::-1] + 0.1, run=run, onsets=onsets[::-1])
    options = {"condition": "finetuned", "settings": SETTINGS, "rng": rng()}
    benefit = target_benefit(tmp_path / "a", tmp_path / "b", "01", "story", **options)
    assert (benefit.value, benefit.ci_low) == pytest.approx((0.1, 0.1))


def test_other_windows_or_the_same_target_are_no_comparison(tmp_path):
    # A rank depends on all candidates: shared windows of different test sets do not compare.
    make_scores(tmp_path / "a", "01", "wav2vec2", [0.2] * 20)
    make_scores(tmp_path / "b", "01", "mel", [0.3] * 19)
    make_scores(tmp_path / "c", "01", "wav2vec2", [0.3] * 20)
    options = {"condition": "finetuned", "settings": SETTINGS, "rng": rng()}
    with pytest.raises(DataError, match=r"not the same \(20 and 19, 19 in both\)"):
        target_benefit(tmp_path / "a", tmp_path / "b", "01", "story", **options)
    with pytest.raises(DataError, match="Both folders have the target wav2vec2"):
        target_benefit(tmp_path / "a", tmp_path / "c", "01", "story", **options)
    with pytest.raises(DataError, match="absent"):
        target_benefit(tmp_path / "a", tmp_path / "nowhere", "01", "story", **options)


# ------------------------------------------------------------------------------- coverage


def test_distance_to_auditory_cortex():
    # Inside is 0, further along the normal grows by as much, and both hemispheres count.
    atlas = load_atlas()
    places = np.array([HESCHL, (44.0, -22.0, 9.0), OCCIPITAL])
    distance = distance_to_label(places, atlas, LABEL)
    [index] = atlas.labels["index"][
        (atlas.labels["name"] == LABEL) & (atlas.labels["hemisphere"] == "L")
    ]
    voxels = np.argwhere(atlas.data == index) @ atlas.affine[:3, :3].T + atlas.affine[:3, 3]
    assert distance[:2] == pytest.approx([0, 0], abs=2.0)
    assert distance[2] == pytest.approx(np.linalg.norm(voxels - OCCIPITAL, axis=1).min())
    assert distance_to_label(voxels[:5], atlas, LABEL) == pytest.approx(0)
    assert len(distance_to_label(places, atlas, "no such label")) == 0


def test_unknown_coverage_is_not_zero():
    # Electrodes without coordinates may well lie in auditory cortex.
    atlas = load_atlas()
    nowhere = contacts_of("sub-01", [[np.nan] * 3] * 2, None)
    coverage, note = measure_coverage(nowhere, atlas)
    assert coverage["n_contacts"] == 2
    assert np.isnan([coverage["n_auditory"], coverage["distance_auditory"]]).all()
    assert note == "No electrode is localised."
    partly = contacts_of("sub-01", [HESCHL, OCCIPITAL, [np.nan] * 3], [LABEL, None, None])
    coverage, note = measure_coverage(partly, atlas)
    assert (coverage["n_auditory"], coverage["n_auditory_near"]) == (1, 1)
    assert coverage["distance_auditory"] <= 2.0
    assert note == "1 of 3 electrodes are not localised."
    far = measure_coverage(contacts_of("sub-01", [OCCIPITAL], None), atlas)[0]
    assert (far["n_auditory"], far["n_auditory_near"]) == (0, 0)
    assert far["distance_auditory"] > 40
    native = contacts_of("sub-01", [HESCHL], LABEL).assign(space="ScanRAS")
    coverage, note = measure_coverage(native, atlas)
    assert coverage["n_auditory"] == 1
    assert np.isnan(coverage["distance_auditory"])
    assert "needs positions in MNI152" in note
    unlabelled, note = measure_coverage(native.assign(label=None), atlas)
    assert np.isnan(unlabelled["n_auditory"])
    assert "No electrode has a label." in note


def test_an_atlas_without_auditory_cortex_covers_nothing_unknown():
    # With 90 labels of another naming, 0 electrodes in "transversetemporal" is no finding.
    atlas = load_atlas()
    labels = atlas.labels.assign(name=[f"area{i}" for i in range(len(atlas.labels))])
    coverage, note = measure_coverage(
        contacts_of("sub-01", [HESCHL], "area3"), replace(atlas, labels=labels)
    )
    unknown = [coverage[k] for k in ("n_auditory", "n_auditory_near", "distance_auditory")]
    assert np.isnan(unknown).all()
    assert note == "The atlas has no label transversetemporal."


def test_unknown_coverage_does_not_enter_the_correlation():
    # Six participants in order and one unknown: n is six, not seven with a zero.
    row = correlate(table_of([*range(6), np.nan], -0.1 * np.arange(7)), SETTINGS, rng()).iloc[0]
    assert row["n_participants"] == 6


# ---------------------------------------------------------------------------- correlation


@pytest.mark.parametrize("n", [4, 6])
@pytest.mark.parametrize("ties", [False, True])
def test_spearman_equals_scipy_and_a_loop(n, ties):
    # rho against scipy, p and its smallest value against every order, also with ties.
    generator = rng(3)
    a = generator.integers(0, 2, n).astype(float) if ties else generator.normal(size=n)
    a[:2] = 0, 1
    b = generator.normal(size=n)
    result = spearman(a, b, n_samples=10, rng=rng())
    assert result.rho == pytest.approx(stats.spearmanr(a, b).statistic)
    rhos = np.abs([stats.spearmanr(a, o).statistic for o in itertools.permutations(b)])
    assert result.p == pytest.approx(np.mean(rhos >= abs(result.rho) - 1e-9))
    assert result.p_min == pytest.approx(np.mean(rhos >= rhos.max() - 1e-9))
    assert result.exact


def test_many_participants_are_sampled():
    # Beyond 8 the p agrees with the exact one of scipy's own permutation test.
    generator = rng(4)
    a = generator.normal(size=12)
    b = a + generator.normal(0, 1.5, 12)
    result = spearman(a, b, n_samples=2000, rng=rng())
    oracle = stats.permutation_test(
        (a,),
        lambda x: stats.spearmanr(x, b).statistic,
        permutation_type="pairings",
        n_resamples=2000,
        rng=rng(5),
    )
    assert not result.exact
    assert result.p == pytest.approx(oracle.pvalue, abs=0.03)
    assert result.p_min == 1 / 2001


def test_false_positives_of_the_correlation():
    # Unrelated values pass at most as often as the level says.
    generator = rng(6)
    p = [
        spearman(*generator.normal(size=(2, 6)), n_samples=10, rng=generator).p for _ in range(300)
    ]
    assert np.mean(np.array(p) <= 0.05) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)


def table_of(coverage, benefit, p=0.5):
    n = len(coverage)
    return pd.DataFrame(
        {
            "participant": [f"sub-{i + 1}" for i in range(n)],
            "n_auditory": coverage,
            "distance_auditory": np.nan,
            "benefit_pretraining": np.nan,
            "benefit_target": benefit,
            "benefit_target_p": p,
            "targets": "wav2vec2 over mel",
        }
    )


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_few_participants_conclude_nothing(n):
    # The three patients of the paper, however clear their pattern, cannot answer the question.
    table = table_of([9, 0, 1, 2][:n], [-0.1, 0.2, 0.1, 0.05][:n], [0.4, 0.01, 0.001, 0.5][:n])
    row = correlate(table, SETTINGS, rng()).iloc[0]
    assert row["conclusion"].startswith("Nothing can be concluded")
    assert not row["p"] <= 0.05
    if n == 3:
        assert row["p_min"] == pytest.approx(2 / 6)
        assert "in 2 of 3 (sub-2, sub-3)" in row["conclusion"]


def test_enough_participants_conclude():
    # Six in perfect order reach 2/720; the direction is said in words, and so is its limit.
    row = correlate(table_of(range(6), -0.1 * np.arange(6)), SETTINGS, rng()).iloc[0]
    assert (row["rho"], row["p"]) == pytest.approx((-1.0, 2 / 720))
    assert "wav2vec2 over mel falls with the number of electrodes" in row["conclusion"]
    assert "need not be its cause" in row["conclusion"]
    none = correlate(table_of(range(6), [0.1, 0.3, 0.2, 0.25, 0.15, 0.12]), SETTINGS, rng()).iloc[0]
    assert none["p"] > 0.05
    assert "not evidence that it does not" in none["conclusion"]
    same = correlate(table_of([0] * 6, np.arange(6)), SETTINGS, rng()).iloc[0]
    assert np.isnan(same["rho"])
    assert "same value" in same["conclusion"]


# ------------------------------------------------------------------------------ all of it


def test_tables_from_derivatives(tmp_path):
    # Planted: the benefit over mel falls with coverage of auditory cortex; the table shows it.
    generator, contacts = rng(7), []
    for i in range(6):
        label = f"0{i + 1}"
        mel = generator.uniform(0.3, 0.7, 100)
        make_scores(tmp_path / "mel", label, "mel", mel)
        gain = 0.12 - 0.02 * i + generator.normal(0, 0.005, 100)
        out = make_scores(tmp_path / "wav", label, "wav2vec2", mel - gain, difference=-0.1)
        positions = [HESCHL] * i + [OCCIPITAL]
        contacts.append(contacts_of(f"sub-{label}", positions, [LABEL] * i + ["cuneus"]))
    (tmp_path / "wav" / "sub-06" / "ieeg" / "sub-06_task-story_desc-contrasts_scores.tsv").unlink()
    found = as_contributions(pd.concat(contacts), tmp_path)
    auditory = summarise_auditory(
        tmp_path / "wav", found, SETTINGS, rng(), atlas=load_atlas(), other=tmp_path / "mel"
    )
    table = auditory.participants
    assert table["n_auditory"].tolist() == list(range(6))
    assert table["benefit_target"].tolist() == pytest.approx(0.12 - 0.02 * np.arange(6), abs=0.003)
    assert table["benefit_pretraining"].tolist()[:5] == pytest.approx([0.1] * 5)
    assert np.isnan(table["benefit_pretraining"].iloc[5])
    assert table["note"].iloc[5] == "A table of scores is absent or cannot be read."
    rows = auditory.correlations.set_index(["benefit", "coverage"])
    assert rows.loc[("benefit_target", "n_auditory"), "rho"] == pytest.approx(-1.0)
    assert "same benefit" in rows.loc[("benefit_pretraining", "n_auditory"), "conclusion"]
    paths = write_auditory(out, found, auditory, SETTINGS)
    assert [path.name for path in paths] == [
        "group_task-story_desc-auditory_contributions.tsv",
        "group_task-story_desc-auditoryCorrelation_contributions.tsv",
    ]
    for path in paths:
        sidecar = json.loads(path.with_suffix(".json").read_text())
        assert set(sidecar["Columns"]) == set(read_table(path).columns)
        assert "2512.15830" in sidecar["Question"]


def test_without_another_target(tmp_path):
    # The usual run has one target: that benefit stays n/a, without an excuse in the notes.
    make_scores(tmp_path, "01", "mel", [0.3] * 10)
    found = as_contributions(contacts_of("sub-01", [HESCHL], LABEL), tmp_path)
    auditory = summarise_auditory(tmp_path, found, SETTINGS, rng(), atlas=load_atlas())
    row = auditory.participants.iloc[0]
    assert np.isnan(row["benefit_target"])
    assert row["targets"] is None
    assert row["note"] is None
    assert set(auditory.correlations["benefit"]) == {"benefit_pretraining"}
    without = summarise_auditory(tmp_path, found, SETTINGS, rng())
    assert np.isnan(without.participants["distance_auditory"].iloc[0])
    with pytest.raises(MissingInputError, match="to compare with"):
        summarise_auditory(tmp_path, found, SETTINGS, rng(), other=tmp_path / "nowhere")


def write_settings(root, participant, when, **sections):
    folder = root / f"sub-{participant}" / "log" / when
    folder.mkdir(parents=True)
    lines = [
        f"[{section}]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in values.items())
        for section, values in sections.items()
    ]
    (folder / "config.toml").write_text("\n".join(lines))


def write_selected(root, participant, kept):
    path = root / f"sub-{participant}/ieeg/sub-{participant}_task-story_desc-selected_channels.tsv"
    write_tsv(path, pd.DataFrame({"name": [f"A{i}" for i in range(len(kept))], "kept": kept}))


def test_what_else_differs_is_said_and_the_number_kept(tmp_path):
    # A benefit of another seed and other channels must not be read as one of the target.
    for name, target, seed, kept in (("a", "wav2vec2", 0, True), ("b", "mel", 1, False)):
        make_scores(tmp_path / name, "01", target, [0.3 if target == "mel" else 0.2] * 20)
        for when, value in (("20260101", 7), ("20260102", seed)):  # the latest counts
            write_settings(
                tmp_path / name,
                "01",
                when,
                target={"name": target},
                encoder={"preset": "paper" if seed else "small", "dropout": 0.4},
                run={"seed": value, "device": target},
            )
        write_selected(tmp_path / name, "01", [True, True, kept])
    found = as_contributions(contacts_of("sub-01", [HESCHL], LABEL), tmp_path)
    options = {"atlas": load_atlas(), "other": tmp_path / "b"}
    auditory = summarise_auditory(tmp_path / "a", found, SETTINGS, rng(), **options)
    row = auditory.participants.iloc[0]
    assert row["benefit_target"] == pytest.approx(0.1)
    differ = "kept channels, encoder preset, seed"
    assert row["note"] == f"The compared run also differs in: {differ}."


def test_another_pooling_is_no_benefit_of_the_target(tmp_path):
    # Frames keep the order in time: the gain may be theirs.
    for name, target, pooling in (("a", "wav2vec2", "mean"), ("b", "mel", "frames")):
        make_scores(tmp_path / name, "01", target, [0.3] * 20)
        path = tmp_path / name / "sub-01/ieeg/sub-01_task-story_desc-conditions_scores.tsv"
        write_tsv(path, read_table(path).assign(pooling=pooling))
    options = {"condition": "finetuned", "settings": SETTINGS, "rng": rng()}
    with pytest.raises(DataError, match=r"pooling differs too \(mean and frames\)"):
        target_benefit(tmp_path / "a", tmp_path / "b", "01", "story", **options)
