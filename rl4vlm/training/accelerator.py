"""The accelerator that a training runs on: one device, or several processes that share the work (DDP, FSDP2)."""

from __future__ import annotations

import os
from datetime import timedelta

import torch
from accelerate import Accelerator, ParallelismConfig
from accelerate.state import PartialState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    FullyShardedDataParallelPlugin,
    InitProcessGroupKwargs,
)

from rl4vlm.models.devices import choose_device


def accelerator_on(name: str, process_timeout: float = 1800.0) -> Accelerator:
    """An accelerator on the device that `choose_device` returns for `name`.

    With several processes (`accelerate launch`), each takes the GPU of its local rank. With
    `config/accelerate/fsdp.yaml`, the processes shard weights, gradients and the optimizer's moments (FSDP2).

    Args:
        name: a device's name, as for `choose_device`.
        process_timeout: seconds that a process waits for the others in a gradient exchange before it fails.

    Raises:
        ValueError: one GPU is named for several processes, or the launcher asks for something other than DDP and FSDP2,
            or for mixed precision.
    """
    _check_launcher()
    device = choose_device(name)
    if device.type == "cuda" and device.index is not None:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError(f"device {name!r} is one GPU, but several processes were launched: say cuda or auto")
        # Accelerate takes the current GPU if it is not launched.
        torch.cuda.set_device(device)
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        kwargs_handlers=[
            InitProcessGroupKwargs(timeout=timedelta(seconds=process_timeout)),
            DistributedDataParallelKwargs(
                # Some weights of a backbone get no gradient, such as the last layer of a vision tower.
                find_unused_parameters=True,
                # Gradients are views of the buckets that DDP exchanges, so they take no memory of their own.
                gradient_as_bucket_view=True,
            ),
        ],
    )
    if accelerator.distributed_type == DistributedType.MULTI_CPU and _asked_for("FSDP"):
        _shard_on_cpu(accelerator)
    return accelerator


def _shard_on_cpu(accelerator: Accelerator) -> None:
    """Turn FSDP on for CPU processes: accelerate shards on GPUs only, but torch can do it on CPUs too."""
    parallelism = ParallelismConfig(dp_shard_size=accelerator.num_processes)
    # Set in both places: `accelerator.state` is copied from the PartialState whenever it is made again.
    PartialState().distributed_type = DistributedType.FSDP
    accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
    # Name the CPU, or torch shards over the GPUs of a machine that has some.
    accelerator.state.parallelism_config = parallelism
    accelerator.state.device_mesh = parallelism.get_device_mesh("cpu")


def _asked_for(backend: str) -> bool:
    """Whether `accelerate launch` was told to use this backend. It passes that on as an environment variable."""
    return os.environ.get(f"ACCELERATE_USE_{backend}", "false").lower() == "true"


def _check_launcher() -> None:
    for backend in ("DEEPSPEED", "MEGATRON_LM"):
        if _asked_for(backend):
            raise ValueError(f"training with {backend} is not supported: use config/accelerate/ddp.yaml or fsdp.yaml")
    mixed = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if mixed != "no":
        # Replies are sampled through the model itself, but scored through accelerate's wrapper, which casts.
        raise ValueError(
            f"accelerate asks for mixed precision {mixed!r}: PPO would score replies in another precision than it "
            "sampled them, so the first ratios would not be 1, and no setting would record it. Choose "
            "mixed_precision: 'no', and the stage's dtype"
        )
    if _asked_for("FSDP") and os.environ.get("FSDP_VERSION") != "2":
        raise ValueError(
            "training with FSDP version 1 is not supported: use config/accelerate/fsdp.yaml (fsdp_version: 2)"
        )
