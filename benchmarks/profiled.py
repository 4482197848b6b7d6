"""What a profile says of a hot loop: where the time goes, and how often the processor waits for the GPU."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity

WAITING = (
    "cudaStreamSynchronize",
    "cudaDeviceSynchronize",
    "cudaEventSynchronize",
    "aten::_local_scalar_dense",
    "aten::nonzero",
)
"""Calls that wait for the GPU; the last two do so there and cost nothing on a CPU, where they are counted all the same.
On a GPU reading a scalar shows twice, as itself and as the wait for its stream."""
ROWS = 40


@dataclass(frozen=True)
class Seen:
    """One profile: its table, its waiting calls by name, and how many graphs torch compiled meanwhile."""

    table: str
    calls: dict[str, int]
    compiled: int

    @property
    def synchronisations(self) -> int:
        """Waits on a GPU; on a CPU the calls that would be."""
        streams = sum(times for name, times in self.calls.items() if name.startswith("cuda"))
        return streams or sum(self.calls.values())


@dataclass(frozen=True)
class Profiled:
    """What the benchmark reports of its profiles."""

    synchronisations_per_token: float
    synchronisations_per_sample: float
    compiled_graphs: int
    synchronising_calls: dict[str, int]


def profile(action: Callable[[], object], device: torch.device) -> Seen:
    """Run `action` under torch's profiler."""
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    before = compiled_graphs()
    with torch.profiler.profile(activities=activities) as made:
        action()
    averages = made.key_averages()
    order = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    calls = {event.key: event.count for event in averages if event.key in WAITING}
    return Seen(averages.table(sort_by=order, row_limit=ROWS), calls, compiled_graphs() - before)


def compiled_graphs() -> int:
    """Graphs that torch has compiled so far in this process; its compiler is not loaded to find out."""
    compiler = sys.modules.get("torch._dynamo.utils")
    return 0 if compiler is None else int(compiler.counters["stats"]["unique_graphs"])
