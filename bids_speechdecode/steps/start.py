"""Where a training starts: from random weights, or from what other participants share.

The option ``--init-from`` names the pooled checkpoint; the first training of the participant
starts from it: pretraining, or without ambient recordings finetuning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bids_speechdecode.bids.derivatives import Derivatives
from bids_speechdecode.bids.sidecars import damaged, find_damage, read_sidecar
from bids_speechdecode.config import TargetConfig
from bids_speechdecode.decoding.encoder import Encoder
from bids_speechdecode.decoding.pooled import load_body, take_over
from bids_speechdecode.errors import MissingInputError, UsageError
from bids_speechdecode.steps.context import Context

POOLED = "pooled"  # in --init-from: the checkpoint of this output without the participant


@dataclass(frozen=True)
class Start:
    """A pooled checkpoint.

    Attributes
    ----------
    path : Path
    signature : str
    participants : tuple of str
        Who it was trained on, "sub-01".
    has_seen : bool
        Whether a participant of this one's label is among them.
    """

    path: Path
    signature: str
    participants: tuple[str, ...]
    has_seen: bool

    def give_to(self, encoder: Encoder) -> None:
        """Replace all weights of an encoder but a projection of its own channels.

        Raises
        ------
        UsageError
            The checkpoint has another shape.
        """
        take_over(encoder, load_body(self.path))

    def describe(self) -> dict[str, Any]:
        """Return what the sidecar of a model says of where its training started."""
        return {
            "InitFrom": {
                "File": self.path.name,
                "Signature": self.signature,
                "Participants": self.participants,
                "HasSeenParticipant": self.has_seen,
            }
        }


def pooled_file(out: Derivatives, task: str, without: str = "") -> Path:
    """Return where the pooled checkpoint of a pretraining task lies.

    Parameters
    ----------
    out : Derivatives
    task : str
    without : str
        Label of the participant that was left out; none: it is of all.
    """
    desc = f"{POOLED}Without{without}" if without else POOLED
    return out.group_path(task=task, desc=desc, suffix="model", extension=".safetensors")


def find_start(context: Context) -> Start | None:
    """Return the pooled checkpoint that the settings name; None where they name none.

    Raises
    ------
    MissingInputError
        It is not there.
    UsageError
        It is no pooled checkpoint, its target is another one, or it was made from simulated data
        and this participant was not.
    """
    asked = context.config.inputs.init_from
    if not asked:
        return None
    path = _find_pooled(context) if asked == POOLED else Path(asked)
    if not path.is_file():
        raise MissingInputError(
            "the pooled checkpoint of --init-from does not exist",
            expected=f"a file that the group level wrote with --pool, or {POOLED!r}",
            where=path,
            fix="run the group level with --pool first, or correct --init-from",
        )
    if damage := find_damage(path):
        raise damaged(path, damage)
    about = read_sidecar(path)
    if not {"Participants", "Signature", "Target"} <= about.keys():
        raise UsageError(
            "the sidecar of the pooled checkpoint does not say who it was trained on",
            expected=f"{path.with_suffix('.json').name} beside it, as group --pool wrote it",
            found=", ".join(about) or "no sidecar",
            where=path,
            fix="copy both files",
        )
    _require_same_target(context.config.target, about["Target"], path)
    if about.get("Simulated") and not context.plan.simulated:
        raise UsageError(
            "the pooled checkpoint was made from simulated data, the participant's are real",
            expected="a checkpoint of real participants",
            found="Simulated in its sidecar",
            where=path,
        )
    participants = tuple(about["Participants"])
    has_seen = f"sub-{context.participant}" in participants
    return Start(path, str(about["Signature"]), participants, has_seen)


def _find_pooled(context: Context) -> Path:
    """Return the checkpoint of this output that knows nothing of the participant."""
    task = context.config.inputs.pretrain_task
    # A participant without ambient recordings takes what others learned from theirs.
    task = "*" if task == "none" else task
    pattern, everybody = (
        pooled_file(context.out, "any", without).name.replace("task-any_", f"task-{task}_")
        for without in (context.participant, "")
    )
    found = sorted(context.out.root.glob(pattern))
    sub = f"sub-{context.participant}"
    found += [
        path
        for path in sorted(context.out.root.glob(everybody))
        if not found and sub not in read_sidecar(path).get("Participants", [sub])
    ]
    if len(found) != 1:
        raise MissingInputError(
            f"there is no pooled checkpoint without {sub}"
            if not found
            else "there are pooled checkpoints of several tasks",
            expected=f"one {pattern}",
            found=", ".join(path.name for path in found) or "none",
            where=context.out.root,
            fix="run the group level with --pool first, or name the file with --init-from",
        )
    return found[0]


def _require_same_target(ours: TargetConfig, theirs: Mapping[str, Any], path: Path) -> None:
    expected, found = _spell_target(theirs), _spell_target(vars(ours))
    if expected != found:
        raise UsageError(
            "the pooled checkpoint was trained on another target",
            expected=expected,
            found=found,
            where=path,
            fix="choose the target of the checkpoint, or pool again with this one",
        )


def _spell_target(target: Mapping[str, Any]) -> str:
    """Return what a target is; neither how it was computed nor where the model's files lay."""
    model = f" {Path(target['model']).name} layer {target['layer']}" if target["model"] else ""
    rate = f" at {target['frame_rate']:g} Hz" if target["pooling"] == "frames" else ""
    return f"{target['name']}{model}, {target['pooling']}{rate}"
