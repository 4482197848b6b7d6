"""How a stage's job is launched."""

from __future__ import annotations

import os
import subprocess
import sys

from rl4vlm.config.launch import SHUTDOWN_SECONDS, granted, stage_command


def test_several_processes_are_launched_where_the_config_asks_for_them() -> None:
    config = {"resources": {"ppo": {"gpu": 2, "processes": 2}, "sft": {"gpu": 0}}, "accelerate": "my files/ddp.yaml"}
    words = stage_command(config, "ppo")
    claim = ["python", "-m", "rl4vlm.core.gpus", "2"]
    assert words[:8] == ["env", f"TORCH_ELASTIC_SHUTDOWN_TIMEOUT={SHUTDOWN_SECONDS}", *claim, "accelerate", "launch"]
    assert words[words.index("--config_file") + 1] == "my files/ddp.yaml"
    assert words[words.index("--num_processes") + 1] == "2"
    assert words[-1] == "rl4vlm"


def test_one_process_sees_only_the_gpu_that_is_claimed_for_it() -> None:
    config = {"resources": {"ppo": {"gpu": 1}}}
    assert stage_command(config, "ppo") == ["python", "-m", "rl4vlm.core.gpus", "1", "rl4vlm"]


def test_a_job_without_a_gpu_sees_none() -> None:
    """`device: auto` would take one from the jobs that asked for it, or wait until they end."""
    config = {"resources": {"cnn": {"gpu": 0}, "ppo": {"gpu": 0, "processes": 2}}, "accelerate": "ddp.yaml"}
    command = stage_command(config, "cnn")
    assert command[-1] == "rl4vlm"
    look = [sys.executable, "-c", "from rl4vlm.core.gpus import shown_gpus; print(shown_gpus())"]
    shown = subprocess.check_output(
        [*command[:-1], *look], text=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": "0,1"}, timeout=60
    )
    assert shown == "[]\n"
    assert "CUDA_VISIBLE_DEVICES=" in stage_command(config, "ppo")


def test_on_several_nodes_a_stage_does_not_look_for_the_workflow_among_its_ancestors() -> None:
    """Its ancestors there are SLURM's daemons, so it would end at once."""
    asked = {"threads": 1, "gpu": 0, "processes": 2}
    look = [sys.executable, "-c", "import os; print(os.environ.get('RL4VLM_WORKFLOW'))"]
    for nodes, seen in ((1, "4711 here"), (2, "None")):
        config = {"resources": {"ppo": asked | {"nodes": nodes}}, "accelerate": "ddp.yaml"}
        words = stage_command(config, "ppo")
        before = words[: words.index("accelerate" if nodes == 1 else "srun")]
        environment = {**os.environ, "RL4VLM_WORKFLOW": "4711 here"}
        assert subprocess.check_output([*before, *look], text=True, env=environment, timeout=60) == f"{seen}\n"


def test_several_nodes_have_a_launcher_each() -> None:
    asked = {"threads": 16, "mem_mb": 9, "runtime": 60, "gpu": 8, "processes": 8, "nodes": 2}
    config = {"resources": {"ppo": asked}, "accelerate": "ddp.yaml"}
    words = stage_command(config, "ppo")
    step = words[words.index("srun") + 1 : words.index("bash")]
    assert {"--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--gpus-per-node=4", "--cpus-per-task=16"} <= {*step}
    assert words[words.index("--num_machines") + 1] == "2"
    assert words[words.index("--num_processes") + 1] == "8"
    more = {"nodes": 2, "mpi": "srun", "tasks": 2, "tasks_per_gpu": 0}
    assert granted(config, "ppo") == {"mem_mb": 9, "runtime": 60, "gpu": 8} | more
    assert granted({"resources": {"ppo": asked | {"nodes": 1}}}, "ppo") == {"mem_mb": 9, "runtime": 60, "gpu": 8}
