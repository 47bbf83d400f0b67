"""The table of an atlas's labels, so that the group tables can be read without the atlas."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from bids_speechdecode.anatomy.atlas import Atlas
from bids_speechdecode.bids.derivatives import Derivatives
from bids_speechdecode.bids.files import write_tsv
from bids_speechdecode.bids.sidecars import signature, write_sidecar

VERSION = 1

_COLUMNS = {
    "index": "Value of the label in the atlas's image",
    "name": "Name that no other label has",
    "label": "Name in the tables of contributions, where the hemisphere stands beside it",
    "hemisphere": "L, R or B (both)",
    "structure": "What the label is part of; n/a where unknown",
}
# A column that BIDS defines keeps its type in the sidecar: described by text alone it is a string.
_FORMATS = {"index": {"Format": "integer"}}


def dseg_table(atlas: Atlas) -> pd.DataFrame:
    """Return one row per label: index, name, label, hemisphere, structure.

    BIDS wants a name for each index; left and right of one parcel are told apart by "L_" and
    "R_" before it.
    """
    table = atlas.labels.sort_values("index").reset_index(drop=True)
    label = table["name"].astype(str)
    side = table["hemisphere"].astype(str)
    name = label.where(~label.duplicated(keep=False), side + "_" + label)
    structure = table["structure"].replace("", None)
    return pd.DataFrame(
        {
            "index": table["index"].astype(int),
            "name": name,
            "label": label,
            "hemisphere": side,
            "structure": structure,
        },
        columns=list(_COLUMNS),
    )


def write_dseg(out: Derivatives, atlas: Atlas) -> Path:
    """Write the table of labels with its sidecar; return its path."""
    path, table = out.atlas_path(atlas.name), dseg_table(atlas)
    write_tsv(path, table)
    write_sidecar(
        path,
        step="group",
        signature=signature("dseg", VERSION, table.to_csv(index=False), [atlas.name]),
        Atlas=atlas.name,
        Space=atlas.space,
        SpatialReference=atlas.space,
        Description=f"Labels of the atlas {atlas.name}",
        **{
            name: {"Description": text, **_FORMATS.get(name, {})} for name, text in _COLUMNS.items()
        },
    )
    return path
