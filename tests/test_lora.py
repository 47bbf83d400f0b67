"""Adapters act on every family, start as nothing, get gradient, and are peft's on disk."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import peft
import pytest
import torch
import transformers
from tiny_models import FAMILIES, make_tiny_model, save_tiny_model
from torch import nn

from bids_speechdecode.audio.speech_models import load_speech_model
from bids_speechdecode.config import TargetConfig
from bids_speechdecode.encoding.lora import AttachedLora, find_projections, save_adapters
from bids_speechdecode.errors import UsageError

N_LAYERS = 2


def make_whole(family: str) -> nn.Module:
    """Return a tiny model; the encoder of Whisper hears 1 s, in 8 bands."""
    short = {"max_source_positions": 50, "num_mel_bins": 8} if family == "whisper" else {}
    return make_tiny_model(family, spread=0.0, seed=3, **short)


def encoder_of(whole: nn.Module) -> nn.Module:
    """Return what is tuned of it, as the speech models of the project hold it."""
    return whole.encoder if isinstance(whole, transformers.WhisperModel) else whole


def make_input(family: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    shape = (2, 8, 100) if family == "whisper" else (2, 4000)
    return torch.randn(shape, generator=generator)


def attach(module: nn.Module, dropout: float = 0.0) -> AttachedLora:
    return AttachedLora(module, 4, 8.0, dropout, torch.Generator().manual_seed(5))


def fill(lora: AttachedLora) -> None:
    """Move every adapter off zero."""
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for parameter in lora.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_adapter_gets_gradient(family: str) -> None:
    """The attention of WavLM goes around wrapped layers: tuning would silently do nothing."""
    module, sound = encoder_of(make_whole(family)), make_input(family)
    with attach(module, dropout=0.1) as lora:
        assert len(lora.parts) == 3 * N_LAYERS
        lora.draw_dropout()
        optimizer = torch.optim.SGD(lora.parameters(), lr=1.0)
        for trained in ("lora_B", "lora_A"):  # A waits for B to leave zero
            optimizer.zero_grad()
            module(sound).last_hidden_state.square().mean().backward()
            for path, part in lora.parts.items():
                assert getattr(part, trained).grad.abs().max() > 0, (path, trained)
            optimizer.step()
    # The model's own weights are frozen.
    assert all(p.grad is None for p in module.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_untrained_adapters_change_no_bit_and_leave_no_trace(family: str) -> None:
    """The comparison of tuned and untuned starts from the very same model."""
    module, sound = encoder_of(make_whole(family)), make_input(family)
    parameters = {name: (p, p.requires_grad) for name, p in module.named_parameters()}
    before = module(sound).last_hidden_state
    with attach(module) as lora:
        during = module(sound).last_hidden_state
        fill(lora)
        changed = module(sound).last_hidden_state
    after = module(sound).last_hidden_state
    assert torch.equal(before, during)
    assert not torch.allclose(before, changed, atol=1e-4)
    assert torch.equal(before, after)
    assert {name: (p, p.requires_grad) for name, p in module.named_parameters()} == parameters


@pytest.mark.parametrize("family", FAMILIES)
def test_peft_reads_what_is_saved(family: str, tmp_path: Path) -> None:
    """Any program that knows peft must get the tuned model; WavLM once peft has merged it."""
    whole, sound = make_whole(family), make_input(family)
    with attach(encoder_of(whole)) as lora:
        fill(lora)
        ours = encoder_of(whole)(sound).last_hidden_state
        save_adapters(tmp_path / "tuned", lora.adapters(), base=f"tiny/{family}")
    tuned = peft.PeftModel.from_pretrained(whole, tmp_path / "tuned")
    assert (tuned.peft_config["default"].r, tuned.peft_config["default"].lora_alpha) == (4, 8)
    if family != "wavlm":
        theirs = encoder_of(tuned.base_model.model)(sound).last_hidden_state
        torch.testing.assert_close(theirs, ours)
    merged = tuned.merge_and_unload()
    torch.testing.assert_close(encoder_of(merged)(sound).last_hidden_state, ours)


def test_saved_adapters_name_their_base_and_are_the_same_bytes(tmp_path: Path) -> None:
    """The folder says which model it changes; files of equal runs can be compared by hash."""
    for name in ("a", "b"):
        with attach(make_whole("wavlm")) as lora:
            save_adapters(tmp_path / name, lora.adapters(), base="microsoft/wavlm-base-plus")
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "microsoft/wavlm-base-plus"
    assert config["target_modules"][0] == "encoder.layers.0.attention.k_proj"
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_adapters_return_to_where_they_were() -> None:
    """The best epoch is loaded back, and an interrupted tuning goes on."""
    module, sound = make_whole("wavlm"), make_input("wavlm")
    with attach(module) as lora:
        fill(lora)
        kept, before = lora.adapters(), module(sound).last_hidden_state
        fill(lora)
        lora.load(kept.weights)
        assert torch.equal(module(sound).last_hidden_state, before)


def test_dropout_leaves_out_inputs_and_keeps_the_mean() -> None:
    """Dropped inputs are zero, others scaled; without dropout all count once."""
    with attach(make_whole("hubert"), dropout=0.25) as lora:
        drawn = []
        for _ in range(100):
            lora.draw_dropout()
            drawn.append(torch.stack([part.mask for part in lora.parts.values()]))
        masks = torch.stack(drawn)  # 9,600 draws: standard error 0.006
        assert masks.unique().tolist() == pytest.approx([0, 4 / 3])
        assert masks.mean().item() == pytest.approx(1, abs=0.03)
        assert not torch.equal(masks[0], masks[1])
        lora.no_dropout()
        assert all((part.mask == 1).all() for part in lora.parts.values())


def test_a_model_without_such_attention_is_named() -> None:
    """Whoever brings another architecture needs to know what its layers are called."""
    other = nn.ModuleDict({"query": nn.Linear(4, 4), "dense": nn.Linear(4, 4)})
    with pytest.raises(UsageError, match=r"(?s)q_proj, k_proj, v_proj.*named dense, query"):
        find_projections(other)
    with pytest.raises(UsageError, match="no linear layers"):
        find_projections(nn.ReLU())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_folder_is_the_tuned_model(family: str, tmp_path: Path) -> None:
    """What was tuned is what later runs hear: attached, saved, loaded and merged are one model."""
    save_tiny_model(tmp_path / "base", family)
    settings = TargetConfig(name=family, model=str(tmp_path / "base"), layer=1, chunk=1.0)  # type: ignore[arg-type]
    sound = torch.randn((1, 16000), generator=torch.Generator().manual_seed(4))
    model = load_speech_model(settings)
    with attach(model.module) as lora:
        assert len(lora.parts) == 3  # of the one layer that is used
        fill(lora)
        ours = model.embed(sound)
        save_adapters(tmp_path / "tuned", lora.adapters(), base="../base")
    loaded = load_speech_model(dataclasses.replace(settings, model=str(tmp_path / "tuned")))
    torch.testing.assert_close(loaded.embed(sound), ours)
    assert not torch.allclose(model.embed(sound), ours, atol=1e-4)
