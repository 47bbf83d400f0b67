"""Bands of the signal that decoding reads: their montages, and the words of their files.

The slow signal and the envelope of high gamma are preprocessed apart, each into a file of its own;
"both" reads their channels side by side. So a run in one band leaves the files of another alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from bids_speechdecode.bids.dataset import Recording
from bids_speechdecode.config import PreprocessConfig
from bids_speechdecode.errors import DataError
from bids_speechdecode.signals.filterbank import Edges
from bids_speechdecode.signals.highgamma import require_band
from bids_speechdecode.signals.montage import Montage, make_montage
from bids_speechdecode.signals.readers import SignalReader
from bids_speechdecode.steps.plan import ParticipantPlan

SLOW, HIGH_GAMMA = "slow", "highgamma"
BANDS_OF = {SLOW: (SLOW,), HIGH_GAMMA: (HIGH_GAMMA,), "both": (SLOW, HIGH_GAMMA)}


def reference_of(band: str, settings: PreprocessConfig) -> str:
    """Return how a band is re-referenced."""
    return settings.reference if band == SLOW else settings.high_gamma_reference


def edges_of(settings: PreprocessConfig) -> Edges:
    """Return the edges of high gamma, in hertz."""
    return settings.high_gamma[0], settings.high_gamma[1]


def make_montages(
    recording: Recording, reader: SignalReader, kept: Sequence[int], settings: PreprocessConfig
) -> dict[str, Montage]:
    """Return the montage of every band that is asked for.

    Raises
    ------
    DataError
        No channel is left, no two contacts are neighbours, or the recording is too slow for a
        band.
    """
    return _make(recording, reader.channel_names, kept, reader.sampling_rate, settings)


def change_band(plan: ParticipantPlan, settings: PreprocessConfig) -> ParticipantPlan:
    """Return the plan with the montages of other bands; the windows stay.

    Raises
    ------
    DataError
        As `make_montages`, for the first recording that cannot be used.
    """
    recordings = tuple(
        replace(r, montages=_make(r.recording, r.channel_names, r.kept, r.sampling_rate, settings))
        for r in plan.recordings
    )
    return replace(plan, recordings=recordings)


def _make(
    recording: Recording,
    names: Sequence[str],
    kept: Sequence[int],
    sampling_rate: float,
    settings: PreprocessConfig,
) -> dict[str, Montage]:
    shaft_of: Mapping[str, str] = {c.name: c.group for c in recording.channels}
    shafts = [shaft_of.get(name, "") for name in names]
    montages = {}
    for band in BANDS_OF[settings.band]:
        reference = reference_of(band, settings)
        if band == SLOW:
            montages[band] = make_montage(names, kept, reference, shafts)
            continue
        require_band(sampling_rate, edges_of(settings), recording.path)
        try:
            montage = make_montage(names, kept, reference, shafts)
        except DataError as error:
            raise _without_high_gamma(error, reference, recording) from error
        montages[band] = replace(montage, names=tuple(f"{n} {band}" for n in montage.names))
    return montages


def _without_high_gamma(error: DataError, reference: str, recording: Recording) -> DataError:
    return DataError(
        f"high gamma cannot be made: {error.problem}",
        expected=f"channels for the reference {reference!r}"
        + (", which pairs neighbours on a shaft such as LA1, LA2" * (reference == "bipolar")),
        where=recording.path,
        fix='choose another high_gamma_reference, or the band "slow", in the section '
        "[preprocess] of the configuration",
    )
