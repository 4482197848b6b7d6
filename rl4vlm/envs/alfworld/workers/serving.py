"""What goes on inside: the nursery, which forks workers, and a worker, which runs engines."""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
import traceback
from multiprocessing.connection import Connection
from typing import Any, NoReturn

from rl4vlm.envs.alfworld.engine import Engine, solve_and_check, warm_up
from rl4vlm.envs.alfworld.games import BadGame
from rl4vlm.envs.alfworld.workers.protocol import Answer

PID_BYTES = 16
"""Length of the nursery's answer: a process id in decimal, padded with blanks on the left."""


def nurse(descriptor: int) -> NoReturn:
    """What a nursery does: fork a worker for each socket that it is sent, until its own is closed."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # dead workers leave no zombies
    warm_up()
    control = socket.socket(fileno=descriptor)
    while True:
        try:
            _, descriptors, *_ = socket.recv_fds(control, 1, 1)
        except OSError:
            descriptors = []
        if not descriptors:
            os._exit(0)  # at once: Python takes its time to take down what was loaded
        pid = os.fork()
        if pid == 0:
            control.close()
            try:
                serve(descriptors[0])
            finally:
                os._exit(0)  # not up into the loop that this process is a copy of
        os.close(descriptors[0])
        control.sendall(str(pid).encode().rjust(PID_BYTES))


def serve(descriptor: int) -> None:
    """What a worker does: answer requests from a socket until it is closed. Its memory goes with each answer."""
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
    """This process's memory at its largest."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)
