"""Hyperparameters that every policy is trained with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rl4vlm.training.settings import RunSettings


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(RunSettings):
    """Settings of the training loop; the defaults are the paper's for NumberLine (public code and section 6).

    `total_env_steps` and `num_steps` count over all `num_envs` together. `minibatch_size` samples make one optimiser
    step, `micro_batch_size` of them at a time (all unless given), which changes memory and speed, never the result; the
    paper's gradient accumulation is 128 at micro-batch 1. The learning rate falls by a cosine over the run's own
    updates, once an update; `save_every` counts updates, too. With several processes every number but
    `micro_batch_size` is that of all together. `ratio_limit` is described at `policy_loss`, `advantage_epsilon` at
    `normalise`. `value_clip` is how far an update may move a value, in units of reward, and `value_learning_rate` the
    value head's own; both are as for the policy unless given, which is slow where rewards are as large as ALFWorld's
    50.
    """

    total_env_steps: int = 15_000
    num_envs: int = 2
    num_steps: int = 512
    ppo_epochs: int = 4
    minibatch_size: int = 128
    micro_batch_size: int | None = None
    learning_rate: float = 1e-5
    final_learning_rate: float = 1e-9
    value_learning_rate: float | None = None
    adam_epsilon: float = 1e-7
    gamma: float = 0.9
    gae_lambda: float = 0.95
    advantage_epsilon: float = 1e-5
    clip_range: float = 0.1
    ratio_limit: float = 10.0
    value_clip: float | None = None
    vf_coef: float = 0.5
    ent_coef: float = 0.0
    max_grad_norm: float | None = None
    temperature: float = 0.2
    success_window: int = 200
    bootstrap_truncated: bool = False
    env: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_steps % self.num_envs:
            raise ValueError(f"num_steps {self.num_steps} is not a multiple of num_envs {self.num_envs}")
        if self.total_env_steps < self.num_steps:
            raise ValueError(f"total_env_steps {self.total_env_steps} is less than one rollout of {self.num_steps}")

    @property
    def largest_value_step(self) -> float:
        """How far an update may move a value."""
        return self.clip_range if self.value_clip is None else self.value_clip

    @property
    def updates(self) -> int:
        return self.total_env_steps // self.num_steps

    @property
    def rows(self) -> int:
        """Batched environment steps of a rollout."""
        return self.num_steps // self.num_envs
