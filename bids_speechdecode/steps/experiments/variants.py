"""The participant in another band of the signal, made beside that of the run."""

from __future__ import annotations

from dataclasses import replace

from bids_speechdecode.config import override
from bids_speechdecode.errors import SpeechDecodeError
from bids_speechdecode.steps.bands import change_band
from bids_speechdecode.steps.context import Context
from bids_speechdecode.steps.preprocess import is_preprocessed
from bids_speechdecode.steps.select import foresee, is_selected

BAND = "preprocess.band"


def in_band(context: Context, band: str) -> Context:
    """Return the participant with the signal of another band; splits and windows stay.

    Raises
    ------
    DataError
        A recording does not hold the band, or has no contacts for its reference.
    """
    if band == context.config.preprocess.band:
        return context
    config = override(context.config, {BAND: band})
    plan = change_band(context.plan, config.preprocess)
    return replace(context, config=config, plan=plan, variant=band)


def is_prepared(context: Context) -> bool:
    """Return whether signals and channels of the context's band are there."""
    made = all(is_preprocessed(context, planned) for planned in context.plan.recordings)
    return made and is_selected(context)


def why_not(context: Context, band: str) -> str:
    """Return why the participant cannot be decoded in a band, in words; "" where they can.

    Only headers, channels and positions are asked: what the signal says is not known yet.
    """
    try:
        other = in_band(context, band)
        by_place = {"roi", "radius"} & set(other.config.selection.rules)
        if by_place or other.config.encoder.spatial == "attention":
            foresee(other.plan, other.config)
    except SpeechDecodeError as error:
        return error.problem
    return ""
