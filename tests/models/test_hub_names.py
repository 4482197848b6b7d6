"""Weights for vLLM: merged with their adapters, and under the names that they have on the hub."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rl4vlm.config.stages.backbone import LoraSettings
from rl4vlm.models.hub_names import hub_weights, use_hub_names
from rl4vlm.models.loading import load_backbone
from rl4vlm.models.lora import merge
from tests.models.families import FAMILIES


# PEFT rounds the product of the adapter on Gemma's projector before it is added.
@pytest.mark.parametrize(("family", "rounding"), [("LlavaNext", 0.0), ("Gemma3", 0.01)])
def test_hub_weights_are_those_of_a_merged_checkpoint_and_the_model_is_unchanged(
    family: str, rounding: float, tmp_path: Path
) -> None:
    (tmp_path / "base").mkdir()
    FAMILIES[family].write(tmp_path / "base")
    model = load_backbone(tmp_path / "base", dtype="bfloat16", lora=LoraSettings(rank=2)).model
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.1)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    weights = hub_weights(model)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    merged = merge(model.float()).bfloat16()
    use_hub_names(merged)
    merged.save_pretrained(tmp_path / "out")
    saved = load_file(tmp_path / "out" / "model.safetensors")
    # A checkpoint leaves out tied weights.
    assert saved.keys() <= weights.keys()
    for name, weight in saved.items():
        torch.testing.assert_close(weights[name], weight, rtol=rounding, atol=rounding)
