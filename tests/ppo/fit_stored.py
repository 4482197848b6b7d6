"""Fits a model to stored rollouts in float64, as one of the processes that `torchrun` launches; a script for tests.

Usage: torchrun --nproc_per_node N fit_stored.py FOLDER. FOLDER holds `checkpoint/` and `rollouts.pt`; the weights after
the last update and what each update measured are written there as `fitted.pt`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.distributed.tensor import DTensor

from rl4vlm.models.actor_critic import ActorCritic
from rl4vlm.models.loading import accelerator_on
from rl4vlm.models.sharding import whole_to_save
from rl4vlm.policies.vlm import VLMPolicy
from rl4vlm.ppo.loop import begin
from rl4vlm.ppo.settings import TrainingSettings
from rl4vlm.ppo.update import optimiser_steps

# Eleven samples in mini-batches of five, two at a time: nothing divides by anything.
SETTINGS = TrainingSettings(
    env_steps=33, envs=1, rollout_steps=11, epochs=2, minibatch=5, micro_batch=2, learning_rate=1e-3,
    entropy_coefficient=0.01, max_grad_norm=0.5, device="cpu", process_timeout=60.0,
)  # fmt: skip


def fit(folder: Path, accelerator: Accelerator) -> dict[str, Any]:
    """The weights by name after an update on each stored rollout, and what was measured."""
    torch.manual_seed(0)
    model = ActorCritic.load(folder / "checkpoint", temperature=0.7, max_new_tokens=24, value_sizes=(16,)).double()
    state = begin(VLMPolicy(model, 0.5), [], accelerator, SETTINGS, seed=1)
    measured = []
    for samples in torch.load(folder / "rollouts.pt", weights_only=False):
        for _ in optimiser_steps(state.learner, samples, state.fit, SETTINGS, state.shuffle):
            pass
        measured.append(state.fit.means(state.processes))
        state.next_update()
    split = sum(isinstance(tensor, DTensor) for tensor in model.parameters())
    with whole_to_save(state.learner.model, accelerator):
        weights = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    return {"weights": weights, "measured": measured, "split": split, "processes": state.processes.count}


if __name__ == "__main__":
    accelerator = accelerator_on("cpu", SETTINGS.process_timeout)
    fitted = fit(Path(sys.argv[1]), accelerator)
    if accelerator.is_main_process:
        torch.save(fitted, Path(sys.argv[1], "fitted.pt"))
