"""Pictures of electrodes: the right colour at the right place, everywhere the same, and safe."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import matplotlib
import nibabel
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex, to_rgb
from matplotlib.text import Text

from bids_speechdecode.report import (
    agreement,
    brain,
    brain_maps,
    charts,
    electrode_tables,
    electrodes,
    figures,
    maps,
    view3d,
)
from bids_speechdecode.report.brain_maps import GroupMap
from bids_speechdecode.report.figures import mark_simulated
from bids_speechdecode.report.page import figure_svg

PODCAST = Path(__file__).resolve().parents[2] / "shared" / "data" / "ds005574"
HOSTILE = "</script><script>alert(1)</script>"
N_VERTICES = 10242  # of a hemisphere of fsaverage5


def contacts_on_shafts(n_shafts: int = 4, n: int = 8, seed: int = 0) -> pd.DataFrame:
    """Return contacts on straight shafts; one shaft contributes in its middle."""
    rng = np.random.default_rng(seed)
    rows = []
    for shaft in range(n_shafts):
        side = -1 if shaft % 2 else 1
        for k in range(1, n + 1):
            value = 0.04 * np.exp(-((k - n / 2) ** 2) / 2) * (shaft == 1) + rng.normal(0, 0.002)
            rows.append(
                {
                    "name": f"{'RL'[side < 0]}{'ABCD'[shaft // 2]}{k}",
                    "group": f"{'RL'[side < 0]}{'ABCD'[shaft // 2]}",
                    "x": side * (25.0 + 4 * k),
                    "y": -20.0 + 15 * (shaft // 2),
                    "z": 5.0 + shaft,
                    "label": None if k == 1 else ("superiortemporal", "insula")[k > 5],
                    "hemisphere": "L" if side < 0 else "R",
                    "contribution": value,
                    "ci_low": value - 0.005,
                    "ci_high": value + 0.005,
                    "q": 0.01 if value > 0.015 else 0.6,
                    "shaft_contribution": 0.05,
                    "shaft_q": 0.0004,
                    "kept": k != 2,
                    "reason": "" if k != 2 else "white matter (31 mm)",
                }
            )
    return pd.DataFrame(rows)


# ----------------------------------------------------------------------------------- colours


def test_one_scale_is_fixed_symmetric_and_ordered() -> None:
    # Reports are written one by one; the same loss must have the same colour in all of them.
    values = np.array([-1, -0.03, -0.003, 0, 0.0019, 0.0021, 0.03, 1])
    assert brain.contribution_class(values).tolist() == [0, 1, 4, 5, 5, 6, 9, 10]
    assert (brain.contribution_class(-values) == 10 - brain.contribution_class(values)).all()
    alone = brain.contribution_hex([0.03])
    assert alone == brain.contribution_hex([0.03, 5.0])[:1]
    assert np.isnan(brain.contribution_class([np.nan])).all()
    assert brain.contribution_hex([np.nan])[0] not in brain.contribution_colors()


# Machado, Oliveira & Fernandes 2009, full deficiency: linear RGB seen by a colour-blind eye.
DEFICIENCIES = {
    "protan": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deutan": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritan": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def _lab(rgb: np.ndarray) -> np.ndarray:
    """Return CIE L*a*b* of linear RGB (sRGB primaries, D65)."""
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    xyz = np.clip(rgb, 0, 1) @ to_xyz.T / [0.9505, 1.0, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_signs_differ_for_colour_blind_readers(deficiency: str) -> None:
    # One man in twelve; whether an electrode helps or harms must not depend on the reader's eyes.
    srgb = np.array([to_rgb(color) for color in brain.contribution_colors()])
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = _lab(linear @ np.array(DEFICIENCIES[deficiency]).T)
    for step in range(1, 6):  # classes of the same size and the other sign
        assert np.linalg.norm(seen[5 + step] - seen[5 - step]) > (8 if step == 1 else 15)
    neighbours = np.linalg.norm(np.diff(seen, axis=0), axis=1)
    assert neighbours.min() > 4  # a difference that is just visible is about 2.3


# ------------------------------------------------------------------------ contacts on brains


def _marks(figure: Any) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return positions, face colours and edge colours of the markers of each panel."""
    return [
        (drawn.get_offsets().data, drawn.get_facecolors(), drawn.get_edgecolors())
        for axes in figure.axes
        for drawn in axes.collections
        if len(drawn.get_offsets()) and hasattr(drawn, "get_sizes") and len(drawn.get_sizes())
    ]


def test_contacts_are_drawn_where_they_are_in_their_colour() -> None:
    # A picture with left and right swapped, or colours shuffled by sorting, is worse than none.
    contacts = contacts_on_shafts()
    marks = _marks(brain.contribution_brain(contacts))
    axial = [m for m in marks if np.ptp(m[0][:, 0]) > 0]
    expected = {
        (round(r.x, 3), round(r.y, 3)): brain.contribution_hex([r.contribution])[0]
        for r in contacts.itertuples()
    }
    found = {
        (round(float(x), 3), round(float(y), 3)): to_hex(color)
        for offsets, faces, _ in axial
        for (x, y), color in zip(offsets, faces, strict=True)
    }
    assert expected.items() <= found.items()


def test_left_panel_shows_left_contacts_only() -> None:
    # The lateral views are of one hemisphere each; a contact of the other would look superficial.
    contacts = contacts_on_shafts()
    left = contacts[contacts["x"] < 0]
    panel = brain.contribution_brain(contacts).axes[1]
    drawn = np.concatenate([c.get_offsets().data for c in panel.collections])
    expected = left[["y", "z"]].to_numpy()
    assert sorted(map(tuple, np.abs(drawn).round(3))) == sorted(map(tuple, np.abs(expected)))


def test_significant_contacts_are_outlined() -> None:
    # The outline is what separates a result from noise of the same colour.
    contacts = contacts_on_shafts()
    marks = _marks(brain.contribution_brain(contacts))
    outlined = sum(len(m[0]) for m in marks if to_hex(m[2][0]) == "#000000")
    n = int((contacts["q"] <= 0.05).sum())
    assert n > 0
    assert outlined == 3 * n  # one of the two lateral views, from the front, from above


def test_reasons_have_their_own_shape_and_colour() -> None:
    # In grey print only the shape is left.
    contacts = contacts_on_shafts()
    names = ["bad: noisy", "no sound", "3 mm away", "white matter", "type ECG", "x", "y"]
    dropped = contacts.index[~contacts["kept"]]
    contacts.loc[dropped, "reason"] = (names * 3)[: len(dropped)]
    contacts.loc[contacts.index[:12], "kept"] = False
    contacts.loc[contacts.index[:12], "reason"] = [names[i % 7] for i in range(12)]
    groups = brain.selection_groups(contacts)
    marks = brain.selection_marks(groups)
    assert len(marks) == 7  # kept, five reasons, all others
    assert len({mark["marker"] for mark in marks.values()}) == 7
    assert len({mark["c"] for mark in marks.values()}) == 7
    assert set(groups) == set(marks)
    assert "dropped: other reasons (2)" in {mark["label"] for mark in marks.values()}
    texts = [t.get_text() for t in brain.selection_brain(contacts).legends[0].get_texts()]
    assert f"kept ({contacts['kept'].sum()})" in texts


@pytest.mark.parametrize("draw", [brain.native_selection, brain.native_contributions])
def test_native_positions_name_their_space(draw: Any) -> None:
    # Coordinates of one patient's scanner drawn into a template brain would be a false picture.
    figure = draw(contacts_on_shafts(), "ScanRAS")
    assert any("ScanRAS" in text.get_text() for text in figure.texts)
    assert {axes.get_xlabel() for axes in figure.axes[:3]} == {"x (mm)", "y (mm)"}


# ------------------------------------------------------------------------------------ charts


def test_regions_are_means_of_their_contacts() -> None:
    # An independent mean per region and side; contacts without a label count nowhere.
    contacts = contacts_on_shafts()
    means = charts.region_means(contacts)
    for row in means.itertuples():
        same = (contacts["label"] == row.label) & (contacts["hemisphere"] == row.hemisphere)
        assert row.mean == pytest.approx(sum(contacts["contribution"][same]) / sum(same))
    assert means["n_contacts"].sum() == contacts["label"].notna().sum()
    figure = charts.region_contributions(contacts)
    assert figure.axes[1].get_xlabel() == "Contacts (n)"
    assert len(figure.axes[0].patches) == len(means)


def test_shafts_are_in_the_order_of_their_contacts() -> None:
    # A table sorted by name has A1, A10, A2; along a shaft that order would be a false profile.
    contacts = contacts_on_shafts(n=12).sort_values("name")
    shafts = charts.shafts_of(contacts)
    assert list(shafts) == ["LA", "LB", "RA", "RB"]
    assert shafts["LA"]["name"].tolist() == [f"LA{k}" for k in range(1, 13)]
    pairs = contacts.assign(name=[f"{n}-{n[:-1]}{int(n[-1]) + 1}" for n in contacts["name"]])
    assert charts.contact_number("A'9-A'10") == 9.5
    assert len(charts.shafts_of(pairs)) == 4
    figure = charts.shaft_contributions(contacts)
    assert [axes.get_title(loc="left") for axes in figure.axes] == list(shafts)


def test_what_has_no_room_is_named() -> None:
    # A shaft that is missing from a figure without a word looks like one that does not exist.
    n = charts.MAX_SHAFTS + 2
    contacts = pd.DataFrame({"group": [f"S{i:02}" for i in range(n)] * 2, "contribution": 0.001})
    contacts = contacts.assign(name=[f"{g}-{i}" for i, g in enumerate(contacts["group"])])
    contacts = contacts.assign(q=0.5, shaft_contribution=0.0, shaft_q=0.5, hemisphere="L")
    contacts = contacts.assign(ci_low=0.0, ci_high=0.0, label=contacts["group"])
    contacts.loc[contacts["group"] == f"S{n - 1:02}", "shaft_contribution"] = 0.2
    left_out = electrodes.not_drawn(contacts)
    assert left_out["shafts"].endswith(f"of {n}; the others: S27, S28.")  # the last matters
    assert "regions" not in left_out
    figure = charts.shaft_contributions(contacts)
    drawn = [axes.get_title(loc="left") for axes in figure.axes if axes.get_visible()]
    assert len(drawn) == charts.MAX_SHAFTS
    assert f"S{n - 1:02}" in drawn


def test_agreement_counts_a_low_rank_alone_as_good() -> None:
    # Rank alone is best at 0: agreement must be positive where the best electrodes are best.
    contacts = pd.DataFrame({"name": list("abcd"), "contribution": [0.04, 0.03, 0.01, 0.0]})
    contacts = contacts.assign(q=0.01, rank_alone=[0.3, 0.35, 0.4, 0.5])
    contacts = contacts.assign(integrated_gradient=[0.1, 0.2, 0.3, 0.4])
    assert agreement.spearman(contacts, "rank_alone") == pytest.approx(1)
    assert agreement.spearman(contacts, "integrated_gradient") == pytest.approx(-1)
    best_is_up, _ = agreement.agreement(contacts).axes
    assert best_is_up.yaxis_inverted()
    assert agreement.measures(contacts.assign(rank_alone=np.nan)) == ["integrated_gradient"]
    assert agreement.measures(contacts.assign(contribution=0.0)) == []


def _text_outside(figure: Any) -> list[str]:
    """Return the texts of a figure that its edges cut."""
    figure.set_dpi(72)
    figure.draw_without_rendering()
    renderer, (width, height) = figure._get_renderer(), figure.get_size_inches() * 72
    # matplotlib keeps labels of ticks beyond an axis, which it does not draw.
    numbers = {id(label) for axes in figure.axes for label in axes.get_xticklabels()}
    outside = []
    for text in figure.findobj(lambda artist: isinstance(artist, Text) and artist.get_visible()):
        if id(text) in numbers:
            continue
        box = text.get_window_extent(renderer)
        is_inside = box.x0 > -1 and box.y0 > -1 and box.x1 < width + 1 and box.y1 < height + 1
        if text.get_text().strip() and not is_inside:
            outside.append(text.get_text())
    return outside


def test_no_text_is_cut_off_in_large_studies() -> None:
    # 30 participants, regions of long names, 35 shafts: what a paper would have to redraw.
    names = [f"G_and_S_transverse_frontopolar_and_more_{i}" for i in range(45)]
    regions = pd.DataFrame({"label": names, "hemisphere": "L", "n_participants": 30})
    regions = regions.assign(n_contacts=1200, mean=0.02, ci_low=0.01, ci_high=0.03, p=0.01, q=0.01)
    people = [f"sub-{i:02}" for i in range(30)]
    own = pd.DataFrame({"label": names[0], "hemisphere": "L", "mean": np.linspace(0, 0.05, 30)})
    contrast = {"contrast": "taskonly-projection", "audio": "ambient", "difference": -0.1}
    contrast |= {"ci_low": -0.3, "ci_high": 0.1}
    everybody = pd.DataFrame([contrast | {"participant": name} for name in people])
    contacts = pd.concat(
        contacts_on_shafts().assign(group=lambda t, i=i: t["group"] + f"-long-shaft-{i}")
        for i in range(9)
    )
    benefit = pd.DataFrame({"participant": people, "n_auditory": 1, "distance_auditory": 0.0})
    benefit = benefit.assign(benefit_pretraining=0.1, benefit_target=0.2)
    for figure in (
        charts.group_regions(regions, own),
        charts.region_contributions(contacts),
        charts.shaft_contributions(contacts),
        charts.shaft_contributions(contacts_on_shafts(n_shafts=1)),
        charts.auditory_benefit(benefit),
        figures.group_contrasts(everybody, pd.DataFrame([contrast])),
    ):
        assert _text_outside(mark_simulated(figure)) == []


def test_untested_regions_are_hollow() -> None:
    # A bar from one participant beside a tested one must not look like the same kind of result.
    regions = pd.DataFrame(
        {
            "label": ["insula", "insula", "bankssts"],
            "hemisphere": ["L", "R", "L"],
            "n_participants": [6, 1, 5],
            "n_contacts": [20, 3, 9],
            "mean": [0.01, 0.05, 0.02],
            "ci_low": [0.0, np.nan, 0.01],
            "ci_high": [0.02, np.nan, 0.03],
            "p": [0.03, np.nan, 0.03],
            "q": [0.03, np.nan, 0.03],
        }
    )
    own = pd.DataFrame({"label": ["insula"], "hemisphere": ["R"], "mean": [0.05]})
    assert charts.ordered_regions(regions)["mean"].tolist() == [0.02, 0.01, 0.05]
    figure = charts.group_regions(regions, own)
    for axes in figure.axes:
        assert [bool(bar.get_hatch()) for bar in axes.patches] == [False, False, True]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "too few participants: not tested" in legend


def test_axes_share_a_few_fixed_ends() -> None:
    # Two participants' charts can be laid beside each other in most cases.
    assert charts.limits([0.011, 0.04]) == charts.limits([0.055, -0.001])
    for values in ([0.3, -0.2], [2.5], [np.nan], []):
        low, high = charts.limits(values)
        assert low < 0 < high
        assert all(low <= value <= high for value in values if np.isfinite(value))


# -------------------------------------------------------------------------------- group maps


def _surface_maps(covered: int) -> list[GroupMap]:
    effect = np.full(N_VERTICES, np.nan)
    effect[:covered] = 0.03
    coverage = np.where(np.isfinite(effect), 2.0, np.nan)
    nothing = np.full(N_VERTICES, np.nan)
    return [
        GroupMap("effect", surface=(effect, nothing)),
        GroupMap("coverage", surface=(coverage, nothing)),
    ]


@pytest.mark.slow
def test_surfaces_show_coverage_and_leave_the_rest_grey() -> None:
    # What nobody's electrodes reached is unknown, not zero.
    figure = brain_maps.surface_maps(_surface_maps(3000))
    panels = [axes for axes in figure.axes if axes.name == "3d"]
    assert len(panels) == 8
    effect, other = (panels[k].collections[0].get_facecolor() for k in (0, 3))
    assert np.ptp(other[:, :3], axis=1).max() < 1e-6  # grey
    colored = np.ptp(effect[:, :3], axis=1) > 1e-6
    assert 0 < colored.sum() < len(effect)
    colors = {to_hex(color) for color in effect[colored]}
    assert brain.contribution_hex([0.03])[0] in colors
    svg = figure_svg(figure, "surface")
    assert len(svg) < 1_500_000
    assert svg.count("<image") == 9  # the meshes, and one colour bar without steps


@pytest.mark.slow
def test_slices_use_the_same_scale(tmp_path: Path) -> None:
    # The colour of a voxel must mean what the colour of a contact means.
    affine = np.array([[4.0, 0, 0, -92], [0, 4.0, 0, -128], [0, 0, 4.0, -76], [0, 0, 0, 1]])
    effect = np.full((46, 58, 46), np.nan)
    effect[8:14, 24:34, 14:26] = 0.03
    group_maps = []
    for name, values in (("effect", effect), ("n", np.where(np.isfinite(effect), 3.0, 0.0))):
        path = tmp_path / f"{name}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(values.astype(np.float32), affine), path)
        group_maps.append(GroupMap(name, volume=path))
    figure = brain_maps.volume_maps(group_maps)
    wanted = to_rgb(brain.contribution_hex([0.03])[0])
    figure.set_dpi(60)
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[: pixels_of_first_row(figure), :, :3] / 255
    assert (np.abs(pixels - wanted).max(axis=2) < 0.02).sum() > 30
    assert len(figure_svg(figure, "volume")) < 1_500_000


def pixels_of_first_row(figure: Any) -> int:
    """Return how many rows of pixels belong to the slices of the first map."""
    return int(1.4 * figure.dpi)


def test_maps_are_found_on_disk_effect_first(tmp_path: Path) -> None:
    # Names are the contract between the group level and its report; coverage 0 is "uncovered".
    assert maps._surfaces(tmp_path, "story") == []
    for side in "LR":
        for name in ("n", "coverage", "effect"):
            data = nibabel.gifti.GiftiDataArray(np.zeros(N_VERTICES, np.float32))
            stem = f"group_task-story_hemi-{side}_space-fsaverage5_desc-{name}_map.shape.gii"
            nibabel.save(nibabel.gifti.GiftiImage(darrays=[data]), tmp_path / stem)
    found = maps._surfaces(tmp_path, "story")
    assert [group_map.name for group_map in found] == ["effect", "coverage", "n"]
    assert np.isnan(found[1].surface).all()
    assert not np.isnan(found[0].surface).any()


# ---------------------------------------------------------------------------------- the view


def _hostile() -> pd.DataFrame:
    contacts = contacts_on_shafts()
    contacts.loc[3, ["name", "label"]] = HOSTILE
    contacts.loc[4, "name"] = '" onload="alert(1)'
    return contacts


def test_a_hostile_contact_cannot_leave_its_label() -> None:
    # A dataset from elsewhere must not run code in the reader's browser, not even in a sandbox.
    page = view3d.view_page(_hostile())
    harmless = view3d.view_page(contacts_on_shafts())
    assert "alert(1)</script>" not in page
    assert page.count("<script") == harmless.count("<script")
    assert page.count("</script") == harmless.count("</script")
    frame = str(view3d.contact_view(_hostile()))
    attributes = re.fullmatch(r'<iframe ((?:[a-z]+="[^"]*" ?)+)></iframe>', frame)
    assert attributes  # nothing in the page ends its attribute
    names = re.findall(r'([a-z]+)="[^"]*"', attributes[1])
    assert names == ["class", "sandbox", "loading", "title", "srcdoc"]
    srcdoc = re.search(r'srcdoc="([^"]*)"', frame)
    assert srcdoc
    assert html.unescape(srcdoc[1]) == page  # what the browser reads is what was made


def test_view_loads_nothing_from_the_network() -> None:
    # A report is opened in a hospital without internet, and must not say that it was opened.
    page = view3d.view_page(contacts_on_shafts())
    without_scripts = re.sub(r"<script.*?</script>", "", page, flags=re.S)
    assert not re.search(r"<link|https?://|@import|<img|<iframe", without_scripts)
    assert not re.search(r"<script[^>]*src=", page)
    assert "default-src 'none'" in page
    assert "connect-src" not in page
    assert page.index("Content-Security-Policy") < page.index("<script")
    assert len(page) < 4_000_000


def test_view_shows_labels_under_the_pointer_only() -> None:
    # nilearn writes every label; with 200 contacts nothing could be read. Its text may change.
    contacts = contacts_on_shafts().replace({"name": {"RA4": "A'4"}})
    page = view3d.view_page(contacts)
    assert "A'4 \\u00b7" in page  # primes in names are common, and shown as they are
    assert "markers+text" not in page
    assert "hovermode: 'closest'" in page
    assert "RA3 \\u00b7 superiortemporal R \\u00b7 contribution" in page


# ------------------------------------------------------------------- bytes, sizes, real data


def test_pictures_are_the_same_bytes_each_time_and_say_simulated() -> None:
    # Reports are compared and archived.
    contacts = _hostile()
    for draw in (brain.contribution_brain, charts.shaft_contributions):
        first, second = (figure_svg(mark_simulated(draw(contacts)), "x") for _ in range(2))
        assert first == second
        assert "simulated data" in first
        assert "<script" not in first
    assert view3d.view_page(contacts) == view3d.view_page(contacts)


def test_drawing_changes_no_matplotlib_setting() -> None:
    # nilearn works on pyplot's state; figures that stay there would pile up in memory.
    import matplotlib.pyplot as plt

    before, opened = dict(matplotlib.rcParams), plt.get_fignums()
    brain.contribution_brain(contacts_on_shafts())
    assert dict(matplotlib.rcParams) == before
    assert plt.get_fignums() == opened


def test_native_positions_never_enter_a_template_brain(tmp_path: Path) -> None:
    # A participant without a transform gets positions in their own space, never a glass brain.
    contacts = contacts_on_shafts().assign(space="ScanRAS")
    columns = [*electrode_tables.SELECTED_COLUMNS, *electrode_tables.CONTRIBUTION_COLUMNS]
    one = electrode_tables.read_described(tmp_path / "x.tsv", contacts, columns)
    pages = electrodes.electrode_pages(
        tmp_path / "report.html", "sub-01", {"story": one}, {"story": one}, True
    )
    assert set(pages[0].pictures) == {"selection", "contributions", "regions", "shafts"}
    assert "ScanRAS" in pages[0].pictures["contributions"].svg
    assert "ScanRAS" in pages[0].pictures["selection"].svg
    assert pages[0].view is None


@pytest.mark.skipif(not PODCAST.exists(), reason="real electrodes are not here")
def test_all_real_electrodes_are_drawn() -> None:
    # 1,330 contacts of nine patients with mixed grids and depth electrodes, in one picture.
    paths = sorted(PODCAST.glob("sub-*/ieeg/*_space-MNI152NLin2009aSym_electrodes.tsv"))
    tables = [
        pd.read_csv(p, sep="\t", na_values="n/a").assign(participant=p.name[:6]) for p in paths
    ]
    contacts = pd.concat(tables, ignore_index=True)
    assert len(contacts) == 1330
    rng = np.random.default_rng(0)
    contacts = contacts.assign(
        contribution=rng.normal(0, 0.01, 1330), q=np.nan, label=None, hemisphere=None
    )
    figure = brain.contribution_brain(contacts)
    from_above = [m for m in _marks(figure) if len(m[0]) == 1330]
    assert len(from_above) == 2  # from the front and from above: all; lateral views: one side
    assert len(figure_svg(figure, "x")) < 2_000_000
    assert len(view3d.contact_view(contacts)) < 4_000_000
