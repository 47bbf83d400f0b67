"""Where the numbers are computed, and several processes under ``torchrun``: who writes, who waits.

Without ``torchrun`` there is one process, which is the main one, and nothing waits.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from bids_speechdecode.errors import UsageError

T = TypeVar("T")

# One process may preprocess for hours while the others wait for it.
PATIENCE = timedelta(days=7)


def connect() -> None:
    """Join the other processes, if there are any and this was not done before."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)


def choose_device(wanted: str) -> str:
    """Return the device of this process: what was asked for, or the best there is.

    Raises
    ------
    UsageError
        A device is asked for that this machine does not have.
    """
    has_cuda = torch.cuda.is_available()
    if wanted == "auto":
        wanted = "cuda" if has_cuda else "cpu"
    if wanted.startswith("cuda") and not has_cuda:
        raise UsageError(
            "no CUDA device is available here",
            found=f"--device {wanted}",
            fix="use --device cpu, or run where a GPU and a CUDA build of PyTorch are",
        )
    if wanted == "cuda":
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    return wanted


def is_main_process() -> bool:
    """Return whether this process is the one that writes."""
    connect()
    return not dist.is_initialized() or dist.get_rank() == 0


def n_processes() -> int:
    """Return how many processes work together."""
    connect()
    return dist.get_world_size() if dist.is_initialized() else 1


def wait_for_everyone() -> None:
    """Return when every process has come here."""
    connect()
    if dist.is_initialized():
        dist.barrier()


def broadcast(value: T) -> T:
    """Return the main process's `value` in every process."""
    connect()
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]
