"""What runs inside a worker process: one engine per game."""

from __future__ import annotations

import resource
import sys
import traceback
from multiprocessing.connection import Connection
from typing import Any

from rl4vlm.envs.alfworld.engine import Engine, solve_and_check
from rl4vlm.envs.alfworld.games import BadGame
from rl4vlm.envs.alfworld.workers.protocol import Answer


def serve(descriptor: int) -> None:
    """A worker's main loop: answer requests until the socket is closed. Each answer comes with the memory in use."""
    connection = Connection(descriptor)
    engines: dict[int, Engine] = {}
    while True:
        try:
            game, call, arguments = connection.recv()
        except (EOFError, OSError):
            return
        answer = _answer(engines, game, call, arguments)
        try:
            connection.send((_megabytes(), answer))
        except OSError:
            return


def _answer(engines: dict[int, Engine], game: int, call: str, arguments: tuple[Any, ...]) -> Answer:
    try:
        return "done", _call(engines, game, call, arguments)
    except BadGame as error:
        return "bad game", str(error)
    except ValueError as error:
        return "wrong", str(error)
    except Exception:
        return "failed", traceback.format_exc()


def _call(engines: dict[int, Engine], game: int, call: str, arguments: tuple[Any, ...]) -> Any:
    if call == "solve":
        return solve_and_check(*arguments)
    if call == "close":
        engine = engines.pop(game, None)
        return None if engine is None else engine.close()
    return getattr(engines.setdefault(game, Engine()), call)(*arguments)


def _megabytes() -> float:
    """The largest memory that this process has had, in MiB."""
    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)
