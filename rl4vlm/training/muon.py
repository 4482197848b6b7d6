"""Muon on the hidden matrices of a model, and AdamW on the rest of it (Jordan et al. 2024; Liu et al. 2025)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW
from transformers import PreTrainedModel

from rl4vlm.training.fsdp import own_shard, to_local

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic Newton-Schulz iteration (Jordan et al. 2024)."""
ITERATIONS = 5
TOGETHER = 2**28
"""Numbers that are orthogonalised in one call: 1 GB, of which the iteration holds a few copies."""


def hidden_matrices(model: PreTrainedModel) -> list[torch.Tensor]:
    """The trained weights of linear and convolutional layers, apart from the output head, which is an embedding."""
    head = model.get_output_embeddings()
    kinds = (nn.Linear, nn.Conv2d)  # the vision tower's first layer is a convolution over patches: a matrix, too
    layers = [module for module in model.modules() if isinstance(module, kinds) and module is not head]
    return [layer.weight for layer in layers if layer.weight.requires_grad]


class MuonAdamW(AdamW):
    """One optimizer with two kinds of step: Muon's for hidden matrices, AdamW's for all other weights.

    `torch.optim.Muon` orthogonalises in bfloat16, one matrix at a time: on a CPU without bfloat16 units that takes four
    times as long as in float32, and matrices of one shape can share a call (docs/log.md, 2026-11-28).

    Args:
        hidden: the matrices, as float32.
        rest: the other trained weights.
        hidden_lr: learning rate of the matrices. A step moves a matrix about as far as AdamW's would with this rate (a
            root mean square of 0.2 per entry; Liu et al. 2025, eq. 4).
        lr: learning rate of the rest.
        weight_decay: decoupled weight decay of both.
        momentum: of Muon, Nesterov's.
    """

    def __init__(
        self,
        hidden: Sequence[torch.Tensor],
        rest: Sequence[torch.Tensor],
        *,
        hidden_lr: float,
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
    ) -> None:
        groups = [{"params": hidden, "lr": hidden_lr}, {"params": rest, "lr": lr}]
        self.momentum = momentum
        super().__init__(groups, weight_decay=weight_decay)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step: AdamW's for its own group, with Muon's group hidden from it, then Muon's."""
        hidden, rest = self.param_groups
        self.param_groups = [rest]
        try:
            loss = super().step(closure)
        finally:
            self.param_groups = [hidden, rest]
        by_shape: dict[torch.Size, list[torch.Tensor]] = defaultdict(list)
        for weight in hidden["params"]:
            if weight.grad is not None:
                by_shape[weight.shape].append(weight)
        for shape, weights in by_shape.items():
            at_once = max(1, TOGETHER // shape.numel())
            for start in range(0, len(weights), at_once):
                self._step_together(weights[start : start + at_once], shape, hidden)
        return loss

    def _step_together(self, weights: Sequence[torch.Tensor], shape: torch.Size, hidden: dict[str, Any]) -> None:
        """Muon's step of some matrices of one shape."""
        directions = orthogonalised(torch.stack([self._direction(weight).flatten(1) for weight in weights]))
        size = hidden["lr"] * 0.2 * math.sqrt(max(shape[0], shape[1:].numel()))
        for weight, direction in zip(weights, directions, strict=True):
            step = own_shard(direction.view(shape), weight)
            to_local(weight).mul_(1 - hidden["lr"] * hidden["weight_decay"]).sub_(step, alpha=size)

    def _direction(self, weight: torch.Tensor) -> torch.Tensor:
        """Nesterov's momentum of the gradient, which `step` has checked to be there. It is never sharded."""
        state, gradient = self.state[weight], weight.grad
        assert gradient is not None
        if not state:
            # AdamW looks for the number of steps when it loads a state.
            state.update({"step": torch.tensor(0.0), "momentum_buffer": torch.zeros_like(weight)})
        average = state["momentum_buffer"].lerp_(gradient, 1 - self.momentum)
        direction = gradient.lerp(average, self.momentum)
        # A collective call: the iteration multiplies a matrix by itself, and needs all of it.
        return direction.full_tensor() if isinstance(direction, DTensor) else direction


def orthogonalised(matrices: torch.Tensor) -> torch.Tensor:
    """Matrices (N, rows, columns) with the singular vectors of the given ones, and singular values of 0.7 to 1.2."""
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices  # the products below are then of the shorter side
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
