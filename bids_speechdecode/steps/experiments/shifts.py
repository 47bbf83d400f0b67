"""How far the targets of sources of sound are apart, and what of it is how they were recorded."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import pandas as pd

from bids_speechdecode.audio.acoustics import PROPERTIES
from bids_speechdecode.config import EvaluationConfig
from bids_speechdecode.decoding.evaluation import CHANCE
from bids_speechdecode.decoding.explained import Explained, explain
from bids_speechdecode.decoding.frechet import (
    Components,
    Distance,
    distance,
    n_components,
    principal_components,
)
from bids_speechdecode.decoding.shift import (
    FEWEST_BLOCKS,
    Separation,
    TwoSources,
    held_out_area,
    tell_apart,
)
from bids_speechdecode.steps.experiments.findings import Finding, interval, spell_p
from bids_speechdecode.steps.experiments.sources import AMBIENT, WORDS, Source, divide, pair

ALL_PROPERTIES = "all"
AUC_UNIT = "area under the curve above 0.5"
DISTANCE_UNIT = "share of the variance of ambient speech"
SHARE_UNIT = "share of the separation"
_PROPERTY_WORDS = {name: name.replace("_", " ") for name in PROPERTIES} | {"snr": "signal to noise"}
_UMAP_FROM = 50  # principal components
_QUICK_DRAWS = 200  # for the bias of a division's distance
_NAN = float("nan")


@dataclass(frozen=True)
class Halves:
    """What two halves of one source differ by.

    Attributes
    ----------
    areas, distances : array, shape (n_divisions,)
    """

    areas: np.ndarray
    distances: np.ndarray


@dataclass(frozen=True)
class Shift:
    """How far two sources are apart.

    Attributes
    ----------
    first, second : str
    n_windows, n_components : int
        Windows of each; dimensions of the Frechet distance.
    separation : Separation
    distance : Distance
        In shares of the variance of ambient speech.
    halves : Halves
        Of both sources.
    explained : mapping of str to Explained
        By property, and by all; empty where the sources are not told apart.
    """

    first: str
    second: str
    n_windows: int
    n_components: int
    separation: Separation
    distance: Distance
    halves: Halves
    explained: dict[str, Explained]

    def row(self) -> dict[str, Any]:
        """Return the row of the table of shifts."""
        apart, far, halves = self.separation, self.distance, self.halves
        areas = halves.areas if len(halves.areas) else np.array([_NAN])
        return {
            "first": self.first,
            "second": self.second,
            "n_windows": self.n_windows,
            "n_blocks": apart.n_blocks,
            "auc": apart.auc,
            "auc_low": apart.ci_low,
            "auc_high": apart.ci_high,
            "auc_p": apart.p,
            "halves_auc": areas.mean(),
            "halves_auc_low": areas.min(),
            "halves_auc_high": areas.max(),
            "n_components": self.n_components,
            "frechet_raw": far.raw,
            "frechet": far.value,
            "frechet_low": far.ci_low,
            "frechet_high": far.ci_high,
            "frechet_p": far.p,
            "halves_frechet": halves.distances.mean() if len(halves.distances) else _NAN,
        }

    def explained_rows(self) -> Iterator[dict[str, Any]]:
        """Yield a row for each property."""
        for name, found in self.explained.items():
            yield {
                "first": self.first,
                "second": self.second,
                "property": name,
                "share": found.share,
                "share_low": found.ci_low,
                "share_high": found.ci_high,
                "share_most": found.most,
            }


def measure_shifts(
    sources: Sequence[Source], settings: EvaluationConfig, rng: np.random.Generator
) -> Iterator[Shift]:
    """Yield how far each two sources are apart; ambient speech is the first source."""
    n_windows, dimension = sources[0].targets.shape
    n_blocks = min(len(np.unique(source.blocks)) for source in sources)
    both = np.concatenate([source.targets for source in sources])
    components = principal_components(both, n_components(n_blocks, dimension))
    projected = components.project(sources[0].targets)
    unit = np.sqrt(projected.var(axis=0).sum())
    halves = {s.name: _halve(s, components, unit, settings, rng) for s in sources}
    for first, second in itertools.combinations(sources, 2):
        two = pair(first, second)
        apart = tell_apart(two, settings, rng)
        few = _project(two, components, unit)
        properties = np.concatenate([first.properties, second.properties])
        is_told = apart.p <= 1 - settings.confidence
        yield Shift(
            first.name,
            second.name,
            n_windows,
            components.axes.shape[1],
            apart,
            distance(few, settings, rng),
            Halves(
                np.concatenate([halves[s.name].areas for s in (first, second)]),
                np.concatenate([halves[s.name].distances for s in (first, second)]),
            ),
            _explain(few, properties, settings, rng) if is_told else {},
        )


def _project(two: TwoSources, components: Components, unit: float) -> TwoSources:
    return replace(two, targets=components.project(two.targets) / unit)


def _halve(
    source: Source,
    components: Components,
    unit: float,
    settings: EvaluationConfig,
    rng: np.random.Generator,
) -> Halves:
    divisions = [d for d in divide(source, rng) if d.n_blocks >= FEWEST_BLOCKS]
    quick = replace(settings, n_bootstrap=_QUICK_DRAWS, n_permutations=1)
    return Halves(
        np.array([held_out_area(d) for d in divisions]),
        np.array([distance(_project(d, components, unit), quick, rng).value for d in divisions]),
    )


def _explain(
    two: TwoSources, properties: np.ndarray, settings: EvaluationConfig, rng: np.random.Generator
) -> dict[str, Explained]:
    columns = {name: [k] for k, name in enumerate(PROPERTIES)}
    columns[ALL_PROPERTIES] = list(range(len(PROPERTIES)))
    return {name: explain(two, properties[:, c], settings, rng) for name, c in columns.items()}


def say_shift(shift: Shift) -> Iterator[Finding]:
    """Yield the findings of two sources; in the paragraph, where one is what was pretrained on."""
    first, second = WORDS[shift.first], WORDS[shift.second]
    between = f"{first} and {second}"
    apart, far = shift.separation, shift.distance
    halves, aside = shift.row(), AMBIENT not in (shift.first, shift.second)
    told = (
        f"The targets of {between} are told apart with an area under the curve of {apart.auc:.3f} "
        f"({interval(apart.ci_low, apart.ci_high)}, {spell_p(apart.p)}, permuted blocks; "
        f"{apart.n_blocks} blocks and {shift.n_windows} windows of each); {_say_halves(halves)}."
    )
    how = "permutation of blocks"
    area = apart.auc - CHANCE, apart.ci_low - CHANCE, apart.ci_high - CHANCE, apart.p, apart.p_min
    yield Finding(
        f"telling apart {between}", *area, apart.n_blocks, how, "", "", told, AUC_UNIT, aside
    )
    text = (
        f"The Fréchet distance of {between} is {far.value:.3f} of the variance of ambient speech "
        f"({interval(far.ci_low, far.ci_high)}, {spell_p(far.p)}; {shift.n_components} principal "
        f"components, less the bias of so few windows)."
    )
    numbers = far.value, far.ci_low, far.ci_high, far.p, far.p_min
    name = f"Fréchet distance of {between}"
    sides, n_blocks = ("", ""), apart.n_blocks
    yield Finding(name, *numbers, n_blocks, how, *sides, text, DISTANCE_UNIT, aside=True)
    if shift.explained:
        yield replace(_say_explained(shift, between), aside=aside)


def _say_halves(row: dict[str, Any]) -> str:
    if np.isnan(row["halves_auc"]):
        return "neither source has blocks enough to say what halves of it differ by"
    return (
        f"halves of one source, with half as many windows, with {row['halves_auc']:.3f} "
        f"({row['halves_auc_low']:.3f} to {row['halves_auc_high']:.3f}, divided by recording)"
    )


def _say_explained(shift: Shift, between: str) -> Finding:
    every = shift.explained[ALL_PROPERTIES]
    alone = {name: e for name, e in shift.explained.items() if name != ALL_PROPERTIES}
    clear = {name: e for name, e in alone.items() if e.ci_low > 0}
    best = max(clear, key=lambda name: clear[name].share, default="")
    single = (
        f"{_PROPERTY_WORDS[best]} alone {clear[best].share:.2f}"
        if best
        else "none of them alone clearly above 0"
    )
    text = (
        f"Of what separates {between}, a share of {every.share:.2f} "
        f"({interval(every.ci_low, every.ci_high, 2)}) goes with {_list(_PROPERTY_WORDS.values())} "
        f"as targets follow them within a source ({single}); {every.most:.2f} with all that "
        "differs along with them between the two."
    )
    numbers = every.share, every.ci_low, every.ci_high, _NAN, _NAN
    name = f"what recording explains of {between}"
    n_blocks = shift.separation.n_blocks
    return Finding(name, *numbers, n_blocks, "none", "", "", text, SHARE_UNIT)


def _list(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} and {last}"


def property_table(sources: Sequence[Source]) -> pd.DataFrame:
    """Return median and quartiles of every property of every source."""
    rows = []
    for source in sources:
        for values, (name, unit) in zip(source.properties.T, PROPERTIES.items(), strict=True):
            known = values[np.isfinite(values)]
            limits = np.percentile(known, [25, 50, 75]) if len(known) else np.full(3, _NAN)
            numbers = dict(zip(("q25", "median", "q75"), limits, strict=True))
            about = {"source": source.name, "property": name, "unit": unit}
            rows.append({**about, "n_windows": len(known), **numbers})
    return pd.DataFrame(rows)


def map_sources(sources: Sequence[Source], seed: int) -> pd.DataFrame:
    """Return where every window lies on the first two principal components of all sources.

    And on a UMAP of the first 50, where ``umap-learn`` is installed.
    """
    targets = np.concatenate([source.targets for source in sources])
    components = principal_components(targets, min(_UMAP_FROM, targets.shape[1]))
    points = components.project(targets)
    table = pd.concat(
        [s.table[["recording", "onset"]].assign(source=s.name) for s in sources], ignore_index=True
    )
    for k in range(min(2, points.shape[1])):
        table[f"pc{k + 1}"] = points[:, k]
        table[f"pc{k + 1}_variance"] = components.share[k]
    if find_spec("umap"):
        umap = importlib.import_module("umap")
        fitted = umap.UMAP(n_components=2, random_state=seed)
        table["umap1"], table["umap2"] = np.asarray(fitted.fit_transform(points)).T
    return table
