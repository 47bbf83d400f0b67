"""Where the numbers are computed, and several processes under ``torchrun``: who writes, who waits.

Without ``torchrun`` there is one process, which is the main one, and nothing waits.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from bids_speechdecode.errors import ElsewhereError, SpeechDecodeError, UsageError

T = TypeVar("T")

# One process may preprocess for hours while the others wait for it.
PATIENCE = timedelta(days=7)


def connect() -> None:
    """Join the other processes, if there are any and this was not done before."""
    if n_processes() == 1 or dist.is_initialized():
        return
    backend = "gloo"
    if torch.cuda.is_available():
        # Otherwise all processes would speak from the first GPU. Gloo serves --device cpu.
        torch.cuda.set_device(_local_rank() % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=PATIENCE)


@contextmanager
def disconnected_at_the_end() -> Iterator[None]:
    """Part from the other processes: with open connections a process may abort when it exits."""
    try:
        yield
    finally:
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()


def _local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))


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
        return f"cuda:{_local_rank()}"
    return wanted


def process_number() -> int:
    """Return the number of this process among those that work together, from 0."""
    return int(os.environ.get("RANK", "0"))


def n_processes() -> int:
    """Return how many processes work together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Return whether this process is the one that writes."""
    return process_number() == 0


def on_main(make: Callable[[], T]) -> T:
    """Call `make` in the main process alone; return its result in every process.

    Raises
    ------
    ElsewhereError
        In the other processes, if `make` failed in the main one, where the error itself is raised.
    """
    if n_processes() == 1:
        return make()
    error = None
    box: list[Any] = [None, False]  # result, whether there is one
    if is_main_process():
        try:
            box = [make(), True]
        except SpeechDecodeError as caught:
            error = caught
    with _company():
        dist.broadcast_object_list(box, src=0)
    if error is not None:
        raise error
    if not box[1]:
        raise ElsewhereError("the main process failed; it says why")
    result: T = box[0]
    return result


@contextmanager
def _company() -> Iterator[None]:
    """Tell an absent process from a mistake of the program."""
    connect()
    try:
        yield
    except RuntimeError as error:
        raise ElsewhereError(
            "another process of this run has ended", found=str(error), fix="see what it said"
        ) from error
