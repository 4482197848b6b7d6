"""Processes that run at once take different GPUs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rl4vlm.models.devices import choose_device

# Says which of the GPUs it got, and holds it until its input ends.
JOB = """
import sys
from unittest.mock import patch
from rl4vlm.models.devices import choose_device
with patch("torch.cuda.is_available", lambda: True), patch("torch.cuda.device_count", lambda: int(sys.argv[1])):
    assert choose_device("auto") == choose_device("auto")
    print(choose_device("auto").index, flush=True)
sys.stdin.read()
"""


def start(count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", JOB, str(count)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("name", ["mps", "xpu", "xpu:1", "hpu"])
def test_a_device_that_the_machine_lacks_is_named(name: str) -> None:
    if torch.device(name).type == (torch.accelerator.current_accelerator() or torch.device("cpu")).type:
        pytest.skip("this machine has it")
    with pytest.raises(
        ValueError, match=f"^device '{name}' is not there: this machine has none, or this torch cannot use it$"
    ):
        choose_device(name)


def test_no_gpu_is_handed_out_twice_and_none_stays_idle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    jobs = [start(2) for _ in range(2)]
    try:
        got = {job.stdout.readline().strip(): job for job in jobs if job.stdout}
        assert sorted(got) == ["0", "1"]
        jobs.append(start(2))
        assert jobs[2].stderr is not None
        assert jobs[2].stderr.readline().startswith("other rl4vlm processes use too many of the 2 GPUs: waiting for 1 ")
        got["1"].kill()
        assert jobs[2].stdout is not None
        assert jobs[2].stdout.readline().strip() == "1"
        # Seen by another job under another index, it is still the same GPU.
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,7")
        jobs.append(start(2))
        assert jobs[3].stdout is not None
        assert jobs[3].stdout.readline().strip() == "1"
    finally:
        for job in jobs:
            job.kill()
            job.communicate()


def test_a_job_takes_the_gpu_that_was_claimed_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    holder = start(2)
    claim = [sys.executable, "-m", "rl4vlm.core.gpus", "1", sys.executable, "-c", JOB]
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == "0"
        # It claims "1", and sees it as its only one: it neither waits for its own claim nor takes GPU "3".
        job = subprocess.run([*claim, "1"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
        assert (job.stdout.strip(), job.stderr) == ("0", "")
        # One that is shown other GPUs than those claimed for it claims one of these.
        monkeypatch.setenv("RL4VLM_CLAIMED_GPUS", "1")
        other = start(2)
        assert other.stdout is not None
        assert other.stdout.readline().strip() == "1"
        other.kill()
        other.communicate()
    finally:
        holder.kill()
        holder.communicate()


def test_of_launched_processes_each_takes_that_of_its_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    from rl4vlm.models.devices import choose_device

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert choose_device("auto").index is None
