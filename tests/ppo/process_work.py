"""What the processes of `test_processes.py` run, and a single process for comparison; mostly in float64."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from rl4vlm.config.stages.ppo_training import TrainingSettings
from rl4vlm.core.types import Style
from rl4vlm.interaction.play import Slot, advance
from rl4vlm.models.actor_critic import ActorCritic
from rl4vlm.policies.vlm import VLMPolicy
from rl4vlm.ppo.initial import initial_state, make_slots
from rl4vlm.ppo.loop import end, train
from rl4vlm.ppo.state import PPOState
from rl4vlm.ppo.train import first_prompt
from rl4vlm.ppo.update import optimizer_steps
from rl4vlm.training.accelerator import accelerator_on
from rl4vlm.training.distributed import local_env_indices
from rl4vlm.training.fsdp import full_weights_on_main

# Eleven samples in mini-batches of five and micro-batches of two: no number divides another.
UPDATE = TrainingSettings(
    total_env_steps=33,
    num_envs=1,
    num_steps=11,
    ppo_epochs=2,
    minibatch_size=5,
    micro_batch_size=2,
    learning_rate=1e-3,
    ent_coef=0.01,
    max_grad_norm=0.5,
    device="cpu",
    process_timeout=60.0,
)
# Three environments, two in one process and one in the other.
PLAY = TrainingSettings(
    total_env_steps=24,
    num_envs=3,
    num_steps=12,
    ppo_epochs=1,
    minibatch_size=5,
    micro_batch_size=2,
    learning_rate=1e-3,
    bootstrap_truncated=True,
    device="cpu",
    process_timeout=60.0,
)


def update(folder: Path, out: Path) -> None:
    """Do one update on each of the rollouts stored in `folder`; writes the weights and the metrics."""
    state = _new_state(folder, UPDATE)
    measured = []
    for samples in torch.load(folder / "rollouts.pt", weights_only=False):
        for _ in optimizer_steps(state.policy_optimizer, samples, state.progress, UPDATE, state.shuffle):
            pass
        measured.append(state.progress.means(state.processes))
        state.next_update()
    _write(state, out, measured=measured)


def update_in_bfloat16(folder: Path, out: Path) -> None:
    """Do one optimizer step in bfloat16 on the first stored rollout; writes the metrics and the rescored samples."""
    state = _new_state(folder, UPDATE, dtype=torch.bfloat16)
    samples = torch.load(folder / "rollouts.pt", weights_only=False)[0]
    progress = next(optimizer_steps(state.policy_optimizer, samples, state.progress, UPDATE, state.shuffle))
    _write(state, out, measured=progress.means(state.processes), old=progress.old)


def play_and_update(folder: Path, out: Path, task: str) -> None:
    """Do a whole run; writes the weights and the rollouts."""
    state, rollouts = _new_state(folder, PLAY, task), {}

    def keep(state: PPOState) -> None:
        if state.rollout is not None:
            rollouts[state.update] = state.rollout

    train(state, PLAY, out.with_suffix(".run"), task, keep)
    _write(state, out, rollouts=rollouts)
    end(state, out.with_suffix(".run"))


def prompt_to_score(folder: Path, out: Path) -> None:
    """Write down the prompt under which this process scores all replies."""
    rank = accelerator_on("cpu", 60.0).process_index
    slots: Any = [SimpleNamespace(request=SimpleNamespace(prompt=f"{rank}"))]
    (folder / f"{out.name}{rank}").write_text(first_prompt(slots))


def _new_state(
    folder: Path, settings: TrainingSettings, task: str | None = None, dtype: torch.dtype = torch.float64
) -> PPOState:
    torch.manual_seed(0)
    accelerator = accelerator_on("cpu", settings.process_timeout)
    model = ActorCritic.load(folder / "checkpoint", temperature=1.0, max_new_tokens=60, value_sizes=(16,)).to(dtype)
    model.value_head.to(torch.promote_types(dtype, torch.float32))
    slots: list[Slot] = []
    if task is not None:
        slots = make_slots(task, Style.COT, 3, settings, {}, local_env_indices(settings.num_envs, accelerator))
    return initial_state(VLMPolicy(model), slots, accelerator, settings, seed=1, thought_prob_coef=0.5)


def _write(state: PPOState, out: Path, **more: object) -> None:
    """Write the weights by name, the number of sharded weights, the number of processes, and `more`."""
    model = state.policy_optimizer.policy.model
    split = sum(isinstance(tensor, DTensor) for tensor in model.parameters())
    assert state.processes.sharded == bool(split)
    with full_weights_on_main(state.policy_optimizer.model, state.policy_optimizer.accelerator):
        weights = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    if state.processes.is_main:
        torch.save({"weights": weights, "split": split, "processes": state.processes.count, **more}, out)


ENVIRONMENTS, STEPS = 5, 3


def policy(checkpoint: Path) -> VLMPolicy:
    """A policy whose replies have different lengths, in float64, so that the batch size hardly changes the rounding."""
    torch.manual_seed(0)
    model = ActorCritic.load(checkpoint, temperature=0.7, max_new_tokens=24, value_sizes=(16,)).double()
    head = model.model.get_output_embeddings()
    # A bias on the end token makes each token the last one with some probability.
    head.bias = torch.nn.Parameter(torch.zeros(head.out_features, dtype=torch.float64))
    head.bias.data[model.encoder.eos_id] = 2.5
    return VLMPolicy(model)


def play(player: VLMPolicy, groups: Sequence[Sequence[Slot]]) -> list[list[str]]:
    """The texts of each environment's replies. The environments of a group share a batch."""
    steps = [[step for group in groups for step in advance(group, player)] for _ in range(STEPS)]
    return [[step.reply.text for step in column] for column in zip(*steps, strict=True)]
