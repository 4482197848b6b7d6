"""Worker processes, seen from their parent: start, talk to and stop them.

A worker serves several games over one socket, one request at a time. Requests to many games can be sent before any
answer is read. A worker ends when its socket is closed, so that none outlives its parent, even a killed one.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections import deque
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from rl4vlm.envs.alfworld.workers.fork_server import ForkServer
from rl4vlm.envs.alfworld.workers.protocol import Answer, Request

ANSWER_WITHIN = 180.0
"""Seconds after which a worker without an answer counts as dead. Planning a large game may take a minute."""

STARTS_PER_WORKER = 500
"""Games that a worker starts before it is replaced: the library never frees all memory of a game."""

MEGABYTES_PER_WORKER = 1000
"""Memory at which a worker is replaced."""


class Worker:
    """One worker process. `send` a request, then `wait` for its answer; answers come in the order of requests."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:  # the fork server passes `theirs` to the worker; no copy may stay open here
            self.pid = ForkServer.of_this_process().fork(theirs)
            self._connection = Connection(ours.detach())
        self._waiting: deque[Request] = deque()
        self.games: set[int] = set()
        self.starts = 0
        self.megabytes = 0.0

    @property
    def exhausted(self) -> bool:
        """Whether a new worker should take over."""
        return self.starts >= STARTS_PER_WORKER or self.megabytes >= MEGABYTES_PER_WORKER

    @property
    def connection(self) -> Connection:
        """For `multiprocessing.connection.wait`."""
        return self._connection

    def send(self, request: Request) -> None:
        """Send a request. Raises OSError if the worker is dead; the request is then among the unanswered ones."""
        self._waiting.append(request)
        self._connection.send((request.game, request.call, request.arguments))
        self.starts += request.starts_a_game

    def wait(self, request: Request) -> Answer:
        """Wait for the answer to a request that was sent.

        Raises:
            OSError, EOFError: the worker died of this request or of one sent before it.
        """
        while request.answer is None:
            if not self._connection.poll(ANSWER_WITHIN):
                raise EOFError(f"no answer within {ANSWER_WITHIN:g} s")
            self.megabytes, answer = self._connection.recv()
            self._waiting.popleft().answer = answer  # perhaps of an earlier request: its game reads it later
        return request.answer

    def unanswered(self) -> list[Request]:
        """Requests without an answer, oldest first. The worker is busy with the first."""
        return list(self._waiting)

    def stop(self, patience: float = 5.0) -> None:
        """Stop the process. It is killed if it has not ended after `patience` seconds."""
        self._connection.close()
        if not _ends_within(self.pid, patience):
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            _ends_within(self.pid, 5.0)


def checked_processes(processes: int | None) -> int:
    """A number of processes, by default that of the cores this process may use. Raises ValueError if it is below 1."""
    if processes is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if processes < 1:
        raise ValueError(f"processes {processes} is less than 1")
    return processes


def stop_all(*workers: list[Worker]) -> None:
    """Stop the workers of each list and empty the list."""
    for group in workers:
        while group:
            group.pop().stop()


def _ends_within(pid: int, seconds: float) -> bool:
    """Wait for the end of a process, which cannot be waited for as a child: the fork server is its parent."""
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
        # A zombie has ended. An orphan stays one until the system's init process reaps it.
        return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
