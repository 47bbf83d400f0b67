"""Encoding models over participants: the tables of all, and what holds of people.

Participants are the random unit. Electrodes of one participant share brain, sound and montage;
they are averaged before anything is tested.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bids_speechdecode.bids.derivatives import Derivatives
from bids_speechdecode.bids.files import write_tsv
from bids_speechdecode.bids.sidecars import (
    fingerprint,
    read_sidecar,
    read_table,
    signature,
    write_sidecar,
)
from bids_speechdecode.config import EvaluationConfig
from bids_speechdecode.encoding.views import keep_responsive
from bids_speechdecode.errors import DataError, MissingInputError
from bids_speechdecode.group.encoding.contrasts import EncodingContrast, contrast_over_participants
from bids_speechdecode.group.rounding import round_off
from bids_speechdecode.group.statistics import t_interval
from bids_speechdecode.group.summary import LeftOut

VERSION = 2
BROADBAND, ALL, RESPONSIVE = "broadband", "all", "responsive"
TABLES = (
    "encoding",
    "encodingLags",
    "encodingModulations",
    "encodingContrasts",
    "encodingElectrodeContrasts",
)
# What must be the same for all who are put together.
_SAME_FOR_ALL = (
    "Models",
    "Layers",
    "Reference",
    "RepetitionTime",
    "Lags",
    "Alphas",
    "Context",
    "Token",
    "Rate",
    "Bands",
    "Edges",
    "Nuisance",
    "iEEGReference",
    "Simulated",
)
_KEYS = ["model", "layer", "band"]
MOST_NAMED = 12  # values of a setting that a message lists

PARTICIPANT = {
    "participant": "Whose electrodes they are; the other columns are as in the participant's table"
}
COLUMNS = {
    "modulation": "Band of modulation (Hz), or broadband",
    "electrodes": "all, or responsive: q <= 0.05 in its participant with any model, in any layer",
    "n_participants": "Participants with a value",
    "difference": "Mean over participants of mean r with the model minus that with the reference",
    "ci_low": "Lower limit of Student's t interval over participants",
    "ci_high": "Upper limit",
    "p": "Two-sided sign-flip test over participants",
    "p_min": "Smallest p that this number of participants can give",
    "n_better": "Participants in whom the model is better on their own (p <= 0.05)",
    "detectable": "Smallest difference that this number would find with a power of 0.8",
    "n_needed": "Participants needed to find a difference of 0.005 with a power of 0.8",
    "conclusion": "What may be concluded",
    "profile": "layer, lag or modulation",
    "value": "Layer, lag (s), or middle of the band of modulation (Hz)",
    "r": "Mean over participants of the mean held-out correlation of their electrodes",
    "coherence": "Mean over participants of the mean coherence of prediction and response",
    "amount": "Share of the training stories that the model was tuned on",
    "seed": "Seed of the tuning",
}


@dataclass(frozen=True)
class GroupEncoding:
    """The encoding tables of all participants of one task.

    Attributes
    ----------
    task : str
    tables : mapping of str to DataFrame
        By description (`TABLES`), with the column participant ("sub-01") first.
    about : mapping
        The sidecar that all share: models, lags, settings.
    left_out : tuple of LeftOut
    sources : tuple of path
    """

    task: str
    tables: Mapping[str, pd.DataFrame]
    about: Mapping[str, Any]
    left_out: tuple[LeftOut, ...]
    sources: tuple[Path, ...]

    @property
    def participants(self) -> tuple[str, ...]:
        """Who has tables."""
        return tuple(self.tables["encoding"]["participant"].unique())

    @property
    def simulated(self) -> bool:
        """Whether the data are simulated."""
        return bool(self.about.get("Simulated"))


def list_encoding_tasks(root: Path, participants: Sequence[str]) -> tuple[str, ...]:
    """Return the tasks for which any of the participants has encoding tables, sorted."""
    found = set()
    for participant in participants:
        for path in (root / f"sub-{participant}" / "ieeg").glob("*_desc-encoding_scores.tsv"):
            found |= set(re.findall(r"_task-([A-Za-z0-9+]+)_", path.name))
    return tuple(sorted(found))


def read_encoding(root: Path, participants: Sequence[str], task: str) -> GroupEncoding:
    """Return the encoding tables of all participants.

    Raises
    ------
    DataError
        The participants' models, lags or other settings differ.
    MissingInputError
        Nobody's tables are complete.
    """
    tables: dict[str, list[pd.DataFrame]] = {desc: [] for desc in TABLES}
    abouts: dict[str, dict[str, Any]] = {}
    written: dict[str, float] = {}
    left_out, sources = [], []
    for participant in participants:
        folder = root / f"sub-{participant}" / "ieeg"
        paths = {d: folder / f"sub-{participant}_task-{task}_desc-{d}_scores.tsv" for d in TABLES}
        about = read_sidecar(paths["encoding"]) if paths["encoding"].is_file() else {}
        absent = [path.name for path in paths.values() if not path.is_file()]
        if absent or not about:
            missing = ", ".join(absent) or f"sidecar of {paths['encoding'].name}"
            left_out.append(LeftOut(f"sub-{participant}", f"no encoding tables: {missing}"))
            continue
        abouts[f"sub-{participant}"] = about
        written[f"sub-{participant}"] = paths["encoding"].stat().st_mtime
        for desc, path in paths.items():
            table = read_table(path)
            table.insert(0, "participant", f"sub-{participant}")
            tables[desc].append(table)
            sources.append(path)
    if not abouts:
        raise MissingInputError(
            f"no participant's encoding tables of task {task!r} are complete",
            expected=f"{len(TABLES)} tables desc-encoding*_scores.tsv and their sidecars",
            found="; ".join(f"{item.what}: {item.why}" for item in left_out),
            where=root,
            fix="run the participant level with --analysis encoding again",
        )
    # Whoever was encoded last has the models and settings that are wanted now.
    require_same(dict(sorted(abouts.items(), key=lambda item: -written[item[0]])))
    joined = {desc: pd.concat(found, ignore_index=True) for desc, found in tables.items()}
    about = next(iter(abouts.values()))
    return GroupEncoding(task, joined, about, tuple(left_out), tuple(sources))


def require_same(abouts: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise where participants were encoded in different ways.

    Parameters
    ----------
    abouts : mapping of str to mapping
        The sidecar of each participant ("sub-01"), the one that was encoded last first.
    """
    last, wanted = next(iter(abouts.items()))
    others = {
        who: [key for key in _SAME_FOR_ALL if about.get(key) != wanted.get(key)]
        for who, about in abouts.items()
    }
    if not any(others.values()):
        return
    key = next(key for key in _SAME_FOR_ALL if any(key in keys for keys in others.values()))
    expected, found = _differences(key, abouts, {who for who in others if key in others[who]})
    again = sorted(who for who, keys in others.items() if keys)
    labels = " ".join(who.removeprefix("sub-") for who in again)
    raise DataError(
        f"the participants' encoding models differ in {key}",
        expected=f"{expected} ({last}, encoded last)",
        found="; ".join(found),
        fix=f"run the participant level with the options of {last} again for "
        f"{', '.join(again)} (--participant-label {labels})",
    )


def _differences(
    key: str, abouts: Mapping[str, Mapping[str, Any]], differ: set[str]
) -> tuple[str, list[str]]:
    """Return in words what the first participant has of a field, and what those who differ have."""
    wanted = next(iter(abouts.values()))
    groups: dict[str, list[str]] = {}
    for who in sorted(differ):
        words = _in_words(abouts[who].get(key))
        if key == "Models" and words == _in_words(wanted.get(key)):
            words = _other_weights(wanted.get(key) or [], abouts[who].get(key) or [])
        groups.setdefault(words, []).append(who)
    found = [f"{words} ({', '.join(who)})" for words, who in groups.items()]
    return _in_words(wanted.get(key)), found


def _other_weights(wanted: Iterable[Mapping[str, Any]], own: Iterable[Mapping[str, Any]]) -> str:
    """Return which models of the same label are not the same."""
    parts = []
    for model, other in zip(wanted, own, strict=False):
        fields = [k for k in {**model, **other} if model.get(k) != other.get(k)]
        if fields == ["Fingerprint"]:
            is_tuned = model.get("Kind") in {"tuned", "control"}
            words = f"had other weights, and was {'tuned again' if is_tuned else 'changed'} since"
        else:
            words = "differs in " + ", ".join(f for f in fields if f != "Fingerprint")
        parts += [f"the model '{model.get('Label')}' {words}"] if fields else []
    return ", ".join(parts)


def _in_words(value: Any) -> str:
    """Return a field of a sidecar as people write it; models by their labels."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_in_words(item)}" for name, item in value.items())
    if isinstance(value, list):
        items = [item.get("Label") if isinstance(item, Mapping) else item for item in value]
        if len(items) > MOST_NAMED:
            return f"{items[0]}, {items[1]}, ..., {items[-1]} ({len(items)} values)"
        return ", ".join(map(str, items)) or "none"
    return str(value)


def contrast_table(
    found: GroupEncoding, settings: EvaluationConfig, rng: np.random.Generator
) -> pd.DataFrame:
    """Return the comparison of models over participants, one row per contrast."""
    keys = ["model", "reference", "layer", "band", "modulation", "electrodes"]
    rows = []
    own = found.tables["encodingContrasts"]
    for key, part in own.groupby(keys, sort=False):
        known = part[part["difference"].notna()]
        if len(known):
            of = dict(zip(keys, key, strict=True))
            result = contrast_over_participants(
                known["difference"],
                known["p"],
                first=str(of["model"]),
                second=str(of["reference"]),
                confidence=settings.confidence,
                n_samples=settings.n_permutations,
                rng=rng,
            )
            row = _row(result)
            if known["p"].isna().all():  # bands of modulation are tested over participants only
                row |= {"n_better": np.nan, "conclusion": "n/a"}
            rows.append(of | row)
    return round_off(pd.DataFrame(rows))


def _row(result: EncodingContrast) -> dict[str, Any]:
    """Return the columns of a contrast over participants, in the order of the table."""
    names = ("n_participants", "ci_low", "ci_high", "p", "p_min", "n_better", "detectable")
    row = {name: getattr(result, name) for name in (*names, "n_needed", "conclusion")}
    return {"n_participants": row.pop("n_participants"), "difference": result.mean, **row}


def profile_table(found: GroupEncoding, settings: EvaluationConfig) -> pd.DataFrame:
    """Return r by layer, by lag and by band of modulation, with intervals over participants."""
    rows: list[dict[str, Any]] = []
    for name, desc, axis in (
        ("layer", "encoding", ["layer"]),
        ("lag", "encodingLags", ["lag"]),
        ("modulation", "encodingModulations", ["low", "high"]),
    ):
        table = found.tables[desc]
        rows += _profile(table, {"profile": name, "electrodes": ALL}, axis, settings)
        table = keep_responsive(table, found.tables["encoding"])
        rows += _profile(table, {"profile": name, "electrodes": RESPONSIVE}, axis, settings)
    return round_off(pd.DataFrame(rows))


def _profile(
    table: pd.DataFrame, about: Mapping[str, str], axis: list[str], settings: EvaluationConfig
) -> Iterator[dict[str, Any]]:
    keys = [*_KEYS, *[column for column in axis if column not in _KEYS]]
    measures = ["r", "coherence"] if "coherence" in table else ["r"]
    own = table.groupby([*keys, "participant"], sort=False)[measures].mean().reset_index()
    for key, part in own.groupby(keys, sort=True):
        row: dict[str, Any] = {**about, **dict(zip(keys, key, strict=True))}
        low, high = row.pop("low", np.nan), row.pop("high", np.nan)
        value = row.pop("lag", row["layer"]) if np.isnan(low) else (low + high) / 2
        yield row | {"value": value, "low": low, "high": high} | _mean(part, settings)


def _mean(part: pd.DataFrame, settings: EvaluationConfig) -> dict[str, Any]:
    r = part["r"].dropna().to_numpy(float)
    low, high = t_interval(r, settings.confidence, bounds=(-1.0, 1.0))
    mean = {"n_participants": len(r), "r": r.mean() if len(r) else np.nan}
    coherence = part["coherence"].mean() if "coherence" in part else np.nan
    return mean | {"ci_low": low, "ci_high": high, "coherence": coherence}


def scaling_table(contrasts: pd.DataFrame, about: Mapping[str, Any]) -> pd.DataFrame:
    """Return the gain of tuned models by the share of fMRI data that they were tuned on.

    The gain is that over the reference, the first model.
    """
    models = {m["Label"]: m for m in about["Models"] if m["Kind"] == "tuned"}
    rows = contrasts[
        contrasts["model"].isin(list(models))
        & (contrasts["modulation"] == BROADBAND)
        & (contrasts["reference"] == about["Reference"])
    ]
    columns = ["layer", "band", "electrodes", "n_participants", "difference", "ci_low", "ci_high"]
    table = rows[["model", *columns]].copy()
    table.insert(1, "amount", [models[m]["Amount"] for m in table["model"]])
    table.insert(2, "seed", [models[m]["Seed"] for m in table["model"]])
    return table.sort_values(["layer", "band", "electrodes", "amount", "seed"], ignore_index=True)


def write_encoding(
    out: Derivatives, found: GroupEncoding, settings: EvaluationConfig, rng: np.random.Generator
) -> pd.DataFrame:
    """Write the group's encoding tables; return the contrasts over participants."""
    own = found.tables["encodingContrasts"]
    contrasts = contrast_table(found, settings, rng) if len(own) else pd.DataFrame()
    tables = {
        "encodingElectrodes": found.tables["encoding"],
        "encodingProfiles": profile_table(found, settings),
    }
    if len(contrasts):
        tables["encodingContrasts"] = contrasts
        tables["encodingParticipantContrasts"] = own
        tables["encodingScaling"] = scaling_table(contrasts, found.about)
    for desc, table in tables.items():
        path = out.group_path(task=found.task, desc=desc, suffix="scores", extension=".tsv")
        write_tsv(path, table)
        # Tables of single participants have the columns of the participants' own sidecars.
        of_group = {} if "participant" in table else COLUMNS
        described = {name: of_group[name] for name in table.columns if name in of_group}
        describe_encoding(path, found, settings, Columns=described or PARTICIPANT)
    return contrasts


def describe_encoding(path: Path, found: GroupEncoding, settings: object, **more: Any) -> None:
    """Write the sidecar of a group derivative that was made from encoding tables."""
    inputs = [fingerprint(source) for source in found.sources]
    kept: dict[str, Any] = {key: found.about.get(key) for key in _SAME_FOR_ALL}
    write_sidecar(
        path,
        step="group",
        signature=signature("group", VERSION, settings, inputs),
        **more,
        **{key: value for key, value in kept.items() if key != "Simulated"},
        NoiseCeiling=found.about.get("NoiseCeiling"),
        Participants=found.participants,
        LeftOut=[{"what": item.what, "why": item.why} for item in found.left_out],
        Simulated=found.simulated,
    )
