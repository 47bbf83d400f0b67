"""The five formats as blocks, against what wrote them and against MNE."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from bids_speechdecode.errors import DataError, MissingInputError
from bids_speechdecode.signals.readers import SignalReader, open_signal
from bids_speechdecode.signals.readers.base import pieces_from_onsets, volts_per_unit

mne = pytest.importorskip("mne")

RATE, N_TIMES, N_CHANNELS = 200.0, 2000, 3
NAMES = [f"LA{i}" for i in range(1, N_CHANNELS + 1)]
REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "ieeg"


def volts() -> np.ndarray:
    """Return a signal (n_times, n_channels) whose samples all differ, within 2 mV."""
    samples = np.arange(N_TIMES)[:, None] + np.array([0, 3000, -6000])
    return samples * 2e-7


def write_brainvision(folder: Path) -> Path:
    pybv = pytest.importorskip("pybv")
    pybv.write_brainvision(
        data=volts().T,
        sfreq=RATE,
        ch_names=NAMES,
        fname_base="x",
        folder_out=folder,
        resolution=0.05,
        unit="µV",
        fmt="binary_int16",
    )
    return folder / "x.vhdr"


def write_brainvision_float(folder: Path) -> Path:
    pybv = pytest.importorskip("pybv")
    pybv.write_brainvision(
        data=volts().T, sfreq=RATE, ch_names=NAMES, fname_base="x", folder_out=folder, unit="V"
    )
    return folder / "x.vhdr"


def write_brainvision_vectorized(folder: Path) -> Path:
    header = write_brainvision(folder)
    matrix = np.fromfile(folder / "x.eeg", "<i2").reshape(N_TIMES, N_CHANNELS)
    np.ascontiguousarray(matrix.T).tofile(folder / "x.eeg")
    header.write_text(header.read_text("utf-8").replace("MULTIPLEXED", "VECTORIZED"), "utf-8")
    return header


def write_edf(folder: Path, plus: bool = True) -> Path:
    edfio = pytest.importorskip("edfio")
    signals = [
        edfio.EdfSignal(
            column * 1e6, RATE, label=name, physical_dimension="uV", physical_range=(-3000, 3000)
        )
        for column, name in zip(volts().T, NAMES, strict=True)
    ]
    annotations = [edfio.EdfAnnotation(1.0, None, "note")] if plus else ()
    edfio.Edf(signals, annotations=annotations, data_record_duration=1).write(folder / "x.edf")
    return folder / "x.edf"


def write_eeglab(folder: Path) -> Path:
    export_set = pytest.importorskip("eeglabio.raw").export_set
    export_set(str(folder / "x.set"), volts().T, RATE, NAMES)
    return folder / "x.set"


def write_eeglab_fdt(folder: Path) -> Path:
    from scipy.io import savemat

    (volts() * 1e6).astype("<f4").tofile(folder / "x.fdt")
    chanlocs = np.array([(name,) for name in NAMES], dtype=[("labels", object)])
    eeg = {"srate": RATE, "nbchan": N_CHANNELS, "pnts": N_TIMES, "trials": 1, "data": "x.fdt"}
    savemat(folder / "x.set", {"EEG": {**eeg, "chanlocs": chanlocs}})
    return folder / "x.set"


def write_eeglab_hdf5(folder: Path) -> Path:
    h5py = pytest.importorskip("h5py")
    with h5py.File(folder / "x.set", "w", userblock_size=512) as file:
        eeg = file.create_group("EEG")
        for key, value in {
            "srate": RATE,
            "nbchan": N_CHANNELS,
            "pnts": N_TIMES,
            "trials": 1,
        }.items():
            eeg[key] = [[float(value)]]
        eeg["data"] = volts() * 1e6
        references = []
        for name in NAMES:
            file[f"#refs#/{name}"] = np.array([[ord(c)] for c in name], dtype=np.uint16)
            references.append([file[f"#refs#/{name}"].ref])
        eeg.create_dataset("chanlocs/labels", data=references, dtype=h5py.ref_dtype)
    return folder / "x.set"


def write_nwb(folder: Path, times: np.ndarray | None = None) -> Path:
    pynwb = pytest.importorskip("pynwb")
    from datetime import UTC, datetime

    nwb = pynwb.NWBFile("x", "x", datetime(2020, 1, 1, tzinfo=UTC))
    device = nwb.create_device("d")
    shaft = nwb.create_electrode_group("LA", "shaft", "here", device)
    nwb.add_electrode_column("channel_name", "as in channels.tsv")
    for name in NAMES:
        nwb.add_electrode(location="x", group=shaft, channel_name=name)
    region = nwb.create_electrode_table_region([0, 1, 2], "all")
    clock = {"rate": RATE} if times is None else {"timestamps": times}
    numbers = np.round(volts() * 1e7).astype(np.int16)
    nwb.add_acquisition(
        pynwb.ecephys.ElectricalSeries("ieeg", numbers, region, conversion=1e-7, **clock)
    )
    with pynwb.NWBHDF5IO(folder / "x.nwb", "w") as io:
        io.write(nwb)
    return folder / "x.nwb"


def write_mef3(folder: Path, pause: float = 0.0) -> Path:
    """Write a session of two segments with `pause` seconds between them."""
    MefSession = pytest.importorskip("pymef.mef_session").MefSession
    path = folder / "x.mefd"
    session = MefSession(str(path), "", read_metadata=False, new_session=True)
    numbers = np.round(volts() * 1e7).astype(np.int32)
    begin, half = 1_600_000_000_000_000, N_TIMES // 2
    for name, column in zip(NAMES, numbers.T, strict=True):
        for segment in (0, 1):
            start = begin + round(segment * (half / RATE + pause) * 1e6)
            stop = start + round(half / RATE * 1e6)
            section_2 = {
                "sampling_frequency": RATE,
                "units_conversion_factor": 0.1,
                "units_description": b"uV",
                "start_sample": segment * half,
                "number_of_samples": half,
                "recording_duration": stop - start,
            }
            session.write_mef_ts_segment_metadata(
                name, segment, "", "", start, stop, section_2, {"recording_time_offset": begin}
            )
            part = np.ascontiguousarray(column[segment * half : (segment + 1) * half])
            session.write_mef_ts_segment_data(name, segment, "", "", int(RATE), part)
    session.close()
    return path


WRITERS: list[Callable[[Path], Path]] = [
    write_brainvision,
    write_brainvision_float,
    write_brainvision_vectorized,
    write_edf,
    write_eeglab,
    write_eeglab_fdt,
    write_eeglab_hdf5,
    write_mef3,
    write_nwb,
]


@pytest.fixture(params=WRITERS, ids=lambda writer: writer.__name__.removeprefix("write_"))
def reader(request: pytest.FixtureRequest, tmp_path: Path) -> SignalReader:
    return open_signal(request.param(tmp_path))


def test_every_format_gives_back_what_was_written(reader: SignalReader) -> None:
    """A wrong unit, order or name would spoil everything downstream in silence."""
    assert reader.sampling_rate == RATE
    assert reader.n_times == N_TIMES
    assert reader.channel_names == tuple(NAMES)
    assert reader.gaps == ()
    signal = reader.read(0, N_TIMES)
    assert signal.dtype == np.float32
    # EDF and BrainVision store steps of up to 0.1 µV; the samples lie 0.2 µV apart.
    np.testing.assert_allclose(signal, volts(), atol=0.06e-6)


def test_blocks_and_picks_equal_the_whole(reader: SignalReader) -> None:
    """Blocks are all that streaming sees; they must join without a seam, in the order asked."""
    whole = reader.read(0, N_TIMES)
    edges = [0, 1, 77, 200, 201, 999, 1400, N_TIMES]
    blocks = [reader.read(a, b) for a, b in pairwise(edges)]
    np.testing.assert_array_equal(np.concatenate(blocks), whole)
    for picks in ([2, 0], [1, 2], [1]):
        np.testing.assert_array_equal(reader.read(333, 1205, picks), whole[333:1205, picks])


def test_reading_outside_the_recording_is_refused(reader: SignalReader) -> None:
    """A block that is silently shorter than asked would shift all that follows."""
    with pytest.raises(ValueError, match="outside"):
        reader.read(0, N_TIMES + 1)


@pytest.mark.parametrize(
    ("write", "load"),
    [
        (write_brainvision, mne.io.read_raw_brainvision),
        (write_brainvision_vectorized, mne.io.read_raw_brainvision),
        (write_edf, mne.io.read_raw_edf),
        (write_eeglab_fdt, mne.io.read_raw_eeglab),
    ],
)
def test_agrees_with_mne(write: Callable, load: Callable, tmp_path: Path) -> None:
    """MNE's readers are independent of ours and what users check us with."""
    path = write(tmp_path)
    raw = load(path, preload=True, verbose="error")
    np.testing.assert_allclose(open_signal(path).read(0, N_TIMES), raw.get_data().T, atol=1e-9)


@pytest.mark.parametrize("name", ["sample_ecog.edf", "sample_seeg.edf"])
def test_real_recordings_agree_with_mne(name: str) -> None:
    """Real recorders write headers that no simulation thinks of (999.4 Hz, odd labels)."""
    if not (REAL / name).exists():
        pytest.skip(f"{REAL / name} is absent")
    raw = mne.io.read_raw_edf(REAL / name, preload=True, verbose="error")
    reader = open_signal(REAL / name)
    assert reader.sampling_rate == raw.info["sfreq"]
    assert list(reader.channel_names) == raw.ch_names
    np.testing.assert_allclose(reader.read(0, reader.n_times), raw.get_data().T, atol=5e-9)


def make_discontinuous(path: Path, onsets: list[str]) -> None:
    """Turn a written EDF+C into EDF+D whose records begin at `onsets` (text, as stored)."""
    content = bytearray(path.read_bytes())
    n_signals = int(content[252:256])
    widths = np.cumsum([0, 16, 80, 8, 8, 8, 8, 8, 80]) * n_signals + 256
    counts = [int(content[widths[8] + 8 * i : widths[8] + 8 * i + 8]) for i in range(n_signals)]
    labels = [bytes(content[256 + 16 * i : 272 + 16 * i]).strip() for i in range(n_signals)]
    stamp = labels.index(b"EDF Annotations")
    content[192:197] = b"EDF+D"
    for record, onset in enumerate(onsets):
        begin = 256 * (n_signals + 1) + 2 * (record * sum(counts) + sum(counts[:stamp]))
        text = f"+{onset}".encode() + b"\x14\x14\x00"
        content[begin : begin + 2 * counts[stamp]] = text.ljust(2 * counts[stamp], b"\x00")
    path.write_bytes(content)


def test_edf_d_keeps_the_real_clock(tmp_path: Path) -> None:
    """After a pause, events must still meet the signal of their own time; MNE joins the ends."""
    path = write_edf(tmp_path)
    make_discontinuous(path, [*"0123", "10.5", "11.5", "12.5", "13.5", "100", "101"])
    reader = open_signal(path)
    assert reader.n_times == round(102 * RATE)
    assert reader.gaps == ((4.0, 10.5), (14.5, 100.0))
    signal = reader.read(0, reader.n_times)
    second, rate = volts().reshape(10, int(RATE), N_CHANNELS), int(RATE)
    np.testing.assert_allclose(signal[: 4 * rate], np.concatenate(second[:4]), atol=6e-8)
    np.testing.assert_allclose(signal[2100:2900], np.concatenate(second[4:8]), atol=6e-8)
    np.testing.assert_allclose(signal[100 * rate :], np.concatenate(second[8:]), atol=6e-8)
    assert np.isnan(signal[4 * rate : 2100]).all()
    assert np.isnan(signal[2900 : 100 * rate]).all()
    np.testing.assert_array_equal(reader.read(700, 2500, [1]), signal[700:2500, [1]])


def test_edf_d_without_pauses_has_no_gaps(tmp_path: Path) -> None:
    """Many recorders write EDF+D for what has no pause; its start may be a fraction of a second."""
    path = write_edf(tmp_path)
    make_discontinuous(path, [f"{i}.25" for i in range(10)])
    reader = open_signal(path)
    assert reader.gaps == ()
    np.testing.assert_allclose(reader.read(0, N_TIMES), volts(), atol=6e-8)


def test_edf_with_unknown_number_of_records(tmp_path: Path) -> None:
    """A recorder that was switched off leaves -1; the records that are there are good."""
    path = write_edf(tmp_path, plus=False)
    content = bytearray(path.read_bytes())
    content[236:244] = b"-1      "
    path.write_bytes(content)
    assert open_signal(path).n_times == N_TIMES


def test_edf_channels_of_another_rate(tmp_path: Path) -> None:
    """An ECG at half the rate must not shift the brain channels nor stop the recording."""
    edfio = pytest.importorskip("edfio")
    fast = [edfio.EdfSignal(c * 1e6, RATE, label=n) for c, n in zip(volts().T, NAMES, strict=True)]
    slow = edfio.EdfSignal(np.arange(N_TIMES // 2) * 1.0, RATE / 2, label="ECG")
    edfio.Edf([*fast[:2], slow, fast[2]], data_record_duration=1).write(tmp_path / "x.edf")
    reader = open_signal(tmp_path / "x.edf")
    assert reader.sampling_rate == RATE
    assert reader.notes
    signal = reader.read(0, N_TIMES)
    unit = 1e6  # written without a unit: as it stands
    np.testing.assert_allclose(signal[:, [0, 1, 3]], volts() * unit, atol=0.06)
    np.testing.assert_allclose(signal[:, 2], np.repeat(np.arange(N_TIMES // 2), 2), atol=0.06)


def test_mef3_pause_is_a_gap(tmp_path: Path) -> None:
    """A week of MEF3 pauses often; the second part must lie at its own time."""
    reader = open_signal(write_mef3(tmp_path, pause=2.5))
    assert reader.gaps == ((5.0, 7.5),)
    signal = reader.read(0, reader.n_times)
    np.testing.assert_allclose(signal[1500:], volts()[1000:], atol=6e-8)
    assert np.isnan(signal[1000:1500]).all()


def test_nwb_time_stamps_become_gaps(tmp_path: Path) -> None:
    """NWB may store a time per sample; a jump in it is a pause."""
    times = 12.0 + np.arange(N_TIMES) / RATE + np.where(np.arange(N_TIMES) >= 700, 3.0, 0.0)
    reader = open_signal(write_nwb(tmp_path, times))
    assert reader.sampling_rate == pytest.approx(RATE, rel=1e-9)
    assert [tuple(gap) for gap in reader.gaps] == [pytest.approx((3.5, 6.5))]
    np.testing.assert_allclose(reader.read(1300, 2600), volts()[700:], atol=6e-8)


@pytest.mark.parametrize(
    ("write", "victim"),
    [
        (write_brainvision, "x.eeg"),
        (write_edf, "x.edf"),
        (write_eeglab, "x.set"),
        (write_eeglab_fdt, "x.fdt"),
        (write_nwb, "x.nwb"),
    ],
)
def test_truncated_files_are_data_errors(write: Callable, victim: str, tmp_path: Path) -> None:
    """An interrupted copy is the most common damage, and must end in 65, not in a traceback."""
    path = write(tmp_path)
    os.truncate(tmp_path / victim, (tmp_path / victim).stat().st_size * 2 // 3)
    with pytest.raises(DataError) as caught:
        open_signal(path)
    assert str(tmp_path / victim) in str(caught.value) or str(path) in str(caught.value)


def test_truncated_mef3_is_a_data_error(tmp_path: Path) -> None:
    """A channel whose samples were not copied must not be read as something else."""
    path = write_mef3(tmp_path)
    next(path.rglob("*.tmet")).write_bytes(b"")
    with pytest.raises(DataError):
        open_signal(path).read(0, N_TIMES)


@pytest.mark.parametrize("suffix", [".vhdr", ".edf", ".set", ".nwb"])
def test_garbage_is_a_data_error(suffix: str, tmp_path: Path) -> None:
    """Any bytes under a known suffix end in one clear message."""
    path = tmp_path / f"x{suffix}"
    path.write_bytes(bytes(range(256)) * 8)
    with pytest.raises(DataError, match=path.name):
        open_signal(path)


def test_absent_files_are_missing_input(tmp_path: Path) -> None:
    """Absent input is 66, with the name of what is absent."""
    with pytest.raises(MissingInputError, match="absent"):
        open_signal(tmp_path / "x.edf")
    header = write_brainvision(tmp_path)
    (tmp_path / "x.eeg").unlink()
    with pytest.raises(MissingInputError, match=r"x\.eeg"):
        open_signal(header)


def test_header_that_names_its_old_file(tmp_path: Path) -> None:
    """Recordings are renamed to BIDS by hand; the samples beside the header are the right ones."""
    header = write_brainvision(tmp_path)
    header = header.rename(tmp_path / "sub-01_ieeg.vhdr")
    (tmp_path / "x.eeg").rename(tmp_path / "sub-01_ieeg.eeg")
    reader = open_signal(header)
    assert "x.eeg" in reader.notes[0]
    np.testing.assert_allclose(reader.read(0, N_TIMES), volts(), atol=6e-8)


def test_units() -> None:
    """Micro is written with two different letters and as u; what is no voltage stays as it is."""
    assert volts_per_unit("µV", 1.0) == volts_per_unit("μV", 1.0) == volts_per_unit("uV", 1.0)
    assert volts_per_unit("microvolts", 1.0) == pytest.approx(1e-6)
    assert volts_per_unit("V", 9.0) == 1.0
    assert volts_per_unit("C", 9.0) == 9.0


def test_overlapping_pieces_are_refused(tmp_path: Path) -> None:
    """Where time runs backwards there is no right answer, so none is given."""
    with pytest.raises(DataError, match="backwards"):
        pieces_from_onsets(np.array([0.0, 0.5]), np.array([100, 100]), 100.0, tmp_path)
