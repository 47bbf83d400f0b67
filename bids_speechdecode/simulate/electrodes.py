"""Contacts whose high-gamma amplitude follows features of a speech model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bids_speechdecode.simulate.anatomy import draw_contacts
from bids_speechdecode.simulate.background import rise_for
from bids_speechdecode.simulate.brain import FRAME_RATE, LAGS, Brain
from bids_speechdecode.simulate.participant import Participant
from bids_speechdecode.simulate.settings import PairSettings

_LAGS = (5, 30)  # frames of 10 ms: 0.05 to 0.3 s


@dataclass(frozen=True)
class Follower:
    """A participant and what the contacts that hear follow.

    Attributes
    ----------
    participant : Participant
        Its brain's drives are the mixtures, one per contact that hears.
    mixture : array, shape (n_features, n_auditory)
        Of the standardised latent features.
    correlation : array, shape (n_auditory,)
        Planted correlation of the high-gamma amplitude with the mixture, up to 10 Hz.
    """

    participant: Participant
    mixture: np.ndarray
    correlation: np.ndarray


def draw_follower(
    label: str, settings: PairSettings, n_features: int, rng: np.random.Generator
) -> Follower:
    """Return a participant with good contacts only, who follow random mixtures at random lags."""
    contacts = draw_contacts(settings.shafts, settings.contacts, rng)
    auditory = tuple(i for i, contact in enumerate(contacts) if contact.is_auditory)
    n, n_contacts = len(auditory), len(contacts)
    lags = rng.integers(_LAGS[0], _LAGS[1] + 1, n)
    scale = rng.lognormal(0, 0.25, n_contacts)
    weight = np.array([contacts[i].weight for i in auditory])
    correlation = settings.best_correlation * weight
    functions = np.zeros((n, n, len(LAGS)))
    functions[np.arange(n), np.arange(n), lags] = 1
    brain = Brain(
        contacts,
        auditory,
        slow=np.zeros_like(functions),
        high_gamma=functions,
        latency=LAGS[lags],
        correlation=np.zeros(n),
        rise=rise_for(correlation, scale[list(auditory)], settings.sampling_rate),
    )
    participant = Participant(
        label,
        brain,
        scale=scale,
        spiking=np.zeros(n_contacts),
        bad=(),
        gains=np.ones((2, n_contacts)),
        response_gains=np.ones((2, n)),
        playback_ppm=float(np.round(rng.choice([-1, 1]) * rng.uniform(20, 50), 2)),
        microphone_ppm=0.0,
    )
    return Follower(participant, rng.standard_normal((n_features, n)), correlation)


def make_drives(follower: Follower, latent: np.ndarray, rate: float) -> np.ndarray:
    """Return the mixtures as drives of unit variance, (n_frames, n_auditory), 100 Hz.

    Parameters
    ----------
    latent : array, shape (n_times, n_features), standardised
        At `rate`, from the beginning of the sound.
    """
    mixed = latent @ follower.mixture
    mixed = mixed / mixed.std(axis=0)
    known = np.arange(len(mixed)) / rate
    times = np.arange(int((len(mixed) - 1) * FRAME_RATE / rate) + 1) / FRAME_RATE
    return np.stack([np.interp(times, known, c) for c in mixed.T], axis=1).astype(np.float32)
