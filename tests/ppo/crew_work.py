"""What the processes of `test_processes.py` do, and a single one for comparison: models, play and sums in float64."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor

from rl4vlm.core.types import Style
from rl4vlm.interaction.play import Slot, advance
from rl4vlm.models.actor_critic import ActorCritic
from rl4vlm.models.loading import accelerator_on
from rl4vlm.policies.vlm import VLMPolicy
from rl4vlm.ppo.loop import begin, finish, make_slots, train
from rl4vlm.ppo.settings import TrainingSettings
from rl4vlm.ppo.state import Training
from rl4vlm.ppo.update import optimiser_steps
from rl4vlm.training.distributed import local_env_indices
from rl4vlm.training.fsdp import full_weights_on_main

# Eleven samples in mini-batches of five, two at a time: nothing divides by anything.
FIT = TrainingSettings(
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


def fit(folder: Path, out: Path) -> None:
    """Learn from the rollouts that are stored in `folder`; writes the weights by name after an update on each, what
    was measured, how many weights were split and over how many processes."""
    state = _begun(folder, FIT)
    measured = []
    for samples in torch.load(folder / "rollouts.pt", weights_only=False):
        for _ in optimiser_steps(state.learner, samples, state.fit, FIT, state.shuffle):
            pass
        measured.append(state.fit.means(state.processes))
        state.next_update()
    _write(state, out, measured=measured)


def fit_in_bfloat16(folder: Path, out: Path) -> None:
    """Make one optimiser step on the first of the stored rollouts, weights in bfloat16; writes what was measured and
    what the rollout was scored to before."""
    state = _begun(folder, FIT, dtype=torch.bfloat16)
    samples = torch.load(folder / "rollouts.pt", weights_only=False)[0]
    fit = next(optimiser_steps(state.learner, samples, state.fit, FIT, state.shuffle))
    _write(state, out, measured=fit.means(state.processes), old=fit.old)


def play_and_fit(folder: Path, out: Path, task: str) -> None:
    """A whole run; writes the same, and the rollouts."""
    state, rollouts = _begun(folder, PLAY, task), {}

    def keep(state: Training) -> None:
        if state.rollout is not None:
            rollouts[state.update] = state.rollout

    train(state, PLAY, out.with_suffix(".run"), task, keep)
    _write(state, out, rollouts=rollouts)
    finish(state, stage="ppo", out=out.with_suffix(".run"), settings={}, seed=1, inputs={}, seconds=0.0)


def _begun(
    folder: Path, settings: TrainingSettings, task: str | None = None, dtype: torch.dtype = torch.float64
) -> Training:
    torch.manual_seed(0)
    accelerator = accelerator_on("cpu", settings.process_timeout)
    model = ActorCritic.load(folder / "checkpoint", temperature=1.0, max_new_tokens=60, value_sizes=(16,)).to(dtype)
    model.value_head.to(torch.promote_types(dtype, torch.float32))
    slots: list[Slot] = []
    if task is not None:
        slots = make_slots(task, Style.COT, 3, settings, {}, local_env_indices(settings.num_envs, accelerator))
    return begin(VLMPolicy(model, 0.5), slots, accelerator, settings, seed=1)


def _write(state: Training, out: Path, **more: object) -> None:
    model = state.learner.policy.model
    split = sum(isinstance(tensor, DTensor) for tensor in model.parameters())
    assert state.processes.split == bool(split)
    with full_weights_on_main(state.learner.model, state.learner.accelerator):
        weights = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    if state.processes.is_main:
        torch.save({"weights": weights, "split": split, "processes": state.processes.count, **more}, out)


ENVIRONMENTS, STEPS = 5, 3


def policy(checkpoint: Path) -> VLMPolicy:
    """One whose replies end after some tokens, by chance: float64, so that a batch's sums hardly round otherwise."""
    torch.manual_seed(0)
    model = ActorCritic.load(checkpoint, temperature=0.7, max_new_tokens=24, value_sizes=(16,)).double()
    head = model.model.get_output_embeddings()
    head.bias = torch.nn.Parameter(torch.zeros(head.out_features, dtype=torch.float64))
    head.bias.data[model.encoder.eos_id] = 2.5
    return VLMPolicy(model)


def play(player: VLMPolicy, groups: Sequence[Sequence[Slot]]) -> list[list[str]]:
    """The texts of each environment's replies, the environments of a group asked in one batch."""
    rows = [[step for group in groups for step in advance(group, player)] for _ in range(STEPS)]
    return [[step.reply.text for step in column] for column in zip(*rows, strict=True)]
