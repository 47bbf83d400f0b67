"""An interactive view of contacts inside a report: nilearn's, self-contained and locked in.

The view is a page of its own inside an iframe's ``srcdoc``. Its sandbox has an origin of its own,
so its scripts cannot touch the report, and its content policy lets it fetch nothing.
"""

from __future__ import annotations

import html
import re
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from bids_speechdecode.report.brain import Q, contribution_hex
from bids_speechdecode.report.page import number

_POLICY = (
    '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
    "script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:\">"
)
# nilearn writes every label beside its marker; hundreds of contacts need them under the pointer.
_ON_HOVER = (
    ("mode: 'markers+text'", "mode: 'markers', hoverinfo: 'text'"),
    ("hovermode: false", "hovermode: 'closest'"),
    ("displayLogo", "displaylogo"),
    ("info.type = 'mesh3d'", "info.type = 'mesh3d'; info.hoverinfo = 'skip'"),
)


def contact_view(contacts: pd.DataFrame) -> Markup:
    """Return an iframe with the contacts in a transparent brain that the reader can turn.

    Parameters
    ----------
    contacts : data frame
        Columns name, x, y, z (mm, MNI152), label, hemisphere, contribution (loss of mean relative
        rank) and q; with several participants also participant.
    """
    page = view_page(contacts)
    attribute = page.replace("&", "&amp;").replace('"', "&quot;")
    return Markup(
        '<iframe class="view" sandbox="allow-scripts" loading="lazy" '
        f'title="Contacts in a brain that can be turned" srcdoc="{attribute}"></iframe>'
    )


def view_page(contacts: pd.DataFrame) -> str:
    """Return the page inside the iframe of `contact_view`."""
    from nilearn.plotting import view_markers

    significant = (contacts["q"] <= Q).to_numpy()
    view = view_markers(
        contacts[["x", "y", "z"]].to_numpy(dtype=float),
        marker_color=contribution_hex(contacts["contribution"]),
        marker_size=np.where(significant, 10.0, 6.0),
        marker_labels=[contact_words(row) for row in contacts.to_dict("records")],
    )
    page = re.sub(r"<link\b[^>]*>", "", view.html)  # its icon would come from the network
    for shown, hovered in _ON_HOVER:
        page = page.replace(shown, hovered)
    return page.replace("<head>", f"<head>{_POLICY}", 1)


def contact_words(row: Any) -> str:
    """Return what the view shows of a contact, with all text of the dataset escaped."""
    name = f"{row['participant']} {row['name']}" if "participant" in row else str(row["name"])
    words = [name]
    if pd.notna(row["label"]):
        words.append(f"{row['label']} {row['hemisphere']}")
    words.append(f"contribution {number(row['contribution'], 4)}")
    if pd.notna(row["q"]):
        words.append(f"q {row['q']:.2g}")
    return " · ".join(html.escape(word, quote=False) for word in words)
