"""The most memory in use while something ran."""

from __future__ import annotations

import re
from pathlib import Path

import torch

RESET = "5"
"""Written to `clear_refs`, it sets the peak of the resident memory back to what is resident now (man 5 proc)."""
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """A context manager; `bytes` afterwards is the GPU's peak of allocated memory, or on a CPU the process's peak of
    resident memory with all that was there before (None where the system does not tell)."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.bytes: int | None = None
        self._known = False

    def __enter__(self) -> PeakMemory:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            self._known = _reset()
        return self

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated(self.device)
        elif self._known:
            self.bytes = _resident_peak()


def _reset() -> bool:
    try:
        CLEAR.write_text(RESET)
    except OSError:
        return False
    return True


def _resident_peak() -> int | None:
    found = re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text())
    return int(found[1]) * 1024 if found else None
