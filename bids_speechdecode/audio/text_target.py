"""The words of a window -> one vector, by a sentence encoder of transformers.

``y = m / |m|``, with m the mean of a hidden state over the tokens of the words, as sentence
encoders are trained (Reimers and Gurevych 2019, arXiv:1908.10084).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from bids_speechdecode.audio.model_files import find_model, fingerprint_folder
from bids_speechdecode.audio.speech_models import model_fingerprint, quiet_transformers
from bids_speechdecode.config import TEXT, TargetConfig
from bids_speechdecode.errors import DataError, MissingInputError, UsageError

VOCABULARIES = ("tokenizer.json", "vocab.*", "*.model")
TOKENIZER_FILES = (
    *VOCABULARIES,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "merges.txt",
)
SHORTEST = 1e-12  # length below which a mean has no direction


class TextEncoder:
    """A sentence encoder: texts in, one vector of length 1 for each out.

    Attributes
    ----------
    name : str
        For labels, such as ``"text layer 6"``.
    dimension : int
        Length of each vector.
    """

    def __init__(
        self, model: Any, tokenizer: Any, layer: int, device: torch.device, batch_size: int
    ) -> None:
        self.name = f"{TEXT} layer {layer}"
        self.dimension = int(model.config.hidden_size)
        self._model = model.to(device).eval()
        self._tokenizer = tokenizer
        self._layer = layer
        self._device = device
        self._batch_size = batch_size
        limits = tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", 512)
        self._most = int(min(limits))

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return one vector a text, array of float32, shape (n_texts, dimension).

        A text without a word has none: its row is NaN, so that nothing can be learned from it
        unseen. Texts of about the same length go through the model together.

        Raises
        ------
        UsageError
            If a text is longer than the encoder takes; nothing is cut off.
        """
        found = np.full((len(texts), self.dimension), np.nan, np.float32)
        order = sorted({t for t in texts if t.strip()}, key=lambda t: (len(t), t))
        vectors: dict[str, np.ndarray] = {}
        for first in range(0, len(order), self._batch_size):
            batch = order[first : first + self._batch_size]
            vectors.update(zip(batch, self._embed_batch(batch), strict=True))
        for row, text in zip(found, texts, strict=True):
            row[:] = vectors.get(text, np.nan)
        return found

    @torch.inference_mode()
    def _embed_batch(self, texts: list[str]) -> np.ndarray:
        tokens = self._tokenizer(texts, padding=True, return_tensors="pt")
        mask = tokens["attention_mask"]
        if mask.shape[1] > self._most:
            raise UsageError(
                "The words of a window are more than the sentence encoder takes",
                expected=f"at most {self._most} tokens",
                found=f"{mask.shape[1]} tokens: {texts[-1][:60]!r} ...",
                fix="choose shorter windows (duration in [windows])",
            )
        inputs = {key: value.to(self._device) for key, value in tokens.items()}
        states = self._model(**inputs, output_hidden_states=True).hidden_states[self._layer]
        pooled = mean_over_tokens(states.float(), inputs["attention_mask"])
        return pooled.cpu().numpy()


def mean_over_tokens(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean over the tokens that the mask keeps, brought to length 1.

    Parameters
    ----------
    states : tensor, shape (B, n_tokens, d)
    mask : tensor, shape (B, n_tokens)
        1 for a token, 0 for padding.

    Returns
    -------
    tensor, shape (B, d)
    """
    weights = mask[..., None].to(states.dtype)
    mean = (states * weights).sum(dim=1) / weights.sum(dim=1)
    return mean / mean.norm(dim=1, keepdim=True).clamp(min=SHORTEST)


def load_text_encoder(settings: TargetConfig, *, device: str | torch.device = "cpu") -> TextEncoder:
    """Return the sentence encoder that `settings` name, ready to embed.

    Parameters
    ----------
    settings : TargetConfig
        ``model`` is a folder or a name on the hub; ``layer`` counts as in ``hidden_states``: 0 is
        the input of the first transformer layer.
    device : str or torch.device

    Raises
    ------
    UsageError
        The model has no such layer, or reads no text.
    MissingInputError
        The model or its tokenizer is not on this machine and cannot be fetched.
    DataError
        There are no safetensors weights, or they do not fit.
    """
    folder = find_model(settings.model, TOKENIZER_FILES)
    model = _load_weights(folder)
    if model.main_input_name != "input_ids" or model.config.is_encoder_decoder:
        raise UsageError(
            "The model of the text target is no sentence encoder",
            expected="a model that reads tokens of text, such as BERT or MPNet",
            found=model.config.model_type,
            where=folder,
            fix="--speech-model with a sentence encoder, or leave it out for the default one",
        )
    n_layers = int(model.config.num_hidden_layers)
    if not 0 <= settings.layer <= n_layers:
        raise UsageError(
            "The sentence encoder has no such layer",
            expected=f"0 to {n_layers} (0 is the input of the first transformer layer)",
            found=str(settings.layer),
            where=folder,
            fix=f"--speech-layer between 0 and {n_layers}",
        )
    tokenizer = _load_tokenizer(folder)
    return TextEncoder(model, tokenizer, settings.layer, torch.device(device), settings.batch_size)


def target_fingerprint(settings: TargetConfig) -> str:
    """Return a text that changes when the target's model does, whatever kind it is."""
    if settings.name != TEXT:
        return model_fingerprint(settings)
    return fingerprint_folder(find_model(settings.model, TOKENIZER_FILES), TOKENIZER_FILES)


def _load_weights(folder: Path) -> Any:
    """Return the model, or raise; never with a random weight that is used."""
    try:
        with quiet_transformers():
            model, report = transformers.AutoModel.from_pretrained(
                folder,
                use_safetensors=True,
                local_files_only=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
    except Exception as error:  # safetensors, transformers and torch have one of their own each
        raise DataError(
            "The sentence encoder cannot be loaded",
            expected="config.json and *.safetensors of a text model of transformers",
            found=(str(error).splitlines() or [type(error).__name__])[0],
            where=folder,
            fix="fetch the model again, or choose another --speech-model",
        ) from error
    random = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
    if random:
        raise DataError(
            "Weights of the sentence encoder are missing",
            expected="all weights",
            found=f"no {', '.join(random[:3])}",
            where=folder,
            fix="fetch the model again, or choose another --speech-model",
        )
    return model


def _load_tokenizer(folder: Path) -> Any:
    if not any(any(folder.glob(pattern)) for pattern in VOCABULARIES):
        raise _no_tokenizer(folder, "no such file")
    try:
        return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise _no_tokenizer(folder, (str(error).splitlines() or [""])[0]) from error


def _no_tokenizer(folder: Path, found: str) -> MissingInputError:
    return MissingInputError(
        "The sentence encoder has no tokenizer",
        expected="tokenizer.json, or the vocabulary",
        found=found,
        where=folder,
        fix="copy all files of the model from its page",
    )
