"""How well a speech model predicts BOLD of stories that took no part in anything.

As in the choice of the epoch (`refit`), features of the model are refitted with ridge; but the
penalty is chosen on the validation stories, and what counts is the score on the test stories.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bids_speechdecode.encoding.listener import Listener, Token, TunableModel
from bids_speechdecode.encoding.refit import ALPHAS, VOXELS_AT_ONCE, StoryFeatures
from bids_speechdecode.encoding.stories import AUDIO_RATE, PreparedStory

BATCH = 32  # windows of sound through the model at once


def hear_story(
    model: TunableModel, story: PreparedStory, context: float, token: Token
) -> StoryFeatures:
    """Return the delayed features of a story's volumes beside its BOLD.

    Parameters
    ----------
    model : TunableModel
    story : PreparedStory
    context : float, seconds
        Length of the windows of sound, as the story was prepared with.
    token : {"first", "last", "mean"}
        Which frame stands for a window.
    """
    listener = Listener(model, round(context * AUDIO_RATE), token, BATCH)
    return StoryFeatures(listener.hear_all(story), story.bold)


def score_test(
    training: Sequence[StoryFeatures],
    validation: Sequence[StoryFeatures],
    test: Sequence[StoryFeatures],
) -> dict[str, np.ndarray]:
    """Return the correlation of measured with predicted BOLD of the test stories.

    ``B = (X'X + alpha n I)^-1 X'Y`` on the training stories, X standardised and Y centred by their
    n volumes. One alpha per participant, the one that predicts the validation stories best on
    average over voxels.

    Returns
    -------
    r : dict from participant to array, shape (n_voxels,)
        Pearson's r over all volumes of the test stories; 0 for a voxel that does not vary.
        Participants who lack training, validation or test stories are left out.
    """
    sets = (training, validation, test)
    people = set.intersection(*({who for story in part for who in story.bold} for part in sets))
    return {who: _score_person(*(_of_person(who, part) for part in sets)) for who in sorted(people)}


def _of_person(who: str, stories: Sequence[StoryFeatures]) -> tuple[np.ndarray, np.ndarray]:
    """Return features (n, d) and BOLD (n, v) of all stories that somebody heard."""
    heard = [story for story in stories if who in story.bold]
    features = np.concatenate([np.asarray(story.features, np.float64) for story in heard])
    return features, np.concatenate([story.bold[who] for story in heard])


def _score_person(
    training: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
) -> np.ndarray:
    x, y = training
    mean, spread = x.mean(axis=0), x.std(axis=0)
    spread[spread < 1e-8] = 1
    x = (x - mean) / spread
    strengths, directions = np.linalg.eigh(x.T @ x)
    strengths = np.maximum(strengths, 0)
    held_out = [(((new - mean) / spread) @ directions, bold) for new, bold in (validation, test)]
    scores: tuple[list, list] = ([], [])
    for first in range(0, y.shape[1], VOXELS_AT_ONCE):
        some = slice(first, first + VOXELS_AT_ONCE)
        measured = y[:, some].astype(np.float64)
        projected = directions.T @ (x.T @ (measured - measured.mean(axis=0)))
        for (rotated, bold), found in zip(held_out, scores, strict=True):
            predictions = (rotated / (strengths + a * len(x)) @ projected for a in ALPHAS)
            found.append([_correlate(p, bold[:, some].astype(np.float64)) for p in predictions])
    chosen, judged = (np.concatenate(found, axis=1) for found in scores)  # (n_alphas, n_voxels)
    return judged[int(chosen.mean(axis=1).argmax())]


def _correlate(predicted: np.ndarray, measured: np.ndarray) -> np.ndarray:
    a, b = predicted - predicted.mean(axis=0), measured - measured.mean(axis=0)
    product = np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=0)
    return np.where(product > 1e-12, (a * b).sum(axis=0) / np.maximum(product, 1e-12), 0.0)
