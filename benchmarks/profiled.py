"""Profiles hot loops: where the time goes, and how often the CPU waits for the GPU."""

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
"""Calls that wait for the GPU. The last two cost nothing on a CPU but are counted there too, as calls that would wait.
On a GPU, reading a scalar appears twice: as itself and as the wait for its stream."""
ROWS = 40


@dataclass(frozen=True)
class Profile:
    """One profile: its table, the number of waiting calls by name, and the number of graphs that torch compiled."""

    table: str
    calls: dict[str, int]
    compiled: int

    @property
    def synchronisations(self) -> int:
        """Number of waits for the GPU; on a CPU, the number of calls that would wait."""
        streams = sum(times for name, times in self.calls.items() if name.startswith("cuda"))
        return streams or sum(self.calls.values())


@dataclass(frozen=True)
class Profiled:
    """The numbers that the benchmark reports from its profiles."""

    synchronisations_per_token: float
    synchronisations_per_sample: float
    compiled_graphs: int
    synchronising_calls: dict[str, int]


def profile(action: Callable[[], object], device: torch.device) -> Profile:
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
    return Profile(averages.table(sort_by=order, row_limit=ROWS), calls, compiled_graphs() - before)


def compiled_graphs() -> int:
    """Number of graphs that torch has compiled in this process so far."""
    # Look it up in sys.modules: importing the compiler would slow down what is measured.
    compiler = sys.modules.get("torch._dynamo.utils")
    return 0 if compiler is None else int(compiler.counters["stats"]["unique_graphs"])
