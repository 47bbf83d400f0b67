"""What there is to choose about an encoder: its sizes, and all that is needed to build it again."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Literal

from bids_speechdecode.decoding.spatial import Positions
from bids_speechdecode.errors import DataError

PresetName = Literal["paper", "small"]


@dataclass(frozen=True)
class Preset:
    """Widths and dilations of the convolutional encoder."""

    n_projected: int
    n_hidden: int
    dilations: tuple[int, ...]
    n_output: int
    n_attention: int


PRESETS: dict[PresetName, Preset] = {
    # The public reconstruction: about 7.3 million parameters at 200 channels and 1,024 dimensions.
    "paper": Preset(270, 320, (1, 2, 4, 8, 16) * 2, 640, 256),
    # The same design, narrow and shallow: trains on a CPU; an output sees 35 samples.
    "small": Preset(32, 48, (1, 2, 4, 8), 96, 32),
}


@dataclass(frozen=True)
class EncoderSpec:
    """What is needed, besides the weights, to build an encoder again."""

    kind: Literal["conv", "linear"]
    n_channels: int
    n_samples: int
    dimension: int
    n_frames: int | None = None
    preset: PresetName = "paper"
    dropout: float = 0.0
    head: int | None = None  # output dimension of a linear head on top
    spatial: Literal["none", "attention"] = "none"
    positions_mm: Positions | None = None  # of the channels; only spatial attention needs them

    def to_json(self) -> str:
        """Return the specification as text, for the header of a file."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> EncoderSpec:
        """Undo `to_json`; JSON has lists for tuples. What the text leaves out has its default."""
        fields = json.loads(text)
        rows = fields.get("positions_mm")
        if rows is not None:
            fields["positions_mm"] = tuple(None if row is None else tuple(row) for row in rows)
        return cls(**fields)

    def require_positions(self) -> None:
        """Raise `DataError` unless there is a position a channel, or none where none is used."""
        n_positions = None if self.positions_mm is None else len(self.positions_mm)
        n_expected = self.n_channels if self.spatial == "attention" else None
        if n_positions != n_expected:
            raise DataError(
                f"The positions do not fit an encoder with spatial {self.spatial}.",
                expected="none" if n_expected is None else f"one for each of {n_expected} channels",
                found="none" if n_positions is None else f"{n_positions}",
                fix="give coordinates in electrodes.tsv or use --spatial none",
            )
