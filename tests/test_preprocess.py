"""Preprocessing: time is kept, MNE agrees, gaps stay local, memory stays small."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bids_speechdecode.errors import CannotWriteError, DataError
from bids_speechdecode.signals.decimate import Decimator, as_fraction
from bids_speechdecode.signals.filters import BlockFilter, MissingRuns, design_filter
from bids_speechdecode.signals.preprocess import (
    Preprocessed,
    make_montage,
    preprocess,
    write_brainvision_header,
)
from bids_speechdecode.signals.readers import SignalReader, open_signal
from bids_speechdecode.signals.rows import reach_over_ends
from bids_speechdecode.timeline import Interval

REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "ieeg"
RATES = [1024.0, 2048.0, 512.0, 500.0, 999.4, 999.4121105232217, 1000 * np.pi / 3, 256.0, 41.0]


class ArrayReader(SignalReader):
    """A recording in memory, signal (n_times, n_channels) in volts."""

    def __init__(self, signal: np.ndarray, rate: float, names: list[str] | None = None) -> None:
        self._signal = signal.astype(np.float32)
        names = names or [f"LA{i}" for i in range(1, signal.shape[1] + 1)]
        super().__init__(Path("memory"), rate, names, len(signal))

    def _read_stored(self, start: int, stop: int, picks: np.ndarray | None) -> np.ndarray:
        rows = self._signal[start:stop]
        return rows.copy() if picks is None else rows[:, picks]


def pink(n_times: int, n_channels: int, rng: np.random.Generator) -> np.ndarray:
    """Return noise whose power falls as 1/f, standard deviation 100 µV."""
    frequencies = np.maximum(np.fft.rfftfreq(n_times), 1 / n_times)[:, None]
    spectrum = rng.standard_normal((len(frequencies), n_channels, 2)) @ [1, 1j]
    noise = np.fft.irfft(spectrum / np.sqrt(frequencies), n_times, axis=0)
    return noise / noise.std(axis=0) * 1e-4


def run(
    signal: np.ndarray, recorded: float, folder: Path, reference: str = "none", **options: Any
) -> tuple[np.ndarray, Preprocessed]:
    """Return the output (n_times, n_channels) and what was found."""
    reader = ArrayReader(signal, recorded)
    montage = make_montage(reader.channel_names, range(signal.shape[1]), reference)
    out = folder / "x.eeg"
    result = preprocess(reader, out, montage=montage, **options)
    return np.fromfile(out, np.float32).reshape(result.n_times, len(montage.names)), result


def unscaled(out: np.ndarray, result: Preprocessed) -> np.ndarray:
    """Return the output in volts again."""
    return out * result.scale + result.center


def test_one_wire_recorded_many_times_is_no_signal(tmp_path: Path) -> None:
    """Behind the common average only rounding is left, which scaling makes as large as a signal."""
    one = pink(8000, 1, np.random.default_rng(3)) + 0.01
    out, found = run(np.repeat(one, 7, axis=1), 500.0, tmp_path, "average")
    assert len(found.flat) == 7
    assert (out == 0).all()


def test_one_contact_has_no_average(tmp_path: Path) -> None:
    """It would be a recording of zeros; the message says what to do."""
    with pytest.raises(DataError, match="--reference none"):
        run(np.ones((100, 1)), 500.0, tmp_path, "average")


# Decimation


@pytest.mark.parametrize("rate", RATES)
def test_value_is_time(rate: float) -> None:
    """Sample k must be the signal at k / 40 s: a drift of 1 ms would shift every window."""
    n_times = int(90 * rate)
    clock = (np.arange(n_times) / rate).astype(np.float32)[:, None]
    blocks = Decimator(rate, 40.0).stream(lambda a, b: clock[a:b], n_times, 160)
    times = np.concatenate(list(blocks))[:, 0]
    assert len(times) == 90 * 40
    # float32 itself resolves 8 µs at 90 s.
    np.testing.assert_allclose(times, np.arange(len(times)) / 40, atol=4e-5)


def test_time_is_kept_for_hours() -> None:
    """An error of the rate of one part in a million would be 7 ms after 2 h."""
    rate, n_times = 999.4, int(7200 * 999.4)

    def read(start: int, stop: int) -> np.ndarray:
        # Phase rather than time: float32 resolves it to 1e-7 turns of a 1 Hz wave at any hour.
        return np.sin(2 * np.pi * (np.arange(start, stop) / rate)).astype(np.float32)[:, None]

    decimator = Decimator(rate, 40.0)
    n_out = decimator.n_out(n_times)
    start = n_out - 400
    stage_out = list(decimator.stream(read, n_times, 16000))
    tail = np.concatenate(stage_out)[start : n_out - 80, 0]
    expected = np.sin(2 * np.pi * np.arange(start, n_out - 80) / 40)
    np.testing.assert_allclose(tail, expected, atol=3e-4)


@pytest.mark.parametrize("rate", [1024.0, 999.4, 2048.0, 256.0])
def test_band_is_passed_and_the_rest_is_removed(rate: float) -> None:
    """What lies above 21 Hz would come back as a false slow wave; the power line most of all."""
    t = np.arange(int(30 * rate)) / rate
    frequencies = np.array([0.1, 3.3, 10.0, 18.5, 21.5, 50.0, 60.0, 100.0, 120.0])
    waves = np.sin(2 * np.pi * frequencies * t[:, None] + 0.3).astype(np.float32)
    out = np.concatenate(list(Decimator(rate, 40.0).stream(lambda a, b: waves[a:b], len(t), 160)))
    k = np.arange(len(out))[100:-100]
    expected = np.sin(2 * np.pi * frequencies * (k / 40)[:, None] + 0.3)
    np.testing.assert_allclose(out[100:-100, :4], expected[:, :4], atol=5e-4)
    assert np.abs(out[100:-100, 4:]).max() < 5e-4


def test_rates_are_taken_as_they_are_meant() -> None:
    """999.4 has no exact binary form; without care every output would need its own filter."""
    assert as_fraction(999.4) == as_fraction(1e6 / (1e6 / 999.4)) == 9994 / as_fraction(10)
    assert abs(float(as_fraction(np.pi * 300)) / (np.pi * 300) - 1) < 1e-10


def test_slower_than_the_output_is_refused() -> None:
    """Inventing samples between those recorded is no preprocessing."""
    with pytest.raises(DataError, match="below"):
        Decimator(32.0, 40.0)


# Filters


def test_highpass_is_that_of_mne() -> None:
    """The design of MNE's FIR is the reference that users know."""
    mne = pytest.importorskip("mne")
    ours, _ = design_filter(40.0, 0.05, None)
    theirs = mne.filter.create_filter(None, 40.0, 0.05, None, verbose="error")
    assert len(ours) == len(theirs)
    response = np.abs(np.fft.rfft([ours, theirs], 1 << 16, axis=1))
    assert np.abs(response[0] - response[1]).max() < 5e-3


def test_block_filter_equals_convolution() -> None:
    """Blocks through the Fourier transform must give the plain sum, without a seam."""
    rng = np.random.default_rng(1)
    taps = rng.standard_normal(31)
    signal = rng.standard_normal((500, 2)).astype(np.float32)
    block_filter = BlockFilter((taps + taps[::-1]) / 2)
    read = reach_over_ends(lambda a, b: signal[a:b], len(signal))
    parts = [block_filter.apply(read(a - 15, a + 100 + 15)) for a in range(0, 500, 100)]
    extended = np.pad(signal, ((15, 15), (0, 0)), mode="reflect", reflect_type="odd")
    symmetric = (taps + taps[::-1]) / 2
    expected = np.stack([np.convolve(x, symmetric, "valid") for x in extended.T], axis=1)
    np.testing.assert_allclose(np.concatenate(parts), expected, atol=1e-4)


def test_notch_only_where_the_line_is_in_band(tmp_path: Path) -> None:
    """At 40 Hz the line is gone already; at a higher rate it must go without taking its band."""
    assert design_filter(40.0, 0.05, 50.0)[1] == ()
    rng = np.random.default_rng(2)
    t = np.arange(120 * 1000) / 1000
    background = pink(len(t), 2, rng)
    line = 1e-3 * np.sin(2 * np.pi * 50 * t[:, None]) + 3e-4 * np.sin(2 * np.pi * 100 * t[:, None])
    options = {"rate": 250.0, "clamp": 1e9}
    out, result = run(background + line, 1000.0, tmp_path, line_frequency=50.0, **options)
    clean, reference = run(background, 1000.0, tmp_path, line_frequency=50.0, **options)
    assert result.notches == (50.0, 100.0)
    middle = slice(10_000, 20_000)
    ours, theirs = unscaled(out, result)[middle], unscaled(clean, reference)[middle]
    np.testing.assert_allclose(ours, theirs, atol=5e-6)  # 0.5 % of the line


def test_missing_runs_are_bridged_like_interp() -> None:
    """np.interp on the whole column is the oracle for what is found block by block."""
    rng = np.random.default_rng(3)
    signal = rng.standard_normal((400, 3)).astype(np.float32)
    missing = np.repeat(rng.random((40, 3)) < 0.4, 10, axis=0)
    missing[:, 2] = True
    holed = np.where(missing, np.nan, signal)
    runs = MissingRuns(3)
    for block in np.split(holed, [13, 14, 100, 230]):
        runs.observe(block)
    runs.finish()
    for start, stop in [(0, 400), (55, 130)]:
        filled = holed[start:stop].copy()
        runs.fill(filled, start)
        there = np.arange(400)
        for column in (0, 1):
            good = ~missing[:, column]
            expected = np.interp(there, there[good], signal[good, column])[start:stop]
            np.testing.assert_allclose(filled[:, column], expected, atol=1e-5)
        assert (filled[:, 2] == 0).all()


# The whole


def test_agrees_with_mne(tmp_path: Path) -> None:
    """The promise to users: as MNE's filter, resample and RobustScaler, only faster."""
    mne = pytest.importorskip("mne")
    rate = 1024.0
    signal = pink(int(300 * rate), 4, np.random.default_rng(4))
    out, _ = run(signal, rate, tmp_path)
    raw = mne.io.RawArray(signal.T, mne.create_info(4, rate, "seeg"), verbose="error")
    raw.filter(0.05, 50.0, verbose="error").resample(40.0, verbose="error")
    theirs = raw.get_data().T
    quartiles = np.percentile(theirs, [25, 50, 75], axis=0)
    theirs = np.clip((theirs - quartiles[1]) / (quartiles[2] - quartiles[0]), -20, 20)
    assert out.shape == theirs.shape
    middle = slice(66 * 40, -66 * 40)
    for ours, peer in zip(out[middle].T, theirs[middle].T, strict=True):
        assert np.corrcoef(ours, peer)[0, 1] > 0.999
        assert np.polyfit(peer, ours, 1)[0] == pytest.approx(1, abs=0.02)


def test_blocks_do_not_matter(tmp_path: Path) -> None:
    """The size of a block depends on the machine's channels; the numbers must not."""
    signal = pink(40_000, 3, np.random.default_rng(5))
    small, _ = run(signal, 500.0, tmp_path, block=0.7)
    large, _ = run(signal, 500.0, tmp_path, block=30.0)
    np.testing.assert_allclose(small, large, atol=1e-5)


def test_output_is_robust_z(tmp_path: Path) -> None:
    """Median 0, interquartile range 1, nothing beyond the clamp, and the clamped are counted."""
    signal = pink(60_000, 2, np.random.default_rng(6))
    signal[30_000:30_100, 1] += 1.0
    out, result = run(signal, 500.0, tmp_path, clamp=5.0, highpass=0.5)
    np.testing.assert_allclose(np.ptp(np.percentile(out[:, 0], [25, 75])), 1, atol=1e-3)
    np.testing.assert_allclose(np.median(out, axis=0), 0, atol=1e-3)
    assert np.abs(out).max() == 5.0
    assert result.clamped_fraction[1] == pytest.approx(np.mean(np.abs(out[:, 1]) == 5.0))
    assert result.clamped_fraction[1] > result.clamped_fraction[0]


def test_scale_is_fitted_on_the_given_intervals_only(tmp_path: Path) -> None:
    """Held-out signal must not set the scale of the training signal."""
    signal = pink(120_000, 2, np.random.default_rng(7))
    train = [Interval(0.0, 100.0)]
    _, before = run(signal, 500.0, tmp_path, scale_intervals=train, highpass=0.5)
    signal[60_000:] *= 30
    _, after = run(signal, 500.0, tmp_path, scale_intervals=train, highpass=0.5)
    np.testing.assert_allclose(after.scale, before.scale, rtol=1e-4)
    _, whole = run(signal, 500.0, tmp_path, highpass=0.5)
    # Half N(0, 1) and half N(0, 30) has 2.9 times the interquartile range of N(0, 1).
    np.testing.assert_allclose(whole.scale / before.scale, 2.9, rtol=0.1)


def test_a_gap_stays_where_it_is(tmp_path: Path) -> None:
    """One NaN in a 66 s filter would otherwise erase a minute, and a step would ring for one."""
    rate, n_times = 500.0, 500 * 240
    signal = pink(n_times, 2, np.random.default_rng(8)) + 0.01
    whole, _ = run(signal, rate, tmp_path, clamp=1e9)
    signal[500 * 100 : 500 * 110] = np.nan
    out, result = run(signal, rate, tmp_path, clamp=1e9)
    margin = Decimator(rate, 40.0).margin
    assert np.isfinite(out).all()
    (gap,) = result.gaps
    assert gap.start == pytest.approx(100 - margin, abs=0.03)
    assert gap.stop == pytest.approx(110 + margin, abs=0.03)
    inside = slice(round(gap.start * 40), round(gap.stop * 40))
    assert (out[inside] == 0).all()
    assert result.missing_fraction == pytest.approx([gap.duration / 240] * 2, abs=1e-3)
    # Far from the gap nothing changes but the scale; beside it, only slow waves can.
    far = np.r_[0 : 60 * 40, 150 * 40 : 240 * 40]
    for ours, theirs in zip(out[far].T, whole[far].T, strict=True):
        assert np.corrcoef(ours, theirs)[0, 1] > 0.9999
    assert np.abs(out).max() < 1.5 * np.abs(whole).max()


def test_missing_samples_of_one_channel_are_its_own(tmp_path: Path) -> None:
    """A dropout of one contact must not cost the others their signal."""
    signal = pink(60_000, 3, np.random.default_rng(9))
    whole, _ = run(signal, 500.0, tmp_path)
    signal[20_000:20_500, 1] = np.nan
    signal[40_000, 1] = np.inf
    out, result = run(signal, 500.0, tmp_path)
    np.testing.assert_allclose(out[:, [0, 2]], whole[:, [0, 2]], atol=1e-5)
    assert result.gaps == ()
    assert result.missing_fraction[1] > 0
    assert np.isfinite(out).all()
    assert (out[1600:1640, 1] == 0).all()


def test_flat_and_nan_channels_are_named_and_kept_out(tmp_path: Path) -> None:
    """A dead contact must become neither noise scaled up to 1 nor part of the average."""
    signal = pink(30_000, 5, np.random.default_rng(10))
    signal[:, 1], signal[:, 3] = 0.05, np.nan
    out, result = run(signal, 500.0, tmp_path, reference="average", highpass=0)
    assert result.flat == ("LA2",)
    assert result.nan == ("LA4",)
    assert (out[:, [1, 3]] == 0).all()
    alive = signal[:, [0, 2, 4]]
    expected, reference = run(
        alive - alive.mean(axis=1, keepdims=True), 500.0, tmp_path, highpass=0
    )
    np.testing.assert_allclose(out[:, [0, 2, 4]], expected, atol=1e-4)
    np.testing.assert_allclose(result.scale[[0, 2, 4]], reference.scale, rtol=1e-4)


def test_all_channels_dead_is_reported_not_scaled(tmp_path: Path) -> None:
    """The caller must be able to refuse the recording; no number may be made up."""
    out, result = run(np.full((5000, 2), np.nan), 500.0, tmp_path)
    assert result.nan == ("LA1", "LA2")
    assert (out == 0).all()


def test_bipolar_is_the_difference_of_neighbours(tmp_path: Path) -> None:
    """The pair keeps both names, and is what subtracting first would have given."""
    signal = pink(30_000, 3, np.random.default_rng(11)) + 0.02
    out, _ = run(signal, 500.0, tmp_path, reference="bipolar")
    expected, _ = run(-np.diff(signal, axis=1), 500.0, tmp_path)
    np.testing.assert_allclose(out, expected, atol=2e-3)


def test_bipolar_pairs_follow_the_shaft() -> None:
    """A gap in the numbers or another shaft is no neighbour, and nothing vanishes unnamed."""
    names = ["LA1", "LA2", "LA4", "LB1", "B'10", "B'9", "ECG", "LA3"]
    montage = make_montage(names, [0, 1, 2, 3, 4, 5, 6], "bipolar")
    assert montage.names == ("LA1-LA2", "B'9-B'10")
    assert montage.picks == (0, 1, 4, 5)
    assert montage.left_out == ("LA4", "LB1", "ECG")
    groups = ["x", "x", "n/a", "n/a", "y", "n/a", "n/a", "n/a"]
    assert make_montage(names, range(6), "bipolar", groups).names == ("LA1-LA2",)
    with pytest.raises(DataError, match="neighbours"):
        make_montage(names, [0, 3, 6], "bipolar")


def test_spectra_show_the_line_before_and_not_after(tmp_path: Path) -> None:
    """The report shows them; scipy's Welch is the oracle of their level."""
    from scipy.signal import welch

    rate = 500.0
    t = np.arange(int(120 * rate))[:, None] / rate
    signal = pink(len(t), 3, np.random.default_rng(12)) + 1e-3 * np.sin(2 * np.pi * 50 * t)
    _, result = run(signal, rate, tmp_path)
    frequencies, before = result.spectrum_before
    expected = np.median(welch(signal, rate, nperseg=2000, axis=0)[1], axis=1)
    assert before[frequencies == 50.0] == pytest.approx(expected[200], rel=0.05)
    band = (frequencies >= 2) & (frequencies <= 18)
    ratio = before[band] / expected[: len(frequencies)][band]
    assert np.median(ratio) == pytest.approx(1, abs=0.15)
    after_frequencies, after = result.spectrum_after
    assert after_frequencies[-1] == 20.0
    ratio = after[(after_frequencies >= 2) & (after_frequencies <= 18)] / before[band]
    assert np.median(ratio) == pytest.approx(1, abs=0.15)


def test_derivative_opens_in_mne_and_maps_into_memory(tmp_path: Path) -> None:
    """Both ways to the numbers must give the same robust z, under the same names."""
    mne = pytest.importorskip("mne")
    out, result = run(pink(20_000, 2, np.random.default_rng(13)), 500.0, tmp_path)
    names = ["LA1-LA2", "odd, name"]
    header, _ = write_brainvision_header(tmp_path / "x.eeg", names, 40.0, result.n_times)
    raw = mne.io.read_raw_brainvision(header, verbose="error")
    assert raw.ch_names == names
    assert raw.info["sfreq"] == 40.0
    np.testing.assert_allclose(raw.get_data().T, out, rtol=1e-6)
    mapped = np.memmap(tmp_path / "x.eeg", np.float32, "r").reshape(-1, 2)
    np.testing.assert_array_equal(mapped, out)
    np.testing.assert_array_equal(open_signal(header).read(0, result.n_times), out)


def test_progress_adds_up_and_nothing_else_is_left(tmp_path: Path) -> None:
    """The bar ends where the recording ends; intermediate files have no name to be left under."""
    steps: list[float] = []
    run(pink(50_000, 2, np.random.default_rng(14)), 500.0, tmp_path, on_progress=steps.append)
    assert sum(steps) == pytest.approx(100.0)
    assert [path.name for path in tmp_path.iterdir()] == ["x.eeg"]


def test_unwritable_output_says_so(tmp_path: Path) -> None:
    """A folder that vanished is exit 73 with its name."""
    with pytest.raises(CannotWriteError, match="absent"):
        run(np.zeros((1000, 1)), 500.0, tmp_path / "absent")


@pytest.mark.parametrize("n_times", [1, 20, 700])
def test_short_recordings(n_times: int, tmp_path: Path) -> None:
    """A recording shorter than the filters must give numbers, not a traceback."""
    signal = np.random.default_rng(15).standard_normal((n_times, 2)) * 1e-4
    out, result = run(signal, 500.0, tmp_path)
    assert result.n_times == -(-n_times * 40 // 500)
    assert np.isfinite(out).all()


@pytest.mark.parametrize("name", ["sample_ecog.edf", "sample_seeg.edf"])
@pytest.mark.parametrize("reference", ["none", "average", "bipolar"])
def test_real_recordings(name: str, reference: str, tmp_path: Path) -> None:
    """What real amplifiers give must come through with every reference."""
    if not (REAL / name).exists():
        pytest.skip(f"{REAL / name} is absent")
    reader = open_signal(REAL / name)
    montage = make_montage(reader.channel_names, range(len(reader.channel_names)), reference)
    result = preprocess(reader, tmp_path / "x.eeg", montage=montage, line_frequency=50.0)
    out = np.fromfile(tmp_path / "x.eeg", np.float32).reshape(result.n_times, -1)
    assert out.shape[1] == len(montage.names)
    assert result.n_times == pytest.approx(reader.duration * 40, abs=1)
    assert np.isfinite(out).all()
    usable = result.scale > 0
    assert usable.mean() > 0.9
    np.testing.assert_allclose(
        np.ptp(np.percentile(out[:, usable], [25, 75], axis=0), axis=0), 1, atol=0.01
    )


def test_memory_does_not_grow_with_duration(tmp_path: Path) -> None:
    """A day of 128 channels must pass through a laptop; the bound is 1 GB at any duration."""
    script = textwrap.dedent("""
        import sys
        from pathlib import Path
        import numpy as np
        from bids_speechdecode.signals.preprocess import make_montage, preprocess
        from bids_speechdecode.signals.readers import SignalReader

        class Sparse(SignalReader):
            def _read_stored(self, start, stop, picks):
                rng = np.random.default_rng(start)
                block = np.empty((stop - start, 128), np.float32)
                block[:] = rng.standard_normal((stop - start, 1), dtype=np.float32)
                return block

        hours = float(sys.argv[1])
        reader = Sparse(Path("x"), 80.0, [f"A{i}" for i in range(128)], int(hours * 3600 * 80))
        montage = make_montage(reader.channel_names, range(128), "none")
        preprocess(reader, Path(sys.argv[2]), montage=montage)
        # Not ru_maxrss: a child process inherits that from whoever started it.
        status = Path("/proc/self/status").read_text().splitlines()
        print(next(int(x.split()[1]) for x in status if x.startswith("VmHWM")) / 1024)
    """)

    def peak_mb(hours: float) -> float:
        command = [sys.executable, "-c", script, str(hours), str(tmp_path / "x.eeg")]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    short, long = peak_mb(2), peak_mb(4.5)
    assert long < 1000
    assert long - short < 50


def test_nothing_crosses_a_cut(tmp_path: Path) -> None:
    # A training sample must not depend on the signal of a held-out window, bit for bit.
    rng = np.random.default_rng(3)
    signal = rng.standard_normal((200 * 300, 2)).astype(np.float32)
    changed = signal.copy()
    changed[200 * 100 : 200 * 200] = 50 * rng.standard_normal((200 * 100, 2))
    outputs = []
    for number, data in enumerate((signal, changed)):
        path = tmp_path / f"{number}.eeg"
        preprocess(
            ArrayReader(data, 200.0),
            path,
            montage=make_montage(["A1", "A2"], [0, 1], "none"),
            scale_intervals=[Interval(0.0, 98.0), Interval(202.0, 300.0)],
            cuts=[100.0, 200.0],
        )
        outputs.append(np.fromfile(path, "<f4").reshape(-1, 2))
    for kept in (slice(0, 4000), slice(8000, None)):
        np.testing.assert_array_equal(outputs[0][kept], outputs[1][kept])
    blank = np.flatnonzero((outputs[0] == 0).all(axis=1))
    assert len(blank) == pytest.approx(2 * 2 * 1.3 * 40, rel=0.1)
    assert not np.array_equal(outputs[0][4000:8000], outputs[1][4000:8000])
