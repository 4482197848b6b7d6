"""Signals that ask a run to stop. Their handlers only set a flag, which the run checks at its next step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""Signals that schedulers send before they kill. SLURM sends SIGTERM at the time limit and at preemption; its option
`--signal` asks for another one, such as SIGUSR1, earlier."""


class Interrupted(Exception):
    """A signal stopped a run after its state was saved. `code` is the exit code that shells use for the signal."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.code = 128 + number


def stopped_by(number: int, position: str, states: Path) -> Interrupted:
    """The error of a run that stopped at this position for a signal, and whose state is in this folder."""
    message = f"stopped by {signal.Signals(number).name} at {position}"
    return Interrupted(number, f"{message}; the same command continues from {states}")


class SignalFlag:
    """The number of the first signal that arrived, or None."""

    def __init__(self) -> None:
        self.number: int | None = None

    def note(self, number: int, frame: FrameType | None = None) -> None:
        """The signal handler."""
        # Keep the first: a scheduler may send further ones while it waits.
        self.number = self.number or number


@contextmanager
def watch_signals() -> Iterator[SignalFlag]:
    """Inside the block, SIGTERM and SIGUSR1 only set the flag instead of ending the process."""
    flag = SignalFlag()
    # Python allows signal handlers in the main thread only.
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    before = {number: signal.signal(number, flag.note) for number in SIGNALS}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
