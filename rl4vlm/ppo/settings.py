"""Hyperparameters that every policy is trained with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rl4vlm.models.settings import RunSettings


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(RunSettings):
    """Settings of the training loop; the defaults are the paper's for NumberLine (public code and section 6).

    `env_steps` and `rollout_steps` count over all `envs` together. `minibatch` samples make one optimiser step,
    `micro_batch` of them at a time (all unless given), which changes memory and speed, never the result; the paper's
    gradient accumulation is 128 at micro-batch 1. The learning rate falls by a cosine over the run's own updates, once
    an update; `save_every` counts updates, too. With several processes every number but `micro_batch` is that of all
    together. `ratio_limit` is described at `policy_loss`, `advantage_epsilon` at `normalise`. `value_clip` is how far
    an update may move a value, in units of reward, and `value_learning_rate` the value head's own; both are as for the
    policy unless given, which is slow where rewards are as large as ALFWorld's 50.
    """

    env_steps: int = 15_000
    envs: int = 2
    rollout_steps: int = 512
    epochs: int = 4
    minibatch: int = 128
    micro_batch: int | None = None
    learning_rate: float = 1e-5
    final_learning_rate: float = 1e-9
    value_learning_rate: float | None = None
    adam_epsilon: float = 1e-7
    gamma: float = 0.9
    gae_lambda: float = 0.95
    advantage_epsilon: float = 1e-5
    clip: float = 0.1
    ratio_limit: float = 10.0
    value_clip: float | None = None
    value_coefficient: float = 0.5
    entropy_coefficient: float = 0.0
    max_grad_norm: float | None = None
    temperature: float = 0.2
    success_window: int = 200
    bootstrap_truncated: bool = False
    env: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rollout_steps % self.envs:
            raise ValueError(f"rollout_steps {self.rollout_steps} is not a multiple of envs {self.envs}")
        if self.env_steps < self.rollout_steps:
            raise ValueError(f"env_steps {self.env_steps} is less than one rollout of {self.rollout_steps}")

    @property
    def largest_value_step(self) -> float:
        """How far an update may move a value."""
        return self.clip if self.value_clip is None else self.value_clip

    @property
    def updates(self) -> int:
        return self.env_steps // self.rollout_steps

    @property
    def rows(self) -> int:
        """Batched environment steps of a rollout."""
        return self.rollout_steps // self.envs
