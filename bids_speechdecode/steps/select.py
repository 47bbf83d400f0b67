"""Step ``select``: which channels the models read, where they lie, and why each was chosen."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bids_speechdecode.anatomy.freesurfer import FreeSurferSubject
from bids_speechdecode.anatomy.selection import notes_on_centers, parse_centers, select_channels
from bids_speechdecode.bids.files import write_tsv
from bids_speechdecode.bids.sidecars import fingerprint, read_sidecar, signature, write_sidecar
from bids_speechdecode.config import Config, SelectionConfig
from bids_speechdecode.decoding.spatial import SpatialAttention, as_positions
from bids_speechdecode.errors import DataError, MissingInputError, SpeechDecodeError
from bids_speechdecode.steps.channels import preprocessed_channels, selected_file
from bids_speechdecode.steps.contacts import list_channels
from bids_speechdecode.steps.context import (
    Context,
    other_settings,
    plan_fingerprint,
    require_step,
    signature_of,
)
from bids_speechdecode.steps.listen import listen
from bids_speechdecode.steps.locate import Located, locate
from bids_speechdecode.steps.plan import FINETUNE, ParticipantPlan

log = logging.getLogger(__name__)

VERSION = 2
RESPONSIVE = "responsive"
NO_PAIR = "no neighbour for a bipolar pair"
UNREADABLE = "spatial attention reads channels by their position"

COLUMNS = {
    "kept": "Whether the models read the channel",
    "reason": "Why it was kept or dropped",
    "good_fraction": "Share of the recording time in which the channel is good",
    "contact_1": "First contact of a bipolar pair",
    "contact_2": "Second contact of a bipolar pair",
    "group": "Shaft, grid or strip",
    "x": "Position (mm, to the right); of a bipolar pair its midpoint",
    "y": "Position (mm, forward)",
    "z": "Position (mm, up)",
    "space": "Space of the position: MNI152, or the participant's own",
    "source_space": "Space of the position in the dataset",
    "label": "Label of the atlas at the contact, or the nearest one within the limit",
    "hemisphere": "L, R, or B where the label is on both sides",
    "probability": "Share of the ball around the contact that has its label",
    "nearest_label": "The nearest label, however far",
    "distance": "Distance to the nearest label (mm); 0 inside",
    "tissue": "Tissue at the contact",
    "sound_r": "Correlation with the loudness of training sound at the best lag (rule responsive)",
    "sound_lag": "That lag: signal after sound (s)",
    "sound_p": "p of sound_r, from blocks of sound in another order",
    "sound_q": "False discovery rate of sound_p over channels",
}


def select(context: Context) -> None:
    """Write the table of every channel, kept or dropped, and why.

    Raises
    ------
    NothingSelectedError
        No channel passes the rules.
    DataError
        No channel is good for long enough; or, under ``--unlocalised error``, a channel has no
        position.
    """
    path, key = selected_file(context), _signature(context)
    if context.out.is_current(path, key):
        context.progress.skip("select", f"sub-{context.participant}", "current")
        _warn(context.participant, read_sidecar(path).get("Notes", []))
        return
    located = locate(context.plan, context.config.anatomy)
    notes = [*located.notes, *_notes_on_rules(context.config.selection)]
    _warn(context.participant, notes)
    quality = _read_quality(context)
    table = located.table.assign(
        good_fraction=[quality.good_fraction(name) for name in located.table["name"]]
    )
    usable = table["good_fraction"] >= context.config.preprocess.min_good_fraction
    if not usable.any():
        raise _nothing_good(context, len(table))
    good = table[usable].reset_index(drop=True)
    heard = None
    if RESPONSIVE in context.config.selection.rules:
        heard, about_blocks = listen(context, good["name"].tolist())
        good = good.merge(heard, how="left", on="name")
        notes += about_blocks
    good = select_channels(good, context.config.selection, located.labels, heard)
    good = _leave_to_attention(good, context.config)
    dropped = table[~usable].assign(
        kept=False, reason=[quality.why_not(name) for name in table.loc[~usable, "name"]]
    )
    unused = pd.DataFrame(
        [{"name": n, "type": t, "kept": False, "reason": r} for n, t, r in _unused(context.plan)]
    )
    rows = pd.concat([good, dropped, unused], ignore_index=True)
    write_tsv(path, _as_channels(rows))
    write_sidecar(
        path,
        step="select",
        signature=key,
        Description="Every channel: kept or dropped, why, and where it lies",
        Rules=list(context.config.selection.rules),
        Atlas=" ".join(context.config.anatomy.atlas),
        Notes=notes,
        **{name: {"Description": text} for name, text in COLUMNS.items()},
        Simulated=context.plan.simulated,
    )


def is_selected(context: Context) -> bool:
    """Return whether the channels were selected with these settings; the signals must be there."""
    return context.out.is_current(selected_file(context), _signature(context))


def require_selected(context: Context) -> None:
    """Raise unless the channels were selected with the settings of this run.

    Raises
    ------
    MissingInputError
        The table is missing or was made with other settings.
    """
    path = require_step(selected_file(context), "select")
    if not context.out.is_current(path, _signature(context)):
        raise other_settings(path, "select")


def foresee(plan: ParticipantPlan, config: Config) -> tuple[Located, pd.DataFrame]:
    """Return what the rules of position will choose, before any signal is read.

    Raises
    ------
    NothingSelectedError, DataError
        As `select`, or that spatial attention has no position to read: better before hours of
        preprocessing than after.
    """
    located = locate(plan, config.anatomy)
    notes = (*located.notes, *_notes_on_rules(config.selection))
    settings = config.selection
    if RESPONSIVE in settings.rules:
        others = tuple(rule for rule in settings.rules if rule != RESPONSIVE)
        settings = replace(settings, rules=others or ("all",))
    try:
        chosen = select_channels(located.table, settings, located.labels, None)
        chosen = _leave_to_attention(chosen, config)
    except SpeechDecodeError:
        _warn(plan.participant, notes)  # they are often the cause
        raise
    return replace(located, notes=notes), chosen


def _warn(participant: str, notes: Iterable[str]) -> None:
    for note in notes:
        log.warning("sub-%s: %s", participant, note)


def _signature(context: Context) -> str:
    config, plan = context.config, context.plan
    files = dict.fromkeys(f for r in plan.recordings for f in r.electrodes)
    atlas = [path for path in config.anatomy.atlas if len(config.anatomy.atlas) > 1]
    settings: dict[str, Any] = {
        "anatomy": asdict(config.anatomy),
        "selection": asdict(config.selection),
        "min_good_fraction": config.preprocess.min_good_fraction,
        "channels": [asdict(channel) for channel in list_channels(plan)],
        "by_position": config.encoder.spatial,
    }
    if RESPONSIVE in config.selection.rules:
        settings["windows"] = plan_fingerprint(context, FINETUNE)
        settings["statistics"] = [config.evaluation.block, config.run.seed]
    inputs = [
        *(fingerprint(path) for path in _subject_files(config, plan)),
        *(fingerprint(f.electrodes) for f in files),
        *(fingerprint(f.coordsystem) for f in files if f.coordsystem),
        *(fingerprint(Path(path)) for path in atlas),
        *(signature_of(p) for r in plan.recordings for p in context.preprocessed(r).values()),
    ]
    return signature("select", VERSION, settings, inputs)


def _notes_on_rules(settings: SelectionConfig) -> Iterator[str]:
    """Yield what the user asked of a rule that is not there, and centres outside the head."""
    usual = SelectionConfig()
    for rule, names in {"roi": ("roi", "hemisphere"), "radius": ("center",)}.items():
        changed = [f"--{n}" for n in names if getattr(settings, n) != getattr(usual, n)]
        if changed and rule not in settings.rules:
            yield f"{' and '.join(changed)} is not used without --select {rule}"
    if "radius" in settings.rules:
        yield from notes_on_centers(parse_centers(settings.center))


def _leave_to_attention(chosen: pd.DataFrame, config: Config) -> pd.DataFrame:
    """Return the channels with those dropped that spatial attention cannot read.

    Raises
    ------
    DataError
        It cannot read any, or one lies outside its box.
    """
    if config.encoder.spatial != "attention":
        return chosen
    positions = as_positions(chosen[["x", "y", "z"]].to_numpy(dtype=float))
    kept = chosen["kept"].to_numpy()
    SpatialAttention(tuple(p for p, used in zip(positions, kept, strict=True) if used), 1)
    lost = kept & np.array([where is None for where in positions])
    return chosen.assign(
        kept=kept & ~lost, reason=chosen["reason"].mask(lost, "not localised: " + UNREADABLE)
    )


def _subject_files(config: Config, plan: ParticipantPlan) -> list[Path]:
    if not config.anatomy.fs_subjects_dir:
        return []
    try:
        subject = FreeSurferSubject.open(config.anatomy.fs_subjects_dir, plan.participant)
    except MissingInputError:  # which matters only for contacts in the participant's own space
        return []
    return [path for path in subject.files if path.is_file()]


@dataclass(frozen=True)
class _Quality:
    """In how much of the recording time each channel is good, and what is wrong with it."""

    total: float
    good_time: Mapping[str, float]
    faults: Mapping[str, tuple[str, ...]]

    def good_fraction(self, name: str) -> float:
        return round(self.good_time.get(name, 0.0) / self.total, 4)

    def why_not(self, name: str) -> str:
        faults = ", ".join(self.faults.get(name, ())) or "absent or bad elsewhere"
        return f"good in only {self.good_fraction(name):.0%} of the recording time ({faults})"


def _read_quality(context: Context) -> _Quality:
    good_time: dict[str, float] = {}
    faults: dict[str, tuple[str, ...]] = {}
    for planned in context.plan.recordings:
        table = preprocessed_channels(context, planned)
        for name, status, fault in table[["name", "status", "status_description"]].itertuples(
            index=False
        ):
            if status == "good":
                good_time[name] = good_time.get(name, 0.0) + planned.duration
            else:
                faults[name] = tuple(dict.fromkeys([*faults.get(name, ()), str(fault)]))
    total = sum(planned.duration for planned in context.plan.recordings)
    return _Quality(total, good_time, faults)


def _nothing_good(context: Context, n_channels: int) -> DataError:
    least = context.config.preprocess.min_good_fraction
    return DataError(
        f"sub-{context.participant} has no channel that is good in enough recordings",
        expected=f"good in {least:.0%} of the time",
        found=f"{n_channels} channels, each good in less",
        fix="lower preprocess.min_good_fraction in --config, or check channel names",
    )


def _unused(plan: ParticipantPlan) -> list[tuple[str, str, str]]:
    """Return name, type and reason of the channels that no montage has."""
    used = {contact for channel in list_channels(plan) for contact in channel.contacts}
    found: dict[str, tuple[str, str, str]] = {}
    for planned in plan.recordings:
        types = {c.name: c.type for c in planned.recording.channels}
        reasons = {**dict.fromkeys(planned.montage.left_out, NO_PAIR), **dict(planned.dropped)}
        for name, reason in reasons.items():
            if name not in used:
                found.setdefault(name, (name, types.get(name, "MISC"), reason))
    return list(found.values())


def _as_channels(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the table with the columns that BIDS wants of channels, and ours in their order."""
    rows = rows.assign(
        units="n/a",
        low_cutoff="n/a",
        high_cutoff="n/a",
        kept=rows["kept"].map({True: "true", False: "false"}),
    )
    order = ["name", "type", "units", "low_cutoff", "high_cutoff", *COLUMNS]
    rows = rows.reindex(columns=order)
    rounded = {"x": 2, "y": 2, "z": 2, "probability": 3, "distance": 2, "sound_r": 4}
    numbers = {c: pd.to_numeric(rows[c], errors="coerce").round(d) for c, d in rounded.items()}
    return rows.assign(**numbers)
