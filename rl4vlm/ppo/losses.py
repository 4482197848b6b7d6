"""PPO's arithmetic as stateless functions of tensors (paper, section 4; Schulman et al. 2017, eq. 7).

Legend: B samples. Losses come per sample, (B,); the caller averages them, so that a mini-batch may be
processed in pieces of any size.
"""

from __future__ import annotations

import torch


def policy_loss(
    log_prob_B: torch.Tensor,
    old_log_prob_B: torch.Tensor,
    advantage_B: torch.Tensor,
    clip_range: float,
    ratio_limit: float = 10.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The clipped surrogate loss (B,) and the ratio (B,).

    Where the ratio exceeds `ratio_limit` only the clipped surrogate counts: it has no gradient there, and a reply whose
    probability has run away cannot blow up the update.
    """
    # Past e^20 the ratio is only ever compared with the limit; an infinite one would make the gradient NaN.
    ratio = (log_prob_B - old_log_prob_B).clamp(max=20.0).exp()
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range) * advantage_B
    plain = ratio * advantage_B
    surrogate = torch.where(ratio > ratio_limit, clipped, torch.minimum(plain, clipped))
    return -surrogate, ratio


def value_loss(
    value_B: torch.Tensor, old_value_B: torch.Tensor, return_B: torch.Tensor, clip_range: float
) -> torch.Tensor:
    """Half the larger of the clipped and the plain squared error of the value, (B,)."""
    clipped = old_value_B + (value_B - old_value_B).clamp(-clip_range, clip_range)
    return 0.5 * torch.maximum((value_B - return_B) ** 2, (clipped - return_B) ** 2)


def approximate_kl(log_prob_B: torch.Tensor, old_log_prob_B: torch.Tensor) -> torch.Tensor:
    """The k3 estimate of KL(old || new) from samples of the old policy, per sample: (r - 1) - log r."""
    log_ratio = log_prob_B - old_log_prob_B
    return log_ratio.exp() - 1 - log_ratio
