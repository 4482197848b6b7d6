"""Optimizers of all trainings, and what is done before and after an optimizer step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from rl4vlm.models.lora import trainable
from rl4vlm.training.distributed import all_reduce_sum
from rl4vlm.training.fsdp import to_local
from rl4vlm.training.muon import MuonAdamW, hidden_matrices
from rl4vlm.training.rounding import StochasticAdamW


def adamw_or_muon(
    model: PreTrainedModel, device: torch.device, *, lr: float, muon_lr: float | None, weight_decay: float = 0.0
) -> torch.optim.AdamW:
    """The optimizer of SFT and pre-training.

    Args:
        model: its trained weights are optimised.
        device: where it will be trained.
        lr: learning rate of AdamW.
        muon_lr: learning rate of Muon for hidden matrices; None uses AdamW for all weights.
        weight_decay: of both.

    Raises:
        ValueError: Muon is asked for and some weights are below float32, where it would lose small steps.
    """
    weights = trainable(model)
    if muon_lr is None:
        return adamw(weights, device, lr=lr, weight_decay=weight_decay)
    if coarse := {str(weight.dtype) for weight in weights if weight.itemsize < torch.float32.itemsize}:
        raise ValueError(f"muon_learning_rate needs weights in float32, not {', '.join(sorted(coarse))}: set dtype")
    hidden = hidden_matrices(model)
    rest = [weight for weight in weights if not any(weight is matrix for matrix in hidden)]
    return MuonAdamW(hidden, rest, hidden_lr=muon_lr, lr=lr, weight_decay=weight_decay)


def adamw(
    weights: Sequence[torch.Tensor] | Sequence[dict[str, Any]], device: torch.device, **options: Any
) -> torch.optim.AdamW:
    """AdamW for weights or parameter groups on a device; if some are in bfloat16, with stochastic rounding."""
    flat = [weight for entry in weights for weight in (entry["params"] if isinstance(entry, dict) else [entry])]
    if any(weight.dtype == torch.bfloat16 for weight in flat):
        return StochasticAdamW(weights, **options)
    return torch.optim.AdamW(weights, fused=fused(device), **options)


def fused(device: torch.device) -> bool | None:
    """An optimizer's `fused` argument: True on a GPU, None (torch's choice) elsewhere.

    A fused step is one kernel. Torch's default on GPUs copies all trained weights for the time of the step.
    """
    return True if device.type == "cuda" else None


def clear_gradients(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    """Clear the gradients before or after an optimizer step; `model` is as the accelerator prepared it."""
    # With DDP gradients are views of its buckets. Setting them to None would make each micro-batch but the last
    # allocate new ones beside the buckets, so that they take twice the memory.
    optimizer.zero_grad(set_to_none=not isinstance(model, DistributedDataParallel))


def check_finite(losses: Mapping[str, float], model: nn.Module, accelerator: Accelerator, place: str) -> None:
    """Stop a training that has diverged. Call it after an optimizer step, before anything is saved.

    All processes must call it, and either all raise or none does.

    Args:
        losses: the losses that this process measured, by name.
        model: the model itself, not a wrapper; its trained weights are checked.
        place: where in the training this is, for the message.

    Raises:
        ValueError: a loss or a trained weight is NaN or infinite, in any process.
    """
    wrong = [f"{name} is {loss}" for name, loss in losses.items() if not math.isfinite(loss)]
    if not _finite(model):
        wrong.append("trained weights are not finite")
    # Exchange the result first: a process that raised alone would leave the others waiting in the next collective call.
    if all_reduce_sum(float(len(wrong)), accelerator):
        raise ValueError(
            f"{place}: {', '.join(wrong) or 'another process found numbers that are not finite'}. The training has "
            "diverged, and this step is not saved: try a smaller learning_rate, max_grad_norm where there is one, or "
            "dtype float32"
        )


def _finite(model: nn.Module) -> bool:
    """Whether all trained weights are finite; with FSDP, those of this process's shard."""
    parts = [to_local(weight.detach()) for weight in trainable(model)]
    # The infinity norm needs no copy of the weights and propagates NaN.
    largest = nn.utils.get_total_norm([part for part in parts if part.numel()], norm_type=math.inf)
    return bool(torch.isfinite(largest))
