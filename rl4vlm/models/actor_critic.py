"""The policy and the critic on one vision-language model: generate replies, and score stored ones.

Legend: B batch, P prompt length, R reply length, V vocabulary, D hidden width.
The policy is softmax(logits / temperature) over every token but the suppressed special ones, the same in `generate` and
in `score`, so a reply's log-probability when it was sampled is the one it is re-scored with (paper, section 4.2).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import DynamicCache, LogitsProcessor, LogitsProcessorList, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from rl4vlm.models.encode import Batch, Encoded, Encoder, collate
from rl4vlm.models.kv_cache import PreallocatedLayer, concat_caches, preallocated_cache
from rl4vlm.models.loading import Backbone, load_backbone, use_own_generation
from rl4vlm.models.value_head import FILE as VALUE_FILE
from rl4vlm.models.value_head import ValueHead

PROMPT_TOKENS = 4096
"""Tokens of prompts that go through the model at a time: more are no faster, and on a processor slower, since what is
computed between two layers no longer fits its caches."""


@dataclass(frozen=True)
class Generated:
    """One sampled reply: token ids (R,) int64 with the end token where it was reached, their log-probs (R,) float32
    and the critic's value of the prompt."""

    ids: torch.Tensor
    logprobs: torch.Tensor
    value: float


@dataclass(frozen=True)
class Scores:
    """Stored replies under the current weights: `logprobs`, `entropy` (B, R), `values` (B,) float32; `mask` (B, R)."""

    logprobs: torch.Tensor
    entropy: torch.Tensor
    values: torch.Tensor
    mask: torch.Tensor


def policy_log_probs(logits: torch.Tensor, suppressed: torch.Tensor, temperature: float) -> torch.Tensor:
    """Log-probabilities (..., V) of the policy, in float32 or better; suppressed ids get -inf."""
    scaled = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
    scaled[..., suppressed] = -torch.inf
    return torch.log_softmax(scaled, dim=-1)


def reply_logits(model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (B, R, V) of a batch's reply tokens, and the final hidden state (B, D) of its last prompt tokens.

    Logits are computed for reply tokens only: the prompt's would be most of the work and are never read. `model` may be
    wrapped for data-parallel training.
    """
    bare = unwrapped(model)
    # Of a prompt alone the last token's are made, since models make at least one.
    last = batch.prompt_length - 1
    rows = torch.arange(last, last + max(1, batch.reply_ids.shape[1]), device=batch.reply_ids.device)
    with first_head_input(bare) as seen:
        logits = model(**forward_inputs(bare, batch), logits_to_keep=rows, use_cache=False).logits
    return logits[:, : batch.reply_ids.shape[1]], seen[0][:, 0]


def forward_inputs(model: PreTrainedModel, batch: Batch) -> dict[str, torch.Tensor]:
    """A batch's inputs for a forward pass; a model that counts positions in its own way (M-RoPE) is given none."""
    own = counts_positions(model)
    return {name: tensor for name, tensor in batch.inputs.items() if not (own and name == "position_ids")}


def counts_positions(model: PreTrainedModel) -> bool:
    """Whether a model counts positions in its own way (M-RoPE); it also remembers them between prompt and reply."""
    return hasattr(model.model, "get_rope_index")


def checkpoint_layers(model: PreTrainedModel) -> None:
    """Have gradient checkpointing, where it is on, work in evaluation mode too: dropout stays off in PPO.

    Layers checkpoint only while they themselves are in training mode; what lies inside them is left as it is.
    """
    if model.is_activation_checkpointing and torch.is_grad_enabled():
        for module in model.modules():
            if isinstance(module, GradientCheckpointingLayer):
                module.training = True


def unwrapped(model: nn.Module) -> PreTrainedModel:
    """The model itself inside a wrapper for data-parallel training."""
    return model if isinstance(model, PreTrainedModel) else model.module


@contextmanager
def first_head_input(model: PreTrainedModel) -> Iterator[list[torch.Tensor]]:
    """Collects the output head's first input (B, rows, D): the final hidden states that logits are made of."""
    seen: list[torch.Tensor] = []

    def keep(_module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        if not seen:
            seen.append(args[0])

    handle = model.get_output_embeddings().register_forward_pre_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()


def uniforms(rngs: Sequence[np.random.Generator], count: int) -> torch.Tensor:
    """Uniform numbers (rows, count) float64 in [0, 1), a row from each stream."""
    return torch.from_numpy(np.stack([rng.random(count) for rng in rngs]))


def sample(logprobs: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """A token (B, 1) for each row of log-probabilities (B, V): the one in whose part of the unit interval, dealt out by
    probability in the order of ids, the row's number of `uniform` (B, 1) float64 lies.

    A token of probability 0 has no part. The parts are scaled to the sum, which rounding leaves beside 1.
    """
    parts = logprobs.exp().cumsum(-1, dtype=uniform.dtype)
    # The largest number below 1 could round up to the very end, which is nobody's.
    below_one = uniform.clamp(max=1 - 2 * torch.finfo(uniform.dtype).eps)
    return torch.searchsorted(parts, below_one * parts[:, -1:], right=True)


class _Sampler(LogitsProcessor):
    """Turns greedy search into sampling, by a number that was drawn for each token beforehand; records log-probs.

    `uniform` (B, R) are those numbers: what a row samples does not depend on the others, nor on when theirs end. With
    None the search stays greedy.
    """

    def __init__(self, uniform: torch.Tensor | None, suppressed: torch.Tensor, temperature: float) -> None:
        self.uniform, self.suppressed, self.temperature = uniform, suppressed, temperature
        self.logprobs: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        logprobs = policy_log_probs(scores, self.suppressed, self.temperature)
        if self.uniform is None:
            chosen = logprobs.argmax(-1, keepdim=True)
        else:
            token = len(self.logprobs)
            chosen = sample(logprobs, self.uniform[:, token : token + 1])
        self.logprobs.append(logprobs.gather(-1, chosen).squeeze(-1))
        return torch.full_like(logprobs, -torch.inf).scatter_(-1, chosen, 0.0)


class ActorCritic(nn.Module):
    """A backbone with a value head.

    `temperature` is the sampling temperature, part of the policy; 0 plays greedily and scores at temperature 1.
    """

    suppressed: torch.Tensor
    forward_methods = ("generate", "values")
    """What computes with the weights beside `forward`."""

    def __init__(self, backbone: Backbone, value_head: ValueHead, *, temperature: float, max_new_tokens: int) -> None:
        super().__init__()
        self.model: PreTrainedModel = backbone.model
        self.value_head = value_head
        self.encoder = Encoder(backbone.processor)
        use_own_generation(self.model, self.encoder)
        self.temperature = temperature
        self.max_new_tokens = max_new_tokens
        self.register_buffer("suppressed", self.encoder.suppressed_ids(), persistent=False)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def scoring_temperature(self) -> float:
        return self.temperature or 1.0

    @torch.no_grad()
    def generate(self, prompts: Sequence[Encoded], rngs: Sequence[np.random.Generator]) -> list[Generated]:
        """Sample one reply a prompt, each from its own stream, dropout off.

        Each stream gives `max_new_tokens` numbers, however long the reply turns out: where it stands afterwards says
        nothing of the batch. Greedy play draws none.
        """
        self.eval()
        batch = self._collated(prompts)
        inputs = {name: tensor for name, tensor in batch.inputs.items() if name != "position_ids"}
        cache = preallocated_cache(self.model.config, batch.prompt_length + self.max_new_tokens)
        if len(prompts) * batch.prompt_length > PROMPT_TOKENS and self._reads_in_parts(prompts, cache):
            cache = self._read_in_parts(prompts, batch.prompt_length)
            inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        uniform = uniforms(rngs, self.max_new_tokens).to(self.device) if self.temperature else None
        sampler = _Sampler(uniform, self.suppressed, self.scoring_temperature)
        with first_head_input(self.model) as seen:
            ids = self.model.generate(
                **inputs,
                past_key_values=cache,
                do_sample=False,
                max_new_tokens=self.max_new_tokens,
                logits_processor=LogitsProcessorList([sampler]),
                eos_token_id=self.encoder.eos_id,
                pad_token_id=self.encoder.pad_id,
            )[:, batch.prompt_length :]
        values = self.value_head(seen[0][:, -1]).cpu()
        logprobs = torch.stack(sampler.logprobs, dim=1).cpu()
        ids = ids.cpu()
        lengths = self._lengths(ids)
        return [
            Generated(ids[row, :n].clone(), logprobs[row, :n].clone(), float(values[row]))
            for row, n in enumerate(lengths)
        ]

    @torch.no_grad()
    def values(self, prompts: Sequence[Encoded]) -> np.ndarray:
        """The critic's values (B,) float64 of prompts alone, dropout off."""
        self.eval()
        _, last_prompt = reply_logits(self.model, self._collated(prompts))
        return self.value_head(last_prompt).double().cpu().numpy()

    def forward(self, prompts: Sequence[Encoded], replies: Sequence[torch.Tensor]) -> Scores:
        """`score`, under the name that a data-parallel wrapper calls."""
        return self.score(prompts, replies)

    def score(self, prompts: Sequence[Encoded], replies: Sequence[torch.Tensor]) -> Scores:
        """Log-probs, entropies and values of stored replies, with gradient; logits are made for reply tokens only."""
        batch = collate(prompts, replies, self.encoder.pad_id, self.device)
        checkpoint_layers(self.model)
        logits, last_prompt = reply_logits(self.model, batch)
        all_logprobs = policy_log_probs(logits, self.suppressed, self.scoring_temperature)
        logprobs = all_logprobs.gather(-1, batch.reply_ids.unsqueeze(-1)).squeeze(-1)
        # Far below any probability that is not 0: so -inf makes no NaN, and nothing else is touched.
        entropy = -(all_logprobs.exp() * all_logprobs.clamp(min=-1000.0)).sum(-1)
        return Scores(
            logprobs.masked_fill(~batch.reply_mask, 0.0),
            entropy.masked_fill(~batch.reply_mask, 0.0),
            self.value_head(last_prompt),
            batch.reply_mask,
        )

    def save(self, folder: Path) -> None:
        """Write an ordinary Hugging Face checkpoint with the value head beside it."""
        Backbone(self.model, self.encoder.processor).save(folder)
        self.value_head.save(folder)

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        temperature: float,
        max_new_tokens: int,
        value_sizes: Sequence[int] = (1024, 512),
        device: torch.device | None = None,
        gradient_checkpointing: bool = False,
        **options: Any,
    ) -> ActorCritic:
        """Load a checkpoint; a value head that lies beside it is used, else a new one of `value_sizes` is drawn.

        `gradient_checkpointing` computes each layer's activations once more in the backward pass, instead of keeping
        them. `options` are those of `load_backbone`.
        """
        backbone = load_backbone(source, **options)
        stored = Path(source) / VALUE_FILE
        width = backbone.model.get_output_embeddings().in_features
        head = ValueHead.load(Path(source)) if stored.is_file() else ValueHead(width, value_sizes)
        model = cls(backbone, head, temperature=temperature, max_new_tokens=max_new_tokens)
        if gradient_checkpointing:
            backbone.model.activation_checkpointing_enable()
        return model.to(device) if device is not None else model

    def _collated(self, prompts: Sequence[Encoded], prompt_length: int = 0) -> Batch:
        """Prompts alone, as a batch."""
        no_replies = [torch.empty(0, dtype=torch.long)] * len(prompts)
        return collate(prompts, no_replies, self.encoder.pad_id, self.device, prompt_length)

    def _reads_in_parts(self, prompts: Sequence[Encoded], cache: DynamicCache) -> bool:
        """Whether prompts can go through the model some at a time: where all that it keeps of them is keys and values,
        without windows, which can be put together again."""
        simple = all(type(layer) is PreallocatedLayer for layer in cache.layers)
        return simple and not any(one.marks for one in prompts) and not counts_positions(self.model)

    def _read_in_parts(self, prompts: Sequence[Encoded], length: int) -> DynamicCache:
        """Keys and values of prompts padded to `length` tokens, but for the last token's, with room for replies."""
        size = max(1, PROMPT_TOKENS // length)
        caches = []
        for start in range(0, len(prompts), size):
            inputs = self._collated(prompts[start : start + size], length).inputs
            inputs |= {name: inputs[name][:, :-1] for name in ("input_ids", "attention_mask", "position_ids")}
            cache = DynamicCache(config=self.model.config.get_text_config(decoder=True))
            self.model(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
            caches.append(cache)
        return concat_caches(caches, self.model.config, length + self.max_new_tokens)

    def _lengths(self, ids: torch.Tensor) -> list[int]:
        """Number of tokens of each row of (B, R) up to and with its end token."""
        ended = (ids == self.encoder.eos_id).int()
        first = torch.where(ended.any(-1), ended.argmax(-1) + 1, ids.shape[1])
        return first.tolist()
