"""Replies with this project's key-value cache against transformers' StaticCache: the same tokens, and how fast?

    python -m benchmarks.kv_caches

A tiny LLaVA writes `REPLY` tokens for each of a batch of prompts on the CPU, once per cache and round.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedConfig, StaticCache

from rl4vlm.models import actor_critic
from rl4vlm.models.actor_critic import ActorCritic, Generated
from rl4vlm.models.kv_cache import preallocated_cache

CHECKPOINT = Path(__file__).parents[1] / "workflow" / "resources" / "base_model" / "cards"
ENVS, REPLY, ROUNDS = 16, 128, 3


def static_cache(config: PreTrainedConfig, capacity: int) -> StaticCache:
    """Transformers' preallocated cache, made as `preallocated_cache` makes ours."""
    return StaticCache(config=config.get_text_config(decoder=True), max_cache_len=capacity)


def growing_cache(config: PreTrainedConfig, capacity: int) -> DynamicCache:
    """Transformers' default cache, which copies all keys and values for each new token."""
    return DynamicCache(config=config.get_text_config(decoder=True))


def generate(model: ActorCritic, cache: Callable[..., Any]) -> tuple[list[Generated], float]:
    """Replies to `ENVS` random images, and the seconds that they took."""
    images = np.random.default_rng(0).integers(0, 256, (ENVS, 300, 300, 3), np.uint8)
    prompts = [model.encoder.prompt(image, "What is on the table? " * 60) for image in images]
    rngs = [np.random.default_rng(seed) for seed in range(ENVS)]
    with mock.patch.object(actor_critic, "preallocated_cache", cache):
        begun = time.perf_counter()
        replies = model.generate(prompts, rngs)
    return replies, time.perf_counter() - begun


def main() -> None:
    """Print, for each cache, the median seconds and whether tokens and log-probabilities are bit-identical to ours."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = ActorCritic.load(CHECKPOINT, temperature=1.0, max_new_tokens=REPLY, value_sizes=(16,))
    # Without the end token every reply has full length.
    model.suppressed = torch.cat([model.suppressed, torch.tensor([model.encoder.eos_id])])
    caches = {"ours": preallocated_cache, "static": static_cache, "growing": growing_cache}
    seconds: dict[str, list[float]] = {name: [] for name in caches}
    replies: dict[str, list[Generated]] = {}
    for _ in range(ROUNDS):
        for name, cache in caches.items():
            replies[name], taken = generate(model, cache)
            seconds[name].append(taken)
    for name, found in replies.items():
        pairs = list(zip(found, replies["ours"], strict=True))
        tokens = sum(torch.equal(one.ids, other.ids) for one, other in pairs)
        exact = sum(torch.equal(one.logprobs, other.logprobs) for one, other in pairs)
        print(f"{name:8} {median(seconds[name]):6.2f} s  same tokens {tokens}/{ENVS}  same log-probs {exact}/{ENVS}")


if __name__ == "__main__":
    main()
