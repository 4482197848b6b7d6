"""Starting worker processes, talking to them, and ending them.

A worker serves several games, one request at a time, over a socket; it ends when the socket is closed, so none outlives
its parent, however that dies. Requests can be sent to many games before any answer is read. Workers are forked off a
nursery, a process of its own that has loaded the libraries once: a second or more for it, milliseconds for each worker.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections import deque
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import ClassVar

from rl4vlm.envs.alfworld.library import require_installed
from rl4vlm.envs.alfworld.workers.protocol import Answer, EngineCrash, Request
from rl4vlm.envs.alfworld.workers.serving import PID_BYTES

ANSWER_WITHIN = 180.0
"""Seconds after which a worker that does not answer is taken for dead. Planning a large game may take a minute."""

STARTS_PER_WORKER = 500
"""Games that a worker starts before a fresh one takes over: the library never gives back all of a game's memory."""

MEGABYTES_PER_WORKER = 1000
"""Memory beyond which a fresh worker takes over."""

_PROGRAM = "import sys; from rl4vlm.envs.alfworld.workers.serving import nurse; nurse(int(sys.argv[1]))"


class Worker:
    """One engine process, seen from outside. `send` a request, then `wait` for its answer; answers come in order."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            self.pid = Nursery.of_this_process().fork(theirs)
            self._connection = Connection(ours.detach())
        self._waiting: deque[Request] = deque()
        self.games: set[int] = set()
        self.starts = 0
        self.megabytes = 0.0

    @property
    def worn(self) -> bool:
        """Whether a fresh worker should take over."""
        return self.starts >= STARTS_PER_WORKER or self.megabytes >= MEGABYTES_PER_WORKER

    @property
    def connection(self) -> Connection:
        """For `multiprocessing.connection.wait`."""
        return self._connection

    def send(self, request: Request) -> None:
        """Queue a request; the worker begins at once. Raises OSError when it is dead."""
        self._waiting.append(request)
        self._connection.send((request.game, request.call, request.arguments))
        self.starts += request.starts_a_game

    def wait(self, request: Request) -> Answer:
        """The answer to a request that was sent. Raises OSError or EOFError when the worker died of one before it."""
        while request.answer is None:
            if not self._connection.poll(ANSWER_WITHIN):
                raise EOFError(f"no answer within {ANSWER_WITHIN:g} s")
            self.megabytes, answer = self._connection.recv()
            self._waiting.popleft().answer = answer
        return request.answer

    def unanswered(self) -> list[Request]:
        """Requests that were sent, oldest first; the worker is at the first."""
        return list(self._waiting)

    def stop(self, patience: float = 5.0) -> None:
        """End the process, by force after `patience` seconds."""
        self._connection.close()
        if not _gone(self.pid, patience):
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            _gone(self.pid, 5.0)


class Nursery:
    """The process that workers are forked off. There is one for each process that has workers; it ends with it."""

    _found: ClassVar[Nursery | None] = None

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
        self.pid = process.pid
        self.owner = os.getpid()
        self._socket = ours
        self._end = weakref.finalize(self, _end_nursery, ours, process, self.owner)

    @classmethod
    def of_this_process(cls) -> Nursery:
        """The nursery, started at the first call. Raises ValueError when the libraries are not installed."""
        if cls._found is None or cls._found.owner != os.getpid() or not cls._found._end.alive:
            require_installed()
            cls._found = cls()
        return cls._found

    def fork(self, served: socket.socket) -> int:
        """A new worker that serves this socket; its process id."""
        try:
            socket.send_fds(self._socket, [b"w"], [served.fileno()])
            answer = self._socket.recv(PID_BYTES, socket.MSG_WAITALL)
        except OSError:
            answer = b""
        if len(answer) < PID_BYTES:
            self.end()
            raise EngineCrash("the process that ALFWorld's workers are forked off has died; its error is above")
        return int(answer)

    def end(self) -> None:
        """End the process; workers that it has forked live on."""
        self._end()


def checked_processes(processes: int | None) -> int:
    """How many processes: the cores that this one may use, unless told. Raises ValueError for fewer than one."""
    if processes is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if processes < 1:
        raise ValueError(f"processes {processes} is less than 1")
    return processes


def stop_all(*workers: list[Worker]) -> None:
    """End the workers of each list, and empty it."""
    for some in workers:
        while some:
            some.pop().stop()


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
