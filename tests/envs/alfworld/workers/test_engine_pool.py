"""Engines in workers: the same games as in this process, crashes survived, bounded memory, nothing left behind."""

from __future__ import annotations

import gc
import logging
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from rl4vlm.envs.alfworld.engine import Engine
from rl4vlm.envs.alfworld.games import BadGame, GameData
from rl4vlm.envs.alfworld.types import Situation, TaskType
from rl4vlm.envs.alfworld.workers import engine_pool as pools
from rl4vlm.envs.alfworld.workers import fork_server, worker
from rl4vlm.envs.alfworld.workers.engine_pool import EnginePool, RemoteGame, open_game
from rl4vlm.envs.alfworld.workers.protocol import EngineCrash
from tests.envs.alfworld.random_walk import alfworld_env
from tests.envs.alfworld.workers.pids import alive, wait_until_gone


@pytest.fixture
def pool() -> Iterator[EnginePool]:
    with EnginePool(processes=2) as made:
        yield made
        pids = made.pids
    assert not any(alive(pid) for pid in pids)


def walk(game: RemoteGame | Engine, now: Situation, steps: int, seed: int) -> list[Situation]:
    rng, passed = random.Random(seed), []
    for _ in range(steps):
        now = game.act(rng.choice(now.admissible))
        passed.append(now)
    return passed


def files(by_type: dict[TaskType, GameData]) -> list[Path]:
    return [game.file for game in by_type.values()]


def test_games_are_those_of_an_engine_here(pool: EnginePool, by_type: dict[TaskType, GameData]) -> None:
    games = [pool.game() for _ in range(3)]
    engines = [Engine() for _ in range(3)]
    for game, file in zip(games, files(by_type), strict=False):
        game.send_start(file)
    for game, engine, file in zip(games, engines, files(by_type), strict=False):
        assert game.receive() == engine.start(file)
    for turn in range(10):
        commands = [random.Random(turn).choice(engine.act("look").admissible) for engine in engines]
        for game in games:
            game.act("look")
        for game, command in zip(games, commands, strict=True):
            game.send_act(command)
        for game, engine, command in reversed(list(zip(games, engines, commands, strict=True))):
            assert game.receive() == engine.act(command)
    assert len(pool.pids) == 2
    assert games[0].state() == engines[0].state()


def test_a_killed_worker_is_replaced_and_its_games_continue(
    pool: EnginePool, by_type: dict[TaskType, GameData], caplog: pytest.LogCaptureFixture
) -> None:
    games = [pool.game() for _ in range(4)]
    engines = [Engine() for _ in range(4)]
    for game, engine, file in zip(games, engines, files(by_type), strict=False):
        walk(game, game.start(file), steps=8, seed=2)
        walk(engine, engine.start(file), steps=8, seed=2)
    victim = pool.pids[0]
    os.kill(victim, signal.SIGSTOP)  # so that it dies with requests unanswered
    for game in games:
        game.send_act("inventory")
    with caplog.at_level(logging.WARNING):
        os.kill(victim, signal.SIGKILL)
        assert [game.receive() for game in games] == [engine.act("inventory") for engine in engines]
    assert pool.replaced == 1
    assert not alive(victim)
    assert victim not in pool.pids
    assert f"ALFWorld worker {victim} died (" in caplog.text
    for game, engine in zip(games, engines, strict=True):
        assert game.act("look") == engine.act("look")


def changed_workers(monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    """Make all workers from now on run `change` first: lines of Python that patch the module `engine`."""
    imports = (
        "import os, sys\nfrom rl4vlm.envs.alfworld import engine\n"
        "from rl4vlm.envs.alfworld.workers.fork_server import run\n"
    )
    monkeypatch.setattr(fork_server, "_PROGRAM", f"{imports}{change}run(int(sys.argv[1]))\n")
    monkeypatch.setattr(fork_server.ForkServer, "_current", None)


def test_a_request_that_kills_twice_is_an_error_and_other_games_continue(
    monkeypatch: pytest.MonkeyPatch, pool: EnginePool, by_type: dict[TaskType, GameData]
) -> None:
    changed_workers(
        monkeypatch,
        "act = engine.Engine.act\n"
        "def deadly(self, command):\n    os._exit(7) if command == 'die' else None\n    return act(self, command)\n"
        "engine.Engine.act = deadly\n",
    )
    games = [pool.game() for _ in range(4)]
    starts = [game.start(file) for game, file in zip(games, files(by_type), strict=False)]
    for game, command in zip(games, ("look", "die", "look", "look"), strict=True):
        game.send_act(command)
    for number in (3, 2, 0):
        assert games[number].receive().facts == starts[number].facts or games[number].state().commands == ("look",)
    with pytest.raises(EngineCrash, match=r"act \('die',\) killed ALFWorld workers") as error:
        games[1].receive()
    assert str(error.value).startswith(f"{files(by_type)[1]}: ")
    assert pool.replaced == 2
    assert games[1].act("look").steps == 1
    assert games[1].start(files(by_type)[1]) == starts[1]


def test_a_game_whose_start_kills_twice_is_a_bad_game(
    monkeypatch: pytest.MonkeyPatch, pool: EnginePool, by_type: dict[TaskType, GameData]
) -> None:
    changed_workers(monkeypatch, "engine.Engine.start = lambda self, file: os._exit(7)\n")
    file = by_type[TaskType.PICK].file
    with pytest.raises(BadGame, match="killed ALFWorld workers") as error:
        pool.game().start(file)
    assert str(error.value).startswith(f"{file}: start ")
    assert pool.replaced == 2


def test_a_game_that_cannot_be_restored_does_not_make_the_next_one_bad(
    monkeypatch: pytest.MonkeyPatch, pool: EnginePool, by_type: dict[TaskType, GameData]
) -> None:
    changed_workers(monkeypatch, "engine.Engine.restore = lambda self, state: os._exit(7)\n")
    game, (first, second, *_) = pool.game(), files(by_type)
    game.start(first)
    os.kill(pool.pids[0], signal.SIGKILL)
    wait_until_gone(pool.pids)
    assert game.start(second) == Engine().start(second)
    assert pool.replaced == 2
    assert game.act("look").steps == 1


def test_a_death_before_a_request_is_not_blamed_on_it(
    monkeypatch: pytest.MonkeyPatch, pool: EnginePool, by_type: dict[TaskType, GameData], tmp_path: Path
) -> None:
    died = tmp_path / "died"
    changed_workers(
        monkeypatch,
        "def once(self, command):\n"
        f"    if not os.path.exists(died := {str(died)!r}):\n"
        "        open(died, 'w').close()\n        os._exit(7)\n    return act(self, command)\n"
        "act = engine.Engine.act\nengine.Engine.act = once\n",
    )
    game = pool.game()
    game.start(by_type[TaskType.PICK].file)
    os.kill(pool.pids[0], signal.SIGKILL)
    wait_until_gone(pool.pids)
    assert game.act("look").steps == 1
    assert pool.replaced == 2


def test_an_exhausted_worker_is_replaced(by_type: dict[TaskType, GameData], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "STARTS_PER_WORKER", 3)
    file = by_type[TaskType.PICK].file
    with EnginePool(processes=1) as pool:
        game, other = pool.game(), pool.game()
        first = game.start(file)
        other.start(file)
        pids = set(pool.pids)
        for _ in range(6):
            assert game.start(file) == first
            pids |= set(pool.pids)
            assert len(pool.pids) <= 2
        assert len(pids) >= 3
        assert other.act("look").steps == 1
        other.start(file)
        assert len(pool.pids) <= 2
        assert pool.replaced == 0
    assert not any(alive(pid) for pid in pids)


def test_memory_is_a_reason_to_retire(by_type: dict[TaskType, GameData], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "MEGABYTES_PER_WORKER", 1)
    with EnginePool(processes=1) as pool:
        game = pool.game()
        game.start(by_type[TaskType.PICK].file)
        before = pool.pids
        game.start(by_type[TaskType.PICK].file)
        assert pool.pids != before


def test_bad_input_is_named_and_costs_no_worker(
    pool: EnginePool, by_type: dict[TaskType, GameData], tmp_path: Path
) -> None:
    game = pool.game()
    with pytest.raises(ValueError, match="no game has been started"):
        game.act("look")
    with pytest.raises(BadGame, match=r"nothing\.tw-pddl: cannot be read"):
        game.start(tmp_path / "nothing.tw-pddl")
    game.start(by_type[TaskType.PICK].file)
    game.send_act("look")
    with pytest.raises(ValueError, match="before the answer to the last one"):
        game.send_act("look")
    assert game.receive().steps == 1
    with pytest.raises(ValueError, match="no request was sent"):
        game.receive()
    game.close()
    game.close()
    with pytest.raises(ValueError, match="has been closed"):
        game.start(by_type[TaskType.PICK].file)
    assert pool.replaced == 0


def test_a_game_that_kills_where_it_is_played_again_is_named(
    monkeypatch: pytest.MonkeyPatch, pool: EnginePool, by_type: dict[TaskType, GameData]
) -> None:
    changed_workers(monkeypatch, "engine.Engine.restore = lambda self, state: os._exit(7)\n")
    game, file = pool.game(), by_type[TaskType.PICK].file
    game.start(file)
    os.kill(pool.pids[0], signal.SIGKILL)
    with pytest.raises(EngineCrash, match=r"act \('look',\) killed ALFWorld workers") as error:
        game.act("look")
    assert str(error.value).startswith(f"{file}: ")


def test_a_state_is_restored_in_another_worker(pool: EnginePool, by_type: dict[TaskType, GameData]) -> None:
    game, other = pool.game(), pool.game()
    last = walk(game, game.start(by_type[TaskType.COOL].file), steps=9, seed=1)[-1]
    assert other.restore(game.state()) == last
    assert other.state() == game.state()


def test_the_shared_pool_ends_with_its_last_game(by_type: dict[TaskType, GameData]) -> None:
    one, other = open_game(), open_game()
    one.start(by_type[TaskType.PICK].file)
    other.start(by_type[TaskType.PICK].file)
    assert pools._shared is not None
    pids = pools._shared.pids
    one.close()
    assert any(alive(pid) for pid in pids)
    other.close()
    assert not any(alive(pid) for pid in pids)
    again = open_game()
    again.start(by_type[TaskType.PICK].file)
    again.close()


def test_a_forgotten_pool_leaves_nothing(by_type: dict[TaskType, GameData]) -> None:
    pool = EnginePool(processes=1)
    pool.game().start(by_type[TaskType.PICK].file)
    pids = pool.pids
    del pool
    gc.collect()
    assert wait_until_gone(pids)


@pytest.mark.long
def test_memory_is_bounded_over_a_thousand_resets(generated: Path) -> None:
    """The memory of the workers, and of this process, which caches rooms and draws images."""
    envs = [alfworld_env(data=generated) for _ in range(4)]
    rng, largest, here = random.Random(0), 0.0, []
    shared = pools._shared
    assert shared is not None
    for _ in range(250):
        for env in envs:
            env.reset(seed=rng.randrange(1000))
        for _ in range(2):
            for env in envs:
                env.step_async(rng.randrange(len(env.view().actions)))
            for env in envs:
                env.step_wait()
        largest = max(largest, shared.megabytes)
        here.append(psutil.Process().memory_info().rss / 1024**2)
    assert shared.replaced == 0
    for env in envs:
        env.close()
    assert largest < 400
    assert max(here[50:]) - here[50] < 20, here[::25]
