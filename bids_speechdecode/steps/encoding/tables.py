"""Fitted ridges -> the tables of one participant's encoding analysis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bids_speechdecode.config import EvaluationConfig
from bids_speechdecode.encoding.compared import control_pairs
from bids_speechdecode.encoding.contrasts import electrode_contrast, participant_contrast
from bids_speechdecode.encoding.ridge import LaggedRidge
from bids_speechdecode.encoding.scores import MODULATION_EDGES, modulation_scores
from bids_speechdecode.encoding.views import keep_responsive

ALL, RESPONSIVE, BROADBAND = "all", "responsive", "broadband"
_PLACE = ["x", "y", "z", "space", "label", "hemisphere"]


@dataclass(frozen=True)
class Heard:
    """The responses of all electrodes in all bands, and how time is cut.

    Attributes
    ----------
    electrodes : DataFrame
        name, type, group, x, y, z, space, label, hemisphere, distance.
    bands : tuple of str
    values : array, shape (n_times, n_bands * n_electrodes)
        Band after band; NaN where there is none.
    ceiling : array, shape (n_bands * n_electrodes,)
    stretch, fold : array of int, shape (n_times,)
    rate : float, hertz
    """

    electrodes: pd.DataFrame
    bands: tuple[str, ...]
    values: np.ndarray
    ceiling: np.ndarray
    stretch: np.ndarray
    fold: np.ndarray
    rate: float

    def split(self) -> Iterator[tuple[str, slice]]:
        """Yield each band and the columns of its electrodes."""
        n = len(self.electrodes)
        for index, band in enumerate(self.bands):
            yield band, slice(index * n, (index + 1) * n)


@dataclass(frozen=True)
class Fit:
    """The ridge of one model and layer; arrays have one entry per band and electrode."""

    model: str
    layer: int
    ridge: LaggedRidge
    r: np.ndarray
    r2: np.ndarray
    p: np.ndarray
    q: np.ndarray
    unique_r2: np.ndarray
    nuisance_r2: np.ndarray
    joint_r2: np.ndarray


def score_table(fits: Sequence[Fit], heard: Heard) -> pd.DataFrame:
    """Return one row per model, layer, band and electrode."""
    return _stack(_scores(fit, heard, band, part) for fit in fits for band, part in heard.split())


def _scores(fit: Fit, heard: Heard, band: str, part: slice) -> pd.DataFrame:
    ridge = fit.ridge
    with np.errstate(invalid="ignore", divide="ignore"):
        alpha = np.exp(np.log(ridge.alpha[:, part]).mean(axis=0))
    columns = {
        "r": fit.r[part],
        "r2": fit.r2[part],
        "p": fit.p[part],
        "q": fit.q[part],
        "lag": np.median(ridge.lag[:, part], axis=0) / heard.rate,
        "alpha": alpha,
        "noise_ceiling": heard.ceiling[part],
        "unique_r2": fit.unique_r2[part],
        "nuisance_r2": fit.nuisance_r2[part],
        "joint_r2": fit.joint_r2[part],
    }
    rounded = {name: np.round(values, 6) for name, values in columns.items()}
    n_samples = np.isfinite(ridge.prediction[:, part]).sum(axis=0)
    table = heard.electrodes.assign(**rounded, n_samples=n_samples)
    return _lead(table, model=fit.model, layer=fit.layer, band=band)


def lag_table(fits: Sequence[Fit], heard: Heard) -> pd.DataFrame:
    """Return the held-out correlation of every electrode at every lag."""
    return _stack(_lags(fit, heard, band, part) for fit in fits for band, part in heard.split())


def _lags(fit: Fit, heard: Heard, band: str, part: slice) -> pd.DataFrame:
    names, lags = heard.electrodes["name"].to_numpy(), fit.ridge.lags / heard.rate
    table = pd.DataFrame(
        {
            "name": np.repeat(names, len(lags)),
            "lag": np.tile(lags.round(6), len(names)),
            "r": fit.ridge.lag_profile[:, part].T.ravel().round(6),
        }
    )
    return _lead(table, model=fit.model, layer=fit.layer, band=band)


def modulation_table(fits: Sequence[Fit], heard: Heard) -> pd.DataFrame:
    """Return correlation and coherence of every electrode in bands of modulation."""
    return _stack(
        _modulations(fit, heard, band, part) for fit in fits for band, part in heard.split()
    )


def _modulations(fit: Fit, heard: Heard, band: str, part: slice) -> pd.DataFrame:
    found = modulation_scores(
        fit.ridge.prediction[:, part],
        heard.values[:, part],
        heard.rate,
        heard.stretch,
        MODULATION_EDGES,
        heard.fold,
    )
    found.insert(0, "name", heard.electrodes["name"].to_numpy()[found.pop("electrode")])
    return _lead(found.round(6), model=fit.model, layer=fit.layer, band=band)


def contrast_tables(
    fits: Sequence[Fit],
    heard: Heard,
    scores: pd.DataFrame,
    modulations: pd.DataFrame,
    settings: EvaluationConfig,
    rng: np.random.Generator,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return by how much models predict better than others: over electrodes, and at each one.

    Every model is compared with the first, and every tuned one with its own controls too.

    Parameters
    ----------
    fits : sequence of Fit
    heard : Heard
    scores, modulations : data frame
        Of `score_table` and `modulation_table`; the scores tell which electrodes are responsive.
    settings : EvaluationConfig
    rng : Generator
    """
    overall, single = [], []
    for fit, other in _pairs(fits):
        who = {"model": fit.model, "reference": other.model, "layer": fit.layer}
        for band, part in heard.split():
            own = scores[scores["band"] == band]
            pair = _Pair(fit, other, heard, part, set(keep_responsive(own, own)["name"]))
            single.append(_lead(pair.by_electrode(settings, rng), **who, band=band))
            here = modulations[modulations["band"] == band]
            rows = [*pair.overall(settings, rng), *pair.by_modulation(here)]
            overall.append(_lead(pd.DataFrame(rows), **who, band=band))
    return _stack(overall, CONTRAST_COLUMNS), _stack(single, SINGLE_COLUMNS)


def _pairs(fits: Sequence[Fit]) -> Iterator[tuple[Fit, Fit]]:
    """Yield what is compared with what, those with the first model before all others.

    Layers are compared with the same layer of the other model, or with its first where it has no
    such layer.
    """
    labels = list(dict.fromkeys(fit.model for fit in fits))
    first = labels[0]
    with_first = [(model, first) for model in labels[1:]]
    # Where the first one is a control or has controls, the pair is there already.
    rest = [pair for pair in control_pairs(labels) if first not in pair]
    for model, reference in [*with_first, *rest]:
        others = [fit for fit in fits if fit.model == reference]
        for fit in fits:
            if fit.model == model:
                yield fit, next((o for o in others if o.layer == fit.layer), others[0])


_WHO = ["model", "reference", "layer", "band"]
_INTERVAL = ["difference", "ci_low", "ci_high", "p"]
CONTRAST_COLUMNS = [*_WHO, "modulation", "electrodes", "n_electrodes", *_INTERVAL, "detectable"]
SINGLE_COLUMNS = [*_WHO, "name", *_PLACE, *_INTERVAL, "q"]


@dataclass(frozen=True)
class _Pair:
    """Two models' predictions of the same responses.

    Attributes
    ----------
    fit, other : Fit
    heard : Heard
    part : slice
        The columns of a band.
    responsive : set of str
        Names of the electrodes that any of all models predicts in this band.
    """

    fit: Fit
    other: Fit
    heard: Heard
    part: slice
    responsive: set[str]

    def by_electrode(self, settings: EvaluationConfig, rng: np.random.Generator) -> pd.DataFrame:
        found = electrode_contrast(*self._arrays(), **self._how(settings, rng))
        places = self.heard.electrodes[["name", *_PLACE]].reset_index(drop=True)
        return pd.concat([places, found[[*_INTERVAL, "q"]].round(6)], axis=1)

    def overall(
        self, settings: EvaluationConfig, rng: np.random.Generator
    ) -> Iterator[dict[str, object]]:
        """Yield the mean over all electrodes, and over the responsive ones."""
        known = np.isfinite(self.fit.r[self.part]) & np.isfinite(self.other.r[self.part])
        responsive = self.heard.electrodes["name"].isin(self.responsive).to_numpy(bool)
        chosen_of = {ALL: known, RESPONSIVE: known & responsive}
        measures = [*_INTERVAL, "detectable"]
        for which, chosen in chosen_of.items():
            row = {"modulation": BROADBAND, "electrodes": which, "n_electrodes": int(chosen.sum())}
            if not chosen.any():
                yield row | dict.fromkeys(measures, np.nan)
                continue
            a, b, y = (array[:, chosen] for array in self._arrays())
            found = participant_contrast(a, b, y, **self._how(settings, rng))
            yield row | {name: round(float(getattr(found, name)), 6) for name in measures}

    def by_modulation(self, table: pd.DataFrame) -> Iterator[dict[str, object]]:
        """Yield the mean difference in each band of modulation; tested over participants only.

        Parameters
        ----------
        table : data frame
            Rows of `modulation_table` in this band.
        """
        keys = ["low", "high", "name"]
        of_fits = (
            table[(table["model"] == fit.model) & (table["layer"] == fit.layer)]
            for fit in (self.fit, self.other)
        )
        mine, theirs = (own.set_index(keys)["r"] for own in of_fits)
        difference = (mine - theirs).dropna().reset_index()
        chosen_of = {
            ALL: difference,
            RESPONSIVE: difference[difference["name"].isin(self.responsive)],
        }
        for (low, high), _ in difference.groupby(["low", "high"]):
            for which, own in chosen_of.items():
                values = own.loc[(own["low"] == low) & (own["high"] == high), "r"]
                yield {
                    "modulation": f"{low:g}-{high:g}",
                    "electrodes": which,
                    "n_electrodes": len(values),
                    "difference": round(float(values.mean()), 6),
                    **dict.fromkeys([*_INTERVAL[1:], "detectable"], np.nan),
                }

    def _arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return (
            self.other.ridge.prediction[:, self.part],
            self.fit.ridge.prediction[:, self.part],
            self.heard.values[:, self.part],
        )

    def _how(self, settings: EvaluationConfig, rng: np.random.Generator) -> dict[str, Any]:
        return {
            "segments": self.heard.stretch,
            "rate": self.heard.rate,
            "block": settings.block,
            "n_bootstrap": settings.n_bootstrap,
            "n_permutations": settings.n_permutations,
            "confidence": settings.confidence,
            "rng": rng,
            "folds": self.heard.fold,
        }


def _lead(table: pd.DataFrame, **columns: Any) -> pd.DataFrame:
    """Return the table with columns of one value each in front."""
    for place, (name, value) in enumerate(columns.items()):
        table.insert(place, name, value)
    return table


def _stack(
    tables: Iterator[pd.DataFrame] | list[pd.DataFrame], columns: Sequence[str] = ()
) -> pd.DataFrame:
    tables = list(tables)
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(columns))
