"""Logits of a model in bfloat16 are not rounded to bfloat16."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from rl4vlm.models.encode import Encoder, collate
from rl4vlm.models.loading import load_backbone
from rl4vlm.models.reply_logits import reply_logits


@pytest.mark.parametrize("copied", [False, True])
def test_logits_in_bfloat16_are_those_of_exact_arithmetic(tiny_checkpoint: Path, copied: bool) -> None:
    backbone = load_backbone(tiny_checkpoint, dtype="bfloat16")
    model = copy.deepcopy(backbone.model) if copied else backbone.model
    head = model.get_output_embeddings()
    with torch.no_grad():
        head.weight.mul_(64)  # logits beyond 8, as trained models have
    inputs: list[torch.Tensor] = []
    head.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    encoder = Encoder(backbone.processor)
    prompt, reply = encoder.prompt(np.zeros((60, 60, 3), np.uint8), "number"), encoder.reply("2 is less than 4.")
    with torch.no_grad():
        logits, _ = reply_logits(model, collate([prompt], [reply], encoder.pad_id, torch.device("cpu")))
    exact = inputs[0].double() @ head.weight.double().T
    assert exact.abs().max() > 8
    assert logits.dtype == torch.float32
    assert (logits - exact).abs().max() < 1e-4


def test_the_head_is_saved_and_trained_as_before(tiny_checkpoint: Path, tmp_path: Path) -> None:
    backbone = load_backbone(tiny_checkpoint, dtype="bfloat16")
    head = backbone.model.get_output_embeddings()
    head(torch.ones(1, head.in_features, dtype=torch.bfloat16)).sum().backward()
    assert head.weight.grad is not None
    assert head.weight.grad.dtype == torch.bfloat16
    backbone.save(tmp_path)
    again = load_backbone(tmp_path, dtype="bfloat16").model.get_output_embeddings()
    assert torch.equal(again.weight, head.weight)
