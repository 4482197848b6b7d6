"""Equal prompts pass through the model once for all replies to them.

Replies that share a prompt stand in one row: prompt, reply, reply, ... A mask hides the replies of a row from each
other, and the positions of each continue the prompt's. So every reply sees what it would see in a row of its own, and
its log-probabilities and gradients are the same up to rounding. It stays one forward pass of the whole model, so
gradient checkpointing, DDP and FSDP work as without sharing.

The alternative is to read the prompt first, and then the replies with copies of its keys and values. Attention would
have fewer pairs of tokens, but there would be two passes: transformers turns its cache off under gradient
checkpointing, and FSDP would gather each layer twice.

Legend: B samples, N rows, L row length, R reply length.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from rl4vlm.models.encode import PROMPT, Batch, Encoded


def counts_positions(model: PreTrainedModel) -> bool:
    """Whether a model counts positions itself (M-RoPE). Such a model also stores them between prompt and reply."""
    return hasattr(model.model, "get_rope_index")


def keeps_all_keys(model: PreTrainedModel) -> bool:
    """Whether a model remembers nothing of a prompt but the keys and values of all its tokens, which can be copied.

    False for a model with sliding windows or with stored positions.
    """
    layers = DynamicCache(config=model.config.get_text_config(decoder=True)).layers
    return all(type(layer) is DynamicLayer for layer in layers) and not counts_positions(model)


def takes_any_mask(model: PreTrainedModel) -> bool:
    """Whether a model's attention takes any mask, as rows of several replies need."""
    # FlashAttention takes no arbitrary mask, and the other implementations want theirs in another form.
    return bool(model.config.get_text_config(decoder=True)._attn_implementation == "sdpa")


def distinct(prompts: Sequence[Encoded]) -> tuple[list[Encoded], list[int]]:
    """The distinct prompts in the order in which they first appear, and for each prompt its index among them."""
    first: dict[str, Encoded] = {}
    for prompt in prompts:
        first.setdefault(prompt.key, prompt)
    number = {key: index for index, key in enumerate(first)}
    return list(first.values()), [number[prompt.key] for prompt in prompts]


def shared_rows(prompts: Sequence[Encoded], replies: Sequence[torch.Tensor], width: int) -> list[list[int]]:
    """Put samples into rows so that a forward pass costs the fewest operations.

    All rows are padded to the longest, so many replies to one prompt may be cheaper in several rows.

    Args:
        prompts: B encoded prompts.
        replies: their replies, token ids (R,) int64.
        width: hidden width of the language model.

    Returns:
        The indices of each row's samples.
    """
    groups: dict[int, list[int]] = {}
    for sample, number in enumerate(distinct(prompts)[1]):
        groups.setdefault(number, []).append(sample)
    prompt, reply = max(len(p.input_ids) for p in prompts), max(map(len, replies))

    def rows(slots: int) -> list[list[int]]:
        return [group[start : start + slots] for group in groups.values() for start in range(0, len(group), slots)]

    def work(slots: int) -> int:
        length = prompt + slots * reply
        # A layer's matrices take about 24 width^2 operations per token, its attention 4 width per pair of tokens. Here
        # both are divided by 4 width.
        return len(rows(slots)) * length * (6 * width + length)

    return rows(min(range(1, max(map(len, groups.values())) + 1), key=work))


def attention_mask(batch: Batch) -> torch.Tensor:
    """Which tokens each token of a row may see (N, 1, L, L) bool: earlier ones of the prompt and of its own reply."""
    own = batch.parts.unsqueeze(1) == batch.parts.unsqueeze(2)
    earlier = torch.ones_like(own[0]).tril()
    # Padding sees padding: a token that saw nothing would be NaN in some kernels.
    return (earlier & (own | (batch.parts == PROMPT).unsqueeze(1))).unsqueeze(1)
