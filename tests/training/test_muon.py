"""Muon on hidden matrices: torch's own steps up to its rounding, beside AdamW's exact ones."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from rl4vlm.models.loading import load_backbone
from rl4vlm.training import muon
from rl4vlm.training.accelerator import accelerator_on
from rl4vlm.training.distributed import Processes
from rl4vlm.training.fsdp import full_weights_on_main, prepare
from rl4vlm.training.muon import MuonAdamW, hidden_matrices, orthogonalised
from rl4vlm.training.optim import adamw_or_muon
from tests.launch import Launched

SHAPES = ((8, 24), (24, 8), (8, 8), (8, 24))


def gradients(step: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(shape, generator=generator) for shape in (*SHAPES, (5,))]


def weights() -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(shape)) for shape in (*SHAPES, (5,))]


def stepped(given: list[nn.Parameter], optimizers: list[torch.optim.Optimizer], steps: range) -> list[torch.Tensor]:
    for step in steps:
        for weight, gradient in zip(given, gradients(step), strict=True):
            weight.grad = gradient
        for optimizer in optimizers:
            optimizer.step()
    return [weight.detach().clone() for weight in given]


def ours(given: list[nn.Parameter]) -> MuonAdamW:
    return MuonAdamW(given[:-1], given[-1:], hidden_lr=0.02, lr=0.01, weight_decay=0.1)


def test_steps_are_torchs() -> None:
    one, other = weights(), weights()
    torchs = torch.optim.Muon(other[:-1], lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(other[-1:], lr=0.01, weight_decay=0.1)
    *hidden, rest = stepped(one, [ours(one)], range(5))
    *expected, expected_rest = stepped(other, [torchs, adamw], range(5))
    assert torch.equal(rest, expected_rest)
    for matrix, theirs in zip(hidden, expected, strict=True):
        # Torch orthogonalises in bfloat16, which has 8 bits.
        assert (matrix - theirs).norm() < 0.02 * (theirs - 1).norm()


def test_it_resumes_from_its_state() -> None:
    whole, part = weights(), weights()
    stepped(whole, [ours(whole)], range(4))
    before = ours(part)
    stepped(part, [before], range(2))
    after = ours(part)
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    stepped(part, [after], range(2, 4))
    assert all(torch.equal(one, other) for one, other in zip(whole, part, strict=True))


def test_many_matrices_of_one_shape_are_stepped_in_several_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    together, apart = weights(), weights()
    stepped(together, [ours(together)], range(2))
    monkeypatch.setattr(muon, "TOGETHER", 1)
    stepped(apart, [ours(apart)], range(2))
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other)


def three_steps(accelerator: Accelerator | None = None) -> nn.Module:
    """Train a network whose matrices cannot be shared out evenly: a convolution of 7 rows, then 28, 5 and 1 rows."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 7, 4, 4), nn.Flatten(), *(nn.Linear(*size) for size in ((28, 5), (5, 28))))
    network.append(nn.Linear(28, 1)).double()
    hidden = [weight for weight in network.parameters() if weight.ndim > 1]
    rest = [weight for weight in network.parameters() if weight.ndim == 1]
    optimizer = MuonAdamW(hidden, rest, hidden_lr=0.02, lr=0.01, weight_decay=0.1)
    model, stepping = (network, optimizer) if accelerator is None else prepare(network, optimizer, accelerator)
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        stepping.zero_grad()
        model(torch.rand(4, 3, 8, 8, generator=generator, dtype=torch.float64)).square().mean().backward()
        stepping.step()
    return model


def sharded(out: Path) -> None:
    accelerator = accelerator_on("cpu", 60.0)
    model = three_steps(accelerator)
    assert Processes(accelerator, 60.0).sharded
    with full_weights_on_main(model, accelerator):
        if accelerator.is_main_process:
            torch.save(list(model.parameters()), out)


def test_sharded_matrices_step_as_whole_ones(tmp_path: Path) -> None:
    Launched(tmp_path, "fsdp", sharded, tmp_path / "weights.pt").assert_success()
    found = torch.load(tmp_path / "weights.pt")
    for one, other in zip(found, three_steps().parameters(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("shape", [(3, 6, 20), (3, 20, 6)])
def test_singular_values_become_about_one(shape: tuple[int, ...]) -> None:
    values = torch.linalg.svdvals(orthogonalised(torch.randn(shape, generator=torch.Generator().manual_seed(0))))
    assert 0.6 < values.min() <= values.max() < 1.3


def test_a_models_hidden_matrices_are_its_layers(tiny_checkpoint: Path) -> None:
    model = load_backbone(tiny_checkpoint).model
    names = {id(weight): name for name, weight in model.named_parameters()}
    hidden = {names[id(weight)] for weight in hidden_matrices(model)}
    assert hidden == {
        name
        for name, weight in model.named_parameters()
        if weight.ndim > 1 and not any(part in name for part in ("embed_tokens", "position_embedding", "lm_head"))
    }
    optimizer = adamw_or_muon(model, model.device, lr=1e-3, muon_lr=1e-2)
    assert isinstance(optimizer, MuonAdamW)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(names)
    assert not isinstance(adamw_or_muon(model, model.device, lr=1e-3, muon_lr=None), MuonAdamW)


def test_weights_in_bfloat16_are_refused(tiny_checkpoint: Path) -> None:
    model = load_backbone(tiny_checkpoint, dtype="bfloat16").model
    with pytest.raises(ValueError, match=r"float32, not torch\.bfloat16"):
        adamw_or_muon(model, model.device, lr=0.1, muon_lr=0.1)
