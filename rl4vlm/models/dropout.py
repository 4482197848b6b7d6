"""Dropout that is on in training and evaluation alike: a defect of the public code, for an ablation."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedModel


def add_dropout(model: PreTrainedModel, share: float) -> None:
    """Drop inputs of the adapters at random in every forward pass; without adapters, those of all linear layers.

    Args:
        model: the backbone; its output head is spared, as in the public code.
        share: probability that an input is dropped.
    """

    def drop(_layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return nn.functional.dropout(args[0], share, training=True), *args[1:]

    head = model.get_output_embeddings()
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    adapters = [layer for name, layer in layers.items() if ".lora_A." in name]
    for layer in adapters or layers.values():
        if layer is not head:
            layer.register_forward_pre_hook(drop)
