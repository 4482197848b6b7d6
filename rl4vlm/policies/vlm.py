"""A vision-language model as a policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from rl4vlm.core.types import Reply, Request
from rl4vlm.interaction.parse import parse_reply
from rl4vlm.models.actor_critic import ActorCritic, Generated
from rl4vlm.models.encode import Encoded
from rl4vlm.models.loading import choose_device


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
    """Answers requests with replies sampled from an `ActorCritic`, in batches."""

    def __init__(self, model: ActorCritic) -> None:
        self.model = model

    @classmethod
    def load(
        cls,
        checkpoint: str | Path,
        *,
        temperature: float,
        max_new_tokens: int,
        device: str = "auto",
        dtype: str = "float32",
    ) -> VLMPolicy:
        """A policy from a checkpoint folder or hub name."""
        model = ActorCritic.load(
            checkpoint,
            temperature=temperature,
            max_new_tokens=max_new_tokens,
            dtype=dtype,
            device=choose_device(device),
        )
        return cls(model)

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        prompts = [self.model.encoder.prompt(request.picture, request.prompt) for request in requests]
        generated = self.model.generate(prompts, [request.rng for request in requests])
        return [self._reply(*answer) for answer in zip(requests, prompts, generated, strict=True)]

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
