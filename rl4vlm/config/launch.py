"""How a stage's job is launched: GPUs, processes, SLURM nodes, and the resources that it asks Snakemake for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rl4vlm.core.gpus import VISIBLE
from rl4vlm.core.workflow import VARIABLE as WORKFLOW

SHUTDOWN_SECONDS = 600
"""Seconds that a launcher waits for its processes to stop, in place of torch's 30: the current optimizer
step and the save of a large model take minutes. The SLURM profile sends its signal this long before the time limit."""


ON_EACH_NODE = (
    'exec accelerate launch --machine_rank "$SLURM_NODEID"'
    ' --main_process_ip "$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"'
    # All nodes must compute the same port, and two jobs on one node need different ones.
    ' --main_process_port "$((20000 + SLURM_JOB_ID % 10000))" "$@"'
)
"""The shell command that runs on each of several nodes. SLURM's variables say which node this is and name the first
one, at which all processes meet."""


def stage_command(config: Mapping[str, Any], stage: str) -> list[str]:
    """The first words of a stage's command line: `rl4vlm`, after what claims or hides GPUs or launches processes.

    Args:
        config: a checked config. `resources.<stage>` has the number of `processes`, and of the SLURM `nodes` that they
            run on; `accelerate` names the file that says how they share the work.
        stage: an entry of `resources`; `sft` and `ppo` may run in several processes.
    """
    asked = config["resources"][stage]
    processes, nodes = asked.get("processes", 1), asked.get("nodes", 1)
    # Claim GPUs for as long as the stage runs, and hide all others from it: vLLM takes the first that it sees. On
    # several nodes SLURM assigns the GPUs, so none are claimed here.
    claim = ["python", "-m", "rl4vlm.core.gpus", str(asked["gpu"])] if asked["gpu"] and nodes == 1 else []
    variables = [f"TORCH_ELASTIC_SHUTDOWN_TIMEOUT={SHUTDOWN_SECONDS}"] if processes > 1 else []
    # A job that asks for no GPU sees none: `device: auto` would take one from the jobs that do, or wait for it.
    variables += [] if asked["gpu"] else [f"{VISIBLE}="]
    # On several nodes the stage descends from SLURM's daemons, not from the workflow, and would take it for gone. There
    # SLURM ends it with the job.
    hidden = ["-u", WORKFLOW] if nodes > 1 else []
    begin = ["env", *hidden, *variables] if hidden or variables else []
    if processes == 1:
        return [*begin, *claim, "rl4vlm"]
    how = ["--config_file", config["accelerate"], "--num_processes", str(processes)]
    if nodes == 1:
        # Port 0 is any free port, so that several trainings can run on one machine.
        return [*begin, *claim, "accelerate", "launch", *how, "--main_process_port", "0", "--no_python", "rl4vlm"]
    # One launcher per node. If one fails, SLURM ends the others, which would otherwise wait for it.
    step = [f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", f"--cpus-per-task={asked['threads']}"]
    step += [f"--gpus-per-node={asked['gpu'] // nodes}"] if asked["gpu"] else []
    launch = ["bash", "-c", ON_EACH_NODE, "launch", *how, "--num_machines", str(nodes), "--no_python", "rl4vlm"]
    return [*begin, "srun", *step, "--kill-on-bad-exit=1", *launch]


def granted(config: Mapping[str, Any], stage: str) -> dict[str, Any]:
    """The Snakemake resources of a stage's job besides threads: MB of memory per node, minutes, and GPUs in all."""
    asked = config["resources"][stage]
    found = {name: asked[name] for name in ("mem_mb", "runtime", "gpu")}
    if (nodes := asked.get("nodes", 1)) > 1:
        # These tell the SLURM plugin that the command itself starts one task per node, by srun. Without
        # `tasks_per_gpu: 0`, the plugin would ask for `tasks` tasks per GPU.
        found |= {"nodes": nodes, "mpi": "srun", "tasks": nodes, "tasks_per_gpu": 0}
    return found
