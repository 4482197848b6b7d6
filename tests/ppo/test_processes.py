"""PPO in two processes on the CPU: the result of one process, and an error in bounded time if a process is lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file

from rl4vlm.cli import main
from rl4vlm.config.launch import stage_command
from rl4vlm.core.output import UNFINISHED
from rl4vlm.models.actor_critic import ActorCritic
from rl4vlm.policies.vlm import VLMPolicy
from rl4vlm.ppo.rollout import Sample
from tests.fakes import climb_slot
from tests.launch import STRATEGIES, Launched
from tests.ppo import process_work

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[2]
COMMAND = Path(sys.executable).with_name("rl4vlm")
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "OMP_NUM_THREADS": "1",
    "PATH": f"{COMMAND.parent}{os.pathsep}{os.environ['PATH']}",
}


def launcher_command(*command: object, processes: int = 2) -> list[str]:
    """A command line that runs a script in several processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", processes]
    return [str(word) for word in [*launcher, *command]]


@pytest.fixture(scope="module")
def stored(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint, and three rollouts of eleven sampled replies each, with made-up advantages."""
    folder = tmp_path_factory.mktemp("stored")
    shutil.copytree(tiny_checkpoint, folder / "checkpoint")
    torch.manual_seed(0)
    model = ActorCritic.load(tiny_checkpoint, temperature=1.0, max_new_tokens=24, value_sizes=(16,))
    rng = np.random.default_rng(0)
    slots = [climb_slot(seed) for seed in range(11)]
    made = []
    for _ in range(3):
        replies = VLMPolicy(model).act([slot.request for slot in slots])
        for slot, reply in zip(slots, replies, strict=True):
            slot.play(reply)
        made.append(
            [Sample(reply.replay_item, float(rng.normal()), reply.replay_item.value + 0.3) for reply in replies]
        )
    torch.save(made, folder / "rollouts.pt")
    return folder


def alone_and_together(strategy: str, folder: Path, work: Callable[..., None], *arguments: object) -> list[dict]:
    """What one process and two processes write. Checks that under FSDP all weights were sharded, and else none."""
    work(folder, folder / "alone", *arguments)
    Launched(folder, strategy, work, folder, folder / "together", *arguments).assert_success()
    alone, together = (torch.load(folder / name, weights_only=False) for name in ("alone", "together"))
    assert (alone["processes"], together["processes"]) == (1, 2)
    assert (alone["split"], together["split"]) == (0, (strategy == "fsdp") * len(together["weights"]))
    return [alone, together]


def same_weights(alone: dict, together: dict, checkpoint: Path) -> None:
    """The weights agree within 1e-8, and training has moved them by far more than that."""
    before = ActorCritic.load(checkpoint, temperature=0.7, max_new_tokens=24).model.state_dict(prefix="model.")
    assert alone["weights"].keys() == together["weights"].keys()
    for name, weights in alone["weights"].items():
        assert weights.dtype == torch.float64
        torch.testing.assert_close(together["weights"][name], weights, rtol=0, atol=1e-8, msg=name)
    moved = [float((alone["weights"][name] - before[name]).abs().max()) for name in alone["weights"].keys() & before]
    assert max(moved) > 1e-3


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_processes_equal_one_in_float64(strategy, tiny_checkpoint, stored):
    alone, together = alone_and_together(strategy, stored, process_work.update)
    same_weights(alone, together, tiny_checkpoint)
    for one, two in zip(alone["measured"], together["measured"], strict=True):
        assert two == pytest.approx(one, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_in_bfloat16_all_processes_compare_with_what_each_scored_again(strategy, stored):
    alone, together = alone_and_together(strategy, stored, process_work.update_in_bfloat16)
    for one in (alone, together):
        assert one["measured"]["first_ratio_error"] < 1e-3
        assert one["measured"]["rescored_gap"] > 1e-5
    # In two processes a sample shares its micro-batch with other samples, which changes the rounding.
    assert together["old"] == pytest.approx(alone["old"], abs=0.1)
    assert np.abs(together["old"][:, 0]).min() > 1


@pytest.fixture(scope="module")
def texts_together(tiny_checkpoint):
    """The replies to all environments, sampled in one batch."""
    slots = [climb_slot(seed) for seed in range(process_work.ENVIRONMENTS)]
    return process_work.play(process_work.policy(tiny_checkpoint), [slots])


@pytest.mark.parametrize("size", [1, 3])
def test_replies_do_not_depend_on_who_shares_the_batch(tiny_checkpoint, texts_together, size):
    """Replies end at different tokens, so each environment must draw from its own stream, and only for its replies."""
    slots = [climb_slot(seed) for seed in range(process_work.ENVIRONMENTS)]
    groups = [slots[start : start + size] for start in range(0, process_work.ENVIRONMENTS, size)]
    assert process_work.play(process_work.policy(tiny_checkpoint), groups) == texts_together
    assert len({len(text) for texts in texts_together for text in texts}) > 5


def numbers(sample: Sample) -> list[float]:
    item: Any = sample.item
    return [item.logprob_thoughts, item.logprob_action, item.value, sample.advantage, sample.value_target]


@pytest.mark.parametrize(("strategy", "task"), [("ddp", "Blackjack"), ("fsdp", "NumberLine")])
def test_rollouts_do_not_depend_on_the_processes(strategy, task, tiny_checkpoint, tmp_path):
    """A whole run: the same play, also after an update, and the same weights. The checkpoint is an ordinary one."""
    shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")
    alone, together = alone_and_together(strategy, tmp_path, process_work.play_and_update, task)
    assert len(alone["rollouts"]) == len(together["rollouts"]) == 2
    for update, played in alone["rollouts"].items():
        for one, two in zip(played.samples, together["rollouts"][update].samples, strict=True):
            assert torch.equal(two.item.prompt.input_ids, one.item.prompt.input_ids)
            assert torch.equal(two.item.prompt.images["pixel_values"], one.item.prompt.images["pixel_values"])
            assert torch.equal(two.item.ids, one.item.ids)
            assert numbers(two) == pytest.approx(numbers(one), rel=1e-8, abs=1e-8)
        lengths = {len(sample.item.ids) for sample in played.samples}
    assert len(lengths) > 1
    same_weights(alone, together, tiny_checkpoint)
    again = ActorCritic.load(
        tmp_path / "together.run" / "checkpoint", dtype="float64", temperature=1.0, max_new_tokens=4
    )
    for name, weights in again.named_parameters():
        # A value head is loaded in float32.
        assert torch.equal(weights, together["weights"][name].to(weights.dtype)), name


ARGUMENTS = ["--task", "NumberLine", "--seed", "3"]
WORDS = [
    "total_env_steps=24",
    "num_envs=3",
    "num_steps=12",
    "ppo_epochs=1",
    "minibatch_size=8",
    "device=cpu",
    "temperature=1.0",
]


def metrics_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_what_is_played_does_not_depend_on_the_processes(tmp_path):
    """Three environments, two in one process and one in the other. The files are written once, as by one process."""
    words = [*WORDS, "sizes.image_size=40"]
    config = {
        "resources": {"ppo": {"processes": 2, "gpu": 0}},
        "accelerate": str(ROOT / "config" / "accelerate" / "ddp.yaml"),
    }
    command = [*stage_command(config, "ppo"), "cnn", *ARGUMENTS, "--out", str(tmp_path / "two")]
    subprocess.run([*command, "--set", *words], env=ENVIRONMENT, check=True, timeout=600)
    assert main(["cnn", *ARGUMENTS, "--out", str(tmp_path / "one"), "--set", *words]) == 0
    one, two = metrics_of(tmp_path / "one"), metrics_of(tmp_path / "two")
    assert len(one) == len(two) == 2
    for key, value in one[0].items():
        assert two[0][key] == (value if value is None else pytest.approx(value, rel=1e-4, abs=1e-6)), key
    assert two[1]["learning_rate"] == one[1]["learning_rate"]
    for folder in ("one", "two"):
        names = {path.name for path in (tmp_path / folder).iterdir()}
        assert names == {"checkpoint", "metrics.jsonl", "timing.jsonl", "run.json"}


VLM_WORDS = [*WORDS, "max_new_tokens=8", "value_sizes=[8]", "micro_batch_size=2", "learning_rate=0.001"]


@pytest.mark.long
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_vision_language_model_in_two_processes(strategy, tiny_checkpoint, tmp_path):
    """A whole run with the command line of the workflow: the same metrics as one process, and the same files."""
    config = {
        "resources": {"ppo": {"processes": 2, "gpu": 0}},
        "accelerate": str(ROOT / "config" / "accelerate" / f"{strategy}.yaml"),
    }
    stage = ["ppo", *ARGUMENTS, "--init", str(tiny_checkpoint)]
    command = [*stage_command(config, "ppo"), *stage, "--out", str(tmp_path / "two")]
    subprocess.run([*command, "--set", *VLM_WORDS], env=ENVIRONMENT, check=True, timeout=600)
    assert main([*stage, "--out", str(tmp_path / "one"), "--set", *VLM_WORDS]) == 0
    one, two = metrics_of(tmp_path / "one"), metrics_of(tmp_path / "two")
    assert len(one) == len(two) == 2
    for key, value in one[0].items():
        assert two[0][key] == (value if value is None else pytest.approx(value, rel=1e-4, abs=1e-5)), key
    files = [{path.relative_to(tmp_path / name) for path in (tmp_path / name).rglob("*")} for name in ("one", "two")]
    assert files[0] == files[1]
    saved = [load_file(tmp_path / name / "checkpoint" / "model.safetensors") for name in ("one", "two")]
    assert {name: (w.shape, w.dtype) for name, w in saved[0].items()} == {
        name: (w.shape, w.dtype) for name, w in saved[1].items()
    }
    again = ActorCritic.load(tmp_path / "two" / "checkpoint", temperature=1.0, max_new_tokens=4)
    assert [tuple(weight.shape) for weight in again.value_head.parameters()] == [(8, 32), (8,), (1, 8), (1,)]


STAND_INS = {
    # Runs the command that follows the options on two "nodes", and fails if it fails on one of them.
    "srun": """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
export SLURM_JOB_NODELIST=127.0.0.1 SLURM_JOB_ID=$$
SLURM_NODEID=0 "$@" & first=$!
SLURM_NODEID=1 "$@" & second=$!
wait $first && wait $second
""",
    "scontrol": "#!/bin/sh\necho 127.0.0.1\n",
}


@pytest.mark.long
def test_launchers_of_two_nodes_are_two_processes_of_one(tiny_checkpoint, tmp_path):
    """The workflow's own command, with a launcher per node on this machine: the same metrics and the same weights."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in STAND_INS.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    environment = {**ENVIRONMENT, "PATH": f"{programs}{os.pathsep}{ENVIRONMENT['PATH']}"}
    stage = ["ppo", *ARGUMENTS, "--init", str(tiny_checkpoint)]
    for nodes in (1, 2):
        asked = {"threads": 1, "gpu": 0, "processes": 2, "nodes": nodes}
        config = {"resources": {"ppo": asked}, "accelerate": str(ROOT / "config" / "accelerate" / "ddp.yaml")}
        command = [*stage_command(config, "ppo"), *stage, "--out", str(tmp_path / str(nodes)), "--set", *VLM_WORDS]
        subprocess.run(command, env=environment, check=True, timeout=900)
    assert metrics_of(tmp_path / "2") == metrics_of(tmp_path / "1")
    one, two = (load_file(tmp_path / name / "checkpoint" / "model.safetensors") for name in ("1", "2"))
    assert one.keys() == two.keys()
    assert all(torch.equal(two[name], weights) for name, weights in one.items())


LASTING = [*VLM_WORDS, "total_env_steps=1000000", "ppo_epochs=50"]


def test_all_processes_score_under_the_first_prompt_of_the_run(tmp_path):
    Launched(tmp_path, "ddp", process_work.prompt_to_score, tmp_path, tmp_path / "of").assert_success()
    assert [(tmp_path / f"of{rank}").read_text() for rank in range(2)] == ["0", "0"]


@pytest.mark.parametrize(("strategy", "loss"), [("ddp", signal.SIGKILL), ("fsdp", signal.SIGSTOP)])
def test_the_others_notice_a_process_that_is_lost_in_an_update(strategy, loss, tiny_checkpoint, tmp_path):
    """Without a launcher: the remaining process must notice by itself, fail, and say why."""
    words = ["ppo", *ARGUMENTS, "--init", str(tiny_checkpoint), "--out", str(tmp_path / "out")]
    launched = Launched(tmp_path, strategy, main, [*words, "--set", *LASTING, "process_timeout=5"])
    left, lost = launched.processes
    try:
        await_lines(tmp_path / "out" / UNFINISHED / "metrics.jsonl", left.is_alive, 1)
        assert lost.pid is not None
        os.kill(lost.pid, loss)
        left.join(120)
        assert left.exitcode == 1
    finally:
        for process in launched.processes:
            process.kill()
    output = launched.logs[0].read_text()
    assert "in process 0 of 2" in output or "process 0 of 2 waited 5 seconds" in output
    assert "process_timeout" in output


@pytest.mark.long
@pytest.mark.parametrize(
    ("loss", "said"), [(signal.SIGKILL, "Signal 9 (SIGKILL)"), (signal.SIGSTOP, "in process 0 of 2")], ids=str
)
def test_a_lost_process_ends_the_others_with_a_message(tmp_path, loss, said):
    """The launcher reports a killed process. A stopped one is reported by the process that waited `process_timeout`."""
    words = ["total_env_steps=1000000", *WORDS[1:], "sizes.image_size=40", "process_timeout=8"]
    command = launcher_command("--no_python", COMMAND, "cnn", *ARGUMENTS, "--out", tmp_path, "--set", *words)
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(command, env=ENVIRONMENT, stdout=log, stderr=subprocess.STDOUT) as launcher,
    ):
        try:
            await_lines(tmp_path / UNFINISHED / "metrics.jsonl", lambda: launcher.poll() is None, 1)
            ranks = {child.environ()["RANK"]: child for child in psutil.Process(launcher.pid).children(recursive=True)}
            ranks["1"].send_signal(loss)
            assert launcher.wait(timeout=120) != 0
            assert not any(child.is_running() for child in ranks.values())
        finally:
            launcher.kill()
    assert said in (tmp_path / "log").read_text()


def await_lines(file: Path, runs: Callable[[], bool], count: int) -> None:
    """Wait until a run has written `count` lines of metrics; fails if it no longer `runs`."""
    limit = time.monotonic() + 240
    while not (file.is_file() and file.read_text().count("\n") >= count):
        assert runs()
        assert time.monotonic() < limit
        time.sleep(0.2)


@pytest.mark.long
def test_a_run_of_two_processes_goes_on_from_its_last_update(tmp_path):
    """Killed after some updates and run again, it gives the same bytes of metrics and weights."""
    words = ["total_env_steps=240", *WORDS[1:], "sizes.image_size=40"]

    def command(name: str) -> list[str]:
        options = ["--out", tmp_path / name, "--state", tmp_path / f"{name}-state", "--set", *words]
        return launcher_command("--no_python", COMMAND, "cnn", *ARGUMENTS, *options)

    subprocess.run(command("whole"), env=ENVIRONMENT, check=True, timeout=600)
    with subprocess.Popen(command("broken"), env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) as launcher:
        # The state after an update is saved before the next line is written.
        await_lines(tmp_path / "broken" / UNFINISHED / "metrics.jsonl", lambda: launcher.poll() is None, 3)
        for child in psutil.Process(launcher.pid).children(recursive=True):
            if child.environ().get("RANK") == "0":
                child.kill()
        launcher.communicate(timeout=120)
    assert launcher.returncode != 0
    done = len(metrics_of(tmp_path / "broken" / UNFINISHED))
    assert 3 <= done < 20
    again = subprocess.run(command("broken"), env=ENVIRONMENT, capture_output=True, text=True, check=True, timeout=600)
    assert again.stderr.count("continuing from") == 1
    written = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "broken")]
    assert written[0] == written[1]
    weights = [(tmp_path / name / "checkpoint" / "cnn.safetensors").read_bytes() for name in ("whole", "broken")]
    assert weights[0] == weights[1]
    assert not (tmp_path / "broken-state").exists()
