"""Training in several processes, one a GPU: who plays and scores what, and meeting the others without waiting for ever.

Nothing here changes a result: environments and samples are dealt out, and what each process found is put together in
the order that one process would have found it in.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Generic, TextIO, TypeVar

import torch
from accelerate import Accelerator
from torch import distributed, nn

Item = TypeVar("Item")


class Processes:
    """The processes that train together, seen by one of them; a single process is a crew of one.

    They meet through the CPU's network (gloo), whatever their devices, so that what they hand over needs no GPU memory.
    `split` says whether each keeps a part of the weights alone (FSDP).
    """

    def __init__(self, accelerator: Accelerator, timeout: float) -> None:
        """`timeout` is how many seconds one process waits for the others."""
        self.count = int(accelerator.num_processes)
        self.rank = int(accelerator.process_index)
        self.split = bool(accelerator.is_fsdp2)
        self.timeout = timeout
        limit = timedelta(seconds=timeout)
        self._group = distributed.new_group(backend="gloo", timeout=limit) if self.count > 1 else None

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def file(self, path: Path) -> Path:
        """Where this process writes what all have alike: the main one to `path`, the others nowhere."""
        return path if self.is_main else Path(os.devnull)

    @contextmanager
    def shown(self) -> Iterator[TextIO]:
        """The stream that progress is shown on: standard error in the main process, nowhere in the others."""
        if self.is_main:
            yield sys.stderr
        else:
            with open(os.devnull, "w") as nowhere:
                yield nowhere

    def gather(self, found: Item) -> list[Item]:
        """What each process found, in the order of their ranks; every process gets all of it.

        Raises RuntimeError naming the processes that did not come in time.
        """
        if self._group is None:
            return [found]
        self._meet(self._group)
        gathered: list[Item] = [found] * self.count
        distributed.all_gather_object(gathered, found, group=self._group)
        return gathered

    def _meet(self, group: distributed.ProcessGroup) -> None:
        try:
            distributed.monitored_barrier(group, timedelta(seconds=self.timeout), wait_all_ranks=True)
        except RuntimeError as error:
            raise RuntimeError(
                f"process {self.rank} of {self.count} waited {self.timeout:g} seconds for the others "
                f"(process_timeout) or lost them, and gives up: {error}"
            ) from error

    @contextmanager
    def named(self) -> Iterator[None]:
        """What fails inside says in which process of how many it failed."""
        try:
            yield
        except Exception as error:
            if self.count > 1:
                error.add_note(
                    f"in process {self.rank} of {self.count}; an error of the connection means that another process "
                    f"died or stood still for {self.timeout:g} seconds (process_timeout)"
                )
            raise


def local_env_indices(count: int, accelerator: Accelerator) -> range:
    """Which of `count` things this process takes, the first processes one more where they do not divide.

    Raises ValueError where there are fewer things than processes.
    """
    processes, rank = accelerator.num_processes, accelerator.process_index
    if count < processes:
        raise ValueError(f"{count} environments are too few for {processes} processes: each needs one")
    return range(count * rank // processes, count * (rank + 1) // processes)


@dataclass(frozen=True)
class MicroBatch(Generic[Item]):
    """What a process scores at a time: the first `counted` of the items; the others are fillers that count for nothing.

    `last` says that it is the process's last micro-batch of the batch, after which gradients are added up over all.
    """

    items: list[Item]
    counted: int
    last: bool


def micro_batches(batch: Sequence[Item], size: int | None, accelerator: Accelerator) -> list[MicroBatch[Item]]:
    """This process's share of a batch, `size` items at a time (all unless given).

    Every process gets as many micro-batches, of the same sizes, as any other: data-parallel libraries meet in each
    forward and backward pass, and a process with fewer would leave them waiting. So where the batch does not divide,
    fillers are added.
    """
    mine = list(batch[accelerator.process_index :: accelerator.num_processes])
    real, whole = len(mine), -(-len(batch) // accelerator.num_processes)
    mine += [batch[0]] * (whole - real)
    size = size or whole
    return [
        MicroBatch(mine[start : start + size], min(max(real - start, 0), size), start + size >= whole)
        for start in range(0, whole, size)
    ]


@contextmanager
def accumulate(model: nn.Module, accelerator: Accelerator, *, last: bool) -> Iterator[None]:
    """Forward and backward pass of a micro-batch: gradients are averaged over the processes with the `last` one only.

    With FSDP they are with every micro-batch, and each process keeps its part of them: until the last it would have to
    keep them whole.
    """
    accelerator.gradient_state._set_sync_gradients(last)
    with nullcontext() if last or accelerator.is_fsdp2 else accelerator.no_sync(model):
        yield


def all_reduce_sum(value: float, accelerator: Accelerator) -> float:
    """The sum over all processes."""
    if accelerator.num_processes == 1:
        return value
    found = torch.tensor(value, dtype=torch.float64, device=accelerator.device)
    return float(accelerator.reduce(found, "sum"))
