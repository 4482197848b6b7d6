"""PPO's arithmetic as stateless functions of tensors (paper, section 4; Schulman et al. 2017, eq. 7).

Legend: B samples. Losses are per sample, (B,). The caller averages them, so a mini-batch may be split into
micro-batches of any size.
"""

from __future__ import annotations

import torch

from rl4vlm.policies.trainable import Rescored


def policy_log_prob(
    logprob_thoughts_B: torch.Tensor, logprob_action_B: torch.Tensor, thought_prob_coef: float
) -> torch.Tensor:
    """The log-probability of an action when a model reasons before it acts (paper, section 4.3, eq. 4).

        log pi(a | o) = lambda * log pi(thoughts | o) + log pi(action | o, thoughts)

    Thoughts have many more tokens than the action, so unweighted they would dominate the sum and PPO would train the
    wording of the thoughts more than the choice of the action.

    Args:
        logprob_thoughts_B: summed log-probability of the thought tokens, in nats.
        logprob_action_B: summed log-probability of the action tokens, in nats.
        thought_prob_coef: lambda, from 0 (the thoughts are not trained) to 1 (the plain log-probability of the reply).
    """
    return thought_prob_coef * logprob_thoughts_B + logprob_action_B


def new_log_prob(now: Rescored, thought_prob_coef: float) -> torch.Tensor:
    """The λ-weighted log-probability (`policy_log_prob`) of the stored replies under the current weights, (B,)."""
    return policy_log_prob(now.logprob_thoughts, now.logprob_action, thought_prob_coef)


def old_log_prob(now: Rescored, thought_prob_coef: float) -> torch.Tensor:
    """The λ-weighted log-probability of the stored replies when they were sampled, (B,).

    It is computed in float64 and rounded once, to the dtype of the new one.
    """
    old_B = policy_log_prob(now.old_logprob_thoughts, now.old_logprob_action, thought_prob_coef)
    return old_B.to(now.value.dtype)


def policy_loss(
    log_prob_B: torch.Tensor,
    old_log_prob_B: torch.Tensor,
    advantage_B: torch.Tensor,
    clip_range: float,
    ratio_limit: float = 10.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The clipped surrogate loss (Schulman et al. 2017, eq. 7).

    Args:
        log_prob_B: log-probability under the current weights, with gradient.
        old_log_prob_B: log-probability under the weights that sampled the action.
        advantage_B: the normalised advantage.
        clip_range: as in `TrainingSettings`.
        ratio_limit: above this ratio only the clipped surrogate counts, which has no gradient there.

    Returns:
        The loss (B,) and the ratio of new to old probability (B,).
    """
    # exp overflows to infinity at 89 in float32, and inf * 0 in the backward pass would give a NaN gradient. A ratio
    # above e^20 is only ever compared with the limit.
    ratio = (log_prob_B - old_log_prob_B).clamp(max=20.0).exp()
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range) * advantage_B
    unclipped = ratio * advantage_B
    # With a negative advantage the minimum keeps the unclipped term, which grows with the ratio without bound. A reply
    # has hundreds of tokens, so its ratio can explode: the limit bounds the gradient.
    surrogate = torch.where(ratio > ratio_limit, clipped, torch.minimum(unclipped, clipped))
    return -surrogate, ratio


def importance_weight(log_prob_B: torch.Tensor, sampled_log_prob_B: torch.Tensor, cap: float) -> torch.Tensor:
    """Truncated importance weights (B,), min(cap, p / q) (Ionides 2008), of replies sampled from q that train p.

    Args:
        log_prob_B: log p, the log-probability of each whole reply when it is scored, before any model weight changed.
        sampled_log_prob_B: log q, its log-probability when it was sampled.
        cap: the largest weight.
    """
    # As in `policy_loss`: e^20 is too large already, and larger exponents could overflow.
    return (log_prob_B - sampled_log_prob_B).clamp(max=20.0).exp().clamp(max=cap)


def effective_sample_size(weight_B: torch.Tensor) -> torch.Tensor:
    """The effective sample size of weighted samples, divided by their number: above 0, at most 1 (Kong 1992).

    An estimate from that share of the samples, with equal weights, would have about the same variance.
    """
    return weight_B.sum() ** 2 / (len(weight_B) * (weight_B**2).sum())


def value_loss(
    value_B: torch.Tensor, old_value_B: torch.Tensor, return_B: torch.Tensor, clip_range: float
) -> torch.Tensor:
    """The clipped value loss (B,): half the larger squared error of the new value and of the clipped new value.

    Args:
        value_B: the value under the current weights, with gradient.
        old_value_B: the value when the step was played.
        return_B: the regression target.
        clip_range: how far the value may move from `old_value_B`, in units of reward.
    """
    # The larger error has no gradient once the value has moved by the clip range towards its target.
    clipped = old_value_B + (value_B - old_value_B).clamp(-clip_range, clip_range)
    return 0.5 * torch.maximum((value_B - return_B) ** 2, (clipped - return_B) ** 2)


def approximate_kl(log_prob_B: torch.Tensor, old_log_prob_B: torch.Tensor) -> torch.Tensor:
    """The k3 estimate of KL(old || new) in nats, (B,): (r - 1) - log r, with r the ratio of new to old probability.

    Samples must come from the old policy. Unlike -log r it is never negative, and its variance is lower
    (http://joschu.net/blog/kl-approx.html).
    """
    log_ratio = log_prob_B - old_log_prob_B
    return log_ratio.exp() - 1 - log_ratio


def reverse_kl(reference_log_ratio: torch.Tensor) -> torch.Tensor:
    """The k2 estimate of KL(p || q), elementwise: half the square of log(q / p), for samples from p.

    Its gradient through p is on average that of KL(p || q). The gradient of k3 is that of KL(q || p), with a factor
    q / p: one token that has become rare can outweigh all others thousands of times.

    Args:
        reference_log_ratio: log q - log p of each token (B, R).

    Returns:
        The estimate of each token (B, R), in nats.
    """
    return 0.5 * reference_log_ratio**2
