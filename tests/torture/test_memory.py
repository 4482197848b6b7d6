"""Memory stays flat: of a long run, the last third has a peak at most 5 % above that of the second third."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.games import GAMES
from tests.launch import ROOT
from tests.torture.records import budget, trial

GROWTH = 1.05
"""The largest allowed ratio of the two peaks. The first third does not count: caches still fill."""


def check_flat(what: str, *words: str, count: int) -> None:
    command = [sys.executable, "-m", "tests.torture.memory", *words, str(count)]
    with trial("Memory", f"{what}: peak of the last third against that of the second") as tried:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        measured = [float(line) for line in done.stdout.splitlines()]
        third = len(measured) // 3
        warm, last = max(measured[third : 2 * third]), max(measured[2 * third :])
        told = f"{warm:.0f} MB, then {last:.0f} MB"
        if last > GROWTH * warm:
            tried.failed("memory grew", told)
        else:
            tried.ended(told, times=count)


@pytest.mark.parametrize("task", GAMES)
def test_resets(task: str) -> None:
    check_flat(f"resets of {task}", "resets", task, count=budget(short=60, long=10_000))


@pytest.mark.long
def test_resets_of_alfworld() -> None:
    # Its workers are replaced after 500 games, so each third must hold several such cycles.
    check_flat("resets of ALFWorld", "resets", "ALFWorld", count=budget(short=600, long=10_000))


@pytest.mark.long
def test_updates(tiny_checkpoint: Path) -> None:
    check_flat("updates of PPO", "updates", str(tiny_checkpoint), count=budget(short=20, long=200))
