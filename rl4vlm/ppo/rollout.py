"""Collecting the steps that one PPO update learns from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rl4vlm.core.types import Episode, Request, Step
from rl4vlm.interaction.play import Slot, advance
from rl4vlm.policies.vlm import Trace, VLMPolicy
from rl4vlm.ppo.gae import gae, normalise


@dataclass(frozen=True)
class Sample:
    """One step as the update sees it: what was sampled, with which joint log-probability, and what it turned out to be
    worth. `trace.prompt` is the prompt that was acted on at that very step."""

    trace: Trace
    advantage: float
    value_target: float


@dataclass(frozen=True)
class Rollout:
    """`samples` in step-major order (steps * envs of them), the episodes that ended on the way, and the raw steps."""

    samples: list[Sample]
    episodes: list[Episode]
    fallback_rate: float


def collect(
    slots: Sequence[Slot],
    policy: VLMPolicy,
    steps: int,
    *,
    gamma: float,
    gae_lambda: float,
    bootstrap_truncated: bool = False,
    on_step: Callable[[int], None] = lambda count: None,
) -> Rollout:
    """Play `steps` steps in every slot and weigh them with GAE; advantages are normalised over the whole buffer.

    `on_step` is told after each batched step how many environment steps it was.
    """
    rows: list[list[Step]] = []
    for _ in range(steps):
        rows.append(advance(slots, policy))
        on_step(len(slots))
    rewards = np.array([[step.reward for step in row] for row in rows], dtype=np.float64)
    if bootstrap_truncated:
        rewards += gamma * _final_values(rows, policy)
    traces = [[step.reply.trace for step in row] for row in rows]
    values = np.array([[trace.value for trace in row] for row in traces], dtype=np.float64)
    dones = np.array([[step.done for step in row] for row in rows], dtype=np.float64)
    last_value = _values(policy, [slot.request for slot in slots])
    advantages, returns = gae(rewards, values, dones, last_value, gamma, gae_lambda)
    weights = normalise(advantages)
    samples = [
        Sample(trace, float(advantage), float(target))
        for trace_row, advantage_row, target_row in zip(traces, weights, returns, strict=True)
        for trace, advantage, target in zip(trace_row, advantage_row, target_row, strict=True)
    ]
    played = [step for row in rows for step in row]
    episodes = [step.episode for step in played if step.episode is not None]
    return Rollout(samples, episodes, sum(step.fallback for step in played) / len(played))


def _values(policy: VLMPolicy, requests: Sequence[Request]) -> np.ndarray:
    encoder = policy.model.encoder
    return policy.model.values([encoder.prompt(request.picture, request.prompt) for request in requests])


def _final_values(rows: list[list[Step]], policy: VLMPolicy) -> np.ndarray:
    """Values of the states at which episodes were cut off, 0 elsewhere, shape (steps, envs)."""
    values = np.zeros((len(rows), len(rows[0])))
    cut = [(t, e, step.final_request) for t, row in enumerate(rows) for e, step in enumerate(row) if step.final_request]
    if cut:
        found = _values(policy, [request for _, _, request in cut])
        for (t, e, _), value in zip(cut, found, strict=True):
            values[t, e] = value
    return values
