"""The whole command on a simulated dataset, as a user types it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import mne
import numpy as np
import pandas as pd
import pytest

from bids_speechdecode.cli import main

CONDITIONS = {"backward", "linear", "taskonly", "frozen", "finetuned", "zeroshot"}


def read_scores(out: Path, participant: str = "sim01") -> pd.DataFrame:
    name = f"sub-{participant}_task-audiobook_desc-conditions_scores.tsv"
    return pd.read_csv(out / f"sub-{participant}" / "ieeg" / name, sep="\t")


def modification_times(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file() and "/log/" not in str(path)
    }


def test_every_condition_is_scored_on_the_same_windows(finished_run: Path) -> None:
    # A condition left out, or scored on other windows, could not be compared.
    table = read_scores(finished_run)
    for audio in ("true", "ambient"):
        rows = table[(table["audio"] == audio) & (table["task"] == "audiobook")]
        assert set(rows["condition"]) == CONDITIONS
        assert rows["n_test_windows"].nunique() == 1
    assert set(table.loc[table["task"] == "ambient", "condition"]) == {"pretrained"}
    assert table["relative_rank"].between(0, 1).all()


def test_the_table_follows_from_the_windows(finished_run: Path) -> None:
    # The mean rank in the table must be that of the rows that anybody can read.
    folder = finished_run / "sub-sim01"
    paths = list(folder.rglob("*_task-audiobook_*desc-finetuned_events.tsv"))
    rows = pd.concat([pd.read_csv(path, sep="\t") for path in paths])
    table = read_scores(finished_run)
    row = table[(table["condition"] == "finetuned") & (table["audio"] == "true")].iloc[0]
    assert rows["rank"].mean() == pytest.approx(row["relative_rank"], abs=1e-6)
    assert len(rows) == row["n_test_windows"] == rows["n_candidates"].iloc[0]


def test_ranks_follow_from_the_embeddings(finished_run: Path) -> None:
    # An independent computation, from the embeddings on disk, by a slow loop.
    stem = finished_run / "sub-sim01" / "ieeg" / "sub-sim01_task-audiobook_desc-finetuned"
    brain = np.load(f"{stem}brain_embeddings.npy").reshape(9, -1)
    audio = np.load(f"{stem}audio_embeddings.npy").reshape(9, -1)
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (brain, audio)]
    similarity = unit[0] @ unit[1].T
    ranks = [(row > row[i]).sum() / (len(row) - 1) for i, row in enumerate(similarity)]
    table = read_scores(finished_run)
    row = table[(table["condition"] == "finetuned") & (table["audio"] == "true")].iloc[0]
    assert np.mean(ranks) == pytest.approx(row["relative_rank"], abs=1e-6)


def test_the_signal_opens_in_mne_and_as_a_memory_map(finished_run: Path) -> None:
    # The two ways in which people will read the preprocessed signal.
    path = next(finished_run.rglob("*_task-audiobook_*desc-preproc_ieeg.vhdr"))
    raw = mne.io.read_raw_brainvision(path, preload=True, verbose="error")
    mapped = np.memmap(path.with_suffix(".eeg"), dtype="<f4", mode="r")
    mapped = mapped.reshape(-1, len(raw.ch_names))
    assert raw.info["sfreq"] == 40.0
    np.testing.assert_allclose(raw.get_data().T, mapped, rtol=1e-5, atol=1e-12)
    assert np.abs(mapped).max() <= 20.0


def test_no_window_is_in_two_splits(finished_run: Path) -> None:
    # Leakage would make every score worthless.
    path = finished_run / "sub-sim01" / "ieeg" / "sub-sim01_desc-plan_windows.json"
    plan = json.loads(path.read_text())
    splits = [r["split"] for r in plan["recordings"] if r["role"] == "pretrain"]
    assert sorted(splits) == ["test", "train", "val"]


def test_a_second_run_does_nothing_again(
    finished_run: Path, tiny_dataset: Path, quick_config: Path, tmp_path: Path
) -> None:
    # Whoever repeats a command after a week must not pay for it twice.
    out = Path(shutil.copytree(finished_run, tmp_path / "out"))
    before = modification_times(out)
    arguments = ["participant", "--participant-label", "sim01", "--config", str(quick_config)]
    assert main([str(tiny_dataset), str(out), *arguments]) == 0
    after = modification_times(out)
    changed = {name for name in before if before[name] != after[name]}
    rewritten = {"README", "sub-sim01.html", "sub-sim01/ieeg/sub-sim01_desc-plan_windows.json"}
    assert {n for n in changed if "/figures/" not in n} <= rewritten
    assert set(after) == set(before)


def test_other_settings_recompute_only_what_they_change(
    finished_run: Path, tiny_dataset: Path, quick_config: Path, tmp_path: Path
) -> None:
    # Another number of finetuning epochs must leave signal, features and pretraining alone.
    out = Path(shutil.copytree(finished_run, tmp_path / "out"))
    config = tmp_path / "other.toml"
    config.write_text(
        quick_config.read_text().replace("[finetune]\nmax_epochs = 2", "[finetune]\nmax_epochs = 1")
    )
    before = modification_times(out)
    arguments = ["participant", "--participant-label", "sim01", "--config", str(config)]
    assert main([str(tiny_dataset), str(out), *arguments]) == 0
    changed = {n for n, time in modification_times(out).items() if before.get(n) != time}
    assert any(name.endswith("desc-finetuned_model.safetensors") for name in changed)
    assert not any("desc-preproc" in n or "pretrained_model" in n for n in changed)
    assert not any(n.startswith("features/") for n in changed)


def test_participants_who_heard_the_same_file_share_its_features(finished_run: Path) -> None:
    # The audiobook's targets are computed once, whoever runs first.
    book = list((finished_run / "features").glob("simulated_audiobook_chapter-01_*.npy"))
    assert len(book) == 1


def test_everything_says_simulated(finished_run: Path) -> None:
    # Numbers of a simulation must never pass for those of a brain.
    description = json.loads((finished_run / "dataset_description.json").read_text())
    assert "simulated" in description["Name"]
    assert read_scores(finished_run)["simulated"].all()
    for page in ("sub-sim01.html", "group.html"):
        assert "simulated" in (finished_run / page).read_text().lower()


def test_derivatives_are_valid_bids(finished_run: Path) -> None:
    # What a user uploads next to the dataset has to pass the validator.
    validator = Path(sys.executable).with_name("bids-validator-deno")
    outcome = subprocess.run(
        [validator, finished_run, "--ignoreWarnings"], capture_output=True, text=True, check=False
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


def test_the_input_is_never_written(finished_run: Path, tiny_dataset: Path) -> None:
    # Data of patients are often the only copy.
    newest = max(p.stat().st_mtime for p in tiny_dataset.rglob("*") if p.is_file())
    assert newest < (finished_run / "dataset_description.json").stat().st_mtime
    assert not list(tiny_dataset.rglob("*.html"))


@pytest.mark.parametrize(
    ("change", "steps", "step"),
    [
        (("[target]", "[preprocess]\nrate = 50.0\n\n[target]"), "finetune,evaluate", "preprocess"),
        (("[finetune]\nmax_epochs = 2", "[finetune]\nmax_epochs = 1"), "evaluate", "finetune"),
        (("[pretrain]\nmax_epochs = 2", "[pretrain]\nmax_epochs = 1"), "evaluate", "pretrain"),
    ],
)
def test_half_a_run_refuses_results_of_other_settings(
    finished_run: Path,
    tiny_dataset: Path,
    quick_config: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: tuple[str, str],
    steps: str,
    step: str,
) -> None:
    # On a cluster the steps are separate jobs: one with other settings must not mix in silently.
    out = Path(shutil.copytree(finished_run, tmp_path / "out"))
    config = tmp_path / "other.toml"
    config.write_text(quick_config.read_text().replace(*change))
    before = modification_times(out)
    options = ["--participant-label", "sim01", "--config", str(config), "--steps", steps]
    assert main([str(tiny_dataset), str(out), "participant", *options]) == 66
    assert f"the results of step '{step}' were made with other settings" in capsys.readouterr().err
    changed = {n for n, time in modification_times(out).items() if before.get(n) != time}
    assert not any(n.endswith((".safetensors", "_scores.tsv", ".npy")) for n in changed)


def test_audio_may_lie_outside_the_dataset(
    tiny_copy: Path, quick_config: Path, tmp_path: Path
) -> None:
    # Stimuli are often not shared with the recordings; --audio then names the file.
    sound = tmp_path / "elsewhere" / "book.flac"
    sound.parent.mkdir()
    shutil.copy(tiny_copy / "stimuli" / "simulated_audiobook_chapter-01.flac", sound)
    for events in tiny_copy.rglob("*_task-audiobook_*_events.tsv"):
        events.unlink()
    out = tmp_path / "out"
    options = ["--participant-label", "sim01", "--config", str(quick_config)]
    options += ["--audio", str(sound), "--pretrain-task", "none", "--steps", "preprocess,features"]
    assert main([str(tiny_copy), str(out), "participant", *options]) == 0
    assert len(list((out / "features").glob("book_*_embeddings.npy"))) == 1
