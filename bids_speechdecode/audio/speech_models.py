"""Speech models behind one interface: sound in, one vector per frame out.

Speech models of the wav2vec 2.0, HuBERT, WavLM and Whisper families come from transformers, cut
off after the layer that is used; the mel spectrogram needs no weights.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import transformers
from torch import nn

from bids_speechdecode.audio.model_files import WITHOUT_WEIGHTS, find_model, fingerprint_folder
from bids_speechdecode.config import TargetConfig
from bids_speechdecode.errors import DataError, MissingInputError, UsageError

AUDIO_RATE = 16000
WHISPER_SECONDS = 30.0

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


def load_speech_model(settings: TargetConfig, *, device: str | torch.device = "cpu") -> SpeechModel:
    """Return the model that `settings` name, ready to embed.

    Parameters
    ----------
    settings : TargetConfig
        ``layer`` counts as transformers does in ``hidden_states``: 0 is the input of the
        first transformer layer, k the output of the k-th. For the last layer of models with
        a final layer norm, transformers 5 gives the output before that norm for wav2vec 2.0,
        HuBERT and WavLM, and after it for Whisper; so do we.
    device : str or torch.device

    Raises
    ------
    UsageError
        If the model has no such layer, is of another family, or cannot take such chunks.
    MissingInputError
        If the model is not on this machine and cannot be fetched.
    DataError
        If there are no safetensors weights, or they do not fit the model.
    """
    device = torch.device(device)
    if settings.name == "mel":
        return MelSpectrogram(device)
    folder = find_model(settings.model)
    config = _read_config(folder, settings)
    extractor = _read_extractor(folder)
    name = f"{settings.name} layer {settings.layer}"
    if settings.name == "whisper":
        if settings.chunk > WHISPER_SECONDS:
            found = f"chunk = {settings.chunk:g}"
            raise UsageError("Whisper takes at most 30 s at once", expected="<= 30", found=found)
        encoder = _load_whisper_encoder(folder, config, settings.layer)
        return WhisperModel(encoder, extractor, name, device, settings.half_precision)
    model = _load_wave_model(folder, config, settings.layer)
    return WaveModel(model, extractor.do_normalize, name, device, settings.half_precision)


def model_fingerprint(settings: TargetConfig) -> str:
    """Return a text that changes when the model does, wherever its files lie."""
    if settings.name == "mel":
        return f"mel {MEL_BANDS} {MEL_N_FFT} {MEL_HOP} {MEL_OFFSET} v1"
    return fingerprint_folder(find_model(settings.model))


class WaveModel:
    """A wav2vec 2.0, HuBERT or WavLM model that reads the waveform."""

    sampling_rate = AUDIO_RATE

    def __init__(
        self, model: nn.Module, normalise: bool, name: str, device: torch.device, half: bool
    ) -> None:
        config: Any = model.config
        self.name = name
        self.dimension = int(config.hidden_size)
        self.frame_rate = AUDIO_RATE / float(np.prod(config.conv_stride))
        self._model = model.to(device).eval()
        self._normalise = normalise
        self._device = device
        self._half = half

    @torch.inference_mode()
    def embed(self, waves: torch.Tensor) -> torch.Tensor:
        """Return frames (B, n_frames, dimension) of equally long chunks (B, n_samples)."""
        waves = waves.to(self._device)
        if self._normalise:
            variance, mean = torch.var_mean(waves, dim=1, keepdim=True, correction=0)
            waves = (waves - mean) / torch.sqrt(variance + 1e-7)
        with _half_precision(self._device, self._half):
            return torch.cat([self._model(w).last_hidden_state.float() for w in _split(waves)])


class WhisperModel:
    """The encoder of a Whisper model; it sees each chunk followed by silence up to 30 s."""

    sampling_rate = AUDIO_RATE

    def __init__(
        self, encoder: nn.Module, extractor: Any, name: str, device: torch.device, half: bool
    ) -> None:
        config: Any = encoder.config
        self.name = name
        self.dimension = int(config.d_model)
        self.frame_rate = config.max_source_positions / WHISPER_SECONDS
        self._encoder = encoder.to(device).eval()
        self._extractor = extractor
        self._device = device
        self._half = half

    @torch.inference_mode()
    def embed(self, waves: torch.Tensor) -> torch.Tensor:
        """Return frames (B, n_frames, dimension) of equally long chunks (B, n_samples)."""
        mel = self._extractor(
            list(waves.cpu().numpy()), sampling_rate=AUDIO_RATE, return_tensors="pt"
        ).input_features.to(self._device)
        with _half_precision(self._device, self._half):
            frames = torch.cat([self._encoder(m).last_hidden_state.float() for m in _split(mel)])
        heard = max(1, round(waves.shape[1] / AUDIO_RATE * self.frame_rate))
        return frames[:, :heard]


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

    def __init__(self, device: torch.device) -> None:
        window = torch.hann_window(MEL_N_FFT, periodic=True, dtype=torch.float64)
        self._window = window.float().to(device)
        filters = mel_filters(MEL_BANDS, MEL_N_FFT, AUDIO_RATE) / float((window**2).sum())
        self._filters = torch.from_numpy(filters).float().to(device)  # (bands, frequencies)

    @torch.inference_mode()
    def embed(self, waves: torch.Tensor) -> torch.Tensor:
        """Return frames (B, n_samples // 128, 40) of equally long chunks (B, n_samples)."""
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


def _split(batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return what goes through the model at once: all on a GPU, one chunk at a time on a CPU.

    A second chunk of 30 s takes 0.7 GB more in a large model and saves a CPU no time.
    """
    return batch.split(1 if batch.device.type == "cpu" else len(batch))


def _half_precision(device: torch.device, half: bool) -> torch.autocast:
    """Return a context in which matrix products run in 16 bits, but norms and softmax do not."""
    dtype = torch.float16 if device.type == "cuda" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=half)


def _read_config(folder: Path, settings: TargetConfig) -> Any:
    """Return the model's own settings, after checking family and layer against ours."""
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
    if not 0 <= settings.layer <= n_layers:
        raise UsageError(
            "The speech model has no such layer",
            expected=f"0 to {n_layers} (0 is the input of the first transformer layer)",
            found=str(settings.layer),
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


def _load_wave_model(folder: Path, config: Any, layer: int) -> nn.Module:
    """Return the model without the layers after `layer`, the adapter and the final norm."""
    config.num_hidden_layers = layer
    config.add_adapter = False
    model: Any = _load_weights(folder, config)
    if config.do_stable_layer_norm:
        # There the norm follows the last layer; in the other variant it precedes the first.
        model.encoder.layer_norm = nn.Identity()
    return model


def _load_whisper_encoder(folder: Path, config: Any, layer: int) -> nn.Module:
    """Return the encoder without the layers after `layer`."""
    is_last = layer == config.encoder_layers
    config.encoder_layers = layer
    config.decoder_layers = 0
    encoder: Any = _load_weights(folder, config).encoder
    if not is_last:
        encoder.layer_norm = nn.Identity()
    return encoder


def _load_weights(folder: Path, config: Any) -> Any:
    """Return the model with the weights it needs, or raise; never with a random weight."""
    try:
        with _quiet_transformers():
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
def _quiet_transformers() -> Iterator[None]:
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
