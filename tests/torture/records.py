"""How a check of `tests/torture` counts what it tries, and the record that it leaves for docs/reliability.md.

A check is a pytest test in this folder. It asks `budget` how often to try, and opens one `trial` for its row of the
table:

    def test_damaged_weights() -> None:
        with trial("Damaged files", "weights") as tried:
            for damage in damages(budget(short=20, long=5_000)):
                tried.attempt(check_weights, damage)

`attempt` calls a function, which returns the outcome of its input in the words of the table, or raises if the project
is at fault. `ended` and `failed` count an outcome that the check found by itself. The end of the block writes the
record, also after an exception or an interrupt, and fails the test if an input failed. A new row needs nothing else.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rl4vlm.core.files import JsonLines
from rl4vlm.results.provenance import code_revision, hardware, package_versions

SHARE = "RL4VLM_TORTURE"
"""Name of the environment variable that chooses the long form. Its value is the share of the long budgets to try: 1, or
0.1 for a tenth."""
RECORDS = "RL4VLM_TORTURE_RECORDS"
"""Name of the environment variable with the file of JSON lines that records are appended to; unset writes none."""
FINE = "as it should"
EXAMPLES = 5
"""How many failed inputs of each kind a record shows."""


def budget(short: int, long: int) -> int:
    """How many inputs a check tries: a share (`SHARE`) of `long` in `make torture`, and otherwise `short`."""
    share = os.environ.get(SHARE)
    return max(short, round(long * float(share))) if share else short


class Trial:
    """Counts the inputs of one check by how they ended."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.examples: list[str] = []

    def attempt(self, check: Callable[..., str | None], *inputs: Any) -> None:
        """Count one input. `check` returns its outcome, or None for `FINE`; any exception is a failure."""
        try:
            outcome = check(*inputs)
        except Exception as error:
            self.failed(type(error).__name__, f"{inputs!r:.300}: {_told(error)}")
        else:
            self.ended(outcome or FINE)

    def ended(self, outcome: str = FINE, times: int = 1) -> None:
        """Count inputs with a good outcome, in the words of the table."""
        self.outcomes[outcome] += times

    def failed(self, kind: str, example: str) -> None:
        """Count an input that failed, under the kind of its fault."""
        self.failures[kind] += 1
        if self.failures[kind] <= EXAMPLES:
            self.examples.append(f"{kind}: {example:.500}")


@contextmanager
def trial(area: str, what: str) -> Iterator[Trial]:
    """Count what a check tries, under `area` and `what` of the table, and write its record.

    Raises AssertionError with examples at the end of the block if an input failed.
    """
    tried, begun = Trial(), time.monotonic()
    try:
        yield tried
    except BaseException as error:
        tried.failed(type(error).__name__, _told(error))
        raise
    finally:
        _write(area, what, tried, time.monotonic() - begun)
    assert not tried.failures, "\n".join([str(dict(tried.failures)), *tried.examples])


def _told(error: BaseException) -> str:
    # Hypothesis attaches the failing example to the exception as a note.
    return "\n".join([str(error), *getattr(error, "__notes__", ())])


def _write(area: str, what: str, tried: Trial, seconds: float) -> None:
    if not (file := os.environ.get(RECORDS)):
        return
    machine = hardware()
    with JsonLines(Path(file), append=True) as lines:
        lines.write(
            {
                "area": area,
                "what": what,
                "inputs": tried.outcomes.total() + tried.failures.total(),
                "outcomes": tried.outcomes,
                "failures": tried.failures,
                "examples": tried.examples,
                "share": float(os.environ.get(SHARE) or 0),
                "seconds": round(seconds, 1),
                "date": datetime.now(UTC).date().isoformat(),
                "version": package_versions().get("rl4vlm"),
                "revision": code_revision()["revision"],
                "processor": machine["processor"],
                "cores": machine["cores"],
            }
        )
