"""Window features are exact means of what the model says about the sound of the window, no more."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import save_tiny_model

from bids_speechdecode.audio.features import cut_chunks, voiced_fraction, window_features
from bids_speechdecode.audio.speech_models import load_speech_model
from bids_speechdecode.audio.waveform import read_audio
from bids_speechdecode.config import TargetConfig
from bids_speechdecode.errors import DataError, UsageError
from bids_speechdecode.timeline import Interval

SHARED = Path(__file__).resolve().parents[2] / "shared"
WHISPER = SHARED / "models" / "whisper-tiny.en"
RATE = 16000


class Averages:
    """A model whose frames are the mean of their sound, as many as wav2vec 2.0 has."""

    name, dimension, frame_rate, sampling_rate = "averages", 2, 50.0, RATE

    def __init__(self) -> None:
        self.batches: list[tuple[int, ...]] = []

    def embed(self, waves: torch.Tensor) -> torch.Tensor:
        self.batches.append(tuple(waves.shape))
        n_frames = (waves.shape[1] - 400) // 320 + 1
        bounds = np.floor(np.linspace(0, waves.shape[1], n_frames + 1)).astype(int)
        means = torch.stack(
            [waves[:, a:b].double().mean(dim=1) for a, b in itertools.pairwise(bounds)], dim=1
        ).float()
        return torch.stack([means, means**2], dim=2)


def read_time(start: float, stop: float) -> np.ndarray:
    """Sound whose value is its time in seconds."""
    return (start + (np.arange(round((stop - start) * RATE)) + 0.5) / RATE).astype(np.float32)


def read_noise(start: float, stop: float) -> np.ndarray:
    """Return the same noise at the same time, whatever is asked for."""
    first, last = round(start * RATE), round(stop * RATE)
    seconds = [
        np.random.default_rng(second).standard_normal(RATE).astype(np.float32) * 0.1
        for second in range(first // RATE, last // RATE + 1)
    ]
    return np.concatenate(seconds)[first - first // RATE * RATE :][: last - first]


def settings(**changes: object) -> TargetConfig:
    return TargetConfig(**{"name": "mel", "chunk": 30.0, "batch_size": 4, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny random wav2vec 2.0 with group norm over time, saved once."""
    return save_tiny_model(tmp_path_factory.mktemp("model"), "wav2vec2")


def test_the_mean_of_a_window_of_time_is_its_middle() -> None:
    """A shift of the frames by one would move every target by 20 ms."""
    starts = np.array([0.0, 0.5, 28.1, 29.99, 33.3, 57.0, 62.0]) + 4.2
    found = window_features(
        read_time, Interval(4.2, 69.2), starts, 3.0, Averages(), settings(pooling="mean")
    )
    assert found.shape == (7, 2)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:, 0], starts + 1.5, atol=2e-4)


def test_frames_of_time_are_their_middles() -> None:
    """The same for the window as a time course."""
    starts = np.array([1.0, 28.5, 40.03])
    found = window_features(
        read_time, Interval(1.0, 50.0), starts, 3.0, Averages(), settings(pooling="frames")
    )
    assert found.shape == (3, 30, 2)
    expected = starts[:, None] + 0.1 * (np.arange(30) + 0.5)
    # A native frame of 20 ms that straddles the end of a 100 ms frame blurs it by at most 2 ms.
    np.testing.assert_allclose(found[:, :, 0], expected, atol=2e-3)


def full_course(model: object, chunks: list, read: object) -> list[np.ndarray]:
    return [
        model.embed(torch.from_numpy(read(c.start, c.stop))[None])[0].numpy()  # type: ignore
        for c in chunks
    ]


@pytest.mark.parametrize("pooling", ["mean", "frames"])
def test_equals_a_slow_loop_over_overlaps(tiny_model: Path, pooling: str) -> None:
    """The exact definition, written as plainly as possible, with windows across chunk borders."""
    config = settings(name="wav2vec2", model=str(tiny_model), layer=1, chunk=4.0, pooling=pooling)
    model = load_speech_model(config)
    interval, starts = Interval(2.0, 15.5), np.array([2.0, 4.51, 5.1, 9.97, 13.0])
    chunks = cut_chunks(interval, 4.0, RATE)
    found = window_features(read_noise, interval, starts, 2.5, model, config).reshape(5, -1, 24)
    n_parts = found.shape[1]
    assert n_parts == {"mean": 1, "frames": 25}[pooling]
    course = full_course(model, chunks, read_noise)
    for start, parts in zip(starts, found, strict=True):
        for j, part in enumerate(parts):
            a, b = start + 2.5 * j / n_parts, start + 2.5 * (j + 1) / n_parts
            total, weight = np.zeros(24), 0.0
            for chunk, frames in zip(chunks, course, strict=True):
                width = (chunk.stop - chunk.start) / len(frames)
                for k, frame in enumerate(frames):
                    low, high = chunk.start + k * width, chunk.start + (k + 1) * width
                    overlap = max(0.0, min(b, high) - max(a, low))
                    total, weight = total + overlap * frame, weight + overlap
            assert weight == pytest.approx(b - a)
            np.testing.assert_allclose(part, total / weight, atol=2e-5)


def test_the_limit_of_the_120_hz_interpolation(tiny_model: Path) -> None:
    """The paper interpolates to 120 Hz and averages; finer interpolation must converge to ours."""
    config = settings(name="wav2vec2", model=str(tiny_model), layer=2, chunk=6.0)
    model = load_speech_model(config)
    interval, starts = Interval(0.0, 18.0), np.arange(0, 16, 1.7)
    found = window_features(read_noise, interval, starts, 1.5, model, config)
    course = full_course(model, cut_chunks(interval, 6.0, RATE), read_noise)
    errors = []
    for rate in (120, 1200, 12000):
        fine = np.concatenate(
            [
                torch.nn.functional.interpolate(torch.from_numpy(frames.T)[None], 6 * rate)[0].T
                for frames in course
            ]
        )
        first = np.round(starts * rate).astype(int)
        expected = np.stack([fine[i : i + round(1.5 * rate)].mean(axis=0) for i in first])
        errors.append(np.abs(found - expected).max() / found.std())
    assert errors[0] > 3 * errors[1] > 9 * errors[2]
    assert errors[2] < 1e-3


def test_the_mean_of_the_frames_is_the_mean() -> None:
    """Both poolings describe the same course."""
    arguments = (read_noise, Interval(0, 40), np.array([0.3, 29.0, 36.9]), 3.0, Averages())
    frames = window_features(*arguments, settings(pooling="frames"))
    mean = window_features(*arguments, settings(pooling="mean"))
    np.testing.assert_allclose(frames.mean(axis=1), mean, atol=1e-6)


@pytest.mark.parametrize("family", ["mel", "wav2vec2"])
def test_sound_outside_the_interval_has_no_influence(tiny_model: Path, family: str) -> None:
    """Test audio next to a training block must not change one bit of the training targets."""
    interval, starts = Interval(10.0, 47.0), np.arange(10, 44.1, 3)
    config = settings(name=family, model=str(tiny_model), layer=2)
    model = load_speech_model(config)

    def read_changed(start: float, stop: float) -> np.ndarray:
        assert start >= interval.start
        assert stop <= interval.stop
        time = start + np.arange(round((stop - start) * RATE)) / RATE
        outside = (time < interval.start) | (time >= interval.stop)
        return np.where(outside, 5.0, read_noise(start, stop)).astype(np.float32)

    first = window_features(read_noise, interval, starts, 3.0, model, config)
    second = window_features(read_changed, interval, starts, 3.0, model, config)
    assert np.array_equal(first, second)
    assert first.std() > 0


def test_the_batch_size_does_not_change_features(tiny_model: Path) -> None:
    """Group norm over time would see padding; chunks of other lengths must not be padded."""
    interval, starts = Interval(0, 21.3), np.arange(0, 18, 2.0)
    arrays = []
    for batch_size in (1, 2, 8):
        config = settings(
            name="wav2vec2", model=str(tiny_model), layer=2, chunk=5.0, batch_size=batch_size
        )
        model = load_speech_model(config)
        arrays.append(window_features(read_noise, interval, starts, 3.0, model, config))
    np.testing.assert_allclose(arrays[1], arrays[0], atol=1e-5)
    np.testing.assert_allclose(arrays[2], arrays[0], atol=1e-5)


def test_only_sound_that_is_needed_is_read_a_batch_at_a_time() -> None:
    """Memory and time are bounded by the batch, not by a week of recordings."""
    asked: list[tuple[float, float]] = []

    def read(start: float, stop: float) -> np.ndarray:
        asked.append((start, stop))
        return np.zeros(round((stop - start) * RATE), np.float32)

    model = Averages()
    window_features(read, Interval(0, 3600), np.array([5.0, 1805.0]), 3.0, model, settings())
    assert asked == [(0.0, 30.0), (1800.0, 1830.0)]
    assert model.batches == [(2, 480000)]


def test_an_hour_takes_less_than_60_mb() -> None:
    """The promise about disk space, for the mean of the default model's 1,024 dimensions."""

    class Wide(Averages):
        dimension = 1024

        def embed(self, waves: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(waves), 1499, 1024)

    silence = lambda start, stop: np.zeros(round((stop - start) * RATE), np.float32)  # noqa: E731
    starts = np.arange(1200) * 3.0
    found = window_features(silence, Interval(0, 3600), starts, 3.0, Wide(), settings())
    assert found.shape == (1200, 1024)
    assert found.nbytes < 60e6


def test_progress_goes_to_one() -> None:
    """A bar that stops early looks like a crash."""
    seen: list[float] = []
    window_features(
        read_noise, Interval(0, 100), np.arange(0, 97, 3.0), 3.0, Averages(),
        settings(chunk=10.0, batch_size=3), seen.append,
    )  # fmt: skip
    assert seen == sorted(seen)
    assert len(seen) == 4
    assert seen[-1] == 1.0


def test_no_windows_give_an_empty_array() -> None:
    """A block may have no window left after gating."""
    none = np.array([])
    assert window_features(read_noise, Interval(0, 9), none, 3.0, Averages(), settings()).shape == (
        0,
        2,
    )
    assert voiced_fraction(read_noise, none, 3.0).shape == (0,)


def test_windows_beyond_the_interval_are_refused() -> None:
    """A window half outside would get the mean of the half inside, silently."""
    for start in (-0.1, 7.1):
        with pytest.raises(DataError, match="beyond the sound"):
            window_features(
                read_noise, Interval(0, 10), np.array([start]), 3.0, Averages(), settings()
            )


def test_sound_that_ends_early_or_has_nan_is_bad_data() -> None:
    """Padding the rest with zeros would give targets for sound that nobody heard."""
    arguments = (Interval(0, 10), np.array([0.0]), 3.0, Averages(), settings())
    with pytest.raises(DataError, match="shorter than the events"):
        window_features(lambda a, b: read_noise(a, b)[:-500], *arguments)
    with pytest.raises(DataError, match="NaN"):
        window_features(lambda a, b: read_noise(a, b) * np.nan, *arguments)
    window_features(lambda a, b: read_noise(a, b)[:-3], *arguments)  # rounding of rates


def test_features_that_are_not_finite_are_refused() -> None:
    """NaN must not become a target, for instance from an overflow in half precision."""

    class Broken(Averages):
        def embed(self, waves: torch.Tensor) -> torch.Tensor:
            return super().embed(waves) * torch.inf

    with pytest.raises(DataError, match="half_precision = false"):
        window_features(
            read_noise,
            Interval(0, 10),
            np.array([0.0]),
            3.0,
            Broken(),
            settings(half_precision=True),
        )


@given(
    start=st.floats(0, 1e5),
    duration=st.floats(1.0, 500.0),
    seconds=st.sampled_from([1.0, 7.5, 30.0]),
)
def test_chunks_fill_the_interval(start: float, duration: float, seconds: float) -> None:
    """No gap, no overlap, nothing beyond, none longer than asked, no scrap at the end."""
    interval = Interval(start, start + duration)
    chunks = cut_chunks(interval, seconds, RATE)
    assert chunks[0].start == interval.start
    assert chunks[-1].stop == interval.stop
    for a, b in itertools.pairwise(chunks):
        assert a.stop == b.start
    for chunk in chunks:
        length = chunk.stop - chunk.start
        assert chunk.n_samples == pytest.approx(length * RATE, abs=1.01)
        assert chunk.n_samples <= seconds * RATE
        assert chunk.n_samples >= min(seconds / 2, interval.duration) * RATE - 2


def test_chunks_shorter_than_a_second_are_a_usage_error() -> None:
    """A chunk below 25 ms has no frame at all."""
    with pytest.raises(UsageError, match="1 s"):
        cut_chunks(Interval(0, 10), 0.02, RATE)


def test_voiced_fraction_of_planted_speech_like_sound() -> None:
    """Each window gets its own share, also across the blocks in which sound is read."""
    time = np.arange(200 * RATE) / RATE
    sound = 1e-3 * np.random.default_rng(0).standard_normal(len(time)).astype(np.float32)
    harmonic = 0.1 * np.sign(np.sin(2 * np.pi * 150 * time))
    for start, stop in ((10.0, 13.0), (20.0, 21.5), (119.0, 122.0)):
        sound += np.where((time >= start) & (time < stop), harmonic, 0).astype(np.float32)

    def read(start: float, stop: float) -> np.ndarray:
        assert start >= 1.0
        assert stop <= 190.0 + 1e-9
        return sound[round(start * RATE) : round(stop * RATE)]

    starts = np.array([120.5, 1.0, 10.0, 11.5, 20.0, 187.0])
    found = voiced_fraction(read, starts, 3.0)
    np.testing.assert_allclose(found, [0.5, 0.0, 1.0, 0.5, 0.5, 0.0], atol=0.03)
    assert found.dtype == np.float32


@pytest.mark.skipif(not WHISPER.is_dir(), reason="whisper-tiny.en is not beside the repository")
def test_real_speech_through_a_real_model(tmp_path: Path) -> None:
    """Features of a real model tell the windows apart, and a copy of the sound gives the same."""
    files = sorted((SHARED / "data" / "speech").rglob("*.flac"))[:3]
    if not files:
        pytest.skip("real speech is not beside the repository")
    story = np.concatenate([soundfile.read(f, dtype="float32")[0] for f in files])[: 24 * RATE]
    soundfile.write(tmp_path / "story.wav", np.concatenate([story, story]), RATE, subtype="FLOAT")
    config = settings(name="whisper", model=str(WHISPER), layer=3)
    model = load_speech_model(config)
    read = partial(read_audio, tmp_path / "story.wav")
    starts = np.arange(8) * 3.0
    first = window_features(read, Interval(0, 24), starts, 3.0, model, config)
    again = window_features(read, Interval(24, 48), starts + 24, 3.0, model, config)
    assert first.shape == (8, 384)
    np.testing.assert_allclose(again, first, atol=1e-4)
    centred = first - first.mean(axis=0)
    similarity = np.corrcoef(centred)
    assert (similarity - np.eye(8)).max() < 0.9
