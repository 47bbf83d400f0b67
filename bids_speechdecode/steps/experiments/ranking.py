"""The ranks of a cell: among all candidates, among those that are alike, or without their sound."""

from __future__ import annotations

from typing import Any

import numpy as np

from bids_speechdecode.decoding.beyond import take_out_of_both
from bids_speechdecode.decoding.evaluation import score_ranks
from bids_speechdecode.decoding.rivals import rivalry
from bids_speechdecode.decoding.strata import rank_within, score_strata
from bids_speechdecode.decoding.training import embed_windows
from bids_speechdecode.decoding.unexplained import take_out, take_out_of_signal
from bids_speechdecode.steps.context import Context
from bids_speechdecode.steps.data import LoadedWindows, SignalStore, load_windows
from bids_speechdecode.steps.experiments.views import VIEWS, loudness_course
from bids_speechdecode.steps.models import EMBED_BATCH, TrainedModel


def rank_windows(
    context: Context,
    model: TrainedModel,
    store: SignalStore,
    test: LoadedWindows,
    role: str,
    view: str,
    *,
    seed: int,
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Return ranks and rivalry of the test windows, and the scores of the ranks.

    Ranks are NaN where a view leaves a window out.

    Parameters
    ----------
    context : Context
        With the settings of the model.
    model : TrainedModel
    store : SignalStore
        In which the windows lie.
    test : LoadedWindows
    role : str
        Whose windows these are.
    view : str
        A name in `views.VIEWS`, or "" for all candidates.
    seed : int
        Of intervals and nulls.
    """
    brain, audio = model.embed(test)
    blocks, settings = test.blocks(context.config), context.config.evaluation
    rng = np.random.default_rng([seed, 3])
    find_strata = VIEWS[view].strata if view else None
    if find_strata is not None:
        strata = find_strata(context, test, role)
        ranks = rank_within(brain, audio, strata)
        rivals = rivalry(brain, audio, strata)
        return ranks, rivals, score_strata(ranks, strata, blocks, settings, rng)
    more: dict[str, Any] = {}
    find_known = VIEWS[view].beyond if view else None
    find_around = VIEWS[view].around if view else None
    if find_known is not None:
        known = find_known(context, test, role)
        brain, audio, more["explained"] = take_out_of_both(known, brain, audio)
    elif find_around is not None:
        train = load_windows(context, store, role, "train", str(test.table["version"].iloc[0]))
        courses = loudness_course(context, train, role), loudness_course(context, test, role)
        audio, more["explained"] = take_out(courses, (model.scaler.transform(train.targets), audio))
        around = find_around(context, train, role), find_around(context, test, role)
        sets = train.scaled(model.scaler), test.scaled(model.scaler)
        brain = embed_windows(model.encoder, take_out_of_signal(around, sets), EMBED_BATCH)
    scores = score_ranks(brain, audio, blocks, np.arange(len(test)), settings, rng)
    return scores.ranks, rivalry(brain, audio), {**scores.row(), **more}
