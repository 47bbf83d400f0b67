"""Windows of paired signal and sound that live on the device, and the scaling of targets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from bids_speechdecode.errors import DataError
from bids_speechdecode.timeline import Interval

# What an encoder reads: windows, (B, C, T); of several participants, with the number of theirs.
Signal = torch.Tensor | tuple[int, torch.Tensor]
# A window may end this much (seconds) after its interval: binary floats, not sound.
_SLACK = 1e-6


def list_windows(
    interval: Interval, duration: float, stride: float, *, heard: Interval | None = None
) -> np.ndarray:
    """Return the starts of all windows that lie in `interval`.

    Parameters
    ----------
    interval : Interval
        Where the first window starts and the last one ends at the latest, in seconds.
    duration, stride : float
        Seconds.
    heard : Interval, optional
        Keep only the windows that lie in it. The grid stays that of `interval`, so sound that was
        heard in two recordings has the same windows in both.

    Returns
    -------
    starts : array, shape (n_windows,), seconds

    Examples
    --------
    >>> list_windows(Interval(10.0, 20.0), 3.0, 3.0).tolist()
    [10.0, 13.0, 16.0]
    >>> list_windows(Interval(10.0, 20.0), 3.0, 3.0, heard=Interval(11.0, 20.0)).tolist()
    [13.0, 16.0]
    """
    n_windows = int((interval.duration - duration + _SLACK) // stride) + 1
    starts = interval.start + stride * np.arange(max(n_windows, 0))
    if heard is None:
        return starts
    return starts[(starts >= heard.start - _SLACK) & (starts + duration <= heard.stop + _SLACK)]


def finite_windows(signal: torch.Tensor, starts: torch.Tensor, n_samples: int) -> torch.Tensor:
    """Return which windows hold no NaN or infinity, such as those over a gap in the recording.

    Parameters
    ----------
    signal : tensor, shape (n_times, n_channels)
    starts : tensor of int64, shape (n_windows,), samples
    n_samples : int

    Returns
    -------
    finite : tensor of bool, shape (n_windows,)
    """
    bad = torch.cat([~part.isfinite().all(dim=1) for part in signal.split(65536)])
    n_bad_before = torch.cat([bad.new_zeros(1, dtype=torch.int64), bad.cumsum(0)])
    return n_bad_before[starts + n_samples] == n_bad_before[starts]


@dataclass(frozen=True)
class WindowSet:
    """Signal and targets on one device; batches are cut from them by index.

    Attributes
    ----------
    signal : tensor, shape (n_times, n_channels)
        Robust z; float32, or float16 to fit a week on a GPU.
    starts : tensor of int64, shape (n_windows,)
        First sample of each window in `signal`.
    n_samples : int
        Length of a window.
    targets : tensor, shape (n_windows, dimension) or (n_windows, n_frames, dimension)
    """

    signal: torch.Tensor
    starts: torch.Tensor
    n_samples: int
    targets: torch.Tensor

    def __post_init__(self) -> None:
        if len(self.starts) != len(self.targets):
            raise DataError(
                "Windows and targets do not match.",
                expected=f"one target for each of {len(self.starts)} windows",
                found=f"{len(self.targets)} targets",
            )
        inside = (self.starts >= 0) & (self.starts + self.n_samples <= len(self.signal))
        if not bool(inside.all()):
            raise DataError(
                "Windows reach beyond the signal.",
                expected=f"starts in 0 ... {len(self.signal) - self.n_samples} samples",
                found=f"{int(self.starts.min())} ... {int(self.starts.max())}",
            )

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def n_channels(self) -> int:
        """Number of channels of the signal."""
        return self.signal.shape[1]

    @property
    def target_shape(self) -> tuple[int, ...]:
        """``(dimension,)`` or ``(n_frames, dimension)``."""
        return tuple(self.targets.shape[1:])

    @property
    def device(self) -> torch.device:
        """Where signal and targets live."""
        return self.signal.device

    @property
    def parts(self) -> tuple[WindowSet, ...]:
        """The sets within which windows are compared: this one."""
        return (self,)

    def n_batches(self, size: int) -> int:
        """Return the number of batches of at most `size` windows."""
        return math.ceil(len(self) / size)

    def batches(
        self, size: int, order: torch.Generator | None = None
    ) -> list[tuple[WindowSet, torch.Tensor]]:
        """Return every window once, as (set, index) of batches of at most `size`.

        Batches are equal but for one window. So no window is left out and no batch is so small
        that its statistics and its handful of negatives mean nothing.

        Parameters
        ----------
        size : int
        order : torch.Generator, optional
            Draws the order of the windows; without it they come as they are.
        """
        n_windows = len(self)
        index = (
            torch.arange(n_windows) if order is None else torch.randperm(n_windows, generator=order)
        )
        return [(self, part) for part in index.tensor_split(self.n_batches(size))]

    def read(self, index: torch.Tensor) -> Signal:
        """Return what an encoder reads of the windows in `index`."""
        return self.brain(index)

    def brain(self, index: torch.Tensor) -> torch.Tensor:
        """Return the signal of the windows in `index`, float32, shape (B, C, T)."""
        offsets = torch.arange(self.n_samples, device=self.device)
        samples = self.starts[index][:, None] + offsets  # (B, T)
        return self.signal[samples].float().transpose(1, 2).contiguous()

    def audio(self, index: torch.Tensor) -> torch.Tensor:
        """Return the targets of the windows in `index`, float32, shape (B, d) or (B, F, d)."""
        return self.targets[index].float()

    def subset(self, index: torch.Tensor) -> WindowSet:
        """Return the windows in `index` (positions or mask), on the same signal."""
        return replace(self, starts=self.starts[index], targets=self.targets[index])


def concatenate_windows(parts: Sequence[WindowSet]) -> WindowSet:
    """Return the windows of several recordings as one set, in the order given.

    The signals are joined too; no window spans a joint, since its start stays with its recording.
    """
    shifts = np.cumsum([0, *(len(part.signal) for part in parts[:-1])]).tolist()
    return WindowSet(
        signal=torch.cat([part.signal for part in parts]),
        starts=torch.cat([part.starts + n for part, n in zip(parts, shifts, strict=True)]),
        n_samples=parts[0].n_samples,
        targets=torch.cat([part.targets for part in parts]),
    )


@dataclass(frozen=True)
class TargetScaler:
    """z-score per dimension with the statistics of the training targets.

    Attributes
    ----------
    mean, scale : array of float32, shape (dimension,)
        `scale` is 1 for a dimension that does not vary.
    """

    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def fit(cls, targets: np.ndarray, block: int = 4096) -> TargetScaler:
        """Return the scaler of training `targets`, shape (N, dimension) or (N, F, dimension).

        Sums run in float64 over blocks of windows, so that no second copy is held in memory.
        Raises DataError if a target is not finite.
        """
        rows = targets.reshape(-1, targets.shape[-1])
        spans = [slice(i, i + block) for i in range(0, len(rows), block)]
        mean = sum(rows[s].sum(0, dtype=np.float64) for s in spans) / len(rows)
        square = sum(((rows[s] - mean) ** 2).sum(0) for s in spans) / len(rows)
        if not np.isfinite(square).all():
            raise DataError(
                "The training targets are not finite.",
                expected="numbers in every dimension",
                found=f"NaN or infinity in {int((~np.isfinite(square)).sum())} dimensions",
            )
        scale = np.sqrt(square)
        # Rounding leaves a constant dimension with a scale near 0, which would blow up noise.
        scale = np.where(scale > 1e-6 * np.maximum(np.abs(mean), 1e-6), scale, 1.0)
        return cls(mean.astype(np.float32), scale.astype(np.float32))

    def transform(self, targets: np.ndarray) -> np.ndarray:
        """Return ``(targets - mean) / scale`` as float32, in the shape of `targets`."""
        return ((targets - self.mean) / self.scale).astype(np.float32, copy=False)
