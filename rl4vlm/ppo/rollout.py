"""Playing the steps that one PPO update learns from, and what each of them turns out to be worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rl4vlm.core.types import Episode, Step
from rl4vlm.interaction.play import Slot, advance
from rl4vlm.policies.trainable import Trace, TrainablePolicy
from rl4vlm.ppo.gae import gae, normalise
from rl4vlm.ppo.settings import TrainingSettings


@dataclass(frozen=True)
class Played:
    """What learning needs of one played step; it holds neither environment nor random stream, so it can be stored.

    `reward` includes the discounted value of the last state where the step was cut off and settings ask for that.
    `numbers` are the reply's (log-probabilities, tokens).
    """

    trace: Trace
    reward: float
    done: bool
    fallback: bool
    numbers: Mapping[str, float]
    episode: Episode | None


@dataclass(frozen=True)
class Sample:
    """One step as the update sees it: what was sampled, under what, how likely and how valued it was then (`trace`, of
    that very step), and what it turned out to be worth.

    Where `log_prob` and `value` are given, the update compares with them and not with those of the trace: what its own
    forward pass gave before any weight had changed.
    """

    trace: Trace
    advantage: float
    value_target: float
    log_prob: float | None = None
    value: float | None = None


@dataclass(frozen=True)
class Rollout:
    """`samples` in step-major order (steps * envs of them), the episodes that ended on the way, the share of steps at
    which no action was found, and the means of the replies' numbers."""

    samples: list[Sample]
    episodes: list[Episode]
    fallback_rate: float
    numbers: dict[str, float]


def play_row(slots: Sequence[Slot], policy: TrainablePolicy, settings: TrainingSettings) -> list[Played]:
    """Play one step in every slot, the replies sampled in one batch."""
    steps = advance(slots, policy)
    bonus = np.zeros(len(steps))
    cut = [index for index, step in enumerate(steps) if step.final_request is not None]
    if settings.bootstrap_truncated and cut:
        bonus[cut] = settings.gamma * policy.values([r for step in steps if (r := step.final_request) is not None])
    return [_played(step, float(extra)) for step, extra in zip(steps, bonus, strict=True)]


def _played(step: Step, bonus: float) -> Played:
    reply = step.reply
    return Played(reply.trace, step.reward + bonus, step.done, step.fallback, reply.numbers, step.episode)


def side_by_side(parts: Sequence[Sequence[Sequence[Played]]]) -> list[list[Played]]:
    """The steps (steps, envs) of all environments, from those of each process's environments."""
    return [[step for row in rows for step in row] for rows in zip(*parts, strict=True)]


def weigh(rows: Sequence[Sequence[Played]], last_value: np.ndarray, settings: TrainingSettings) -> Rollout:
    """Weigh the steps `rows` (steps, envs) with GAE; advantages are normalised over the whole rollout.

    `last_value` (envs,) float64 is the critic's value of what the environments show after the last step.
    """
    rewards = np.array([[step.reward for step in row] for row in rows], dtype=np.float64)
    values = np.array([[step.trace.value for step in row] for row in rows], dtype=np.float64)
    dones = np.array([[step.done for step in row] for row in rows], dtype=np.float64)
    advantages, returns = gae(rewards, values, dones, last_value, settings.gamma, settings.gae_lambda)
    weights = normalise(advantages, settings.advantage_epsilon)
    played = [step for row in rows for step in row]
    samples = [
        Sample(step.trace, float(weight), float(target))
        for step, weight, target in zip(played, weights.ravel(), returns.ravel(), strict=True)
    ]
    return Rollout(
        samples,
        [step.episode for step in played if step.episode is not None],
        sum(step.fallback for step in played) / len(played),
        {name: float(np.mean([step.numbers[name] for step in played])) for name in played[0].numbers},
    )
