"""Derivatives on disk -> windows of paired signal and target, resident on the device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from bids_speechdecode.bids.sidecars import read_sidecar
from bids_speechdecode.config import Config
from bids_speechdecode.decoding.windows import TargetScaler, WindowSet
from bids_speechdecode.errors import DataError
from bids_speechdecode.statistics import label_blocks
from bids_speechdecode.steps.channels import good_channels, model_channels
from bids_speechdecode.steps.context import Context, require_step
from bids_speechdecode.steps.drift import n_time_columns, prepare_signal
from bids_speechdecode.steps.features import feature_file, group_by_audio, piece_key
from bids_speechdecode.steps.plan import Piece, PlannedRecording
from bids_speechdecode.timeline import sample_at

# Above this size the signal is kept in half precision: its unit is a robust z, clamped at 20.
HALF_PRECISION_FROM_BYTES = 4e9
ROWS_PER_COPY = 65536


@dataclass(frozen=True)
class LoadedWindows:
    """Paired windows, and a table that says where each comes from.

    Attributes
    ----------
    signal : tensor, shape (n_times, n_channels), on the device
    starts : tensor of int64, shape (n_windows,)
    n_samples : int
    targets : array, shape (n_windows, d) or (n_windows, n_frames, d)
        Not scaled: each model brings the statistics of its own training windows.
    table : DataFrame
        One row a window: recording, onset (s, of the sound on the recording's clock),
        stimulus, audio_onset (s), version, split, block (of the split), piece (of contiguous
        audio).
    """

    signal: torch.Tensor
    starts: torch.Tensor
    n_samples: int
    targets: np.ndarray
    table: pd.DataFrame

    def __len__(self) -> int:
        return len(self.table)

    def scaled(self, scaler: TargetScaler) -> WindowSet:
        """Return the windows for the encoder, with targets z-scored by `scaler`."""
        targets = torch.from_numpy(scaler.transform(self.targets)).to(self.signal.device)
        return WindowSet(self.signal, self.starts, self.n_samples, targets)

    def blocks(self, config: Config) -> np.ndarray:
        """Return the contiguous block of each window, the unit of resampling and of folds."""
        return label_blocks(
            self.table["onset"],
            self.table["recording"],
            duration=config.windows.duration,
            block=config.evaluation.block,
        )

    def join(self, other: LoadedWindows) -> LoadedWindows:
        """Return the windows of two sets that share one signal."""
        return replace(
            self,
            starts=torch.cat([self.starts, other.starts]),
            targets=np.concatenate([self.targets, other.targets]),
            table=pd.concat([self.table, other.table], ignore_index=True),
        )


@dataclass(frozen=True)
class SignalStore:
    """The preprocessed recordings of one role, one after the other in one tensor."""

    signal: torch.Tensor  # (n_times, n_channels)
    offsets: dict[str, int]  # recording label -> its first sample
    lengths: dict[str, int]


def load_signal(
    context: Context, *roles: str, channels: Sequence[str] | None = None
) -> SignalStore:
    """Put the preprocessed recordings of some roles on the device, on a common set of channels.

    By default these are the channels of the models, and the settings against drift apply. A
    channel that is bad in one recording is zero there.
    """
    for_models = channels is None
    channels = model_channels(context) if channels is None else channels
    n_columns = len(channels) + (n_time_columns(context) if for_models else 0)
    recordings = [r for r in context.plan.recordings if r.role in roles]
    mapped = [_map_bands(context, r) for r in recordings]
    n_total = sum(len(next(iter(bands.values()))) for bands in mapped)
    half = n_total * len(channels) * 4 > _half_precision_from(context.config.run.mem_gb)
    signal = torch.zeros((n_total, n_columns), dtype=torch.float16 if half else torch.float32)
    offsets, lengths, offset = {}, {}, 0
    for planned, bands in zip(recordings, mapped, strict=True):
        good = set(good_channels(context, planned))
        for band, data in bands.items():
            names = planned.montages[band].names
            columns = [
                (i, names.index(n)) for i, n in enumerate(channels) if n in good & set(names)
            ]
            _copy_channels(signal[offset : offset + len(data)], data, columns)
        offsets[planned.label], lengths[planned.label] = offset, len(data)
        offset += len(data)
    if for_models:
        prepare_signal(context, {k: signal[n : n + lengths[k]] for k, n in offsets.items()})
    return SignalStore(signal.to(context.device), offsets, lengths)


def _half_precision_from(mem_gb: float) -> float:
    """Return the size (bytes) of a signal that is too large for full precision."""
    return min(HALF_PRECISION_FROM_BYTES, mem_gb * 1e9 / 4) if mem_gb else HALF_PRECISION_FROM_BYTES


def _copy_channels(signal: torch.Tensor, data: np.ndarray, matching: list[tuple[int, int]]) -> None:
    """Copy columns of a memory-mapped recording in blocks of rows: one pass over the file.

    `matching` has (column of the model, column of the recording).
    """
    if not matching:
        return
    to, of = (list(columns) for columns in zip(*matching, strict=True))
    for first in range(0, len(data), ROWS_PER_COPY):
        rows = slice(first, first + ROWS_PER_COPY)
        signal[rows, to] = torch.from_numpy(data[rows][:, of]).to(signal.dtype)


def _map_bands(context: Context, planned: PlannedRecording) -> dict[str, np.ndarray]:
    """Memory-map the preprocessed signal of each band, shape (n_times, n_channels)."""
    return {
        band: np.memmap(path, dtype="<f4", mode="r").reshape(-1, len(planned.montages[band].names))
        for band, path in context.preprocessed(planned).items()
    }


def load_windows(
    context: Context,
    store: SignalStore,
    role: str,
    split: str,
    version: str | None = None,
) -> LoadedWindows:
    """Return the usable windows of a role and split, in the order of recordings and time."""
    rate = context.config.preprocess.rate
    n_samples = sample_at(context.config.windows.duration, rate)
    starts, targets, tables = [], [], []
    for piece, rows, keep in read_targets(context, context.plan.select(role, version, split)):
        first = np.array([sample_at(float(t), rate) for t in piece.brain_starts])
        # Rounding to 40 Hz may put a last window one sample beyond the recording's end.
        first = np.clip(first, 0, store.lengths[piece.recording] - n_samples)
        starts.append(first[keep] + store.offsets[piece.recording])
        targets.append(rows[keep])
        tables.append(window_table(context, piece)[keep])
    if not starts or not sum(len(s) for s in starts):
        raise DataError(
            f"sub-{context.participant} has no usable {split} window for {role}",
            expected="at least one window with signal and sound",
            fix="see --dry-run for the counts and what was left out",
        )
    return LoadedWindows(
        store.signal,
        torch.from_numpy(np.concatenate(starts)).to(store.signal.device),
        n_samples,
        np.concatenate(targets).astype(np.float32),
        pd.concat(tables, ignore_index=True),
    )


def read_targets(
    context: Context, pieces: Sequence[Piece]
) -> Iterator[tuple[Piece, np.ndarray, np.ndarray]]:
    """Yield each piece that has windows, their targets, and which of them are used.

    Used are windows that meet no gap or artifact and have enough voice. The targets are mapped
    from the disk: only those that are looked at enter the memory.
    """
    pieces = [p for p in pieces if len(p.audio_starts)]
    by_audio = {
        (p.recording, p.segment): group
        for group in group_by_audio(context).values()
        for p in _same_audio(context, group, pieces)
    }
    for piece in pieces:
        rows, voiced = _read_rows(context, by_audio[piece.recording, piece.segment], piece)
        yield piece, rows, piece.usable & voiced & ~_meets_gap(context, piece)


def _meets_gap(context: Context, piece: Piece) -> np.ndarray:
    """Return which windows meet a stretch that preprocessing had to blank in one of the bands."""
    files = context.preprocessed(context.plan[piece.recording]).values()
    meets = np.zeros(len(piece.brain_starts), dtype=bool)
    stops = piece.brain_starts + context.config.windows.duration
    for start, stop in (gap for path in files for gap in read_sidecar(path)["Gaps"]):
        meets |= (piece.brain_starts < stop) & (start < stops)
    return meets


def _same_audio(context: Context, group: list[Piece], pieces: list[Piece]) -> list[Piece]:
    name = _audio_of(context, group[0])
    return [p for p in pieces if _audio_of(context, p) == name]


def _audio_of(context: Context, piece: Piece) -> str:
    source = context.plan.segment(piece).source
    return str(source.path) if source.path else f"{piece.recording}:{source.channel}"


def _read_rows(context: Context, group: list[Piece], piece: Piece) -> tuple[np.ndarray, np.ndarray]:
    """Return the targets of a piece's windows and which of them have enough voice."""
    path, _ = feature_file(context, group)
    sidecar = read_sidecar(require_step(path, "features"))
    keys = [tuple(k) for k in sidecar["Pieces"]]
    position = keys.index(piece_key(piece))
    first = sum(int(k[2]) for k in keys[:position])
    rows = slice(first, first + len(piece.audio_starts))
    array = np.load(path, mmap_mode="r", allow_pickle=False)[rows]
    voiced = np.ones(len(array), dtype=bool)
    if context.config.windows.voice_activity:
        fraction = np.array(sidecar["VoicedFraction"][rows])
        voiced = fraction >= context.config.windows.min_voiced_fraction
    return np.asarray(array), voiced


def window_table(context: Context, piece: Piece) -> pd.DataFrame:
    """Return where the windows of a piece come from, as in `LoadedWindows.table`."""
    source = context.plan.segment(piece).source
    return pd.DataFrame(
        {
            "recording": piece.recording,
            "onset": piece.brain_starts - context.config.windows.brain_lag,
            "stimulus": Path(source.path).name if source.path else f"channel {source.channel}",
            "audio_onset": piece.audio_starts,
            "version": piece.version,
            "split": piece.split,
            "block": piece.block,
        }
    )
