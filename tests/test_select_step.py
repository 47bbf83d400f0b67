"""The step ``select`` on the command line: which channels, why, and that nothing leaks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bids_speechdecode.cli import main

UNTIL_SELECT = ["--steps", "preprocess,features,select"]


def _run(data: Path, out: Path, config: Path, *words: str) -> int:
    command = [str(data), str(out), "participant", "--participant-label", "sim01"]
    return main([*command, "--config", str(config), *UNTIL_SELECT, *words])


def _table(out: Path) -> pd.DataFrame:
    path = out / "sub-sim01/ieeg/sub-sim01_task-audiobook_desc-selected_channels.tsv"
    return pd.read_csv(path, sep="\t").set_index("name")


def _electrodes(data: Path) -> list[Path]:
    return sorted(data.glob("sub-sim01/**/*_electrodes.tsv"))


def test_every_channel_is_there_with_place_label_and_reason(finished_run: Path) -> None:
    """The table is what a reader checks first: nothing may be missing from it."""
    table = _table(finished_run)
    assert {"ECG1", "ECG"} & set(table.index)
    kept = table[table["kept"]]
    assert len(kept) >= 10
    assert kept[["x", "y", "z"]].notna().all(axis=None)
    assert (kept["space"] == "MNI152").all()
    assert kept["nearest_label"].notna().all()
    assert table["reason"].notna().all()
    assert {"superiortemporal", "transversetemporal", "middletemporal"} & set(kept["label"])


def test_roi_keeps_the_regions_and_says_why_others_are_dropped(
    tiny_dataset: Path, quick_config: Path, tmp_path: Path
) -> None:
    """A reader must see which region put a channel in or out."""
    roi = ["--select", "roi", "--roi", "transversetemporal", "superiortemporal"]
    assert _run(tiny_dataset, tmp_path / "out", quick_config, *roi) == 0
    table = _table(tmp_path / "out")
    kept = table[table["kept"]]
    assert 0 < len(kept) < 12
    assert set(kept["label"]) <= {"transversetemporal", "superiortemporal"}
    outside = table[~table["kept"] & (table["type"] == "SEEG")]
    assert outside["reason"].str.len().min() > 0


def test_nothing_left_is_told_before_any_signal_is_read(
    tiny_dataset: Path, quick_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An empty selection must not cost hours of preprocessing first."""
    roi = ["--select", "roi", "--roi", "cuneus"]
    assert _run(tiny_dataset, tmp_path / "out", quick_config, *roi) == 18
    assert not (tmp_path / "out").exists()
    said = capsys.readouterr().err
    assert "cuneus" in said
    assert "superiortemporal" in said  # what there is instead, by region


def test_a_region_that_does_not_exist_gets_a_suggestion(
    tiny_dataset: Path, quick_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Labels are long words; a typing error must not look like an empty region."""
    roi = ["--select", "roi", "--roi", "superiortemporl"]
    assert _run(tiny_dataset, tmp_path / "out", quick_config, *roi) == 64
    assert "superiortemporal" in capsys.readouterr().err


def test_radius_counts_millimetres_from_the_centre(
    tiny_dataset: Path, quick_config: Path, tmp_path: Path
) -> None:
    """Kept and dropped must agree with the distances that the table itself gives."""
    table = _positions(tiny_dataset)
    center = table.iloc[0][["x", "y", "z"]].to_numpy(dtype=float)
    text = ",".join(f"{v:g}" for v in center)
    words = ["--select", "radius", "--center", text, "--radius", "9"]
    assert _run(tiny_dataset, tmp_path / "out", quick_config, *words) == 0
    found = _table(tmp_path / "out")
    found = found[found["type"] == "SEEG"]
    found = found[found["x"].notna() & (found["good_fraction"] > 0.5)]
    near = np.linalg.norm(found[["x", "y", "z"]].to_numpy() - center, axis=1) <= 9
    assert found["kept"].to_numpy().tolist() == near.tolist()


def _positions(data: Path) -> pd.DataFrame:
    return pd.read_csv(_electrodes(data)[0], sep="\t")


def test_channels_without_position_follow_the_policy(
    tiny_copy: Path, quick_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unlocalised contacts are common; what happens to them must be the user's choice."""
    for path in _electrodes(tiny_copy):
        table = pd.read_csv(path, sep="\t", dtype=str)
        table.loc[0, ["x", "y", "z"]] = "n/a"
        table.to_csv(path, sep="\t", index=False)
    name = _positions(tiny_copy)["name"][0]
    roi = ["--select", "roi", "--unlocalised"]
    assert _run(tiny_copy, tmp_path / "drop", quick_config, *roi, "drop") == 0
    assert not _table(tmp_path / "drop").loc[name, "kept"]
    assert _run(tiny_copy, tmp_path / "keep", quick_config, *roi, "keep") == 0
    assert _table(tmp_path / "keep").loc[name, "kept"]
    assert _run(tiny_copy, tmp_path / "error", quick_config, *roi, "error") == 65
    assert name in capsys.readouterr().err


def test_another_selection_keeps_the_signal_and_is_noticed_by_later_steps(
    tiny_dataset: Path, quick_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trying regions must be cheap, and a model must never run on channels it was not made of."""
    out = tmp_path / "out"
    assert _run(tiny_dataset, out, quick_config) == 0
    signal = next(out.glob("sub-sim01/**/*_desc-preproc_ieeg.eeg"))
    before = signal.stat().st_mtime_ns
    n_before = int(_table(out)["kept"].sum())
    command = [str(tiny_dataset), str(out), "participant", "--participant-label", "sim01"]
    words = ["--config", str(quick_config), "--select", "roi", "--pretrain-task", "none"]
    assert main([*command, *words, "--steps", "finetune"]) == 66
    assert "--steps select" in capsys.readouterr().err
    assert _run(tiny_dataset, out, quick_config, "--select", "roi") == 0
    assert signal.stat().st_mtime_ns == before
    assert int(_table(out)["kept"].sum()) < n_before


def test_bipolar_pairs_lie_at_their_midpoint_and_keep_both_contacts(
    tiny_dataset: Path, quick_config: Path, tmp_path: Path
) -> None:
    """The place of a pair is between its contacts; both must stay traceable."""
    assert _run(tiny_dataset, tmp_path / "out", quick_config, "--reference", "bipolar") == 0
    table = _table(tmp_path / "out")
    pairs = table[table["contact_2"].notna()]
    assert len(pairs)
    places = _positions(tiny_dataset).set_index("name")[["x", "y", "z"]]
    for name, pair in pairs.iterrows():
        assert name == f"{pair['contact_1']}-{pair['contact_2']}"
        middle = (places.loc[pair["contact_1"]] + places.loc[pair["contact_2"]]) / 2
        np.testing.assert_allclose(pair[["x", "y", "z"]].astype(float), middle, atol=0.006)
