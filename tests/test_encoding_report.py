"""Encoding in the reports: from small invented tables to pages, honest about what is missing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bids_speechdecode.report import encoding_figures as charts
from bids_speechdecode.report.encoding_methods import find_encoded, run_settings
from bids_speechdecode.report.encoding_models import (
    drawn_models,
    main_model,
    model_styles,
    model_words,
    read_models,
)
from bids_speechdecode.report.encoding_results import (
    electrode_gains,
    lag_curves,
    read_encoding,
    with_modulation,
)
from bids_speechdecode.report.group import write_group_report
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
                    peak = {"A": 0.28, "B": 0.11}.get(name[0], 0.01) * np.exp(-((along - 5) ** 2) / 9)
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
    rows[0]["name"] = rows[0]["name"]
    return pd.DataFrame(rows)


def _contrasts(table: pd.DataFrame, shift: float) -> pd.DataFrame:
    """Return table 4: every model against the untuned one, by band, layer and modulation."""
    rows = []
    for (model, layer, band), own in table.groupby(["model", "layer", "band"], dropna=False):
        if model == "untuned":
            continue
        gain = {**GAINS, **VARIANTS}[str(model)] + shift
        for electrodes, scale in (("all", 0.5), ("responsive", 1.0)):
            for i, part in enumerate(("broadband", *MODULATIONS)):
                name = part if isinstance(part, str) else f"{part[0]:g}-{part[1]:g}"
                value = gain * scale * (1 if isinstance(part, str) else 1.4 - 0.2 * i)
                row = {"model": model, "reference": "untuned", "layer": layer, "band": band}
                row |= {"modulation": name, "electrodes": electrodes, "n_electrodes": len(own)}
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
    (log / "log.txt").write_text("2026-01-01 10:00:01,000 WARNING run 3 is left out\n")


def _describe(root: Path) -> None:
    _write_json(root / "dataset_description.json", {"Name": "x (simulated)"})


def write_fixture(root: Path, models: dict[str, float] | None = None, n: int = 1) -> Path:
    """Write an INVENTED dataset of encoding results with `n` participants."""
    _describe(root)
    for i in range(1, n + 1):
        _write_participant(root, f"sub-{i:02}", models or GAINS, 0.002 * (i - (n + 1) / 2))
    return root


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
        rows.append(mean.assign(profile=profile, n_participants=n))
    found = pd.concat(rows, ignore_index=True)
    limits = {"ci_low": found["r"] - 0.01, "ci_high": found["r"] + 0.01}
    coherence = np.where(found["profile"] == "modulation", found["r"].clip(0) ** 2, np.nan)
    return found.assign(**limits, coherence=coherence)


def _scaling(n: int) -> pd.DataFrame:
    rows = []
    for model, gain in {"joint": 0.012, **VARIANTS}.items():
        amount = float((re.findall(r"amount-(\d+)", model) or ["100"])[0]) / 100
        row = {"model": model, "amount": amount, "seed": int("seed" in model), "layer": 9}
        row |= {"band": "highgamma", "n_participants": n, "difference": gain}
        rows.append(row | {"ci_low": gain - 0.003, "ci_high": gain + 0.003})
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
