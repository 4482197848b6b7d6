"""Scores a rollout again before its update, because generation and scoring round differently (docs/algorithm.md).

Legend: B samples of a micro-batch.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from rl4vlm.config.stages.ppo_training import TrainingSettings
from rl4vlm.ppo.losses import importance_weight, new_log_prob, old_log_prob
from rl4vlm.ppo.policy_optimizer import PolicyOptimizer
from rl4vlm.ppo.rollout import Sample, by_input
from rl4vlm.training.distributed import micro_batches

logger = logging.getLogger(__name__)

LOG_PROB, VALUE, SAMPLED_LOG_PROB, WEIGHT, TOKEN_MULT_PROB_ERROR_SUM, TOKENS = range(6)
"""Columns of `rescore_before_update`: log-probability and value under the weights that learn, log-probability as
sampled, importance weight, `Rescored.token_mult_prob_error_sum`, and number of tokens."""
TOKEN_MULT_PROB_ERROR_LIMIT = 1.05
"""Largest `token_mult_prob_error` without a warning, as in the tests of NeMo RL."""


def below_float32(model: nn.Module) -> bool:
    """Whether some weights take less than four bytes, in bfloat16 or quantised: the model computes less precisely."""
    return any(weight.element_size() < torch.float32.itemsize for weight in model.parameters())


@torch.no_grad()
def rescore_before_update(
    policy_optimizer: PolicyOptimizer, samples: Sequence[Sample], order: np.ndarray, settings: TrainingSettings
) -> np.ndarray:
    """Old log-probabilities and values from the update's own forward pass, before any weight changes.

    A reply is sampled token by token with a key-value cache, and rescored in one forward pass. Both give the same
    log-probabilities up to rounding. In bfloat16 the rounding errors, divided by the temperature and summed over a
    reply, reach tenths of a nat: ratios would differ from 1, and be clipped, because of noise.

    Args:
        policy_optimizer: the policy.
        samples: the whole rollout.
        order: the permutation of the first epoch. The samples are scored in that epoch's micro-batches, because
            rounding depends on the batch, too.
        settings: for the sizes of the batches.

    Returns:
        (samples, 6) float64, the same in every process; its columns are `LOG_PROB` to `TOKENS`. 0 for samples that
        `order` leaves out.
    """
    # The mode of the optimizer step, without dropout.
    policy_optimizer.model.eval()
    local: list[int] = []
    scored: list[torch.Tensor] = []
    for start in range(0, len(order), settings.minibatch_size):
        indices = by_input(order[start : start + settings.minibatch_size], samples)
        for micro_batch in micro_batches(indices, settings.micro_batch_size, policy_optimizer.accelerator):
            items = [samples[index].item for index in micro_batch.items]
            now = policy_optimizer.policy.rescore(policy_optimizer.model, items)
            log_prob_B = new_log_prob(now, policy_optimizer.thought_prob_coef)
            sampled_B = old_log_prob(now, policy_optimizer.thought_prob_coef)
            # Leave out the dummy samples that fill up the last micro-batch.
            local += micro_batch.items[: micro_batch.counted]
            # Here the thoughts count fully (λ = 1): the reply was sampled as a whole, whatever λ is in the loss.
            cap = settings.importance_cap or math.inf
            weight_B = importance_weight(new_log_prob(now, 1.0), old_log_prob(now, 1.0), cap)
            # A policy without tokens gets zeros.
            none_B = torch.zeros_like(now.value)
            tokens = [
                none_B if found is None else found.to(now.value)
                for found in (now.token_mult_prob_error_sum, now.tokens)
            ]
            columns = torch.stack([log_prob_B, now.value, sampled_B, weight_B, *tokens], dim=-1)
            scored.append(columns[: micro_batch.counted])
    rows = torch.cat(scored)
    old = rows.new_zeros(len(samples), rows.shape[1])
    old[local] = rows
    # Each row is zero in all processes but the one that scored it, so the sum puts the rows together.
    everyones: torch.Tensor = policy_optimizer.accelerator.reduce(old, "sum")
    return everyones.double().cpu().numpy()


def token_mult_prob_error(old: np.ndarray) -> float:
    """The metric `token_mult_prob_error`: mean over all tokens of exp(|log-probability rescored - as sampled|).

    Args:
        old: from `rescore_before_update`.

    Returns:
        At least 1; 1 for a policy that writes no tokens.
    """
    tokens = old[:, TOKENS].sum()
    return float(old[:, TOKEN_MULT_PROB_ERROR_SUM].sum() / tokens) if tokens else 1.0


def warn_of_prob_error(error: float, accelerator: Accelerator) -> None:
    """Warn, in the main process, if `token_mult_prob_error` is above `TOKEN_MULT_PROB_ERROR_LIMIT`."""
    if error > TOKEN_MULT_PROB_ERROR_LIMIT and accelerator.is_main_process:
        logger.warning(
            "token_mult_prob_error is %.3f, above %g: a token that is scored again has a probability that differs, on "
            "average, by this factor from the one it was sampled with (docs/metrics.md)",
            error,
            TOKEN_MULT_PROB_ERROR_LIMIT,
        )


def zero_step(
    policy_optimizer: PolicyOptimizer,
    samples: Sequence[Sample],
    indices: np.ndarray,
    old: np.ndarray,
    settings: TrainingSettings,
) -> dict[str, float]:
    """How far the ratios are from 1 after a step of size 0, if samples are in other micro-batches than for `old`.

    Any distance from 1 is rounding, which affects every later step as well.

    Returns:
        `neighbour_ratio_error`, the largest |ratio - 1|, and `neighbour_clip_fraction`, the share outside the clip
        range.
    """
    # In the order of the rollout instead of the shuffled one.
    again = rescore_before_update(policy_optimizer, samples, np.sort(indices), settings)
    errors = np.abs(np.exp(again[indices, LOG_PROB] - old[indices, LOG_PROB]) - 1)
    return {
        "neighbour_ratio_error": float(errors.max()),
        "neighbour_clip_fraction": float((errors > settings.clip_range).mean()),
    }
