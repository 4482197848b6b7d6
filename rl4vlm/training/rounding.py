"""AdamW for weights in bfloat16, which loses no small steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.optim import AdamW

from rl4vlm.training.fsdp import to_local

PIECE = 2**24
"""Numbers that are computed at once. The copies in float32 and the random bits then take 0.6 GB, however large a weight
is; those of an embedding of 131 million numbers would take 4.5 GB."""


class StochasticAdamW(AdamW):
    """AdamW in float32 arithmetic that rounds bfloat16 weights and moments stochastically when it stores them.

    Rounded to the nearest, a step of less than half a weight's spacing (0.2 to 0.4 % of the weight) is lost however
    often it is repeated, and so is the decay of a second moment. Rounded up or down at random, with the distances as
    odds, steps add up to what they should on average, without more memory. Other dtypes are stored as they are
    (docs/decisions/0008-stochastic-rounding.md).
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        generators: dict[torch.device, torch.Generator] = {}
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, group, generators)
        return loss

    def _update(
        self, weight: torch.Tensor, group: dict[str, Any], generators: dict[torch.device, torch.Generator]
    ) -> None:
        state = self.state[weight]
        if not state:
            zeros = {name: torch.zeros_like(weight) for name in ("exp_avg", "exp_avg_sq")}
            state.update({"step": torch.tensor(0.0), **zeros})
        state["step"] += 1
        step, (beta1, beta2) = int(state["step"]), group["betas"]
        if weight.device not in generators:
            # Seeded by the step: data-parallel processes must round alike, whatever else they draw, and a resumed run
            # must round as an unbroken one.
            generators[weight.device] = torch.Generator(weight.device).manual_seed(step)
        whole = [to_local(tensor) for tensor in (weight.detach(), state["exp_avg"], state["exp_avg_sq"], weight.grad)]
        for *stored, gradient in zip(*map(pieces, whole), strict=True):
            # Copies in float32, or the tensors themselves if they are in float32.
            exact, mean, square, slope = (tensor.float() for tensor in (*stored, gradient))
            mean.lerp_(slope, 1 - beta1)
            square.mul_(beta2).addcmul_(slope, slope, value=1 - beta2)
            size = (square / (1 - beta2**step)).sqrt_().add_(group["eps"])
            exact.mul_(1 - group["lr"] * group["weight_decay"])
            exact.addcdiv_(mean, size, value=-group["lr"] / (1 - beta1**step))
            for target, value in zip(stored, (exact, mean, square), strict=True):
                if target.dtype == torch.bfloat16:
                    target.copy_(round_to_bfloat16(value, generators[weight.device]))


def pieces(tensor: torch.Tensor) -> Sequence[torch.Tensor]:
    """Views of a tensor's rows, of at most `PIECE` numbers each if a row has no more."""
    tensor = torch.atleast_1d(tensor)
    return tensor.split(max(1, PIECE // max(1, tensor.shape[1:].numel())))


def round_to_bfloat16(exact: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Round float32 numbers to one of the two nearest of bfloat16 at random, so that the expected value is the number.

    A bfloat16 is the upper half of a float32, so uniform noise is added to the lower half, which is then cut.
    """
    noise = torch.randint(1 << 16, exact.shape, generator=generator, device=exact.device, dtype=torch.int32)
    rounded = (exact.view(torch.int32) + noise).bitwise_and_(-(1 << 16)).view(torch.float32)
    # A GPU's NaN has all bits set: the sum would overflow into a zero.
    return torch.where(exact.isfinite(), rounded, exact).bfloat16()
