"""ALFWorld in the play loop: what episodes and evaluations record."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rl4vlm.config.stages.evaluation import EvaluationSettings
from rl4vlm.core.types import Style
from rl4vlm.evaluation.run import run
from rl4vlm.interaction.play import Slot, advance
from rl4vlm.policies.scripted import SolverPolicy
from rl4vlm.results.intervals import wilson
from rl4vlm.tasks.registry import get_task
from rl4vlm.training.store import StateFolder
from tests.envs.alfworld.game_files import copy_game
from tests.interrupt import SimulatedKill
from tests.training.test_increments import at_step, kill

TASK = get_task("ALFWorld")
pytestmark = pytest.mark.usefixtures("warm_pool")


def test_perceptions_are_what_demonstrations_say(make: Callable[..., Any]) -> None:
    slot = Slot(make(), TASK, Style.COT, TASK.prompt, 1)
    for _ in range(20):
        said = slot.env.perception()
        (step,) = advance([slot], SolverPolicy(Style.COT))
        for field, pattern in TASK.perception_patterns.items():
            assert (found := pattern.search(step.reply.text)), step.reply.text
            assert found[1] == said[field], step.reply.text


def test_episodes_know_their_type_and_where_the_game_is_from(make: Callable[..., Any]) -> None:
    slot = Slot(make(task_types=["Cool"]), TASK, Style.COT, TASK.prompt, 1)
    step = next(step for step in iter(lambda: advance([slot], SolverPolicy(Style.COT))[0], None) if step.episode)
    assert step.episode is not None
    assert (step.episode.group, step.episode.data_source, step.episode.success) == ("Cool", "generated", True)


def test_an_evaluation_counts_by_type_and_says_where_the_games_are_from(generated: Path, tmp_path: Path) -> None:
    settings = EvaluationSettings(episodes=6, num_envs=3, env={"data": str(generated), "task_types": ["Pick", "Look"]})
    summary = run(policy="solver", task="ALFWorld", style=Style.COT, out=tmp_path, settings=settings)
    assert summary["success_rate"] == 100.0
    assert summary["data_sources"] == ["generated"]
    assert {name for name, group in summary["groups"].items() if group["episodes"]} <= {"Pick", "Look"}
    assert sum(group["episodes"] for group in summary["groups"].values()) == 6
    assert "skipped_games" not in summary
    assert summary["groups"]["Heat"] == {**dict.fromkeys(summary["groups"]["Heat"]), "episodes": 0, "successes": 0}
    assert summary["perception_accuracy"] == {"place": 1.0, "in hand": 1.0}
    line = json.loads((tmp_path / "episodes.jsonl").read_text().splitlines()[0])
    assert line["group"] in ("Pick", "Look")
    assert line["data_source"] == "generated"


def test_an_evaluation_tells_which_games_it_left_out(generated: Path, tmp_path: Path) -> None:
    """Games that cannot be read, and games that the engine cannot start."""
    shutil.copytree(generated / "train", tmp_path / "games" / "train")
    files = sorted((tmp_path / "games").rglob("game.tw-pddl"))
    for file in files[:5]:
        copy_game(file, file.parent, pddl_problem="(define (problem")
    files[0].write_text("{")
    env = {"data": str(tmp_path / "games"), "skip_bad_games": True}
    settings = EvaluationSettings(episodes=2, num_envs=2, env=env)
    summary = run(policy="random", task="ALFWorld", style=Style.COT, out=tmp_path / "out", settings=settings)
    told = json.loads((tmp_path / "out" / "summary.json").read_text())["skipped_games"]
    assert summary["skipped_games"] == told
    assert told["count"] == len(told["files"]) >= 2
    assert str(files[0]) in told["files"]
    assert set(told["files"]) <= {str(file) for file in files[:5]}


def test_with_each_game_once_a_game_that_cannot_be_started_is_left_out_and_none_counts_twice(
    generated: Path, tmp_path: Path, make: Callable[..., Any]
) -> None:
    """Also if the evaluation is killed in between."""
    shutil.copytree(generated / "train", tmp_path / "games" / "train")
    files = sorted((tmp_path / "games").rglob("game.tw-pddl"))
    for file in files[1:3]:
        copy_game(file, file.parent, pddl_problem="(define (problem")
    files[0].write_text("{")
    env = {"data": str(tmp_path / "games"), "split": "train", "skip_bad_games": True}
    game_of = make(**env)._game_of

    def evaluate(out: str, **changes: Any) -> dict[str, Any]:
        settings = EvaluationSettings(
            **{"episodes": 50, "num_envs": 2, "each_game_once": True, "save_minutes": 1e-9, "env": env, **changes}
        )
        states = StateFolder(tmp_path / "state", dict)
        return run(
            policy="solver", task="ALFWorld", style=Style.COT, out=tmp_path / out, settings=settings, resume_dir=states
        )

    summary = evaluate("whole")
    assert sorted(game_of(seed) for seed in summary["seeds"]) == files[3:]
    assert (summary["episodes"], summary["successes"], summary["partial"]) == (3, 3, False)
    assert (summary["ci_low"], summary["ci_high"]) == tuple(100 * bound for bound in wilson(3, 3))
    assert summary["skipped_games"] == {"count": 3, "files": [str(file) for file in files[:3]]}

    with at_step(10, kill), pytest.raises(SimulatedKill):
        evaluate("killed")
    assert evaluate("killed") == summary

    repeated = evaluate("repeated", each_game_once=False, episodes=5)
    assert (repeated["episodes"], repeated["partial"]) == (5, False), "another game in place of each bad one"
    for file in files[3:]:
        copy_game(file, file.parent, pddl_problem="(define (problem")
    with pytest.raises(ValueError, match="not one episode was finished: no game could be started"):
        evaluate("none", episodes=2)
