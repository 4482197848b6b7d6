"""A run that was stopped anywhere and resumed writes the same bytes as a run that was not stopped."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import cast

import pytest
from pydantic_core import to_json

from rl4vlm.cli import main
from rl4vlm.config.stages.cnn import CNNSettings, CNNSizes
from rl4vlm.config.stages.ppo import PPOSettings
from rl4vlm.core.files import sha256_of
from rl4vlm.core.output import UNFINISHED
from rl4vlm.core.types import Style
from rl4vlm.interaction.play import Slot
from rl4vlm.ppo import cnn, rollout, train, update
from rl4vlm.ppo.loop import run_to_end
from rl4vlm.ppo.state import PPOState
from rl4vlm.results.provenance import InputFile
from rl4vlm.training import resume
from rl4vlm.training.signals import Interrupted
from rl4vlm.training.store import StateFolder
from tests.interrupt import SimulatedKill, kill_and_resume_until_done, on_step_hook

SETTINGS = PPOSettings(
    total_env_steps=24,
    num_envs=4,
    num_steps=8,
    ppo_epochs=2,
    minibatch_size=4,
    micro_batch_size=2,
    learning_rate=1e-3,
    temperature=1.0,
    max_new_tokens=6,
    value_sizes=(8,),
    success_window=5,
    max_grad_norm=1.0,
    bootstrap_truncated=True,
    device="cpu",
)
SIGNALS = {signal.SIGTERM: 143, signal.SIGUSR1: 138}


class Runs:
    """The same run, started again and again, with several output folders but one folder for its state."""

    def __init__(self, folder, checkpoint):
        self.folder, self.checkpoint = folder, checkpoint
        self.state = folder / "state"

    def train(self, out="out", settings=SETTINGS, *, keep=True, seed=1, code=None):
        train.run(
            task="Blackjack",
            style=Style.COT,
            init=self.checkpoint,
            out=self.folder / out,
            seed=seed,
            settings=settings,
            resume_dir=StateFolder(self.state, lambda: code or {"a.py": "1"}) if keep else None,
        )
        return self.result(out)

    def result(self, out):
        return (self.folder / out / "metrics.jsonl").read_text(), sha256_of(self.folder / out / "checkpoint")

    def states(self):
        return sorted(path.parent for path in self.state.glob("*/*/manifest.json"))


@pytest.fixture
def runs(tmp_path, tiny_checkpoint):
    return Runs(tmp_path, tiny_checkpoint)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, tiny_checkpoint):
    """The result of an uninterrupted run."""
    return Runs(tmp_path_factory.mktemp("unbroken"), tiny_checkpoint).train(keep=False)


@pytest.fixture
def steps(monkeypatch):
    """The batched environment steps and optimizer steps, in the order in which they are made."""
    made: list[str] = []

    def noting(name, function):
        def noted(*args):
            made.append(name)
            return function(*args)

        return noted

    monkeypatch.setattr(rollout, "advance", noting("play", rollout.advance))
    monkeypatch.setattr(update, "_optimizer_step", noting("optimise", update._optimizer_step))
    return made


def test_a_run_that_keeps_its_state_is_the_same_run_and_leaves_no_state(runs, unbroken):
    assert runs.train() == unbroken
    assert not runs.state.exists()


def test_killed_anywhere_it_ends_as_if_nothing_had_been(runs, unbroken):
    result, kills = kill_and_resume_until_done(runs.train, random.Random(7), unbroken)
    assert result == unbroken
    assert kills >= 3
    assert len((runs.folder / "killed" / "timing.jsonl").read_text().splitlines()) == SETTINGS.updates


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_saves_first_and_no_step_is_lost(number, runs, unbroken, steps):
    runs.train("counted", keep=False)
    expected, moments = steps.copy(), random.Random(int(number))
    # During a rollout, during an optimisation, and at random.
    chosen = sorted({2, 5, *moments.sample(range(3, len(expected)), 2)})
    steps.clear()
    for moment in chosen:
        # The signal comes during a step. That step is finished, and the run stops before the next one.
        sent = [False]

        def send(_state, moment=moment, sent=sent):
            if len(steps) >= moment and not sent[0]:
                sent[0] = True
                os.kill(os.getpid(), number)

        steps_then = len(steps)
        with pytest.raises(Interrupted, match=f"stopped by {number.name} at update") as stop, on_step_hook(send):
            runs.train("signalled")
        assert stop.value.code == SIGNALS[number]
        assert len(steps) == max(moment, steps_then + 1)
    assert runs.train("signalled") == unbroken
    assert steps == expected
    assert signal.getsignal(number) == signal.SIG_DFL


def stop_at(update_number):
    """Kill the run after the first step of an update."""

    def stop(state):
        if state.update == update_number and len(state.steps) == 1:
            raise SimulatedKill

    return on_step_hook(stop)


def killed_in(runs, update_number, **options):
    """Start a run and kill it after the first step of an update."""
    with stop_at(update_number), pytest.raises(SimulatedKill):
        runs.train(**options)


def test_the_command_says_that_it_was_interrupted(tiny_checkpoint, tmp_path, capsys):
    words = [f"{name}={to_json(value).decode()}" for name, value in vars(SETTINGS).items()]
    command = ["ppo", "--task", "NumberLine", "--init", str(tiny_checkpoint), "--out", str(tmp_path / "out")]
    command += ["--state", str(tmp_path / "state"), "--set", *words]

    def stop_in_update_two(state):
        if state.update == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with on_step_hook(stop_in_update_two):
        assert main(command) == 143
    assert f"stopped by SIGTERM at update 2, 0 steps into its rollout; the same command continues from {tmp_path}" in (
        capsys.readouterr().err
    )
    assert main(command) == 0
    assert "continuing from" in capsys.readouterr().err
    assert len((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()) == SETTINGS.updates
    assert not (tmp_path / "state").exists()


def test_logs_that_are_gone_or_ahead_are_written_again(runs, unbroken):
    killed_in(runs, 3)
    metrics = runs.folder / "out" / UNFINISHED / "metrics.jsonl"
    assert len(metrics.read_text().splitlines()) == 2
    metrics.write_text(metrics.read_text() + '{"update": 3, "half')
    (runs.folder / "out" / UNFINISHED / "timing.jsonl").unlink()
    assert runs.train() == unbroken
    timings = [json.loads(line) for line in (runs.folder / "out" / "timing.jsonl").read_text().splitlines()]
    assert len(timings) == 3
    # The run's wall time includes the part before the kill.
    seconds = json.loads((runs.folder / "out" / "run.json").read_text())["seconds"]
    assert seconds > sum(line["rollout_s"] + line["update_s"] for line in timings)


@pytest.mark.parametrize(
    ("harm", "name"),
    [("cut", resume.FILE), ("flip", resume.MODEL_STATE), ("remove", resume.MODEL_STATE), ("flip", resume.rank_file(0))],
)
def test_a_damaged_state_is_named_and_the_one_before_it_used(harm, name, runs, unbroken, capsys):
    killed_in(runs, 3)
    before, newest = runs.states()
    file = newest / name
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 16
    if harm == "remove":
        file.unlink()
    else:
        file.write_bytes(data if harm == "flip" else data[:-1000])
    assert runs.train() == unbroken
    said = capsys.readouterr().err
    assert f"{newest} is damaged and not used: {name}" in said
    assert f"continuing from {before}: update 2, 0 steps" in said


def test_a_full_disk_leaves_the_former_state(runs, unbroken, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with (
        monkeypatch.context() as patch,
        on_step_hook(lambda state: state.update == 3 and patch.setattr(os, "fsync", full)),
        pytest.raises(ValueError, match=rf"cannot be saved in {runs.state}/.*: No space left on device"),
    ):
        runs.train()
    assert [path.name for path in runs.states()] == ["00000001"]
    assert runs.train() == unbroken


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({"settings": replace(SETTINGS, clip_range=0.3)}, "settings.clip_range"),
        ({"seed": 2}, "seed"),
        ({"code": {"a.py": "2"}}, "code.a.py"),
    ],
)
def test_a_state_of_another_run_is_not_taken_up(changes, differs, runs, capsys):
    killed_in(runs, 2)
    killed_in(runs, 1, out="other", **changes)
    said = capsys.readouterr().err
    assert f"of another run and not used; it differs in {differs}. " in said
    assert "going on" not in said


@pytest.mark.parametrize("changes", [{"save_every": 2}, {"process_timeout": 3600.0}])
def test_what_decides_nothing_may_change(changes, runs, capsys):
    killed_in(runs, 2)
    killed_in(runs, 3, settings=replace(SETTINGS, **changes))
    said = capsys.readouterr().err
    assert "continuing from" in said
    assert "note:" not in said


@pytest.mark.parametrize(
    ("name", "value"), [("micro_batch_size", 1), ("gradient_checkpointing", True), ("device", "auto")]
)
def test_what_eases_memory_may_change_and_is_said(name, value, runs, capsys):
    killed_in(runs, 2)
    killed_in(runs, 3, settings=replace(SETTINGS, **{name: value}))
    said = capsys.readouterr().err
    assert "continuing from" in said
    assert f"note: {name} was {getattr(SETTINGS, name)} when the state was saved and is {value} now" in said


def test_a_run_of_other_settings_leaves_the_state_of_the_first(runs, unbroken, capsys):
    killed_in(runs, 2)
    runs.train("other", settings=replace(SETTINGS, clip_range=0.3))
    assert "remove it to discard" in capsys.readouterr().err
    assert runs.train() == unbroken
    assert "continuing from" in capsys.readouterr().err
    assert not runs.state.exists()


def test_saves_as_often_as_asked_and_at_the_end(runs):
    saved = []
    with on_step_hook(lambda state: saved.append((state.update, len(runs.states())))):
        runs.train(settings=replace(SETTINGS, save_every=2, total_env_steps=40))
    # Five updates, saved after the second and the fourth. No step follows the last save, after the fifth.
    assert {update: most for update, most in saved if update <= 5} == {1: 0, 2: 0, 3: 1, 4: 1, 5: 2}


def test_a_kill_in_a_validation_does_not_cost_the_update_before_it(runs, monkeypatch, steps):
    settings = replace(SETTINGS, validation_every=2, validation_episodes=4, save_every=2)
    whole = runs.train("whole", settings, keep=False)
    first = [*steps]
    steps.clear()

    def killed(*_):
        raise SimulatedKill

    with monkeypatch.context() as patched:
        patched.setattr("rl4vlm.ppo.loop.validate", killed)
        with pytest.raises(SimulatedKill):
            runs.train("killed", settings)
    assert runs.train("killed", settings) == whole
    assert steps == first


def test_an_episode_that_does_not_come_back_is_cut_off(runs, monkeypatch, capsys):
    """A simulator may not repeat itself."""
    cut: list[int] = []
    done: list[list[bool]] = []
    numbers = count()

    def stop(state):
        if state.update == 2 and len(state.steps) == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with on_step_hook(stop), pytest.raises(Interrupted):
        runs.train()
    restored = Slot.load_state

    def other(slot, saved):
        restored(slot, saved)
        number = next(numbers)
        if saved["played"] and not cut:  # in the middle of an episode
            cut.append(number)
            raise ValueError("the game did not come back")

    monkeypatch.setattr(Slot, "load_state", other)
    with on_step_hook(lambda state: done.append([step.done for step in state.steps[0]] if state.steps else [])):
        runs.train()
    note = f"note: environment {cut[0]} begins another episode: the game did not come back"
    assert note in capsys.readouterr().err
    assert done[0][cut[0]], "the last step before it is the end of its episode"


def test_the_network_without_language_goes_on_too(tmp_path):
    sizes = CNNSizes(image_size=40, channels=(4, 4, 4), width=16, text_embedding=4, text_width=8)
    settings = CNNSettings(
        total_env_steps=48, num_envs=4, num_steps=16, ppo_epochs=2, minibatch_size=8, sizes=sizes, device="cpu"
    )

    def run(out, resume_dir):
        cnn.run(task="EZPoints", out=tmp_path / out, seed=1, settings=settings, resume_dir=resume_dir)
        return (tmp_path / out / "metrics.jsonl").read_text(), sha256_of(tmp_path / out / "checkpoint")

    resume_dir = StateFolder(tmp_path / "state", dict)
    with stop_at(2), pytest.raises(SimulatedKill):
        run("killed", resume_dir)
    assert run("killed", resume_dir) == run("unbroken", None)


def test_save_every_must_be_a_number_of_updates():
    with pytest.raises(ValueError, match="save_every"):
        replace(SETTINGS, save_every=0)


def test_games_and_card_images_are_part_of_a_states_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without them, a state of other games or images would be loaded, and its episodes could not be played again."""
    found: dict[str, InputFile] = {}

    def resumable(*_: object, inputs: dict[str, InputFile], **__: object) -> None:
        found.update(inputs)
        raise SimulatedKill

    monkeypatch.setattr("rl4vlm.ppo.loop.resumable", resumable)
    with pytest.raises(SimulatedKill):
        run_to_end(
            cast(PPOState, None), CNNSettings(env={"data": "games", "card_art": "art"}), {"task": "T"},
            stage="cnn", seed=1,
            inputs={}, draft=tmp_path, out=tmp_path, resume_dir=None, started=0.0,
        )  # fmt: skip
    assert found == {"data games": InputFile("games", None), "card_art art": InputFile("art", None)}
