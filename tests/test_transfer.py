"""Experiments zero-shot and day-night, on a simulated dataset whose room is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from bids_speechdecode.bids.derivatives import Derivatives
from bids_speechdecode.bids.sidecars import read_sidecar, read_table
from bids_speechdecode.cli import main
from bids_speechdecode.config import Config
from bids_speechdecode.group.experiments import experiment_word
from bids_speechdecode.report.experiments.daynight import draw_day_night
from bids_speechdecode.report.experiments.findings import draw_findings
from bids_speechdecode.report.experiments.pages import experiment_pages
from bids_speechdecode.report.experiments.transfer import draw_map
from bids_speechdecode.simulate import make_settings, simulate_dataset
from bids_speechdecode.simulate.dataset import list_plans
from bids_speechdecode.steps.experiments import shifts
from bids_speechdecode.steps.experiments.findings import as_table, unknown
from bids_speechdecode.steps.experiments.sources import Source, divide, draw_windows
from bids_speechdecode.steps.group import summarise_experiments

SETTINGS = """
[target]
name = "mel"
[encoder]
preset = "small"
[pretrain]
max_epochs = 1
[finetune]
max_epochs = 1
[evaluation]
block = 6.0
n_bootstrap = 200
n_permutations = 200
[experiments]
seeds = 1
"""
STEPS = "preprocess,features,select,pretrain,finetune,experiments"


def words(dataset: Path, out: Path, config: Path, *names: str) -> list[str]:
    of = ["participant", "--participant-label", "sim01", "--config", str(config)]
    return [str(dataset), str(out), *of, "--steps", STEPS, "--experiments", *names]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "transfer.toml"
    path.write_text(SETTINGS)
    return path


# --------------------------------------------------------------------------------------- quick


def test_files_of_the_experiment_and_of_the_condition_have_different_names() -> None:
    """`desc-zeroshot_scores.json` is a condition's: an experiment of that word would replace it."""
    assert experiment_word("zero-shot") not in ("zeroshot", "zeroshotAmbient")


def window_list(n_blocks: int, per_block: int, first: int) -> pd.DataFrame:
    blocks = np.repeat(np.arange(first, first + n_blocks), per_block)
    recordings = [f"run-{block % 5}" for block in blocks]
    return pd.DataFrame({"recording": recordings, "onset": 3.0 * blocks, "block": blocks})


def test_sources_are_of_one_size_and_versions_keep_their_pairs() -> None:
    """Bias and power depend on the number of windows; a pair is the same moment twice."""
    task = window_list(30, 9, 0)
    tables = {
        "ambient": window_list(400, 10, 30),
        "taskambient": task,
        "tasktrue": task.copy(),
    }
    drawn = draw_windows(tables, np.random.default_rng(0))
    assert {len(table) for table in drawn.values()} == {270}
    assert {table["block"].nunique() for table in drawn.values()} == {30}
    assert drawn["taskambient"].equals(drawn["tasktrue"])


def test_many_windows_are_limited() -> None:
    """A week of sound must not need a week's memory."""
    table = window_list(5000, 10, 0)
    drawn = draw_windows({"a": table, "b": table.assign(block=table["block"] + 5000)}, rng())
    assert len(drawn["a"]) == len(drawn["b"]) == 2000


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_halves_are_of_whole_recordings_and_differ() -> None:
    """A recording in both halves would hide what files alone do."""
    table = window_list(20, 4, 0)
    source = Source("ambient", np.zeros((80, 2)), table, np.zeros((80, 5)))
    halves = divide(source, rng())
    assert len({h.second.tobytes() for h in halves} | {(~h.second).tobytes() for h in halves}) == (
        2 * len(halves)
    )
    for half in halves:
        sides = table.assign(side=half.second).groupby("recording")["side"].nunique()
        assert (sides == 1).all()
        assert 0 < half.second.mean() < 1


def test_one_recording_is_halved_in_time() -> None:
    """There is no other way to halve it."""
    table = window_list(20, 4, 0).assign(recording="run-1")
    (half,) = divide(Source("tasktrue", np.zeros((80, 2)), table, np.zeros((80, 5))), rng())
    assert half.second.tolist() == [False] * 40 + [True] * 40


class FakeUmap:
    """Stands for umap-learn, which is not needed."""

    def __init__(self, n_components: int, random_state: int) -> None:
        assert (n_components, random_state) == (2, 7)

    def fit_transform(self, points: np.ndarray) -> np.ndarray:
        return points[:, :2] * 2


def test_a_umap_is_made_where_it_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an extra: absent, the map has two components, and nothing fails."""
    table = window_list(4, 5, 0)
    targets = np.random.default_rng(0).normal(size=(20, 3))
    sources = [Source("ambient", targets, table, np.zeros((20, 5)))]
    monkeypatch.setattr(shifts, "find_spec", lambda name: None)
    assert "umap1" not in shifts.map_sources(sources, 7)
    fake = type("module", (), {"UMAP": FakeUmap})
    monkeypatch.setattr(shifts, "find_spec", lambda name: fake)
    monkeypatch.setattr(shifts.importlib, "import_module", lambda name: fake)
    table = shifts.map_sources(sources, 7)
    np.testing.assert_allclose(table["umap2"], 2 * table["pc2"])
    figure = draw_map({"Map": table})
    assert [axis.get_xlabel() for axis in figure.axes][1] == "UMAP 1"


def test_nights_are_simulated_in_the_night() -> None:
    """By default there is none, and the other recordings keep their names."""
    plain = [p for p in list_plans(make_settings("tiny")) if p.task == "ambient"]
    both = [p for p in list_plans(make_settings("tiny", night_runs=2)) if p.task == "ambient"]
    nights = [p for p in both if p.hour < 6]
    assert [p for p in both if p not in nights] == plain
    assert len(nights) == 2 * 3
    assert len({(p.day, p.run) for p in both}) == len(both)


def test_a_group_without_a_number_has_no_table(tmp_path: Path) -> None:
    """Where nobody recorded at night, there is nothing to average and nothing to draw."""
    folder = tmp_path / "out" / "sub-01" / "ieeg"
    folder.mkdir(parents=True)
    table = as_table([unknown("day against all hours", "cannot be told")])
    table.to_csv(
        folder / "sub-01_task-audiobook_desc-daynightFindings_scores.tsv",
        sep="\t",
        index=False,
        na_rep="n/a",
    )
    out = Derivatives(tmp_path / "out", source=tmp_path, command="", simulated=True)
    summarise_experiments(out, ["01"], Config())
    assert not list(out.root.glob("group*"))
    assert isinstance(draw_findings(table), Figure)


# ---------------------------------------------------------------------------------------- slow


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three days with their nights, and minutes enough to see a room."""
    return simulate_dataset(
        tmp_path_factory.mktemp("nights") / "bids",
        preset="tiny",
        participants=1,
        night_runs=1,
        ambient_minutes=3.0,
        audiobook_minutes=6.0,
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, nights: Path, config: Path) -> Path:
    out = tmp_path_factory.mktemp("transfer") / "out"
    assert main(words(nights, out, config, "zero-shot", "day-night")) == 0
    return out


def read(out: Path, desc: str) -> pd.DataFrame:
    (path,) = (out / "sub-sim01" / "ieeg").glob(f"*_desc-{desc}_scores.tsv")
    return read_table(path)


@pytest.mark.slow
def test_the_room_is_told_from_the_clean_sound(made: Path) -> None:
    """Room and microphone are simulated: the same words, at the same time, have other targets."""
    table = read(made, "transferShift").set_index(["first", "second"])
    assert len(table) == 3
    room = table.loc[("taskambient", "tasktrue")]
    assert room["auc_p"] <= 0.05
    assert room["auc_low"] > room["halves_auc"]
    assert room["frechet_low"] > max(room["halves_frechet"], 0)
    assert (table["n_windows"] == table["n_windows"].iloc[0]).all()


@pytest.mark.slow
def test_properties_are_those_that_were_simulated(made: Path) -> None:
    """The microphone has noise at -48 dB of full scale, the clean file has none."""
    table = read(made, "transferProperties").set_index(["property", "source"])["median"]
    assert table["noise_floor", "taskambient"] == pytest.approx(-48, abs=3)
    assert table["noise_floor", "tasktrue"] < -60
    assert table["snr", "tasktrue"] > table["snr", "taskambient"]


@pytest.mark.slow
def test_every_source_is_ranked_and_on_the_map(made: Path) -> None:
    """The three numbers that the study reports, each with its interval."""
    sources = {"ambient", "taskambient", "tasktrue"}
    assert set(read(made, "transfer")["tested"]) == sources
    counts = read(made, "transferMap")["source"].value_counts()
    assert set(counts.index) == sources
    assert counts.nunique() == 1
    findings = read(made, "transferFindings").set_index("name")
    against = findings[findings.index.str.endswith("against chance")]
    assert len(against) == 3
    assert (against["ci_low"] <= against["effect"]).all()
    assert (against["effect"] <= against["ci_high"]).all()


@pytest.mark.slow
def test_day_and_night_have_the_windows_that_they_should(made: Path) -> None:
    """As much of all hours is as much, up to one file; all hours is more."""
    table = read(made, "daynight")
    counts = table[table["tested"] != "task"].groupby("trained_on")["n_train_windows"].first()
    file = 60
    assert counts["day"] < counts["all hours"]
    assert counts["day"] <= counts["as much of all hours"] <= counts["day"] + file
    assert {"zeroshot", "task"} <= set(table["tested"])
    text = " ".join(read(made, "daynightFindings")["text"])
    assert "the day (06:00 to 23:00)" in text


@pytest.mark.slow
def test_both_are_shown(made: Path, tmp_path: Path) -> None:
    """The report finds the tables by their names and draws every figure."""
    folder = made / "sub-sim01" / "ieeg"
    pages = experiment_pages(tmp_path / "sub-sim01.html", folder, "sub-sim01", simulated=True)
    assert [page.name for page in pages] == ["transfer", "daynight"]
    assert len(pages[0].pictures) == 6
    assert isinstance(draw_day_night({"": read(made, "daynight")}), Figure)
    (path,) = folder.glob("*_desc-transfer_scores.tsv")
    assert any("told apart" in text for text in read_sidecar(path)["Text"])


@pytest.mark.slow
def test_nothing_is_measured_twice(
    made: Path, nights: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tables are current until what they were made from changes."""
    (path,) = (made / "sub-sim01" / "ieeg").glob("*_desc-transfer_scores.tsv")
    before = path.stat().st_mtime_ns
    assert main(words(nights, made, config, "zero-shot")) == 0
    assert path.stat().st_mtime_ns == before


@pytest.mark.slow
def test_without_hours_there_is_no_day(
    tiny_copy: Path, tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By name an error that says what to add; among all it is left out with a word."""
    for path in tiny_copy.glob("sub-*/ses-*/*_scans.tsv"):
        path.unlink()
    dry = ["--dry-run"]
    assert main([*words(tiny_copy, tmp_path / "out", config, "day-night"), *dry]) == 66
    assert "acq_time" in capsys.readouterr().err
    assert main([*words(tiny_copy, tmp_path / "out", config, "all"), *dry]) == 0
    assert "day-night is left out" in capsys.readouterr().err


@pytest.mark.slow
def test_without_nights_that_is_said(tiny_dataset: Path, tmp_path: Path, config: Path) -> None:
    """Day and all hours are the same then: a difference of 0 would be a false answer."""
    out = tmp_path / "out"
    assert main(words(tiny_dataset, out, config, "day-night")) == 0
    assert set(read(out, "daynight")["trained_on"]) == {"day"}
    (finding,) = read(out, "daynightFindings").to_dict("records")
    assert "cannot be told" in finding["text"]
    assert np.isnan(finding["effect"])


@pytest.mark.slow
def test_too_few_blocks_are_said(tiny_dataset: Path, tmp_path: Path) -> None:
    """A minute of sound is ranked and mapped; nothing is said of what its sources differ by."""
    config, out = tmp_path / "blocks.toml", tmp_path / "out"
    config.write_text(SETTINGS.replace("block = 6.0", "block = 30.0"))
    assert main(words(tiny_dataset, out, config, "zero-shot")) == 0
    findings = read(out, "transferFindings").set_index("name")
    assert "cannot be compared" in findings.loc["shift of the targets", "text"]
    assert not list((out / "sub-sim01" / "ieeg").glob("*transferShift*"))
    (page,) = experiment_pages(
        tmp_path / "sub-sim01.html", out / "sub-sim01" / "ieeg", "sub-sim01", simulated=True
    )
    assert len(page.pictures) == 4
