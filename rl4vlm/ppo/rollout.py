"""Collect the steps that one PPO update learns from, and compute their advantages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rl4vlm.config.stages.ppo_training import TrainingSettings
from rl4vlm.core.types import Episode, Step
from rl4vlm.interaction.play import Slot, advance
from rl4vlm.policies.trainable import ReplayItem, TrainablePolicy
from rl4vlm.ppo.gae import gae, normalise


@dataclass(frozen=True)
class Transition:
    """One played step: the parts that learning needs, and nothing that cannot be saved (environments, random streams).

    Attributes:
        item: what the policy stored of the step.
        reward: the step's reward. With `bootstrap_truncated`, gamma * V(final state) is added if the step was cut off.
        done: whether the episode ended with this step, terminated or truncated.
        fallback: whether the reply named no legal action, so that a random one was played.
        numbers: the reply's numbers (log-probabilities, tokens), for the metrics.
        episode: the episode that this step ended, if any.
    """

    item: ReplayItem
    reward: float
    done: bool
    fallback: bool
    numbers: Mapping[str, float]
    episode: Episode | None


@dataclass(frozen=True)
class Sample:
    """One training sample: the stored step with its old log-probability and value, plus advantage and value target.

    Attributes:
        item: what the policy stored of the step.
        advantage: normalised over the rollout, unless the settings turn that off.
        value_target: the return that the critic is fitted to.
        log_prob: the old log-probability as rescored before the update; None uses the stored one.
        value: the old value as rescored before the update; None uses the stored one.
        importance: weight of the policy loss (`importance_weight`); 1 without `importance_cap`.
    """

    item: ReplayItem
    advantage: float
    value_target: float
    log_prob: float | None = None
    value: float | None = None
    importance: float = 1.0


def by_input(indices: np.ndarray, samples: Sequence[Sample]) -> list[int]:
    """The indices of a mini-batch, reordered so that samples with equal inputs stand next to each other.

    They then share a micro-batch, in which their prompt passes through the model once. Gradients are summed over the
    mini-batch, so its order changes nothing but rounding.
    """
    groups: dict[str | None, list[int]] = {}
    for index in indices.tolist():
        groups.setdefault(samples[index].item.input_key, []).append(index)
    return [index for group in groups.values() for index in group]


@dataclass(frozen=True)
class Rollout:
    """The training samples of one update, and statistics of the play that gave them.

    Attributes:
        samples: steps * envs of them, all environments of the first step first.
        episodes: those that ended during the rollout.
        fallback_rate: the share of steps at which the reply named no legal action.
        numbers: the means of the replies' numbers, by name.
    """

    samples: list[Sample]
    episodes: list[Episode]
    fallback_rate: float
    numbers: dict[str, float]


def rollout_step(slots: Sequence[Slot], policy: TrainablePolicy, settings: TrainingSettings) -> list[Transition]:
    """Play one step in every slot, with one batched call of the policy; transitions are in the order of the slots."""
    steps = advance(slots, policy)
    bonus = np.zeros(len(steps))
    # A time limit is not an outcome of the game, so the critic's value of the last state replaces the rewards that were
    # cut off. It is added to the reward, because GAE carries nothing across the end of an episode.
    cut = [index for index, step in enumerate(steps) if step.final_request is not None]
    if settings.bootstrap_truncated and cut:
        bonus[cut] = settings.gamma * policy.values([r for step in steps if (r := step.final_request) is not None])
    return [_transition(step, float(extra)) for step, extra in zip(steps, bonus, strict=True)]


def _transition(step: Step, bonus: float) -> Transition:
    reply = step.reply
    return Transition(
        item=reply.replay_item,
        reward=step.reward + bonus,
        done=step.done,
        fallback=step.fallback,
        numbers=reply.numbers,
        episode=step.episode,
    )


def concat_envs(parts: Sequence[Sequence[Sequence[Transition]]]) -> list[list[Transition]]:
    """The transitions of all environments (steps, envs), from those of each process's environments.

    Processes hold consecutive environments in the order of their ranks, so the order is that of a single process.
    """
    return [[transition for part in step for transition in part] for step in zip(*parts, strict=True)]


def compute_advantages(
    steps: Sequence[Sequence[Transition]], bootstrap_value: np.ndarray, settings: TrainingSettings
) -> Rollout:
    """Turn played steps into training samples.

    Args:
        steps: the transitions (steps, envs).
        bootstrap_value: (envs,) float64, the critic's value of what the environments show after the last step.
        settings: gamma, GAE's lambda and the epsilon of the normalisation.
    """
    # On the CPU in float64, whatever the model: advantages are then the same on every device.
    rewards = np.array([[transition.reward for transition in step] for step in steps], dtype=np.float64)
    values = np.array([[transition.item.value for transition in step] for step in steps], dtype=np.float64)
    dones = np.array([[transition.done for transition in step] for step in steps], dtype=np.float64)
    advantages, returns = gae(rewards, values, dones, bootstrap_value, settings.gamma, settings.gae_lambda)
    # Returns stay in units of reward: the critic is fitted to them as they are.
    normalised = normalise(advantages, settings.advantage_epsilon) if settings.normalise_advantages else advantages
    transitions = [transition for step in steps for transition in step]
    samples = [
        Sample(transition.item, float(advantage), float(target))
        for transition, advantage, target in zip(transitions, normalised.ravel(), returns.ravel(), strict=True)
    ]
    # Every reply of a policy has the same numbers, so the first one names them all.
    return Rollout(
        samples,
        [transition.episode for transition in transitions if transition.episode is not None],
        sum(transition.fallback for transition in transitions) / len(transitions),
        {name: float(np.mean([t.numbers[name] for t in transitions])) for name in transitions[0].numbers},
    )
