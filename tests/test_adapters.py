"""An adapter's folder stands for its model wherever a model does, and gives what peft gives."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import peft
import pytest
import torch
import transformers
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from tiny_models import FAMILIES, save_tiny_model

from bids_speechdecode.audio.adapters import find_model_files
from bids_speechdecode.audio.speech_models import load_speech_model, model_fingerprint
from bids_speechdecode.config import TargetConfig
from bids_speechdecode.errors import DataError, MissingInputError, UsageError

N_LAYERS = 3
QKV = ["q_proj", "k_proj", "v_proj"]


def adapted(model: torch.nn.Module, **changes: object) -> peft.PeftModel:
    """Return the model with random adapters, none of them zero."""
    settings = {"r": 4, "lora_alpha": 6.0, "target_modules": QKV, "lora_dropout": 0.1}
    model = peft.get_peft_model(model, peft.LoraConfig(**{**settings, **changes}))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.copy_(0.2 * torch.randn(weight.shape, generator=generator))
    return model.eval()


def save_adapter(folder: Path, base: Path, family: str, **changes: object) -> peft.PeftModel:
    """Save random adapters for a base with peft itself, and return the adapted model."""
    whole = transformers.AutoModel.from_pretrained(base)
    model = adapted(whole.encoder if family == "whisper" else whole, **changes)
    model.peft_config["default"].base_model_name_or_path = str(base)
    model.save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bases")
    return {
        family: save_tiny_model(root / family, family, n_layers=N_LAYERS) for family in FAMILIES
    }


def target(family: str, folder: Path | str, layer: int = N_LAYERS) -> TargetConfig:
    return TargetConfig(name=family, model=str(folder), layer=layer)  # type: ignore[arg-type]


def waves(n: int = 2) -> torch.Tensor:
    return 0.1 * torch.randn(n, 16000, generator=torch.Generator().manual_seed(0))


def rewrite(folder: Path, **changes: object) -> None:
    """Change the adapter's settings; None removes one."""
    path = folder / "adapter_config.json"
    settings = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in settings.items() if v is not None}))


@pytest.fixture
def wavlm(bases: dict[str, Path], tmp_path: Path) -> Path:
    """Return an adapter of the tiny WavLM."""
    save_adapter(tmp_path / "adapter", bases["wavlm"], "wavlm")
    return tmp_path / "adapter"


VARIANTS = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "patterns": {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {r"layers.1.*k_proj": 20}},
    "more modules": {"target_modules": [*QKV, "out_proj"]},
}


@pytest.mark.parametrize("family", ["wav2vec2", "hubert", "whisper"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_an_adapted_model_equals_that_of_peft(
    bases: dict[str, Path], tmp_path: Path, family: str, variant: str
) -> None:
    """The library itself, with the adapters beside the weights, is the oracle of every scale."""
    model = save_adapter(tmp_path, bases[family], family, **VARIANTS[variant])
    extractor = transformers.AutoFeatureExtractor.from_pretrained(bases[family])
    inputs = extractor(list(waves().numpy()), sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        states = model(inputs[extractor.model_input_names[0]], output_hidden_states=True)
    for layer in (1, N_LAYERS):
        found = load_speech_model(target(family, tmp_path, layer)).embed(waves())
        expected = states.hidden_states[layer][:, : found.shape[1]]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        plain = load_speech_model(target(family, bases[family], layer)).embed(waves())
        assert (found - plain).abs().mean() > 0.01


def test_the_attention_of_wavlm_is_really_adapted(bases: dict[str, Path], wavlm: Path) -> None:
    """It reads q_proj.weight past the adapters, so the oracle is peft's merged model."""
    whole = transformers.AutoModel.from_pretrained(bases["wavlm"])
    merged = peft.PeftModel.from_pretrained(whole, wavlm).merge_and_unload().eval()
    sound = (waves() - waves().mean(1, keepdim=True)) / waves().std(1, correction=0, keepdim=True)
    with torch.no_grad():
        states = merged(sound, output_hidden_states=True).hidden_states
    for layer in range(N_LAYERS + 1):
        found = load_speech_model(target("wavlm", wavlm, layer)).embed(waves())
        torch.testing.assert_close(found, states[layer], rtol=1e-4, atol=1e-4)
    plain = load_speech_model(target("wavlm", bases["wavlm"])).embed(waves())
    assert (found - plain).abs().mean() > 0.05


def test_adapters_of_a_model_with_a_head_fit_its_encoder(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    """Others tune a recogniser: names begin with wav2vec2., or hold Whisper's decoder as well."""
    for family, kind in (
        ("wav2vec2", transformers.Wav2Vec2ForCTC),
        ("whisper", transformers.WhisperForConditionalGeneration),
    ):
        model = adapted(kind.from_pretrained(bases[family]))
        model.peft_config["default"].base_model_name_or_path = str(bases[family])
        model.save_pretrained(tmp_path / family)
        merged = model.merge_and_unload()
        inner = merged.wav2vec2 if family == "wav2vec2" else merged.model
        inner.save_pretrained(tmp_path / f"{family}-merged")
        shutil.copy(bases[family] / "preprocessor_config.json", tmp_path / f"{family}-merged")
        expected = load_speech_model(target(family, tmp_path / f"{family}-merged")).embed(waves())
        found = load_speech_model(target(family, tmp_path / family)).embed(waves())
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_the_base_is_found_by_folder_relative_path_and_name(
    bases: dict[str, Path], wavlm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Derivatives are moved between machines together with their base, or use the hub's cache."""
    expected = load_speech_model(target("wavlm", wavlm)).embed(waves())
    shutil.copytree(bases["wavlm"], wavlm.parent / "base")
    cache = wavlm.parent / "cache" / "models--some--model" / "snapshots" / "abc"
    shutil.copytree(bases["wavlm"], cache)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(wavlm.parent / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for name in ("../base", "some/model", str(wavlm.parent / "base")):
        rewrite(wavlm, base_model_name_or_path=name)
        assert torch.equal(load_speech_model(target("wavlm", wavlm)).embed(waves()), expected)


def test_an_adapter_may_continue_another(bases: dict[str, Path], wavlm: Path) -> None:
    """A tuned model is a model: tuning it further adds both changes, of any order of folders."""
    second = wavlm.parent / "second"
    save_adapter(second, bases["wavlm"], "wavlm", lora_alpha=2.0)
    rewrite(second, base_model_name_or_path="../adapter")
    files = find_model_files(str(second))
    assert [a.resolve() for a in files.adapters] == [wavlm, second]
    found = load_speech_model(target("wavlm", second)).module.encoder.layers[0]
    base = load_speech_model(target("wavlm", bases["wavlm"])).module.encoder.layers[0]
    weights = load_file(wavlm / "adapter_model.safetensors")
    key = "base_model.model.encoder.layers.0.attention.q_proj.lora_{}.weight"
    change = weights[key.format("B")] @ weights[key.format("A")]
    expected = base.attention.q_proj.weight + (6 / 4 + 2 / 4) * change
    torch.testing.assert_close(found.attention.q_proj.weight, expected)
    rewrite(wavlm, base_model_name_or_path=str(second))
    with pytest.raises(DataError, match="own base"):
        find_model_files(str(second))


def test_the_fingerprint_covers_both(bases: dict[str, Path], wavlm: Path) -> None:
    """Features are computed again when base or adapter change, not when they are moved."""
    prints = {"base": model_fingerprint(target("wavlm", bases["wavlm"]))}
    prints["adapter"] = model_fingerprint(target("wavlm", wavlm))
    shutil.copytree(bases["wavlm"], wavlm / "base")
    rewrite(wavlm, base_model_name_or_path="base")
    assert model_fingerprint(target("wavlm", wavlm)) == prints["adapter"]
    rewrite(wavlm, lora_alpha=7.0)
    prints["scale"] = model_fingerprint(target("wavlm", wavlm))
    path = wavlm / "adapter_model.safetensors"
    weights = load_file(path)
    weights[min(weights)][0, 0] += 1
    save_file(weights, path)
    prints["weights"] = model_fingerprint(target("wavlm", wavlm))
    config = json.loads((wavlm / "base" / "config.json").read_text())
    (wavlm / "base" / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 0.1}))
    prints["another base"] = model_fingerprint(target("wavlm", wavlm))
    assert len(set(prints.values())) == len(prints)


def test_what_is_missing_is_named(
    bases: dict[str, Path], wavlm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base, its name, the weights, or safe ones: each its own message and exit code."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(wavlm / "empty"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for name in ("some/model", "../nowhere"):
        rewrite(wavlm, base_model_name_or_path=name)
        with pytest.raises(MissingInputError, match=rf"{name}(.|\n)*adapter_config\.json"):
            load_speech_model(target("wavlm", wavlm))
    rewrite(wavlm, base_model_name_or_path=None)
    with pytest.raises(DataError, match="which model it belongs to"):
        load_speech_model(target("wavlm", wavlm))
    rewrite(wavlm, base_model_name_or_path=str(bases["wavlm"]))
    path = wavlm / "adapter_model.safetensors"
    torch.save(load_file(path), wavlm / "adapter_model.bin")
    path.unlink()
    with pytest.raises(DataError, match="pickled"):
        load_speech_model(target("wavlm", wavlm))
    (wavlm / "adapter_model.bin").unlink()
    with pytest.raises(MissingInputError, match=r"adapter_model\.safetensors"):
        load_speech_model(target("wavlm", wavlm))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"r": None}, r"how its weights are scaled(.|\n)*r: null"),
        ({"r": 0}, "r: a number above 0"),
        ({"lora_alpha": "4"}, "lora_alpha"),
        ({"r": 8}, r"does not fit(.|\n)*\(8, 24\)(.|\n)*\(4, 24\)"),
        ({"use_dora": True}, "use_dora"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"peft_type": "IA3"}, "IA3"),
    ],
)
def test_settings_that_do_not_fit_are_bad_data(wavlm: Path, changes: dict, message: str) -> None:
    """A wrong scale or another arithmetic would give a plausible model that was never tuned."""
    rewrite(wavlm, **changes)
    with pytest.raises(DataError, match=message):
        load_speech_model(target("wavlm", wavlm))


def test_weights_that_do_not_fit_are_bad_data(bases: dict[str, Path], wavlm: Path) -> None:
    """Adapters of another model, of unknown kind, not finite, or cut off by a full disk."""
    path = wavlm / "adapter_model.safetensors"
    weights, content = load_file(path), path.read_bytes()
    first = min(weights)
    renamed = {k.replace("q_proj", "query"): v for k, v in weights.items()}
    save_file(renamed, path)
    with pytest.raises(DataError, match=r"does not have(.|\n)*q_proj(.|\n)*query"):
        load_speech_model(target("wavlm", wavlm))
    save_file({k.replace("layers.2", "layers.7"): v for k, v in weights.items()}, path)
    with pytest.raises(DataError, match=r"layers\.7"):
        load_speech_model(target("wavlm", wavlm, 1))
    save_file({**weights, "base_model.model.lm_head.weight": torch.zeros(2)}, path)
    with pytest.raises(DataError, match="lm_head"):
        load_speech_model(target("wavlm", wavlm))
    save_file({k: v for k, v in weights.items() if k != first}, path)
    with pytest.raises(DataError, match="pairs"):
        load_speech_model(target("wavlm", wavlm))
    save_file({**weights, first: torch.full_like(weights[first], float("nan"))}, path)
    with pytest.raises(DataError, match="NaN"):
        load_speech_model(target("wavlm", wavlm))
    path.write_bytes(content[:-50])
    with pytest.raises(DataError, match="cannot be read"):
        load_speech_model(target("wavlm", wavlm))
    path.write_bytes(content)
    (wavlm / "adapter_config.json").write_text("{")
    with pytest.raises(DataError, match="JSON"):
        load_speech_model(target("wavlm", wavlm))


def test_the_family_is_that_of_the_base(wavlm: Path) -> None:
    """The target's family is checked for adapters as it is for models."""
    with pytest.raises(UsageError, match="--target wavlm"):
        load_speech_model(target("hubert", wavlm))
