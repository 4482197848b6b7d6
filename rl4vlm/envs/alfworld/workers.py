"""Engines in processes of their own: many games at once on all cores, memory that stays bounded, crashes survived.

A worker serves several games, one request at a time, over a socket; it ends when the socket is closed, so none outlives
its parent, however that dies. Requests can be sent to many games before any answer is read. Workers are forked off a
nursery, a process of its own that has loaded the libraries once: a second or more for it, milliseconds for each worker.

An engine knows no chance: a game is where it is by its file and its commands. So when a worker dies, another takes its
place, its games are played again to where they were, and the request that it died of is made once more. If that kills
the second worker too, the game's owner gets `EngineCrash`; the other games go on.
"""

from __future__ import annotations

import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import time
import traceback
import weakref
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from rl4vlm.core.progress import progress
from rl4vlm.envs.alfworld.engine import Engine, EngineState, solve_and_check, warm_up
from rl4vlm.envs.alfworld.games import GameData
from rl4vlm.envs.alfworld.library import require_installed
from rl4vlm.envs.alfworld.types import Situation

ANSWER_WITHIN = 180.0
"""Seconds after which a worker that does not answer is taken for dead. Planning a large game may take a minute."""

STARTS_PER_WORKER = 500
"""Games that a worker starts before a fresh one takes over: the library never gives back all of a game's memory."""

MEGABYTES_PER_WORKER = 1000
"""Memory beyond which a fresh worker takes over."""

_PROGRAM = "import sys; from rl4vlm.envs.alfworld.workers import nurse; nurse(int(sys.argv[1]))"
_PID_BYTES = 16
_LOG = logging.getLogger(__name__)


class EngineCrash(RuntimeError):
    """A request killed the worker that served it, twice."""


@dataclass
class _Request:
    """A call on a game's engine (`start`, `act`, `restore`, `close`) or on none (`solve`), and later its answer."""

    game: int
    call: str
    arguments: tuple[Any, ...]
    owner: RemoteGame | None = None
    answer: tuple[Any, ...] | None = None
    deaths: int = 0


class Worker:
    """One engine process, seen from outside. `send` a request, then `wait` for its answer; answers come in order."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self.pid = _Nursery.of_this_process().fork(theirs)
        self._connection = Connection(ours.detach())
        self._waiting: deque[_Request] = deque()
        self.games: set[int] = set()
        self.starts = 0
        self.megabytes = 0.0

    @property
    def worn(self) -> bool:
        """Whether a fresh worker should take over."""
        return self.starts >= STARTS_PER_WORKER or self.megabytes >= MEGABYTES_PER_WORKER

    def send(self, request: _Request) -> None:
        """Queue a request; the worker begins at once. Raises OSError when it is dead."""
        self._waiting.append(request)
        self._connection.send((request.game, request.call, request.arguments))
        self.starts += request.call in ("start", "restore")

    def wait(self, request: _Request) -> tuple[Any, ...]:
        """The answer to a request that was sent. Raises OSError or EOFError when the worker died of one before it."""
        while request.answer is None:
            if not self._connection.poll(ANSWER_WITHIN):
                raise EOFError(f"no answer within {ANSWER_WITHIN:g} s")
            self.megabytes, *answer = self._connection.recv()
            self._waiting.popleft().answer = tuple(answer)
        return request.answer

    @property
    def connection(self) -> Connection:
        """For `multiprocessing.connection.wait`."""
        return self._connection

    def unanswered(self) -> list[_Request]:
        return list(self._waiting)

    def stop(self, patience: float = 5.0) -> None:
        """End the process, by force after `patience` seconds."""
        self._connection.close()
        if not _gone(self.pid, patience):
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            _gone(self.pid, 5.0)


class _Nursery:
    """The process that workers are forked off. There is one for each process that has workers; it ends with it."""

    _found: ClassVar[_Nursery | None] = None

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # Fast Downward prints there
                env=_worker_environment(),
            )
        self.owner = os.getpid()
        self._socket = ours
        self._end = weakref.finalize(self, _end_nursery, ours, process, self.owner)

    @classmethod
    def of_this_process(cls) -> _Nursery:
        """The nursery, started at the first call. Raises ValueError when the libraries are not installed."""
        if cls._found is None or cls._found.owner != os.getpid() or not cls._found._end.alive:
            require_installed()
            cls._found = cls()
        return cls._found

    def fork(self, served: socket.socket) -> int:
        """A new worker that serves this socket; its process id."""
        try:
            socket.send_fds(self._socket, [b"w"], [served.fileno()])
            answer = self._socket.recv(_PID_BYTES, socket.MSG_WAITALL)
        except OSError:
            answer = b""
        if len(answer) < _PID_BYTES:
            self.end()
            raise EngineCrash("the process that ALFWorld's workers are forked off has died; its error is above")
        return int(answer)

    def end(self) -> None:
        """End the process; workers that it has forked live on."""
        self._end()


class RemoteGame:
    """A game in some worker: what `Engine` does, there. `send_…` and `receive` are the two halves of a call."""

    def __init__(self, pool: EnginePool, number: int) -> None:
        self._pool = pool
        self._number = number
        self._state: EngineState | None = None
        self._sent: _Request | None = None
        self._worker: Worker | None = None

    def start(self, game_file: str | Path) -> Situation:
        """Begin a game anew. Raises ValueError naming a file that cannot be played."""
        self.send_start(game_file)
        return self.receive()

    def act(self, command: str) -> Situation:
        """Give a command. Raises ValueError when no game runs, EngineCrash when it kills two workers."""
        self.send_act(command)
        return self.receive()

    def restore(self, state: EngineState) -> Situation:
        """Begin the game of `state` anew and give its commands again."""
        self._send("restore", state)
        return self.receive()

    def state(self) -> EngineState:
        """What `restore` needs to come back here."""
        if self._state is None:
            raise ValueError("no game has been started")
        return self._state

    def send_start(self, game_file: str | Path) -> None:
        self._send("start", str(game_file))

    def send_act(self, command: str) -> None:
        self._send("act", command)

    def receive(self) -> Situation:
        """The situation that the request which was sent led to. Raises what the request raises."""
        if self._sent is None:
            raise ValueError("nothing was sent that an answer could be to")
        request, self._sent = self._sent, None
        situation: Situation = self._pool.answer(request)
        self._state = _state_after(self._state, request)
        return situation

    def close(self) -> None:
        """Leave the worker. Safe to call twice; the pool ends with its last game."""
        self._pool.leave(self)

    def _send(self, call: str, argument: Any) -> None:
        if self._sent is not None:
            raise ValueError("the answer to the last request has not been received")
        self._sent = self._pool.send(self, call, argument)


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
        self.processes = _checked(processes)
        self.replaced = 0
        self._close_when_empty = close_when_empty
        self._workers: list[Worker] = []
        self._retired: list[Worker] = []
        self._games: dict[int, RemoteGame] = {}
        self._numbers = 0
        self._finalizer = weakref.finalize(self, _stop_all, self._workers, self._retired)

    def __enter__(self) -> EnginePool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pids(self) -> list[int]:
        """The process ids of all workers."""
        return [worker.pid for worker in (*self._workers, *self._retired)]

    @property
    def closed(self) -> bool:
        return not self._finalizer.alive

    def game(self) -> RemoteGame:
        """Room for one more game. Raises ValueError when the pool has been closed."""
        if self.closed:
            raise ValueError("the pool of ALFWorld's workers has been closed")
        self._numbers += 1
        game = RemoteGame(self, self._numbers)
        self._games[self._numbers] = game
        return game

    def close(self) -> None:
        """End all workers. Safe to call twice."""
        self._games.clear()
        self._finalizer()

    def send(self, game: RemoteGame, call: str, argument: Any) -> _Request:
        """For `RemoteGame`: begin a call on a game's engine."""
        if game._number not in self._games:
            raise ValueError("the game has been closed")
        if call in ("start", "restore"):
            self._settle(game)
        worker = game._worker
        if worker is None:
            raise ValueError("no game has been started")
        request = _Request(game._number, call, (argument,), owner=game)
        try:
            worker.send(request)
        except OSError:
            self._replace(worker, "when it was asked")
        return request

    def answer(self, request: _Request) -> Any:
        """For `RemoteGame`: the answer to a request; a worker that died of it is replaced, once."""
        while request.answer is None:
            assert request.owner is not None
            worker = request.owner._worker
            assert worker is not None
            try:
                worker.wait(request)
            except (OSError, EOFError) as error:
                self._replace(worker, str(error))
        return _result(request)

    def leave(self, game: RemoteGame) -> None:
        """For `RemoteGame`: forget a game; the workers end with the last one."""
        if self._games.pop(game._number, None) is None:
            return
        self._detach(game)
        if not self._games and self._close_when_empty:
            self.close()

    def _settle(self, game: RemoteGame) -> None:
        """See to it that the game has a worker that is not worn out."""
        if game._worker is not None and not game._worker.worn:
            return
        self._detach(game)
        game._worker = self._worker_for_one_more()
        game._worker.games.add(game._number)

    def _detach(self, game: RemoteGame) -> None:
        worker, game._worker = game._worker, None
        if worker is None:
            return
        worker.games.discard(game._number)
        if worker in self._retired and not worker.games:
            self._retired.remove(worker)
            worker.stop()
        elif worker in self._workers:
            # An engine that nobody asks for the answer of: a dead worker is found out by who comes next.
            try:
                worker.send(_Request(game._number, "close", ()))
            except OSError:
                _LOG.debug("worker %d was gone before its game left", worker.pid)

    def _worker_for_one_more(self) -> Worker:
        """A worker for another game: a new process while there may be more, else the least busy."""
        for worker in [worker for worker in self._workers if worker.worn]:
            self._workers.remove(worker)
            if worker.games:
                self._retired.append(worker)
            else:
                worker.stop()
        busy = all(worker.games for worker in self._workers)
        if busy and len(self._workers) < self.processes:
            self._workers.append(Worker())
        return min(self._workers, key=lambda worker: len(worker.games))

    def _replace(self, dead: Worker, why: str) -> None:
        """Put a fresh worker in a dead one's place, its games where they were, and its requests before it again."""
        unanswered = dead.unanswered()
        dead.stop(patience=0.5)
        self.replaced += 1
        _LOG.warning("ALFWorld worker %d died (%s); its games are restored", dead.pid, why)
        fresh = Worker()
        lane = self._workers if dead in self._workers else self._retired
        lane[lane.index(dead)] = fresh
        fresh.games = set(dead.games)
        if unanswered:
            self._blame(unanswered[0], unanswered)
        again = [request for request in unanswered if request.owner is not None and request.answer is None]
        for number in sorted(fresh.games):
            game = self._games[number]
            game._worker = fresh
            if game._state is not None:
                fresh.send(_Request(number, "restore", (game._state,)))
        for request in again:
            fresh.send(request)

    def _blame(self, guilty: _Request, unanswered: Sequence[_Request]) -> None:
        """Count a death against the request that was being served; one that killed twice is answered with that."""
        guilty.deaths += 1
        ended = [guilty] if guilty.deaths > 1 else []
        if guilty.call == "restore" and guilty.owner is None and guilty.game in self._games:
            # Not even the commands that went well before can be given again: the game is lost.
            self._games[guilty.game]._state = None
            ended = [request for request in unanswered if request.game == guilty.game]
        for request in ended:
            request.answer = ("crash", f"{request.call} {request.arguments} killed ALFWorld workers")


class Solvers:
    """Worker processes that plan. Call it with games; use it as a context manager."""

    def __init__(self, processes: int | None = None) -> None:
        """`processes`: how many, by default as many as this process may use cores. Raises ValueError below one."""
        self._processes = _checked(processes)
        self._workers: list[Worker] = []

    def __enter__(self) -> Solvers:
        self._workers = [Worker() for _ in range(self._processes)]
        return self

    def __exit__(self, *_: object) -> None:
        _stop_all(self._workers)

    def __call__(self, games: Sequence[GameData]) -> list[tuple[str, ...] | None]:
        """Each game's walkthrough, found by the planner and played to its end; None where there is none.

        Raises:
            ValueError: a game cannot be translated; its file is named.
            EngineCrash: a worker died of a game, which is named.
        """
        requests = [_Request(0, "solve", (game,)) for game in games]
        waiting, at_work, idle = deque(requests), dict[Connection, tuple[Worker, _Request]](), list(self._workers)
        with progress(len(requests), "ALFWorld games solved", unit="game") as bar:
            while waiting or at_work:
                while waiting and idle:
                    worker, request = idle.pop(), waiting.popleft()
                    worker.send(request)
                    at_work[worker.connection] = (worker, request)
                for ready in wait(list(at_work)):
                    assert isinstance(ready, Connection)
                    worker, request = at_work.pop(ready)
                    try:
                        worker.wait(request)
                    except (OSError, EOFError) as error:
                        raise EngineCrash(f"the planner died of {request.arguments[0].file}") from error
                    idle.append(worker)
                    bar.update()
        return [_result(request) for request in requests]


_shared: EnginePool | None = None


def open_game() -> RemoteGame:
    """A game in the pool that all environments of this process share; the pool lives as long as it has games."""
    global _shared
    if _shared is None or _shared.closed:
        _shared = EnginePool(close_when_empty=True)
    return _shared.game()


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
        control.sendall(str(pid).encode().rjust(_PID_BYTES))


def serve(descriptor: int) -> None:
    """What a worker does: answer requests from a socket until it is closed."""
    connection = Connection(descriptor)
    engines: dict[int, Engine] = {}
    while True:
        try:
            game, call, arguments = connection.recv()
        except (EOFError, OSError):
            return
        try:
            answer = ("done", _call(engines, game, call, arguments))
        except ValueError as error:
            answer = ("wrong", str(error))
        except Exception:
            answer = ("failed", traceback.format_exc())
        try:
            connection.send((_megabytes(), *answer))
        except OSError:
            return


def _call(engines: dict[int, Engine], game: int, call: str, arguments: tuple[Any, ...]) -> Any:
    if call == "solve":
        return solve_and_check(*arguments)
    if call == "close":
        engine = engines.pop(game, None)
        return None if engine is None else engine.close()
    return getattr(engines.setdefault(game, Engine()), call)(*arguments)


def _result(request: _Request) -> Any:
    assert request.answer is not None
    kind, value = request.answer
    if kind == "wrong":
        raise ValueError(value)
    if kind == "crash":
        raise EngineCrash(value)
    if kind == "failed":
        raise RuntimeError(f"an ALFWorld engine failed:\n{value}")
    return value


def _state_after(state: EngineState | None, request: _Request) -> EngineState:
    (argument,) = request.arguments
    if request.call == "restore":
        assert isinstance(argument, EngineState)
        return argument
    if request.call == "start":
        return EngineState(argument, ())
    assert state is not None
    return EngineState(state.game_file, (*state.commands, argument))


def _stop_all(*lanes: list[Worker]) -> None:
    for lane in lanes:
        while lane:
            lane.pop().stop()


def _end_nursery(control: socket.socket, process: subprocess.Popen[bytes], owner: int) -> None:
    control.close()
    if os.getpid() != owner:
        return  # a fork of the owner: the process is not this one's child
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _gone(pid: int, seconds: float) -> bool:
    """Whether a process ends within a time. A zombie has ended: an orphan is one until somebody reaps it."""
    deadline = time.monotonic() + seconds
    while _runs(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        status = Path(f"/proc/{pid}/stat")
        return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def _worker_environment() -> dict[str, str]:
    """The parent's, with its import path; one hash seed, on which plans depend; one thread."""
    paths = [path or os.getcwd() for path in sys.path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}


def _checked(processes: int | None) -> int:
    """How many processes: the cores that this one may use, unless told."""
    if processes is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if processes < 1:
        raise ValueError(f"processes {processes} is less than 1")
    return processes


def _megabytes() -> float:
    """This process's memory at its largest."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)
