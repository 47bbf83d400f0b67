"""Responses of all recordings -> what each electrode did while the sounds were heard.

Recordings of one participant differ in gain and impedance. Unscaled, the loudest of them would
decide penalties, lags and r; each electrode is therefore brought to mean 0 and standard deviation 1
within each recording. These two numbers are of all its scored time, held-out time too: the folds
share a recording, and a fold of another recording than those it is predicted from has no other
scale. Nothing of a sound enters them. They change by how much a recording counts in the fit, and
where there is one recording, nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bids_speechdecode.encoding.ceilings import Powers, measure_powers
from bids_speechdecode.errors import DataError
from bids_speechdecode.steps.context import Context
from bids_speechdecode.steps.encoding.responses import load_responses
from bids_speechdecode.steps.encoding.sounds import Sound

CONSTANT = 1e-6  # of the mean: less variation is rounding of float32


@dataclass(frozen=True)
class Responses:
    """What all electrodes did while the sounds were heard.

    Attributes
    ----------
    values : array of float32, shape (n_times, n_bands * n_electrodes)
        Mean over repeats, band after band, in standard deviations of the electrode in a recording;
        NaN where an electrode has no response at all.
    stretch : array of int, shape (n_times,)
        The sound of each sample.
    valid : array of bool, shape (n_times,)
    n_averaged : array of int, shape (n_times, n_bands * n_electrodes)
        Hearings whose mean `values` are.
    powers : Powers
        Of signal and noise in one hearing, from the sounds that were heard repeatedly.
    n_hearings : int
        The largest number of times that a sound was heard.
    incomplete : tuple of str
        Electrodes that some of the recordings lack; they have no score.
    """

    values: np.ndarray
    stretch: np.ndarray
    valid: np.ndarray
    n_averaged: np.ndarray
    powers: Powers
    n_hearings: int
    incomplete: tuple[str, ...] = ()

    def ceiling(self, block: np.ndarray | None = None) -> np.ndarray:
        """Return the noise ceiling, shape (n_bands * n_electrodes,).

        NaN where no sound was heard twice, and for electrodes without a score.

        Parameters
        ----------
        block : array of int, shape (n_times,), optional
            The fold that each sample is scored in, negative where it is not scored; all valid
            samples are of one fold if left out.
        """
        block = np.where(self.valid, 0, -1) if block is None else block
        scored = block >= 0
        known = self.powers.ceiling(self.n_averaged[scored], block[scored])
        return np.where(np.isfinite(self.values[scored]).all(axis=0), known, np.nan)


def gather_responses(
    context: Context, sounds: Sequence[Sound], channels: Sequence[str]
) -> Responses:
    """Return the responses to all sounds, one after the other.

    Each electrode is standardised within each recording (`standardise_recordings`). A sound that
    was heard repeatedly gives the mean of its repeats, and tells the noise. The first
    `context` seconds of a sound are left out: its features have no full context there.
    """
    settings = context.config.encoding
    heard, late = [], []
    for sound in sounds:
        bands = [load_responses(context, sound, channels, band) for band in settings.bands]
        heard.append(np.concatenate(bands, axis=2))
        late.append(np.arange(heard[-1].shape[1]) / settings.rate >= settings.context)
    standardise_recordings(
        [[h.planned.label for h in sound.hearings] for sound in sounds], heard, late
    )
    values, counts = zip(*map(_mean_over_hearings, heard), strict=True)
    y, is_late = np.concatenate(values), np.concatenate(late)
    used, valid = choose_complete(y, is_late)
    if not valid.any():
        raise DataError(
            f"sub-{context.participant} has no usable response to any sound",
            expected=f"signals while a sound is heard, later than {settings.context:g} s in it",
            found=f"{int(is_late.sum() / settings.rate)} s of sound later than that, and no "
            "electrode with a signal then",
            fix="check events.tsv and channels.tsv, or lower context in [encoding]"
            + ("; with one electrode, choose --reference none" * (settings.reference == "average")),
        )
    y[:, ~used] = np.nan
    some = np.isfinite(y).any(axis=0).reshape(len(settings.bands), -1).all(axis=0)
    lacking = tuple(name for name, there in zip(channels, some, strict=True) if not there)
    # Only repeats tell the noise.
    powers = measure_powers([h if len(h) > 1 else h[:, :0] for h in heard])
    known = bool(np.isfinite(powers.signal).any())
    return Responses(
        y,
        np.repeat(np.arange(len(sounds)), [len(part) for part in late]),
        valid,
        np.concatenate(counts),
        powers,
        max(len(s.hearings) for s in sounds) if known else 1,
        lacking,
    )


def standardise_recordings(
    recordings: Sequence[Sequence[str]], heard: Sequence[np.ndarray], wanted: Sequence[np.ndarray]
) -> None:
    """Bring each electrode to mean 0 and standard deviation 1 within each recording, in place.

    Before repeats are averaged, for a recording with ten times the gain would be all of their mean,
    and the noise ceiling takes what repeats do not share for noise. The standard deviation and no
    robust measure: it makes the power of every recording the same, whatever its artifacts, and a
    fit by least squares goes by power.

    Parameters
    ----------
    recordings : sequence of sequences of str
        Of each sound, the recording of each of its hearings.
    heard : sequence of arrays of float32, shape (n_hearings, n_times, n_electrodes)
        Of each sound; NaN where there is no response. What is constant in a recording becomes 0.
    wanted : sequence of arrays of bool, shape (n_times,)
        Of each sound, the samples that count.
    """
    members: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for labels, repeats, some in zip(recordings, heard, wanted, strict=True):
        for label, values in zip(labels, repeats, strict=True):
            members.setdefault(label, []).append((values, some))
    for parts in members.values():
        n = sum(np.isfinite(values[some]).sum(axis=0) for values, some in parts)
        n = np.maximum(n, 1)
        mean = sum(np.nansum(values[some], axis=0, dtype=float) for values, some in parts) / n
        power = sum(np.nansum((values[some] - mean) ** 2, axis=0) for values, some in parts) / n
        spread = np.sqrt(power)
        constant = spread <= CONSTANT * np.abs(mean)
        for values, _ in parts:
            values -= mean
            values /= np.where(constant, 1, spread)
            values[:, constant] *= 0  # what is missing stays so


def choose_complete(y: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the electrodes to score and the samples in which all of them have a response.

    An electrode that one recording lacks would cost all others that recording, or it is not
    scored: of the possible choices the one that keeps most samples of most electrodes.

    Parameters
    ----------
    y : array, shape (n_times, n_electrodes)
        NaN where there is no response.
    wanted : array of bool, shape (n_times,)

    Returns
    -------
    used : array of bool, shape (n_electrodes,)
    valid : array of bool, shape (n_times,)
    """
    there = np.isfinite(y) & wanted[:, None]
    share = there.sum(axis=0)
    best, kept = 0, (np.zeros(len(share), bool), np.zeros(len(y), bool))
    for least in np.unique(share[share > 0])[::-1]:
        used = share >= least
        valid = there[:, used].all(axis=1)
        if (gain := int(used.sum()) * int(valid.sum())) > best:
            best, kept = gain, (used, valid)
    return kept


def _mean_over_hearings(heard: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean of the repeats that there are, NaN where there is none, and their number."""
    if len(heard) == 1:
        return heard[0], np.isfinite(heard[0]).astype(np.uint16)
    count = np.isfinite(heard).sum(axis=0)
    mean = np.nansum(heard, axis=0) / np.where(count > 0, count, np.nan)
    return np.asarray(mean, np.float32), count.astype(np.uint16)
