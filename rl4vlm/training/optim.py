"""What the trainings do alike around an optimiser's step."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from rl4vlm.models.lora import trainable
from rl4vlm.training.distributed import all_reduce_sum
from rl4vlm.training.fsdp import to_local


def fused(device: torch.device) -> bool | None:
    """An optimiser's argument of that name: on a GPU its step is one kernel, which needs no memory of its own, where
    torch's usual way makes copies of all trained weights' size. None leaves the choice to torch."""
    return True if device.type == "cuda" else None


def clear_gradients(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    """Begin an optimiser step; `model` is as the accelerator prepared it.

    With DDP gradients live in the buckets that it exchanges, and are set to 0 there: dropped, they would be made anew
    beside the buckets by each micro-batch but the last, and be there twice.
    """
    optimizer.zero_grad(set_to_none=not isinstance(model, DistributedDataParallel))


def check_finite(losses: Mapping[str, float], model: nn.Module, accelerator: Accelerator, place: str) -> None:
    """To be called after an optimiser step, before anything is saved: NaN and infinities never leave a training again.

    All processes must come, and all raise alike. The weights are read once, where the loss is read anyway.

    Args:
        losses: what this process measured of its share, by name.
        model: itself, not a wrapper of it; its trained weights are looked at.
        place: where in the training this is, for the message.

    Raises:
        ValueError: one of `losses` or a trained weight is not finite, in any of the processes.
    """
    wrong = [f"{name} is {loss}" for name, loss in losses.items() if not math.isfinite(loss)]
    if not _finite(model):
        wrong.append("trained weights are not finite")
    if all_reduce_sum(float(len(wrong)), accelerator):
        raise ValueError(
            f"{place}: {', '.join(wrong) or 'another process found numbers that are not finite'}. The training has "
            "diverged, and this step is not saved: try a smaller learning_rate, max_grad_norm where there is one, or "
            "dtype float32"
        )


def _finite(model: nn.Module) -> bool:
    """Whether all trained weights are, of split ones this process's part."""
    parts = [to_local(weight.detach()) for weight in trainable(model)]
    # The largest absolute value copies nothing, and NaN is larger than all.
    largest = nn.utils.get_total_norm([part for part in parts if part.numel()], norm_type=math.inf)
    return bool(torch.isfinite(largest))
