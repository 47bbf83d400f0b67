"""Speech models with random weights, of the families that are read, small enough for any test."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import tokenizers
import torch
import transformers
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import WhitespaceSplit

FAMILIES = ("wav2vec2", "hubert", "wavlm", "whisper")
_WAVE = {
    "hidden_size": 24,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
_WHISPER = {
    "d_model": 24,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "vocab_size": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}


def make_tiny_model(
    family: str,
    *,
    n_layers: int = 2,
    norm: str = "group",
    seed: int = 0,
    spread: float = 0.1,
    **changes: object,
) -> transformers.PreTrainedModel:
    """Return a whole model; `norm` "layer" is the variant of the large ones.

    Every weight is moved off its initial value by `spread`, so that norms and biases count, too.
    """
    torch.manual_seed(seed)
    model: transformers.PreTrainedModel
    if family == "whisper":
        settings = {**_WHISPER, "encoder_layers": n_layers, **changes}
        model = transformers.WhisperModel(transformers.WhisperConfig(**settings))
    else:
        settings = {**_WAVE, "num_hidden_layers": n_layers, "feat_extract_norm": norm, **changes}
        of_norm = {"do_stable_layer_norm": norm == "layer", "conv_bias": norm == "layer"}
        config = transformers.AutoConfig.for_model(family, **of_norm, **settings)
        model = transformers.AutoModel.from_config(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(spread * torch.randn(weight.shape))
    return model.eval()


def save_tiny_model(
    folder: Path, family: str, *, normalise: bool = True, n_layers: int = 2, **how: object
) -> Path:
    """Save such a model with what prepares its input, as a model hub's folder has it."""
    model = make_tiny_model(family, n_layers=n_layers, **how)  # type: ignore[arg-type]
    model.save_pretrained(folder)
    if family == "whisper":
        transformers.WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
    else:
        transformers.Wav2Vec2FeatureExtractor(do_normalize=normalise).save_pretrained(folder)
    return folder


def save_tiny_text_model(
    folder: Path, words: Iterable[str], *, n_layers: int = 2, seed: int = 0, spread: float = 0.1
) -> Path:
    """Save a BERT with random weights that knows these words, as a model hub's folder has it."""
    vocabulary = ["[PAD]", "[UNK]", *sorted({word.lower() for word in words})]
    tokenizer = tokenizers.Tokenizer(
        WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]")
    )
    tokenizer.normalizer, tokenizer.pre_tokenizer = Lowercase(), WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=64
    ).save_pretrained(folder)
    torch.manual_seed(seed)
    model = transformers.BertModel(
        transformers.BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=32,
            num_hidden_layers=n_layers,
            num_attention_heads=2,
            intermediate_size=48,
            max_position_embeddings=64,
        )
    )
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(spread * torch.randn(weight.shape))
    model.save_pretrained(folder)
    return folder
