"""Weights split over the processes (FSDP2, by accelerate): whole where a model plays or is saved, split elsewhere.

Without FSDP all of this changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import nn
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from rl4vlm.models.value_head import ValueHead


def prepare(model: nn.Module, optimizer: torch.optim.Optimizer, accelerator: Accelerator) -> tuple[nn.Module, Any]:
    """What `accelerator.prepare` makes of a model and its optimiser.

    With FSDP each layer of a backbone is a unit that is put together and split again by itself, and so is the value
    head, whose precision is its own. A model's `forward_methods` names its methods that use weights beside `forward`.

    Raises ValueError for quantised weights, which cannot be split.
    """
    if accelerator.is_fsdp2:
        if any(getattr(module, "is_quantized", False) for module in model.modules()):
            raise ValueError("quantize: quantised weights cannot be split by FSDP: use config/accelerate/ddp.yaml")
        accelerator.state.fsdp_plugin.transformer_cls_names_to_wrap = units(model)
    prepared, optimizer = accelerator.prepare(model, optimizer)
    for method in getattr(model, "forward_methods", ()):
        register_fsdp_forward_method(prepared, method)
    return prepared, optimizer


def units(model: nn.Module) -> list[str]:
    """Names of the classes whose weights are put together at a time: what the family says is not to be split."""
    there = {type(module).__name__ for module in model.modules()}
    asked = {name for module in model.modules() for name in getattr(module, "_no_split_modules", None) or ()}
    return sorted(there & {*asked, ValueHead.__name__})


def _split_parts(model: nn.Module) -> list[FSDPModule]:
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


@contextmanager
def unsharded_for_generation(model: nn.Module, accelerator: Accelerator) -> Iterator[None]:
    """Every process holds all weights: forward passes inside meet no other process, so each may make as many as it
    likes. All must come to the beginning."""
    parts = _split_parts(model)
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        split(model)
        for part in parts:
            # The outermost part is needed first in the backward pass, too.
            again = accelerator.state.fsdp_plugin.reshard_after_forward and part is not model
            part.set_reshard_after_forward(again, recurse=False)


def split(model: nn.Module) -> None:
    """Give up the other processes' weights."""
    for part in _split_parts(model):
        part.reshard()


def to_local(content: Any) -> Any:
    """A tensor, or a dictionary with tensors in it, as this process keeps it: of a split one its part, not a copy."""
    if isinstance(content, DTensor):
        return content.to_local()
    if isinstance(content, dict):
        return {name: to_local(value) for name, value in content.items()}
    return content


def to_sharded(saved: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimiser's state as its `load_state_dict` wants it, from what `to_local` gave in this process."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = {
        number: {name: _split_like(parameters[number], value) for name, value in values.items()}
        for number, values in saved["state"].items()
    }
    return {**saved, "state": state}


def _split_like(parameter: torch.Tensor, own: Any) -> Any:
    # The number of steps is a tensor without dimensions, and every process has it.
    if not isinstance(parameter, DTensor) or own.dim() == 0:
        return own
    mesh, placements = parameter.device_mesh, parameter.placements
    own = own.to(parameter.device)
    return DTensor.from_local(own, mesh, placements, shape=parameter.shape, stride=parameter.stride())


@contextmanager
def full_weights_on_main(model: nn.Module, accelerator: Accelerator) -> Iterator[None]:
    """The main process's model holds all weights, on the CPU, as if it had never been split, and can be saved. All must
    come to the beginning."""
    split(model)
    places = [
        (module, name, parameter)
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if isinstance(parameter, DTensor)
    ]
    # A weight in two places, such as tied embeddings, stays one.
    gathered: dict[nn.Parameter, nn.Parameter] = {}
    for _, _, parameter in places:
        if parameter not in gathered:
            full = cast(DTensor, parameter.detach()).full_tensor()
            whole = nn.Parameter(full.cpu(), parameter.requires_grad)
            gathered[parameter] = whole if accelerator.is_main_process else parameter
    try:
        for module, name, parameter in places:
            setattr(module, name, gathered[parameter])
        yield
    finally:
        for module, name, parameter in places:
            setattr(module, name, parameter)
