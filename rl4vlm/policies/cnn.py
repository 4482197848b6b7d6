"""The CNN+RL baseline as a policy.

Legend: B samples, A actions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from rl4vlm.core.types import Reply, Request, Style
from rl4vlm.interaction.prompt import write_reply
from rl4vlm.models.cnn import CNNActorCritic, Observation
from rl4vlm.models.loading import choose_device
from rl4vlm.policies.trainable import Rescored, column


@dataclass(frozen=True)
class CNNTrace:
    """What PPO trains on: what was seen, the index of the action among those offered, its log-probability when it was
    sampled, and the value then."""

    observation: Observation
    action: int
    log_prob: float
    value: float


class CNNPolicy:
    """Plays the action that the network samples. It writes no thoughts, whatever the style: its reply is the action
    alone, in the JSON that a model would write, so the same parser reads it."""

    def __init__(self, model: CNNActorCritic) -> None:
        self.model = model

    @classmethod
    def load(
        cls,
        checkpoint: str | Path,
        *,
        temperature: float,
        max_new_tokens: int | None = None,
        device: str = "auto",
        dtype: str = "float32",
    ) -> CNNPolicy:
        """A policy from a checkpoint folder.

        `max_new_tokens` and `dtype` are what a language model is loaded with; an action has no tokens and the network
        is always float32, so they count for nothing here.
        """
        return cls(CNNActorCritic.load(checkpoint, temperature=temperature, device=choose_device(device)))

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        """One reply a request. Raises ValueError for a legal action that the network does not know."""
        seen = [self.model.observe(request.image, request.view) for request in requests]
        sampled = self.model.act(seen, [request.rng for request in requests])
        traces = [CNNTrace(*parts) for parts in zip(seen, *sampled, strict=True)]
        offered = [self.model.offered(request.view) for request in requests]
        return [_reply(trace, actions[trace.action]) for trace, actions in zip(traces, offered, strict=True)]

    def values(self, requests: Sequence[Request]) -> np.ndarray:
        """The critic's values (B,) float64 of what the requests show."""
        return self.model.values([self.model.observe(request.image, request.view) for request in requests])

    def rescore(self, model: nn.Module, traces: Sequence[CNNTrace]) -> Rescored:
        """Score stored actions with `model`, a `CNNActorCritic` or a data-parallel wrapper of one."""
        log_probs_BA, value_B = model([trace.observation for trace in traces])
        actions_B = torch.tensor([trace.action for trace in traces], device=value_B.device)
        return Rescored(
            log_prob=log_probs_BA.gather(-1, actions_B.unsqueeze(-1)).squeeze(-1),
            old_log_prob=column([trace.log_prob for trace in traces], value_B),
            value=value_B,
            old_value=column([trace.value for trace in traces], value_B),
            entropy=-(log_probs_BA.exp() * log_probs_BA.masked_fill(log_probs_BA.isinf(), 0.0)).sum(-1),
        )

    def save(self, folder: Path) -> None:
        """Write a checkpoint to a folder that is there."""
        self.model.save(folder)


def _reply(trace: CNNTrace, action: str) -> Reply:
    text = write_reply({}, action, Style.ACTION_ONLY)
    return Reply(text, {"logprob_action": trace.log_prob, "value": trace.value}, trace)
