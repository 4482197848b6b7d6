"""Training in several processes, one per GPU: how they share play and updates, and exchange results.

The number of processes does not change a result. Environments and samples are divided among the processes, and their
results are put back into the order that one process would have produced.
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
    """The processes of a training, as one of them sees them. A training may have a single process.

    Attributes:
        count: number of processes.
        rank: this process's number, from 0.
        sharded: whether each process holds only a part of the weights (FSDP).
        timeout: seconds that a process waits for the others.
    """

    def __init__(self, accelerator: Accelerator, timeout: float) -> None:
        self.count = int(accelerator.num_processes)
        self.rank = int(accelerator.process_index)
        self.sharded = bool(accelerator.is_fsdp2)
        self.timeout = timeout
        limit = timedelta(seconds=timeout)
        # Python objects are exchanged over gloo, on the CPU, so that they take no GPU memory.
        self._group = distributed.new_group(backend="gloo", timeout=limit) if self.count > 1 else None

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def file(self, path: Path) -> Path:
        """`path` in the main process, the null device in the others, so that the file is written once."""
        return path if self.is_main else Path(os.devnull)

    @contextmanager
    def shown(self) -> Iterator[TextIO]:
        """The stream for progress bars: standard error in the main process, the null device in the others."""
        if self.is_main:
            yield sys.stderr
        else:
            with open(os.devnull, "w") as nowhere:
                yield nowhere

    def gather(self, found: Item) -> list[Item]:
        """What each process passed in, in the order of ranks. Every process must call this, and gets the whole list.

        Raises:
            RuntimeError: a process did not call it within `timeout` seconds; the message names it.
        """
        if self._group is None:
            return [found]
        # all_gather alone would hang or fail without saying which process is missing.
        self._wait_for_all(self._group)
        gathered: list[Item] = [found] * self.count  # to be overwritten
        distributed.all_gather_object(gathered, found, group=self._group)
        return gathered

    def _wait_for_all(self, group: distributed.ProcessGroup) -> None:
        try:
            # Only this barrier names the ranks that are missing.
            distributed.monitored_barrier(group, timedelta(seconds=self.timeout), wait_all_ranks=True)
        except RuntimeError as error:
            raise RuntimeError(
                f"process {self.rank} of {self.count} waited {self.timeout:g} seconds for the others "
                f"(process_timeout) or lost them, and gives up: {error}"
            ) from error

    @contextmanager
    def named(self) -> Iterator[None]:
        """Add to any error inside the block in which process it happened."""
        try:
            yield
        except Exception as error:
            if self.count > 1:
                error.add_note(
                    f"in process {self.rank} of {self.count}; a connection error means that another process died or "
                    f"did not respond for {self.timeout:g} seconds (process_timeout)"
                )
            raise


def local_env_indices(count: int, accelerator: Accelerator) -> range:
    """Indices of the environments that this process plays, out of `count`.

    Raises:
        ValueError: there are fewer environments than processes.
    """
    if count < accelerator.num_processes:
        raise ValueError(f"{count} environments are too few for {accelerator.num_processes} processes: each needs one")
    return local_block(count, accelerator)


def local_block(count: int, accelerator: Accelerator) -> range:
    """The indices of this process's share of `count` items: one block. Blocks differ in size by at most one."""
    processes, rank = accelerator.num_processes, accelerator.process_index
    return range(count * rank // processes, count * (rank + 1) // processes)


@dataclass(frozen=True)
class MicroBatch(Generic[Item]):
    """The items of one forward and backward pass in one process.

    Attributes:
        items: the samples, then dummy samples that fill up the micro-batch.
        counted: number of real samples. The dummy samples after them must get weight zero.
        last: whether this is the process's last micro-batch of the batch, after which gradients are averaged.
    """

    items: list[Item]
    counted: int
    last: bool


def micro_batches(batch: Sequence[Item], size: int | None, accelerator: Accelerator) -> list[MicroBatch[Item]]:
    """Cut this process's share of a batch into micro-batches.

    Args:
        batch: the whole batch, the same in every process.
        size: items per micro-batch; None puts the whole share into one.
        accelerator: says how many processes there are, and which one this is.

    Returns:
        As many micro-batches of the same sizes in every process.
    """
    # A block keeps neighbours together: they may have equal prompts (`by_input`).
    mine = [batch[index] for index in local_block(len(batch), accelerator)]
    real, padded = len(mine), -(-len(batch) // accelerator.num_processes)
    # Every forward and backward pass is a collective call with DDP and FSDP. A process with fewer samples than the
    # others would leave them waiting, so it runs the first sample again, with weight zero.
    mine += [batch[0]] * (padded - real)
    size = size or padded
    return [
        MicroBatch(mine[start : start + size], min(max(real - start, 0), size), start + size >= padded)
        for start in range(0, padded, size)
    ]


@contextmanager
def accumulate(model: nn.Module, accelerator: Accelerator, *, last: bool) -> Iterator[None]:
    """Run the forward and backward pass of a micro-batch inside this block: gradients add up until the last one.

    Args:
        model: as `accelerator.prepare` returned it.
        accelerator: that of the training.
        last: whether this is the batch's last micro-batch, after which gradients are averaged over the processes.
    """
    # Accelerate's own `accumulate` counts calls; here the number of micro-batches per step varies.
    accelerator.gradient_state._set_sync_gradients(last)
    # FSDP reduces after every micro-batch: otherwise each process would hold the gradients of all weights until the
    # last, which is what sharding is to avoid.
    with nullcontext() if last or accelerator.is_fsdp2 else accelerator.no_sync(model):
        yield


def all_reduce_sum(value: float, accelerator: Accelerator) -> float:
    """The sum of `value` over all processes, each of which must call this."""
    if accelerator.num_processes == 1:
        return value
    # In float64, like Python's own numbers: the sum is logged.
    found = torch.tensor(value, dtype=torch.float64, device=accelerator.device)
    return float(accelerator.reduce(found, "sum"))
