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
from rl4vlm.models.devices import choose_device
from rl4vlm.policies.trainable import Rescored, column


@dataclass(frozen=True)
class CNNReplayItem:
    """A sampled action, stored for training.

    Attributes:
        observation: what the network saw.
        action: index of the action among those that the network was offered.
        log_prob: the action's log-probability when it was sampled, in nats.
        value: the critic's value then.
    """

    observation: Observation
    action: int
    log_prob: float
    value: float

    @property
    def input_key(self) -> None:
        """None: the network is so small that grouping equal observations would save nothing."""


class CNNPolicy:
    """Plays the action that the network samples.

    Its reply is the action alone, without thoughts whatever the style. It is the JSON that a language model would
    write, so the same parser reads it.
    """

    replay_types = (CNNReplayItem, Observation)

    def __init__(self, model: CNNActorCritic) -> None:
        self.model = model

    @property
    def player(self) -> CNNPolicy:
        """The policy itself: it does no work that only training needs."""
        return self

    def sync(self) -> None:
        """Nothing to do: it plays with the trained weights themselves."""

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
        """Load a policy from a checkpoint folder.

        `max_new_tokens` and `dtype` are ignored: they are options of language models, an action has no tokens, and the
        network is always float32.
        """
        return cls(CNNActorCritic.load(checkpoint, temperature=temperature, device=choose_device(device)))

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        """One reply per request. Raises ValueError for a legal action that the network does not know."""
        seen = [self.model.observe(request.image, request.view) for request in requests]
        sampled = self.model.act(seen, [request.rng for request in requests])
        items = [CNNReplayItem(*parts) for parts in zip(seen, *sampled, strict=True)]
        offered = [self.model.offered(request.view) for request in requests]
        return [_reply(item, actions[item.action]) for item, actions in zip(items, offered, strict=True)]

    def values(self, requests: Sequence[Request]) -> np.ndarray:
        """The critic's values (B,) float64 of the states that the requests show."""
        return self.model.values([self.model.observe(request.image, request.view) for request in requests])

    def rescore(self, model: nn.Module, items: Sequence[CNNReplayItem]) -> Rescored:
        """Score stored actions with `model`, a `CNNActorCritic` or a data-parallel wrapper of one."""
        log_probs_BA, value_B = model([item.observation for item in items])
        actions_B = torch.tensor([item.action for item in items], device=value_B.device)
        old_log_prob_B = column([item.log_prob for item in items], value_B, torch.float64)
        return Rescored(
            # There are no thoughts, so λ has no effect: the log-probability is that of the action.
            logprob_thoughts=torch.zeros_like(value_B),
            logprob_action=log_probs_BA.gather(-1, actions_B.unsqueeze(-1)).squeeze(-1),
            old_logprob_thoughts=torch.zeros_like(old_log_prob_B),
            old_logprob_action=old_log_prob_B,
            value=value_B,
            old_value=column([item.value for item in items], value_B),
            # An illegal action has log-probability -inf, and 0 * -inf would be NaN.
            entropy=-(log_probs_BA.exp() * log_probs_BA.masked_fill(log_probs_BA.isinf(), 0.0)).sum(-1),
        )

    def save(self, folder: Path) -> None:
        """Write a checkpoint to an existing folder."""
        self.model.save(folder)


def _reply(item: CNNReplayItem, action: str) -> Reply:
    text = write_reply({}, action, Style.ACTION_ONLY)
    return Reply(text, {"logprob_action": item.log_prob, "value": item.value}, replay_item=item)
