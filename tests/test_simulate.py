"""The simulated dataset: what is planted is there, where and when the truth says, only there."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import mne
import numpy as np
import pandas as pd
import pytest
import soundfile
from scipy.signal import butter, correlate, hilbert, lfilter, sosfiltfilt, welch
from scipy.stats import kurtosis

from bids_speechdecode.errors import CannotWriteError, MissingInputError, UsageError
from bids_speechdecode.simulate import make_settings, simulate_dataset
from bids_speechdecode.simulate.anatomy import draw_contacts, hearing_weight
from bids_speechdecode.simulate.background import Background, power_law_filter
from bids_speechdecode.simulate.brain import DriveExtractor, respond
from bids_speechdecode.simulate.participant import draw_participant, gain_at, write_recording
from bids_speechdecode.simulate.sentences import SentenceWriter
from bids_speechdecode.simulate.sound import Room
from bids_speechdecode.simulate.speech import NARRATOR, RATE, Synthesiser, draw_voice
from bids_speechdecode.simulate.writers import open_writer
from bids_speechdecode.timeline import ClockMap

pytest.importorskip("espeakng_loader", reason="the synthesiser is in the extra [demo]")

SMALL = {"participants": 1, "days": 1, "ambient_minutes": 0.4, "audiobook_minutes": 0.4}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate_dataset(tmp_path_factory.mktemp("tiny") / "bids", preset="tiny")


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One participant who hears eight minutes, enough to see single contacts respond."""
    out = tmp_path_factory.mktemp("story") / "bids"
    return simulate_dataset(
        out, preset="tiny", participants=1, ambient_runs=0, audiobook_minutes=8, contacts=8
    )


def read_recording(root: Path) -> tuple[mne.io.BaseRaw, pd.DataFrame, pd.DataFrame]:
    """Return the audiobook recording of the first participant, its events and its contacts."""
    header = next(root.glob("sub-sim01/*/ieeg/*audiobook*.vhdr"))
    events = header.with_name(header.name.replace("_ieeg.vhdr", "_events.tsv"))
    contacts = next((root / "sourcedata/simulation").glob("sub-sim01_*contacts.tsv"))
    raw = mne.io.read_raw(header, preload=True, verbose="error")
    return raw, pd.read_csv(events, sep="\t"), pd.read_csv(contacts, sep="\t")


def audio_times(events: pd.DataFrame, version: str, times: np.ndarray) -> tuple[str, np.ndarray]:
    """Return a version's file and the audio times of recording times, from events.tsv alone."""
    rows = events[events["audio_version"].astype(str).str.lower() == version]
    slope, offset = np.polyfit(rows["onset"], rows["audio_onset"], 1)
    return rows["stim_file"].iloc[0], slope * times + offset


def spectral_features(sound: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Return log power in four octave-wide bands at audio times, made here from scratch."""
    bands = []
    for low in (200, 500, 1200, 3000):
        sos = butter(2, (low, 2 * low), "bandpass", fs=RATE, output="sos")
        power = sosfiltfilt(sos, sound) ** 2
        smooth = sosfiltfilt(butter(2, 20, fs=RATE, output="sos"), power)
        log = np.log10(np.maximum(smooth, 0) + 1e-6)
        bands.append(np.interp(times, np.arange(len(sound)) / RATE, log))
    return np.stack(bands, axis=1)


def predicted_correlation(features: np.ndarray, signal: np.ndarray, rate: float) -> np.ndarray:
    """Return r between signal and its ridge prediction from lagged features, on held-out halves."""
    lags = np.arange(0, int(0.4 * rate), 2)
    x = np.concatenate([np.roll(features, lag, axis=0) for lag in lags], axis=1)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    keep = slice(int(rate), len(x) - int(rate))
    x, y = x[keep], signal[keep] - signal[keep].mean(axis=0)
    scores = []
    for train in (slice(None, len(x) // 2), slice(len(x) // 2, None)):
        test = np.setdiff1d(np.arange(len(x)), np.arange(len(x))[train])
        gram = x[train].T @ x[train] + 1e3 * np.eye(x.shape[1])
        predicted = x[test] @ np.linalg.solve(gram, x[train].T @ y[train])
        z = [(v - v.mean(axis=0)) / v.std(axis=0) for v in (predicted, y[test])]
        scores.append((z[0] * z[1]).mean(axis=0))
    return np.mean(scores, axis=0)


def band_signal(raw: mne.io.BaseRaw, signal: str) -> tuple[np.ndarray, np.ndarray, float]:
    """Return times, contacts' slow signal or high-gamma amplitude, and rate, at about 50 Hz."""
    fs, data = raw.info["sfreq"], raw.get_data()[:-1]
    if signal == "high_gamma":
        sos = butter(4, (75, 95), "bandpass", fs=fs, output="sos")  # between the mains harmonics
        data = np.log(np.abs(hilbert(sosfiltfilt(sos, data))) + 1e-9)
    smooth = sosfiltfilt(butter(2, (1, 12), "bandpass", fs=fs, output="sos"), data)
    step = int(fs // 50)
    return raw.times[::step], smooth[:, ::step].T, fs / step


# With the 20 Hz of carrier between two harmonics of the mains, chance beats drown much of it.
@pytest.mark.parametrize(("signal", "best"), [("slow", 0.2), ("high_gamma", 0.1)])
def test_planted_contacts_follow_the_sound_and_others_do_not(
    story: Path, signal: str, best: float
) -> None:
    """The dataset's purpose: a plain regression finds sound where it was planted, only there."""
    raw, events, contacts = read_recording(story)
    times, brain, rate = band_signal(raw, signal)
    name, heard = audio_times(events, "true", times)
    sound, _ = soundfile.read(story / "stimuli" / name)
    r = predicted_correlation(spectral_features(sound, heard), brain, rate)
    planted = (contacts["weight"] > 0).to_numpy()
    good = ~contacts["bad"].to_numpy()
    assert planted.sum() >= 4
    assert r[planted & good].max() > best
    assert r[planted & (contacts["weight"] > 0.5)].min() > 0.05
    assert np.abs(r[~planted]).max() < 0.06
    assert r[planted & good].max() < 0.6, "no contact is as clean as that in a patient"
    shuffled = predicted_correlation(spectral_features(sound, heard[::-1]), brain, rate)
    assert np.abs(shuffled).max() < 0.08


def filter_expected(root: Path, name: str, heard: np.ndarray, rate: float) -> dict[str, np.ndarray]:
    """Return each planted contact's response to a file, from the truth's response functions."""
    truth = next((root / "sourcedata/simulation").glob("*functions.tsv"))
    table = pd.read_csv(truth, sep="\t").query("signal == 'slow'")
    ear = DriveExtractor()
    ear.push(soundfile.read(root / "stimuli" / name, dtype="float32")[0])
    drives = ear.finish().T
    expected = {}
    for contact, rows in table.groupby("name"):
        functions = rows.filter(like="lag_").to_numpy()
        response = sum(lfilter(f, 1, d) for f, d in zip(functions, drives, strict=True))
        at_samples = np.interp(heard * 100, np.arange(len(response)), response, 0, 0)
        expected[str(contact)] = keep_slow(at_samples, rate)
    return expected


def keep_slow(signal: np.ndarray, rate: float) -> np.ndarray:
    return sosfiltfilt(butter(2, (1, 15), "bandpass", fs=rate, output="sos"), signal)


def measure_lag(late: dict[str, np.ndarray], early: dict[str, np.ndarray], rate: float) -> float:
    """Return by how many seconds the first lags the second, all contacts together."""
    total: np.ndarray = np.zeros(1)
    for contact, signal in late.items():
        total = total + correlate(signal, early[contact], method="fft") / signal.std()
    near = slice(len(total) // 2 - int(0.2 * rate), len(total) // 2 + int(0.2 * rate) + 1)
    peak = int(np.argmax(total[near])) + near.start
    left, top, right = total[peak - 1 : peak + 2]
    return (peak + 0.5 * (left - right) / (left - 2 * top + right) - len(total) // 2) / rate


def test_brain_and_sound_agree_within_10_ms_and_with_the_truth(story: Path) -> None:
    """Value is time: responses made from the truth and events.tsv sit where they should.

    Echoes delay loudness: the ear hears it a little after the loudspeaker, and the microphone,
    farther away, later still. The brain must lie between the files, and the lags must add up.
    """
    raw, events, contacts = read_recording(story)
    rate = raw.info["sfreq"]
    clean = filter_expected(story, *audio_times(events, "true", raw.times), rate)
    room = filter_expected(story, *audio_times(events, "ambient", raw.times), rate)
    assert set(clean) == set(contacts.loc[contacts["weight"] > 0, "name"])
    brain = {name: keep_slow(raw.get_data(picks=[name])[0], rate) for name in clean}
    after_clean, after_room = measure_lag(brain, clean, rate), measure_lag(brain, room, rate)
    assert 0 <= after_clean < 0.010
    assert after_room < 0.002
    echo = measure_lag(room, clean, rate)
    assert after_clean - after_room == pytest.approx(echo, abs=0.003)


@pytest.mark.parametrize("rate", [250.0, 999.4])
def test_clock_places_responses_at_start_and_end(tmp_path: Path, rate: float) -> None:
    """A wrong slope, sign or off-by-one frame would show as a lag that grows with time."""
    settings = make_settings("tiny", sampling_rate=rate)
    rng = np.random.default_rng(3)
    calibration = np.abs(rng.standard_normal((3000, 10))).astype(np.float32)
    participant = draw_participant("sim01", settings, calibration, rng)
    n = len(participant.brain.auditory)
    loud = dataclasses.replace(participant.brain, correlation=np.full(n, 0.995))
    participant = dataclasses.replace(participant, brain=loud)
    clock = ClockMap(1.002, -7.5)  # a drift of 2000 ppm: 0.2 s over this recording
    clicks = np.arange(1.0, 100.0, 1.7)
    drives = np.zeros((10500, 10), np.float32)
    drives[np.round(clicks * 100).astype(int)] = 5.0
    path = tmp_path / "x_ieeg.vhdr"
    write_recording(
        path,
        participant,
        settings,
        drives=drives,
        clock=clock,
        duration=115.0,
        start_day=0.5,
        rng=rng,
    )
    raw = mne.io.read_raw(path, preload=True, verbose="error")
    assert raw.n_times == round(115 * rate)
    contact = participant.brain.auditory[0]
    kernel = participant.brain.slow[0].sum(axis=0)
    signal = sosfiltfilt(butter(2, (1, 20), "bandpass", fs=rate, output="sos"), raw.get_data())
    for select in (clicks < 25, clicks > 75):
        expected = np.zeros(raw.n_times)
        for click in clicks[select]:
            since = raw.times - (click + 7.5) / 1.002  # the inverse of the map, written out
            expected += np.interp(since, np.arange(51) / 100, kernel, 0, 0)
        window = np.convolve(expected != 0, np.ones(int(rate)), "same") > 0
        match = correlate(signal[contact] * window, expected, method="fft")
        assert abs(np.argmax(match) - (raw.n_times - 1)) / rate < 0.005


def test_room_file_follows_the_clean_file_by_the_events(story: Path) -> None:
    """Both versions of the audiobook must be the same story on two clocks that drift apart."""
    _, events, _ = read_recording(story)
    instants = np.array([20.0, 470.0])
    clean_name, clean_times = audio_times(events, "true", instants)
    room_name, room_times = audio_times(events, "ambient", instants)
    for a, b in zip(clean_times, room_times, strict=True):
        start = round(a * RATE)
        clean, _ = soundfile.read(story / "stimuli" / clean_name, start=start, frames=5 * RATE)
        room_start = round((b - a + start / RATE) * RATE)
        room, _ = soundfile.read(story / "stimuli" / room_name, start=room_start, frames=5 * RATE)
        lag = np.argmax(correlate(room, clean, method="fft")) - (len(clean) - 1)
        assert abs(lag) / RATE < 0.0015
    truth = pd.read_csv(next((story / "sourcedata/simulation").glob("*clocks.tsv")), sep="\t")
    for version in ("true", "ambient"):
        name, times = audio_times(events, version, instants)
        row = truth[truth["stimulus"] == name].iloc[0]
        np.testing.assert_allclose(times, row["slope"] * instants + row["offset"], atol=2e-3)
        assert 20 <= abs(row["slope"] - 1) * 1e6 <= 50


def test_validator_accepts_the_dataset(tiny: Path) -> None:
    """Users copy its layout; it must be valid BIDS."""
    validator = Path(sys.executable).with_name("bids-validator-deno")
    if not validator.exists():
        pytest.skip("bids-validator-deno is not installed")
    done = subprocess.run([validator, tiny], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]


def test_everything_says_that_it_is_simulated(tiny: Path) -> None:
    """Nobody may take these files for a patient's, wherever they are copied."""
    description = json.loads((tiny / "dataset_description.json").read_text())
    assert "simulated" in description["Name"]
    assert "simulate" in description["GeneratedBy"][0]["Name"]
    assert "simulated" in (tiny / "README.md").read_text()
    assert all(path.name.startswith("simulated_") for path in (tiny / "stimuli").iterdir())
    assert all(path.name.startswith("sub-sim") for path in tiny.glob("sub-*/**/*.*"))


def test_events_name_both_versions_and_one_audiobook_for_all(tiny: Path) -> None:
    """Same audio, same split: participants must share the file, not copies of it."""
    tables = [pd.read_csv(p, sep="\t", dtype=str) for p in tiny.rglob("*audiobook*_events.tsv")]
    assert len(tables) == 2
    clean = [set(t.loc[t["audio_version"].str.lower() == "true", "stim_file"]) for t in tables]
    room = [set(t.loc[t["audio_version"] == "ambient", "stim_file"]) for t in tables]
    assert clean[0] == clean[1]
    assert room[0].isdisjoint(room[1])
    for path in tiny.rglob("*_events.tsv"):
        table = pd.read_csv(path, sep="\t")
        sidecar = json.loads(
            next(path.parent.glob(path.name.replace("_events.tsv", "_ieeg.json"))).read_text()
        )
        assert (table["onset"] + table["duration"]).max() <= sidecar["RecordingDuration"]
        for name, rows in table.groupby("stim_file"):
            length = soundfile.info(tiny / "stimuli" / str(name)).duration
            assert rows["duration"].sum() == pytest.approx(length, abs=0.02)


def test_no_sentence_is_heard_twice(tiny: Path) -> None:
    """A sentence in both training and test sound would make decoding look better than it is."""
    tables = (tiny / "sourcedata/simulation/sounds").glob("*_sentences.tsv")
    texts = pd.concat([pd.read_csv(path, sep="\t") for path in tables])["text"]
    assert len(texts) > 50
    assert texts.is_unique


def test_silence_in_the_room_is_silence_in_the_brain(tiny: Path) -> None:
    """Long silences are part of the week; drives there must be exactly zero."""
    ear = DriveExtractor()
    ear.push(np.zeros(3 * RATE, np.float32))
    drives = ear.finish()
    assert drives.shape[0] == 300
    assert not drives.any()
    scenes = pd.concat(
        [pd.read_csv(p, sep="\t") for p in (tiny / "sourcedata/simulation").rglob("*_scenes.tsv")]
    )
    assert {"silence", "conversation"} <= set(scenes["kind"])


def _digest(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    """Numbers in reports and tests rest on it; the synthesiser keeps state between calls."""
    first, second, other = (
        _digest(simulate_dataset(tmp_path / str(i), preset="tiny", seed=seed, **SMALL))
        for i, seed in enumerate((1, 1, 2))
    )
    assert first == second
    changed = [name for name in first if name in other and first[name] != other[name]]
    assert any(name.endswith(".eeg") for name in changed)
    assert any(name.endswith(".flac") for name in changed)


def test_edf_holds_what_brainvision_holds(tmp_path: Path) -> None:
    """The writers are our own: MNE must read back the very numbers, in both formats."""
    rng = np.random.default_rng(0)
    signal = 100 * rng.standard_normal((1280, 3))
    names = ("A1", "A2", "ECG")
    for file in ("x.vhdr", "x.edf"):
        format = "edf" if file.endswith("edf") else "brainvision"
        with open_writer(tmp_path / file, format, names, 256.0) as writer:
            for block in np.split(signal, [100, 700]):
                writer.write(block)
        raw = mne.io.read_raw(tmp_path / file, verbose="error")
        assert tuple(raw.ch_names) == names
        assert raw.info["sfreq"] == 256
        np.testing.assert_allclose(raw.get_data().T * 1e6, signal, atol=0.0501)


def test_respond_is_the_written_sum() -> None:
    """The truth file defines responses by this equation; a slow loop is the oracle."""
    rng = np.random.default_rng(0)
    drives = rng.standard_normal((40, 3)).astype(np.float32)
    functions = rng.standard_normal((2, 3, 5))
    expected = np.zeros((40, 2))
    for t in range(40):
        for c in range(2):
            for lag in range(min(5, t + 1)):
                expected[t, c] += functions[c, :, lag] @ drives[t - lag]
    np.testing.assert_allclose(respond(drives, functions, block=7), expected, rtol=1e-4, atol=1e-5)


def test_drives_do_not_depend_on_blocks_and_peak_at_the_click() -> None:
    """Streaming must not move sound in time, whatever the size of the blocks."""
    sound = np.zeros(2 * RATE, np.float32)
    sound[int(1.23 * RATE)] = 1.0
    results = []
    for size in (2 * RATE, 777):
        ear = DriveExtractor()
        for start in range(0, len(sound), size):
            ear.push(sound[start : start + size])
        results.append(ear.finish())
    np.testing.assert_allclose(results[0], results[1], atol=1e-5)
    assert results[0].shape == (200, 10)
    assert np.argmax(results[0][:, 0]) == 123


def test_room_does_not_depend_on_blocks() -> None:
    """Echoes must run on over block boundaries as in one convolution."""
    sound = np.random.default_rng(1).standard_normal(3 * RATE).astype(np.float32)
    whole, _ = Room(np.random.default_rng(0)).hear(sound)
    room = Room(np.random.default_rng(0))
    parts = [room.hear(block)[0] for block in np.split(sound, [1000, 1500, 30000])]
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-4)


@pytest.mark.parametrize("rate", [256.0, 512.0, 2048.0])
def test_background_falls_as_the_stated_power_of_frequency(rate: float) -> None:
    """Welch is the oracle for the filter: slope -1.8 and unit rms from 0.5 to 20 Hz."""
    from scipy.signal import sosfilt

    white = np.random.default_rng(0).standard_normal(int(400 * rate))
    noise = sosfilt(power_law_filter(rate), white)[int(20 * rate) :]
    frequencies, power = welch(noise, rate, nperseg=int(16 * rate))
    slow = (frequencies >= 0.5) & (frequencies <= 20)
    fit = (frequencies > 1) & (frequencies < 60)
    slope = np.polyfit(np.log(frequencies[fit]), np.log(power[fit]), 1)[0]
    assert slope == pytest.approx(-1.8, abs=0.12)
    assert np.sqrt(power[slow].sum() / 16) == pytest.approx(1, rel=0.1)


def test_background_has_mains_reference_spikes_and_bad_wires() -> None:
    """Preprocessing is tried on these; each must be there and where it is said to be."""
    rng = np.random.default_rng(0)
    contacts = draw_contacts(3, 8, rng)
    spiking = np.zeros(24)
    spiking[10] = 400.0
    background = Background(
        contacts,
        scale=np.ones(24),
        auditory=(0,),
        spiking=spiking,
        bad=(20,),
        rate=512.0,
        line_frequency=50.0,
        rng=rng,
    )
    neural = background.make(512 * 60)
    signal = background.add_electronics(neural)
    frequencies, power = welch(signal, 512, nperseg=1024, axis=0)
    at_50 = power[np.argmin(np.abs(frequencies - 50))]
    near_50 = power[(frequencies > 44) & (frequencies < 47)].mean(axis=0)
    assert (at_50 / near_50)[:20].min() > 10
    sharp = sosfiltfilt(butter(2, (8, 40), "bandpass", fs=512, output="sos"), neural, axis=0)
    tails = kurtosis(sharp, axis=0)
    assert tails[10] > 1
    assert np.delete(tails, 10).max() < 0.5
    assert signal[:, 20].std() > 2 * np.median(signal.std(axis=0))
    near, far = np.corrcoef(neural[:, 0], neural[:, 1])[0, 1], np.corrcoef(neural.T)[0, 16]
    assert near > 0.5 > abs(far)
    together = [np.corrcoef(x[:, 0], x[:, 16])[0, 1] for x in (neural, signal)]
    assert together[1] > together[0], "the common reference makes far contacts alike"


def test_only_contacts_near_auditory_cortex_hear() -> None:
    """Anatomy is the prior that channel selection will use: both sides alike, nothing far away."""
    assert hearing_weight(np.array([-48.0, -20, 7])) == 1
    assert hearing_weight(np.array([48.0, -20, 7])) == 1
    assert hearing_weight(np.array([-26.0, -20, -17])) == 0  # hippocampus
    for seed in range(20):
        contacts = draw_contacts(5, 8, np.random.default_rng(seed))
        assert len({contact.name for contact in contacts}) == 40
        assert sum(contact.is_auditory for contact in contacts) >= 5
        shaft = np.array([c.position_mm for c in contacts[:8]])
        np.testing.assert_allclose(np.linalg.norm(np.diff(shaft, axis=0), axis=1), 3.5, atol=0.05)
        assert not any(c.is_auditory for c in contacts if c.shaft[1:] in ("OFC", "PAR", "HIP"))


def test_gains_drift_between_days() -> None:
    """Drift is one of the questions; gains interpolate and stop at the last day."""
    walk = np.array([[1.0, 1.0], [1.2, 0.8], [1.0, 1.0]])
    np.testing.assert_allclose(gain_at(walk, 0.5), [1.1, 0.9])
    np.testing.assert_allclose(gain_at(walk, 2.0), [1, 1])
    np.testing.assert_allclose(gain_at(walk, 9.0), [1, 1])


def test_voices_speak_and_differ() -> None:
    """A voice that the synthesiser does not know would silently be the one before."""
    with Synthesiser() as synthesiser:
        text = SentenceWriter(np.random.default_rng(0)).write()
        voices = [NARRATOR, *(draw_voice(np.random.default_rng(i)) for i in range(20))]
        sounds = [synthesiser.say(text, voice) for voice in voices]
    assert NARRATOR.name not in {voice.name for voice in voices[1:]}
    assert all(1 < len(sound) / RATE < 20 for sound in sounds)
    assert len({sound.tobytes() for sound in sounds}) == len(set(voices))


def test_missing_synthesiser_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is an optional package; the message must carry the command, and nothing be left over."""
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(MissingInputError, match=r'pip install "bids_speechdecode\[demo\]"'):
        simulate_dataset(tmp_path / "out", preset="tiny")
    assert not list(tmp_path.iterdir())


def test_bad_requests_are_refused(tmp_path: Path) -> None:
    """Nobody's files may be overwritten, and typing errors get a suggestion."""
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(CannotWriteError):
        simulate_dataset(tmp_path, preset="tiny")
    with pytest.raises(UsageError, match="did you mean 'tiny'"):
        make_settings("tinny")
    with pytest.raises(UsageError, match="did you mean 'participants'"):
        make_settings("tiny", participant=2)
    with pytest.raises(UsageError, match="sampling_rate cannot be 100"):
        make_settings("tiny", sampling_rate=100)
    with pytest.raises(UsageError, match="EDF"):
        make_settings("tiny", sampling_rate=999.4, format="edf")


def test_command_line(tmp_path: Path) -> None:
    """The documented way to make the dataset, as it is typed; exit codes as everywhere."""
    command = [sys.executable, "-m", "bids_speechdecode.simulate"]
    options = ["--preset", "tiny", "--participants", "1", "--days", "1", "--format", "edf"]
    options += ["--ambient-minutes", "0.4", "--audiobook-minutes", "0.4", "--seed", "5"]
    out = tmp_path / "out"
    done = subprocess.run([*command, str(out), *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert str(out) in done.stdout
    edf = sorted(out.rglob("*.edf"))
    assert len(edf) == 2
    assert mne.io.read_raw(edf[0], verbose="error").info["sfreq"] == 256
    again = subprocess.run([*command, str(out), *options], capture_output=True, text=True)
    assert again.returncode == 73
    assert "Traceback" not in again.stderr
    wrong = subprocess.run([*command, str(out), "--days", "x"], capture_output=True, text=True)
    assert wrong.returncode == 64


def test_help_imports_nothing_heavy() -> None:
    """Help must come at once."""
    code = (
        "import sys, bids_speechdecode.simulate.__main__\n"
        "heavy = {'numpy', 'scipy', 'pandas', 'torch', 'soundfile'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
