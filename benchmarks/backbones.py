"""Builds backbones with random weights from their shapes, to measure with. Downloads nothing."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, LlavaConfig

from rl4vlm.base_model.tiny import IMAGE, build_processor, train_tokenizer
from rl4vlm.config.stages.backbone import LoraSettings
from rl4vlm.config.stages.ppo import PPOSettings
from rl4vlm.config.stages.pretrain import TinySizes
from rl4vlm.core.types import PromptParts, Style, View
from rl4vlm.interaction.prompt import render
from rl4vlm.models.actor_critic import ActorCritic
from rl4vlm.models.loading import Backbone
from rl4vlm.models.lora import ensure_adapter
from rl4vlm.models.memory import SHAPES as KNOWN
from rl4vlm.models.output_head import use_float32_head
from rl4vlm.models.value_head import ValueHead
from rl4vlm.tasks.registry import TASKS, get_task


def _llava(text: Mapping[str, int], vision: Mapping[str, int], tied: bool = True) -> dict[str, Any]:
    heads = text["num_attention_heads"]
    return {
        "model_type": "llava",
        "text_config": {"model_type": "llama", "num_key_value_heads": heads, **text},
        "vision_config": {"model_type": "clip_vision_model", **vision},
        "tie_word_embeddings": tied,
    }


SMALL_TOWER = {
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "image_size": 336,
    "patch_size": 14,
}
SHAPES: Mapping[str, Mapping[str, Any]] = {
    # The image tokens (one view, 576 tokens) and the vocabulary of LLaVA-1.6 with a small language model.
    "llava-23m": _llava(
        {
            "hidden_size": 256,
            "intermediate_size": 1024,
            "num_hidden_layers": 10,
            "num_attention_heads": 4,
            "vocab_size": 32064,
        },
        SMALL_TOWER,
    ),
    # The same size with a smaller vocabulary and a larger language model: skipping logits saves less here.
    "llava-23m-8k": _llava(
        {
            "hidden_size": 384,
            "intermediate_size": 1024,
            "num_hidden_layers": 9,
            "num_attention_heads": 6,
            "vocab_size": 8192,
        },
        SMALL_TOWER,
    ),
    # For the tests.
    "llava-test": _llava(
        {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "vocab_size": 512,
        },
        {
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        },
    ),
    "llava-mistral-7b": KNOWN["llava-v1.6-mistral-7b"],
}
VOCABULARY = 425
"""Size of the tokenizer's vocabulary. With it, prompts have about 170 tokens, as with LLaVA's tokenizer."""


def build(
    name: str,
    *,
    dtype: torch.dtype,
    device: torch.device,
    lora: LoraSettings | None,
    max_new_tokens: int,
    temperature: float = 0.2,
    seed: int = 0,
) -> ActorCritic:
    """Build a model of one of `SHAPES` with a value head and random weights drawn from `seed`."""
    config = AutoConfig.for_model(**SHAPES[name])
    vision = config.vision_config
    tokenizer = train_tokenizer(prompts(), (), VOCABULARY)
    sizes = TinySizes(image_size=vision.image_size, patch=vision.patch_size)
    config.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE)
    config.image_seq_length = sizes.image_tokens
    config.text_config.max_position_embeddings = 4096
    ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    config.text_config.update(ends)
    torch.manual_seed(seed)
    # Torch's default on GPUs, for the convolution that cuts an image into patches: it would be coarser than float32.
    torch.backends.cudnn.allow_tf32 = False
    with device if device.type != "cpu" else nullcontext():
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype)
        head = ValueHead(config.text_config.hidden_size, PPOSettings.value_sizes)
    model.generation_config.update(**ends)
    if lora is not None:
        ensure_adapter(model, lora)
    use_float32_head(model)
    backbone = Backbone(model.to(device), build_processor(tokenizer, sizes))
    return ActorCritic(backbone, head, temperature=temperature, max_new_tokens=max_new_tokens).to(device)


def config_of(model: ActorCritic) -> LlavaConfig:
    """The config that a model was built from."""
    return model.model.config


def prompts() -> list[str]:
    """Every task's prompt with unfilled placeholders, to train a tokenizer on."""
    return [_unfilled(get_task(name).prompt) for name in TASKS] * 20


def _unfilled(parts: PromptParts) -> str:
    class Names(dict[str, str]):
        def __contains__(self, name: object) -> bool:
            return True

        def __missing__(self, name: str) -> str:
            return name

    return render(parts, View(("+", "-"), Names()), Style.COT)
