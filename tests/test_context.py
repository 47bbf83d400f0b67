"""Features at each sample are those of the window that ends there, and of nothing later."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import transformers
from tiny_models import save_tiny_model

from bids_speechdecode.audio.context import Token, context_features, window_scale
from bids_speechdecode.audio.speech_models import LayeredModel, load_speech_model
from bids_speechdecode.audio.waveform import read_audio
from bids_speechdecode.config import TargetConfig
from bids_speechdecode.errors import DataError, UsageError
from bids_speechdecode.timeline import Interval

SHARED = Path(__file__).resolve().parents[2] / "shared"
WHISPER = SHARED / "models" / "whisper-tiny.en"
RATE = 16000
KINDS = [
    (family, norm, normalise)
    for family in ("wav2vec2", "hubert", "wavlm")
    for norm, normalise in (("layer", False), ("layer", True), ("group", True))
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, bool], Path]:
    root = tmp_path_factory.mktemp("models")
    return {
        (family, norm, normalise): save_tiny_model(
            root / f"{family}-{norm}-{normalise}", family, norm=norm, normalise=normalise
        )
        for family, norm, normalise in KINDS
    }


def load(folders: dict, kind: tuple[str, str, bool], layers: tuple[int, ...]) -> LayeredModel:
    settings = TargetConfig(name=kind[0], model=str(folders[kind]))  # type: ignore[arg-type]
    return load_speech_model(settings, layers=layers)


def make_sound(seconds: float, seed: int = 0) -> np.ndarray:
    """Return noise whose loudness changes by the syllable."""
    rng = np.random.default_rng(seed)
    n = round(seconds * RATE)
    loudness = np.repeat(rng.uniform(0.02, 0.3, n // 1600 + 1), 1600)[:n]
    return (loudness * rng.standard_normal(n) + 0.01).astype(np.float32)


def read_from(wave: np.ndarray, start: float, stop: float) -> np.ndarray:
    return wave[round(start * RATE) : round(stop * RATE)]


def features(
    wave: np.ndarray,
    model: LayeredModel,
    interval: Interval,
    *,
    context: float = 1.0,
    token: Token = "last",
    rate: float = 20.0,
    batch_size: int = 5,
) -> np.ndarray:
    return context_features(
        partial(read_from, wave),
        interval,
        rate,
        model,
        context=context,
        token=token,
        batch_size=batch_size,
    )


def stock_features(
    wave: np.ndarray,
    folder: Path,
    layers: tuple[int, ...],
    ends: list[float],
    context: float,
    rounded: bool = False,
) -> np.ndarray:
    """Return the last frame of each window through the stock model, one window at a time."""
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    found = []
    for end in ends:
        window = wave[round(max(0.0, end - context) * RATE) : round(end * RATE)]
        values = extractor(window, sampling_rate=RATE, return_tensors="pt").input_values
        if rounded:  # the scale that is documented, in place of the extractor's
            mean, deviation = window.mean(dtype=float), np.sqrt(window.var(dtype=float) + 1e-7)
            gain = 10 ** (round(2 * 20 * np.log10(1 / deviation)) / 2 / 20)
            offset = round(20 * mean * gain) / 20
            values = torch.from_numpy(window * gain - offset).float()[None]
        with torch.no_grad():
            states = model(values, output_hidden_states=True).hidden_states
        found.append(np.stack([states[layer][0, -1].numpy() for layer in layers]))
    return np.stack(found)


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_stock_model_on_each_window(folders: dict, kind: tuple) -> None:
    """Shared convolutions, batches and blocks must not show; a scale is the documented one."""
    wave, layers = make_sound(5.0), (2, 0)
    model = load(folders, kind, layers)
    found = features(wave, model, Interval(0, 5))
    assert found.shape == (100, 2, 24)
    assert found.dtype == np.float32
    picks = [3, 7, 19, 20, 21, 40, 63, 64, 65, 99]
    rounded = kind[1:] == ("layer", True)
    ends = [k / 20 for k in picks]
    expected = stock_features(wave, folders[kind], layers, ends, 1.0, rounded)
    np.testing.assert_allclose(found[picks], expected, rtol=1e-4, atol=5e-5)


def test_the_rounded_scale_is_near_the_exact_one() -> None:
    """Half a step of 0.5 dB is 2.9%; silence and a large offset must not break it."""
    rng = np.random.default_rng(2)
    for deviation, mean in ((0.01, 0.0), (0.1, 0.03), (0.7, -2.0)):
        sound = (mean + deviation * rng.standard_normal(8000)).astype(np.float32)
        scale = window_scale(sound)
        scaled = sound * scale.gain - scale.offset
        assert abs(np.log(scaled.std())) < 0.0295
        assert abs(scaled.mean()) < 0.0251
    assert np.isfinite(window_scale(np.zeros(8000, np.float32))).all()


@pytest.mark.parametrize("kind", [*KINDS, None])
def test_what_follows_a_sample_changes_nothing(folders: dict, kind: tuple | None) -> None:
    """Encoding scores are worthless if features know the future; not one bit may differ."""
    wave, change = make_sound(5.0), 2.5
    other = wave.copy()
    other[round(change * RATE) :] = 5 * make_sound(2.5, seed=9) - 1
    if kind is None:
        model: LayeredModel = load_speech_model(TargetConfig(name="mel"))
    else:
        model = load(folders, kind, (1, 2))
    before, after = (features(w, model, Interval(0, 5), batch_size=7) for w in (wave, other))
    n_same = round(change * 20) + 1
    assert np.array_equal(before[:n_same], after[:n_same])
    assert not np.allclose(before[n_same:], after[n_same:])


def test_tokens(folders: dict) -> None:
    """First, last and mean of the frames of one window, against the model itself."""
    kind = ("wavlm", "layer", False)
    wave, model = make_sound(3.0), load(folders, kind, (1,))
    window = torch.from_numpy(wave[2 * RATE - RATE : 2 * RATE])[None]
    frames = model.embed(window)[0].numpy()
    expected = {"first": frames[0], "last": frames[-1], "mean": frames.mean(0)}
    for token, value in expected.items():
        found = features(wave, model, Interval(0, 3), token=token)  # type: ignore[arg-type]
        np.testing.assert_allclose(found[40, 0], value, rtol=1e-4, atol=5e-5)


def test_an_interval_is_all_there_is(folders: dict) -> None:
    """Sound before and after belongs to other folds, or to nobody; the first context is shorter."""
    asked: list[tuple[float, float]] = []
    wave = make_sound(9.0)

    def read(start: float, stop: float) -> np.ndarray:
        asked.append((start, stop))
        return read_from(wave, start, stop)

    kind, interval = ("wav2vec2", "layer", False), Interval(2.0, 5.03)
    model = load(folders, kind, (2,))
    found = context_features(read, interval, 20.0, model, context=1.0, token="last", batch_size=8)
    assert min(start for start, _ in asked) == interval.start
    assert max(stop for _, stop in asked) <= interval.stop
    assert len(found) == 61  # 3.03 s x 20 Hz = 60.6
    alone = features(wave[2 * RATE :], model, Interval(0, 3.03))
    np.testing.assert_allclose(found, alone, rtol=1e-4, atol=5e-5)
    np.testing.assert_allclose(
        found[10, 0],
        stock_features(wave[2 * RATE :], folders[kind], (2,), [0.5], 1.0)[0, 0],
        rtol=1e-4,
        atol=5e-5,
    )
    silent = np.concatenate([np.zeros(1600, np.float32)])
    expected = model.embed(torch.from_numpy(silent)[None])[0, -1]
    np.testing.assert_allclose(found[0, 0], expected, rtol=1e-4, atol=5e-5)


def test_rates_that_are_no_fraction_of_the_sound(folders: dict) -> None:
    """At 30 Hz a sample lies at 533.3 samples of sound; the windows must not drift."""
    kind, wave = ("hubert", "layer", False), make_sound(4.0)
    model = load(folders, kind, (2,))
    found = features(wave, model, Interval(0, 4), rate=30.0)
    assert len(found) == 120
    for k in (31, 100, 118):
        end = round(k / 30 * RATE)
        expected = model.embed(torch.from_numpy(wave[end - RATE : end])[None])[0, -1]
        np.testing.assert_allclose(found[k, 0], expected, rtol=1e-4, atol=5e-5)


def test_mel_is_the_mean_of_the_frames_that_end_in_the_step() -> None:
    """The acoustic baseline at the same times, from windows that end before the sample."""
    model = load_speech_model(TargetConfig(name="mel"))
    wave = make_sound(70.0)  # more than is read at once
    found = features(wave, model, Interval(0, 70))[:, 0]
    assert found.shape == (1400, 40)
    np.testing.assert_allclose(found[0], -5.0)  # nothing was heard: log10 of the floor
    for k in (1, 2, 57, 1199, 1200, 1201, 1399):
        ends = [e for e in range(0, 800 * k + 1, 128) if e > 800 * (k - 1)]
        frames = []
        for end in ends:
            window = np.pad(wave, (512, 0))[end : end + 512]
            # Centred in a longer sound, where nothing is mirrored: frame 2 sees [64, 576).
            padded = torch.from_numpy(np.pad(window, (64, 320)))[None]
            frames.append(model.embed(padded)[0, 2].numpy())
        np.testing.assert_allclose(found[k], np.mean(frames, axis=0), atol=1e-4)


def test_progress_and_blocks(folders: dict) -> None:
    """A half hour takes long: the fraction rises to 1."""
    fractions: list[float] = []
    context_features(
        partial(read_from, make_sound(8.0)),
        Interval(0, 8),
        20.0,
        load(folders, ("wav2vec2", "group", True), (1,)),
        context=0.5,
        token="mean",
        batch_size=16,
        on_progress=fractions.append,
    )
    assert fractions == sorted(fractions)
    assert len(fractions) == 3
    assert fractions[-1] == 1.0


def test_bad_input_is_named(folders: dict) -> None:
    """Too little context, too little sound, and damaged sound."""
    model = load(folders, ("wav2vec2", "layer", True), (1,))
    wave = make_sound(3.0)
    with pytest.raises(UsageError, match=r"context = 0\.05"):
        features(wave, model, Interval(0, 3), context=0.05)
    with pytest.raises(DataError, match="shorter than the events say"):
        features(wave, model, Interval(0, 4))
    with pytest.raises(DataError, match="shorter than one sample"):
        features(wave, model, Interval(0, 0.01))
    wave[20000] = np.nan
    with pytest.raises(DataError, match="NaN"):
        features(wave, model, Interval(0, 3))


def test_whisper_hears_at_most_30_seconds(tmp_path: Path) -> None:
    """It would silently drop the end of a longer window, which is the part that counts."""
    save_tiny_model(tmp_path, "whisper", n_layers=1)
    model = load_speech_model(TargetConfig(name="whisper", model=str(tmp_path), layer=1))
    with pytest.raises(UsageError, match="30 s"):
        features(make_sound(1.0), model, Interval(0, 1), context=31.0)


@pytest.mark.slow
@pytest.mark.skipif(not WHISPER.is_dir(), reason="whisper-tiny.en is not beside the repository")
def test_a_real_whisper_on_real_speech() -> None:
    """Real weights on real speech: each sample is what Whisper says at the end of its window."""
    files = sorted((SHARED / "data" / "speech").rglob("*.flac"))[:1]
    if not files:
        pytest.skip("real speech is not beside the repository")
    settings = TargetConfig(name="whisper", model=str(WHISPER), layer=4)
    found = context_features(
        partial(read_audio, files[0]),
        Interval(1.0, 3.0),
        5.0,
        load_speech_model(settings, layers=(2, 4)),
        context=1.0,
        token="last",
        batch_size=4,
    )
    wave = soundfile.read(files[0], dtype="float32")[0]
    extractor = transformers.WhisperFeatureExtractor.from_pretrained(WHISPER)
    encoder = transformers.WhisperModel.from_pretrained(WHISPER, dtype=torch.float32).encoder.eval()
    for k in (3, 8):
        end = round((1.0 + k / 5) * RATE)
        window = wave[max(RATE, end - RATE) : end]
        mel = extractor(window, sampling_rate=RATE, return_tensors="pt").input_features
        with torch.no_grad():
            states = encoder(mel, output_hidden_states=True).hidden_states
        last = round(len(window) / 320) - 1
        for i, layer in enumerate((2, 4)):
            expected = states[layer][0, last].numpy()
            np.testing.assert_allclose(found[k, i], expected, rtol=1e-3, atol=1e-3)
