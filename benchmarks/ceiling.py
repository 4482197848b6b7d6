"""Measures the ceiling: what the hardware reaches in large matrix products and large copies."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.counting import Ceiling


def synchronise(device: torch.device) -> None:
    """Wait for the GPU: it works asynchronously, so the clock would stop too early."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_ceiling(device: torch.device, dtype: torch.dtype, tiny: bool = False, tries: int = 5) -> Ceiling:
    """Measure the fastest of several products of large square matrices, and of several large copies."""
    size, megabytes = (8192, 4096) if device.type == "cuda" else (2048, 256)
    size, megabytes = (128, 1) if tiny else (size, megabytes)
    one, other = (
        torch.randn(size, size, device=device, dtype=dtype),
        torch.randn(size, size, device=device, dtype=dtype),
    )
    source = torch.ones(megabytes * 2**18, device=device)
    target = torch.empty_like(source)

    def best(action: Callable[[], Any]) -> float:
        taken = []
        for _ in range(tries + 1):
            synchronise(device)
            begun = time.perf_counter()
            action()
            synchronise(device)
            taken.append(time.perf_counter() - begun)
        return min(taken[1:])

    product = torch.empty_like(one)
    flops = 2 * size**3 / best(lambda: torch.mm(one, other, out=product))
    return Ceiling(flops, 2 * source.numel() * source.element_size() / best(lambda: target.copy_(source)))
