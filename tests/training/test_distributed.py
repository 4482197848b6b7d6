"""How batches and environments are divided among processes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from accelerate import Accelerator
from torch.distributed.launcher.api import LaunchConfig

from rl4vlm.config.launch import SHUTDOWN_SECONDS, stage_command
from rl4vlm.training.distributed import Processes, all_reduce_sum, local_env_indices, micro_batches


def accelerators(count):
    """Stand-ins for the accelerators of `count` processes."""
    return [SimpleNamespace(num_processes=count, process_index=rank) for rank in range(count)]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [None, 1, 2, 100])
@pytest.mark.parametrize("length", [1, 4, 5, 11])
def test_every_item_counts_once_and_all_processes_make_equally_many_passes(length, size, count) -> None:
    dealt = [micro_batches(list(range(length)), size, member) for member in accelerators(count)]
    counted = [item for cut in dealt for micro_batch in cut for item in micro_batch.items[: micro_batch.counted]]
    assert sorted(counted) == list(range(length))
    assert len({tuple(len(micro_batch.items) for micro_batch in cut) for cut in dealt}) == 1
    assert all([micro_batch.last for micro_batch in cut] == [False] * (len(cut) - 1) + [True] for cut in dealt)
    assert max(len(micro_batch.items) for micro_batch in dealt[0]) <= (size or length)


def test_one_process_has_the_whole_batch_in_order_and_no_fillers() -> None:
    cut = micro_batches(list("abcde"), 2, accelerators(1)[0])
    assert [micro_batch.items for micro_batch in cut] == [["a", "b"], ["c", "d"], ["e"]]
    assert [micro_batch.counted for micro_batch in cut] == [2, 2, 1]


@pytest.mark.parametrize(("envs", "count"), [(1, 1), (4, 2), (5, 2), (7, 3)])
def test_environments_are_divided_in_blocks(envs, count) -> None:
    blocks = [list(local_env_indices(envs, member)) for member in accelerators(count)]
    assert [index for block in blocks for index in block] == list(range(envs))
    assert max(map(len, blocks)) - min(map(len, blocks)) <= 1


def test_too_few_environments_are_refused() -> None:
    with pytest.raises(ValueError, match="2 environments are too few for 3 processes"):
        local_env_indices(2, accelerators(3)[0])


def test_a_single_process_needs_no_others() -> None:
    accelerator = Accelerator(cpu=True)
    alone = Processes(accelerator, timeout=1.0)
    assert (alone.rank, alone.count, alone.is_main) == (0, 1, True)
    assert alone.gather("found") == ["found"]
    assert all_reduce_sum(1.5, accelerator) == 1.5
    with pytest.raises(KeyError) as caught, alone.named():
        raise KeyError("x")
    assert not getattr(caught.value, "__notes__", [])


def test_a_launched_training_has_time_to_save(monkeypatch: pytest.MonkeyPatch) -> None:
    """The launcher kills what still runs after this time; a large model's step outlasts torch's default."""
    config = {"resources": {"ppo": {"gpu": 2, "processes": 2}}, "accelerate": "ddp.yaml"}
    name, _, seconds = stage_command(config, "ppo")[1].partition("=")
    monkeypatch.setenv(name, seconds)
    limit = LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=2).shutdown_timeout
    assert limit == SHUTDOWN_SECONDS > 30
