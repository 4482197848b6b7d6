"""Ways through a game: at random, and by given commands."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rl4vlm.envs.alfworld.engine import Engine
from rl4vlm.envs.alfworld.env import ALFWorldEnv
from rl4vlm.envs.alfworld.types import Situation


def walk(engine: Engine, now: Situation, steps: int, seed: int = 0) -> list[Situation]:
    """The situations of a random walk; it ends when the game does."""
    rng, passed = random.Random(seed), [now]
    while len(passed) <= steps and not passed[-1].done:
        passed.append(engine.act(rng.choice(passed[-1].admissible)))
    return passed


def replay(file: Path, commands: Sequence[str]) -> list[Situation]:
    """The situations of a game from its start through all commands."""
    engine = Engine()
    passed = [engine.start(file), *(engine.act(command) for command in commands)]
    engine.close()
    return passed


def play(env: ALFWorldEnv, command: str) -> tuple[Any, float, bool, bool, dict[str, Any]]:
    """One step of an environment, by the command and not by its index."""
    return env.step(env.view().actions.index(command))
