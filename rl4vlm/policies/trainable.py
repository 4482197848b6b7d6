"""What PPO requires of a policy that it trains.

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

from rl4vlm.core.types import Policy, Reply, Request
from rl4vlm.models.devices import to_device


class ReplayItem(Protocol):
    """What a policy stores of a step so that it can score the step again. PPO itself reads only these properties."""

    @property
    def value(self) -> float:
        """The critic's value of the state when the step was played."""
        ...

    @property
    def input_key(self) -> str | None:
        """A key that is equal for steps with the same input, so that they are scored together; None if that saves
        no work."""
        ...


@dataclass(frozen=True)
class Rescored:
    """A batch of stored steps, scored again with the current weights.

    The log-probability of a reply comes in two parts, thoughts and action, because PPO weighs them (paper, eq. 4, in
    `rl4vlm.ppo.losses`). A policy that writes no thoughts gives zeros for them.

    Attributes:
        logprob_thoughts: (B,), current weights, with gradient.
        logprob_action: (B,), current weights, with gradient.
        old_logprob_thoughts: (B,) float64, as sampled.
        old_logprob_action: (B,) float64, as sampled.
        value: (B,), current weights, with gradient.
        old_value: (B,), as predicted when the step was played.
        entropy: (B,), current weights, with gradient.
        reference_log_ratio: (B, R), log-probability of each reply token under the reference minus that under the
            current weights, with gradient, 0 at padding; None without a reference.
        tokens: (B,), number of reply tokens; None for a policy that writes none.
        token_mult_prob_error_sum: (B,), sum over a reply's tokens of exp(|log-probability now - log-probability as
            sampled|), no gradient; None for a policy that writes none.
    """

    logprob_thoughts: torch.Tensor
    logprob_action: torch.Tensor
    old_logprob_thoughts: torch.Tensor
    old_logprob_action: torch.Tensor
    value: torch.Tensor
    old_value: torch.Tensor
    entropy: torch.Tensor
    reference_log_ratio: torch.Tensor | None = None
    tokens: torch.Tensor | None = None
    token_mult_prob_error_sum: torch.Tensor | None = None


class TrainablePolicy(Protocol):
    """A policy that plays, estimates values, and scores again what it played."""

    @property
    def model(self) -> nn.Module: ...

    @property
    def replay_types(self) -> tuple[type, ...]:
        """The classes of its `replay_item`s and of what is in them: dataclasses of tensors and plain data."""
        ...

    @property
    def player(self) -> Policy:
        """This policy for play without training, such as validation: it gives the same replies, without the work that
        only training needs."""
        ...

    def sync(self) -> None:
        """Called before play, since weights may have changed. A policy that plays with a copy of them updates it."""
        ...

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        """One reply per request, each with a `replay_item`."""
        ...

    def values(self, requests: Sequence[Request]) -> np.ndarray:
        """The critic's values (B,) float64 of the states that the requests show."""
        ...

    def rescore(self, model: nn.Module, items: Sequence[Any]) -> Rescored:
        """Score stored steps.

        Args:
            model: the policy's own model, or a data-parallel wrapper of it.
            items: the `replay_item`s of replies that this policy gave.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write a checkpoint to an existing folder."""
        ...


def column(numbers: Sequence[float], like: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Numbers as a tensor (B,) on the device of `like`, and of its dtype unless another is given."""
    return to_device(torch.tensor(numbers, dtype=dtype or like.dtype), like.device)
