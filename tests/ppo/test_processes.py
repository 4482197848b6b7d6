"""PPO in two processes on the CPU: the same result as in one, and an end in bounded time when one process is lost."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file

from rl4vlm.cli import main
from rl4vlm.config.overrides import training_command
from rl4vlm.models.actor_critic import ActorCritic
from rl4vlm.policies.vlm import VLMPolicy
from rl4vlm.ppo.rollout import Sample
from tests.crews import WAYS, Crew
from tests.fakes import climb_slot
from tests.ppo import crew_work

ROOT = Path(__file__).parents[2]
COMMAND = Path(sys.executable).with_name("rl4vlm")
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "OMP_NUM_THREADS": "1",
    "PATH": f"{COMMAND.parent}{os.pathsep}{os.environ['PATH']}",
}


def launched(*command: object, processes: int = 2) -> list[str]:
    """The command line of a script in several processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", processes]
    return [str(word) for word in [*launcher, *command]]


def stored_rollouts(checkpoint: Path) -> list[list[Sample]]:
    """Three rollouts of eleven sampled replies each, with made-up advantages."""
    torch.manual_seed(0)
    model = ActorCritic.load(checkpoint, temperature=1.0, max_new_tokens=24, value_sizes=(16,))
    rng = np.random.default_rng(0)
    slots = [climb_slot(seed) for seed in range(11)]
    made = []
    for _ in range(3):
        replies = VLMPolicy(model).act([slot.request for slot in slots])
        for slot, reply in zip(slots, replies, strict=True):
            slot.play(reply)
        made.append([Sample(reply.trace, float(rng.normal()), reply.trace.value + 0.3) for reply in replies])
    return made


def alone_and_together(way: str, folder: Path, work: Callable[..., None], *arguments: object) -> list[dict]:
    """What one process and two write; and that all weights of the two were split, or none."""
    work(folder, folder / "alone", *arguments)
    Crew(folder, way, work, folder, folder / "together", *arguments).succeed()
    alone, together = (torch.load(folder / name, weights_only=False) for name in ("alone", "together"))
    assert (alone["processes"], together["processes"]) == (1, 2)
    assert (alone["split"], together["split"]) == (0, (way == "fsdp") * len(together["weights"]))
    return [alone, together]


def same_weights(alone: dict, together: dict, checkpoint: Path) -> None:
    """Within 1e-8, and far from where both began."""
    before = ActorCritic.load(checkpoint, temperature=0.7, max_new_tokens=24).model.state_dict(prefix="model.")
    assert alone["weights"].keys() == together["weights"].keys()
    for name, weights in alone["weights"].items():
        assert weights.dtype == torch.float64
        torch.testing.assert_close(together["weights"][name], weights, rtol=0, atol=1e-8, msg=name)
    moved = [float((alone["weights"][name] - before[name]).abs().max()) for name in alone["weights"].keys() & before]
    assert max(moved) > 1e-3


@pytest.mark.parametrize("way", WAYS)
def test_two_processes_equal_one_in_float64(way, tiny_checkpoint, tmp_path):
    shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")
    torch.save(stored_rollouts(tiny_checkpoint), tmp_path / "rollouts.pt")
    alone, together = alone_and_together(way, tmp_path, crew_work.fit)
    same_weights(alone, together, tiny_checkpoint)
    for one, two in zip(alone["measured"], together["measured"], strict=True):
        assert two == pytest.approx(one, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("way", WAYS)
def test_in_bfloat16_all_processes_compare_with_what_each_scored_again(way, tiny_checkpoint, tmp_path):
    shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")
    torch.save(stored_rollouts(tiny_checkpoint), tmp_path / "rollouts.pt")
    alone, together = alone_and_together(way, tmp_path, crew_work.fit_in_bfloat16)
    for one in (alone, together):
        assert one["measured"]["first_ratio_error"] < 1e-3
        assert one["measured"]["rescored_gap"] > 1e-4
    # Each sample shares its micro-batch with others, and bfloat16 rounds otherwise.
    assert together["old"] == pytest.approx(alone["old"], abs=0.1)
    assert np.abs(together["old"][:, 0]).min() > 1


@pytest.fixture(scope="module")
def texts_together(tiny_checkpoint):
    """What environments are told that are all asked in one batch."""
    slots = [climb_slot(seed) for seed in range(crew_work.ENVIRONMENTS)]
    return crew_work.play(crew_work.policy(tiny_checkpoint), [slots])


@pytest.mark.parametrize("size", [1, 3])
def test_replies_do_not_depend_on_who_shares_the_batch(tiny_checkpoint, texts_together, size):
    """Although replies end at different tokens: an environment draws from its stream for its own replies alone."""
    slots = [climb_slot(seed) for seed in range(crew_work.ENVIRONMENTS)]
    groups = [slots[start : start + size] for start in range(0, crew_work.ENVIRONMENTS, size)]
    assert crew_work.play(crew_work.policy(tiny_checkpoint), groups) == texts_together
    assert len({len(text) for texts in texts_together for text in texts}) > 5


def numbers(sample: Sample) -> list[float]:
    trace = sample.trace
    return [trace.logprob_thoughts, trace.logprob_action, trace.value, sample.advantage, sample.value_target]


@pytest.mark.parametrize(("way", "task"), [("ddp", "Blackjack"), ("fsdp", "NumberLine")])
def test_rollouts_do_not_depend_on_the_processes(way, task, tiny_checkpoint, tmp_path):
    """A whole run: what is played, after an update too, and what comes of it; its checkpoint is an ordinary one."""
    shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")
    alone, together = alone_and_together(way, tmp_path, crew_work.play_and_fit, task)
    assert len(alone["rollouts"]) == len(together["rollouts"]) == 2
    for update, played in alone["rollouts"].items():
        for one, two in zip(played.samples, together["rollouts"][update].samples, strict=True):
            assert torch.equal(two.trace.prompt.input_ids, one.trace.prompt.input_ids)
            assert torch.equal(two.trace.prompt.images["pixel_values"], one.trace.prompt.images["pixel_values"])
            assert torch.equal(two.trace.ids, one.trace.ids)
            assert numbers(two) == pytest.approx(numbers(one), rel=1e-9, abs=1e-9)
        lengths = {len(sample.trace.ids) for sample in played.samples}
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
    """Three environments, two in one process and one in the other; files as from one process, written once."""
    words = [*WORDS, "sizes.image_size=40"]
    config = {"resources": {"ppo": {"processes": 2}}, "accelerate": str(ROOT / "config" / "accelerate" / "ddp.yaml")}
    command = [*shlex.split(training_command(config, "ppo")), "cnn", *ARGUMENTS, "--out", str(tmp_path / "two")]
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
@pytest.mark.parametrize("way", WAYS)
def test_a_vision_language_model_in_two_processes(way, tiny_checkpoint, tmp_path):
    """The whole run by the workflow's own line: three environments, and as many replies of as many lengths."""
    config = {"resources": {"ppo": {"processes": 2}}, "accelerate": str(ROOT / "config" / "accelerate" / f"{way}.yaml")}
    stage = ["ppo", *ARGUMENTS, "--init", str(tiny_checkpoint)]
    command = [*shlex.split(training_command(config, "ppo")), *stage, "--out", str(tmp_path / "two")]
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


LASTING = [*VLM_WORDS, "total_env_steps=1000000", "ppo_epochs=50"]


@pytest.mark.parametrize(("way", "loss"), [("ddp", signal.SIGKILL), ("fsdp", signal.SIGSTOP)])
def test_the_others_notice_a_process_that_is_lost_in_an_update(way, loss, tiny_checkpoint, tmp_path):
    """With no launcher to notice it: the one left fails by itself, and says why."""
    words = ["ppo", *ARGUMENTS, "--init", str(tiny_checkpoint), "--out", str(tmp_path / "out")]
    crew = Crew(tmp_path, way, main, [*words, "--set", *LASTING, "process_timeout=5"])
    left, lost = crew.processes
    try:
        await_lines(tmp_path / "out" / "metrics.jsonl", left.is_alive, 1)
        os.kill(lost.pid, loss)
        left.join(120)
        assert left.exitcode == 1
    finally:
        for process in crew.processes:
            process.kill()
    said = crew.logs[0].read_text()
    assert "in process 0 of 2" in said or "process 0 of 2 waited 5 seconds" in said
    assert "process_timeout" in said


@pytest.mark.long
@pytest.mark.parametrize(
    ("loss", "said"), [(signal.SIGKILL, "Signal 9 (SIGKILL)"), (signal.SIGSTOP, "in process 0 of 2")], ids=str
)
def test_a_lost_process_ends_the_others_with_a_message(tmp_path, loss, said):
    """Killed, it is reported by the launcher; standing still, by the process that waited `process_timeout` for it."""
    words = ["total_env_steps=1000000", *WORDS[1:], "sizes.image_size=40", "process_timeout=8"]
    command = launched("--no_python", COMMAND, "cnn", *ARGUMENTS, "--out", tmp_path, "--set", *words)
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(command, env=ENVIRONMENT, stdout=log, stderr=subprocess.STDOUT) as launcher,
    ):
        try:
            await_lines(tmp_path / "metrics.jsonl", lambda: launcher.poll() is None, 1)
            ranks = {child.environ()["RANK"]: child for child in psutil.Process(launcher.pid).children(recursive=True)}
            ranks["1"].send_signal(loss)
            assert launcher.wait(timeout=120) != 0
            assert not any(child.is_running() for child in ranks.values())
        finally:
            launcher.kill()
    assert said in (tmp_path / "log").read_text()


def await_lines(file: Path, runs: Callable[[], bool], count: int) -> None:
    """Wait until a run that still `runs` has written so many lines of metrics."""
    limit = time.monotonic() + 240
    while not (file.is_file() and file.read_text().count("\n") >= count):
        assert runs()
        assert time.monotonic() < limit
        time.sleep(0.2)


@pytest.mark.long
def test_a_run_of_two_processes_goes_on_from_its_last_update(tmp_path):
    """Killed after some updates and run again: the same metrics, to the last byte, and the same weights."""
    words = ["total_env_steps=240", *WORDS[1:], "sizes.image_size=40"]

    def command(name: str) -> list[str]:
        options = ["--out", tmp_path / name, "--state", tmp_path / f"{name}-state", "--set", *words]
        return launched("--no_python", COMMAND, "cnn", *ARGUMENTS, *options)

    subprocess.run(command("whole"), env=ENVIRONMENT, check=True, timeout=600)
    with subprocess.Popen(command("broken"), env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) as launcher:
        # The state after an update is saved before the next line is written.
        await_lines(tmp_path / "broken" / "metrics.jsonl", lambda: launcher.poll() is None, 3)
        for child in psutil.Process(launcher.pid).children(recursive=True):
            if child.environ().get("RANK") == "0":
                child.kill()
        launcher.communicate(timeout=120)
    assert launcher.returncode != 0
    done = len(metrics_of(tmp_path / "broken"))
    assert 3 <= done < 20
    again = subprocess.run(command("broken"), env=ENVIRONMENT, capture_output=True, text=True, check=True, timeout=600)
    assert again.stderr.count("going on from") == 1
    written = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "broken")]
    assert written[0] == written[1]
    weights = [(tmp_path / name / "checkpoint" / "cnn.safetensors").read_bytes() for name in ("whole", "broken")]
    assert weights[0] == weights[1]
    assert not (tmp_path / "broken-state").exists()
