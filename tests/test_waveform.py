"""Sound files come back at the right time and rate, unreadable ones with a clear error."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import soundfile

from bids_speechdecode.audio.waveform import (
    audio_duration,
    read_audio,
    resample,
    voice_activity,
    voiced_frames,
)
from bids_speechdecode.errors import DataError, MissingInputError

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def write_tone(path: Path, rate: int, seconds: float = 4.0, hertz: float = 50.0) -> Path:
    time = np.arange(round(seconds * rate)) / rate
    soundfile.write(path, 0.5 * np.sin(2 * np.pi * hertz * time), rate, subtype="FLOAT")
    return path


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
@pytest.mark.parametrize("start", [0.0, 0.73, 1.2345])
def test_an_excerpt_has_the_phase_of_its_time(tmp_path: Path, rate: int, start: float) -> None:
    """A resampler or a seek that shifts by one sample would shift every target."""
    path = write_tone(tmp_path / "tone.wav", rate)
    wave = read_audio(path, start, start + 2.0)
    assert wave.shape == (32000,)
    assert wave.dtype == np.float32
    first = np.floor(start * rate + 0.5) / rate  # the sample of the file nearest to `start`
    time = first + np.arange(32000) / 16000
    expected = 0.5 * np.sin(2 * np.pi * 50 * time)
    inner = slice(800, -800)
    assert np.abs(wave - expected)[inner].max() < 5e-4


def test_nothing_outside_the_excerpt_matters(tmp_path: Path) -> None:
    """Test audio must not reach a training excerpt through the resampling filter."""
    rng = np.random.default_rng(0)
    sound = rng.uniform(-0.5, 0.5, 44100 * 3).astype(np.float32)
    other = rng.uniform(-0.5, 0.5, 44100 * 3).astype(np.float32)
    other[44100 : 2 * 44100] = sound[44100 : 2 * 44100]
    soundfile.write(tmp_path / "a.wav", sound, 44100, subtype="FLOAT")
    soundfile.write(tmp_path / "b.wav", other, 44100, subtype="FLOAT")
    a, b = (read_audio(tmp_path / name, 1.0, 2.0) for name in ("a.wav", "b.wav"))
    assert np.array_equal(a, b)
    assert not np.array_equal(read_audio(tmp_path / "a.wav"), read_audio(tmp_path / "b.wav"))


def test_consecutive_excerpts_neither_overlap_nor_leave_gaps(tmp_path: Path) -> None:
    """Chunks at fractional times must add up to the whole file."""
    soundfile.write(tmp_path / "ramp.wav", np.linspace(0, 1, 16000), 16000, subtype="FLOAT")
    bounds = [0.0, 0.10003, 0.33333, 0.5, 0.77777, 1.0]
    pieces = [read_audio(tmp_path / "ramp.wav", *pair) for pair in itertools.pairwise(bounds)]
    assert np.array_equal(np.concatenate(pieces), read_audio(tmp_path / "ramp.wav"))


def test_channels(tmp_path: Path) -> None:
    """Stereo files are averaged unless a channel is named."""
    stereo = np.stack([np.full(1600, 0.5), np.full(1600, -0.1)], axis=1)
    soundfile.write(tmp_path / "stereo.wav", stereo, 16000, subtype="FLOAT")
    assert np.allclose(read_audio(tmp_path / "stereo.wav"), 0.2)
    assert np.allclose(read_audio(tmp_path / "stereo.wav", channel=1), -0.1)
    with pytest.raises(DataError, match="2 channels"):
        read_audio(tmp_path / "stereo.wav", channel=2)


def test_resample_keeps_volume_and_removes_what_would_alias() -> None:
    """An AUDIO channel at 2,048 Hz and a studio file at 96 kHz both become 16 kHz."""
    time = np.arange(96000) / 96000
    low = resample(np.sin(2 * np.pi * 1000 * time), 96000, 16000)
    high = resample(np.sin(2 * np.pi * 11000 * time), 96000, 16000)
    assert low.std() == pytest.approx(np.sqrt(0.5), rel=1e-2)
    assert high[200:-200].std() < 1e-3


def test_a_missing_file_is_a_missing_input(tmp_path: Path) -> None:
    """Exit status 66, not a traceback of libsndfile."""
    with pytest.raises(MissingInputError, match=r"no\.wav"):
        read_audio(tmp_path / "no.wav")
    with pytest.raises(MissingInputError):
        audio_duration(tmp_path / "no.wav")


@pytest.mark.parametrize(
    "content", [b"", b"../../.git/annex/objects/aa/bb/MD5E-s1.wav\n", b"RIFF\x00\x00", bytes(5000)]
)
def test_what_is_not_sound_is_bad_data(tmp_path: Path, content: bytes) -> None:
    """Exit status 65 for empty files, pointers to absent content, and rubbish."""
    path = tmp_path / "bad.wav"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"bad\.wav"):
        read_audio(path)
    with pytest.raises(DataError, match=r"bad\.wav"):
        audio_duration(path)


def test_a_truncated_flac_is_bad_data(tmp_path: Path) -> None:
    """Half a download must not become a silent second half."""
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "whole.flac", rng.uniform(-0.5, 0.5, 48000), 16000)
    content = (tmp_path / "whole.flac").read_bytes()
    (tmp_path / "half.flac").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"half\.flac"):
        read_audio(tmp_path / "half.flac")


def test_time_beyond_the_end_is_bad_data_but_rounding_is_not(tmp_path: Path) -> None:
    """Events that promise more sound than there is; a header rounded to 10 ms is no error."""
    path = write_tone(tmp_path / "tone.wav", 44100, seconds=1.0)
    with pytest.raises(DataError, match=r"a sound of 1\.000 s"):
        read_audio(path, 0.5, 1.5)
    wave = read_audio(path, 0.5, 1.005)
    assert wave.shape == (8080,)
    assert not wave[-60:].any()
    assert audio_duration(path) == 1.0


def test_nan_in_a_file_is_bad_data(tmp_path: Path) -> None:
    """NaN must not travel into a target."""
    sound = np.zeros(1600, np.float32)
    sound[700] = np.nan
    soundfile.write(tmp_path / "nan.wav", sound, 16000, subtype="FLOAT")
    with pytest.raises(DataError, match="NaN"):
        read_audio(tmp_path / "nan.wav")


def noise_of(exponent: float, seconds: float, level: float, rng: np.random.Generator) -> np.ndarray:
    white = rng.standard_normal(round(seconds * 16000))
    spectrum = np.fft.rfft(white) / np.maximum(np.arange(len(white) // 2 + 1), 1) ** exponent
    noise = np.fft.irfft(spectrum, len(white))
    return (noise * level / noise.std()).astype(np.float32)


def test_silence_and_steady_noise_are_not_speech() -> None:
    """Windows in which nobody speaks are what the gate is for."""
    rng = np.random.default_rng(0)
    assert not voice_activity(np.zeros(16000 * 10)).any()
    for exponent in (0.0, 0.5, 1.0):
        assert not voice_activity(noise_of(exponent, 20, 0.05, rng)).any()
    assert voice_activity(np.zeros(100)).shape == (0,)


def test_a_slam_is_not_speech_but_a_vowel_is() -> None:
    """Loud alone is not enough: part of it must be harmonic."""
    rng = np.random.default_rng(1)
    quiet = noise_of(0.5, 10, 0.003, rng)
    slam, vowel = quiet.copy(), quiet.copy()
    slam[64000:72000] += noise_of(0.0, 0.5, 0.2, rng)
    time = np.arange(8000) / 16000
    vowel[64000:72000] += sum(0.1 / k * np.sin(2 * np.pi * 120 * k * time) for k in range(1, 25))
    assert not voice_activity(slam).any()
    voiced = voice_activity(vowel)
    assert voiced[405:445].all()
    assert not voiced[:390].any()
    assert not voiced[460:].any()


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_the_rate_does_not_matter_much(rate: int) -> None:
    """Frames are 10 ms at any rate."""
    time = np.arange(10 * rate) / rate
    tone = np.where((time > 4) & (time < 6), 0.2 * np.sin(2 * np.pi * 500 * time), 0)
    voiced = voice_activity(tone, rate)
    assert voiced.shape == (1000,)
    assert voiced[410:590].all()
    assert voiced.sum() == pytest.approx(200, abs=10)


def test_blocks_give_the_same_as_the_whole() -> None:
    """Long recordings are read in blocks; the answer must not depend on them."""
    rng = np.random.default_rng(2)
    sound = noise_of(0.5, 40, 0.003, rng)
    time = np.arange(16000) / 16000
    for second in (5, 14.5, 30):
        sound[int(second * 16000) :][:16000] += 0.1 * np.sign(np.sin(2 * np.pi * 150 * time))
    whole = voice_activity(sound)
    blocks = voiced_frames([sound[:240000], sound[240000:320000], sound[320000:]])
    assert whole.sum() > 250
    assert np.array_equal(whole, blocks)


@pytest.mark.skipif(not (SHARED / "speech").is_dir(), reason="real speech is not beside the repo")
@pytest.mark.parametrize("snr_db", [15, 30])
def test_real_speech_in_real_and_synthetic_room_noise(snr_db: int) -> None:
    """The gate keeps read speech and leaves out the noise between the utterances."""
    files = sorted((SHARED / "speech").rglob("*.flac"))[::9]
    room = read_audio(SHARED / "noise" / "noise1.wav")
    pieces, truth = [], []
    for file in files:
        speech = read_audio(file)
        speech = speech[: len(speech) // 160 * 160]
        pieces += [0.05 * speech / speech.std(), np.zeros(6 * 16000)]
        truth += [np.ones(len(speech) // 160, bool), np.zeros(600, bool)]
    sound, is_speech = np.concatenate(pieces), np.concatenate(truth)
    rng = np.random.default_rng(0)
    for noise in (np.resize(room, len(sound)), noise_of(0.5, len(sound) / 16000, 1, rng)):
        noisy = sound + noise / noise.std() * 0.05 * 10 ** (-snr_db / 20)
        voiced = voice_activity(noisy)
        assert voiced[is_speech].mean() > 0.6  # utterances hold pauses of their own
        assert voiced[~is_speech].mean() < 0.1
