"""The training loop: the paper's algorithm 1, top to bottom, for any policy that can be trained."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from rl4vlm.core.files import JsonLines, atomic_directory
from rl4vlm.core.progress import progress
from rl4vlm.core.seeding import stream
from rl4vlm.core.types import Episode, Style
from rl4vlm.envs.registration import make_env
from rl4vlm.interaction.play import Slot
from rl4vlm.interaction.prompt import override_parts
from rl4vlm.policies.trainable import TrainablePolicy
from rl4vlm.ppo.rollout import Rollout, play_row, side_by_side, weigh
from rl4vlm.ppo.settings import TrainingSettings
from rl4vlm.ppo.state import Training
from rl4vlm.ppo.update import Learner, optimiser_steps
from rl4vlm.results.provenance import write_run_record
from rl4vlm.tasks.registry import get_task
from rl4vlm.training.distributed import Processes
from rl4vlm.training.fsdp import full_weights_on_main, prepare, unsharded_for_generation
from rl4vlm.training.optim import check_finite, fused
from rl4vlm.training.tracking import metric_sinks


def train(
    state: Training,
    settings: TrainingSettings,
    out: Path,
    title: str,
    on_step: Callable[[Training], None] = lambda state: None,
) -> None:
    """Train from where `state` stands to the end of the run; writes `metrics.jsonl` and `timing.jsonl` to `out`.

    Of several processes each plays its own environments and scores its share of every mini-batch, and the main one
    writes; after each rollout all of them hold all of it.

    `on_step` is called after every batched environment step, every optimiser step and every update: `state` is whole
    then, and it may be stored.

    Raises ValueError after an optimiser step whose losses or weights are not finite, before they may be stored.
    """
    learner, slots, processes = state.learner, state.slots, state.processes
    with (
        processes.named(),
        JsonLines(processes.file(out / "metrics.jsonl"), append=state.update > 1) as metrics,
        JsonLines(processes.file(out / "timing.jsonl"), append=state.update > 1) as timing,
        metric_sinks(settings.loggers if processes.is_main else (), out, settings) as sinks,
        processes.shown() as screen,
        progress(settings.updates * settings.num_steps, title, unit="step", stream=screen) as bar,
    ):
        rows = len(state.rows) if state.rollout is None else settings.rows
        bar.update((state.update - 1) * settings.num_steps + rows * settings.num_envs)
        while state.update <= state.updates:
            begun = time.monotonic()
            if state.rollout is None:
                with unsharded_for_generation(learner.model, learner.accelerator):
                    while len(state.rows) < settings.rows:
                        state.rows.append(play_row(slots, learner.policy, settings))
                        bar.update(settings.num_envs)
                        on_step(state)
                    last_value = learner.policy.values([slot.request for slot in slots])
                played_rows, last_values = zip(*processes.gather((state.rows, last_value)), strict=True)
                state.rollout = weigh(side_by_side(played_rows), np.concatenate(last_values), settings)
                state.recent.extend(state.rollout.episodes)
            played = time.monotonic()
            for fit in optimiser_steps(learner, state.rollout.samples, state.fit, settings, state.shuffle):
                check_finite(fit.losses, learner.policy.model, learner.accelerator, f"{title}, {state.position}")
                on_step(state)
            line = {
                "update": state.update,
                "env_steps": state.update * settings.num_steps,
                **summarise(state.rollout, state.recent),
                **state.fit.means(processes),
                "learning_rate": state.schedule.get_last_lr()[0],
            }
            metrics.write(line)
            timing.write({"update": state.update, "rollout_s": played - begun, "update_s": time.monotonic() - played})
            sinks.log(line, step=line["env_steps"])
            bar.describe(success=line["success_rate"])
            state.next_update()
            on_step(state)


def begin(
    policy: TrainablePolicy, slots: Sequence[Slot], accelerator: Accelerator, settings: TrainingSettings, seed: int
) -> Training:
    """A run that has not played a step yet."""
    optimizer = torch.optim.Adam(
        learning_rates(policy.model, settings),
        lr=settings.learning_rate,
        eps=settings.adam_epsilon,
        fused=fused(accelerator.device),
    )
    model, optimizer = prepare(policy.model, optimizer, accelerator)
    return Training(
        learner=Learner(policy, model, optimizer, accelerator),
        processes=Processes(accelerator, settings.process_timeout),
        schedule=torch.optim.lr_scheduler.CosineAnnealingLR(
            optimizer, T_max=settings.updates, eta_min=settings.final_learning_rate
        ),
        slots=slots,
        shuffle=stream(seed, "minibatches"),
        recent=deque(maxlen=settings.success_window),
        updates=settings.updates,
    )


def learning_rates(model: nn.Module, settings: TrainingSettings) -> list[dict[str, Any]]:
    """The weights that are trained, in one group, or with the value head in a second one that has its own rate."""
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    if settings.value_learning_rate is None:
        return [{"params": list(trained.values())}]
    head = [weight for name, weight in trained.items() if name.startswith("value_head.")]
    rest = [weight for name, weight in trained.items() if not name.startswith("value_head.")]
    return [{"params": rest}, {"params": head, "lr": settings.value_learning_rate}]


def finish(
    state: Training,
    *,
    stage: str,
    out: Path,
    settings: Mapping[str, Any],
    seed: int,
    inputs: Mapping[str, Path],
    seconds: float,
) -> None:
    """Close the environments; write `checkpoint/`, then `run.json`, which says that the run is complete."""
    for slot in state.slots:
        slot.env.close()
    with full_weights_on_main(state.learner.model, state.learner.accelerator):
        if not state.processes.is_main:
            return
        with atomic_directory(out / "checkpoint") as folder:
            state.learner.policy.save(folder)
    write_run_record(out, stage=stage, settings=settings, seeds={stage: seed}, inputs=inputs, seconds=seconds)


def make_slots(
    task_name: str,
    style: Style,
    seed: int,
    settings: TrainingSettings,
    prompt: Mapping[str, str] | None = None,
    indices: Sequence[int] | None = None,
) -> list[Slot]:
    """One play slot an environment, each with streams of its own drawn from (seed, its index).

    Those of `indices`, of all environments unless given: what one plays does not depend on who plays the others.
    """
    task = get_task(task_name)
    parts = override_parts(task.prompt, prompt or {})
    return [
        Slot(
            make_env(task_name, **settings.env),
            task,
            style,
            parts,
            seed=int(stream(seed, "env", index).integers(2**62)),
        )
        for index in (range(settings.num_envs) if indices is None else indices)
    ]


def summarise(rollout: Rollout, recent: Sequence[Episode]) -> dict[str, Any]:
    """What a rollout says of the policy that made it; `recent` are the last episodes of the success window.

    A number that the policy's replies do not have (a network without language writes no thoughts) is None.
    """

    def mean(values: Sequence[float]) -> float | None:
        return float(np.mean(values)) if len(values) else None

    return {
        "episodes": len(rollout.episodes),
        "success_rate": mean([episode.success for episode in recent]),
        "window": len(recent),
        "mean_return": mean([episode.total_reward for episode in rollout.episodes]),
        "fallback_rate": rollout.fallback_rate,
        "logprob_thoughts": rollout.numbers.get("logprob_thoughts"),
        "logprob_action": rollout.numbers.get("logprob_action"),
        "reply_tokens": rollout.numbers.get("tokens"),
    }
