"""Settings of the PPO training loop, for vision-language models and CNN+RL alike."""

from __future__ import annotations

from dataclasses import field
from typing import Any

from pydantic import model_validator

from rl4vlm.config.fields import Count, Natural, Positive, Share, Weight, settings
from rl4vlm.config.stages.training import RunSettings

BEST = "best"
"""The kept policy with the best success rate on the validation episodes."""


def kept_after(update: int) -> str:
    """The name of the policy that is kept after an update."""
    return f"update{update:04}"


@settings
class TrainingSettings(RunSettings):
    """The training loop; the defaults are the paper's for NumberLine (public code and section 6).

    With several processes, numbers are totals over all of them, except `micro_batch_size`.
    """

    save_every: Count = 1
    """Number of updates between two saves of the run's state, from which a killed run continues. A run saves its state
    only if it is given a folder (`--state`)."""
    keep_checkpoints: Natural = 0
    """Number of updates between two intermediate policies that are kept in `checkpoints/` as `update0010`, ... With
    validation, the policy with the best validation is also kept, as `best`. 0 keeps only the last policy. The workflow
    evaluates all policies that PPO keeps; those of CNN+RL are only kept."""
    total_env_steps: Count = 15_000
    """Environment steps per run, all environments together."""
    num_envs: Count = 2
    """Number of environments played at the same time."""
    num_steps: Count = 512
    """Environment steps per rollout, all environments together; an update follows each rollout."""
    ppo_epochs: Count = 4
    """Epochs per update: passes over the rollout."""
    minibatch_size: Count = 128
    """Samples per optimizer step."""
    micro_batch_size: Count | None = None
    """Samples in memory at a time, per process; null is the whole mini-batch. It changes memory and speed, but the
    result only by rounding. The paper accumulates gradients over 128 micro-batches of one sample."""
    learning_rate: Weight = 1e-5
    """Learning rate at the start; it falls along a cosine over the updates of the run."""
    final_learning_rate: Weight = 1e-9
    """Learning rate at the end of the cosine."""
    value_learning_rate: Positive | None = None
    """Learning rate of the value head; null is `learning_rate`, with which values move slowly if rewards are as large
    as ALFWorld's 50."""
    adam_epsilon: Weight = 1e-7
    """Epsilon of Adam."""
    gamma: Share = 0.9
    """Discount per step."""
    gae_lambda: Share = 0.95
    """Lambda of generalised advantage estimation; not the paper's lambda, which is `thought_prob_coef`."""
    advantage_epsilon: Weight = 1e-5
    """Added to the standard deviation that advantages are divided by."""
    normalise_advantages: bool = True
    """Whether advantages are normalised over each rollout."""
    clip_range: Weight = 0.1
    """How far the probability ratio may move from 1 before the policy loss clips it; also the limit of value updates
    unless `value_clip` is set."""
    ratio_limit: Positive = 10.0
    """A sample with a larger probability ratio has no policy gradient."""
    target_kl: Positive | None = None
    """An update ends after the first mini-batch whose estimated KL divergence from the rollout policy (`approx_kl`, in
    nats, mean over its samples) is above this; with null it always makes all `ppo_epochs`."""
    importance_cap: Positive | None = None
    """Largest importance weight of a sample; null gives every sample the weight 1. Below float32, generating a reply
    and scoring it round differently, so the policy that plays is not quite the one that is trained. With a cap, the
    policy loss of a sample is multiplied by min(cap, p / q), where q is the probability of its reply when sampled, and
    p the probability when scored. In float32 all weights are 1 up to rounding."""
    value_clip: Positive | None = None
    """How far an update may move a value, in units of reward; null is `clip_range`, with which values move slowly if
    rewards are as large as ALFWorld's 50."""
    value_warmup: Natural = 0
    """Number of updates at the start of a run with only the value loss, because the first advantages from a new value
    head are noise. Unless `detach_value` is on, the value loss still changes the policy. Does not work with DDP."""
    vf_coef: Weight = 0.5
    """Weight of the value loss."""
    ent_coef: Weight = 0.0
    """Weight of the entropy bonus."""
    max_grad_norm: Positive | None = None
    """Largest gradient norm; null does not clip gradients."""
    temperature: Weight = 0.2
    """Sampling temperature; 0 is greedy."""
    success_window: Count = 200
    """Training episodes in the rolling success rate."""
    validation_every: Natural = 0
    """Number of updates between two validations, with one more after the last update; 0 never validates. Validation
    shows over-training and does not affect the training."""
    validation_episodes: Count = 50
    """Episodes per validation. They are always the same, and their seeds are used nowhere else."""
    logged_episodes: Natural = 1
    """Number of validation episodes that each validation sends to the `loggers`, with images and replies: always the
    first ones (with several processes, the first ones of the main process)."""
    bootstrap_truncated: bool = False
    """Whether the discounted value of the last state is added to the last reward of a truncated episode; in the paper a
    truncated episode counts as ended."""
    env: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the environment; in a config, `task_options` sets them."""

    @model_validator(mode="after")
    def _rollouts_fit(self) -> TrainingSettings:
        if self.num_steps % self.num_envs:
            raise ValueError(f"num_steps {self.num_steps} is not a multiple of num_envs {self.num_envs}")
        if self.total_env_steps < self.num_steps:
            raise ValueError(f"total_env_steps {self.total_env_steps} is less than one rollout of {self.num_steps}")
        return self

    @property
    def largest_value_step(self) -> float:
        """How far an update may move a value."""
        return self.clip_range if self.value_clip is None else self.value_clip

    @property
    def updates(self) -> int:
        """Updates of a run."""
        return self.total_env_steps // self.num_steps

    def validates_after(self, update: int) -> bool:
        """Whether a validation follows this update."""
        return bool(self.validation_every) and (update % self.validation_every == 0 or update == self.updates)

    @property
    def kept(self) -> list[str]:
        """Names of the policies that are kept beside the last one."""
        every = self.keep_checkpoints
        names = [kept_after(update) for update in range(every, self.updates, every)] if every else []
        return [*names, BEST] if every and self.validation_every else names

    def scores_again(self, *, below_float32: bool) -> bool:
        """Whether each rollout is scored again before its update.

        Args:
            below_float32: whether some weights take less than four bytes.
        """
        return below_float32 or self.importance_cap is not None

    @property
    def steps_per_env(self) -> int:
        """Steps of each environment in a rollout."""
        return self.num_steps // self.num_envs
