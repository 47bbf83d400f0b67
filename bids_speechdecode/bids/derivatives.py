"""The folder of derivatives: a BIDS dataset of its own, its names and what they mean."""

from __future__ import annotations

import contextlib
import datetime
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bids_speechdecode import __version__
from bids_speechdecode.bids.files import to_json, write_text
from bids_speechdecode.bids.sidecars import find_damage, read_sidecar
from bids_speechdecode.errors import UsageError

NAME = "bids_speechdecode"
_BIDS_VERSION = "1.10.0"
_ENTITY_ORDER = (
    "sub",
    "ses",
    "task",
    "acq",
    "run",
    "hemi",
    "space",
    "recording",
    "atlas",
    "res",
    "desc",
)

# What BIDS does not name yet.
_IGNORED = (
    "*.html",
    "logs",
    "**/figures",
    "figures",
    "sub-*/log",
    "group_*",
    "**/*_embeddings.*",
    "**/*_scores.*",
    "**/*_model.*",
    "**/*_history.*",
    "**/*_windows.*",
    "**/*_spectra.*",
    "**/*_features.*",
    "features",
    "experiments",
    "speechmodels",
)
_CONDITIONS = (
    "backward",
    "linear",
    "projection",
    "taskonly",
    "zeroshot",
    "frozen",
    "finetuned",
    "pretrained",
)
_DESCRIPTIONS = {
    "preproc": "cleaned, decimated and robustly scaled signal",
    "preprocHighgamma": "envelope of high gamma, decimated and robustly scaled",
    "selected": "every channel: kept or dropped, why, and where it lies",
    "plan": "which recordings, channels and windows are used, and what is left out",
    "conditions": "retrieval ranks of every condition on the held-out windows",
    "contrasts": "paired differences of rank between conditions",
    **{
        f"{name}{part}": f"experiment on {what}: {of}"
        for name, what in {
            "scaling": "the amount of pretraining data",
            "finetunesize": "the amount of the task's data",
            "targets": "targets",
            "encoders": "encoders, losses and bands",
        }.items()
        for part, of in {"": "models and their ranks", "Findings": "what they say"}.items()
    },
    "backward": "time-lagged ridge from brain to audio",
    "linear": "linear encoder, trained on the task only",
    "taskonly": "convolutional encoder with the same head and budget, trained on the task only",
    "projection": "as taskonly, without the spatial attention that the others have",
    "zeroshot": "pretrained encoder without finetuning",
    "frozen": "pretrained encoder, only the head finetuned",
    "finetuned": "pretrained encoder, all of it finetuned",
    "pretrained": "encoder pretrained on ambient recordings",
    "pooled": "pretraining on several participants: the encoder, or an experiment on it",
    "pooledFindings": "experiment on pretraining on several participants: what it says",
    "participants": "the scores of all participants",
    "participantContrasts": "the contrasts of all participants",
    "contrib": "what each electrode contributes to the model's retrieval ranks",
    "contacts": "the contributions of all electrodes of all participants",
    "parcels": "contributions by parcel and hemisphere, over participants",
    "parcelsByParticipant": "contributions by parcel and hemisphere, of each participant",
    "regions": "differences of contribution between regions within participants",
    "auditory": "benefits of pretraining and of the target, and coverage of auditory cortex",
    "auditoryCorrelation": "whether those benefits go with that coverage, over participants",
    "effect": "mean contribution over the participants who cover a place",
    "coverage": "electrodes that inform a place, all participants together",
    "n": "participants who cover a place",
    "slow": "the signal itself, decimated",
    "theta": "amplitude of the theta band, decimated",
    "alpha": "amplitude of the alpha band, decimated",
    "beta": "amplitude of the beta band, decimated",
    "gamma": "amplitude of the gamma band, decimated",
    "highgamma": "amplitude of the high-gamma band, decimated",
    "encoding": "how well speech models predict each electrode in held-out time",
    "encodingLags": "the same at every lag",
    "encodingModulations": "the same in bands of modulation",
    "encodingContrasts": "speech models compared",
    "encodingElectrodeContrasts": "speech models compared at each electrode",
    "encodingElectrodes": "how well speech models predict the electrodes of all participants",
    "encodingParticipantContrasts": "speech models compared in each participant",
    "encodingProfiles": "prediction by layer, lag and band of modulation, over participants",
    "encodingScaling": "gain of tuned speech models by the amount of fMRI",
    "encodingR": "where speech models predict",
    "encodingGain": "where a tuned speech model predicts better",
    "encodingCoverage": "electrodes that inform a place of these maps",
    "encodingN": "participants who cover a place of these maps",
}
_DESCRIPTIONS |= {
    f"{condition}{version}{what}": f"{text}{of_version}{of_what}"
    for condition, text in tuple(_DESCRIPTIONS.items())
    if condition in _CONDITIONS
    for version, of_version in (("", ""), ("Ambient", "; the room's version of the sound"))
    for what, of_what in (
        ("", ""),
        ("brain", "; embeddings of the brain"),
        ("audio", "; embeddings of the sound"),
    )
}


def check_output(bids_dir: Path, out: Path) -> None:
    """Raise if the output folder is, or lies inside, the input dataset.

    Raises
    ------
    UsageError
        Inputs are never written to.
    """
    source, target = Path(bids_dir).resolve(), Path(out).resolve()
    if target == source or source in target.parents:
        raise UsageError(
            "The output folder lies inside the input dataset.",
            expected="a folder outside the dataset, which is never written to",
            found=str(out),
            where=source,
            fix="name another output folder",
        )


class Derivatives:
    """A folder of BIDS derivatives; making the object writes nothing.

    Parameters
    ----------
    root : path
        The output folder.
    source : path
        The dataset that the derivatives are made from.
    command : str
        The command line as typed, kept in the README.
    simulated : bool
        Whether the source is simulated; then the name says so.
    """

    def __init__(self, root: Path, *, source: Path, command: str, simulated: bool) -> None:
        self.root = Path(root).absolute()
        self.source = Path(source).absolute()
        self.command = command
        self.simulated = simulated

    def initialise(self) -> None:
        """Write the files that make the folder a BIDS dataset, where they differ or are absent.

        Safe while another process does the same.

        Raises
        ------
        UsageError
            If the folder is inside the source, or holds somebody else's dataset.
        CannotWriteError
            If it cannot be written.
        """
        check_output(self.source, self.root)
        self.check_owner()
        title = f"{NAME}{' (simulated)' if self.simulated else ''}"
        _write_if_changed(self.root / "dataset_description.json", to_json(self._description()))
        _write_if_changed(self.root / "README", _readme(title, self.command, self.simulated))
        if not (self.root / "CHANGES").exists():
            today = datetime.date.today().isoformat()
            write_text(self.root / "CHANGES", f"{__version__} {today}\n  - First derivatives.\n")
        _write_if_changed(self.root / ".bidsignore", "\n".join(_IGNORED) + "\n")
        rows = "".join(f"desc-{desc}\t{text}\n" for desc, text in _DESCRIPTIONS.items())
        _write_if_changed(self.root / "descriptions.tsv", f"desc_id\tdescription\n{rows}")

    def check_owner(self) -> None:
        """Raise a UsageError if the folder holds somebody else's dataset."""
        path = self.root / "dataset_description.json"
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
            makers = json.loads(path.read_text("utf-8")).get("GeneratedBy") or [{}]
            if makers[0].get("Name") != NAME:
                raise UsageError(
                    "The output folder holds another dataset.",
                    expected=f"a new folder, or derivatives of {NAME}",
                    where=path,
                    fix="name another output folder",
                )

    def _description(self) -> dict[str, Any]:
        return {
            "Name": f"{NAME}: speech in intracranial EEG{' (simulated)' if self.simulated else ''}",
            "BIDSVersion": _BIDS_VERSION,
            "DatasetType": "derivative",
            "GeneratedBy": [
                {
                    "Name": NAME,
                    "Version": __version__,
                    "Description": "Decoding of heard speech from intracranial EEG, and encoding "
                    "models of it",
                }
            ],
            "SourceDatasets": [{"URL": "file://" + quote(str(self.source))}],
        }

    def path(
        self,
        participant: str,
        *,
        session: str | None = None,
        task: str | None = None,
        run: str | None = None,
        desc: str | None = None,
        suffix: str,
        extension: str,
        datatype: str = "ieeg",
        **entities: str | None,
    ) -> Path:
        """Return where a derivative of a participant lives; creates nothing.

        Examples
        --------
        >>> out = Derivatives(Path("/out"), source=Path("/data"), command="", simulated=False)
        >>> str(out.path("01", task="x", desc="preproc", suffix="ieeg", extension=".vhdr"))
        '/out/sub-01/ieeg/sub-01_task-x_desc-preproc_ieeg.vhdr'
        """
        given = {"ses": session, "task": task, "run": run, "desc": desc, **entities}
        name = entity_name({"sub": participant, **given}, suffix, extension)
        folder = self.root / f"sub-{participant}"
        if session:
            folder /= f"ses-{session}"
        return folder / datatype / name

    def group_path(
        self,
        *,
        task: str | None = None,
        hemi: str | None = None,
        space: str | None = None,
        desc: str | None = None,
        suffix: str,
        extension: str,
    ) -> Path:
        """Return where a table, figure or map of the whole group lives.

        Examples
        --------
        >>> out = Derivatives(Path("/out"), source=Path("/data"), command="", simulated=False)
        >>> str(out.group_path(hemi="L", desc="n", suffix="map", extension=".shape.gii"))
        '/out/group_hemi-L_desc-n_map.shape.gii'
        """
        entities = {"task": task, "hemi": hemi, "space": space, "desc": desc}
        return self.root / ("group_" + entity_name(entities, suffix, extension))

    def atlas_path(self, atlas: str) -> Path:
        """Return where the table of an atlas's labels lives.

        Examples
        --------
        >>> out = Derivatives(Path("/out"), source=Path("/data"), command="", simulated=False)
        >>> str(out.atlas_path("desikan-killiany"))
        '/out/atlas-desikankilliany_dseg.tsv'
        """
        word = re.sub(r"[^A-Za-z0-9]", "", atlas) or "unnamed"
        return self.root / entity_name({"atlas": word}, "dseg", ".tsv")

    def is_current(self, path: Path, signature: str) -> bool:
        """Return whether a derivative is there, whole and made with this signature."""
        about = read_sidecar(path)
        return "Bytes" in about and about.get("Signature") == signature and not find_damage(path)


def entity_name(entities: Mapping[str, str | None], suffix: str, extension: str) -> str:
    """Return a BIDS file name with its entities in order; those that are None are left out."""
    known = {key: value for key, value in entities.items() if value is not None}
    unknown = known.keys() - set(_ENTITY_ORDER)
    assert not unknown, f"no place in a name for {unknown}"
    assert all(re.fullmatch(r"[A-Za-z0-9+]+", value) for value in known.values()), known
    pairs = [f"{key}-{known[key]}" for key in _ENTITY_ORDER if key in known]
    return "_".join([*pairs, suffix]) + extension


def _readme(title: str, command: str, simulated: bool) -> str:
    warning = "\nMade from SIMULATED data: nothing here is about a brain.\n" if simulated else ""
    return (
        f"# {title}\n{warning}\n"
        "Heard speech and intracranial EEG. Decoding: preprocessed signals, encoders and\n"
        "retrieval ranks with their chance levels. Encoding: how well speech models predict\n"
        "each electrode (desc-encoding*), and speech models tuned on fMRI (speechmodels).\n\n"
        f"The last command that wrote here:\n\n    {command}\n\n"
        "Start with group.html and sub-*.html. Files whose sidecar has a Signature are made\n"
        "again only when the settings or the inputs behind that signature change.\n"
    )


def _write_if_changed(path: Path, text: str) -> None:
    with contextlib.suppress(OSError):
        if path.read_text("utf-8") == text:
            return
    write_text(path, text)
