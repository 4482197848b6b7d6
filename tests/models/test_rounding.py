"""What docs/fidelity.md says about fine-tuning in pure bfloat16."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

LOG = Path(__file__).parents[2] / "docs" / "log.md"


def changed(rate: float) -> float:
    """Percent of a million bfloat16 weights (standard deviation 0.02) that one full Adam step changes."""
    generator = torch.Generator().manual_seed(0)
    weights = (0.02 * torch.randn(1_000_000, generator=generator)).bfloat16()
    parameter = torch.nn.Parameter(weights.clone())
    # Adam's first step is the learning rate times the sign of the gradient.
    parameter.grad = torch.randn(weights.shape, generator=generator).bfloat16()
    torch.optim.AdamW([parameter], lr=rate, weight_decay=0.0).step()
    return 100 * float((parameter.detach() != weights).float().mean())


def test_most_steps_of_a_bfloat16_fine_tuning_are_lost_as_documented() -> None:
    found = re.search(
        r"(\d+) % of bfloat16 weights of spread 0\.02 at a learning rate of 2e-5, (\d+) % at 1e-5, (\d+) % at 5e-6",
        LOG.read_text(),
    )
    assert found
    measured = [changed(rate) for rate in (2e-5, 1e-5, 5e-6)]
    assert [float(share) for share in found.groups()] == pytest.approx(measured, abs=0.7)
