"""People who listened to a story in a scanner: what of their BOLD the encoding path predicts.

`python tests/alice.py` prints the table of ``docs/encoding.md``; with `--whisper` also the row of
Whisper, which takes minutes. The data are those of Brennan et al.
(2016, doi:10.1016/j.bandl.2016.04.008): courses of six regions, no sound. The words are known to
the millisecond, so a synthesiser says each of them when it was said. All constants were written
down before any course of BOLD was looked at, and stayed. What changed after the first run: r is
computed from the predictions, because the r of the fit was NaN where the penalty is high, and the
delayed regressors were added.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass

import numpy as np
import pandas as pd
from conftest import SHARED

from bids_speechdecode.audio.context import context_features
from bids_speechdecode.audio.features import Reader
from bids_speechdecode.audio.nuisance import nuisance_features
from bids_speechdecode.audio.speech_models import load_speech_model
from bids_speechdecode.config import EncodingConfig, FmriConfig, TargetConfig
from bids_speechdecode.encoding.bold import LOBES, clean_bold, lanczos_resample, stack_delays
from bids_speechdecode.encoding.folds import Folds, contiguous_folds
from bids_speechdecode.encoding.ridge import fit_lagged_ridge
from bids_speechdecode.encoding.scores import correlate
from bids_speechdecode.simulate.speech import NARRATOR, RATE, Synthesiser
from bids_speechdecode.statistics import sign_flip
from bids_speechdecode.timeline import Interval

ALICE = SHARED / "data" / "alice_fmri"
WHISPER = SHARED / "models" / "whisper-tiny.en"
REGIONS = ("LATL", "RATL", "LPTL", "LIPL", "LPreM", "LIFG")
TR = 2.0  # seconds
N_VOLUMES = 362
N_DISCARDED = 10  # volumes at the beginning, through which the sound file is silent
SOUND = Interval(0.0, TR * (N_DISCARDED + N_VOLUMES))
SOURCE = "10mm"  # radius of the regions; the larger one averages over more voxels
CONTEXT = EncodingConfig().context
# Neither delays, nor Lanczos, nor Whisper's context then reach from one fold into another.
EMBARGO = max(FmriConfig().delays) + LOBES + round(CONTEXT / TR)
LAYER = 3  # of 4, as the default is 19 of 24
FADE = round(0.01 * RATE)  # or a word that is cut short ends with a click
LEAST_SHIFT = 30  # volumes, a minute


@dataclass(frozen=True)
class Scores:
    """Held-out correlations.

    Attributes
    ----------
    r : array, shape (n_participants, n_regions)
        Mean over folds.
    fold_r : array, shape (n_folds, n_participants, n_regions)
    pooled_r : array, shape (n_participants, n_regions)
        Of all folds as one, as in the tables of a run.
    """

    r: np.ndarray
    fold_r: np.ndarray
    pooled_r: np.ndarray

    def p(self, region: str) -> float:
        """Return the exact one-sided p over participants of a mean r above zero."""
        values = -self.r[:, REGIONS.index(region)]
        rng = np.random.default_rng(0)  # not used: with 13 people all signs are counted
        return sign_flip(values, alternative="less", n_samples=1, rng=rng).p


def volume_times() -> np.ndarray:
    """Return when each kept volume begins, seconds of the sound file, shape (362,)."""
    return TR * (N_DISCARDED + np.arange(N_VOLUMES))


def read_words() -> pd.DataFrame:
    """Return onset, offset (seconds of the sound file) and word of the aligned text."""
    text = next(ALICE.glob("*.TextGrid")).read_text("utf-8")
    found = re.findall(r'xmin = (\S+)\s+xmax = (\S+)\s+text = "(.*)"', text)
    words = pd.DataFrame(found, columns=["onset", "offset", "word"])
    words = words.astype({"onset": float, "offset": float})
    words["word"] = words["word"].str.strip()
    return words[~words["word"].isin(["", "sp"])].reset_index(drop=True)  # sp: short pause


def read_bold() -> np.ndarray:
    """Return the cleaned courses, shape (362, n_participants, n_regions)."""
    files = sorted((ALICE / SOURCE).glob("*-timecourses.txt"))
    return np.stack([clean_bold(np.loadtxt(file), None, TR)[0] for file in files], axis=1)


def read_regressor(name: str) -> np.ndarray:
    """Return a predictor that comes with the data, mean over participants, shape (362,)."""
    files = sorted((ALICE / "regressors").glob(f"*-{name}.txt"))
    return np.mean([np.loadtxt(file) for file in files], axis=0)


def speak(words: pd.DataFrame) -> np.ndarray:
    """Return sound at 16 kHz in which each word starts, and at the latest ends, when it did."""
    wave = np.zeros(round(SOUND.duration * RATE), np.float32)
    with Synthesiser() as synthesiser:
        spoken = {word: synthesiser.say(word, NARRATOR) for word in words["word"].unique()}
    for onset, offset, word in words.itertuples(index=False):
        sound = spoken[word][: round((offset - onset) * RATE)].copy()
        sound[-FADE:] *= np.linspace(1, 0, FADE)[-len(sound) :]
        first = round(onset * RATE)
        wave[first : first + len(sound)] += sound
    return wave


def reader(wave: np.ndarray) -> Reader:
    return lambda start, stop: wave[round(start * RATE) : round(stop * RATE)]


def sound_features(wave: np.ndarray, words: pd.DataFrame, names: list[str]) -> np.ndarray:
    """Return features without a model at all 372 volumes and delays, shape (362, 4 d)."""
    rate = EncodingConfig().rate
    return delayed(nuisance_features(reader(wave), SOUND, rate, names, words)[0], rate)


def whisper_features(wave: np.ndarray) -> np.ndarray:
    """Return a layer of Whisper, once per volume, at all delays, shape (362, 4 d)."""
    settings = TargetConfig(name="whisper", model=str(WHISPER), layer=LAYER)
    model = load_speech_model(settings, layers=(LAYER,))
    token = EncodingConfig().token
    features = context_features(
        reader(wave), SOUND, 1 / TR, model, context=CONTEXT, token=token, batch_size=8
    )
    return delayed(features[:, 0], 1 / TR)


def delayed(features: np.ndarray, rate: float) -> np.ndarray:
    """Return features at the volumes and delays; before the first volume lie the discarded ones."""
    times = SOUND.start + np.arange(len(features)) / rate
    all_volumes = TR * np.arange(N_DISCARDED + N_VOLUMES)
    at_volumes = lanczos_resample(features, times, all_volumes)
    return stack_delays(at_volumes, FmriConfig().delays)[N_DISCARDED:]


def make_folds() -> Folds:
    volumes = np.zeros(N_VOLUMES, int)
    return contiguous_folds(volumes, volumes == 0, EncodingConfig().n_folds, EMBARGO)


def score(design: np.ndarray, bold: np.ndarray) -> Scores:
    """Return how well a design (362, d) predicts each region of everybody."""
    config = EncodingConfig()
    alphas = np.geomspace(config.lowest_alpha, config.highest_alpha, config.alphas)
    courses = bold.reshape(N_VOLUMES, -1)
    folds = make_folds()
    fit = fit_lagged_ridge(design, courses, folds, lags=[0], alphas=alphas)
    held = [folds.block == k for k in range(folds.n_folds)]
    # From the predictions, as in the tables of a run.
    fold_r = np.stack([correlate(fit.prediction[rows], courses[rows]) for rows in held])
    fold_r = fold_r.reshape(-1, *bold.shape[1:])
    pooled = correlate(fit.prediction, courses, folds.block).reshape(bold.shape[1:])
    return Scores(fold_r.mean(axis=0), fold_r, pooled)


def score_shifted(design: np.ndarray, bold: np.ndarray, step: int = 3) -> np.ndarray:
    """Return the mean r over participants with the story rotated in time, (n_shifts, n_regions).

    People who hear one story share its moments: what agrees by chance with those agrees in all of
    them. Signs over participants do not test that; rotations do.
    """
    shifts = range(LEAST_SHIFT, N_VOLUMES - LEAST_SHIFT + 1, step)
    return np.array([score(np.roll(design, k, axis=0), bold).r.mean(axis=0) for k in shifts])


def row(name: str, scores: Scores) -> str:
    """Return a line of the table: mean r over participants and p of each region."""
    cells = [
        f"{scores.r[:, k].mean():.3f} ({scores.p(region):.4f})" for k, region in enumerate(REGIONS)
    ]
    return " | ".join([f"| {name}", *cells]) + " |"


def designs(wave: np.ndarray, words: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return the designs that take seconds, by their names in the table."""
    given = np.stack([read_regressor("rate"), read_regressor("sndpwr")], axis=1)
    return {
        "envelope and words": sound_features(wave, words, ["envelope", "words"]),
        "mel": sound_features(wave, words, ["mel"]),
        # These come convolved with a haemodynamic response: to delay them again would be wrong.
        "given regressors": given,
        "given regressors, delayed": stack_delays(given, FmriConfig().delays),
    }


def main() -> None:
    """Print the table."""
    bold, words = read_bold(), read_words()
    wave = speak(words)
    all_designs = designs(wave, words)
    if "--whisper" in sys.argv:
        all_designs["Whisper"] = whisper_features(wave)
    for name, design in all_designs.items():
        found = score(design, bold)
        print(row(name, found))
        lptl = REGIONS.index("LPTL")
        print("   folds", found.fold_r[:, :, lptl].mean(axis=1).round(3), end=" ")
        print("pooled", found.pooled_r.mean(axis=0).round(3), end=" ")
        print("above zero", (found.r > 0).sum(axis=0), "people", found.r[:, lptl].round(3))
    first = all_designs["envelope and words"]
    shifted, found = score_shifted(first, bold), score(first, bold).r.mean(axis=0)
    print("shifts:", len(shifted), "as high:", (shifted >= found).sum(axis=0), shifted.mean(axis=0))
    print("largest", shifted.max(axis=0))


if __name__ == "__main__":
    main()
