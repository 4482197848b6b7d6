"""Inside the block signals set the flag; afterwards the former handlers are back."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from rl4vlm.training.signals import SIGNALS, Interrupted, watch_signals


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted_and_nothing_ends(number: signal.Signals) -> None:
    before = [signal.getsignal(other) for other in SIGNALS]
    with watch_signals() as watch:
        assert not watch.number
        os.kill(os.getpid(), number)
        assert watch.number == number
    assert [signal.getsignal(other) for other in SIGNALS] == before


def test_the_first_of_several_counts() -> None:
    with watch_signals() as watch:
        for number in reversed(SIGNALS):
            os.kill(os.getpid(), number)
        assert watch.number == SIGNALS[-1]


def test_a_thread_leaves_signals_alone() -> None:
    seen = []

    def run() -> None:
        with watch_signals() as watch:
            seen.append((watch.number, signal.getsignal(signal.SIGTERM)))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [(None, before)]


def test_exit_codes_are_the_shells() -> None:
    assert [Interrupted(number, "").code for number in (signal.SIGTERM, signal.SIGUSR1)] == [143, 138]
