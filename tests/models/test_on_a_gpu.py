"""Playing and learning on a pretended GPU: no tensor is left on the CPU, and the CPU rarely waits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rl4vlm.config.stages.backbone import LoraSettings
from rl4vlm.models.actor_critic import ActorCritic, Scores
from tests.pretend_gpu import pretended_gpu, to_gpu

TEXTS = ("Read.", "You see a number line. Answer in JSON:", "Read.")


@pytest.mark.parametrize("kv_cache", ["static", "dynamic"])
def test_replies_and_scores_are_those_of_the_cpu(tiny_checkpoint: Path, kv_cache: str) -> None:
    def loaded() -> ActorCritic:
        lora = LoraSettings(rank=2, alpha=4)
        return ActorCritic.load(
            tiny_checkpoint, temperature=0.7, max_new_tokens=16, value_sizes=(16,), lora=lora, kv_cache=kv_cache
        )

    # The first and the last prompt are equal, so they are read once.
    image = np.random.default_rng(3).integers(0, 256, size=(300, 300, 3), dtype=np.uint8)

    def replies(model: ActorCritic) -> tuple[list[list[int]], Scores]:
        prompts = [model.encoder.prompt(image, text) for text in TEXTS]
        streams = [np.random.default_rng(seed) for seed in range(len(prompts))]
        ids = [reply.ids.tolist() for reply in model.generate(prompts, streams)]
        return ids, model.score(prompts, [torch.tensor(reply) for reply in ids])

    expected, scored = replies(loaded())
    # Another copy of the model: the static cache of the first is on the CPU.
    model = loaded()
    with pretended_gpu():
        to_gpu(model)
        found, scores = replies(model)
        assert found == expected
        torch.testing.assert_close(scores.logprobs.detach().cpu(), scored.logprobs.detach())
        scores.logprobs.sum().backward()
        assert all(weight.grad is not None for name, weight in model.named_parameters() if "lora_B" in name)


@pytest.mark.parametrize(("kv_cache", "waits"), [("static", 1), ("dynamic", 9)])
def test_how_often_the_cpu_waits_for_the_gpu_while_replies_are_generated(
    tiny_checkpoint: Path, kv_cache: str, waits: int
) -> None:
    image = np.zeros((300, 300, 3), dtype=np.uint8)

    def waited(tokens: int) -> int:
        model = ActorCritic.load(
            tiny_checkpoint, temperature=0.7, max_new_tokens=tokens, value_sizes=(16,), kv_cache=kv_cache
        )
        prompts = [model.encoder.prompt(image, text) for text in TEXTS]
        with pretended_gpu() as gpu:
            to_gpu(model)
            replies = model.generate(prompts, [np.random.default_rng(seed) for seed in range(len(prompts))])
        # The random weights end no reply before its limit.
        assert max(len(reply.ids) for reply in replies) == tokens
        return gpu.waits.total()

    # For eight tokens: once to see whether all replies have ended. With a dynamic cache, transformers also looks at the
    # mask of padded prompts at every token.
    assert waited(24) - waited(16) == waits
