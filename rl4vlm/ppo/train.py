"""PPO fine-tuning of a whole vision-language model: the paper's algorithm 1, top to bottom."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import set_seed

from rl4vlm.core.progress import progress
from rl4vlm.core.runlog import JsonLines, atomic_directory, metric_sinks, write_run_record
from rl4vlm.core.seeding import stream
from rl4vlm.core.types import Episode, Style
from rl4vlm.envs.registration import make_env
from rl4vlm.interaction.play import Slot
from rl4vlm.interaction.prompt import override_parts
from rl4vlm.models.actor_critic import ActorCritic
from rl4vlm.models.loading import accelerator_on
from rl4vlm.policies.vlm import VLMPolicy
from rl4vlm.ppo.rollout import Rollout, collect
from rl4vlm.ppo.update import UpdateSettings, update
from rl4vlm.tasks.registry import get_task


@dataclass(frozen=True)
class PPOSettings:
    """Hyperparameters of a run; the defaults are the paper's for NumberLine (public code and section 6).

    `env_steps` and `rollout_steps` count over all `envs` together. `minibatch` is the paper's gradient accumulation at
    micro-batch 1. The learning rate falls by a cosine over the run's own updates, once an update.
    """

    env_steps: int = 15_000
    envs: int = 2
    rollout_steps: int = 512
    epochs: int = 4
    minibatch: int = 128
    micro_batch: int = 1
    learning_rate: float = 1e-5
    final_learning_rate: float = 1e-9
    adam_epsilon: float = 1e-7
    gamma: float = 0.9
    gae_lambda: float = 0.95
    clip: float = 0.1
    value_coefficient: float = 0.5
    entropy_coefficient: float = 0.0
    max_grad_norm: float | None = None
    thought_weight: float = 0.5
    temperature: float = 0.2
    max_new_tokens: int = 256
    success_window: int = 200
    bootstrap_truncated: bool = False
    value_sizes: tuple[int, ...] = (1024, 512)
    dtype: str = "float32"
    device: str = "auto"
    loggers: tuple[str, ...] = ()
    env: dict[str, Any] = field(default_factory=dict)
    prompt: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.rollout_steps % self.envs:
            raise ValueError(f"rollout_steps {self.rollout_steps} is not a multiple of envs {self.envs}")
        if self.env_steps < self.rollout_steps:
            raise ValueError(f"env_steps {self.env_steps} is less than one rollout of {self.rollout_steps}")

    @property
    def updates(self) -> int:
        return self.env_steps // self.rollout_steps

    @property
    def update_settings(self) -> UpdateSettings:
        names = UpdateSettings.__dataclass_fields__
        return UpdateSettings(**{name: getattr(self, name) for name in names})


def run(*, task: str, style: Style, init: str | Path, out: Path, seed: int, settings: PPOSettings) -> None:
    """Fine-tune the checkpoint `init` on `task`; writes `checkpoint/`, `metrics.jsonl`, `timing.jsonl`, `run.json`."""
    started = time.monotonic()
    set_seed(seed)
    accelerator = accelerator_on(settings.device)
    model = ActorCritic.load(
        init,
        temperature=settings.temperature,
        max_new_tokens=settings.max_new_tokens,
        value_sizes=settings.value_sizes,
        dtype=settings.dtype,
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate, eps=settings.adam_epsilon)
    trained, optimizer = accelerator.prepare(model, optimizer)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, T_max=settings.updates, eta_min=settings.final_learning_rate
    )
    policy = VLMPolicy(model)
    slots = make_slots(task, style, seed, settings)
    rng = stream(seed, "minibatches")
    recent: deque[Episode] = deque(maxlen=settings.success_window)
    out.mkdir(parents=True, exist_ok=True)
    with (
        JsonLines(out / "metrics.jsonl") as metrics,
        JsonLines(out / "timing.jsonl") as timing,
        metric_sinks(settings.loggers, out, settings) as sinks,
        progress(settings.updates * settings.rollout_steps, f"PPO {task} {style}", unit="step") as bar,
    ):
        for number in range(1, settings.updates + 1):
            begun = time.monotonic()
            rollout = collect(
                slots,
                policy,
                settings.rollout_steps // settings.envs,
                gamma=settings.gamma,
                gae_lambda=settings.gae_lambda,
                bootstrap_truncated=settings.bootstrap_truncated,
                on_step=bar.update,
            )
            played = time.monotonic()
            measured = update(trained, optimizer, accelerator, rollout.samples, settings.update_settings, rng)
            recent.extend(rollout.episodes)
            line = {
                "update": number,
                "env_steps": number * settings.rollout_steps,
                **summarise(rollout, recent),
                **measured,
                "learning_rate": schedule.get_last_lr()[0],
            }
            schedule.step()
            metrics.write(line)
            timing.write({"update": number, "rollout_s": played - begun, "update_s": time.monotonic() - played})
            sinks.log(line, step=line["env_steps"])
            bar.describe(success=line["success_rate"])
    for slot in slots:
        slot.env.close()
    accelerator.wait_for_everyone()
    with atomic_directory(out / "checkpoint") as folder:
        model.save(folder)
    write_run_record(
        out,
        stage="ppo",
        settings={"task": task, "style": style, **vars(settings)},
        seeds={"ppo": seed},
        inputs={"init": Path(init)},
        seconds=time.monotonic() - started,
    )


def make_slots(task_name: str, style: Style, seed: int, settings: PPOSettings) -> list[Slot]:
    """One play slot an environment, each with streams of its own drawn from (seed, its index)."""
    task = get_task(task_name)
    parts = override_parts(task.prompt, settings.prompt)
    return [
        Slot(
            make_env(task_name, **settings.env),
            task,
            style,
            parts,
            seed=int(stream(seed, "env", index).integers(2**62)),
        )
        for index in range(settings.envs)
    ]


def summarise(rollout: Rollout, recent: Sequence[Episode]) -> dict[str, Any]:
    """What a rollout says of the policy that made it; `recent` are the last episodes of the success window."""
    traces = [sample.trace for sample in rollout.samples]

    def mean(values: Sequence[float]) -> float | None:
        return float(np.mean(values)) if len(values) else None

    return {
        "episodes": len(rollout.episodes),
        "success_rate": mean([episode.success for episode in recent]),
        "window": len(recent),
        "mean_return": mean([episode.total_reward for episode in rollout.episodes]),
        "fallback_rate": rollout.fallback_rate,
        "logprob_thoughts": mean([trace.logprob_thoughts for trace in traces]),
        "logprob_action": mean([trace.logprob_action for trace in traces]),
        "reply_tokens": mean([len(trace.ids) for trace in traces]),
    }
