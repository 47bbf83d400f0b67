"""What a report shows of the encoding of one task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from bids_speechdecode.report.encoding import sentences
from bids_speechdecode.report.encoding.models import band_words, model_words
from bids_speechdecode.report.encoding.results import Encoding
from bids_speechdecode.report.page import Picture, Table, add_picture

Drawn = Iterator[tuple[str, Figure, str]]


@dataclass(frozen=True)
class EncodingPage:
    """What a report shows of the encoding of one task.

    Attributes
    ----------
    task, main, reference, band : str
        Models and band in words.
    pictures : mapping of str to Picture
    tables : mapping of str to Table
    summary : tuple of str
        The result in sentences, for the top of the report.
    facts, layers, counted : str
        How the numbers were made, which layer is shown, and over which electrodes means are.
    missing : tuple of str
        Pieces that are not on disk, with the step that makes them.
    notes : tuple of str
    values : mapping of str to Any
        What only one of the templates asks for.
    """

    task: str
    main: str
    reference: str
    band: str
    pictures: Mapping[str, Picture]
    tables: Mapping[str, Table]
    summary: tuple[str, ...]
    facts: str
    layers: str
    counted: str
    missing: tuple[str, ...]
    notes: tuple[str, ...]
    values: Mapping[str, Any]

    @property
    def has_profiles(self) -> bool:
        """Whether there is a picture over bands of modulation, carrier bands or layers."""
        return bool({"modulations", "bands", "layers"} & set(self.pictures))

    @property
    def has_curves(self) -> bool:
        """Whether there is any such picture, or one over lags."""
        return self.has_profiles or "lags" in self.pictures


@dataclass(frozen=True)
class Place:
    """Where a page's pictures go.

    Attributes
    ----------
    report : path
        The report that is written.
    folder : path
        Of the pictures.
    name : str
        What their file names begin with: ``sub-XX`` or ``group``.
    simulated : bool
        Whether the figures say that the data are simulated.
    """

    report: Path
    folder: Path
    name: str
    simulated: bool


def make_page(
    place: Place,
    found: Encoding,
    drawn: Drawn,
    titles: Mapping[str, str],
    tables: Mapping[str, Table],
    **other: Any,
) -> EncodingPage:
    """Write the pictures, and return the page with all that participants and group share.

    Parameters
    ----------
    place : Place
    found : Encoding
    drawn : iterator of (name, figure, words)
        The words are told to who cannot see the figure.
    titles : mapping of str to str
        Of the figures, by name.
    tables : mapping of str to Table
        Empty ones are left out.
    **other
        `summary`, `missing` and `values` of the page.
    """
    pictures = {
        what: add_picture(
            place.report,
            place.folder,
            f"{place.name}_task-{found.task}_desc-encoding{what[0].upper()}{what[1:]}",
            figure,
            titles[what],
            place.simulated,
            words,
        )
        for what, figure, words in drawn
    }
    return EncodingPage(
        task=found.task,
        main=model_words(found.main),
        reference=model_words(found.reference),
        band=band_words(found.band),
        pictures=pictures,
        tables={what: table for what, table in tables.items() if table.rows},
        facts=sentences.facts(found),
        layers=sentences.layers_in_words(found),
        counted=sentences.counted_in_words(found),
        notes=tuple(dict.fromkeys(note for table in found.tables.values() for note in table.notes)),
        **other,
    )
