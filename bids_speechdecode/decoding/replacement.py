"""Ranks of windows that have the signal of some channels from other windows.

The encoder mixes channels linearly first, so another signal of channel c is a rank-one change of
the mix, ``z + w_c (x_c' - x_c)``: the channels are mixed once, not once a channel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import nn

from bids_speechdecode.decoding.contrastive import TIE, unit_vectors
from bids_speechdecode.decoding.encoder import ConvEncoder, Encoder, WithHead
from bids_speechdecode.decoding.windows import WindowSet
from bids_speechdecode.errors import DataError

# Windows encoded at once: what stays in the cache of a core, what keeps a GPU busy.
_BATCH_CPU, _BATCH_GPU = 128, 2048
MARGIN_UNIT = 1e-6  # margins are kept as integers of this


@dataclass(frozen=True)
class Placed:
    """Where the true sounds of windows came among all; integers, so that equal sums are equal.

    Attributes
    ----------
    ranks : array of int64, shape (n,)
        ``2 n_above + n_tied``, at most ``2 (N - 1)``: `Ranks.relative` without its denominator.
    margins : array of int64, shape (n,)
        By how many standard deviations of all candidates' similarities (in `MARGIN_UNIT`) that of
        the true sound is above their mean. It still tells near from far where the rank is 0.
    """

    ranks: np.ndarray
    margins: np.ndarray


class Retrieval:
    """An encoder, its windows, and the sounds of all of them as candidates.

    Parameters
    ----------
    encoder : Encoder
        Moved to the device of the windows and set to evaluation mode.
    windows : WindowSet
        The mix of all of them is kept, N * P * T numbers.
    on_encoded : callable, optional
        Told how many windows were encoded since the last call.
    """

    def __init__(
        self,
        encoder: Encoder,
        windows: WindowSet,
        on_encoded: Callable[[int], None] | None = None,
    ) -> None:
        self.encoder, self.windows = encoder.to(windows.device).eval(), windows
        self.on_encoded = on_encoded or (lambda _: None)
        self.batch_size = _BATCH_CPU if windows.device.type == "cpu" else _BATCH_GPU
        everything = torch.arange(len(windows), device=windows.device)
        with torch.no_grad():
            self.weights = self.encoder.mixing_weights()
            self.mixed = torch.cat(
                [self.encoder.mix(windows.brain(i)) for i in everything.split(self.batch_size)]
            )
            self.basis = _output_basis(self.encoder, windows.target_shape[-1])
            self.candidates = self._project(windows.targets.float())

    def intact(self) -> Placed:
        """Return where the sound of every window comes as it is."""
        everything = np.arange(len(self.windows))
        return self.replaced([], everything, everything, everything)

    @torch.inference_mode()
    def replaced(
        self, channels: Sequence[int], base: np.ndarray, donor: np.ndarray, target: np.ndarray
    ) -> Placed:
        """Return where sound `target` comes for `base` with channels of `donor`.

        Parameters
        ----------
        channels : sequence of int
            Those that come from `donor`; all others come from `base`.
        base, donor, target : array of int, shape (n,)
            Windows.

        Raises
        ------
        DataError
            If an embedding is not finite: NaN has no rank.
        """
        plan = torch.from_numpy(np.stack([base, donor, target])).to(self.windows.device)
        parts = []
        for some in plan.split(self.batch_size, dim=1):
            parts.append(self._place(self._remix(channels, some[0], some[1]), some[2]))
            self.on_encoded(some.shape[1])
        ranks, margins = torch.cat(parts, dim=1).cpu().numpy()
        if (ranks < 0).any():
            raise DataError(
                "Embeddings are not finite, so they have no rank.",
                expected="numbers",
                found=f"NaN or infinity in {int((ranks < 0).sum())} of {len(ranks)} windows",
                fix="Look for NaN in the preprocessed signal and in the training history.",
            )
        return Placed(ranks, margins)

    def _remix(
        self, channels: Sequence[int], base: torch.Tensor, donor: torch.Tensor
    ) -> torch.Tensor:
        """Return the mix of `base` with `channels` of `donor`, shape (B, P, T)."""
        if not len(channels):
            return self.mixed[base]
        change = self._signal(channels, donor) - self._signal(channels, base)
        return self.mixed[base] + self.weights[:, list(channels)] @ change

    def _signal(self, channels: Sequence[int], index: torch.Tensor) -> torch.Tensor:
        """Return the signal of some channels of a batch, shape (B, n_channels, T)."""
        offsets = torch.arange(self.windows.n_samples, device=self.windows.device)
        samples = self.windows.starts[index][:, None] + offsets
        return torch.stack([self.windows.signal[:, c][samples] for c in channels], dim=1).float()

    def _place(self, z: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return rank (-1 where it is not a number) and margin of each true sound, (2, B)."""
        similarity = self._project(self.encoder.encode(z)) @ self.candidates.T
        own = similarity.gather(1, target[:, None])
        # The true sound is never above itself and always counted once as not below.
        n_above = (similarity > own + TIE).sum(dim=1)
        n_not_below = (similarity >= own - TIE).sum(dim=1) - 1
        ranks = (n_above + n_not_below).where(own[:, 0].isfinite(), -1)
        spread, mean = torch.std_mean(similarity, dim=1)
        margins = ((own[:, 0] - mean) / spread).nan_to_num(0.0, 0.0, 0.0)
        return torch.stack([ranks, (margins / MARGIN_UNIT).round().long()])

    def _project(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Return unit vectors in coordinates that keep their products with brain embeddings."""
        unit = unit_vectors(embeddings)
        if self.basis is None:
            return unit
        return (unit.unflatten(1, (-1, len(self.basis))) @ self.basis).flatten(1)


def _output_basis(encoder: Encoder, dimension: int) -> torch.Tensor | None:
    """Return an orthonormal basis, (d, r), of all that a frame of the embedding can be.

    The last map of a narrow encoder reaches few of the `d` dimensions. In these, products with
    candidates are the same and take a fraction of the time (small preset: 97 instead of 1,024).
    None where nothing is gained.
    """
    reach = _reach(encoder)
    if reach is None or 2 * reach.shape[1] > dimension:
        return None
    return torch.linalg.qr(reach.double())[0].float()


def _reach(encoder: Encoder) -> torch.Tensor | None:
    """Return vectors that span the outputs of an encoder, shape (d, n); None if unknown."""
    if isinstance(encoder, ConvEncoder):
        last = cast(nn.Conv1d, encoder.output[-1])
        assert last.bias is not None
        return torch.cat([last.weight[:, :, 0], last.bias[:, None]], dim=1)
    if isinstance(encoder, WithHead):
        inner = _reach(encoder.encoder)
        if inner is not None:
            return torch.cat([encoder.head.weight @ inner, encoder.head.bias[:, None]], dim=1)
    return None
