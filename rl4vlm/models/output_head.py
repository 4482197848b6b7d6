"""The output head: logits in float32 from a model whose weights are coarser, and the states that it sees."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.functional import linear
from transformers import PreTrainedModel


class Float32Head(nn.Linear):
    """An output head that multiplies in float32, whatever the dtype of its weight.

    A bfloat16 logit between 8 and 16 has steps of 1/16. Divided by a temperature of 0.2 and summed over a reply, that
    rounding error is as large as PPO's clip range.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        bias = None if self.bias is None else self.bias.float()
        return linear(input.float(), self.weight.float(), bias)


def use_float32_head(model: PreTrainedModel) -> None:
    """Let the output head of a model below float32 compute in float32. Others stay as they are."""
    head = model.get_output_embeddings()
    # The class alone changes: weights, their names, ties and saved checkpoints stay what they are.
    if type(head) is nn.Linear and head.weight.itemsize < torch.float32.itemsize:
        head.__class__ = Float32Head


@contextmanager
def first_head_input(model: PreTrainedModel) -> Iterator[list[torch.Tensor]]:
    """Collect the first input (B, rows, D) of the output head: the final hidden states, after the last norm.

    `output_hidden_states=True` would give the same, but would keep the states of every layer in memory.
    """
    seen: list[torch.Tensor] = []

    def keep(_module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        if not seen:
            seen.append(args[0])

    handle = model.get_output_embeddings().register_forward_pre_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()
