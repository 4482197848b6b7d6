"""Chooses the device that a stage runs on. Jobs that run at the same time on one machine get different GPUs."""

from __future__ import annotations

import os
from typing import IO

import torch

from rl4vlm.core.gpus import claim_gpus, claimed_before, shown_gpus

_claimed: dict[int, IO[str]] = {}
"""The lock file of the GPU that this process has claimed, by its index."""


def choose_device(name: str) -> torch.device:
    """The torch device for a name.

    `auto` is a GPU that no other job has claimed, for as long as this process lives; without a GPU, the CPU. If the
    process was started through `rl4vlm.core.gpus`, it has its GPUs already and takes the first. One of several launched
    processes gets `cuda`, and takes the GPU of its local rank.

    Raises:
        ValueError: torch does not know the name, or the machine has no such device.
    """
    if name == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        launched = int(os.environ.get("WORLD_SIZE", "1")) > 1
        return torch.device("cuda") if launched else torch.device("cuda", _claimed_gpu(torch.cuda.device_count()))
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device {name!r} is unknown to torch; examples: auto, cpu, cuda, cuda:1") from error
    if device.type == "cuda":
        if (device.index or 0) >= torch.cuda.device_count():
            raise ValueError(f"device {name!r} is not there: torch sees {torch.cuda.device_count()} GPUs")
        return device
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:  # by kind of device; some texts have 1,500 characters
        raise ValueError(f"device {name!r} is not there: this machine has none, or this torch cannot use it") from error
    return device


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor from the CPU. To a GPU the copy is asynchronous, from pinned memory."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _claimed_gpu(count: int) -> int:
    """The index of a GPU among `count` that this process has to itself, the same one at each call."""
    if claimed_before():
        return 0
    if not _claimed:
        # A scheduler may show each job different GPUs, so locks use the machine's names of GPUs, not torch's indices.
        names = shown_gpus()
        _claimed.update(claim_gpus(names if len(names) == count else list(map(str, range(count)))))
    return next(iter(_claimed))
