"""Real processes, killed at random moments and started again: the results are those of an undisturbed run.

These tests are slow, so `make test` leaves them out: run `make test-resume`. `test_resume.py` tests the same within one
process.
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
from rl4vlm.config.stages.sft_data import SFTDataSettings
from rl4vlm.core.files import sha256_of
from rl4vlm.core.output import UNFINISHED
from rl4vlm.core.types import Style
from rl4vlm.sft.data import run as make_data
from tests.launch import FORK_SERVER, Launched

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
    """Run the command in a process group of its own, with its output in a file."""
    os.setpgid(0, 0)
    with open(log, "wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    sys.exit(main(arguments))


class Run:
    """A training run as a command."""

    def __init__(self, folder, checkpoint, task):
        self.out, self.state, self.log = folder / "out", folder / "state", folder / "log"
        words = [f"{name}={json.dumps(value)}" for name, value in SETTINGS.items()]
        self.arguments = ["ppo", "--task", task, "--init", str(checkpoint), "--out", str(self.out)]
        self.arguments += ["--state", str(self.state), "--set", *words]

    def start(self):
        """Start the command."""
        self.log.unlink(missing_ok=True)
        process = FORK_SERVER.Process(target=run_command, args=(self.arguments, self.log))
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
    """The result of an undisturbed run, and how many seconds it trains."""
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
            # Some kills come earlier, while the run loads the model or its state.
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
    """As a scheduler sends it, to the command line of a workflow rule. The `tee` in it gets the signal, too, and has
    ended before the run writes its last message."""
    expected, seconds = undisturbed(tmp_path / "undisturbed", tiny_checkpoint, "NumberLine")
    run = Run(tmp_path, tiny_checkpoint, "NumberLine")
    python = [sys.executable, "-c", "import sys; from rl4vlm.cli import main; sys.exit(main())", *run.arguments]
    shell = '"$@" 2>&1 | tee "$0"; exit "${PIPESTATUS[0]}"'
    # The shell ignores the signal and waits for its children, as srun does.
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
    assert (done.returncode, "continuing from" in run.log.read_text()) == (0, True)
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


@pytest.mark.parametrize(("stage", "strategy"), [("cnn", "ddp"), ("ppo", "fsdp"), ("sft", "fsdp")])
def test_a_signal_to_one_of_two_processes_stops_both(stage, strategy, tiny_checkpoint, tmp_path):
    """Both stop after the same step with their states saved, and continue when they are started again."""
    make_data(task="Blackjack", style=Style.COT, out=tmp_path / "DATA", settings=SFTDataSettings(samples=20))
    there = {"CHECKPOINT": str(tiny_checkpoint), "DATA": str(tmp_path / "DATA")}
    words = [there.get(word, word) for word in TRAININGS[stage]]
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()

    def start(name):
        folders = ["--out", str(tmp_path / name / "out"), "--state", str(tmp_path / name / "state")]
        return Launched(tmp_path / name, strategy, main, [stage, *folders, *words])

    def wait_for_lines(name, count, launched):
        metrics = tmp_path / name / "out" / UNFINISHED / "metrics.jsonl"
        while not (metrics.is_file() and metrics.read_text().count("\n") >= count):
            assert launched.processes[0].is_alive(), launched.output()
            time.sleep(0.005)

    start("whole").assert_success()
    positions, moments = [], random.Random(stage)
    for rank, count in enumerate((1, 3)):
        launched = start("broken")
        wait_for_lines("broken", count, launched)
        time.sleep(moments.uniform(0, 0.3))
        os.kill(launched.processes[rank].pid, signal.SIGTERM)
        assert launched.wait() == [143, 143], launched.output()
        (stopped,) = set(re.findall(r"stopped by SIGTERM at ([^;]*);", launched.output()))
        positions.append(stopped)
        assert list((tmp_path / "broken" / "state").glob("*/*/manifest.json"))
    last = start("broken")
    last.assert_success()
    assert f"continuing from {tmp_path}" in last.output()
    print(positions)
    for name in ("metrics.jsonl", "checkpoint"):
        assert sha256_of(tmp_path / "broken" / "out" / name) == sha256_of(tmp_path / "whole" / "out" / name)
    assert not (tmp_path / "broken" / "state").exists()
