"""Plays and scores like the public code, as a policy of this project, so that one run measures both.

The public code handles one sample at a time. It scores every reply again after generating it, padded to a fixed
length, with logits for all tokens of prompt and padding and with the hidden states of every layer. Its vision tower
runs without gradients.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from rl4vlm.core.types import Reply, Request
from rl4vlm.models.actor_critic import ActorCritic, Generated
from rl4vlm.models.encode import Encoded
from rl4vlm.policies.trainable import Rescored, column
from rl4vlm.policies.vlm import VLMPolicy, VLMReplayItem, split_log_probs


class PublicWay(VLMPolicy):
    """Plays and scores like the public code, with replies padded to `padded` tokens."""

    def __init__(self, model: ActorCritic, padded: int = 512) -> None:
        super().__init__(model)
        self.padded = padded

    @torch.no_grad()
    def act(self, requests: Sequence[Request]) -> list[Reply]:
        """Generate a reply, then score it, one request after the other."""
        self.model.eval()
        return [
            self._reply(request, prompt, self._generate(prompt), None)
            for request, prompt in zip(requests, self._prompts(requests), strict=True)
        ]

    def rescore(self, model: nn.Module, items: Sequence[VLMReplayItem]) -> Rescored:
        """Score stored replies, one after the other."""
        scored = [self._score(item.prompt, item.ids) for item in items]
        logprobs_BR = torch.stack([logprobs for logprobs, _ in scored])
        value_B = torch.stack([value for _, value in scored])
        device = value_B.device
        length_B = torch.tensor([len(item.ids) for item in items], device=device)
        mask_BR = torch.arange(self.padded, device=device) < length_B.unsqueeze(-1)
        start_B = torch.tensor([item.action_start for item in items], device=device)
        thoughts_B, action_B = split_log_probs(logprobs_BR, mask_BR, start_B)
        return Rescored(
            logprob_thoughts=thoughts_B,
            logprob_action=action_B,
            old_logprob_thoughts=column([item.logprob_thoughts for item in items], value_B, torch.float64),
            old_logprob_action=column([item.logprob_action for item in items], value_B, torch.float64),
            value=value_B,
            old_value=column([item.value for item in items], value_B),
            entropy=torch.zeros_like(value_B),
        )

    def _generate(self, prompt: Encoded) -> Generated:
        ids = prompt.input_ids.to(self.model.device).unsqueeze(0)
        images = {name: tensor.to(self.model.device) for name, tensor in prompt.images.items()}
        encoder = self.model.encoder
        made = self.model.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            **images,
            do_sample=True,
            temperature=self.model.temperature,
            top_k=0,
            suppress_tokens=self.model.suppressed.tolist(),
            max_new_tokens=self.model.max_new_tokens,
            eos_token_id=encoder.eos_id,
            pad_token_id=encoder.pad_id,
        )[0, ids.shape[1] :].cpu()
        logprobs, value = self._score(prompt, made)
        return Generated(made, logprobs[: len(made)].float().cpu(), float(value))

    def _score(self, prompt: Encoded, reply: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probs (padded,) of a reply and the value () of its prompt."""
        device, model = self.model.device, self.model.model
        padding = torch.full((self.padded - len(reply),), self.model.encoder.pad_id)
        ids = torch.cat([prompt.input_ids, reply, padding]).to(device).unsqueeze(0)
        images = {name: tensor.to(device) for name, tensor in prompt.images.items()}
        with frozen(model.model.vision_tower):
            out = model(input_ids=ids, **images, output_hidden_states=True, use_cache=False)
        scaled = out.logits.float() / self.model.scoring_temperature
        scaled[..., self.model.suppressed] = -torch.inf
        all_logprobs = torch.log_softmax(scaled, dim=-1)
        first = len(prompt.input_ids)
        logprobs = all_logprobs[0, first - 1 : -1].gather(-1, ids[0, first:].unsqueeze(-1)).squeeze(-1)
        # The padding token may be suppressed. Its log-probability of -inf must not enter a sum.
        logprobs = logprobs.masked_fill(torch.arange(self.padded, device=device) >= len(reply), 0.0)
        return logprobs, self.model.value_head(out.hidden_states[-1][:, first - 1])[0]


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Turn off gradients for the weights of `module` inside the block."""
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)
