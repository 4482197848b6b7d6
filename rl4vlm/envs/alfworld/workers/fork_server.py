"""The process that workers are forked from: it loads the libraries once, so that each worker starts in milliseconds.

multiprocessing's `forkserver` has the same purpose, but lacks some things that are needed here:
docs/decisions/0006-fork-server.md lists them.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import weakref
from typing import ClassVar, NoReturn

from rl4vlm.envs.alfworld.engine import warm_up
from rl4vlm.envs.alfworld.library import require_installed
from rl4vlm.envs.alfworld.workers.protocol import EngineCrash
from rl4vlm.envs.alfworld.workers.serving import serve

PID_BYTES = 16
"""Length of the server's answer: a process id in decimal, padded with blanks on the left."""

_PROGRAM = "import sys; from rl4vlm.envs.alfworld.workers.fork_server import run; run(int(sys.argv[1]))"


class ForkServer:
    """A running fork server, seen from its parent. Each process that has workers has one, and ends it when it exits."""

    _current: ClassVar[ForkServer | None] = None

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # Fast Downward prints there
                env=_environment(),
            )
        self.pid = process.pid
        self.owner = os.getpid()
        self._socket = ours
        self._finalizer = weakref.finalize(self, _stop, ours, process, self.owner)

    @classmethod
    def of_this_process(cls) -> ForkServer:
        """The server, started at the first call. Raises ValueError if the libraries are not installed."""
        current = cls._current
        # A fork of the owner inherits the object, but cannot wait for a process that is not its child.
        if current is None or current.owner != os.getpid() or not current._finalizer.alive:
            require_installed()
            cls._current = current = cls()
        return current

    def fork(self, served: socket.socket) -> int:
        """Fork a worker that serves this socket. Returns its process id."""
        try:
            socket.send_fds(self._socket, [b"w"], [served.fileno()])
            answer = self._socket.recv(PID_BYTES, socket.MSG_WAITALL)
        except OSError:
            answer = b""
        if len(answer) < PID_BYTES:
            self.stop()
            raise EngineCrash("the process that ALFWorld's workers are forked from has died; its error is above")
        return int(answer)

    def stop(self) -> None:
        """End the server. Workers that it has forked continue."""
        self._finalizer()


def run(descriptor: int) -> NoReturn:
    """The server's main loop: fork a worker for each socket received, until the parent closes its end or dies."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps dead workers
    warm_up()
    control = socket.socket(fileno=descriptor)
    while True:
        try:
            _, descriptors, *_ = socket.recv_fds(control, 1, 1)
        except OSError:
            descriptors = []
        if not descriptors:
            os._exit(0)  # a regular exit spends up to a second on unloading the libraries
        pid = os.fork()
        if pid == 0:
            control.close()  # or the server's socket would stay open as long as this worker lives
            try:
                serve(descriptors[0])
            finally:
                os._exit(0)  # a worker must not return into the loop that it was forked from
        os.close(descriptors[0])
        control.sendall(str(pid).encode().rjust(PID_BYTES))


def _stop(control: socket.socket, process: subprocess.Popen[bytes], owner: int) -> None:
    control.close()
    if os.getpid() != owner:
        return
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _environment() -> dict[str, str]:
    """The parent's environment variables and import path, one hash seed and one thread."""
    paths = [path or os.getcwd() for path in sys.path]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONHASHSEED": "0",  # Fast Downward's plans depend on it, and so do generated games
        "OMP_NUM_THREADS": "1",
    }
