"""The policy that PPO trains, with its optimizer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import nn

from rl4vlm.policies.trainable import TrainablePolicy
from rl4vlm.training.fsdp import unsharded_for_generation


@dataclass(frozen=True)
class PolicyOptimizer:
    """A policy, and what a PPO update needs to change its weights.

    Attributes:
        policy: the policy that is trained.
        model: `policy.model` as the accelerator prepared it. Forward passes with gradients go through this one, so
            that a data-parallel wrapper sees them.
        optimizer: of the trained weights.
        accelerator: the device and the processes.
        thought_prob_coef: the paper's lambda, the weight of the thoughts' log-probability (`policy_log_prob`).
        kl_coef: the weight of the divergence from the reference, if the policy has one.
    """

    policy: TrainablePolicy
    model: nn.Module
    optimizer: torch.optim.Optimizer
    accelerator: Accelerator
    thought_prob_coef: float
    kl_coef: float = 0.0


@contextmanager
def ready_to_play(policy_optimizer: PolicyOptimizer) -> Iterator[None]:
    """Inside the block the policy plays with the current weights. All processes must enter it together."""
    # Under FSDP, gather the weights once per rollout, not once per token.
    with unsharded_for_generation(policy_optimizer.model, policy_optimizer.accelerator):
        policy_optimizer.policy.sync()
        yield
