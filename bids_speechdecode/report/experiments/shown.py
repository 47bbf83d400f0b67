"""How an experiment is shown: its title, its columns, and the figures of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

Tables = Mapping[str, pd.DataFrame]  # "" is the table of cells, others by their word


@dataclass(frozen=True)
class FigureOf:
    """A figure of an experiment.

    Attributes
    ----------
    name : str
        A word for the file.
    title, caption : str
    draw : callable
        From the experiment's tables of one participant; None where they have nothing to draw.
    """

    name: str
    title: str
    caption: str
    draw: Callable[[Tables], Figure | None]


@dataclass(frozen=True)
class Shown:
    """How an experiment is shown.

    Attributes
    ----------
    title : str
    columns : mapping of str to str
        Headings of the columns that distinguish its cells, as shown in the table of models.
    words : mapping of str to str
        What the values of those columns are called.
    figures : tuple of FigureOf
        Beside the one of all findings.
    """

    title: str
    columns: Mapping[str, str]
    words: Mapping[str, str]
    figures: tuple[FigureOf, ...] = ()
