"""Signals that ask a run to stop: noted when they come, acted on where the run can be left without a loss."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""What schedulers send before they kill: SLURM a SIGTERM at the time limit and at preemption, and with `--signal`
whichever signal is asked for, earlier."""


class Interrupted(Exception):
    """A run stopped because a signal asked it to, with its state saved; `code` is the exit code that says so."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.code = 128 + number


class SignalFlag:
    """Which signal has come, None while none has."""

    def __init__(self) -> None:
        self.number: int | None = None

    def note(self, number: int, frame: FrameType | None = None) -> None:
        """The handler. The first signal counts: a scheduler sends more of them while it waits."""
        self.number = self.number or number


@contextmanager
def watch_signals() -> Iterator[SignalFlag]:
    """While this lasts, SIGTERM and SIGUSR1 end nothing but are noted; in a thread, where Python knows no handlers,
    they stay what they are."""
    flag = SignalFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    before = {number: signal.signal(number, flag.note) for number in SIGNALS}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
