"""What a training begins with: its environments, its optimizer and its state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from rl4vlm.config.stages.ppo_training import TrainingSettings
from rl4vlm.core.seeding import stream
from rl4vlm.core.types import Style
from rl4vlm.envs.registration import make_env
from rl4vlm.interaction.play import Slot
from rl4vlm.interaction.prompt import override_parts
from rl4vlm.policies.trainable import TrainablePolicy
from rl4vlm.ppo.policy_optimizer import PolicyOptimizer
from rl4vlm.ppo.state import PPOState
from rl4vlm.ppo.success import RecentEpisodes
from rl4vlm.tasks.registry import get_task
from rl4vlm.training.distributed import Processes
from rl4vlm.training.fsdp import prepare
from rl4vlm.training.optim import adamw


def make_slots(
    task_name: str,
    style: Style,
    seed: int,
    settings: TrainingSettings,
    prompt: Mapping[str, str] | None = None,
    indices: Sequence[int] | None = None,
) -> list[Slot]:
    """One slot per environment.

    Args:
        task_name: the task to play.
        style: how replies are written.
        seed: the run's.
        settings: the number of environments and their options.
        prompt: texts that replace parts of the task's prompt.
        indices: the environments to make, all unless given.
    """
    # Prompt texts are checked before any environment is made.
    task = get_task(task_name)
    parts = override_parts(task.prompt, prompt or {})
    return [
        Slot(
            make_env(task_name, **settings.env),
            task,
            style,
            parts,
            # From the run's seed and the index alone, so that it makes no difference which process plays it.
            seed=int(stream(seed, "env", index).integers(2**62)),
        )
        for index in (range(settings.num_envs) if indices is None else indices)
    ]


def initial_state(
    policy: TrainablePolicy,
    slots: Sequence[Slot],
    accelerator: Accelerator,
    settings: TrainingSettings,
    seed: int,
    *,
    thought_prob_coef: float,
    kl_coef: float = 0.0,
    schedule_steps: int = 1,
) -> PPOState:
    """The state of a run before its first step.

    Args:
        policy: the policy to train.
        slots: this process's environments.
        accelerator: the device and the processes.
        settings: the hyperparameters.
        seed: the run's, for the order of the samples.
        kl_coef: the weight of the divergence from the policy's reference, if it has one.
        thought_prob_coef: the paper's lambda. It makes no difference to a policy that writes no thoughts.
        schedule_steps: how many steps along the cosine each update makes; see `DefectSettings`.

    Raises:
        ValueError: `value_warmup` is set, and several processes train with DDP.
    """
    if settings.value_warmup and accelerator.num_processes > 1 and not accelerator.is_fsdp2:
        # DDP waits for the gradients of all that its outputs depend on, and the loss leaves the policy's outputs out.
        raise ValueError("value_warmup does not work with DDP: use one process, or config/accelerate/fsdp.yaml")
    # Without weight decay, AdamW is Adam.
    optimizer = adamw(
        parameter_groups(policy.model, settings),
        accelerator.device,
        lr=settings.learning_rate,
        eps=settings.adam_epsilon,
        weight_decay=0.0,
    )
    # The optimizer is made first, of the policy's own weights. Under FSDP this call shards both.
    model, optimizer = prepare(policy.model, optimizer, accelerator)
    return PPOState(
        policy_optimizer=PolicyOptimizer(policy, model, optimizer, accelerator, thought_prob_coef, kl_coef),
        processes=Processes(accelerator, settings.process_timeout),
        # Stepped once per update, so the rate falls over the updates of this run, whatever their number.
        schedule=torch.optim.lr_scheduler.CosineAnnealingLR(
            # The type hint asks for an int. `schedule_steps`, a defect of the public code, makes it a fraction.
            optimizer,
            T_max=settings.updates / schedule_steps,  # type: ignore[arg-type]
            eta_min=settings.final_learning_rate,
        ),
        slots=slots,
        # The same stream in every process: all must draw the same mini-batches.
        shuffle=stream(seed, "minibatches"),
        recent=RecentEpisodes(settings.success_window, settings.num_envs),
        updates=settings.updates,
    )


def parameter_groups(model: nn.Module, settings: TrainingSettings) -> list[dict[str, Any]]:
    """The trained weights as the optimizer's parameter groups: one, or a second for a value head with its own rate."""
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    if settings.value_learning_rate is None:
        return [{"params": list(trained.values())}]
    head = [weight for name, weight in trained.items() if name.startswith("value_head.")]
    rest = [weight for name, weight in trained.items() if not name.startswith("value_head.")]
    return [{"params": rest}, {"params": head, "lr": settings.value_learning_rate}]
