"""Runs that are stopped at chosen moments within this process."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import rl4vlm
from rl4vlm.training import resume

PACKAGE = str(Path(rl4vlm.__file__).parent)


class Stopped(BaseException):
    """Stands for a kill within this process: nothing of the package catches it."""


@contextmanager
def at_call(number, act):
    """Does `act` at the `number`-th call of a function of the package; yields a list whose length is the calls made."""
    calls = []

    def count(frame, event, _):
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
def on_step_hook(act):
    """Does `act` before each pause of the training."""
    before = resume.ResumeManager.on_step

    def on_step(self, state):
        act(state)
        before(self, state)

    resume.ResumeManager.on_step = on_step
    try:
        yield
    finally:
        resume.ResumeManager.on_step = before


def killed_until_done(run: Callable[[str], object], moments: random.Random, unbroken: object) -> tuple[object, int]:
    """What `run(folder)` comes to when it is stopped at random calls and begun again until it ends, and how many stops
    there were. Undisturbed it must come to `unbroken`."""
    kills = []

    def stop():
        kills.append(calls[-1])
        raise Stopped

    with at_call(0, stop) as calls:
        assert run("counted") == unbroken
    most = len(calls) // 2
    while True:
        before = len(kills)
        try:
            # Far enough on average to come a good way further each time; whatever call it is, saving included.
            with at_call(moments.randrange(1, most), stop) as calls:
                return run("killed"), len(kills)
        except BaseException:
            # Not always `Stopped`: torch.save makes an error of its own of it.
            if len(kills) == before:
                raise
