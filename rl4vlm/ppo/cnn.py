"""PPO of the CNN+RL baseline, from scratch: the loop of `rl4vlm.ppo.train` with a network in place of the model.

It shares the play loop, GAE and the losses with the method it is compared to. What differs is that an action is one
draw among the legal actions instead of a reply's tokens, so there are no thoughts to weigh.

Legend: B samples of a mini-batch, A actions.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rl4vlm.core.progress import progress
from rl4vlm.core.runlog import JsonLines, atomic_directory, metric_sinks, write_run_record
from rl4vlm.core.seeding import stream
from rl4vlm.core.types import Episode, Step, Style
from rl4vlm.envs.registration import make_env
from rl4vlm.interaction.play import Slot, advance
from rl4vlm.models.cnn import CNNActorCritic, CNNSizes
from rl4vlm.models.loading import choose_device
from rl4vlm.policies.cnn import CNNPolicy, CNNTrace
from rl4vlm.ppo.gae import gae, normalise
from rl4vlm.ppo.losses import approximate_kl, policy_loss, value_loss
from rl4vlm.tasks.registry import get_task


@dataclass(frozen=True)
class CNNSettings:
    """Hyperparameters of a run. The paper gives none for this baseline: the number of steps, the rollout, the epochs,
    gamma and the GAE lambda are the method's, the others this project's own choice for a network without pre-training.

    `env_steps` and `rollout_steps` count over all `envs` together. The learning rate falls by a cosine over the run's
    own updates, once an update. `sizes` are those of the network. To evaluate the very policy that was trained,
    evaluate it with the same `temperature`.
    """

    env_steps: int = 15_000
    envs: int = 16
    rollout_steps: int = 512
    epochs: int = 4
    minibatch: int = 64
    learning_rate: float = 1e-3
    final_learning_rate: float = 1e-9
    adam_epsilon: float = 1e-5
    gamma: float = 0.9
    gae_lambda: float = 0.95
    clip: float = 0.2
    value_coefficient: float = 0.5
    entropy_coefficient: float = 0.01
    max_grad_norm: float | None = 0.5
    temperature: float = 1.0
    success_window: int = 200
    bootstrap_truncated: bool = False
    sizes: CNNSizes = field(default_factory=CNNSizes)
    device: str = "auto"
    loggers: tuple[str, ...] = ()
    env: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.rollout_steps % self.envs:
            raise ValueError(f"rollout_steps {self.rollout_steps} is not a multiple of envs {self.envs}")
        if self.env_steps < self.rollout_steps:
            raise ValueError(f"env_steps {self.env_steps} is less than one rollout of {self.rollout_steps}")
        if self.temperature <= 0:
            raise ValueError(f"temperature {self.temperature} is not above 0: nothing would be tried out")

    @property
    def updates(self) -> int:
        return self.env_steps // self.rollout_steps


@dataclass(frozen=True)
class CNNSample:
    """One step as the update sees it: what was done, and what it turned out to be worth."""

    trace: CNNTrace
    advantage: float
    value_target: float


@dataclass(frozen=True)
class CNNRollout:
    """`samples` in step-major order (steps * envs of them), and the episodes that ended on the way."""

    samples: list[CNNSample]
    episodes: list[Episode]
    fallback_rate: float


def run(*, task: str, out: Path, seed: int, settings: CNNSettings) -> None:
    """Train a new network on `task`; writes `checkpoint/`, `metrics.jsonl`, `timing.jsonl`, `run.json` to `out`."""
    started = time.monotonic()
    torch.manual_seed(seed)
    slots = make_slots(task, seed, settings)
    model = build_model(slots, settings)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate, eps=settings.adam_epsilon)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, T_max=settings.updates, eta_min=settings.final_learning_rate
    )
    policy = CNNPolicy(model)
    rng = stream(seed, "minibatches")
    recent: deque[Episode] = deque(maxlen=settings.success_window)
    out.mkdir(parents=True, exist_ok=True)
    with (
        JsonLines(out / "metrics.jsonl") as metrics,
        JsonLines(out / "timing.jsonl") as timing,
        metric_sinks(settings.loggers, out, settings) as sinks,
        progress(settings.updates * settings.rollout_steps, f"CNN {task}", unit="step") as bar,
    ):
        for number in range(1, settings.updates + 1):
            begun = time.monotonic()
            rollout = collect(slots, policy, settings, on_step=bar.update)
            played = time.monotonic()
            measured = update(model, optimizer, rollout.samples, settings, rng)
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
    with atomic_directory(out / "checkpoint") as folder:
        model.save(folder)
    write_run_record(
        out,
        stage="cnn",
        settings={"task": task, **vars(settings)},
        seeds={"cnn": seed},
        inputs={},
        seconds=time.monotonic() - started,
    )


def make_slots(task_name: str, seed: int, settings: CNNSettings) -> list[Slot]:
    """One play slot an environment, each with streams of its own drawn from (seed, its index)."""
    task = get_task(task_name)
    return [
        Slot(
            make_env(task_name, **settings.env),
            task,
            Style.ACTION_ONLY,
            task.prompt,
            seed=int(stream(seed, "env", index).integers(2**62)),
        )
        for index in range(settings.envs)
    ]


def build_model(slots: Sequence[Slot], settings: CNNSettings) -> CNNActorCritic:
    """A new network for what the slots show now: their legal actions, and their text where they show any."""
    views = [slot.request.view for slot in slots]
    return CNNActorCritic(
        list(dict.fromkeys(action for view in views for action in view.actions)),
        reads_text=any(view.fields for view in views),
        sizes=settings.sizes,
        temperature=settings.temperature,
    ).to(choose_device(settings.device))


def collect(
    slots: Sequence[Slot], policy: CNNPolicy, settings: CNNSettings, on_step: Callable[[int], None] = lambda count: None
) -> CNNRollout:
    """Play one rollout and weigh its steps with GAE; advantages are normalised over the whole buffer."""
    rows: list[list[Step]] = []
    for _ in range(settings.rollout_steps // len(slots)):
        rows.append(advance(slots, policy))
        on_step(len(slots))
    traces: list[list[CNNTrace]] = [[step.reply.trace for step in row] for row in rows]
    rewards = np.array([[step.reward for step in row] for row in rows], dtype=np.float64)
    if settings.bootstrap_truncated:
        rewards += settings.gamma * _final_values(rows, policy)
    values = np.array([[trace.value for trace in row] for row in traces], dtype=np.float64)
    dones = np.array([[step.done for step in row] for row in rows], dtype=np.float64)
    last_value = _values(policy, [slot.request for slot in slots])
    advantages, returns = gae(rewards, values, dones, last_value, settings.gamma, settings.gae_lambda)
    in_order = zip(
        (trace for row in traces for trace in row), normalise(advantages).ravel(), returns.ravel(), strict=True
    )
    played = [step for row in rows for step in row]
    return CNNRollout(
        [CNNSample(trace, float(advantage), float(target)) for trace, advantage, target in in_order],
        [step.episode for step in played if step.episode is not None],
        sum(step.fallback for step in played) / len(played),
    )


def _values(policy: CNNPolicy, requests: Sequence[Any]) -> np.ndarray:
    return policy.model.values([policy.model.observe(request.picture, request.view) for request in requests])


def _final_values(rows: list[list[Step]], policy: CNNPolicy) -> np.ndarray:
    """Values of the states at which episodes were cut off, 0 elsewhere, shape (steps, envs)."""
    values = np.zeros((len(rows), len(rows[0])))
    cut = [(t, e, step.final_request) for t, row in enumerate(rows) for e, step in enumerate(row) if step.final_request]
    if cut:
        found = _values(policy, [request for _, _, request in cut])
        for (t, e, _), value in zip(cut, found, strict=True):
            values[t, e] = value
    return values


def update(
    model: CNNActorCritic,
    optimizer: torch.optim.Optimizer,
    samples: Sequence[CNNSample],
    settings: CNNSettings,
    rng: np.random.Generator,
) -> dict[str, float]:
    """Fit the network to a rollout; returns the means over all samples of what the losses measured.

    `first_ratio_error` is the largest |ratio - 1| of the first mini-batch, before any weight has changed.
    """
    totals: dict[str, float] = defaultdict(float)
    first_error: float | None = None
    for _ in range(settings.epochs):
        order = rng.permutation(len(samples))
        for start in range(0, len(order), settings.minibatch):
            chosen = [samples[i] for i in order[start : start + settings.minibatch]]
            losses, ratio = _losses(model, chosen, settings)
            optimizer.zero_grad()
            losses["loss"].mean().backward()
            if settings.max_grad_norm is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
            optimizer.step()
            for name, values in losses.items():
                totals[name] += float(values.detach().sum())
            if first_error is None:
                first_error = float((ratio.detach() - 1).abs().max())
    seen = settings.epochs * len(samples)
    means = {name: total / seen for name, total in totals.items() if name != "loss"}
    return {**means, "first_ratio_error": first_error or 0.0}


def _losses(
    model: CNNActorCritic, chosen: Sequence[CNNSample], settings: CNNSettings
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Per-sample losses and measurements (B,) by name, and the ratio (B,)."""
    all_log_probs_BA, now_B = model([sample.trace.observation for sample in chosen])

    def column(values: list[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float32, device=model.device)

    actions_B = torch.tensor([sample.trace.action for sample in chosen], device=model.device)
    log_prob_B = all_log_probs_BA.gather(-1, actions_B.unsqueeze(-1)).squeeze(-1)
    old_B = column([sample.trace.log_prob for sample in chosen])
    policy_B, ratio_B = policy_loss(log_prob_B, old_B, column([s.advantage for s in chosen]), settings.clip)
    value_B = value_loss(
        now_B, column([s.trace.value for s in chosen]), column([s.value_target for s in chosen]), settings.clip
    )
    entropy_B = -(all_log_probs_BA.exp() * all_log_probs_BA.masked_fill(all_log_probs_BA.isinf(), 0.0)).sum(-1)
    measured = {
        "loss": policy_B + settings.value_coefficient * value_B - settings.entropy_coefficient * entropy_B,
        "policy_loss": policy_B,
        "value_loss": value_B,
        "entropy": entropy_B,
        "approx_kl": approximate_kl(log_prob_B, old_B),
        "clip_fraction": ((ratio_B - 1).abs() > settings.clip).float(),
    }
    return measured, ratio_B


def summarise(rollout: CNNRollout, recent: Sequence[Episode]) -> dict[str, Any]:
    """What a rollout says of the policy that made it, by the names that `rl4vlm.ppo.train` uses; there are no thoughts
    and no tokens. `recent` are the last episodes of the success window."""

    def mean(values: Sequence[float]) -> float | None:
        return float(np.mean(values)) if len(values) else None

    return {
        "episodes": len(rollout.episodes),
        "success_rate": mean([episode.success for episode in recent]),
        "window": len(recent),
        "mean_return": mean([episode.total_reward for episode in rollout.episodes]),
        "fallback_rate": rollout.fallback_rate,
        "logprob_thoughts": None,
        "logprob_action": mean([sample.trace.log_prob for sample in rollout.samples]),
        "reply_tokens": None,
    }
