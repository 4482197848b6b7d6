"""Measures the peak memory of a block of code."""

from __future__ import annotations

import re
from pathlib import Path

import torch

RESET = "5"
"""Writing this to `clear_refs` resets the peak resident memory to the current one (man 5 proc)."""
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """Measures peak memory inside a `with` block.

    After the block, `bytes` is the peak allocated memory of the GPU. On a CPU it is the peak resident memory of the
    process, including everything allocated before, or None if the system does not report it.
    """

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
