"""Playing and learning on a pretended GPU: no tensor is left on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rl4vlm.config.stages.backbone import LoraSettings
from rl4vlm.models.actor_critic import ActorCritic
from tests.pretend_gpu import pretended_gpu, to_gpu

TEXTS = ("Read.", "You see a number line. Answer in JSON:", "Read.")


@pytest.mark.parametrize("kv_cache", ["static", "dynamic"])
def test_replies_and_scores_are_those_of_the_cpu(tiny_checkpoint: Path, kv_cache: str) -> None:
    lora = LoraSettings(rank=2, alpha=4)
    model = ActorCritic.load(
        tiny_checkpoint, temperature=0.7, max_new_tokens=16, value_sizes=(16,), lora=lora, kv_cache=kv_cache
    )
    # The first and the last prompt are equal, so they are read once.
    image = np.random.default_rng(3).integers(0, 256, size=(300, 300, 3), dtype=np.uint8)
    prompts = [model.encoder.prompt(image, text) for text in TEXTS]

    def replies() -> list[list[int]]:
        streams = [np.random.default_rng(seed) for seed in range(len(prompts))]
        return [reply.ids.tolist() for reply in model.generate(prompts, streams)]

    expected = replies()
    ids = [torch.tensor(reply) for reply in expected]
    scored = model.score(prompts, ids).logprobs
    with pretended_gpu():
        to_gpu(model)
        assert replies() == expected
        scores = model.score(prompts, ids)
        torch.testing.assert_close(scores.logprobs.detach().cpu(), scored.detach())
        scores.logprobs.sum().backward()
        assert all(weight.grad is not None for name, weight in model.named_parameters() if "lora_B" in name)
