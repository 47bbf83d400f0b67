"""Band envelopes: planted modulation comes back, scipy and MNE agree, gaps stay local."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import signal as scipy_signal

from bids_speechdecode.errors import CannotWriteError, DataError
from bids_speechdecode.signals.bands import BAND_EDGES, Bands, Edges, band_envelopes
from bids_speechdecode.signals.decimate import Decimator
from bids_speechdecode.signals.montage import make_montage
from bids_speechdecode.signals.preprocess import preprocess
from bids_speechdecode.signals.readers import SignalReader, open_signal

REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "ieeg"
HIGH_GAMMA = {"highgamma": (70.0, 150.0)}
ALL = {**BAND_EDGES, **HIGH_GAMMA, "slow": None}


class ArrayReader(SignalReader):
    """A recording in memory, signal (n_times, n_channels) in volts, that counts what is read."""

    def __init__(self, signal: np.ndarray, rate: float) -> None:
        self._signal = signal.astype(np.float32)
        self.n_read = 0
        names = [f"LA{i}" for i in range(1, signal.shape[1] + 1)]
        super().__init__(Path("memory"), rate, names, len(signal))

    def _read_stored(self, start: int, stop: int, picks: np.ndarray | None) -> np.ndarray:
        rows = self._signal[start:stop]
        rows = rows.copy() if picks is None else rows[:, picks]
        self.n_read += rows.size
        return rows


def pink(n_times: int, n_channels: int, seed: int) -> np.ndarray:
    """Return noise whose power falls as 1/f, standard deviation 100 µV."""
    rng = np.random.default_rng(seed)
    frequencies = np.maximum(np.fft.rfftfreq(n_times), 1 / n_times)[:, None]
    spectrum = rng.standard_normal((len(frequencies), n_channels, 2)) @ [1, 1j]
    noise = np.fft.irfft(spectrum / np.sqrt(frequencies), n_times, axis=0)
    return noise / noise.std(axis=0) * 1e-4


def run(
    signal: np.ndarray,
    recorded: float,
    folder: Path,
    edges: Mapping[str, Edges | None],
    reference: str = "none",
    **options: Any,
) -> tuple[dict[str, np.ndarray], Bands]:
    """Return band -> output (n_times, n_channels), and what was found."""
    reader = ArrayReader(signal, recorded)
    montage = make_montage(reader.channel_names, range(signal.shape[1]), reference)
    paths = {band: folder / f"{band}.f4" for band in edges}
    found = band_envelopes(reader, paths, montage=montage, edges=edges, **options)
    shape = (found.n_times, len(montage.names))
    return {band: np.fromfile(path, "<f4").reshape(shape) for band, path in paths.items()}, found


def whole(
    signal: np.ndarray, recorded: float, edges: Edges, rate: float = 20.0, reflected: float = 20.0
) -> np.ndarray:
    """Return the envelope as scipy makes it of the whole recording, decimated at the end.

    The recording is continued by its point reflection for `reflected` seconds, because scipy's
    Hilbert transform takes the last sample for the neighbour of the first.
    """
    n = int(reflected * recorded)
    longer = np.pad(signal.astype(np.float64), ((n, n), (0, 0)), "reflect", reflect_type="odd")
    sos = scipy_signal.butter(4, edges, "bandpass", fs=recorded, output="sos")
    filtered = scipy_signal.sosfiltfilt(sos, longer, axis=0)
    envelope = np.abs(scipy_signal.hilbert(filtered, axis=0))
    return decimated(envelope[n : n + len(signal)], recorded, rate)


def decimated(signal: np.ndarray, recorded: float, rate: float) -> np.ndarray:
    """Return a whole signal at a lower rate, as preprocessing would."""
    single = signal.astype(np.float32)
    stream = Decimator(recorded, rate).stream(lambda a, b: single[a:b], len(single), 512)
    return np.concatenate(list(stream))


# Against truth and against whole recordings


@pytest.mark.parametrize("rate", [512.0, 999.4, 2048.0])
def test_planted_modulation_comes_back_in_its_band_at_its_time(rate: float, tmp_path: Path) -> None:
    """Amplitude, time and band of a response are all that the encoding models see."""
    t = np.arange(int(60 * rate))[:, None] / rate
    carriers = {"theta": 6.0, "beta": 20.0, "highgamma": 100.0}
    signal = np.zeros_like(t)
    for i, frequency in enumerate(carriers.values()):
        # A slow tone whose modulation says the time: each band has one of its own.
        signal = signal + 1e-5 * (2 + np.cos(2 * np.pi * (0.2 + 0.1 * i) * t)) * np.sin(
            2 * np.pi * frequency * t
        )
    out, found = run(signal, rate, tmp_path, {band: ALL[band] for band in carriers})
    k = np.arange(found.n_times) / 20
    inner = slice(60, -60)
    for i, band in enumerate(carriers):
        expected = 1e-5 * (2 + np.cos(2 * np.pi * (0.2 + 0.1 * i) * k))
        np.testing.assert_allclose(out[band][inner, 0], expected[inner], rtol=0.01)


@pytest.mark.parametrize("rate", [500.0, 1024.0, 999.4, 2048.0])
def test_equals_scipy_on_the_whole_recording(rate: float, tmp_path: Path) -> None:
    """The stated error: 0.1 % of the standard deviation, 0.5 % at most, but for the last 2 s."""
    signal = pink(int(60 * rate), 3, seed=1) + 0.01
    edges = {**BAND_EDGES, **HIGH_GAMMA, "wide": (70.0, 200.0)}
    out, _ = run(signal, rate, tmp_path, edges)
    for band, limits in edges.items():
        expected = whole(signal, rate, limits)
        assert out[band].shape == expected.shape
        error = (out[band] - expected)[:-40] / expected.std()
        assert np.sqrt(np.mean(error**2)) < 1e-3, band
        assert np.abs(error).max() < 5e-3, band
        plain = whole(signal, rate, limits, reflected=0)
        error = (out[band] - plain)[200:-200] / plain.std()  # 10 s from the ends
        assert np.abs(error).max() < 5e-3, band


def test_other_output_rates(tmp_path: Path) -> None:
    """Another rate of the responses must not change what they are, only how often."""
    signal = pink(60 * 512, 2, seed=2)
    for rate in (10.0, 100.0):
        out, found = run(signal, 512.0, tmp_path, HIGH_GAMMA, rate=rate)
        expected = whole(signal, 512.0, HIGH_GAMMA["highgamma"], rate)
        assert found.n_times == len(expected) == 60 * rate
        assert np.abs(out["highgamma"] - expected).max() < 5e-3 * expected.std()


@pytest.mark.parametrize(("line", "least"), [(None, 0.99999), (60.0, 0.99)])
def test_agrees_with_mne(line: float | None, least: float, tmp_path: Path) -> None:
    """The promise to users: as MNE's reference, notch, Butterworth and Hilbert envelope.

    With notches nearly so: theirs have steeper slopes, which take another part of the band.
    """
    mne = pytest.importorskip("mne")
    rate = 512.0
    t = np.arange(int(120 * rate))[:, None] / rate
    signal = pink(len(t), 3, seed=3)
    if line:
        signal = signal + np.array([1e-5, 2e-5, 3e-5]) * np.sin(2 * np.pi * line * t)
    out, found = run(signal, rate, tmp_path, ALL, "average", line_frequency=line)
    assert found.notches == ((60.0, 120.0, 180.0) if line else ())
    raw = mne.io.RawArray(signal.T, mne.create_info(3, rate, "seeg"), verbose="error")
    raw.set_eeg_reference("average", ch_type="seeg", verbose="error")
    if line:
        # As wide as ours: 2 Hz between the half-amplitude points.
        raw.notch_filter([60, 120, 180], notch_widths=1.0, trans_bandwidth=1.0, verbose="error")
    butterworth = {"order": 4, "ftype": "butter"}
    for band, limits in (BAND_EDGES | HIGH_GAMMA).items():
        peer = raw.copy().filter(*limits, method="iir", iir_params=butterworth, verbose="error")
        envelope = peer.apply_hilbert(envelope=True, verbose="error").get_data().T
        theirs = decimated(envelope, rate, 20.0)[60:-60]
        for ours, expected in zip(out[band][60:-60].T, theirs.T, strict=True):
            assert np.corrcoef(ours, expected)[0, 1] > least, band
            assert np.polyfit(expected, ours, 1)[0] == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("reference", ["none", "average", "bipolar"])
def test_slow_is_the_preprocessed_signal_before_scaling(reference: str, tmp_path: Path) -> None:
    """Decoding and encoding of slow activity must speak of the same signal."""
    signal = pink(120 * 500, 4, seed=4) + 0.01
    signal[20_000:20_400, 1] = np.nan
    signal[40_000:40_400] = np.nan
    reader = ArrayReader(signal, 500.0)
    montage = make_montage(reader.channel_names, range(4), reference)
    same = preprocess(reader, tmp_path / "p", montage=montage, rate=20.0, clamp=1e9)
    expected = np.fromfile(tmp_path / "p", "<f4").reshape(same.n_times, -1)
    expected = np.where(expected == 0, 0, expected * same.scale + same.center)
    for edges in ({"slow": None}, ALL):
        out, found = run(signal, 500.0, tmp_path, edges, reference)
        # A sample that is the median itself is 0 there, too; no other may differ.
        differs = np.abs(out["slow"] - expected) > 1e-8
        assert (expected[differs] == 0).all()
        assert differs.sum() <= 2 * len(montage.names)
        assert ((out["slow"] == 0).mean(axis=0) == same.missing_fraction).all()
        assert found.n_times == same.n_times


def test_slow_beside_bands_of_a_fast_recording(tmp_path: Path) -> None:
    """There it shares the working rate of the bands, which may not show."""
    signal = pink(60 * 2048, 2, seed=15) + 0.01
    alone, _ = run(signal, 2048.0, tmp_path, {"slow": None})
    beside, _ = run(signal, 2048.0, tmp_path, {"slow": None, "theta": (4.0, 8.0)})
    error = (beside["slow"] - alone["slow"]) / alone["slow"].std()
    assert np.abs(error).max() < 1e-3


def test_blocks_do_not_matter(tmp_path: Path) -> None:
    """The size of a block depends on the machine's channels; the numbers must not."""
    signal = pink(40_000, 3, seed=5)
    signal[11_000:11_500, 0] = np.nan
    for rate in (500.0, 2048.0):
        small, _ = run(signal, rate, tmp_path, ALL, "average", block=0.7)
        large, _ = run(signal, rate, tmp_path, ALL, "average", block=30.0)
        for band in ALL:
            scale = large[band].std()
            np.testing.assert_allclose(small[band], large[band], atol=1e-5 * scale)


def test_bands_do_not_matter_to_each_other(tmp_path: Path) -> None:
    """A band asked for alone is the band asked for with others, so that runs can be compared."""
    signal = pink(40_000, 2, seed=6)
    together, _ = run(signal, 512.0, tmp_path, ALL)
    for band in ALL:
        alone, _ = run(signal, 512.0, tmp_path, {band: ALL[band]})
        error = (alone[band] - together[band]) / together[band].std()
        assert np.abs(error).max() < 5e-3, band


def test_the_recording_is_read_once(tmp_path: Path) -> None:
    """Recordings lie on network disks; six bands must not cost six readings."""
    signal = pink(120 * 512, 4, seed=7)
    reader = ArrayReader(signal, 512.0)
    montage = make_montage(reader.channel_names, range(4), "average")
    paths = {band: tmp_path / band for band in ALL}
    steps: list[float] = []
    band_envelopes(reader, paths, montage=montage, edges=ALL, block=5.0, on_progress=steps.append)
    # The ends are read again for their reflection, and one block of 4 MB for dead contacts.
    assert reader.n_read <= 1.2 * signal.size + min(signal.size, 1 << 20)
    assert sum(steps) == pytest.approx(120.0)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(ALL)


# What goes wrong in recordings


def test_line_noise_is_taken_out_where_a_band_holds_it(tmp_path: Path) -> None:
    """100 µV of line in a band of 2 µV would make every response the power company's."""
    rate = 1000.0
    t = np.arange(int(60 * rate))[:, None] / rate
    background = pink(len(t), 2, seed=8)
    line = 1e-4 * (1 + 0.3 * np.sin(t)) * np.sin(2 * np.pi * 50.03 * t)
    line = line + 3e-5 * np.sin(2 * np.pi * 100.06 * t)
    bands = {"theta": (4.0, 8.0), "gamma": (30.0, 70.0), **HIGH_GAMMA}
    clean, found = run(background, rate, tmp_path, bands, line_frequency=50.0)
    assert found.notches[:3] == (50.0, 100.0, 150.0)
    noisy, _ = run(background + line, rate, tmp_path, bands, line_frequency=50.0)
    plain, _ = run(background + line, rate, tmp_path, bands)
    inner = slice(60, -60)
    for band in ("gamma", "highgamma"):
        left = np.abs(noisy[band] - clean[band])[inner].mean()
        before = np.abs(plain[band] - clean[band])[inner].mean()
        assert left < 0.01 * before
    _, found = run(background, rate, tmp_path, {"theta": (4.0, 8.0)}, line_frequency=50.0)
    assert found.notches == ()


def test_a_gap_is_zero_and_stays_where_it_is(tmp_path: Path) -> None:
    """A pause must become neither a burst in every band nor the loss of the minutes around."""
    rate = 500.0
    signal = pink(int(120 * rate), 2, seed=9) + 0.01
    intact, _ = run(signal, rate, tmp_path, ALL)
    signal[int(50 * rate) : int(60 * rate)] = np.nan
    out, found = run(signal, rate, tmp_path, ALL)
    (gap,) = found.gaps
    assert 45 < gap.start < 50 < 60 < gap.stop < 65
    assert found.missing_fraction == pytest.approx([gap.duration / 120] * 2)
    inside = slice(50 * 20, 60 * 20)
    outside = np.r_[: int(gap.start * 20), int(np.ceil(gap.stop * 20)) : 120 * 20]
    for band in BAND_EDGES | HIGH_GAMMA:
        assert np.isfinite(out[band]).all()
        assert (out[band][inside] == 0).all()
        error = (out[band] - intact[band])[outside] / intact[band].std()
        assert np.abs(error).max() < 0.02, band


def test_missing_samples_of_one_contact_are_its_own(tmp_path: Path) -> None:
    """A dropout of one contact costs the others nothing, and its pair of a bipolar montage all."""
    signal = pink(60_000, 4, seed=10)
    intact, _ = run(signal, 500.0, tmp_path, ALL)
    signal[30_000:30_500, 1] = np.nan
    signal[45_000, 1] = np.inf
    out, found = run(signal, 500.0, tmp_path, ALL)
    assert found.gaps == ()
    assert (found.missing_fraction > 0).tolist() == [False, True, False, False]
    for band in ALL:
        atol = 1e-5 * intact[band].std()
        np.testing.assert_allclose(out[band][:, [0, 2, 3]], intact[band][:, [0, 2, 3]], atol=atol)
        assert (out[band][1200:1220, 1] == 0).all()
        assert np.isfinite(out[band]).all()
    _, found = run(signal, 500.0, tmp_path, ALL, "bipolar")
    assert (found.missing_fraction > 0).tolist() == [True, True, False]


def test_dead_contacts_are_named_and_kept_out_of_the_average(tmp_path: Path) -> None:
    """A contact that starts late is alive; one that never moves must not dilute the average."""
    signal = pink(30_000, 5, seed=11)
    signal[:, 1], signal[:, 3] = 0.05, np.nan
    signal[:20_000, 4] = 0.02
    out, found = run(signal, 500.0, tmp_path, ALL, "average")
    assert found.flat == ("LA2",)
    assert found.nan == ("LA4",)
    assert found.missing_fraction.tolist() == [0, 0, 0, 1, 0]
    alive = signal[:, [0, 2, 4]]
    expected, _ = run(alive - alive.mean(axis=1, keepdims=True), 500.0, tmp_path, ALL)
    for band in ALL:
        assert (out[band][:, [1, 3]] == 0).all()
        atol = 1e-4 * expected[band].std()
        np.testing.assert_allclose(out[band][:, [0, 2, 4]], expected[band], atol=atol)


def test_bipolar_is_the_difference_of_neighbours(tmp_path: Path) -> None:
    """Referencing comes before the envelope: envelopes cannot be subtracted afterwards."""
    signal = pink(30_000, 3, seed=12) + 0.02
    signal[:, 2] = signal[:, 1]
    out, found = run(signal, 500.0, tmp_path, ALL, "bipolar")
    expected, _ = run(-np.diff(signal, axis=1), 500.0, tmp_path, ALL)
    assert found.flat == ("LA2-LA3",)  # two contacts bridged by fluid
    for band in ALL:
        atol = 2e-3 * expected[band][:, 0].std()  # float32 holds 20 mV to 1 nV
        np.testing.assert_allclose(out[band][:, 0], expected[band][:, 0], atol=atol)
        assert (out[band][:, 1] == 0).all()


@pytest.mark.parametrize("level", [0.0, 0.01])
def test_one_wire_recorded_many_times_is_no_signal(tmp_path: Path, level: float) -> None:
    """Behind the common average only rounding is left, which would be scored like a response."""
    one = pink(8000, 1, seed=3) + level
    out, found = run(np.repeat(one, 7, axis=1), 500.0, tmp_path, ALL, "average")
    assert len(found.flat) == 7
    assert all((values == 0).all() for values in out.values())
    weak = np.hstack([one, one, one + 1e-3 * pink(8000, 1, seed=4)])  # 100 nV is a signal
    _, found = run(weak, 500.0, tmp_path, ALL, "average")
    assert found.flat == ()


def test_nothing_alive_is_reported(tmp_path: Path) -> None:
    """The caller must be able to refuse the recording; no number may be made up."""
    out, found = run(np.full((5000, 2), np.nan), 500.0, tmp_path, ALL, "average")
    assert found.nan == ("LA1", "LA2")
    assert found.gaps == ()
    assert all((values == 0).all() for values in out.values())


def test_what_cannot_be_made_is_refused_with_what_to_do(tmp_path: Path) -> None:
    """A slow recording has no high gamma; a made-up one would be believed."""
    signal = pink(3000, 1, seed=13)
    with pytest.raises(DataError, match=r"highgamma(.|\n)*128 Hz(.|\n)*leave it out of bands"):
        run(signal, 256.0, tmp_path, ALL)
    run(signal, 256.0, tmp_path, BAND_EDGES)
    with pytest.raises(DataError, match="slower than the rate"):
        run(signal, 10.0, tmp_path, {"slow": None})
    with pytest.raises(DataError, match="do not make a band"):
        run(signal, 500.0, tmp_path, {"odd": (8.0, 4.0)})
    with pytest.raises(CannotWriteError, match="absent"):
        run(signal, 500.0, tmp_path / "absent", HIGH_GAMMA)


@pytest.mark.parametrize("n_times", [1, 20, 700])
@pytest.mark.parametrize("rate", [500.0, 2048.0])
def test_short_recordings(n_times: int, rate: float, tmp_path: Path) -> None:
    """A recording shorter than the filters must give numbers, not a traceback."""
    signal = np.random.default_rng(14).standard_normal((n_times, 2)) * 1e-4
    out, found = run(signal, rate, tmp_path, ALL)
    assert found.n_times == -(-n_times * 20 // int(rate))
    assert all(np.isfinite(values).all() for values in out.values())


@pytest.mark.parametrize("name", ["sample_ecog.edf", "sample_seeg.edf"])
def test_real_recordings(name: str, tmp_path: Path) -> None:
    """What real amplifiers give must come through, equal to scipy on the whole of it."""
    if not (REAL / name).exists():
        pytest.skip(f"{REAL / name} is absent")
    reader = open_signal(REAL / name)
    montage = make_montage(reader.channel_names, range(8), "none")
    edges = {band: e for band, e in BAND_EDGES.items() if e[1] < reader.sampling_rate / 2}
    paths = {band: tmp_path / band for band in edges}
    found = band_envelopes(reader, paths, montage=montage, edges=edges)
    signal = reader.read(0, reader.n_times, range(8))
    for band, limits in edges.items():
        out = np.fromfile(paths[band], "<f4").reshape(found.n_times, -1)
        expected = whole(signal, reader.sampling_rate, limits)
        assert np.abs(out - expected)[:-40].max() < 5e-3 * expected.std(), band


@pytest.mark.slow
def test_memory_does_not_grow_with_duration(tmp_path: Path) -> None:
    """A day of 128 channels must pass through a laptop, whatever the number of bands."""
    script = textwrap.dedent("""
        import sys
        from pathlib import Path
        import numpy as np
        from bids_speechdecode.signals.bands import BAND_EDGES, band_envelopes
        from bids_speechdecode.signals.montage import make_montage
        from bids_speechdecode.signals.readers import SignalReader

        class Sparse(SignalReader):
            def _read_stored(self, start, stop, picks):
                rng = np.random.default_rng(start)
                block = np.empty((stop - start, 64 if picks is None else len(picks)), np.float32)
                block[:] = rng.standard_normal((stop - start, 1), dtype=np.float32)
                return block

        minutes = float(sys.argv[1])
        reader = Sparse(Path("x"), 256.0, [f"A{i}" for i in range(64)], int(minutes * 60 * 256))
        montage = make_montage(reader.channel_names, range(64), "none")
        edges = {**BAND_EDGES, "slow": None}
        paths = {band: Path(sys.argv[2]) / band for band in edges}
        band_envelopes(reader, paths, montage=montage, edges=edges)
        # Not ru_maxrss: a child process inherits that from whoever started it.
        status = Path("/proc/self/status").read_text().splitlines()
        print(next(int(x.split()[1]) for x in status if x.startswith("VmHWM")) / 1024)
    """)

    def peak_mb(minutes: float) -> float:
        command = [sys.executable, "-c", script, str(minutes), str(tmp_path)]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    short, long = peak_mb(10), peak_mb(40)
    assert long < 500
    assert long - short < 30
