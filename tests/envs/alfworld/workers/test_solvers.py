"""Planning in worker processes."""

from __future__ import annotations

from rl4vlm.envs.alfworld.games import GameData
from rl4vlm.envs.alfworld.types import TaskType
from rl4vlm.envs.alfworld.workers.solvers import Solvers


def test_solvers_keep_the_order_and_name_a_bad_game(by_type: dict[TaskType, GameData]) -> None:
    games = [by_type[task_type] for task_type in (TaskType.PICK, TaskType.LOOK)]
    with Solvers(processes=2) as solve:
        assert solve(games) == [game.walkthrough for game in games]
        assert solve([]) == []
