"""Games for the tests: generated ones, and the benchmark's if RL4VLM_OFFICIAL_GAMES names their folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rl4vlm.config.stages.alfworld import GamesSettings
from rl4vlm.envs.alfworld.engine import solve_and_check
from rl4vlm.envs.alfworld.games import GameData, find_games, read_game
from rl4vlm.envs.alfworld.generator import generate
from rl4vlm.envs.alfworld.types import TaskType
from rl4vlm.envs.alfworld.workers.engine_pool import open_game
from rl4vlm.envs.registration import make_env


@pytest.fixture(scope="session")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of generated games: one of each type in train, one in valid_seen, one in valid_unseen."""
    folder = tmp_path_factory.mktemp("generated")
    settings = GamesSettings(train=6, seen=1, unseen=1, rooms=1, unseen_rooms=1, receptacles=6, distractors=2)
    generate(folder, settings, lambda games: [solve_and_check(game) for game in games])
    return folder


@pytest.fixture(scope="session")
def by_type(generated: Path) -> dict[TaskType, GameData]:
    """A generated game of each type."""
    games = [read_game(file) for file in find_games(generated, "train").files]
    return {game.goal.task_type: game for game in games}


@pytest.fixture(scope="session")
def official() -> Path:
    """A data folder of the benchmark's games."""
    folder = os.environ.get("RL4VLM_OFFICIAL_GAMES")
    if not folder:
        pytest.skip("RL4VLM_OFFICIAL_GAMES names no folder of official games")
    return Path(folder)


@pytest.fixture(scope="module")
def warm_pool() -> Iterator[None]:
    """Keep the workers alive from one test to the next."""
    game = open_game()
    yield
    game.close()


@pytest.fixture
def make(generated: Path) -> Iterator[Callable[..., Any]]:
    """Makes environments, with generated games by default, and closes them after the test."""
    made: list[Any] = []

    def make(**options: object) -> Any:
        made.append(make_env("ALFWorld", **{"data": generated, **options}))
        return made[-1]

    yield make
    for env in made:
        env.close()
