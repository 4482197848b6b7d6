"""The device that a stage runs on. Jobs that run at the same time on one machine take different GPUs."""

from __future__ import annotations

import fcntl
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

import torch

_claimed: dict[int, IO[str]] = {}
"""The lock files of the GPUs that this process has claimed, by their index."""


def choose_device(name: str) -> torch.device:
    """The torch device for a name.

    `auto` is a GPU that no other process has claimed in this way, for as long as this process lives; without a GPU, the
    CPU. One of several launched processes gets `cuda`, and takes the GPU of its local rank.

    Raises:
        ValueError: torch does not know the name, or there is no such GPU.
    """
    if name == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        launched = int(os.environ.get("WORLD_SIZE", "1")) > 1
        return torch.device("cuda") if launched else torch.device("cuda", claim_gpu(torch.cuda.device_count()))
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device {name!r} is unknown to torch; examples: auto, cpu, cuda, cuda:1") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {name!r} is not there: torch sees {torch.cuda.device_count()} GPUs")
    return device


def claim_gpu(count: int) -> int:
    """Claim one of `count` GPUs for this process, the same one at each call, and return its index.

    If all are claimed, wait until a process that holds one ends.
    """
    if _claimed:
        return next(iter(_claimed))
    # A scheduler may show each job other GPUs: the locks are named after the machine's own names.
    shown = [part.strip() for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part.strip()]
    names = shown if len(shown) == count else [str(index) for index in range(count)]
    folder = Path(tempfile.gettempdir(), f"rl4vlm-gpus-{os.getuid()}")
    folder.mkdir(exist_ok=True)
    waiting = False
    while True:
        for index, name in enumerate(names):
            file = (folder / f"{name.replace('/', '_')}.lock").open("a")
            try:
                # The system releases the lock when the process ends, however it ends.
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.close()
            else:
                _claimed[index] = file
                return index
        if not waiting:
            message = f"all {count} GPUs are in use by other rl4vlm processes: waiting (device=cuda shares the first)"
            print(message, file=sys.stderr, flush=True)
            waiting = True
        time.sleep(1)
