"""One PPO update: several epochs of clipped policy and value steps over a rollout (paper, section 4.3).

Legend: B samples of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from rl4vlm.config.stages.ppo_training import TrainingSettings
from rl4vlm.policies.trainable import column
from rl4vlm.ppo.losses import (
    approximate_kl,
    effective_sample_size,
    new_log_prob,
    old_log_prob,
    policy_loss,
    reverse_kl,
    value_loss,
)
from rl4vlm.ppo.policy_optimizer import PolicyOptimizer
from rl4vlm.ppo.rescoring import (
    LOG_PROB,
    SAMPLED_LOG_PROB,
    VALUE,
    WEIGHT,
    below_float32,
    rescore_before_update,
    token_mult_prob_error,
    warn_of_prob_error,
    zero_step,
)
from rl4vlm.ppo.rollout import Sample, by_input
from rl4vlm.training.distributed import Processes, accumulate, all_reduce_sum, micro_batches
from rl4vlm.training.optim import clear_gradients


@dataclass
class UpdateProgress:
    """Progress through one PPO update. With the optimizer and the shuffling RNG it is all that is needed to resume.

    Attributes:
        epoch: the running epoch, from 0.
        order: its permutation of the samples; None before the epoch has begun.
        position: where in `order` the next mini-batch begins.
        seen: samples trained on so far, in all processes and epochs.
        old: (samples, 6) from `rescore_before_update`; None if the samples were not rescored.
        totals: sums over the samples that this process trained on, by the name of the metric.
        first_ratio_error: the largest |ratio - 1| of the first mini-batch in this process.
        neighbours: metrics of a step of size 0 (`zero_step`), only if the samples were rescored.
    """

    epoch: int = 0
    order: np.ndarray | None = None
    position: int = 0
    seen: int = 0
    old: np.ndarray | None = None
    totals: dict[str, float] = field(default_factory=dict)
    first_ratio_error: float | None = None
    neighbours: dict[str, float] = field(default_factory=dict)

    @property
    def losses(self) -> dict[str, float]:
        """The totals that are parts of the loss, so must be finite.

        `approx_kl` is only logged. It may be infinite without harm, if a reply's probability has changed extremely.
        """
        parts = ("policy_loss", "value_loss", "entropy", "reference_kl")
        return {name: self.totals[name] for name in parts if name in self.totals}

    def means(self, processes: Processes) -> dict[str, float]:
        """The update's metrics: means over the samples of all processes. All processes must call it.

        Two of them check the training itself:

        - `first_ratio_error`, the largest |ratio - 1| before any weight has changed. Apart from rounding it is 0
          if every reply is rescored under the prompt that it answered, and larger if not.
        - `rescored_gap`, only if samples were rescored before the update: the mean difference between their
          log-probabilities then and as sampled. It replaces the first check, which can no longer fail: the ratio
          then compares two rescored log-probabilities, so it is always near 1. `neighbour_ratio_error` and
          `neighbour_clip_fraction` say how much of the clip range rounding takes (`zero_step`);
          `effective_sample_size` and `token_mult_prob_error` say how far the policy that played is from the one that
          learns (docs/metrics.md).
        """
        gathered = processes.gather((self.totals, self.first_ratio_error or 0.0))
        means = {name: sum(totals[name] for totals, _ in gathered) / self.seen for name in self.totals}
        means["first_ratio_error"] = max(error for _, error in gathered)
        if self.old is not None:
            means["rescored_gap"] = float(np.abs(self.old[:, LOG_PROB] - self.old[:, SAMPLED_LOG_PROB]).mean())
            means["effective_sample_size"] = float(effective_sample_size(torch.from_numpy(self.old[:, WEIGHT])))
            means["token_mult_prob_error"] = token_mult_prob_error(self.old)
        return means | self.neighbours


def optimizer_steps(
    policy_optimizer: PolicyOptimizer,
    samples: Sequence[Sample],
    progress: UpdateProgress,
    settings: TrainingSettings,
    rng: np.random.Generator,
    *,
    values_only: bool = False,
) -> Iterator[UpdateProgress]:
    """Train on `samples`, from wherever `progress` stands; yields it after each optimizer step.

    Args:
        policy_optimizer: the policy to train.
        samples: the whole rollout, the same in every process.
        progress: a new one for a new update; it is changed in place.
        settings: the hyperparameters.
        rng: draws the order of the samples. It is in the same state in every process.
        values_only: whether the policy's loss is left out, as in the first `settings.value_warmup` updates of a run.
    """
    while progress.epoch < settings.ppo_epochs:
        if progress.order is None:
            progress.order = rng.permutation(len(samples))
        # Before the first optimizer step: old log-probabilities must come from the weights that played.
        again = settings.scores_again(below_float32=below_float32(policy_optimizer.policy.model))
        if progress.seen == 0 and progress.old is None and again:
            progress.old = rescore_before_update(policy_optimizer, samples, progress.order, settings)
            warn_of_prob_error(token_mult_prob_error(progress.old), policy_optimizer.accelerator)
            first = progress.order[: settings.minibatch_size]
            progress.neighbours = zero_step(policy_optimizer, samples, first, progress.old, settings)
        # The last mini-batch of an epoch is smaller if the mini-batch size does not divide the rollout.
        indices = by_input(progress.order[progress.position : progress.position + settings.minibatch_size], samples)
        minibatch = [_sample(samples, index, progress, settings) for index in indices]
        kl_before = progress.totals.get("approx_kl", 0.0)
        ratio_error = _optimizer_step(policy_optimizer, minibatch, progress.totals, settings, values_only)
        # Kept for the first mini-batch only: later ratios differ from 1 because the weights have changed.
        if progress.first_ratio_error is None:
            progress.first_ratio_error = ratio_error
        progress.seen += len(minibatch)
        progress.position += len(minibatch)
        # An order of None makes the next epoch draw a new permutation.
        if progress.position == len(samples):
            progress.epoch, progress.position, progress.order = progress.epoch + 1, 0, None
        if settings.target_kl is not None:
            # Summed first: all processes must stop together.
            kl = all_reduce_sum(progress.totals["approx_kl"] - kl_before, policy_optimizer.accelerator)
            if kl / len(minibatch) > settings.target_kl:
                progress.epoch = settings.ppo_epochs
        yield progress


def _sample(samples: Sequence[Sample], index: int, progress: UpdateProgress, settings: TrainingSettings) -> Sample:
    if progress.old is None:
        return samples[index]
    log_prob, value, weight = progress.old[index, [LOG_PROB, VALUE, WEIGHT]].tolist()
    importance = 1.0 if settings.importance_cap is None else weight
    return replace(samples[index], log_prob=log_prob, value=value, importance=importance)


def _optimizer_step(
    policy_optimizer: PolicyOptimizer,
    minibatch: Sequence[Sample],
    totals: dict[str, float],
    settings: TrainingSettings,
    values_only: bool,
) -> float:
    """One optimizer step on a mini-batch. Adds its metrics to `totals` and returns the largest |ratio - 1|."""
    model, accelerator = policy_optimizer.model, policy_optimizer.accelerator
    # No dropout: the ratio must compare the same network before and after the weights changed.
    model.eval()
    # Data-parallel libraries average gradients over the processes. So each process divides its sum by the size of an
    # even share, not of its own: the average is then the gradient of the mean over the whole mini-batch.
    even_share = len(minibatch) / accelerator.num_processes
    measured: list[torch.Tensor] = []
    for micro_batch in micro_batches(minibatch, settings.micro_batch_size, accelerator):
        # If the mini-batch does not divide evenly, some processes score dummy samples at the end of a micro-batch:
        # every process must make the same number of collective calls. `counted` leaves them out of all sums.
        counted = slice(micro_batch.counted)
        with accumulate(model, accelerator, last=micro_batch.last):
            loss_B, metrics, ratio_B = losses(policy_optimizer, micro_batch.items, settings, values_only)
            accelerator.backward(loss_B[counted].sum() / even_share)
        # Detached, or the graph of every micro-batch would stay in memory until the last one. The zero is for a
        # micro-batch of dummy samples alone: `max` of nothing is an error.
        errors = torch.cat([ratio_B.new_zeros(1), (ratio_B[counted].detach() - 1).abs()])
        sums = [values[counted].detach().sum() for values in metrics.values()]
        measured.append(torch.stack([errors.max(), *sums]))
    # Clip through the accelerator: under FSDP the norm must be that of all processes' shards together.
    if settings.max_grad_norm is not None:
        accelerator.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
    policy_optimizer.optimizer.step()
    # Not before the next step, or the gradients would take memory while the next rollout is played.
    clear_gradients(policy_optimizer.optimizer, model)
    # Copy the metrics to the CPU once, at the end: `.item()` after each micro-batch would synchronise the GPU.
    rows: list[list[float]] = torch.stack(measured).tolist()
    for name, *column_sums in zip(metrics, *(row[1:] for row in rows), strict=True):
        totals[name] = totals.get(name, 0.0) + sum(column_sums)
    return max(row[0] for row in rows)


def losses(
    policy_optimizer: PolicyOptimizer, samples: Sequence[Sample], settings: TrainingSettings, values_only: bool = False
) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
    """PPO's loss on a micro-batch.

    Args:
        policy_optimizer: what is trained.
        samples: B of them.
        settings: the hyperparameters.
        values_only: the value loss alone, without the policy loss and without entropy and divergence.

    Returns:
        The loss (B,), the metrics (B,) by name, and the ratio of new to old probability (B,).
    """
    now = policy_optimizer.policy.rescore(policy_optimizer.model, [sample.item for sample in samples])
    log_prob_B = new_log_prob(now, policy_optimizer.thought_prob_coef)
    old_log_prob_B, old_value_B = old_log_prob(now, policy_optimizer.thought_prob_coef), now.old_value
    # All samples of a rollout were rescored before the update, or none.
    rescored = [(s.log_prob, s.value) for s in samples if s.log_prob is not None and s.value is not None]
    if rescored:
        old_log_prob_B, old_value_B = (column(numbers, now.value) for numbers in zip(*rescored, strict=True))
    advantage_B = column([sample.advantage for sample in samples], now.value)
    return_B = column([sample.value_target for sample in samples], now.value)

    policy_B, ratio_B = policy_loss(log_prob_B, old_log_prob_B, advantage_B, settings.clip_range, settings.ratio_limit)
    if rescored:
        policy_B = policy_B * column([sample.importance for sample in samples], now.value)
    value_B = value_loss(now.value, old_value_B, return_B, settings.largest_value_step)
    loss_B = settings.vf_coef * value_B
    kl: dict[str, torch.Tensor] = {}
    if now.reference_log_ratio is not None:
        kl["reference_kl"] = reverse_kl(now.reference_log_ratio).sum(-1)
    if not values_only:
        loss_B = policy_B + loss_B
        # Skipped, not multiplied by zero: the entropy's backward pass goes through the probability of every token.
        if settings.ent_coef:
            loss_B = loss_B - settings.ent_coef * now.entropy
        if kl:
            loss_B = loss_B + policy_optimizer.kl_coef * kl["reference_kl"]
    metrics = {
        **kl,
        "policy_loss": policy_B,
        "value_loss": value_B,
        "entropy": now.entropy,
        "approx_kl": approximate_kl(log_prob_B, old_log_prob_B),
        "clip_fraction": ((ratio_B - 1).abs() > settings.clip_range).float(),
    }
    return loss_B, metrics, ratio_B
