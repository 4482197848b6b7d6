"""Steps per second of ALFWorld: the unchanged library, this project's engine, and many games in workers.

    python benchmarks/alfworld_steps.py --steps 2000 --games DIR [--split train]

DIR is a folder of games (from `rl4vlm alfworld-games --out DIR`, or the benchmark's). The player is random. The time
includes one start of a game per 50 steps, and translating each game when it is first started. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rl4vlm.envs.alfworld.engine import Engine
from rl4vlm.envs.alfworld.games import find_games
from rl4vlm.envs.alfworld.workers.engine_pool import EnginePool
from rl4vlm.envs.registration import make_env

EPISODE = 50


def library(files: Sequence[Path], steps: int) -> float:
    """The unchanged `PddlEnv`, with the names and facts that `AlfredTWEnv` adds."""
    import textworld
    from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
    from textworld.envs import PddlEnv

    env = AlfredDemangler(PddlEnv(textworld.EnvInfos(facts=True, admissible_commands=True, won=True)))
    order, rng, done = itertools.cycle(files), random.Random(0), True
    begun = time.perf_counter()
    for step in range(steps):
        if done or step % EPISODE == 0:
            env.load(str(next(order)))
            state = env.reset()
        state, _, done = env.step(rng.choice(state["admissible_commands"]))
    return steps / (time.perf_counter() - begun)


def one_engine(files: Sequence[Path], steps: int) -> float:
    """This project's engine, in this process."""
    engine, order, rng = Engine(), itertools.cycle(files), random.Random(0)
    begun = time.perf_counter()
    now = engine.start(next(order))
    for _ in range(steps):
        if now.done or now.steps >= EPISODE:
            now = engine.start(next(order))
        now = engine.act(rng.choice(now.admissible))
    return steps / (time.perf_counter() - begun)


def workers(files: Sequence[Path], steps: int, games: int) -> float:
    """Many games in one worker per core. Commands are sent to all games before the first answer is awaited."""
    with EnginePool() as pool:
        remote = [pool.game() for _ in range(games)]
        for game in remote:
            game.start(files[0])  # starts the processes, which is not timed

        order, rng = itertools.cycle(files), random.Random(0)
        now = [game.start(next(order)) for game in remote]
        begun, taken = time.perf_counter(), 0
        while taken < steps:
            for number, situation in enumerate(now):
                remote[number].send_act(rng.choice(situation.admissible))
            now = [game.receive() for game in remote]
            taken += games
            over = [number for number, situation in enumerate(now) if situation.done or situation.steps >= EPISODE]
            for number in over:
                remote[number].send_start(next(order))
            for number in over:
                now[number] = remote[number].receive()
        return taken / (time.perf_counter() - begun)


def environments(folder: Path, split: str, steps: int, games: int) -> float:
    """The whole environment, with images, texts and random resets: what a policy waits for."""
    envs: list[Any] = [make_env("ALFWorld", data=str(folder), split=split) for _ in range(games)]
    rng = random.Random(0)
    for seed, env in enumerate(envs):
        env.reset(seed=seed)
    begun, taken = time.perf_counter(), 0
    while taken < steps:
        for env in envs:
            env.step_async(rng.randrange(len(env.view().actions)))
        ended = [env.step_wait()[2:4] for env in envs]
        taken += games
        for env, over in zip(envs, ended, strict=True):
            if any(over):
                env.reset()
    seconds = time.perf_counter() - begun
    for env in envs:
        env.close()
    return taken / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--games", type=Path, required=True, help="folder of games")
    parser.add_argument("--split", default="train")
    parser.add_argument("--steps", type=int, default=2000, help="steps timed per row; a tenth for the library")
    arguments = parser.parse_args()
    files = find_games(arguments.games, arguments.split).files
    rows = {
        "library, one game": library(files, max(arguments.steps // 10, 1)),
        "engine, one game": one_engine(files, arguments.steps),
        "workers, 1 game": workers(files, arguments.steps, 1),
        "workers, 8 games": workers(files, arguments.steps, 8),
        "environments with images, 8 games": environments(arguments.games, arguments.split, arguments.steps, 8),
    }
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"{len(files)} games; {cores} cores, load {os.getloadavg()[0]:.1f}")
    print("| | steps/s |")
    print("|---|---|")
    for name, rate in rows.items():
        print(f"| {name} | {rate:,.0f} |")


if __name__ == "__main__":
    main()
