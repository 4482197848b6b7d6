"""A preallocated cache returns the same keys and values as transformers' own, without copying."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache, Gemma3TextConfig, LlamaConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from rl4vlm.models.kv_cache import PreallocatedLayer, concat_caches, preallocated_cache
from rl4vlm.models.memory import shape_of


def states(tokens, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 3, tokens, 4, generator=generator), torch.randn(2, 3, tokens, 4, generator=generator)


@pytest.mark.parametrize("capacity", [9, 6, 2])
def test_it_returns_what_a_growing_layer_does(capacity) -> None:
    """Also if the tokens exceed the capacity."""
    ours, theirs = PreallocatedLayer(capacity), DynamicLayer()
    for seed, tokens in enumerate((5, 1, 1, 2)):
        assert ours.get_mask_sizes(tokens) == theirs.get_mask_sizes(tokens)
        for one, other in zip(ours.update(*states(tokens, seed)), theirs.update(*states(tokens, seed)), strict=True):
            assert torch.equal(one, other)
        assert ours.get_seq_length() == theirs.get_seq_length()


def test_a_new_token_moves_nothing() -> None:
    layer = PreallocatedLayer(8)
    first, _ = layer.update(*states(5, 0))
    second, _ = layer.update(*states(1, 1))
    assert first.data_ptr() == second.data_ptr()


def test_it_can_be_used_again_after_a_reset() -> None:
    layer = PreallocatedLayer(8)
    layer.update(*states(5, 0))
    layer.reset()
    keys, _ = layer.update(*states(3, 1))
    assert torch.equal(keys, states(3, 1)[0])


def test_windows_stay_windows() -> None:
    shapes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    cache = preallocated_cache(LlamaConfig(**shapes), 9)
    assert [type(layer) for layer in cache.layers] == [PreallocatedLayer, PreallocatedLayer]
    kinds = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 4, "head_dim": 4}
    cache = preallocated_cache(Gemma3TextConfig(**shapes, **kinds), 9)
    assert isinstance(cache, DynamicCache)
    assert [type(layer) for layer in cache.layers] == [DynamicSlidingWindowLayer, PreallocatedLayer]


def test_the_papers_backbone_has_no_window() -> None:
    cache = preallocated_cache(shape_of("llava-v1.6-mistral-7b"), 9)
    assert {type(layer) for layer in cache.layers} == {PreallocatedLayer}


def test_rows_of_parts_are_joined_and_can_grow() -> None:
    config = LlamaConfig(hidden_size=12, num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=3)
    parts = [DynamicCache(config=config) for _ in range(3)]
    for index in range(2):
        for number, part in enumerate(parts):
            part.update(*states(5, 10 * index + number), index)
    cache = preallocated_cache(config, 8)
    concat_caches(parts, [2, 3, 4, 5, 2, 3], cache)
    assert cache.get_seq_length() == 5
    keys, values = cache.update(*(torch.cat([one] * 3) for one in states(1, 7)), 1)
    assert keys.shape == values.shape == (6, 3, 6, 4)
    assert torch.equal(keys[:2, :, :5], states(5, 11)[0])
    assert torch.equal(values[2:4, :, :5], states(5, 12)[1])
    assert torch.equal(values[4:, :, :5], states(5, 11)[1])
    assert torch.equal(values[4:, :, 5:], states(1, 7)[1])
