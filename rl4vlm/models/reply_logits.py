"""The logits that predict the tokens of replies, for SFT, pre-training and PPO alike.

Legend: B samples, N rows, K tokens of a row that predict reply tokens, R reply length, V vocabulary, D hidden width.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel

from rl4vlm.models.encode import Batch
from rl4vlm.models.output_head import first_head_input
from rl4vlm.models.shared_prompts import attention_mask, counts_positions


def reply_logits(model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Run the model on a batch of prompts with their replies.

    Args:
        model: the backbone, or a data-parallel wrapper of it.
        batch: prompts padded on the left, replies on the right.

    Returns:
        The logits (N, K, V) that predict the reply tokens (`predictors` says which), and the final hidden state (N, D)
        of each prompt's last token. In a batch of one reply per row, K is R; without replies it is 1.
    """
    bare = unwrapped(model)
    columns, width = batch.inputs["input_ids"].shape[1], batch.reply_ids.shape[1]
    replies = torch.arange(batch.prompt_length, columns, device=batch.reply_ids.device).unflatten(0, (-1, width or 1))
    # The token at position t is predicted at t - 1: the first token of every reply by the prompt's last token, each
    # other one by the reply token before it. Logits of the prompt's other tokens are never read, and would be most of
    # the output head's work. The critic reads the state of the prompt's last token.
    last = torch.arange(batch.prompt_length - 1, batch.prompt_length, device=batch.reply_ids.device)
    kept = torch.cat([last, replies[:, :-1].flatten()])
    own = counts_positions(bare)
    inputs = {name: tensor for name, tensor in batch.inputs.items() if not (own and name == "position_ids")}
    if len(replies) > 1:
        inputs["attention_mask"] = attention_mask(batch)
    with first_head_input(bare) as seen:
        # Keys and values are only needed to generate further tokens.
        logits = model(**inputs, logits_to_keep=kept, use_cache=False).logits
    return logits, seen[0][:, 0]


def predictors(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices `row` (B, 1) and `column` (B, R): `logits[row, column]` (B, R, V) predicts each sample's reply tokens.

    The logits (N, K, V) are those of `reply_logits`.
    """
    # The first of the K is the prompt's last token. Then come R - 1 per reply: its last one predicts nothing.
    width = batch.reply_ids.shape[1]
    token = torch.arange(width, device=batch.slot.device)
    number = batch.slot.unsqueeze(-1) * (width - 1) + token
    return batch.row.unsqueeze(-1), number.masked_fill(token == 0, 0)


def unwrapped(model: nn.Module) -> PreTrainedModel:
    """The model inside a data-parallel wrapper."""
    return model if isinstance(model, PreTrainedModel) else model.module
