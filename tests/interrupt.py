"""Interrupt training runs at chosen moments, within the test's own process."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import rl4vlm
from rl4vlm.training import resume

PACKAGE = str(Path(rl4vlm.__file__).parent)


class SimulatedKill(BaseException):
    """Stands for a SIGKILL. It is no `Exception`, so nothing in the package catches it."""


@contextmanager
def at_call(number: int, act: Callable[[], object]) -> Iterator[list[str]]:
    """Call `act` at the `number`-th call of any function of the package. Yields the names of the functions called."""
    calls: list[str] = []

    def count(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            calls.append(frame.f_code.co_name)
            if len(calls) == number:
                act()

    sys.setprofile(count)
    try:
        yield calls
    finally:
        sys.setprofile(None)


@contextmanager
def on_step_hook(act: Callable[[Any], object]) -> Iterator[None]:
    """Call `act` with the run's state after each step of a training, before the run may save that state."""
    before = resume.ResumeManager.on_step

    def on_step(self: resume.ResumeManager, state: Any) -> None:
        act(state)
        before(self, state)

    resume.ResumeManager.on_step = on_step  # type: ignore[method-assign]
    try:
        yield
    finally:
        resume.ResumeManager.on_step = before  # type: ignore[method-assign]


def kill_and_resume_until_done(run: Callable[[str], Any], moments: random.Random, expected: Any) -> tuple[Any, int]:
    """Run, kill at a random function call, run again, until a run reaches its end.

    Args:
        run: does the run in the folder of that name and returns its result.
        moments: draws the calls at which the run is killed.
        expected: the result of an uninterrupted run, which is checked first.

    Returns:
        The result, and the number of kills.
    """
    kills: list[str] = []

    def kill() -> None:
        kills.append(calls[-1])
        raise SimulatedKill

    with at_call(0, kill) as calls:
        assert run("counted") == expected
    # Half the calls of a run: far enough on average to make progress each time. Any call may be hit, saving included.
    most = len(calls) // 2
    while True:
        before = len(kills)
        try:
            with at_call(moments.randrange(1, most), kill) as calls:
                return run("killed"), len(kills)
        except BaseException:
            # torch.save turns a SimulatedKill into an error of its own, so the type says nothing.
            if len(kills) == before:
                raise
