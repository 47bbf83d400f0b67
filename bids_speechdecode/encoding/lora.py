"""Low-rank adapters (LoRA) on the attention of speech models.

``W' = W + (alpha / rank) B A`` for the query, key and value projections (Hu et al. 2021,
arXiv:2106.09685). The weight itself is parametrised, not the layer's forward: the attention of
WavLM in transformers takes ``q_proj.weight`` and never calls ``q_proj``, so that adapters wrapped
around the layer would neither act nor get a gradient.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import parametrize

from bids_speechdecode.errors import UsageError

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
PROJECTIONS = ("q_proj", "k_proj", "v_proj")  # [P]


class LowRank(nn.Module):
    """What is added to one weight; nothing as long as B is zero."""

    mask: torch.Tensor

    def __init__(
        self, weight: torch.Tensor, rank: int, alpha: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        n_out, n_in = weight.shape
        # Uniform as in nn.Linear; drawn on the CPU, so that every device starts from the same.
        start = (2 * torch.rand(rank, n_in, generator=generator) - 1) / math.sqrt(n_in)
        self.lora_A = nn.Parameter(start.to(weight.device))
        self.lora_B = nn.Parameter(torch.zeros(n_out, rank, device=weight.device))
        self.register_buffer("mask", torch.ones(n_in, device=weight.device))
        self.scale = alpha / rank

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the adapted weight, shape (n_out, n_in)."""
        return weight + self.scale * (self.lora_B @ (self.lora_A * self.mask))


@dataclass(frozen=True)
class Adapters:
    """Trained adapters, apart from any model.

    Attributes
    ----------
    rank : int
    alpha : float
    dropout : float
        With which they were trained.
    weights : dict
        ``"<path of the layer>.lora_A.weight"`` (rank, n_in) and ``lora_B`` (n_out, rank), float32,
        where paths are those of the whole model as transformers' ``AutoModel`` gives it.
    """

    rank: int
    alpha: float
    dropout: float
    weights: dict[str, torch.Tensor]

    @property
    def layers(self) -> list[str]:
        """Paths of the adapted layers, sorted."""
        return sorted({name.rsplit(".lora_", 1)[0] for name in self.weights})


class AttachedLora:
    """Adapters at work in a model whose own weights are frozen; a context that leaves no trace.

    Parameters
    ----------
    module : nn.Module
        The speech model, or the encoder of one. In evaluation mode it stays deterministic.
    rank : int
    alpha : float
    dropout : float
        Probability that an input of an adapter is left out in one step.
    generator : torch.Generator
        On the CPU; draws A here and the dropout in `draw_dropout`.

    Raises
    ------
    UsageError
        If the module has no query, key and value projections of the usual names.

    Examples
    --------
    >>> class Attention(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         for name in PROJECTIONS:
    ...             self.add_module(name, nn.Linear(4, 4))
    >>> with AttachedLora(Attention(), 2, 2.0, 0.0, torch.Generator()) as lora:
    ...     print(sorted(lora.adapters().weights)[0])
    k_proj.lora_A.weight
    """

    def __init__(
        self,
        module: nn.Module,
        rank: int,
        alpha: float,
        dropout: float,
        generator: torch.Generator,
    ) -> None:
        self.rank, self.alpha, self.dropout = rank, alpha, dropout
        self._module, self._generator = module, generator
        self._layers = find_projections(module)
        self._prefix = _prefix(module)
        self._needed_gradient = {p: p.requires_grad for p in module.parameters()}
        module.requires_grad_(False)
        self.parts = {
            path: LowRank(layer.weight, rank, alpha, generator)
            for path, layer in self._layers.items()
        }
        for path, layer in self._layers.items():
            parametrize.register_parametrization(layer, "weight", self.parts[path])

    def __enter__(self) -> AttachedLora:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()

    def parameters(self) -> list[nn.Parameter]:
        """Return what can be trained, in a fixed order."""
        return [p for part in self.parts.values() for p in (part.lora_A, part.lora_B)]

    def draw_dropout(self) -> None:
        """Leave out other inputs of each adapter from now on.

        All frames and windows of a step share what is left out, because WavLM takes weights and
        not layers; and because a step whose activations are computed twice to save memory must
        find the same weights again.
        """
        for part in self.parts.values():
            kept = torch.rand(part.mask.shape, generator=self._generator) >= self.dropout
            part.mask.copy_(kept / (1 - self.dropout))

    def no_dropout(self) -> None:
        """Leave out nothing from now on."""
        for part in self.parts.values():
            part.mask.fill_(1)

    def adapters(self) -> Adapters:
        """Return a copy of the adapters as they are."""
        weights = {}
        for path, part in self.parts.items():
            for name in ("lora_A", "lora_B"):
                value = getattr(part, name).detach().cpu().clone()
                weights[f"{self._prefix}{path}.{name}.weight"] = value
        return Adapters(self.rank, self.alpha, self.dropout, weights)

    def load(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Take over weights as `adapters` gives them."""
        with torch.no_grad():
            for path, part in self.parts.items():
                for name in ("lora_A", "lora_B"):
                    getattr(part, name).copy_(weights[f"{self._prefix}{path}.{name}.weight"])

    def remove(self) -> None:
        """Give the model its own weights back."""
        for layer in self._layers.values():
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
        for parameter, needed in self._needed_gradient.items():
            parameter.requires_grad_(needed)


def find_projections(module: nn.Module) -> dict[str, nn.Linear]:
    """Return the query, key and value projections of a speech model's encoder, by path.

    Raises
    ------
    UsageError
        If one of the three is missing; the message lists the linear layers that there are.
    """
    linear = {p: m for p, m in module.named_modules() if isinstance(m, nn.Linear)}
    found = {
        path: layer
        for path, layer in linear.items()
        if path.rsplit(".", 1)[-1] in PROJECTIONS and "decoder" not in path.split(".")
    }
    if {path.rsplit(".", 1)[-1] for path in found} != set(PROJECTIONS):
        names = sorted({path.rsplit(".", 1)[-1] for path in linear})
        raise UsageError(
            "The speech model has no attention that can be tuned.",
            expected=f"linear layers named {', '.join(PROJECTIONS)}",
            found=f"linear layers named {', '.join(names)}" if names else "no linear layers",
            fix="choose a wav2vec 2.0, HuBERT, WavLM or Whisper model and a layer above 0",
        )
    return found


def _prefix(module: nn.Module) -> str:
    """Return what leads to `module` within the whole model of transformers."""
    return "encoder." if type(module).__name__ == "WhisperEncoder" else ""


def save_adapters(folder: Path, adapters: Adapters, base: str) -> None:
    """Write adapters as peft does, so that peft and this project read them.

    Parameters
    ----------
    folder : path
        Made if it does not exist; gets adapter_config.json and adapter_model.safetensors.
    adapters : Adapters
    base : str
        Hub name or folder of the untuned model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base,
        "r": adapters.rank,
        "lora_alpha": adapters.alpha,
        "lora_dropout": adapters.dropout,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": adapters.layers,  # whole paths: nothing else of the model ends so
    }
    settings, weights = (folder / name for name in ADAPTER_FILES)
    settings.write_text(json.dumps(config, indent=2) + "\n")
    tensors = {f"base_model.model.{k}": v.contiguous() for k, v in adapters.weights.items()}
    save_file(tensors, weights, metadata={"format": "pt"})
    weights.chmod(settings.stat().st_mode)  # safetensors gives it to its owner alone
