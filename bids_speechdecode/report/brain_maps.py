"""The group's maps on the cortical surface and in slices of the template brain.

Maps in, matplotlib figures out; nilearn draws the brains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bids_speechdecode.report.brain import (
    CONTRIBUTION,
    DPI,
    FAINT,
    FREE_STYLE,
    Scale,
    add_scale,
)
from bids_speechdecode.report.figures import WIDTH

SLICES = (-30, -15, 0, 15, 30, 45, 60)  # mm above the commissures, the same in every report
TOP = 0.35  # inches above the first row, for the mark of simulated data
HEADING: Any = {"fontsize": 9, "fontweight": "bold"}


@dataclass(frozen=True)
class GroupMap:
    """One of the group's maps: `surface` on fsaverage5 (left, right) or `volume`, a NIfTI file.

    Where a map has no value (NaN), nothing was covered.
    """

    name: str  # effect, coverage or n
    surface: tuple[np.ndarray, np.ndarray] | None = None  # two of shape (10242,)
    volume: Path | None = None
    scale: Scale | None = None  # fixed classes of colour of another measure
    title: str = ""  # where the name does not say what it is


@dataclass(frozen=True)
class _Shade:
    """How the values of a map become colours."""

    title: str
    cmap: Any
    low: float
    high: float
    scale: Scale | None = None

    def of(self, values: np.ndarray) -> np.ndarray:
        """Return what is drawn: the class of a measure from 1 up, any other value as it is."""
        return self.scale.classes(values) + 1 if self.scale else values


def _shade(group_map: GroupMap, highest: float) -> _Shade:
    name = group_map.name
    scale = CONTRIBUTION if name == "effect" else group_map.scale
    if scale:
        title, classes = group_map.title or name.capitalize(), ListedColormap(scale.colors)
        return _Shade(title, classes, 0.5, len(scale.colors) + 0.5, scale)
    if name == "n":  # a whole number: one colour each
        n = max(round(highest), 1)
        colors = matplotlib.colormaps["YlGnBu"](np.linspace(0.15, 1, n))
        return _Shade("Participants", ListedColormap(colors), 0.5, n + 0.5)
    return _Shade(name.capitalize(), matplotlib.colormaps["YlGnBu"], 0.0, max(highest, 1e-12))


def _add_map_scale(figure: Figure, shade: _Shade, place: tuple[float, ...], label: str) -> None:
    if shade.scale:
        add_scale(figure, (place[0], place[1], place[2], place[3]), shade.scale)
        return
    axes = figure.add_axes((place[0], place[1], place[2], place[3]))
    mappable = ScalarMappable(Normalize(shade.low, shade.high), shade.cmap)
    bar = Colorbar(axes, mappable, orientation="horizontal")
    if shade.title == "Participants":
        bar.locator = MaxNLocator(8, integer=True)
        bar.update_ticks()
    bar.ax.tick_params(labelsize=7, length=2, pad=1.5)
    bar.set_label(label, fontsize=8, labelpad=2)


MAP_UNITS = {
    "coverage": "Coverage (electrodes of all participants, weighted by distance)",
    "n": "Participants with electrodes near",
}
_SURFACE_VIEWS = (
    ("left", "lateral"),
    ("left", "medial"),
    ("right", "medial"),
    ("right", "lateral"),
)


@matplotlib.rc_context(FREE_STYLE)
def surface_maps(maps: Sequence[GroupMap]) -> Figure:
    """Draw maps on the inflated fsaverage5 in four views, one row per map.

    Parameters
    ----------
    maps : sequence of GroupMap
        With `surface`: two arrays, shape (10242,); NaN where nothing was covered.
    """
    from nilearn.datasets import load_fsaverage, load_fsaverage_data

    mesh = load_fsaverage("fsaverage5")["inflated"].parts
    sulci = load_fsaverage_data("fsaverage5", mesh_type="inflated", data_type="sulcal").data.parts
    row_height = 2.05
    height = row_height * len(maps) + TOP
    figure = Figure(figsize=(WIDTH, height), dpi=DPI)
    for row, group_map in enumerate(maps):
        assert group_map.surface is not None
        bottom = (height - TOP - row_height * (row + 1)) / height
        shade = _shade(group_map, float(np.nanmax(np.r_[0, *group_map.surface])))
        for column, (side, view) in enumerate(_SURFACE_VIEWS):
            place = (column / 4, bottom + 0.36 / height, 0.25, 1.5 / height)
            axes: Any = figure.add_axes(place, projection="3d")
            values = shade.of(group_map.surface[side == "right"])
            _draw_surface(axes, mesh[side], values, sulci[side], (side, view), shade)
            x, y = (column + 0.5) / 4, bottom + 1.8 / height
            figure.text(x, y, f"{side}, {view}", fontsize=8, ha="center", va="top")
        figure.text(0.01, bottom + 2.03 / height, shade.title, va="top", **HEADING)
        bar = (0.18, bottom + 0.38 / height, 0.64, 0.09 / height)
        _add_map_scale(figure, shade, bar, MAP_UNITS.get(group_map.name, group_map.name))
    return figure


def _draw_surface(
    axes: Any, mesh: Any, values: np.ndarray, sulci: Any, view: tuple[str, str], shade: _Shade
) -> None:
    """Draw one hemisphere from one side; vertices without a value show the grey surface."""
    from nilearn.plotting import plot_surf

    plot_surf(
        mesh,
        surf_map=np.asarray(values, dtype=float),
        bg_map=np.where(np.asarray(sulci) > 0, 0.45, 0.33),  # two light greys: sulci and gyri
        hemi=view[0],
        view=view[1],
        cmap=shade.cmap,
        vmin=shade.low,
        vmax=shade.high,
        colorbar=False,
        axes=axes,
    )
    axes.set_box_aspect(None, zoom=1.5)  # nilearn leaves half of the panel empty
    for collection in axes.collections:
        collection.set_rasterized(True)  # twenty thousand triangles would be megabytes of SVG


@matplotlib.rc_context(FREE_STYLE)
def volume_maps(maps: Sequence[GroupMap]) -> Figure:
    """Draw maps in axial slices over the MNI152 template, one row per map.

    Parameters
    ----------
    maps : sequence of GroupMap
        With `volume`: a NIfTI file in MNI space; NaN where nothing was covered.
    """
    row_height = 1.9
    height = row_height * len(maps) + TOP
    figure = Figure(figsize=(WIDTH, height), dpi=DPI)
    for row, group_map in enumerate(maps):
        bottom = (height - TOP - row_height * (row + 1)) / height
        shade, image = _volume(group_map)
        _draw_slices(figure, image, shade, (0.0, bottom + 0.52 / height, 1.0, 1.18 / height))
        figure.text(0.01, bottom + 1.88 / height, shade.title, va="top", **HEADING)
        bar = (0.18, bottom + 0.38 / height, 0.64, 0.09 / height)
        _add_map_scale(figure, shade, bar, MAP_UNITS.get(group_map.name, group_map.name))
    return figure


def _volume(group_map: GroupMap) -> tuple[_Shade, Any]:
    import nibabel

    assert group_map.volume is not None
    loaded: Any = nibabel.load(group_map.volume)
    values = np.asarray(loaded.dataobj, dtype=float)
    shade = _shade(group_map, float(np.nanmax(np.r_[0, values.ravel()])))
    drawn = np.nan_to_num(shade.of(values)).astype(np.float32)  # nilearn knows no NaN
    return shade, nibabel.Nifti1Image(drawn, loaded.affine)


def _draw_slices(
    figure: Figure, image: Any, shade: _Shade, place: tuple[float, float, float, float]
) -> None:
    from nilearn.datasets import load_mni152_brain_mask
    from nilearn.plotting import plot_stat_map

    display = plot_stat_map(
        image,
        display_mode="z",
        cut_coords=SLICES,
        cmap=shade.cmap,
        vmin=shade.low,
        vmax=shade.high,
        threshold=min(0.5, shade.high / 100),  # zero is where nothing was covered
        symmetric_cbar=False,
        resampling_interpolation="nearest",
        colorbar=False,
        draw_cross=False,
        annotate=False,
        dim=-0.6,
        black_bg=False,
        figure=figure,
        axes=place,
    )
    mask = load_mni152_brain_mask(resolution=2)
    display.add_contours(mask, levels=[0.5], colors=[FAINT], linewidths=0.6)
    display.annotate(size=7)
