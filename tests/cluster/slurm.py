"""Starts a SLURM cluster on this machine: munge, a controller and one node with two fake GPUs.

All its files are in one folder and it uses free ports, so it does not disturb a cluster that this machine belongs to.
"""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import TypeVar

Found = TypeVar("Found")

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo")
APT_PACKAGES = ("slurm-wlm", "munge")
# More CPUs and memory than the jobs request, so that a third GPU job waits for a GPU and nothing else. Not enforced.
CPUS, MEMORY_MB, GPUS = 8, 64000, 2
# A partition whose jobs preempt those of the others. The profile does not use it.
URGENT = "urgent"
# Device number of /dev/null. SLURM accepts any character device as a GPU.
NULL_DEVICE = os.makedev(1, 3)
# SLURM holds a requeued job for as long as a credential lasts, which is 120 seconds by default.
CREDENTIAL_SECONDS = 20

# proctrack/pgid ends all processes of a step with its first one, as control groups do on real clusters.
SLURM_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire={credential_seconds}
CryptoType=crypto/munge
MpiDefault=none
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
MinJobAge=3600
KillWait=30
GresTypes=gpu
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory_mb} Gres=gpu:h200:{gpus} State=UNKNOWN
PartitionName=cpu Nodes={host} Default=YES MaxTime=1440 State=UP
PartitionName=gpu Nodes={host} MaxTime=7200 State=UP
PartitionName={urgent} Nodes={host} MaxTime=7200 PriorityTier=10 State=UP
"""


class CannotRun(Exception):
    """SLURM cannot run on this machine; the message says why."""


@dataclass(frozen=True)
class Job:
    """A job as `squeue` shows it. `restarts` counts requeues."""

    id: int
    comment: str
    state: str
    reason: str
    partition: str
    restarts: int


class Cluster:
    """A running SLURM cluster. SLURM's programs find it through the variables in `environment`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = os.pathsep.join([str(folder / "bin"), os.environ.get("PATH", "")])
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": path}

    def command(self, *words: str) -> str:
        """Run a SLURM program and return its output. Raises CalledProcessError if it fails."""
        done = subprocess.run(words, env=self.environment, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def jobs(self) -> list[Job]:
        """Every job since the start, including ended ones."""
        form = "JobID:|,Comment:|,State:|,Reason:|,Partition:|,RestartCnt:|"
        lines = self.command("squeue", "--noheader", "--states=all", "--sort=i", f"--Format={form}").splitlines()
        fields = [[field.strip() for field in line.split("|")] for line in lines]
        return [Job(int(f[0]), f[1], f[2], f[3], f[4], int(f[5])) for f in fields]

    def job(self, comment: str) -> Job | None:
        """The latest job whose comment contains this text. Snakemake writes rule and wildcards into the comment."""
        found = [job for job in self.jobs() if comment in job.comment]
        return found[-1] if found else None

    def environments(self, job: Job, program: str) -> list[dict[str, str]]:
        """The environment of each running process of a job whose command line contains `program`."""
        try:
            listed = self.command("scontrol", "listpids", str(job.id)).splitlines()[1:]
        except subprocess.CalledProcessError:
            # The job has ended in the meantime.
            return []
        found = []
        for pid in (line.split()[0] for line in listed):
            try:
                command = Path("/proc", pid, "cmdline").read_bytes()
                variables = Path("/proc", pid, "environ").read_bytes().decode().split("\0")
            except OSError:
                continue
            if program.encode() in command.replace(b"\0", b" "):
                found.append(dict(entry.partition("=")[::2] for entry in variables if entry))
        return found

    def logs(self) -> str:
        """The last lines of the daemons' logs."""
        files = sorted(self.folder.glob("*.log"))
        return "\n".join(f"--- {file.name}\n{file.read_text(errors='replace')[-2000:]}" for file in files)


def wait_for(find: Callable[[], Found | None], seconds: float, what: str) -> Found:
    """Call `find` every second until its result is true, and return that. Raises TimeoutError naming `what`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := find():
            return found
        time.sleep(1)
    raise TimeoutError(f"waited {seconds:.0f} seconds for {what}")


def install() -> None:
    """Install SLURM and munge if they are missing. Raises CannotRun."""
    if os.geteuid() != 0:
        raise CannotRun("only root can start a SLURM cluster")
    if all(map(find_program, PROGRAMS)):
        return
    if which("apt-get") is None:
        raise CannotRun(f"there is no apt-get to install {' and '.join(APT_PACKAGES)} with")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update"], ["install", "--yes", "--no-install-recommends", *APT_PACKAGES]):
        done = subprocess.run(["apt-get", *words], env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CannotRun(f"apt-get {words[0]} failed: {done.stderr.strip().splitlines()[-1:]}")


def find_program(name: str) -> str | None:
    """The path of a program. The daemons are in folders that are not on every user's PATH."""
    return which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))


@contextmanager
def running_cluster(folder: Path) -> Iterator[Cluster]:
    """Run SLURM inside the block, then stop it with all its jobs.

    Raises:
        CannotRun: this machine cannot run SLURM.
        TimeoutError: SLURM does not start; the message holds the last lines of the logs.
    """
    prepare(folder)
    cluster = Cluster(folder)
    with ExitStack() as opened:
        # Run the daemons in the foreground as children, so that the kernel ends them if this process is killed.
        opened.enter_context(
            daemon(
                cluster,
                "munged",
                "--foreground",
                "--force",
                f"--socket={folder}/munge.socket",
                f"--key-file={folder}/munge.key",
                f"--pid-file={folder}/munge.pid",
                f"--seed-file={folder}/munge.seed",
                f"--log-file={folder}/munged.log",
            )
        )
        wait_for((folder / "munge.socket").exists, 20, "munge's socket")
        opened.enter_context(daemon(cluster, "slurmctld", "-D", "-c"))
        opened.enter_context(daemon(cluster, "slurmd", "-D", "-N", socket.gethostname()))
        opened.callback(cancel_all, cluster)
        try:
            wait_for(lambda: node_is_idle(cluster), 60, "the node")
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{cluster.logs()}") from error
        yield cluster


def prepare(folder: Path) -> None:
    """Write the settings, the key and the device files. Raises CannotRun if device files cannot be created."""
    for name in ("dev", "state", "spool", "bin"):
        (folder / name).mkdir(parents=True)
    values = {
        "folder": folder,
        "host": socket.gethostname(),
        "controller_port": free_port(),
        "node_port": free_port(),
        "credential_seconds": CREDENTIAL_SECONDS,
        "cpus": CPUS,
        "memory_mb": MEMORY_MB,
        "gpus": GPUS,
        "urgent": URGENT,
    }
    (folder / "slurm.conf").write_text(SLURM_CONF.format(**values))
    devices = f"{folder}/dev/nvidia[0-{GPUS - 1}]"
    (folder / "gres.conf").write_text(f"NodeName={values['host']} Name=gpu Type=h200 File={devices}\n")
    (folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
    # Inside a job, the executor plugin removes SLURM_CONF from the environment of srun.
    srun = folder / "bin" / "srun"
    srun.write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {find_program("srun")} "$@"\n')
    srun.chmod(0o755)
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o400)
    try:
        for index in range(GPUS):
            os.mknod(folder / "dev" / f"nvidia{index}", 0o666 | stat.S_IFCHR, NULL_DEVICE)
    except PermissionError as error:
        raise CannotRun("device files cannot be created here") from error


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def daemon(cluster: Cluster, name: str, *arguments: str) -> Iterator[None]:
    """Run a daemon in the foreground inside the block, with its output in a log file."""
    words = ["setpriv", "--pdeathsig", "TERM", find_program(name) or name, *arguments]
    with (cluster.folder / f"{name}.output.log").open("w") as output:
        process = subprocess.Popen(words, env=cluster.environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def node_is_idle(cluster: Cluster) -> bool:
    try:
        return set(cluster.command("sinfo", "--noheader", "--format=%T").split()) == {"idle"}
    except subprocess.CalledProcessError:
        return False


def cancel_all(cluster: Cluster) -> None:
    """Cancel every job and wait until the node is idle."""
    # A step outlives the daemon that started it, so it must end before the daemons do.
    active = [str(job.id) for job in cluster.jobs() if job.state in ("PENDING", "RUNNING", "COMPLETING")]
    if active:
        cluster.command("scancel", *active)
        wait_for(lambda: node_is_idle(cluster), 60, "cancelled jobs to end")
