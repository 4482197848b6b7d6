"""What every training does around an optimizer's step."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from rl4vlm.training.accelerator import accelerator_on
from rl4vlm.training.distributed import accumulate
from rl4vlm.training.fsdp import prepare
from rl4vlm.training.optim import check_finite, clear_gradients, fused
from tests.launch import Launched


def check(losses: dict[str, float], model: nn.Module | None = None) -> None:
    check_finite(losses, model or nn.Linear(2, 2), accelerator_on("cpu", 60.0), "Task, step 3 of 9")


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_named_with_its_place(number) -> None:
    check({"loss": 1e30, "other": 0.0})
    with pytest.raises(ValueError, match=rf"^Task, step 3 of 9: other is {number}\. .* smaller learning_rate"):
        check({"loss": 1.0, "other": number})
    model = nn.Linear(2, 2)
    model.bias.data[1] = number
    with pytest.raises(ValueError, match="step 3 of 9: trained weights are not finite"):
        check({"loss": 1.0}, model)
    check({"loss": 1.0}, model.requires_grad_(False))


def one_of_two_diverges(folder: Path) -> None:
    accelerator = accelerator_on("cpu", 60.0)
    rank = accelerator.process_index
    check_finite({"loss": 1.0}, nn.Linear(2, 2), accelerator, "step 1")
    try:
        check_finite({"loss": math.nan if rank == 1 else 1.0}, nn.Linear(2, 2), accelerator, "step 2")
    except ValueError as error:
        (folder / f"said{rank}").write_text(str(error))


def test_all_processes_stop_where_one_diverges(tmp_path: Path) -> None:
    Launched(tmp_path, "ddp", one_of_two_diverges, tmp_path).assert_success()
    said = [(tmp_path / f"said{rank}").read_text() for rank in range(2)]
    assert said[0].startswith("step 2: another process found numbers that are not finite")
    assert said[1].startswith("step 2: loss is nan")


def two_steps_of_two_pieces(folder: Path) -> None:
    accelerator = accelerator_on("cpu", 60.0)
    network = nn.Linear(3, 2)
    model, optimizer = prepare(network, torch.optim.SGD(network.parameters(), lr=0.0), accelerator)
    places, gradients = [], []
    for step in range(2):
        clear_gradients(optimizer, model)
        for last in (False, True):
            with accumulate(model, accelerator, last=last):
                accelerator.backward(model(torch.full((1, 3), step + 1.0)).sum())
        found = [gradient for parameter in network.parameters() if (gradient := parameter.grad) is not None]
        places.append({gradient.untyped_storage().data_ptr() for gradient in found})
        gradients.append(found[0].clone())
        optimizer.step()
    torch.save((places, gradients), folder / f"found{accelerator.process_index}")


def test_with_ddp_gradients_live_in_its_buckets_from_the_first_step_on(tmp_path: Path) -> None:
    """All gradients are in one buffer, the same in each step, so none is copied or stored twice."""
    Launched(tmp_path, "ddp", two_steps_of_two_pieces, tmp_path).assert_success()
    for rank in range(2):
        places, gradients = torch.load(tmp_path / f"found{rank}")
        assert len(places[0]) == 1
        assert places[0] == places[1]
        assert torch.equal(gradients[0], torch.full((2, 3), 2.0))
        assert torch.equal(gradients[1], torch.full((2, 3), 4.0))


def test_optimizers_are_fused_on_a_gpu_alone() -> None:
    assert fused(torch.device("cuda", 1)) is True
    assert fused(torch.device("cpu")) is None


def test_weights_in_half_precision_are_looked_at_too() -> None:
    model = nn.Linear(2, 2, dtype=torch.bfloat16)
    check({}, model)
    model.weight.data[0, 0] = math.inf
    with pytest.raises(ValueError, match="weights are not finite"):
        check({}, model)
