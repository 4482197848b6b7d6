"""What a training run is made of at a moment, as a file that an exact copy of it starts from.

Here is what every training has: trained weights, optimiser, schedule and the global random streams; what else a later
step depends on, each training adds. A state is a pickle: load none that this run did not write.
"""

from __future__ import annotations

import pickle
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from rl4vlm.training.fsdp import split, to_local, to_sharded

PICKLE_PROTOCOL = 5
"""torch's own default is 2, which writes a numpy array, such as a picture, as text."""


def trained_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """What training changes, by name: parameters with a gradient, and buffers.

    Frozen weights are those of the checkpoint that the run started from, and are not saved again. Of split weights it
    is this process's part.
    """
    trained = {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
    return {name: to_local(tensor.detach()) for name, tensor in [*trained.items(), *model.named_buffers()]}


def restore_tensors(model: nn.Module, saved: Mapping[str, torch.Tensor]) -> None:
    """Put back what `trained_tensors` gave. Raises ValueError where it was given by a model of other parts."""
    here = trained_tensors(model)
    if here.keys() != saved.keys():
        raise ValueError(f"the state's weights are of another model: {sorted(here.keys() ^ saved.keys())[0]!r} differs")
    for name, tensor in here.items():
        tensor.copy_(saved[name])


def random_streams() -> dict[str, Any]:
    """Python's, numpy's and torch's global streams; those of slots and mini-batches are objects of their own."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_streams(saved: Mapping[str, Any]) -> None:
    """Put back what `random_streams` gave; a GPU that was not there before keeps its own stream."""
    random.setstate(saved["python"])
    np.random.set_state(saved["numpy"])
    torch.set_rng_state(saved["torch"])
    for device, stream in zip(range(torch.cuda.device_count()), saved["cuda"], strict=False):
        torch.cuda.set_rng_state(stream, device)


@dataclass(frozen=True)
class ModelState:
    """What learning changes: the trained weights of `model` (itself, not a wrapper of it), `optimizer`, `schedule`.

    Of a model split by FSDP it is this process's part; all processes capture and restore together.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: LRScheduler

    def capture(self) -> dict[str, Any]:
        """All that `restore` needs to put another model, optimiser and schedule of the same settings here."""
        split(self.model)
        return {
            "weights": trained_tensors(self.model),
            "optimizer": to_local(self.optimizer.state_dict()),
            "schedule": self.schedule.state_dict(),
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Put back what `capture` gave; nothing of `saved` itself is kept."""
        restore_tensors(self.model, saved["weights"])
        self.optimizer.load_state_dict(to_sharded(saved["optimizer"], self.optimizer))
        _own_moments(self.optimizer)
        self.schedule.load_state_dict(saved["schedule"])
        # Or torch warns of a schedule that is ahead of its optimiser, whose steps another process made.
        self.schedule.optimizer._opt_called = True  # type: ignore[attr-defined]


def _own_moments(optimizer: torch.optim.Optimizer) -> None:
    """Copy what an optimiser on the CPU would otherwise share with the state that it was given: a file, it may be."""
    for values in optimizer.state.values():
        for name, value in values.items():
            if torch.is_tensor(value) and value.device.type == "cpu":
                values[name] = value.clone()


def write(content: Mapping[str, Any], file: IO[bytes]) -> None:
    """Write a state's content. Objects that it holds twice, such as a slot's stream, are one object when read again.

    Raises ValueError for what cannot be pickled, an environment above all; one that cannot by itself, since its engine
    is a process of its own, may say with `__getstate__` and `__setstate__` how it is saved and made again.
    """
    try:
        torch.save(dict(content), file, pickle_protocol=PICKLE_PROTOCOL)
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        raise ValueError(f"the run's state cannot be saved: {error}") from error


def read(file: Path, *, mapped: bool = False) -> dict[str, Any]:
    """Read what `write` wrote, tensors on the CPU.

    If `mapped`, those stay in the file until they are looked at, and several processes that read it share the memory;
    they must be done with it before it is removed, since on some network file systems it is gone then.
    """
    content: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=False, mmap=mapped)
    return content
