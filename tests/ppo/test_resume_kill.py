"""Real processes killed at random moments: what the last of them leaves is what an undisturbed one leaves.

Slow, so it is no part of `make test`: `make test-resume`. `test_resume.py` has the same within one process.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest

from rl4vlm.cli import main
from rl4vlm.core.files import sha256_of
from rl4vlm.core.types import Style
from rl4vlm.sft.data import SFTDataSettings
from rl4vlm.sft.data import run as make_data
from tests.crews import PROCESSES, Crew

pytestmark = pytest.mark.long

KILLS = 20
SETTINGS = {
    "total_env_steps": 256,
    "num_envs": 4,
    "num_steps": 16,
    "ppo_epochs": 2,
    "minibatch_size": 4,
    "micro_batch_size": 2,
    "learning_rate": 1e-3,
    "temperature": 1.0,
    "max_new_tokens": 12,
    "value_sizes": [8],
    "success_window": 9,
    "bootstrap_truncated": True,
    "device": "cpu",
}


def run_command(arguments, log):
    """What a child does: the command, in a process group of its own, with its output in a file."""
    os.setpgid(0, 0)
    with open(log, "wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    sys.exit(main(arguments))


class Run:
    """One training run, as a command."""

    def __init__(self, folder, checkpoint, task):
        self.out, self.state, self.log = folder / "out", folder / "state", folder / "log"
        words = [f"{name}={json.dumps(value)}" for name, value in SETTINGS.items()]
        self.arguments = ["ppo", "--task", task, "--init", str(checkpoint), "--out", str(self.out)]
        self.arguments += ["--state", str(self.state), "--set", *words]

    def start(self):
        """Start the command and wait until it plays."""
        self.log.unlink(missing_ok=True)
        process = PROCESSES.Process(target=run_command, args=(self.arguments, self.log))
        process.start()
        return process

    def wait_until_it_plays(self, process):
        while process.exitcode is None:
            if self.log.is_file() and b"step/s" in self.log.read_bytes():
                return
            time.sleep(0.005)
        pytest.fail(f"the run ended by itself: {self.log.read_text()}")

    def result(self):
        return (self.out / "metrics.jsonl").read_bytes(), sha256_of(self.out / "checkpoint")


def undisturbed(folder, checkpoint, task):
    """What the run comes to, and how long it plays in seconds."""
    folder.mkdir()
    run = Run(folder, checkpoint, task)
    process = run.start()
    run.wait_until_it_plays(process)
    began = time.monotonic()
    process.join()
    assert process.exitcode == 0, run.log.read_text()
    return run.result(), time.monotonic() - began


@pytest.mark.parametrize("task", ["Blackjack", "Points24"])
def test_sigkill_at_random_moments(task, tiny_checkpoint, tmp_path):
    expected, seconds = undisturbed(tmp_path / "undisturbed", tiny_checkpoint, task)
    moments = random.Random(task)
    kills, chains, saved = 0, 0, 0
    while kills < KILLS // 2:
        chains += 1
        folder = tmp_path / f"chain{chains}"
        folder.mkdir()
        run = Run(folder, tiny_checkpoint, task)
        while True:
            process = run.start()
            # Now and then before it plays: while it loads the model, or the state that it goes on from.
            if moments.random() < 0.1:
                time.sleep(moments.uniform(0, 0.5))
            else:
                run.wait_until_it_plays(process)
                process.join(moments.uniform(0, seconds / 3))
            if process.exitcode is None:
                os.kill(process.pid, signal.SIGKILL)
            process.join()
            if process.exitcode == 0:
                break
            assert process.exitcode == -signal.SIGKILL, run.log.read_text()
            kills += 1
            saved += any(run.state.glob("*/*/manifest.json"))
        assert run.result() == expected
        assert not run.state.exists()
    assert saved > KILLS // 4
    print(f"{task}: {kills} kills in {chains} runs, {saved} of them after a first save")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 138)])
def test_a_signal_to_the_whole_group_saves_first(number, code, tiny_checkpoint, tmp_path):
    """As a scheduler does it, and as a rule's command line is: the `tee` behind it gets the signal, too, and is gone
    before the run has said its last words."""
    expected, seconds = undisturbed(tmp_path / "undisturbed", tiny_checkpoint, "NumberLine")
    run = Run(tmp_path, tiny_checkpoint, "NumberLine")
    python = [sys.executable, "-c", "import sys; from rl4vlm.cli import main; sys.exit(main())", *run.arguments]
    shell = '"$@" 2>&1 | tee "$0"; exit "${PIPESTATUS[0]}"'
    # The shell itself waits for its children, as srun does.
    command = ["bash", "-c", f"trap : {int(number)}; {shell}", str(run.log), *python]
    for part in (0.2, 0.3):
        process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
        while b"step/s" not in (run.log.read_bytes() if run.log.is_file() else b""):
            time.sleep(0.05)
        time.sleep(part * seconds)
        os.killpg(process.pid, number)
        assert process.wait() == code
        assert len(list(run.state.glob("*/*/manifest.json"))) >= 1
        run.log.unlink()
    done = subprocess.run(command, check=False, stdout=subprocess.DEVNULL)
    assert (done.returncode, "going on from" in run.log.read_text()) == (0, True)
    assert run.result() == expected


SHARED = ["device=cpu", "learning_rate=0.001", "process_timeout=120"]
PLAYED = ["ppo_epochs=2", "minibatch_size=8", "temperature=1.0", *SHARED]
TRAININGS = {
    "cnn": [
        "--task",
        "EZPoints",
        "--set",
        "total_env_steps=640",
        "num_envs=4",
        "num_steps=64",
        "sizes.image_size=40",
        *PLAYED,
    ],
    "ppo": [
        "--task",
        "Blackjack",
        "--init",
        "CHECKPOINT",
        "--set",
        "total_env_steps=120",
        "num_envs=3",
        "num_steps=24",
        "micro_batch_size=2",
        "max_new_tokens=8",
        "value_sizes=[8]",
        *PLAYED,
    ],
    "sft": [
        "--data",
        "DATA",
        "--init",
        "CHECKPOINT",
        "--set",
        "epochs=2",
        "batch_size=4",
        "micro_batch_size=2",
        *SHARED,
    ],
}


@pytest.mark.parametrize(("stage", "way"), [("cnn", "ddp"), ("ppo", "fsdp"), ("sft", "fsdp")])
def test_a_signal_to_one_of_two_processes_stops_both(stage, way, tiny_checkpoint, tmp_path):
    """After the same step, with the state of both saved; begun again, both go on."""
    make_data(task="Blackjack", style=Style.COT, out=tmp_path / "DATA", settings=SFTDataSettings(samples=20))
    there = {"CHECKPOINT": str(tiny_checkpoint), "DATA": str(tmp_path / "DATA")}
    words = [there.get(word, word) for word in TRAININGS[stage]]
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()

    def start(name):
        folders = ["--out", str(tmp_path / name / "out"), "--state", str(tmp_path / name / "state")]
        return Crew(tmp_path / name, way, main, [stage, *folders, *words])

    def wait_for_lines(name, count, crew):
        metrics = tmp_path / name / "out" / "metrics.jsonl"
        while not (metrics.is_file() and metrics.read_text().count("\n") >= count):
            assert crew.processes[0].is_alive(), crew.said()
            time.sleep(0.005)

    start("whole").succeed()
    positions, moments = [], random.Random(stage)
    for rank, count in enumerate((1, 3)):
        crew = start("broken")
        wait_for_lines("broken", count, crew)
        time.sleep(moments.uniform(0, 0.3))
        os.kill(crew.processes[rank].pid, signal.SIGTERM)
        assert crew.wait() == [143, 143], crew.said()
        (stopped,) = set(re.findall(r"stopped by SIGTERM at ([^;]*);", crew.said()))
        positions.append(stopped)
        assert list((tmp_path / "broken" / "state").glob("*/*/manifest.json"))
    last = start("broken")
    last.succeed()
    assert f"going on from {tmp_path}" in last.said()
    print(positions)
    for name in ("metrics.jsonl", "checkpoint"):
        assert sha256_of(tmp_path / "broken" / "out" / name) == sha256_of(tmp_path / "whole" / "out" / name)
    assert not (tmp_path / "broken" / "state").exists()
