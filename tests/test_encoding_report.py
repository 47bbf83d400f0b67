"""Encoding in the reports: from small invented tables to pages, honest about what is missing."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bids_speechdecode.encoding.compared import main_model, read_models
from bids_speechdecode.report.encoding import figures as charts
from bids_speechdecode.report.encoding.methods import find_encoded, run_settings
from bids_speechdecode.report.encoding.models import drawn_models, model_styles, model_words
from bids_speechdecode.report.encoding.participant import draw_brains
from bids_speechdecode.report.encoding.results import (
    electrode_gains,
    lag_curves,
    read_encoding,
    with_modulation,
)
from bids_speechdecode.report.group import write_group_report
from bids_speechdecode.report.page import interval
from bids_speechdecode.report.participant import write_participant_report

HOSTILE = "<script>alert(1)</script>"
COMMAND = "bids_speechdecode /data /out participant --analysis encoding"
GAINS = {"untuned": 0.0, "joint": 0.012, "joint_control-phase": 0.001, "mel": -0.04}
VARIANTS = {"joint_seed-1": 0.011, "joint_amount-50": 0.007, "joint_amount-25": 0.004}
MODULATIONS = ((0.0625, 0.125), (0.125, 0.25), (0.25, 0.5), (0.5, 1.0), (1.0, 2.0), (2.0, 4.0))
LAYERS = (6, 9, 12)
LAGS = np.round(np.arange(-2, 2.01, 0.1), 2)
KINDS = {"untuned": "untuned", "mel": "other", "joint_control-phase": "control"}


# ------------------------------------------------------------------- fixture: invented numbers


def _write_tsv(path: Path, rows: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(path, sep="\t", index=False, na_rep="n/a")


def _write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def _sidecar(models: dict[str, float]) -> dict[str, object]:
    listed = [{"Label": m, "Kind": KINDS.get(m, "tuned")} for m in models]
    return {"Models": listed, "Reference": "untuned", "NSamples": 36000, "NFolds": 4} | {
        "Duration": 1800.0,
        "Rate": 20.0,
        "Context": 4.0,
        "Token": "last",
        "iEEGReference": "average",
        "NoiseCeiling": "none: no sound was heard twice",
        "Notes": [f"2 electrodes lie outside the brain: A9, {HOSTILE}"],
        "Simulated": True,
    }


def _electrodes(rng: np.random.Generator, models: dict[str, float]) -> pd.DataFrame:
    """Return table 1: 32 electrodes on four shafts, those of shaft A near auditory cortex."""
    rows = []
    noise = {f"{s}{i}": rng.normal(0, 0.012) for s in "ABCD" for i in range(1, 9)}
    for model, gain in models.items():
        for layer in (np.nan,) if model == "mel" else LAYERS:
            for band in ("highgamma", "theta"):
                for name, own in noise.items():
                    along, side = int(name[1:]), -1 if name[0] in "AC" else 1
                    peak = {"A": 0.28, "B": 0.11}.get(name[0], 0.01) * np.exp(
                        -((along - 5) ** 2) / 9
                    )
                    r = peak * (0.5 if band == "theta" else 1) + own + 0.3 * (layer == 9) * peak
                    r += gain * (peak > 0.05) + rng.normal(0, 0.002)
                    row = {"model": model, "layer": layer, "band": band, "name": name}
                    row |= {"type": "SEEG", "group": name[0], "x": side * (30.0 + 4 * along)}
                    row |= {"y": -18.0 - 9 * "ABCD".index(name[0]), "z": 4.0 + along / 2}
                    row |= {"space": "MNI152", "label": "superiortemporal" if along > 3 else None}
                    row |= {"hemisphere": "L" if side < 0 else "R", "distance": 1.0, "r": r}
                    row |= {"r2": r * abs(r), "p": 0.001, "q": 0.002 if r > 0.06 else 0.5}
                    row |= {"lag": round(0.15 + 0.02 * along, 2), "alpha": 1e3}
                    row |= {"noise_ceiling": np.nan, "unique_r2": 0.4 * r * abs(r)}
                    row |= {"nuisance_r2": 0.01, "joint_r2": 0.02, "n_samples": 36000}
                    rows.append(row | {"simulated": "true"})
    return pd.DataFrame(rows)


def _contrasts(table: pd.DataFrame, shift: float) -> pd.DataFrame:
    """Return table 4: models against the untuned one and a control, by band and modulation."""
    rows = []
    gains = {**GAINS, **VARIANTS}
    every = table.groupby(["model", "layer", "band"], dropna=False)
    pairs = [(key, own, "untuned") for key, own in every if key[0] != "untuned"]
    if (table["model"] == "joint_control-phase").any():
        pairs += [(key, own, "joint_control-phase") for key, own in every if key[0] == "joint"]
    for (model, layer, band), own, reference in pairs:
        gain = gains[str(model)] - gains[reference] + shift
        for electrodes, scale in (("all", 0.5), ("responsive", 1.0)):
            for i, part in enumerate(("broadband", *MODULATIONS)):
                name = part if isinstance(part, str) else f"{part[0]:g}-{part[1]:g}"
                value = gain * scale * (1 if isinstance(part, str) else 1.4 - 0.2 * i)
                row = {"model": model, "reference": reference, "layer": layer, "band": band}
                row |= {"modulation": name, "electrodes": electrodes, "n_electrodes": len(own)}
                row |= {"detectable": 0.003 if part == "broadband" else np.nan}
                row |= {"difference": value, "ci_low": value - 0.004, "ci_high": value + 0.004}
                rows.append(row | {"p": 0.003 if abs(value) > 0.004 else 0.4})
    return pd.DataFrame(rows)


def _write_participant(root: Path, name: str, models: dict[str, float], shift: float) -> None:
    rng = np.random.default_rng(int(name[-2:]))
    folder = root / name / "ieeg"
    stem = f"{name}_task-podcast_desc-"
    table = _electrodes(rng, {m: g + shift * (m != "untuned") for m, g in models.items()})
    _write_tsv(folder / f"{stem}encoding_scores.tsv", table)
    _write_json(folder / f"{stem}encoding_scores.json", _sidecar(models))
    keys = ["model", "layer", "band", "name", "r"]
    main = table.loc[(table["band"] == "highgamma"), keys]
    nine = main[(main["layer"] == 9) | main["layer"].isna()]
    lags = nine.merge(pd.DataFrame({"lag": LAGS}), how="cross")
    lags["r"] *= np.exp(-((lags["lag"] - 0.25) ** 2) / 0.3)
    _write_tsv(folder / f"{stem}encodingLags_scores.tsv", lags)
    bands = pd.DataFrame(MODULATIONS, columns=["low", "high"])
    modulations = nine.merge(bands, how="cross")
    modulations["r"] *= 1.3 * np.exp(-np.abs(np.log2(modulations["low"])) / 3)
    modulations["coherence"] = modulations["r"].clip(0) ** 2
    _write_tsv(folder / f"{stem}encodingModulations_scores.tsv", modulations)
    _write_tsv(folder / f"{stem}encodingContrasts_scores.tsv", _contrasts(table, shift))
    reference = table[table["model"] == "untuned"].set_index(["layer", "band", "name"])["r"]
    own = table[~table["model"].isin(["untuned", "mel"])]
    base = reference.reindex(pd.MultiIndex.from_frame(own[["layer", "band", "name"]]))
    difference = own["r"].to_numpy() - base.to_numpy()
    keep = ["model", "layer", "band", "name", "x", "y", "z", "space", "label", "hemisphere"]
    tested = own[keep].assign(reference="untuned", difference=difference, p=0.01)
    tested = tested.assign(q=np.where(difference > 0.008, 0.01, 0.6), ci_low=0, ci_high=0.02)
    _write_tsv(folder / f"{stem}encodingElectrodeContrasts_scores.tsv", tested)
    log = root / name / "log" / "20260101T100000000"
    log.mkdir(parents=True, exist_ok=True)
    (log / "config.toml").write_text(
        '[encoding]\nbands = ["highgamma", "theta"]\nlayers = [6, 9, 12]\nhigh_gamma = [70, 200]\n'
    )
    (log / "command.txt").write_text(COMMAND)
    (log / "environment.json").write_text('{"python": "3.11.7"}')
    (log / "log.txt").write_text("2026-01-01 10:00:01,000 WARNING run 3 is left out\n")


def _describe(root: Path) -> None:
    _write_json(root / "dataset_description.json", {"Name": "x (simulated)"})


def write_fixture(root: Path, models: dict[str, float] | None = None, n: int = 1) -> Path:
    """Write an INVENTED dataset of encoding results with `n` participants."""
    _describe(root)
    models = models or GAINS
    for i in range(1, n + 1):
        _write_participant(root, f"sub-{i:02}", models, 0.002 * (i - (n + 1) / 2))
    for label in models.keys() - KINDS.keys() | models.keys() & {"joint_control-phase"}:
        write_fixture_tuning(root, label)
    return root


def write_fixture_tuning(root: Path, label: str = "joint", participants: int = 3) -> Path:
    """Write what the folder of a model tells that was INVENTED to be tuned on fMRI."""
    folder = root / "speechmodels" / label
    epochs = {"epoch": [0, 1, 2, 3], "loss": [np.nan, -0.1, -0.2, -0.3]}
    _write_tsv(folder / "tuning.tsv", epochs | {"validation_r": [0.08, 0.085, 0.091, 0.09]})
    names = [f"bold{i:02}" for i in range(1, participants + 1)]
    scores = {name: {"Tuned": 0.075, "Untuned": 0.08 - 0.01 * i} for i, name in enumerate(names)}
    about = {"Label": label, "Participants": names, "Layer": 9, "BaseModel": "../models/base-x"}
    about |= {"Task": "story", "RepetitionTime": 2.0, "TestRByParticipant": scores}
    about |= {"TrainingVolumes": dict.fromkeys(names, 5400), "Voxels": dict.fromkeys(names, 160)}
    stories = {"Train": ["a.wav", "a.wav (2)", "b.wav"], "Validation": ["c.wav"], "Test": ["d.wav"]}
    about |= {"Stories": stories, "Epoch": 2, "ValidationR": 0.091, "ValidationRUntuned": 0.08}
    about |= {"TestR": 0.0751, "TestRUntuned": 0.0703}
    settings = {"rank": 4, "readout": 100, "learning_rate": 1e-4, "epochs": 3}
    _write_json(folder / "tuning.json", about | {"Settings": settings})
    return folder


def write_fixture_group(root: Path, n: int = 5) -> Path:
    """Write an INVENTED group with the tables that the group level writes."""
    models = {**GAINS, **VARIANTS}
    write_fixture(root, models, n)
    tables: dict[str, list[pd.DataFrame]] = {}
    for i in range(1, n + 1):
        for desc in ("encoding", "encodingContrasts", "encodingLags", "encodingModulations"):
            path = root / f"sub-{i:02}/ieeg/sub-{i:02}_task-podcast_desc-{desc}_scores.tsv"
            table = pd.read_csv(path, sep="\t", na_values="n/a")
            table.insert(0, "participant", f"sub-{i:02}")
            tables.setdefault(desc, []).append(table)
    every = {desc: pd.concat(own, ignore_index=True) for desc, own in tables.items()}
    keys = ["model", "reference", "layer", "band", "modulation", "electrodes"]
    own = every["encodingContrasts"]
    group = own.groupby(keys, dropna=False, sort=False)["difference"].agg(["mean", "std"])
    group = group.rename(columns={"mean": "difference"}).reset_index()
    margin = 1.2 * group.pop("std")
    group = group.assign(ci_low=group["difference"] - margin, ci_high=group["difference"] + margin)
    group = group.assign(n_participants=n, p=0.0625, p_min=0.0625, n_better=n, detectable=0.004)
    group = group.assign(n_needed=7, conclusion="Cannot be concluded: p <= 0.05 is impossible.")
    group["conclusion"] += " " + group["model"] + " better than " + group["reference"] + " in 2."
    start = root / "group_task-podcast_desc-"
    sidecar = _sidecar(models) | {"LeftOut": [{"what": "sub-98", "why": f"failed {HOSTILE}"}]}
    sidecar["RepetitionTime"] = 2.0
    for desc, table in (
        ("encodingElectrodes", every["encoding"]),
        ("encodingContrasts", group),
        ("encodingParticipantContrasts", own),
        ("encodingProfiles", _profiles(every, n)),
        ("encodingScaling", _scaling(n)),
    ):
        _write_tsv(Path(f"{start}{desc}_scores.tsv"), table)
        _write_json(Path(f"{start}{desc}_scores.json"), sidecar)
    return root


def _profiles(every: dict[str, pd.DataFrame], n: int) -> pd.DataFrame:
    rows = []
    for profile, desc, keys in (
        ("layer", "encoding", ["layer"]),
        ("lag", "encodingLags", ["lag"]),
        ("modulation", "encodingModulations", ["low", "high"]),
    ):
        table = every[desc]
        table = table[table["name"].str.startswith("A")]
        by = list(dict.fromkeys(["model", "layer", "band", *keys]))
        mean = table.groupby(by, dropna=False, sort=False)["r"].mean().reset_index()
        mean["value"] = mean[keys].mean(axis=1)
        for which in ("all", "responsive"):
            rows.append(mean.assign(profile=profile, electrodes=which, n_participants=n))
    found = pd.concat(rows, ignore_index=True)
    limits = {"ci_low": found["r"] - 0.01, "ci_high": found["r"] + 0.01}
    coherence = np.where(found["profile"] == "modulation", found["r"].clip(0) ** 2, np.nan)
    return found.assign(**limits, coherence=coherence)


def _scaling(n: int) -> pd.DataFrame:
    rows = []
    for model, gain in {"joint": 0.012, **VARIANTS}.items():
        amount = float((re.findall(r"amount-(\d+)", model) or ["100"])[0]) / 100
        row = {"model": model, "amount": amount, "seed": int("seed" in model), "layer": 9}
        row |= {"band": "highgamma", "n_participants": n}
        for which, value in (("all", gain / 2), ("responsive", gain)):
            interval = {"ci_low": value - 0.003, "ci_high": value + 0.003}
            rows.append(row | {"electrodes": which, "difference": value} | interval)
    return pd.DataFrame(rows)


def write_fixture_maps(root: Path) -> None:
    """Write maps of prediction and gain with one smooth peak over the left temporal lobe."""
    import nibabel
    from nilearn.datasets import load_fsaverage, load_mni152_brain_mask

    mask = load_mni152_brain_mask(resolution=4)
    where = np.argwhere(np.ones(mask.shape, dtype=bool))
    places = nibabel.affines.apply_affine(mask.affine, where)
    near = np.exp(-((places - [-58, -22, 6]) ** 2).sum(1) / (2 * 15**2))
    mesh = load_fsaverage("fsaverage5")["pial"].parts
    for name, highest in (("encodingR", 0.3), ("encodingGain", 0.012), ("encodingCoverage", 6)):
        values = np.where(near > 0.05, highest * near, np.nan).astype(np.float32)
        image = nibabel.Nifti1Image(values.reshape(mask.shape), mask.affine)
        start = f"group_task-podcast_space-MNI152NLin2009cAsym_desc-{name}_map"
        nibabel.save(image, root / f"{start}.nii.gz")
        _write_json(root / f"{start}.json", {"Model": "joint"})
        for side, part in (("L", "left"), ("R", "right")):
            away = ((mesh[part].coordinates - [-58, -22, 6]) ** 2).sum(1)
            own = np.exp(-away / (2 * 15**2))
            own = np.where(own > 0.05, highest * own, np.nan).astype(np.float32)
            array = nibabel.gifti.GiftiDataArray(own, intent="NIFTI_INTENT_SHAPE")
            path = f"group_task-podcast_hemi-{side}_space-fsaverage5_desc-{name}_map.shape.gii"
            nibabel.save(nibabel.gifti.GiftiImage(darrays=[array]), root / path)


# ------------------------------------------------------------------------------------ helpers


def _small(root: Path, **models: float) -> Path:
    """Write one participant without positions, which is drawn quickly."""
    write_fixture(root, {"untuned": 0.0, **models})
    for path in root.rglob("*desc-encoding*.tsv"):
        if path.stat().st_size <= 1:  # no contrast of one model
            continue
        table = pd.read_csv(path, sep="\t", na_values="n/a")
        if "x" in table:
            _write_tsv(path, table.assign(x=np.nan))
    return root


def _report(root: Path, command: str = COMMAND) -> str:
    return write_participant_report(root, "01", command=command, log_dir=None).read_text("utf-8")


def _text(page: str) -> str:
    without = re.sub(r"<svg.*?</svg>|<style>.*?</style>", "", page, flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", without))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_fixture_group(tmp_path_factory.mktemp("encoding"), 2)
    write_participant_report(root, "01", command=COMMAND, log_dir=None)
    write_group_report(root, command=COMMAND.replace("participant", "group"))
    return root


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _small(tmp_path_factory.mktemp("small"), joint=0.012)


@pytest.fixture(scope="module")
def small_page(small: Path) -> str:
    return _report(small)


# -------------------------------------------------------------------------------------- tests


@pytest.mark.parametrize("name", ["sub-01.html", "group.html"])
def test_pages_are_self_contained_escaped_and_marked(tree: Path, name: str) -> None:
    # The report is mailed around: nothing loaded, nothing executed, simulated data named.
    text = (tree / name).read_text("utf-8")
    assert HOSTILE not in text
    assert "&lt;script&gt;" in text
    assert not re.search(r"<(link|img|object|iframe)\b|@import", text)
    assert "Simulated data." in text
    assert text.count("simulated data</text>") + text.count(">simulated data<") >= 7
    identifiers = re.findall(r'<\w[^<>]*? id="([^"]*)"', text)
    assert len(identifiers) == len(set(identifiers))
    assert set(re.findall(r'href="#([^"]+)"', text)) <= set(identifiers)


@pytest.mark.parametrize("name", ["sub-01.html", "group.html"])
def test_encoding_alone_shows_no_list_of_missing_decoding(tree: Path, name: str) -> None:
    # A run that never asked for decoding must not look like a failed decoding.
    text = (tree / name).read_text("utf-8")
    assert 'class="missing"' not in text
    assert "relative rank" not in text
    for section in (
        "conditions",
        "contrasts",
        "training",
        "spectra",
        "contributions",
        "electrodes",
    ):
        assert f'id="{section}"' not in text
    assert "Speech encoding in intracranial EEG" in text


@pytest.mark.parametrize("name", ["sub-01.html", "group.html"])
def test_pictures_tell_their_numbers_and_references_are_in_order(tree: Path, name: str) -> None:
    # Readers who cannot see a picture need its numbers; journals want citations in order.
    text = (tree / name).read_text("utf-8")
    words = re.findall(r'role="img" aria-label="([^"]*)"', text)
    assert len(words) == len(re.findall("<svg", text)) >= 7
    for alternative in words:
        assert len(re.findall(r"\d", alternative)) >= 3, alternative
        assert "nan" not in alternative.split(), alternative
    cited = list(dict.fromkeys(re.findall(r'<sup><a href="#ref-(\w+)">', text)))
    assert cited == re.findall(r'<li id="ref-(\w+)">', text)
    assert {"lora", "hoerl", "dupre", "slowfmri", "theiler"} <= set(cited)


def test_without_tables_nothing_about_encoding_appears(tmp_path: Path) -> None:
    # A user of decoding must not be told that encoding is missing.
    (tmp_path / "sub-01").mkdir()
    for text in (
        _report(tmp_path, "bids_speechdecode /data /out participant"),
        write_group_report(tmp_path, command="x").read_text("utf-8"),
    ):
        assert "ncoding" not in _text(text)
        assert "run step" in text
    asked = _report(tmp_path)
    assert "No table of predicted electrodes found: run steps &#39;responses&#39;" in asked
    assert "run step &#39;evaluate&#39;" not in asked


def test_both_analyses_share_a_page(small: Path, tmp_path: Path) -> None:
    # Both analyses write into one output; neither may hide the other.
    import shutil

    shutil.copytree(small, tmp_path, dirs_exist_ok=True)
    history = tmp_path / "sub-01/ieeg/sub-01_task-podcast_desc-linear_history.tsv"
    _write_tsv(history, {"epoch": [1], "train_loss": [1.0], "val_loss": [1.0], "val_rank": [0.4]})
    text = _report(tmp_path)
    assert 'id="training"' in text
    assert 'id="encoding"' in text
    assert "run step &#39;evaluate&#39;" in text
    cited = list(dict.fromkeys(re.findall(r'<sup><a href="#ref-(\w+)">', text)))
    assert cited == re.findall(r'<li id="ref-(\w+)">', text)


def test_summary_repeats_the_tables(small: Path, small_page: str) -> None:
    # The first sentence is what gets quoted: its numbers must be those on disk.
    text = _text(small_page)
    folder = small / "sub-01" / "ieeg"
    start = "sub-01_task-podcast_desc-encoding"
    table = pd.read_csv(folder / f"{start}_scores.tsv", sep="\t", na_values="n/a")
    nine = table[(table["layer"] == 9) & (table["band"] == "highgamma")]
    own = nine[nine["model"] == "joint"]
    best = own.sort_values("r").iloc[-1]
    assert f"predicted {(own['q'] <= 0.05).sum()} of 32 electrodes in high gamma" in text
    assert (
        f"best electrode was {best['name']} (superiortemporal L), with r = {best['r']:.3f}" in text
    )
    assert "this does not establish a difference" not in text
    assert "r was 0.0120 higher than with “Untuned” on average over 32 responsive elect" in text
    assert "Noise ceiling: none, as no sound was heard twice." in text


def test_summary_says_r_itself_and_the_gain_over_the_control(tree: Path) -> None:
    # A gain of 0.01 means another thing at an r of 0.02 than at 0.3, or if any tuning gives it.
    told = _text((tree / "sub-01.html").read_text("utf-8"))
    path = tree / "sub-01/ieeg/sub-01_task-podcast_desc-encoding_scores.tsv"
    table = pd.read_csv(path, sep="\t", na_values="n/a")
    table = table[table["band"] == "highgamma"]
    responsive = table.loc[table["q"] <= 0.05, "name"].unique()
    own = table[(table["model"] == "joint") & (table["layer"] == 9)].set_index("name")["r"]
    r = own[list(responsive)]
    words = f"Over its {len(r)} responsive electrodes (q ≤ 0.05 with any of the models, in any lay"
    assert words in told
    assert f"was {r.mean():.3f} on average (median {r.median():.3f})" in told
    control = "With “Tuned, joint”, r was 0.0100 higher than with “Tuned, joint, control: phase"
    assert control in told
    group = _text((tree / "group.html").read_text("utf-8"))
    assert re.search(r"predicted \d+ of 64 electrodes \(q ≤ 0.05\); over responsive electr", group)
    assert "“Tuned, joint” against “Tuned, joint, control: phase-randomised BOLD”, resp" in group


def test_only_lags_that_mean_something_are_coloured(small: Path) -> None:
    # Half of all electrodes hear nothing; their best lags are noise.
    found = read_encoding(small / "sub-01")["podcast"]
    own = found.shown[found.shown["model"] == "joint"].assign(x=-50.0)
    drawn = {what: words for what, _, words in draw_brains(own, own.assign(gain=0.01))}
    assert list(drawn) == ["brain", "lagBrain", "gainBrain"]
    lags = own.loc[own["q"] <= 0.05, "lag"]
    assert 0 < len(lags) < len(own)
    words = f"{len(lags)} with q ≤ 0.05. Their lags: median {lags.median():.2f} s, from "
    assert f"{words}{lags.min():.2f}" in drawn["lagBrain"]
    together = own.assign(lag=0.0)  # all delays in one regression
    assert "lagBrain" not in [what for what, *_ in draw_brains(together, own.assign(gain=0.01))]
    assert charts.LAG.classes([-0.1, 0.0, 0.12, 2.0]).tolist() == [0, 1, 3, 8]
    assert len(charts.LAG.colors) == len(charts.LAG.bounds) + 1


def test_zero_has_no_sign() -> None:
    # A reader takes -0.0000 for a loss.
    assert charts.signed_number(-0.00001) == "+0.0000"
    assert charts.signed_number(-0.0001) == "\N{MINUS SIGN}0.0001"
    assert interval(-0.00001, 0.5, 4) == "0.0000 to 0.5000"


def test_gains_are_differences_on_the_same_electrode(small: Path) -> None:
    # A gain between different electrodes or layers would be no gain of the model.
    found = read_encoding(small / "sub-01")["podcast"]
    gains = electrode_gains(found).set_index("name")
    table = found.electrodes
    for name in ("A5", "D2"):
        rows = table[(table["name"] == name) & (table["band"] == "highgamma")]
        r = rows[rows["layer"] == 9].set_index("model")["r"]
        assert gains.loc[name, "gain"] == pytest.approx(r["joint"] - r["untuned"])
    curves = lag_curves(found)
    lags = found.tables["encodingLags"].table
    here = lags[(lags["model"] == "joint") & (lags["lag"] == 0.3)]
    responsive = table.loc[(table["band"] == "highgamma") & (table["q"] <= 0.05), "name"]
    expected = here.loc[here["name"].isin(responsive), "r"].mean()
    own = curves[(curves["model"] == "joint") & (curves["lag"] == 0.3)]
    assert own["r"].item() == pytest.approx(expected)


def test_the_reference_chooses_the_layer(small: Path, tmp_path: Path) -> None:
    # If the tuned model chose the layer on held-out time, its gain would be flattered.
    path = small / "sub-01/ieeg/sub-01_task-podcast_desc-encoding_scores.tsv"
    table = pd.read_csv(path, sep="\t", na_values="n/a")
    better = (table["model"] == "joint") & (table["layer"] == 12)
    table.loc[better, "r"] += 0.5
    _write_tsv(tmp_path / path.relative_to(small), table)
    found = read_encoding(tmp_path / "sub-01")["podcast"]
    assert found.layers == {"untuned": 9.0, "joint": 9.0}
    table.loc[table["model"] == "untuned", "r"] += 0.9 * (table["layer"] == 6)
    _write_tsv(tmp_path / path.relative_to(small), table)
    assert read_encoding(tmp_path / "sub-01")["podcast"].layers["joint"] == 6.0


def test_absent_tables_are_named_and_the_rest_is_drawn(small: Path, tmp_path: Path) -> None:
    # A report after half a step must say what is missing and show what is there.
    for kind in ("scores.tsv", "scores.json"):
        name = f"sub-01_task-podcast_desc-encoding_{kind}"
        text = (small / "sub-01" / "ieeg" / name).read_text()
        path = tmp_path / "sub-01" / "ieeg" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    text = _text(_report(tmp_path))
    for what in ("r at every lag", "r by band of modulation", "contrasts between models"):
        assert f"No {what} found: run step &#39;encode&#39;." in text
    assert "No electrode has a position" in text
    assert "No config.toml found" in text
    assert "Prediction of every electrode against the reference" in text
    assert " nan" not in text.lower()


def test_one_model_is_compared_with_nothing(tmp_path: Path) -> None:
    # The smallest run has one speech model; an empty comparison would suggest a result.
    text = _report(_small(tmp_path))
    assert 'id="encoding-models"' not in text
    assert "Gain" not in _text(text)
    assert "“Untuned” predicted" in _text(text)
    assert 'class="missing"' in text  # only the picture of the brain
    assert "contrasts between models" not in text


def test_scores_without_tests_are_drawn_without_claims(tmp_path: Path) -> None:
    # Without q-values nothing may be called predicted, and all electrodes make the curves.
    _small(tmp_path, joint=0.012)
    path = tmp_path / "sub-01/ieeg/sub-01_task-podcast_desc-encoding_scores.tsv"
    table = pd.read_csv(path, sep="\t", na_values="n/a")
    _write_tsv(path, table.assign(q=np.nan, p=np.nan, lag=np.nan))
    found = read_encoding(tmp_path / "sub-01")["podcast"]
    assert found.counted == "all"
    assert len(found.only_counted(found.shown)) == 2 * 32
    assert "predicted 0 of 32 electrodes" in _text(_report(tmp_path))


def test_same_input_gives_the_same_bytes(small: Path, small_page: str) -> None:
    # Reports are compared and archived; jitter of points must not make each one new.
    assert _report(small) == small_page


@pytest.mark.parametrize("name", ["sub-01.html", "group.html"])
def test_how_models_were_tuned_is_shown(tree: Path, name: str) -> None:
    # A gain of a tuned model means little to who cannot see on what, and how well, it was tuned.
    page = (tree / name).read_text("utf-8")
    section = page[page.index('<section id="tuning">') :]
    section = section[: section.index("</section>")]
    text = re.sub(r"\s+", " ", _text(re.sub(r"</t[hd]>", " ", section)))
    # Three participants with 5,400 volumes of 2 s; one sound at two times of the TR is one story.
    assert "Tuned, joint 3 3.00 h 160 2 / 1 / 1 2 of 3 0.0910 0.0703 0.0751 2 of 3" in text
    assert "control: phase-randomised BOLD 3" in text
    assert "their validation r is that of the BOLD they were tuned on" in text
    assert "a.wav, b.wav c.wav d.wav" in text
    assert "0.0800 untuned, 0.0900 after 3 epochs, epoch 2 chosen" in section
    told = "BOLD of 3 participants (3.00 h each, repetition time 2 s) during 2 stories"
    if name == "sub-01.html":
        assert told in _text(page)


@pytest.mark.parametrize(
    ("damaged", "content", "told"),
    [
        ("tuning.tsv", b"epoch\tvalidation_r\n0\tmuch\n", "joint/tuning.tsv is unreadable"),
        ("tuning.tsv", b"\xff\xfe\x00", "joint/tuning.tsv is unreadable"),
        ("tuning.tsv", b"", "joint/tuning.tsv is unreadable"),
        ("tuning.tsv", None, "joint/tuning.tsv is missing"),
        ("tuning.json", b"{", "joint/tuning.json is unreadable"),
        ("tuning.json", b'{"Participants": 3}', "joint/tuning.json is unreadable"),
    ],
)
def test_a_damaged_tuning_is_named_and_the_rest_is_shown(
    small: Path, tmp_path: Path, damaged: str, content: bytes | None, told: str
) -> None:
    # One file that was edited by hand must not cost the whole report, nor pass as if it were none.
    root = shutil.copytree(small, tmp_path / "damaged")
    path = root / "speechmodels" / "joint" / damaged
    path.unlink() if content is None else path.write_bytes(content)
    page = write_participant_report(root, "01", command=COMMAND, log_dir=None).read_text("utf-8")
    assert told in _text(page)
    assert ("desc-tuning.svg" in page) == (damaged == "tuning.json")
    assert ("0.0751" in page) == (damaged == "tuning.tsv")


def test_a_tuned_model_of_elsewhere_is_named(small: Path, tmp_path: Path) -> None:
    # Its folder need not lie in this output; then the report can only say so.
    root = shutil.copytree(small, tmp_path / "moved")
    shutil.rmtree(root / "speechmodels")
    assert "“Tuned, joint” is not in speechmodels of this output" in _text(_report(root))


def test_decoding_says_that_its_target_was_tuned(tmp_path: Path) -> None:
    # The path of a folder would hide that the features are no longer those of the named model.
    log = tmp_path / "sub-01" / "log" / "1"
    log.mkdir(parents=True)
    for model in ("/elsewhere/speechmodels/joint", str(write_fixture_tuning(tmp_path))):
        target = f'[target]\nname = "wavlm"\nmodel = "{model}"\nlayer = 9\n'
        (log / "config.toml").write_text(target)
        page = _report(tmp_path, "bids_speechdecode /data /out participant")
        text = _text(page)
        assert "those of “Tuned, joint”: base-x after tuning on fMRI of 3 participants" in text
        assert "r of measured and predicted BOLD was 0.0751, untuned 0.0703" in text
        assert "It was tuned on the BOLD of 3 participants" in text
        assert "base-x, tuned on fMRI (“Tuned, joint”)" in text
        assert 'id="ref-lora"' in page
        assert '<section id="tuning">' in page
    (log / "config.toml").write_text('[target]\nname = "wavlm"\nmodel = "base-x"\n')
    assert "fMRI" not in _text(_report(tmp_path, "bids_speechdecode /data /out participant"))


def test_methods_follow_the_run_of_this_analysis(
    small: Path, small_page: str, tmp_path: Path
) -> None:
    # A later decoding run with other settings must not rewrite the methods of encoding.
    text = _text(small_page)
    assert "in high gamma (70 to 200 Hz) and theta (4 to 8 Hz)" in text
    assert "by layers 6, 9 and 12 of" in text
    assert "81 lags" in text
    assert "10 values from 1 to 10,000,000" in text
    folder = tmp_path / "sub-01"
    for name, rate, command in (("1", 20, COMMAND), ("2", 10, "bids_speechdecode /d /o p")):
        log = folder / "log" / name
        log.mkdir(parents=True)
        (log / "config.toml").write_text(f"[encoding]\nrate = {rate}\n")
        (log / "command.txt").write_text(command)
    settings = run_settings([folder])
    assert settings is not None
    assert settings["encoding"]["rate"] == 20
    untuned = {"podcast": read_encoding(small / "sub-01")["podcast"]}
    used = find_encoded(untuned, settings).used()
    assert "theiler" not in used  # no control was phase-randomised
    assert "nilearn" not in used  # no electrode has a position


def test_models_are_named_ordered_and_told_apart() -> None:
    # A control drawn like the tuned model, or taken for it, would turn a result upside down.
    labels = ["untuned", "joint_control-phase", "joint_seed-1", "sub-x", "joint", "mel"]
    models = read_models({}, labels)
    assert [m.kind for m in models] == ["untuned", "control", "tuned", "tuned", "tuned", "other"]
    assert main_model(models, "untuned") == "sub-x"
    drawn = drawn_models(models, "untuned")
    assert drawn == ("untuned", "sub-x", "joint", "joint_control-phase", "mel")
    styles = model_styles(models, "untuned")
    marks = [(styles[m]["color"], styles[m]["marker"]) for m in drawn]
    assert len({c for c, _ in marks}) == len({m for _, m in marks}) == len(drawn)
    assert styles["joint_control-phase"]["markerfacecolor"] == "white"
    assert model_words("joint_amount-50") == "Tuned, joint, 50% of the fMRI"


def test_scales_and_axes_are_fixed() -> None:
    # Two participants' pictures can be compared only if colours and axes mean the same.
    assert charts.PREDICTION.classes([-0.1, 0.01, 0.05, 0.5]).tolist() == [0, 1, 3, 8]
    assert len(charts.PREDICTION.colors) == len(charts.PREDICTION.bounds) + 1
    assert len(charts.GAIN.colors) == len(charts.GAIN.bounds) + 1
    assert charts.fixed_end(charts.R_ENDS, [0.11], [np.nan]) == 0.2
    assert charts.nyquist_place(MODULATIONS, 0.25) == 1.5
    assert charts.nyquist_place(MODULATIONS, 0.25 * 2**0.5) == pytest.approx(2.0)
    assert charts.nyquist_place(MODULATIONS, 5.0) is None


def test_no_point_or_interval_leaves_the_axis_of_gains() -> None:
    # What lies outside of an axis is not seen, and would not be missed either.
    own = pd.DataFrame({"participant": ["a", "b"], "model": "joint", "electrodes": "all"})
    own = own.assign(difference=[0.001, 0.004], ci_low=[-0.002, -0.011], ci_high=[0.003, 0.019])
    group = own[:1].assign(detectable=0.001)
    styles = model_styles(read_models({}, ["untuned", "joint"]), "untuned")
    axes = charts.group_gains(own, group, styles, ["joint"]).axes[0]
    low, high = axes.get_xlim()
    assert low < -0.011
    assert high > 0.019
    ticks = [float(t.get_text().replace("\N{MINUS SIGN}", "-")) for t in axes.get_xticklabels()]
    assert [ticks[0], ticks[-1]] == [low, high]  # so that the ends are read without guessing


def test_layers_of_a_profile_are_named() -> None:
    # Layers are few and each is one of a model: an axis with half of them is misread.
    table = pd.DataFrame({"model": "joint", "layer": [1, 2, 3, 5], "value": 0.1})
    styles = model_styles(read_models({}, ["joint"]), "")
    panels = [("Prediction", "r", table.assign(ci_low=0.0, ci_high=0.2))]
    axes = charts.layer_profile(panels, styles, ["joint"]).axes[0]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["1", "2", "3", "5"]


def test_tables_tell_in_words_what_a_model_is(tree: Path, tmp_path: Path) -> None:
    # Labels of files and "other" tell a reader nothing.
    text = _text((tree / "group.html").read_text("utf-8"))
    told = "“Tuned, joint, control: phase-randomised BOLD” better than “Untuned” in 2."
    assert told in text
    assert "joint_control-phase better" not in text
    page = _text(_report(_small(tmp_path, mel=-0.04)))
    assert "no speech model" in page


def test_the_samples_of_the_text_are_those_of_the_table(small: Path, tmp_path: Path) -> None:
    # r is over the samples that were predicted; the sidecar counts those before folds lose some.
    root = shutil.copytree(small, tmp_path / "samples")
    path = root / "sub-01" / "ieeg" / "sub-01_task-podcast_desc-encoding_scores.tsv"
    table = pd.read_csv(path, sep="\t", na_values="n/a")
    _write_tsv(path, table.assign(n_samples=35880))
    text = _text(_report(root))
    assert "at 20 Hz, of which 35 880 samples were predicted" in text
    assert "36 000" not in text


def test_bands_of_modulation_are_read_from_their_names() -> None:
    # "broadband" is no band, and 0.25-0.5 must not become a difference.
    table = pd.DataFrame({"modulation": ["broadband", "0.25-0.5", "1-2"]})
    found = with_modulation(table)
    assert found[["low", "high"]].to_numpy().tolist() == [[0.25, 0.5], [1, 2]]


def test_a_section_without_pictures_has_no_heading(tmp_path: Path) -> None:
    # A heading above nothing looks as if the page had been cut.
    root = write_fixture_group(tmp_path, 1)
    for path in root.glob("group_*_desc-encodingProfiles_scores.*"):
        path.unlink()
    for path in root.glob("group_*_desc-encoding*.tsv"):
        table = pd.read_csv(path, sep="\t", na_values="n/a")
        keep = (
            table["band"] == "highgamma"
            if "modulation" not in table
            else ((table["band"] == "highgamma") & (table["modulation"] == "broadband"))
        )
        _write_tsv(path, table[keep].assign(**({"x": np.nan} if "x" in table else {})))
    page = write_group_report(root, command="group --analysis encoding").read_text("utf-8")
    assert "encoding-profiles" not in page
    assert 'href="#encoding-where"' in page


def test_group_shows_what_could_have_been_detected(tree: Path) -> None:
    # Differences of 0.005 in r are what this analysis is about: power must stand beside them.
    text = _text((tree / "group.html").read_text("utf-8"))
    assert "a difference of 0.0040 could have been detected" in text
    assert "Cannot be concluded: p ≤ 0.05 is impossible." in text
    assert "n for 0.005" in text
    assert "Shaded: above 0.25 Hz" in text
    assert "sub-98" in text
    assert "Gain by share of the fMRI and seed" in text


@pytest.mark.slow
def test_group_maps_are_drawn_in_the_scales_of_encoding(tmp_path: Path) -> None:
    # A map of r in the colours of contributions would be read on the wrong scale.
    write_fixture_group(tmp_path, 2)
    write_fixture_maps(tmp_path)
    text = write_group_report(tmp_path, command="x").read_text("utf-8")
    volume = (tmp_path / "figures/group_task-podcast_desc-encodingVolume.svg").read_text("utf-8")
    assert "Prediction of “Tuned, joint”" in volume
    assert "Gain in r over the reference model" in volume
    assert "loss of relative rank" not in text
    assert re.search(r"Prediction and gain on the cortical surface\. Prediction from", text)
