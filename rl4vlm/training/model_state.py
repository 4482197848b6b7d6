"""What a training has learned: weights, optimizer and schedule; and the global random streams.

Each training adds its own fields to this (`Resumable` in `rl4vlm.training.resume`).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from rl4vlm.training.fsdp import reshard, to_local, to_sharded


def trained_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """The parameters with a gradient, and the buffers, by name; with FSDP this process's shards."""
    # Frozen weights are in the checkpoint that the run started from, and need not be saved again.
    trained = {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
    return {name: to_local(tensor.detach()) for name, tensor in [*trained.items(), *model.named_buffers()]}


def restore_tensors(model: nn.Module, saved: Mapping[str, torch.Tensor]) -> None:
    """Load what `trained_tensors` returned.

    Raises:
        ValueError: it comes from a model with other parameters.
    """
    here = trained_tensors(model)
    if here.keys() != saved.keys():
        raise ValueError(f"the state's weights are of another model: {sorted(here.keys() ^ saved.keys())[0]!r} differs")
    for name, tensor in here.items():
        # In place, since the optimizer and any wrapper refer to these tensors.
        tensor.copy_(saved[name])


def random_streams() -> dict[str, Any]:
    """The states of the global random generators of Python, numpy and torch."""
    state: Any = np.random.get_state()
    name, keys, *rest = state
    return {
        "python": random.getstate(),
        "numpy": (name, keys.tolist(), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_streams(saved: Mapping[str, Any]) -> None:
    """Load what `random_streams` returned. GPUs that the saved run did not have keep their state."""
    random.setstate(saved["python"])
    name, keys, *rest = saved["numpy"]
    state: Any = (name, np.array(keys, np.uint32), *rest)
    np.random.set_state(state)
    torch.set_rng_state(saved["torch"])
    for device, stream in zip(range(torch.cuda.device_count()), saved["cuda"], strict=False):
        torch.cuda.set_rng_state(stream, device)


@dataclass(frozen=True)
class ModelState:
    """What optimizer steps change: the trained weights, the optimizer's moments and the learning-rate schedule.

    With FSDP each process has its own part, and all processes must capture and restore together. `model` is the model
    itself, not a wrapper of it.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: LRScheduler

    def capture(self) -> dict[str, Any]:
        """The state as a dictionary of tensors and numbers. The tensors are not copied."""
        # While FSDP has gathered the full weights, the parameters are not the shards that the optimizer updates.
        reshard(self.model)
        return {
            "weights": trained_tensors(self.model),
            "optimizer": to_local(self.optimizer.state_dict()),
            "schedule": self.schedule.state_dict(),
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Load what `capture` returned. No tensor of `saved` is kept."""
        restore_tensors(self.model, saved["weights"])
        self.optimizer.load_state_dict(to_sharded(saved["optimizer"], self.optimizer))
        _copy_moments(self.optimizer)
        self.schedule.load_state_dict(saved["schedule"])
        # Torch warns if a schedule is ahead of its optimizer. Here the killed process made the optimizer's steps.
        self.schedule.optimizer._opt_called = True  # type: ignore[attr-defined]


def _copy_moments(optimizer: torch.optim.Optimizer) -> None:
    # On the CPU `load_state_dict` keeps the tensors that it is given, which may lie in a mapped file.
    for values in optimizer.state.values():
        for name, value in values.items():
            if torch.is_tensor(value) and value.device.type == "cpu":
                values[name] = value.clone()
