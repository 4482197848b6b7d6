"""Progress on a terminal and in a log file."""

from __future__ import annotations

import io

import pytest

from rl4vlm.core import progress as module
from rl4vlm.core.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_file_gets_whole_lines_at_the_start_and_the_end() -> None:
    log = io.StringIO()
    with progress(100, "PPO", unit="step", stream=log) as bar:
        for _ in range(100):
            bar.update(1)
            bar.describe(success=0.123456, seen=3, unknown=None)
    text = log.getvalue()
    assert "\r" not in text
    assert text.endswith("\n")
    first, last = text.splitlines()
    assert first.startswith("PPO:   0% 0/100")
    assert "100% 100/100" in last
    assert "success=0.123, seen=3, unknown=None" in last


def test_a_log_file_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 5))
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(clock)))
    log = io.StringIO()
    with progress(50, "work", stream=log) as bar:
        for _ in range(50):
            bar.update()
    lines = len(log.getvalue().splitlines())
    assert 5 < lines < 50


def test_a_failure_leaves_the_line_it_got_to() -> None:
    log = io.StringIO()

    def fail() -> None:
        with progress(10, "work", stream=log) as bar:
            bar.update(4)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert "4/10" in log.getvalue().splitlines()[-1]


def test_a_terminal_gets_a_bar() -> None:
    screen = Terminal()
    with progress(10, "work", stream=screen) as bar:
        bar.update(10)
        bar.describe(loss=0.5)
    assert "\r" in screen.getvalue()
    assert "10/10" in screen.getvalue()
