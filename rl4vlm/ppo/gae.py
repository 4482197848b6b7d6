"""Generalised advantage estimation (Schulman et al. 2016, eq. 16), over many environments at once."""

from __future__ import annotations

import numpy as np


def gae(
    rewards: np.ndarray,
    values: np.ndarray,
    dones: np.ndarray,
    last_value: np.ndarray,
    gamma: float,
    lam: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Advantages and returns of a rollout.

    `rewards`, `values`, `dones` are (steps, envs) floats; `dones[t]` is 1 where the episode ended at step t, by end or
    by truncation, so nothing flows back over it. `last_value` (envs,) is the value after the last step. To bootstrap a
    truncated episode add gamma * V(final state) to that step's reward before the call.

    Returns (advantages, returns), both (steps, envs); returns = advantages + values.
    Raises ValueError where the shapes do not agree.
    """
    if not rewards.shape == values.shape == dones.shape or last_value.shape != rewards.shape[1:]:
        raise ValueError(
            f"gae needs equal shapes (steps, envs) and last_value (envs,): rewards {rewards.shape}, "
            f"values {values.shape}, dones {dones.shape}, last_value {last_value.shape}"
        )
    advantages = np.zeros_like(rewards)
    following_value, following_advantage = last_value, np.zeros_like(last_value)
    for t in reversed(range(len(rewards))):
        alive = 1.0 - dones[t]
        delta = rewards[t] + gamma * alive * following_value - values[t]
        following_advantage = delta + gamma * lam * alive * following_advantage
        following_value = values[t]
        advantages[t] = following_advantage
    return advantages, advantages + values


def normalise(advantages: np.ndarray, epsilon: float = 1e-5) -> np.ndarray:
    """Advantages shifted and scaled over the whole buffer: (a - mean) / (std + epsilon), sample standard deviation."""
    spread = advantages.std(ddof=1) if advantages.size > 1 else 0.0
    return (advantages - advantages.mean()) / (spread + epsilon)
