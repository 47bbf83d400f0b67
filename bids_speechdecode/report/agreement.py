"""Do other measures agree with the contributions? Each electrode under two measures at once.

Tables in, matplotlib figures out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bids_speechdecode.report.brain import DPI, FAINT, Q, contribution_hex
from bids_speechdecode.report.figures import BLACK, CHANCE, MINUS, STYLE, WIDTH, plain

FEWEST = 3  # electrodes, below which no agreement can be seen
MEASURES = {
    "rank_alone": "Rank with it alone\n(0 = best, 0.5 = chance)",
    "integrated_gradient": "Integrated gradient\n(share of the score, %)",
}
TITLES = {"rank_alone": "Rank alone", "integrated_gradient": "Integrated gradients"}
# Small values of these say that the electrode helps, so their axis points down.
LOWER_IS_BETTER = frozenset({"rank_alone"})


def measures(contacts: pd.DataFrame) -> list[str]:
    """Return the measures that a table has beside the contribution and that can be compared."""
    return [
        name
        for name in MEASURES
        if len(_known(contacts, name)) >= FEWEST and np.isfinite(spearman(contacts, name))
    ]


def _known(contacts: pd.DataFrame, name: str) -> pd.DataFrame:
    return contacts.dropna(subset=["contribution", name])


def spearman(contacts: pd.DataFrame, name: str) -> float:
    """Return the rank correlation of a measure with the contribution, positive if they agree."""
    known = _known(contacts, name)
    first, second = known["contribution"].rank(), known[name].rank()
    if first.nunique() < 2 or second.nunique() < 2:
        return float("nan")
    rho = float(np.corrcoef(first, second)[0, 1])
    return -rho if name in LOWER_IS_BETTER else rho


@matplotlib.rc_context(STYLE)
def agreement(contacts: pd.DataFrame) -> Figure:
    """Draw each electrode's contribution against its rank alone and its integrated gradient.

    Parameters
    ----------
    contacts : data frame
        Columns name, contribution (loss of mean relative rank), q, rank_alone (relative rank)
        and integrated_gradient (share); a measure without values is left out.
    """
    shown = measures(contacts)
    figure = Figure(figsize=(WIDTH * len(shown) / 2, 2.7), dpi=DPI)
    for axes, name in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        _draw_measure(axes, _known(contacts, name), name)
    figure.supxlabel("Contribution (loss of relative rank)", fontsize=9)
    return figure


def _draw_measure(axes: Axes, known: pd.DataFrame, name: str) -> None:
    values = known[name] * (100 if name == "integrated_gradient" else 1)
    axes.axvline(0, color=BLACK, linewidth=0.7, zorder=1)
    nothing = CHANCE if name == "rank_alone" else 0.0
    axes.axhline(nothing, color=BLACK, linewidth=0.7, linestyle=(0, (4, 3)), zorder=1)
    for significant, edge, width, size in ((False, FAINT, 0.5, 14), (True, BLACK, 1.0, 24)):
        part = (known["q"] <= Q) == significant
        style: Any = {"s": size, "edgecolors": edge, "linewidths": width, "zorder": 2 + significant}
        faces = contribution_hex(known.loc[part, "contribution"])
        axes.scatter(known.loc[part, "contribution"], values[part], c=faces, **style)
    axes.margins(x=0.12, y=0.1)
    axes.set_ylabel(MEASURES[name])
    _name_strongest(axes, known, values, name)
    if name in LOWER_IS_BETTER:
        axes.invert_yaxis()
    axes.set_title(TITLES[name])
    rho = f"{spearman(known, name):.2f}".replace("-", MINUS)
    axes.set_title(f"agreement {rho}", loc="right", fontsize=8, fontweight="normal")


def _name_strongest(axes: Axes, known: pd.DataFrame, values: pd.Series, name: str) -> None:
    """Write the names of the electrodes that come first under either measure."""
    across, up = known["contribution"].to_numpy(float), values.to_numpy(float)
    best = int(np.argmin(up) if name in LOWER_IS_BETTER else np.argmax(up))
    for i in dict.fromkeys([int(np.argmax(across)), best]):
        is_left = across[i] > across.mean()
        style: Any = {"ha": "right" if is_left else "left", "va": "center", "fontsize": 7}
        offset = (-5 if is_left else 5, 0)
        label = plain(str(known["name"].iloc[i])[:16])
        axes.annotate(label, (across[i], up[i]), offset, textcoords="offset points", **style)


def agreement_words(contacts: pd.DataFrame, shown: Sequence[str]) -> str:
    """Return how far the measures agree over electrodes, in words."""
    return "; ".join(
        f"rank correlation with {TITLES[name].lower()} {spearman(contacts, name):.2f}"
        for name in shown
    ).replace("-", MINUS)
