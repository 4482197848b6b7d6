"""Plays or trains, and prints the memory of its processes in MB now and then.

python -m tests.torture.memory resets TASK COUNT
python -m tests.torture.memory updates MODEL COUNT
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from rl4vlm.config.stages.alfworld import GamesSettings
from rl4vlm.envs.registration import make_env

GAMES = GamesSettings(train=6, seen=1, unseen=1, rooms=1, unseen_rooms=1, receptacles=6, distractors=2)


def show(*_: Any) -> None:
    """Print the resident memory of this process and its descendants."""
    total = 0
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        with suppress(psutil.Error):  # it has just ended
            total += process.memory_info().rss
    print(total / 1e6, flush=True)


def resets(task: str, count: int) -> None:
    """Begin `count` episodes and play one step of each: images are drawn and cached as in a real game."""
    with tempfile.TemporaryDirectory() as folder:
        options = {}
        if task == "ALFWorld":
            from rl4vlm.envs.alfworld.generator import run

            run(out=Path(folder, "games"), settings=GAMES, processes=1)
            options = {"data": Path(folder, "games")}
        env: Any = make_env(task, **options)
        for number in range(count):
            env.reset(seed=number)
            env.step(number % int(env.action_space.n))
            if number % max(count // 200, 1) == 0:
                show()
        env.close()


def updates(model: str, count: int) -> None:
    """Train a model by `count` updates of PPO."""
    from rl4vlm.config.stages.ppo import PPOSettings
    from rl4vlm.core.types import Style
    from rl4vlm.ppo.train import run
    from rl4vlm.training.store import StateFolder
    from tests.interrupt import on_step_hook

    settings = PPOSettings(
        total_env_steps=4 * count,
        num_envs=2,
        num_steps=4,
        ppo_epochs=1,
        minibatch_size=4,
        micro_batch_size=4,
        max_new_tokens=8,
        value_sizes=(8,),
        device="cpu",
    )
    with tempfile.TemporaryDirectory() as folder, on_step_hook(show):
        states = StateFolder(Path(folder, "state"), dict)
        out = Path(folder, "out")
        run(task="NumberLine", style=Style.COT, init=model, out=out, seed=1, settings=settings, resume_dir=states)


if __name__ == "__main__":
    {"resets": resets, "updates": updates}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
