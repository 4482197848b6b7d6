"""The smoke workflow on a real SLURM: a full run, GPU jobs, signals, requeues and preemption."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rl4vlm.core.output import UNFINISHED
from tests.cluster.conftest import Submission, configured, submitted
from tests.cluster.slurm import CPUS, URGENT, Cluster, Job, wait_for
from tests.models.hub import NAME, Hub, serving
from tests.workflow.conftest import ROOT, Workspace

pytestmark = pytest.mark.long

# The `rl4vlm` command, with the package of the working folder.
RL4VLM = (sys.executable, "-c", "from rl4vlm.cli import main; raise SystemExit(main())")
ONE_GAME: dict[str, Any] = {
    "tasks": ["NumberLine"],
    "styles": ["cot"],
    "ablations": {"lambda": {"NumberLine": []}},
    "base_model": {"defaults": {"source": "shipped"}},
}
# Each PPO run requests a GPU but computes on the CPU, because the GPUs are fake.
ON_GPUS: dict[str, Any] = {"ppo": {"defaults": {"device": "cpu"}}, "resources": {"ppo": {"gpu": 1}}}
FROM_HUB: dict[str, Any] = {"base_model": {"defaults": {"source": NAME}}}
# A rule whose stage saves more slowly than Snakemake ends. If an earlier run has saved, it ends at once.
SLOW_RULE = """\
include: "Snakefile"
rule slow:
    output: "slow"
    shell: "python slow.py 2>&1 | tee slow.log"
"""
SLOW_STAGE = """\
import pathlib, signal, sys, time
if pathlib.Path("saved").exists():
    pathlib.Path("slow").touch()
    sys.exit()
def save(*_):
    time.sleep(6)
    pathlib.Path("saved").touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
pathlib.Path("started").touch()
time.sleep(300)
"""
# The run to requeue, and its number of updates.
RUN, UPDATES = "NumberLine-cot-lambda0.5-seed4", 16
# Set RL4VLM_WHOLE_SMOKE=1 for the whole smoke config: 15 minutes on two cores.
WHOLE = bool(os.environ.get("RL4VLM_WHOLE_SMOKE"))


def test_the_smoke_workflow_runs_to_its_end(cluster: Cluster, tmp_path: Path) -> None:
    space = Workspace(tmp_path / "copy")
    before = len(cluster.jobs())
    with submitted(space, cluster, overlay=None if WHOLE else ONE_GAME) as run:
        run.finish(3000)
    jobs = cluster.jobs()[before:]
    assert len(jobs) >= 15
    assert {(job.state, job.partition) for job in jobs} == {("COMPLETED", "cpu")}
    assert len({job.comment for job in jobs}) == len(jobs), "a job was submitted twice"

    configs = ["config/smoke.yaml", *([] if WHOLE else ["overlay.yaml"])]
    check = [*RL4VLM, "check-results", "--config", *configs]
    done = subprocess.run(check, cwd=space.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert (space.folder / "results" / "smoke" / "report.html").is_file()


@pytest.fixture(scope="module")
def prefetched(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A copy that fetched its base model from a hub that has stopped since, and has finished the SFT that PPO needs."""
    space = Workspace(tmp_path_factory.mktemp("prefetched") / "copy")
    before = cluster.jobs()
    with serving(Hub(ROOT / "workflow" / "resources" / "base_model" / "cards")) as hub:
        cluster.environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(space.folder / "hf")}
        with submitted(space, cluster, "prefetch", overlay=ONE_GAME | FROM_HUB) as run:
            run.finish(300)
    assert (space.folder / "results" / "smoke" / "base_model" / NAME.replace("/", "--") / "model.safetensors").is_file()
    assert cluster.jobs() == before, "prefetch must not run as a cluster job: the nodes may have no network"
    # Run SFT outside the cluster, which is faster; the smoke run covers it as a job. Each seed has its own warm start.
    warm = space.snakemake("--until", "sft", *configured(space, ONE_GAME | FROM_HUB | {"seeds": [1, 2, 3, 4]}))
    assert warm.returncode == 0, warm.stdout[-3000:]
    return space


def test_gpu_jobs_get_a_device_each_and_the_third_waits(cluster: Cluster, prefetched: Workspace) -> None:
    overlay = ONE_GAME | FROM_HUB | ON_GPUS | {"seeds": [1, 2, 3]}
    earlier = {job.id for job in ppo_jobs(cluster)}  # squeue also lists jobs that ended a few minutes ago
    with submitted(prefetched, cluster, "--until", "ppo", overlay=overlay) as run:
        first = wait_for(lambda: two(ppo_environments(cluster), run.failed()), 300, "two PPO jobs to run")
        assert sorted(env["CUDA_VISIBLE_DEVICES"] for env in first.values()) == ["0", "1"]
        # On a busy machine the third is submitted after the first two have begun.
        waiting = wait_for(
            lambda: [job for job in ppo_jobs(cluster) if job.reason == "Resources"], 60, "a third to wait"
        )
        assert [job.state for job in waiting] == ["PENDING"]
        # The jobs must not ask the hub, which no longer runs.
        assert {env["HF_HUB_OFFLINE"] for env in first.values()} == {"1"}

        third = wait_for(lambda: ppo_environments(cluster).get(waiting[0].comment), 300, "the third PPO job to run")
        assert third["CUDA_VISIBLE_DEVICES"] in ("0", "1")
        run.finish(300)
    assert {job.partition for job in ppo_jobs(cluster) if job.id not in earlier} == {"gpu"}


def test_a_requeued_training_continues_where_it_was(cluster: Cluster, prefetched: Workspace, tmp_path: Path) -> None:
    # Save only on a signal: there is no state to resume from unless the requeue sends one.
    settings = {"total_env_steps": UPDATES * 16, "save_every": UPDATES, "device": "cpu"}
    overlay = ONE_GAME | FROM_HUB | {"seeds": [4], "ppo": {"defaults": settings}}
    results = prefetched.folder / "results" / "smoke"
    metrics = results / "ppo" / RUN / "metrics.jsonl"
    with submitted(prefetched, cluster, "--until", "ppo", overlay=overlay) as run:
        wait_for(
            lambda: run.failed() or len(lines(metrics.parent / UNFINISHED / metrics.name)) >= 2, 300, "two updates"
        )
        job = ppo_jobs(cluster)[-1]
        assert job.state == "RUNNING", run.output()[-3000:]
        cluster.command("scontrol", "requeue", str(job.id))
        wait_for(lambda: run.failed() or ppo_jobs(cluster)[-1].restarts == 1, 60, "the requeue")
        run.finish(600)
        (command,) = re.findall(r"^Shell command: env \S+ (rl4vlm ppo .*?) 2>&1", run.output(), flags=re.MULTILINE)
    assert ppo_jobs(cluster)[-1].id == job.id
    assert ppo_jobs(cluster)[-1].state == "COMPLETED"

    log = (results / "logs" / "ppo" / f"{RUN}.log").read_text()
    resumed = re.search(r"continuing from .*: update (\d+), ", log)
    assert resumed, log[-3000:]
    assert int(resumed[1]) >= 2
    assert [line["update"] for line in lines(metrics)] == list(range(1, UPDATES + 1))

    elsewhere = command.replace(f"--out results/smoke/ppo/{RUN}", f"--out {tmp_path}")
    undisturbed = elsewhere.replace(f"--state results/smoke/state/ppo/{RUN}", "")
    words = [*RL4VLM, *shlex.split(undisturbed)[1:]]
    subprocess.run(words, cwd=prefetched.folder, env=cluster.environment | {"OMP_NUM_THREADS": "1"}, check=True)
    assert metrics.read_bytes() == (tmp_path / "metrics.jsonl").read_bytes()


def with_slow_rule(folder: Path) -> Workspace:
    space = Workspace(folder)
    (space.folder / "with_slow.smk").write_text(SLOW_RULE)
    (space.folder / "slow.py").write_text(SLOW_STAGE)
    return space


def slow_job(run: Submission, space: Workspace, cluster: Cluster) -> Job:
    """Wait for the slow stage to start, and return its job."""
    wait_for(lambda: run.failed() or (space.folder / "started").exists(), 200, "the job")
    job = cluster.job("rule_slow")
    assert job is not None, run.output()[-3000:]
    return job


def test_a_stage_has_time_to_save_after_a_signal(cluster: Cluster, tmp_path: Path) -> None:
    space = with_slow_rule(tmp_path / "copy")
    with submitted(space, cluster, "--snakefile", "with_slow.smk", "--retries", "0", "slow") as run:
        job = slow_job(run, space, cluster)
        # Like `--signal=TERM@300`: all processes of the job's step get the signal, including the shell.
        cluster.command("scancel", "--signal=TERM", str(job.id))
        wait_for(lambda: (job := cluster.job("rule_slow")) and job.state == "FAILED", 60, "the job's end")
    assert (space.folder / "saved").exists()


def test_a_preempted_stage_saves_and_is_requeued_under_its_number(cluster: Cluster, tmp_path: Path) -> None:
    space = with_slow_rule(tmp_path / "copy")
    with submitted(space, cluster, "--snakefile", "with_slow.smk", "--retries", "0", "slow") as run:
        job = slow_job(run, space, cluster)
        urgent = [f"--partition={URGENT}", f"--cpus-per-task={CPUS}", f"--output={tmp_path}/urgent.log"]
        cluster.command("sbatch", *urgent, "--wrap=sleep 1")
        wait_for(lambda: run.failed() or restarts(cluster) == 1, 120, "the preempted job's return to the queue")
        run.finish(300)
    again = cluster.job("rule_slow")
    assert again is not None
    assert (again.id, again.state, again.restarts) == (job.id, "COMPLETED", 1)
    assert (space.folder / "saved").exists()


def restarts(cluster: Cluster) -> int | None:
    job = cluster.job("rule_slow")
    return job.restarts if job else None


def ppo_jobs(cluster: Cluster) -> list[Job]:
    return [job for job in cluster.jobs() if job.comment.startswith("rule_ppo")]


def ppo_environments(cluster: Cluster) -> dict[str, dict[str, str]]:
    """The environment of each running `rl4vlm ppo`, by the job's comment."""
    running = [job for job in ppo_jobs(cluster) if job.state == "RUNNING"]
    found = {job.comment: cluster.environments(job, "rl4vlm ppo") for job in running}
    return {comment: environments[0] for comment, environments in found.items() if environments}


def two(found: dict[str, dict[str, str]], failed: bool) -> dict[str, dict[str, str]] | None:
    assert not failed
    return found if len(found) == 2 else None


def lines(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
