"""Generalised advantage estimation (Schulman et al. 2016, eq. 16), for several environments at once."""

from __future__ import annotations

import numpy as np


def gae(
    rewards: np.ndarray,
    values: np.ndarray,
    dones: np.ndarray,
    bootstrap_value: np.ndarray,
    gamma: float,
    lam: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Advantages and returns of a rollout.

    To bootstrap a truncated episode, add gamma * V(final state) to the reward of its last step before the call.

    Args:
        rewards: (steps, envs) floats.
        values: (steps, envs), V(s_t) as predicted during play.
        dones: (steps, envs), 1 if the episode ended at step t, terminated or truncated.
        bootstrap_value: (envs,), the value of the state after the last step.
        gamma: the discount factor.
        lam: GAE's lambda, which trades bias for variance. It is not the paper's lambda, the weight of the thoughts.

    Returns:
        (advantages, returns), both (steps, envs), with returns = advantages + values.

    Raises:
        ValueError: the shapes do not agree.
    """
    if not rewards.shape == values.shape == dones.shape or bootstrap_value.shape != rewards.shape[1:]:
        raise ValueError(
            f"gae needs equal shapes (steps, envs) and bootstrap_value (envs,): rewards {rewards.shape}, "
            f"values {values.shape}, dones {dones.shape}, bootstrap_value {bootstrap_value.shape}"
        )
    advantages = np.zeros_like(rewards)
    next_value, next_advantage = bootstrap_value, np.zeros_like(bootstrap_value)
    # Backwards, since A_t = delta_t + gamma * lam * A_{t+1}.
    for t in reversed(range(len(rewards))):
        # The next step belongs to another episode: neither its value nor its advantage may leak into this one.
        not_done = 1.0 - dones[t]
        delta = rewards[t] + gamma * not_done * next_value - values[t]
        next_advantage = delta + gamma * lam * not_done * next_advantage
        next_value = values[t]
        advantages[t] = next_advantage
    return advantages, advantages + values


def normalise(advantages: np.ndarray, epsilon: float = 1e-5) -> np.ndarray:
    """Advantages (steps, envs), normalised: (a - mean) / (std + epsilon), with the sample standard deviation.

    Mean and deviation are those of the whole rollout, as in the public code. Many PPO implementations normalise each
    mini-batch instead.
    """
    # One sample has no sample standard deviation.
    std = advantages.std(ddof=1) if advantages.size > 1 else 0.0
    return (advantages - advantages.mean()) / (std + epsilon)
