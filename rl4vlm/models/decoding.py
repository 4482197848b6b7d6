"""Generates replies token by token, in place of transformers' loop.

That loop reads a number from the GPU after each token, so the CPU and the GPU wait for each other.

Legend: B rows, L prompt length, R reply length.
"""

from __future__ import annotations

import logging
import os
import shutil
import sysconfig
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule
from transformers import CompileConfig, GenerationConfig, PreTrainedModel, StaticCache
from transformers.cache_utils import StaticLayer

from rl4vlm.models.output_head import first_head_input
from rl4vlm.models.sampling import Sampler

logger = logging.getLogger(__name__)

CHECK_EVERY = {"cpu": 1, "cuda": 8}
"""Tokens between two checks of whether all replies have ended, by type of device. A check waits for the GPU."""
COMPILED_ON = ("cuda",)
"""Types of devices on which the passes for single tokens are compiled."""
COMPILED = CompileConfig(dynamic=False)
"""Torch's compiler with CUDA graphs (its mode `reduce-overhead`), for the exact shapes that it sees."""


class GenerationLoop:
    """Passed to transformers' `generate` as `custom_generate`, in place of its own loop.

    Args:
        sampler: draws the tokens.
        prompts_cached: whether the cache already holds the prompts, except for their last token.

    Attributes:
        last_prompt: the final hidden states (B, D) of the prompts' last tokens, after a call.
    """

    def __init__(self, sampler: Sampler, *, prompts_cached: bool) -> None:
        self.sampler, self.prompts_cached = sampler, prompts_cached
        self.last_prompt = torch.empty(0)

    def __call__(
        self, model: PreTrainedModel, input_ids: torch.Tensor, generation_config: GenerationConfig, **inputs: Any
    ) -> torch.Tensor:
        """Token ids (B, L + R) of prompts and replies; R may be larger than the longest reply.

        Args:
            model: the backbone.
            input_ids: the prompts (B, L).
            generation_config: has the longest reply's length, and the ids that end and pad a reply.
            inputs: further inputs of the model, with the cache.
        """
        # The loop stops by itself, and the sampler is its only logits processor.
        for unused in ("logits_processor", "stopping_criteria"):
            del inputs[unused]
        static = isinstance(inputs["past_key_values"], StaticCache)
        device = input_ids.device
        ended = torch.zeros(len(input_ids), dtype=torch.bool, device=device)
        forward = model.__call__
        for token in range(generation_config.max_new_tokens):
            alone = token > 0 or self.prompts_cached
            ready = model.prepare_inputs_for_generation(
                input_ids, next_sequence_length=1 if alone else None, is_first_iteration=token == 0, **inputs
            )
            if token == 0:
                with first_head_input(model) as seen:
                    outputs = forward(**ready, return_dict=True)
                self.last_prompt = seen[0][:, -1]  # prompts are padded left: the last column is their end
                # Compile from the second pass on: the first has another shape, and the hook.
                if static and device.type in COMPILED_ON:
                    forward = model.get_compiled_call(COMPILED)
            else:
                outputs = forward(**ready, return_dict=True)
            inputs = model._update_model_kwargs_for_generation(outputs, inputs)
            chosen = self.sampler(outputs.logits[:, -1]).masked_fill(ended, generation_config.pad_token_id)
            # CUDA graphs reuse the memory of their outputs, so keep none of them for the next pass.
            del outputs
            input_ids = torch.cat([input_ids, chosen.unsqueeze(-1)], dim=-1)
            ended |= chosen == generation_config.eos_token_id
            if (token + 1) % CHECK_EVERY.get(device.type, 1) == 0 and bool(ended.all()):
                break
        return input_ids


def reply_lengths(ids: torch.Tensor, eos_id: int) -> list[int]:
    """Number of tokens in each row of (B, R), up to and with its first end token."""
    ended = (ids == eos_id).int()
    # argmax returns the first maximum: the first end token.
    first = torch.where(ended.any(-1), ended.argmax(-1) + 1, ids.shape[1])
    return first.tolist()


def decodes_static(model: PreTrainedModel) -> bool:
    """Whether the forward pass for one further token can be compiled for this model, with a static cache."""
    text = model.config.get_text_config(decoder=True)
    # Layers with a sliding window count their tokens in Python: such a pass differs from token to token.
    plain = all(type(layer) is StaticLayer for layer in StaticCache(text, max_cache_len=1).layers)
    quantizer = getattr(model, "hf_quantizer", None)
    return bool(
        model._can_compile_fullgraph
        and plain
        and text._attn_implementation in ("sdpa", "eager")  # FlashAttention cannot
        and (quantizer is None or quantizer.is_compileable)
    )


def use_static_cache(model: PreTrainedModel, asked: str | None) -> bool:
    """Whether to generate with a static cache: as `asked`, or if that is None, where passes can be compiled.

    Raises:
        ValueError: it is asked for, but this model's passes cannot be compiled, FSDP shards the model, or this machine
            lacks what compiling needs.
    """
    if asked == "dynamic":
        return False
    if asked == "static" and not decodes_static(model):
        raise ValueError(
            f"kv_cache 'static' is not possible with {type(model).__name__} and its attention "
            f"({model.config.get_text_config(decoder=True)._attn_implementation}): leave kv_cache out"
        )
    # Layers under FSDP gather their weights in hooks, which a compiled pass does not see.
    sharded = any(isinstance(module, FSDPModule) for module in model.modules())
    if asked == "static" and sharded:
        raise ValueError(
            "kv_cache 'static' does not work with FSDP, whose hooks a compiled pass does not see: set kv_cache to "
            "dynamic or leave it out, or launch with config/accelerate/ddp.yaml"
        )
    lacking = lacking_compiler() if model.device.type == "cuda" else None
    if asked == "static":
        if lacking is not None:
            raise ValueError(f"kv_cache 'static' compiles passes for the GPU, and this machine lacks {lacking}")
        return True
    possible = model.device.type in COMPILED_ON and decodes_static(model) and not sharded
    if possible and lacking is not None:
        _warn_of_slow_replies(lacking)
    return possible and lacking is None


@cache
def lacking_compiler() -> str | None:
    """What this machine lacks to compile passes for a GPU, if anything.

    Triton builds its launcher in C: that needs gcc or clang (or what CC names) and Python's headers.
    """
    if not os.environ.get("CC") and not any(map(shutil.which, ("gcc", "clang"))):
        return "a C compiler, such as gcc"
    header = Path(sysconfig.get_path("include", "posix_prefix"), "Python.h")
    return None if header.is_file() else f"{header} (on Debian: python3-dev)"


@cache
def _warn_of_slow_replies(lacking: str) -> None:
    logger.warning("this machine lacks %s: replies are generated without compiled passes, which is slower", lacking)
