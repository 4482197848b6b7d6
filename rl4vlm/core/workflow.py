"""Ends a stage when the workflow that started it is gone, so that no job is left running unnoticed."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread

VARIABLE = "RL4VLM_WORKFLOW"
"""The environment variable in which the workflow passes its `announcement`."""
SECONDS_BETWEEN_LOOKS = 1.0


def announcement() -> str:
    """The process id of this workflow, with the machine and container in which it is valid."""
    return f"{os.getpid()} {_place()}"


def _place() -> str:
    """The machine, and its PID namespace: each container has its own, with process ids of its own."""
    try:
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # this system has no /proc
        return socket.gethostname()


def end_with_workflow() -> None:
    """Watch the workflow that started this process, if there is one.

    Once the workflow is gone, this process gets SIGTERM; a training then saves its state first. If the workflow was
    killed while this process started, that happens at once.
    """
    number, _, place = os.environ.get(VARIABLE, "").partition(" ")
    # The same number on another machine or in another container would be some other process.
    if number.isdigit() and place == _place():
        Thread(target=_watch, args=(int(number),), daemon=True).start()


def _watch(workflow: int) -> None:
    # Look for the workflow among this process's ancestors. When it dies, its children get another parent at once, while
    # the process itself may stay as a zombie.
    while not _is_gone(workflow):
        time.sleep(SECONDS_BETWEEN_LOOKS)
    with suppress(OSError):
        print(f"the workflow (process {workflow}) is gone: this stage ends, too", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)


def _is_gone(workflow: int) -> bool:
    try:
        return workflow not in _ancestors()
    except OSError:  # such as too many open files, or no /proc: that says nothing about the workflow
        return False


def _ancestors() -> Iterator[int]:
    process = os.getpid()
    while process > 0:
        try:
            status = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            if process == os.getpid():  # it has not: this system has no /proc
                raise
            return
        # After the name, which may hold spaces and brackets, come the state and the parent.
        process = int(status.rpartition(")")[2].split()[1])
        yield process
