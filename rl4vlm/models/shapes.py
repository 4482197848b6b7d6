"""Configs of well-known backbones, written by hand: their shapes without their weights, for estimates and benchmarks.

The numbers are those of the published `config.json` files as their model cards and papers give them;
`tests/models/test_memory.py` holds each against the published number of parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

SIGLIP_SO400M = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "patch_size": 14,
}


def _text(hidden: int, mlp: int, layers: int, heads: int, kv: int, vocabulary: int, **more: Any) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "vocab_size": vocabulary,
        **more,
    }


SHAPES: Mapping[str, Mapping[str, Any]] = {
    # One view: LLaVA-1.6 without its grid is a LLaVA. Its Mistral is version 0.2, which has no sliding window.
    "llava-v1.6-mistral-7b": {
        "model_type": "llava",
        "text_config": _text(4096, 14336, 32, 32, 8, 32064, model_type="mistral", head_dim=128, sliding_window=None),
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": 336,
            "patch_size": 14,
            "projection_dim": 768,
        },
        "image_token_id": 32000,
        "tie_word_embeddings": False,
    },
    "Qwen2.5-VL-3B": {
        "model_type": "qwen2_5_vl",
        "text_config": _text(2048, 11008, 36, 16, 2, 151936),
        "vision_config": {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 2048},
        "tie_word_embeddings": True,
    },
    "Qwen2.5-VL-7B": {
        "model_type": "qwen2_5_vl",
        "text_config": _text(3584, 18944, 28, 28, 4, 152064),
        "vision_config": {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 3584},
        "tie_word_embeddings": False,
    },
    "Qwen3-VL-4B": {
        "model_type": "qwen3_vl",
        "text_config": _text(2560, 9728, 36, 32, 8, 151936, head_dim=128),
        "vision_config": {
            "depth": 24,
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "out_hidden_size": 2560,
            "deepstack_visual_indexes": [5, 11, 17],
        },
        "tie_word_embeddings": True,
    },
    "SmolVLM2-2.2B": {
        "model_type": "smolvlm",
        "text_config": _text(2048, 8192, 24, 32, 32, 49280, model_type="llama"),
        "vision_config": {**SIGLIP_SO400M, "image_size": 384},
        "image_token_id": 49190,
        "scale_factor": 3,
        "tie_word_embeddings": False,
    },
    "gemma-3-4b": {
        "model_type": "gemma3",
        "text_config": _text(2560, 10240, 34, 8, 4, 262208, head_dim=256, sliding_window=1024),
        "vision_config": {**SIGLIP_SO400M, "model_type": "siglip_vision_model", "image_size": 896},
        "tie_word_embeddings": True,
    },
}


def shape_of(name: str) -> PreTrainedConfig:
    """The config of one of `SHAPES`."""
    return AutoConfig.for_model(**SHAPES[name])
