"""One PPO update on a pretended GPU."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import torch
from accelerate import Accelerator

from rl4vlm.models.actor_critic import ActorCritic
from rl4vlm.policies.vlm import VLMPolicy
from rl4vlm.ppo.policy_optimizer import PolicyOptimizer
from rl4vlm.ppo.rollout import Sample
from rl4vlm.ppo.update import UpdateProgress, optimizer_steps
from tests.ppo.test_update import SETTINGS, run_update, samples_of
from tests.pretend_gpu import OnGPU, pretended_gpu, to_gpu


def update_on_gpu(model: ActorCritic, samples: list[Sample], micro_batch_size: int) -> Counter[str]:
    """Move the model to a pretended GPU and update it there once; returns what the CPU waited for."""
    settings = replace(SETTINGS, micro_batch_size=micro_batch_size)
    with pretended_gpu() as gpu:
        to_gpu(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        policy_optimizer = PolicyOptimizer(VLMPolicy(model), model, optimizer, Accelerator(cpu=True), 0.5)
        gpu.waits.clear()
        for _ in optimizer_steps(policy_optimizer, samples, UpdateProgress(), settings, np.random.default_rng(1)):
            pass
    return gpu.waits


def test_an_update_gives_the_weights_of_the_cpu(actor_critic):
    samples = samples_of(actor_critic)
    expected, _ = run_update(actor_critic, samples, micro_batch_size=4)
    update_on_gpu(actor_critic, samples, micro_batch_size=4)
    updated = dict(actor_critic.named_parameters())
    for name, weight in expected.named_parameters():
        on_gpu = updated[name]
        assert isinstance(on_gpu, OnGPU)
        torch.testing.assert_close(on_gpu.numbers, weight.detach(), atol=2e-5, rtol=1e-4, msg=name)


def test_an_update_waits_for_its_metrics_once_a_step(actor_critic):
    waits = update_on_gpu(actor_critic, samples_of(actor_critic), micro_batch_size=2)
    # One step of four micro-batches. In each, transformers checks image tokens once and the mask of padded rows twice.
    assert waits == {"to the CPU": 1, "aten._local_scalar_dense.default": 3 * 4}
