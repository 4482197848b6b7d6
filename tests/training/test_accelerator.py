"""A training runs on the device that it is told, and refuses launchers that it was not written for."""

from __future__ import annotations

import pytest
import torch

from rl4vlm.training.accelerator import accelerator_on


def test_training_runs_where_it_is_told() -> None:
    assert accelerator_on("cpu").device.type == "cpu"


@pytest.mark.parametrize(
    ("launched", "said"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "DEEPSPEED is not supported"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "MEGATRON_LM is not supported"),
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, "mixed precision 'bf16': PPO would score"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}, "FSDP version 1 is not supported"),
    ],
)
def test_other_launchers_are_refused(launched: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=said):
        accelerator_on("cpu")


def test_one_gpu_by_its_number_is_refused_to_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="'cuda:1' is one GPU, but several processes were launched"):
        accelerator_on("cuda:1")
