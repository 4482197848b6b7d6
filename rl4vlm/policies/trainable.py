"""What PPO asks of a policy that it trains.

Legend: B samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from rl4vlm.core.types import Reply, Request


class Trace(Protocol):
    """What a policy keeps of a step in order to learn from it: opaque but for the critic's value when it was played."""

    @property
    def value(self) -> float: ...


@dataclass(frozen=True)
class Rescored:
    """Stored steps under the current weights, each field (B,).

    `log_prob`, `value` and `entropy` carry gradients; `old_log_prob` and `old_value` are those of when the steps were
    played.
    """

    log_prob: torch.Tensor
    old_log_prob: torch.Tensor
    value: torch.Tensor
    old_value: torch.Tensor
    entropy: torch.Tensor


class TrainablePolicy(Protocol):
    """A policy that plays, values states, and scores again what it played."""

    @property
    def model(self) -> nn.Module: ...

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        """One reply a request; each holds a `Trace`."""
        ...

    def values(self, requests: Sequence[Request]) -> np.ndarray:
        """The critic's values (B,) float64 of what the requests show."""
        ...

    def rescore(self, model: nn.Module, traces: Sequence[Any]) -> Rescored:
        """Score stored steps with `model`: the policy's own, or what a data-parallel library made of it."""
        ...

    def save(self, folder: Path) -> None:
        """Write a checkpoint to a folder that is there."""
        ...


def column(numbers: Sequence[float], like: torch.Tensor) -> torch.Tensor:
    """Numbers as a tensor (B,) of the dtype and on the device of `like`."""
    return torch.tensor(numbers, dtype=like.dtype, device=like.device)
