"""Weights quantised to 4 and 8 bits."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pytest
import torch

from rl4vlm.base_model.tiny import build
from rl4vlm.config.stages.backbone import LoraSettings
from rl4vlm.config.stages.memory import MemorySettings
from rl4vlm.config.stages.ppo import PPOSettings
from rl4vlm.config.stages.pretrain import TinySizes
from rl4vlm.config.stages.sft import SFTSettings
from rl4vlm.models import loading
from rl4vlm.models.actor_critic import ActorCritic
from rl4vlm.models.loading import load_backbone, quantization
from rl4vlm.models.lora import trainable
from rl4vlm.models.memory import base_bytes
from tests.conftest import TEXTS


def test_four_bits_are_nf4_with_double_quantisation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading.importlib.util, "find_spec", lambda name: object())
    four = quantization("4bit", torch.bfloat16)
    assert four.load_in_4bit
    assert (four.bnb_4bit_quant_type, four.bnb_4bit_use_double_quant) == ("nf4", True)
    assert four.bnb_4bit_compute_dtype == torch.bfloat16
    eight = quantization("8bit", torch.bfloat16)
    assert eight.load_in_8bit
    assert not eight.load_in_4bit


def test_without_bitsandbytes_it_is_asked_for(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"bitsandbytes, which is not installed: .* pip install -e '\.\[quantized\]'"):
        load_backbone(tiny_checkpoint, quantize="4bit")


def test_another_number_of_bits_is_named() -> None:
    with pytest.raises(ValueError, match="quantize '3bit' is not one of 4bit, 8bit"):
        quantization("3bit", torch.bfloat16)


@pytest.mark.parametrize("settings", [SFTSettings, PPOSettings])
def test_quantised_weights_are_not_trained(settings: type) -> None:
    with pytest.raises(ValueError, match="set lora, too"):
        settings(quantize="4bit")
    settings(quantize="4bit", lora=LoraSettings())


@pytest.mark.long
@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.filterwarnings("ignore")  # bitsandbytes warns that CPUs lack some kernels
@pytest.mark.parametrize("kind", ["4bit", "8bit"])
def test_a_quantised_model_plays_and_its_adapters_learn(kind: str, tmp_path: Path) -> None:
    """QLoRA with bitsandbytes. Blocks have 64 weights, so the layers must be wide enough."""
    sizes = TinySizes(image_size=60, patch=15, width=128, vision_layers=1, language_layers=2, heads=2, mlp=256)
    build(TEXTS, sizes, seed=0).save(tmp_path / "base")
    options: dict[str, Any] = {"temperature": 0.7, "max_new_tokens": 8, "dtype": "bfloat16"}
    torch.manual_seed(0)
    lora = LoraSettings(rank=4, alpha=8)
    model = ActorCritic.load(tmp_path / "base", quantize=kind, value_sizes=(16,), lora=lora, **options)
    frozen = [p for name, p in model.model.named_parameters() if "lora_" not in name]
    plain = load_backbone(tmp_path / "base", dtype="bfloat16").model
    foreseen = base_bytes(plain, MemorySettings(quantize=cast(Literal["4bit", "8bit"], kind)))
    assert foreseen == pytest.approx(sum(p.numel() * p.element_size() for p in frozen), rel=0.05)
    assert foreseen < 0.8 * base_bytes(plain, MemorySettings())
    prompt = model.encoder.prompt(np.zeros((60, 60, 3), np.uint8), "Play Blackjack.")
    reply = model.generate([prompt], [np.random.default_rng(0)])[0]
    scores = model.score([prompt], [reply.ids])
    torch.testing.assert_close(scores.logprobs[0], reply.logprobs, atol=0.1, rtol=0)
    target = [model.encoder.reply("stand")]
    optimizer = torch.optim.Adam(trainable(model), lr=1e-2)
    losses = []
    for _ in range(8):
        loss = -model.score([prompt], target).logprobs.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    model.save(tmp_path / "adapter")
    again = ActorCritic.load(tmp_path / "adapter", quantize=kind, **options)
    after = model.score([prompt], target).logprobs
    torch.testing.assert_close(again.score([prompt], target).logprobs, after, atol=0.02, rtol=0)
