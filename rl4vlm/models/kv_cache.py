"""A key-value cache with room for what is known to come: a new token is written in place, and nothing is copied.

Transformers' own cache grows by joining old and new: each new token copies the keys and values of all tokens before it,
which with many environments and hundreds of picture tokens is most of the time of a reply (docs/throughput.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer


class PreallocatedLayer(DynamicLayer):
    """Keys and values (B, heads, tokens, size) of one layer, views of buffers that hold `capacity` tokens.

    Beyond `capacity` it grows as its base class does.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        self._buffers: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the states (B, heads, new, size) of new tokens; returns those of all."""
        before = self.get_seq_length()
        now = before + key_states.shape[-2]
        if before == 0:
            self.lazy_initialization(key_states, value_states)
            self._buffers = (self._empty(key_states), self._empty(value_states))
        if self._buffers is None or now > self.capacity:
            self._buffers = None
            return super().update(key_states, value_states, *args, **kwargs)
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, before:now] = states
        self.keys, self.values = (buffer[:, :, :now] for buffer in self._buffers)
        return self.keys, self.values

    def _empty(self, states: torch.Tensor) -> torch.Tensor:
        return states.new_empty(*states.shape[:-2], max(self.capacity, states.shape[-2]), states.shape[-1])


def preallocated_cache(config: PreTrainedConfig, capacity: int) -> DynamicCache:
    """A cache of `capacity` tokens for a model of this config; layers with a sliding window stay as they are."""
    cache = DynamicCache(config=config.get_text_config(decoder=True))
    cache.layers = [PreallocatedLayer(capacity) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def concat_caches(parts: Sequence[DynamicCache], config: PreTrainedConfig, capacity: int) -> DynamicCache:
    """The rows of `parts`, caches of as many tokens each, in one cache with room; the parts are used up."""
    cache = preallocated_cache(config, capacity)
    for index, layer in enumerate(cache.layers):
        states = [part.layers[index] for part in parts]
        layer.update(torch.cat([one.keys for one in states]), torch.cat([one.values for one in states]))
        for part in parts:
            part.layers[index] = DynamicLayer()
    return cache
