"""Reading a dataset: participants, recordings, inheritance, channels, and what is missing."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from bids_speechdecode.bids.channels import Channel, match_channels, read_channels
from bids_speechdecode.bids.dataset import (
    list_recordings,
    open_dataset,
    require_signal,
    require_tasks,
    select_participants,
)
from bids_speechdecode.bids.tables import read_tsv, require_content
from bids_speechdecode.errors import (
    DataError,
    InvalidBIDSError,
    MissingInputError,
    NothingSelectedError,
    UsageError,
)

PODCAST = Path(__file__).resolve().parents[2] / "shared" / "data" / "ds005574"
CHANNELS = "name\ttype\tunits\tstatus\nA1\tSEEG\tuV\tgood\nA2\tSEEG\tuV\tbad\nM\tAUDIO\tV\tgood\n"


def make_dataset(root: Path, stems: dict[str, str], *, name: str = "test") -> Path:
    """Write a dataset of tiny recordings: {stem: extension of the signal or ""}."""
    root.mkdir(exist_ok=True)
    description = {"Name": name, "BIDSVersion": "1.10.0"}
    (root / "dataset_description.json").write_text(json.dumps(description))
    for stem, extension in stems.items():
        sub, *rest = stem.split("_")
        session = [part for part in rest if part.startswith("ses-")]
        folder = root.joinpath(sub, *session, "ieeg")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{stem}_ieeg.json").write_text(json.dumps({"SamplingFrequency": 1000}))
        (folder / f"{stem}_channels.tsv").write_text(CHANNELS)
        if extension:
            (folder / f"{stem}_ieeg{extension}").write_text("DataFile=$b.eeg\n")
        if extension == ".vhdr":
            (folder / f"{stem}_ieeg.eeg").write_bytes(b"0123")
    return root


def recordings(root: Path, participant: str = "01", **filters):
    return list_recordings(open_dataset(root), participant, **filters)


# ------------------------------------------------------------------------------ tables


def test_tables_of_every_bad_habit_read_alike(tmp_path):
    """A spreadsheet export (BOM, CRLF, blank lines, short rows) must not change a value."""
    clean = tmp_path / "clean.tsv"
    clean.write_text("name\ttype\tstatus\nA1\tSEEG\tgood\nB2\tn/a\tn/a\n")
    odd = tmp_path / "odd.tsv"
    odd.write_bytes(b"\xef\xbb\xbfname\ttype\tstatus\t\r\n\r\n A1\tSEEG\tgood\t\r\nB2\r\n\r\n")
    table, notes = read_tsv(odd)
    expected, no_notes = read_tsv(clean)
    assert table.to_dict("records") == expected.to_dict("records")
    assert expected.to_dict("records")[1] == {"name": "B2", "type": None, "status": None}
    assert no_notes == ()
    assert any("byte-order" in note for note in notes)
    assert any("1 rows shorter" in note for note in notes)


def test_names_that_look_like_missing_values_are_kept(tmp_path):
    """Contacts are really called NA1, NaN or null; pandas would drop them silently."""
    path = tmp_path / "t.tsv"
    path.write_text("name\nNA\nnan\nnull\nNone\n1\n")
    assert list(read_tsv(path)[0]["name"]) == ["NA", "nan", "null", "None", "1"]


def test_latin1_units_are_read_and_noted(tmp_path):
    """The micro sign of old exports is not UTF-8; one byte must not cost the recording."""
    path = tmp_path / "t.tsv"
    path.write_bytes("name\tunits\nA1\tµV\n".encode("latin-1"))
    table, notes = read_tsv(path)
    assert table["units"].iloc[0] == "µV"
    assert "Latin-1" in notes[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "empty"), ("\n \n", "empty"), ("a\ta\n1\t2\n", "twice"), ("a\tb\n1\t2\t3\n", "longer")],
)
def test_tables_without_one_meaning_are_errors(tmp_path, text, message):
    """Guessing which column a stray cell belongs to would shift every value."""
    path = tmp_path / "t.tsv"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as error:
        read_tsv(path)
    assert str(path) in str(error.value)


# ------------------------------------------------------------------------- the dataset


def test_absent_folder_and_folder_that_is_not_bids(tmp_path):
    """The two commonest mistakes have their own exit statuses."""
    with pytest.raises(MissingInputError) as absent:
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(InvalidBIDSError) as invalid:
        open_dataset(tmp_path)
    assert (absent.value.exit_code, invalid.value.exit_code) == (66, 16)
    assert open_dataset(tmp_path, validate=False).participants == ()


@pytest.mark.parametrize(
    "description",
    [
        "{",
        "[]",
        '{"Name": "x"}',
        '{"BIDSVersion": "1.8.0"}',
        '{"Name": "x", "BIDSVersion": "1.8.0", "DatasetType": "derivative"}',
    ],
)
def test_broken_descriptions_are_invalid_bids(tmp_path, description):
    """Half a description (or derivatives given as input) must not start a run."""
    (tmp_path / "sub-01").mkdir()
    (tmp_path / "dataset_description.json").write_text(description)
    with pytest.raises(InvalidBIDSError):
        open_dataset(tmp_path)


def test_a_dataset_without_participants_is_invalid(tmp_path):
    """A parent folder given by mistake may well have a description."""
    with pytest.raises(InvalidBIDSError, match="no participants"):
        open_dataset(make_dataset(tmp_path, {}))


@pytest.mark.parametrize(
    ("description", "simulated"),
    [
        ({"Name": "real"}, False),
        ({"Name": "A simulated dataset"}, True),
        ({"Name": "x", "GeneratedBy": [{"Name": "bids_speechdecode.simulate"}]}, True),
        ({"Name": "x", "GeneratedBy": [{"Name": "converter"}]}, False),
    ],
)
def test_simulated_data_are_known_as_such(tmp_path, description, simulated):
    """Everything made from simulated data must say so."""
    (tmp_path / "sub-01").mkdir()
    text = json.dumps({"BIDSVersion": "1.10.0", **description})
    (tmp_path / "dataset_description.json").write_text(text)
    assert open_dataset(tmp_path).simulated is simulated


def test_participants_with_or_without_prefix(tmp_path):
    """People type both; the answer is the same."""
    dataset = open_dataset(make_dataset(tmp_path, {f"sub-{i:02d}_task-a": "" for i in (1, 2, 3)}))
    assert select_participants(dataset) == ("01", "02", "03")
    assert select_participants(dataset, ["sub-03", "01", "03"]) == ("01", "03")
    assert select_participants(dataset, (), ["sub-02"]) == ("01", "03")


@pytest.mark.parametrize(("wanted", "excluded"), [(["1"], []), ([], ["1"]), (["01"], ["01"])])
def test_unknown_or_no_participants_are_an_error(tmp_path, wanted, excluded):
    """A typo must not silently process nobody, or include somebody meant to be left out."""
    dataset = open_dataset(make_dataset(tmp_path, {"sub-01_task-a": ""}))
    with pytest.raises(NothingSelectedError) as error:
        select_participants(dataset, wanted, excluded)
    assert error.value.exit_code == 18
    if "1" in [*wanted, *excluded]:
        assert "did you mean '01'?" in str(error.value)


# -------------------------------------------------------------------------- recordings


def test_sessions_runs_and_formats(tmp_path):
    """Every entity of a name must arrive where later steps look for it."""
    stems = {
        "sub-01_ses-a_task-x_run-01": ".vhdr",
        "sub-01_ses-a_task-x_run-02": ".edf",
        "sub-01_ses-b_task-y_acq-hi": ".nwb",
        "sub-02_ses-a_task-x": ".edf",
    }
    found = recordings(make_dataset(tmp_path, stems))
    assert [r.label for r in found] == [*stems][:3]
    assert [r.format for r in found] == ["brainvision", "edf", "nwb"]
    assert [(r.session, r.task, r.run) for r in found][1] == ("a", "x", "02")
    assert found[2].entities == (("sub", "01"), ("ses", "b"), ("task", "y"), ("acq", "hi"))
    assert not any(r.signal_missing for r in found)
    assert [c.name for c in found[0].channels if c.is_brain] == ["A1", "A2"]
    assert found[0].sampling_frequency == 1000
    assert found[0].power_line_frequency is None


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"tasks": ["x"]}, ["a_task-x_run-01", "a_task-x_run-02"]),
        ({"tasks": ["task-y"]}, ["b_task-y_run-01"]),
        ({"sessions": ["ses-b"]}, ["b_task-y_run-01"]),
        ({"runs": ["1"]}, ["a_task-x_run-01", "b_task-y_run-01"]),
        ({"runs": ["run-02"], "sessions": ["a"]}, ["a_task-x_run-02"]),
    ],
)
def test_filters_select(tmp_path, filters, expected):
    """A label means the same with or without its prefix; run 1 is run 01."""
    names = ["a_task-x_run-01", "a_task-x_run-02", "b_task-y_run-01"]
    root = make_dataset(tmp_path, {f"sub-01_ses-{name}": ".edf" for name in names})
    assert [r.label for r in recordings(root, **filters)] == [f"sub-01_ses-{n}" for n in expected]


def test_filters_that_leave_nothing_list_what_there_is(tmp_path):
    """The user sees what could have been asked for."""
    root = make_dataset(tmp_path, {"sub-01_ses-a_task-x": ".edf"})
    with pytest.raises(NothingSelectedError, match="sub-01_ses-a_task-x"):
        recordings(root, sessions=["z"])
    (root / "sub-02").mkdir()
    with pytest.raises(NothingSelectedError, match="no iEEG recording"):
        recordings(root, "02")


def test_filter_file_speaks_pybids(tmp_path):
    """The filter files of other BIDS Apps work, and a typo in one is named."""
    stems = {
        "sub-01_task-x_acq-hi": ".edf",
        "sub-01_task-x_acq-lo": ".edf",
        "sub-01_task-x": ".edf",
    }
    root = make_dataset(tmp_path / "data", stems)
    path = tmp_path / "filter.json"

    def labels(filters: dict) -> list[str]:
        path.write_text(json.dumps(filters))
        return [r.label for r in recordings(root, filter_file=path)]

    assert labels({"ieeg": {"acquisition": "hi"}, "bold": {}}) == ["sub-01_task-x_acq-hi"]
    assert labels({"ieeg": {"acquisition": None}}) == ["sub-01_task-x"]
    assert len(labels({"ieeg": {"acquisition": "*", "suffix": "ieeg"}})) == 2
    for wrong in ({"ieeg": {"acquisitoin": "hi"}}, {"eeg": {}}):
        with pytest.raises(UsageError):
            labels(wrong)
    with pytest.raises(MissingInputError):
        recordings(root, filter_file=tmp_path / "none.json")


def test_sidecars_are_inherited_from_far_to_near(tmp_path):
    """A value near the recording overrides the one at the top; other people's never apply."""
    root = make_dataset(tmp_path, {"sub-01_ses-a_task-x_run-01": ".edf", "sub-02_task-x": ".edf"})
    here = root / "sub-01" / "ses-a" / "ieeg"
    top = {"PowerLineFrequency": 50, "SamplingFrequency": 1, "RecordingDuration": "n/a"}
    (root / "task-x_ieeg.json").write_text(json.dumps(top))
    (root / "ieeg.json").write_text(json.dumps({"PowerLineFrequency": 60, "Manufacturer": "m"}))
    (root / "task-y_ieeg.json").write_text(json.dumps({"PowerLineFrequency": 70}))
    (root / "sub-01" / "sub-01_task-x_events.tsv").write_text("onset\tduration\n")
    (root / "task-x_channels.tsv").write_text("name\ttype\nTOP\tSEEG\n")
    [r] = recordings(root)
    assert (r.power_line_frequency, r.sampling_frequency, r.duration) == (50, 1000, None)
    assert r.metadata["Manufacturer"] == "m"
    assert r.events_path == root / "sub-01" / "sub-01_task-x_events.tsv"
    assert r.channels[0].name == "A1"
    (here / "sub-01_ses-a_task-x_run-01_channels.tsv").unlink()
    [r] = recordings(root)
    assert [c.name for c in r.channels] == ["TOP"]


def test_electrodes_keep_their_own_coordsystem(tmp_path):
    """Coordinates read in another file's space or unit would be wrong without any sign."""
    root = make_dataset(tmp_path, {"sub-01_ses-a_task-x": ".edf"})
    for space in ("MNI152Lin", "Other"):
        stem = root / "sub-01" / "ses-a" / "ieeg" / f"sub-01_ses-a_space-{space}"
        Path(f"{stem}_electrodes.tsv").write_text("name\tx\ty\tz\n")
        Path(f"{stem}_coordsystem.json").write_text("{}")
    [r] = recordings(root)
    names = [(e.electrodes.name, e.coordsystem.name) for e in r.electrodes if e.coordsystem]
    assert names == [
        (f"sub-01_ses-a_space-{s}_electrodes.tsv", f"sub-01_ses-a_space-{s}_coordsystem.json")
        for s in ("MNI152Lin", "Other")
    ]


def test_mef3_folders_are_recordings(tmp_path):
    """A MEF3 recording is a folder with thousands of files, which an index must not enter."""
    root = make_dataset(tmp_path, {"sub-01_task-x": ""})
    inner = root / "sub-01" / "ieeg" / "sub-01_task-x_ieeg.mefd" / "A1.timd"
    inner.mkdir(parents=True)
    (inner / "sub-09_task-z_ieeg.edf").write_text("")
    [r] = recordings(root)
    assert (r.format, r.path.name) == ("mef3", "sub-01_task-x_ieeg.mefd")


def test_signal_that_is_not_there_is_named_when_opened(tmp_path):
    """A dataset of sidecars can be planned with; opening it says exactly what to download."""
    [r] = recordings(make_dataset(tmp_path, {"sub-01_task-x": ""}))
    assert r.signal_missing
    assert (r.format, r.path.name) == ("", "sub-01_task-x_ieeg")
    with pytest.raises(MissingInputError, match="sub-01_task-x_ieeg") as error:
        require_signal(r)
    assert error.value.exit_code == 66


def test_shared_sidecar_is_not_a_recording(tmp_path):
    """Two runs with one sidecar are two recordings, not three."""
    root = make_dataset(tmp_path, {"sub-01_task-x_run-01": ".edf", "sub-01_task-x_run-02": ""})
    folder = root / "sub-01" / "ieeg"
    (folder / "sub-01_task-x_ieeg.json").write_text("{}")
    (folder / "sub-01_ieeg.json").write_text("{}")
    (folder / "sub-01_task-x_run-02_ieeg.json").unlink()
    assert [r.label for r in recordings(root)] == ["sub-01_task-x_run-01", "sub-01_task-x_run-02"]


@pytest.mark.parametrize("kind", ["link", "annex", "lfs"])
def test_pointers_give_the_exact_command(tmp_path, kind):
    """A DataLad clone has every name and no content; the user can paste what the message says."""
    root = make_dataset(tmp_path, {"sub-01_task-x": ".edf"})
    inside = "sub-01/ieeg/sub-01_task-x_ieeg.edf"
    path = root / inside
    path.unlink()
    if kind == "link":
        path.symlink_to("../../.git/annex/objects/xx/yy")
    elif kind == "annex":
        path.write_text("/annex/objects/MD5E-s1--abc.edf\n")
    else:
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    [r] = recordings(root)
    assert r.signal_missing
    command = "git lfs pull --include" if kind == "lfs" else "datalad get"
    with pytest.raises(MissingInputError) as error:
        require_signal(r)
    assert f"cd {root} && {command} {inside}" in str(error.value)


def test_brainvision_needs_the_file_its_header_names(tmp_path):
    """With DataLad the header may be there while the 2 GB beside it are not."""
    root = make_dataset(tmp_path, {"sub-01_task-x": ".vhdr"})
    data = root / "sub-01" / "ieeg" / "sub-01_task-x_ieeg.eeg"
    data.unlink()
    data.symlink_to("../../.git/annex/objects/xx")
    [r] = recordings(root)
    with pytest.raises(MissingInputError, match=r"datalad get .*_ieeg\.eeg"):
        require_signal(r)


def test_absent_file_suggests_its_neighbour(tmp_path):
    """Most absent files are a typo away from one that is there."""
    (tmp_path / "story.wav").write_text("x")
    with pytest.raises(MissingInputError, match=r"did you mean 'story\.wav'"):
        require_content(tmp_path / "stroy.wav", tmp_path)


def test_tasks_that_do_not_exist(tmp_path):
    """The error lists the tasks and names the closest."""
    stems = {"sub-01_task-audiobook": ".edf", "sub-01_task-rest": ".edf"}
    found = recordings(make_dataset(tmp_path, stems))
    assert [r.task for r in require_tasks(found, "rest", "--finetune-task")] == ["rest"]
    with pytest.raises(NothingSelectedError) as error:
        require_tasks(found, "audiobok", "--finetune-task")
    for part in ("audiobook, rest", "did you mean 'audiobook'?", "--finetune-task"):
        assert part in str(error.value)


def test_saved_index_gives_the_same_recordings(tmp_path):
    """--bids-database-dir must never change what is found, nor serve another dataset."""
    stems = {"sub-01_task-x": ".edf", "sub-02_task-x": ".edf"}
    root = make_dataset(tmp_path / "a", stems)
    database = tmp_path / "db"
    first = recordings(root, database_dir=database)
    again = recordings(root, database_dir=database)
    assert first == again == recordings(root)
    assert [r.participant for r in recordings(root, "02", database_dir=database)] == ["02"]
    with pytest.raises(UsageError, match="another dataset"):
        recordings(make_dataset(tmp_path / "b", stems), database_dir=database)


def seconds_to_list(root: Path, participant: str) -> float:
    start = time.perf_counter()
    assert len(list_recordings(open_dataset(root), participant)) == 2
    return time.perf_counter() - start


def test_a_thousand_participants_cost_no_more(tmp_path):
    """Large archives must not slow down one participant: at most 1 s more than with two."""
    times = {}
    for n in (2, 1000):
        stems = {f"sub-{i:04d}_task-x_run-{r:02d}": ".vhdr" for i in range(n) for r in (1, 2)}
        root = make_dataset(tmp_path / str(n), stems)
        times[n] = min(seconds_to_list(root, "0001") for _ in range(3))
    assert times[1000] - times[2] < 1.0


def test_a_week_of_recordings_is_listed_quickly(tmp_path):
    """A week in 2-hour files, in sessions by day: listing must stay far below a second each."""
    stems = {f"sub-01_ses-{d}_task-x_run-{r:02d}": ".vhdr" for d in range(8) for r in range(12)}
    root = make_dataset(tmp_path, stems)
    start = time.perf_counter()
    assert len(recordings(root)) == 96
    assert time.perf_counter() - start < 5


# ---------------------------------------------------------------------------- channels


def test_channels_of_every_bad_habit(tmp_path):
    """Each oddity is handled in the way BIDS says and counted, never silently."""
    path = tmp_path / "channels.tsv"
    path.write_text(
        "name\ttype\tunits\tstatus\tstatus_description\tgroup\tsampling_frequency\n"
        "A1\tseeg\tuV\tGood\tn/a\tA\t512.0\n"
        "A2\tSEEG\tuV\tn/a\tn/a\tA\tn/a\n"
        "A3\tECOG\tuV\tquestionable\tn/a\tn/a\t-1\n"
        "n/a\tSEEG\tuV\tgood\tn/a\tn/a\tn/a\n"
        "A4\tn/a\tuV\tbad\tNo localization\tB\t512\n"
        "A1\tDBS\tuV\tgood\tn/a\tn/a\tn/a\n"
    )
    channels, notes = read_channels(path)
    assert [c.status for c in channels] == ["good", "good", "bad", "bad", "good"]
    assert [c.is_brain for c in channels] == [True, True, True, False, True]
    assert [c.sampling_frequency for c in channels] == [512, None, None, 512, None]
    assert channels[3].status_description == "No localization"
    text = "\n".join(notes)
    for part in ("1 rows without a name", "1 rows without status", "1 rows without type"):
        assert part in text
    for part in ("1 channels of unknown status", "1 names more than once (A1)"):
        assert part in text


def test_channels_without_their_columns(tmp_path):
    """A table without status is all good; one without names is of no use."""
    path = tmp_path / "channels.tsv"
    path.write_text("name\nA1\n")
    channels, notes = read_channels(path)
    assert (channels[0].status, channels[0].is_brain) == ("good", False)
    assert len(notes) == 2
    path.write_text("channel\nA1\n")
    with pytest.raises(DataError, match="no column 'name'"):
        read_channels(path)
    assert read_channels(None)[0] == ()


def test_channels_are_matched_by_name_not_by_row():
    """Rows in another order, or one too few, must not move a status to its neighbour."""
    rows = [Channel("B2", "SEEG"), Channel("a1 ", "SEEG", status="bad"), Channel("X", "SEEG")]
    matched, notes = match_channels(rows, ["A1", "B2", "TRIG"])
    assert [(c.status, c.is_brain) for c in matched] == [
        ("bad", True),
        ("good", True),
        ("bad", False),
    ]
    assert matched[2].status_description == "no row in channels.tsv"
    assert "1 channels without a row in channels.tsv (TRIG)" in notes
    assert "1 rows of channels.tsv without a channel (X)" in notes


# ------------------------------------------------------------------------- real layout


@pytest.mark.skipif(not PODCAST.is_dir(), reason="../shared/data/ds005574 is absent")
def test_podcast_dataset_is_understood_up_to_its_signals():
    """A real published layout: BOM, units n/a, bad contacts, two spaces, no events, no signals."""
    dataset = open_dataset(PODCAST)
    assert dataset.participants == tuple(f"{i:02d}" for i in range(1, 10))
    n_good = 0
    for participant in dataset.participants:
        [r] = list_recordings(dataset, participant)
        assert (r.task, r.events_path, r.signal_missing) == ("podcast", None, True)
        assert r.sampling_frequency == (2048 if participant == "07" else 512)
        assert r.duration == pytest.approx(1800, abs=0.01)
        assert len(r.electrodes) == 2
        n_good += sum(c.is_brain and c.status == "good" for c in r.channels)
        table = PODCAST / f"sub-{participant}" / "ieeg"
        rows = (table / f"sub-{participant}_task-podcast_channels.tsv").read_text("utf-8-sig")
        assert len(r.channels) == len(rows.strip().splitlines()) - 1
        with pytest.raises(MissingInputError, match=r"sub-.*_task-podcast_ieeg"):
            require_signal(r)
    assert n_good == 1268  # as published


def test_unreadable_sidecar_is_named(tmp_path):
    """Broken JSON deep in a dataset is found by its name in the message."""
    root = make_dataset(tmp_path, {"sub-01_task-x": ".edf"})
    path = root / "sub-01" / "ieeg" / "sub-01_task-x_ieeg.json"
    path.write_text("{")
    (recording,) = recordings(root)
    assert isinstance(recording.problem, DataError)
    assert os.fspath(path) in str(recording.problem)


def test_sidecars_that_were_not_downloaded(tmp_path):
    """Some archives keep even their tables in git-annex; the message is the same."""
    root = make_dataset(tmp_path, {"sub-01_task-x": ".edf"})
    path = root / "sub-01" / "ieeg" / "sub-01_task-x_channels.tsv"
    path.unlink()
    path.symlink_to("../../.git/annex/objects/xx")
    (recording,) = recordings(root)
    assert isinstance(recording.problem, MissingInputError)
    assert "datalad get sub-01_task-x_channels.tsv" in str(recording.problem)


def test_relative_and_linked_dataset_paths(tmp_path, monkeypatch):
    """The dataset is one and the same however its path is typed."""
    root = make_dataset(tmp_path / "data", {"sub-01_task-x": ".edf"})
    (tmp_path / "link").symlink_to(root)
    monkeypatch.chdir(tmp_path)
    expected = recordings(root)
    for path in ("data", "link", "data/../data", "./link/"):
        assert recordings(Path(path)) == expected
