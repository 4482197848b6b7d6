"""The policy and the critic on one vision-language model: generate replies, and score stored ones.

Legend: B samples, R reply length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from rl4vlm.config.stages.ppo import PPOSettings
from rl4vlm.models.decoding import GenerationLoop, reply_lengths, use_static_cache
from rl4vlm.models.devices import to_device
from rl4vlm.models.encode import Batch, Encoded, Encoder, collate
from rl4vlm.models.kv_cache import ReusedCache, concat_caches, preallocated_cache
from rl4vlm.models.loading import Backbone, load_backbone, use_own_generation
from rl4vlm.models.reply_logits import predictors, reply_logits
from rl4vlm.models.sampling import Sampler, policy_log_probs, uniforms
from rl4vlm.models.shared_prompts import (
    distinct,
    keeps_all_keys,
    shared_rows,
    takes_any_mask,
)
from rl4vlm.models.value_head import FILE as VALUE_FILE
from rl4vlm.models.value_head import ValueHead

PROMPT_TOKENS = 4096
"""Prompt tokens per forward pass in `generate` and `values`. More is no faster on a GPU, and slower on a CPU, where the
activations between two layers no longer fit into its caches."""


@dataclass(frozen=True)
class Generated:
    """One sampled reply.

    Attributes:
        ids: token ids (R,) int64, up to and with the end token if that was sampled.
        logprobs: their log-probabilities (R,) float32, or float64 if the model is.
        value: the critic's value of the prompt.
    """

    ids: torch.Tensor
    logprobs: torch.Tensor
    value: float


@dataclass(frozen=True)
class Scores:
    """Stored replies under the current weights.

    Attributes:
        logprobs: log-probability of each reply token (B, R) float32, or float64 if the model is; 0 at padding.
        entropy: entropy of the policy at each reply token (B, R) of the same dtype, 0 at padding.
        values: the critic's values of the prompts (B,) float32.
        mask: which positions hold a reply token (B, R) bool.
    """

    logprobs: torch.Tensor
    entropy: torch.Tensor
    values: torch.Tensor
    mask: torch.Tensor


def checkpoint_layers(model: PreTrainedModel) -> None:
    """Make gradient checkpointing, if it is on, work in evaluation mode too, which PPO scores in."""
    if model.is_activation_checkpointing and torch.is_grad_enabled():
        for module in model.modules():
            if isinstance(module, GradientCheckpointingLayer):
                # Transformers checkpoints a layer only if its own flag says training. Setting the flag alone, instead
                # of calling `train()`, leaves the dropout inside the layer off.
                module.training = True


class ActorCritic(nn.Module):
    """A backbone with a value head.

    Args:
        backbone: the vision-language model and its processor.
        value_head: the critic.
        temperature: sampling temperature, part of the policy. 0 decodes greedily and scores at temperature 1.
        max_new_tokens: longest reply, in tokens.
        detach_value: whether gradients of the values stop at the value head.
        kv_cache: `static`, `dynamic`, or None (`decoding.use_static_cache`).

    Attributes:
        share_prompts: whether equal prompts of a batch pass through the model once (`shared_prompts`).

    Raises:
        ValueError: the model does not work with this `kv_cache`.
    """

    suppressed: torch.Tensor
    forward_methods = ("generate", "values")
    """Methods beside `forward` that use the weights, for FSDP."""

    def __init__(
        self,
        backbone: Backbone,
        value_head: ValueHead,
        *,
        temperature: float,
        max_new_tokens: int,
        detach_value: bool = False,
        kv_cache: str | None = None,
    ) -> None:
        super().__init__()
        self.model: PreTrainedModel = backbone.model
        self.value_head = value_head
        self.encoder = Encoder(backbone.processor)
        use_own_generation(self.model, self.encoder)
        self.temperature = temperature
        self.max_new_tokens = max_new_tokens
        self.detach_value = detach_value
        self.share_prompts = True
        self.kv_cache = kv_cache
        use_static_cache(self.model, kv_cache)  # raises early
        self.reused_cache = ReusedCache(self.model.config)
        self._keeps_all_keys = keeps_all_keys(self.model)
        suppressed = self.encoder.suppressed_ids(self.model.get_output_embeddings().out_features)
        # A buffer moves to another device with the model. Not persistent: it is made from the tokenizer at each start.
        self.register_buffer("suppressed", suppressed, persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    @property
    def scoring_temperature(self) -> float:
        """The temperature of log-probabilities."""
        return self.temperature or 1.0

    @torch.no_grad()
    def generate(self, prompts: Sequence[Encoded], rngs: Sequence[np.random.Generator]) -> list[Generated]:
        """Sample one reply per prompt, with dropout off.

        Args:
            prompts: the encoded prompts.
            rngs: one generator per prompt. Unless the temperature is 0, `max_new_tokens` numbers are drawn from each,
                however long its reply is: so a generator's state afterwards does not depend on the batch.

        Returns:
            One reply per prompt.
        """
        self.eval()
        count, length = len(prompts), max(len(prompt.input_ids) for prompt in prompts)
        static = use_static_cache(self.model, self.kv_cache)
        # Pad a smaller batch with its first prompt and the same random numbers: the copies repeat the first reply.
        filled = [*range(count), *[0] * (self.reused_cache.rows(count) - count if static else 0)]
        prompts = [prompts[row] for row in filled]
        tokens = length + self.max_new_tokens
        fixed = self.reused_cache.emptied(len(filled), tokens) if static else None
        cache: Cache = preallocated_cache(self.model.config, tokens) if fixed is None else fixed
        shown, rows = distinct(prompts) if self.share_prompts else (prompts, list(range(len(prompts))))
        apart = len(shown) < len(prompts) or len(prompts) * length > PROMPT_TOKENS
        # With token marks (`Encoded.marks`) a prompt's tokens also see later ones. Its last token must then be read
        # together with the others, and `_prefill` leaves it out.
        apart = apart and self._keeps_all_keys and not any(prompt.marks for prompt in prompts)
        if apart:
            self._prefill(shown, rows, length, cache)
            # The images are in the cache; only each prompt's last token is still to be read.
            prompts = [replace(prompt, images={}) for prompt in prompts]
        # `generate` counts positions from the attention mask, as `collate` does.
        inputs = {name: tensor for name, tensor in self._collated(prompts).inputs.items() if name != "position_ids"}
        uniform = to_device(uniforms(rngs, self.max_new_tokens)[filled], self.device) if self.temperature else None
        sampler = Sampler(uniform, self.suppressed, self.scoring_temperature)
        loop = GenerationLoop(sampler, prompts_cached=apart)
        ids = self.model.generate(
            **inputs,
            past_key_values=cache,
            custom_generate=loop,
            do_sample=False,  # the sampler draws
            max_new_tokens=self.max_new_tokens,
            eos_token_id=self.encoder.eos_id,
            pad_token_id=self.encoder.pad_id,
            # The sampler suppresses tokens already; by the model's own config, `generate` would do so once more.
            suppress_tokens=None,
        )[:count, length:]
        values = self.value_head(loop.last_prompt).cpu()
        logprobs = torch.stack(sampler.logprobs, dim=1).cpu()
        ids = ids.cpu()
        lengths = reply_lengths(ids, self.encoder.eos_id)
        # Cloned: a view would keep the whole batch in memory for as long as one reply is stored.
        return [
            Generated(ids[row, :n].clone(), logprobs[row, :n].clone(), float(values[row]))
            for row, n in enumerate(lengths)
        ]

    @torch.no_grad()
    def values(self, prompts: Sequence[Encoded]) -> np.ndarray:
        """The critic's values (B,) float64 of prompts, with dropout off."""
        self.eval()
        shown, rows = distinct(prompts)
        parts = _parts(shown, max(len(prompt.input_ids) for prompt in shown))
        last_prompt = torch.cat([reply_logits(self.model, self._collated(part))[1] for part in parts])
        return self.value_head(last_prompt).double().cpu().numpy()[rows]

    def forward(self, prompts: Sequence[Encoded], replies: Sequence[np.ndarray]) -> Scores:
        """The same as `score`; data-parallel wrappers synchronise gradients only if `forward` is called.

        Replies are arrays: of tensors, these wrappers would send each to the GPU by itself, from where `collate` would
        read it back, and so wait for the GPU before every micro-batch.
        """
        return self.score(prompts, [torch.from_numpy(ids) for ids in replies])

    def score(self, prompts: Sequence[Encoded], replies: Sequence[torch.Tensor]) -> Scores:
        """Score stored replies (R,) int64 to prompts under the current weights, with gradients."""
        prompts, rows = [self.encoder.whole(prompt) for prompt in prompts], None
        # A shared row needs a mask of its own, in place of the one that the model makes from token marks.
        shared = self.share_prompts and self._keeps_all_keys and takes_any_mask(self.model)
        if shared and not any(prompt.marks for prompt in prompts):
            rows = shared_rows(prompts, replies, self.model.get_output_embeddings().in_features)
        batch = collate(prompts, replies, self.encoder.pad_id, self.device, rows=rows)
        checkpoint_layers(self.model)
        logits, last_prompt = reply_logits(self.model, batch)
        all_logprobs = policy_log_probs(logits, self.suppressed, self.scoring_temperature)
        row, number = predictors(batch)
        # Suppressed tokens have p = 0 and log p = -inf, and 0 * -inf is NaN. At log p = -1000, p is 0 already.
        entropy = -(all_logprobs.exp() * all_logprobs.clamp(min=-1000.0)).sum(-1)
        values = self.value_head(last_prompt.detach() if self.detach_value else last_prompt)
        return Scores(
            all_logprobs[row, number, batch.reply_ids].masked_fill(~batch.reply_mask, 0.0),
            entropy[row, number].masked_fill(~batch.reply_mask, 0.0),
            values[batch.row],
            batch.reply_mask,
        )

    def save(self, folder: Path) -> None:
        """Write a Hugging Face checkpoint, and the value head beside it."""
        Backbone(self.model, self.encoder.processor).save(folder)
        self.value_head.save(folder)

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        temperature: float,
        max_new_tokens: int,
        value_sizes: Sequence[int] = PPOSettings.value_sizes,
        device: torch.device | None = None,
        gradient_checkpointing: bool = False,
        detach_value: bool = False,
        kv_cache: str | None = None,
        **options: Any,
    ) -> ActorCritic:
        """Load a checkpoint, with the value head beside it if there is one.

        Args:
            source: folder or hub name of the checkpoint.
            temperature: of the policy.
            max_new_tokens: longest reply, in tokens.
            value_sizes: hidden layers of a new, random value head, for a checkpoint without one.
            device: where to put the model; None leaves it on the CPU.
            gradient_checkpointing: recompute each layer's activations in the backward pass instead of storing them.
            detach_value: whether gradients of the values stop at the value head.
            kv_cache: `static`, `dynamic`, or None, as for the class.
            options: further arguments of `load_backbone`.
        """
        backbone = load_backbone(source, **options)
        stored = Path(source) / VALUE_FILE
        width = backbone.model.get_output_embeddings().in_features
        head = ValueHead.load(Path(source)) if stored.is_file() else ValueHead(width, value_sizes)
        model = cls(
            backbone,
            head,
            temperature=temperature,
            max_new_tokens=max_new_tokens,
            detach_value=detach_value,
            kv_cache=kv_cache,
        )
        if gradient_checkpointing:
            backbone.model.activation_checkpointing_enable()
        return model.to(device) if device is not None else model

    def _collated(self, prompts: Sequence[Encoded], prompt_length: int = 0) -> Batch:
        """A batch of prompts without replies, padded to at least `prompt_length` tokens."""
        no_replies = [torch.empty(0, dtype=torch.long)] * len(prompts)
        return collate(prompts, no_replies, self.encoder.pad_id, self.device, prompt_length)

    def _prefill(self, prompts: Sequence[Encoded], rows: Sequence[int], length: int, cache: Cache) -> None:
        """Fill an empty cache with the keys and values of prompts padded to `length` tokens, but for the last token.

        The last token is left to `generate`, which needs its logits.

        Args:
            prompts: distinct prompts.
            rows: for each row of the cache, the index of its prompt.
            length: tokens of the longest prompt.
            cache: has capacity for the replies.
        """
        caches = []
        for part in _parts(prompts, length):
            inputs = self._collated(part, length).inputs
            inputs |= {name: inputs[name][:, :-1] for name in ("input_ids", "attention_mask", "position_ids")}
            filled = DynamicCache(config=self.model.config.get_text_config(decoder=True))
            # The logits are not used: compute those of one token, the fewest that a model allows.
            self.model(**inputs, past_key_values=filled, use_cache=True, logits_to_keep=1)
            caches.append(filled)
        concat_caches(caches, rows, cache)


def _parts(prompts: Sequence[Encoded], length: int) -> list[Sequence[Encoded]]:
    """Prompts of up to `length` tokens, in parts of `PROMPT_TOKENS`."""
    size = max(1, PROMPT_TOKENS // length)
    return [prompts[start : start + size] for start in range(0, len(prompts), size)]
