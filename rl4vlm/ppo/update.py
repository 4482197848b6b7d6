"""One PPO update: some epochs of clipped policy and value steps over a rollout (paper, section 4.3).

Legend: B samples of a micro-batch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator

from rl4vlm.ppo.losses import action_log_prob, approximate_kl, policy_loss, value_loss
from rl4vlm.ppo.rollout import Sample


@dataclass(frozen=True)
class UpdateSettings:
    """The hyperparameters of one update.

    `minibatch` samples make one optimiser step, processed `micro_batch` at a time; the size of the pieces changes
    memory and speed, never the result.
    """

    epochs: int
    minibatch: int
    micro_batch: int
    clip: float
    value_coefficient: float
    entropy_coefficient: float
    thought_weight: float
    max_grad_norm: float | None


def update(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
    samples: Sequence[Sample],
    settings: UpdateSettings,
    rng: np.random.Generator,
) -> dict[str, float]:
    """Fit the model to a rollout; returns the means over all samples of what the losses measured.

    `first_ratio_error` is the largest |ratio - 1| of the first mini-batch, before any weight has changed: it is 0 up to
    rounding exactly when replies are re-scored under the prompts they answered.
    """
    totals: dict[str, float] = defaultdict(float)
    seen = 0
    first_error: float | None = None
    for _ in range(settings.epochs):
        order = rng.permutation(len(samples))
        for start in range(0, len(order), settings.minibatch):
            chosen = [samples[i] for i in order[start : start + settings.minibatch]]
            optimizer.zero_grad()
            ratio_errors = []
            for piece_start in range(0, len(chosen), settings.micro_batch):
                piece = chosen[piece_start : piece_start + settings.micro_batch]
                losses, ratio = _losses(model, piece, settings)
                accelerator.backward(losses["loss"].sum() / len(chosen))
                for name, values in losses.items():
                    totals[name] += float(values.detach().sum())
                ratio_errors.append(float((ratio.detach() - 1).abs().max()))
            seen += len(chosen)
            if first_error is None:
                first_error = max(ratio_errors)
            if settings.max_grad_norm is not None:
                accelerator.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
            optimizer.step()
    means = {name: total / seen for name, total in totals.items() if name != "loss"}
    return {**means, "first_ratio_error": first_error or 0.0}


def _losses(
    model: torch.nn.Module, piece: Sequence[Sample], settings: UpdateSettings
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Per-sample losses and measurements (B,) by name, and the ratio (B,)."""
    model.eval()  # dropout stays off: the ratio compares the same network before and after
    scores = model([s.trace.prompt for s in piece], [s.trace.ids for s in piece])

    def column(values: list[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float32, device=scores.values.device)

    start_B = torch.tensor([s.trace.action_start for s in piece], device=scores.values.device)
    log_prob_B = action_log_prob(scores.logprobs, scores.mask, start_B, settings.thought_weight)
    old_B = column([settings.thought_weight * s.trace.logprob_thoughts + s.trace.logprob_action for s in piece])
    policy_B, ratio_B = policy_loss(log_prob_B, old_B, column([s.advantage for s in piece]), settings.clip)
    value_B = value_loss(
        scores.values,
        column([s.trace.value for s in piece]),
        column([s.value_target for s in piece]),
        settings.clip,
    )
    entropy_B = scores.entropy.sum(-1) / scores.mask.sum(-1)
    loss_B = policy_B + settings.value_coefficient * value_B - settings.entropy_coefficient * entropy_B
    measured = {
        "loss": loss_B,
        "policy_loss": policy_B,
        "value_loss": value_B,
        "entropy": entropy_B,
        "approx_kl": approximate_kl(log_prob_B, old_B),
        "clip_fraction": ((ratio_B - 1).abs() > settings.clip).float(),
    }
    return measured, ratio_B
