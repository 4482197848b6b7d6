"""Demonstrations and evaluations that are killed anywhere and run again end with the same files as undisturbed ones."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from shutil import rmtree
from typing import Any, cast

import pytest

from rl4vlm.cli import main
from rl4vlm.config.stages.evaluation import EvaluationSettings
from rl4vlm.config.stages.sft_data import SFTDataSettings
from rl4vlm.core.types import GameEnv, Style
from rl4vlm.envs.registration import make_env
from rl4vlm.evaluation.run import run_sets
from rl4vlm.sft import data
from rl4vlm.training import increments
from rl4vlm.training.signals import Interrupted
from rl4vlm.training.store import StateFolder
from tests.interrupt import SimulatedKill
from tests.launch import Launched

AT_ONCE = 1e-9


@dataclass
class Runs:
    """The same run several times, each with its own output folder but with one folder for its state."""

    folder: Path
    policy: str | None = None
    """What is evaluated, on two sets of games; None makes demonstrations."""

    def run(self, out: str = "out", *, code: Callable[[], dict[str, str]] | None = dict, **changes: Any) -> Any:
        options = {"save_minutes": AT_ONCE, **changes}
        states = StateFolder(self.folder / "state", code) if code else None
        place = self.folder / out
        if self.policy is None:
            demonstrated = {"samples": 40, "wording": "varied", "action_noise": 0.3, **options}
            settings = SFTDataSettings(**demonstrated)
            data.run(task="EZPoints", style=Style.COT, out=place, settings=settings, resume_dir=states)
        else:
            played = {"episodes": 5, "num_envs": 3, "max_new_tokens": 8, "temperature": 1.0, **options}
            sets = {place / str(base): EvaluationSettings(seed_base=base, **played) for base in (0, 50)}
            run_sets(policy=self.policy, task="EZPoints", style=Style.COT, sets=sets, resume_dir=states)
        return self.result(out)

    def result(self, out: str = "out") -> dict[str, bytes]:
        files = [file for file in (self.folder / out).rglob("*") if file.is_file() and file.name != "run.json"]
        return {file.relative_to(self.folder / out).as_posix(): file.read_bytes() for file in sorted(files)}

    def states(self) -> list[Path]:
        return sorted(path.parent for path in self.folder.glob("state/*/*/manifest.json"))

    def killed(self, step: int, **changes: Any) -> None:
        with at_step(step, kill), pytest.raises(SimulatedKill):
            self.run(**changes)


def kill() -> None:
    raise SimulatedKill


@contextmanager
def at_step(number: int, act: Callable[[], object]) -> Iterator[None]:
    """Call `act` before the `number`-th time that a run may save."""
    before, steps = increments.Increments.on_step, 0

    def on_step(self: increments.Increments, *arguments: Any) -> None:
        nonlocal steps
        steps += 1
        if steps == number:
            act()
        before(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(increments.Increments, "on_step", on_step)
        yield


@pytest.fixture(scope="module", params=[None, "random"], ids=["demonstrations", "scripted"])
def undisturbed(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Runs:
    runs = Runs(tmp_path_factory.mktemp("undisturbed"), request.param)
    runs.run(code=None)
    return runs


@pytest.fixture
def runs(tmp_path: Path, undisturbed: Runs) -> Runs:
    return Runs(tmp_path, undisturbed.policy)


def test_killed_several_times_it_ends_with_the_same_files(runs: Runs, undisturbed: Runs) -> None:
    for step in (2, 3, 1, 2):
        runs.killed(step)
    result = runs.run()
    assert len(result) > 3
    assert result == undisturbed.result()
    assert not (runs.folder / "state").exists()


def test_replies_of_a_model_are_the_same_since_it_continues_with_the_same_batches(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    runs = Runs(tmp_path, str(tiny_checkpoint))
    expected = runs.run("undisturbed", code=None)
    for step in (4, 5):
        runs.killed(step)
    assert runs.run() == expected
    assert b"logprob_thoughts" in expected["50/episodes.jsonl"]


def test_demonstrations_in_a_simulator_that_does_not_repeat_itself_continue_with_another_episode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = count()

    def changing(task: str, **options: Any) -> GameEnv:
        env: Any = make_env(task, **options)
        view = env.view
        env.view = lambda: replace(shown := view(), fields={**shown.fields, "frame": str(next(frames))})
        return cast(GameEnv, env)

    monkeypatch.setattr(data, "make_env", changing)
    runs, prompt = Runs(tmp_path), {"observation": "You see frame {frame}."}
    runs.killed(3, prompt=prompt)
    saved = [json.loads((state / increments.FILE).read_text())["entries"] for state in runs.states()]
    entries = json.loads(runs.run(prompt=prompt)[data.DATA])
    assert [entry["id"] for entry in entries] == [f"EZPoints-cot-{number}" for number in range(40)]
    before = [entry for increment in saved for entry in increment]
    assert before
    assert entries[: len(before)] == before
    assert "note: the environment begins another episode: CardEnv did not come back" in capsys.readouterr().err
    assert not (runs.folder / "state").exists()


def test_a_signal_saves_first(runs: Runs, undisturbed: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    with (
        at_step(4, lambda: os.kill(os.getpid(), signal.SIGTERM)),
        pytest.raises(Interrupted, match=r"stopped by SIGTERM at (sample|episode) \d+ of") as stop,
    ):
        runs.run(save_minutes=30.0)
    assert stop.value.code == 143
    (state,) = runs.states()
    assert runs.run() == undisturbed.result()
    assert f"continuing from {state}: " in capsys.readouterr().err


def test_a_state_of_other_settings_is_not_used(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    runs.killed(3)
    runs.killed(2, **({"temperature": 0.5} if runs.policy else {"seed": 2}))
    said = capsys.readouterr().err
    assert f"of another run and not used; it differs in settings.{'1.temperature' if runs.policy else 'seed'}" in said
    assert "continuing from" not in said


def test_a_damaged_state_is_not_used(runs: Runs, undisturbed: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    runs.killed(4)
    first, second, _ = runs.states()
    (second / increments.FILE).write_bytes(b"not this")
    assert runs.run() == undisturbed.result()
    said = capsys.readouterr().err
    assert f"state {second} is damaged and not used, nor are those after it: {increments.FILE} has" in said
    assert f"continuing from {first}: " in said


def test_states_after_a_missing_one_are_not_used(
    runs: Runs, undisturbed: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    """An interrupted removal of states leaves some of them, in any order."""
    runs.killed(4)
    first, second, third = runs.states()
    rmtree(second)
    runs.killed(2)  # its new state comes after the first one
    rmtree(first)
    assert runs.run() == undisturbed.result()
    said = capsys.readouterr().err
    assert f"state {third} is damaged and not used, nor are those after it: the state before it is missing" in said
    assert f"continuing from {first}: " in said
    assert said.count("continuing from") == 1


def test_a_short_run_saves_nothing_and_digests_nothing(runs: Runs) -> None:
    def digests() -> dict[str, str]:
        raise AssertionError

    saved: list[bool] = []
    with at_step(3, lambda: saved.append((runs.folder / "state").exists())):
        runs.run(code=digests, save_minutes=30.0)
    assert saved == [False]


def killed_command(command: list[str]) -> None:
    with at_step(4, lambda: os.kill(os.getpid(), signal.SIGKILL)):
        main(command)


def test_the_command_continues_after_a_sigkill(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    def command(out: str, *options: str) -> list[str]:
        stage = ["evaluate", runs.policy] if runs.policy else ["sft-data", "--task"]
        settings = ["episodes=8", "num_envs=2"] if runs.policy else ["samples=60"]
        return [*stage, "EZPoints", "--out", str(runs.folder / out), *options, "--set", "save_minutes=1e-9", *settings]

    resumable = command("out", "--state", str(runs.folder / "state"))
    launched = Launched(runs.folder, None, killed_command, resumable, count=1)
    assert launched.wait() == [-signal.SIGKILL], launched.output()
    assert len(runs.states()) == 3
    assert [main(resumable), main(command("undisturbed"))] == [0, 0]
    assert "continuing from" in capsys.readouterr().err
    assert runs.result("out") == runs.result("undisturbed")


def test_a_model_over_http_has_its_cache_instead(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", "api:m", "EZPoints", "--state", str(tmp_path / "state"), "--out", str(tmp_path / "out")]
    assert main([*words, "--set", "api={model: m, base_url: 'http://127.0.0.1:1'}"]) == 2
    assert "continues from its cache of replies: leave out --state" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
