"""Trainings in bfloat16 move as far as in float32."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from rl4vlm.training import rounding
from rl4vlm.training.optim import adamw
from rl4vlm.training.rounding import StochasticAdamW, round_to_bfloat16

STEPS = 781  # 50,000 demonstrations in batches of 64


def moved(kind: type[torch.optim.AdamW], dtype: torch.dtype, spread: float) -> torch.Tensor:
    """How far SFT's schedule moves weights from what bfloat16 can store; the gradients are signal and noise."""
    generator = torch.Generator().manual_seed(0)
    start = (spread * torch.randn(2000, generator=generator)).bfloat16()
    signal = 0.3 * torch.randn(2000, generator=generator)
    weight = nn.Parameter(start.to(dtype, copy=True))
    optimizer = kind([weight], weight_decay=0.0)
    for step in range(STEPS):
        rate = min((step + 1) / 23, (1 + math.cos(math.pi * step / STEPS)) / 2)
        optimizer.param_groups[0]["lr"] = 2e-5 * rate
        weight.grad = (signal + torch.randn(2000, generator=generator)).to(dtype)
        optimizer.step()
    return weight.detach().double() - start.double()


@pytest.mark.parametrize("spread", [0.02, 0.003])
def test_a_whole_schedule_moves_as_far_as_in_float32(spread: float) -> None:
    exact = moved(torch.optim.AdamW, torch.float32, spread)

    def share(way: torch.Tensor) -> float:
        return float(way @ exact / (exact @ exact))

    assert share(moved(StochasticAdamW, torch.bfloat16, spread)) > 0.95
    assert share(moved(torch.optim.AdamW, torch.bfloat16, spread)) < 0.6  # what is mended


def test_rounding_is_right_on_average_and_keeps_what_is_not_finite() -> None:
    generator = torch.Generator().manual_seed(0)
    number = torch.full((100_000,), 1 + 2**-9)  # a quarter of the way from 1 to the next
    rounded = round_to_bfloat16(number, generator)
    assert sorted(set(rounded.tolist())) == [1.0, 1 + 2**-7]
    assert float(rounded.double().mean()) == pytest.approx(1 + 2**-9, abs=1e-4)
    exact = torch.tensor([1.5, -0.25, 0.0, math.inf, -math.inf])
    assert round_to_bfloat16(exact, generator).tolist() == exact.tolist()
    of_a_gpu = torch.tensor([0x7FFFFFFF], dtype=torch.int32).view(torch.float32)
    assert round_to_bfloat16(of_a_gpu, generator).isnan().all()


def test_in_float32_it_is_adamw_and_only_bfloat16_gets_it() -> None:
    coarse, fine = nn.Parameter(torch.ones(3, dtype=torch.bfloat16)), nn.Parameter(torch.ones(3))
    cpu = torch.device("cpu")
    assert type(adamw([fine], cpu)) is torch.optim.AdamW
    groups: list[dict[str, Any]] = [{"params": [fine]}, {"params": [coarse], "lr": 1.0}]
    assert isinstance(adamw(groups, cpu), StochasticAdamW)
    ours, theirs = (nn.Parameter(torch.linspace(-1, 1, 5)) for _ in range(2))
    optimizers = [StochasticAdamW([ours], lr=0.1), torch.optim.AdamW([theirs], lr=0.1)]
    for step in range(3):
        for weight, optimizer in zip((ours, theirs), optimizers, strict=True):
            weight.grad = torch.arange(5.0) - step
            optimizer.step()
    torch.testing.assert_close(ours, theirs)


def test_a_large_weight_is_stepped_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise an embedding's copies in float32 would take gigabytes of a GPU's memory."""
    sizes: list[int] = []

    def noted(exact: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        sizes.append(exact.numel())
        return round_to_bfloat16(exact, generator)

    monkeypatch.setattr(rounding, "PIECE", 6)
    monkeypatch.setattr(rounding, "round_to_bfloat16", noted)
    coarse, fine = (nn.Parameter(torch.ones(5, 3, dtype=dtype)) for dtype in (torch.bfloat16, torch.float32))
    single, theirs = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.ones(5, 3))
    for weight in (coarse, fine, theirs):
        weight.grad = torch.arange(15.0, dtype=weight.dtype).view(5, 3)
    single.grad = torch.tensor(1.0)
    StochasticAdamW([coarse, fine, single], lr=0.1).step()
    torch.optim.AdamW([theirs], lr=0.1).step()
    assert (max(sizes), sum(sizes)) == (6, 3 * coarse.numel())
    torch.testing.assert_close(fine, theirs)
    torch.testing.assert_close(coarse.float(), theirs, atol=0.01, rtol=0.0)
    assert single.item() < 1


def test_a_resumed_training_rounds_like_an_unbroken_one() -> None:
    def train(steps: range, weight: torch.Tensor, state: dict | None = None) -> tuple[torch.Tensor, dict]:
        parameter = nn.Parameter(weight.clone())
        optimizer = StochasticAdamW([parameter], lr=1e-4)
        if state is not None:
            optimizer.load_state_dict(state)
        for step in steps:
            parameter.grad = torch.full_like(parameter, 1.0 + step)
            optimizer.step()
        return parameter.detach(), optimizer.state_dict()

    start = torch.linspace(-1, 1, 1000).bfloat16()
    whole, _ = train(range(6), start)
    half = train(range(3), start)
    torch.rand(7)  # the global stream does not matter
    again, _ = train(range(3, 6), *half)
    assert torch.equal(whole, again)
