"""Spatial attention: channels enter the encoder by their position instead of their number."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from bids_speechdecode.errors import DataError

# x, y and z in mm for each channel; None where the channel was not localised.
Positions = tuple[tuple[float, float, float] | None, ...]

# The waves have their common period here: a cube around the origin, x, y and z from -128 to 128.
# The MNI152 brain ends at 72, -106 and 82 mm, so no wave meets itself inside a head.
BOX_MM = 256.0
# Shortest wave: BOX_MM / 6 = 43 mm, about the width of a gyrus with its two sulci. See below.
N_CYCLES = 6


def as_positions(positions_mm: np.ndarray) -> Positions:
    """Return an array of shape (n_channels, 3), mm, as `Positions`: None for a row with NaN."""
    return tuple(
        (float(x), float(y), float(z)) if np.isfinite([x, y, z]).all() else None
        for x, y, z in positions_mm
    )


class SpatialAttention(nn.Module):
    r"""Weighted means over channels whose weights are functions of the position.

    Output `o` is ``sum_c softmax_c(a_o(p_c)) x_c`` with the map

    .. math:: a_o(p) = \sum_{w} \Re z_{ow} \cos(2 \pi w \cdot p / L)
                                + \Im z_{ow} \sin(2 \pi w \cdot p / L)

    over wave vectors `w` of integers (k, l, m). This is the spatial attention of Defossez et al.
    (2023, Nature Machine Intelligence 5, 1097-1107), there over the flat layout of MEG and EEG
    sensors, extended to three dimensions, with these differences:

    - `L` is the same 256 mm for all axes and all participants, not the extent of the sensors, so
      a map means the same place in every montage.
    - All directions of `w` up to a length of 6 cycles (their k, l >= 0 are a quarter of the
      plane, in which the mirror image of a map is no map): one of each pair `w`, `-w`, which are
      the same wave, and not zero, which softmax does not see. Those are 462 waves, 924
      coefficients an output: 30 thousand for 32 outputs, 249 thousand for 270, beside the 7.3
      million of the network; the paper has 2,048 an output. Waves of 43 mm are long beside the
      3.5 mm from contact to contact of a depth electrode: neighbours start out alike, and a
      steep map, which softmax sharpens, can still tell them apart where the training asks for it.
    - No spatial dropout: a ball of the paper's size holds whole depth electrodes, in some
      participants all of them.

    All weights are positive, so an output cannot be the difference of two contacts; the 1x1
    convolution that follows, as in the paper, takes differences of outputs.

    Parameters
    ----------
    positions_mm : Positions
        Of every channel, in mm RAS, in one space for all montages that share weights. Channels
        without position have weight 0.
    n_outputs : int

    Raises
    ------
    DataError
        If no channel has a position, or one lies outside the box.
    """

    features: torch.Tensor
    located: torch.Tensor

    def __init__(self, positions_mm: Positions, n_outputs: int) -> None:
        super().__init__()
        _require_in_box(positions_mm)
        # Of the montage, not of the weights: another montage loads the same weights.
        self.register_buffer("features", fourier_features(positions_mm), persistent=False)
        located = torch.tensor([position is not None for position in positions_mm])
        self.register_buffer("located", located, persistent=False)
        n_features = self.features.shape[1]
        # Half of the features' squares is one on average: a map starts with a variance of 1/2.
        coefficients = torch.randn(n_outputs, n_features) / math.sqrt(n_features)
        self.coefficients = nn.Parameter(coefficients)

    def weights(self) -> torch.Tensor:
        """Return the share of each channel in each output, shape (n_outputs, n_channels)."""
        # In float32 whatever the precision of training: softmax magnifies the rounding of maps.
        with torch.autocast(self.features.device.type, enabled=False):
            maps = self.coefficients @ self.features.T
            return maps.masked_fill(~self.located, -math.inf).softmax(dim=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, C, T) to (B, n_outputs, T)."""
        return self.weights() @ x


def fourier_features(positions_mm: Positions) -> torch.Tensor:
    """Return cosine and sine of every wave at every position, shape (n_channels, 2 * n_waves).

    Rows of channels without position are those of the origin.
    """
    points = torch.tensor([p or (0.0, 0.0, 0.0) for p in positions_mm], dtype=torch.float64)
    phases = 2 * math.pi / BOX_MM * points @ wave_vectors().T
    return torch.cat([phases.cos(), phases.sin()], dim=1).float()


def wave_vectors() -> torch.Tensor:
    """Return the (k, l, m) of all waves up to `N_CYCLES`, one of each pair, shape (n_waves, 3)."""
    axis = torch.arange(-N_CYCLES, N_CYCLES + 1, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis, axis)
    # The grid is in order and symmetric: the second half mirrors the first, zero between them.
    half = grid[len(grid) // 2 + 1 :]
    return half[half.norm(dim=1) <= N_CYCLES]


def _require_in_box(positions_mm: Sequence[tuple[float, float, float] | None]) -> None:
    located = [position for position in positions_mm if position is not None]
    if not located:
        raise DataError(
            "Spatial attention needs positions, and no channel has one.",
            expected="an electrodes.tsv in a space that is understood",
            found=f"{len(positions_mm)} channels without position",
            fix="add the coordinates or use --spatial none",
        )
    farthest = max(located, key=lambda position: max(map(abs, position)))
    if max(map(abs, farthest)) > BOX_MM / 2:
        raise DataError(
            "A contact lies outside every head.",
            expected=f"x, y and z from {-BOX_MM / 2:g} to {BOX_MM / 2:g} mm",
            found=", ".join(f"{value:g}" for value in farthest),
            fix="check the units and the space of electrodes.tsv",
        )
