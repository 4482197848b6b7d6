"""Steps per second of each card game with images, on one core, for a random player.

    python benchmarks/env_steps.py --steps 5000

Prints a Markdown table. The public code does 24 to 2,200 steps per second.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from rl4vlm.envs.registration import make_env
from rl4vlm.tasks.base import CardTask
from rl4vlm.tasks.registry import TASKS, get_task_class


def steps_per_second(task_name: str, steps: int, seed: int = 0) -> float:
    """Play at random and time it, resets included. The images of the cards are cached beforehand."""
    env = make_env(task_name)
    rng = np.random.default_rng(seed)
    env.reset(seed=seed)
    actions = len(env.view().actions)

    def play(count: int) -> None:
        for _ in range(count):
            _, _, terminated, truncated, _ = env.step(int(rng.integers(actions)))
            if terminated or truncated:
                env.reset()

    play(max(steps // 10, 1))
    begun = time.perf_counter()
    play(steps)
    return steps / (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5000, help="steps timed per game")
    arguments = parser.parse_args()
    print("| game | steps/s/core |")
    print("|---|---|")
    for name in TASKS:
        if issubclass(get_task_class(name), CardTask):
            print(f"| {name} | {steps_per_second(name, arguments.steps):,.0f} |")


if __name__ == "__main__":
    main()
