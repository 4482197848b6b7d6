"""Play a game at random, or by given commands."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from rl4vlm.envs.alfworld.engine import Engine
from rl4vlm.envs.alfworld.env import ALFWorldEnv
from rl4vlm.envs.alfworld.types import Situation
from rl4vlm.envs.registration import make_env


def alfworld_env(**options: object) -> ALFWorldEnv:
    """Make an ALFWorld environment, with its own type."""
    return cast(ALFWorldEnv, make_env("ALFWorld", **options))


def walk(engine: Engine, now: Situation, steps: int, seed: int = 0) -> list[Situation]:
    """The situations of a random walk of `steps` commands, or fewer if the game ends."""
    rng, passed = random.Random(seed), [now]
    while len(passed) <= steps and not passed[-1].done:
        passed.append(engine.act(rng.choice(passed[-1].admissible)))
    return passed


def replay(file: Path, commands: Sequence[str]) -> list[Situation]:
    """The situations of a game from its start to its last command."""
    engine = Engine()
    passed = [engine.start(file), *(engine.act(command) for command in commands)]
    engine.close()
    return passed


def play(env: ALFWorldEnv, command: str) -> tuple[Any, float, bool, bool, dict[str, Any]]:
    """Step an environment by a command instead of its index."""
    return env.step(env.view().actions.index(command))
