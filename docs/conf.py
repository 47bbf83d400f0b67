import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

from bids_speechdecode import __version__  # noqa: E402

project = "bids_speechdecode"
author = "the bids_speechdecode developers"
copyright = "2026, the bids_speechdecode developers"
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx_click",
    "alignment_example",
    "settings_table",
]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "amsmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "_ext"]

html_theme = "furo"
html_title = f"bids_speechdecode {release}"
html_show_sourcelink = False
