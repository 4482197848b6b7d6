"""How many GPUs this machine shows, without loading a model library."""

from __future__ import annotations

import os
from pathlib import Path


def visible_gpus(devices: Path = Path("/dev")) -> int:
    """Number of NVIDIA GPUs that a process may use: those of `CUDA_VISIBLE_DEVICES`, or all that `/dev` has."""
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shown is not None:
        return sum(bool(part.strip()) for part in shown.split(","))
    return len(list(devices.glob("nvidia[0-9]*")))
