"""A key-value cache that is allocated once, for a prompt and the longest reply to it.

Transformers' DynamicCache concatenates: each new token copies the keys and values of all earlier ones. With many
environments and hundreds of image tokens that is most of the time of a reply (docs/throughput.md).

Transformers' StaticCache copies nothing either, but attention then runs over its unused positions too. Replies have the
same tokens, but log-probabilities that differ in their last bits, and they are no faster on a CPU: on one core 2.9 s
with this cache, 3.1 s with StaticCache and 5.2 s with DynamicCache (`python -m benchmarks.kv_caches`). On a GPU its
passes can be compiled, since they all have one shape (`decoding`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import Cache, DynamicCache, PreTrainedConfig, StaticCache
from transformers.cache_utils import DynamicLayer


class PreallocatedLayer(DynamicLayer):
    """One layer's keys and values (B, heads, tokens, size), as views of buffers that hold `capacity` tokens.

    More tokens than `capacity` are possible; from then on the layer concatenates as its base class does.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        self._buffers: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the states (B, heads, new, size) of new tokens, and return those of all tokens."""
        before = self.get_seq_length()
        now = before + key_states.shape[-2]
        if before == 0:
            self.lazy_initialization(key_states, value_states)
            self._buffers = (self._empty(key_states), self._empty(value_states))
        if self._buffers is None or now > self.capacity:
            self._buffers = None  # full
            return super().update(key_states, value_states, *args, **kwargs)
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, before:now] = states
        # Views of the filled part, so that attention sees no unused positions and needs no mask for them.
        self.keys, self.values = (buffer[:, :, :now] for buffer in self._buffers)
        return self.keys, self.values

    def _empty(self, states: torch.Tensor) -> torch.Tensor:
        return states.new_empty(*states.shape[:-2], max(self.capacity, states.shape[-2]), states.shape[-1])


def preallocated_cache(config: PreTrainedConfig, capacity: int) -> DynamicCache:
    """A cache of `capacity` tokens for a model of this config. Layers with a sliding window stay transformers' own."""
    cache = DynamicCache(config=config.get_text_config(decoder=True))
    # A windowed layer keeps few tokens, so there is little to copy.
    cache.layers = [PreallocatedLayer(capacity) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


class ReusedCache:
    """One static cache for all batches of a model.

    CUDA graphs hold the addresses of what they read and write. With a new cache per batch they would be recorded again,
    and torch gives up after 128 times. So the same cache is emptied and reused. It stays in memory between batches, and
    is replaced by a larger one if a batch has more rows or longer prompts than any before. Then the passes are compiled
    again.
    """

    STEP = 64
    """Its capacity is a multiple of this many tokens, so that it seldom grows."""

    def __init__(self, config: PreTrainedConfig) -> None:
        self._config = config.get_text_config(decoder=True)
        self._cache: StaticCache | None = None
        self._rows = self._capacity = 0

    def rows(self, needed: int) -> int:
        """To how many rows a batch of `needed` rows must be padded."""
        return max(needed, self._rows)

    def emptied(self, rows: int, tokens: int) -> StaticCache:
        """The cache, emptied, for `rows` rows (a result of `self.rows`) of at most `tokens` tokens."""
        if self._cache is not None:
            if rows <= self._rows and tokens <= self._capacity:
                self._cache.reset()
                return self._cache
            tokens = max(tokens, self._capacity)
            # Before the larger one is made, or both would take memory.
            self.drop()
        self._rows, self._capacity = rows, -(-tokens // self.STEP) * self.STEP
        self._cache = StaticCache(config=self._config, max_cache_len=self._capacity)
        return self._cache

    def drop(self) -> None:
        """Free the cache, with what was compiled for it. The next one is as large as its batch needs.

        Torch would keep the compiled passes and their graphs' memory, and after 8 of them run all further ones
        uncompiled.
        """
        self._cache = None
        self._rows = self._capacity = 0
        torch.compiler.reset()


def concat_caches(parts: Sequence[DynamicCache], rows: Sequence[int], cache: Cache) -> None:
    """Gather rows of several caches with equally many tokens into another, empty one.

    `parts` are emptied on the way: otherwise all keys and values would be in memory twice.

    Args:
        parts: the caches. Row numbers count through all of them, in order.
        rows: for each row of `cache`, the number of the row that it copies; several may copy the same one.
        cache: what is filled.
    """
    chosen = torch.tensor(rows, device=parts[0].layers[0].keys.device)
    for index, layer in enumerate(cache.layers):
        states = [part.layers[index] for part in parts]
        keys, values = torch.cat([one.keys for one in states]), torch.cat([one.values for one in states])
        layer.update(keys.index_select(0, chosen), values.index_select(0, chosen))
        for part in parts:
            part.layers[index] = DynamicLayer()  # frees its tensors
