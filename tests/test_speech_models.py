"""Speech models give exactly what the whole model gives at that layer, or say what is missing."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import transformers
from huggingface_hub import constants
from tiny_models import FAMILIES, save_tiny_model
from transformers import audio_utils

from bids_speechdecode.audio import model_files
from bids_speechdecode.audio.speech_models import (
    load_speech_model,
    mel_filters,
    model_fingerprint,
)
from bids_speechdecode.config import TargetConfig
from bids_speechdecode.errors import DataError, MissingInputError, TemporaryError, UsageError

SHARED = Path(__file__).resolve().parents[2] / "shared"
WHISPER = SHARED / "models" / "whisper-tiny.en"
N_LAYERS = 3

VARIANTS = [(family, norm) for family in FAMILIES[:3] for norm in ("group", "layer")]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """Tiny random models of each family in both layer-norm variants, saved once."""
    root = tmp_path_factory.mktemp("models")
    folders = {
        (family, norm): save_tiny_model(
            root / f"{family}-{norm}",
            family,
            n_layers=N_LAYERS,
            norm=norm,
            normalise=norm == "layer",
        )
        for family, norm in VARIANTS
    }
    folders["whisper", ""] = save_tiny_model(root / "whisper", "whisper", n_layers=N_LAYERS)
    return folders


def target(family: str, folder: Path | str, layer: int = 0, **changes: object) -> TargetConfig:
    return TargetConfig(name=family, model=str(folder), layer=layer, **changes)  # type: ignore[arg-type]


def random_waves(n: int, seconds: float, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(n, round(16000 * seconds), generator=generator) + 0.02


@pytest.mark.parametrize(("family", "norm"), VARIANTS)
@pytest.mark.parametrize("layer", range(N_LAYERS + 1))
def test_wave_models_equal_the_full_model_at_every_layer(
    models: dict, family: str, norm: str, layer: int
) -> None:
    """The final norm, the layers left out, and the input's normalisation are easy to get wrong."""
    folder = models[family, norm]
    waves = random_waves(2, 1.0)
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    values = extractor(list(waves.numpy()), sampling_rate=16000, return_tensors="pt").input_values
    full = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = full(values, output_hidden_states=True).hidden_states[layer]
    model = load_speech_model(target(family, folder, layer))
    found = model.embed(waves)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-5)
    assert (model.dimension, model.frame_rate, model.sampling_rate) == (24, 50.0, 16000)
    assert found.dtype == torch.float32


@pytest.mark.parametrize(("family", "norm"), [*VARIANTS, ("whisper", "")])
def test_several_layers_come_from_one_pass(models: dict, family: str, norm: str) -> None:
    """Encoding compares layers; each must be what that layer alone gives, in the order asked."""
    folder, waves, layers = models[family, norm], random_waves(2, 1.0), (3, 0, 2)
    found = load_speech_model(target(family, folder), layers=layers).hidden(waves)
    alone = [load_speech_model(target(family, folder, layer)).embed(waves) for layer in layers]
    torch.testing.assert_close(found.detach(), torch.stack(alone, dim=1), rtol=1e-5, atol=2e-5)
    with pytest.raises(UsageError, match="no such layer"):
        load_speech_model(target(family, folder), layers=(1, N_LAYERS + 1))


@pytest.mark.parametrize(("family", "norm"), [*VARIANTS, ("whisper", "")])
def test_frames_have_a_gradient(models: dict, family: str, norm: str) -> None:
    """Tuning trains through the frames, and in training nothing but dropout may be random."""
    model = load_speech_model(target(family, models[family, norm], 2))
    waves = random_waves(2, 1.0)
    frames = model.frames(waves)
    torch.testing.assert_close(frames.detach(), model.embed(waves), rtol=1e-5, atol=2e-5)
    frames.square().mean().backward()
    attention = [w for name, w in model.module.named_parameters() if "v_proj.weight" in name]
    assert len(attention) == 2
    assert all(w.grad is not None and w.grad.abs().max() > 0 for w in attention)
    for part in model.module.train().modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
        for name in ("attention_dropout", "dropout", "activation_dropout"):
            if isinstance(getattr(part, name, None), float):
                setattr(part, name, 0.0)
    torch.testing.assert_close(model.frames(waves), frames, rtol=1e-5, atol=2e-5)


def test_layers_differ(models: dict) -> None:
    """Guards the test above against models whose layers all give the same."""
    waves = random_waves(1, 1.0)
    outputs = [
        load_speech_model(target("wav2vec2", models["wav2vec2", "layer"], layer)).embed(waves)
        for layer in range(N_LAYERS + 1)
    ]
    for i in range(N_LAYERS):
        assert (outputs[i] - outputs[i + 1]).abs().mean() > 1e-2


@pytest.mark.parametrize("layer", range(N_LAYERS + 1))
def test_whisper_equals_the_full_encoder_at_every_layer(models: dict, layer: int) -> None:
    """Whisper's final norm belongs to its last layer only; padded silence is cut off again."""
    folder = models["whisper", ""]
    check_whisper(folder, layer, random_waves(2, 10.0))


def check_whisper(folder: Path, layer: int, waves: torch.Tensor) -> None:
    extractor = transformers.WhisperFeatureExtractor.from_pretrained(folder)
    mel = extractor(list(waves.numpy()), sampling_rate=16000, return_tensors="pt").input_features
    full = transformers.WhisperModel.from_pretrained(folder, dtype=torch.float32)
    encoder = full.encoder.eval()
    with torch.no_grad():
        expected = encoder(mel, output_hidden_states=True).hidden_states[layer]
    model = load_speech_model(target("whisper", folder, layer))
    found = model.embed(waves)
    n_frames = round(waves.shape[1] / 320)
    assert found.shape == (len(waves), n_frames, model.dimension)
    torch.testing.assert_close(found, expected[:, :n_frames], rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not WHISPER.is_dir(), reason="whisper-tiny.en is not beside the repository")
@pytest.mark.parametrize("layer", [0, 2, 4])
def test_a_real_whisper_on_real_speech(layer: int) -> None:
    """Real weights on real speech: what a user gets."""
    files = sorted((SHARED / "data" / "speech").rglob("*.flac"))[:2]
    if not files:
        pytest.skip("real speech is not beside the repository")
    waves = np.stack([soundfile.read(f, dtype="float32", frames=40000)[0] for f in files])
    check_whisper(WHISPER, layer, torch.from_numpy(waves))


@pytest.mark.parametrize(("family", "norm"), [*VARIANTS, ("whisper", "")])
def test_results_do_not_depend_on_the_batch(models: dict, family: str, norm: str) -> None:
    """The same sound has the same features whatever it is batched with."""
    model = load_speech_model(target(family, models[family, norm], 2))
    waves = random_waves(3, 1.0)
    waves[1] *= 50
    together = model.embed(waves)
    for i in range(3):
        torch.testing.assert_close(model.embed(waves[i : i + 1])[0], together[i], rtol=0, atol=2e-5)


def test_digital_silence_has_finite_features(models: dict) -> None:
    """Long silences are part of week-long recordings; zero variance must not divide."""
    for (family, norm), folder in models.items():
        model = load_speech_model(target(family, folder, 1))
        assert torch.isfinite(model.embed(torch.zeros(1, 16000))).all(), (family, norm)


def test_only_the_layers_that_are_used_are_loaded(models: dict) -> None:
    """Truncation is what makes a deep model affordable."""
    for (family, norm), folder in models.items():
        sizes = []
        for layer in (1, 3):
            model = load_speech_model(target(family, folder, layer))
            network: Any = model.module
            sizes.append(len(network.layers if family == "whisper" else network.encoder.layers))
        assert sizes == [1, 3], (family, norm)


def test_half_precision_is_close(models: dict) -> None:
    """Half the time on a GPU must not mean other features."""
    folder, waves = models["wav2vec2", "layer"], random_waves(1, 1.0)
    full = load_speech_model(target("wav2vec2", folder, 2)).embed(waves)
    half = load_speech_model(target("wav2vec2", folder, 2, half_precision=True)).embed(waves)
    assert half.dtype == torch.float32
    assert not torch.equal(half, full)
    assert torch.cosine_similarity(half.flatten(), full.flatten(), dim=0) > 0.999


def test_a_pretraining_checkpoint_with_an_adapter_loads(tmp_path: Path) -> None:
    """The default model is saved with its pretraining head; others carry an adapter."""
    config = transformers.Wav2Vec2Config.from_pretrained(
        save_tiny_model(tmp_path / "base", "wav2vec2", norm="layer", add_adapter=True)
    )
    config.num_codevector_groups, config.num_codevectors_per_group = 2, 4
    config.codevector_dim = config.proj_codevector_dim = 8
    whole = transformers.Wav2Vec2ForPreTraining(config).eval()
    whole.save_pretrained(tmp_path / "base")
    waves = random_waves(1, 1.0)
    values = (waves - waves.mean()) / waves.std(correction=0)
    with torch.no_grad():
        expected = whole.wav2vec2(values, output_hidden_states=True).hidden_states[2]
    found = load_speech_model(target("wav2vec2", tmp_path / "base", 2)).embed(waves)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layer", [-1, N_LAYERS + 1, 19])
def test_a_layer_beyond_the_model_is_a_usage_error(models: dict, layer: int) -> None:
    """hidden_states[-1] would silently be another layer; the message gives the range."""
    for (family, _), folder in models.items():
        with pytest.raises(UsageError, match=f"0 to {N_LAYERS}"):
            load_speech_model(target(family, folder, layer))


def test_a_model_of_another_family_is_a_usage_error(models: dict) -> None:
    """--target hubert with a WavLM folder would mislabel every result."""
    with pytest.raises(UsageError, match="--target wavlm"):
        load_speech_model(target("hubert", models["wavlm", "group"]))


def test_whisper_chunks_end_at_30_seconds(models: dict) -> None:
    """Whisper would silently drop what comes after."""
    with pytest.raises(UsageError, match="30 s"):
        load_speech_model(target("whisper", models["whisper", ""], 1, chunk=40.0))


def test_pickled_weights_are_refused_with_the_command_that_converts(tmp_path: Path) -> None:
    """A pickle may run any code; the command in the message must really work."""
    folder = save_tiny_model(tmp_path / "model", "wav2vec2", norm="layer")
    expected = load_speech_model(target("wav2vec2", folder, 1)).embed(random_waves(1, 0.5))
    weights = transformers.AutoModel.from_pretrained(folder).state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(DataError, match="pickled") as error:
        load_speech_model(target("wav2vec2", folder, 1))
    code = str(error.value).split('python -c "')[1].split('"\n')[0]
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    found = load_speech_model(target("wav2vec2", folder, 1)).embed(random_waves(1, 0.5))
    assert torch.equal(found, expected)


def test_a_folder_without_a_model_is_a_missing_input(tmp_path: Path, models: dict) -> None:
    """Each missing part is named: the folder, its settings, its weights, how to scale the input."""
    with pytest.raises(MissingInputError, match="nowhere"):
        load_speech_model(target("wav2vec2", tmp_path / "nowhere"))
    with pytest.raises(MissingInputError, match=r"no config\.json"):
        load_speech_model(target("wav2vec2", tmp_path))
    source = models["wav2vec2", "group"]
    (tmp_path / "config.json").write_text((source / "config.json").read_text())
    with pytest.raises(MissingInputError, match="no weights"):
        load_speech_model(target("wav2vec2", tmp_path))
    (tmp_path / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes())
    with pytest.raises(MissingInputError, match=r"preprocessor_config\.json"):
        load_speech_model(target("wav2vec2", tmp_path))


def test_damaged_weights_are_bad_data(tmp_path: Path) -> None:
    """A truncated download, and weights that do not fit, must not become random features."""
    folder = save_tiny_model(tmp_path / "model", "wav2vec2", normalise=False)
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-5000])
    with pytest.raises(DataError, match="cannot be loaded"):
        load_speech_model(target("wav2vec2", folder, 1))
    weights.write_bytes(content)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 9}))
    with pytest.raises(DataError, match=r"missing(.|\n)*encoder\.layers"):
        load_speech_model(target("wav2vec2", folder, 7))
    (folder / "config.json").write_text("{")
    with pytest.raises(DataError, match="cannot be loaded"):
        load_speech_model(target("wav2vec2", folder, 1))


def test_offline_without_weights_names_the_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compute nodes have no network: exit 66, how to fetch, how to do without; nothing is tried."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(model_files, "_fetch", lambda *_: pytest.fail("the network was tried"))
    with pytest.raises(MissingInputError) as error:
        load_speech_model(TargetConfig())
    message = str(error.value)
    assert error.value.exit_code == 66
    assert (
        "hf download facebook/wav2vec2-large-xlsr-53 --local-dir wav2vec2-large-xlsr-53" in message
    )
    assert "--speech-model wav2vec2-large-xlsr-53" in message
    assert "--target mel" in message


def test_a_network_that_swallows_packets_does_not_hang(tmp_path: Path) -> None:
    """A firewall that drops packets is common on clusters; the answer must come in seconds."""
    with socket.socket() as server:  # accepts connections and never answers
        server.bind(("127.0.0.1", 0))
        server.listen()
        environment = {
            **os.environ,
            "HF_ENDPOINT": f"http://127.0.0.1:{server.getsockname()[1]}",
            "HF_HOME": str(tmp_path),
        }
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE"):
            environment.pop(name, None)
        code = (
            "from bids_speechdecode.audio.model_files import find_model\n"
            "from bids_speechdecode.errors import MissingInputError\n"
            "try: find_model('facebook/wav2vec2-large-xlsr-53')\n"
            "except MissingInputError as error: print(error)"
        )
        begin = time.monotonic()
        run = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert "does not answer" in run.stdout, run.stderr
        assert "hf download" in run.stdout
        assert time.monotonic() - begin < 25


class FakeHub:
    """The three questions that are asked of the hub."""

    def __init__(self, main: list[str], requests: dict[int, list[str]]) -> None:
        self.main, self.requests = main, requests

    def model_info(self, name: str, timeout: float) -> object:
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=file) for file in self.main])

    def get_repo_discussions(self, name: str, author: str, discussion_type: str) -> list[object]:
        assert (author, discussion_type) == ("SFconvertbot", "pull_request")
        return [SimpleNamespace(num=number) for number in self.requests]

    def list_repo_files(self, name: str, revision: str) -> list[str]:
        return self.requests[int(revision.removeprefix("refs/pr/"))]


def test_where_the_hub_keeps_the_safetensors() -> None:
    """Old models have them only in a pull request of a conversion service, or not at all."""
    safe, pickled = ["config.json", "model.safetensors"], ["config.json", "pytorch_model.bin"]
    find = model_files._safe_revision
    assert find(FakeHub(safe, {}), "a/b") is None  # type: ignore[arg-type]
    assert find(FakeHub(pickled, {3: ["README.md"], 5: safe}), "a/b") == "refs/pr/5"  # type: ignore[arg-type]
    with pytest.raises(MissingInputError, match=r"pytorch_model\.bin(.|\n)*hf download a/b"):
        find(FakeHub(pickled, {}), "a/b")  # type: ignore[arg-type]


def test_a_download_that_breaks_off_is_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 75 lets a cluster queue the job again."""

    def break_off(*args: object, **options: object) -> str:
        raise OSError("connection reset")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(model_files, "_safe_revision", lambda api, name: None)
    monkeypatch.setattr(model_files, "snapshot_download", break_off)
    with pytest.raises(TemporaryError, match="connection reset"):
        model_files.find_model("a/b")


def test_a_cached_model_needs_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models: dict
) -> None:
    """Fetched once on the login node, used offline, whichever revision it came from."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    snapshots = tmp_path / "models--some--model" / "snapshots"
    (snapshots / "incomplete").mkdir(parents=True)
    (snapshots / "incomplete" / "config.json").write_text("{}")
    (snapshots / "abc").symlink_to(models["wav2vec2", "layer"])
    assert load_speech_model(target("wav2vec2", "some/model", 1)).dimension == 24


def test_the_fingerprint_follows_the_weights_not_their_place(tmp_path: Path) -> None:
    """Targets are computed again when the model changes, and only then."""
    a = save_tiny_model(tmp_path / "a", "wav2vec2", normalise=False)
    b = Path(shutil.copytree(a, tmp_path / "b", copy_function=shutil.copyfile))
    assert model_fingerprint(target("wav2vec2", a)) == model_fingerprint(target("wav2vec2", b))
    weights = bytearray((b / "model.safetensors").read_bytes())
    weights[-100] ^= 1
    (b / "model.safetensors").write_bytes(weights)
    assert model_fingerprint(target("wav2vec2", a)) != model_fingerprint(target("wav2vec2", b))
    assert model_fingerprint(TargetConfig(name="mel")).startswith("mel")


def test_mel_filters_equal_those_of_transformers() -> None:
    """An independent implementation of the same triangles."""
    expected = audio_utils.mel_filter_bank(257, 40, 0.0, 8000.0, 16000, mel_scale="htk").T
    np.testing.assert_allclose(mel_filters(40, 512, 16000), expected, atol=1e-9)


def test_mel_spectrogram_equals_that_of_transformers() -> None:
    """Window, hop, scale, centring and offset, against an independent implementation."""
    waves = random_waves(2, 3.0)
    found = load_speech_model(TargetConfig(name="mel")).embed(waves)
    assert found.shape == (2, 375, 40)
    window = audio_utils.window_function(512, "hann", periodic=True)
    filters = audio_utils.mel_filter_bank(257, 40, 0.0, 8000.0, 16000, mel_scale="htk")
    for wave, frames in zip(waves.double().numpy(), found, strict=True):
        padded = np.pad(wave, 192, mode="reflect")  # (window - hop) / 2 on each side
        power = audio_utils.spectrogram(padded, window, 512, 128, power=2.0, center=False)
        expected = np.log10(filters.T @ power / np.sum(window**2) + 1e-5).T
        np.testing.assert_allclose(frames, expected, atol=1e-4)


def test_mel_frames_stand_where_the_sound_is() -> None:
    """A click in the middle of frame 100's hop must be strongest in frame 100."""
    wave = torch.zeros(1, 16000)
    wave[0, 100 * 128 + 64] = 1.0
    frames = load_speech_model(TargetConfig(name="mel")).embed(wave)[0].mean(dim=1)
    assert int(frames.argmax()) == 100
    torch.testing.assert_close(frames[95:100], frames[101:106].flip(0), rtol=0, atol=1e-4)
