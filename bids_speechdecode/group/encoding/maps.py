"""Where in the brain speech models predict, and where tuning helps: volumes and surfaces."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from bids_speechdecode.anatomy.atlas import Atlas
from bids_speechdecode.bids.derivatives import Derivatives
from bids_speechdecode.bids.files import atomic_write
from bids_speechdecode.encoding.compared import find_reference, main_model, read_models
from bids_speechdecode.encoding.views import in_view, shown_band, shown_layers
from bids_speechdecode.group.encoding.summary import GroupEncoding, describe_encoding
from bids_speechdecode.group.maps import SPACE, Kernel, Maps, smooth_volume, volume_image
from bids_speechdecode.group.surfaces import SPACE as SURFACE
from bids_speechdecode.group.surfaces import smooth_surface, surface_image

PREDICTION, GAIN = "encodingR", "encodingGain"
TEXTS = {
    PREDICTION: "Mean over covering participants of the held-out correlation",
    GAIN: "Mean over covering participants of the gain in held-out correlation over the reference",
    "encodingCoverage": "Density of the electrodes of all participants; 1 is one electrode there",
    "encodingN": "Participants who cover the place",
}
# The electrodes are the same in both, so that coverage is written once, beside the prediction.
_PARTS = {
    PREDICTION: {PREDICTION: "effect", "encodingCoverage": "coverage", "encodingN": "n"},
    GAIN: {GAIN: "effect"},
}


def write_encoding_maps(out: Derivatives, found: GroupEncoding, atlas: Atlas) -> list[Path]:
    """Write the maps of the main model's prediction and of its gain; return the paths.

    Model, layer and band are those that the group's page tells of first.
    """
    paths = []
    cortex = None
    if atlas.surface is not None:
        cortex = (atlas.surface[0] > 0, atlas.surface[1] > 0)
    for kind, contacts, which in _values(found):
        volume, surfaces = smooth_volume(contacts), smooth_surface(contacts, cortex=cortex)
        for desc, part in _PARTS[kind].items():
            paths.append(_write_volume(out, found, desc, part, volume, which))
            for side, maps in surfaces.items():
                paths.append(_write_surface(out, found, desc, part, side, maps, which))
    return paths


def _values(found: GroupEncoding) -> Iterator[tuple[str, pd.DataFrame, dict[str, object]]]:
    """Yield what is mapped: kind, contacts with a column contribution, and of which model."""
    scores = found.tables["encoding"]
    scores = scores[scores["r"].notna()]
    if not len(scores):
        return
    models = read_models(found.about, scores["model"])
    reference = find_reference(found.about.get("Reference"), models)
    main, band = main_model(models, reference), shown_band(scores["band"])
    layers = shown_layers(scores, reference, band)
    gains = found.tables["encodingElectrodeContrasts"]
    if len(gains):
        gains = gains[gains["reference"] == reference]
    for kind, table, column in ((PREDICTION, scores, "r"), (GAIN, gains, "difference")):
        if not len(table):
            continue
        contacts = in_view(table[table["model"] == main], layers, band)
        contacts = contacts[contacts[column].notna()]
        if contacts["x"].notna().any():
            which = {"Model": main, "Layer": int(contacts["layer"].iloc[0]), "Band": band}
            contacts = contacts.assign(contribution=contacts[column])
            yield kind, contacts.reset_index(drop=True), which


def _write_volume(
    out: Derivatives,
    found: GroupEncoding,
    desc: str,
    part: str,
    maps: Maps,
    which: dict[str, object],
) -> Path:
    path = out.group_path(
        task=found.task, space=SPACE, desc=desc, suffix="map", extension=".nii.gz"
    )
    image = volume_image(getattr(maps, part), part, simulated=found.simulated)
    with atomic_write(path) as temporary:
        image.to_filename(temporary)
    _describe(path, found, desc, maps, which)
    return path


def _write_surface(
    out: Derivatives,
    found: GroupEncoding,
    desc: str,
    part: str,
    side: str,
    maps: Maps,
    which: dict[str, object],
) -> Path:
    path = out.group_path(
        task=found.task, hemi=side, space=SURFACE, desc=desc, suffix="map", extension=".shape.gii"
    )
    image = surface_image(getattr(maps, part), part, side, simulated=found.simulated)
    with atomic_write(path) as temporary:
        image.to_filename(temporary)
    _describe(path, found, desc, maps, which)
    return path


def _describe(
    path: Path, found: GroupEncoding, desc: str, maps: Maps, which: dict[str, object]
) -> None:
    describe_encoding(
        path,
        found,
        Kernel(),
        Description=TEXTS[desc],
        Kernel=asdict(Kernel()),
        NContacts=maps.n_contacts,
        Notes=maps.notes,
        **which,
    )
