"""Weights sharded over the processes with FSDP2: full for generation and for checkpoints, sharded otherwise.

Without FSDP every function here leaves the model as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import nn
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from rl4vlm.models.value_head import ValueHead


def prepare(model: nn.Module, optimizer: torch.optim.Optimizer, accelerator: Accelerator) -> tuple[nn.Module, Any]:
    """Prepare a model and its optimizer with accelerate.

    Args:
        model: if it has `forward_methods`, those are the methods beside `forward` that use its weights.
        optimizer: that of the model's trained weights.
        accelerator: that of the training.

    Returns:
        The prepared model and optimizer.

    Raises:
        ValueError: the weights are quantised, and FSDP would have to shard them.
    """
    if accelerator.is_fsdp2:
        if any(getattr(module, "is_quantized", False) for module in model.modules()):
            raise ValueError("quantize: FSDP cannot shard quantised weights: use config/accelerate/ddp.yaml")
        accelerator.state.fsdp_plugin.transformer_cls_names_to_wrap = units(model)
    prepared, optimizer = accelerator.prepare(model, optimizer)
    for method in getattr(model, "forward_methods", ()):
        # FSDP gathers a unit's weights in a hook on `forward`; other methods need the hook too.
        register_fsdp_forward_method(prepared, method)
    return prepared, optimizer


def units(model: nn.Module) -> list[str]:
    """Names of the module classes whose weights FSDP gathers together: a backbone's layers, and the value head.

    The layers are those that the model's family lists as not to be split over devices. The value head is a unit of its
    own because its precision may differ, and a unit has one dtype.
    """
    there = {type(module).__name__ for module in model.modules()}
    asked = {name for module in model.modules() for name in getattr(module, "_no_split_modules", None) or ()}
    # Families also list classes that this model does not have, which accelerate would refuse.
    return sorted(there & {*asked, ValueHead.__name__})


def _fsdp_modules(model: nn.Module) -> list[FSDPModule]:
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


@contextmanager
def unsharded_for_generation(model: nn.Module, accelerator: Accelerator) -> Iterator[None]:
    """Hold all weights in every process, so that forward passes inside the block are not collective calls.

    Replies end at different lengths, so the processes make different numbers of forward passes. All processes must
    enter the block together.
    """
    parts = _fsdp_modules(model)
    for part in parts:
        # Otherwise each layer would free its gathered weights after the first forward pass.
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        reshard(model)
        for part in parts:
            # The root's weights are needed first in the backward pass: resharding them would only gather them again.
            again = accelerator.state.fsdp_plugin.reshard_after_forward and part is not model
            part.set_reshard_after_forward(again, recurse=False)


def reshard(model: nn.Module) -> None:
    """Free the gathered weights; each process keeps its own shard."""
    for part in _fsdp_modules(model):
        part.reshard()


def to_local(content: Any) -> Any:
    """Replace each sharded tensor by this process's shard, which is not copied. Looks into dictionaries."""
    if isinstance(content, DTensor):
        return content.to_local()
    if isinstance(content, dict):
        return {name: to_local(value) for name, value in content.items()}
    return content


def own_shard(whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """This process's shard of a tensor that all processes have, cut as `like` is; the tensor itself without FSDP."""
    if not isinstance(like, DTensor):
        return whole
    # Without a source, each process cuts its own copy, and none is sent.
    cut = distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)
    return cut.to_local()


def to_sharded(saved: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Turn an optimizer's state with this process's shards (`to_local`) into one that `load_state_dict` accepts."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = {
        number: {name: _sharded_like(parameters[number], value) for name, value in values.items()}
        for number, values in saved["state"].items()
    }
    return {**saved, "state": state}


def _sharded_like(parameter: torch.Tensor, shard: Any) -> Any:
    # Adam's step count is a tensor without dimensions, and is not sharded.
    if not isinstance(parameter, DTensor) or shard.dim() == 0:
        return shard
    # Saved states are read to the CPU.
    mesh, placements = parameter.device_mesh, parameter.placements
    shard = shard.to(parameter.device)
    return DTensor.from_local(shard, mesh, placements, shape=parameter.shape, stride=parameter.stride())


@contextmanager
def full_weights_on_main(model: nn.Module, accelerator: Accelerator) -> Iterator[None]:
    """Inside the block, the main process's model has its full weights on the CPU, and can be saved as if unsharded.

    All processes must enter the block together; the others keep their shards.
    """
    reshard(model)
    places = [
        (module, name, parameter)
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if isinstance(parameter, DTensor)
    ]
    # A parameter in two places, such as tied embeddings, must stay one object, or it would be saved twice.
    gathered: dict[nn.Parameter, nn.Parameter] = {}
    for _, _, parameter in places:
        if parameter not in gathered:
            # A collective call: each process gets the full weight, one weight at a time.
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
