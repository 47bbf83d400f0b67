"""Speech models behind one interface: sound in, one vector per frame out.

Speech models of the wav2vec 2.0, HuBERT, WavLM and Whisper families come from transformers, cut
off after the layer that is used; the mel spectrogram needs no weights.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import transformers
from torch import nn

from bids_speechdecode.audio.adapters import (
    ModelFiles,
    find_model_files,
    fingerprint_files,
    merge_adapters,
)
from bids_speechdecode.audio.energy import Energy, energy_fingerprint
from bids_speechdecode.audio.model_files import WITHOUT_WEIGHTS
from bids_speechdecode.config import WITHOUT_MODEL, TargetConfig
from bids_speechdecode.errors import DataError, MissingInputError, UsageError

AUDIO_RATE = 16000
WHISPER_SECONDS = 30.0
VARIANCE_FLOOR = 1e-7  # as in transformers' Wav2Vec2FeatureExtractor

MEL_BANDS = 40  # [T]
MEL_N_FFT = 512  # [T]
MEL_HOP = 128  # [T]
MEL_OFFSET = 1e-5  # [T]


class SpeechModel(Protocol):
    """What turns sound into one vector per frame.

    Attributes
    ----------
    name : str
        For labels, such as ``"wav2vec2 layer 19"``.
    dimension : int
        Length of each vector.
    frame_rate : float
        Nominal frames per second.
    sampling_rate : int
        Of the sound that goes in, hertz.
    """

    name: str
    dimension: int
    frame_rate: float
    sampling_rate: int

    def embed(self, waves: torch.Tensor) -> torch.Tensor:
        """Return the frames of equally long chunks of sound.

        Parameters
        ----------
        waves : tensor of float32, shape (B, n_samples)
            Chunks of one length, so that nothing is padded and no result depends on what else
            is in the batch. (Padding would change the results of models with a group norm over
            time, which no attention mask reaches.)

        Returns
        -------
        frames : tensor of float32, shape (B, n_frames, dimension)
            They share the duration of the chunk equally.
        """
        ...


class LayeredModel(SpeechModel, Protocol):
    """A speech model that also gives several layers at once, and gradients.

    Attributes
    ----------
    layers : tuple of int
        Which hidden states it gives, in that order.
    module : nn.Module
        What holds the weights. It is in evaluation mode; in training mode only its dropout is
        random, because masking and layer dropout are switched off when it is loaded.
    """

    layers: tuple[int, ...]
    module: nn.Module

    def frames(self, waves: torch.Tensor) -> torch.Tensor:
        """Return (B, n_frames, dimension) of equally long chunks, with gradient; one layer."""
        ...

    def hidden(self, waves: torch.Tensor) -> torch.Tensor:
        """Return (B, n_layers, n_frames, dimension) of equally long chunks, with gradient."""
        ...


def load_speech_model(
    settings: TargetConfig,
    *,
    device: str | torch.device = "cpu",
    layers: tuple[int, ...] | None = None,
) -> LayeredModel:
    """Return the model that `settings` name, ready to embed.

    Parameters
    ----------
    settings : TargetConfig
        ``model`` is a folder, an adapter's folder or a name on the hub.
        ``layer`` counts as transformers does in ``hidden_states``: 0 is the input of the
        first transformer layer, k the output of the k-th. For the last layer of models with
        a final layer norm, transformers 5 gives the output before that norm for wav2vec 2.0,
        HuBERT and WavLM, and after it for Whisper; so do we.
    device : str or torch.device
    layers : tuple of int, optional
        Several layers to give at once, counted like ``layer``, which they replace. The mel
        spectrogram has none and ignores them.

    Raises
    ------
    UsageError
        If the model has no such layer, is of another family, or cannot take such chunks.
    MissingInputError
        If the model is not on this machine and cannot be fetched.
    DataError
        If there are no safetensors weights, or they or an adapter do not fit the model.
    """
    device = torch.device(device)
    if settings.name == "text":
        raise UsageError(
            "A text target reads words: it has no speech model",
            expected="--target wav2vec2, hubert, wavlm, whisper or mel",
            found="text",
        )
    if settings.name == "mel":
        return MelSpectrogram(device)
    if settings.name == "energy":
        return Energy(device)
    layers = (settings.layer,) if layers is None else tuple(layers)
    files = find_model_files(settings.model)
    config = _read_config(files.folder, settings, layers)
    extractor = _read_extractor(files.folder)
    name = f"{settings.name} layer {', '.join(map(str, layers))}"
    if settings.name == "whisper":
        if settings.chunk > WHISPER_SECONDS:
            found = f"chunk = {settings.chunk:g}"
            raise UsageError("Whisper takes at most 30 s at once", expected="<= 30", found=found)
        encoder = _load_whisper_encoder(files, config, max(layers))
        return WhisperModel(encoder, extractor, name, layers, device, settings.half_precision)
    model = _load_wave_model(files, config, max(layers))
    return WaveModel(model, extractor.do_normalize, name, layers, device, settings.half_precision)


def model_fingerprint(settings: TargetConfig) -> str:
    """Return a text that changes when the model does, wherever its files lie."""
    if settings.name == "mel":
        return f"mel {MEL_BANDS} {MEL_N_FFT} {MEL_HOP} {MEL_OFFSET} v1"
    if settings.name == "energy":
        return energy_fingerprint()
    return fingerprint_files(find_model_files(settings.model))


def require_layers(settings: TargetConfig, layers: tuple[int, ...]) -> None:
    """Raise, as `load_speech_model` does, unless the model has these layers; loads no weights."""
    if settings.name not in WITHOUT_MODEL:
        _read_config(find_model_files(settings.model).folder, settings, layers)


class _Layered(ABC):
    """What the models with weights share: one layer, with and without gradient, from several."""

    layers: tuple[int, ...]
    module: Any  # nn.Module
    _device: torch.device

    @abstractmethod
    def hidden(self, waves: torch.Tensor) -> torch.Tensor:
        """Return hidden states (B, n_layers, n_frames, dimension), with gradient."""

    def frames(self, waves: torch.Tensor) -> torch.Tensor:
        """Return frames (B, n_frames, dimension) of equally long chunks, with gradient."""
        assert len(self.layers) == 1, "frames are those of one layer; use hidden for several"
        return self.hidden(waves)[:, 0]

    @torch.inference_mode()
    def embed(self, waves: torch.Tensor) -> torch.Tensor:
        """Return frames (B, n_frames, dimension) of equally long chunks (B, n_samples)."""
        return torch.cat([self.frames(wave) for wave in _split(waves, self._device)])


class WaveModel(_Layered):
    """A wav2vec 2.0, HuBERT or WavLM model that reads the waveform.

    Attributes
    ----------
    normalises : bool
        Whether each chunk of sound is brought to mean 0 and variance 1 first.
    local_front : bool
        Whether a frame of `front` depends on its own 25 ms of sound alone. Models with a group
        norm over time see the whole chunk in every frame.
    """

    sampling_rate = AUDIO_RATE

    def __init__(
        self,
        model: nn.Module,
        normalise: bool,
        name: str,
        layers: tuple[int, ...],
        device: torch.device,
        half: bool,
    ) -> None:
        config: Any = model.config
        self.name = name
        self.layers = layers
        self.dimension = int(config.hidden_size)
        self.frame_rate = AUDIO_RATE / float(np.prod(config.conv_stride))
        self.module = model.to(device).eval()
        self.normalises = normalise
        self.local_front = config.feat_extract_norm == "layer"
        self._device = device
        self._half = half

    def hidden(self, waves: torch.Tensor) -> torch.Tensor:
        """Return (B, n_layers, n_frames, dimension) of equally long chunks, with gradient."""
        waves = waves.to(self._device)
        if self.normalises:
            variance, mean = torch.var_mean(waves, dim=1, keepdim=True, correction=0)
            waves = (waves - mean) / torch.sqrt(variance + VARIANCE_FLOOR)
        return self.states(self.front(waves))

    def front(self, waves: torch.Tensor) -> torch.Tensor:
        """Return what the convolutions and the projection make of sound that is normalised.

        Parameters
        ----------
        waves : tensor of float32, shape (B, n_samples)

        Returns
        -------
        tensor, shape (B, n_frames, dimension)
            One frame for each hop of `hop` samples whose `field` samples lie within the sound.
        """
        with _half_precision(self._device, self._half):
            extracted = self.module.feature_extractor(waves.to(self._device)).transpose(1, 2)
            projected = self.module.feature_projection(extracted)
        return projected[0] if isinstance(projected, tuple) else projected

    def states(self, front: torch.Tensor) -> torch.Tensor:
        """Return (B, n_layers, n_frames, dimension) of what `front` returned."""
        encoder = self.module.encoder
        with _half_precision(self._device, self._half):
            return _hidden_states(encoder.layers, self.layers, lambda: encoder(front))

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        return int(np.prod(self.module.config.conv_stride))

    @property
    def field(self) -> int:
        """Samples that one frame of `front` sees, where it is local."""
        config = self.module.config
        field = 1
        for kernel, stride in zip(config.conv_kernel[::-1], config.conv_stride[::-1], strict=True):
            field = (field - 1) * stride + kernel
        return int(field)


class WhisperModel(_Layered):
    """The encoder of a Whisper model; it sees each chunk followed by silence up to 30 s."""

    sampling_rate = AUDIO_RATE

    def __init__(
        self,
        encoder: nn.Module,
        extractor: Any,
        name: str,
        layers: tuple[int, ...],
        device: torch.device,
        half: bool,
    ) -> None:
        config: Any = encoder.config
        self.name = name
        self.layers = layers
        self.dimension = int(config.d_model)
        self.frame_rate = config.max_source_positions / WHISPER_SECONDS
        self.module = encoder.to(device).eval()
        self._extractor = extractor
        self._device = device
        self._half = half

    def hidden(self, waves: torch.Tensor) -> torch.Tensor:
        """Return (B, n_layers, n_frames, dimension) of equally long chunks, with gradient.

        The gradient reaches the weights, not the sound.
        """
        mel = self._extractor(
            list(waves.cpu().numpy()), sampling_rate=AUDIO_RATE, return_tensors="pt"
        ).input_features.to(self._device)
        with _half_precision(self._device, self._half):
            states = _hidden_states(self.module.layers, self.layers, lambda: self.module(mel))
        heard = max(1, round(waves.shape[1] / AUDIO_RATE * self.frame_rate))
        return states[:, :, :heard]


class MelSpectrogram:
    """Logarithmic mel spectrogram: 40 bands at 125 Hz.

    ``y[k, b] = log10(1e-5 + sum_f M[b, f] |STFT[k, f]|**2 / sum(w**2))``

    with a periodic Hann window ``w`` of 512 samples (32 ms), a hop of 128 samples (8 ms), and
    ``M`` 40 triangles whose corners are evenly spaced from 0 to 8,000 Hz on the mel scale
    ``2595 log10(1 + f / 700)``, with peaks of 1. Window k is centred on the 8 ms that frame k
    stands for (samples 128 k to 128 k + 128). At both ends of a chunk the sound is reflected, so no
    frame sees beyond it. Samples after the last whole hop (< 8 ms) have no frame of their own.

    Bands, window, hop and offset are the public default of the source paper's team; the scaling
    of the power, the shape of the bands and the centring are ours, as they are not known.
    """

    name = "mel"
    dimension = MEL_BANDS
    frame_rate = AUDIO_RATE / MEL_HOP
    sampling_rate = AUDIO_RATE
    layers: tuple[int, ...] = (0,)

    def __init__(self, device: torch.device) -> None:
        self.module = nn.Module()  # without weights
        window = torch.hann_window(MEL_N_FFT, periodic=True, dtype=torch.float64)
        self._window = window.float().to(device)
        filters = mel_filters(MEL_BANDS, MEL_N_FFT, AUDIO_RATE) / float((window**2).sum())
        self._filters = torch.from_numpy(filters).float().to(device)  # (bands, frequencies)

    @torch.inference_mode()
    def embed(self, waves: torch.Tensor) -> torch.Tensor:
        """Return frames (B, n_samples // 128, 40) of equally long chunks (B, n_samples)."""
        return self.frames(waves)

    def hidden(self, waves: torch.Tensor) -> torch.Tensor:
        """Return (B, 1, n_samples // 128, 40) of equally long chunks (B, n_samples)."""
        return self.frames(waves)[:, None]

    def frames(self, waves: torch.Tensor) -> torch.Tensor:
        """Return frames (B, n_samples // 128, 40), with gradient to the sound."""
        margin = (MEL_N_FFT - MEL_HOP) // 2
        padded = nn.functional.pad(waves.to(self._window.device), (margin, margin), mode="reflect")
        spectrum = torch.stft(
            padded, MEL_N_FFT, MEL_HOP, window=self._window, center=False, return_complex=True
        )  # (B, frequencies, n_frames)
        bands = self._filters @ spectrum.abs().square()
        return torch.log10(bands + MEL_OFFSET).transpose(1, 2)


def mel_filters(n_bands: int, n_fft: int, rate: float) -> np.ndarray:
    """Return triangular filters, shape (n_bands, n_fft // 2 + 1), evenly spaced in mel.

    Corners at ``f = 700 (10**(m / 2595) - 1)`` for evenly spaced m from 0 Hz to ``rate / 2``.
    """
    frequencies = np.linspace(0, rate / 2, n_fft // 2 + 1)
    top = 2595 * np.log10(1 + rate / 2 / 700)
    corners = 700 * (10 ** (np.linspace(0, top, n_bands + 2) / 2595) - 1)
    low, peak, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    rising, falling = (frequencies - low) / (peak - low), (high - frequencies) / (high - peak)
    return np.maximum(0, np.minimum(rising, falling))


def _hidden_states(
    stack: nn.ModuleList, layers: tuple[int, ...], run: Callable[[], Any]
) -> torch.Tensor:
    """Run a transformer whose layers are `stack`; return (B, n_layers, n_frames, dimension).

    Hidden state k is what goes into layer k, and what the encoder returns where there is none.
    """
    states: dict[int, torch.Tensor] = {}

    def keep(k: int) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        return lambda _, inputs: states.__setitem__(k, inputs[0])

    hooks = [stack[k].register_forward_pre_hook(keep(k)) for k in layers if k < len(stack)]
    try:
        states[len(stack)] = run().last_hidden_state
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack([states[k].float() for k in layers], dim=1)


def _split(batch: torch.Tensor, device: torch.device) -> tuple[torch.Tensor, ...]:
    """Return what goes through the model at once: all on a GPU, one chunk at a time on a CPU.

    A second chunk of 30 s takes 0.7 GB more in a large model and saves a CPU no time.
    """
    return batch.split(1 if device.type == "cpu" else len(batch))


def _half_precision(device: torch.device, half: bool) -> torch.autocast:
    """Return a context in which matrix products run in 16 bits, but norms and softmax do not."""
    dtype = torch.float16 if device.type == "cuda" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=half)


def _read_config(folder: Path, settings: TargetConfig, layers: tuple[int, ...]) -> Any:
    """Return the model's own settings, after checking family and layers against ours."""
    try:
        config: Any = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise _unloadable(folder, error) from error
    if config.model_type != settings.name:
        raise UsageError(
            "The speech model is of another family than the target",
            expected=f"a {settings.name} model, as --target {settings.name} says",
            found=config.model_type,
            where=folder,
            fix=f"--target {config.model_type}, or another --speech-model",
        )
    n_layers = config.encoder_layers if settings.name == "whisper" else config.num_hidden_layers
    absent = [layer for layer in layers if not 0 <= layer <= n_layers]
    if absent or not layers:
        raise UsageError(
            "The speech model has no such layer",
            expected=f"0 to {n_layers} (0 is the input of the first transformer layer)",
            found=", ".join(map(str, absent)) or "no layer",
            where=folder,
            fix=f"--speech-layer between 0 and {n_layers}",
        )
    return config


def _read_extractor(folder: Path) -> Any:
    """Return how the model wants its input: sampling rate, normalisation, spectrogram."""
    try:
        extractor = transformers.AutoFeatureExtractor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise MissingInputError(
            "How the speech model wants its input is not known",
            expected="preprocessor_config.json",
            found=str(error).splitlines()[0],
            where=folder,
            fix=f"copy preprocessor_config.json from the model's page; {WITHOUT_WEIGHTS}",
        ) from error
    if extractor.sampling_rate != AUDIO_RATE:
        raise DataError(
            "The speech model wants another sampling rate",
            expected=f"{AUDIO_RATE} Hz",
            found=f"{extractor.sampling_rate} Hz",
            where=folder,
        )
    return extractor


def _load_wave_model(files: ModelFiles, config: Any, layer: int) -> nn.Module:
    """Return the model without the layers after `layer`, the final adapter layers and norm."""
    config.num_hidden_layers = layer
    config.add_adapter = False
    # What is random in training beyond dropout: a tuned model hears all of the sound.
    config.layerdrop, config.apply_spec_augment = 0.0, False
    model: Any = _load_weights(files.folder, config)
    _merge(model, files)
    if config.do_stable_layer_norm:
        # There the norm follows the last layer; in the other variant it precedes the first.
        model.encoder.layer_norm = nn.Identity()
    return model


def _load_whisper_encoder(files: ModelFiles, config: Any, layer: int) -> nn.Module:
    """Return the encoder without the layers after `layer`."""
    is_last = layer == config.encoder_layers
    config.encoder_layers = layer
    config.decoder_layers = 0
    config.encoder_layerdrop = 0.0
    encoder: Any = _load_weights(files.folder, config).encoder
    _merge(encoder, files)
    if not is_last:
        encoder.layer_norm = nn.Identity()
    return encoder


def _merge(module: nn.Module, files: ModelFiles) -> None:
    """Merge the adapters into what was loaded of the model."""
    if files.adapters:
        config = transformers.AutoConfig.from_pretrained(files.folder, local_files_only=True)
        with torch.device("meta"):  # names and shapes of all layers, without numbers
            whole: Any = transformers.AutoModel.from_config(config)
        whole = whole.encoder if config.model_type == "whisper" else whole
        merge_adapters(module, whole, files.adapters)


def _load_weights(folder: Path, config: Any) -> Any:
    """Return the model with the weights it needs, or raise; never with a random weight."""
    try:
        with quiet_transformers():
            model, report = transformers.AutoModel.from_pretrained(
                folder,
                config=config,
                use_safetensors=True,
                local_files_only=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
    except Exception as error:  # safetensors, transformers and torch have one of their own each
        raise _unloadable(folder, error) from error
    # The mask of the pretraining task is not used, and many checkpoints lack it.
    random = sorted(key for key in report["missing_keys"] if not key.endswith("masked_spec_embed"))
    if random:
        more = f" and {len(random) - 3} more" if len(random) > 3 else ""
        raise DataError(
            "Weights of the speech model are missing",
            expected="all weights up to the layer that is used",
            found=f"no {', '.join(random[:3])}{more}",
            where=folder,
            fix="fetch the model again, or choose another --speech-model",
        )
    return model


def _unloadable(folder: Path, error: Exception) -> DataError:
    return DataError(
        "The speech model cannot be loaded",
        expected="config.json and *.safetensors of a speech model of transformers",
        found=(str(error).splitlines() or [type(error).__name__])[0],
        where=folder,
        fix=f"fetch the model again, or choose another --speech-model; {WITHOUT_WEIGHTS}",
    )


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hold back transformers' progress bar and its list of the weights that we leave out."""
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
