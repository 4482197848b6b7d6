"""What a training run is made of at a moment, as a file that an exact copy of it starts from.

Nothing is left out that a later step depends on: trained weights, optimiser, schedule, every random stream, the
environments as they stand, the rollout and the update so far, and the metrics written up to now. A state is a pickle:
load none that this run did not write.
"""

from __future__ import annotations

import io
import pickle
import random
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import nn

from rl4vlm.models.sharding import as_split, own_part, split
from rl4vlm.ppo.state import Training

COMMON = ("shuffle", "recent", "update", "rollout")
"""Fields of a training that are the same in all processes; `slots`, `rows` and `fit` are each one's own."""

PICKLE_PROTOCOL = 5
"""torch's own default is 2, which writes a numpy array, such as a picture, as text."""


def trained_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """What training changes, by name: parameters with a gradient, and buffers.

    Frozen weights are those of the checkpoint that the run started from, and are not saved again. Of split weights it
    is this process's part.
    """
    trained = {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
    return {name: own_part(tensor.detach()) for name, tensor in [*trained.items(), *model.named_buffers()]}


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


def capture(state: Training) -> dict[str, Any]:
    """All that `restore` needs to make another training, begun with the same settings, go on as this one would.

    All processes call it together; what the main one gets holds the parts of them all.
    """
    learner = state.learner
    split(learner.model)
    learned = {"weights": trained_tensors(learner.policy.model), "optimizer": own_part(learner.optimizer.state_dict())}
    # Once they are weighed, steps are in the rollout, which all have.
    rows = state.rows if state.rollout is None else []
    own = {"slots": state.slots, "rows": rows, "fit": state.fit, "streams": random_streams()}
    common = {name: getattr(state, name) for name in COMMON}
    each = learned if learner.accelerator.is_fsdp2 else {}
    packed = io.BytesIO()
    write({**own, **each}, packed)
    return {
        # As bytes, so that no process makes the environments of another.
        "own": state.processes.collect(packed.getvalue()),
        "common": {**common, **({} if each else learned)},
        "schedule": state.schedule.state_dict(),
    }


def restore(state: Training, saved: Mapping[str, Any]) -> None:
    """Put a training, in each of as many processes, where `capture` found one; the environments that it began with are
    closed."""
    for slot in state.slots:
        slot.env.close()
    fields = {**saved["common"], **read(io.BytesIO(saved["own"][state.processes.rank]))}
    restore_tensors(state.learner.policy.model, fields.pop("weights"))
    optimizer = state.learner.optimizer
    optimizer.load_state_dict(as_split(fields.pop("optimizer"), optimizer))
    state.schedule.load_state_dict(saved["schedule"])
    # Or torch warns of a schedule that is ahead of its optimiser, whose steps another process made.
    state.schedule.optimizer._opt_called = True  # type: ignore[attr-defined]
    streams = fields.pop("streams")
    for name, value in fields.items():
        setattr(state, name, value)
    restore_random_streams(streams)


def write(content: Mapping[str, Any], file: IO[bytes]) -> None:
    """Write a state's content. Objects that it holds twice, such as a slot's stream, are one object when read again.

    Raises ValueError for what cannot be pickled, an environment above all; one that cannot by itself, since its engine
    is a process of its own, may say with `__getstate__` and `__setstate__` how it is saved and made again.
    """
    try:
        torch.save(dict(content), file, pickle_protocol=PICKLE_PROTOCOL)
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        raise ValueError(f"the run's state cannot be saved: {error}") from error


def read(file: Path | IO[bytes]) -> dict[str, Any]:
    """Read what `write` wrote, tensors on the CPU."""
    content: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=False)
    return content
