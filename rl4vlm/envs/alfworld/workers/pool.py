"""Games that run in workers: what an engine does, asked for from another process, with dead workers replaced.

An engine knows no chance: a game is where it is by its file and its commands. So when a worker dies, another takes its
place, its games are played again to where they were, and the request that it died of is made once more. If that kills
the second worker too, the game's owner gets `EngineCrash`; the other games go on.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl4vlm.envs.alfworld.engine import EngineState
from rl4vlm.envs.alfworld.types import Situation
from rl4vlm.envs.alfworld.workers.crew import Crew
from rl4vlm.envs.alfworld.workers.process import Worker, checked_processes
from rl4vlm.envs.alfworld.workers.protocol import Request

_LOG = logging.getLogger(__name__)


class RemoteGame:
    """A game in some worker: what `Engine` does, there. `send_…` and `receive` are the two halves of a call."""

    def __init__(self, pool: EnginePool, number: int) -> None:
        self._pool = pool
        self._number = number
        self._sent: Request | None = None

    def start(self, game_file: str | Path) -> Situation:
        """Begin a game anew. Raises BadGame when it cannot be played."""
        self.send_start(game_file)
        return self.receive()

    def act(self, command: str) -> Situation:
        """Give a command. Raises BadGame when the game breaks at it, EngineCrash when it kills two workers.

        Raises ValueError when no game runs. What BadGame and EngineCrash say begins with the game's file.
        """
        self.send_act(command)
        return self.receive()

    def restore(self, state: EngineState) -> Situation:
        """Begin the game of `state` anew and give its commands again."""
        self._send("restore", state)
        return self.receive()

    def state(self) -> EngineState:
        """What `restore` needs to come back here. Raises ValueError when no game has been started."""
        return self._pool.state(self._number)

    def send_start(self, game_file: str | Path) -> None:
        """The first half of `start`."""
        self._send("start", str(game_file))

    def send_act(self, command: str) -> None:
        """The first half of `act`."""
        self._send("act", command)

    def receive(self) -> Situation:
        """The situation that the request which was sent led to. Raises what the request raises."""
        if self._sent is None:
            raise ValueError("nothing was sent that an answer could be to")
        request, self._sent = self._sent, None
        return self._pool.answer(request)

    def close(self) -> None:
        """Leave the worker. Safe to call twice; the pool ends with its last game."""
        self._pool.leave(self._number)

    def _send(self, call: str, argument: Any) -> None:
        if self._sent is not None:
            raise ValueError("the answer to the last request has not been received")
        self._sent = self._pool.send(self._number, call, argument)


@dataclass
class _Seat:
    """A game's place in the pool: where the game is, as far as answers were received, and the worker that runs it."""

    state: EngineState | None = None
    worker: Worker | None = None

    def note(self, request: Request) -> None:
        """Move on to where a request led that went well."""
        (argument,) = request.arguments
        if request.call == "restore":
            self.state = argument
        elif request.call == "start":
            self.state = EngineState(argument, ())
        else:
            assert self.state is not None
            self.state = EngineState(self.state.game_file, (*self.state.commands, argument))


class EnginePool:
    """Workers, as many as there are cores at most, and the games that they serve.

    `replaced` counts workers that died and were replaced. Use it as a context manager, or `close` it.
    """

    def __init__(self, processes: int | None = None, *, close_when_empty: bool = False) -> None:
        """`processes`: how many workers at most; by default as many as this process may use cores.

        With `close_when_empty`, the pool closes with the last game that leaves it.

        Raises:
            ValueError: fewer than one process.
        """
        self.replaced = 0
        self._close_when_empty = close_when_empty
        self._crew = Crew(checked_processes(processes))
        self._seats: dict[int, _Seat] = {}
        self._numbers = 0
        self._finalizer = weakref.finalize(self, self._crew.stop)

    def __enter__(self) -> EnginePool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pids(self) -> list[int]:
        """The process ids of all workers."""
        return [worker.pid for worker in self._crew.workers]

    @property
    def megabytes(self) -> float:
        """The memory of the largest worker at its largest, as of its last answer; 0 before the first."""
        return max((worker.megabytes for worker in self._crew.workers), default=0.0)

    @property
    def closed(self) -> bool:
        return not self._finalizer.alive

    def game(self) -> RemoteGame:
        """Room for one more game. Raises ValueError when the pool has been closed."""
        if self.closed:
            raise ValueError("the pool of ALFWorld's workers has been closed")
        self._numbers += 1
        self._seats[self._numbers] = _Seat()
        return RemoteGame(self, self._numbers)

    def close(self) -> None:
        """End all workers. Safe to call twice."""
        self._seats.clear()
        self._finalizer()

    def send(self, game: int, call: str, argument: Any) -> Request:
        """For `RemoteGame`: begin a call on a game's engine."""
        seat, request = self._seat(game), Request(game, call, (argument,))
        if request.starts_a_game:
            self._give_a_worker(game)
        if seat.worker is None:
            raise ValueError("no game has been started")
        try:
            seat.worker.send(request)
        except OSError:
            self._replace(seat.worker, "when it was asked")
        return request

    def answer(self, request: Request) -> Situation:
        """For `RemoteGame`: the answer to a request; a worker that died of it is replaced, once."""
        seat = self._seat(request.game)
        while request.answer is None:
            assert seat.worker is not None
            try:
                seat.worker.wait(request)
            except (OSError, EOFError) as error:
                self._replace(seat.worker, str(error))
        situation: Situation = request.result()
        seat.note(request)
        return situation

    def state(self, game: int) -> EngineState:
        """For `RemoteGame`: where a game is."""
        state = self._seat(game).state
        if state is None:
            raise ValueError("no game has been started")
        return state

    def leave(self, game: int) -> None:
        """For `RemoteGame`: forget a game; the workers end with the last one."""
        seat = self._seats.pop(game, None)
        if seat is None:
            return
        self._take_from_worker(game, seat)
        if not self._seats and self._close_when_empty:
            self.close()

    def _seat(self, game: int) -> _Seat:
        if game not in self._seats:
            raise ValueError("the game has been closed")
        return self._seats[game]

    def _give_a_worker(self, game: int) -> None:
        """See to it that a game has a worker, and one that is not worn out."""
        seat = self._seats[game]
        if seat.worker is None or seat.worker.worn:
            self._take_from_worker(game, seat)
            seat.worker = self._crew.take(game)

    def _take_from_worker(self, game: int, seat: _Seat) -> None:
        worker, seat.worker = seat.worker, None
        if worker is None or not self._crew.release(worker, game):
            return
        try:
            worker.send(Request(game, "close", (), awaited=False))
        except OSError:  # a dead worker is found out by who comes next
            _LOG.debug("worker %d was gone before its game left", worker.pid)

    def _replace(self, dead: Worker, why: str) -> None:
        """Put a fresh worker in a dead one's place, its games where they were, and its requests before it again."""
        unanswered = dead.unanswered()
        self.replaced += 1
        _LOG.warning("ALFWorld worker %d died (%s); its games are restored", dead.pid, why)
        fresh = self._crew.replace(dead)
        if unanswered:
            self._blame(unanswered[0], unanswered)
        for game in sorted(fresh.games):
            seat = self._seats[game]
            seat.worker = fresh
            if seat.state is not None:
                fresh.send(Request(game, "restore", (seat.state,), awaited=False))
        for request in unanswered:
            if request.awaited and request.answer is None:
                fresh.send(request)

    def _blame(self, guilty: Request, unanswered: Sequence[Request]) -> None:
        """Count a death against the request that was being served; one that killed twice is answered with that."""
        guilty.deaths += 1
        # Where not even the commands that went well before can be given again, the game is lost.
        lost = guilty.call == "restore" and not guilty.awaited and guilty.game in self._seats
        if lost:
            ended = [request for request in unanswered if request.game == guilty.game]
        else:
            ended = [guilty] if guilty.deaths > 1 else []
        file = self._file(guilty)
        for request in ended:
            request.answer = ("crash", f"{file}: {request.call} {request.arguments} killed ALFWorld workers")
        if lost:
            self._seats[guilty.game].state = None

    def _file(self, request: Request) -> str:
        """The file of the game that a request is about."""
        if request.call == "start":
            return str(request.arguments[0])
        seat = self._seats.get(request.game)
        state = request.arguments[0] if request.call == "restore" else seat and seat.state
        return state.game_file if state else "a game that was closed"


_shared: EnginePool | None = None


def open_game() -> RemoteGame:
    """A game in the pool that all environments of this process share; the pool lives as long as it has games."""
    global _shared
    if _shared is None or _shared.closed:
        _shared = EnginePool(close_when_empty=True)
    return _shared.game()
