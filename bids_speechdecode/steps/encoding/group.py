"""The group level of the analysis ``encoding``: tables and maps, from derivatives alone."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from bids_speechdecode.anatomy.atlas import load_atlas
from bids_speechdecode.bids.derivatives import Derivatives
from bids_speechdecode.config import Config
from bids_speechdecode.errors import MissingInputError
from bids_speechdecode.group.encoding.maps import write_encoding_maps
from bids_speechdecode.group.encoding.summary import (
    list_encoding_tasks,
    read_encoding,
    write_encoding,
)
from bids_speechdecode.report.console import format_contrasts

log = logging.getLogger(__name__)


def summarise_encoding(out: Derivatives, participants: Sequence[str], config: Config) -> str:
    """Write the group's tables and maps of every task; return the contrasts as text.

    Raises
    ------
    MissingInputError
        No participant has encoding tables yet.
    DataError
        The participants were encoded with different models or settings.
    """
    tasks = list_encoding_tasks(out.root, participants)
    if not tasks:
        raise MissingInputError(
            "no participant has encoding tables yet",
            expected="sub-*/ieeg/*_desc-encoding_scores.tsv",
            where=out.root,
            fix="run the participant level with --analysis encoding first",
        )
    atlas = load_atlas(config.anatomy.atlas)
    texts = []
    for task in tasks:
        found = read_encoding(out.root, participants, task)
        for item in found.left_out:
            log.warning("left out: %s: %s", item.what, item.why)
        rng = np.random.default_rng([config.run.seed, 13])
        contrasts = write_encoding(out, found, config.evaluation, rng)
        write_encoding_maps(out, found, atlas)
        texts.append(format_contrasts(contrasts, f"group, task {task}, encoding"))
    return "\n\n".join(texts)
