"""Weights under the names that they have on the hub, which vLLM reads."""

from __future__ import annotations

from copy import copy

import torch
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import PrefixChange, WeightTransform, revert_weight_conversion

from rl4vlm.models.lora import merged_weights


def use_hub_names(model: PreTrainedModel) -> None:
    """Make `save_pretrained` name weights as on the hub: vLLM reads these names only, transformers also its own.

    Transformers 5 drops a part of the names in some vision towers (`vision_model` in those of CLIP and SigLIP), and
    restores it only if the model was loaded from a checkpoint that has it. `get_model_conversion_mapping` lists the
    classes of such towers.
    """
    every = get_model_conversion_mapping(model, add_legacy=False)
    # The conversions that loading the checkpoint used. A model that was not loaded has None, and `save_pretrained`
    # would then apply all conversions but those of prefixes.
    used: list[WeightTransform] | None = getattr(model, "_weight_conversions", None)
    if used is None:
        model._weight_conversions = every
    elif not any(isinstance(one, PrefixChange) for one in used):
        model._weight_conversions = [*used, *(one for one in every if isinstance(one, PrefixChange))]


def hub_weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The model's weights with its adapters merged (`merged_weights`), by their names on the hub."""
    named = copy(model)  # shares the weights; the names in the model's own checkpoints stay what they are
    use_hub_names(named)
    weights: dict[str, torch.Tensor] = revert_weight_conversion(named, merged_weights(model))
    return weights
