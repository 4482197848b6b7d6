"""A fine-tuning that is killed anywhere and resumed ends with the same bytes as one that is not."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from rl4vlm.cli import main
from rl4vlm.config.stages.backbone import LoraSettings
from rl4vlm.config.stages.sft import SFTSettings
from rl4vlm.config.stages.sft_data import SFTDataSettings
from rl4vlm.core.files import sha256_of
from rl4vlm.core.output import UNFINISHED
from rl4vlm.core.types import Style
from rl4vlm.sft.data import run as make_data
from rl4vlm.sft.train import begin, run
from rl4vlm.training import resume
from rl4vlm.training.signals import Interrupted
from rl4vlm.training.store import StateFolder
from tests.interrupt import SimulatedKill, kill_and_resume_until_done, on_step_hook
from tests.launch import Launched

SETTINGS = SFTSettings(
    epochs=3, batch_size=5, micro_batch_size=2, learning_rate=1e-3, lora=LoraSettings(rank=2, alpha=4),
    save_minutes=1e-9, gradient_checkpointing=True, device="cpu",
)  # fmt: skip
STEPS = 9


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "Blackjack-cot"
    make_data(task="Blackjack", style=Style.COT, out=folder, settings=SFTDataSettings(samples=13))
    return folder


class Runs:
    """The same run several times, each with its own output folder but with one folder for its state."""

    def __init__(self, folder, data, checkpoint):
        self.folder, self.data, self.checkpoint = folder, data, checkpoint
        self.state = folder / "state"

    def train(self, out="out", *, keep=True, **changes):
        run(
            data=self.data,
            init=self.checkpoint,
            out=self.folder / out,
            settings=replace(SETTINGS, **changes),
            resume_dir=StateFolder(self.state, lambda: {"a.py": "1"}) if keep else None,
        )
        return self.result(out)

    def result(self, out):
        weights = self.folder / out / "checkpoint" / "adapter_model.safetensors"
        return (self.folder / out / "metrics.jsonl").read_text(), sha256_of(weights)

    def command(self, out):
        words = [
            "learning_rate=1e-3",
            "epochs=3",
            "batch_size=5",
            "micro_batch_size=2",
            "save_minutes=1e-9",
            "device=cpu",
        ]
        words += ["lora={rank: 2, alpha: 4}", "gradient_checkpointing=true"]
        named = {"data": self.data, "init": self.checkpoint, "out": self.folder / out, "state": self.state}
        return ["sft", *(f"--{name}={value}" for name, value in named.items()), "--set", *words]


@pytest.fixture
def runs(tmp_path, data, tiny_checkpoint):
    return Runs(tmp_path, data, tiny_checkpoint)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, data, tiny_checkpoint):
    """The results of the run if it is not killed."""
    return Runs(tmp_path_factory.mktemp("unbroken"), data, tiny_checkpoint).train(keep=False)


def test_killed_anywhere_it_ends_with_the_same_results(runs, unbroken) -> None:
    result, kills = kill_and_resume_until_done(runs.train, random.Random(3), unbroken)
    assert result == unbroken
    assert kills >= 3
    assert not runs.state.exists()
    assert [json.loads(line)["step"] for line in result[0].splitlines()] == list(range(1, STEPS + 1))


def signal_at(step, number, state):
    if state.done == step:
        os.kill(os.getpid(), number)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 138)])
def test_a_signal_saves_first_and_no_step_is_lost(number, code, runs, unbroken) -> None:
    for step in (3, 6):
        with (
            on_step_hook(partial(signal_at, step, number)),
            pytest.raises(Interrupted, match=f"stopped by {number.name} at step {step} of {STEPS}") as stop,
        ):
            runs.train()
        assert stop.value.code == code
        assert len((runs.folder / "out" / UNFINISHED / "metrics.jsonl").read_text().splitlines()) == step
    assert runs.train() == unbroken


def killed_at(runs, step, **changes):
    def stop(state):
        if state.done == step:
            raise SimulatedKill

    with on_step_hook(stop), pytest.raises(SimulatedKill):
        runs.train(**changes)


def test_a_damaged_state_is_not_used(runs, unbroken, capsys: pytest.CaptureFixture[str]) -> None:
    killed_at(runs, 5)
    before, newest = sorted(path.parent for path in runs.state.glob("*/*/manifest.json"))
    (newest / resume.rank_file(0)).write_bytes(b"not this")
    assert runs.train() == unbroken
    said = capsys.readouterr().err
    assert f"{newest} is damaged and not used: {resume.rank_file(0)}" in said
    assert f"continuing from {before}: step 3 of {STEPS}" in said


def test_it_is_saved_by_the_clock_and_after_the_last_step(
    data: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    settings = replace(SETTINGS, save_minutes=30.0)
    state, saved = begin(tiny_checkpoint, 13, settings), []
    state.saved_at = now
    for state.done in range(1, STEPS + 1):
        now += 700.0  # seconds of a step
        if state.should_save(settings):
            saved.append(state.done)
    assert saved == [3, 6, 9]
    state.done = 2
    assert not state.should_save(settings)


def test_a_state_of_other_settings_or_data_is_not_used(
    runs, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    killed_at(runs, 3)
    killed_at(runs, 1, learning_rate=2e-3)
    assert "of another run and not used; it differs in settings.learning_rate. " in capsys.readouterr().err
    make_data(task="Blackjack", style=Style.COT, out=tmp_path / "more", settings=SFTDataSettings(samples=14))
    runs.data = tmp_path / "more"
    killed_at(runs, 1)
    said = capsys.readouterr().err
    assert "differs in inputs.data. " in said
    assert "going on" not in said


def test_the_command_continues_after_a_sigkill(runs, unbroken) -> None:
    launched = Launched(runs.folder, None, main, runs.command("out"), count=1)
    (process,) = launched.processes
    metrics = runs.folder / "out" / UNFINISHED / "metrics.jsonl"
    while not (metrics.is_file() and metrics.read_text().count("\n") >= 3):
        assert process.is_alive(), launched.output()
        time.sleep(0.002)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (runs.folder / "out" / "checkpoint").exists()
    launched = Launched(runs.folder, None, main, runs.command("out"), count=1)
    launched.assert_success()
    assert "continuing from" in launched.output()
    assert runs.result("out") == unbroken
