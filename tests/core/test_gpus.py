"""GPUs are counted as CUDA would, and jobs of several processes get GPUs that no other job has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rl4vlm.core import gpus
from rl4vlm.core.gpus import VISIBLE, claim_gpus, shown_gpus


def test_gpus_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("nvidia0", "nvidia1", "nvidia12", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert shown_gpus(tmp_path) == ["0", "1", "2"]
    for shown, count in {"": 0, "-1": 0, "2": 1, "1,-1,0": 1, "0, 3": 2, "GPU-8932f937,MIG-1": 2}.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
        assert len(shown_gpus(tmp_path)) == count


def start(count: int) -> subprocess.Popen[str]:
    """A job that prints which GPUs it sees, and holds them until its input ends."""
    job = f"import os, sys; print(os.environ[{VISIBLE!r}], flush=True); sys.stdin.read()"
    command = [sys.executable, "-m", gpus.__name__, str(count), sys.executable, "-c", job]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def seen(job: subprocess.Popen[str]) -> str:
    assert job.stdout
    return job.stdout.readline().strip()


def test_a_job_gets_all_its_gpus_or_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv(VISIBLE, "4,5,GPU-1")
    jobs = [start(2)]
    try:
        assert seen(jobs[0]) == "4,5"
        jobs.append(start(2))
        assert jobs[1].stderr
        assert jobs[1].stderr.readline().startswith("other rl4vlm processes use too many of the 3 GPUs: waiting for 2 ")
        # The second job holds the third GPU and waits for another: a third job must not get that one first.
        jobs.append(start(1))
        jobs[0].kill()
        assert seen(jobs[1]) == "4,GPU-1"
        assert seen(jobs[2]) == "5"
        # In another job of SLURM, the same names are other GPUs.
        monkeypatch.setenv("SLURM_JOB_ID", "7")
        jobs.append(start(3))
        assert seen(jobs[3]) == "4,5,GPU-1"
    finally:
        for job in jobs:
            job.kill()
            job.communicate()


def test_more_gpus_than_there_are_cannot_be_claimed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(ValueError, match="2 GPUs are asked for, but there are 1"):
        claim_gpus(["0"], 2)


def test_a_command_for_more_gpus_than_there_are_ends_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE, "0")
    job = start(2)
    assert job.communicate()[1] == "error: 2 GPUs are asked for, but there are 1\n"
    assert job.returncode == 2
