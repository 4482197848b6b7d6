"""Replies equal those of transformers' loop, however often the end is checked for, and with compiled passes."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters
from torch.distributed.fsdp import FSDPModule
from transformers import CompileConfig, LogitsProcessor, LogitsProcessorList
from transformers.modeling_layers import GradientCheckpointingLayer

from rl4vlm.config.stages.backbone import LoraSettings
from rl4vlm.models import decoding
from rl4vlm.models.actor_critic import ActorCritic, Generated
from rl4vlm.models.encode import Encoded
from rl4vlm.models.kv_cache import ReusedCache
from rl4vlm.models.sampling import Sampler, uniforms

TEXTS = ("Read.", "You see a number line. Answer in JSON:", "Play Blackjack. The dealer shows 9.")


@pytest.fixture
def prompts(actor_critic: ActorCritic) -> list[Encoded]:
    images = np.random.default_rng(3).integers(0, 256, size=(3, 300, 300, 3), dtype=np.uint8)
    return [actor_critic.encoder.prompt(image, text) for image, text in zip(images, TEXTS, strict=True)]


def streams(count: int) -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in range(count)]


def ids_of(replies: list[Generated]) -> list[list[int]]:
    return [reply.ids.tolist() for reply in replies]


class Forced(LogitsProcessor):
    """Leaves only the token that a sampler draws."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return torch.full_like(scores, -torch.inf).scatter_(-1, self.sampler(scores).unsqueeze(-1), 0.0)


@pytest.mark.parametrize("every", [1, 5])
def test_replies_are_those_of_transformers_own_loop(
    actor_critic: ActorCritic, prompts: list[Encoded], every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(decoding.CHECK_EVERY, "cpu", every)
    model = actor_critic.eval()
    # One of few tokens is the end, so that replies end at different lengths, before the longest possible one.
    left = {model.encoder.eos_id, *range(100, 104)}
    model.suppressed = torch.tensor([i for i in range(len(model.encoder.tokenizer)) if i not in left])
    ours = model.generate(prompts, streams(3))
    sampler = Sampler(uniforms(streams(3), model.max_new_tokens), model.suppressed, model.temperature)
    inputs = {name: tensor for name, tensor in model._collated(prompts).inputs.items() if name != "position_ids"}
    theirs = model.model.generate(
        **inputs,
        do_sample=False,
        max_new_tokens=model.max_new_tokens,
        logits_processor=LogitsProcessorList([Forced(sampler)]),
        eos_token_id=model.encoder.eos_id,
        pad_token_id=model.encoder.pad_id,
        suppress_tokens=None,
    )[:, inputs["input_ids"].shape[1] :]
    assert theirs.shape[1] < model.max_new_tokens
    for row, reply in enumerate(ours):
        n = len(reply.ids)
        assert reply.ids.tolist() == theirs[row, :n].tolist()
        assert n == theirs.shape[1] or reply.ids[-1] == model.encoder.eos_id
        torch.testing.assert_close(reply.logprobs, torch.stack(sampler.logprobs, 1)[row, :n])
    assert len({len(reply.ids) for reply in ours}) > 1


def test_a_pass_is_compiled_once_for_all_batches(
    tiny_checkpoint: Path, prompts: list[Encoded], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one graph, since a GPU would wait at a break. Neither an update nor another length compiles it again."""
    lora = LoraSettings(rank=2, alpha=4)
    settings: dict[str, Any] = {"temperature": 0.7, "max_new_tokens": 12, "value_sizes": (16,), "lora": lora}
    expected = ActorCritic.load(tiny_checkpoint, kv_cache="dynamic", **settings)
    monkeypatch.setattr(decoding, "COMPILED_ON", ("cpu",))
    monkeypatch.setattr(decoding, "COMPILED", CompileConfig(backend="eager", fullgraph=True, dynamic=False))
    model = ActorCritic.load(tiny_checkpoint, gradient_checkpointing=True, **settings)
    before = counters["stats"]["unique_graphs"]
    for batch in (prompts, prompts[:2], [prompts[2]] * 2, prompts):
        ours, theirs = (ids_of(one.generate(batch, streams(len(batch)))) for one in (model, expected))
        assert ours == theirs
        model.score(batch, [model.encoder.reply("up")] * len(batch)).logprobs.sum().backward()
    assert counters["stats"]["unique_graphs"] == before + 1


def test_passes_stay_compiled_however_often_the_cache_grows(
    tiny_checkpoint: Path, prompts: list[Encoded], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch keeps so many compiled passes at most, and does not compile any further one."""
    monkeypatch.setattr(decoding, "COMPILED_ON", ("cpu",))
    monkeypatch.setattr(decoding, "COMPILED", CompileConfig(backend="eager", fullgraph=True, dynamic=False))
    model = ActorCritic.load(tiny_checkpoint, temperature=0.7, max_new_tokens=2, value_sizes=(16,))
    torch.compiler.reset()  # forget the passes of other tests
    before = counters["stats"]["unique_graphs"]
    with torch._dynamo.config.patch(recompile_limit=1):
        for rows in (1, 2, 3):
            model.generate(prompts[:rows], streams(rows))
    assert counters["stats"]["unique_graphs"] == before + 3


@pytest.mark.parametrize("lacking", [None, "a C compiler, such as gcc"])
def test_passes_are_only_compiled_where_they_can_be(
    actor_critic: ActorCritic, lacking: str | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(decoding, "lacking_compiler", lambda: lacking)
    monkeypatch.setattr(type(actor_critic.model), "device", torch.device("cuda"))
    decoding._warn_of_slow_replies.cache_clear()
    assert decoding.use_static_cache(actor_critic.model, None) == (lacking is None)
    assert not decoding.use_static_cache(actor_critic.model, "dynamic")
    assert [record.getMessage() for record in caplog.records] == [
        f"this machine lacks {lacking}: replies are generated without compiled passes, which is slower"
    ] * bool(lacking)
    with nullcontext() if lacking is None else pytest.raises(ValueError, match="this machine lacks a C compiler"):
        assert decoding.use_static_cache(actor_critic.model, "static")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_model_that_fsdp_shards_has_no_static_cache(
    actor_critic: ActorCritic, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "lacking_compiler", lambda: None)
    monkeypatch.setattr(type(actor_critic.model), "device", torch.device(device))
    layer = next(one for one in actor_critic.model.modules() if isinstance(one, GradientCheckpointingLayer))
    # FSDP marks a layer that it shards like this.
    monkeypatch.setattr(layer, "__class__", type("Sharded", (FSDPModule, type(layer)), {}))
    assert not decoding.use_static_cache(actor_critic.model, None)
    assert not decoding.use_static_cache(actor_critic.model, "dynamic")
    with pytest.raises(ValueError, match=r"kv_cache 'static' does not work with FSDP.* set kv_cache to dynamic"):
        decoding.use_static_cache(actor_critic.model, "static")


def test_what_a_machine_lacks_to_compile_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def found() -> str | None:
        decoding.lacking_compiler.cache_clear()
        return decoding.lacking_compiler()

    try:
        monkeypatch.setenv("PATH", "")
        monkeypatch.delenv("CC", raising=False)
        assert found() == "a C compiler, such as gcc"
        monkeypatch.setenv("CC", "cc")
        monkeypatch.setattr("sysconfig.get_path", lambda *_: str(tmp_path))
        assert found() == f"{tmp_path / 'Python.h'} (on Debian: python3-dev)"
        (tmp_path / "Python.h").touch()
        assert found() is None
    finally:
        decoding.lacking_compiler.cache_clear()


def test_a_static_cache_is_only_made_anew_to_grow() -> None:
    from transformers import LlamaConfig

    config = LlamaConfig(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2)
    reused, states = ReusedCache(config), torch.ones(3, 2, 5, 4)
    first = reused.emptied(reused.rows(3), 60)
    first.update(states, states, 0)
    assert reused.rows(2) == 3
    again = reused.emptied(reused.rows(2), 64)
    assert again is first
    assert int(again.get_seq_length()) == 0
    assert reused.emptied(3, 65) is not first
    assert reused.emptied(reused.rows(4), 2).get_max_length() == 128
