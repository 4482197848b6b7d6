"""One PPO update: some epochs of clipped policy and value steps over a rollout (paper, section 4.3).

Legend: B samples of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from rl4vlm.policies.trainable import Rescored, TrainablePolicy, column
from rl4vlm.ppo.losses import approximate_kl, policy_loss, value_loss
from rl4vlm.ppo.rollout import Sample
from rl4vlm.ppo.settings import TrainingSettings
from rl4vlm.training.distributed import Processes, accumulate, micro_batches
from rl4vlm.training.optim import clear_gradients


@dataclass(frozen=True)
class Learner:
    """A policy with what changes its weights: `model` is `policy.model` as the accelerator prepared it, and it is what
    a forward pass with gradients goes through."""

    policy: TrainablePolicy
    model: nn.Module
    optimizer: torch.optim.Optimizer
    accelerator: Accelerator


@dataclass
class Fit:
    """Where the fit to a rollout stands: all that it needs to go on, beside the learner and the stream of its orders.

    `order` is the running epoch's permutation of the samples (None before the epoch began), `position` where in it the
    next mini-batch begins. `old` (samples, 3) is what `scored_again` gave, None where that is not needed. `totals` are
    sums of what the losses measured over the samples that this process scored, of the `seen` samples that all scored so
    far.
    """

    epoch: int = 0
    order: np.ndarray | None = None
    position: int = 0
    seen: int = 0
    old: np.ndarray | None = None
    totals: dict[str, float] = field(default_factory=dict)
    first_ratio_error: float | None = None

    @property
    def losses(self) -> dict[str, float]:
        """Those of `totals` that are parts of the loss. What is only looked at may be infinite and no harm done: an
        estimate of the KL where a reply's probability has run away."""
        return {name: self.totals[name] for name in ("policy_loss", "value_loss", "entropy") if name in self.totals}

    def means(self, processes: Processes) -> dict[str, float]:
        """Means over all samples of what the losses measured in all processes, `first_ratio_error`, and, where samples
        were scored again, `rescored_gap`: by how much their log-probabilities then differed from those of play.

        `first_ratio_error` is the largest |ratio - 1| of the first mini-batch, before any weight has changed: up to
        rounding it is 0 exactly when replies are re-scored under the prompts they answered. `rescored_gap` says that
        where they are scored again, which makes the former small whatever the prompts.
        """
        found = processes.gather((self.totals, self.first_ratio_error or 0.0))
        means = {name: sum(totals[name] for totals, _ in found) / self.seen for name in self.totals}
        means["first_ratio_error"] = max(error for _, error in found)
        if self.old is not None:
            means["rescored_gap"] = float(np.abs(self.old[:, 0] - self.old[:, 2]).mean())
        return means


def optimiser_steps(
    learner: Learner, samples: Sequence[Sample], fit: Fit, settings: TrainingSettings, rng: np.random.Generator
) -> Iterator[Fit]:
    """Go on fitting to `samples` from where `fit` stands; yields it after each optimiser step."""
    while fit.epoch < settings.ppo_epochs:
        if fit.order is None:
            fit.order = rng.permutation(len(samples))
        if fit.seen == 0 and fit.old is None and below_float32(learner.policy.model):
            fit.old = scored_again(learner, samples, fit.order, settings)
        chosen = [_sample(samples, i, fit) for i in fit.order[fit.position : fit.position + settings.minibatch_size]]
        ratio_error = _step(learner, chosen, fit.totals, settings)
        if fit.first_ratio_error is None:
            fit.first_ratio_error = ratio_error
        fit.seen += len(chosen)
        fit.position += len(chosen)
        if fit.position == len(samples):
            fit.epoch, fit.position, fit.order = fit.epoch + 1, 0, None
        yield fit


def _sample(samples: Sequence[Sample], index: int, fit: Fit) -> Sample:
    if fit.old is None:
        return samples[index]
    log_prob, value, _ = fit.old[index].tolist()
    return replace(samples[index], log_prob=log_prob, value=value)


def below_float32(model: nn.Module) -> bool:
    """Whether a model computes in less than float32: some of its weights take less, by format or quantised."""
    return any(weight.element_size() < torch.float32.itemsize for weight in model.parameters())


@torch.no_grad()
def scored_again(
    learner: Learner, samples: Sequence[Sample], order: np.ndarray, settings: TrainingSettings
) -> np.ndarray:
    """What the update's own forward pass gives before any weight changes, (samples, 3) float64: log-probability, value,
    and beside them the log-probability when the sample was played.

    A reply is written token by token, from cached keys and values, and scored all at once. That is the same up to
    rounding, but in bfloat16 rounding, divided by the temperature and added up over a reply, comes to tenths of a nat:
    the ratio would differ from 1, and be clipped, for noise. So here the samples go through the model in the very
    micro_batches that the epoch of `order` takes. All processes must come, and each gets all.
    """
    learner.model.eval()
    mine: list[int] = []
    found: list[torch.Tensor] = []
    for start in range(0, len(order), settings.minibatch_size):
        indices = order[start : start + settings.minibatch_size].tolist()
        for micro_batch in micro_batches(indices, settings.micro_batch_size, learner.accelerator):
            now = learner.policy.rescore(learner.model, [samples[index].trace for index in micro_batch.items])
            mine += micro_batch.items[: micro_batch.counted]
            found.append(torch.stack([now.log_prob, now.value, now.old_log_prob], dim=-1)[: micro_batch.counted])
    scored = torch.cat(found)
    old = scored.new_zeros(len(samples), scored.shape[1])
    old[mine] = scored
    # Each process's rows are 0 in all the others.
    everyones: torch.Tensor = learner.accelerator.reduce(old, "sum")
    return everyones.double().cpu().numpy()


def _step(learner: Learner, chosen: Sequence[Sample], totals: dict[str, float], settings: TrainingSettings) -> float:
    """One optimiser step on a mini-batch; adds what it measured to `totals`, returns the largest |ratio - 1|.

    Each process scores its share. Gradients are averaged over the processes, so what each adds up is divided by the
    share that an even split would give it: the average is the gradient of the whole mini-batch.
    """
    learner.model.eval()  # dropout stays off: the ratio compares the same network before and after
    clear_gradients(learner.optimizer, learner.model)
    even_share = len(chosen) / learner.accelerator.num_processes
    seen: list[tuple[dict[str, torch.Tensor], torch.Tensor]] = []
    for micro_batch in micro_batches(chosen, settings.micro_batch_size, learner.accelerator):
        with accumulate(learner.model, learner.accelerator, last=micro_batch.last):
            loss_B, measured, ratio_B = losses(learner, micro_batch.items, settings)
            learner.accelerator.backward(loss_B[: micro_batch.counted].sum() / even_share)
        counted = {name: values[: micro_batch.counted].detach() for name, values in measured.items()}
        seen.append((counted, ratio_B[: micro_batch.counted].detach()))
    if settings.max_grad_norm is not None:
        learner.accelerator.clip_grad_norm_(learner.model.parameters(), settings.max_grad_norm)
    learner.optimizer.step()
    # Read only now: a GPU would have to be waited for after every micro_batch.
    ratio_errors = [0.0]
    for counted, ratio in seen:
        ratio_errors += (ratio - 1).abs().tolist()
        for name, values in counted.items():
            totals[name] = totals.get(name, 0.0) + float(values.sum())
    return max(ratio_errors)


def losses(
    learner: Learner, micro_batch: Sequence[Sample], settings: TrainingSettings
) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
    """Per sample: the loss (B,), measurements (B,) by name, and the ratio (B,)."""
    now = _against(micro_batch, learner.policy.rescore(learner.model, [sample.trace for sample in micro_batch]))
    advantage_B = column([sample.advantage for sample in micro_batch], now.value)
    target_B = column([sample.value_target for sample in micro_batch], now.value)
    policy_B, ratio_B = policy_loss(
        now.log_prob, now.old_log_prob, advantage_B, settings.clip_range, settings.ratio_limit
    )
    value_B = value_loss(now.value, now.old_value, target_B, settings.largest_value_step)
    loss_B = policy_B + settings.vf_coef * value_B
    if settings.ent_coef:  # or a backward pass over every word's probability would add zeros
        loss_B = loss_B - settings.ent_coef * now.entropy
    measured = {
        "policy_loss": policy_B,
        "value_loss": value_B,
        "entropy": now.entropy,
        "approx_kl": approximate_kl(now.log_prob, now.old_log_prob),
        "clip_fraction": ((ratio_B - 1).abs() > settings.clip_range).float(),
    }
    return loss_B, measured, ratio_B


def _against(micro_batch: Sequence[Sample], now: Rescored) -> Rescored:
    """Rescored samples beside what they are to be compared with."""
    log_probs = [sample.log_prob for sample in micro_batch if sample.log_prob is not None]
    values = [sample.value for sample in micro_batch if sample.value is not None]
    if not log_probs:
        return now
    return replace(now, old_log_prob=column(log_probs, now.value), old_value=column(values, now.value))
