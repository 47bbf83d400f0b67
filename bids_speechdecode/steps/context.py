"""What every step receives, and the names of what the steps write for each other."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bids_speechdecode.bids.alignment import Segment
from bids_speechdecode.bids.dataset import signal_files
from bids_speechdecode.bids.derivatives import Derivatives
from bids_speechdecode.bids.sidecars import find_damage, fingerprint, read_sidecar
from bids_speechdecode.config import Config
from bids_speechdecode.errors import DataError, MissingInputError
from bids_speechdecode.progress import Progress
from bids_speechdecode.steps.plan import ParticipantPlan, PlannedRecording

LINEAR, TASK_ONLY, FROZEN, FINETUNED = "linear", "taskonly", "frozen", "finetuned"
EXPERIMENT_FILES = "experiments"  # folder of models and ranks in the output
WORK = ".work"  # folder of checkpoints in the output, unless the user names another
BACKWARD, ZERO_SHOT, PRETRAINED = "backward", "zeroshot", "pretrained"
PROJECTION, JOINT = "projection", "joint"
PREPROCESSED = {"slow": "preproc", "highgamma": "preprocHighgamma"}
RANDOM = "random"  # an encoder as it is before any training


@dataclass(frozen=True)
class Context:
    """A participant's plan, where its files go, and the settings.

    `variant` is the band of the signal where an experiment reads another one than the run: its
    channels must not replace those of the run.
    """

    plan: ParticipantPlan
    out: Derivatives
    config: Config
    work_dir: Path
    progress: Progress
    device: str = "cpu"
    variant: str = ""

    @property
    def participant(self) -> str:
        """Label without ``sub-``."""
        return self.plan.participant

    @property
    def finetune_task(self) -> str:
        """Task of the held-out evaluation."""
        return self.config.inputs.finetune_task

    def recording_file(self, recording: PlannedRecording, desc: str, suffix: str, ext: str) -> Path:
        """Return the name of a derivative of one recording."""
        entities = dict(recording.recording.entities)
        return self.out.path(
            entities.pop("sub"),
            session=entities.pop("ses", None),
            **entities,
            desc=desc,
            suffix=suffix,
            extension=ext,
        )

    def stimulus_file(self, stimulus: Path, desc: str) -> Path:
        """Return where the targets of an audio file are kept, for all who heard it.

        Files of one name from outside ``stimuli/`` differ in `desc`, which carries a signature.
        """
        inside = self.out.source / "stimuli"
        stem = stimulus.relative_to(inside) if stimulus.is_relative_to(inside) else stimulus
        folder = self.out.root / "features"
        if not stem.is_absolute():
            folder /= stem.parent
        return folder / f"{stem.stem}_desc-{desc}_embeddings.npy"

    def summary_file(self, desc: str, suffix: str, ext: str, task: str | None = None) -> Path:
        """Return the name of a derivative of the participant as a whole."""
        return self.out.path(
            self.participant,
            task=task or self.finetune_task,
            desc=desc,
            suffix=suffix,
            extension=ext,
        )

    def experiment_file(self, desc: str, suffix: str, ext: str) -> Path:
        """Return the name of what an experiment keeps beside the results of the run."""
        name = self.summary_file(desc, suffix, ext).name
        return self.out.root / EXPERIMENT_FILES / f"sub-{self.participant}" / name

    def model_file(self, model: str) -> Path:
        """Return where a trained model is kept."""
        task = self.config.inputs.pretrain_task if model == PRETRAINED else None
        return self.summary_file(model, "model", ".safetensors", task)

    def preprocessed(self, recording: PlannedRecording) -> dict[str, Path]:
        """Return the preprocessed signal by band, or say which step makes it."""
        return {
            band: require_step(
                self.recording_file(recording, PREPROCESSED[band], "ieeg", ".eeg"), "preprocess"
            )
            for band in recording.montages
        }


def require_step(path: Path, step: str) -> Path:
    """Return `path` if it is there and whole; otherwise say which step makes it."""
    if not path.exists():
        raise MissingInputError(
            f"the results of step {step!r} are missing",
            expected=str(path),
            fix=f"run the same command with --steps {step}, or without --steps",
        )
    if damage := find_damage(path):
        raise DataError(
            f"the results of step {step!r} are damaged",
            expected="files of the size that the sidecar says",
            found=damage,
            where=path,
            fix=f"run the same command with --steps {step}, or without --steps: "
            "what is damaged is made again",
        )
    return path


def other_settings(path: Path, step: str) -> MissingInputError:
    """Return the error of a result that does not belong to the settings of this run."""
    return MissingInputError(
        f"the results of step {step!r} were made with other settings or other inputs",
        expected="results that belong to the settings of this command",
        where=path,
        fix=f"run the same command with --steps {step} first, or without --steps",
    )


def signature_of(path: Path) -> str:
    """Return the signature in a derivative's sidecar: what the next step depends on."""
    return str(read_sidecar(path).get("Signature", "absent"))


def source_fingerprint(planned: PlannedRecording, segment: Segment) -> str:
    """Return the fingerprint of the files that hold a segment's audio."""
    if segment.source.path:
        return f"{fingerprint(segment.source.path)}:"
    return f"{signal_fingerprint(planned)}:{segment.source.channel or ''}"


def signal_fingerprint(planned: PlannedRecording) -> str:
    """Return the fingerprint of all files that hold a recording's signal, not its header alone."""
    return " ".join(fingerprint(path) for path in signal_files(planned.recording))


def plan_fingerprint(context: Context, role: str) -> dict[str, Any]:
    """Return what identifies the windows of a role: recordings, splits and times."""
    windows = asdict(context.config.windows)
    del windows["words_only"]  # it shows in which windows are usable
    return {
        "pieces": [
            (
                p.recording,
                p.version,
                p.split,
                p.block,
                [round(float(t), 4) for t in p.audio_starts],
                [round(float(t), 4) for t in p.brain_starts],
                p.usable.tolist(),
            )
            for p in context.plan.select(role)
        ],
        "windows": windows,
        "min_good_fraction": context.config.preprocess.min_good_fraction,
    }
