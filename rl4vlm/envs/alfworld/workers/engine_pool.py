"""Games that run in worker processes, and continue when a worker dies.

An engine is deterministic: the game file and the commands determine the state of a game. So when a worker dies, a new
one replays its games and repeats the request. If the new worker dies of the same request, that request fails, and the
other games continue.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl4vlm.envs.alfworld.engine import EngineState
from rl4vlm.envs.alfworld.types import Situation
from rl4vlm.envs.alfworld.workers.protocol import Outcome, Request
from rl4vlm.envs.alfworld.workers.worker import Worker, checked_processes
from rl4vlm.envs.alfworld.workers.worker_pool import WorkerPool

_LOG = logging.getLogger(__name__)


class RemoteGame:
    """A game in a worker, with the methods of `Engine`. `send_…` and `receive` are the two halves of a call."""

    def __init__(self, pool: EnginePool, number: int) -> None:
        self._pool = pool
        self._number = number
        self._sent: Request | None = None

    def start(self, game_file: str | Path) -> Situation:
        """Start a game. Raises BadGame if it cannot be played or kills two workers."""
        self.send_start(game_file)
        return self.receive()

    def act(self, command: str) -> Situation:
        """Give a command.

        Raises:
            ValueError: no game has been started.
            BadGame: the command breaks the game; the message begins with the game's file.
            EngineCrash: the command kills two workers; the message begins with the game's file.
        """
        self.send_act(command)
        return self.receive()

    def restore(self, state: EngineState) -> Situation:
        """Start the game of `state` and repeat its commands."""
        self._send("restore", state)
        return self.receive()

    def state(self) -> EngineState:
        """The argument with which `restore` returns here. Raises ValueError if no game has been started."""
        return self._pool.state(self._number)

    def send_start(self, game_file: str | Path) -> None:
        """The first half of `start`."""
        self._send("start", str(game_file))

    def send_act(self, command: str) -> None:
        """The first half of `act`."""
        self._send("act", command)

    def receive(self) -> Situation:
        """Wait for the situation that the last request led to. Raises what the request raises."""
        if self._sent is None:
            raise ValueError("receive was called, but no request was sent")
        request, self._sent = self._sent, None
        return self._pool.answer(request)

    def close(self) -> None:
        """Leave the pool, which ends with its last game. Safe to call twice."""
        self._pool.leave(self._number)

    def _send(self, call: str, argument: Any) -> None:
        if self._sent is not None:
            raise ValueError("a request was sent before the answer to the last one has been received")
        self._sent = self._pool.send(self._number, call, argument)


@dataclass
class GameSlot:
    """One game of a pool: the state after its last received answer, and the worker that runs it."""

    state: EngineState | None = None
    worker: Worker | None = None

    def record(self, request: Request) -> None:
        """Record the state that a successful request led to."""
        (argument,) = request.arguments
        if request.call == "restore":
            self.state = argument
        elif request.call == "start":
            self.state = EngineState(argument, ())
        else:
            assert self.state is not None
            self.state = EngineState(self.state.game_file, (*self.state.commands, argument))


class EnginePool:
    """Games, and the workers that run them. Use it as a context manager, or `close` it.

    `replaced` counts the workers that died and were replaced.
    """

    def __init__(self, processes: int | None = None, *, close_when_empty: bool = False) -> None:
        """Start no worker yet.

        Args:
            processes: largest number of workers, by default the number of cores that this process may use.
            close_when_empty: close the pool when its last game leaves.

        Raises:
            ValueError: `processes` is below 1.
        """
        self.replaced = 0
        self._close_when_empty = close_when_empty
        self._workers = WorkerPool(checked_processes(processes))
        self._slots: dict[int, GameSlot] = {}
        self._numbers = 0
        # Stops the workers on `close`, on garbage collection and when the interpreter exits.
        self._finalizer = weakref.finalize(self, self._workers.stop)

    def __enter__(self) -> EnginePool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pids(self) -> list[int]:
        """The process ids of all workers."""
        return [worker.pid for worker in self._workers.workers]

    @property
    def megabytes(self) -> float:
        """The largest memory that any worker has had, in MiB, as of its last answer; 0 before the first answer."""
        return max((worker.megabytes for worker in self._workers.workers), default=0.0)

    @property
    def closed(self) -> bool:
        return not self._finalizer.alive

    def game(self) -> RemoteGame:
        """Add a game. Raises ValueError if the pool has been closed."""
        if self.closed:
            raise ValueError("this pool of ALFWorld engines has been closed: make a new one")
        self._numbers += 1
        self._slots[self._numbers] = GameSlot()
        return RemoteGame(self, self._numbers)

    def close(self) -> None:
        """Stop all workers. Safe to call twice."""
        self._slots.clear()
        self._finalizer()

    def send(self, game: int, call: str, argument: Any) -> Request:
        """For `RemoteGame`: send a call to a game's engine."""
        slot, request = self._slot(game), Request(game, call, (argument,))
        if request.starts_a_game:  # a good moment to leave an exhausted worker: nothing must be replayed
            self._ensure_worker(game)
        if slot.worker is None:
            raise ValueError("no game has been started")
        try:
            slot.worker.send(request)
        except OSError:
            self._replace(slot.worker, "it had ended before the request", unseen=request)
        return request

    def answer(self, request: Request) -> Situation:
        """For `RemoteGame`: wait for the answer to a request. A worker that dies of it is replaced, once."""
        slot = self._slot(request.game)
        while request.answer is None:  # `_replace` sends the request again, to a new worker
            assert slot.worker is not None
            try:
                slot.worker.wait(request)
            except (OSError, EOFError) as error:
                self._replace(slot.worker, str(error))
        situation: Situation = request.result()
        slot.record(request)
        return situation

    def state(self, game: int) -> EngineState:
        """For `RemoteGame`: the state of a game."""
        state = self._slot(game).state
        if state is None:
            raise ValueError("no game has been started")
        return state

    def leave(self, game: int) -> None:
        """For `RemoteGame`: remove a game."""
        slot = self._slots.pop(game, None)
        if slot is None:
            return
        self._detach(game, slot)
        if not self._slots and self._close_when_empty:
            self.close()

    def _slot(self, game: int) -> GameSlot:
        if game not in self._slots:
            raise ValueError("the game has been closed")
        return self._slots[game]

    def _ensure_worker(self, game: int) -> None:
        """Assign a game to a worker, unless it has one that is not exhausted."""
        slot = self._slots[game]
        if slot.worker is None or slot.worker.exhausted:
            self._detach(game, slot)
            slot.worker = self._workers.assign(game)

    def _detach(self, game: int, slot: GameSlot) -> None:
        worker, slot.worker = slot.worker, None
        if worker is None or not self._workers.detach(worker, game):
            return
        try:
            # Frees the engine. Nobody waits for the answer, which is skipped when the next one is read.
            worker.send(Request(game, "close", (), awaited=False))
        except OSError:  # the next request to this worker replaces it
            _LOG.debug("worker %d was gone before its game left", worker.pid)

    def _replace(self, dead: Worker, why: str, unseen: Request | None = None) -> None:
        """Replace a dead worker: restore its games in a new one and repeat its unanswered requests.

        Args:
            dead: the worker.
            why: the reason, for the log.
            unseen: a request that it was dead for before. The death is not that request's fault.
        """
        unanswered = dead.unanswered()
        self.replaced += 1
        _LOG.warning("ALFWorld worker %d died (%s); its games are restored", dead.pid, why)
        fresh = self._workers.replace(dead)
        # Answers come in order, so the worker died of its oldest request without one.
        if unanswered and unanswered[0] is not unseen:
            self._blame(unanswered[0], unanswered)
        # Restore first: the worker serves requests in order, so the repeated ones find their games in place.
        for game in sorted(fresh.games):
            slot = self._slots[game]
            slot.worker = fresh
            if slot.state is not None:
                _send_blindly(fresh, Request(game, "restore", (slot.state,), awaited=False))
        for request in unanswered:
            if request.awaited and request.answer is None:
                _send_blindly(fresh, request)

    def _blame(self, guilty: Request, unanswered: Sequence[Request]) -> None:
        """Count a death against the request that the worker was busy with. After the second one, fail the request."""
        guilty.deaths += 1
        # If even restoring the game kills the worker, the game is lost, and so are requests that continue it.
        lost = guilty.call == "restore" and not guilty.awaited and guilty.game in self._slots
        if lost:
            ended = [request for request in unanswered if request.game == guilty.game and not request.starts_a_game]
        else:
            # One death may be an accident (out of memory, a kill); the second one is the request's fault.
            ended = [guilty] if guilty.deaths > 1 else []
        file = self._file(guilty)
        for request in ended:
            # A game that cannot be started is a bad game, which may be skipped.
            outcome: Outcome = "bad game" if request.call == "start" else "crash"
            request.answer = (outcome, f"{file}: {request.call} {request.arguments} killed ALFWorld workers")
        if lost:
            self._slots[guilty.game].state = None

    def _file(self, request: Request) -> str:
        """The file of the game that a request belongs to."""
        if request.call == "start":
            return str(request.arguments[0])
        slot = self._slots.get(request.game)
        state = request.arguments[0] if request.call == "restore" else slot and slot.state
        return state.game_file if state else "a game that was closed"


def _send_blindly(worker: Worker, request: Request) -> None:
    """Send a request to a worker that may have died: whoever waits for an answer notices that."""
    with suppress(OSError):
        worker.send(request)


_shared: EnginePool | None = None


def open_game() -> RemoteGame:
    """A game in the pool that all environments of this process share. The pool closes with its last game."""
    global _shared
    if _shared is None or _shared.closed:
        _shared = EnginePool(close_when_empty=True)
    return _shared.game()
