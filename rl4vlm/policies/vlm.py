"""A vision-language model as a policy.

Legend: B samples, R reply tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from rl4vlm.config.stages.evaluation import PlaySettings
from rl4vlm.core.types import Reply, Request
from rl4vlm.interaction.parse import parse_reply
from rl4vlm.models.actor_critic import ActorCritic, Generated
from rl4vlm.models.devices import choose_device, to_device
from rl4vlm.models.encode import Encoded
from rl4vlm.models.value_head import FILE as VALUE_FILE
from rl4vlm.models.vllm_engine import VLLMEngine, check_vllm_on
from rl4vlm.policies.trainable import Rescored, column


@dataclass(frozen=True)
class VLMReplayItem:
    """A sampled reply, stored for training.

    Attributes:
        prompt: the encoded prompt that the reply answers.
        ids: the reply's token ids (R,).
        action_start: index of the first token of the action part; tokens before it are thoughts.
        logprob_thoughts: summed log-probability of the thought tokens when they were sampled, in nats.
        logprob_action: the same for the action tokens.
        value: the critic's value when the reply was sampled.
        logprobs: log-probability of each token (R,) when it was sampled.
        reference_logprobs: the same under the reference model, if there is one.
    """

    prompt: Encoded
    ids: torch.Tensor
    action_start: int
    logprob_thoughts: float
    logprob_action: float
    value: float
    logprobs: torch.Tensor
    reference_logprobs: torch.Tensor | None = None

    @property
    def input_key(self) -> str:
        """Equal for equal prompts with equal images: these pass through the model once per micro-batch."""
        return self.prompt.key


class VLMPolicy:
    """Answers requests with replies sampled from an `ActorCritic`, in batches.

    Args:
        model: the backbone with its value head.
        reference: a model that the policy should stay near while it is trained.
        critic: whether the value head was trained or will be: only then a reply's numbers have its `value`.
        scored_prompt: a prompt under which all replies are scored again, instead of their own; see `DefectSettings`.
        dropped_tokens: tokens at the start of a reply that its log-probability leaves out; see `DefectSettings`.
        engine: samples the replies in place of the model, with the weights of the last `sync`.
    """

    replay_types = (VLMReplayItem, Encoded)

    def __init__(
        self,
        model: ActorCritic,
        reference: ActorCritic | None = None,
        *,
        critic: bool = True,
        scored_prompt: str | None = None,
        dropped_tokens: int = 0,
        engine: VLLMEngine | None = None,
    ) -> None:
        self.model = model
        self.reference = reference
        self.critic = critic
        self.scored_prompt = scored_prompt
        self.dropped_tokens = dropped_tokens
        self.engine = engine

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
        attn_implementation: str | None = None,
        kv_cache: str | None = None,
        one_view: bool = False,
        engine: str = "transformers",
        engine_cache_gb: float = PlaySettings.engine_cache_gb,
    ) -> VLMPolicy:
        """Load a policy from a checkpoint folder or a Hugging Face name.

        Args:
            checkpoint: the folder or name.
            temperature: of sampling.
            max_new_tokens: the longest reply, in tokens.
            device: a torch device, or "auto" for a GPU if there is one.
            dtype: as for `load_backbone`.
            quantize: as for `load_backbone`.
            attn_implementation: as for `load_backbone`.
            kv_cache: as for `ActorCritic`.
            one_view: as for `load_backbone`.
            engine: what samples the replies, `transformers` or `vllm`.
            engine_cache_gb: memory for the key-value cache of vLLM, in GB.

        Raises:
            ValueError: vLLM is not installed, does not know the model, or would use another GPU.
        """
        place = choose_device(device)
        if engine == "vllm":
            check_vllm_on(place)  # before the model is loaded, which takes minutes
        model = ActorCritic.load(
            checkpoint,
            temperature=temperature,
            max_new_tokens=max_new_tokens,
            dtype=dtype,
            quantize=quantize,
            attn_implementation=attn_implementation,
            kv_cache=kv_cache,
            one_view=one_view,
            device=place,
        )
        sampler = vllm_for(model, engine_cache_gb) if engine == "vllm" else None
        # A checkpoint of SFT has no value head, and the values of the random one in its place mean nothing.
        policy = cls(model, critic=Path(checkpoint, VALUE_FILE).is_file(), engine=sampler)
        policy.sync()
        return policy

    @property
    def player(self) -> VLMPolicy:
        """The same weights without the reference, which would score every reply again."""
        return VLMPolicy(self.model, critic=self.critic, engine=self.engine)

    def sync(self) -> None:
        """Give the engine, if there is one, the model's weights."""
        if self.engine is not None:
            self.engine.update(self.model.model)

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        """One sampled reply per request, each with its log-probabilities, value and `VLMReplayItem`."""
        prompts = self._prompts(requests)
        generated = self._sample(requests, prompts)
        if self.scored_prompt is not None:
            prompts = self._prompts([replace(request, prompt=self.scored_prompt) for request in requests])
        references = self._reference_logprobs(prompts, generated)
        return [self._reply(*answer) for answer in zip(requests, prompts, generated, references, strict=True)]

    def values(self, requests: Sequence[Request]) -> np.ndarray:
        """The critic's values (B,) float64 of the states that the requests show."""
        return self.model.values(self._prompts(requests))

    def rescore(self, model: nn.Module, items: Sequence[VLMReplayItem]) -> Rescored:
        """Score stored replies with `model`, an `ActorCritic` or a data-parallel wrapper of one."""
        scores = model([item.prompt for item in items], [item.ids.numpy() for item in items])
        device = scores.values.device
        start_B = column([item.action_start for item in items], scores.values, torch.long)
        counted_BR = scores.mask.clone()
        counted_BR[:, : self.dropped_tokens] = False
        thoughts_B, action_B = split_log_probs(scores.logprobs, counted_BR, start_B)
        references = [item.reference_logprobs for item in items if item.reference_logprobs is not None]
        sampled_BR = to_device(pad_sequence([item.logprobs for item in items], batch_first=True), device)
        return Rescored(
            logprob_thoughts=thoughts_B,
            logprob_action=action_B,
            # Python floats are float64. Keep that precision until λ has weighed them, to round them only once.
            old_logprob_thoughts=column([item.logprob_thoughts for item in items], scores.values, torch.float64),
            old_logprob_action=column([item.logprob_action for item in items], scores.values, torch.float64),
            value=scores.values,
            old_value=column([item.value for item in items], scores.values),
            # The mean over a reply's tokens: a sum would reward long replies.
            entropy=scores.entropy.sum(-1) / scores.mask.sum(-1),
            reference_log_ratio=to_device(pad_sequence(references, batch_first=True), device) - scores.logprobs
            if references
            else None,
            tokens=scores.mask.sum(-1),
            token_mult_prob_error_sum=((scores.logprobs.detach() - sampled_BR).abs().exp() * scores.mask).sum(-1),
        )

    def save(self, folder: Path) -> None:
        """Write a checkpoint to an existing folder."""
        self.model.save(folder)

    def _prompts(self, requests: Sequence[Request]) -> list[Encoded]:
        return [self.model.encoder.prompt(request.image, request.prompt) for request in requests]

    def _sample(self, requests: Sequence[Request], prompts: Sequence[Encoded]) -> list[Generated]:
        # Each row draws from its own environment's stream, so a reply does not depend on what else is in the batch.
        rngs = [request.rng for request in requests]
        if self.engine is None:
            return self.model.generate(prompts, rngs)
        images, texts = [request.image for request in requests], [request.prompt for request in requests]
        replies = self.engine.generate(images, texts, prompts, rngs)
        values = self.model.values(prompts) if self.critic else np.zeros(len(prompts))
        return [Generated(*reply, float(value)) for reply, value in zip(replies, values, strict=True)]

    @torch.no_grad()
    def _reference_logprobs(
        self, prompts: Sequence[Encoded], generated: Sequence[Generated]
    ) -> Sequence[torch.Tensor | None]:
        """Log-probabilities (R,) of the sampled replies under the reference, or None without one."""
        if self.reference is None:
            return [None] * len(prompts)
        scores = self.reference.score(prompts, [reply.ids for reply in generated])
        rows = zip(scores.logprobs.cpu(), generated, strict=True)
        return [logprobs[: len(reply.ids)].clone() for logprobs, reply in rows]

    def _reply(
        self, request: Request, prompt: Encoded, generated: Generated, reference_logprobs: torch.Tensor | None
    ) -> Reply:
        encoder = self.model.encoder
        ids = generated.ids.tolist()
        text = encoder.decode(ids)
        parsed = parse_reply(text, request.view.actions, request.view.aliases)
        # A reply without an "action": key has no action part: all of it counts as thoughts.
        start = encoder.token_at(ids, parsed.action_span[0]) if parsed.action_span else len(ids)
        item = VLMReplayItem(
            prompt=prompt,
            ids=generated.ids,
            action_start=start,
            logprob_thoughts=float(generated.logprobs[self.dropped_tokens : start].sum()),
            logprob_action=float(generated.logprobs[max(self.dropped_tokens, start) :].sum()),
            value=generated.value,
            logprobs=generated.logprobs,
            reference_logprobs=reference_logprobs,
        )
        numbers = {
            "logprob_thoughts": item.logprob_thoughts,
            "logprob_action": item.logprob_action,
            **({"value": item.value} if self.critic else {}),
            "tokens": float(len(ids)),
        }
        return Reply(text, numbers, parsed=parsed, replay_item=item)


def vllm_for(model: ActorCritic, cache_gb: float) -> VLLMEngine:
    """vLLM for a policy's model, with random weights until `VLMPolicy.sync`; `cache_gb` is for keys and values."""
    return VLLMEngine(
        model.model,
        model.encoder,
        model.suppressed,
        temperature=model.temperature,
        max_new_tokens=model.max_new_tokens,
        cache_gb=cache_gb,
    )


def split_log_probs(
    logprobs_BR: torch.Tensor, mask_BR: torch.Tensor, action_start_B: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed log-probabilities of the thought tokens and of the action tokens.

    Args:
        logprobs_BR: log-probability of each reply token.
        mask_BR: True at the reply's tokens that count, False at padding.
        action_start_B: index of the first token of the `"action":` key; tokens before it are thoughts.

    Returns:
        (thoughts, action), each (B,).
    """
    position_R = torch.arange(logprobs_BR.shape[1], device=logprobs_BR.device)
    is_action = position_R >= action_start_B.unsqueeze(-1)
    thoughts = logprobs_BR.masked_fill(~mask_BR | is_action, 0.0).sum(-1)
    action = logprobs_BR.masked_fill(~mask_BR | ~is_action, 0.0).sum(-1)
    return thoughts, action
