"""A vision-language model as a policy.

Legend: B samples, R reply tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from rl4vlm.core.types import Reply, Request
from rl4vlm.interaction.parse import parse_reply
from rl4vlm.models.actor_critic import ActorCritic, Generated
from rl4vlm.models.encode import Encoded
from rl4vlm.models.loading import choose_device
from rl4vlm.policies.trainable import Rescored, column


@dataclass(frozen=True)
class Trace:
    """What PPO trains on: the encoded prompt that was answered, the reply's token ids (R,), the index of the first
    token of its action part, the log-probabilities of both parts when it was sampled, and the value then."""

    prompt: Encoded
    ids: torch.Tensor
    action_start: int
    logprob_thoughts: float
    logprob_action: float
    value: float


class VLMPolicy:
    """Answers requests with replies sampled from an `ActorCritic`, in batches.

    `thought_prob_coef` is the paper's lambda: the weight of the thoughts in an action's log-probability in training.
    """

    def __init__(self, model: ActorCritic, thought_prob_coef: float = 1.0) -> None:
        self.model = model
        self.thought_prob_coef = thought_prob_coef

    @classmethod
    def load(
        cls,
        checkpoint: str | Path,
        *,
        temperature: float,
        max_new_tokens: int,
        device: str = "auto",
        dtype: str = "float32",
        quantize: str | None = None,
        one_view: bool = False,
    ) -> VLMPolicy:
        """A policy from a checkpoint folder or hub name; the last three are those of `load_backbone`."""
        model = ActorCritic.load(
            checkpoint,
            temperature=temperature,
            max_new_tokens=max_new_tokens,
            dtype=dtype,
            quantize=quantize,
            one_view=one_view,
            device=choose_device(device),
        )
        return cls(model)

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        prompts = self._prompts(requests)
        generated = self.model.generate(prompts, [request.rng for request in requests])
        return [self._reply(*answer) for answer in zip(requests, prompts, generated, strict=True)]

    def values(self, requests: Sequence[Request]) -> np.ndarray:
        """The critic's values (B,) float64 of what the requests show."""
        return self.model.values(self._prompts(requests))

    def rescore(self, model: nn.Module, traces: Sequence[Trace]) -> Rescored:
        """Score stored replies with `model`, an `ActorCritic` or a data-parallel wrapper of one."""
        scores = model([trace.prompt for trace in traces], [trace.ids for trace in traces])
        start_B = torch.tensor([trace.action_start for trace in traces], device=scores.values.device)
        weight = self.thought_prob_coef
        return Rescored(
            log_prob=action_log_prob(scores.logprobs, scores.mask, start_B, weight),
            old_log_prob=column([weight * t.logprob_thoughts + t.logprob_action for t in traces], scores.values),
            value=scores.values,
            old_value=column([trace.value for trace in traces], scores.values),
            entropy=scores.entropy.sum(-1) / scores.mask.sum(-1),
        )

    def save(self, folder: Path) -> None:
        """Write a checkpoint to a folder that is there."""
        self.model.save(folder)

    def _prompts(self, requests: Sequence[Request]) -> list[Encoded]:
        return [self.model.encoder.prompt(request.image, request.prompt) for request in requests]

    def _reply(self, request: Request, prompt: Encoded, generated: Generated) -> Reply:
        encoder = self.model.encoder
        ids = generated.ids.tolist()
        text = encoder.decode(ids)
        span = parse_reply(text, request.view.actions).action_span
        # A reply without the key has no action part: all of it counts as thought.
        start = encoder.token_at(ids, span[0]) if span else len(ids)
        trace = Trace(
            prompt=prompt,
            ids=generated.ids,
            action_start=start,
            logprob_thoughts=float(generated.logprobs[:start].sum()),
            logprob_action=float(generated.logprobs[start:].sum()),
            value=generated.value,
        )
        numbers = {
            "logprob_thoughts": trace.logprob_thoughts,
            "logprob_action": trace.logprob_action,
            "value": trace.value,
            "tokens": float(len(ids)),
        }
        return Reply(text, numbers, trace)


def action_log_prob(
    logprobs_BR: torch.Tensor, mask_BR: torch.Tensor, action_start_B: torch.Tensor, thought_prob_coef: float
) -> torch.Tensor:
    """log pi(a|s) = lambda * sum log p(thought tokens) + sum log p(action tokens) (paper, eq. 4), shape (B,).

    `action_start_B` is the index of the first token of the `"action":` key; tokens before it are thoughts.
    """
    thoughts, action = split_log_probs(logprobs_BR, mask_BR, action_start_B)
    return thought_prob_coef * thoughts + action


def split_log_probs(
    logprobs_BR: torch.Tensor, mask_BR: torch.Tensor, action_start_B: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The summed log-probability of the thought tokens and of the action tokens, each (B,)."""
    position_R = torch.arange(logprobs_BR.shape[1], device=logprobs_BR.device)
    is_action = position_R >= action_start_B.unsqueeze(-1)
    thoughts = logprobs_BR.masked_fill(~mask_BR | is_action, 0.0).sum(-1)
    action = logprobs_BR.masked_fill(~mask_BR | ~is_action, 0.0).sum(-1)
    return thoughts, action
