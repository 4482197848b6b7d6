"""Older versions of transformers, which vLLM needs (docs/install.md)."""

from __future__ import annotations

from inspect import getattr_static

from transformers import PreTrainedModel


def accept_older_names() -> None:
    """Support older versions of transformers: they say `gradient` in place of `activation` in these methods' names."""
    for name in ("activation_checkpointing_enable", "activation_checkpointing_disable", "is_activation_checkpointing"):
        if not hasattr(PreTrainedModel, name):
            older = getattr_static(PreTrainedModel, name.replace("activation", "gradient"))
            setattr(PreTrainedModel, name, older)
